//! Queries over a store in memory: `cargo run --release -p alluvium-query --example store_speed`.
//!
//! 100 hosts, ten fields, a point every ten seconds for a day: 8.64 M points in 1,000 series. Each query runs 20
//! times; the median is told.

use std::sync::Arc;

use alluvium_io::{Clock, MemoryDevice, SystemClock};
use alluvium_protocol::json::Request;
use alluvium_query::{Execution, Limits, RowBatch, plan};
use alluvium_store::{Store, StoreConfig, ValueRef};
use alluvium_types::SeriesKey;

const HOSTS: usize = 100;
const STEP_NS: i64 = 10_000_000_000;
const POINTS: i64 = 8_640;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = StoreConfig {
        shards: 2,
        memory_bytes: 4 << 30,
        ..StoreConfig::default()
    };
    let store = Store::open(
        Arc::new(MemoryDevice::new(3)),
        Arc::new(SystemClock),
        config,
    )?;
    let (database, created) = store.create_database("bench")?;
    created.wait()?;
    let mut writer = database.writer();
    let fields: Vec<String> = (0..10).map(|n| format!("usage_{n}")).collect();
    let mut walk = 50.0_f64;
    for point in 0..POINTS {
        for host in 0..HOSTS {
            let raw = format!("cpu,host=host_{host}");
            let row = match writer.cached(raw.as_bytes()) {
                Some(row) => row,
                None => writer.resolve(
                    raw.as_bytes(),
                    SeriesKey::new("cpu", [("host", format!("host_{host}"))])?,
                ),
            };
            writer.begin_line(row, point * STEP_NS)?;
            for field in &fields {
                walk = (walk * 7.31 + 1.7) % 100.0;
                writer.field(field, ValueRef::F64((walk * 100.0).round() / 100.0))?;
            }
            writer.end_line()?;
        }
        if point % 50 == 49 {
            writer.commit(None)?.wait()?;
            store.drive();
        }
    }
    writer.commit(None)?.wait()?;
    store.checkpoint().wait()?;
    println!("loaded {} points", POINTS * HOSTS as i64 * 10);
    let ten = fields
        .iter()
        .map(|f| format!("\"cpu_{f}\""))
        .collect::<Vec<_>>()
        .join(",");
    let all = fields
        .iter()
        .map(|f| format!("\"cpu_{f}\": [\"min\",\"max\",\"mean\",\"count\"]"))
        .collect::<Vec<_>>()
        .join(",");
    for (what, query) in [
        ("min, max, mean, count of each of 1,000 series", format!("{{\"aggregate\": {{{all}}}}}")),
        (
            "the same over an unaligned range",
            format!("{{\"aggregate\": {{{all}}}, \"range\": {{\"from\": 12345678901234, \"to\": 67890123456789}}}}"),
        ),
        (
            "mean by hour and host, ten fields, 24 h",
            format!("{{\"group-aggregate\": {{\"metric\": [{ten}], \"step\": \"1h\", \"func\": \"mean\"}}}}"),
        ),
        (
            "12 h of one host, one field, max by minute",
            r#"{"group-aggregate": {"metric": "cpu_usage_0", "step": "1m", "func": "max"}, "where": {"host": "host_7"}, "range": {"from": 20000000000000, "to": 63200000000000}}"#.into(),
        ),
        ("all points of one field by time", r#"{"select": "cpu_usage_0"}"#.into()),
        ("all points of one field by series", r#"{"select": "cpu_usage_0", "order-by": "series"}"#.into()),
        ("the newest ten points of one field", r#"{"select": "cpu_usage_0", "range": {"from": 9000000000000000, "to": 0}, "limit": 10}"#.into()),
    ] {
        let mut times = Vec::new();
        let mut last = String::new();
        for _ in 0..20 {
            let started = SystemClock.monotonic_ns();
            let plan = plan(&Request::parse(query.as_bytes(), 0)?)?;
            let limits = Limits::new(Arc::new(SystemClock));
            let snapshot = Box::new(database.snapshot());
            let mut execution = Execution::start(snapshot, plan, limits, Arc::default())?;
            let mut batch = RowBatch::new();
            while execution.next_batch(&mut batch)? {}
            times.push(SystemClock.monotonic_ns() - started);
            last = execution.stats().json();
        }
        times.sort_unstable();
        println!("{what}: {:.2} ms (slowest {:.2})\n    {last}", times[10] as f64 / 1e6, times[19] as f64 / 1e6);
    }
    Ok(())
}
