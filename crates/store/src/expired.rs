//! What a series answers once a part of it has expired.
//!
//! Points are read from the cut on, whatever volumes still hold: answers do not depend on where volumes end. Where
//! aggregates outlive their points, a leaf that has expired is one compound point at the time of its oldest point
//! (see [`alluvium_nbtree::Expiry`]). Of overlapping runs every compound counts: which of their points were overwritten
//! is not known any more.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use alluvium_nbtree::{ReadStats, TreeSnapshot};
use alluvium_types::{Aggregate, TimeRange, ValueKind};

use crate::error::SeriesReadError;
use crate::overlay::stretches;
use crate::snapshot::SeriesSnapshot;

/// Buckets of one step; 0 for a single one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub step_ns: i64,
    pub origin: i64,
}

impl SeriesSnapshot {
    /// The part of `range` where only aggregates are left, and the part where points are.
    pub(crate) fn split(&self, range: TimeRange) -> (TimeRange, TimeRange) {
        let readable = range.intersect(self.cut.live_aggregates());
        let live = readable.intersect(self.cut.live_points());
        let end = self.cut.points.clamp(readable.begin(), readable.end());
        let kept = TimeRange::new(readable.begin(), end).unwrap_or(live);
        (kept, live)
    }

    /// Emits what is left of expired points in `range` by buckets, each with its begin, in order of time.
    pub(crate) fn kept_buckets(
        &self,
        range: TimeRange,
        grid: Grid,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, SeriesReadError> {
        if range.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let runs: Vec<(&TreeSnapshot, &[(i64, i64)])> = self.runs().collect();
        let spans: Vec<(usize, i64, i64)> = (0..)
            .zip(&runs)
            .flat_map(|(i, (_, pieces))| pieces.iter().map(move |(first, last)| (i, *first, *last)))
            .collect();
        for stretch in stretches(range, &spans) {
            let flow = match stretch.sources.as_slice() {
                [one] if runs[*one].0.kind() == self.kind() => {
                    self.run_buckets(runs[*one].0, stretch.range, grid, stats, emit)?
                }
                several => {
                    let mut sums: BTreeMap<i64, Aggregate> = BTreeMap::new();
                    for run in several {
                        let mut add = |begin: i64, part: &Aggregate| {
                            let sum = sums.entry(begin);
                            join(sum.or_insert_with(|| Aggregate::empty(self.kind())), part);
                            ControlFlow::Continue(())
                        };
                        let _ =
                            self.run_buckets(runs[*run].0, stretch.range, grid, stats, &mut add)?;
                    }
                    sums.iter().try_for_each(|(begin, sum)| emit(*begin, sum))
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn run_buckets(
        &self,
        run: &TreeSnapshot,
        range: TimeRange,
        grid: Grid,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, SeriesReadError> {
        let mut flow = ControlFlow::Continue(());
        let mut pass = |begin: i64, part: &Aggregate| {
            flow = match (self.kind(), part.kind) {
                (ValueKind::F64, kind) if kind != ValueKind::F64 => emit(begin, &part.as_floats()),
                _ => emit(begin, part),
            };
            flow
        };
        if grid.step_ns == 0 {
            let all = run.aggregate(self.pages(), range, stats)?;
            if all.count > 0 {
                let _ = pass(grid.origin, &all);
            }
        } else {
            run.buckets(
                self.pages(),
                range,
                grid.step_ns,
                grid.origin,
                stats,
                &mut pass,
            )?;
        }
        Ok(flow)
    }
}

/// Adds an aggregate whose points may lie between those of `sum`. The increase of a counter is then about right only.
fn join(sum: &mut Aggregate, part: &Aggregate) {
    if part.count == 0 || sum.count == 0 {
        sum.merge(part);
        return;
    }
    let last = if sum.last.time > part.last.time {
        sum.last
    } else {
        part.last
    };
    let mut newer = *part;
    if part.first.time < sum.first.time {
        newer = std::mem::replace(sum, *part);
    }
    sum.merge(&newer);
    sum.last = last;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_aggregates_keep_their_ends() {
        let of = |times: &[i64]| {
            let bits: Vec<u64> = times.iter().map(|t| (*t as f64).to_bits()).collect();
            Aggregate::of(ValueKind::F64, times, &bits)
        };
        for (a, b) in [
            (of(&[1, 9]), of(&[3, 4])),
            (of(&[3, 4]), of(&[1, 9])),
            (of(&[1, 3]), of(&[4, 9])),
        ] {
            let mut sum = Aggregate::empty(ValueKind::F64);
            join(&mut sum, &a);
            join(&mut sum, &b);
            assert_eq!((sum.count, sum.first.time, sum.last.time), (4, 1, 9));
            assert_eq!((sum.min.time, sum.max.time, sum.sum.to_f64()), (1, 9, 17.0));
        }
    }
}
