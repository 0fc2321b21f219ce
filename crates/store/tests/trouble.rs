//! A disk that is full, refuses or forgets at the wrong moment; databases dropped at the wrong moment.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use alluvium_io::{Completer, Completion, FileId, Lane, Layer, Op, Ticket};
use alluvium_sim::{Fault, FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{Commit, Database, Device, Store, StoreConfig, StoreError};
use alluvium_types::Value;
use model::{Dice, Line, Model, batch, read_all, write};
use parking_lot::Mutex;

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 256 << 10,
        extent_pages: 4,
        batch_pages: 3,
        segment_bytes: 256 << 10,
        group_bytes_max: 8 << 10,
        checkpoint_log_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        cache_percent: 1,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

struct World {
    device: Arc<SimDevice>,
    clock: Arc<SimClock>,
    store: Store,
    dice: Dice,
    now: i64,
}

impl World {
    fn open(device: Arc<SimDevice>, config: StoreConfig) -> Self {
        let below = Arc::<SimDevice>::clone(&device);
        Self::open_on(device, below, config)
    }

    /// On a device that hands on to `device`.
    fn open_on(device: Arc<SimDevice>, top: Arc<dyn Device>, config: StoreConfig) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let store = Store::open(
            top,
            Arc::<SimClock>::clone(&clock) as Arc<dyn alluvium_store::Clock>,
            config,
        );
        Self {
            device,
            clock,
            store: store.unwrap(),
            dice: Dice(77),
            now: 1_000_000,
        }
    }

    fn new(seed: u64, shards: usize) -> Self {
        let sim = SimConfig {
            lanes: 5,
            ..SimConfig::default()
        };
        Self::open(SimDevice::new(seed, sim), config(shards))
    }

    fn drive(&self, turns: usize) {
        for _ in 0..turns {
            self.store.drive();
            self.clock.advance_ns(3_000_000);
        }
    }

    fn settle(&self, mut commit: Commit) -> Result<(), StoreError> {
        for _ in 0..20_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                return result.map(|_| ());
            }
            self.drive(1);
        }
        panic!("a commit neither ended nor failed");
    }

    fn list(&self, dir: &str) -> Vec<String> {
        let files = alluvium_store::Device::list(self.device.as_ref(), dir).unwrap();
        files.into_iter().map(|f| f.name).collect()
    }

    fn bytes(&self, dir: &str) -> u64 {
        let files = alluvium_store::Device::list(self.device.as_ref(), dir).unwrap();
        files.iter().map(|f| f.allocated).sum()
    }

    fn create(&self, name: &str) -> Database {
        let (database, created) = self.store.create_database(name).unwrap();
        self.settle(created).unwrap();
        database
    }

    /// Writes some points, late ones among them, and waits for the acknowledgement.
    fn fill(&mut self, database: &Database, lines: u64, model: &mut Model) {
        let lines = batch(&mut self.dice, &mut self.now, 1, lines);
        let commit = write(database, &lines, None).unwrap();
        self.settle(commit).unwrap();
        model.apply(&lines);
    }
}

/// Whoever waits for a checkpoint learns that none will end.
#[test]
fn who_waits_for_a_checkpoint_is_woken_when_the_store_fails() {
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Release);
        }
    }
    let mut world = World::new(5, 2);
    let database = world.create("db");
    let mut model = Model::default();
    world.fill(&database, 100, &mut model);
    let mut checkpoint = world.store.checkpoint();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(checkpoint.poll(&waker).is_pending());
    let at = world.device.syncs();
    world.device.set_faults(FaultPlan {
        syncs: BTreeMap::from([(at, Fault::Eio)]),
        ..FaultPlan::default()
    });
    let lines = batch(&mut world.dice, &mut world.now, 1, 10);
    let commit = write(&database, &lines, None).unwrap();
    assert!(world.settle(commit).is_err());
    world.drive(10);
    assert!(woken.0.load(std::sync::atomic::Ordering::Acquire));
    let ended = checkpoint.poll(Waker::noop());
    assert!(matches!(ended, Poll::Ready(Err(_))));
}

/// A kernel that finds no room when it syncs has dropped what it could not write: a checkpoint that went on
/// after that would name pages that are not there.
#[test]
fn a_sync_that_finds_no_room_is_a_failed_sync() {
    let mut covered = 0;
    for skip in 0..40 {
        let mut world = World::new(11 + skip, 2);
        let database = world.create("db");
        let mut model = Model::default();
        for _ in 0..8 {
            world.fill(&database, 1000, &mut model);
        }
        let at = world.device.syncs() + skip;
        world.device.set_faults(FaultPlan {
            syncs: BTreeMap::from([(at, Fault::NoSpace)]),
            ..FaultPlan::default()
        });
        assert!(world.store.status().pages_written > 0);
        let first = world.settle(world.store.checkpoint());
        if first.is_ok() {
            break;
        }
        covered += 1;
        // Two more, if they are to be had, so that the log is trimmed.
        for _ in 0..2 {
            let _ = world.settle(world.store.checkpoint());
        }
        let device = world.device.crash();
        drop((database, world.store));
        let world = World::open(device, config(2));
        let found = read_all(&world.store.database("db").unwrap());
        model::same(&model, &found).unwrap();
    }
    assert!(covered >= 5, "only {covered} syncs failed");
}

/// Waits for nothing that only room can bring: a stop of the server must end.
#[test]
fn a_checkpoint_says_that_the_log_has_no_room_and_closing_ends() {
    let mut world = World::new(5, 1);
    let database = world.create("db");
    world.fill(&database, 50, &mut Model::default());
    world.settle(world.store.checkpoint()).unwrap();
    // Room for the files of a checkpoint, not for another segment.
    let used: u64 = ["", "wal", "vol"].into_iter().map(|d| world.bytes(d)).sum();
    world.device.set_faults(FaultPlan {
        capacity: Some(used + (96 << 10)),
        ..FaultPlan::default()
    });
    let lines = batch(&mut world.dice, &mut world.now, 200, 12_000);
    let commit = write(&database, &lines, None).unwrap();
    world.drive(400);
    assert!(world.store.status().full);
    let error = world.settle(world.store.checkpoint()).unwrap_err();
    assert!(error.to_string().contains("log"), "{error}");
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    assert!(world.store.status().failure.is_none(), "it may recover");
    world.device.set_faults(FaultPlan::default());
    world.drive(1000);
    world.settle(commit).unwrap();
    world.settle(world.store.checkpoint()).unwrap();
}

fn open_tails(store: &Store) -> u64 {
    let memory = store.status().memory;
    memory.iter().find(|(n, _)| *n == "open_tails").unwrap().1.0
}

/// A database that is dropped takes nothing with it: create, fill and drop for ever.
#[test]
fn dropped_databases_give_back_their_memory() {
    let mut world = World::new(8, 2);
    let kept = world.create("kept");
    let mut kept_model = Model::default();
    world.fill(&kept, 100, &mut kept_model);
    let before = open_tails(&world.store);
    for round in 0..4 {
        let database = world.create("db");
        for _ in 0..8 {
            world.fill(&database, 1000, &mut Model::default());
        }
        assert!(open_tails(&world.store) > before);
        if round % 2 == 0 {
            world.settle(world.store.checkpoint()).unwrap();
        }
        let dropped = world.store.drop_database("db").unwrap();
        world.settle(dropped).unwrap();
        // A handle keeps what it shows.
        assert!(open_tails(&world.store) > before);
        drop(database);
        assert_eq!(open_tails(&world.store), before, "round {round}");
    }
    // And what recovery charges is given back, too.
    drop(kept);
    let device = world.device.kill();
    drop(world.store);
    let world = World::open(device, config(3));
    let kept = world.store.database("kept").unwrap();
    model::same(&kept_model, &read_all(&kept)).unwrap();
    drop(kept);
    let dropped = world.store.drop_database("kept").unwrap();
    world.settle(dropped).unwrap();
    assert_eq!(open_tails(&world.store), 0);
}

/// Links of this process's open files that point to removed files below `root`.
fn held_though_removed(root: &std::path::Path) -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let shown = targets.map(|t| t.display().to_string());
    let root = root.display().to_string();
    shown
        .filter(|t| t.starts_with(&root) && t.ends_with("(deleted)"))
        .collect()
}

/// A removed file keeps its blocks while it is open.
#[test]
fn dropped_databases_give_back_their_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let options = alluvium_io::DeviceOptions {
        lanes: 3,
        ..alluvium_io::DeviceOptions::default()
    };
    let device = alluvium_io::open(dir.path(), &options).unwrap();
    let clock = Arc::new(alluvium_store::SystemClock);
    let store = Store::open(device, clock, config(2)).unwrap();
    let (mut dice, mut now) = (Dice(5), 1_000_000);
    for round in 0..3 {
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        for _ in 0..8 {
            let lines = batch(&mut dice, &mut now, 1, 1000);
            write(&database, &lines, None).unwrap().wait().unwrap();
        }
        store.checkpoint().wait().unwrap();
        assert!(store.status().pages_written > 0);
        store.drop_database("db").unwrap().wait().unwrap();
        for _ in 0..4 {
            store.checkpoint().wait().unwrap();
        }
        // Whatever was submitted is behind the next commit.
        let (_, created) = store.create_database(&format!("after{round}")).unwrap();
        created.wait().unwrap();
        store.checkpoint().wait().unwrap();
        let held = held_though_removed(dir.path());
        assert!(held.iter().all(|f| !f.contains("/vol/")), "{held:?}");
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("vol")).unwrap().count(),
        0
    );
}

fn put(device: &SimDevice, path: &str) {
    use alluvium_io::{Lane, Op, OpenMode};
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    let op = Op::Open {
        path: path.to_owned(),
        mode,
    };
    alluvium_store::Device::submit(device, Lane(0), op)
        .wait(device, Lane(0))
        .unwrap();
}

/// What a power cut brought back, or a lost life began, goes at the next opening; nothing else does.
#[test]
fn files_that_no_root_names_are_swept() {
    let mut world = World::new(21, 2);
    let database = world.create("db");
    let mut model = Model::default();
    for _ in 0..3 {
        for _ in 0..3 {
            world.fill(&database, 1000, &mut model);
        }
        world.settle(world.store.checkpoint()).unwrap();
    }
    world.drive(20);
    let all = |world: &World| {
        let mut all = world.list("");
        all.extend(world.list("vol"));
        all.sort();
        all
    };
    let before = all(&world);
    let device = world.device.kill();
    drop((database, world.store));
    let ours = [
        "manifest.0000000000000001",
        "tails.0000000000000099",
        "series.0000000000000098",
        "vol/00000777",
    ];
    let strange = [
        "manifest.json",
        "tails.1",
        "series.00000000000000098",
        "vol/777",
        "vol/notes",
    ];
    for path in ours.iter().chain(&strange) {
        put(&device, path);
    }
    let world = World::open(device, config(3));
    assert_eq!(world.store.recovery().files_swept, ours.len() as u64);
    let mut expected = before;
    expected.extend(strange.map(|s| s.rsplit('/').next().unwrap().to_owned()));
    expected.sort();
    assert_eq!(all(&world), expected);
    model::same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
}

/// A superblock of zeros beside a log or pages is not a new directory.
#[test]
fn a_blank_superblock_beside_data_is_refused() {
    for beside in [
        "wal/00000001-0000.00000001",
        "vol/00000001",
        "manifest.json",
    ] {
        let device = SimDevice::new(1, SimConfig::default());
        put(&device, "superblock");
        put(&device, beside);
        let opened = Store::open(device, Arc::new(SimClock::new(0)), config(1));
        let error = opened.unwrap_err().to_string();
        assert!(error.contains(beside), "{error}");
    }
}

/// A power cut while a directory is made: the room for a full disk may be there before the first superblock.
#[test]
fn a_reserve_without_a_superblock_is_a_new_directory() {
    let device = SimDevice::new(1, SimConfig::default());
    put(&device, "reserve");
    Store::open(device, Arc::new(SimClock::new(0)), config(1)).unwrap();
}

/// A log that is gone as a whole is as bad as one with a hole.
#[test]
fn a_missing_stream_is_named() {
    let mut world = World::new(23, 1);
    let database = world.create("db");
    world.fill(&database, 50, &mut Model::default());
    world.settle(world.store.checkpoint()).unwrap();
    world.fill(&database, 50, &mut Model::default());
    let device = world.device.kill();
    drop((database, world.store));
    for name in alluvium_store::Device::list(device.as_ref(), "wal").unwrap() {
        use alluvium_io::{Lane, Op};
        let path = format!("wal/{}", name.name);
        alluvium_store::Device::submit(device.as_ref(), Lane(0), Op::Remove { path })
            .wait(device.as_ref(), Lane(0))
            .unwrap();
    }
    let opened = Store::open(device, Arc::new(SimClock::new(0)), config(1));
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}

/// Segments go as a whole and two superblocks late: that the log is still large is no reason for another
/// checkpoint.
#[test]
fn an_idle_store_does_not_checkpoint_for_ever() {
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    let small = StoreConfig {
        checkpoint_log_bytes: 128 << 10,
        ..config(4)
    };
    let mut world = World::open(SimDevice::new(31, sim), small);
    let database = world.create("db");
    for round in 0..40 {
        let lines = batch(&mut world.dice, &mut world.now, 60, 100);
        let commit = write(&database, &lines, None).unwrap();
        world.settle(commit).unwrap();
        assert!(world.store.status().checkpoints <= 3 + round);
    }
    // What is under way ends; 15 seconds later nothing has come after it.
    world.drive(1000);
    let after_writes = world.store.status().checkpoints;
    assert!(after_writes > 1, "the log never asked for one");
    world.drive(5000);
    assert_eq!(world.store.status().checkpoints, after_writes);
    assert!(world.store.status().log.0 < 2 << 20);
}

/// Files of a dropped database go also where nobody writes any more.
#[test]
fn a_drop_on_an_idle_store_frees_its_files() {
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    let eager = StoreConfig {
        checkpoint_ms: 1000,
        ..config(2)
    };
    let mut world = World::open(SimDevice::new(32, sim), eager);
    let database = world.create("db");
    for _ in 0..8 {
        world.fill(&database, 1000, &mut Model::default());
    }
    world.settle(world.store.checkpoint()).unwrap();
    assert!(!world.list("vol").is_empty());
    let dropped = world.store.drop_database("db").unwrap();
    world.settle(dropped).unwrap();
    world.drive(5000);
    assert_eq!(world.list("vol"), [""; 0]);
    let after = world.store.status().checkpoints;
    world.drive(2000);
    assert!(
        world.store.status().checkpoints <= after + 1,
        "and then rests"
    );
}

/// A simulated device that keeps some operations to itself for as long as a test likes, so that everything else
/// overtakes them.
#[derive(Debug)]
struct Holding {
    device: Arc<SimDevice>,
    hold: Mutex<Option<Which>>,
    held: Mutex<Vec<(Lane, Op, Completer)>>,
    /// Released, but not ended below.
    released: Mutex<Vec<(Ticket, Completer)>>,
    /// Openings, with their paths.
    opened: Mutex<Vec<(String, Ticket)>>,
    closed: Mutex<Vec<FileId>>,
}

/// Operations to be held, of files at these paths.
type Which = fn(&Op, &str) -> bool;

impl Holding {
    fn new(seed: u64) -> Arc<Self> {
        let sim = SimConfig {
            lanes: 5,
            ..SimConfig::default()
        };
        Arc::new(Self {
            device: SimDevice::new(seed, sim),
            hold: Mutex::default(),
            held: Mutex::default(),
            released: Mutex::default(),
            opened: Mutex::default(),
            closed: Mutex::default(),
        })
    }

    fn hold(&self, which: Which) {
        *self.hold.lock() = Some(which);
    }

    /// The path of an operation's file.
    fn path(&self, op: &Op) -> String {
        let file = match op {
            Op::Open { path, .. } | Op::Remove { path } | Op::SyncDir { path } => {
                return path.clone();
            }
            Op::Rename { from, .. } => return from.clone(),
            Op::Close { file }
            | Op::Write { file, .. }
            | Op::Sync { file }
            | Op::Punch { file, .. } => *file,
        };
        let opened = self.opened.lock();
        let found = opened.iter().find(|(_, ticket)| {
            matches!(ticket.result(), Some(Ok(Completion::Opened { file: of, .. })) if of == file)
        });
        found.map_or_else(String::new, |(path, _)| path.clone())
    }

    fn release(&self) {
        *self.hold.lock() = None;
        for (lane, op, completer) in self.held.lock().drain(..) {
            let ticket = self.device.submit(lane, op);
            self.released.lock().push((ticket, completer));
        }
    }

    /// Tails and definitions that are open, and such as were closed more than once.
    fn miscounted(&self) -> usize {
        let opened = self.opened.lock();
        let opened = opened.iter().filter(|(path, _)| is_of_checkpoint(path));
        let files = opened.filter_map(|(_, t)| match t.result() {
            Some(Ok(Completion::Opened { file, .. })) => Some(file),
            _ => None,
        });
        let closed = self.closed.lock();
        let closings = |file| closed.iter().filter(|c| **c == file).count();
        files.filter(|file| closings(*file) != 1).count()
    }
}

fn is_of_checkpoint(path: &str) -> bool {
    path.starts_with("tails.") || path.starts_with("series.")
}

impl Layer for Holding {
    fn behind(&self) -> &dyn Device {
        &*self.device
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let (path, opening) = (self.path(&op), matches!(op, Op::Open { .. }));
        if let Op::Close { file } = op {
            self.closed.lock().push(file);
        }
        let ticket = if self.hold.lock().is_some_and(|hold| hold(&op, &path)) {
            let (ticket, completer) = Ticket::new();
            self.held.lock().push((lane, op, completer));
            ticket
        } else {
            self.device.submit(lane, op)
        };
        if opening {
            self.opened.lock().push((path, ticket.clone()));
        }
        ticket
    }

    fn drive(&self, lane: Lane) -> usize {
        let ended = self.device.drive(lane);
        let mut released = self.released.lock();
        for (ticket, completer) in std::mem::take(&mut *released) {
            match ticket.result() {
                Some(result) => completer.complete(result),
                None => released.push((ticket, completer)),
            }
        }
        ended
    }

    fn wait(&self, _timeout: Duration) {}

    fn wake(&self) {}
}

/// A checkpoint that finds no room in the log while its file of tails is there, or its opening under way.
fn fail_a_checkpoint(hold: Which, seed: u64) -> (Arc<Holding>, World, Model) {
    let holding = Holding::new(seed);
    let mut world = World::open_on(
        Arc::clone(&holding.device),
        Arc::<Holding>::clone(&holding) as Arc<dyn Device>,
        config(1),
    );
    let database = world.create("db");
    let mut model = Model::default();
    world.fill(&database, 50, &mut model);
    world.settle(world.store.checkpoint()).unwrap();
    let used: u64 = ["", "wal", "vol"].into_iter().map(|d| world.bytes(d)).sum();
    world.device.set_faults(FaultPlan {
        capacity: Some(used + (96 << 10)),
        ..FaultPlan::default()
    });
    let lines = batch(&mut world.dice, &mut world.now, 200, 12_000);
    let commit = write(&database, &lines, None).unwrap();
    world.drive(400);
    holding.hold(hold);
    world.settle(world.store.checkpoint()).unwrap_err();
    world.device.set_faults(FaultPlan::default());
    // More than the second after which it is tried again.
    world.drive(1000);
    world.settle(commit).unwrap();
    model.apply(&lines);
    (holding, world, model)
}

/// The file of an attempt has the name of the one before: a removal that comes late must not meet it.
#[test]
fn a_late_removal_of_a_failed_checkpoints_file_spares_the_next_ones() {
    let removal = |op: &Op, path: &str| matches!(op, Op::Remove { .. }) && is_of_checkpoint(path);
    for seed in 0..4 {
        let (holding, world, model) = fail_a_checkpoint(removal, seed);
        assert!(!holding.held.lock().is_empty(), "nothing is removed");
        let again = world.store.checkpoint();
        world.drive(1000);
        holding.release();
        world.settle(again).unwrap();
        world.drive(100);
        let device = world.device.kill();
        drop(world.store);
        let world = World::open(device, config(2));
        model::same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
    }
}

/// An opening that ends after its checkpoint gives a handle that somebody must close.
#[test]
fn a_late_opening_of_a_failed_checkpoint_is_closed() {
    let opening = |op: &Op, path: &str| matches!(op, Op::Open { .. }) && is_of_checkpoint(path);
    for seed in 0..4 {
        let (holding, world, model) = fail_a_checkpoint(opening, seed);
        assert!(!holding.held.lock().is_empty(), "nothing is opened");
        holding.release();
        world.settle(world.store.checkpoint()).unwrap();
        world.drive(100);
        let device = world.device.kill();
        // Tails that a superblock names stay open until the end.
        drop(world.store);
        assert_eq!(holding.miscounted(), 0);
        let world = World::open(device, config(2));
        model::same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
    }
}

/// Tails go on behind pages and hold points of the log: a root that names them is not written before all of those are.
#[test]
fn a_root_waits_for_pages_and_log() {
    let page = |op: &Op, path: &str| matches!(op, Op::Write { .. }) && path.starts_with("vol/");
    let log = |op: &Op, path: &str| {
        matches!(op, Op::Write { .. } | Op::Sync { .. }) && path.starts_with("wal/")
    };
    for (seed, hold) in [(1, page as Which), (2, log)] {
        let holding = Holding::new(seed);
        let mut world = World::open_on(
            Arc::clone(&holding.device),
            Arc::<Holding>::clone(&holding) as Arc<dyn Device>,
            config(1),
        );
        let database = world.create("db");
        let mut model = Model::default();
        world.fill(&database, 50, &mut model);
        world.settle(world.store.checkpoint()).unwrap();
        let before = world.store.status().checkpoints;
        holding.hold(hold);
        // Whole pages and open leaves.
        let lines = batch(&mut world.dice, &mut world.now, 1, 12_000);
        let commit = write(&database, &lines, None).unwrap();
        let checkpoint = world.store.checkpoint();
        world.drive(2000);
        assert!(!holding.held.lock().is_empty(), "nothing is held");
        assert_eq!(world.store.status().checkpoints, before, "seed {seed}");
        holding.release();
        world.settle(checkpoint).unwrap();
        world.settle(commit).unwrap();
        model.apply(&lines);
        assert!(world.store.status().checkpoints > before);
        let device = world.device.crash();
        drop(world.store);
        let world = World::open(device, config(2));
        model::same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
    }
}

/// Two streams have begun a segment, and the sync of the log's folder loses the names of both: who went by a sync of its own behind that
/// would acknowledge what no name leads to after a crash.
#[test]
fn a_failed_sync_of_the_logs_folder_is_one_for_every_stream() {
    let holding = Holding::new(71);
    let mut world = World::open_on(
        Arc::clone(&holding.device),
        Arc::<Holding>::clone(&holding) as Arc<dyn Device>,
        config(2),
    );
    let database = world.create("db");
    let mut model = Model::default();
    let mut now = 0;
    // Of each host a batch, all under way at once.
    let mut send = |world: &mut World, points: i64| -> Vec<(Vec<Line>, Option<Commit>)> {
        let times = now..now + points;
        now += points;
        let of_host = |host| {
            let line = |time| Line {
                host,
                time,
                fields: vec![("f", Value::F64(world.dice.roll() as f64 / 3e15))],
            };
            let lines: Vec<Line> = times.clone().map(line).collect();
            let commit = write(&database, &lines, None);
            (lines, commit.ok())
        };
        (0..8).map(of_host).collect()
    };
    // Returns how many were acknowledged.
    let settle = |world: &World, model: &mut Model, sent: Vec<(Vec<Line>, Option<Commit>)>| {
        let mut acknowledged = 0;
        for (lines, commit) in sent {
            if commit.is_some_and(|commit| world.settle(commit).is_ok()) {
                model.apply(&lines);
                acknowledged += 1;
            }
        }
        acknowledged
    };
    let sent = send(&mut world, 5);
    assert_eq!(settle(&world, &mut model, sent), 8);
    holding.hold(|op, path| matches!(op, Op::SyncDir { .. }) && path == "wal");
    let begun = |world: &World| {
        let files = world.list("wal");
        files.iter().filter(|f| !f.starts_with("free")).count()
    };
    while begun(&world) < 4 {
        let sent = send(&mut world, 2);
        assert_eq!(settle(&world, &mut model, sent), 8);
    }
    // More than the segments before have room for, so both wait for the next ones.
    let mut waiting: Vec<_> = (0..10).flat_map(|_| send(&mut world, 300)).collect();
    world.drive(100);
    world.device.set_faults(FaultPlan {
        syncs: BTreeMap::from([(world.device.syncs(), Fault::LosesContent)]),
        ..FaultPlan::default()
    });
    holding.release();
    waiting.extend(send(&mut world, 1));
    assert!(settle(&world, &mut model, waiting) < 88);
    let sent = send(&mut world, 1);
    assert_eq!(settle(&world, &mut model, sent), 0);
    let device = world.device.crash();
    drop((database, world.store));
    let world = World::open(device, config(2));
    let found = read_all(&world.store.database("db").unwrap());
    for (series, points) in &model.series {
        let kept = found.series.get(series);
        let is_there = |time| kept.is_some_and(|kept| kept.contains_key(time));
        assert!(points.keys().all(is_there), "{series:?}");
    }
}
