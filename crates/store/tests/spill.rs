//! Series that leave memory answer as if they had stayed: writes, late writes, reads, deletes, merges, checkpoints and
//! openings in any order against the naive model, with memory always short, never, and now and then.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium_io::{HeapUse, IoError, Layer, MemoryDevice, Read};
use alluvium_sim::SimClock;
use alluvium_store::{
    Age, CLOCK_JUMP_MAX_NS, Clock, Database, Device, Durability, HeapProbe, KeepAggregates,
    Retention, Selector, Store, StoreConfig, WriteError,
};
use alluvium_types::{ByteCount, SeriesKey, TimeRange, Value, ValueRef};
use model::{Dice, Line, Model, Removal, check_reads, late_batch, read_all, same, write};
use parking_lot::Mutex;

/// Simulated time of one drive.
const DRIVE_NS: u64 = 2_000_000;

struct World {
    device: Arc<MemoryDevice>,
    clock: Arc<SimClock>,
    config: StoreConfig,
    store: Store,
    database: Database,
    spilled: u64,
    recalled: u64,
    left: u64,
    parted: u64,
    joined: u64,
}

fn config() -> StoreConfig {
    StoreConfig {
        shards: 2,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        late_points_max: 40,
        merge_runs_max: 2,
        merge_late_points: 50,
        merge_quiet_ms: 10,
        merge_pages_per_s: 1 << 40,
        tail_chain_max: 3,
        space_check_ms: 1,
        space_dead_percent: 1,
        space_readers_ms: 0,
        memory_bytes: 64 << 20,
        govern_ms: 1,
        spill_round_ms: 0,
        durability: Durability::Os,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

impl World {
    fn new(config: StoreConfig) -> Self {
        let device = Arc::new(MemoryDevice::new(3));
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let store = open(&device, &clock, &config);
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        Self {
            device,
            clock,
            config,
            store,
            database,
            spilled: 0,
            recalled: 0,
            left: 0,
            parted: 0,
            joined: 0,
        }
    }

    fn drive(&self, turns: u64) {
        for _ in 0..turns {
            self.store.drive();
            self.clock.advance_ns(DRIVE_NS);
        }
    }

    /// With the log to redo, or closed.
    fn reopen(&mut self, clean: bool) {
        let governor = self.store.status().governor;
        self.spilled += governor.spilled;
        self.recalled += governor.recalled;
        self.parted += governor.parted;
        self.joined += governor.joined;
        if clean {
            self.store.close().unwrap();
        } else {
            self.drive(4);
        }
        self.store = open(&self.device, &self.clock, &self.config);
        self.database = self.store.database("db").unwrap();
        self.left += self.store.recovery().series_left;
    }
}

fn open(device: &Arc<MemoryDevice>, clock: &Arc<SimClock>, config: &StoreConfig) -> Store {
    let device: Arc<dyn Device> = Arc::<MemoryDevice>::clone(device);
    let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(clock);
    Store::open(device, clock, config.clone()).unwrap()
}

/// Runs one history. Returns how many series left, came back, were left away by openings, were left with a newer part,
/// and were made whole.
fn history(seed: u64, config: StoreConfig) -> [u64; 5] {
    let mut dice = Dice(seed | 1);
    let mut world = World::new(config);
    let mut model = Model::default();
    let mut now = 1_000_000;
    for _ in 0..120 {
        let lines = 1 + dice.below(120);
        // Few of many hosts at a time, so that others fall idle.
        let mut batch = late_batch(&mut dice, &mut now, 4, lines);
        let first = dice.below(12) as u32;
        for line in &mut batch {
            line.host += first;
        }
        write(&world.database, &batch, None).unwrap();
        model.apply(&batch);
        world.drive(dice.below(12));
        match dice.below(12) {
            0 | 1 => {
                let commit = world.store.checkpoint();
                commit.wait().unwrap();
                world.drive(6);
            }
            2 => {
                let removal = Removal::random(&mut dice, now, 16);
                world.database.delete(&removal.request()).unwrap();
                model.remove(&removal);
            }
            3 => world.reopen(dice.below(2) == 0),
            4 => check_reads(&world.database, &model, &mut dice),
            5 => same(&model, &read_all(&world.database)).unwrap(),
            6 => {
                // Memory is short for a while, then not.
                world.config.memory_soft_percent = if dice.below(2) == 0 { 0 } else { 75 };
                world.reopen(true);
            }
            _ => {}
        }
    }
    world.reopen(false);
    same(&model, &read_all(&world.database)).unwrap();
    let status = world.store.status();
    assert_eq!(status.merging.last_error, None);
    assert_eq!(status.space.last_error, None);
    [
        world.spilled,
        world.recalled,
        world.left,
        world.parted,
        world.joined,
    ]
}

#[test]
fn series_that_come_and_go_answer_as_the_model() {
    let mut sums = [0; 5];
    for seed in 1..=24 {
        let tight = StoreConfig {
            memory_soft_percent: 0,
            part_bytes_min: if seed % 2 == 0 { 0 } else { 128 },
            ..config()
        };
        let of_one = history(seed, tight);
        for (sum, n) in sums.iter_mut().zip(of_one) {
            *sum += n;
        }
    }
    let [spilled, recalled, left, parted, joined] = sums;
    assert!(
        spilled > 1000 && recalled > 500 && left > 100 && parted > 1000 && joined > 200,
        "{spilled} left memory, {recalled} came back, {left} stayed away at openings, {parted} had a newer part, \
         {joined} were joined"
    );
}

#[test]
fn series_that_openings_leave_answer_as_the_model() {
    let (mut recalled, mut left) = (0, 0);
    for seed in 1..=12 {
        let of_one = history(
            seed,
            StoreConfig {
                open_load_bytes_max: 0,
                recall_percent: if seed % 2 == 0 { 0 } else { 25 },
                ..config()
            },
        );
        recalled += of_one[1];
        left += of_one[2];
    }
    assert!(
        recalled > 500 && left > 500,
        "{recalled} came back, {left} stayed away at openings"
    );
}

/// What is to happen behind a read.
type Then = Box<dyn FnOnce() + Send>;

/// A directory in memory in which something happens while the next read waits.
struct Interrupted {
    disk: MemoryDevice,
    then: Mutex<Option<Then>>,
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupted")
    }
}

impl Layer for Interrupted {
    fn behind(&self) -> &dyn Device {
        &self.disk
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        let result = self.disk.read(reads);
        let then = self.then.lock().take();
        if let Some(then) = then {
            then();
        }
        result
    }
}

/// A writer reads the record of a series. Before it can take its place another one has brought the series back, written to it, and a
/// checkpoint let it go again: what the first one has read is old.
#[test]
fn a_series_that_changes_while_its_record_is_read_keeps_the_change() {
    let device = Arc::new(Interrupted {
        disk: MemoryDevice::new(3),
        then: Mutex::default(),
    });
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let tight = StoreConfig {
        memory_soft_percent: 0,
        ..config()
    };
    let of_store: Arc<dyn Device> = Arc::<Interrupted>::clone(&device);
    let store = Store::open(of_store, Arc::<SimClock>::clone(&clock), tight).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    // So many that the series is read, and not left with a newer part.
    let lines = [0, 100, 200].map(|from| {
        let times = (from..from + 20).map(|time| Line {
            host: 1,
            time,
            fields: vec![("f", Value::F64(time as f64))],
        });
        times.collect::<Vec<_>>()
    });
    let write_and_leave = {
        let (store, database) = (store.clone(), database.clone());
        move |lines: &[Line]| {
            write(&database, lines, None).unwrap();
            store.checkpoint().wait().unwrap();
            let mut turns = 0;
            while store.status().governor.series_away == 0 {
                store.drive();
                clock.advance_ns(DRIVE_NS);
                turns += 1;
                assert!(turns < 1000, "the series stays");
            }
        }
    };
    write_and_leave(&lines[0]);
    let second = lines[1].clone();
    *device.then.lock() = Some(Box::new(move || write_and_leave(&second)));
    write(&database, &lines[2], None).unwrap();
    assert!(device.then.lock().is_none(), "no record was read");
    let mut model = Model::default();
    lines.iter().for_each(|lines| model.apply(lines));
    same(&model, &read_all(&database)).unwrap();
}

#[test]
fn what_an_opening_leaves_comes_back_by_and_by() {
    const SERIES: u32 = 20_000;
    let mut world = World::new(StoreConfig {
        open_load_bytes_max: 0,
        index_silent_days: 0,
        ..config()
    });
    // So late that the governor's first turn begins at once; what it meets has just come back.
    world
        .clock
        .advance_ns(4 * world.config.spill_idle_ms * 1_000_000);
    touch(&world.database, 0, SERIES, 1).unwrap();
    world.store.checkpoint().wait().unwrap();
    // In two files, and some of them redone.
    touch(&world.database, 0, 500, 2).unwrap();
    world.store.checkpoint().wait().unwrap();
    touch(&world.database, 100, 50, 3).unwrap();
    let counts = |world: &World| {
        let governor = world.store.status().governor;
        (governor.series_away, governor.recalled)
    };
    for (percent, clean) in [(0, false), (0, true), (25, true)] {
        world.config.recall_percent = percent;
        world.reopen(clean);
        let redone = if clean { 0 } else { 50 };
        let left = u64::from(SERIES) - redone;
        assert_eq!(world.store.recovery().series_left, u64::from(SERIES));
        assert_eq!(counts(&world), (left, redone));
        if percent == 0 {
            world.drive(50);
            assert_eq!(counts(&world), (left, redone), "nobody asked for them");
            let snapshot = world.database.snapshot();
            let all = snapshot.select(&Selector::default()).unwrap();
            snapshot.prepare(&all);
            assert_eq!(counts(&world), (0, u64::from(SERIES)));
        } else {
            // The clock of the world stands still while a piece is read, so all of them are due at once.
            world.drive(50);
            assert_eq!(counts(&world), (0, left));
        }
        let all = read_all(&world.database);
        assert_eq!(all.series.len(), SERIES as usize);
        assert_eq!(
            all.series.values().map(BTreeMap::len).sum::<usize>(),
            SERIES as usize + 550
        );
    }
}

#[test]
fn an_opening_leaves_silent_series_where_they_are() {
    let mut world = World::new(StoreConfig {
        open_load_bytes_max: 0,
        ..config()
    });
    let now = world.clock.wall_ns();
    touch(&world.database, 0, 1000, now - 30 * 86_400_000_000_000).unwrap();
    touch(&world.database, 1000, 1000, now).unwrap();
    world.store.checkpoint().wait().unwrap();
    world.reopen(true);
    let away = |world: &World| world.store.status().governor.series_away;
    assert_eq!(away(&world), 2000);
    world.drive(50);
    assert_eq!(away(&world), 1000, "those with points of this day are back");
    // Asked for, they come.
    assert_eq!(read_all(&world.database).series.len(), 2000);
}

#[test]
fn a_checkpoint_may_move_what_is_coming_back() {
    // Nothing comes back but while memory is roomy.
    let mut world = World::new(StoreConfig {
        open_load_bytes_max: 0,
        tail_chain_max: 1,
        index_silent_days: 0,
        ..config()
    });
    touch(&world.database, 0, 20_000, 1).unwrap();
    world.reopen(true);
    // One drive brings one piece back; each checkpoint writes all anew.
    for time in 2..6 {
        world.store.drive();
        touch(&world.database, 0, 10, time).unwrap();
        let commit = world.store.checkpoint();
        commit.wait().unwrap();
    }
    world.drive(50);
    let status = world.store.status();
    assert_eq!(status.governor.series_away, 0);
    assert_eq!(read_all(&world.database).series.len(), 20_000);
}

#[test]
fn writers_and_readers_meet_series_on_their_way() {
    const HOSTS: u64 = 300;
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let config = StoreConfig {
        memory_soft_percent: 0,
        // Every checkpoint moves every record.
        tail_chain_max: 1,
        merge_quiet_ms: 1,
        ..config()
    };
    let clock = Arc::new(alluvium_store::SystemClock);
    let store = Store::open(device, clock, config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let stop = AtomicBool::new(false);
    let writers = std::thread::scope(|scope| {
        scope.spawn(|| store.pump(&stop));
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                read_all(&database);
            }
        });
        let writers: Vec<_> = (0..2_u32)
            .map(|own| {
                let (database, store) = (&database, &store);
                scope.spawn(move || {
                    let mut dice = Dice(u64::from(own) + 7);
                    let mut model = Model::default();
                    for n in 0..400 {
                        // Times of its own: what both write is the union.
                        let time = i64::from(n * 2 + own) + 1;
                        let line = |host: u64| Line {
                            host: host as u32,
                            time,
                            fields: vec![("f", Value::F64(time as f64))],
                        };
                        let batch: Vec<Line> = (0..6).map(|_| line(dice.below(HOSTS))).collect();
                        let mut attempts = 0;
                        while let Err(error) = write(database, &batch, None) {
                            attempts += 1;
                            assert!(attempts < 1000, "{error}");
                        }
                        model.apply(&batch);
                        if n % 5 == 0 {
                            store.checkpoint().wait().unwrap();
                        }
                    }
                    model
                })
            })
            .collect();
        let models: Vec<Model> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        stop.store(true, Ordering::Release);
        store.wake();
        reader.join().unwrap();
        models
    });
    let mut model = Model::default();
    for one in writers {
        for (name, points) in one.series {
            model.series.entry(name).or_default().extend(points);
        }
    }
    same(&model, &read_all(&database)).unwrap();
    let governor = store.status().governor;
    assert!(
        governor.spilled > 200 && governor.parted > 200,
        "{governor:?}"
    );
}

/// Writes one point to each of so many series from `first` on.
fn touch(database: &Database, first: u32, count: u32, time: i64) -> Result<(), WriteError> {
    let mut writer = database.writer();
    for host in first..first + count {
        let key = SeriesKey::new("m", [("host", format!("h{host}"))]).unwrap();
        let row = writer.resolve(format!("m,host=h{host}").as_bytes(), key);
        writer.begin_line(row, time).unwrap();
        writer.field("f", ValueRef::F64(f64::from(host))).unwrap();
        writer.end_line().unwrap();
    }
    writer.commit(None).map(drop)
}

#[test]
fn what_was_begun_and_not_written_leaves_again() {
    let mut world = World::new(StoreConfig {
        memory_soft_percent: 0,
        part_bytes_min: 0,
        ..config()
    });
    let line = |time: i64, fields: &[&'static str]| {
        let fields = fields.iter().map(|f| (*f, Value::F64(time as f64)));
        let fields: Vec<_> = fields.collect();
        let line = |host| Line {
            host,
            time,
            fields: fields.clone(),
        };
        (0..50).map(line).collect::<Vec<_>>()
    };
    let mut model = Model::default();
    for time in 1..6 {
        let fields: &[_] = if time == 1 { &["f", "g"] } else { &["f"] };
        let batch = line(time, fields);
        write(&world.database, &batch, None).unwrap();
        model.apply(&batch);
        let before = world.store.status().governor;
        assert_eq!(before.series_away, 0, "{before:?}");
        assert_eq!(before.series_parted, if time == 1 { 0 } else { 100 });
        same(&model, &read_all(&world.database)).unwrap();
        world.store.checkpoint().wait().unwrap();
        world.drive(50);
        let after = world.store.status().governor;
        assert_eq!((after.series_away, after.series_parted), (100, 0));
        same(&model, &read_all(&world.database)).unwrap();
    }
    world.reopen(false);
    same(&model, &read_all(&world.database)).unwrap();
}

#[test]
fn series_that_fall_silent_leave_memory_and_come_back() {
    let mut world = World::new(StoreConfig {
        spill_idle_ms: 1000,
        ..config()
    });
    touch(&world.database, 0, 2000, 1).unwrap();
    world.store.checkpoint().wait().unwrap();
    let before = world.store.status();
    assert_eq!(before.governor.series_away, 0);
    world.drive(2000);
    touch(&world.database, 0, 10, 2).unwrap();
    let after = world.store.status();
    assert_eq!(after.governor.series_away, 1990);
    let tails = |s: &alluvium_store::Status| -> ByteCount {
        let of = s.memory.iter().find(|(name, _)| *name == "open_tails");
        of.unwrap().1
    };
    assert!(tails(&after).0 * 5 < tails(&before).0, "{after:?}");
    world.reopen(false);
    let all = read_all(&world.database);
    assert_eq!(all.series.len(), 2000);
    assert_eq!(all.series.values().map(BTreeMap::len).sum::<usize>(), 2010);
}

/// Series of which all points have expired: neither in memory, nor after an opening, nor in a tails file, and back when they
/// are written to.
#[test]
fn series_without_points_leave_memory_and_come_back() {
    let mut world = World::new(StoreConfig {
        spill_idle_ms: 1000,
        retention_check_ms: 1,
        ..config()
    });
    let day = CLOCK_JUMP_MAX_NS;
    let kept = Retention {
        points: Some(Age::from_ns(day)),
        aggregates: KeepAggregates::Same,
        ..Retention::default()
    };
    world
        .store
        .set_retention("db", kept)
        .unwrap()
        .wait()
        .unwrap();
    let tails = |world: &World| {
        let status = world.store.status();
        let of = status.memory.iter().find(|(name, _)| *name == "open_tails");
        (status.governor.series_away, of.unwrap().1.0)
    };
    let counts = |world: &World| {
        let all = read_all(&world.database);
        all.series.values().map(BTreeMap::len).sum::<usize>()
    };
    let begin = world.clock.wall_ns();
    touch(&world.database, 0, 3000, begin).unwrap();
    touch(&world.database, 1000, 1000, begin + 1).unwrap();
    assert_eq!(counts(&world), 4000);
    for _ in 0..4 {
        world.clock.advance_ns(day as u64 / 2 + 1);
        world.drive(1500);
    }
    assert_eq!(counts(&world), 0);
    world.store.checkpoint().wait().unwrap();
    world.drive(2000);
    let (away, bytes) = tails(&world);
    assert_eq!(away, 3000);
    assert!(bytes < 3000 * 8, "{bytes} bytes");
    for round in 0..4 {
        world.reopen(round % 2 == 0);
        // Those that were written as empty since the last checkpoint of everything are in memory until they are idle.
        world.drive(2000);
        let (away, bytes) = tails(&world);
        assert!(away >= 3000 - 10 * round, "{away} series away");
        assert!(bytes < 3000 * 8 + 10 * 400 * round, "{bytes} bytes");
        let now = world.clock.wall_ns();
        touch(&world.database, 10 * round as u32, 10, now).unwrap();
        assert_eq!(counts(&world), 10 * (round as usize + 1));
    }
    let removal = Removal {
        hosts: Some((40..50).collect()),
        field: None,
        range: TimeRange::ALL,
        above: None,
    };
    world.database.delete(&removal.request()).unwrap();
    world.store.checkpoint().wait().unwrap();
    world.drive(50);
    let now = world.clock.wall_ns();
    touch(&world.database, 40, 2, now).unwrap();
    assert_eq!(counts(&world), 42);
    world.reopen(false);
    assert_eq!(counts(&world), 42);
}

#[test]
fn many_series_fit_a_small_budget_in_rounds_and_so_does_an_opening() {
    let mut world = World::new(StoreConfig {
        memory_bytes: 3 << 20,
        cache_percent: 4,
        index_cache_bytes: 64 << 10,
        late_window_bytes: 0,
        ..config()
    });
    let (series, batch) = (24_000, 500);
    for round in 0..3 {
        for first in (0..series).step_by(batch as usize) {
            let mut attempts = 0;
            while let Err(error) = touch(&world.database, first, batch, round) {
                assert!(
                    matches!(error, WriteError::Memory(_) | WriteError::NewSeries(_)),
                    "{error}"
                );
                attempts += 1;
                assert!(attempts < 10_000, "{error}: {:?}", world.store.status());
                world.drive(1);
            }
            world.drive(2);
            let status = world.store.status();
            let used: u64 = status.memory.iter().map(|(_, bytes)| bytes.0).sum();
            // One batch may pass it: it is asked before.
            assert!(
                used < status.memory_limit.0 + (1 << 19),
                "{:?}",
                status.memory
            );
        }
        world.reopen(round == 1);
        let status = world.store.status();
        let used: u64 = status.memory.iter().map(|(_, bytes)| bytes.0).sum();
        assert!(used < status.memory_limit.0, "{:?}", status.memory);
        let away = status.governor.series_away;
        assert!(away > u64::from(series) / 2, "{away}: {:?}", status.memory);
    }
    let all = read_all(&world.database);
    assert_eq!(all.series.len(), series as usize);
    assert!(all.series.values().all(|points| points.len() == 3));
}

static FREE_BYTES: AtomicU64 = AtomicU64::new(0);
static TRIMS: AtomicU64 = AtomicU64::new(0);

/// What lies free on the heap goes back to the system when it is a sixteenth of what is used, and what went back, which the
/// allocator still counts as free, is not tried again.
#[test]
fn a_heap_with_holes_is_trimmed_once() {
    let probe = HeapProbe {
        used: || {
            Some(HeapUse {
                live: 800 << 20,
                free: FREE_BYTES.load(Ordering::Relaxed),
            })
        },
        trim: || {
            TRIMS.fetch_add(1, Ordering::Relaxed);
        },
    };
    let world = World::new(StoreConfig {
        heap: Some(probe),
        memory_bytes: 8 << 30,
        ..config()
    });
    for (free_mb, trims) in [
        (0, 0),
        (49, 0),
        (51, 1),
        (90, 1),
        // All of it used again, and freed again.
        (10, 1),
        (59, 1),
        (61, 2),
        (400, 3),
    ] {
        FREE_BYTES.store(free_mb << 20, Ordering::Relaxed);
        world.drive(3000);
        assert_eq!(TRIMS.load(Ordering::Relaxed), trims, "{free_mb} MiB free");
    }
}
