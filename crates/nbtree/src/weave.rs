//! Late points woven into the newest part of a run, which is not yet encoded as blocks of their final size.
//!
//! A point that comes late, but not later than that, costs no run of its own and no merge: it takes its place when
//! those beside it are encoded, which they would be anyway.

use alluvium_types::Column;

use crate::open_leaf::{OpenBlock, SmallBlock};
use crate::sealed::Sealed;
use crate::sealing::{part, tail_of};
use crate::subtree_ref::SubtreeRef;
use crate::tree::PageWriter;

/// Points of one series that came after later ones.
pub trait LatePoints {
    /// Takes out the points after `after`, or from the first on, and before `before`: those of the run's kind, in order
    /// of time. They were written after all points of the run that have their times.
    fn take(&mut self, after: Option<i64>, before: i64) -> Column;
}

impl Sealed {
    /// Time of the newest point that is in a page or a finished block.
    fn settled_until(&self) -> Option<i64> {
        let finished = &self.open.finished_aggregate;
        if finished.count > 0 {
            return Some(finished.last.time);
        }
        let newest = self.levels.iter().find_map(|level| level.last());
        newest.map(SubtreeRef::last_time)
    }

    /// Adds to `column`, the oldest points that wait, those late ones which belong among them and are before `before`.
    /// Where both have a time the late one stays.
    pub(crate) fn weave(
        &mut self,
        column: Column,
        late: &mut dyn LatePoints,
        before: i64,
    ) -> Column {
        let after = self.settled_until();
        let newest = column
            .times
            .last()
            .map_or(i64::MIN, |t| t.saturating_add(1));
        let late = late.take(after, before.min(newest));
        if late.is_empty() {
            return column;
        }
        let mut woven = crate::sealing::column_of(column.kind(), column.len() + late.len());
        let mut begin = 0;
        for (i, time) in late.times.iter().enumerate() {
            let end = begin + column.times[begin..].partition_point(|t| t < time);
            woven.extend_from(&column, begin, end);
            woven.extend_from(&late, i, i + 1);
            begin = end + usize::from(column.times.get(end) == Some(time));
        }
        woven.extend_from(&column, begin, column.len());
        self.points += (woven.len() - column.len()) as u64;
        if after.is_none() {
            self.first_time = woven.times[0];
        }
        woven
    }

    /// Makes a block of the oldest points that wait, with the late ones among them. What a block does not take waits on.
    pub(crate) fn settle_oldest(&mut self, out: &mut PageWriter<'_>, late: &mut dyn LatePoints) {
        let mut waiting = std::mem::take(&mut self.open.small).into_iter();
        let mut column = Column::new(self.series.kind());
        while column.len() < out.knobs.block_points
            && let Some(small) = waiting.next()
        {
            small
                .decode(&mut column)
                .expect("a block of our own making decodes");
        }
        let before = waiting.as_slice().first();
        let before = before.map_or(i64::MAX, |next| next.block.first_time);
        let column = self.weave(column, late, before);
        let settled = self.settle(out, &column, usize::MAX);
        if let Some(left) = tail_of(&column, settled) {
            let (_, end, bytes) = left.into_parts();
            self.open.small.push(SmallBlock {
                block: OpenBlock {
                    bytes: bytes.into(),
                    first_time: column.times[settled],
                    points: end.points as u16,
                },
                is_tail: true,
                aggregate: part(&column, settled, column.len()),
            });
        }
        self.open.small.extend(waiting);
    }
}
