//! One series' tree on a device in memory: elements are points, for appends and scans; for aggregates one a query.

use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_benches::{Random, Shape};
use alluvium_block::BlockStore;
use alluvium_codec::Encoder;
use alluvium_io::{Lane, MemoryDevice};
use alluvium_nbtree::{Direction, PageWriter, ReadStats, Tree, TreeSnapshot};
use alluvium_types::{Column, DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const APPENDED: usize = 100_000;
const POINTS: usize = 1_000_000;
const RANGES: usize = 1_024;

fn build(shape: Shape, column: &Column) -> (Arc<BlockStore>, Tree) {
    let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
    let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
    let series = SeriesId::new(Partition(0), Row(0), FieldId(0), shape.kind());
    let mut tree = Tree::new(series, 0, Lsn(1));
    for (time, bits) in column.times.iter().zip(column.bits()) {
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        tree.push_bits(&mut out, *time, *bits);
    }
    (store, tree)
}

/// Every point of a range, counted.
fn scan(store: &BlockStore, tree: &TreeSnapshot, range: TimeRange, direction: Direction) -> usize {
    let mut stats = ReadStats::default();
    let mut batch = Column::new(tree.kind());
    let mut cursor = tree.scan(range, direction);
    let mut points = 0;
    while cursor
        .next_batch(store, &mut stats, &mut batch)
        .expect("pages are whole")
    {
        points += batch.len();
    }
    points
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("tree/append");
    group.throughput(Throughput::Elements(APPENDED as u64));
    group.sample_size(20);
    for shape in [Shape::Gauge, Shape::Walk, Shape::Counter] {
        let column = shape.column(APPENDED);
        group.bench_function(shape.name(), |b| {
            b.iter_batched(
                || (),
                |()| build(shape, &column).1.snapshot().points(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let column = Shape::Gauge.column(POINTS);
    let (store, tree) = build(Shape::Gauge, &column);
    let snapshot = tree.snapshot();
    let mut random = Random::new(3);
    let ranges: Vec<TimeRange> = (0..RANGES)
        .map(|_| {
            let (a, b) = (random.below(POINTS as u64), random.below(POINTS as u64));
            let (a, b) = (column.times[a as usize], column.times[b as usize]);
            TimeRange::new(a.min(b), a.max(b)).expect("it is ordered")
        })
        .collect();
    let mut stats = ReadStats::default();

    let mut group = c.benchmark_group("tree/read");
    let mut next = ranges.iter().cycle();
    group.throughput(Throughput::Elements(1));
    group.bench_function("aggregate of a random range", |b| {
        b.iter(|| {
            let range = *next.next().expect("it goes on for ever");
            snapshot.aggregate(&store, range, &mut stats)
        });
    });
    group.bench_function("a thousand buckets", |b| {
        let (begin, end) = (column.times[0], column.times[POINTS - 1] + 1);
        let range = TimeRange::new(begin, end).expect("it is ordered");
        b.iter(|| {
            let mut buckets = 0;
            let step = (end - begin) / 1_000;
            snapshot
                .buckets(&store, range, step, begin, &mut stats, &mut |_, _| {
                    buckets += 1;
                    ControlFlow::Continue(())
                })
                .expect("pages are whole");
            buckets
        });
    });
    group.throughput(Throughput::Elements(POINTS as u64));
    group.sample_size(20);
    for direction in [Direction::Forward, Direction::Backward] {
        group.bench_function(format!("scan {direction:?}").to_lowercase(), |b| {
            b.iter(|| assert_eq!(scan(&store, &snapshot, TimeRange::ALL, direction), POINTS));
        });
    }
    group.finish();
}

criterion_group!(suite, append, read);
criterion_main!(suite);
