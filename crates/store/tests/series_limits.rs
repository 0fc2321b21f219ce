//! Limits of how many series a database and its measurements may have.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Database, DatabaseSettings, Delete, DeleteSelection, Label, Matcher, RefusedLine, Selector,
    SeriesLimits, Store, StoreConfig, SystemClock, Test, ValueRef,
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

/// Writes one field for each host; returns how many lines were left out, and the limit that was met.
fn write(
    database: &Database,
    measurement: &str,
    hosts: std::ops::Range<u32>,
) -> (u64, Option<u64>) {
    let mut writer = database.writer();
    for host in hosts {
        let key = SeriesKey::new(measurement, [("host", host.to_string())]).unwrap();
        let row = writer.resolve(format!("{measurement},host={host}").as_bytes(), key);
        writer.begin_line(row, 1).unwrap();
        writer.field("v", ValueRef::I64(i64::from(host))).unwrap();
        writer.end_line().unwrap();
    }
    let commit = writer.commit(None).unwrap();
    let left_out = commit.left_out().map(|left_out| match &left_out.why {
        RefusedLine::TooManySeries(limit) => (left_out.lines, Some(limit.limit)),
        other => panic!("{other}"),
    });
    commit.wait().unwrap();
    left_out.unwrap_or_default()
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
