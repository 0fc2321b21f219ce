//! Bins of many series in one order.
//!
//! Three levels: a series hands out its bins in pieces of bounded size; a group joins the bins of its series
//! and fills gaps; a heap puts the rows of groups in order of time.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{ControlFlow, Range};

use alluvium_types::{Aggregate, TimeRange};

use crate::combined::{Combined, TextAt};
use crate::error::QueryError;
use crate::execution::{Context, READER_BYTES};
use crate::fill::{Filler, GroupRow};
use crate::plan::{Fill, Window};
use crate::raw::order_key;
use crate::row_batch::RowBatch;
use crate::source::SeriesReader;
use crate::{Direction, SeriesInfo};

/// Aggregates all series of a stage hold together, about 10 MiB.
const AGGREGATES_MAX: usize = 1 << 16;

/// Aggregates a series holds at least and at most.
const PIECE_MIN: u64 = 4;
const PIECE_MAX: u64 = 4096;

/// The bins of a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bins {
    pub step: i64,
    pub origin: i64,
    pub direction: Direction,
    pub time_at_end: bool,
}

impl Bins {
    fn of(context: &Context) -> Self {
        let (step, origin, time_at_end) = match context.plan.window {
            Window::Buckets {
                step_ns,
                origin,
                time_at_end,
            } => (step_ns, origin, time_at_end),
            // Other windows are one bin; they have a stage of their own.
            Window::Raw | Window::Whole { .. } => (i64::MAX, 0, false),
        };
        Self {
            step,
            origin,
            direction: context.plan.direction,
            time_at_end,
        }
    }

    /// Begin of the bin that holds `time`, which may lie before the first instant there is.
    pub(crate) fn begin_of(self, time: i64) -> i128 {
        let offset = i128::from(time) - i128::from(self.origin);
        i128::from(self.origin) + offset.div_euclid(self.step.into()) * i128::from(self.step)
    }

    /// What a row of the bin carries as its time.
    fn row_time(self, begin: i64) -> i64 {
        if self.time_at_end {
            begin.saturating_add(self.step - 1)
        } else {
            begin
        }
    }
}

/// The bins of one series.
struct SeriesBins {
    reader: Box<dyn SeriesReader>,
    /// What has not been read yet.
    rest: TimeRange,
    /// In the order of rows.
    ready: VecDeque<(i64, Aggregate)>,
    held: u64,
}

impl SeriesBins {
    /// The next bin's begin.
    fn peek(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
    ) -> Result<Option<i64>, QueryError> {
        while self.ready.is_empty() && !self.rest.is_empty() {
            context.guard.check()?;
            match bins.direction {
                Direction::Forward => self.read_forward(context, bins, piece)?,
                Direction::Backward => self.read_backward(context, bins, piece)?,
            }
            let bytes = self.ready.capacity() * size_of::<(i64, Aggregate)>();
            context
                .guard
                .resize(&mut self.held, READER_BYTES + bytes as u64)?;
        }
        Ok(self.ready.front().map(|(begin, _)| *begin))
    }

    fn read_forward(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
    ) -> Result<(), QueryError> {
        let ready = &mut self.ready;
        let mut broken = false;
        let mut emit = |begin: i64, aggregate: &Aggregate| {
            ready.push_back((begin, *aggregate));
            broken = ready.len() as u64 >= piece;
            if broken {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.reader.buckets(
            self.rest,
            bins.step,
            bins.origin,
            &mut context.stats.read,
            &mut emit,
        )?;
        // By a time in it, not by its begin, which a source may have cut to the first instant; not by the newest point either: what
        // is left of an expired leaf is where its oldest one was.
        let next = self
            .ready
            .back()
            .map(|(begin, _)| bins.begin_of(*begin) + i128::from(bins.step));
        let next = next.and_then(|next| i64::try_from(next).ok());
        self.rest = match next {
            Some(next) if broken && next < self.rest.end() => clip(next, self.rest.end()),
            _ => clip(self.rest.end(), self.rest.end()),
        };
        Ok(())
    }

    /// Reads the newest bins of the rest, which the series gives oldest first. Where there are none it asks
    /// when the newest one before them is, so that a long gap costs one look.
    fn read_backward(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
    ) -> Result<(), QueryError> {
        let newest = bins.begin_of(self.rest.end() - 1);
        let span = (i128::from(piece) - 1) * i128::from(bins.step);
        let begin = (newest - span).max(self.rest.begin().into());
        // Not before the rest's begin, not behind its end: it fits.
        let begin = begin as i64;
        let ready = &mut self.ready;
        let mut emit = |begin: i64, aggregate: &Aggregate| {
            ready.push_front((begin, *aggregate));
            ControlFlow::Continue(())
        };
        let range = clip(begin, self.rest.end());
        self.reader.buckets(
            range,
            bins.step,
            bins.origin,
            &mut context.stats.read,
            &mut emit,
        )?;
        let mut end = begin;
        if self.ready.is_empty() && begin > self.rest.begin() {
            let range = clip(self.rest.begin(), begin);
            let before = self.reader.aggregate(range, &mut context.stats.read)?;
            // What is left of an expired leaf lies where its oldest point was, and ends later.
            end = if before.count == 0 {
                self.rest.begin()
            } else {
                before.last.time.saturating_add(1).min(begin)
            };
        }
        self.rest = clip(self.rest.begin(), end);
        Ok(())
    }
}

fn clip(begin: i64, end: i64) -> TimeRange {
    TimeRange::ALL.intersect(TimeRange::new(begin, end.max(begin)).unwrap_or(TimeRange::ALL))
}

/// The bins of one group, joined.
struct GroupBins {
    group: usize,
    members: Vec<SeriesBins>,
    heap: BinaryHeap<Reverse<(i64, usize)>>,
    /// Boxed, since it is taken out and put back for each row.
    filler: Option<Box<Filler>>,
    started: bool,
    ended: bool,
}

impl GroupBins {
    fn open(context: &mut Context, bins: Bins, group: usize) -> Result<Self, QueryError> {
        let mut members = Vec::new();
        for member in 0..context.groups[group].members.len() {
            let info: SeriesInfo = context.groups[group].members[member].clone();
            if let Some((reader, rest)) = context.open(&info)? {
                context.guard.reserve(READER_BYTES)?;
                members.push(SeriesBins {
                    reader,
                    rest,
                    ready: VecDeque::new(),
                    held: READER_BYTES,
                });
            }
        }
        let filler = (context.plan.fill != Fill::None).then(|| {
            let times = context.plan.columns().iter().map(|c| c.times).collect();
            Box::new(Filler::new(
                context.plan.fill,
                bins,
                context.plan.range,
                times,
                context.own_columns(group),
            ))
        });
        Ok(Self {
            group,
            members,
            heap: BinaryHeap::new(),
            filler,
            started: false,
            ended: false,
        })
    }

    /// Where the first row can lie at the nearest, in the order of rows; `None` if there is none.
    fn nearest(&self, bins: Bins) -> Option<i64> {
        if self.filler.is_some() {
            // Filled bins may come before the first point.
            return (!self.members.is_empty()).then_some(i64::MIN);
        }
        let nearest = |member: &SeriesBins| {
            let time = match bins.direction {
                Direction::Forward => member.rest.begin(),
                Direction::Backward => member.rest.end() - 1,
            };
            let begin = i64::try_from(bins.begin_of(time)).unwrap_or(i64::MIN);
            order_key(bins.direction, begin)
        };
        self.members.iter().map(nearest).min()
    }

    fn start(&mut self, context: &mut Context, bins: Bins, piece: u64) -> Result<(), QueryError> {
        self.started = true;
        for index in 0..self.members.len() {
            self.requeue(context, bins, piece, index)?;
        }
        Ok(())
    }

    fn requeue(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
        index: usize,
    ) -> Result<(), QueryError> {
        if let Some(begin) = self.members[index].peek(context, bins, piece)? {
            self.heap
                .push(Reverse((order_key(bins.direction, begin), index)));
        }
        Ok(())
    }

    /// The next bin that holds points.
    fn next_joined(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
    ) -> Result<Option<GroupRow>, QueryError> {
        let mut combined = Combined::new();
        let mut joined: Option<(i64, i64)> = None;
        // Equal keys come in ascending order of members, as `Combined` wants them.
        while let Some(Reverse((key, index))) = self.heap.peek().copied() {
            if joined.is_some_and(|(_, k)| k != key) {
                break;
            }
            self.heap.pop();
            let ready = &mut self.members[index].ready;
            if let Some((begin, aggregate)) = ready.front() {
                joined = Some((*begin, key));
                combined.add(index as u32, aggregate);
            }
            ready.pop_front();
            self.requeue(context, bins, piece, index)?;
        }
        let Some((begin, _)) = joined else {
            return Ok(None);
        };
        let mut values = context.spare_values.pop().unwrap_or_default();
        let members = &self.members;
        let mut text = |context: &mut Context, at: TextAt| {
            context.text(&*members[at.member as usize].reader, at.time)
        };
        context.row_values(self.group, &combined, &mut text, &mut values)?;
        Ok(Some(GroupRow { begin, values }))
    }

    /// The next row, gaps filled.
    fn next(
        &mut self,
        context: &mut Context,
        bins: Bins,
        piece: u64,
    ) -> Result<Option<GroupRow>, QueryError> {
        if !self.started {
            self.start(context, bins, piece)?;
        }
        let Some(mut filler) = self.filler.take() else {
            return self.next_joined(context, bins, piece);
        };
        while filler.needs_row() && !self.ended {
            match self.next_joined(context, bins, piece)? {
                Some(row) => filler.give(row),
                None => self.ended = true,
            }
        }
        let row = filler.next(self.ended);
        self.filler = Some(filler);
        Ok(row)
    }

    fn release(&mut self, context: &mut Context) {
        for member in self.members.drain(..) {
            context.guard.release(member.held);
        }
    }
}

/// The bins of some groups, merged by time, at equal times by group.
pub(crate) struct BucketMerge {
    bins: Bins,
    piece: u64,
    groups: Vec<(GroupBins, Option<GroupRow>)>,
    heap: BinaryHeap<Reverse<(i64, usize)>>,
}

impl BucketMerge {
    pub(crate) fn open(context: &mut Context, groups: Range<usize>) -> Result<Self, QueryError> {
        let bins = Bins::of(context);
        let members: usize = groups
            .clone()
            .map(|g| context.groups[g].members.len())
            .sum();
        let piece = ((AGGREGATES_MAX / members.max(1)) as u64)
            .clamp(PIECE_MIN, PIECE_MAX)
            .min(context.rows_wanted().max(1));
        let mut merge = Self {
            bins,
            piece,
            groups: Vec::new(),
            heap: BinaryHeap::new(),
        };
        for group in groups {
            let cursor = GroupBins::open(context, bins, group)?;
            // Unread: its first bin is read once it comes to the top.
            if let Some(key) = cursor.nearest(bins) {
                merge.heap.push(Reverse((key, merge.groups.len())));
                merge.groups.push((cursor, None));
            }
        }
        Ok(merge)
    }

    /// Moves rows into the batch until it is full. Returns whether none is left.
    pub(crate) fn fill(
        &mut self,
        context: &mut Context,
        out: &mut RowBatch,
    ) -> Result<bool, QueryError> {
        let groups = self.groups.len();
        while !out.is_full() && !context.is_done() {
            let Some(Reverse((_, index))) = self.heap.peek().copied() else {
                return Ok(true);
            };
            let (cursor, row) = &mut self.groups[index];
            if let Some(row) = row.take() {
                if context.admit()? {
                    let series = &context.groups[cursor.group].output;
                    out.begin(cursor.group as u32, series, self.bins.row_time(row.begin));
                    out.push_all(&row.values);
                }
                // Rows that fill gaps are none of these: one a group is all that will be wanted.
                if context.spare_values.len() < groups {
                    context.spare_values.push(row.values);
                }
            }
            *row = cursor.next(context, self.bins, self.piece)?;
            // Changed in place, the top sinks once instead of leaving and coming back.
            if let Some(mut top) = self.heap.peek_mut() {
                if let Some(row) = row {
                    *top = Reverse((order_key(self.bins.direction, row.begin), index));
                } else {
                    PeekMut::pop(top);
                    cursor.release(context);
                }
            }
        }
        Ok(false)
    }
}
