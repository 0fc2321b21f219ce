//! Which rows were written on which day: what a question about some days need not look at.
//!
//! A day is that of the points, not of their writing, so the sets are part of what answers depend on: they are set before
//! points are applied, written by checkpoints and set again by redo. A row in a set may have lost its points since; one
//! that is not in it never had any that day.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use alluvium_types::{Row, TimeRange};
use roaring::{MultiOps, RoaringBitmap};
use zerocopy::little_endian::{U32, U64};
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
    rows: Arc<RoaringBitmap>,
    /// Count of changes at its last one.
    changed: u64,
}

#[derive(Debug, Clone)]
struct Newest {
    day: i64,
    bits: Vec<U64>,
    /// The same as a set, where someone asked for it since it last changed.
    rows: OnceLock<Arc<RoaringBitmap>>,
    changed: u64,
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            day: i64::MIN,
            bits: Vec::new(),
            rows: OnceLock::new(),
            changed: 0,
        }
    }
}

/// The rows of some days, each day's as it was when it was asked for: what is made of them needs no lock.
#[derive(Debug, Clone, Default)]
pub struct LiveDays(Vec<(i64, Arc<RoaringBitmap>)>);

/// The days that changed since a mark, and the mark after them.
#[derive(Debug, Clone)]
pub struct ChangedDays {
    days: LiveDays,
    mark: LivenessMark,
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
            Some(bits) if bits.get() & bit != 0 => return,
            Some(bits) => *bits |= bit,
            None => {
                self.newest.bits.resize(word + 1, U64::ZERO);
                self.newest.bits[word] = U64::new(bit);
            }
        }
        self.newest.rows.take();
        self.changes += 1;
        self.newest.changed = self.changes;
    }

    fn note_old(&mut self, row: Row, day: i64) {
        let of_day = self.days.entry(day).or_default();
        if !of_day.rows.contains(row.0) {
            Arc::make_mut(&mut of_day.rows).insert(row.0);
            self.changes += 1;
            of_day.changed = self.changes;
        }
    }

    /// A newer day than all so far.
    fn begin(&mut self, day: i64) {
        if self.newest.changed > 0 {
            let mut rows = self.newest.listed();
            rows.optimize();
            let (rows, changed) = (Arc::new(rows), self.newest.changed);
            self.days.insert(self.newest.day, Day { rows, changed });
        }
        self.newest = Newest {
            day,
            ..Newest::default()
        };
    }

    /// The days that `range` touches. Costs a few nanoseconds a day; of the newest, if rows came to it since it was last
    /// asked for, a microsecond for each 65,536 rows.
    pub fn days_in(&self, range: TimeRange) -> LiveDays {
        if range.is_empty() {
            return LiveDays::default();
        }
        let (first, last) = (
            range.begin().div_euclid(DAY_NS),
            (range.end() - 1).div_euclid(DAY_NS),
        );
        let days = self.days.range(first..=last);
        let days = days.map(|(day, of_day)| (*day, Arc::clone(&of_day.rows)));
        let newest = (self.newest.changed > 0 && (first..=last).contains(&self.newest.day))
            .then(|| (self.newest.day, self.newest.rows()));
        LiveDays(days.chain(newest).collect())
    }

    /// Days with a row, oldest first, with their rows.
    pub fn days(&self) -> impl Iterator<Item = (i64, u64)> {
        let newest = (self.newest.changed > 0).then(|| {
            let words = self.newest.bits.iter();
            let rows = words.map(|word| u64::from(word.get().count_ones()));
            (self.newest.day, rows.sum())
        });
        let days = self
            .days
            .iter()
            .map(|(day, of_day)| (*day, of_day.rows.len()));
        days.chain(newest)
    }

    /// Forgets the days that end before or at `time_ns`: nothing of them is left.
    pub fn forget_before(&mut self, time_ns: i64) {
        self.days = self.days.split_off(&time_ns.div_euclid(DAY_NS));
    }

    /// The present state, for a later [`Liveness::changed_since`].
    pub fn mark(&self) -> LivenessMark {
        LivenessMark(self.changes)
    }

    /// The days that changed since a mark, each whole; `None` if none did. Costs as [`Liveness::days_in`].
    pub fn changed_since(&self, since: LivenessMark) -> Option<ChangedDays> {
        let days = self.days.iter();
        let days = days.filter(|(_, of_day)| of_day.changed > since.0);
        let days = days.map(|(day, of_day)| (*day, Arc::clone(&of_day.rows)));
        let newest = (self.newest.changed > since.0).then(|| (self.newest.day, self.newest.rows()));
        let days: Vec<_> = days.chain(newest).collect();
        (!days.is_empty()).then(|| ChangedDays {
            days: LiveDays(days),
            mark: self.mark(),
        })
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
            let bits = &mut self.newest.bits;
            bits.clear();
            if let Some(last) = rows.max() {
                bits.resize(last as usize / 64 + 1, U64::ZERO);
            }
            for row in rows {
                bits[row as usize / 64] |= 1 << (row % 64);
            }
            self.newest.rows.take();
            self.newest.changed = changed;
        } else {
            let rows = Arc::new(rows);
            self.days.insert(day, Day { rows, changed });
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let days: usize = self.days.values().map(|d| bitmap_bytes(&d.rows)).sum();
        let newest = self.newest.rows.get().map_or(0, |rows| bitmap_bytes(rows));
        days + self.days.len() * 64 + self.newest.bits.capacity() * 8 + newest
    }
}

impl LiveDays {
    /// Rows with points on any of the days. Costs a union of them, nothing if there is one.
    pub fn union(self) -> Arc<RoaringBitmap> {
        match <[_; 1]>::try_from(self.0) {
            Ok([(_, rows)]) => rows,
            Err(days) => Arc::new(days.iter().map(|(_, rows)| &**rows).union()),
        }
    }

    /// The days, oldest first, and how many rows came with each. Costs a union of them.
    pub fn growth(&self) -> Vec<DayGrowth> {
        let mut seen = RoaringBitmap::new();
        let mut growth = Vec::with_capacity(self.0.len());
        for (day, rows) in &self.0 {
            let before = seen.len();
            seen |= &**rows;
            growth.push(DayGrowth {
                day: *day,
                rows: rows.len(),
                new: seen.len() - before,
            });
        }
        growth
    }
}

impl ChangedDays {
    /// The state with them, for a later [`Liveness::changed_since`].
    pub fn mark(&self) -> LivenessMark {
        self.mark
    }

    /// Their encoded form, for [`Liveness::apply`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES];
        for (day, rows) in &self.days.0 {
            let mut rows = RoaringBitmap::clone(rows);
            rows.optimize();
            // Days are at most a few hundred thousand from 1970: the shift keeps them positive.
            put_u64(&mut out, (day - FIRST_DAY) as u64);
            put_u64(&mut out, rows.serialized_size() as u64);
            rows.serialize_into(&mut out)
                .expect("a vector takes every byte");
        }
        out[..4].copy_from_slice(&MAGIC);
        let crc = U32::new(crc32c::crc32c(&out[HEAD_BYTES..]));
        out[4..HEAD_BYTES].copy_from_slice(crc.as_bytes());
        out
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
    fn rows(&self) -> Arc<RoaringBitmap> {
        Arc::clone(self.rows.get_or_init(|| Arc::new(self.listed())))
    }

    fn listed(&self) -> RoaringBitmap {
        RoaringBitmap::from_lsb0_bytes(0, self.bits.as_bytes())
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
        let all = |live: &Liveness| live.days_in(TimeRange::ALL);
        assert!(all(&live).growth().is_empty());
        for (row, day) in [(0, 3), (1, 3), (1, 4), (2, 4), (0, 9), (3, 9), (3, 2)] {
            live.note(Row(row), day * DAY_NS + 5);
        }
        let growth = all(&live).growth();
        let growth: Vec<_> = growth.iter().map(|d| (d.day, d.rows, d.new)).collect();
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
                    if let Some(changed) = live.changed_since(mark) {
                        copy.apply(&changed.encode(), 70_000).unwrap();
                        prop_assert_eq!(changed.mark(), live.mark());
                    }
                    mark = live.mark();
                    prop_assert!(live.changed_since(mark).is_none());
                    let rows = live.days_in(of_day(day)).union();
                    prop_assert!(rows.iter().eq(model[&day].iter().copied()));
                }
            }
            if let Some(changed) = live.changed_since(mark) {
                copy.apply(&changed.encode(), 70_000).unwrap();
            }
            for it in [&live, &copy] {
                for (day, rows) in &model {
                    let found: Vec<u32> = it.days_in(of_day(*day)).union().iter().collect();
                    prop_assert!(found.iter().eq(rows.iter()));
                }
                let days: Vec<(i64, u64)> = it.days().collect();
                let expected: Vec<_> = model.iter().map(|(d, r)| (*d, r.len() as u64)).collect();
                prop_assert_eq!(days, expected);
                let all: BTreeSet<u32> = it.days_in(TimeRange::ALL).union().iter().collect();
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
        let bytes = live.changed_since(LivenessMark::default());
        let bytes = bytes.unwrap().encode();
        copy.apply(&bytes, 70_000).unwrap();
        let rows_in = |live: &Liveness, range| live.days_in(range).union();
        for it in [&live, &copy] {
            assert!(rows_in(it, TimeRange::ALL).iter().eq([1, 2, 3]));
            assert!(rows_in(it, of_day(-1)).iter().eq([3]));
            let first = TimeRange::new(i64::MIN, i64::MIN + 1).unwrap();
            assert!(rows_in(it, first).iter().eq([1]));
            assert!(rows_in(it, TimeRange::new(5, 5).unwrap()).is_empty());
        }
        assert!(Liveness::default().apply(&bytes, 3).is_err(), "no such row");
        copy.forget_before(0);
        assert!(rows_in(&copy, TimeRange::ALL).iter().eq([2]));
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
