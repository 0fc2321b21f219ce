//! The portable backend: one thread per lane that calls `pwritev` and `fdatasync`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::bell::Bell;
use crate::device::{Device, Geometry, Lane, Listed, Op, Read};
use crate::error::IoError;
use crate::files::Files;
use crate::ticket::{Completer, IoResult, Ticket};

/// Operations that a lane's thread holds; more wait in the lane's own queue.
const LANE_QUEUE_MAX: usize = 256;

/// An operation and who awaits it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) op: Op,
    pub(crate) completer: Completer,
}

type Ended = Mutex<Vec<(Completer, IoResult)>>;

/// One thread with a bounded queue that performs operations one after the other.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: Option<Sender<Job>>,
    ended: Arc<Ended>,
    /// Operations sent and not yet taken back by [`Worker::reap`].
    underway: AtomicUsize,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(name: String, files: Arc<Files>, bell: Arc<Bell>) -> std::io::Result<Self> {
        let (jobs, inbox): (Sender<Job>, Receiver<Job>) = bounded(LANE_QUEUE_MAX);
        let ended = Arc::new(Ended::default());
        let out = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            for job in inbox {
                let result = files.perform(&job.op);
                // The memory and the file are given back before anyone hears of the end.
                drop(job.op);
                out.lock().push((job.completer, result));
                bell.ring();
            }
        })?;
        Ok(Self {
            jobs: Some(jobs),
            ended,
            underway: AtomicUsize::new(0),
            thread: Some(thread),
        })
    }

    /// Hands the front of the queue over, as far as there is room.
    pub(crate) fn feed(&self, queue: &mut VecDeque<Job>) {
        let Some(jobs) = &self.jobs else { return };
        while let Some(job) = queue.pop_front() {
            self.underway.fetch_add(1, Ordering::Relaxed);
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                jobs.try_send(job)
            {
                self.underway.fetch_sub(1, Ordering::Relaxed);
                queue.push_front(job);
                return;
            }
        }
    }

    /// Adds what ended to a list, for the caller to tell.
    pub(crate) fn take_ended(&self, into: &mut Vec<(Completer, IoResult)>) {
        if self.underway.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut ended = self.ended.lock();
        self.underway.fetch_sub(ended.len(), Ordering::Relaxed);
        into.append(&mut ended);
    }

    /// Completes the tickets of what ended.
    fn reap(&self) -> usize {
        let mut ended = Vec::new();
        self.take_ended(&mut ended);
        let count = ended.len();
        for (completer, result) in ended {
            completer.complete(result);
        }
        count
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add.
            let _ = thread.join();
        }
        self.reap();
    }
}

#[derive(Debug)]
struct LaneState {
    queue: Mutex<VecDeque<Job>>,
    worker: Worker,
}

/// A [`Device`] on `pwritev`.
#[derive(Debug)]
pub(crate) struct SyncDevice {
    // Lanes go first: dropping them waits for what is in flight.
    lanes: Vec<LaneState>,
    files: Arc<Files>,
    bell: Arc<Bell>,
    reason: String,
}

impl SyncDevice {
    pub(crate) fn new(files: Arc<Files>, lanes: usize, reason: String) -> std::io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let lane = |index| {
            let worker = Worker::start(
                format!("alluvium-io-{index}"),
                Arc::clone(&files),
                Arc::clone(&bell),
            )?;
            Ok(LaneState {
                queue: Mutex::default(),
                worker,
            })
        };
        let lanes = (0..lanes).map(lane).collect::<std::io::Result<_>>()?;
        Ok(Self {
            lanes,
            files,
            bell,
            reason,
        })
    }
}

impl Device for SyncDevice {
    fn geometry(&self) -> Geometry {
        self.files.geometry
    }

    fn backend(&self) -> String {
        self.reason.clone()
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let (ticket, completer) = Ticket::new();
        self.lanes[lane.0]
            .queue
            .lock()
            .push_back(Job { op, completer });
        ticket
    }

    fn drive(&self, lane: Lane) -> usize {
        let lane = &self.lanes[lane.0];
        lane.worker.feed(&mut lane.queue.lock());
        let ended = lane.worker.reap();
        if ended > 0 {
            self.bell.ring_others();
        }
        ended
    }

    fn wait(&self, timeout: Duration) {
        self.bell.wait(timeout, &[], |_| {});
    }

    fn wake(&self) {
        self.bell.ring();
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        reads.iter_mut().try_for_each(|read| self.files.read(read))
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.files.list(path)
    }

    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        self.files.link(path, to)
    }
}
