//! What is encoded comes back bit for bit, NaN payloads and the ends of every range included, within the bound
//! on its size, whatever models the blocks of a page lend each other.
//!
//! The input is structured: runs of points, each with a rule for the times and one for the values.
#![no_main]

use alluvium_codec::{
    Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, encoding_names,
};
use alluvium_types::{Column, ValueKind};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// Points of most columns, at most.
const SHORT_POINTS: usize = 200;

#[derive(Arbitrary, Debug)]
enum Gap {
    Fixed(u16),
    Jitter(u8),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Change {
    Same,
    Add(i16),
    Shift(u8),
    Decimal { step: i16, places: u8 },
    Scaled(i32, i8),
    Nan(u64),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
struct Run {
    points: u8,
    gap: Gap,
    change: Change,
}

#[derive(Arbitrary, Debug)]
struct Input {
    kind: u8,
    first_time: i64,
    first_bits: u64,
    small: bool,
    /// Where the column is cut: blocks are encoded with hints and models of other blocks. One of sixteen columns may be as
    /// long as a block can be.
    other: u16,
    runs: Vec<Run>,
}

fuzz_target!(|input: Input| {
    alluvium_fuzz::compares::link();
    let kind = ValueKind::ALL[usize::from(input.kind) % ValueKind::ALL.len()];
    let mut column = Column::new(kind);
    fill(&input, kind, &mut column);
    if column.is_empty() {
        return;
    }
    let compression = if input.small {
        Compression::Small
    } else {
        Compression::Balanced
    };
    let mut encoder = Encoder::new(compression);
    let mut hint = Hint::default();
    let cut = usize::from(input.other) % column.len();
    let ranges = [
        0..column.len(),
        cut..column.len(),
        0..cut.max(1),
        0..column.len(),
    ];
    // Blocks of one page: what each brings, later ones may use.
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for range in &ranges {
        let models = in_force(&blocks);
        let mut bytes = vec![0xa5; 3];
        let stats = encoder.encode(&column, range.clone(), &mut hint, models, &mut bytes);
        assert_eq!((stats.points, stats.bytes), (range.len(), bytes.len() - 3));
        let block = bytes.split_off(3);
        assert_eq!(bytes, [0xa5; 3]);
        if kind.is_numeric() {
            let bound = 16 * range.len() + 16;
            assert!(
                block.len() <= bound,
                "{} bytes, at most {bound}",
                block.len()
            );
        }
        encoding_names(&block).expect("its own block");
        blocks.push(block);
    }
    for (i, (range, block)) in ranges.iter().zip(&blocks).enumerate() {
        let models = in_force(&blocks[..i]);
        let (points, first_time) = (range.len(), column.times[range.start]);
        let mut want = Column::new(kind);
        want.extend_from(&column, range.start, range.end);
        let mut back = Column::new(kind);
        decode_block(block, points, first_time, models, &mut back).expect("its own block");
        assert_eq!(back, want);
        // Cut anywhere, nothing panics. A bit stream that is cut may be one of other numbers; pages have checksums.
        let short = usize::from(input.other) % block.len();
        let mut cut = Column::new(kind);
        if decode_block(&block[..short], points, first_time, models, &mut cut).is_ok() {
            assert_eq!(cut.len(), points);
        }
    }
});

fn in_force(blocks: &[Vec<u8>]) -> Models<'_> {
    blocks.iter().fold(Models::default(), |models, block| {
        models.after(block).expect("its own block")
    })
}

fn fill(input: &Input, kind: ValueKind, column: &mut Column) {
    let points_max = if input.other.is_multiple_of(16) {
        MAX_BLOCK_POINTS
    } else {
        SHORT_POINTS
    };
    let (mut time, mut bits) = (input.first_time, input.first_bits);
    let mut level = 0_i64;
    // A quarter of the columns repeats its first values for ever.
    let cycle = (input.kind >= 0xc0).then_some(2 + usize::from(input.kind % 4));
    for run in &input.runs {
        for i in 0..u64::from(run.points) + 1 {
            if column.len() == points_max {
                return;
            }
            let gap = match run.gap {
                Gap::Fixed(gap) => u64::from(gap),
                Gap::Jitter(wide) => i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 & u64::from(wide),
                Gap::Any(gap) => gap.rotate_left(i as u32),
            };
            if !column.is_empty() {
                // The largest time is reserved, times strictly increase.
                let next = i128::from(time) + i128::from(gap.max(1));
                match i64::try_from(next) {
                    Ok(next) => time = next,
                    Err(_) => return,
                }
            }
            bits = match run.change {
                Change::Same => bits,
                Change::Add(step) => bits.wrapping_add(step as u64),
                Change::Shift(by) => bits.rotate_left(u32::from(by)) ^ i,
                Change::Decimal { step, places } => {
                    level += i64::from(step);
                    (level as f64 / 10_f64.powi(i32::from(places % 18))).to_bits()
                }
                Change::Scaled(value, power) => {
                    (f64::from(value) * 2_f64.powi(i32::from(power) * 8)).to_bits()
                }
                Change::Nan(payload) => payload | 0x7ff0_0000_0000_0000,
                Change::Any(any) => any,
            };
            let before =
                cycle.and_then(|cycle| column.bits().get(column.len().checked_sub(cycle)?));
            bits = before.copied().unwrap_or(bits);
            match kind {
                ValueKind::Str => column.push_str(time, &text(bits)),
                ValueKind::Bool => column.push_bits(time, bits & 1),
                _ => column.push_bits(time, bits),
            }
        }
    }
}

fn text(bits: u64) -> String {
    match bits % 4 {
        0 => String::new(),
        1 => format!("state {}", bits >> 2 & 0xf),
        2 => format!("ünïcode {bits:x}"),
        _ => "long ".repeat((bits >> 2 & 0x3ff) as usize),
    }
}
