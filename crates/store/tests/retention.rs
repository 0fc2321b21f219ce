//! What has expired is gone, what has not is there: rings of tiny volumes overwritten many times, by age and by size,
//! with restarts, against a model that knows the cut.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Age, CLOCK_JUMP_MAX_NS, Commit, Database, DatabaseSettings, Delete, DeleteSelection, Direction,
    KeepAggregates, ReadStats, RefusedLine, Retention, Selector, Snapshot, Store, StoreConfig,
};
use alluvium_types::{Column, SeriesKey, TimeRange, Value, ValueRef};
use model::{Dice, Line, Model, batch, check_reads, read_all, same, write};

const EPOCH: i64 = 1_700_000_000_000_000_000;
const MS: i64 = 1_000_000;
const DAY: i64 = CLOCK_JUMP_MAX_NS;

struct World {
    clock: Arc<SimClock>,
    device: Arc<SimDevice>,
    dice: Dice,
    /// Milliseconds of data so far.
    now: i64,
    model: Model,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = SimConfig {
            lanes: 3,
            ..SimConfig::default()
        };
        Self {
            clock: Arc::new(SimClock::new(EPOCH)),
            device: SimDevice::new(seed, sim),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: 10_000,
            model: Model::default(),
        }
    }

    fn open(&self) -> Store {
        let config = StoreConfig {
            shards: 2,
            volume_bytes: 32 << 10,
            extent_pages: 2,
            batch_pages: 2,
            segment_bytes: 256 << 10,
            group_bytes_max: 32 << 10,
            checkpoint_log_bytes: 128 << 10,
            late_points_max: 40,
            tail_chain_max: 3,
            memory_bytes: 64 << 20,
            cache_percent: 1,
            retention_check_ms: 1,
            merge_quiet_ms: 1,
            instance: Some([5; 16]),
            ..StoreConfig::default()
        };
        let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&self.clock);
        let device: Arc<dyn alluvium_store::Device> = Arc::<SimDevice>::clone(&self.device);
        Store::open(device, clock, config).unwrap()
    }

    fn database(&self, store: &Store, retention: Retention) -> Database {
        let settings = DatabaseSettings {
            retention,
            ..store.default_settings()
        };
        let (database, created) = store.create_database_with("db", settings).unwrap();
        self.wait(store, created);
        database
    }

    fn drive(&self, store: &Store, turns: u32) {
        for _ in 0..turns {
            store.drive();
            self.clock.advance_ns(100_000);
        }
    }

    fn wait(&self, store: &Store, mut commit: Commit) {
        for _ in 0..100_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                result.unwrap();
                return;
            }
            self.drive(store, 1);
        }
        panic!("a commit neither ended nor failed");
    }

    /// Brings the clock to the newest point.
    fn catch_up(&self) {
        use alluvium_store::Clock;
        let behind = EPOCH + (self.now + 1) * MS - self.clock.wall_ns();
        self.clock.advance_ns(behind.max(0) as u64);
    }

    /// Mostly in order: a series of many runs fills no pages before it expires.
    fn batch(&mut self, lines: u64) -> Vec<Line> {
        let mut now = self.now;
        let dice = &mut self.dice;
        let mut lines: Vec<Line> = (0..lines)
            .map(|_| {
                now += 1 + dice.below(3) as i64;
                let fraction = dice.roll() as f64 / 3e15;
                let mut fields = vec![("f", Value::F64(fraction))];
                if dice.below(8) == 0 {
                    fields.push(("s", Value::Str(format!("state{}", dice.below(50)).into())));
                }
                Line {
                    host: dice.below(2) as u32,
                    time: EPOCH + now * MS,
                    fields,
                }
            })
            .collect();
        self.now = now;
        if dice.below(10) == 0 {
            // Late, overwritten, of other kinds.
            let mut late = batch(dice, &mut now, 2, 40);
            for line in &mut late {
                line.time = EPOCH + (line.time - 50) * MS;
            }
            lines.extend(late);
        }
        lines
    }

    fn write_some(&mut self, store: &Store, database: &Database, lines: u64) {
        let mut lines = self.batch(lines);
        self.catch_up();
        // A drive tells the volumes what the clock shows.
        self.drive(store, 1);
        let live = database.live().0;
        lines.retain(|l| live.contains(l.time));
        self.model.apply(&lines);
        let commit = write(database, &lines, None).unwrap();
        self.wait(store, commit);
        self.drive(store, 6);
    }

    /// Forgets what has expired and compares.
    fn check(&mut self, database: &Database) {
        let live = database.live().0;
        for points in self.model.series.values_mut() {
            *points = points.split_off(&live.begin());
        }
        same(&read_all(database), &self.model).unwrap();
    }

    fn end(&mut self, store: Store, database: Database) {
        drop(database);
        match self.dice.below(3) {
            0 => {
                let checkpoint = store.checkpoint();
                self.wait(&store, checkpoint);
            }
            1 => {
                let checkpoint = store.checkpoint();
                self.drive(&store, self.dice.clone().below(40) as u32);
                drop(checkpoint);
            }
            _ => {}
        }
        drop(store);
        self.device = if self.dice.below(2) == 0 {
            self.device.crash()
        } else {
            self.device.kill()
        };
    }
}

fn by_age(ms: i64, aggregates: KeepAggregates) -> Retention {
    Retention {
        points: Some(Age::from_ns(ms * MS)),
        aggregates,
        ..Retention::default()
    }
}

fn files(world: &World) -> usize {
    use alluvium_store::Device;
    world.device.list("vol").unwrap().len()
}

/// Writes until `times` the volumes that live at once have gone.
fn ring(mut world: World, retention: Retention, times: u64) {
    let mut store = world.open();
    let mut database = world.database(&store, retention);
    let (mut freed, mut live_max, mut rounds) = (0, 0_u64, 0);
    let mut freed_before = 0;
    loop {
        world.write_some(&store, &database, 300);
        rounds += 1;
        let status = store.status().databases.remove(0);
        freed = freed_before + status.retention.volumes_freed.max(freed - freed_before);
        let volumes = u64::from(status.leaves.volumes + status.inners.volumes);
        live_max = live_max.max(volumes);
        if let Some(bound) = retention.max_disk {
            // A batch may pass the bound before the next look; the last volume stays.
            let bytes = status.leaves.bytes.0 + status.inners.bytes.0;
            assert!(bytes <= bound + bound / 2, "{bytes} bytes of {bound}");
        }
        if rounds % 10 == 0 {
            world.check(&database);
            if retention.aggregates == KeepAggregates::Same {
                check_reads(&database, &world.model, &mut world.dice);
            }
        }
        if rounds % 40 == 0 {
            world.check(&database);
            let cut = database.live().0.begin();
            world.end(store, database);
            store = world.open();
            database = store.database("db").unwrap();
            freed_before = freed;
            assert!(database.live().0.begin() >= cut, "the cut went back");
            assert_eq!(database.settings().retention, retention);
            world.check(&database);
        }
        if freed > 0 && freed >= times * live_max {
            break;
        }
        assert!(rounds < 20_000, "{freed} volumes freed, {live_max} at once");
    }
    println!("{rounds} rounds, {freed} volumes freed, {live_max} at once");
    assert!(live_max > 4, "too few volumes to mean anything: {live_max}");
    // Files go two superblocks later, and no more stay than live.
    for _ in 0..4 {
        let checkpoint = store.checkpoint();
        world.wait(&store, checkpoint);
        world.drive(&store, 20);
    }
    let status = store.status().databases.remove(0);
    let volumes = (status.leaves.volumes + status.inners.volumes) as usize;
    assert!(
        files(&world) <= volumes + 2,
        "{} files of {volumes}",
        files(&world)
    );
}

#[test]
fn a_ring_by_age_is_overwritten_twenty_times() {
    ring(World::new(1), by_age(12_000, KeepAggregates::Same), 20);
}

#[test]
fn a_ring_by_size_is_overwritten_twenty_times() {
    let retention = Retention {
        max_disk: Some(128 << 10),
        aggregates: KeepAggregates::Same,
        ..Retention::default()
    };
    ring(World::new(2), retention, 20);
}

#[test]
fn a_ring_with_aggregates_for_ever() {
    ring(World::new(3), by_age(12_000, KeepAggregates::Ever), 5);
}

fn line(time: i64, value: f64) -> Line {
    Line {
        host: 0,
        time,
        fields: vec![("f", Value::F64(value))],
    }
}

fn count(database: &Database, range: TimeRange) -> u64 {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let all = snapshot.select(&Selector::default()).unwrap();
    let of = |info| {
        let series = snapshot.series(info);
        series.aggregate(range, &mut stats).unwrap().count
    };
    all.iter().map(of).sum()
}

/// Every second a point, of full precision.
fn fill(world: &mut World, store: &Store, database: &Database, seconds: i64) {
    for _ in 0..seconds / 100 {
        let lines: Vec<Line> = (0..100)
            .map(|_| {
                world.now += 1000;
                line(EPOCH + world.now * MS, (world.now as f64).sin())
            })
            .collect();
        world.catch_up();
        let commit = write(database, &lines, None).unwrap();
        world.wait(store, commit);
    }
    world.drive(store, 40);
}

#[test]
fn aggregates_outlive_their_points_and_count_every_one() {
    let mut world = World::new(4);
    let mut store = world.open();
    let mut database = world.database(&store, by_age(10_000_000, KeepAggregates::Ever));
    let from = EPOCH + (world.now + 1000) * MS;
    fill(&mut world, &store, &database, 60_000);
    let gone = store.status().databases[0].retention.volumes_freed;
    assert!(gone > 3, "{gone} volumes freed");
    for restart in [false, true] {
        if restart {
            drop((store, database));
            world.device = world.device.kill();
            store = world.open();
            database = store.database("db").unwrap();
        }
        // Points are gone, what they added up to is not.
        let points: usize = read_all(&database)
            .series
            .values()
            .map(std::collections::BTreeMap::len)
            .sum();
        assert!(points < 10_200, "{points}");
        assert_eq!(count(&database, TimeRange::ALL), 60_000);
        // Any cuts of time count every point once.
        let end = EPOCH + (world.now + 1) * MS;
        let mut at = from;
        let mut sum = 0;
        while at < end {
            let next = (at + 777_000 * MS).min(end);
            sum += count(&database, TimeRange::new(at, next).unwrap());
            at = next;
        }
        assert_eq!(sum, 60_000);
        let live = database.live().0;
        assert_eq!(count(&database, live), points as u64);
    }
    // A series that came to its end keeps its aggregate, without its open tail.
    let memory = |store: &Store| {
        let all = store.status().memory;
        all.iter()
            .find(|(name, _)| *name == "open_tails")
            .map_or(0, |(_, b)| b.0)
    };
    let before = memory(&store);
    world.clock.advance_ns((20_000 * 1000 * MS) as u64);
    world.drive(&store, 100);
    assert_eq!(read_all(&database), Model::default());
    assert_eq!(count(&database, TimeRange::ALL), 60_000);
    assert!(memory(&store) <= before, "{} of {before}", memory(&store));
    // Until everything is to go.
    let all = by_age(10_000_000, KeepAggregates::Same);
    let changed = store.set_retention("db", all).unwrap();
    world.wait(&store, changed);
    world.clock.advance_ns((100_000 * MS) as u64);
    world.drive(&store, 100);
    assert_eq!(count(&database, TimeRange::ALL), 0);
    assert!(
        listed(&database.snapshot()).is_empty(),
        "nothing is left of the series"
    );
    assert_eq!(store.status().databases[0].inners.volumes, 0);
}

#[test]
fn what_is_deleted_goes_out_of_aggregates_that_outlive_points() {
    let mut world = World::new(13);
    let store = world.open();
    let database = world.database(&store, by_age(10_000_000, KeepAggregates::Ever));
    let from = EPOCH + (world.now + 1000) * MS;
    fill(&mut world, &store, &database, 40_000);
    let second = 1000 * MS;
    let hole = TimeRange::new(from + 7_000 * second, from + 12_345 * second).unwrap();
    let before = count(&database, TimeRange::ALL);
    let inside = count(&database, hole);
    assert!((3_000..8_000).contains(&inside), "{inside}");
    let delete = Delete {
        selections: vec![DeleteSelection::default()],
        range: hole,
        test: None,
    };
    let deleted = database.delete(&delete).unwrap();
    assert_eq!(deleted.affected.points, inside);
    world.wait(&store, deleted.commit);
    assert_eq!(count(&database, hole), 0);
    // Leaves that begin before it and reach into it cannot be divided.
    let after = count(&database, TimeRange::ALL);
    assert!(
        after < before - inside && after > before - inside - 2_000,
        "{after}"
    );
    let earlier = TimeRange::new(from, hole.begin()).unwrap();
    let info = database
        .snapshot()
        .select(&Selector::default())
        .unwrap()
        .remove(0);
    let series = database.snapshot().series(&info);
    let earlier = series
        .aggregate(earlier, &mut ReadStats::default())
        .unwrap();
    assert!(earlier.last.time < hole.begin());
    assert_eq!(
        count(&database, TimeRange::new(hole.end(), i64::MAX).unwrap()) + earlier.count,
        after
    );
}

#[test]
fn deletes_of_what_has_expired_since_are_forgotten_unread() {
    for (aggregates, left) in [(KeepAggregates::Same, 0), (KeepAggregates::Ever, 1)] {
        let mut world = World::new(17);
        let store = world.open();
        // Nobody carries them out.
        store.pause_merging(true);
        let database = world.database(&store, by_age(20_000_000, aggregates));
        let from = EPOCH + (world.now + 1000) * MS;
        fill(&mut world, &store, &database, 4_000);
        let range = TimeRange::new(from, from + 2_000_000 * MS).unwrap();
        let delete = Delete {
            selections: vec![DeleteSelection::default()],
            range,
            test: None,
        };
        let deleted = database.delete(&delete).unwrap();
        assert!(deleted.affected.points > 1000);
        world.wait(&store, deleted.commit);
        let tombstones = || {
            for _ in 0..3 {
                world.wait(&store, store.checkpoint());
            }
            store.status().databases[0].tombstones
        };
        assert!(tombstones() > 0);
        // The cut passes the range, not what is behind it.
        world.clock.advance_ns(18_500_000_000_000);
        world.drive(&store, 3000);
        assert!(database.live().0.begin() >= range.end());
        assert_eq!(tombstones().min(1), left, "{aggregates:?}");
    }
}

fn listed(snapshot: &Snapshot) -> Vec<String> {
    let all = snapshot.select(&Selector::default()).unwrap();
    all.iter().map(|info| info.key.to_string()).collect()
}

#[test]
fn series_that_have_ended_leave_memory_and_tails() {
    let mut world = World::new(5);
    let store = world.open();
    let database = world.database(&store, by_age(10_000, KeepAggregates::Same));
    let mut lines = Vec::new();
    for host in 0..2000 {
        for n in 0..20 {
            world.now += 1;
            let time = EPOCH + world.now * MS / 40;
            // Some come late and wait in buffers.
            let time = if n == 7 { time - 50 * MS } else { time };
            lines.push(Line {
                host,
                ..line(time, f64::from(n).cos())
            });
        }
    }
    world.clock.set_wall_ns(EPOCH + world.now * MS / 40);
    for lines in lines.chunks(1000) {
        let commit = write(&database, lines, None).unwrap();
        world.wait(&store, commit);
    }
    let checkpoint = store.checkpoint();
    world.wait(&store, checkpoint);
    let before = store.status();
    assert_eq!(listed(&database.snapshot()).len(), 2000);
    let used = |s: &alluvium_store::Status| {
        s.memory
            .iter()
            .find(|(name, _)| *name == "open_tails")
            .unwrap()
            .1
            .0
    };
    world.clock.advance_ns((20_000 * MS) as u64);
    world.drive(&store, 200);
    assert!(listed(&database.snapshot()).is_empty());
    // The next checkpoints write all tails anew.
    for _ in 0..4 {
        let checkpoint = store.checkpoint();
        world.wait(&store, checkpoint);
    }
    let after = store.status();
    assert!(
        used(&after) < used(&before) / 5 * 3,
        "{} of {}",
        used(&after),
        used(&before)
    );
    assert!(
        after.tails.0 < before.tails.0 / 10,
        "{} of {}",
        after.tails,
        before.tails
    );
    // One that goes on is there again, with what is new only.
    world.now += 100_000;
    let time = EPOCH + world.now * MS;
    world.clock.set_wall_ns(time);
    let commit = write(&database, &[line(time, 1.0)], None).unwrap();
    world.wait(&store, commit);
    assert_eq!(listed(&database.snapshot()).len(), 1);
    drop((store, database));
    world.device = world.device.crash();
    let store = world.open();
    let database = store.database("db").unwrap();
    assert_eq!(count(&database, TimeRange::ALL), 1);
}

#[test]
fn a_jump_of_the_clock_erases_a_day_at_most_until_it_is_confirmed() {
    let mut world = World::new(6);
    let mut store = world.open();
    let retention = Retention {
        points: Some(Age::from_ns(3 * DAY)),
        aggregates: KeepAggregates::Same,
        ..Retention::default()
    };
    let mut database = world.database(&store, retention);
    fill(&mut world, &store, &database, 20_000);
    let before = read_all(&database);
    world.clock.set_wall_ns(EPOCH + 4000 * DAY);
    for round in 0..6 {
        world.drive(&store, 50);
        let checkpoint = store.checkpoint();
        world.wait(&store, checkpoint);
        let held = store.clock_status().held_ns;
        assert!(held > 3990 * DAY, "round {round}: {held}");
        same(&read_all(&database), &before).unwrap();
        if round % 2 == 1 {
            drop((store, database));
            world.device = world.device.crash();
            store = world.open();
            database = store.database("db").unwrap();
        }
    }
    let confirmed = store.confirm_clock();
    world.wait(&store, confirmed);
    world.drive(&store, 50);
    assert_eq!(store.clock_status().held_ns, 0);
    assert_eq!(read_all(&database), Model::default());
    // It is remembered.
    drop((store, database));
    world.device = world.device.crash();
    let store = world.open();
    assert_eq!(store.clock_status().held_ns, 0);
}

#[test]
fn what_is_too_far_ahead_or_has_expired_is_refused() {
    let world = World::new(7);
    let store = world.open();
    let database = world.database(&store, by_age(60_000, KeepAggregates::Same));
    world.drive(&store, 50);
    let key = || SeriesKey::new("m", [("host", "h0")]).unwrap();
    let refusal = |time: i64| {
        let mut writer = database.writer();
        let row = writer.resolve(b"m,host=h0", key());
        writer.begin_line(row, time).err()
    };
    assert_eq!(refusal(EPOCH), None);
    assert_eq!(refusal(EPOCH + DAY), None);
    let ahead = refusal(EPOCH + DAY + 60_000 * MS).unwrap();
    assert!(matches!(ahead, RefusedLine::FutureTime { .. }));
    assert!(ahead.to_string().contains("future_max"), "{ahead}");
    let late = refusal(EPOCH - 61_000 * MS).unwrap();
    assert!(matches!(late, RefusedLine::ExpiredTime { .. }));
    assert!(late.to_string().contains("retention"), "{late}");
    // Without an age, any time is taken.
    let changed = store.set_retention("db", Retention::default()).unwrap();
    world.wait(&store, changed);
    assert_eq!(refusal(EPOCH + 4000 * DAY), None);
    // A writer that goes on learns of a change with its next batch.
    let mut writer = database.writer();
    let row = writer.resolve(b"m,host=h0", key());
    writer.begin_line(row, EPOCH + 4000 * DAY).unwrap();
    writer.field("f", ValueRef::F64(1.0)).unwrap();
    writer.end_line().unwrap();
    let commit = writer.commit(None).unwrap();
    world.wait(&store, commit);
    let changed = store
        .set_retention("db", by_age(60_000, KeepAggregates::Same))
        .unwrap();
    world.wait(&store, changed);
    let row = writer.cached(b"m,host=h0").unwrap();
    assert!(writer.begin_line(row, EPOCH + 4000 * DAY).is_err());
    // Settings that do not fit together are refused.
    let bad = by_age(60_000, KeepAggregates::For(Age::from_ns(MS)));
    assert!(store.set_retention("db", bad).is_err());
    assert!(store.set_retention("none", Retention::default()).is_err());
}

#[test]
fn one_point_from_the_far_future_pins_no_volume() {
    let mut world = World::new(8);
    let store = world.open();
    let database = world.database(&store, Retention::default());
    // Before there is a limit: one series far ahead, enough of it for leaves of its own among the others'.
    let far = EPOCH + 20_000 * DAY;
    for n in 0..40 {
        let lines: Vec<Line> = (0..100)
            .map(|i| Line {
                host: 1,
                ..line(far + n * 100 + i, f64::from(i as u32).sin())
            })
            .collect();
        let commit = write(&database, &lines, None).unwrap();
        world.wait(&store, commit);
        fill(&mut world, &store, &database, 400);
    }
    let volumes = store.status().databases[0].leaves.volumes;
    assert!(volumes > 3);
    let retention = Retention {
        future_max: Age::from_ns(1000 * MS),
        ..by_age(1_000_000, KeepAggregates::Same)
    };
    let changed = store.set_retention("db", retention).unwrap();
    world.wait(&store, changed);
    world.drive(&store, 50);
    fill(&mut world, &store, &database, 4000);
    let status = store.status().databases.remove(0);
    assert!(
        status.retention.volumes_freed >= u64::from(volumes) - 1,
        "{status:?}"
    );
    // Scans and aggregates agree about what is left.
    let points: usize = read_all(&database)
        .series
        .values()
        .map(std::collections::BTreeMap::len)
        .sum();
    assert_eq!(count(&database, TimeRange::ALL), points as u64);
}

/// By size a volume goes with its points from the future, which the cut does not cover: its number is in the log, or the
/// last superblock would bring them back.
#[test]
fn what_went_ahead_of_the_cut_stays_gone() {
    let mut world = World::new(11);
    let store = world.open();
    let retention = Retention {
        max_disk: Some(128 << 10),
        aggregates: KeepAggregates::Same,
        ..Retention::default()
    };
    let database = world.database(&store, retention);
    let far = EPOCH + 20_000 * DAY;
    for n in 0..30 {
        let lines: Vec<Line> = (0..100)
            .map(|i| Line {
                host: 1,
                ..line(far + n * 100 + i, f64::from(i as u32).sin())
            })
            .collect();
        let commit = write(&database, &lines, None).unwrap();
        world.wait(&store, commit);
    }
    let checkpoint = store.checkpoint();
    world.wait(&store, checkpoint);
    let ahead = TimeRange::new(far, far + DAY).unwrap();
    assert_eq!(count(&database, ahead), 3000);
    // No superblock is to come between the log entry and the kill.
    let freed = || store.status().databases[0].retention.volumes_freed;
    'until_freed: for _ in 0..1000 {
        let lines: Vec<Line> = (0..50)
            .map(|_| {
                world.now += 1000;
                line(EPOCH + world.now * MS, (world.now as f64).sin())
            })
            .collect();
        world.catch_up();
        let mut commit = write(&database, &lines, None).unwrap();
        while commit.poll(Waker::noop()).is_pending() {
            store.drive();
            if freed() > 0 {
                break 'until_freed;
            }
            world.clock.advance_ns(100_000);
        }
    }
    assert!(freed() > 0);
    let left = count(&database, ahead);
    assert!(left < 3000, "the volume that went had none of them");
    drop((store, database));
    world.device = world.device.kill();
    let store = world.open();
    let database = store.database("db").unwrap();
    assert_eq!(count(&database, ahead), left);
    let points = read_all(&database);
    let points: usize = points
        .series
        .values()
        .map(std::collections::BTreeMap::len)
        .sum();
    assert_eq!(count(&database, TimeRange::ALL), points as u64);
}

/// The merger has extents of its own, in volumes that go while it has nothing to do.
#[test]
fn merging_goes_on_in_volumes_that_live() {
    let mut world = World::new(12);
    let store = world.open();
    let database = world.database(&store, by_age(10_000_000, KeepAggregates::Same));
    for round in 1..=3 {
        fill(&mut world, &store, &database, 3000);
        let begin = EPOCH + (world.now - 2_500_000) * MS + 1;
        let late: Vec<Line> = (0..1500)
            .map(|n| line(begin + n * 1500 * MS, (n as f64).cos()))
            .collect();
        let commit = write(&database, &late, None).unwrap();
        world.wait(&store, commit);
        for _ in 0..10_000 {
            if store.status().merging.merges >= round {
                break;
            }
            world.drive(&store, 1);
        }
        assert!(store.status().merging.merges >= round);
        let live = database.live().0;
        let points = read_all(&database).series.into_values().next().unwrap();
        let (first, last) = (points.keys().next().unwrap(), points.keys().last().unwrap());
        assert!(live.contains(*first));
        let expected = points.len() as u64;
        assert_eq!(count(&database, TimeRange::ALL), expected);
        let recent = points.range(begin..).count() as i64;
        assert_eq!(recent, (last - begin) / (1000 * MS) + 1 + late.len() as i64);
        if round < 3 {
            // Everything so far goes.
            fill(&mut world, &store, &database, 15_000);
        }
    }
    assert!(store.status().databases[0].retention.volumes_freed > 4);
}

#[test]
fn a_long_query_reads_what_expires_meanwhile_as_absent() {
    let mut world = World::new(9);
    let store = world.open();
    let database = world.database(&store, by_age(10_000_000, KeepAggregates::Same));
    fill(&mut world, &store, &database, 9_000);
    let snapshot = database.snapshot();
    let info = snapshot.select(&Selector::default()).unwrap().remove(0);
    let series = snapshot.series(&info);
    let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
    let mut stats = ReadStats::default();
    let mut column = Column::new(series.kind());
    assert!(cursor.next_batch(&mut stats, &mut column).unwrap());
    let mut times = column.times.clone();
    fill(&mut world, &store, &database, 9_000);
    let cut = database.live().0.begin();
    assert!(store.status().databases[0].retention.volumes_freed > 0);
    while cursor.next_batch(&mut stats, &mut column).unwrap() {
        times.extend(&column.times);
    }
    assert!(times.is_sorted());
    assert!(stats.expired_pages > 0 && times.len() < 9_000);
    // Nothing is missing of what lives.
    let live = times.iter().filter(|t| **t >= cut).count() as i64;
    let last = EPOCH + (world.now - 9_000_000) * MS;
    assert_eq!(live, (last - cut) / (1000 * MS) + 1);
}

#[test]
fn changed_settings_are_logged() {
    let mut world = World::new(10);
    let mut store = world.open();
    drop(world.database(&store, Retention::default()));
    for (n, checkpoint) in [false, true, false].into_iter().enumerate() {
        let retention = Retention {
            max_disk: Some((1 << 20) + n as u64),
            ..by_age(1000 + n as i64, KeepAggregates::Ever)
        };
        let changed = store.set_retention("db", retention).unwrap();
        world.wait(&store, changed);
        if checkpoint {
            let commit = store.checkpoint();
            world.wait(&store, commit);
        }
        drop(store);
        world.device = world.device.crash();
        store = world.open();
        let settings = store.database("db").unwrap().settings();
        assert_eq!(settings.retention, retention);
    }
}
