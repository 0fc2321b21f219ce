//! The `io_uring` backend: one ring per lane for writes and syncs, a few rings for batches of reads, one thread
//! per lane for what has to do with names.
//!
//! Opening, renaming and the like stay off the rings: the kernel would hand them to a thread of its own
//! anyway, and opening is several calls (directories, allocation) of which each may block.

mod flight;
mod gather;
mod lane;
mod reads;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};
use parking_lot::Mutex;

use crate::bell::{Bell, drain};
use crate::device::{Device, Geometry, Lane, Listed, Op, Read};
use crate::error::IoError;
use crate::files::Files;
use crate::open::PageWriteMode;
use crate::sync_engine::{Job, Worker};
use crate::ticket::{Completer, IoResult, Ticket};

use lane::LaneRing;
use reads::ReadRings;

/// Operations that ended, to be told once no lock is held.
type Ended = Vec<(Completer, IoResult)>;

/// Submission entries of a ring.
const RING_ENTRIES: u32 = 256;
/// Completion entries of a ring: so many requests may be in the kernel at once.
const COMPLETION_ENTRIES: u32 = 1024;

#[derive(Debug)]
struct LaneState {
    ring: Mutex<LaneRing>,
    /// Operations on names that wait for the worker.
    names: Mutex<VecDeque<Job>>,
    worker: Worker,
    signal: Arc<std::os::fd::OwnedFd>,
}

/// A [`Device`] on `io_uring`.
#[derive(Debug)]
pub(crate) struct UringDevice {
    // Lanes go first: dropping them waits for what is in flight.
    lanes: Vec<LaneState>,
    reads: ReadRings,
    files: Arc<Files>,
    bell: Arc<Bell>,
    backend: String,
}

impl UringDevice {
    /// The error is why not, for people.
    pub(crate) fn new(
        files: Arc<Files>,
        lanes: usize,
        page_writes: PageWriteMode,
    ) -> Result<Self, String> {
        let refused =
            |e: std::io::Error| format!("io_uring_setup refused: {e}; containers often block it");
        let short_of = |e: std::io::Error| format!("io_uring could not be set up: {e}");
        let bell = Arc::new(Bell::new().map_err(short_of)?);
        let mut states = Vec::with_capacity(lanes);
        let mut note = String::new();
        for index in 0..lanes {
            let ring = new_ring(RING_ENTRIES, COMPLETION_ENTRIES).map_err(refused)?;
            if index == 0 {
                probe(&ring)?;
            }
            let signal = Arc::new(crate::bell::eventfd().map_err(short_of)?);
            let (ring, gathered) =
                LaneRing::new(ring, Arc::clone(&files), Arc::clone(&signal), page_writes)
                    .map_err(short_of)?;
            if let Some(gathered) = gathered {
                note = gathered;
            }
            let name = format!("alluvium-io-{index}");
            let worker =
                Worker::start(name, Arc::clone(&files), Arc::clone(&bell)).map_err(short_of)?;
            states.push(LaneState {
                ring: Mutex::new(ring),
                names: Mutex::default(),
                worker,
                signal,
            });
        }
        let how = match page_writes {
            PageWriteMode::Vectored => "vectored".to_owned(),
            PageWriteMode::Gathered => format!("gathered{note}"),
        };
        Ok(Self {
            lanes: states,
            reads: ReadRings::new(),
            files,
            bell,
            backend: format!("io_uring (a ring for each of {lanes} lanes, page writes {how})"),
        })
    }

    fn tell(&self, ended: Ended) -> usize {
        let count = ended.len();
        for (completer, result) in ended {
            completer.complete(result);
        }
        if count > 0 {
            self.bell.ring_others();
        }
        count
    }

    /// Completes what ended on a lane, without handing over anything new.
    fn reap(&self, lane: &LaneState) {
        drain(lane.signal.as_fd());
        let mut ended = Vec::new();
        lane.ring.lock().reap(&mut ended);
        self.tell(ended);
    }
}

/// A ring without interrupts of the submitting thread where the kernel knows how, else a plain one.
fn new_ring(entries: u32, completions: u32) -> std::io::Result<IoUring> {
    let tuned = IoUring::builder()
        .setup_cqsize(completions)
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .dontfork()
        .build(entries);
    tuned.or_else(|_| {
        IoUring::builder()
            .setup_cqsize(completions)
            .dontfork()
            .build(entries)
    })
}

fn probe(ring: &IoUring) -> Result<(), String> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|e| format!("io_uring cannot be probed: {e}"))?;
    let wanted = [
        ("WRITEV", opcode::Writev::CODE),
        ("WRITE", opcode::Write::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("READ", opcode::Read::CODE),
    ];
    match wanted.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(format!("the kernel's io_uring has no {name}")),
        None => Ok(()),
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        self.files.geometry
    }

    fn backend(&self) -> String {
        self.backend.clone()
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let (ticket, completer) = Ticket::new();
        let lane = &self.lanes[lane.0];
        let job = Job { op, completer };
        match job.op {
            Op::Write { .. } | Op::Sync { .. } => lane.ring.lock().queue(job),
            _ => lane.names.lock().push_back(job),
        }
        ticket
    }

    fn drive(&self, lane: Lane) -> usize {
        let lane = &self.lanes[lane.0];
        lane.worker.feed(&mut lane.names.lock());
        let mut ended = Vec::new();
        lane.worker.take_ended(&mut ended);
        lane.ring.lock().drive(&mut ended);
        self.tell(ended)
    }

    fn wait(&self, timeout: Duration) {
        let fds: Vec<BorrowedFd<'_>> = self.lanes.iter().map(|lane| lane.signal.as_fd()).collect();
        self.bell
            .wait(timeout, &fds, |index| self.reap(&self.lanes[index]));
    }

    fn wake(&self) {
        self.bell.ring();
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.reads.read(&self.files, reads)
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.files.list(path)
    }

    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        self.files.link(path, to)
    }
}
