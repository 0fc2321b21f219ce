//! `alluvium bench cardinality`: what new series cost, through the store in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alluvium_io::{DeviceOptions, process_cpu_time, resident_bytes, thread_cpu_time};
use alluvium_store::{
    Database, Durability, Label, Matcher, Selector, Store, StoreConfig, SystemClock, Test, ValueRef,
};
use alluvium_types::SeriesKey;

use crate::args::BenchCardinalityArgs;
use crate::error::CliError;
use crate::serve::say;

/// Time of the points, seconds since 1970, and how many seconds each batch is later.
const START_S: i64 = 1_767_225_600;

const REGIONS: [&str; 9] = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "sa-east-1",
];

fn failed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> CliError {
    move |error| CliError::Said(format!("{what}: {error}"))
}

pub(crate) fn run(args: &BenchCardinalityArgs) -> Result<(), CliError> {
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
    std::fs::create_dir_all(&args.dir).map_err(CliError::io("cannot make the directory"))?;
    let empty = resident_bytes();
    let store = open(&args.dir, args.memory)?;
    pumped(&store, || load(args, &store, empty))?;
    store
        .close()
        .map_err(|e| failed("cannot close the store")(&e))?;
    drop(store);
    reopen(args)
}

fn open(dir: &Path, memory: u64) -> Result<Store, CliError> {
    let config = StoreConfig {
        memory_bytes: memory,
        durability: Durability::Sync,
        ..StoreConfig::default()
    };
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

/// The ten tags of a TSBS host, of which no two are alike, and its key as a line of line protocol begins.
fn host(n: u64) -> Result<(Vec<u8>, SeriesKey), CliError> {
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
    let key = SeriesKey::new("cpu", tags).map_err(|e| failed("bad tags")(&e))?;
    Ok((raw, key))
}

fn load(args: &BenchCardinalityArgs, store: &Store, empty: u64) -> Result<(), CliError> {
    let (database, created) = store
        .create_database("bench")
        .map_err(|e| failed("cannot create the database")(&e))?;
    created
        .wait()
        .map_err(|e| failed("cannot create the database")(&e))?;
    let mut writer = database.writer();
    let mut slowest = Duration::ZERO;
    let mut preparing = Duration::ZERO;
    let (began, cpu) = (Instant::now(), process_cpu_time());
    for (round, first) in (0..args.series).step_by(args.batch.max(1)).enumerate() {
        let start = thread_cpu_time();
        let end = args.series.min(first + args.batch.max(1) as u64);
        let keys: Vec<_> = (first..end).map(host).collect::<Result<_, _>>()?;
        preparing += thread_cpu_time().saturating_sub(start);
        let start = Instant::now();
        let time = (START_S + round as i64) * 1_000_000_000;
        let bad = |e: &dyn std::fmt::Display| failed("a line was refused")(e);
        for (raw, key) in keys {
            let row = writer.resolve(&raw, key);
            writer.begin_line(row, time).map_err(|e| bad(&e))?;
            writer
                .field("usage_user", ValueRef::I64(58))
                .map_err(|e| bad(&e))?;
            writer.end_line().map_err(|e| bad(&e))?;
        }
        let commit = writer
            .commit(None)
            .map_err(|e| failed("a batch was refused")(&e))?;
        commit
            .wait()
            .map_err(|e| failed("a batch was not written")(&e))?;
        slowest = slowest.max(start.elapsed());
    }
    let cpu = process_cpu_time().saturating_sub(cpu + preparing);
    let wall = began.elapsed();
    let series = args.series as f64;
    say(&format!(
        "created {} series in batches of {}, level sync: {:.0} a CPU second ({:.2} s of CPU without the making of keys, \
         {:.2} s in all), slowest batch {:.0} ms",
        args.series,
        args.batch,
        series / cpu.as_secs_f64(),
        cpu.as_secs_f64(),
        wall.as_secs_f64(),
        slowest.as_secs_f64() * 1e3,
    ));
    drop(writer);
    store
        .checkpoint()
        .wait()
        .map_err(|e| failed("no checkpoint")(&e))?;
    let status = store.status();
    say(&format!(
        "resident {:.0} bytes a series after a checkpoint; by owner:",
        resident_bytes().saturating_sub(empty) as f64 / series
    ));
    for (owner, bytes) in &status.memory {
        say(&format!(
            "  {owner:16} {:9.1} bytes a series",
            bytes.0 as f64 / series
        ));
    }
    ask(&database, args.series / 2)
}

/// Asks for one host in three ways, each checked.
fn ask(database: &Database, n: u64) -> Result<(), CliError> {
    let tag = |key: &str, test: Test| Matcher::new(Label::Tag(key.into()), test);
    for (what, matchers) in [
        (
            "one host",
            vec![tag("hostname", Test::Equal(format!("host_{n}")))],
        ),
        (
            "two equalities",
            vec![
                tag("region", Test::Equal("eu-west-1".into())),
                tag("hostname", Test::Equal(format!("host_{n}"))),
            ],
        ),
        (
            "an infix expression",
            vec![tag("hostname", Test::Regex(format!(".*_{n}.*")))],
        ),
    ] {
        let selector = Selector { matchers };
        let (start, cpu) = (Instant::now(), process_cpu_time());
        let found = database
            .snapshot()
            .select(&selector)
            .map_err(|e| failed("no answer")(&e))?;
        say(&format!(
            "select {what}: {} series, {:.2} ms, {:.2} ms of CPU",
            found.len(),
            start.elapsed().as_secs_f64() * 1e3,
            process_cpu_time().saturating_sub(cpu).as_secs_f64() * 1e3,
        ));
    }
    Ok(())
}

fn reopen(args: &BenchCardinalityArgs) -> Result<(), CliError> {
    let (start, cpu) = (Instant::now(), process_cpu_time());
    let store = open(&args.dir, args.memory)?;
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
            "opened again in {:.2} s; first answer after {:.2} s, {:.2} s of CPU",
            opened.as_secs_f64(),
            start.elapsed().as_secs_f64(),
            process_cpu_time().saturating_sub(cpu).as_secs_f64(),
        ));
        Ok(())
    })?;
    store
        .close()
        .map_err(|e| failed("cannot close the store")(&e))
}
