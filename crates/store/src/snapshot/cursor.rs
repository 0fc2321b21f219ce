//! The points of one series in order of time, merged from all that holds some.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_nbtree::{Cursor, Direction, ReadStats, TreeSnapshot};
use alluvium_types::{Column, TimeRange, ValueKind, ValueRef};

use super::source::{Points, Source};
use super::view::SeriesSnapshot;
use crate::delete::ValueTest;
use crate::error::{RecallError, SeriesReadError};

/// Points of one merged batch.
const MERGED_POINTS: usize = 1024;

/// Points of one series in order of time, forward or backward.
#[derive(Debug)]
pub struct SeriesCursor {
    pages: Arc<BlockStore>,
    kind: ValueKind,
    direction: Direction,
    heads: Vec<Head>,
    broken: Option<Box<RecallError>>,
    /// Met while points were at hand already.
    held: Option<SeriesReadError>,
    test: Option<Tested>,
}

/// Values of a batch that are compared as they were written, before several kinds become one.
#[derive(Debug)]
struct Tested {
    test: ValueTest,
    /// Of the points of the batch.
    passed: Vec<bool>,
}

impl SeriesCursor {
    /// Over what `of` holds inside `range`.
    pub(super) fn new(of: &SeriesSnapshot, range: TimeRange, direction: Direction) -> Self {
        let range = range.intersect(of.cut.live_points());
        let head = |source| Head::new(source, range, direction);
        Self {
            pages: Arc::clone(&of.pages),
            kind: of.kind,
            direction,
            heads: of.sources.iter().map(head).collect(),
            broken: of.broken.clone(),
            held: None,
            test: None,
        }
    }

    /// The same, which compares values as well.
    pub(crate) fn testing(self, test: ValueTest) -> Self {
        let passed = Vec::new();
        Self {
            test: Some(Tested { test, passed }),
            ..self
        }
    }

    /// Of each point of the last batch, whether it passed; nothing without a test.
    pub(crate) fn passed(&self) -> &[bool] {
        self.test.as_ref().map_or(&[], |t| t.passed.as_slice())
    }

    /// Clears `out` and fills it with the next points, about a thousand; `false` at the end.
    ///
    /// # Errors
    /// If a page cannot be read, or the record of a series that has left memory: once for each, and what follows is that of the others.
    ///
    /// # Panics
    /// If `out` is of another kind than the snapshot.
    pub fn next_batch(
        &mut self,
        stats: &mut ReadStats,
        out: &mut Column,
    ) -> Result<bool, SeriesReadError> {
        assert_eq!(
            out.kind(),
            self.kind,
            "a batch of another kind than its series"
        );
        out.clear();
        if let Some(tested) = &mut self.test {
            tested.passed.clear();
        }
        if let Some(error) = self.broken.take() {
            return Err(SeriesReadError::Recall(*error));
        }
        if let Some(error) = self.held.take() {
            return Err(error);
        }
        for head in &mut self.heads {
            head.fill(&self.pages, stats, self.direction)?;
        }
        self.heads.retain(|h| !h.ended);
        if let [only] = self.heads.as_mut_slice()
            && only.at == 0
            && only.batch.kind() == self.kind
        {
            std::mem::swap(out, &mut only.batch);
            only.batch.clear();
            if let Some(Tested { test, passed }) = &mut self.test {
                let values = (0..out.len()).filter_map(|i| out.value(i));
                passed.extend(values.map(|value| test.passes(value)));
            }
            return Ok(!out.is_empty());
        }
        while out.len() < MERGED_POINTS {
            for head in &mut self.heads {
                let Err(error) = head.fill(&self.pages, stats, self.direction) else {
                    continue;
                };
                if out.is_empty() {
                    return Err(error);
                }
                // Not instead of the points before it.
                self.held = Some(error);
                return Ok(true);
            }
            let times = self.heads.iter().filter_map(Head::time);
            let next = match self.direction {
                Direction::Forward => times.min(),
                Direction::Backward => times.max(),
            };
            let Some(time) = next else { break };
            let mut winner: Option<(usize, usize)> = None;
            for (i, head) in self.heads.iter_mut().enumerate() {
                if head.time() == Some(time) {
                    // Later sources are later writes; those below are overwritten.
                    winner = Some((i, head.at));
                    head.at += 1;
                }
            }
            if let Some((i, at)) = winner
                && let Some(value) = self.heads[i].batch.value(at)
            {
                if let Some(Tested { test, passed }) = &mut self.test {
                    passed.push(test.passes(value));
                }
                push_as(out, self.kind, time, value);
            }
        }
        Ok(!out.is_empty())
    }
}

/// One source of a merge and its batch at hand.
#[derive(Debug)]
struct Head {
    batches: Batches,
    batch: Column,
    at: usize,
    ended: bool,
}

#[derive(Debug)]
enum Batches {
    Run {
        cursor: Box<Cursor>,
        /// The run and its further pieces, where deletes left several.
        rest: Option<Box<(TreeSnapshot, VecDeque<TimeRange>)>>,
    },
    Late(VecDeque<Column>),
}

impl Head {
    fn new(source: &Source, range: TimeRange, direction: Direction) -> Self {
        let mut pieces = source.pieces_in(range, direction);
        let batches = match &source.points {
            Points::Run(tree) => {
                let nothing = TimeRange::new(range.begin(), range.begin()).unwrap_or(range);
                let first = pieces.pop_front().unwrap_or(nothing);
                Batches::Run {
                    cursor: Box::new(tree.scan(first, direction)),
                    rest: (!pieces.is_empty()).then(|| Box::new((tree.clone(), pieces))),
                }
            }
            Points::Late(column) => {
                let part = |piece: TimeRange| {
                    let begin = column.times.partition_point(|t| *t < piece.begin());
                    let end = column.times.partition_point(|t| *t < piece.end());
                    let mut part = Column::new(column.kind());
                    part.extend_from(column, begin, end.max(begin));
                    if direction == Direction::Backward {
                        part.reverse();
                    }
                    part
                };
                Batches::Late(pieces.into_iter().map(part).collect())
            }
        };
        Self {
            batches,
            batch: Column::new(source.kind()),
            at: 0,
            ended: false,
        }
    }

    /// Makes sure there is a point at hand unless the source has ended.
    fn fill(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        direction: Direction,
    ) -> Result<(), SeriesReadError> {
        while self.at >= self.batch.len() && !self.ended {
            self.at = 0;
            match &mut self.batches {
                Batches::Run { cursor, rest } => {
                    if cursor.next_batch(pages, stats, &mut self.batch)? {
                        continue;
                    }
                    let next = rest.as_mut().and_then(|rest| {
                        let piece = rest.1.pop_front()?;
                        Some(rest.0.scan(piece, direction))
                    });
                    match next {
                        Some(next) => **cursor = next,
                        None => self.ended = true,
                    }
                }
                Batches::Late(columns) => {
                    if let Some(column) = columns.pop_front() {
                        self.batch = column;
                    } else {
                        self.batch.clear();
                        self.ended = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn time(&self) -> Option<i64> {
        self.batch.times.get(self.at).copied()
    }
}

/// Adds a value, as a float where kinds are mixed.
fn push_as(out: &mut Column, kind: ValueKind, time: i64, value: ValueRef<'_>) {
    if value.kind() == kind {
        out.push(time, value);
        return;
    }
    let float = match value {
        ValueRef::F64(v) => v,
        ValueRef::I64(v) => v as f64,
        ValueRef::U64(v) => v as f64,
        ValueRef::Bool(v) => f64::from(u8::from(v)),
        ValueRef::Str(_) => return,
    };
    out.push(time, ValueRef::F64(float));
}
