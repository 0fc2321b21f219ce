//! `alluvium bench cardinality`: what new series cost, through the store in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alluvium_io::{DeviceOptions, process_cpu_time, resident_bytes, thread_cpu_time};
use alluvium_protocol::line::{Limits, borrow_key};
use alluvium_store::{
    Clock, Database, Durability, Label, Matcher, Selector, Store, StoreConfig, SystemClock, Test,
    ValueRef,
};

use crate::args::BenchCardinalityArgs;
use crate::error::CliError;
use crate::selection_cost;
use crate::serve::say;
use crate::settings::set_numbers;
use crate::shapes::REGIONS;

/// A year between checkpoints: none in a run.
const NO_CHECKPOINT_MS: u64 = 365 * 86_400_000;

pub(crate) fn failed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> CliError {
    move |error| CliError::Said(format!("{what}: {error}"))
}

pub(crate) fn run(args: &BenchCardinalityArgs) -> Result<(), CliError> {
    if args.again {
        return reopen(args, &args.dir.join("closed"), "once more");
    }
    if args
        .dir
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        let reason = format!(
            "{} is not empty; give a directory that is not there",
            args.dir.display()
        );
        return Err(CliError::Said(reason));
    }
    let (closed, killed) = (args.dir.join("closed"), args.dir.join("killed"));
    for dir in [&closed, &killed] {
        std::fs::create_dir_all(dir).map_err(CliError::io("cannot make the directory"))?;
    }
    say(&format!(
        "{} series of one integer field, each of a tag set of its own with the ten tags of a TSBS host, batches of {}, level sync",
        args.series, args.batch
    ));
    let settings = config(args, true)?;
    say(&format!(
        "16 partitions; index segments of {} rows, merged by {} up to {} rows, at most {} MiB of their blocks in memory; \
         rows leave the name table after {} days; {} shards",
        settings.index_segment_rows,
        settings.index_merge_segments,
        settings.index_merge_rows_max,
        settings.index_cache_limit() >> 20,
        settings.index_silent_days,
        settings.shards,
    ));
    let empty = resident_bytes();
    let store = open(&closed, settings)?;
    pumped(&store, || {
        let database = load(args, &store)?;
        measure(args, &store, &database, empty)
    })?;
    store
        .close()
        .map_err(|e| failed("cannot close the store")(&e))?;
    drop(store);
    reopen(args, &closed, "after a close")?;
    // Without a checkpoint everything is in the log, and a store that is let go of writes nothing more.
    say("without a checkpoint beside it:");
    let store = open(&killed, config(args, false)?)?;
    pumped(&store, || load(args, &store).map(drop))?;
    drop(store);
    reopen(args, &killed, "after a kill, the whole log to redo")
}

/// The store's own settings but for what the command line says.
fn config(args: &BenchCardinalityArgs, checkpoints: bool) -> Result<StoreConfig, CliError> {
    let mut config = StoreConfig {
        memory_bytes: args.memory,
        durability: Durability::Sync,
        ..StoreConfig::default()
    };
    set_numbers(&args.set, |name, text| config.set_number(name, text))?;
    if !checkpoints {
        (config.checkpoint_log_bytes, config.checkpoint_ms) = (u64::MAX, NO_CHECKPOINT_MS);
    }
    Ok(config)
}

fn open(dir: &Path, config: StoreConfig) -> Result<Store, CliError> {
    let options = DeviceOptions {
        // The last one is the checkpoint's.
        lanes: config.shards + 1,
        ..DeviceOptions::default()
    };
    let device =
        alluvium_io::open(dir, &options).map_err(|e| failed("cannot open the directory")(&e))?;
    Store::open(device, Arc::new(SystemClock), config)
        .map_err(|e| failed("cannot open the store")(&e))
}

/// Runs `work` while another thread drives the store.
fn pumped(store: &Store, work: impl FnOnce() -> Result<(), CliError>) -> Result<(), CliError> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| store.pump(&stop));
        let result = work();
        stop.store(true, Ordering::Release);
        store.wake();
        result
    })
}

/// The ten tags of a TSBS host, of which no two are alike, as a line of line protocol begins.
fn host(n: u64) -> Vec<u8> {
    // Any fixed mixture will do.
    let random =
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) >> 7;
    let pick = |shift: u32, count: u64| (random >> shift) % count;
    let region = REGIONS[pick(3, 9) as usize];
    let tags = [
        ("arch", ["x64", "x86"][pick(32, 2) as usize].to_owned()),
        (
            "datacenter",
            format!("{region}{}", ["a", "b", "c"][pick(8, 3) as usize]),
        ),
        ("hostname", format!("host_{n}")),
        (
            "os",
            ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][pick(24, 3) as usize].to_owned(),
        ),
        ("rack", pick(16, 100).to_string()),
        ("region", region.to_owned()),
        ("service", pick(40, 20).to_string()),
        (
            "service_environment",
            ["production", "staging", "test"][pick(55, 3) as usize].to_owned(),
        ),
        ("service_version", pick(48, 2).to_string()),
        (
            "team",
            ["SF", "NYC", "LON", "CHI"][pick(36, 4) as usize].to_owned(),
        ),
    ];
    let mut raw = b"cpu".to_vec();
    for (key, value) in &tags {
        raw.push(b',');
        raw.extend_from_slice(key.as_bytes());
        raw.push(b'=');
        raw.extend_from_slice(value.as_bytes());
    }
    raw
}

/// The texts of a batch, one behind the other, as the body of a request has them.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn make(&mut self, hosts: std::ops::Range<u64>) {
        self.bytes.clear();
        self.ends.clear();
        for n in hosts {
            self.bytes.extend_from_slice(&host(n));
            self.ends.push(self.bytes.len());
        }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins
            .zip(&self.ends)
            .map(|(begin, end)| &self.bytes[*begin..*end])
    }
}

/// Processor time of the calling thread that each part of the way of a new series took.
#[derive(Default)]
struct Spent {
    making: Duration,
    lines: Duration,
    commit: Duration,
    wait: Duration,
}

fn load(args: &BenchCardinalityArgs, store: &Store) -> Result<Database, CliError> {
    let (database, created) = store
        .create_database("bench")
        .map_err(|e| failed("cannot create the database")(&e))?;
    created
        .wait()
        .map_err(|e| failed("cannot create the database")(&e))?;
    let mut writer = database.writer();
    // Of the present: rows of long ago would fall silent as soon as they are in segments.
    let start_ns = SystemClock.wall_ns();
    let limits = Limits::default();
    let (mut spent, mut texts) = (Spent::default(), Texts::default());
    let (mut slowest, mut slowest_cpu) = (Duration::ZERO, Duration::ZERO);
    let (began, cpu) = (Instant::now(), process_cpu_time());
    for (round, first) in (0..args.series).step_by(args.batch.max(1)).enumerate() {
        let end = args.series.min(first + args.batch.max(1) as u64);
        let start = thread_cpu_time();
        texts.make(first..end);
        let making = thread_cpu_time().saturating_sub(start);
        let time = start_ns + round as i64;
        let bad = |e: &dyn std::fmt::Display| failed("a line was refused")(e);
        let (batch_began, lines_began) = (Instant::now(), thread_cpu_time());
        for raw in texts.iter() {
            let key = borrow_key(raw, limits.tags_max);
            let row = writer.resolve_borrowed(raw, &key.map_err(|e| bad(&e))?);
            writer.begin_line(row, time).map_err(|e| bad(&e))?;
            writer
                .field("usage_user", ValueRef::I64(58))
                .map_err(|e| bad(&e))?;
            writer.end_line().map_err(|e| bad(&e))?;
        }
        let commit_began = thread_cpu_time();
        let commit = writer
            .commit(None)
            .map_err(|e| failed("a batch was refused")(&e))?;
        let wait_began = thread_cpu_time();
        commit
            .wait()
            .map_err(|e| failed("a batch was not written")(&e))?;
        let ended = thread_cpu_time();
        spent.making += making;
        spent.lines += commit_began.saturating_sub(lines_began);
        spent.commit += wait_began.saturating_sub(commit_began);
        spent.wait += ended.saturating_sub(wait_began);
        slowest = slowest.max(batch_began.elapsed());
        slowest_cpu = slowest_cpu.max(ended.saturating_sub(lines_began));
    }
    let cpu = process_cpu_time().saturating_sub(cpu + spent.making);
    let series = args.series as f64;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / series;
    let of_writer = spent.lines + spent.commit + spent.wait;
    say(&format!(
        "created: {:.0} a CPU second of all threads without the making of texts ({:.2} us each: lines {:.2}, commit {:.2}, \
         waiting for it {:.2}, other threads {:.2}; making a text {:.2}), {:.2} s in all",
        series / cpu.as_secs_f64(),
        us(cpu),
        us(spent.lines),
        us(spent.commit),
        us(spent.wait),
        us(cpu.saturating_sub(of_writer)),
        us(spent.making),
        began.elapsed().as_secs_f64(),
    ));
    say(&format!(
        "slowest batch {:.0} ms, of the writer's processor time {:.0} ms",
        slowest.as_secs_f64() * 1e3,
        slowest_cpu.as_secs_f64() * 1e3,
    ));
    Ok(database)
}

/// Memory after a checkpoint, and some questions.
fn measure(
    args: &BenchCardinalityArgs,
    store: &Store,
    database: &Database,
    empty: u64,
) -> Result<(), CliError> {
    let series = args.series as f64;
    store
        .checkpoint()
        .wait()
        .map_err(|e| failed("no checkpoint")(&e))?;
    let status = store.status();
    say(&format!(
        "resident {:.0} bytes a series after a checkpoint",
        resident_bytes().saturating_sub(empty) as f64 / series
    ));
    let index = status.index;
    say(&format!(
        "index: {} segments of {} of {} rows, {} of them out of the name table",
        index.segments, index.sealed_rows, index.rows, index.silent_rows
    ));
    say("memory by owner:");
    for (owner, bytes) in &status.memory {
        say(&format!(
            "  {owner:16} {:9.1} bytes a series",
            bytes.0 as f64 / series
        ));
    }
    selection_cost::ask(database, args.series, args.runs)
}

fn reopen(args: &BenchCardinalityArgs, dir: &Path, what: &str) -> Result<(), CliError> {
    let (start, cpu) = (Instant::now(), process_cpu_time());
    let store = open(dir, config(args, true)?)?;
    let opened = start.elapsed();
    let database = store.database("bench");
    let database = database.ok_or_else(|| CliError::said("the database is gone"))?;
    pumped(&store, || {
        let host = Test::Equal(format!("host_{}", args.series / 2));
        let selector = Selector {
            matchers: vec![Matcher::new(Label::Tag("hostname".into()), host)],
        };
        let snapshot = database.snapshot();
        let found = snapshot
            .select(&selector)
            .map_err(|e| failed("no answer")(&e))?;
        let last = found
            .first()
            .and_then(|info| snapshot.series(info).last_time());
        if found.len() != 1 || last.is_none() {
            return Err(CliError::Said(
                "a series that was written is not found again".into(),
            ));
        }
        say(&format!(
            "opened {what}: {:.2} s; first answer after {:.2} s, {:.2} s of CPU; {} sections of log",
            opened.as_secs_f64(),
            start.elapsed().as_secs_f64(),
            process_cpu_time().saturating_sub(cpu).as_secs_f64(),
            store.recovery().sections,
        ));
        if args.again {
            selection_cost::ask(&database, args.series, args.runs)?;
        }
        Ok(())
    })?;
    store
        .close()
        .map_err(|e| failed("cannot close the store")(&e))
}
