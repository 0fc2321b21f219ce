//! What reading a block allocates beside its output is bounded by its bytes, whatever they are.
#![expect(unsafe_code, reason = "an allocator that counts is one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use alluvium_codec::{Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block};
use alluvium_types::{Column, ValueKind, Values};

/// Allocated bytes for each byte read, at most.
const BYTES_A_BYTE: usize = 16;

/// Allocated bytes whatever is read: three columns of the most points a block has, which are distances, values of
/// runs and lengths of runs.
const COLUMNS: usize = 3 * 8 * MAX_BLOCK_POINTS;

/// Buffers that a thread keeps once it has read a code.
const KEPT: usize = 72 << 10;

/// The most text that a block of few bytes may stand for.
const TEXT_MAX: usize = 1 << 20;

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that ends allocates uncounted.
    let _ = ALLOCATED.try_with(|all| all.set(all.get() + bytes));
}

// SAFETY: `System` does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `place` came from `System` with this layout.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: `place` came from `System` with this layout; the caller answers for the size.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Numbers from a seed (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A column with room for any block.
fn reserved(kind: ValueKind) -> Column {
    let mut column = Column::new(kind);
    if kind.is_numeric() {
        column.times.reserve(MAX_BLOCK_POINTS);
        if let Values::Numeric(bits) = &mut column.values {
            bits.reserve(MAX_BLOCK_POINTS);
        }
    } else {
        let text = "x".repeat(2 * TEXT_MAX / MAX_BLOCK_POINTS);
        (0..MAX_BLOCK_POINTS as i64).for_each(|time| column.push_str(time, &text));
        column.clear();
    }
    column
}

/// Bytes that reading a block allocates; the block before it is itself, so that it may borrow.
fn allocated(block: &[u8], points: usize, out: &mut Column) -> usize {
    out.clear();
    let models = Models::default().after(block).unwrap_or_default();
    let before = ALLOCATED.get();
    let _ = decode_block(block, points, 0, models, out);
    ALLOCATED.get() - before
}

/// Points of every form that blocks have.
fn columns(random: &mut Random) -> Vec<Column> {
    let n = 1 + random.below(MAX_BLOCK_POINTS) as i64;
    let time = |i: i64, random: &mut Random| i * 1_000_000 + (random.next() % 100_000) as i64;
    let mut columns = Vec::new();
    for shape in 0..9 {
        let kind = [ValueKind::F64, ValueKind::I64, ValueKind::Str][shape % 3];
        let mut column = Column::new(kind);
        let mut level = 0.0;
        for i in 0..n {
            let at = time(i, random);
            let noise = random.next() % 1000;
            level += noise as f64 / 100.0;
            let bits = match shape {
                0 => (noise as f64 / 10.0).to_bits(),
                1 => noise,
                3 => (level / 7.0).to_bits(),
                4 => i as u64 / 100,
                6 => (level + noise as f64 / 3.0).to_bits() ^ noise,
                7 => (noise % 20 + 2).pow(9),
                2 => {
                    column.push_str(
                        at,
                        ["up", "down", "unknown and not to be known"][noise as usize % 3],
                    );
                    continue;
                }
                5 => {
                    column.push_str(at, &noise.to_string());
                    continue;
                }
                _ => {
                    column.push_str(at, "");
                    continue;
                }
            };
            column.push_bits(at, bits);
        }
        columns.push(column);
    }
    columns
}

#[test]
fn reading_allocates_within_its_bounds() {
    let mut random = Random(1);
    let mut outs = ValueKind::ALL.map(reserved);
    let mut kept = KEPT;
    let mut check = |block: &[u8], points: usize, kind: ValueKind, what: &str| {
        let out = outs
            .iter_mut()
            .find(|out| out.kind() == kind)
            .expect("every kind");
        let bytes = allocated(block, points, out);
        // The kept buffers are allocated once.
        let most = block.len() * BYTES_A_BYTE + COLUMNS + kept;
        assert!(
            bytes <= most,
            "{what} of {} bytes: {bytes} bytes allocated",
            block.len()
        );
        if bytes > block.len() * BYTES_A_BYTE + COLUMNS {
            kept = 0;
        }
    };
    for round in 0..60 {
        let compression = [Compression::Small, Compression::Balanced][round % 2];
        for column in columns(&mut random) {
            let (mut block, mut hint) = (Vec::new(), Hint::default());
            let range = 0..column.len();
            Encoder::new(compression).encode(
                &column,
                range,
                &mut hint,
                Models::default(),
                &mut block,
            );
            check(&block, column.len(), column.kind(), "a block");
            for _ in 0..40 {
                let mut spoilt = block.clone();
                for _ in 0..=random.below(3) {
                    // The heads are where the lengths and counts are.
                    let reach = [spoilt.len(), spoilt.len().min(40)][random.below(2)];
                    let bit = random.below(reach * 8);
                    spoilt[bit / 8] ^= 1 << (bit % 8);
                }
                let points = [column.len(), 1 + random.below(MAX_BLOCK_POINTS)][random.below(2)];
                check(&spoilt, points, column.kind(), "a spoilt block");
                spoilt.truncate(random.below(spoilt.len()));
                check(&spoilt, points, column.kind(), "a cut block");
            }
        }
        for _ in 0..2000 {
            let bytes = random.below(200);
            let mut noise: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
            // Few times and a form that is there, else nearly all of it would be refused at once.
            if noise.len() > 3 && random.below(4) > 0 {
                noise[..3].copy_from_slice(&[
                    1,
                    0,
                    (random.below(10) + 16 * random.below(2)) as u8,
                ]);
            }
            let kind = ValueKind::ALL[random.below(ValueKind::ALL.len())];
            check(&noise, 1 + random.below(MAX_BLOCK_POINTS), kind, "noise");
        }
    }
}

#[test]
fn a_few_bytes_that_stand_for_many_points_allocate_no_more() {
    // Runs of which every value and every length is the same; distances that are such runs; ids of words that are
    // missing.
    let points = MAX_BLOCK_POINTS;
    let blocks: [(ValueKind, &[u8]); 3] = [
        (ValueKind::I64, &[1, 0, 1, 9, 0x80, 8, 2, 0, 2, 0, 2]),
        (
            ValueKind::F64,
            &[1, 0, 3, 1, 2, 0, 0, 2, 9, 0x80, 8, 2, 0, 2, 0, 2],
        ),
        (ValueKind::Str, &[1, 0, 6, 2, 0, 0, 0, 0x80, 2]),
    ];
    for (kind, block) in blocks {
        let mut out = reserved(kind);
        let bytes = allocated(block, points, &mut out);
        let most = block.len() * BYTES_A_BYTE + COLUMNS;
        assert!(bytes <= most, "{block:?}: {bytes} bytes allocated");
    }
}
