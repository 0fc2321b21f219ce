//! A store on a device in memory: line protocol of the TSBS shape in, aggregates and scans out. Elements are values.

use std::sync::Arc;

use alluvium_benches::{FIELDS, tsbs_body};
use alluvium_io::MemoryDevice;
use alluvium_protocol::line::{Limits, LineParser, Precision, decode_key};
use alluvium_store::{
    Database, Direction, Label, Matcher, ReadStats, Selector, Store, StoreConfig, SystemClock,
    Test, TimeRange, Writer,
};
use alluvium_types::Column;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const HOSTS: usize = 1_000;
const ROUNDS: usize = 100;
const VALUES: u64 = (HOSTS * FIELDS.len()) as u64;

fn open() -> (Store, Database) {
    let config = StoreConfig {
        shards: 1,
        ..StoreConfig::default()
    };
    let device = Arc::new(MemoryDevice::new(2));
    let store = Store::open(device, Arc::new(SystemClock), config).expect("an empty directory");
    let (database, created) = store.create_database("bench").expect("a good name");
    created.wait().expect("memory does not fail");
    (store, database)
}

/// Parses and writes one body, and waits until it is durable.
fn write(writer: &mut Writer, body: &str) {
    let mut parser = LineParser::new(body.as_bytes(), Precision::Ns, 0, Limits::default());
    while let Some(line) = parser.next_line() {
        let line = line.expect("lines are well-formed");
        let row = writer.cached(line.key).unwrap_or_else(|| {
            writer.resolve(line.key, decode_key(line.key).expect("ten different tags"))
        });
        writer
            .begin_line(row, line.time_ns)
            .expect("times are allowed");
        for field in line.fields {
            let name = std::str::from_utf8(field.name).expect("names are plain");
            let value = field.value.value().expect("values are numbers");
            writer.field(name, value).expect("names are short");
        }
        writer.end_line().expect("lines have fields");
    }
    let commit = writer.commit(None).expect("the store takes writes");
    commit.wait().expect("memory does not fail");
}

fn ingest(c: &mut Criterion) {
    let bodies: Vec<String> = (0..ROUNDS).map(|r| tsbs_body(HOSTS, r)).collect();
    let mut group = c.benchmark_group("store/write");
    group.sample_size(10);
    group.throughput(Throughput::Elements(VALUES));
    group.bench_function("first batch of new series", |b| {
        b.iter_batched_ref(
            || {
                let (store, database) = open();
                let writer = database.writer();
                (store, writer)
            },
            |(_, writer)| write(writer, &bodies[0]),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(VALUES * (ROUNDS as u64 - 1)));
    group.bench_function("batches of known series", |b| {
        b.iter_batched_ref(
            || {
                let (store, database) = open();
                let mut writer = database.writer();
                write(&mut writer, &bodies[0]);
                (store, writer)
            },
            |(_, writer)| bodies[1..].iter().for_each(|body| write(writer, body)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn queries(c: &mut Criterion) {
    let (_store, database) = open();
    let mut writer = database.writer();
    (0..ROUNDS).for_each(|round| write(&mut writer, &tsbs_body(HOSTS, round)));
    let field = Matcher::new(Label::Field, Test::Equal(FIELDS[0].into()));
    let selector = Selector {
        matchers: vec![field],
    };
    let snapshot = database.snapshot();
    let series = snapshot.select(&selector).expect("it compiles");
    assert_eq!(series.len(), HOSTS);
    let mut stats = ReadStats::default();

    let mut group = c.benchmark_group("store/read");
    group.throughput(Throughput::Elements(HOSTS as u64));
    group.bench_function("select a field of every host", |b| {
        b.iter(|| snapshot.select(&selector));
    });
    group.throughput(Throughput::Elements((HOSTS * ROUNDS) as u64));
    group.bench_function("aggregate a field of every host", |b| {
        b.iter(|| {
            let mut points = 0;
            for info in &series {
                let aggregate = snapshot.series(info).aggregate(TimeRange::ALL, &mut stats);
                points += aggregate.expect("pages are whole").count;
            }
            assert_eq!(points, (HOSTS * ROUNDS) as u64);
        });
    });
    let mut batch = Column::new(series[0].id.kind());
    group.bench_function("scan a field of every host", |b| {
        b.iter(|| {
            let mut points = 0;
            for info in &series {
                let mut cursor = snapshot
                    .series(info)
                    .scan(TimeRange::ALL, Direction::Forward);
                while cursor
                    .next_batch(&mut stats, &mut batch)
                    .expect("pages are whole")
                {
                    points += batch.len();
                }
            }
            assert_eq!(points, HOSTS * ROUNDS);
        });
    });
    group.finish();
}

criterion_group!(suite, ingest, queries);
criterion_main!(suite);
