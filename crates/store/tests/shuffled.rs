//! A store in memory against a naive one: any order, rewrites, siblings, checkpoints, clean restarts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{Store, StoreConfig, SystemClock};
use model::{Dice, Model, check_reads, late_batch, read_all, same, write};

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        late_points_max: 50,
        merge_runs_max: 2,
        merge_late_points: 100,
        merge_quiet_ms: 1,
        merge_slice_pages: 2,
        tail_chain_max: 3,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: &Arc<MemoryDevice>, shards: usize) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config(shards)).unwrap()
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device, 2);
    let (mut database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut model = Model::default();
    let mut now = 1_000_000;
    for round in 0..40 {
        let lines = 1 + dice.below(400);
        let lines = late_batch(&mut dice, &mut now, 5, lines);
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
        match dice.below(6) {
            0 => {
                store.checkpoint().wait().unwrap();
            }
            1 => {
                store.close().unwrap();
                drop((database, store));
                // Another number of shards owns the same partitions.
                store = open(&device, 1 + dice.below(4) as usize);
                assert!(store.recovery().clean);
                database = store.database("db").unwrap();
            }
            _ => {}
        }
        if round % 5 == 4 {
            same(&read_all(&database), &model).unwrap();
            check_reads(&database, &model, &mut dice);
        }
    }
}

#[test]
fn equals_a_naive_store() {
    for seed in 1..=12 {
        println!("seed {seed}");
        run(seed * 0x9e37_79b9);
    }
}

#[test]
fn a_line_that_cannot_be_kept_costs_only_itself() {
    use alluvium_store::{RefusedLine, ValueRef};
    use alluvium_types::SeriesKey;

    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    let good = writer.resolve(b"m,host=h1", SeriesKey::new("m", [("host", "h1")]).unwrap());
    let long = writer.resolve(
        b"x",
        SeriesKey::new("x".repeat(65_537), [("a", "b")]).unwrap(),
    );
    let tags = (0..4097).map(|i| (format!("t{i}"), "v"));
    let many = writer.resolve(b"y", SeriesKey::new("y", tags).unwrap());
    assert!(matches!(
        writer.begin_line(long, 1),
        Err(RefusedLine::LongName { .. })
    ));
    assert!(matches!(
        writer.begin_line(many, 1),
        Err(RefusedLine::ManyTags { .. })
    ));
    assert_eq!(
        writer.begin_line(good, i64::MAX),
        Err(RefusedLine::ReservedTime)
    );
    writer.begin_line(good, 1).unwrap();
    let name = "f".repeat(65_537);
    assert!(matches!(
        writer.field(&name, ValueRef::I64(1)),
        Err(RefusedLine::LongName { .. })
    ));
    writer.cancel_line();
    writer.begin_line(good, 2).unwrap();
    // Of a field given twice the last wins, also with another kind.
    writer.field("f", ValueRef::F64(1.0)).unwrap();
    writer.field("b", ValueRef::Bool(true)).unwrap();
    writer.field("f", ValueRef::F64(2.0)).unwrap();
    writer.end_line().unwrap();
    assert_eq!(writer.lines(), 1);
    writer.commit(None).unwrap().wait().unwrap();
    let found = read_all(&database);
    let f = &found.series[&(1, "f".to_owned(), false)];
    assert_eq!(f.len(), 1);
    assert!(f[&2].as_ref().same(ValueRef::F64(2.0)));
    assert_eq!(found.series.len(), 2);
}

#[test]
fn a_pinned_log_outlives_checkpoints() {
    let config = StoreConfig {
        segment_bytes: 256 << 10,
        ..config(1)
    };
    let device = Arc::new(MemoryDevice::new(5));
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let (mut dice, mut now) = (Dice(5), 1_000_000);
    let mut grow = || {
        // More than a segment between checkpoints.
        for _ in 0..16 {
            let lines = late_batch(&mut dice, &mut now, 5, 1000);
            write(&database, &lines, None).unwrap().wait().unwrap();
        }
        store.checkpoint().wait().unwrap();
        store.checkpoint().wait().unwrap();
        store.status().log.0
    };
    grow();
    let unpinned = grow();
    let pin = store.pin_log();
    assert_eq!(pin.from().len(), 1);
    let pinned = grow();
    assert!(
        pinned > unpinned + (256 << 10),
        "{pinned} bytes kept by the pin, {unpinned} without"
    );
    drop(pin);
    assert!(grow() < pinned);
}

#[test]
fn keys_of_lines_that_are_all_refused_are_forgotten() {
    let device = Arc::new(MemoryDevice::new(5));
    let device: Arc<dyn alluvium_store::Device> = device;
    let config = StoreConfig {
        writer_cache_bytes_max: 1 << 20,
        ..config(2)
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    let index = |store: &Store| store.budget().used_by(alluvium_types::Owner::Index);
    let before = index(&store);
    for n in 0..100 {
        let key = alluvium_types::SeriesKey::new("x".repeat(70_000), [("n", n.to_string())]);
        let row = writer.resolve(format!("x,n={n}").as_bytes(), key.unwrap());
        assert!(writer.begin_line(row, 1).is_err());
        writer.clear();
        assert!(index(&store) <= before + (2 << 20), "after {n}");
    }
    assert!(index(&store) > before, "a few are remembered");
}
