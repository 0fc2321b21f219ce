//! Merging as an operator meets it: paused, going on, quiet series, databases that are dropped meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{Database, ReadStats, Selector, Store, StoreConfig, SystemClock, TimeRange};
use alluvium_types::Value;
use model::{Dice, Line, Model, Removal, read_all, same, write};

fn config() -> StoreConfig {
    StoreConfig {
        shards: 1,
        late_points_max: 100,
        merge_runs_max: 2,
        merge_late_points: 100,
        merge_quiet_ms: 0,
        merge_slice_pages: 1,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: &Arc<MemoryDevice>, config: StoreConfig) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config).unwrap()
}

fn create(store: &Store, name: &str) -> Database {
    let (database, created) = store.create_database(name).unwrap();
    created.wait().unwrap();
    database
}

/// Points that hardly compress, so that few make many pages.
fn lines(times: impl Iterator<Item = i64>) -> Vec<Line> {
    let line = |time: i64| Line {
        host: 1,
        time,
        fields: vec![("f", Value::F64((time as f64).sqrt()))],
    };
    times.map(line).collect()
}

/// Five thousand points of even times, then every tenth odd one.
fn fill(database: &Database) -> Model {
    let mut model = Model::default();
    for lines in [
        lines((0..10_000).step_by(2)),
        lines((1..10_000).step_by(20)),
    ] {
        write(database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
    }
    model
}

fn settle(store: &Store) {
    let mut turns = 0;
    while store.status().merging.series_waiting > 0 {
        store.drive();
        turns += 1;
        assert!(turns < 1_000_000, "{:?}", store.status().merging);
    }
}

/// Points that an aggregate over everything decodes.
fn decoded(database: &Database) -> u64 {
    let snapshot = database.snapshot();
    let all = snapshot.select(&Selector::default()).unwrap();
    let mut stats = ReadStats::default();
    let series = snapshot.series(&all[0]);
    series.aggregate(TimeRange::ALL, &mut stats).unwrap();
    stats.points_decoded
}

/// A merge that had read its sources before a delete: what it would publish has the deleted points.
#[test]
fn a_delete_in_the_middle_of_a_merge_stays() {
    let ranges = [
        TimeRange::new(2000, 6000).unwrap(),
        TimeRange::new(0, 4500).unwrap(),
        TimeRange::ALL,
    ];
    for range in ranges {
        let config = StoreConfig {
            merge_paused: true,
            ..config()
        };
        let store = open(&Arc::new(MemoryDevice::new(2)), config);
        let database = create(&store, "db");
        // Runs side by side: of the older one nothing is left then, and the delete seems to be needed by nobody.
        let mut model = Model::default();
        for lines in [
            lines((5_000..15_000).step_by(2)),
            lines((0..4_000).step_by(2)),
        ] {
            write(&database, &lines, None).unwrap().wait().unwrap();
            model.apply(&lines);
        }
        for _ in 0..1000 {
            store.drive();
        }
        store.pause_merging(false);
        for _ in 0..4 {
            store.drive();
        }
        assert_eq!(store.status().merging.merges, 0, "not in the middle of it");
        store.pause_merging(true);
        let removal = Removal {
            hosts: None,
            field: None,
            range,
            above: None,
        };
        let deleted = database.delete(&removal.request()).unwrap();
        deleted.commit.wait().unwrap();
        model.remove(&removal);
        // The delete is forgotten as soon as nothing seems to need it.
        for _ in 0..3 {
            store.checkpoint().wait().unwrap();
        }
        store.pause_merging(false);
        settle(&store);
        same(&read_all(&database), &model).unwrap();
        for _ in 0..3 {
            store.checkpoint().wait().unwrap();
        }
        same(&read_all(&database), &model).unwrap();
    }
}

#[test]
fn it_pauses_and_goes_on_and_aggregates_are_used_again() {
    let config = StoreConfig {
        merge_paused: true,
        ..config()
    };
    let device = Arc::new(MemoryDevice::new(2));
    let store = open(&device, config.clone());
    let database = create(&store, "db");
    let model = fill(&database);
    for _ in 0..1000 {
        store.drive();
    }
    let status = store.status().merging;
    assert!(status.paused);
    assert_eq!((status.merges, status.series_waiting), (0, 1));
    assert!(decoded(&database) > 5000);
    store.pause_merging(false);
    for _ in 0..3 {
        store.drive();
    }
    let status = store.status().merging;
    assert!(
        status.merges == 0 && status.runs_waiting >= 2 && status.points_waiting >= 500,
        "{status:?}"
    );
    // In the middle of it.
    store.pause_merging(true);
    same(&read_all(&database), &model).unwrap();
    store.pause_merging(false);
    settle(&store);
    let status = store.status().merging;
    assert!(status.merges > 0 && status.pages_dead > 0, "{status:?}");
    assert_eq!((status.failed, status.points_waiting), (0, 0));
    let left = decoded(&database);
    assert!(left < 1024, "{left} points decoded after merging");
    same(&read_all(&database), &model).unwrap();
    // What is on the list comes back with the series.
    let more = lines((5..10_000).step_by(20));
    store.pause_merging(true);
    write(&database, &more, None).unwrap().wait().unwrap();
    store.close().unwrap();
    drop((database, store));
    let store = open(&device, config);
    for _ in 0..10 {
        store.drive();
    }
    assert_eq!(store.status().merging.series_waiting, 1);
    store.pause_merging(false);
    settle(&store);
    assert!(decoded(&store.database("db").unwrap()) < 1024);
}

#[test]
fn the_late_points_of_a_quiet_series_are_merged_too() {
    let store = open(&Arc::new(MemoryDevice::new(2)), config());
    let database = create(&store, "db");
    let mut model = Model::default();
    for lines in [lines((0..10_000).step_by(2)), lines((1..4000).step_by(100))] {
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
    }
    assert!(decoded(&database) > 1900, "they are in the buffer");
    for _ in 0..10 {
        store.drive();
    }
    settle(&store);
    assert_eq!(store.status().merging.merges, 1);
    let left = decoded(&database);
    assert!(left < 1024, "{left} points decoded after merging");
    same(&read_all(&database), &model).unwrap();
}

#[test]
fn a_database_may_be_dropped_in_the_middle_of_a_merge() {
    for turns in 0..12 {
        let device = Arc::new(MemoryDevice::new(2));
        let store = open(&device, config());
        let (gone, kept) = (create(&store, "gone"), create(&store, "kept"));
        fill(&gone);
        let model = fill(&kept);
        for _ in 0..turns {
            store.drive();
        }
        store.drop_database("gone").unwrap().wait().unwrap();
        drop(gone);
        let again = create(&store, "gone");
        settle(&store);
        store.checkpoint().wait().unwrap();
        let status = store.status();
        assert_eq!(status.merging.failed, 0);
        let empty = status.databases.iter().find(|d| d.name == "gone").unwrap();
        assert_eq!((empty.leaves.pages, empty.inners.pages), (0, 0));
        drop((again, kept));
        drop(store);
        let store = open(&device, config());
        same(&read_all(&store.database("kept").unwrap()), &model).unwrap();
    }
}

/// A tenth of the points late by up to a thousand others, and deletes of what is still open: late points that a delete
/// hides in the first run stay away from it, all others take their place there and nothing is to be merged.
#[test]
fn late_points_among_the_newest_make_no_runs() {
    for deletes in [false, true] {
        let device = Arc::new(MemoryDevice::new(2));
        let config = StoreConfig {
            late_points_max: 1000,
            merge_quiet_ms: 1_000_000,
            ..config()
        };
        let store = open(&device, config.clone());
        let database = create(&store, "db");
        let mut dice = Dice(7);
        let mut model = Model::default();
        let mut arrivals: Vec<(i64, i64)> = (0..20_000)
            .map(|time| {
                let is_late = dice.below(10) == 0;
                let delay = if is_late { dice.below(1000) as i64 } else { 0 };
                (time + delay, time)
            })
            .collect();
        arrivals.sort_unstable();
        for (n, batch) in arrivals.chunks(250).enumerate() {
            let mut written = lines(batch.iter().map(|(_, time)| *time));
            if n % 3 == 0 {
                // Some points are written again, with another value.
                let again = lines(batch.iter().rev().take(9).map(|(_, t)| *t - 300));
                written.extend(again.into_iter().map(|mut line| {
                    line.fields = vec![("f", Value::F64(n as f64))];
                    line
                }));
            }
            write(&database, &written, None).unwrap().wait().unwrap();
            model.apply(&written);
            if deletes && n % 20 == 19 {
                let newest = batch[batch.len() - 1].0;
                let removal = Removal {
                    hosts: None,
                    field: None,
                    range: TimeRange::new(newest - 700, newest - 400).unwrap(),
                    above: None,
                };
                let deleted = database.delete(&removal.request()).unwrap();
                deleted.commit.wait().unwrap();
                model.remove(&removal);
                // Back into the hole.
                let back = lines((newest - 650..newest - 600).step_by(7));
                write(&database, &back, None).unwrap().wait().unwrap();
                model.apply(&back);
            }
            store.drive();
        }
        same(&read_all(&database), &model).unwrap();
        if !deletes {
            let runs = store.status().merging.runs_waiting;
            assert!(runs <= 1, "{:?}", store.status().merging);
        }
        store.close().unwrap();
        drop((database, store));
        let store = open(&device, config);
        let database = store.database("db").unwrap();
        same(&read_all(&database), &model).unwrap();
    }
}
