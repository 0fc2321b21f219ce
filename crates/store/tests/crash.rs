//! Power cuts and kills on the simulated disk: nothing acknowledged is lost, changed or invented, also when
//! the recovery itself is cut, and recovering twice gives what recovering once gives.
//!
//! One thread runs all shards. The seed decides batches, checkpoints, the moment and the kind of the end.
//! `ALLUVIUM_SEEDS=from..to` runs others; a failure prints the seed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_sim::{Fault, FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Age, Commit, Database, Durability, KeepAggregates, Retention, Selector, Store, StoreConfig,
    WriteError,
};
use alluvium_types::{TimeRange, Value, ValueKind};
use model::{Dice, Line, Model, Removal, late_batch, read_all, write};

type Key = (u32, String, bool);

const DAY_NS: i64 = 86_400_000_000_000;

/// Every value a point may have after the next restart, `None` where it was deleted, and which must not be missing.
#[derive(Debug, Default)]
struct Oracle {
    history: BTreeMap<Key, BTreeMap<i64, Vec<(usize, Option<Value>)>>>,
    acked: Vec<bool>,
}

impl Oracle {
    fn of(model: &Model) -> Self {
        let mut oracle = Self {
            history: BTreeMap::new(),
            acked: vec![true],
        };
        for (key, points) in &model.series {
            let into = oracle.history.entry(key.clone()).or_default();
            into.extend(points.iter().map(|(t, v)| (*t, vec![(0, Some(v.clone()))])));
        }
        oracle
    }

    fn begin(&mut self, lines: &[Line]) -> usize {
        let number = self.acked.len();
        self.acked.push(false);
        for line in lines {
            for (field, value) in &line.fields {
                let text = matches!(value, Value::Str(_));
                let points = self
                    .history
                    .entry((line.host, (*field).to_owned(), text))
                    .or_default();
                let values = points.entry(line.time).or_default();
                // Of two values of one batch only the later can be seen.
                values.retain(|(n, _)| *n != number);
                values.push((number, Some(value.clone())));
            }
        }
        number
    }

    fn begin_removal(&mut self, removal: &Removal) -> usize {
        let number = self.acked.len();
        self.acked.push(false);
        for ((host, field, _), points) in &mut self.history {
            for (time, values) in points {
                if let Some((_, Some(value))) = values.last()
                    && removal.hits(*host, field, *time, value)
                {
                    values.push((number, None));
                }
            }
        }
        number
    }

    /// `cut`: what is before it has expired.
    fn check(&self, found: &Model, cut: i64) -> Result<(), String> {
        for (key, points) in &found.series {
            let known = self.history.get(key);
            for (time, value) in points {
                if *time < cut {
                    return Err(format!("{key:?} at {time} has expired, {cut} is the cut"));
                }
                let values = known
                    .and_then(|k| k.get(time))
                    .ok_or(format!("{key:?} at {time} was never sent"))?;
                let last_acked = values
                    .iter()
                    .filter(|(n, _)| self.acked[*n])
                    .map(|(n, _)| *n)
                    .max();
                let allowed = values
                    .iter()
                    .filter(|(n, _)| last_acked.is_none_or(|a| *n >= a));
                if !allowed
                    .clone()
                    .any(|(_, v)| v.as_ref().is_some_and(|v| v.as_ref().same(value.as_ref())))
                {
                    return Err(format!(
                        "{key:?} at {time} is {value:?}, sent and acknowledged: {values:?}"
                    ));
                }
            }
        }
        for (key, points) in &self.history {
            for (time, values) in points {
                let last_acked = values.iter().rposition(|(n, _)| self.acked[*n]);
                let must_be_there =
                    last_acked.is_some_and(|at| values[at..].iter().all(|(_, v)| v.is_some()));
                let there = found.series.get(key).is_some_and(|p| p.contains_key(time));
                if must_be_there && !there && *time >= cut {
                    return Err(format!(
                        "{key:?} at {time} was acknowledged and is gone: {values:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 256 << 10,
        extent_pages: 4,
        batch_pages: 3,
        segment_bytes: 256 << 10,
        group_bytes_max: 8 << 10,
        checkpoint_log_bytes: 128 << 10,
        // Buffers that are full soon, and some that the merger empties.
        late_points_max: if shards.is_multiple_of(2) { 8 } else { 60 },
        merge_runs_max: 2,
        merge_late_points: 20,
        merge_quiet_ms: 20,
        merge_slice_pages: 2,
        tail_chain_max: 3,
        memory_bytes: 64 << 20,
        cache_percent: 1,
        retention_check_ms: 5,
        instance: Some([5; 16]),
        // Segments of single rows, merged in twos.
        index_segment_rows: 1,
        index_merge_segments: 2,
        index_merge_rows_max: 64,
        index_cache_bytes: 16 << 10,
        ..StoreConfig::default()
    }
}

struct World {
    dice: Dice,
    clock: Arc<SimClock>,
    device: Arc<SimDevice>,
    oracle: Oracle,
    now: i64,
    power_cut: bool,
    /// Merges that ended, in all lives, and deletes.
    merges: u64,
    deletes: u64,
    /// Hosts that lines are of: more in each life.
    hosts: u64,
    /// Index segments made, and merged.
    seals: u64,
    index_merges: u64,
    retention: Retention,
    /// The furthest cut that was seen: no restart goes behind it.
    cut: i64,
    volumes_freed: u64,
}

impl World {
    fn new(seed: u64, offset_align: u32) -> Self {
        let sim = SimConfig {
            lanes: 5,
            offset_align,
            ..SimConfig::default()
        };
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
            device: SimDevice::new(seed, sim),
            oracle: Oracle::of(&Model::default()),
            now: 1_000_000,
            power_cut: true,
            merges: 0,
            deletes: 0,
            hosts: 0,
            seals: 0,
            index_merges: 0,
            retention: Retention::default(),
            cut: i64::MIN,
            volumes_freed: 0,
        }
    }

    fn open(&mut self) -> Result<Store, alluvium_store::OpenError> {
        let shards = 1 + self.dice.below(4) as usize;
        let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&self.clock);
        let device: Arc<dyn alluvium_store::Device> = Arc::<SimDevice>::clone(&self.device);
        let config = StoreConfig {
            retention: self.retention,
            ..config(shards)
        };
        Store::open(device, clock, config)
    }

    /// Opens after an end; some openings are cut themselves, by power cuts only if the life ended in one:
    /// after a kill, what was acknowledged as written may still be volatile.
    fn recover(&mut self) -> Store {
        for _ in 0..self.dice.below(3) {
            let cut = self.device.ops() + self.dice.below(40);
            self.device.set_faults(FaultPlan {
                crash_after_ops: Some(cut),
                ..FaultPlan::default()
            });
            // Whether it opened or not, the power goes.
            let opened = self.open();
            if std::env::var_os("ALLUVIUM_TRACE").is_some() {
                println!(
                    "  opening cut after {cut} operations: {:?}",
                    opened.as_ref().map(Store::recovery)
                );
            }
            drop(opened.map(|store| drive_some(&store, &self.clock, 5)));
            let power_cut = self.dice.below(2) == 0 && self.power_cut;
            self.device = if power_cut {
                self.device.crash()
            } else {
                self.device.kill()
            };
        }
        let store = self.open().unwrap();
        if std::env::var_os("ALLUVIUM_TRACE").is_some() {
            println!(
                "  {:?} {:?}",
                store.recovery(),
                store.status().superblock_seq
            );
        }
        store
    }

    fn check(&mut self, store: &Store) {
        let found = store
            .database("db")
            .map_or(Model::default(), |db| read_all(&db));
        let cut = store
            .database("db")
            .map_or(i64::MIN, |db| db.live().0.begin());
        assert!(
            cut >= self.cut,
            "the cut went back from {} to {cut}",
            self.cut
        );
        if let Some(age) = self.retention.points {
            use alluvium_store::Clock;
            assert!(
                cut <= self.clock.wall_ns() - age.ns(),
                "the cut is ahead of its age"
            );
        }
        self.cut = cut;
        self.oracle.check(&found, cut).unwrap();
        if let Some(database) = store.database("db") {
            check_days(&database, &found);
        }
        self.oracle = Oracle::of(&found);
    }

    /// One process life, which ends in a power cut or a kill.
    fn live(&mut self, store: Store) {
        // What rings keep is too little for more of them.
        self.hosts = if self.retention.is_on() {
            6
        } else {
            self.hosts + 6
        };
        if self.hosts.is_multiple_of(12) && !self.retention.is_on() {
            self.now += DAY_NS;
        }
        let power_cut = self.dice.below(3) > 0;
        self.power_cut = power_cut;
        let is_cut = self.dice.below(2) == 0;
        if is_cut {
            let cut = self.device.ops() + self.dice.below(400);
            self.device.set_faults(FaultPlan {
                crash_after_ops: Some(cut),
                ..FaultPlan::default()
            });
        }
        let mut pending: Vec<(usize, Durability, Commit)> = Vec::new();
        if let Ok((database, created)) = store.create_database("db")
            && wait(&store, created, &self.clock).is_some()
        {
            for _ in 0..self.dice.below(60) {
                let lines = 1 + self.dice.below(60);
                if self.retention.is_on() {
                    use alluvium_store::Clock;
                    // Never ahead of what the volumes know of the clock.
                    self.now = self.now.max(self.clock.wall_ns() - 10_000_000);
                }
                let mut lines = late_batch(&mut self.dice, &mut self.now, self.hosts, lines);
                let live = database.live().0;
                lines.retain(|line| live.contains(line.time));
                let level = if self.dice.below(4) == 0 {
                    Durability::Os
                } else {
                    Durability::Sync
                };
                let number = self.oracle.begin(&lines);
                match write(&database, &lines, Some(level)) {
                    Ok(commit) => pending.push((number, level, commit)),
                    Err(_) => break,
                }
                // Deletes leave little to expire.
                let rare = if self.retention.is_on() { 40 } else { 5 };
                if self.dice.below(rare) == 0 {
                    let removal = Removal::random(&mut self.dice, self.now, self.hosts);
                    let number = self.oracle.begin_removal(&removal);
                    match database.delete(&removal.request()) {
                        Ok(deleted) => pending.push((number, Durability::Sync, deleted.commit)),
                        Err(_) => break,
                    }
                    self.deletes += 1;
                }
                if self.dice.below(12) == 0 {
                    drop(store.checkpoint());
                }
                drive_some(&store, &self.clock, self.dice.below(12));
                self.cut = self.cut.max(database.live().0.begin());
                pending.retain_mut(|(number, level, commit)| match commit.poll(Waker::noop()) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        let survives = *level == Durability::Sync || !power_cut;
                        self.oracle.acked[*number] = result.is_ok() && survives;
                        false
                    }
                });
            }
        }
        let merging = store.status().merging;
        assert_eq!((merging.failed, merging.last_error), (0, None));
        self.merges += merging.merges;
        let index = store.status().index;
        // Behind a cut nothing can be read.
        assert!(is_cut || index.failed_merges == 0);
        self.seals += index.seals;
        self.index_merges += index.merges;
        if std::env::var_os("ALLUVIUM_TRACE").is_some() {
            println!(
                "  life ends in {}, checkpoints {}, failure {:?}, acked {:?}",
                if power_cut { "a power cut" } else { "a kill" },
                store.status().checkpoints,
                store.status().failure,
                self.oracle.acked
            );
        }
        let databases = store.status().databases;
        self.volumes_freed += databases
            .iter()
            .map(|d| d.retention.volumes_freed)
            .sum::<u64>();
        drop((pending, store));
        self.device = if power_cut {
            self.device.crash()
        } else {
            self.device.kill()
        };
    }
}

/// Each series is found by the days of its points, and none by a day that nobody wrote to.
fn check_days(database: &Database, found: &Model) {
    let mut by_day: BTreeMap<i64, BTreeSet<Key>> = BTreeMap::new();
    for (key, points) in &found.series {
        for time in points.keys() {
            let of_day = by_day.entry(time.div_euclid(DAY_NS)).or_default();
            of_day.insert(key.clone());
        }
    }
    let last = by_day.keys().next_back().copied().unwrap_or(0);
    let snapshot = database.snapshot();
    for day in -1..=last + 2 {
        let range = TimeRange::new(day * DAY_NS, (day + 1) * DAY_NS).unwrap();
        let listed = snapshot.select_in(&Selector::default(), range).unwrap();
        let listed: BTreeSet<Key> = listed
            .iter()
            .map(|info| {
                let host = info.key.tag("host").unwrap()[1..].parse().unwrap();
                let text = info.id.kind() == ValueKind::Str;
                (host, info.field.to_string(), text)
            })
            .collect();
        let wanted = by_day.remove(&day).unwrap_or_default();
        assert!(listed.is_superset(&wanted), "day {day}");
        assert!(
            listed.is_empty() || (0..=last + 1).contains(&day),
            "day {day}"
        );
    }
}

fn drive_some(store: &Store, clock: &SimClock, turns: u64) {
    for _ in 0..turns {
        store.drive();
        clock.advance_ns(3_000_000);
    }
}

fn wait(store: &Store, mut commit: Commit, clock: &SimClock) -> Option<()> {
    for _ in 0..10_000 {
        if let Poll::Ready(result) = commit.poll(Waker::noop()) {
            return result.ok().map(|_| ());
        }
        drive_some(store, clock, 1);
    }
    panic!("a commit neither ended nor failed");
}

/// Returns how many merges ended, how many deletes there were, how many index segments were made, and merged.
fn run(seed: u64) -> [u64; 4] {
    let world = run_with(seed, Retention::default());
    [world.merges, world.deletes, world.seals, world.index_merges]
}

fn run_with(seed: u64, retention: Retention) -> World {
    let mut world = World::new(seed, if seed.is_multiple_of(3) { 4096 } else { 512 });
    world.retention = retention;
    let mut store = world.recover();
    for _ in 0..6 {
        world.live(store);
        store = world.recover();
        world.check(&store);
    }
    // Recovering again without writing changes nothing.
    let once = store
        .database("db")
        .map_or(Model::default(), |db| read_all(&db));
    drop(store);
    world.device = world.device.kill();
    let store = world.open().unwrap();
    let twice = store
        .database("db")
        .map_or(Model::default(), |db| read_all(&db));
    model::same(&once, &twice).unwrap();
    world
}

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("ALLUVIUM_SEEDS").ok();
    let parse = |s: &str| {
        let (from, to) = s.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    given.as_deref().and_then(parse).unwrap_or(1..61)
}

/// Seeds that once failed.
///
/// 159: redo began behind the group being collected when a shard was captured, so sections that joined that group
/// after the capture were in neither tails nor redo.
/// 832: killed between the first superblock and the sync of its name, then power cut: the name was lost with
/// everything acknowledged since.
/// 3126: a volume planned before a checkpoint synced the directory and made after it: the next checkpoint named it
/// without syncing its name, and after a power cut the store did not open.
const PINNED: [u64; 3] = [159, 832, 3126];

#[test]
fn nothing_acknowledged_is_lost() {
    let (mut lives, mut counts) = (0, [0; 4]);
    for seed in PINNED.into_iter().chain(seeds()) {
        println!("seed {seed}");
        let of_seed = run(seed);
        counts = std::array::from_fn(|i| counts[i] + of_seed[i]);
        lives += 6;
    }
    let [merges, deletes, seals, index_merges] = counts;
    println!("{merges} merges and {deletes} deletes in {lives} lives");
    println!("{seals} index segments made of rows, {index_merges} of others");
    assert!(
        seals > lives,
        "only {seals} index segments in {lives} lives"
    );
    assert!(
        index_merges > lives / 4,
        "only {index_merges} merged in {lives} lives"
    );
    assert!(deletes > lives, "only {deletes} deletes in {lives} lives");
    assert!(merges > lives, "only {merges} merges in {lives} lives");
}

/// What has expired is gone for good, and nothing else is, whenever the end comes: in the middle of a cut, between a
/// cut and the volumes that go with it, before their files go.
#[test]
fn what_expires_stays_expired_and_nothing_else_goes() {
    let mut freed = 0;
    for seed in seeds() {
        println!("seed {seed}");
        let aggregates = match seed % 3 {
            0 => KeepAggregates::Ever,
            _ => KeepAggregates::Same,
        };
        let by_age = seed.is_multiple_of(2);
        let world = run_with(
            seed,
            Retention {
                points: by_age.then(|| Age::from_ns(400_000_000)),
                max_disk: (!by_age).then_some(64 << 10),
                aggregates,
                ..Retention::default()
            },
        );
        freed += world.volumes_freed;
    }
    println!("{freed} volumes freed");
    assert!(freed > 60, "too few volumes to mean anything: {freed}");
}

/// A short workload of writes and checkpoints; whether it came to its end without an error.
fn short_workload(world: &mut World) -> bool {
    let Ok(store) = world.open() else {
        return false;
    };
    let Ok((database, created)) = store.create_database("db") else {
        return false;
    };
    if wait(&store, created, &world.clock).is_none() {
        return false;
    }
    for round in 0..6 {
        let lines = late_batch(&mut world.dice, &mut world.now, 3, 30);
        let number = world.oracle.begin(&lines);
        let Ok(commit) = write(&database, &lines, None) else {
            return false;
        };
        if wait(&store, commit, &world.clock).is_none() {
            return false;
        }
        world.oracle.acked[number] = true;
        if round % 2 == 0 {
            let removal = Removal::random(&mut world.dice, world.now, 3);
            let number = world.oracle.begin_removal(&removal);
            let Ok(deleted) = database.delete(&removal.request()) else {
                return false;
            };
            if wait(&store, deleted.commit, &world.clock).is_none() {
                return false;
            }
            world.oracle.acked[number] = true;
        }
        if round % 2 == 1 && wait(&store, store.checkpoint(), &world.clock).is_none() {
            return false;
        }
    }
    true
}

/// The workload cut after every single operation of the device.
#[test]
fn every_operation_may_be_the_last() {
    let mut cut = 0;
    loop {
        let mut world = World::new(99, 512);
        world.device.set_faults(FaultPlan {
            crash_after_ops: Some(cut),
            ..FaultPlan::default()
        });
        let finished = short_workload(&mut world);
        world.device = world.device.crash();
        let store = world.open().unwrap();
        world.check(&store);
        if finished {
            break;
        }
        cut += 1;
    }
    println!("cut after each of {cut} operations");
    assert!(
        cut > 50,
        "the workload is too short to mean anything: {cut}"
    );
}

/// The N-th operation fails, for N = 0, 1, 2 … until the workload passes without meeting the failure: always an
/// error or success, never a panic, a hang or a loss; and after an input or output error nothing is
/// acknowledged any more.
#[test]
fn every_operation_may_fail() {
    for fault in [Fault::Eio, Fault::NoSpace, Fault::Torn, Fault::LosesContent] {
        let mut n = 0;
        loop {
            let mut world = World::new(7, 512);
            let ops = BTreeMap::from([(n, fault)]);
            world.device.set_faults(FaultPlan {
                ops,
                ..FaultPlan::default()
            });
            short_workload(&mut world);
            let reached = world.device.ops() > n;
            // Whatever was answered: what was acknowledged is there after the power goes.
            world.device = world.device.crash();
            let store = world.open().unwrap();
            world.check(&store);
            if !reached {
                break;
            }
            n += 1;
        }
        println!("{fault:?} at each of {n} operations");
        assert!(n > 50, "the workload is too short to mean anything: {n}");
    }
}

/// A disk that fills up: writes are refused as such, reads stay right, and when there is room again writing goes
/// on without a restart.
#[test]
fn a_full_disk_recovers_by_itself() {
    let mut world = World::new(3, 512);
    let store = world.open().unwrap();
    let (database, created) = store.create_database("db").unwrap();
    wait(&store, created, &world.clock).unwrap();
    world.device.set_faults(FaultPlan {
        capacity: Some(2 << 20),
        ..FaultPlan::default()
    });
    let mut refused = false;
    for _ in 0..2000 {
        let lines = late_batch(&mut world.dice, &mut world.now, 6, 200);
        match write(&database, &lines, None) {
            Ok(commit) => {
                let number = world.oracle.begin(&lines);
                // The commit may wait for room; what was applied may be there.
                for _ in 0..200 {
                    drive_some(&store, &world.clock, 1);
                }
                drop((commit, number));
            }
            Err(WriteError::Full) => {
                refused = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused, "the disk never filled");
    assert!(store.status().full);
    assert!(store.status().failure.is_none());
    let before = read_all(&database);
    world.device.set_faults(FaultPlan::default());
    let mut lines = late_batch(&mut world.dice, &mut world.now, 6, 50);
    lines.retain(|l| !l.fields.is_empty());
    let mut commit = None;
    for _ in 0..2000 {
        drive_some(&store, &world.clock, 1);
        if let Ok(c) = write(&database, &lines, None) {
            commit = Some(c);
            break;
        }
    }
    let number = world.oracle.begin(&lines);
    wait(
        &store,
        commit.expect("writing goes on when there is room"),
        &world.clock,
    )
    .unwrap();
    world.oracle.acked[number] = true;
    assert!(!store.status().full);
    let after = read_all(&database);
    assert!(before.series.keys().all(|k| after.series.contains_key(k)));
    drop((database, store));
    world.device = world.device.crash();
    let store = world.open().unwrap();
    world.check(&store);
}
