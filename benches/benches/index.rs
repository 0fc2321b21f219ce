//! The index of one partition: elements are rows, of ten tags each.

use std::hint::black_box;

use alluvium_benches::{FIELDS, keys};
use alluvium_index::{DefinitionMark, KeyHash, Label, Matcher, PartitionIndex, Selector, Test};
use alluvium_types::{SeriesKey, ValueKind};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 10_000;
const SEED: u64 = 42;

fn insert(index: &mut PartitionIndex, hash: KeyHash, key: &SeriesKey) {
    let row = index.insert_row(hash, key).expect("there is room");
    let measurement = index.measurement_of(row).expect("the row has one");
    for name in FIELDS {
        let field = index
            .insert_field(measurement, name)
            .expect("there is room");
        index
            .add_series(row, field, ValueKind::I64)
            .expect("there is room");
    }
}

fn index(c: &mut Criterion) {
    let keys = keys(ROWS);
    let mut scratch = Vec::new();
    let hashes: Vec<KeyHash> = keys
        .iter()
        .map(|key| KeyHash::of(SEED, key, &mut scratch))
        .collect();
    let fill = |index: &mut PartitionIndex| {
        for (hash, key) in hashes.iter().zip(&keys) {
            insert(index, *hash, key);
        }
    };
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("hash", |b| {
        b.iter(|| {
            keys.iter().fold(0, |all, key| {
                all ^ KeyHash::of(SEED, key, &mut scratch).bits()
            })
        });
    });
    group.bench_function("insert", |b| {
        b.iter_batched_ref(PartitionIndex::new, fill, BatchSize::PerIteration);
    });
    let mut full = PartitionIndex::new();
    fill(&mut full);
    group.bench_function("lookup", |b| {
        b.iter(|| {
            let found = |h: &&KeyHash| full.lookup(**h).is_some();
            hashes.iter().filter(found).count()
        });
    });
    let mut out = Vec::with_capacity(ROWS);
    group.bench_function("lookup batch", |b| {
        b.iter(|| {
            out.clear();
            full.lookup_batch(black_box(&hashes), &mut out);
        });
    });
    let part = full
        .encode_part(DefinitionMark::default())
        .expect("it is not empty");
    group.bench_function("encode part", |b| {
        b.iter(|| full.encode_part(DefinitionMark::default()));
    });
    group.bench_function("apply part", |b| {
        b.iter_batched_ref(
            PartitionIndex::new,
            |index| index.apply_part(SEED, &part).expect("its own part"),
            BatchSize::PerIteration,
        );
    });
    let tag = |name: &str| Label::Tag(name.to_owned());
    let selectors = [
        (
            "one host",
            Matcher::new(tag("hostname"), Test::Equal("host_77".into())),
        ),
        ("a rack", Matcher::new(tag("rack"), Test::Equal("7".into()))),
        (
            "hosts by expression",
            Matcher::new(tag("hostname"), Test::Regex("host_1.*5".into())),
        ),
    ];
    for (name, matcher) in selectors {
        let field = Matcher::new(Label::Field, Test::Equal(FIELDS[0].into()));
        let selector = Selector {
            matchers: vec![matcher, field],
        };
        let compiled = selector.compile().expect("it compiles");
        let found = full.select(&compiled).expect("it is in memory").len();
        assert!(found > 0);
        group.throughput(Throughput::Elements(found as u64));
        group.bench_function(format!("select/{name}"), |b| {
            b.iter(|| full.select(black_box(&compiled)));
        });
    }
    group.finish();
}

criterion_group!(suite, index);
criterion_main!(suite);
