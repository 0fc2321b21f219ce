//! `alluvium bench`: figures of a running server, from the outside.

use std::io::Write;
use std::time::{Duration, Instant};

use alluvium_types::ByteCount;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::args::{Bench, BenchArgs, BenchQueryArgs, LoadArgs, ServerArgs};
use crate::client::{Answer, Client};
use crate::error::CliError;
use crate::rng::Rng;
use crate::serve::say;
use crate::shapes::{Bodies, values_a_line};

pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    match &args.what {
        Bench::Load(args) => load(args),
        Bench::Query(args) => query(args),
        Bench::Cardinality(args) => crate::bench_cardinality::run(args),
    }
}

fn client(server: &ServerArgs) -> Result<Client, CliError> {
    Client::new(&server.url, server.token.as_deref()).map_err(CliError::io("cannot ask the server"))
}

fn send(
    client: &mut Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, CliError> {
    client
        .request(method, path, headers, body)
        .map_err(CliError::io(
            "cannot reach the server; start one with `alluvium serve`",
        ))
}

fn status(client: &mut Client) -> Result<Value, CliError> {
    let answer = send(client, "GET", "/status", &[], b"")?;
    serde_json::from_slice(&answer.body)
        .map_err(|_| CliError::said(format!("the status is not JSON: {}", answer.text())))
}

/// A number deep in a status; 0 if it is not there.
fn number(status: &Value, path: &str) -> f64 {
    status
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_default()
}

/// Nearest-rank percentile; sorts.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What one connection did.
struct Sent {
    lines: u64,
    bytes: u64,
    times: Vec<Duration>,
    retries: u64,
}

fn load(args: &LoadArgs) -> Result<(), CliError> {
    let connections = args
        .connections
        .clamp(1, 64)
        .min(args.hosts.max(1) as usize);
    let mut control = client(&args.server)?;
    let created = send(
        &mut control,
        "PUT",
        &format!("/api/databases/{}", args.db),
        &[],
        b"",
    )?;
    if created.status >= 300 {
        return Err(CliError::said(format!(
            "the database could not be created: {}",
            created.text()
        )));
    }
    let lines = u64::from(args.hosts) * u64::from(args.points);
    let values = lines * values_a_line(args.shape);
    say(&format!(
        "{:?} shape, seed {}: {} hosts x {} points = {values} values, {} lines a request, {connections} connections",
        args.shape, args.seed, args.hosts, args.points, args.batch_lines
    ));

    // What is prepared costs the client nothing while the clock runs.
    let mut probe = String::new();
    let probed = Bodies::new(args, 0, connections)
        .next_body(&mut probe)
        .max(1) as u64;
    let prepare = probe.len() as u64 / probed * lines <= args.prepare;
    let mut sources: Vec<Source> = (0..connections)
        .map(|number| Source::new(args, number, connections))
        .collect();
    if prepare {
        let began = Instant::now();
        let bytes: u64 = sources.iter_mut().map(Source::prepare).sum();
        say(&format!(
            "prepared {} in {:.1} s",
            ByteCount(bytes),
            began.elapsed().as_secs_f64()
        ));
    } else {
        say("the bodies are made while sending: client and server share the processors");
    }

    let before = status(&mut control)?;
    let began = Instant::now();
    let sent: Vec<Result<Sent, CliError>> = std::thread::scope(|scope| {
        let running: Vec<_> = sources
            .into_iter()
            .map(|source| scope.spawn(|| send_all(args, source)))
            .collect();
        let met_a_bug = |_| Err(CliError::said("a connection of the benchmark met a bug"));
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(met_a_bug))
            .collect()
    });
    let wall = began.elapsed();
    let loaded = status(&mut control)?;
    let mut all = Sent {
        lines: 0,
        bytes: 0,
        times: Vec::new(),
        retries: 0,
    };
    for part in sent {
        let part = part?;
        all.lines += part.lines;
        all.bytes += part.bytes;
        all.retries += part.retries;
        all.times.extend(part.times);
    }
    let cpu = number(&loaded, "/process/cpu_seconds") - number(&before, "/process/cpu_seconds");
    let rate = values as f64 / wall.as_secs_f64();
    let (p50, p99) = (
        percentile(&mut all.times, 50),
        percentile(&mut all.times, 99),
    );
    say(&format!(
        "sent {} lines in {:.2} s: {rate:.0} values/s, {} on the wire",
        all.lines,
        wall.as_secs_f64(),
        ByteCount(all.bytes)
    ));
    say(&format!(
        "requests: {}, p50 {:.2} ms, p99 {:.2} ms, {} sent again after 503",
        all.times.len(),
        ms(p50),
        ms(p99),
        all.retries
    ));
    say(&format!(
        "server CPU: {cpu:.2} s, {:.0} values per CPU second",
        values as f64 / cpu.max(1e-9)
    ));
    say(&format!(
        "server memory: {} resident",
        ByteCount(number(&loaded, "/process/resident_bytes") as u64)
    ));

    if args.no_checkpoint {
        return Ok(());
    }
    let checkpoint = send(&mut control, "POST", "/api/checkpoint", &[], b"")?;
    if checkpoint.status != 200 {
        return Err(CliError::said(format!(
            "the checkpoint failed: {}",
            checkpoint.text()
        )));
    }
    let after = status(&mut control)?;
    report_bytes(&before, &after, &args.db, values);
    Ok(())
}

/// Bytes a value by part: growth from before the load to after its checkpoint.
fn report_bytes(before: &Value, after: &Value, db: &str, values: u64) {
    let of_database = |status: &Value, part: &str| {
        let databases = status.pointer("/store/databases").and_then(Value::as_array);
        let found = databases.and_then(|all| all.iter().find(|d| d["name"] == db));
        found.map_or(0.0, |d| number(d, part))
    };
    let grown = |path: &str| number(after, path) - number(before, path);
    let parts = [
        (
            "leaves",
            of_database(after, "/leaves/used_bytes") - of_database(before, "/leaves/used_bytes"),
        ),
        (
            "inner nodes",
            of_database(after, "/inners/used_bytes") - of_database(before, "/inners/used_bytes"),
        ),
        ("open tails", grown("/store/tails_bytes")),
        ("what mends them", grown("/store/mending_files_bytes")),
        ("definitions", grown("/store/definitions_bytes")),
    ];
    let total: f64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let each = |bytes: f64| bytes / values as f64;
    let text: Vec<String> = parts
        .iter()
        .map(|(name, bytes)| format!("{name} {:.3}", each(*bytes)))
        .collect();
    say(&format!(
        "used bytes a value after a checkpoint: {:.3} ({})",
        each(total),
        text.join(", ")
    ));
    say(&format!(
        "apart from that: live log {}, {} pages written in {} writes",
        ByteCount(number(after, "/store/log/live_bytes") as u64),
        grown("/store/pages/written"),
        grown("/store/pages/write_batches")
    ));
}

/// Bodies of one connection, made before or when asked for.
struct Source {
    bodies: Bodies,
    gzip: bool,
    ready: std::collections::VecDeque<(u64, Vec<u8>)>,
    is_prepared: bool,
}

impl Source {
    fn new(args: &LoadArgs, number: usize, connections: usize) -> Self {
        let bodies = Bodies::new(args, number, connections);
        Self {
            bodies,
            gzip: args.gzip,
            ready: std::collections::VecDeque::new(),
            is_prepared: false,
        }
    }

    /// Makes all bodies; returns their bytes.
    fn prepare(&mut self) -> u64 {
        let mut bytes = 0;
        while let Some(body) = self.make() {
            bytes += body.1.len() as u64;
            self.ready.push_back(body);
        }
        self.is_prepared = true;
        bytes
    }

    fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.is_prepared {
            self.ready.pop_front()
        } else {
            self.make()
        }
    }

    fn make(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut text = String::new();
        let lines = self.bodies.next_body(&mut text) as u64;
        if lines == 0 {
            return None;
        }
        if !self.gzip {
            return Some((lines, text.into_bytes()));
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(text.as_bytes());
        Some((lines, encoder.finish().unwrap_or_default()))
    }
}

fn send_all(args: &LoadArgs, mut source: Source) -> Result<Sent, CliError> {
    let mut client = client(&args.server)?;
    let mut path = format!("/write?db={}", args.db);
    if let Some(level) = &args.durability {
        path.push_str("&durability=");
        path.push_str(level);
    }
    let headers: &[(&str, &str)] = if args.gzip {
        &[("Content-Encoding", "gzip")]
    } else {
        &[]
    };
    let mut sent = Sent {
        lines: 0,
        bytes: 0,
        times: Vec::new(),
        retries: 0,
    };
    while let Some((lines, body)) = source.next() {
        loop {
            let began = Instant::now();
            let answer = send(&mut client, "POST", &path, headers, &body)?;
            match answer.status {
                204 => {
                    sent.times.push(began.elapsed());
                    break;
                }
                503 => {
                    sent.retries += 1;
                    std::thread::sleep(Duration::from_millis(200));
                }
                _ => {
                    return Err(CliError::said(format!(
                        "the server refused a batch: {}",
                        answer.text()
                    )));
                }
            }
        }
        sent.lines += lines;
        sent.bytes += body.len() as u64;
    }
    Ok(sent)
}

/// One answer of the query benchmark: the cells behind series and time, and the pages it read.
struct Asked {
    json: Value,
    time: Duration,
}

fn ask(client: &mut Client, db: &str, query: &str) -> Result<Asked, CliError> {
    let began = Instant::now();
    let answer = send(
        client,
        "POST",
        &format!("/api/query?db={db}"),
        &[],
        query.as_bytes(),
    )?;
    let time = began.elapsed();
    if answer.status != 200 {
        return Err(CliError::said(format!(
            "the query {query} failed: {}",
            answer.text()
        )));
    }
    let json = serde_json::from_slice(&answer.body)
        .map_err(|e| CliError::said(format!("the answer is not JSON: {e}")))?;
    Ok(Asked { json, time })
}

fn query(args: &BenchQueryArgs) -> Result<(), CliError> {
    let mut client = client(&args.server)?;
    let (tag, value) = args
        .series
        .split_once('=')
        .ok_or_else(|| CliError::said(format!("{:?} is not TAG=VALUE", args.series)))?;
    let metric = Value::from(args.metric.as_str());
    let filter = serde_json::json!({ tag: value });
    let whole = format!(
        r#"{{"aggregate": {{{metric}: ["count", "first_timestamp", "last_timestamp"]}}, "where": {filter}}}"#
    );
    let cells = ask(&mut client, &args.db, &whole)?.json;
    let row = cells["rows"]
        .as_array()
        .and_then(|rows| rows.first())
        .cloned()
        .unwrap_or_default();
    let (Some(count), Some(first), Some(last)) =
        (row[2].as_u64(), row[3].as_i64(), row[4].as_i64())
    else {
        return Err(CliError::said(format!(
            "no series of {} has {}; load one with `alluvium bench load`",
            args.metric, args.series
        )));
    };
    say(&format!(
        "{} of {}: {count} points, seed {}",
        args.metric, args.series, args.seed
    ));

    let mut rng = Rng::new(args.seed);
    let span = last.saturating_sub(first).max(2) as u64;
    let ranges: Vec<(i64, i64)> = (0..args.ranges)
        .map(|_| {
            let (a, b) = (
                first + rng.below(span) as i64,
                first + rng.below(span) as i64,
            );
            (a.min(b), a.max(b) + 1)
        })
        .collect();
    let aggregate = |(from, to): (i64, i64)| {
        format!(
            r#"{{"aggregate": {{{metric}: ["min", "max", "mean", "count"]}}, "where": {filter}, "range": {{"from": {from}, "to": {to}}}, "stats": true}}"#
        )
    };
    // The second pass meets the pages of the first in memory, as far as the cache holds them.
    for pass in ["first pass", "second pass"] {
        let mut times = Vec::with_capacity(ranges.len());
        let (mut leaves_max, mut inners_max, mut leaves, mut inners, mut cached) = (0, 0, 0, 0, 0);
        for range in &ranges {
            let asked = ask(&mut client, &args.db, &aggregate(*range))?;
            let pages = |name: &str| asked.json["stats"][name].as_u64().unwrap_or_default();
            leaves_max = leaves_max.max(pages("leaf_pages"));
            inners_max = inners_max.max(pages("inner_pages"));
            leaves += pages("leaf_pages");
            inners += pages("inner_pages");
            cached += pages("cached_pages");
            times.push(asked.time);
        }
        let n = ranges.len().max(1) as f64;
        say(&format!(
            "{} random ranges of min, max, mean, count, {pass}: p50 {:.3} ms, p99 {:.3} ms; leaves mean {:.2} max {leaves_max}, inner pages mean {:.2} max {inners_max}, from memory {:.0} %",
            ranges.len(),
            ms(percentile(&mut times, 50)),
            ms(percentile(&mut times, 99)),
            leaves as f64 / n,
            inners as f64 / n,
            100.0 * cached as f64 / (leaves + inners).max(1) as f64
        ));
    }

    let step = (span / 1000).max(1);
    let mut times = Vec::new();
    let mut rows = 0;
    for _ in 0..args.buckets {
        let from = first + rng.below(step) as i64;
        let query = format!(
            r#"{{"group-aggregate": {{"metric": {metric}, "step": {step}, "func": ["min", "max", "mean", "count"]}}, "where": {filter}, "range": {{"from": {from}, "to": {}}}, "align": "from", "stats": true}}"#,
            from.saturating_add(step as i64 * 1000)
        );
        let asked = ask(&mut client, &args.db, &query)?;
        rows = asked.json["rows"].as_array().map_or(0, Vec::len);
        times.push(asked.time);
    }
    say(&format!(
        "{} queries of {rows} buckets: p50 {:.3} ms, p99 {:.3} ms",
        args.buckets,
        ms(percentile(&mut times, 50)),
        ms(percentile(&mut times, 99))
    ));
    check(&mut client, args, &ranges, &aggregate, &metric, &filter)
}

/// Compares answers with a fold over the raw points.
fn check(
    client: &mut Client,
    args: &BenchQueryArgs,
    ranges: &[(i64, i64)],
    aggregate: &dyn Fn((i64, i64)) -> String,
    metric: &Value,
    filter: &Value,
) -> Result<(), CliError> {
    for range in ranges.iter().take(args.check) {
        let row = ask(client, &args.db, &aggregate(*range))?.json["rows"][0].clone();
        let raw = format!(
            r#"{{"select": {metric}, "where": {filter}, "range": {{"from": {}, "to": {}}}}}"#,
            range.0, range.1
        );
        let points = ask(client, &args.db, &raw)?.json;
        let values: Vec<f64> = points["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r[2].as_f64())
            .collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = values.iter().sum();
        let magnitude: f64 = values.iter().map(|v| v.abs()).sum();
        let mean = sum / values.len() as f64;
        let near = |a: Option<f64>| {
            a.is_some_and(|a| (a - mean).abs() * values.len() as f64 <= 1e-12 * magnitude.max(1.0))
        };
        let equal = if values.is_empty() {
            row[5].as_u64().unwrap_or_default() == 0
        } else {
            row[2].as_f64() == Some(low)
                && row[3].as_f64() == Some(high)
                && near(row[4].as_f64())
                && row[5].as_u64() == Some(values.len() as u64)
        };
        if !equal {
            return Err(CliError::said(format!(
                "range {range:?} answers {row}, but its {} points say {low}, {high}, {mean}",
                values.len()
            )));
        }
    }
    say(&format!(
        "{} ranges checked against their raw points: equal",
        args.check.min(ranges.len())
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50), Duration::from_millis(50));
        assert_eq!(percentile(&mut times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&mut times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
