//! When a checkpoint comes, how long the chain of its tails files gets, and what is in it no longer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::ops::Range;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{Commit, Database, Device, Store, StoreConfig};
use alluvium_types::{TimeRange, Value};
use model::{Dice, Line, Model, Removal, read_all, same, write};

const MS: u64 = 1_000_000;

struct World {
    device: Arc<SimDevice>,
    clock: Arc<SimClock>,
    store: Store,
    dice: Dice,
}

impl World {
    fn open(device: Arc<SimDevice>, config: StoreConfig) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let below: Arc<dyn Device> = Arc::<SimDevice>::clone(&device);
        let store = Store::open(below, Arc::<SimClock>::clone(&clock) as _, config).unwrap();
        Self {
            device,
            clock,
            store,
            dice: Dice(9),
        }
    }

    fn new(config: StoreConfig) -> Self {
        let sim = SimConfig {
            lanes: 3,
            latency_drives_max: 1,
            ..SimConfig::default()
        };
        Self::open(SimDevice::new(6, sim), config)
    }

    /// So many drives, a millisecond apart.
    fn drive(&self, turns: u64) {
        for _ in 0..turns {
            self.store.drive();
            self.clock.advance_ns(MS);
        }
    }

    fn settle(&self, mut commit: Commit) {
        for _ in 0..100_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                result.unwrap();
                return;
            }
            self.drive(1);
        }
        panic!("a commit neither ended nor failed");
    }

    fn create(&self, name: &str) -> Database {
        let (database, created) = self.store.create_database(name).unwrap();
        self.settle(created);
        database
    }

    fn write(&self, database: &Database, lines: &[Line]) {
        self.settle(write(database, lines, None).unwrap());
    }

    /// So many points of each host, hard to pack.
    fn fill(&mut self, hosts: Range<u32>, points: i64) -> Vec<Line> {
        let mut lines = Vec::new();
        for time in 0..points {
            for host in hosts.clone() {
                let value = self.dice.roll() as f64;
                lines.push(line(host, time, value));
            }
        }
        lines
    }

    fn tails_files(&self) -> usize {
        let files = self.device.list("").unwrap();
        let is_one = |name: &str| name.starts_with("tails.");
        files.iter().filter(|f| is_one(&f.name)).count()
    }

    fn checkpoints(&self) -> u64 {
        self.store.status().checkpoints
    }
}

fn line(host: u32, time: i64, value: f64) -> Line {
    let fields = vec![("f", Value::F64(value))];
    Line { host, time, fields }
}

fn config() -> StoreConfig {
    StoreConfig {
        memory_bytes: 64 << 20,
        segment_bytes: 1 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

/// A checkpoint writes the tails of what has changed, into a file behind those of the ones before it, eight in all; the next
/// one writes all tails anew. Both superblocks' files are there, and no others.
#[test]
fn tails_are_chained_eight_deep_and_then_written_anew() {
    let mut world = World::new(config());
    let chain_max = config().tail_chain_max;
    assert_eq!(chain_max, 8);
    let database = world.create("db");
    let lines = world.fill(0..300, 60);
    world.write(&database, &lines);
    let mut model = Model::default();
    model.apply(&lines);
    world.settle(world.store.checkpoint());
    let all = world.store.status().tails.0;
    let (mut anew, mut before) = (0, all);
    for n in 1..=40_u64 {
        let lines = [line((n % 7) as u32, 1_000 + n as i64, 0.5)];
        world.write(&database, &lines);
        model.apply(&lines);
        world.settle(world.store.checkpoint());
        let (files, now) = (world.tails_files(), world.store.status().tails.0);
        if now < before {
            anew += 1;
        } else {
            assert!(
                now - before < all / 50,
                "{now} bytes, {before} before, one of 300 changed"
            );
        }
        // The chain that begins anew, beside the one that the superblock before names.
        assert!(files <= chain_max + 1, "{files} files of tails");
        assert!(
            now < all * 5 / 4,
            "{now} bytes of tails, {all} of all series"
        );
        before = now;
    }
    assert_eq!(anew, 40 / chain_max, "chains that began anew");
    drop((database, world.store));
    let world = World::open(world.device.crash(), config());
    same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
}

/// What was dropped or deleted is in no tails file any more once they have been written anew.
#[test]
fn what_is_gone_leaves_the_tails() {
    let short = StoreConfig {
        tail_chain_max: 2,
        ..config()
    };
    let mut world = World::new(short);
    let (stays, goes) = (world.create("stays"), world.create("goes"));
    let few = world.fill(0..10, 60);
    world.write(&stays, &few);
    world.settle(world.store.checkpoint());
    let small = world.store.status().tails.0;
    let lines = world.fill(10..310, 60);
    world.write(&goes, &lines);
    world.write(&stays, &lines);
    world.settle(world.store.checkpoint());
    let large = world.store.status().tails.0;
    assert!(large > small * 20, "{large} bytes, {small} before");
    let anew = |world: &World| {
        for n in 0..3 {
            world.write(&stays, &[line(0, 1_000 + n, 1.0)]);
            world.settle(world.store.checkpoint());
        }
        world.store.status().tails.0
    };
    world.settle(world.store.drop_database("goes").unwrap());
    let dropped = anew(&world);
    assert!(dropped < large * 6 / 10, "{dropped} bytes, {large} with it");
    let removal = Removal {
        hosts: Some((10..310).collect()),
        field: None,
        range: TimeRange::ALL,
        above: None,
    };
    let deleted = stays.delete(&removal.request()).unwrap();
    world.settle(deleted.commit);
    let deleted = anew(&world);
    assert!(deleted < small * 3 / 2, "{deleted} bytes, {small} without");
}

/// Five minutes after the last one, if anything has changed.
#[test]
fn a_checkpoint_comes_after_five_minutes_if_anything_has_changed() {
    let world = World::new(config());
    let database = world.create("db");
    let second = |world: &World| {
        world.clock.advance_ns(1_000 * MS);
        world.drive(10);
    };
    for round in 0..3 {
        world.settle(world.store.checkpoint());
        world.write(&database, &[line(1, round, 1.0)]);
        let before = world.checkpoints();
        (0..290).for_each(|_| second(&world));
        assert_eq!(world.checkpoints(), before, "not before five minutes");
        (0..15).for_each(|_| second(&world));
        assert_eq!(world.checkpoints(), before + 1);
        (0..400).for_each(|_| second(&world));
        assert_eq!(world.checkpoints(), before + 1, "nothing has changed");
    }
}

/// When the log has grown by what the setting says, but not before it has grown by twice what the tails are that a
/// checkpoint would write.
#[test]
fn a_checkpoint_comes_when_the_log_has_grown_past_the_setting_and_twice_the_changed_tails() {
    for hosts in [1_u32, 600] {
        let limit = 96 << 10;
        let mut world = World::new(StoreConfig {
            checkpoint_log_bytes: limit,
            ..config()
        });
        let database = world.create("db");
        let lines = world.fill(0..hosts, 60);
        world.write(&database, &lines);
        world.settle(world.store.checkpoint());
        // The second trims what the first has.
        world.settle(world.store.checkpoint());
        let tails = world.store.status().tails.0;
        // Each of them gets a point.
        let touch: Vec<Line> = (0..hosts).map(|host| line(host, 1_000, 0.25)).collect();
        let floor = world.store.status().log.0;
        world.write(&database, &touch);
        let before = world.checkpoints();
        let (mut grown, mut n) = (0, 0);
        while world.checkpoints() == before {
            grown = world.store.status().log.0 - floor;
            assert!(grown < (limit + tails) * 10, "no checkpoint comes");
            n += 1;
            world.write(&database, &[line(0, 1_000 + n, 0.5)]);
            world.drive(30);
        }
        println!("{hosts} hosts: {tails} bytes of tails, the log had grown by {grown}");
        if hosts == 1 {
            let about = limit - (16 << 10)..limit + (16 << 10);
            assert!(about.contains(&grown), "{grown} bytes");
        } else {
            assert!(tails > limit * 2, "too small to tell: {tails}");
            assert!(grown > tails * 3 / 2, "{grown} bytes, {tails} of tails");
        }
    }
}

/// A clean stop is a checkpoint: the next opening has nothing to redo.
#[test]
fn a_clean_stop_leaves_nothing_to_redo() {
    let mut world = World::new(config());
    let database = world.create("db");
    let lines = world.fill(0..20, 60);
    world.write(&database, &lines);
    let mut model = Model::default();
    model.apply(&lines);
    let before = world.checkpoints();
    world.store.close().unwrap();
    assert_eq!(world.checkpoints(), before + 1);
    drop((database, world.store));
    let world = World::open(world.device.crash(), config());
    let report = world.store.recovery();
    assert!(report.clean);
    assert_eq!((report.sections, report.points), (0, 0));
    same(&model, &read_all(&world.store.database("db").unwrap())).unwrap();
}

/// Found by the crash simulator with thousands of series: behind the walk of a full checkpoint a series was put on the list of
/// the next one again, that one wrote it, and once more with a point that had come meanwhile; of the two records in its file an opening took
/// the first, and nothing redid the point.
#[test]
fn a_series_that_was_listed_twice_is_written_once() {
    const HOSTS: u64 = 2500;
    let short = StoreConfig {
        // One that begins anew, the one that writes it twice, and one by which the log of that is gone.
        tail_chain_max: 3,
        shards: 1,
        checkpoint_log_bytes: u64::MAX / 2,
        ..config()
    };
    let mut world = World::new(short.clone());
    let database = world.create("db");
    let mut model = Model::default();
    let lines = world.fill(0..HOSTS as u32, 1);
    world.write(&database, &lines);
    model.apply(&lines);
    let mut time = 10;
    for round in 0..9 {
        let mut checkpoint = world.store.checkpoint();
        let mut commits = Vec::new();
        while checkpoint.poll(Waker::noop()).is_pending() {
            time += 1;
            // Nothing beside every third, which is behind the one that writes it twice: what came then would be written once
            // more, with all that is missing.
            if round % 3 != 1 && commits.len() < 60 {
                let host = |dice: &mut Dice| line(dice.below(HOSTS) as u32, time, 1.0);
                let lines: Vec<Line> = (0..200).map(|_| host(&mut world.dice)).collect();
                commits.push(write(&database, &lines, None).unwrap());
                model.apply(&lines);
            }
            world.drive(1);
        }
        commits.into_iter().for_each(|commit| world.settle(commit));
        // Nothing but what is behind the last checkpoint is redone.
        let copy = World::open(world.device.copy().crash(), short.clone());
        let found = read_all(&copy.store.database("db").unwrap());
        same(&model, &found).unwrap_or_else(|what| panic!("round {round}: {what}"));
    }
}
