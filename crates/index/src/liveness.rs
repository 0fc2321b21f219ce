//! Which rows were written on which day: what a question about some days need not look at.
//!
//! A day is that of the points, not of their writing, so the sets are part of what answers depend on: they are set before
//! points are applied, written by checkpoints and set again by redo. A row in a set may have lost its points since; one
//! that is not in it never had any that day.

use std::collections::BTreeMap;

use alluvium_types::{Row, TimeRange};
use roaring::{MultiOps, RoaringBitmap};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::PartError;
use crate::postings::bitmap_bytes;
use crate::varint::{get_u32, get_u64, put_u64};

/// Nanoseconds of a day.
pub const DAY_NS: i64 = 86_400_000_000_000;

/// First bytes of the encoded form.
const MAGIC: [u8; 4] = *b"AlLv";

/// Bytes before the days: magic and checksum.
const HEAD_BYTES: usize = 8;

/// Rows by the days of their points.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    days: BTreeMap<i64, Day>,
    /// The newest day, where nearly all points go, as plain bits.
    newest: Newest,
    /// Changes so far.
    changes: u64,
}

#[derive(Debug, Clone, Default)]
struct Day {
    rows: RoaringBitmap,
    /// Count of changes at its last one.
    changed: u64,
}

#[derive(Debug, Clone)]
struct Newest {
    day: i64,
    bits: Vec<u64>,
    changed: u64,
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            day: i64::MIN,
            bits: Vec::new(),
            changed: 0,
        }
    }
}

/// The rows of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayGrowth {
    /// Days since 1970, of the points.
    pub day: i64,
    /// Rows with a point on it.
    pub rows: u64,
    /// Of those, rows without one on any day before it that is known.
    pub new: u64,
}

/// How far the sets had come; the default mark is that of empty ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LivenessMark(u64);

impl Liveness {
    /// Notes a point of a row. A few nanoseconds if it is of the newest day.
    #[inline]
    pub fn note(&mut self, row: Row, time_ns: i64) {
        let day = time_ns.div_euclid(DAY_NS);
        if day != self.newest.day {
            if day < self.newest.day {
                self.note_old(row, day);
                return;
            }
            self.begin(day);
        }
        let (word, bit) = (row.0 as usize / 64, 1_u64 << (row.0 % 64));
        match self.newest.bits.get_mut(word) {
            Some(bits) if *bits & bit != 0 => return,
            Some(bits) => *bits |= bit,
            None => {
                self.newest.bits.resize(word + 1, 0);
                self.newest.bits[word] = bit;
            }
        }
        self.changes += 1;
        self.newest.changed = self.changes;
    }

    fn note_old(&mut self, row: Row, day: i64) {
        let of_day = self.days.entry(day).or_default();
        if of_day.rows.insert(row.0) {
            self.changes += 1;
            of_day.changed = self.changes;
        }
    }

    /// A newer day than all so far.
    fn begin(&mut self, day: i64) {
        if self.newest.changed > 0 {
            let mut rows = self.newest.rows();
            rows.optimize();
            let changed = self.newest.changed;
            self.days.insert(self.newest.day, Day { rows, changed });
        }
        self.newest = Newest {
            day,
            ..Newest::default()
        };
    }

    /// Rows with points on a day that `range` touches. Costs a union of those days.
    pub fn rows_in(&self, range: TimeRange) -> RoaringBitmap {
        if range.is_empty() {
            return RoaringBitmap::new();
        }
        let (first, last) = (
            range.begin().div_euclid(DAY_NS),
            (range.end() - 1).div_euclid(DAY_NS),
        );
        let days = self.days.range(first..=last).map(|(_, day)| &day.rows);
        let mut rows = days.union();
        if (first..=last).contains(&self.newest.day) {
            rows |= self.newest.rows();
        }
        rows
    }

    /// Days with a row, oldest first, with their rows.
    pub fn days(&self) -> impl Iterator<Item = (i64, u64)> {
        let newest = (self.newest.changed > 0).then(|| {
            let rows = self.newest.bits.iter().map(|b| u64::from(b.count_ones()));
            (self.newest.day, rows.sum())
        });
        let days = self
            .days
            .iter()
            .map(|(day, of_day)| (*day, of_day.rows.len()));
        days.chain(newest)
    }

    /// Days with a row, oldest first, and how many rows came with each. Costs a union of all days.
    pub fn growth(&self) -> Vec<DayGrowth> {
        let newest = (self.newest.changed > 0).then(|| self.newest.rows());
        let newest = newest.iter().map(|rows| (self.newest.day, rows));
        let days = self.days.iter().map(|(day, of_day)| (*day, &of_day.rows));
        let mut seen = RoaringBitmap::new();
        let mut growth = Vec::with_capacity(self.days.len() + 1);
        for (day, rows) in days.chain(newest) {
            let before = seen.len();
            seen |= rows;
            growth.push(DayGrowth {
                day,
                rows: rows.len(),
                new: seen.len() - before,
            });
        }
        growth
    }

    /// Forgets the days that end before or at `time_ns`: nothing of them is left.
    pub fn forget_before(&mut self, time_ns: i64) {
        self.days = self.days.split_off(&time_ns.div_euclid(DAY_NS));
    }

    /// The present state, for a later [`Liveness::encode`].
    pub fn mark(&self) -> LivenessMark {
        LivenessMark(self.changes)
    }

    /// The days that changed since a mark, each whole; `None` if none did.
    pub fn encode(&self, since: LivenessMark) -> Option<Vec<u8>> {
        let mut out = vec![0; HEAD_BYTES];
        let newest = (self.newest.changed > 0).then(|| {
            let rows = self.newest.rows();
            (self.newest.day, rows, self.newest.changed)
        });
        let days = self.days.iter();
        let days = days.map(|(day, of_day)| (*day, of_day.rows.clone(), of_day.changed));
        let mut any = false;
        for (day, mut rows, changed) in days.chain(newest) {
            if changed <= since.0 {
                continue;
            }
            any = true;
            rows.optimize();
            // Days are at most a few hundred thousand from 1970: the shift keeps them positive.
            put_u64(&mut out, (day - FIRST_DAY) as u64);
            put_u64(&mut out, rows.serialized_size() as u64);
            rows.serialize_into(&mut out)
                .expect("a vector takes every byte");
        }
        if !any {
            return None;
        }
        out[..4].copy_from_slice(&MAGIC);
        let crc = U32::new(crc32c::crc32c(&out[HEAD_BYTES..]));
        out[4..HEAD_BYTES].copy_from_slice(crc.as_bytes());
        Some(out)
    }

    /// Takes the days of an encoded form; each replaces what there was of it. `rows`: how many there are.
    ///
    /// # Errors
    /// If the bytes are not a whole, unchanged one of such rows; days before the fault are taken.
    pub fn apply(&mut self, bytes: &[u8], rows: u32) -> Result<(), PartError> {
        let whole = bytes.len();
        let magic = bytes.get(..4).is_some_and(|magic| magic == MAGIC);
        if !magic {
            return Err(PartError::Magic);
        }
        let Some((crc, mut rest)) = bytes
            .get(4..)
            .and_then(|bytes| U32::read_from_prefix(bytes).ok())
        else {
            return Err(PartError::Length {
                expected: HEAD_BYTES as u64,
                found: whole as u64,
            });
        };
        let found = crc32c::crc32c(rest);
        if found != crc.get() {
            return Err(PartError::Checksum {
                expected: crc.get(),
                found,
            });
        }
        while !rest.is_empty() {
            let at = whole - rest.len();
            let what = "rows of a day";
            let read = read_day(&mut rest).filter(|(_, r)| r.max().is_none_or(|row| row < rows));
            let (day, of_day) = read.ok_or(PartError::Invalid { what, at })?;
            self.replace(day, of_day);
        }
        Ok(())
    }

    fn replace(&mut self, day: i64, rows: RoaringBitmap) {
        self.changes += 1;
        let changed = self.changes;
        if day > self.newest.day {
            self.begin(day);
        }
        if day == self.newest.day {
            self.newest.bits.clear();
            if let Some(last) = rows.max() {
                self.newest.bits.resize(last as usize / 64 + 1, 0);
            }
            for row in rows {
                self.newest.bits[row as usize / 64] |= 1 << (row % 64);
            }
            self.newest.changed = changed;
        } else {
            self.days.insert(day, Day { rows, changed });
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let days: usize = self.days.values().map(|d| bitmap_bytes(&d.rows)).sum();
        days + self.days.len() * 64 + self.newest.bits.capacity() * 8
    }
}

/// The day of the earliest timestamp.
const FIRST_DAY: i64 = i64::MIN.div_euclid(DAY_NS);
/// The day of the latest one.
const LAST_DAY: i64 = i64::MAX.div_euclid(DAY_NS);

fn read_day(rest: &mut &[u8]) -> Option<(i64, RoaringBitmap)> {
    let day = i64::try_from(get_u64(rest)?).ok()?.checked_add(FIRST_DAY)?;
    let bytes = get_u32(rest)? as usize;
    let (mut bytes, after) = rest.split_at_checked(bytes)?;
    let rows = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
    *rest = after;
    (bytes.is_empty() && day <= LAST_DAY).then_some((day, rows))
}

impl Newest {
    fn rows(&self) -> RoaringBitmap {
        let words = self.bits.iter().zip((0..).step_by(64));
        let rows = words.flat_map(|(word, first)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(first + bit)
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn of_day(day: i64) -> TimeRange {
        TimeRange::new(day * DAY_NS, (day + 1) * DAY_NS).unwrap()
    }

    #[test]
    fn growth_counts_the_rows_that_are_new_on_a_day() {
        let mut live = Liveness::default();
        assert!(live.growth().is_empty());
        for (row, day) in [(0, 3), (1, 3), (1, 4), (2, 4), (0, 9), (3, 9), (3, 2)] {
            live.note(Row(row), day * DAY_NS + 5);
        }
        let growth: Vec<_> = live
            .growth()
            .iter()
            .map(|d| (d.day, d.rows, d.new))
            .collect();
        assert_eq!(growth, [(2, 1, 1), (3, 2, 2), (4, 2, 1), (9, 2, 0)]);
    }

    proptest! {
        #[test]
        fn every_row_is_found_on_its_days_and_comes_back(
            points in vec((0_u32..70_000, -5_i64..5, 0..DAY_NS, any::<bool>()), 0..200),
        ) {
            let (mut live, mut copy) = (Liveness::default(), Liveness::default());
            let mut mark = LivenessMark::default();
            let mut model: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
            for (row, day, ns, seal) in points {
                live.note(Row(row), day * DAY_NS + ns);
                model.entry(day).or_default().insert(row);
                if seal {
                    if let Some(bytes) = live.encode(mark) {
                        copy.apply(&bytes, 70_000).unwrap();
                    }
                    mark = live.mark();
                    prop_assert_eq!(live.encode(mark), None);
                }
            }
            if let Some(bytes) = live.encode(mark) {
                copy.apply(&bytes, 70_000).unwrap();
            }
            for it in [&live, &copy] {
                for (day, rows) in &model {
                    let found: Vec<u32> = it.rows_in(of_day(*day)).iter().collect();
                    prop_assert!(found.iter().eq(rows.iter()));
                }
                let days: Vec<(i64, u64)> = it.days().collect();
                let expected: Vec<_> = model.iter().map(|(d, r)| (*d, r.len() as u64)).collect();
                prop_assert_eq!(days, expected);
                let all: BTreeSet<u32> = it.rows_in(TimeRange::ALL).iter().collect();
                prop_assert_eq!(all, model.values().flatten().copied().collect());
            }
        }
    }

    #[test]
    fn the_ends_of_time_are_days() {
        let mut live = Liveness::default();
        live.note(Row(1), i64::MIN);
        live.note(Row(2), i64::MAX - 1);
        live.note(Row(3), -1);
        let mut copy = Liveness::default();
        let bytes = live.encode(LivenessMark::default()).unwrap();
        copy.apply(&bytes, 70_000).unwrap();
        for it in [&live, &copy] {
            assert!(it.rows_in(TimeRange::ALL).iter().eq([1, 2, 3]));
            assert!(it.rows_in(of_day(-1)).iter().eq([3]));
            let first = TimeRange::new(i64::MIN, i64::MIN + 1).unwrap();
            assert!(it.rows_in(first).iter().eq([1]));
            assert!(it.rows_in(TimeRange::new(5, 5).unwrap()).is_empty());
        }
        assert!(Liveness::default().apply(&bytes, 3).is_err(), "no such row");
        copy.forget_before(0);
        assert!(copy.rows_in(TimeRange::ALL).iter().eq([2]));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Liveness::default().apply(&bad, 9).is_err(), "byte {at}");
            assert!(
                Liveness::default().apply(&bytes[..at], 9).is_err(),
                "cut at {at}"
            );
        }
    }
}
