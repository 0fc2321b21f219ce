//! Rows of a segment as plain bits, while many of them are put together.
//!
//! Bitmaps of large lists are combined where they stand in a block, eight kilobytes at a time, and become a bitmap of
//! their own once, at the end. One buffer serves all segments of a question.

use std::ops::Range;

use roaring::RoaringBitmap;

use crate::segment::stored_rows::{CONTAINER_BYTES, bitmap_of, containers};

/// Rows of a container.
const CONTAINER_ROWS: u32 = 1 << 16;

/// Words that are passed over in one step where no row is set.
const EIGHT: usize = 8;

/// Rows up to which they are added one by one.
const FEW_ROWS: u64 = 4096;

/// A set of rows within the containers that a segment touches.
#[derive(Debug, Default)]
pub(crate) struct DenseRows {
    /// Number of the first container.
    first: u32,
    bits: Vec<u8>,
    /// Room for bitmaps that are made.
    scratch: Vec<u8>,
}

impl DenseRows {
    /// No rows, of a segment with these.
    pub(crate) fn clear(&mut self, rows: &Range<u32>) {
        let containers = self.place(rows);
        self.bits.clear();
        self.bits.resize(containers * CONTAINER_BYTES, 0);
    }

    /// Notes where the containers of a segment with these rows begin; returns how many there are.
    fn place(&mut self, rows: &Range<u32>) -> usize {
        self.first = rows.start / CONTAINER_ROWS;
        (rows.end.div_ceil(CONTAINER_ROWS) - self.first) as usize
    }

    /// Adds a row of the segment's.
    #[inline]
    pub(crate) fn insert(&mut self, row: u32) {
        let at = (row - self.first * CONTAINER_ROWS) as usize;
        if let Some(byte) = self.bits.get_mut(at / 8) {
            *byte |= 1 << (at % 8);
        }
    }

    /// Takes a row of the segment's away.
    #[inline]
    pub(crate) fn remove(&mut self, row: u32) {
        let at = (row - self.first * CONTAINER_ROWS) as usize;
        if let Some(byte) = self.bits.get_mut(at / 8) {
            *byte &= !(1 << (at % 8));
        }
    }

    /// Adds rows of the segment's.
    pub(crate) fn add(&mut self, rows: &RoaringBitmap) {
        if rows.len() <= FEW_ROWS {
            rows.iter().for_each(|row| self.insert(row));
            return;
        }
        let mut bytes = Vec::with_capacity(rows.serialized_size());
        let written = rows.serialize_into(&mut bytes);
        written.expect("a vector takes every byte");
        let added = self.add_stored(&bytes);
        added.expect("rows of the segment's, just written");
    }

    /// Keeps only rows that are in the other set, of the same segment.
    pub(crate) fn keep(&mut self, other: &Self) {
        let pairs = self.bits.iter_mut().zip(&other.bits);
        pairs.for_each(|(a, b)| *a &= b);
    }

    /// Takes the rows of the other set, of the same segment, away.
    pub(crate) fn take(&mut self, other: &Self) {
        let pairs = self.bits.iter_mut().zip(&other.bits);
        pairs.for_each(|(a, b)| *a &= !b);
    }

    /// Adds all rows of a range.
    pub(crate) fn insert_range(&mut self, rows: Range<u32>) {
        // Whole bytes at once; those at the ends bit by bit.
        let begin = rows.start.checked_next_multiple_of(8).unwrap_or(rows.end);
        let end = rows.end / 8 * 8;
        if begin >= end {
            rows.for_each(|row| self.insert(row));
            return;
        }
        let first = self.first * CONTAINER_ROWS;
        let whole = (begin - first) as usize / 8..(end - first) as usize / 8;
        if let Some(bytes) = self.bits.get_mut(whole) {
            bytes.fill(0xff);
        }
        (rows.start..begin)
            .chain(end..rows.end)
            .for_each(|row| self.insert(row));
    }

    /// Adds the rows of a stored set; `None` if it makes no sense or has rows elsewhere.
    pub(crate) fn add_stored(&mut self, bytes: &[u8]) -> Option<()> {
        let (first, chunks) = (self.first, self.bits.as_chunks_mut().0);
        containers(bytes, |number, container| {
            let at = u32::from(number).checked_sub(first)?;
            container.add_to(chunks.get_mut(at as usize)?);
            Some(())
        })
    }

    /// Becomes a stored set of rows of a segment with these; `None` as for [`Self::add_stored`].
    pub(crate) fn set_stored(&mut self, rows: &Range<u32>, bytes: &[u8]) -> Option<()> {
        let containers_here = self.place(rows);
        self.bits.resize(containers_here * CONTAINER_BYTES, 0);
        let (first, chunks) = (self.first, self.bits.as_chunks_mut().0);
        let mut next = 0;
        containers(bytes, |number, container| {
            let at = u32::from(number).checked_sub(first)? as usize;
            chunks.get_mut(next..at)?.as_flattened_mut().fill(0);
            container.copy_to(chunks.get_mut(at)?);
            next = at + 1;
            Some(())
        })?;
        chunks.get_mut(next..)?.as_flattened_mut().fill(0);
        Some(())
    }

    /// Keeps only rows of a stored set; `None` as for [`Self::add_stored`].
    pub(crate) fn keep_stored(&mut self, bytes: &[u8]) -> Option<()> {
        let (first, chunks) = (self.first, self.bits.as_chunks_mut().0);
        let mut next = 0;
        containers(bytes, |number, container| {
            let at = u32::from(number).checked_sub(first)? as usize;
            chunks.get_mut(next..at)?.as_flattened_mut().fill(0);
            container.keep_in(chunks.get_mut(at)?);
            next = at + 1;
            Some(())
        })?;
        chunks.get_mut(next..)?.as_flattened_mut().fill(0);
        Some(())
    }

    /// Takes the rows of a stored set away; `None` as for [`Self::add_stored`].
    pub(crate) fn take_stored(&mut self, bytes: &[u8]) -> Option<()> {
        let (first, chunks) = (self.first, self.bits.as_chunks_mut().0);
        containers(bytes, |number, container| {
            let at = u32::from(number).checked_sub(first)?;
            container.take_from(chunks.get_mut(at as usize)?);
            Some(())
        })
    }

    /// Whether there are fewer rows than this. Looks no further than it must.
    pub(crate) fn is_fewer_than(&self, limit: u64) -> bool {
        let mut count = 0;
        let mut words = self.bits.as_chunks().0.iter();
        words.all(|word| {
            count += u64::from(u64::from_le_bytes(*word).count_ones());
            count < limit
        }) && count < limit
    }

    /// How many there are within the segment's rows, `of`, but for those that `without` has.
    pub(crate) fn count(&self, of: &Range<u32>, without: &RoaringBitmap) -> u64 {
        let here = |row: &u32| self.has(*row);
        let mut count = 0;
        // Only a damaged segment has rows outside; words at the ends are mostly its own.
        let begin = of.start.next_multiple_of(64).min(of.end);
        let end = (of.end / 64 * 64).max(begin);
        let ends = (of.start..begin).chain(end..of.end);
        count += ends.filter(here).count();
        let first = self.first * CONTAINER_ROWS;
        let whole = (begin - first) as usize / 8..(end - first) as usize / 8;
        let words = self.bits.get(whole).unwrap_or_default().as_chunks().0;
        let (groups, rest) = words.as_chunks::<EIGHT>();
        let ones = |word: &[u8; 8]| u64::from_le_bytes(*word).count_ones() as usize;
        for group in groups {
            // Where few rows are set, most of the words are empty.
            if *group.as_flattened() != [0; EIGHT * 8] {
                count += group.iter().map(ones).sum::<usize>();
            }
        }
        count += rest.iter().map(ones).sum::<usize>();
        let left_out = without.range(of.clone()).filter(here).count();
        (count - left_out) as u64
    }

    fn has(&self, row: u32) -> bool {
        let at = (row - self.first * CONTAINER_ROWS) as usize;
        let byte = self.bits.get(at / 8);
        byte.is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    /// Those within the segment's rows, `of`, as a bitmap.
    pub(crate) fn bitmap(&mut self, of: &Range<u32>) -> RoaringBitmap {
        let mut rows = bitmap_of(self.first, self.bits.as_chunks().0, &mut self.scratch);
        // Only a damaged segment has others.
        rows.remove_range(..of.start);
        rows.remove_range(of.end..);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(rows: &RoaringBitmap) -> Vec<u8> {
        let mut rows = rows.clone();
        rows.optimize();
        let mut bytes = Vec::new();
        rows.serialize_into(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn plain_bits_combine_as_bitmaps_do() {
        let here = 100_000..500_001;
        let sets: [RoaringBitmap; 5] = [
            RoaringBitmap::new(),
            here.clone().step_by(3).collect(),
            (140_000..300_000).collect(),
            here.clone().step_by(1013).collect(),
            [100_000, 500_000].into_iter().collect(),
        ];
        let mut dense = DenseRows::default();
        let mut other = DenseRows::default();
        for a in &sets {
            for b in &sets {
                let mut check =
                    |expected: RoaringBitmap, combine: &mut dyn FnMut(&mut DenseRows)| {
                        dense.clear(&(0..9));
                        assert_eq!(dense.set_stored(&here, &stored(a)), Some(()));
                        combine(&mut dense);
                        assert_eq!(dense.bitmap(&here), expected);
                        assert!(dense.is_fewer_than(expected.len() + 1));
                        assert!(!dense.is_fewer_than(expected.len()));
                        let none = RoaringBitmap::new();
                        assert_eq!(dense.count(&here, &none), expected.len());
                        assert_eq!(dense.count(&here, b), (&expected - b).len());
                        for some in [100_003..399_999, 100_000..100_001, 140_001..140_060] {
                            let within = expected.range_cardinality(some.clone());
                            assert_eq!(dense.count(&some, &none), within);
                        }
                    };
                let bytes = stored(b);
                check(a | b, &mut |dense| dense.add_stored(&bytes).unwrap());
                check(a | b, &mut |dense| dense.add(b));
                check(a & b, &mut |dense| dense.keep_stored(&bytes).unwrap());
                check(a - b, &mut |dense| dense.take_stored(&bytes).unwrap());
                check(a - b, &mut |dense| {
                    b.iter().for_each(|row| dense.remove(row));
                });
                other.clear(&here);
                other.add(b);
                check(a & b, &mut |dense| dense.keep(&other));
                check(a - b, &mut |dense| dense.take(&other));
            }
        }
        for range in [
            here.clone(),
            100_000..100_001,
            200_003..200_006,
            131_071..262_145,
        ] {
            dense.clear(&here);
            dense.insert_range(range.clone());
            assert_eq!(dense.bitmap(&here), range.collect());
        }
        let far: RoaringBitmap = [9, 200_000].into_iter().collect();
        assert_eq!(dense.add_stored(&stored(&far)), None, "not of the segment");
        let far: RoaringBitmap = [200_000, 900_000].into_iter().collect();
        assert_eq!(dense.keep_stored(&stored(&far)), None, "not of the segment");
    }
}
