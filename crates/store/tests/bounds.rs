//! Questions about the index end soon behind the moment when whoever asked is gone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Bounds, BoundsError, Clock, Database, Device, Selector, Store, StoreConfig, StoreError,
    SystemClock,
};
use alluvium_types::{Owner, SeriesKey, TimeRange, ValueRef};

/// In each of the 16 partitions many more than are looked at together.
const HOSTS: u32 = 200_000;

fn filled() -> (Store, Database) {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
    let config = StoreConfig {
        shards: 2,
        volume_bytes: 64 << 20,
        memory_bytes: 1 << 30,
        ..StoreConfig::default()
    };
    let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    for host in 0..HOSTS {
        let name = host.to_string();
        let row = writer.resolve(
            name.as_bytes(),
            SeriesKey::new("m", [("host", name.as_str())]).unwrap(),
        );
        writer.begin_line(row, 1).unwrap();
        writer.field("a", ValueRef::F64(1.0)).unwrap();
        writer.end_line().unwrap();
    }
    writer.commit(None).unwrap().wait().unwrap();
    (store, database)
}

#[test]
fn a_search_ends_soon_behind_its_asker() {
    let (store, database) = filled();
    let cancel = Arc::new(AtomicBool::new(false));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let budget = Arc::clone(store.budget());
    let before = budget.used_by(Owner::Queries);
    let bounds = Bounds::new(Arc::clone(&cancel), clock, 60_000, budget, 1 << 30);
    let bounded = database.clone().bounded(bounds);
    let looked_at = Cell::new(0);
    let snapshot = bounded.snapshot();
    let everything = Selector::default();
    let found = snapshot.search_among(&everything, TimeRange::ALL, 10, |_| {
        looked_at.set(looked_at.get() + 1);
        cancel.store(true, Ordering::Relaxed);
        false
    });
    let error = found.unwrap_err();
    assert!(
        matches!(error, StoreError::Bounds(BoundsError::Cancelled)),
        "{error}"
    );
    assert!(
        looked_at.get() <= 4096,
        "{} were looked at",
        looked_at.get()
    );
    assert!(snapshot.search(&everything, TimeRange::ALL, 10).is_err());
    assert!(snapshot.knows(&everything).is_err());
    assert!(bounded.cardinality(1, 1).is_err());
    assert!(bounded.conflicts(10).is_err());
    drop((snapshot, bounded));
    assert_eq!(store.budget().used_by(Owner::Queries), before);
    assert_eq!(
        database.cardinality(1, 1).unwrap().tag_sets,
        u64::from(HOSTS)
    );
    store.close().unwrap();
}
