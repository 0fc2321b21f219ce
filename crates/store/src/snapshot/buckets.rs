//! Aggregates of one series, over a range or by buckets of time.

use std::ops::ControlFlow;

use alluvium_nbtree::{Direction, ReadStats, TreeSnapshot};
use alluvium_types::{Aggregate, Column, TimeRange};

use super::source::Points;
use super::view::SeriesSnapshot;
use crate::error::SeriesReadError;
use crate::expired::Grid;
use crate::overlay::stretches;

impl SeriesSnapshot {
    /// Aggregate of the points inside `range`. Where one run alone has points, its inner nodes answer; where
    /// several overlap, or kinds differ, points are merged. Where points have expired and aggregates have not, a leaf
    /// counts whole at the time of its oldest point.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn aggregate(
        &self,
        range: TimeRange,
        stats: &mut ReadStats,
    ) -> Result<Aggregate, SeriesReadError> {
        self.check()?;
        let mut total = Aggregate::empty(self.kind);
        let (kept, range) = self.split(range);
        let whole = Grid {
            step_ns: 0,
            origin: 0,
        };
        let mut add = |_: i64, part: &Aggregate| {
            total.merge(part);
            ControlFlow::Continue(())
        };
        let _ = self.kept_buckets(kept, whole, stats, &mut add)?;
        for (part, alone) in self.plan(range) {
            if let Some(tree) = alone {
                total.merge(&tree.aggregate(&self.pages, part, stats)?);
            } else {
                let mut cursor = self.scan(part, Direction::Forward);
                let mut column = Column::new(self.kind);
                while cursor.next_batch(stats, &mut column)? {
                    total.merge(&Aggregate::of(self.kind, &column.times, column.bits()));
                }
            }
        }
        Ok(total)
    }

    /// Aggregates of half-open buckets `[origin + k * step, origin + (k + 1) * step)` clipped to `range`, the
    /// non-empty ones in order of time, each with its begin.
    ///
    /// # Errors
    /// If a page cannot be read.
    ///
    /// # Panics
    /// If `step_ns` is not positive.
    pub fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), SeriesReadError> {
        assert!(step_ns > 0, "a bucket has a positive width");
        self.check()?;
        // A bucket may be filled from several stretches; it is given out when the next one begins.
        let mut open: Option<(i64, Aggregate)> = None;
        let mut stopped = false;
        let mut add = |begin: i64, part: &Aggregate| -> ControlFlow<()> {
            match &mut open {
                Some((at, sum)) if *at == begin => sum.merge(part),
                other => {
                    if let Some((at, sum)) = other.replace((begin, *part)) {
                        return emit(at, &sum);
                    }
                }
            }
            ControlFlow::Continue(())
        };
        let (kept, range) = self.split(range);
        let grid = Grid { step_ns, origin };
        if self.kept_buckets(kept, grid, stats, &mut add)?.is_break() {
            return Ok(());
        }
        for (part, alone) in self.plan(range) {
            if let Some(tree) = alone {
                tree.buckets(
                    &self.pages,
                    part,
                    step_ns,
                    origin,
                    stats,
                    &mut |begin, aggregate| {
                        let flow = add(begin, aggregate);
                        stopped = flow.is_break();
                        flow
                    },
                )?;
            } else {
                let mut cursor = self.scan(part, Direction::Forward);
                let mut column = Column::new(self.kind);
                'batches: while cursor.next_batch(stats, &mut column)? {
                    let mut at = 0;
                    while let Some(time) = column.times.get(at) {
                        let begin = bucket_begin(*time, step_ns, origin);
                        let end = bucket_end(*time, step_ns, origin);
                        let next = at + column.times[at..].partition_point(|t| *t < end);
                        let bits = column.bits().get(at..next).unwrap_or_default();
                        let piece = Aggregate::of(self.kind, &column.times[at..next], bits);
                        if add(begin, &piece).is_break() {
                            stopped = true;
                            break 'batches;
                        }
                        at = next.max(at + 1);
                    }
                }
            }
            if stopped {
                return Ok(());
            }
        }
        if let Some((begin, sum)) = open {
            let _ = emit(begin, &sum);
        }
        Ok(())
    }

    /// Stretches of `range` in order, each with the one run that answers for it alone, if one does.
    fn plan(&self, range: TimeRange) -> Vec<(TimeRange, Option<&TreeSnapshot>)> {
        let spans: Vec<(usize, i64, i64)> = (0..)
            .zip(&self.sources)
            .flat_map(|(i, s)| s.pieces.iter().map(move |(first, last)| (i, *first, *last)))
            .collect();
        let alone = |sources: &[usize]| match sources {
            [one] => match &self.sources[*one].points {
                Points::Run(tree) if tree.kind() == self.kind => Some(tree),
                _ => None,
            },
            _ => None,
        };
        stretches(range, &spans)
            .into_iter()
            .map(|s| (s.range, alone(&s.sources)))
            .collect()
    }
}

/// The begin of the bucket that holds `time`.
fn bucket_begin(time: i64, step: i64, origin: i64) -> i64 {
    let offset = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(step));
    i64::try_from(i128::from(time) - offset).unwrap_or(i64::MIN)
}

/// The end of the bucket that holds `time`; not its begin and a step where the begin was cut at `i64::MIN`.
fn bucket_end(time: i64, step: i64, origin: i64) -> i64 {
    let offset = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(step));
    i64::try_from(i128::from(time) - offset + i128::from(step)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_begins() {
        assert_eq!(bucket_begin(25, 10, 0), 20);
        assert_eq!(bucket_begin(-1, 10, 0), -10);
        assert_eq!(bucket_begin(25, 10, 7), 17);
        assert_eq!(bucket_begin(i64::MIN, 10, 0), i64::MIN);
        assert_eq!(bucket_begin(i64::MAX - 1, i64::MAX, i64::MAX), 0);
        assert_eq!(bucket_end(25, 10, 7), 27);
        // The first bucket is cut: it begins at i64::MIN - 2.
        assert_eq!(bucket_end(i64::MIN, 10, 0), i64::MIN + 8);
        assert_eq!(bucket_end(i64::MAX - 1, i64::MAX, 5), i64::MAX);
    }
}
