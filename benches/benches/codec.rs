//! Blocks and tails: elements are points.

use std::hint::black_box;

use alluvium_benches::Shape;
use alluvium_codec::{Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, Tail, decode_block};
use alluvium_types::{Column, ValueRef};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn blocks(c: &mut Criterion) {
    let choices = [
        ("balanced", Compression::Balanced),
        ("small", Compression::Small),
    ];
    for (choice, compression) in choices {
        let mut group = c.benchmark_group(format!("codec/{choice}"));
        group.throughput(Throughput::Elements(MAX_BLOCK_POINTS as u64));
        for shape in Shape::ALL {
            let column = shape.column(MAX_BLOCK_POINTS);
            let mut encoder = Encoder::new(compression);
            let (mut hint, mut bytes) = (Hint::default(), Vec::new());
            group.bench_function(format!("encode/{}", shape.name()), |b| {
                b.iter(|| {
                    bytes.clear();
                    let range = 0..MAX_BLOCK_POINTS;
                    encoder.encode(&column, range, &mut hint, Models::default(), &mut bytes)
                });
            });
            // A block of its own: with a filter the one above was never written.
            let mut block = Vec::new();
            let range = 0..MAX_BLOCK_POINTS;
            encoder.encode(&column, range, &mut hint, Models::default(), &mut block);
            let mut out = Column::new(shape.kind());
            group.bench_function(format!("decode/{}", shape.name()), |b| {
                b.iter(|| {
                    out.clear();
                    let first_time = column.times[0];
                    let (n, models) = (MAX_BLOCK_POINTS, Models::default());
                    decode_block(black_box(&block), n, first_time, models, &mut out)
                        .expect("its own block");
                });
            });
        }
        group.finish();
    }
}

fn tails(c: &mut Criterion) {
    const POINTS: usize = 256;
    let mut group = c.benchmark_group("codec/tail");
    group.throughput(Throughput::Elements(POINTS as u64));
    for shape in [Shape::Gauge, Shape::Counter] {
        let column = shape.column(POINTS);
        let fill = |tail: &mut Tail| {
            for (time, bits) in column.times.iter().zip(column.bits()) {
                tail.push(*time, ValueRef::from_bits(shape.kind(), *bits));
            }
        };
        group.bench_function(format!("push/{}", shape.name()), |b| {
            b.iter_batched_ref(|| Tail::new(shape.kind()), fill, BatchSize::SmallInput);
        });
        let mut tail = Tail::new(shape.kind());
        fill(&mut tail);
        let mut out = Column::new(shape.kind());
        group.bench_function(format!("decode/{}", shape.name()), |b| {
            b.iter(|| {
                out.clear();
                tail.decode_into(&mut out);
            });
        });
    }
    group.finish();
}

criterion_group!(suite, blocks, tails);
criterion_main!(suite);
