//! What an append to an open tail costs, and what tails take in memory.
//!
//! `cargo run --release -p alluvium-codec --example tails`
//!
//! A gauge of two decimals every 10 s with up to 20 ms of jitter: 1,000 series (in cache) and 1,000,000 in order and
//! shuffled. Times are of one thread, the making of the points included and shown apart. Memory is resident.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::Instant;

use alluvium_codec::Tail;
use alluvium_types::ValueKind;

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
        round * 10_000_000_000 + jitter,
        (level as f64 / 100.0).to_bits(),
    )
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Nanoseconds of a round over all series in the order given.
fn round(tails: &mut [Tail], order: &[u32], round: i64) -> f64 {
    let begun = Instant::now();
    for series in order {
        let series = *series as usize;
        let (time, bits) = point(series, round);
        tails[series].push_bits(time, bits);
    }
    begun.elapsed().as_nanos() as f64 / order.len() as f64
}

fn run(name: &str, count: usize, shuffled: bool, repeats: usize) {
    let mut order: Vec<u32> = (0..count as u32).collect();
    if shuffled {
        for i in (1..count).rev() {
            order.swap(i, (noise(i, 7) % (i as u64 + 1)) as usize);
        }
    }
    let before = resident();
    let mut made = 0.0;
    let mut best = f64::MAX;
    let mut memory = Vec::new();
    for _ in 0..repeats {
        let mut tails: Vec<Tail> = (0..count).map(|_| Tail::new(ValueKind::F64)).collect();
        let mut nanos = 0.0;
        memory.clear();
        for i in 0..100 {
            nanos += round(&mut tails, &order, i);
            if [3, 20, 100].contains(&(i + 1)) {
                memory.push(resident().saturating_sub(before) / count);
            }
        }
        best = best.min(nanos / 100.0);
        black_box(&tails);
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
    println!("a tail itself: {} bytes", size_of::<Tail>());
    run("1,000 series", 1_000, false, 50);
    run("1,000,000 in order", 1_000_000, false, 1);
    run("1,000,000 shuffled", 1_000_000, true, 1);
}
