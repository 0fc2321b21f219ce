//! Nanoseconds a point of encoding and decoding blocks of several shapes.
//!
//! `cargo run --release -p alluvium-codec --example block_speed`
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::Instant;

use alluvium_codec::{Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, encoding_names};
use alluvium_types::{Column, ValueKind, ValueRef};

fn main() {
    let mut x = 7_u64;
    let mut step = move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        x >> 33
    };
    let mut walk = 5000_i64;
    let mut full = 100.0_f64;
    let shapes: [(
        &str,
        ValueKind,
        Box<dyn FnMut(&mut dyn FnMut() -> u64) -> u64>,
    ); 5] = [
        ("constant", ValueKind::I64, Box::new(|_| 7)),
        (
            "gauge, 2 decimals",
            ValueKind::F64,
            Box::new(move |step| {
                walk += (step() % 41) as i64 - 20;
                (walk as f64 / 100.0).to_bits()
            }),
        ),
        (
            "full-precision walk",
            ValueKind::F64,
            Box::new(move |step| {
                full += step() as f64 / 4_294_967_296.0 - 0.25;
                full.to_bits()
            }),
        ),
        (
            "integers 0 to 100",
            ValueKind::I64,
            Box::new(|step| step() % 101),
        ),
        (
            "booleans",
            ValueKind::Bool,
            Box::new(|step| u64::from(step() % 50 == 0)),
        ),
    ];
    for (name, kind, mut value) in shapes {
        let mut column = Column::new(kind);
        for i in 0..MAX_BLOCK_POINTS as i64 {
            let bits = value(&mut step);
            column.push(
                1_700_000_000_000_000_000 + i * 10_000_000_000,
                ValueRef::from_bits(kind, bits),
            );
        }
        let mut encoder = Encoder::default();
        let mut hint = Hint::default();
        let mut bytes = Vec::new();
        let rounds = 2000;
        let begun = Instant::now();
        for _ in 0..rounds {
            bytes.clear();
            let range = 0..MAX_BLOCK_POINTS;
            black_box(encoder.encode(&column, range, &mut hint, Models::default(), &mut bytes));
        }
        let encode = begun.elapsed().as_nanos() as f64 / (rounds * MAX_BLOCK_POINTS) as f64;
        let mut out = Column::new(kind);
        let begun = Instant::now();
        for _ in 0..rounds * 5 {
            out.clear();
            let first = column.times[0];
            let models = Models::default();
            black_box(decode_block(
                &bytes,
                MAX_BLOCK_POINTS,
                first,
                models,
                &mut out,
            ))
            .expect("a whole block");
        }
        let decode = begun.elapsed().as_nanos() as f64 / (rounds * 5 * MAX_BLOCK_POINTS) as f64;
        let (times, values) = encoding_names(&bytes).expect("a whole block");
        println!(
            "{name:20} {:5.2} bits/point, encode {encode:5.1} ns, decode {decode:5.2} ns ({times}, {values})",
            bytes.len() as f64 * 8.0 / MAX_BLOCK_POINTS as f64
        );
    }
}
