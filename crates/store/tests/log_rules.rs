//! Rules of the log that only a whole store can show: what is logged where points are not, and what an idle shard declares.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_io::{AlignedBuf, Completion, Lane, Op, OpenMode, Read};
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Commit, Database, DatabaseSettings, Delete, DeleteSelection, Device, Durability, Label,
    Matcher, OpenError, Selector, Store, StoreConfig, Test,
};
use alluvium_types::{SeriesId, TimeRange, Value};
use alluvium_wal::LogError;
use model::{Line, Model, read_all, same, write};

const MS: u64 = 1_000_000;
/// A block of the log: every frame of these tests takes one.
const FRAME: u64 = 4096;
/// What every frame begins with.
const MAGIC: &[u8] = b"ALVF";

#[derive(Debug)]
struct World {
    device: Arc<SimDevice>,
    clock: Arc<SimClock>,
}

impl World {
    /// A disk on which an operation takes one drive.
    fn new(seed: u64) -> Self {
        let sim = SimConfig {
            lanes: 5,
            latency_drives_max: 1,
            append_only: Some("wal/"),
            ..SimConfig::default()
        };
        Self {
            device: SimDevice::new(seed, sim),
            clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
        }
    }

    fn try_open(&self, shards: usize) -> Result<Store, OpenError> {
        let config = StoreConfig {
            shards,
            segment_bytes: 1 << 20,
            memory_bytes: 64 << 20,
            instance: Some([5; 16]),
            ..StoreConfig::default()
        };
        let device: Arc<dyn Device> = Arc::<SimDevice>::clone(&self.device);
        Store::open(device, Arc::<SimClock>::clone(&self.clock) as _, config)
    }

    fn open(&self, shards: usize) -> Store {
        self.try_open(shards).unwrap()
    }

    fn drive(&self, store: &Store, turns: u64) {
        for _ in 0..turns {
            store.drive();
            self.clock.advance_ns(MS);
        }
    }

    fn wait(&self, store: &Store, mut commit: Commit) {
        for _ in 0..10_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                result.unwrap();
                return;
            }
            self.drive(store, 1);
        }
        panic!("a commit neither ended nor failed");
    }

    fn create(&self, store: &Store, durability: Durability) -> Database {
        let settings = DatabaseSettings {
            durability,
            ..store.default_settings()
        };
        let (database, created) = store.create_database_with("db", settings).unwrap();
        self.wait(store, created);
        database
    }

    fn kill(&mut self) {
        self.device = self.device.kill();
    }

    fn cut(&mut self) {
        self.device = self.device.crash();
    }

    /// Blocks of a segment that begin as frames do, one behind the other.
    fn frames(&self, path: &str) -> u64 {
        let device: &dyn Device = &*self.device.copy();
        let run = |op| device.submit(Lane(0), op).wait(device, Lane(0)).unwrap();
        let opened = run(Op::Open {
            path: path.to_owned(),
            mode: OpenMode::default(),
        });
        let Completion::Opened { file, len } = opened else {
            panic!("{path} is not there")
        };
        let mut reads = [Read {
            file,
            offset: 0,
            into: AlignedBuf::zeroed(len as usize),
        }];
        device.read(&mut reads).unwrap();
        let blocks = reads[0].into.bytes().chunks(FRAME as usize);
        blocks.take_while(|block| block.starts_with(MAGIC)).count() as u64
    }
}

fn line(host: u32, time: i64, fields: &[&'static str]) -> Line {
    let value = |n: usize| match n % 2 {
        0 => Value::F64(time as f64),
        _ => Value::I64(time),
    };
    let fields = fields.iter().enumerate();
    Line {
        host,
        time,
        fields: fields.map(|(n, name)| (*name, value(n))).collect(),
    }
}

/// Every series by its names, with the number that packs partition, row, field and kind.
fn ids(database: &Database) -> BTreeMap<String, SeriesId> {
    let all = database.snapshot().select(&Selector::default()).unwrap();
    all.into_iter()
        .map(|info| (format!("{} {}", info.key, info.field), info.id))
        .collect()
}

fn delete_host(database: &Database, host: u32) -> Commit {
    let names = vec![format!("h{host}")];
    let selector = Selector {
        matchers: vec![Matcher::new(Label::Tag("host".into()), Test::In(names))],
    };
    let selections = vec![DeleteSelection {
        selector,
        tag_sets: None,
    }];
    let request = Delete {
        selections,
        range: TimeRange::ALL,
        test: None,
    };
    database.delete(&request).unwrap().commit
}

const FIELDS: [&str; 4] = ["f", "i", "b", "s"];

/// Where points are not logged, rows, fields and deletes are: whoever comes back, in whatever order and after however many
/// ends, has the number he had, and what was deleted stays so.
#[test]
fn rows_and_fields_have_the_same_numbers_after_every_replay_where_points_are_not_logged() {
    let mut world = World::new(3);
    let store = world.open(2);
    let database = world.create(&store, Durability::None);
    let mut model = Model::default();
    // A part of the names is in the checkpoint, with its points.
    let early: Vec<Line> = (0..30)
        .map(|host| line(host, 10 + i64::from(host), &FIELDS[..2]))
        .collect();
    write(&database, &early, None).unwrap().wait().unwrap();
    model.apply(&early);
    world.wait(&store, store.checkpoint());
    // The rest is in the log alone, without its points, and so is the delete of a host that the checkpoint has.
    for host in 30..60 {
        let lines = [
            line(host, 100, &FIELDS[..3]),
            line(host % 30, 101, &FIELDS[3..]),
        ];
        write(&database, &lines, None).unwrap().wait().unwrap();
    }
    let before = ids(&database);
    world.wait(&store, delete_host(&database, 7));
    model.series.retain(|(host, ..), _| *host != 7);
    world.drive(&store, 20);
    drop((database, store));

    world.kill();
    for (shards, power_cut) in [(2, false), (3, true), (1, false), (4, true)] {
        let store = world.open(shards);
        let database = store.database("db").unwrap();
        same(&model, &read_all(&database)).unwrap();
        // In another order than the first time, and each field before the ones that it came behind.
        let back: Vec<Line> = (0..60)
            .rev()
            .map(|host| {
                let of: Vec<_> = if host < 30 {
                    [3, 1, 0].map(|n| FIELDS[n]).to_vec()
                } else {
                    [2, 1, 0].map(|n| FIELDS[n]).to_vec()
                };
                let mut back = line(host, 200 + i64::from(shards as u32), &of);
                for (name, value) in &mut back.fields {
                    // Of the kind that they had.
                    *value = match *name {
                        "i" => Value::I64(1),
                        _ => Value::F64(0.5),
                    };
                }
                back
            })
            .collect();
        write(&database, &back, None).unwrap().wait().unwrap();
        assert_eq!(ids(&database), before);
        drop((database, store));
        // The points just written are in no log: they are gone again, the names are not.
        if power_cut {
            world.cut();
        } else {
            world.kill();
        }
    }
    // A point that is logged needs the definitions before it, which nobody waited for.
    let store = world.open(2);
    let database = store.database("db").unwrap();
    let unlogged = [line(80, 300, &FIELDS[..1])];
    drop(write(&database, &unlogged, None).unwrap());
    let logged = [line(80, 301, &FIELDS[..1])];
    world.wait(
        &store,
        write(&database, &logged, Some(Durability::Sync)).unwrap(),
    );
    model.apply(&logged);
    drop((database, store));
    world.cut();
    let store = world.open(2);
    same(&model, &read_all(&store.database("db").unwrap())).unwrap();
}

const FIRST: &str = "wal/00000001-0000.00000001";

/// The last acknowledged frame is declared within 100 ms by one empty frame, so that rot in it is not taken for the torn end
/// of a write that nobody was told of; then the log rests.
#[test]
fn an_idle_shard_declares_what_it_flushed_once_and_within_100_ms() {
    for (level, flushed_ms) in [
        (Durability::Sync, 0),
        // The frame that flushes what was written before is the one to declare.
        (Durability::Interval { ms: 250 }, 250),
    ] {
        let world = World::new(4);
        let store = world.open(1);
        let database = world.create(&store, level);
        world.drive(&store, 400);
        let written = |n: i64| {
            let commit = write(&database, &[line(1, n, &["f"])], None).unwrap();
            world.wait(&store, commit);
        };
        (1..=3).for_each(written);
        let before = world.frames(FIRST);
        let undeclared = world.device.copy();
        world.drive(&store, flushed_ms + 80);
        let flushing = u64::from(flushed_ms > 0);
        if flushing == 0 {
            assert_eq!(world.frames(FIRST), before, "somebody may still write");
        }
        world.drive(&store, 30);
        let declared = world.frames(FIRST);
        assert_eq!(declared, before + flushing + 1, "{level}");
        let pages = world.device.pages_written();
        world.drive(&store, 20_000);
        assert_eq!(world.frames(FIRST), declared, "and none after it");
        assert_eq!(world.device.pages_written(), pages);

        drop((database, store));
        // Now rot in the last frame with points is told.
        for byte in [12, 80] {
            let rotten = World {
                device: world.device.copy(),
                clock: Arc::clone(&world.clock),
            };
            let offset = (before - 1) * FRAME + byte;
            assert!(rotten.device.flip_bit(FIRST, offset, 2));
            let error = rotten.try_open(1).unwrap_err();
            assert!(
                matches!(
                    &error,
                    OpenError::Log(LogError::Damaged { offset, .. }) if *offset == (before - 1) * FRAME
                ),
                "{level}: {error}"
            );
        }
        if flushing > 0 {
            continue;
        }
        // Without the declaration it cannot be.
        let rotten = World {
            device: undeclared,
            clock: Arc::clone(&world.clock),
        };
        let offset = (before - 1) * FRAME + 80;
        assert!(rotten.device.flip_bit(FIRST, offset, 2));
        let found = read_all(&rotten.open(1).database("db").unwrap());
        assert_eq!(found.series.values().map(BTreeMap::len).sum::<usize>(), 2);
    }
}
