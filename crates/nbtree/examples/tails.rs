//! What an append to the open tail of a run costs, under its latch and published to readers, and what open runs take
//! in memory.
//!
//! `cargo run --release -p alluvium-nbtree --example tails`
//!
//! A gauge of two decimals every 10 s with up to 20 ms of jitter: 1,000 series (in cache) and 1,000,000 in order and
//! shuffled. Times are of one thread, the making of the points included and shown apart. Memory is resident.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use alluvium_block::BlockStore;
use alluvium_io::{Lane, MemoryDevice, Pin, prefetch, resident_bytes};
use alluvium_nbtree::{Encoder, PageWriter, SharedTree, Tree};
use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, ValueKind};

/// Cheap noise of a series and a round.
fn noise(series: usize, round: i64) -> u64 {
    let mixed = (series as u64 ^ (round as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

fn point(series: usize, round: i64) -> (i64, u64) {
    let noise = noise(series, round);
    let jitter = (noise % 20) as i64 * 1_000_000;
    let level = 5000 + (series % 1000) as i64 + (noise >> 40) as i64 % 16;
    (
        1_700_000_000_000_000_000 + round * 10_000_000_000 + jitter,
        (level as f64 / 100.0).to_bits(),
    )
}

fn id(series: usize) -> SeriesId {
    let row = Row(series as u32);
    SeriesId::new(Partition(0), row, FieldId(0), ValueKind::F64)
}

/// Pushes ahead of which memory is asked for: the place of a run, then the end of its tail.
const AHEAD: usize = 48;

struct Bench {
    appender: alluvium_block::Appender,
    encoder: Encoder,
}

impl Bench {
    /// Nanoseconds a point of a round over all series in the order given.
    fn round(&mut self, runs: &[SharedTree<()>], order: &[u32], round: i64) -> f64 {
        let mut out = PageWriter::new(&mut self.appender, &mut self.encoder, DatabaseId(1), Lsn(1));
        let pin = Pin::new();
        let begun = Instant::now();
        for (at, series) in order.iter().enumerate() {
            let ahead = |steps| order.get(at + steps).map(|i| &runs[*i as usize]);
            if let Some(run) = ahead(AHEAD) {
                let place: *const u8 = std::ptr::from_ref(run).cast();
                prefetch(place);
                prefetch(place.wrapping_add(size_of_val(run) - 1));
            }
            if let Some(run) = ahead(AHEAD * 2 / 3) {
                run.prefetch();
            }
            if let Some(run) = ahead(AHEAD / 3) {
                run.prefetch_end(&pin);
            }
            let series = *series as usize;
            let (time, bits) = point(series, round);
            let mut lock = runs[series].lock();
            if let (Some(mut run), ()) = lock.split(|_| id(series)) {
                run.push_bits(&mut out, time, bits);
            }
        }
        begun.elapsed().as_nanos() as f64 / order.len() as f64
    }
}

fn run(name: &str, count: usize, shuffled: bool, repeats: usize) {
    let mut order: Vec<u32> = (0..count as u32).collect();
    if shuffled {
        for i in (1..count).rev() {
            order.swap(i, (noise(i, 7) % (i as u64 + 1)) as usize);
        }
    }
    let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
    let mut bench = Bench {
        appender: store.appender(Lane(0)),
        encoder: Encoder::default(),
    };
    let before = resident_bytes();
    let mut made = 0.0;
    let mut best = f64::MAX;
    let mut memory = Vec::new();
    for _ in 0..repeats {
        let fresh = |n: usize| {
            let run = SharedTree::new(());
            run.lock().put(Tree::new(id(n), 0, Lsn(1)), false);
            run
        };
        let runs: Vec<SharedTree<()>> = (0..count).map(fresh).collect();
        let mut nanos = 0.0;
        memory.clear();
        for i in 0..100 {
            nanos += bench.round(&runs, &order, i);
            if [3, 20, 100].contains(&(i + 1)) {
                memory.push(resident_bytes().saturating_sub(before) as usize / count);
            }
        }
        best = best.min(nanos / 100.0);
        black_box(&runs);
        let begun = Instant::now();
        for i in 0..100 {
            for series in &order {
                black_box(point(*series as usize, i));
            }
        }
        made = begun.elapsed().as_nanos() as f64 / (100 * count) as f64;
    }
    print!("{name:22} {best:6.1} ns a point, {made:4.1} of them to make it");
    if count > 100_000 {
        print!("; {memory:?} bytes a series after 3, 20, 100 points");
    }
    println!();
}

fn main() {
    println!("a run itself: {} bytes", size_of::<SharedTree<()>>());
    let only = std::env::args().nth(1).unwrap_or_default();
    let cases = [
        ("1,000 series", 1_000, false, 50),
        ("1,000,000 in order", 1_000_000, false, 1),
        ("1,000,000 shuffled", 1_000_000, true, 1),
    ];
    for (name, count, shuffled, repeats) in cases {
        if name.contains(&only) {
            run(name, count, shuffled, repeats);
        }
    }
}
