//! Points of many series in one order: a heap over cursors.
//!
//! A cursor enters the heap unread, at the earliest time its points could have, and is read once it comes to the
//! top. So a query with a limit never touches the pages of series that begin behind its last row. Points go out
//! in runs: as long as a cursor stays before the next one, the heap is not touched.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
}

/// The points of some groups, merged by time, at equal times by group and member.
pub(crate) struct RawMerge {
    /// In the order of groups and members; `None` once read to its end.
    cursors: Vec<Option<Cursor>>,
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
                cursors.push(Some(Cursor {
                    group,
                    state: State::Unread(reader, range),
                    column: Column::new(info.id.kind()),
                    at: 0,
                    held: READER_BYTES,
                }));
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
        let direction = context.plan.direction;
        while !out.is_full() && !context.is_done() {
            let Some(Reverse((_, index))) = self.heap.pop() else {
                return Ok(true);
            };
            let Some(cursor) = &mut self.cursors[index] else {
                continue;
            };
            if cursor.at == cursor.column.len() {
                if cursor.load(context)? {
                    let key = order_key(direction, cursor.column.times[0]);
                    self.heap.push(Reverse((key, index)));
                } else {
                    context.guard.release(cursor.held);
                    self.cursors[index] = None;
                }
                continue;
            }
            // Up to here this cursor is before all others.
            let until = self.heap.peek().map(|Reverse(next)| *next);
            while let Some(time) = cursor.column.times.get(cursor.at).copied() {
                let key = order_key(direction, time);
                if until.is_some_and(|next| (key, index) > next)
                    || out.is_full()
                    || context.is_done()
                {
                    break;
                }
                if context.admit()? {
                    out.begin(
                        cursor.group as u32,
                        &context.groups[cursor.group].output,
                        time,
                    );
                    out.push(cursor.column.value(cursor.at));
                }
                cursor.at += 1;
            }
            // A column read to its end goes back with its last time: the next points come no earlier.
            let at = cursor.at.min(cursor.column.len() - 1);
            self.heap.push(Reverse((
                order_key(direction, cursor.column.times[at]),
                index,
            )));
        }
        Ok(false)
    }
}

impl Cursor {
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
