//! Line protocol of the TSBS cpu-only shape into a store in memory: parse, define, log, apply.
//!
//! `cargo run --release -p alluvium-store --example ingest -- [HOSTS] [ROUNDS]` prints values and CPU
//! nanoseconds a value of parsing alone and of the whole.

use std::fmt::Write as _;
use std::sync::Arc;

use alluvium_io::{Clock, MemoryDevice, SystemClock};
use alluvium_protocol::line::{Limits, LineParser, Precision, decode_key};
use alluvium_store::{Store, StoreConfig};

const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];

fn bodies(hosts: u64, rounds: u64) -> Vec<String> {
    let mut x = 7_u64;
    let mut step = move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x >> 33
    };
    (0..rounds)
        .map(|round| {
            let mut body = String::new();
            for host in 0..hosts {
                let _ = write!(
                    body,
                    "cpu,hostname=host_{host},region=eu-central-1,datacenter=eu-central-1a,rack={},os=Ubuntu15.10,\
                     arch=x86,team=SF,service={},service_version=1,service_environment=test ",
                    host % 100,
                    host % 20
                );
                for (i, field) in FIELDS.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    let _ = write!(body, "{comma}{field}={}i", step() % 101);
                }
                let _ = writeln!(body, " {}", 1_700_000_000_000_000_000 + round * 10_000_000_000);
            }
            body
        })
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let hosts = args.next().transpose()?.unwrap_or(1000);
    let rounds = args.next().transpose()?.unwrap_or(400);
    let bodies = bodies(hosts, rounds);
    let values = hosts * rounds * FIELDS.len() as u64;
    let clock = SystemClock;

    let begun = clock.monotonic_ns();
    let mut fields = 0;
    for body in &bodies {
        let mut parser = LineParser::new(body.as_bytes(), Precision::Ns, 0, Limits::default());
        while let Some(line) = parser.next_line() {
            fields += line?.fields.len();
        }
    }
    assert_eq!(fields as u64, values);
    println!(
        "parse  {:6.1} ns/value",
        (clock.monotonic_ns() - begun) as f64 / values as f64
    );

    let config = StoreConfig {
        shards: 1,
        ..StoreConfig::default()
    };
    let device = Arc::new(MemoryDevice::new(2));
    let store = Store::open(
        Arc::<MemoryDevice>::clone(&device),
        Arc::new(SystemClock),
        config.clone(),
    )?;
    let (database, created) = store.create_database("bench")?;
    created.wait()?;
    let mut writer = database.writer();
    let begun = clock.monotonic_ns();
    for body in &bodies {
        let mut parser = LineParser::new(body.as_bytes(), Precision::Ns, 0, Limits::default());
        while let Some(line) = parser.next_line() {
            let line = line?;
            let row = match writer.cached(line.key) {
                Some(row) => row,
                None => writer.resolve(
                    line.key,
                    decode_key(line.key).map_err(|e| format!("{e:?}"))?,
                ),
            };
            writer.begin_line(row, line.time_ns)?;
            for field in line.fields {
                let name = std::str::from_utf8(field.name)?;
                writer.field(
                    name,
                    field.value.value().ok_or("strings are not in this shape")?,
                )?;
            }
            writer.end_line()?;
        }
        writer.commit(None)?.wait()?;
    }
    println!(
        "ingest {:6.1} ns/value, parse included",
        (clock.monotonic_ns() - begun) as f64 / values as f64
    );
    let status = store.status();
    println!(
        "log    {:6.2} bytes/value",
        status.log.0 as f64 / values as f64
    );
    // The log holds everything and no checkpoint does: opening again redoes all of it.
    drop((writer, database, store));
    let store = Store::open(device, Arc::new(SystemClock), config)?;
    println!(
        "redo   {:6.1} ns/value on one core",
        store.recovery().duration_ns as f64 / store.recovery().points as f64
    );
    store.checkpoint().wait()?;
    let status = store.status();
    let pages: u64 = status
        .databases
        .iter()
        .map(|d| d.leaves.bytes.0 + d.inners.bytes.0)
        .sum();
    println!("pages  {:6.2} bytes/value", pages as f64 / values as f64);
    println!(
        "tails  {:6.2} bytes/value",
        status.tails.0 as f64 / values as f64
    );
    Ok(())
}
