//! What late points cost: the same values in order, with a tenth of the lines late by up to three hours, with the
//! older half after the newer one; and a series backfilled day by day in random order.
//!
//! `cargo run --release -p alluvium-store --example late -- [HOSTS] [DAYS] [BACKFILLED DAYS]` writes to a store in memory from one
//! thread, which also merges, and prints CPU nanoseconds a value (Linux: of this thread), live pages in bytes a value,
//! and how long an aggregate over a random range takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_io::{Clock, MemoryDevice, SystemClock};
use alluvium_store::{Database, ReadStats, Selector, Store, StoreConfig, TimeRange, ValueRef};
use alluvium_types::SeriesKey;

type AnyError = Box<dyn std::error::Error>;

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
const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_700_000_000 * SECOND;
const BATCH_LINES: usize = 5_000;

/// Real time, of which some may be skipped: until a series counts as quiet.
#[derive(Debug, Default)]
struct SkippingClock {
    skipped_ns: AtomicU64,
}

impl Clock for SkippingClock {
    fn monotonic_ns(&self) -> u64 {
        SystemClock.monotonic_ns() + self.skipped_ns.load(Ordering::Relaxed)
    }

    fn wall_ns(&self) -> i64 {
        SystemClock.wall_ns()
    }
}

fn dice(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Nanoseconds of CPU this thread has used; wall time where that is not known.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let used = stat.split_whitespace().next().and_then(|n| n.parse().ok());
    used.unwrap_or_else(|| SystemClock.monotonic_ns())
}

/// A host's line: when it is of, and one walk for all its fields.
#[derive(Debug, Clone, Copy)]
struct Line {
    host: u64,
    time: i64,
    walk: i64,
}

struct World {
    clock: Arc<SkippingClock>,
    store: Store,
    database: Database,
}

impl World {
    fn new() -> Result<Self, AnyError> {
        let clock = Arc::new(SkippingClock::default());
        let config = StoreConfig {
            shards: 1,
            merge_paused: std::env::var("PAUSED").is_ok(),
            ..StoreConfig::default()
        };
        let shared: Arc<dyn Clock> = Arc::<SkippingClock>::clone(&clock);
        let store = Store::open(Arc::new(MemoryDevice::new(2)), shared, config)?;
        let (database, created) = store.create_database("bench")?;
        created.wait()?;
        Ok(Self {
            clock,
            store,
            database,
        })
    }

    fn write(&self, lines: impl Iterator<Item = Line>, fields: &[&str]) -> Result<u64, AnyError> {
        let mut writer = self.database.writer();
        let mut values = 0;
        for (n, line) in lines.enumerate() {
            let raw = line.host.to_le_bytes();
            let row = if let Some(row) = writer.cached(&raw) {
                row
            } else {
                let key = SeriesKey::new("cpu", [("host", format!("h{}", line.host))]);
                writer.resolve(&raw, key?)
            };
            writer.begin_line(row, line.time)?;
            for (i, field) in fields.iter().enumerate() {
                // About a byte each, and different from field to field.
                let value = line.walk * (i as i64 + 1) % 100_000;
                writer.field(field, ValueRef::F64(value as f64 / 100.0))?;
            }
            writer.end_line()?;
            values += fields.len() as u64;
            if n % BATCH_LINES == BATCH_LINES - 1 {
                writer.commit(None)?.wait()?;
                for _ in 0..20 {
                    self.store.drive();
                }
            }
        }
        writer.commit(None)?.wait()?;
        Ok(values)
    }

    /// Lets all series fall quiet and merges them.
    fn settle(&self) {
        for _ in 0..3 {
            self.clock
                .skipped_ns
                .fetch_add(60_000_000_000, Ordering::Relaxed);
            while self.store.drive() {}
        }
        while !self.store.status().merging.paused && self.store.status().merging.series_waiting > 0
        {
            self.clock
                .skipped_ns
                .fetch_add(1_000_000_000, Ordering::Relaxed);
            self.store.drive();
        }
    }

    fn live_bytes(&self) -> u64 {
        let status = self.store.status();
        let pages = status
            .databases
            .iter()
            .map(|d| d.leaves.pages + d.inners.pages);
        (pages.sum::<u64>() - status.merging.pages_dead) * 4096
    }

    /// Median and 99th percentile of aggregates over random ranges, microseconds.
    fn query(&self, last: i64) -> Result<(f64, f64), AnyError> {
        let snapshot = self.database.snapshot();
        let all = snapshot.select(&Selector::default())?;
        let mut state = 77;
        let mut times = Vec::new();
        let span = (last - START) as u64;
        for n in 0..4000 {
            let series = snapshot.series(&all[n % all.len()]);
            let mut at = || START + ((dice(&mut state) << 20) % span) as i64;
            let (a, b) = (at(), at());
            let range = TimeRange::new(a.min(b), a.max(b))?;
            let begun = self.clock.monotonic_ns();
            series.aggregate(range, &mut ReadStats::default())?;
            times.push(self.clock.monotonic_ns() - begun);
        }
        times.sort_unstable();
        Ok((times[2000] as f64 / 1e3, times[3960] as f64 / 1e3))
    }
}

fn report(name: &str, lines: Vec<Line>, fields: &[&str]) -> Result<(), AnyError> {
    if std::env::var("ONLY").is_ok_and(|only| only != name) {
        return Ok(());
    }
    let last = lines.iter().map(|l| l.time).max().unwrap_or(START + 1);
    let world = World::new()?;
    let begun = cpu_ns();
    let values = world.write(lines.into_iter(), fields)?;
    let written = cpu_ns();
    world.settle();
    let settled = cpu_ns();
    let each = |ns: u64| ns as f64 / values as f64;
    let (p50, p99) = world.query(last)?;
    let merging = world.store.status().merging;
    println!(
        "{name:14} {:6.1} ns/value writing, {:5.1} merging at rest; {:.3} live bytes/value; aggregate p50 {p50:.1} us, p99 {p99:.1} us",
        each(written - begun),
        each(settled - written),
        world.live_bytes() as f64 / values as f64,
    );
    println!(
        "{:14} {} merges: {} pages read, {} written, {} leaves adopted, {:.2} of the points moved",
        "",
        merging.merges,
        merging.pages_read,
        merging.pages_written,
        merging.leaves_adopted,
        merging.points_moved as f64 / values as f64
    );
    Ok(())
}

/// Days of lines every ten seconds, in order of time.
fn in_order(hosts: u64, days: i64) -> Vec<Line> {
    let mut state = 7;
    let mut walks = vec![5_000_i64; hosts as usize];
    let mut out = Vec::new();
    for point in 0..8640 * days {
        for host in 0..hosts {
            let walk = &mut walks[host as usize];
            *walk += dice(&mut state) as i64 % 201 - 100;
            let time = START + point * 10 * SECOND;
            out.push(Line {
                host,
                time,
                walk: walk.rem_euclid(1 << 24),
            });
        }
    }
    out
}

fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let hosts = args.next().transpose()?.unwrap_or(20);
    let days = args.next().transpose()?.unwrap_or(8) as i64;
    let backfilled = args.next().transpose()?.unwrap_or(365) as i64;
    let lines = in_order(hosts, days);
    report("in order", lines.clone(), &FIELDS)?;

    let mut state = 3;
    let mut late: Vec<(i64, Line)> = lines
        .iter()
        .map(|line| {
            let is_late = dice(&mut state).is_multiple_of(10);
            let delay = dice(&mut state) as i64 % (3 * 3600) * SECOND;
            (line.time + if is_late { delay } else { 0 }, *line)
        })
        .collect();
    late.sort_by_key(|(arrives, _)| *arrives);
    let late = late.into_iter().map(|(_, line)| line).collect();
    report("a tenth late", late, &FIELDS)?;

    let (older, newer) = lines.split_at(lines.len() / 2);
    report("older half", [newer, older].concat(), &FIELDS)?;
    report("in order", lines, &FIELDS)?;

    let mut order: Vec<i64> = (0..backfilled).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, dice(&mut state) as usize % (i + 1));
    }
    let world = World::new()?;
    let begun = cpu_ns();
    let mut values = 0;
    for day in order {
        let second = |s: i64| Line {
            host: 0,
            time: START + (day * 86_400 + s) * SECOND,
            walk: 5_000 + (s * s + day * 7919) % 3_000,
        };
        values += world.write((0..86_400).map(second), &["value"])?;
    }
    let written = cpu_ns();
    let merging = world.store.status().merging;
    println!(
        "{backfilled} days in random order: {:.1} ns/value writing, then {merging:?}",
        (written - begun) as f64 / values as f64
    );
    world.settle();
    let settled = cpu_ns();
    let merging = world.store.status().merging;
    println!(
        "at rest {:.1} ms more, then {merging:?}",
        (settled - written) as f64 / 1e6
    );
    println!(
        "{:.3} live bytes/value",
        world.live_bytes() as f64 / values as f64
    );
    let snapshot = world.database.snapshot();
    let all = snapshot.select(&Selector::default())?;
    for _ in 0..3 {
        let begun = world.clock.monotonic_ns();
        let mut stats = ReadStats::default();
        let sum = snapshot
            .series(&all[0])
            .aggregate(TimeRange::ALL, &mut stats)?;
        let took = world.clock.monotonic_ns() - begun;
        assert_eq!(sum.count, values);
        println!(
            "aggregate of {values} points: {:.3} ms, {stats:?}",
            took as f64 / 1e6
        );
    }
    Ok(())
}
