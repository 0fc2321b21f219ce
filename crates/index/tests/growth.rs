//! What grows does so a little at each insertion, and what is counted is looked at once: no insertion pays for all before
//! it, no count for the square of what there is. Times are of the thread's processor, the fastest of several passes, with bounds
//! far from both what is measured and what there was before.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use alluvium_index::{FlatKey, KeyHash, PartitionIndex, Segment};
use alluvium_io::thread_cpu_time;
use alluvium_types::{FieldId, Row, SeriesKey, ValueKind};

const PASSES: usize = 3;

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = thread_cpu_time();
    let out = run();
    (out, thread_cpu_time().saturating_sub(start))
}

fn insert(index: &mut PartitionIndex, measurement: &str, host: u32, fields: u64) -> Row {
    let key = SeriesKey::new(measurement, [("host", host.to_string())]).unwrap();
    let mut scratch = Vec::new();
    let key = FlatKey::new(&key, &mut scratch);
    let hash = KeyHash::of_input(1, key.bytes());
    let row = index.insert_flat(hash, key).unwrap();
    add(index, row, fields);
    row
}

fn add(index: &mut PartitionIndex, row: Row, fields: u64) {
    let measurement = index.measurement_of(row).unwrap();
    for field in index.field_count(measurement)..u64::BITS - fields.leading_zeros() {
        let name = format!("f{field}");
        index.insert_field(measurement, &name).unwrap();
    }
    for field in (0..u64::BITS).filter(|field| fields >> field & 1 == 1) {
        index
            .add_series(row, FieldId(field), ValueKind::F64)
            .unwrap();
    }
}

fn mixed(i: u32) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes())
}

/// The slowest of some insertions, of each of which the fastest pass counts; and which it is.
fn slowest(count: u32, mut pass: impl FnMut() -> Vec<Duration>) -> (Duration, usize) {
    let mut best = vec![Duration::MAX; count as usize];
    for _ in 0..PASSES {
        let times = pass();
        assert_eq!(times.len(), best.len());
        for (best, taken) in best.iter_mut().zip(times) {
            *best = taken.min(*best);
        }
    }
    best.into_iter().zip(0..).max().unwrap()
}

/// Rehashing all lists at once and sweeping them took 12 ms at 60,000 rows, 316 ms at a million.
#[test]
fn no_row_with_fields_of_its_own_waits_for_all_others() {
    const ROWS: u32 = 60_000;
    let fields = |row: u32| mixed(row) >> 14;
    let (longest, row) = slowest(ROWS, || {
        let mut index = PartitionIndex::new();
        let rows = 0..ROWS;
        let times = rows.map(|row| timed(|| insert(&mut index, "m", row, fields(row))).1);
        let times: Vec<Duration> = times.collect();
        let all: u64 = (0..ROWS)
            .map(|row| u64::from(fields(row).count_ones()))
            .sum();
        assert_eq!(index.series_count(), all);
        times
    });
    assert!(longest < Duration::from_millis(4), "{longest:?} at {row}");
}

/// Looking through all shapes for each measurement took seconds.
#[test]
fn sizes_of_many_measurements_take_one_look_at_each_shape() {
    const MEASUREMENTS: u32 = 10_000;
    let mut index = PartitionIndex::new();
    for row in 0..8 * MEASUREMENTS {
        let name = format!("m{}", row % MEASUREMENTS);
        insert(&mut index, &name, row / MEASUREMENTS, 1);
        if row % MEASUREMENTS == MEASUREMENTS - 1 {
            index.freeze();
            let bytes = index.seal_job().unwrap().build(&index);
            let segment = Segment::open(Arc::new(bytes)).unwrap();
            index.seal(Arc::new(segment)).unwrap();
        }
    }
    let passes = (0..PASSES).map(|_| {
        let (sizes, taken) = timed(|| (index.measurement_sizes(), index.tag_sizes()));
        assert_eq!(sizes.0.len(), MEASUREMENTS as usize);
        assert!(sizes.0.iter().all(|m| (m.tag_sets, m.series) == (8, 8)));
        assert_eq!(sizes.1[0].tag_sets, u64::from(8 * MEASUREMENTS));
        taken
    });
    let fastest = passes.min().unwrap();
    assert!(fastest < Duration::from_millis(150), "{fastest:?}");
}
