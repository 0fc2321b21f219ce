//! A directory without superblock and manifests, with rotten inner pages: every point of whole leaves comes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::path::Path;
use std::sync::Arc;

use alluvium_io::{DeviceOptions, MemoryDevice};
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{Database, Device, Store, StoreConfig, salvage};
use alluvium_types::{TimeRange, Value};
use model::{Dice, Line, Model, Removal, batch, check_reads, read_all, same, write};

fn config(rows: u32) -> StoreConfig {
    StoreConfig {
        shards: 2,
        volume_bytes: 256 << 10,
        segment_bytes: 256 << 10,
        late_points_max: 100,
        merge_runs_max: 2,
        merge_late_points: 100,
        merge_quiet_ms: 1,
        index_segment_rows: rows,
        cache_percent: 1,
        memory_bytes: 64 << 20,
        ..StoreConfig::default()
    }
}

fn clock() -> Arc<SimClock> {
    Arc::new(SimClock::new(1_700_000_000_000_000_000))
}

fn device(dir: &Path) -> Arc<dyn Device> {
    let options = DeviceOptions {
        lanes: 3,
        ..DeviceOptions::default()
    };
    alluvium_io::open(dir, &options).unwrap()
}

/// Batches in order and late, long strings, checkpoints between them, and a log behind the last one.
fn fill(store: &Store, database: &Database) -> Model {
    let (mut dice, mut now, mut model) = (Dice(21), 1_000_000, Model::default());
    for round in 0..60 {
        let mut lines = batch(&mut dice, &mut now, 12, 150);
        lines.extend((0..1200).map(|i| Line {
            host: 0,
            time: now + i,
            fields: vec![("noise", Value::F64(dice.roll() as f64 / 3e15))],
        }));
        now += 1200;
        lines.push(Line {
            host: 1,
            time: now,
            fields: vec![("long", Value::Str(format!("{round} ").repeat(3000).into()))],
        });
        write(database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
        if round % 20 == 10 {
            store.checkpoint().wait().unwrap();
        }
        for _ in 0..50 {
            store.drive();
        }
    }
    model
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Flips a byte in every page of this kind; returns how many there were.
fn rot(dir: &Path, kind: u8) -> u64 {
    let mut flipped = 0;
    for file in std::fs::read_dir(dir.join("vol")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for (number, page) in bytes.chunks_exact(4096).enumerate() {
            if page[4] == kind && page.iter().any(|b| *b != 0) {
                flip(&path, number as u64 * 4096 + 500);
                flipped += 1;
            }
        }
    }
    flipped
}

/// Destroys what stands above the leaves. Manifests go with `manifests`.
fn destroy(dir: &Path, manifests: bool) {
    std::fs::write(dir.join("superblock"), vec![7; 2 << 20]).unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if manifests && name.starts_with("manifest.") {
            std::fs::write(&path, b"gone").unwrap();
        }
    }
    assert!(rot(dir, 2) > 0, "there are inner pages");
}

fn run(rows: u32, manifests: bool, names: &[&str]) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = {
        let device = device(dir.path());
        let store = Store::open(Arc::clone(&device), clock(), config(rows)).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        fill(&store, &database)
    };
    destroy(dir.path(), manifests);
    let source = device(dir.path());
    assert!(Store::open(Arc::clone(&source), clock(), config(rows)).is_err());
    let target: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let report = salvage(&source, &target, clock(), config(rows)).unwrap();
    assert!(
        report.damaged_pages > 0 && report.leaves > 100,
        "{report:?}"
    );
    assert_eq!(
        (report.unnamed_series, report.lost_texts),
        (0, 0),
        "{report:?}"
    );
    let store = Store::open(target, clock(), config(rows)).unwrap();
    // Its name may stand in the log only, which may have been trimmed.
    let found = &store.databases()[0].name;
    assert!(names.contains(&found.as_str()), "{found}");
    let database = store.database(found).unwrap();
    same(&read_all(&database), &model).unwrap();
    check_reads(&database, &model, &mut Dice(5));
}

#[test]
fn without_superblock_and_inner_pages_everything_comes_back() {
    run(65_536, false, &["db"]);
}

#[test]
fn without_manifests_too_definitions_name_all_but_the_database() {
    run(65_536, true, &["db", "database-1"]);
}

#[test]
fn rows_of_index_segments_have_their_names() {
    run(4, false, &["db"]);
}

/// The pages of a kind, those of one series: file, number, series.
fn pages(dir: &Path, kind: u8) -> Vec<(std::path::PathBuf, u64, [u8; 8])> {
    let mut pages = Vec::new();
    for file in std::fs::read_dir(dir.join("vol")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for (number, page) in bytes.chunks_exact(4096).enumerate() {
            if page[4] == kind && page.iter().any(|b| *b != 0) {
                let series = page[24..32].try_into().unwrap();
                pages.push((path.clone(), number as u64, series));
            }
        }
    }
    pages
}

/// Every third leaf of the series with the most of them, which was written in order: its points are missing, the report counts the
/// pages, and of no other series is anything missing.
#[test]
fn rotten_leaves_take_their_own_points_only() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = {
        let device = device(dir.path());
        let store = Store::open(Arc::clone(&device), clock(), config(65_536)).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        let model = fill(&store, &database);
        store.close().unwrap();
        model
    };
    let leaves = pages(dir.path(), 1);
    let of = |series| leaves.iter().filter(|(.., s)| *s == series).count();
    let largest = leaves.iter().map(|(.., s)| *s).max_by_key(|s| of(*s));
    let chosen = leaves.iter().filter(|(.., s)| Some(*s) == largest);
    let rotten: Vec<_> = chosen.step_by(3).collect();
    assert!(rotten.len() > 10, "{} leaves", rotten.len());
    for (path, number, _) in &rotten {
        flip(path, number * 4096 + 500);
    }
    let source = device(dir.path());
    let target: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let report = salvage(&source, &target, clock(), config(65_536)).unwrap();
    assert_eq!(report.damaged_pages, rotten.len() as u64, "{report:?}");
    let store = Store::open(target, clock(), config(65_536)).unwrap();
    let mut found = read_all(&store.database("db").unwrap());
    let mut expected = model;
    let has_noise = |key: &&(u32, String, bool)| key.0 == 0 && key.1 == "noise";
    let key = expected.series.keys().find(has_noise).unwrap().clone();
    let written = expected.series.remove(&key).unwrap();
    let left = found.series.remove(&key).unwrap();
    same(&found, &expected).unwrap();
    let right = |(time, value): (&i64, &Value)| {
        let wanted = written.get(time).map(Value::as_ref);
        wanted.is_some_and(|wanted| wanted.same(value.as_ref()))
    };
    assert!(left.iter().all(right));
    let missing = written.len() - left.len();
    assert!(
        missing > rotten.len() * 50 && missing < written.len() / 2,
        "{missing} of {} are missing with {} leaves",
        written.len(),
        rotten.len()
    );
}

#[test]
fn lost_names_are_told() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = {
        let device = device(dir.path());
        let store = Store::open(Arc::clone(&device), clock(), config(65_536)).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        let mut model = fill(&store, &database);
        let removal = Removal {
            hosts: Some(vec![5]),
            field: None,
            range: TimeRange::ALL,
            above: None,
        };
        database
            .delete(&removal.request())
            .unwrap()
            .commit
            .wait()
            .unwrap();
        model.remove(&removal);
        store.close().unwrap();
        model
    };
    destroy(dir.path(), true);
    // No names but those of leaves and tails.
    for file in std::fs::read_dir(dir.path())
        .unwrap()
        .chain(std::fs::read_dir(dir.path().join("wal")).unwrap())
    {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.contains("series.") || path.parent().unwrap().ends_with("wal") {
            std::fs::remove_file(&path).unwrap();
        }
    }
    let source = device(dir.path());
    let target: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let report = salvage(&source, &target, clock(), config(65_536)).unwrap();
    assert_eq!(
        (report.unnamed_series, report.unnamed_databases),
        (report.series, 1),
        "{report:?}"
    );
    let points: usize = model
        .series
        .values()
        .map(std::collections::BTreeMap::len)
        .sum();
    assert!(
        report.points >= points as u64,
        "{report:?}, {points} points"
    );
    let store = Store::open(target, clock(), config(65_536)).unwrap();
    let database = store.database("database-1").unwrap();
    let names = database
        .measurements(&alluvium_store::Selector::default())
        .unwrap();
    assert_eq!(names, [alluvium_store::SALVAGED_MEASUREMENT]);
}

/// What the device refuses to read costs what was in it, and nothing beside it: blocks of the log, and manifests, which a
/// salvage can do without.
#[test]
fn blocks_that_cannot_be_read_cost_what_is_in_them() {
    const BATCHES: i64 = 60;
    let sim = SimConfig {
        lanes: 3,
        ..SimConfig::default()
    };
    let disk = SimDevice::new(1, sim);
    let source: Arc<dyn Device> = Arc::<SimDevice>::clone(&disk);
    let config = StoreConfig {
        shards: 1,
        ..config(1 << 20)
    };
    {
        let store = Store::open(Arc::clone(&source), clock(), config.clone()).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        for time in 0..BATCHES {
            let line = |host| Line {
                host,
                time,
                fields: vec![("f", Value::F64(time as f64))],
            };
            let lines: Vec<Line> = (0..12).map(line).collect();
            write(&database, &lines, None).unwrap().wait().unwrap();
        }
    }
    let spoil = |dir: &str, prefix: &str, block: u64| {
        for file in source.list(dir).unwrap() {
            if file.name.starts_with(prefix) && file.len > block * 4096 {
                let path = Path::new(dir).join(&file.name);
                assert!(disk.spoil(path.to_str().unwrap(), block * 4096));
            }
        }
    };
    // A batch of the first segment of each stream, behind those that define.
    spoil("wal", "0", 20);
    spoil("", "manifest.", 0);
    let target: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let report = salvage(&source, &target, clock(), config.clone()).unwrap();
    let bad = |name: &str| report.bad_files.iter().any(|b| b.contains(name));
    assert!(bad("manifest."), "{:?}", report.bad_files);
    assert!(report.missing_frames > 0);
    let store = Store::open(target, clock(), config).unwrap();
    let found = read_all(&store.database("db").unwrap());
    let points = found.series.values().map(|s| s.len() as i64).sum::<i64>();
    let all = 12 * BATCHES;
    assert!((all - 24..all).contains(&points), "{points} of {all}");
}
