//! Speeds of one tree in memory: `cargo run --release -p alluvium-nbtree --example tree_speed [POINTS]`.
//!
//! A gauge every 10 s with jitter and two decimals, 10 million points unless told otherwise, on a memory
//! device: what is measured is the processor's part.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_block::{BlockStore, Role};
use alluvium_codec::Encoder;
use alluvium_io::{Clock, Lane, MemoryDevice, SystemClock};
use alluvium_nbtree::{Direction, PageWriter, ReadStats, Tree};
use alluvium_types::{
    Aggregate, Column, DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange, ValueKind,
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = SystemClock.monotonic_ns();
    let out = work();
    (out, (SystemClock.monotonic_ns() - begin) as f64)
}

fn main() -> Result<(), Box<dyn Error>> {
    let points: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 10_000_000,
    };
    let database = DatabaseId(1);
    let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
    let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
    let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::F64);
    let mut tree = Tree::new(series, 0, Lsn(1));

    let mut random = Random(1);
    let mut level = 500_000_i64;
    let mut generate = |i: u64| {
        level += (random.next() % 15) as i64 - 7;
        let time = i as i64 * 10_000_000_000 + (random.next() % 20) as i64 * 1_000_000;
        (time, (level as f64 / 100.0).to_bits())
    };
    let ((), generating) = timed(|| {
        for i in 0..points {
            std::hint::black_box(generate(i));
        }
    });
    let ((), appending) = timed(|| {
        for i in 0..points {
            let (time, bits) = generate(i);
            let mut out = PageWriter::new(&mut appender, &mut encoder, database, Lsn(1));
            tree.push_bits(&mut out, time, bits);
        }
    });
    let (leaves, inner) = (
        store.usage(database, Role::Leaves),
        store.usage(database, Role::Inners),
    );
    println!(
        "append: {:.1} ns a point with checksums of pages (the generator's {:.1} ns taken off)",
        (appending - generating) / points as f64,
        generating / points as f64
    );
    println!(
        "size: {:.3} bytes a point; {} leaves, {} inner pages; {} B tree + {} B heap",
        (leaves.bytes.0 + inner.bytes.0) as f64 / points as f64,
        leaves.pages,
        inner.pages,
        size_of::<Tree>(),
        tree.heap_bytes()
    );

    let (snapshot, taking) = timed(|| tree.snapshot());
    println!("snapshot: {taking:.0} ns");
    let last = snapshot.last_time().unwrap_or_default();
    let mut spent = Vec::new();
    let mut stats = ReadStats::default();
    for _ in 0..1000 {
        let mut any = || ((i128::from(random.next()) * i128::from(last)) >> 31) as i64;
        let (a, b) = (any(), any());
        let range = TimeRange::new(a.min(b), a.max(b))?;
        let (answer, ns) = timed(|| snapshot.aggregate(&store, range, &mut stats));
        std::hint::black_box(answer?);
        spent.push(ns);
    }
    spent.sort_by(f64::total_cmp);
    println!(
        "aggregate of 1000 random ranges, all cached: p50 {:.1} us, p99 {:.1} us; {:.1} leaves and {:.1} inner pages each",
        spent[500] / 1e3,
        spent[990] / 1e3,
        stats.leaf_pages as f64 / 1e3,
        stats.inner_pages as f64 / 1e3
    );

    for buckets in [1000, 100_000] {
        let mut stats = ReadStats::default();
        let mut emitted = 0;
        let mut emit = |_: i64, bucket: &Aggregate| {
            emitted += bucket.count;
            ControlFlow::Continue(())
        };
        let step = last / buckets;
        let all = TimeRange::ALL;
        let (answer, ns) = timed(|| snapshot.buckets(&store, all, step, 0, &mut stats, &mut emit));
        answer?;
        println!(
            "{buckets} buckets of {emitted} points: {:.2} ms; {} leaves opened, {} points decoded",
            ns / 1e6,
            stats.leaf_pages,
            stats.points_decoded
        );
    }

    for direction in [Direction::Forward, Direction::Backward] {
        let mut cursor = snapshot.scan(TimeRange::ALL, direction);
        let mut batch = Column::new(ValueKind::F64);
        let mut stats = ReadStats::default();
        let (seen, ns) = timed(|| {
            let mut seen = 0;
            while cursor.next_batch(&store, &mut stats, &mut batch)? {
                seen += batch.len();
            }
            Ok::<usize, Box<dyn Error>>(seen)
        });
        println!(
            "scan {direction:?}: {:.0} M points/s",
            seen? as f64 / ns * 1e3
        );
    }
    Ok(())
}
