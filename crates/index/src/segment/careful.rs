//! Questions to a segment of which blocks do not hold: row by row, from tuples and texts of values alone. Lists of rows and the name
//! table are made of these and not looked at, so nothing is missing but rows of which a tuple or a text has gone.

use roaring::RoaringBitmap;

use alluvium_types::SeriesKey;

use crate::segment::layout::{BLOCK_ROWS, BLOCK_VALUES, PAGE_SLOTS};
use crate::segment::read::{Segment, damaged};
use crate::selector::{CompiledMatcher, CompiledSelector};
use crate::{KeyHash, SegmentError};

/// Tag sets that are spelt together where hashes are made of them.
const SPELT_AT_ONCE: usize = 2048;

/// Rows of a segment that could not be looked at, or not be spelt.
#[derive(Debug, Clone)]
pub struct LostRows {
    /// Which.
    pub rows: RoaringBitmap,
    /// What was met first.
    pub error: SegmentError,
}

impl LostRows {
    /// Adds rows, if there are any.
    fn note(lost: &mut Option<Self>, rows: RoaringBitmap, error: &SegmentError) {
        if !rows.is_empty() {
            let new = || Self {
                rows: RoaringBitmap::new(),
                error: error.clone(),
            };
            lost.get_or_insert_with(new).rows |= rows;
        }
    }
}

/// What is known of a value, or of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passes,
    Fails,
    Unknown,
}

impl Verdict {
    fn of(passes: bool) -> Self {
        if passes { Self::Passes } else { Self::Fails }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fails, _) | (_, Self::Fails) => Self::Fails,
            (Self::Passes, Self::Passes) => Self::Passes,
            _ => Self::Unknown,
        }
    }
}

/// A matcher on a tag that some rows have.
struct Judge {
    /// Number of the key within the segment.
    key: usize,
    /// Of a row without it.
    absent: Verdict,
    by_rank: Vec<Verdict>,
}

/// Rows by the values of a key.
struct Ranked {
    /// By value: how many have it.
    counts: Vec<u32>,
    /// By block of values: which have one of it.
    having: Vec<RoaringBitmap>,
    /// Those of which it is not known.
    lost: Option<LostRows>,
}

impl Segment {
    /// As [`Segment::matching`] of rows in `live`, if that is given: those that are known to pass, and how many others may. Costs a
    /// look at every value of the tags and at every tuple.
    pub(crate) fn matching_carefully(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
        live: Option<&RoaringBitmap>,
    ) -> (RoaringBitmap, Option<LostRows>) {
        let (mut lost, mut error) = (None, None);
        let (mut passed, mut unknown) = (Vec::new(), Vec::new());
        let mut judges = Vec::new();
        for (name, matcher) in selector.tag_matchers() {
            match self.key_named(name) {
                Some((key, _)) => judges.push(self.judge(key, matcher, &mut error)),
                None if matcher.matches("") => {}
                None => return (RoaringBitmap::new(), lost),
            }
        }
        let passing = self.shapes.iter().filter(|shape| {
            measurements.is_none_or(|passing| passing.binary_search(&shape.measurement).is_ok())
        });
        let mut rows = RoaringBitmap::new();
        passing.for_each(|shape| rows |= &shape.rows);
        if let Some(live) = live {
            rows &= live;
        }
        let unread = self.walk(&rows, |row, shape, values| {
            let keys = &self.shapes.get(shape as usize)?.keys;
            let mut verdict = Verdict::Passes;
            for judge in &judges {
                let place = keys.iter().position(|key| *key as usize == judge.key);
                let of_it = place.map_or(Some(judge.absent), |place| {
                    judge.by_rank.get(*values.get(place)? as usize).copied()
                });
                verdict = verdict.and(of_it?);
            }
            match verdict {
                Verdict::Passes => passed.push(row),
                Verdict::Fails => {}
                Verdict::Unknown => unknown.push(row),
            }
            Some(())
        });
        let (mut found, unknown): (RoaringBitmap, RoaringBitmap) =
            (passed.into_iter().collect(), unknown.into_iter().collect());
        for (rows, error) in unread {
            // A block may have been read in part.
            found -= &rows;
            LostRows::note(&mut lost, rows, &error);
        }
        if let Some(error) = &error {
            LostRows::note(&mut lost, unknown, error);
        }
        (found, lost)
    }

    /// What a matcher says of each value of a key; `error` is why it is not known of some.
    fn judge(
        &self,
        key: usize,
        matcher: &CompiledMatcher,
        error: &mut Option<SegmentError>,
    ) -> Judge {
        let mut by_rank = Vec::new();
        if let Some(of) = self.keys.get(key) {
            by_rank.resize(of.values as usize, Verdict::Unknown);
            for (number, ranks) in by_rank.chunks_mut(BLOCK_VALUES as usize).enumerate() {
                let read = self.texts_of_block(of, number as u32);
                match read {
                    Ok(texts) => {
                        for (verdict, text) in ranks.iter_mut().zip(texts) {
                            *verdict = Verdict::of(matcher.matches(&text));
                        }
                    }
                    Err(why) => *error = error.take().or(Some(why)),
                }
            }
        }
        Judge {
            key,
            absent: Verdict::of(matcher.matches("")),
            by_rank,
        }
    }

    /// As [`Segment::tag_values`], without values that cannot be read and those of rows that cannot.
    pub fn tag_values_carefully(
        &self,
        rows: &RoaringBitmap,
        key: &str,
        prefix: &str,
        limit: usize,
    ) -> (Vec<String>, Option<LostRows>) {
        let Some((number, key)) = self.key_named(key) else {
            return (Vec::new(), None);
        };
        let Ranked {
            counts,
            having,
            mut lost,
        } = self.ranked(number, rows);
        let blocks = counts.chunks(BLOCK_VALUES as usize).zip(having);
        let mut found = Vec::new();
        for (block, (counts, rows)) in blocks.enumerate() {
            if rows.is_empty() || found.len() >= limit {
                continue;
            }
            match self.texts_of_block(key, block as u32) {
                Ok(texts) => {
                    let texts = texts.into_iter().zip(counts);
                    let texts = texts.filter(|(_, count)| **count > 0);
                    found.extend(texts.map(|(t, _)| t).filter(|t| t.starts_with(prefix)));
                }
                Err(error) => LostRows::note(&mut lost, rows, &error),
            }
        }
        found.truncate(limit);
        (found, lost)
    }

    /// As [`Segment::tag_value_sizes`] of all values but the first `skipped`, without those that cannot be read and rows that
    /// cannot: counts may be too low. Returns the rows of what is missing. Costs a look at every tuple.
    pub fn tag_value_sizes_carefully(
        &self,
        key: &str,
        skipped: usize,
        mut visit: impl FnMut(&str, u64),
    ) -> Option<LostRows> {
        let (number, key) = self.key_named(key)?;
        let mut all = RoaringBitmap::new();
        all.insert_range(self.rows());
        let Ranked {
            counts,
            having,
            mut lost,
        } = self.ranked(number, &all);
        let blocks = counts.chunks(BLOCK_VALUES as usize).zip(having);
        for (block, (counts, rows)) in blocks.enumerate() {
            match self.texts_of_block(key, block as u32) {
                Ok(texts) => {
                    let before = block * BLOCK_VALUES as usize;
                    let of_block = texts.iter().zip(counts);
                    let rest = of_block.skip(skipped.saturating_sub(before));
                    rest.for_each(|(text, count)| visit(text, (*count).into()));
                }
                Err(error) => LostRows::note(&mut lost, rows, &error),
            }
        }
        lost
    }

    /// Which values of a key some rows have.
    fn ranked(&self, number: usize, rows: &RoaringBitmap) -> Ranked {
        let mut lost = None;
        let (values, blocks) = match self.keys.get(number) {
            Some(key) => (key.values as usize, key.blocks.len()),
            None => (0, 0),
        };
        let mut having = vec![RoaringBitmap::new(); blocks];
        let mut counts = vec![0_u32; values];
        let mut here = RoaringBitmap::new();
        here.insert_range(self.rows());
        let unread = self.walk(&(here & rows), |row, shape, values| {
            let keys = &self.shapes.get(shape as usize)?.keys;
            let place = keys.iter().position(|key| *key as usize == number);
            if let Some(rank) = place.and_then(|place| values.get(place)) {
                *counts.get_mut(*rank as usize)? += 1;
                having.get_mut((rank / BLOCK_VALUES) as usize)?.insert(row);
            }
            Some(())
        });
        for (rows, error) in unread {
            LostRows::note(&mut lost, rows, &error);
        }
        Ranked {
            counts,
            having,
            lost,
        }
    }

    /// As [`Segment::spell`]: `None` for each tag set of which a part cannot be read.
    pub fn spell_carefully(&self, rows: &[u32]) -> (Vec<Option<SeriesKey>>, Option<LostRows>) {
        let wanted: RoaringBitmap = rows.iter().copied().collect();
        let mut read: Vec<(u32, u32, Vec<u32>)> = Vec::with_capacity(rows.len());
        let unread = self.walk(&wanted, |row, shape, values| {
            read.push((row, shape, values.to_vec()));
            Some(())
        });
        let mut first_error = unread.first().map(|(_, error)| error.clone());
        let mut gone = RoaringBitmap::new();
        unread.into_iter().for_each(|(rows, _)| gone |= rows);
        read.retain(|(row, ..)| !gone.contains(*row));
        // By key: the values that are wanted, with their texts if they can be read.
        let mut texts: Vec<Vec<(u32, Option<String>)>> = vec![Vec::new(); self.keys.len()];
        for (_, shape, values) in &read {
            let keys = self.shapes.get(*shape as usize).map(|shape| &shape.keys);
            for (key, rank) in keys.into_iter().flatten().zip(values) {
                if let Some(of_key) = texts.get_mut(*key as usize) {
                    of_key.push((*rank, None));
                }
            }
        }
        for (key, wanted) in self.keys.iter().zip(&mut texts) {
            wanted.sort_unstable();
            wanted.dedup();
            for group in wanted.chunk_by_mut(|a, b| a.0 / BLOCK_VALUES == b.0 / BLOCK_VALUES) {
                let ranks: Vec<u32> = group.iter().map(|(rank, _)| *rank).collect();
                match self.values_at(key, &ranks) {
                    Ok(read) => {
                        let places = group.iter_mut().zip(read);
                        places.for_each(|((_, place), text)| *place = Some(text));
                    }
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        let spell = |shape: u32, values: &[u32]| {
            let shape = self.shapes.get(shape as usize)?;
            let mut tags = Vec::with_capacity(values.len());
            for (key, rank) in shape.keys.iter().zip(values) {
                let texts = texts.get(*key as usize)?;
                let at = texts.binary_search_by_key(rank, |(r, _)| *r).ok()?;
                let text = texts.get(at)?.1.as_deref()?;
                tags.push((&*self.keys.get(*key as usize)?.name, text));
            }
            SeriesKey::new(&*shape.measurement_name, tags).ok()
        };
        let mut read = read.into_iter().peekable();
        let mut missing = RoaringBitmap::new();
        let mut spelt = Vec::with_capacity(rows.len());
        for row in rows {
            let tuple = read.next_if(|(of, ..)| of == row);
            let key = tuple.and_then(|(_, shape, values)| spell(shape, &values));
            if key.is_none() {
                missing.insert(*row);
            }
            spelt.push(key);
        }
        let mut lost = None;
        let error = first_error.unwrap_or(damaged("tag set", self.rows().start.into()));
        LostRows::note(&mut lost, missing, &error);
        (spelt, lost)
    }

    /// As [`Self::slots`]: where a page does not hold, those of its rows are made of their tag sets, in any order.
    ///
    /// # Errors
    /// If a page does not hold, and a tag set of its rows cannot be spelt.
    pub(crate) fn slots_carefully(
        &self,
        seed: u64,
        mut visit: impl FnMut(u128),
    ) -> Result<(), SegmentError> {
        let mut told = RoaringBitmap::new();
        for page in 0..self.hash_pages() {
            let mut slots = Vec::with_capacity(PAGE_SLOTS);
            if self.hash_page(page, |slot| slots.push(slot)).is_ok() {
                told.extend(slots.iter().map(|slot| *slot as u32));
                slots.into_iter().for_each(&mut visit);
            }
        }
        self.slots_of_others(seed, &told, visit)
    }

    /// Calls `visit` with the slots of all rows but those `told`, made of their tag sets under the seed of the database.
    ///
    /// # Errors
    /// If a tag set cannot be spelt.
    pub(crate) fn slots_of_others(
        &self,
        seed: u64,
        told: &RoaringBitmap,
        mut visit: impl FnMut(u128),
    ) -> Result<(), SegmentError> {
        let others: Vec<u32> = self.rows().filter(|row| !told.contains(*row)).collect();
        let mut scratch = Vec::new();
        for rows in others.chunks(SPELT_AT_ONCE) {
            for (row, key) in rows.iter().zip(self.spell(rows)?) {
                let hash = KeyHash::of(seed, &key, &mut scratch);
                visit(hash.bits() << 32 | u128::from(*row));
            }
        }
        Ok(())
    }

    /// Rows of a key that have one of some values, by their ranks: from the tuples.
    ///
    /// # Errors
    /// If a tuple cannot be read.
    pub(crate) fn rows_by_tuples(
        &self,
        key: usize,
        ranks: std::ops::Range<u32>,
        mut visit: impl FnMut(u32, u32),
    ) -> Result<(), SegmentError> {
        let mut row = self.rows().start;
        for number in 0..self.tuple_blocks() {
            self.tuple_block(number, |block| {
                block.rows(|shape, values| {
                    let keys = &self.shapes.get(shape as usize)?.keys;
                    let place = keys.iter().position(|k| *k as usize == key);
                    if let Some(rank) = place.and_then(|place| values.get(place))
                        && ranks.contains(rank)
                    {
                        visit(*rank, row);
                    }
                    row += 1;
                    Some(())
                })
            })?;
        }
        Ok(())
    }

    /// Calls `visit` with each of some rows, ascending, its shape and the ranks of its values. Returns the rows of blocks that cannot be
    /// read; it may have been called with some of them.
    fn walk(
        &self,
        rows: &RoaringBitmap,
        mut visit: impl FnMut(u32, u32, &[u32]) -> Option<()>,
    ) -> Vec<(RoaringBitmap, SegmentError)> {
        let mut unread = Vec::new();
        let base = self.rows().start;
        for number in 0..self.tuple_blocks() {
            let first = base + number * BLOCK_ROWS;
            let here = first..first.saturating_add(BLOCK_ROWS).min(self.rows().end);
            if rows.range_cardinality(here.clone()) == 0 {
                continue;
            }
            let mut wanted = rows.range(here.clone()).peekable();
            let read = self.tuple_block(number, |block| {
                let mut row = first;
                block.rows(|shape, values| {
                    if wanted.next_if_eq(&row).is_some() {
                        visit(row, shape, values)?;
                    }
                    row += 1;
                    Some(())
                })
            });
            if let Err(error) = read {
                unread.push((rows.range(here).collect(), error));
            }
        }
        unread
    }
}
