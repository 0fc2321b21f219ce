//! Questions to a segment of which blocks do not hold: row by row, from tuples and texts of values alone. Lists of rows and the name
//! table are made of these and not looked at, so nothing is missing but rows of which a tuple or a text has gone.

use roaring::RoaringBitmap;

use alluvium_types::SeriesKey;

use crate::SegmentError;
use crate::segment::layout::{BLOCK_ROWS, BLOCK_VALUES};
use crate::segment::read::{Segment, damaged};
use crate::selector::{CompiledMatcher, CompiledSelector};

/// Rows of a segment that could not be looked at, or not be spelt.
#[derive(Debug, Clone)]
pub struct LostRows {
    /// How many.
    pub rows: u64,
    /// What was met first.
    pub error: SegmentError,
}

impl LostRows {
    /// Counts more of them.
    fn note(lost: &mut Option<Self>, rows: u64, error: SegmentError) {
        if rows > 0 {
            lost.get_or_insert(Self { rows: 0, error }).rows += rows;
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

impl Segment {
    /// As [`Segment::matching`] of rows in `live`, if that is given: those that are known to pass, and how many others may. Costs a
    /// look at every value of the tags and at every tuple.
    pub(crate) fn matching_carefully(
        &self,
        selector: &CompiledSelector,
        measurements: Option<&[u32]>,
        live: Option<&RoaringBitmap>,
    ) -> (RoaringBitmap, Option<LostRows>) {
        let (mut found, mut lost) = (RoaringBitmap::new(), None);
        let mut error = None;
        let mut judges = Vec::new();
        for (name, matcher) in selector.tag_matchers() {
            match self.keys.iter().position(|key| &*key.name == name) {
                Some(key) => judges.push(self.judge(key, matcher, &mut error)),
                None if matcher.matches("") => {}
                None => return (found, lost),
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
        let rows: Vec<u32> = rows.iter().collect();
        for group in self.by_block(&rows) {
            let (mut passed, mut unknown) = (Vec::new(), 0);
            let read = self.visit_tuples(group, |row, block, at| {
                let (shape, values) = block.row(at)?;
                let values = values.collect::<Option<Vec<u32>>>()?;
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
                    Verdict::Unknown => unknown += 1,
                }
                Some(())
            });
            match read {
                Ok(()) => found.extend(passed),
                Err(error) => {
                    LostRows::note(&mut lost, group.len() as u64, error);
                    continue;
                }
            }
            if let Some(error) = &error {
                LostRows::note(&mut lost, unknown, error.clone());
            }
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
        let mut lost = None;
        let Some(number) = self.keys.iter().position(|of| &*of.name == key) else {
            return (Vec::new(), lost);
        };
        let key = &self.keys[number];
        let mut has = vec![0_u64; key.values as usize];
        let rows: Vec<u32> = rows.range(self.rows()).collect();
        for group in self.by_block(&rows) {
            let read = self.visit_tuples(group, |_, block, at| {
                let place = |shape: u32| {
                    let keys = &self.shapes.get(shape as usize)?.keys;
                    keys.iter().position(|key| *key as usize == number)
                };
                if let Some(rank) = block.value(at, place) {
                    *has.get_mut(rank as usize)? += 1;
                }
                Some(())
            });
            if let Err(error) = read {
                LostRows::note(&mut lost, group.len() as u64, error);
            }
        }
        let mut found = Vec::new();
        for (block, has) in has.chunks(BLOCK_VALUES as usize).enumerate() {
            if has.iter().all(|rows| *rows == 0) || found.len() >= limit {
                continue;
            }
            match self.texts_of_block(key, block as u32) {
                Ok(texts) => {
                    let texts = texts.into_iter().zip(has).filter(|(_, rows)| **rows > 0);
                    found.extend(texts.map(|(t, _)| t).filter(|t| t.starts_with(prefix)));
                }
                Err(error) => LostRows::note(&mut lost, has.iter().sum(), error),
            }
        }
        found.truncate(limit);
        (found, lost)
    }

    /// As [`Segment::spell`]: `None` for each tag set of which a part cannot be read.
    pub fn spell_carefully(&self, rows: &[u32]) -> (Vec<Option<SeriesKey>>, Option<LostRows>) {
        let mut tuples: Vec<Option<(u32, Vec<u32>)>> = Vec::with_capacity(rows.len());
        let mut first_error = None;
        for group in self.by_block(rows) {
            let before = tuples.len();
            let read = self.visit_tuples(group, |_, block, at| {
                let (shape, values) = block.row(at)?;
                tuples.push(Some((shape, values.collect::<Option<Vec<u32>>>()?)));
                Some(())
            });
            if let Err(error) = read {
                tuples.truncate(before);
                tuples.resize(before + group.len(), None);
                first_error.get_or_insert(error);
            }
        }
        // By key: the values that are wanted, with their texts if they can be read.
        let mut texts: Vec<Vec<(u32, Option<String>)>> = vec![Vec::new(); self.keys.len()];
        for (shape, values) in tuples.iter().flatten() {
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
        let spell = |tuple: Option<(u32, Vec<u32>)>| {
            let (shape, values) = tuple?;
            let shape = self.shapes.get(shape as usize)?;
            let mut tags = Vec::with_capacity(values.len());
            for (key, rank) in shape.keys.iter().zip(values) {
                let texts = texts.get(*key as usize)?;
                let at = texts.binary_search_by_key(&rank, |(r, _)| *r).ok()?;
                let text = texts.get(at)?.1.as_deref()?;
                tags.push((&*self.keys.get(*key as usize)?.name, text));
            }
            SeriesKey::new(&*shape.measurement_name, tags).ok()
        };
        let spelt: Vec<Option<SeriesKey>> = tuples.into_iter().map(spell).collect();
        let missing = spelt.iter().filter(|key| key.is_none()).count() as u64;
        let mut lost = None;
        let error = first_error.unwrap_or(damaged("tag set", self.rows().start.into()));
        LostRows::note(&mut lost, missing, error);
        (spelt, lost)
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

    fn by_block<'r>(&self, rows: &'r [u32]) -> impl Iterator<Item = &'r [u32]> {
        let base = self.rows().start;
        rows.chunk_by(move |a, b| (a - base) / BLOCK_ROWS == (b - base) / BLOCK_ROWS)
    }
}
