//! The values of a key, block by block, and where their rows are.

use std::ops::Range;

use memchr::memmem::Finder;
use roaring::RoaringBitmap;

use crate::SegmentError;
use crate::automaton::{Automaton, State};
use crate::segment::layout::BLOCK_VALUES;
use crate::segment::read::{BlockRef, Segment, SegmentKey, damaged};
use crate::segment::value_block::{ValueBlock, ValueRows, ValueSet};
use crate::selector::{CompiledMatcher, CompiledTest};

/// The rows of some values: lists in their blocks, and where the larger ones are.
#[derive(Debug, Default)]
pub(crate) struct FoundRows {
    /// In no order.
    pub(crate) few: Vec<u32>,
    pub(crate) far: Vec<BlockRef>,
}

impl FoundRows {
    pub(crate) fn clear(&mut self) {
        self.few.clear();
        self.far.clear();
    }
}

/// Buffers of expressions that walk over values.
#[derive(Debug, Default)]
pub(crate) struct StepBuffers {
    states: Vec<State>,
    value: Vec<u8>,
}

/// The quickest way to find the values of a block that a matcher speaks of: those that differ from an absent tag in its
/// eyes.
enum Walk<'a> {
    /// Those that contain a text.
    Text(Box<Finder<'a>>),
    /// Those that an expression accepts, or does not if it accepts the empty string.
    Steps(&'a Automaton, bool),
    /// One by one.
    Values(&'a CompiledMatcher, bool),
}

impl<'a> Walk<'a> {
    fn of(key: &SegmentKey, matcher: &'a CompiledMatcher) -> Self {
        let absent = matcher.matches("");
        // Few values are not worth a table.
        let automaton = || matcher.automaton().filter(|_| key.values > BLOCK_VALUES);
        match &matcher.test {
            CompiledTest::Contains(text) if !text.is_empty() => {
                Self::Text(Box::new(Finder::new(text)))
            }
            _ => match automaton() {
                Some(automaton) => Self::Steps(automaton, absent == matcher.negated),
                None => Self::Values(matcher, absent),
            },
        }
    }

    fn wanted(&self, block: &ValueBlock<'_>, buffers: &mut StepBuffers) -> Option<ValueSet> {
        match self {
            Self::Text(text) => block.containing(text, &mut buffers.value),
            Self::Steps(automaton, true) => block.accepted(automaton, &mut buffers.states),
            Self::Steps(automaton, false) => {
                let others = block.accepted(automaton, &mut buffers.states)?;
                Some(others.inverse(block.count))
            }
            Self::Values(matcher, absent) => {
                let mut wanted = ValueSet::default();
                block.values(|i, value| {
                    wanted.add(i as usize, matcher.matches(value) != *absent);
                    true
                })?;
                Some(wanted)
            }
        }
    }
}

impl Segment {
    /// The values of some ranks, which ascend.
    pub(crate) fn values_at(
        &self,
        key: &SegmentKey,
        ranks: &[u32],
    ) -> Result<Vec<String>, SegmentError> {
        let mut out = Vec::with_capacity(ranks.len());
        for group in ranks.chunk_by(|a, b| a / BLOCK_VALUES == b / BLOCK_VALUES) {
            let number = group.first().map_or(0, |r| r / BLOCK_VALUES);
            let mut wanted = group.iter().map(|r| r % BLOCK_VALUES).peekable();
            self.value_block(key, number, |block| {
                block.values(|i, value| {
                    if wanted.next_if_eq(&i).is_some() {
                        out.push(value.to_owned());
                    }
                    wanted.peek().is_some()
                })?;
                wanted.next().is_none().then_some(())
            })?;
        }
        Ok(out)
    }

    /// The rank of a value, or none.
    pub(crate) fn rank_of(
        &self,
        key: &SegmentKey,
        value: &str,
    ) -> Result<Range<u32>, SegmentError> {
        if key.blocks.is_empty() {
            return Ok(0..0);
        }
        let number = key.block_of(value) as u32;
        let place = self.value_block(key, number, |block| block.find(value.as_bytes()))?;
        let first = number * BLOCK_VALUES;
        Ok(first + place.start..first + place.end)
    }

    /// Calls `visit` with the value blocks from that of `from` on, their first rank with each, until it answers
    /// `false`.
    pub(crate) fn scan_values(
        &self,
        key: &SegmentKey,
        from: &str,
        mut visit: impl FnMut(u32, &str) -> bool,
    ) -> Result<(), SegmentError> {
        for number in key.block_of(from)..key.blocks.len() {
            let first = number as u32 * BLOCK_VALUES;
            let mut go_on = true;
            self.value_block(key, number as u32, |block| {
                block.values(|i, value| {
                    go_on = value < from || visit(first + i, value);
                    go_on
                })
            })?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// The texts of a block of values.
    pub(crate) fn texts_of_block(
        &self,
        key: &SegmentKey,
        number: u32,
    ) -> Result<Vec<String>, SegmentError> {
        self.value_block(key, number, |block| {
            let mut texts = Vec::with_capacity(block.count as usize);
            block.values(|_, text| {
                texts.push(text.to_owned());
                true
            })?;
            Some(texts)
        })
    }

    /// Adds the rows of the values of a key that differ from an absent tag in the matcher's eyes. Costs a step for each
    /// byte in which a value differs from the one before, of those that may begin as the expression does.
    pub(crate) fn rows_of_matches(
        &self,
        key: &SegmentKey,
        matcher: &CompiledMatcher,
        steps: &mut StepBuffers,
        found: &mut FoundRows,
    ) -> Result<(), SegmentError> {
        let prefix = matcher.test.prefix();
        let walk = Walk::of(key, matcher);
        for number in key.block_of(prefix)..key.blocks.len() {
            let fence = key.fences.get(number).unwrap_or_default();
            if fence > prefix.as_bytes() && !fence.starts_with(prefix.as_bytes()) {
                break;
            }
            self.value_block(key, number as u32, |block| {
                let mut lists = block.rows();
                let wanted = walk.wanted(block, steps)?;
                wanted
                    .iter()
                    .try_for_each(|value| self.take_rows(block, lists.of(value)?, found))
            })?;
        }
        Ok(())
    }

    /// Adds the rows of the values of some ranks, which ascend.
    pub(crate) fn rows_of_ranks(
        &self,
        key: &SegmentKey,
        ranks: &[Range<u32>],
        found: &mut FoundRows,
    ) -> Result<(), SegmentError> {
        self.visit_ranks(key, ranks, |_, block, rows| {
            self.take_rows(block, rows, found)
        })
    }

    #[inline]
    fn take_rows(
        &self,
        block: &ValueBlock<'_>,
        rows: ValueRows,
        found: &mut FoundRows,
    ) -> Option<()> {
        match rows {
            ValueRows::Inline(places) => {
                for at in places {
                    found.few.push(self.inside(block.row(at)?)?);
                }
            }
            ValueRows::Bitmap(at, bytes) => found.far.push(BlockRef { at, bytes }),
        }
        Some(())
    }

    /// Calls `bitmap` with each bitmap, and `row` with each row in a list, of the values of some ranks; with the rank
    /// in front.
    pub(crate) fn rows_of_values(
        &self,
        key: &SegmentKey,
        ranks: &[Range<u32>],
        mut row: impl FnMut(u32, u32),
        mut bitmap: impl FnMut(u32, RoaringBitmap),
    ) -> Result<(), SegmentError> {
        let mut far: Vec<(u32, BlockRef)> = Vec::new();
        self.visit_ranks(key, ranks, |rank, block, rows| {
            match rows {
                ValueRows::Inline(places) => {
                    for at in places {
                        row(rank, self.inside(block.row(at)?)?);
                    }
                }
                ValueRows::Bitmap(at, bytes) => far.push((rank, BlockRef { at, bytes })),
            }
            Some(())
        })?;
        for (rank, block) in far {
            let read = self.block(block, "rows of a value", |bytes| self.bitmap(bytes))?;
            bitmap(rank, read);
        }
        Ok(())
    }

    /// Calls `visit` with the value of each of some ranks, its block, and where in it its rows are.
    fn visit_ranks(
        &self,
        key: &SegmentKey,
        ranks: &[Range<u32>],
        mut visit: impl FnMut(u32, &ValueBlock<'_>, ValueRows) -> Option<()>,
    ) -> Result<(), SegmentError> {
        // Cut at the borders of blocks, so that each block is read once.
        let pieces = ranks.iter().flat_map(|range| {
            let blocks = range.start / BLOCK_VALUES..range.end.div_ceil(BLOCK_VALUES);
            blocks.map(move |number| {
                let first = number * BLOCK_VALUES;
                let low = range.start.max(first) - first;
                (number, low..(range.end - first).min(BLOCK_VALUES))
            })
        });
        let pieces: Vec<(u32, Range<u32>)> = pieces.collect();
        for of_block in pieces.chunk_by(|a, b| a.0 == b.0) {
            let Some((number, _)) = of_block.first() else {
                continue;
            };
            self.value_block(key, *number, |block| {
                let mut lists = block.rows();
                for value in of_block.iter().flat_map(|(_, piece)| piece.clone()) {
                    visit(number * BLOCK_VALUES + value, block, lists.of(value)?)?;
                }
                Some(())
            })?;
        }
        Ok(())
    }

    /// A row counted from the segment's first, counted in the partition; `None` if it is not here.
    #[inline]
    fn inside(&self, row: u32) -> Option<u32> {
        let rows = self.rows();
        (row < rows.end - rows.start).then(|| rows.start + row)
    }

    fn value_block<T>(
        &self,
        key: &SegmentKey,
        number: u32,
        read: impl FnOnce(&ValueBlock<'_>) -> Option<T>,
    ) -> Result<T, SegmentError> {
        let block = key.blocks.get(number as usize).copied();
        let block = block.ok_or(damaged("value block", number.into()))?;
        let count = (key.values - number * BLOCK_VALUES).min(BLOCK_VALUES);
        self.block(block, "values", |bytes| {
            let block = ValueBlock::read(bytes)?;
            (block.count == count).then_some(())?;
            read(&block)
        })
    }
}
