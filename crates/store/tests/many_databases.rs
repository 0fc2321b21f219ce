//! A hundred databases in one store: what they cost on the disk, in memory and in flushes, and what is left of
//! those that are dropped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use alluvium_io::{Backend, Device, DeviceOptions, Layer};
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Clock, Commit, Database, Direction, ReadStats, Selector, Store, StoreConfig, TimeRange,
};
use alluvium_types::{Column, SeriesKey, ValueRef};

const DATABASES: usize = 100;
const SERIES: usize = 5;
const MIB: u64 = 1 << 20;

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        memory_bytes: 128 << 20,
        segment_bytes: 1 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

/// A store on some device whose owner drives it by hand.
struct World<D: Device + 'static> {
    device: Arc<D>,
    clock: Arc<SimClock>,
    store: Store,
}

impl<D: Device + 'static> World<D> {
    fn open(device: Arc<D>, shards: usize) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let store = Store::open(
            Arc::<D>::clone(&device) as Arc<dyn Device>,
            Arc::<SimClock>::clone(&clock) as Arc<dyn Clock>,
            config(shards),
        );
        Self {
            device,
            clock,
            store: store.unwrap(),
        }
    }

    fn settle(&self, mut commit: Commit) {
        for _ in 0..100_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                result.unwrap();
                return;
            }
            if !self.store.drive() {
                self.clock.advance_ns(1_000_000);
                self.device.wait(std::time::Duration::from_millis(1));
            }
        }
        panic!("a commit neither ended nor failed");
    }

    fn create(&self, count: usize) -> Vec<Database> {
        let made: Vec<(Database, Commit)> = (0..count)
            .map(|i| self.store.create_database(&name(i)).unwrap())
            .collect();
        let settled = made.into_iter().map(|(database, created)| {
            self.settle(created);
            database
        });
        settled.collect()
    }

    fn allocated(&self) -> u64 {
        let files = self.device.list("vol").unwrap();
        files.iter().map(|f| f.allocated).sum()
    }

    fn volumes(&self) -> BTreeSet<String> {
        let files = self.device.list("vol").unwrap();
        files.into_iter().map(|f| f.name).collect()
    }

    fn memory(&self) -> u64 {
        self.store.status().memory.iter().map(|(_, b)| b.0).sum()
    }
}

fn name(number: usize) -> String {
    format!("db{number:03}")
}

/// Some points of every series, different in each database.
fn write(database: &Database, number: usize, from: i64, points: i64) -> Commit {
    let mut writer = database.writer();
    for series in 0..SERIES {
        let raw = format!("m,s={series}");
        let key = SeriesKey::new("m", [("s", series.to_string())]).unwrap();
        let row = writer.resolve(raw.as_bytes(), key);
        for time in from..from + points {
            let value = value(number, series, time);
            writer.begin_line(row, time).unwrap();
            writer.field("v", ValueRef::F64(value)).unwrap();
            writer.end_line().unwrap();
        }
    }
    writer.commit(None).unwrap()
}

/// Hard to pack, so that pages fill.
fn value(number: usize, series: usize, time: i64) -> f64 {
    let mix = (number * SERIES + series) as u64 ^ (time as u64) << 20;
    (mix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / 3.0
}

fn check(database: &Database, number: usize, points: i64) {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let found = snapshot.select(&Selector::default()).unwrap();
    assert_eq!(found.len(), SERIES, "{}", database.name());
    for info in &found {
        let which: usize = info.key.tag("s").unwrap().parse().unwrap();
        let series = snapshot.series(info);
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(series.kind());
        let mut next = 0;
        while cursor.next_batch(&mut stats, &mut column).unwrap() {
            for (i, time) in column.times.iter().enumerate() {
                assert_eq!(*time, next);
                let want = ValueRef::F64(value(number, which, next));
                assert!(column.value(i).unwrap().same(want), "{number} {which}");
                next += 1;
            }
        }
        assert_eq!(next, points, "{} of {}", info.metric_name(), number);
    }
}

/// Disk and memory, on whatever device; pages of every database were written.
fn small<D: Device + 'static>(world: &World<D>, points: i64) {
    let before = world.memory();
    let databases = world.create(DATABASES);
    for (number, database) in databases.iter().enumerate() {
        world.settle(write(database, number, 0, points));
    }
    world.settle(world.store.checkpoint());
    let (allocated, volumes) = (world.allocated(), world.volumes().len());
    let memory = world.memory() - before;
    println!(
        "{DATABASES} databases: {volumes} volumes of {} KiB in all, {} KiB of memory",
        allocated >> 10,
        memory >> 10
    );
    assert!(allocated < 64 * MIB, "{allocated} bytes of volumes");
    assert!(
        world.store.status().pages_written >= DATABASES as u64,
        "too few points to fill pages"
    );
    assert!(memory < 48 * MIB, "{memory} bytes of memory");
    for (number, database) in databases.iter().enumerate() {
        check(database, number, points);
    }
}

/// Enough for a page or more of each series.
const POINTS: i64 = 1500;

#[test]
fn a_hundred_databases_are_small_on_the_simulated_disk() {
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    let world = World::open(SimDevice::new(1, sim), 2);
    small(&world, POINTS);
    let device = world.device.crash();
    drop(world);
    let world = World::open(device, 3);
    for number in 0..DATABASES {
        check(
            &world.store.database(&name(number)).unwrap(),
            number,
            POINTS,
        );
    }
    assert!(world.allocated() < 64 * MIB);
}

/// A device that ends nothing while it is held, as if its flush took all that time.
#[derive(Debug)]
struct Slow {
    device: Arc<dyn Device>,
    held: AtomicBool,
}

impl Slow {
    fn new(device: Arc<dyn Device>) -> Arc<Self> {
        let held = AtomicBool::new(false);
        Arc::new(Self { device, held })
    }
}

impl Layer for Slow {
    fn behind(&self) -> &dyn Device {
        &*self.device
    }

    fn drive(&self, lane: alluvium_io::Lane) -> usize {
        if self.held.load(Ordering::Acquire) {
            0
        } else {
            self.device.drive(lane)
        }
    }
}

#[test]
fn a_hundred_databases_are_small_in_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = |shards| {
        let options = DeviceOptions {
            backend: Backend::Auto,
            lanes: 5,
            ..DeviceOptions::default()
        };
        let device = alluvium_io::open(dir.path(), &options).unwrap();
        World::open(Slow::new(device), shards)
    };
    let world = open(2);
    small(&world, POINTS);
    world.store.close().unwrap();
    drop(world);
    let world = open(4);
    for number in 0..DATABASES {
        check(
            &world.store.database(&name(number)).unwrap(),
            number,
            POINTS,
        );
    }
}

/// Flushes that one moment costs: so many commits, dealt to `databases`, while the device ends nothing.
fn flushes(shards: usize, databases: usize, commits: usize) -> u64 {
    let sim = SimConfig {
        lanes: 5,
        latency_drives_max: 1,
        ordered: true,
        ..SimConfig::default()
    };
    let disk = SimDevice::new(3, sim);
    let device = Slow::new(Arc::<SimDevice>::clone(&disk) as Arc<dyn Device>);
    let world = World::open(device, shards);
    let all = world.create(databases);
    // The segments exist and the definitions are written before it is counted.
    for (number, database) in all.iter().enumerate() {
        world.settle(write(database, number, 0, 4));
    }
    let before = disk.syncs();
    world.device.held.store(true, Ordering::Release);
    let moment: Vec<Commit> = (0..commits)
        .map(|i| write(&all[i % databases], i % databases, 4 + i as i64, 1))
        .collect();
    world.device.held.store(false, Ordering::Release);
    for commit in moment {
        world.settle(commit);
    }
    disk.syncs() - before
}

#[test]
fn a_moment_of_writes_to_all_databases_costs_the_flushes_of_one() {
    for shards in [1, 2, 4] {
        let single = flushes(shards, 1, 1);
        let one = flushes(shards, 1, DATABASES);
        let all = flushes(shards, DATABASES, DATABASES);
        println!(
            "{shards} shards: {single} flushes for one commit, {one} for {DATABASES} commits to one database, \
             {all} to as many databases"
        );
        assert!((1..=shards as u64).contains(&single));
        // What came first is on its way; everything else waits for the next flush of its shard together. The
        // series of one database may lie in fewer shards than there are, those of a hundred lie in all.
        assert!(one <= 2 * single);
        assert!(all <= 2 * shards as u64);
        if single == shards as u64 {
            assert!(all <= one, "{all} flushes, {one} for one database");
        }
    }
}

/// A checkpoint notes first where redo begins and last which databases there are. What came and went in between is in the
/// log that is redone, and must not take the name from its successor.
#[test]
fn a_name_that_was_used_before_is_of_the_last_that_took_it() {
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    for turns in 0..16 {
        let world = World::open(SimDevice::new(turns, sim.clone()), 2);
        let kept = world.create(1);
        world.settle(write(&kept[0], 0, 0, 100));
        let checkpoint = world.store.checkpoint();
        for _ in 0..turns {
            world.store.drive();
        }
        for _ in 0..2 {
            drop(world.store.create_database("again").unwrap());
            drop(world.store.drop_database("again").unwrap());
        }
        let (last, created) = world.store.create_database("again").unwrap();
        world.settle(created);
        world.settle(checkpoint);
        world.settle(write(&last, 7, 0, 100));
        let id = last.id();
        let device = world.device.crash();
        drop((kept, last, world));

        let world = World::open(device, 3);
        let names: Vec<_> = world
            .store
            .databases()
            .into_iter()
            .map(|d| d.name)
            .collect();
        assert_eq!(names, ["again", &name(0)], "after {turns} turns");
        let again = world.store.database("again").unwrap();
        assert_eq!(again.id(), id, "after {turns} turns");
        check(&again, 7, 100);
        let next = world.create(2).pop().unwrap();
        assert!(next.id() > id, "after {turns} turns");
    }
}

#[test]
fn dropped_databases_are_gone_and_their_files_soon() {
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    let world = World::open(SimDevice::new(4, sim), 2);
    let databases = world.create(DATABASES);
    for (number, database) in databases.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
        world.settle(write(database, number, 0, POINTS));
    }
    world.settle(world.store.checkpoint());
    let volumes_of_the_kept = world.volumes();
    for (number, database) in databases.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        world.settle(write(database, number, 0, POINTS));
    }
    world.settle(world.store.checkpoint());
    let (volumes, allocated, memory) = (world.volumes(), world.allocated(), world.memory());
    assert!(volumes.len() >= volumes_of_the_kept.len() + DATABASES / 2);
    let last_id = databases.iter().map(Database::id).max().unwrap();

    for number in (0..DATABASES).step_by(2) {
        let ended = world.store.drop_database(&name(number)).unwrap();
        assert!(
            world.store.database(&name(number)).is_none(),
            "gone at once"
        );
        assert!(databases[number].is_dropped());
        world.settle(ended);
    }
    assert_eq!(world.store.databases().len(), DATABASES / 2);
    drop(databases);
    // Two checkpoints: after the first, the older of the two superblocks still names the files.
    for round in 0..2 {
        let writes = world.store.database(&name(1)).unwrap();
        world.settle(write(&writes, 1, 0, 1));
        world.settle(world.store.checkpoint());
        println!(
            "after checkpoint {round}: {} volumes",
            world.volumes().len()
        );
    }
    for _ in 0..50 {
        world.store.drive();
        world.clock.advance_ns(1_000_000);
    }
    assert_eq!(world.volumes(), volumes_of_the_kept);
    println!(
        "{} of {} KiB and {} of {} KiB of memory are left",
        world.allocated() >> 10,
        allocated >> 10,
        world.memory() >> 10,
        memory >> 10
    );
    assert!(world.allocated() < allocated * 6 / 10);
    assert!(world.memory() < memory);

    // A power cut may bring removed files back: they are still listed, and go again after two checkpoints.
    let device = world.device.crash();
    drop(world);
    let world = World::open(device, 3);
    for _ in 0..2 {
        let writes = world.store.database(&name(1)).unwrap();
        world.settle(write(&writes, 1, 0, 1));
        world.settle(world.store.checkpoint());
    }
    for _ in 0..50 {
        world.store.drive();
        world.clock.advance_ns(1_000_000);
    }
    assert_eq!(world.store.databases().len(), DATABASES / 2);
    for number in 0..DATABASES {
        let database = world.store.database(&name(number));
        assert_eq!(database.is_some(), number % 2 == 1);
        if let Some(database) = database {
            check(&database, number, POINTS);
        }
    }
    let (again, created) = world.store.create_database(&name(0)).unwrap();
    world.settle(created);
    assert!(again.id() > last_id, "ids are not given twice");
    assert!(
        again
            .snapshot()
            .select(&Selector::default())
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.volumes(), volumes_of_the_kept);
}
