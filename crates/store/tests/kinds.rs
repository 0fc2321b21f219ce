//! Fields with values of several kinds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_nbtree::{Direction, ReadStats};
use alluvium_store::{Database, Selector, SeriesInfo, Store, StoreConfig, SystemClock, ValueRef};
use alluvium_types::{Column, SeriesKey, TimeRange, ValueKind};

fn write(database: &Database, time: i64, value: ValueRef<'_>) {
    let mut writer = database.writer();
    let row = writer.resolve(b"m", SeriesKey::new("m", [("a", "b"); 0]).unwrap());
    writer.begin_line(row, time).unwrap();
    writer.field("v", value).unwrap();
    writer.end_line().unwrap();
    writer.commit(None).unwrap().wait().unwrap();
}

fn selected(database: &Database) -> Vec<SeriesInfo> {
    database.snapshot().select(&Selector::default()).unwrap()
}

/// The kind, the times that a cursor gives, and how many points an aggregate counts.
fn read(database: &Database, series: &SeriesInfo) -> (ValueKind, Vec<i64>, u64) {
    let series = database.snapshot().series(series);
    let stats = &mut ReadStats::default();
    let (mut column, mut times) = (Column::new(series.kind()), Vec::new());
    let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
    while cursor.next_batch(stats, &mut column).unwrap() {
        times.extend_from_slice(&column.times);
    }
    let sum = series.aggregate(TimeRange::ALL, stats).unwrap();
    (series.kind(), times, sum.count)
}

#[test]
fn numbers_of_a_kind_that_came_behind_the_selection_are_left_out() {
    let device: Arc<dyn alluvium_store::Device> = Arc::new(MemoryDevice::new(3));
    let config = StoreConfig {
        shards: 2,
        volume_bytes: 1 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    write(&database, 1, ValueRef::I64(1));
    write(&database, 3, ValueRef::I64(3));
    let then = selected(&database);
    // One in order, one late.
    write(&database, 4, ValueRef::F64(0.5));
    write(&database, 2, ValueRef::F64(0.5));
    assert_eq!(read(&database, &then[0]), (ValueKind::I64, vec![1, 3], 2));
    let now = selected(&database);
    assert_eq!(
        read(&database, &now[0]),
        (ValueKind::F64, vec![1, 2, 3, 4], 4)
    );
}
