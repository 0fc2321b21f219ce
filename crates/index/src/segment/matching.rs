//! Selectors over a segment: values first, then the rows of the narrowest matcher, then the others.

use std::ops::Range;

use roaring::{MultiOps, RoaringBitmap};

use crate::SegmentError;
use crate::segment::layout::BLOCK_VALUES;
use crate::segment::read::{Segment, SegmentKey};
use crate::selector::{CompiledMatcher, CompiledSelector, CompiledTest};

/// Rough cost of reading one value of one row's tuple, in units of one row of a union.
const TUPLE_COST: u64 = 200;

/// Rows up to which they are read one by one when values are looked for.
const FEW_ROWS: u64 = 4096;

/// A matcher resolved to values of one key.
#[derive(Debug)]
struct Wanted {
    /// Number of the key within the segment.
    key: usize,
    /// Ranks, ascending and apart.
    ranks: Vec<Range<u32>>,
    /// Rows that have the key with any *other* value, instead of with one of these.
    complement: bool,
    /// Whether these rows are taken away instead of kept: a matcher that holds for an absent tag.
    negative: bool,
    /// Rows meant, as far as one can tell without reading their lists.
    estimate: u64,
}

#[derive(Debug)]
enum Resolved {
    Everything,
    Nothing,
    Values(Wanted),
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
        let nothing = RoaringBitmap::new();
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
        positive.sort_by_key(|wanted| wanted.estimate);
        let named = measurements.map(|passing| {
            let shapes = self.shapes.iter();
            let shapes = shapes.filter(|s| passing.binary_search(&s.measurement).is_ok());
            shapes.map(|s| &s.rows).union()
        });
        let mut rest = positive.iter();
        let mut rows = match &named {
            Some(named) if positive.first().is_none_or(|p| named.len() < p.estimate) => {
                named.clone()
            }
            _ => match rest.next() {
                Some(first) => self.rows_of(first)?,
                None => self.all_rows(),
            },
        };
        if let Some(named) = &named {
            rows &= named;
        }
        for wanted in rest.chain(&negative) {
            if rows.is_empty() {
                break;
            }
            if rows.len() * TUPLE_COST < wanted.estimate {
                rows = self.filtered(&rows, wanted)?;
            } else if wanted.negative {
                rows -= self.rows_of(wanted)?;
            } else {
                rows &= self.rows_of(wanted)?;
            }
        }
        Ok(rows)
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

    fn key_named(&self, name: &str) -> Option<(usize, &SegmentKey)> {
        let mut keys = self.keys.iter().enumerate();
        keys.find(|(_, key)| &*key.name == name)
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

    /// Finds the values a matcher speaks of: by look-up for texts, in the range of their prefix for expressions.
    fn resolve(&self, key: &str, matcher: &CompiledMatcher) -> Result<Resolved, SegmentError> {
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
        let mut complement = false;
        match &matcher.test {
            CompiledTest::In(texts) => {
                for text in texts {
                    self.scan_values(key, text, |rank, value| {
                        if value == text {
                            add(rank);
                        }
                        false
                    })?;
                }
                complement = texts.iter().any(String::is_empty);
            }
            CompiledTest::Exists => {
                self.scan_values(key, "", |rank, value| {
                    if value.is_empty() {
                        add(rank);
                    }
                    false
                })?;
                complement = true;
            }
            test => {
                let prefix = test.prefix();
                // Few values are not worth a table.
                let automaton = (key.values > BLOCK_VALUES).then(|| matcher.automaton());
                if let Some(automaton) = automaton.flatten() {
                    self.scan_expression(key, prefix, automaton, |rank, is_match| {
                        if (is_match != matcher.negated) != negative {
                            add(rank);
                        }
                    })?;
                } else {
                    self.scan_values(key, prefix, |rank, value| {
                        if matcher.matches(value) != negative {
                            add(rank);
                        }
                        value.starts_with(prefix)
                    })?;
                }
            }
        }
        let count: u64 = ranks.iter().map(|r| u64::from(r.end - r.start)).sum();
        let values = u64::from(key.values).max(1);
        if count * 2 > values && !complement {
            ranks = inverse(&ranks, key.values);
            complement = true;
        }
        if ranks.is_empty() && !complement {
            return Ok(none);
        }
        let estimate = if complement {
            key.rows
        } else {
            key.rows * count / values
        };
        Ok(Resolved::Values(Wanted {
            key: number,
            ranks,
            complement,
            negative,
            estimate,
        }))
    }

    fn rows_of(&self, wanted: &Wanted) -> Result<RoaringBitmap, SegmentError> {
        let Some(key) = self.keys.get(wanted.key) else {
            return Ok(RoaringBitmap::new());
        };
        let (mut few, mut bitmaps) = (Vec::new(), Vec::new());
        self.rows_of_values(
            key,
            &wanted.ranks,
            |_, row| few.push(row),
            |_, bitmap| bitmaps.push(bitmap),
        )?;
        few.sort_unstable();
        bitmaps.push(few.into_iter().collect());
        let listed = bitmaps.union();
        if !wanted.complement {
            return Ok(listed);
        }
        let with_key = self.shapes.iter();
        let with_key = with_key.filter(|s| s.keys.contains(&(wanted.key as u32)));
        Ok(with_key.map(|s| &s.rows).union() - listed)
    }

    /// The rows that pass, each looked at.
    fn filtered(
        &self,
        rows: &RoaringBitmap,
        wanted: &Wanted,
    ) -> Result<RoaringBitmap, SegmentError> {
        let rows: Vec<u32> = rows.iter().collect();
        let mut kept = RoaringBitmap::new();
        self.visit_tuples(&rows, |row, block, at| {
            let rank = block.value(at, |shape| self.place_of(shape, wanted.key));
            let meant = rank.is_some_and(|rank| {
                let at = wanted.ranks.partition_point(|r| r.end <= rank);
                let listed = wanted.ranks.get(at).is_some_and(|r| r.contains(&rank));
                listed != wanted.complement
            });
            if meant != wanted.negative {
                kept.insert(row);
            }
            Some(())
        })?;
        Ok(kept)
    }
}

/// The ranks below `end` that are not listed.
fn inverse(ranks: &[Range<u32>], end: u32) -> Vec<Range<u32>> {
    let begins = std::iter::once(0).chain(ranks.iter().map(|r| r.end));
    let ends = ranks.iter().map(|r| r.start).chain([end]);
    let gaps = begins.zip(ends).map(|(begin, end)| begin..end);
    gaps.filter(|gap| !gap.is_empty()).collect()
}
