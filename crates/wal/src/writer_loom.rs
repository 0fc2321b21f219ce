//! Every order of those who hand sections to a stream, of whoever drives it and of a device that ends operations when it
//! likes, of the real writer: `cargo xtask loom`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use alluvium_io::{Geometry, Listed, MemoryDevice, Read};
use alluvium_types::{DatabaseId, Lsn, Partition};
use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::{Entry, SectionBuilder, list_streams, read_section, replay};

const LANE: Lane = Lane(0);

/// No part of the model.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends operations in [`Later::end`] only, as a kernel does.
#[derive(Debug)]
struct Later(MemoryDevice);

impl Later {
    fn end(&self) {
        self.0.drive(LANE);
    }
}

impl Device for Later {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn backend(&self) -> String {
        self.0.backend()
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        self.0.submit(lane, op)
    }

    fn drive(&self, _: Lane) -> usize {
        0
    }

    fn wait(&self, _: Duration) {
        self.end();
    }

    fn wake(&self) {}

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.0.read(reads)
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        self.0.list(path)
    }
}

/// The state of a shard's log behind its lock, and its device.
struct Shard {
    device: Arc<Later>,
    log: Mutex<LogWriter>,
}

impl Shard {
    fn new(group_bytes_max: usize) -> Self {
        let device = Arc::new(Later(MemoryDevice::new(1)));
        let config = LogConfig {
            segment_bytes: 8 << 10,
            group_bytes_max,
        };
        let log = LogWriter::new(device.clone(), LANE, 7, 1, 0, config);
        Self {
            device,
            log: Mutex::new(log),
        }
    }

    /// As a committing writer does it: pushed and driven under the lock, then waited for without it.
    fn commit(&self, mark: u64) -> Committed {
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(1), Partition(0), Lsn(mark));
        section.mark(mark);
        let mut log = self.log.lock().unwrap();
        let ticket = log.push(section.finish(), 0, true, 0);
        log.drive();
        self.device.drive(LANE);
        log.drive();
        drop(log);
        let woken = Arc::new(Woken::default());
        let pending = ticket.poll(&Waker::from(Arc::clone(&woken))).is_pending();
        Committed {
            ticket,
            woken,
            pending,
        }
    }

    /// As the pump does it, behind whatever the device has ended.
    fn drive(&self) {
        self.device.end();
        let mut log = self.log.lock().unwrap();
        log.drive();
        // Nothing is called durable before a frame is written.
        assert!(log.durable_seq() <= log.written_seq());
    }

    fn marks(&self) -> Vec<u64> {
        let mut marks = Vec::new();
        for stream in list_streams(&*self.device).unwrap() {
            replay(&*self.device, &stream, 7, 0, &mut |_, bytes| {
                marks.extend(read_section(bytes)?.entries);
                Ok(())
            })
            .unwrap();
        }
        let mark = |entry| match entry {
            Entry::Mark(mark) => mark,
            other => panic!("nobody wrote {other:?}"),
        };
        marks.into_iter().map(mark).collect()
    }
}

struct Committed {
    ticket: LogTicket,
    woken: Arc<Woken>,
    pending: bool,
}

fn check(group_bytes_max: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let shard = loom::sync::Arc::new(Shard::new(group_bytes_max));
        let writers: Vec<_> = [1, 2]
            .map(|mark| {
                let shard = shard.clone();
                thread::spawn(move || shard.commit(mark))
            })
            .into();
        // The pump beside them: a segment is opened, its name synced, the first frame written.
        (0..3).for_each(|_| shard.drive());
        let committed: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        // Nobody comes any more: a few drives end all there is.
        (0..8).for_each(|_| shard.drive());
        for committed in committed {
            assert!(matches!(committed.ticket.result(), Some(Ok(()))));
            let woken = committed.woken.0.load(Ordering::Relaxed);
            assert_eq!(woken, usize::from(committed.pending), "a lost wake-up");
        }
        let mut marks = shard.marks();
        marks.sort_unstable();
        assert_eq!(marks, [1, 2]);
    });
    println!("{} executions", executions.load(Ordering::Relaxed));
}

#[test]
fn a_group_of_several_is_promised_to_each() {
    check(4 << 20, 3);
}

#[test]
fn groups_of_one_follow_each_other() {
    check(1, 3);
}
