//! Reading and writing lines of the TSBS shape: elements are values, ten a line.

use std::hint::black_box;

use alluvium_benches::{FIELDS, keys, tsbs_body};
use alluvium_protocol::line::{Limits, LineParser, Precision, decode_key, write_line};
use alluvium_types::ValueRef;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const HOSTS: usize = 1_000;

fn parse(body: &[u8], mut each: impl FnMut(&[u8])) -> usize {
    let mut parser = LineParser::new(body, Precision::Ns, 0, Limits::default());
    let mut values = 0;
    while let Some(line) = parser.next_line() {
        let line = line.expect("lines are well-formed");
        values += line.fields.len();
        each(line.key);
    }
    values
}

fn lines(c: &mut Criterion) {
    let body = tsbs_body(HOSTS, 0);
    let values = HOSTS * FIELDS.len();
    assert_eq!(parse(body.as_bytes(), |_| ()), values);
    let mut group = c.benchmark_group("line_protocol");
    group.throughput(Throughput::Elements(values as u64));
    group.bench_function("parse", |b| {
        b.iter(|| parse(black_box(body.as_bytes()), |_| ()));
    });
    group.bench_function("parse and decode keys", |b| {
        b.iter(|| {
            parse(black_box(body.as_bytes()), |key| {
                black_box(decode_key(key).expect("keys are well-formed"));
            })
        });
    });
    let keys = keys(HOSTS);
    let mut out = Vec::new();
    group.bench_function("write", |b| {
        b.iter(|| {
            out.clear();
            for key in &keys {
                let fields = FIELDS.iter().map(|name| (*name, ValueRef::F64(93.25)));
                write_line(&mut out, key, fields, Some(7)).expect("it can be written");
            }
            out.len()
        });
    });
    group.finish();
}

criterion_group!(suite, lines);
criterion_main!(suite);
