//! What one hold of a shard's lock writes.

use std::sync::Arc;

use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_types::{SeriesKey, ValueRef};

use super::*;
use crate::capture::SLICE_BYTES;
use crate::config::StoreConfig;
use crate::database::Store;

/// Late text does not pack, so that slices are cut by what they read and by what they write.
fn noise(seed: &mut u64, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        text.push(char::from(b' ' + (*seed % 94) as u8));
    }
    text
}

#[test]
fn a_slice_of_long_late_texts_ends_by_its_bytes() {
    const SERIES: usize = 40;
    const SERIES_BYTES: usize = 300 << 10;
    let config = StoreConfig {
        shards: 1,
        memory_bytes: 256 << 20,
        segment_bytes: 64 << 20,
        checkpoint_log_bytes: u64::MAX / 2,
        ..StoreConfig::default()
    };
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let device = SimDevice::new(3, SimConfig::default());
    let store = Store::open(device, clock, config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut seed = 88_172_645_463_325_252;
    let mut writer = database.writer();
    for host in 0..SERIES {
        let name = format!("h{host}");
        let key = SeriesKey::new("m", [("host", name.as_str())]).unwrap();
        let row = writer.resolve(format!("m,host={name}").as_bytes(), key);
        // The newest first: everything after it is late.
        for time in [1000, 1, 2, 3, 4, 5, 6] {
            writer.begin_line(row, time).unwrap();
            let text = noise(&mut seed, if time == 1000 { 1 } else { SERIES_BYTES / 6 });
            writer.field("v", ValueRef::Str(&text)).unwrap();
            writer.end_line().unwrap();
        }
        writer.commit(None).unwrap().wait().unwrap();
    }
    let inner = &store.0;
    let left = |inner: &StoreInner| {
        let checkpointer = inner.checkpointer.lock();
        match checkpointer.running.as_ref().map(|r| &r.step) {
            Some(Step::Capture { list: Some(l), .. }) => Some(l.len()),
            Some(Step::Capture { list: None, .. }) | None => None,
            Some(_) => Some(0),
        }
    };
    let number = inner.request_checkpoint(false);
    let (mut before, mut largest) = (SERIES, 0);
    while inner.poll_checkpoint(number, Waker::noop()).is_pending() {
        inner.drive();
        if let Some(now) = left(inner) {
            largest = largest.max(before - now);
            before = now;
        }
    }
    assert_eq!(before, 0, "all series are captured");
    let most = SLICE_BYTES.div_ceil(SERIES_BYTES) + 1;
    assert!(
        (1..=most).contains(&largest),
        "{largest} series of {SERIES_BYTES} bytes each in one slice"
    );
}
