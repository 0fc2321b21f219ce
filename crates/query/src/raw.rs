//! Points of many series in one order: a heap over cursors.
//!
//! A cursor enters the heap unread, at the earliest time its points could have, and is read once it comes to the
//! top. So a query with a limit never touches the pages of series that begin behind its last row. Points go out
//! in runs: as long as a cursor stays before the next one, the heap is not touched.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;

use alluvium_types::{Column, Values};

use crate::Direction;
use crate::error::QueryError;
use crate::execution::{Context, READER_BYTES};
use crate::row_batch::RowBatch;
use crate::source::{SeriesReader, SeriesScan};

/// Ascends in the order of rows, whatever their direction.
pub(crate) fn order_key(direction: Direction, time: i64) -> i64 {
    match direction {
        Direction::Forward => time,
        // Reverses the order without overflow at the ends.
        Direction::Backward => !time,
    }
}

struct Cursor {
    group: usize,
    state: State,
    column: Column,
    at: usize,
    held: u64,
}

enum State {
    Unread(Box<dyn SeriesReader>, alluvium_types::TimeRange),
    Reading(Box<dyn SeriesScan>),
    Ended,
}

/// The points of some groups, merged by time, at equal times by group and member.
pub(crate) struct RawMerge {
    /// In the order of groups and members.
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Reverse<(i64, usize)>>,
}

impl RawMerge {
    pub(crate) fn open(context: &mut Context, groups: Range<usize>) -> Result<Self, QueryError> {
        let direction = context.plan.direction;
        let mut cursors = Vec::new();
        let mut heap = BinaryHeap::new();
        for group in groups {
            for member in 0..context.groups[group].members.len() {
                let info = context.groups[group].members[member].clone();
                let Some((reader, range)) = context.open(&info)? else {
                    continue;
                };
                context.guard.reserve(READER_BYTES)?;
                let nearest = match direction {
                    Direction::Forward => range.begin(),
                    Direction::Backward => range.end().saturating_sub(1),
                };
                heap.push(Reverse((order_key(direction, nearest), cursors.len())));
                cursors.push(Cursor {
                    group,
                    state: State::Unread(reader, range),
                    column: Column::new(info.id.kind()),
                    at: 0,
                    held: READER_BYTES,
                });
            }
        }
        Ok(Self { cursors, heap })
    }

    /// Moves points into the batch until it is full. Returns whether none is left.
    pub(crate) fn fill(
        &mut self,
        context: &mut Context,
        out: &mut RowBatch,
    ) -> Result<bool, QueryError> {
        while !out.is_full() && !context.is_done() {
            let Some(Reverse((_, index))) = self.heap.peek().copied() else {
                return Ok(true);
            };
            // Up to here the cursor at the top is before all others.
            let until = second(&self.heap);
            let cursor = &mut self.cursors[index];
            let next = cursor.advance(context, out, index, until)?;
            // Changed in place, the top sinks once instead of leaving and coming back.
            if let Some(mut top) = self.heap.peek_mut() {
                if let Some(key) = next {
                    *top = Reverse((key, index));
                } else {
                    PeekMut::pop(top);
                    self.cursors[index].close(context);
                }
            }
        }
        Ok(false)
    }
}

/// What comes behind the top of a heap: the nearer of its children.
pub(crate) fn second<T: Ord + Copy>(heap: &BinaryHeap<Reverse<T>>) -> Option<T> {
    match heap.as_slice() {
        [_, Reverse(a), Reverse(b), ..] => Some(*a.min(b)),
        [_, Reverse(a)] => Some(*a),
        _ => None,
    }
}

impl Cursor {
    /// Moves the points that come before `until` into the batch. Returns where the cursor then stands in the order
    /// of rows; `None` at its end.
    fn advance(
        &mut self,
        context: &mut Context,
        out: &mut RowBatch,
        index: usize,
        until: Option<(i64, usize)>,
    ) -> Result<Option<i64>, QueryError> {
        let direction = context.plan.direction;
        if self.at == self.column.len() {
            // The first point read may come behind those of other cursors.
            let more = self.load(context)?;
            return Ok(more.then(|| order_key(direction, self.column.times[0])));
        }
        while let Some(time) = self.column.times.get(self.at).copied() {
            let key = order_key(direction, time);
            if until.is_some_and(|next| (key, index) > next) || out.is_full() || context.is_done() {
                return Ok(Some(key));
            }
            if context.admit()? {
                let series = &context.groups[self.group].output;
                out.begin(self.group as u32, series, time);
                out.push(self.column.value(self.at));
            }
            self.at += 1;
        }
        // Read to its end, it stays where its last point was: the next points come no earlier.
        Ok(self.column.times.last().map(|t| order_key(direction, *t)))
    }

    /// Gives back what it holds.
    fn close(&mut self, context: &mut Context) {
        context.guard.release(self.held);
        self.held = 0;
        self.column = Column::new(self.column.kind());
        self.state = State::Ended;
    }

    /// Reads the next batch; false at the end.
    fn load(&mut self, context: &mut Context) -> Result<bool, QueryError> {
        context.guard.check()?;
        if let State::Unread(reader, range) = &self.state {
            self.state = State::Reading(reader.scan(*range, context.plan.direction));
        }
        let State::Reading(scan) = &mut self.state else {
            return Ok(false);
        };
        self.at = 0;
        loop {
            if !scan.next_batch(&mut context.stats.read, &mut self.column)? {
                self.column.clear();
                return Ok(false);
            }
            if !self.column.is_empty() {
                break;
            }
        }
        let values = match &self.column.values {
            Values::Numeric(v) => v.capacity() * 8,
            Values::Strings(v) => v.text_bytes() + v.len() * 4,
        };
        let bytes = (self.column.times.capacity() * 8 + values) as u64;
        context.guard.resize(&mut self.held, READER_BYTES + bytes)?;
        Ok(true)
    }
}
