//! Tag sets that fell silent leave the name table and come back on a write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{Commit, Durability, Selector, Store, StoreConfig};
use alluvium_types::{SeriesKey, TimeRange, Value, ValueRef};
use model::{Line, Model, read_all, same, write};

const DAY_NS: i64 = 86_400_000_000_000;
const HOSTS: u32 = 200;
/// The clock stands here.
const NOW_NS: i64 = 19_000 * DAY_NS;

fn open(device: &Arc<SimDevice>, clock: &Arc<SimClock>) -> Store {
    let config = StoreConfig {
        shards: 2,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        index_segment_rows: 2,
        index_merge_segments: 3,
        index_silent_days: 2,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(clock);
    let device: Arc<dyn alluvium_store::Device> = Arc::<SimDevice>::clone(device);
    Store::open(device, clock, config).unwrap()
}

fn wait(store: &Store, clock: &SimClock, mut commit: Commit) {
    for _ in 0..10_000 {
        if let Poll::Ready(result) = commit.poll(Waker::noop()) {
            result.unwrap();
            return;
        }
        store.drive();
        clock.advance_ns(1_000_000);
    }
    panic!("a commit does not end");
}

#[test]
fn a_silent_row_is_found_again_and_never_made_twice() {
    let clock = Arc::new(SimClock::new(NOW_NS));
    let sim = SimConfig {
        lanes: 4,
        ..SimConfig::default()
    };
    let mut device = SimDevice::new(7, sim);
    let mut expected = Model::default();
    let mut store = open(&device, &clock);
    let (_, created) = store.create_database("db").unwrap();
    wait(&store, &clock, created);
    // In each round new hosts, and all of them write on a day of its own; the last is today.
    for round in 0..5_u32 {
        let database = store.database("db").unwrap();
        let day = if round == 4 { 0 } else { 10 + i64::from(round) };
        let time = NOW_NS - day * DAY_NS;
        let lines: Vec<Line> = (0..HOSTS / 4 * (round + 1).min(4))
            .map(|host| Line {
                host,
                time: time + i64::from(host),
                fields: vec![("f", Value::F64(f64::from(host * 10 + round)))],
            })
            .collect();
        let before = store.status().index;
        assert!(before.silent_rows <= before.sealed_rows);
        assert!(round == 0 || before.silent_rows > u64::from(HOSTS / 8));
        let commit = write(&database, &lines, Some(Durability::Sync)).unwrap();
        wait(&store, &clock, commit);
        expected.apply(&lines);
        let after = store.status().index;
        assert_eq!(after.rows, lines.len() as u64, "rows are never made twice");
        assert_eq!(after.silent_rows, 0, "all of them wrote");
        if round % 2 == 1 {
            // The log alone knows of the returns.
            drop(store);
            device = device.kill();
            store = open(&device, &clock);
            assert_eq!(store.status().index.rows, lines.len() as u64);
            let database = store.database("db").unwrap();
            let mut writer = database.writer();
            for host in 0..HOSTS {
                let key = SeriesKey::new("m", [("host", format!("new{host}"))]).unwrap();
                let row = writer.resolve(format!("m,host=new{host}").as_bytes(), key);
                writer.begin_line(row, NOW_NS).unwrap();
                writer.field("f", ValueRef::F64(0.0)).unwrap();
                writer.end_line().unwrap();
            }
            assert!(writer.may_wait(), "rows were silent when it was opened");
        }
        let checkpoint = store.checkpoint();
        wait(&store, &clock, checkpoint);
        let checkpoint = store.checkpoint();
        wait(&store, &clock, checkpoint);
        let database = store.database("db").unwrap();
        same(&read_all(&database), &expected).unwrap();
    }
    let index = store.status().index;
    assert!(index.merges > 0, "segments were merged");
    assert_eq!(index.silent_rows, 0, "today they all wrote");
    let database = store.database("db").unwrap();
    let listed = |day: i64| {
        let begin = NOW_NS - day * DAY_NS;
        let range = TimeRange::new(begin, begin + DAY_NS).unwrap();
        let snapshot = database.snapshot();
        snapshot
            .select_in(&Selector::default(), range)
            .unwrap()
            .len()
    };
    assert_eq!(listed(0), HOSTS as usize);
    assert_eq!(listed(10), HOSTS as usize / 4, "those that there were then");
    assert_eq!(listed(11), HOSTS as usize / 2);
    assert_eq!(listed(5), 0);
}
