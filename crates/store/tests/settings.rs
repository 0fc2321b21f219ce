//! Settings of a database: what they change, and that they are kept.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{Compression, DatabaseSettings, Durability, Store, StoreConfig, SystemClock};
use alluvium_types::Value;
use model::{Dice, Line, read_all, write};

fn open(device: &Arc<MemoryDevice>) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    let config = StoreConfig {
        shards: 1,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    Store::open(device, Arc::new(SystemClock), config).unwrap()
}

/// Bytes of the pages of a database and what is read from it, after a restart in between.
fn fill(store: Store, device: &Arc<MemoryDevice>, name: &str) -> (Store, u64) {
    let mut dice = Dice(7);
    let mut level = 0_i64;
    for round in 0..40 {
        let lines: Vec<Line> = (0..2000)
            .map(|i| {
                // Two dice: a Huffman code is some percent shorter than packed bits.
                level += dice.below(150) as i64 + dice.below(150) as i64 - 149;
                Line {
                    host: 1,
                    time: (round * 2000 + i) * 10_000_000_000,
                    fields: vec![("f", Value::F64(level as f64 / 100.0))],
                }
            })
            .collect();
        let database = store.database(name).unwrap();
        write(&database, &lines, None).unwrap().wait().unwrap();
    }
    let before = read_all(&store.database(name).unwrap());
    store.close().unwrap();
    drop(store);
    let store = open(device);
    assert_eq!(read_all(&store.database(name).unwrap()), before);
    let status = store.status();
    let used = status.databases.iter().find(|d| d.name == name).unwrap();
    (store, used.leaves.used.0)
}

#[test]
fn small_databases_are_smaller_and_stay_so() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device);
    let small = DatabaseSettings {
        durability: Durability::Os,
        compression: Compression::Small,
        ..store.default_settings()
    };
    let (_, created) = store.create_database_with("small", small).unwrap();
    created.wait().unwrap();
    let (_, created) = store.create_database("balanced").unwrap();
    created.wait().unwrap();
    let (store, balanced_bytes) = fill(store, &device, "balanced");
    let (store, first_bytes) = fill(store, &device, "small");
    assert!(
        first_bytes * 100 < balanced_bytes * 98,
        "{first_bytes} bytes small, {balanced_bytes} balanced"
    );
    let database = store.database("small").unwrap();
    assert_eq!(database.durability(), Durability::Os);
    // Asking again changes nothing.
    let (_, found) = store.create_database("small").unwrap();
    found.wait().unwrap();
    let status = store.status();
    let named = |name: &str| status.databases.iter().find(|d| d.name == name).unwrap();
    assert_eq!(named("small").compression, "small");
    assert_eq!(named("balanced").compression, "balanced");
    assert!(named("small").leaves.used.0 <= named("small").leaves.bytes.0);
}
