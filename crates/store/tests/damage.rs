//! A damaged page on the disk: named in the answer, everything else readable, writing goes on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{Direction, ReadStats, Selector, Store, StoreConfig};
use alluvium_types::{Column, SeriesKey, TimeRange, ValueRef};

fn open(device: &Arc<SimDevice>) -> Store {
    let config = StoreConfig {
        shards: 1,
        memory_bytes: 64 << 20,
        cache_percent: 1,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    let clock = Arc::new(SimClock::new(0));
    Store::open(
        Arc::<SimDevice>::clone(device) as Arc<dyn alluvium_store::Device>,
        clock,
        config,
    )
    .unwrap()
}

#[test]
fn a_damaged_page_is_named_and_the_rest_is_answered() {
    let device = SimDevice::new(1, SimConfig::default());
    let store = open(&device);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    for host in ["a", "b"] {
        let key = SeriesKey::new("m", [("host", host)]).unwrap();
        let row = writer.resolve(format!("m,host={host}").as_bytes(), key);
        // Noise, so that a few thousand points fill pages.
        let mut x = 88_172_645_463_325_252_u64;
        for time in 0..4000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            writer.begin_line(row, time).unwrap();
            writer
                .field(
                    "v",
                    ValueRef::F64(f64::from_bits(x >> 12 | 0x3ff0_0000_0000_0000)),
                )
                .unwrap();
            writer.end_line().unwrap();
        }
    }
    writer.commit(None).unwrap().wait().unwrap();
    store.close().unwrap();
    drop((writer, database, store));

    assert!(device.flip_bit("vol/00000001", 3 * 4096 + 2000, 3));
    let store = open(&device);
    let database = store.database("db").unwrap();
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let (mut whole, mut damaged) = (0, 0);
    for info in snapshot.select(&Selector::default()).unwrap() {
        let series = snapshot.series(&info);
        // The aggregate of everything needs no leaf, so it does not even notice.
        assert_eq!(
            series.aggregate(TimeRange::ALL, &mut stats).unwrap().count,
            4000
        );
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(series.kind());
        let (mut points, mut error) = (0, None);
        loop {
            match cursor.next_batch(&mut stats, &mut column) {
                Ok(true) => points += column.len(),
                Ok(false) => break,
                Err(e) => error = Some(e.to_string()),
            }
        }
        if let Some(error) = error {
            damaged += 1;
            assert!(
                error.contains("page 1:3") && error.contains("points"),
                "{error}"
            );
            assert!(
                (1..4000).contains(&points),
                "the cursor goes on behind the page: {points}"
            );
        } else {
            whole += 1;
            assert_eq!(points, 4000);
        }
    }
    assert_eq!((whole, damaged), (1, 1));
    assert_eq!(store.status().bad_pages.len(), 1);
    let mut writer = database.writer();
    let key = SeriesKey::new("m", [("host", "a")]).unwrap();
    let row = writer.resolve(b"m,host=a", key);
    writer.begin_line(row, 5000).unwrap();
    writer.field("v", ValueRef::F64(1.0)).unwrap();
    writer.end_line().unwrap();
    writer.commit(None).unwrap().wait().unwrap();
}
