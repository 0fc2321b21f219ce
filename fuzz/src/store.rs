//! A small store in a directory in memory, and everything read from one.

use std::sync::{Arc, OnceLock};

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Database, Direction, ReadStats, Selector, Store, StoreConfig, SystemClock, TimeRange, ValueRef,
};
use alluvium_types::{Column, SeriesKey};

use crate::Directory;

/// Points that are read of one series, so that a damaged count does not make one input slow.
const POINTS_MAX: usize = 100_000;

/// How stores of these targets are opened.
pub fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 1 << 18,
        extent_pages: 4,
        segment_bytes: 256 << 10,
        memory_bytes: 64 << 20,
        redo_threads_max: 1,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

/// Opens what a device holds; `None` if it is refused.
pub fn open(device: &Arc<MemoryDevice>) -> Option<Store> {
    let device = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config(1)).ok()
}

/// Lines of hosts from `first` on, so many of each.
fn write(database: &Database, hosts: std::ops::Range<u32>, begin: i64, points: i64) {
    let mut writer = database.writer();
    for host in hosts {
        let raw = format!("m,host=h{host}");
        let key = SeriesKey::new("m", [("host", format!("h{host}"))]).expect("one tag");
        let row = writer.resolve(raw.as_bytes(), key);
        for i in begin..begin + points {
            let time = i * 1_000 + i % 7;
            writer.begin_line(row, time).expect("times are allowed");
            let value = ValueRef::F64((i * 7_919 % 10_007) as f64 / 3.0);
            writer.field("value", value).expect("short");
            if host == 1 {
                writer
                    .field("state", ValueRef::Str(if i % 3 == 0 { "open" } else { "" }))
                    .expect("short");
            }
            writer.end_line().expect("it has a field");
        }
    }
    let commit = writer.commit(None).expect("the store takes writes");
    commit.wait().expect("memory does not fail");
}

/// A directory in which a checkpoint has series with and without pages, late points and a text, and the log a little more.
pub fn directory() -> &'static Directory {
    static DIRECTORY: OnceLock<Directory> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let device = Arc::new(MemoryDevice::new(2));
        let store = open(&device).expect("an empty directory opens");
        let (database, created) = store.create_database("db").expect("a good name");
        created.wait().expect("memory does not fail");
        write(&database, 0..1, 0, 700);
        write(&database, 1..3, 10, 5);
        write(&database, 1..3, 0, 5);
        store.checkpoint().wait().expect("memory does not fail");
        write(&database, 2..4, 20, 5);
        // Not closed: the log is needed.
        Directory::of(&device, &["", "vol", "wal", "tails", "series", "segments"])
    })
}

/// Asks everything of every series.
pub fn read_all(store: &Store) {
    let mut stats = ReadStats::default();
    for info in store.databases() {
        let Some(database) = store.database(&info.name) else {
            continue;
        };
        let snapshot = database.snapshot();
        let Ok(found) = snapshot.select(&Selector::default()) else {
            continue;
        };
        for info in found {
            let series = snapshot.series(&info);
            let _ = series.aggregate(TimeRange::ALL, &mut stats);
            for direction in [Direction::Forward, Direction::Backward] {
                let mut cursor = series.scan(TimeRange::ALL, direction);
                let mut batch = Column::new(series.kind());
                let mut seen = 0;
                while seen < POINTS_MAX
                    && let Ok(true) = cursor.next_batch(&mut stats, &mut batch)
                {
                    seen += batch.len().max(1);
                }
            }
        }
    }
}
