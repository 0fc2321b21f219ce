//! How many series there are: what is estimated is near the truth, and says that it is an estimate.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Cardinality, Count, Store, StoreConfig, SystemClock, TagCount, ValueCount, ValueRef,
};
use alluvium_types::SeriesKey;

const ROWS: usize = 8000;
const HOSTS: usize = 3000;
const ZONES: usize = 7;

/// In each of so many rows a host and a session of its own; counted in memory, and again when all is in segments.
fn counted(exact_values_max: u64, values_max: u64) -> [Cardinality; 2] {
    let config = StoreConfig {
        volume_bytes: 1 << 20,
        index_segment_rows: 1,
        cardinality_exact_values_max: exact_values_max,
        cardinality_values_max: values_max,
        ..StoreConfig::default()
    };
    let device = Arc::new(MemoryDevice::new(5));
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    for n in 0..ROWS {
        let tags = [
            ("zone", format!("z{}", n % ZONES)),
            ("host", format!("h{}", n % HOSTS)),
            ("session", format!("s{n}")),
        ];
        let raw = n.to_string();
        let row = writer.resolve(raw.as_bytes(), SeriesKey::new("m", tags).unwrap());
        writer.begin_line(row, 1).unwrap();
        writer.field("v", ValueRef::I64(1)).unwrap();
        writer.end_line().unwrap();
    }
    writer.commit(None).unwrap().wait().unwrap();
    let in_memory = database.cardinality(12, 10).unwrap();
    for _ in 0..3 {
        store.checkpoint().wait().unwrap();
    }
    assert_eq!(store.status().index.sealed_rows, ROWS as u64);
    [in_memory, database.cardinality(12, 10).unwrap()]
}

fn exact(count: usize) -> Count {
    Count {
        count: count as u64,
        is_exact: true,
    }
}

fn tag<'a>(counted: &'a Cardinality, key: &str) -> &'a TagCount {
    let mut tags = counted.tags.1.iter();
    tags.find(|tag| tag.key == key).unwrap()
}

fn values<'a>(counted: &'a Cardinality, key: &str) -> Vec<&'a ValueCount> {
    counted.values.iter().filter(|v| v.key == key).collect()
}

#[test]
fn few_values_are_counted_one_by_one() {
    for counted in counted(1 << 16, 32 << 20) {
        assert_eq!(counted.tags.0, 3);
        assert_eq!(tag(&counted, "zone").values, exact(ZONES));
        assert_eq!(tag(&counted, "host").values, exact(HOSTS));
        assert_eq!(tag(&counted, "session").values, exact(ROWS));
        let hosts = values(&counted, "host");
        assert_eq!(hosts.len(), 12 - ZONES);
        assert!(hosts.iter().all(|v| v.tag_sets == exact(3)), "{hosts:?}");
    }
}

#[test]
fn many_values_are_estimated_within_the_error_that_is_told() {
    // Hosts are too many for a count one by one, sessions for a look at them all.
    for counted in counted(1000, 12_000) {
        assert_eq!(tag(&counted, "zone").values, exact(ZONES));
        let zones = values(&counted, "zone");
        assert_eq!(zones.len(), ZONES);
        assert!(zones.iter().all(|v| v.tag_sets.is_exact));

        let hosts = tag(&counted, "host").values;
        assert!(!hosts.is_exact, "{hosts:?}");
        // Three times the standard error of 1.6 %.
        let error = hosts.count as f64 / HOSTS as f64 - 1.0;
        assert!(error.abs() < 0.048, "{hosts:?}");
        let of_hosts = values(&counted, "host");
        assert_eq!(of_hosts.len(), 12 - ZONES);
        for value in of_hosts {
            let tag_sets = value.tag_sets;
            assert!(
                !tag_sets.is_exact && (1..=3).contains(&tag_sets.count),
                "{value:?}"
            );
        }

        // The sum over segments, which is no less than there are.
        let sessions = tag(&counted, "session").values;
        assert!(
            !sessions.is_exact && sessions.count >= ROWS as u64,
            "{sessions:?}"
        );
        assert!(values(&counted, "session").is_empty());

        // What does not go by values is exact whatever there is of them.
        assert_eq!((counted.tag_sets, counted.series), (8000, 8000));
        let tag_sets: Vec<u64> = counted.tags.1.iter().map(|tag| tag.tag_sets).collect();
        assert_eq!((counted.tags.0, tag_sets), (3, vec![8000; 3]));
    }
}
