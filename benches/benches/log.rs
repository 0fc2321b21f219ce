//! The log on a device in memory: elements are values.

use std::hint::black_box;
use std::sync::Arc;

use alluvium_benches::Random;
use alluvium_io::{Lane, MemoryDevice};
use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, ValueKind};
use alluvium_wal::{LogConfig, LogWriter, PointGroup, SectionBuilder, SectionReader};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const LINES: u32 = 1_000;
const FIELDS: u32 = 10;
const VALUES: u64 = LINES as u64 * FIELDS as u64;

/// Lines of ten fields, a host a line, one second: as load generators send them.
fn points() -> PointGroup {
    let mut random = Random::new(1);
    PointGroup {
        fields: (0..FIELDS).map(|f| (FieldId(f), ValueKind::F64)).collect(),
        rows: (0..LINES).map(Row).collect(),
        times: vec![1_700_000_000_000_000_000; LINES as usize],
        bits: (0..VALUES)
            .map(|_| (random.below(100_000) as f64 / 100.0).to_bits())
            .collect(),
        ..PointGroup::default()
    }
}

fn section(builder: &mut SectionBuilder, points: &PointGroup) {
    builder.begin(DatabaseId(1), Partition(0), Lsn(1));
    builder.points(points);
}

fn log(c: &mut Criterion) {
    let group_of_points = points();
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(VALUES));
    let mut builder = SectionBuilder::default();
    group.bench_function("encode", |b| {
        b.iter(|| {
            section(&mut builder, black_box(&group_of_points));
            builder.len()
        });
    });
    section(&mut builder, &group_of_points);
    let bytes = builder.finish().to_vec();
    group.bench_function("decode", |b| {
        b.iter(|| {
            let mut reader = SectionReader::new(black_box(&bytes)).expect("its own section");
            reader
                .next_entry(&mut PointGroup::default())
                .expect("its own section")
        });
    });
    // A writer for each batch: the device keeps every segment.
    const SECTIONS: u64 = 16;
    group.throughput(Throughput::Elements(VALUES * SECTIONS));
    let open = || {
        let config = LogConfig {
            segment_bytes: 4 << 20,
            ..LogConfig::default()
        };
        LogWriter::new(Arc::new(MemoryDevice::new(1)), Lane(0), 7, 1, 0, config)
    };
    group.bench_function("append and commit", |b| {
        b.iter_batched_ref(
            open,
            |log| {
                for _ in 0..SECTIONS {
                    let ticket = log.push(&bytes, VALUES as u32, true, 0);
                    while ticket.result().is_none() {
                        log.drive();
                    }
                    assert!(matches!(ticket.result(), Some(Ok(()))));
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(suite, log);
criterion_main!(suite);
