//! What deletes cost: one hour of many series, and a measurement of very many.
//!
//! `cargo run --release -p alluvium-store --example deletes -- [SERIES] [SERIES OF THE MEASUREMENT]` writes a day of
//! a point every ten seconds to a store in memory, deletes an hour of it five times, and prints what finding the
//! points and hiding them took, wall time; then it drops a measurement of series with two points each.

use std::sync::Arc;

use alluvium_io::{Clock, MemoryDevice, SystemClock};
use alluvium_store::{
    Database, Delete, DeleteSelection, Label, Matcher, ReadStats, Selector, Store, StoreConfig,
    Test, TimeRange, ValueRef,
};
use alluvium_types::SeriesKey;

type AnyError = Box<dyn std::error::Error>;

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3_600 * SECOND;
const START: i64 = 1_700_000_000 * SECOND;
const BATCH_LINES: usize = 5_000;

/// Writes one field of `hosts` series of a measurement, all of a time before the next.
fn fill(
    store: &Store,
    database: &Database,
    measurement: &str,
    hosts: usize,
    times: impl Iterator<Item = i64>,
) -> Result<(), AnyError> {
    let mut writer = database.writer();
    for time in times {
        for host in 0..hosts {
            let raw = format!("{measurement},host=host_{host}");
            let row = match writer.cached(raw.as_bytes()) {
                Some(row) => row,
                None => {
                    let tags = [("host", format!("host_{host}"))];
                    writer.resolve(raw.as_bytes(), SeriesKey::new(measurement, tags)?)
                }
            };
            writer.begin_line(row, time)?;
            let value = ((time / SECOND) as f64 / 100.0 + host as f64).sin();
            writer.field("value", ValueRef::F64((value * 100.0).round() / 100.0))?;
            writer.end_line()?;
            if writer.lines() == BATCH_LINES {
                writer.commit(None)?.wait()?;
                store.drive();
            }
        }
    }
    writer.commit(None)?.wait()?;
    Ok(())
}

fn of(measurement: &str, range: TimeRange) -> Delete {
    let test = Test::Equal(measurement.into());
    let selector = Selector {
        matchers: vec![Matcher::new(Label::Measurement, test)],
    };
    Delete {
        selections: vec![DeleteSelection {
            selector,
            tag_sets: None,
        }],
        range,
        test: None,
    }
}

fn timed(database: &Database, what: &str, delete: &Delete) -> Result<(), AnyError> {
    let begun = SystemClock.monotonic_ns();
    let plan = database.plan_delete(delete)?;
    let planned = SystemClock.monotonic_ns();
    let deleted = plan.commit()?;
    let hidden = SystemClock.monotonic_ns();
    deleted.commit.wait()?;
    let durable = SystemClock.monotonic_ns();
    let ms = |from: u64, to: u64| (to - from) as f64 / 1e6;
    println!(
        "{what}: {} series, {} points; found in {:.2} ms, hidden in {:.2} ms, durable after {:.2} ms",
        deleted.affected.series,
        deleted.affected.points,
        ms(begun, planned),
        ms(planned, hidden),
        ms(hidden, durable),
    );
    Ok(())
}

fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().map_or(Ok(default), |a| a.parse());
    let (hosts, many) = (number(1_000)?, number(1_000_000)?);
    let config = StoreConfig {
        memory_bytes: 8 << 30,
        merge_paused: true,
        ..StoreConfig::default()
    };
    let device = Arc::new(MemoryDevice::new(config.shards + 1));
    let store = Store::open(device, Arc::new(SystemClock), config)?;
    let (database, created) = store.create_database("deletes")?;
    created.wait()?;
    let day = (0..24 * 360).map(|i| START + i * 10 * SECOND);
    fill(&store, &database, "cpu", hosts, day)?;
    for hour in [3, 7, 11, 15, 19] {
        // Off the round hour: leaves are cut at both ends.
        let begin = START + hour * HOUR + 17 * SECOND;
        let range = TimeRange::new(begin, begin + HOUR)?;
        timed(&database, "an hour", &of("cpu", range))?;
    }
    let snapshot = database.snapshot();
    let series = snapshot.select(&Selector::default())?;
    let mut stats = ReadStats::default();
    let begun = SystemClock.monotonic_ns();
    let mut points = 0;
    for info in &series {
        let aggregate = snapshot
            .series(info)
            .aggregate(TimeRange::ALL, &mut stats)?;
        points += aggregate.count;
    }
    let ended = SystemClock.monotonic_ns();
    println!(
        "aggregates over the whole day beside five deletes: {points} points, {:.1} us a series",
        (ended - begun) as f64 / 1e3 / series.len() as f64
    );
    fill(
        &store,
        &database,
        "many",
        many,
        [START, START + SECOND].into_iter(),
    )?;
    let heap = store.budget().used();
    timed(&database, "a measurement", &of("many", TimeRange::ALL))?;
    println!(
        "memory of series before {} MiB, after {} MiB; tombstones {}",
        heap >> 20,
        store.budget().used() >> 20,
        store.status().databases[0].tombstones
    );
    Ok(())
}
