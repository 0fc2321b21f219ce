//! Limits of how many series a database and its measurements may have.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Database, DatabaseSettings, Delete, DeleteSelection, Label, LeftOut, LeftOutLines, Matcher,
    RefusedLine, Selector, SeriesLimits, Store, StoreConfig, SystemClock, Test, ValueRef,
    WriteError, Writer,
};
use alluvium_types::{SeriesKey, TimeRange};

fn open(device: &Arc<MemoryDevice>) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    let config = StoreConfig {
        volume_bytes: 1 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    Store::open(device, Arc::new(SystemClock), config).unwrap()
}

/// Adds a line of one field for each host.
fn add(writer: &mut Writer, measurement: &str, hosts: std::ops::Range<u32>) {
    for host in hosts {
        let raw = format!("{measurement},host={host}");
        let row = writer.cached(raw.as_bytes()).unwrap_or_else(|| {
            let key = SeriesKey::new(measurement, [("host", host.to_string())]).unwrap();
            writer.resolve(raw.as_bytes(), key)
        });
        writer.begin_line(row, 1).unwrap();
        writer.field("v", ValueRef::I64(i64::from(host))).unwrap();
        writer.end_line().unwrap();
    }
}

/// As [`write`], all lines or none.
fn write_whole(
    database: &Database,
    measurement: &str,
    hosts: std::ops::Range<u32>,
) -> (u64, Option<u64>) {
    let mut writer = database.writer();
    add(&mut writer, measurement, hosts);
    match writer.commit_whole(None) {
        Ok(commit) => {
            assert_eq!(commit.left_out(), None);
            commit.wait().unwrap();
            (0, None)
        }
        Err(WriteError::Lines(left_out)) => limits_met(&left_out),
        Err(other) => panic!("{other}"),
    }
}

fn limited(store: &Store, database: u64, measurement: u64) -> Database {
    let settings = DatabaseSettings {
        series_limits: SeriesLimits {
            database: Some(database),
            measurement: Some(measurement),
        },
        ..store.default_settings()
    };
    let (database, created) = store.create_database_with("db", settings).unwrap();
    created.wait().unwrap();
    database
}

/// Writes one field for each host; returns how many lines were left out, and the limit that was met.
fn write(
    database: &Database,
    measurement: &str,
    hosts: std::ops::Range<u32>,
) -> (u64, Option<u64>) {
    let mut writer = database.writer();
    add(&mut writer, measurement, hosts);
    let commit = writer.commit(None).unwrap();
    let left_out = commit.left_out().map_or((0, None), limits_met);
    commit.wait().unwrap();
    left_out
}

/// How many lines, and the limit of the one reason.
fn limits_met(left_out: &LeftOutLines) -> (u64, Option<u64>) {
    match left_out.reasons() {
        [
            LeftOut {
                why: RefusedLine::TooManySeries(limit),
                lines,
                ..
            },
        ] => {
            assert_eq!(*lines, left_out.lines());
            (*lines, Some(limit.limit))
        }
        other => panic!("{other:?}"),
    }
}

fn series(database: &Database) -> usize {
    let all = database.snapshot().select(&Selector::default());
    all.unwrap().len()
}

#[test]
fn series_beyond_a_limit_are_left_out_and_the_rest_is_taken() {
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device);
    let limits = SeriesLimits {
        database: Some(500),
        measurement: Some(300),
    };
    let settings = DatabaseSettings {
        series_limits: limits,
        ..store.default_settings()
    };
    let (mut database, created) = store.create_database_with("db", settings).unwrap();
    created.wait().unwrap();
    assert_eq!(write(&database, "cpu", 0..200), (0, None));
    assert_eq!(write(&database, "cpu", 100..400), (100, Some(300)));
    // Those that are there take points; those left out left nothing behind.
    assert_eq!(write(&database, "cpu", 0..200), (0, None));
    assert_eq!(write(&database, "mem", 0..300), (100, Some(500)));
    assert_eq!(series(&database), 500);
    let report = database.cardinality(10, 10).unwrap();
    assert_eq!((report.tag_sets, report.series), (500, 500));

    for clean in [true, false] {
        if clean {
            store.close().unwrap();
        } else {
            store.checkpoint().wait().unwrap();
        }
        drop((database, store));
        store = open(&device);
        database = store.database("db").unwrap();
        assert_eq!(database.settings().series_limits, limits);
        assert_eq!(write(&database, "disk", 0..2), (2, Some(500)));
    }

    // What a delete takes makes room, a changed limit too, and both are remembered.
    let selector = Selector {
        matchers: vec![Matcher::new(Label::Measurement, Test::Equal("mem".into()))],
    };
    let selection = DeleteSelection {
        selector,
        tag_sets: None,
    };
    let delete = Delete {
        selections: vec![selection],
        range: TimeRange::ALL,
        test: None,
    };
    database.delete(&delete).unwrap().commit.wait().unwrap();
    assert_eq!(write(&database, "disk", 0..201), (1, Some(500)));
    let raised = SeriesLimits {
        database: None,
        ..limits
    };
    store
        .set_series_limits("db", raised)
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(write(&database, "net", 0..301), (1, Some(300)));
    store.close().unwrap();
    drop((database, store));
    let store = open(&device);
    let database = store.database("db").unwrap();
    assert_eq!(database.settings().series_limits, raised);
    assert_eq!(write(&database, "net", 301..302), (1, Some(300)));
    assert_eq!(series(&database), 300 + 200 + 300 + 1 - 1);
}

#[test]
fn a_tag_set_that_one_batch_spells_in_several_ways_counts_once() {
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device);
    let mut database = limited(&store, 500, 3);
    for whole in [false, true] {
        let mut writer = database.writer();
        let host = if whole { "b" } else { "a" };
        let key = SeriesKey::new("cpu", [("dc", "x"), ("host", host)]).unwrap();
        let spellings = ["cpu,dc=x,host=", "cpu,host=,dc=x", "cpu,dc=x,host=\\"];
        for (time, raw) in (1..).zip(spellings) {
            let raw = format!("{raw}{host}");
            let row = writer.resolve(raw.as_bytes(), key.clone());
            writer.begin_line(row, time).unwrap();
            writer.field("v", ValueRef::I64(time)).unwrap();
            writer.end_line().unwrap();
        }
        let commit = if whole {
            writer.commit_whole(None).unwrap()
        } else {
            writer.commit(None).unwrap()
        };
        assert_eq!(commit.left_out(), None);
        commit.wait().unwrap();
    }
    assert_eq!(series(&database), 2);
    assert_eq!(write(&database, "cpu", 0..2), (1, Some(3)));
    store.close().unwrap();
    drop((database, store));
    store = open(&device);
    database = store.database("db").unwrap();
    let report = database.cardinality(10, 10).unwrap();
    assert_eq!((report.tag_sets, report.series), (3, 3));
    assert_eq!(report.measurements.1[0].series, 3);
}

#[test]
fn of_a_batch_taken_whole_nothing_is_there_where_a_limit_is_met() {
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device);
    let mut database = limited(&store, 500, 300);
    let sizes = |database: &Database| {
        let report = database.cardinality(10, 10).unwrap();
        (report.tag_sets, report.series, series(database))
    };
    assert_eq!(write_whole(&database, "cpu", 0..301), (1, Some(300)));
    assert_eq!(sizes(&database), (0, 0, 0));
    assert_eq!(write_whole(&database, "cpu", 0..200), (0, None));
    // What is there takes no room, whoever writes it; the others are told of as if they had been left out.
    assert_eq!(write_whole(&database, "cpu", 100..400), (100, Some(300)));
    assert_eq!(write_whole(&database, "mem", 0..301), (1, Some(500)));
    assert_eq!(write_whole(&database, "new", 0..302), (2, Some(500)));
    assert_eq!(sizes(&database), (200, 200, 200));
    for clean in [true, false] {
        if clean {
            store.close().unwrap();
        }
        drop((database, store));
        store = open(&device);
        database = store.database("db").unwrap();
        assert_eq!(sizes(&database), (200, 200, 200));
        let measurements = database.cardinality(10, 10).unwrap().measurements;
        assert_eq!(measurements.0, 1, "{measurements:?}");
    }
    // A refusal keeps no room: exactly as many fit as before.
    assert_eq!(write_whole(&database, "cpu", 0..300), (0, None));
    assert_eq!(write_whole(&database, "mem", 0..201), (1, Some(500)));
    assert_eq!(write_whole(&database, "mem", 0..200), (0, None));
    assert_eq!(sizes(&database), (500, 500, 500));
    assert_eq!(write_whole(&database, "mem", 100..201), (1, Some(500)));
    store.close().unwrap();
}

#[test]
fn a_line_whose_series_do_not_all_fit_makes_none_of_them() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device);
    let database = limited(&store, 500, 3);
    for whole in [false, true] {
        let mut writer = database.writer();
        for (number, fields) in [(1, "ab"), (2, "cd"), (3, "a")] {
            let key = SeriesKey::new("m", [("line", number.to_string())]).unwrap();
            let row = writer.resolve(format!("m,line={number}").as_bytes(), key);
            // The second value of a series is no second series, nor is an integer that its field stores as a float.
            for value in [ValueRef::F64(1.5), ValueRef::I64(2)] {
                writer.number_lines(number);
                writer.begin_line(row, 1).unwrap();
                for field in fields.chars() {
                    writer.field(&field.to_string(), value).unwrap();
                }
                writer.end_line().unwrap();
            }
        }
        if whole {
            match writer.commit_whole(None) {
                Err(WriteError::Lines(left_out)) => {
                    assert_eq!((left_out.lines(), left_out.reasons()[0].number), (2, 2));
                }
                other => panic!("{other:?}"),
            }
        } else {
            let commit = writer.commit(None).unwrap();
            let left_out = commit.left_out().unwrap();
            assert_eq!((left_out.lines(), left_out.reasons()[0].number), (2, 2));
        }
        // Rows 1 and 3: neither the second row nor a part of its series.
        let report = database.cardinality(10, 10).unwrap();
        assert_eq!((report.tag_sets, report.series), (2, 3), "whole: {whole}");
    }
}

#[test]
fn batches_taken_whole_share_the_room_that_is_left() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device);
    let database = limited(&store, 1000, 995);
    let taken: Vec<(u32, bool)> = std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| {
            let database = database.clone();
            scope.spawn(move || {
                let mut taken = Vec::new();
                for first in (thread * 1000..(thread + 1) * 1000).step_by(20) {
                    let (left_out, _) = write_whole(&database, "cpu", first..first + 20);
                    taken.push((first, left_out == 0));
                }
                taken
            })
        });
        let all = threads.map(|thread| thread.join().unwrap());
        all.into_iter().flatten().collect()
    });
    // The last one that fits ends at 980: 15 are left.
    let whole = taken.iter().filter(|(_, taken)| *taken).count();
    assert_eq!((whole, series(&database)), (49, 980));
    for (first, taken) in taken {
        let hosts = (first..first + 20).map(|host| {
            let of_host = Matcher::new(Label::Tag("host".into()), Test::Equal(host.to_string()));
            let matchers = vec![of_host];
            let found = database.snapshot().select(&Selector { matchers });
            found.unwrap().len()
        });
        assert_eq!(hosts.sum::<usize>(), if taken { 20 } else { 0 });
    }
    assert_eq!(write_whole(&database, "cpu", 5000..5015), (0, None));
    assert_eq!(write_whole(&database, "mem", 0..6), (1, Some(1000)));
}

#[test]
fn a_batch_with_new_series_is_refused_whole_where_memory_is_nearly_used_up() {
    let device: Arc<dyn alluvium_store::Device> = Arc::new(MemoryDevice::new(5));
    let config = StoreConfig {
        volume_bytes: 1 << 20,
        memory_series_percent: 1,
        memory_bytes: 64 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut known = 0;
    let refused = loop {
        let mut writer = database.writer();
        add(&mut writer, "cpu", 0..known + 100);
        match writer.commit_whole(None) {
            Ok(commit) => drop(commit.wait().unwrap()),
            Err(refused) => break refused,
        }
        known += 100;
        assert!(known < 100_000);
    };
    assert!(matches!(refused, WriteError::NewSeries(_)), "{refused}");
    assert_eq!(series(&database), known as usize);
    assert_eq!(write_whole(&database, "cpu", 0..known), (0, None));
    // A field or a kind that is new to a tag set is a series as well.
    let field = |host: u32, name: &str, value| {
        let mut writer = database.writer();
        let key = SeriesKey::new("cpu", [("host", host.to_string())]).unwrap();
        let row = writer.resolve(format!("cpu,host={host}").as_bytes(), key);
        writer.begin_line(row, 2).unwrap();
        writer.field(name, value).unwrap();
        writer.end_line().unwrap();
        writer.commit(None).map(drop)
    };
    let refused = (0..1000).find_map(|n| field(0, &format!("w{n}"), ValueRef::I64(1)).err());
    assert!(matches!(refused, Some(WriteError::NewSeries(_))));
    let refused = (0..known).find_map(|host| field(host, "v", ValueRef::Str("a")).err());
    assert!(matches!(refused, Some(WriteError::NewSeries(_))));
    field(0, "v", ValueRef::I64(1)).unwrap();
}

#[test]
fn no_batch_makes_more_than_there_is_room_for() {
    let device: Arc<dyn alluvium_store::Device> = Arc::new(MemoryDevice::new(5));
    let config = StoreConfig {
        volume_bytes: 1 << 20,
        memory_bytes: 64 << 20,
        heap: None,
        ..StoreConfig::default()
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let used = || -> u64 { store.status().memory.iter().map(|(_, b)| b.0).sum() };
    let before = used();
    // 100,000 tag sets take some 35 MB, 120,000 fields of one tag set 38.
    let hosts = |hosts| {
        let mut writer = database.writer();
        add(&mut writer, "cpu", 0..hosts);
        writer.commit(None).map(drop)
    };
    let fields = |lines: u32| {
        let mut writer = database.writer();
        let row = writer.resolve(b"m", SeriesKey::new("m", [("a", "b"); 0]).unwrap());
        for line in 0..lines {
            writer.begin_line(row, i64::from(line)).unwrap();
            for field in 0..1000 {
                let name = format!("f{line}_{field}");
                writer.field(&name, ValueRef::Bool(true)).unwrap();
            }
            writer.end_line().unwrap();
        }
        writer.commit(None).map(drop)
    };
    for refused in [hosts(100_000), fields(120)] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, WriteError::NewSeries(_)), "{refused}");
        assert_eq!(series(&database), 0);
        assert!(used() < before + (1 << 20), "{} {before}", used());
    }
    hosts(10_000).unwrap();
    fields(5).unwrap();
    assert_eq!(series(&database), 15_000);
    assert!(used() < 16 << 20, "{}", used());
    // What a batch was lent is not kept beside what it made.
    for _ in 0..50 {
        hosts(10_000).unwrap();
        fields(5).unwrap();
    }
    assert!(used() < 16 << 20, "{}", used());
}

#[test]
fn lines_beyond_a_limit_ask_for_no_memory() {
    let device: Arc<dyn alluvium_store::Device> = Arc::new(MemoryDevice::new(5));
    let config = StoreConfig {
        volume_bytes: 1 << 20,
        memory_bytes: 64 << 20,
        heap: None,
        ..StoreConfig::default()
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let database = limited(&store, 100, 100);
    // Without the limit they are refused: see above.
    assert_eq!(write(&database, "cpu", 0..100_000), (99_900, Some(100)));
    assert_eq!(series(&database), 100);
}
