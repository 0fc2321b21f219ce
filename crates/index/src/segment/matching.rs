//! Selectors over a segment: values first, then the rows of the narrowest matcher, then the others.

use std::ops::Range;

use roaring::{MultiOps, RoaringBitmap};

use crate::SegmentError;
use crate::segment::dense_rows::DenseRows;
use crate::segment::layout::BLOCK_VALUES;
use crate::segment::read::{Segment, SegmentKey, damaged};
use crate::segment::values::{FoundRows, StepBuffers};
use crate::selector::{CompiledMatcher, CompiledSelector, CompiledTest};

/// Rough cost of reading one value of one row's tuple, in units of one row of a list.
const TUPLE_COST: u64 = 1000;

/// Rough cost of looking up one row's value and running an expression on it, in the same units.
const TEXT_COST: u64 = 10_000;

/// Rough cost of a value that an expression steps over, in the same units.
const STEP_COST: u64 = 8;

/// Rows up to which they are read one by one when values are looked for.
const FEW_ROWS: u64 = 4096;

/// A set is kept as plain bits, and not as a list, if at least one row in so many is in it.
const DENSE_SHARE: usize = 64;

/// A matcher resolved to values of one key.
#[derive(Debug)]
struct Wanted<'a> {
    /// Number of the key within the segment.
    key: usize,
    values: Values<'a>,
    /// Rows that have the key with any *other* value, instead of with one of these.
    complement: bool,
    /// Whether these rows are taken away instead of kept: a matcher that holds for an absent tag.
    negative: bool,
    /// Rows meant, as far as one can tell without reading their lists.
    estimate: u64,
}

#[derive(Debug)]
enum Values<'a> {
    /// Those of these ranks, ascending and apart.
    Ranks(Vec<Range<u32>>),
    /// Those that an expression finds.
    Expression(&'a CompiledMatcher),
}

#[derive(Debug)]
enum Resolved<'a> {
    Everything,
    Nothing,
    Values(Wanted<'a>),
}

/// Buffers of a question, for all the segments that it is put to.
#[derive(Debug, Default)]
pub(crate) struct MatchScratch {
    rows: DenseRows,
    others: DenseRows,
    found: FoundRows,
    steps: StepBuffers,
}

/// The rows that passed the matchers so far.
#[derive(Debug)]
enum Passed {
    All,
    /// These.
    List(RoaringBitmap),
    /// Those in [`MatchScratch::rows`].
    Dense,
}

impl Segment {
    /// Rows that pass the matchers on tags, of these measurements if they are given, ascending; matchers on other labels
    /// are for the index. Costs about the rows of the narrowest matcher.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn matching(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
    ) -> Result<RoaringBitmap, SegmentError> {
        self.matching_among(selector, measurements, None, &mut MatchScratch::default())
    }

    /// As [`Self::matching`]. Rows that are not in `live` need not be found.
    pub(crate) fn matching_among(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
        live: Option<&RoaringBitmap>,
        scratch: &mut MatchScratch,
    ) -> Result<RoaringBitmap, SegmentError> {
        let passed = self.passing(selector, measurements, live, scratch)?;
        Ok(match passed {
            Passed::All => self.all_rows(),
            Passed::List(rows) => rows,
            Passed::Dense => scratch.rows.bitmap(&self.rows()),
        })
    }

    /// How many rows [`Self::matching`] finds that are not in `without`. Makes no list of them where they are many.
    pub(crate) fn count_matching(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
        without: &RoaringBitmap,
        scratch: &mut MatchScratch,
    ) -> Result<u64, SegmentError> {
        let passed = self.passing(selector, measurements, None, scratch)?;
        let here = self.rows();
        Ok(match passed {
            Passed::All => here.len() as u64 - without.range_cardinality(here),
            Passed::List(rows) => rows.len() - rows.intersection_len(without),
            Passed::Dense => scratch.rows.count(&here, without),
        })
    }

    fn passing(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
        live: Option<&RoaringBitmap>,
        scratch: &mut MatchScratch,
    ) -> Result<Passed, SegmentError> {
        let nothing = Passed::List(RoaringBitmap::new());
        let here = self.rows();
        let living = live.map(|live| live.range_cardinality(here.clone()));
        if living == Some(0) {
            return Ok(nothing);
        }
        let mut positive = Vec::new();
        let mut negative = Vec::new();
        for (key, matcher) in selector.tag_matchers() {
            match self.resolve(key, matcher)? {
                Resolved::Everything => {}
                Resolved::Nothing => return Ok(nothing),
                Resolved::Values(wanted) if wanted.negative => negative.push(wanted),
                Resolved::Values(wanted) => positive.push(wanted),
            }
        }
        // What an expression finds is not known before it has run: it comes last.
        let is_expression = |wanted: &Wanted<'_>| matches!(wanted.values, Values::Expression(_));
        positive.sort_by_key(|wanted| (is_expression(wanted), wanted.estimate));
        let mut named = measurements.map(|passing| {
            let shapes = self.shapes.iter();
            let shapes = shapes.filter(|s| passing.binary_search(&s.measurement).is_ok());
            shapes.map(|s| &s.rows).union()
        });
        named.take_if(|named| named.len() == here.len() as u64);
        if named.as_ref().is_some_and(RoaringBitmap::is_empty) {
            return Ok(nothing);
        }

        let mut passed = match (live, living) {
            (Some(live), Some(..=FEW_ROWS)) => Passed::List(live.range(here.clone()).collect()),
            _ => Passed::All,
        };
        let is_narrow = |named: &RoaringBitmap| {
            let first = positive.first();
            first.is_none_or(|first| named.len() * TUPLE_COST < first.estimate)
        };
        if matches!(passed, Passed::All)
            && let Some(named) = named.take_if(|named| is_narrow(named))
        {
            passed = Passed::List(named);
        }
        for wanted in positive.iter().chain(&negative) {
            passed = self.narrowed(passed, wanted, scratch)?;
            if matches!(&passed, Passed::List(rows) if rows.is_empty()) {
                break;
            }
        }
        let Some(named) = named else {
            return Ok(passed);
        };
        Ok(Passed::List(match passed {
            Passed::All => named,
            Passed::List(rows) => rows & named,
            Passed::Dense => scratch.rows.bitmap(&here) & named,
        }))
    }

    /// The first `limit` values that a tag has in these rows and that begin with `prefix`, ascending. Rows elsewhere
    /// do not matter. Costs a look at each value up to the last answer, or at each row where they are few.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn tag_values(
        &self,
        rows: &RoaringBitmap,
        key: &str,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<String>, SegmentError> {
        let Some((number, key)) = self.key_named(key) else {
            return Ok(Vec::new());
        };
        let here = self.rows();
        let inside = rows.range_cardinality(here.clone());
        let mut found = Vec::new();
        if inside == 0 || limit == 0 {
            return Ok(found);
        }
        if inside <= FEW_ROWS {
            let inside: Vec<u32> = rows.range(here).collect();
            let mut ranks = Vec::new();
            self.visit_tuples(&inside, |_, block, at| {
                ranks.extend(block.value(at, |shape| self.place_of(shape, number)));
                Some(())
            })?;
            ranks.sort_unstable();
            ranks.dedup();
            let texts = self.values_at(key, &ranks)?;
            let texts = texts.into_iter().filter(|text| text.starts_with(prefix));
            return Ok(texts.take(limit).collect());
        }
        // A block's worth of values at a time: their lists are in one block, too.
        let mut from = prefix.to_owned();
        loop {
            let mut candidates: Vec<(u32, String)> = Vec::new();
            self.scan_values(key, &from, |rank, value| {
                let goes_on = value.starts_with(prefix);
                if goes_on {
                    candidates.push((rank, value.to_owned()));
                }
                goes_on && candidates.len() <= BLOCK_VALUES as usize
            })?;
            // The one too many is where the next round begins.
            let next = (candidates.len() > BLOCK_VALUES as usize).then(|| candidates.pop());
            let Some((first, _)) = candidates.first() else {
                return Ok(found);
            };
            let (first, count) = (*first, candidates.len());
            let mut meets = vec![false; count];
            let mut bitmaps = vec![false; count];
            self.rows_of_values(
                key,
                std::slice::from_ref(&(first..first + count as u32)),
                |rank, row| meets[(rank - first) as usize] |= rows.contains(row),
                |rank, bitmap| bitmaps[(rank - first) as usize] |= !bitmap.is_disjoint(rows),
            )?;
            for (at, (_, value)) in candidates.into_iter().enumerate() {
                if (meets[at] || bitmaps[at]) && found.len() < limit {
                    found.push(value);
                }
            }
            match next.flatten() {
                Some((_, next)) if found.len() < limit => from = next,
                _ => return Ok(found),
            }
        }
    }

    /// Where a key is among those of a shape.
    fn place_of(&self, shape: u32, key: usize) -> Option<usize> {
        let keys = &self.shapes.get(shape as usize)?.keys;
        keys.iter().position(|k| *k as usize == key)
    }

    fn all_rows(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(self.rows());
        all
    }

    /// Finds the values that a matcher on a text speaks of; those of an expression are found with their rows.
    fn resolve<'a>(
        &self,
        key: &str,
        matcher: &'a CompiledMatcher,
    ) -> Result<Resolved<'a>, SegmentError> {
        let negative = matcher.matches("");
        let none = if negative {
            Resolved::Everything
        } else {
            Resolved::Nothing
        };
        let Some((number, key)) = self.key_named(key) else {
            return Ok(none);
        };
        let mut ranks: Vec<Range<u32>> = Vec::new();
        let mut add = |rank: u32| match ranks.last_mut() {
            Some(last) if last.end == rank => last.end += 1,
            _ => ranks.push(rank..rank + 1),
        };
        // The wanted values are those that differ from an absent tag in the matcher's eyes.
        let complement = match &matcher.test {
            CompiledTest::In(texts) => {
                for text in texts {
                    self.rank_of(key, text)?.for_each(&mut add);
                }
                texts.iter().any(String::is_empty)
            }
            CompiledTest::Exists => {
                self.rank_of(key, "")?.for_each(&mut add);
                true
            }
            _ => {
                return Ok(Resolved::Values(Wanted {
                    key: number,
                    values: Values::Expression(matcher),
                    complement: false,
                    negative,
                    estimate: key.rows,
                }));
            }
        };
        if ranks.is_empty() && !complement {
            return Ok(none);
        }
        let count: u64 = ranks.iter().map(|r| u64::from(r.end - r.start)).sum();
        let estimate = if complement {
            key.rows
        } else {
            key.rows * count / u64::from(key.values).max(1)
        };
        Ok(Resolved::Values(Wanted {
            key: number,
            values: Values::Ranks(ranks),
            complement,
            negative,
            estimate,
        }))
    }

    /// Those of some rows that pass one more matcher: each looked at if they are few, else by the lists of its values.
    fn narrowed(
        &self,
        passed: Passed,
        wanted: &Wanted<'_>,
        scratch: &mut MatchScratch,
    ) -> Result<Passed, SegmentError> {
        let Some(key) = self.keys.get(wanted.key) else {
            return Err(damaged("key", wanted.key as u64));
        };
        let (each, lists) = match wanted.values {
            Values::Ranks(_) => (TUPLE_COST, wanted.estimate),
            Values::Expression(_) => (TEXT_COST, u64::from(key.values) * STEP_COST),
        };
        let passed = match passed {
            Passed::List(rows) if rows.len() * each < lists => {
                return Ok(Passed::List(self.filtered(&rows, key, wanted)?));
            }
            Passed::Dense if scratch.rows.is_fewer_than(lists.div_ceil(each)) => {
                let rows = scratch.rows.bitmap(&self.rows());
                return Ok(Passed::List(self.filtered(&rows, key, wanted)?));
            }
            passed => passed,
        };
        let MatchScratch { found, steps, .. } = scratch;
        found.clear();
        match &wanted.values {
            Values::Ranks(ranks) => self.rows_of_ranks(key, ranks, found)?,
            Values::Expression(matcher) => self.rows_of_matches(key, matcher, steps, found)?,
        }
        let is_short = found.far.is_empty() && found.few.len() < self.rows().len() / DENSE_SHARE;
        match passed {
            Passed::All if is_short && !wanted.complement && !wanted.negative => {
                Ok(Passed::List(list_of(&mut found.few)))
            }
            Passed::List(rows) if is_short && !wanted.complement => {
                let these = list_of(&mut found.few);
                let rows = if wanted.negative {
                    rows - these
                } else {
                    rows & these
                };
                Ok(Passed::List(rows))
            }
            passed => self.combined(passed, key, wanted, scratch),
        }
    }

    /// Those of some rows that pass a matcher, whose rows have been found; as plain bits.
    fn combined(
        &self,
        passed: Passed,
        key: &SegmentKey,
        wanted: &Wanted<'_>,
        scratch: &mut MatchScratch,
    ) -> Result<Passed, SegmentError> {
        let here = self.rows();
        let MatchScratch {
            rows,
            others,
            found,
            ..
        } = scratch;
        let stored = |at, dense: &mut DenseRows, combine: fn(&mut DenseRows, &[u8]) -> _| {
            self.block(at, "rows of a value", |bytes| combine(dense, bytes))
        };
        match passed {
            Passed::All if !wanted.negative && !wanted.complement => {
                if let ([at], []) = (found.far.as_slice(), found.few.as_slice()) {
                    self.block(*at, "rows of a value", |bytes| {
                        rows.set_stored(&here, bytes)
                    })?;
                    return Ok(Passed::Dense);
                }
                rows.clear(&here);
                found.few.iter().for_each(|row| rows.insert(*row));
                for at in &found.far {
                    stored(*at, rows, DenseRows::add_stored)?;
                }
                return Ok(Passed::Dense);
            }
            Passed::All => {
                rows.clear(&here);
                rows.insert_range(here.clone());
            }
            Passed::List(list) => {
                rows.clear(&here);
                rows.add(&list);
            }
            Passed::Dense => {}
        }
        if let ([at], []) = (found.far.as_slice(), found.few.as_slice())
            && !wanted.complement
        {
            let combine = if wanted.negative {
                DenseRows::take_stored
            } else {
                DenseRows::keep_stored
            };
            stored(*at, rows, combine)?;
            return Ok(Passed::Dense);
        }
        others.clear(&here);
        let is_everywhere = key.rows == here.len() as u64;
        if wanted.complement && !is_everywhere {
            let with_key = self.shapes.iter();
            let with_key = with_key.filter(|s| s.keys.contains(&(wanted.key as u32)));
            others.add(&with_key.map(|s| &s.rows).union());
            found.few.iter().for_each(|row| others.remove(*row));
            for at in &found.far {
                stored(*at, others, DenseRows::take_stored)?;
            }
        } else {
            found.few.iter().for_each(|row| others.insert(*row));
            for at in &found.far {
                stored(*at, others, DenseRows::add_stored)?;
            }
        }
        // Where every row has the key, the rows meant are all but these.
        if wanted.negative == (wanted.complement && is_everywhere) {
            rows.keep(others);
        } else {
            rows.take(others);
        }
        Ok(Passed::Dense)
    }

    /// The rows that pass, each looked at.
    fn filtered(
        &self,
        rows: &RoaringBitmap,
        key: &SegmentKey,
        wanted: &Wanted<'_>,
    ) -> Result<RoaringBitmap, SegmentError> {
        let rows: Vec<u32> = rows.iter().collect();
        let mut ranks: Vec<(u32, Option<u32>)> = Vec::with_capacity(rows.len());
        self.visit_tuples(&rows, |row, block, at| {
            let rank = block.value(at, |shape| self.place_of(shape, wanted.key));
            ranks.push((row, rank));
            Some(())
        })?;
        let found;
        let listed = match &wanted.values {
            Values::Ranks(listed) => listed,
            Values::Expression(matcher) => {
                let mut all: Vec<u32> = ranks.iter().filter_map(|(_, rank)| *rank).collect();
                all.sort_unstable();
                all.dedup();
                let texts = self.values_at(key, &all)?;
                let texts = all.into_iter().zip(texts);
                let meant = texts.filter(|(_, text)| matcher.matches(text) != wanted.negative);
                found = meant.map(|(rank, _)| rank..rank + 1).collect();
                &found
            }
        };
        let kept = ranks.into_iter().filter(|(_, rank)| {
            let meant = rank.is_some_and(|rank| {
                let at = listed.partition_point(|r| r.end <= rank);
                let listed = listed.get(at).is_some_and(|r| r.contains(&rank));
                listed != wanted.complement
            });
            meant != wanted.negative
        });
        Ok(kept.map(|(row, _)| row).collect())
    }
}

fn list_of(rows: &mut [u32]) -> RoaringBitmap {
    rows.sort_unstable();
    rows.iter().copied().collect()
}
