//! The body of an inner page: entries packed by column.
//!
//! One byte for the kind of the values, one byte for the width of each column, the unit of times, the bases of the
//! columns that are narrower than their full width, then the columns one after the other. Entry `i` is readable without
//! the entries before it. `docs/format/inner.md` is the specification.

use alluvium_block::{LogicAddr, PageRef};
use alluvium_types::{Aggregate, Sample, Sum, TimeRange, ValueKind};

use crate::columns::{Frame, gcd, load, store};
use crate::error::BodyError;
use crate::subtree_ref::SubtreeRef;

/// Columns of an entry.
pub(crate) const COLUMNS: usize = 20;

/// Full widths of the columns in bytes, in their order on disk.
const FULL: [u8; COLUMNS] = [
    4, 4, 4, 4, 4, 4, // volume, generation, page, crc, oldest volume, leaves
    8, 8, // count, nan count
    8, 8, 8, 8, // first time; last, min and max time from there
    8, 8, 8, 8, // bits of first, last, min, max
    8, 8, 8, 8, // sum in two halves, sum of squares, increase
];

/// Columns of times: their offsets are by a unit.
const TIMES: std::ops::RangeInclusive<usize> = 8..=11;

/// Bytes before the unit of times.
const WIDTHS_END: usize = 1 + COLUMNS;

/// Bytes before the bases.
const FIXED: usize = WIDTHS_END + 8;

const TIME_FLIP: u64 = 1 << 63;

/// Largest count of an entry: 2^32 leaves of less than 2^19 points.
const COUNT_LIMIT: u64 = 1 << 51;

/// An entry as the numbers its columns hold.
fn to_row(entry: &SubtreeRef) -> [u64; COLUMNS] {
    let a = &entry.aggregate;
    let first = a.first.time;
    let from_first = |time: i64| time.wrapping_sub(first) as u64;
    let has_numbers = a.kind.is_numeric() && a.number_count() > 0;
    let extreme = |s: Sample| {
        if has_numbers {
            (from_first(s.time), s.bits)
        } else {
            (0, 0)
        }
    };
    let (min_time, min_bits) = extreme(a.min);
    let (max_time, max_bits) = extreme(a.max);
    let (sum_a, sum_b) = match a.sum {
        Sum::Float { high, low } => (high.to_bits(), low.to_bits()),
        Sum::Integer(sum) => {
            let zigzag = ((sum << 1) ^ (sum >> 127)) as u128;
            (zigzag as u64, (zigzag >> 64) as u64)
        }
    };
    // Keeps the order of integers, so that values around 0 share a narrow frame.
    let flip = if a.kind == ValueKind::I64 {
        TIME_FLIP
    } else {
        0
    };
    [
        entry.page.addr.volume.into(),
        entry.page.generation.into(),
        entry.page.addr.page.into(),
        entry.page.crc.into(),
        entry.oldest_volume.into(),
        entry.leaves.into(),
        a.count,
        a.nan_count,
        first as u64 ^ TIME_FLIP,
        from_first(a.last.time),
        min_time,
        max_time,
        a.first.bits ^ flip,
        a.last.bits ^ flip,
        min_bits ^ flip,
        max_bits ^ flip,
        sum_a,
        sum_b,
        a.m2.to_bits(),
        a.increase.to_bits(),
    ]
}

/// Frames of the columns of some entries.
#[derive(Debug, Clone)]
struct Frames {
    min: [u64; COLUMNS],
    max: [u64; COLUMNS],
    entries: usize,
    /// First time of the first entry.
    origin: u64,
    /// Common divisor of all distances between times.
    divisor: u64,
}

impl Frames {
    fn new() -> Self {
        Self {
            min: [u64::MAX; COLUMNS],
            max: [0; COLUMNS],
            entries: 0,
            origin: 0,
            divisor: 0,
        }
    }

    fn add(&mut self, row: &[u64; COLUMNS]) {
        for ((min, max), value) in self.min.iter_mut().zip(&mut self.max).zip(row) {
            *min = (*min).min(*value);
            *max = (*max).max(*value);
        }
        if self.entries == 0 {
            self.origin = row[8];
        }
        for distance in [row[8].abs_diff(self.origin), row[9], row[10], row[11]] {
            self.divisor = gcd(self.divisor, distance);
        }
        self.entries += 1;
    }

    /// What offsets of times are divided by: 1 where one of them is so wide that its column has no base.
    fn unit(&self) -> u64 {
        let wide = TIMES
            .into_iter()
            .any(|c| (self.max[c] - self.min[c]) >> 56 != 0);
        if wide { 1 } else { self.divisor.max(1) }
    }

    fn frame(&self, column: usize) -> Frame {
        let (min, max) = (self.min[column], self.max[column]);
        if TIMES.contains(&column) {
            let frame = Frame::new(0, (max - min) / self.unit(), FULL[column]);
            let base = if frame.width < FULL[column] { min } else { 0 };
            return Frame { base, ..frame };
        }
        Frame::new(min, max, FULL[column])
    }

    fn bytes(&self) -> usize {
        let mut bytes = FIXED;
        for (column, full) in FULL.iter().enumerate() {
            let frame = self.frame(column);
            bytes += frame.base_bytes(*full) + self.entries * usize::from(frame.width);
        }
        bytes
    }
}

/// Bytes of the body that holds `entries`, which are not empty, and one more if there is one.
pub(crate) fn encoded_bytes(entries: &[SubtreeRef], more: Option<&SubtreeRef>) -> usize {
    let mut frames = Frames::new();
    for entry in entries.iter().chain(more) {
        frames.add(&to_row(entry));
    }
    frames.bytes()
}

/// Writes the body that holds `entries`, which are not empty and of one kind. Returns its bytes.
///
/// # Panics
/// If `out` is shorter than [`encoded_bytes`].
pub(crate) fn encode(entries: &[SubtreeRef], out: &mut [u8]) -> usize {
    let rows: Vec<[u64; COLUMNS]> = entries.iter().map(to_row).collect();
    let mut frames = Frames::new();
    for row in &rows {
        frames.add(row);
    }
    out[0] = entries[0].aggregate.kind.number();
    let unit = frames.unit();
    store(out, WIDTHS_END, unit, 8);
    let mut at = FIXED;
    for (column, full) in FULL.iter().enumerate() {
        let frame = frames.frame(column);
        out[1 + column] = frame.width;
        let base_bytes = frame.base_bytes(*full);
        store(out, at, frame.base, base_bytes as u8);
        at += base_bytes;
    }
    for column in 0..COLUMNS {
        let frame = frames.frame(column);
        let unit = if TIMES.contains(&column) { unit } else { 1 };
        for row in &rows {
            store(out, at, (row[column] - frame.base) / unit, frame.width);
            at += usize::from(frame.width);
        }
    }
    at
}

#[derive(Debug, Clone, Copy, Default)]
struct ColumnView {
    base: u64,
    begin: usize,
    width: u8,
}

/// The checked body of an inner page.
#[derive(Debug, Clone)]
pub(crate) struct InnerView<'a> {
    body: &'a [u8],
    columns: [ColumnView; COLUMNS],
    unit: u64,
    kind: ValueKind,
    entries: usize,
}

impl<'a> InnerView<'a> {
    /// Checks the frame of a body of `entries` entries.
    ///
    /// # Errors
    /// If a width is impossible or a column is cut short.
    pub(crate) fn new(body: &'a [u8], entries: usize) -> Result<Self, BodyError> {
        let (Some(kind), Some(widths)) = (body.first(), body.get(1..WIDTHS_END)) else {
            return Err(BodyError("an inner page is cut short"));
        };
        let kind = ValueKind::from_number(*kind).ok_or(BodyError("an inner page of no kind"))?;
        let mut columns = [ColumnView::default(); COLUMNS];
        let mut at = FIXED;
        for ((column, width), full) in columns.iter_mut().zip(widths).zip(FULL) {
            if *width > full {
                return Err(BodyError("a column is wider than its values"));
            }
            column.width = *width;
            if *width < full {
                column.base = load(body, at, full);
                at += usize::from(full);
            }
        }
        for column in &mut columns {
            column.begin = at;
            at += entries * usize::from(column.width);
        }
        if entries == 0 || at > body.len() {
            return Err(BodyError("an inner page is cut short"));
        }
        Ok(Self {
            body,
            columns,
            unit: load(body, WIDTHS_END, 8),
            kind,
            entries,
        })
    }

    /// How many entries.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// The kind of the values below.
    pub(crate) fn kind(&self) -> ValueKind {
        self.kind
    }

    #[inline]
    fn number(&self, column: usize, index: usize) -> u64 {
        let c = &self.columns[column];
        let width = usize::from(c.width);
        c.base
            .wrapping_add(load(self.body, c.begin + index * width, c.width))
    }

    /// A number of a column of times.
    #[inline]
    fn time(&self, column: usize, index: usize) -> u64 {
        let c = &self.columns[column];
        let offset = load(self.body, c.begin + index * usize::from(c.width), c.width);
        c.base.wrapping_add(offset.wrapping_mul(self.unit))
    }

    fn first_time(&self, index: usize) -> i64 {
        (self.time(8, index) ^ TIME_FLIP) as i64
    }

    fn last_time(&self, index: usize) -> i64 {
        self.first_time(index)
            .wrapping_add(self.time(9, index) as i64)
    }

    /// Entry `index`.
    fn entry(&self, index: usize) -> Result<SubtreeRef, BodyError> {
        let n = |column| self.number(column, index);
        let kind = self.kind;
        let first_time = self.first_time(index);
        let at = |offset: u64| first_time.wrapping_add(offset as i64);
        let flip = if kind == ValueKind::I64 { TIME_FLIP } else { 0 };
        let (count, nan_count) = (n(6), n(7));
        let last_time = self.last_time(index);
        if count > COUNT_LIMIT || nan_count > count || last_time < first_time {
            return Err(BodyError("an entry contradicts itself"));
        }
        let has_numbers = kind.is_numeric() && count > nan_count;
        let sample = |time, column| Sample {
            time: at(time),
            bits: n(column) ^ flip,
        };
        let (min, max) = if has_numbers {
            (
                sample(self.time(10, index), 14),
                sample(self.time(11, index), 15),
            )
        } else {
            (Sample::default(), Sample::default())
        };
        let sum = if kind == ValueKind::F64 {
            Sum::Float {
                high: f64::from_bits(n(16)),
                low: f64::from_bits(n(17)),
            }
        } else {
            if n(17) >> 53 != 0 {
                return Err(BodyError("an entry's sum is out of range"));
            }
            let zigzag = u128::from(n(17)) << 64 | u128::from(n(16));
            Sum::Integer((zigzag >> 1) as i128 ^ -((zigzag & 1) as i128))
        };
        Ok(SubtreeRef {
            page: PageRef {
                addr: LogicAddr {
                    volume: n(0) as u32,
                    page: n(2) as u32,
                },
                generation: n(1) as u32,
                crc: n(3) as u32,
            },
            oldest_volume: n(4) as u32,
            leaves: n(5) as u32,
            aggregate: Aggregate {
                kind,
                count,
                nan_count,
                first: sample(0, 12),
                last: sample(self.time(9, index), 13),
                min,
                max,
                sum,
                m2: f64::from_bits(n(18)),
                increase: f64::from_bits(n(19)),
            },
        })
    }

    /// Appends the entries that overlap `range` to `out`, in the order of time.
    ///
    /// # Errors
    /// If an entry contradicts itself.
    pub(crate) fn expand(
        &self,
        range: TimeRange,
        out: &mut Vec<SubtreeRef>,
    ) -> Result<(), BodyError> {
        for index in 0..self.entries {
            if self.first_time(index) >= range.end() {
                break;
            }
            if self.last_time(index) >= range.begin() {
                out.push(self.entry(index)?);
            }
        }
        Ok(())
    }

    /// Appends every entry, whatever its times.
    ///
    /// # Errors
    /// If an entry contradicts itself.
    pub(crate) fn expand_all(&self, out: &mut Vec<SubtreeRef>) -> Result<(), BodyError> {
        for index in 0..self.entries {
            out.push(self.entry(index)?);
        }
        Ok(())
    }

    /// Width of every column in bytes, in their order on disk.
    pub(crate) fn widths(&self) -> [u8; COLUMNS] {
        std::array::from_fn(|column| self.columns[column].width)
    }
}

#[cfg(test)]
mod tests;
