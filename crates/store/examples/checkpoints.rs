//! What a checkpoint of everything costs: series with a few points each, on a device in memory.
//!
//! `cargo run --release -p alluvium-store --example checkpoints -- [SERIES] [POINTS] [ROUNDS]` prints bytes on the device a byte of
//! tails, and nanoseconds on a processor a byte of tails, the least and the median of the rounds.

use std::sync::Arc;

use alluvium_io::{Device, MemoryDevice, SystemClock};
use alluvium_store::{Store, StoreConfig};
use alluvium_types::{SeriesKey, ValueRef};

/// Nanoseconds that this thread has been on a processor.
fn on_processor_ns() -> Result<u64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = stat.split(' ').next().unwrap_or_default();
    Ok(ns.parse()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let mut arg = |or| args.next().unwrap_or(Ok(or));
    let (series, points, rounds) = (arg(100_000)?, arg(20)?, arg(15)?);
    let device = Arc::new(MemoryDevice::new(2));
    let config = StoreConfig {
        shards: 1,
        tail_chain_max: 1,
        merge_paused: true,
        memory_bytes: 4 << 30,
        ..StoreConfig::default()
    };
    let shared = Arc::<MemoryDevice>::clone(&device) as Arc<dyn Device>;
    let store = Store::open(shared, Arc::new(SystemClock), config)?;
    let (database, created) = store.create_database("bench")?;
    created.wait()?;
    let mut writer = database.writer();
    let mut dice = 7_u64;
    for point in 0..points {
        for number in 0..series {
            let host = format!("host_{number}");
            let key = SeriesKey::new("cpu", [("host", host.as_str())])?;
            let row = writer.resolve(host.as_bytes(), key);
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            writer.begin_line(row, (point * 10_000_000_000) as i64)?;
            writer.field("usage", ValueRef::F64((dice >> 50) as f64 / 100.0))?;
            writer.end_line()?;
            if number % 5000 == 4999 {
                writer.commit(None)?.wait()?;
            }
        }
        writer.commit(None)?.wait()?;
    }
    let mut took = Vec::new();
    for _ in 0..rounds {
        let begun = on_processor_ns()?;
        store.checkpoint().wait()?;
        took.push(on_processor_ns()? - begun);
    }
    let files = device.list("")?.into_iter();
    let of = |prefix| {
        let files = files.clone().filter(|f| f.name.starts_with(prefix));
        files
            .max_by(|a, b| a.name.cmp(&b.name))
            .map_or(0, |f| f.len)
    };
    let (tails, beside) = (of("tails."), of("mend."));
    took.sort_unstable();
    let ns = |i: usize| took.get(i).copied().unwrap_or_default() as f64 / tails as f64;
    println!(
        "{tails} bytes of tails, {:.4} beside; {:.3} ns a byte at least, {:.3} in the middle",
        beside as f64 / tails as f64,
        ns(0),
        ns(took.len() / 2)
    );
    Ok(())
}
