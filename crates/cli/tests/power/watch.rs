//! How long a server took for an answer, without the time in which it wanted a processor and others had it.
//!
//! A promise of a second is kept by the server, not by whoever else uses the machine.

use std::fs;
use std::time::{Duration, Instant};

use crate::server::Server;

/// Begins with a request.
pub(crate) struct Watch {
    pid: u32,
    begin: Instant,
    waited: Duration,
}

impl Watch {
    pub(crate) fn start(server: &Server) -> Self {
        Self::of(server.pid())
    }

    pub(crate) fn of(pid: u32) -> Self {
        Self {
            pid,
            begin: Instant::now(),
            waited: waited(pid),
        }
    }

    /// Time since, less what the server's threads have waited for a processor.
    pub(crate) fn took(&self) -> Duration {
        let waited = waited(self.pid).saturating_sub(self.waited);
        self.begin.elapsed().saturating_sub(waited)
    }
}

/// What the threads of a process have waited for a processor, all together; nothing where the kernel does not tell.
fn waited(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let of_task = tasks.filter_map(|task| {
        let told = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        told.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(of_task.sum())
}
