//! Aggregates over a tree: subtrees that lie in one bucket are taken whole, the others are opened, level by
//! level and many pages at a time.

use std::ops::ControlFlow;

use alluvium_block::Page;
use alluvium_codec::CodecError;
use alluvium_types::{Aggregate, Column, TimeRange};

use crate::error::TreeError;
use crate::expiry::Expiry;
use crate::leaf::LeafView;
use crate::open_leaf::{self, OpenBlock};
use crate::reader::Reader;
use crate::snapshot::TreeSnapshot;
use crate::subtree_ref::{SubtreeRef, overlapping};

/// Pages read in one batch: enough to keep a device busy, few enough to hold in memory.
const LEAF_BATCH: usize = 64;
/// Inner pages opened together: their entries are held until all of them are answered.
const INNER_BATCH: usize = 16;

/// How time is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buckets {
    /// 0 for a single bucket.
    step: i64,
    origin: i64,
}

impl Buckets {
    /// One bucket over a whole range.
    pub(crate) fn one(range: TimeRange) -> Self {
        Self {
            step: 0,
            origin: range.begin(),
        }
    }

    /// Equal buckets.
    pub(crate) fn grid(step: i64, origin: i64) -> Self {
        Self { step, origin }
    }

    /// The bucket of `time`: its first and its last instant, cut to the instants there are.
    fn of(self, time: i64) -> (i64, i64) {
        if self.step == 0 {
            return (self.origin, i64::MAX);
        }
        let step = i128::from(self.step);
        let offset = i128::from(time) - i128::from(self.origin);
        let begin = i128::from(time) - offset.rem_euclid(step);
        let last = begin + step - 1;
        (
            begin.max(i64::MIN.into()) as i64,
            last.min(i64::MAX.into()) as i64,
        )
    }
}

/// One walk over a snapshot.
pub(crate) struct Walk<'a, 'b> {
    reader: Reader<'a>,
    range: TimeRange,
    buckets: Buckets,
    expiry: Expiry,
    holes: &'a [TimeRange],
    /// First and last instant of the bucket being filled.
    begin: i64,
    last: i64,
    bucket: Aggregate,
    scratch: Column,
    emit: &'b mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
}

type Flow = ControlFlow<()>;

impl<'a, 'b> Walk<'a, 'b> {
    pub(crate) fn new(
        reader: Reader<'a>,
        range: TimeRange,
        buckets: Buckets,
        snapshot: &'a TreeSnapshot,
        emit: &'b mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Self {
        let kind = reader.series.kind();
        let (begin, last) = buckets.of(range.begin());
        Self {
            reader,
            range,
            buckets,
            expiry: snapshot.expiry,
            holes: snapshot.holes.as_deref().unwrap_or_default(),
            begin,
            last,
            bucket: Aggregate::empty(kind),
            scratch: Column::new(kind),
            emit,
        }
    }

    /// Adds every point of the snapshot in the range.
    pub(crate) fn run(&mut self, snapshot: &TreeSnapshot) -> Result<Flow, TreeError> {
        for (level, entries) in snapshot.levels().iter().enumerate().rev() {
            let entries = overlapping(entries, self.range);
            if self.add_subtrees(entries, level as u8)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        if snapshot.last_time < self.expiry.compound_before {
            return self.add_open_compound(snapshot);
        }
        if self.add_open_leaf(snapshot)?.is_break() {
            return Ok(Flow::Break(()));
        }
        self.scratch.clear();
        if let Some((first, last)) = snapshot.tail.span()
            && self.range.overlaps(first, last)
        {
            snapshot
                .tail
                .decode_into(&mut self.scratch)
                .map_err(|cause| TreeError::OpenLeaf {
                    series: snapshot.series,
                    cause,
                })?;
            return Ok(self.add_scratch());
        }
        Ok(Flow::Continue(()))
    }

    /// Emits the last bucket.
    pub(crate) fn finish(self) {
        if self.bucket.count > 0 {
            let _ = (self.emit)(self.begin, &self.bucket);
        }
    }

    /// Adds subtrees of at most `level`: those taken whole may be of any level, the others are of `level`.
    fn add_subtrees(&mut self, list: &[SubtreeRef], level: u8) -> Result<Flow, TreeError> {
        let batch = if level == 0 { LEAF_BATCH } else { INNER_BATCH };
        let mut rest = list;
        while !rest.is_empty() {
            // The longest front with no more than a batch of pages to open.
            let mut open = Vec::with_capacity(batch.min(rest.len()));
            let mut taken = 0;
            for entry in rest {
                if self.must_open(entry, level) {
                    if open.len() == batch {
                        break;
                    }
                    open.push(*entry);
                }
                taken += 1;
            }
            let (front, behind) = rest.split_at(taken);
            rest = behind;
            let mut pages = if open.is_empty() {
                Vec::new()
            } else {
                self.reader.fetch(&open, level)
            }
            .into_iter();
            let mut children = Vec::new();
            let mut failed = None;
            for entry in front {
                if self.must_open(entry, level) {
                    let opened = match pages.next() {
                        Some(Ok(Some(page))) if level > 0 => self
                            .reader
                            .expand(entry, &page, self.range, &mut children)
                            .map(|()| Flow::Continue(())),
                        Some(Ok(Some(page))) => self.add_leaf(entry, &page),
                        Some(Err(error)) => Err(error),
                        // Expired.
                        Some(Ok(None)) | None if level == 0 => Ok(self.add_expired(entry)),
                        Some(Ok(None)) | None => Ok(Flow::Continue(())),
                    };
                    match opened {
                        Ok(Flow::Continue(())) => {}
                        Ok(Flow::Break(())) => return Ok(Flow::Break(())),
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                } else if level > 0 {
                    children.push(*entry);
                } else if !self.is_whole(entry) {
                    if self.add_expired(entry).is_break() {
                        return Ok(Flow::Break(()));
                    }
                } else {
                    self.reader.stats.aggregates_used += 1;
                    if self.add_aggregate(&entry.aggregate).is_break() {
                        return Ok(Flow::Break(()));
                    }
                }
            }
            if self.add_children(&children, level)?.is_break() {
                return Ok(Flow::Break(()));
            }
            // What lies before the loss has been told.
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(Flow::Continue(()))
    }

    fn add_children(&mut self, children: &[SubtreeRef], level: u8) -> Result<Flow, TreeError> {
        match level.checked_sub(1) {
            Some(below) => self.add_subtrees(children, below),
            None => Ok(Flow::Continue(())),
        }
    }

    /// Whether all points of a subtree are wanted and in one bucket.
    fn is_whole(&self, entry: &SubtreeRef) -> bool {
        self.is_one_bucket(entry.first_time(), entry.last_time()) && self.expiry.may_use(entry)
    }

    /// Whether a subtree cannot be answered by its aggregate.
    fn must_open(&self, entry: &SubtreeRef, level: u8) -> bool {
        let is_compound = level == 0 && self.expiry.is_compound(entry);
        !is_compound && !self.is_whole(entry)
    }

    /// Adds what is left of a leaf that has expired: its aggregate where its oldest point is, if it is kept.
    fn add_expired(&mut self, entry: &SubtreeRef) -> Flow {
        if self.expiry.keeps() {
            self.add_compound(&entry.aggregate)
        } else {
            Flow::Continue(())
        }
    }

    /// Adds a compound point if its time is in the range and nothing of it is deleted.
    fn add_compound(&mut self, aggregate: &Aggregate) -> Flow {
        let (first, last) = (aggregate.first.time, aggregate.last.time);
        if !self.range.contains(first) || self.holes.iter().any(|h| h.overlaps(first, last)) {
            return Flow::Continue(());
        }
        self.reader.stats.aggregates_used += 1;
        self.add_aggregate(aggregate)
    }

    fn is_one_bucket(&self, first: i64, last: i64) -> bool {
        self.range.covers(first, last) && last <= self.buckets.of(first).1
    }

    fn add_leaf(&mut self, entry: &SubtreeRef, page: &Page) -> Result<Flow, TreeError> {
        let view = LeafView::new(page.body(), page.meta().items.into())
            .map_err(|e| self.reader.bad(entry, e.into()))?;
        let (begin, end) = view.blocks_in(self.range);
        self.scratch.clear();
        for block in begin..end {
            self.reader.stats.blocks_decoded += 1;
            view.decode(block, &mut self.scratch)
                .map_err(|cause| self.reader.bad(entry, cause))?;
        }
        Ok(self.add_scratch())
    }

    /// Adds the points of the open leaf and the tail, all expired, as the compound that would take their place.
    fn add_open_compound(&mut self, snapshot: &TreeSnapshot) -> Result<Flow, TreeError> {
        let aggregate = snapshot.open_aggregate()?;
        if aggregate.count == 0 {
            return Ok(Flow::Continue(()));
        }
        Ok(self.add_compound(&aggregate))
    }

    fn add_open_leaf(&mut self, snapshot: &TreeSnapshot) -> Result<Flow, TreeError> {
        let Some(open) = snapshot.open() else {
            return Ok(Flow::Continue(()));
        };
        let finished = std::iter::once((None, &open.finished_aggregate));
        let small = open.small.iter().map(|s| (Some(s), &s.aggregate));
        for (small, aggregate) in finished.chain(small) {
            let (first, last) = (aggregate.first.time, aggregate.last.time);
            if aggregate.count == 0 || !self.range.overlaps(first, last) {
                continue;
            }
            let flow = if self.is_one_bucket(first, last) {
                self.reader.stats.aggregates_used += 1;
                self.add_aggregate(aggregate)
            } else if let Some(small) = small {
                self.add_open_block(snapshot, |scratch| small.decode(scratch))?
            } else {
                self.add_finished_blocks(snapshot, &open.finished)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue(()))
    }

    fn add_finished_blocks(
        &mut self,
        snapshot: &TreeSnapshot,
        blocks: &[OpenBlock],
    ) -> Result<Flow, TreeError> {
        for (i, block) in blocks.iter().enumerate() {
            let behind = blocks
                .get(i + 1)
                .is_some_and(|next| next.first_time <= self.range.begin());
            if behind || block.first_time >= self.range.end() {
                continue;
            }
            let decode = |scratch: &mut Column| open_leaf::decode_at(blocks, i, scratch);
            if self.add_open_block(snapshot, decode)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }

    fn add_open_block(
        &mut self,
        snapshot: &TreeSnapshot,
        decode: impl FnOnce(&mut Column) -> Result<(), CodecError>,
    ) -> Result<Flow, TreeError> {
        self.scratch.clear();
        self.reader.stats.blocks_decoded += 1;
        decode(&mut self.scratch).map_err(|cause| TreeError::OpenLeaf {
            series: snapshot.series,
            cause,
        })?;
        Ok(self.add_scratch())
    }

    /// Adds the decoded points that are in the range.
    fn add_scratch(&mut self) -> Flow {
        let column = std::mem::replace(&mut self.scratch, Column::new(self.bucket.kind));
        let flow = self.add_points(&column);
        self.scratch = column;
        flow
    }

    fn add_points(&mut self, column: &Column) -> Flow {
        self.reader.stats.points_decoded += column.len() as u64;
        let times = &column.times;
        let bits = column.bits();
        let mut begin = times.partition_point(|t| *t < self.range.begin());
        let end = times.partition_point(|t| *t < self.range.end());
        while begin < end {
            self.turn_to(times[begin])?;
            let last = self.last;
            let len = count_up_to(&times[begin..end], last);
            let bits = bits.get(begin..begin + len).unwrap_or_default();
            if len == 1 {
                self.bucket
                    .push(times[begin], bits.first().copied().unwrap_or_default());
            } else {
                let part = Aggregate::of(column.kind(), &times[begin..begin + len], bits);
                self.bucket.merge(&part);
            }
            begin += len;
        }
        Flow::Continue(())
    }

    fn add_aggregate(&mut self, aggregate: &Aggregate) -> Flow {
        self.turn_to(aggregate.first.time)?;
        self.bucket.merge(aggregate);
        Flow::Continue(())
    }

    /// Makes the bucket of `time`, which never goes back, the current one.
    fn turn_to(&mut self, time: i64) -> Flow {
        if time <= self.last {
            return Flow::Continue(());
        }
        if self.bucket.count > 0 {
            (self.emit)(self.begin, &self.bucket)?;
            self.bucket = Aggregate::empty(self.bucket.kind);
        }
        let next = self.last.checked_add(self.buckets.step);
        if let Some(last) = next.filter(|last| time <= *last) {
            // The next one, without a division.
            (self.begin, self.last) = (self.last + 1, last);
        } else {
            (self.begin, self.last) = self.buckets.of(time);
        }
        Flow::Continue(())
    }
}

/// How many of the ascending times, the first of which is not after `last`, are not after `last`.
fn count_up_to(times: &[i64], last: i64) -> usize {
    // Doubling first: buckets are often much shorter than a block, or much longer.
    let mut bound = 1;
    while bound < times.len() && times[bound] <= last {
        bound *= 2;
    }
    let begin = bound / 2;
    let end = bound.min(times.len());
    begin + times[begin..end].partition_point(|t| *t <= last)
}
