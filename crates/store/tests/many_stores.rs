//! Hundreds of stores in one process, each in a directory of its own: what they take while they are open.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use alluvium_io::{Backend, DeviceOptions, heap_use};
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{Clock, Commit, Database, Device, Store, StoreConfig};
use alluvium_types::Value;
use model::{Line, Model, read_all, same, write};

const STORES: usize = 300;
const MIB: u64 = 1 << 20;

fn config() -> StoreConfig {
    StoreConfig {
        shards: 1,
        segment_bytes: MIB,
        memory_bytes: 16 * MIB,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: Arc<dyn Device>, clock: &Arc<SimClock>) -> Store {
    let clock = Arc::<SimClock>::clone(clock) as Arc<dyn Clock>;
    Store::open(device, clock, config()).unwrap()
}

fn settle(device: &dyn Device, store: &Store, clock: &SimClock, mut commit: Commit) {
    for _ in 0..100_000 {
        if let Poll::Ready(result) = commit.poll(Waker::noop()) {
            result.unwrap();
            return;
        }
        if !store.drive() {
            clock.advance_ns(1_000_000);
            device.wait(Duration::from_millis(1));
        }
    }
    panic!("a commit neither ended nor failed");
}

fn lines(number: usize, from: i64) -> Vec<Line> {
    let line = |n: i64| Line {
        host: (n % 5) as u32,
        time: from + n,
        fields: vec![("f", Value::F64((number as i64 * 1_000 + n) as f64))],
    };
    (0..50).map(line).collect()
}

fn fill(device: &dyn Device, store: &Store, clock: &SimClock, number: usize) -> Database {
    let (database, created) = store.create_database("db").unwrap();
    settle(device, store, clock, created);
    let commit = write(&database, &lines(number, 0), None).unwrap();
    settle(device, store, clock, commit);
    settle(device, store, clock, store.checkpoint());
    // Some in the log beyond the checkpoint.
    let commit = write(&database, &lines(number, 1_000), None).unwrap();
    settle(device, store, clock, commit);
    database
}

fn check(store: &Store, number: usize) {
    let mut model = Model::default();
    model.apply(&lines(number, 0));
    model.apply(&lines(number, 1_000));
    same(&model, &read_all(&store.database("db").unwrap())).unwrap();
}

/// All on simulated disks, all open, then all cut.
#[test]
fn three_hundred_stores_are_open_at_once_on_simulated_disks() {
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let before = heap_use();
    let made: Vec<_> = (0..STORES)
        .map(|number| {
            let disk = SimDevice::new(number as u64, SimConfig::default());
            let store = open(Arc::<SimDevice>::clone(&disk) as _, &clock);
            let database = fill(&*disk, &store, &clock, number);
            (disk, store, database)
        })
        .collect();
    let files = |disk: &SimDevice| {
        let of = |dir| disk.list(dir).unwrap().len();
        of("") + of("wal") + of("vol")
    };
    for (disk, ..) in &made {
        let log = disk.list("wal").unwrap();
        assert!(log.iter().all(|f| f.len <= MIB), "{log:?}");
    }
    let most = made.iter().map(|(disk, ..)| files(disk)).max().unwrap();
    assert!(most <= 12, "{most} files of one store");
    if let (Some(before), Some(now)) = (before, heap_use()) {
        // What the disks hold included.
        let each = now.live.saturating_sub(before.live) / STORES as u64;
        println!("{each} bytes of heap for each store and its disk, at most {most} files");
        assert!(each < MIB, "{each} bytes of heap for each store");
    }
    for (number, (disk, store, database)) in made.into_iter().enumerate() {
        drop((store, database));
        check(&open(disk.crash() as _, &clock), number);
    }
}

/// Entries of a directory of this process in the system's tables; `None` where there are none.
fn of_process(what: &str) -> Option<usize> {
    let listed = std::fs::read_dir(Path::new("/proc/self").join(what)).ok()?;
    Some(listed.count())
}

/// In real directories: files, threads and blocks of each are few and known.
#[test]
fn a_hundred_stores_are_open_at_once_in_real_directories() {
    const STORES: usize = 100;
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let all = tempfile::tempdir().unwrap();
    let open_in = |number: usize| {
        let options = DeviceOptions {
            backend: Backend::Pwritev,
            lanes: 2,
            ..DeviceOptions::default()
        };
        let device = alluvium_io::open(&all.path().join(number.to_string()), &options).unwrap();
        (Arc::clone(&device), open(device, &clock))
    };
    let before = (of_process("fd"), of_process("task"));
    let made: Vec<_> = (0..STORES)
        .map(|number| {
            let (device, store) = open_in(number);
            let database = fill(&*device, &store, &clock, number);
            (device, store, database)
        })
        .collect();
    let each = |what: &str, before: Option<usize>| {
        Some((of_process(what)?.saturating_sub(before?)) as f64 / STORES as f64)
    };
    let (fds, threads) = (each("fd", before.0), each("task", before.1));
    let blocks = made.iter().map(|(device, ..)| {
        let of = |dir| {
            device
                .list(dir)
                .unwrap()
                .iter()
                .map(|f| f.allocated)
                .sum::<u64>()
        };
        of("") + of("wal") + of("vol")
    });
    let most = blocks.max().unwrap();
    println!("each: {fds:?} open files, {threads:?} threads, at most {most} bytes");
    assert!(fds.is_none_or(|n| n <= 12.0), "{fds:?} open files for each");
    // One a lane: none for a store, a database or a flush.
    assert!(
        threads.is_none_or(|n| n <= 2.1),
        "{threads:?} threads for each"
    );
    // A segment of the log, or two, and little else.
    assert!(most < 3 * MIB, "{most} bytes of one store");
    drop(made);
    for number in (0..STORES).step_by(10) {
        check(&open_in(number).1, number);
    }
}
