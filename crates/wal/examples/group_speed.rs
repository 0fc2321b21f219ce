//! Speeds and sizes of point groups: `cargo run --release -p alluvium-wal --example group_speed`.
//!
//! Groups of 1,000 lines of ten fields, a host a line, one second: as load generators send them. One core,
//! the same group again and again, the best of five runs of about ten million values.

use std::error::Error;

use alluvium_io::{Clock, SystemClock};
use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, ValueKind};
use alluvium_wal::{Entry, PointGroup, SectionBuilder, SectionReader};

const LINES: u64 = 1_000;
const FIELDS: u64 = 10;
const ROUNDS: usize = 1_000;

fn group(kind: ValueKind, value: impl Fn(u64) -> u64) -> PointGroup {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state >> 33
    };
    PointGroup {
        fields: (0..FIELDS).map(|f| (FieldId(f as u32), kind)).collect(),
        rows: (0..LINES).map(|l| Row(l as u32)).collect(),
        times: vec![1_700_000_000_000_000_000; LINES as usize],
        bits: (0..LINES * FIELDS).map(|_| value(random())).collect(),
        ..PointGroup::default()
    }
}

fn best(mut work: impl FnMut()) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..5 {
        let begin = SystemClock.monotonic_ns();
        work();
        least = least.min((SystemClock.monotonic_ns() - begin) as f64);
    }
    least / (ROUNDS as u64 * LINES * FIELDS) as f64
}

fn main() -> Result<(), Box<dyn Error>> {
    let shapes = [
        (
            "whole floats 0..100",
            group(ValueKind::F64, |r| ((r % 101) as f64).to_bits()),
        ),
        (
            "floats of 2 decimals",
            group(ValueKind::F64, |r| ((r % 100_000) as f64 / 100.0).to_bits()),
        ),
        (
            "floats of all digits",
            group(ValueKind::F64, |r| (r as f64 / 3.0).to_bits()),
        ),
        (
            "equal floats",
            group(ValueKind::F64, |_| (1.0_f64 / 3.0).to_bits()),
        ),
        ("integers below 2^31", group(ValueKind::I64, |r| r)),
        ("booleans", group(ValueKind::Bool, |r| r & 1)),
    ];
    println!("shape                  B/value  encode ns  decode ns");
    for (name, group) in shapes {
        let mut builder = SectionBuilder::default();
        let encode = best(|| {
            for _ in 0..ROUNDS {
                builder.begin(DatabaseId(1), Partition(0), Lsn(1));
                builder.points(&group);
            }
        });
        let bytes = builder.finish().to_vec();
        let mut scratch = PointGroup::default();
        let mut failure = None;
        let decode = best(|| {
            for _ in 0..ROUNDS {
                let read = SectionReader::new(&bytes).and_then(|mut r| r.next_entry(&mut scratch));
                match read {
                    Ok(Some(Entry::Points(points))) => scratch = points,
                    other => failure = Some(format!("{other:?}")),
                }
            }
        });
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        let size = bytes.len() as f64 / (LINES * FIELDS) as f64;
        println!("{name:<22} {size:>7.2} {encode:>10.2} {decode:>10.2}");
    }
    Ok(())
}
