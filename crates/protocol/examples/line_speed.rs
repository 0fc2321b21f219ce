//! How many values a second one core parses, and how many rows it writes: `cargo run --release -p alluvium-protocol --example line_speed`.
//!
//! Lines have the shape of the TSBS cpu-only load: ten tags, ten fields, one timestamp; one body of 10,000 lines
//! from 1,000 hosts, made in memory from a fixed seed. Prints the median and the spread of 21 rounds.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark reads the machine's clock"
)]

use std::hint::black_box;
use std::time::Instant;

use alluvium_protocol::json::{Format, Output};
use alluvium_protocol::line::{
    FieldValue, Limits, LineParser, Precision, decode_key, decode_name, write_line,
};
use alluvium_protocol::{RowWriter, SeriesName};
use alluvium_types::{SeriesKey, ValueRef};

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
const LINES: usize = 10_000;
const HOSTS: usize = 1_000;
const ROUNDS: usize = 21;

fn body(value: impl Fn(u64) -> ValueRef<'static>) -> Vec<u8> {
    let mut seed = 42_u64;
    let mut out = Vec::new();
    for i in 0..LINES {
        let host = format!("host_{}", i % HOSTS);
        let key = SeriesKey::new(
            "cpu",
            [
                ("hostname", host.as_str()),
                ("region", "eu-central-1"),
                ("datacenter", "eu-central-1a"),
                ("rack", "6"),
                ("os", "Ubuntu15.10"),
                ("arch", "x86"),
                ("team", "SF"),
                ("service", "19"),
                ("service_version", "1"),
                ("service_environment", "test"),
            ],
        )
        .expect("ten different tags");
        let fields = FIELDS.map(|name| {
            // xorshift64, Marsaglia 2003.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (name, value(seed))
        });
        let time = 1_451_606_400_000_000_000 + (i / HOSTS) as i64 * 10_000_000_000;
        write_line(&mut out, &key, fields, Some(time)).expect("plain names");
    }
    out
}

fn parse(body: &[u8]) -> (usize, u64) {
    let mut parser = LineParser::new(body, Precision::Ns, 0, Limits::default());
    let (mut values, mut sum) = (0, 0_u64);
    while let Some(line) = parser.next_line() {
        let Ok(line) = line else { continue };
        sum = sum.wrapping_add(line.key.len() as u64);
        for field in line.fields {
            values += 1;
            sum = sum.wrapping_add(match field.value {
                FieldValue::F64(v) => v.to_bits(),
                FieldValue::I64(v) => v as u64,
                _ => 0,
            });
        }
    }
    (values, sum)
}

fn decode(body: &[u8]) -> (usize, u64) {
    let mut parser = LineParser::new(body, Precision::Ns, 0, Limits::default());
    let (mut values, mut sum) = (0, 0_u64);
    while let Some(line) = parser.next_line() {
        let Ok(line) = line else { continue };
        sum += decode_key(line.key).map_or(0, |k| k.tags().len()) as u64;
        for field in line.fields {
            values += 1;
            sum += decode_name(field.name).map_or(0, |n| n.len()) as u64;
        }
    }
    (values, sum)
}

fn measure(name: &str, body: &[u8], run: impl Fn(&[u8]) -> (usize, u64)) {
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            let (values, sum) = run(black_box(body));
            black_box(sum);
            assert_eq!(values, LINES * FIELDS.len());
            values as f64 / begin.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[ROUNDS / 2];
    println!(
        "{name:34} {median:6.1} M values/s (min {:.1}, max {:.1}), {:.0} MB/s, {} bytes a line",
        rates[0],
        rates[ROUNDS - 1],
        median * body.len() as f64 / (LINES * FIELDS.len()) as f64,
        body.len() / LINES,
    );
}

/// Writes the floats of the body as rows of an answer.
fn render(format: Format) -> usize {
    let series: Vec<SeriesName> = (0..HOSTS)
        .map(|i| {
            SeriesName::new(
                "cpu_usage_user",
                [("hostname", format!("host_{i}").as_str())],
            )
        })
        .collect();
    let mut writer = RowWriter::new(Output {
        format,
        ..Output::default()
    });
    let mut bytes = 0;
    writer.begin(&["value"]);
    for i in 0..LINES * FIELDS.len() {
        let time = 1_451_606_400_000_000_000 + i as i64 * 10_000_000_000;
        let value = ValueRef::F64((i % 10_001) as f64 / 100.0);
        if let Some(series) = series.get(i % HOSTS) {
            writer.row(series, time, &[Some(value)]);
        }
        if writer.len() > 1 << 16 {
            bytes += black_box(writer.take()).len();
        }
    }
    writer.finish(&[], None, None);
    bytes + writer.take().len()
}

fn measure_render(name: &str, format: Format) {
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            black_box(render(format));
            (LINES * FIELDS.len()) as f64 / begin.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!(
        "{name:34} {:6.1} M rows/s (min {:.1}, max {:.1})",
        rates[ROUNDS / 2],
        rates[0],
        rates[ROUNDS - 1]
    );
}

fn main() {
    let integers = body(|r| ValueRef::I64((r % 101) as i64));
    let short = body(|r| ValueRef::F64((r % 10_001) as f64 / 100.0));
    let long = body(|r| ValueRef::F64((r >> 11) as f64 / (1_u64 << 53) as f64));
    measure("integers 0i..100i", &integers, parse);
    measure("floats of two decimals", &short, parse);
    measure("floats of 17 digits", &long, parse);
    measure("integers, every name decoded", &integers, decode);
    measure_render("rows as json", Format::Json);
    measure_render("rows as csv", Format::Csv);
}
