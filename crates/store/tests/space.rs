//! Room comes back: most of a database is deleted, in several patterns, or merged again and again, and what it takes on
//! a real file system falls under the bound of `docs/adr/0013-space.md`, while answers stay right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_io::{DeviceOptions, MemoryDevice};
use alluvium_sim::{FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{Commit, Database, Device, Store, StoreConfig, WriteError};
use alluvium_types::{TimeRange, Value};
use model::{Dice, Line, Model, Removal, check_reads, read_all, same, write};

const SHARDS: u64 = 2;
const EXTENT_PAGES: u64 = 4;
const HOSTS: u32 = 12;
const TIMES: i64 = 20_000;

fn config() -> StoreConfig {
    StoreConfig {
        shards: SHARDS as usize,
        volume_bytes: 256 << 10,
        extent_pages: EXTENT_PAGES as u32,
        segment_bytes: 1 << 20,
        late_points_max: 100,
        merge_runs_max: 2,
        merge_late_points: 100,
        merge_quiet_ms: 1,
        merge_pages_per_s: 1 << 20,
        space_check_ms: 1,
        space_hole_pages_min: 4,
        cache_percent: 1,
        memory_bytes: 64 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

/// A store in a directory of its own, and a clock that moves when it is driven.
struct World {
    dir: tempfile::TempDir,
    clock: Arc<SimClock>,
    device: Arc<dyn Device>,
    store: Store,
    database: Database,
}

impl World {
    fn new(config: StoreConfig) -> Self {
        // Beside the build, which is on a disk; the system's temporary directory may be memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let lanes = SHARDS as usize + 1;
        let options = DeviceOptions {
            lanes,
            ..DeviceOptions::default()
        };
        let device = alluvium_io::open(dir.path(), &options).unwrap();
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let shared: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&clock);
        let store = Store::open(Arc::clone(&device), shared, config).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        Self {
            dir,
            clock,
            device,
            store,
            database,
        }
    }

    fn reopen(self) -> Self {
        let Self {
            dir,
            clock,
            store,
            device,
            database,
        } = self;
        drop((database, store, device));
        let options = DeviceOptions {
            lanes: SHARDS as usize + 1,
            ..DeviceOptions::default()
        };
        let device = alluvium_io::open(dir.path(), &options).unwrap();
        let shared: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&clock);
        let store = Store::open(Arc::clone(&device), shared, config()).unwrap();
        let database = store.database("db").unwrap();
        Self {
            dir,
            clock,
            device,
            store,
            database,
        }
    }

    /// Until nothing is owed.
    fn settle(&self) {
        let mut quiet = 0;
        for turn in 0.. {
            let moved = self.store.drive();
            self.clock.advance_ns(1_000_000);
            if !moved {
                self.device.wait(std::time::Duration::from_micros(50));
            }
            let status = self.store.status();
            let tombstones: u64 = status.databases.iter().map(|d| d.tombstones).sum();
            if tombstones > 0 && turn % 500 == 0 {
                drop(self.store.checkpoint());
            }
            let idle = tombstones == 0
                && status.merging.series_waiting == 0
                && !status.space.is_working
                && status.space.pages_settling == 0
                && status.pages_pending == 0;
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet > 300 {
                break;
            }
            assert!(turn < 2_000_000, "{:?} {:?}", status.space, status.merging);
        }
        let status = self.store.status();
        assert_eq!((status.merging.failed, status.space.failed), (0, 0));
        assert!(status.failure.is_none());
    }

    /// Bytes of blocks of its volumes, as the file system counts them.
    fn blocks(&self) -> u64 {
        blocks(&self.dir.path().join("vol"))
    }
}

fn blocks(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    // One may be removed meanwhile.
    let blocks = files.filter_map(|f| Some(f.ok()?.metadata().ok()?.blocks() * 512));
    blocks.sum()
}

/// A store on a simulated disk.
struct SimWorld {
    clock: Arc<SimClock>,
    device: Arc<SimDevice>,
    config: StoreConfig,
}

impl SimWorld {
    fn new(seed: u64, config: StoreConfig) -> Self {
        let sim = SimConfig {
            lanes: SHARDS as usize + 1,
            ..SimConfig::default()
        };
        Self {
            clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
            device: SimDevice::new(seed, sim),
            config,
        }
    }

    fn killed(self) -> Self {
        let device = self.device.kill();
        Self { device, ..self }
    }

    fn crashed(self) -> Self {
        let device = self.device.crash();
        Self { device, ..self }
    }

    fn open(&self) -> Store {
        let device: Arc<dyn Device> = Arc::<SimDevice>::clone(&self.device);
        let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&self.clock);
        Store::open(device, clock, self.config.clone()).unwrap()
    }

    fn create(&self, store: &Store) -> Database {
        let (database, created) = store.create_database("db").unwrap();
        self.wait(store, created);
        database
    }

    fn drive(&self, store: &Store, turns: u32) {
        for _ in 0..turns {
            store.drive();
            self.clock.advance_ns(1_000_000);
        }
    }

    fn wait(&self, store: &Store, mut commit: Commit) {
        for _ in 0..200_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                return drop(result.unwrap());
            }
            self.drive(store, 1);
        }
        panic!("a commit neither ended nor failed: {:?}", store.status());
    }
}

/// Values that hardly compress.
fn line(host: u32, time: i64, dice: &mut Dice) -> Line {
    let fraction = dice.roll() as f64 / 3e15;
    Line {
        host,
        time,
        fields: vec![("f", Value::F64(fraction))],
    }
}

fn fill(world: &World, dice: &mut Dice) -> Model {
    let mut model = Model::default();
    for begin in (0..TIMES).step_by(200) {
        let times = begin..begin + 200;
        let lines: Vec<Line> = times
            .flat_map(|time| (0..HOSTS).map(move |host| (host, time)))
            .map(|(host, time)| line(host, time * 10, dice))
            .collect();
        write(&world.database, &lines, None)
            .unwrap()
            .wait()
            .unwrap();
        model.apply(&lines);
    }
    model
}

fn delete(world: &World, model: &mut Model, hosts: Option<Vec<u32>>, range: TimeRange) {
    let removal = Removal {
        hosts,
        field: None,
        range,
        above: None,
    };
    let deleted = world.database.delete(&removal.request()).unwrap();
    deleted.commit.wait().unwrap();
    model.remove(&removal);
}

/// What the same points take in a store that never knew others.
fn fresh(model: &Model) -> u64 {
    let world = World::new(config());
    let mut lines = Vec::new();
    for ((host, _, _), points) in &model.series {
        for (time, value) in points {
            lines.push(Line {
                host: *host,
                time: *time,
                fields: vec![("f", value.clone())],
            });
        }
    }
    for lines in lines.chunks(5000) {
        write(&world.database, lines, None).unwrap().wait().unwrap();
    }
    world.store.checkpoint().wait().unwrap();
    world.blocks()
}

/// Checks the bound and the answers; after a restart, too.
fn check(name: &str, world: World, model: &Model, before: u64) {
    world.settle();
    let (live, after) = (fresh(model), world.blocks());
    let slack = 3 * (SHARDS + 1) * EXTENT_PAGES * 4096;
    let status = world.store.status();
    println!(
        "{name}: {before} bytes before, {after} after, {live} in a new store, slack {slack}; {:?}",
        status.space
    );
    assert!(
        after <= 4 * live + slack,
        "{name}: {after} bytes are left of {before}, and {live} live: {:?}",
        status.space
    );
    let counted = status.databases[0].allocated.0;
    assert!(
        counted <= after && after <= counted + (64 << 10) + counted / 8,
        "{name}: {counted} bytes counted, {after} there"
    );
    same(&read_all(&world.database), model).unwrap();
    check_reads(&world.database, model, &mut Dice(7));
    let world = world.reopen();
    same(&read_all(&world.database), model).unwrap();
    world.settle();
    assert!(world.blocks() <= 4 * live + slack);
    same(&read_all(&world.database), model).unwrap();
}

#[test]
fn whole_series() {
    let world = World::new(config());
    let mut model = fill(&world, &mut Dice(1));
    let before = world.blocks();
    delete(
        &world,
        &mut model,
        Some((1..HOSTS).collect()),
        TimeRange::ALL,
    );
    check("whole series", world, &model, before);
}

#[test]
fn nine_of_ten_hours() {
    let world = World::new(config());
    let mut model = fill(&world, &mut Dice(2));
    let before = world.blocks();
    for hour in (0..TIMES * 10).step_by(4000) {
        let range = TimeRange::new(hour, hour + 3600).unwrap();
        delete(&world, &mut model, None, range);
    }
    check("nine of ten hours", world, &model, before);
}

#[test]
fn at_random() {
    let world = World::new(config());
    let mut dice = Dice(3);
    let mut model = fill(&world, &mut dice);
    let before = world.blocks();
    let points = |m: &Model| {
        m.series
            .values()
            .map(std::collections::BTreeMap::len)
            .sum::<usize>()
    };
    let all = points(&model);
    while points(&model) > all / 10 {
        let begin = dice.below(TIMES as u64 * 10) as i64;
        let range = TimeRange::new(begin, begin + 500 + dice.below(8000) as i64).unwrap();
        let hosts = vec![
            dice.below(HOSTS.into()) as u32,
            dice.below(HOSTS.into()) as u32,
        ];
        delete(&world, &mut model, Some(hosts), range);
    }
    check("at random", world, &model, before);
}

/// No delete, no retention: late points alone leave volumes behind of which nothing lives.
#[test]
fn merges_alone_free_volumes() {
    let world = World::new(config());
    let mut dice = Dice(4);
    let mut model = fill(&world, &mut dice);
    for _ in 0..12 {
        let lines: Vec<Line> = (0..1200)
            .map(|_| {
                let (host, time) = (dice.below(HOSTS.into()), dice.below(TIMES as u64 * 10));
                line(host as u32, time as i64, &mut dice)
            })
            .collect();
        write(&world.database, &lines, None)
            .unwrap()
            .wait()
            .unwrap();
        model.apply(&lines);
        world.settle();
    }
    let space = world.store.status().space;
    assert!(space.volumes_freed > 3, "{space:?}");
    let before = world.store.status().merging.pages_written * 4096;
    check("merges alone", world, &model, before);
}

/// Neither superblock leads to what was given back: with either slot lost, the other one opens and answers.
#[test]
fn both_superblocks_are_past_what_is_given_back() {
    const SLOT_STRIDE: u64 = 1 << 20;
    for (seed, slot) in (1..5).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let sim = SimWorld::new(seed, config());
        let store = sim.open();
        let database = sim.create(&store);
        let mut dice = Dice(seed + 9);
        let mut model = Model::default();
        let mut times: Vec<i64> = (0..TIMES * 2).collect();
        let mut given_back = 0;
        // What merges leave behind: no redo would hide it.
        for round in 0..=seed {
            let lines: Vec<Line> = times
                .drain(..)
                .map(|time| line(dice.below(4) as u32, time, &mut dice))
                .collect();
            let commit = write(&database, &lines, None).unwrap();
            sim.wait(&store, commit);
            model.apply(&lines);
            times.extend((0..800).map(|_| dice.below(TIMES as u64 * 2) as i64));
            let mut turns = 0;
            while round > 0 && store.status().space.pages_given_back == given_back {
                sim.drive(&store, 1);
                turns += 1;
                assert!(turns < 500_000, "{:?}", store.status().space);
            }
            given_back = store.status().space.pages_given_back;
        }
        assert!(given_back > 0);
        drop((database, store));
        let sim = sim.killed();
        assert!(
            sim.device
                .flip_bit("superblock", slot * SLOT_STRIDE + 100, 3)
        );
        let store = sim.open();
        same(&read_all(&store.database("db").unwrap()), &model).unwrap();
    }
}

/// A file system without holes gives back whole volumes, which are left for that.
#[test]
fn volumes_are_left_where_there_are_no_holes() {
    let world = World::new(StoreConfig {
        // No stretch of dead pages is that long.
        space_hole_pages_min: u32::MAX,
        ..config()
    });
    let mut model = fill(&world, &mut Dice(5));
    let before = world.blocks();
    for host in 0..HOSTS {
        if host % 6 > 0 {
            delete(&world, &mut model, Some(vec![host]), TimeRange::ALL);
        }
    }
    world.settle();
    let space = world.store.status().space;
    assert!(
        space.volumes_left > 3 && space.volumes_freed > 3,
        "{space:?}"
    );
    check("without holes", world, &model, before);
}

/// A query that began before its pages died gets its answer, however long it takes, up to a limit; behind that an error
/// that says what to do, and never less than there was.
#[test]
fn long_queries_get_all_or_are_told() {
    for limit_ms in [1_000_000_000, 1] {
        let world = World::new(StoreConfig {
            space_readers_ms: limit_ms,
            ..config()
        });
        let mut model = fill(&world, &mut Dice(6));
        let snapshot = world.database.snapshot();
        let all = snapshot
            .select(&alluvium_store::Selector::default())
            .unwrap();
        let series: Vec<_> = all.iter().map(|info| snapshot.series(info)).collect();
        drop(snapshot);
        delete(
            &world,
            &mut model,
            Some((1..HOSTS).collect()),
            TimeRange::ALL,
        );
        if limit_ms == 1 {
            world.settle();
        } else {
            // Both superblocks are past them, again and again.
            for turn in 0..8000 {
                if turn % 1000 == 999 {
                    world.store.checkpoint().wait().unwrap();
                }
                world.store.drive();
                world.clock.advance_ns(1_000_000);
            }
            let space = world.store.status().space;
            assert!(space.pages_settling > 0, "{space:?}");
        }
        let mut told = 0;
        for series in &series {
            let mut stats = alluvium_store::ReadStats::default();
            let mut cursor = series.scan(TimeRange::ALL, alluvium_store::Direction::Forward);
            let mut column = alluvium_types::Column::new(series.kind());
            let mut points = 0;
            loop {
                match cursor.next_batch(&mut stats, &mut column) {
                    Ok(true) => points += column.len() as i64,
                    Ok(false) => {
                        assert_eq!(points, TIMES, "less than there was, without a word");
                        break;
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains("written anew while it was read"), "{text}");
                        told += 1;
                        break;
                    }
                }
            }
        }
        assert_eq!(told > 0, limit_ms == 1, "{told} were told");
        assert_eq!(world.store.status().bad_page_reads, 0);
        drop(series);
        world.settle();
        same(&read_all(&world.database), &model).unwrap();
    }
}

/// On a disk that is full to the last block a delete is taken, for the log keeps room for it, reads go on, and what the
/// delete gives back lets writes go on, without anybody's help: the reserve is there for that.
#[test]
fn deletes_make_room_on_a_full_disk() {
    for seed in 1..5 {
        fill_and_delete(seed, 100, 20);
    }
}

/// So they do where what was taken before finds no segment that has room for it.
#[test]
fn deletes_make_room_where_the_log_waits_for_it() {
    let waited: usize = (1..3).map(|seed| fill_and_delete(seed, 500, 0)).sum();
    assert!(waited > 0, "no write ever waited");
}

/// Fills a disk with batches of so many times, so many turns apart. Returns how many writes waited for room when it was full.
fn fill_and_delete(seed: u64, batch_times: i64, turns: u32) -> usize {
    {
        let mut dice = Dice(seed * 77 + 1);
        let sim = SimWorld::new(
            seed,
            StoreConfig {
                // For what waits at the most, and for giving room back.
                reserve_bytes: (512 << 10) + SHARDS * if turns == 0 { 4 << 20 } else { 0 },
                log_backlog_bytes_max: 1 << 20,
                segment_bytes: 256 << 10,
                checkpoint_log_bytes: 256 << 10,
                ..config()
            },
        );
        let store = sim.open();
        let database = sim.create(&store);
        sim.drive(&store, 3000);
        let faults = FaultPlan {
            capacity: Some(if turns == 0 { 16 << 20 } else { 6 << 20 }),
            ..FaultPlan::default()
        };
        sim.device.set_faults(faults);
        let mut model = Model::default();
        let mut now = 0;
        let mut waiting = Vec::new();
        let mut batch = |dice: &mut Dice| {
            now += batch_times;
            let points =
                (now - batch_times..now).flat_map(|time| (0..HOSTS).map(move |host| (host, time)));
            let lines: Vec<Line> = points.map(|(host, time)| line(host, time, dice)).collect();
            lines
        };
        let full = (0..20_000).any(|_| {
            let lines = batch(&mut dice);
            match write(&database, &lines, None) {
                Ok(commit) => {
                    model.apply(&lines);
                    waiting.push(commit);
                    sim.drive(&store, turns);
                    false
                }
                Err(WriteError::Full) => true,
                Err(WriteError::Backlog { .. }) => {
                    sim.drive(&store, 50);
                    false
                }
                Err(error) => panic!("{error}"),
            }
        });
        assert!(full, "the disk never filled");
        let waits = |commit: &mut Commit| commit.poll(Waker::noop()).is_pending();
        let waited = waiting
            .iter_mut()
            .filter_map(|c| waits(c).then_some(()))
            .count();
        // What waits does so for long before anybody makes room.
        sim.drive(&store, 300);
        same(&read_all(&database), &model).unwrap();
        let removal = Removal {
            hosts: Some((2..HOSTS).collect()),
            field: None,
            range: TimeRange::ALL,
            above: None,
        };
        let deleted = database.delete(&removal.request()).unwrap();
        model.remove(&removal);
        same(&read_all(&database), &model).unwrap();
        sim.wait(&store, deleted.commit);
        waiting
            .into_iter()
            .for_each(|commit| sim.wait(&store, commit));
        // By itself.
        let lines = batch(&mut dice);
        let mut commit = None;
        for _ in 0..100_000 {
            sim.drive(&store, 1);
            match write(&database, &lines, None) {
                Ok(taken) => {
                    commit = Some(taken);
                    break;
                }
                Err(error) => {
                    let is_full = matches!(error, WriteError::Full);
                    assert!(store.status().full || !is_full, "{error}");
                }
            }
        }
        let commit = commit.unwrap_or_else(|| panic!("writes stay refused: {:?}", store.status()));
        model.apply(&lines);
        sim.wait(&store, commit);
        assert!(!store.status().full);
        same(&read_all(&database), &model).unwrap();
        drop((database, store));
        let sim = sim.crashed();
        let store = sim.open();
        same(&read_all(&store.database("db").unwrap()), &model).unwrap();
        waited
    }
}

/// Where nothing is deleted nothing is walked through.
#[test]
fn nothing_is_done_for_nothing() {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(SHARDS as usize + 1));
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let shared: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&clock);
    let store = Store::open(device, shared, config()).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut dice = Dice(8);
    for time in 0..300 {
        let lines: Vec<Line> = (0..200)
            .map(|n| line(n % 5, time * 200 + i64::from(n), &mut dice))
            .collect();
        write(&database, &lines, None).unwrap().wait().unwrap();
        store.drive();
        clock.advance_ns(5_000_000);
    }
    assert_eq!(store.status().space.walks, 0);
}
