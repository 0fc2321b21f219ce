//! What a tombstone does to the series it covers.
//!
//! At once: points in the late buffer go, and runs of which nothing is left. For later points: a run born before
//! the tombstone takes none inside its range, or they would be hidden with the deleted ones.

use alluvium_index::KindSet;
use alluvium_nbtree::TreeSnapshot;
use alluvium_types::{Lsn, TimeRange};
use alluvium_wal::{Among, Tombstone};
use smallvec::SmallVec;

use crate::late::LateBuffer;
use crate::overlay::pieces;
use crate::series::{RunEnd, SeriesLock};
use crate::tombstones::HiddenParts;

/// Keeps runs born before `lsn` from taking points before `end`. One stands for all tombstones of a series, so it
/// may keep out a point that none of them hides; that point goes to a run of its own, where it is right too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier {
    end: i64,
    lsn: Lsn,
    among: Among,
}

impl Barrier {
    /// Whether a run must not take a point at this time, nor stand for one it has there.
    pub(crate) fn bars(&self, run: &RunEnd, time: i64) -> bool {
        time < self.end && self.is_over(run)
    }

    fn is_over(&self, run: &RunEnd) -> bool {
        run.birth < self.lsn && self.among.includes(run.kind)
    }

    /// Whether some run could still take, or repeat, a point it must not.
    fn is_needed(&self, runs: &[RunEnd]) -> bool {
        let open = |r: &RunEnd| self.is_over(r) && r.last.is_none_or(|t| t < self.end);
        runs.iter().any(open)
    }
}

/// What tombstones did to a series.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hiding {
    /// Anything went.
    pub is_changed: bool,
    /// Leaves of the runs that went.
    pub dead_leaves: u64,
}

impl SeriesLock<'_> {
    /// Lets go of a barrier that every run has passed.
    pub(crate) fn lift_barrier(&mut self) {
        let Some(barrier) = self.rare().and_then(|r| r.barrier) else {
            return;
        };
        if !barrier.is_needed(&self.ends()) {
            self.rare_mut().barrier = None;
            self.settle_readers();
        }
    }

    /// Makes runs born before `lsn` refuse later points that the tombstone would hide.
    pub(crate) fn raise_barrier(&mut self, tombstone: &Tombstone, lsn: Lsn) {
        let mut barrier = Barrier {
            end: tombstone.range.end(),
            lsn,
            among: tombstone.among,
        };
        if !barrier.is_needed(&self.ends()) {
            return;
        }
        if let Some(before) = self.rare().and_then(|r| r.barrier) {
            barrier.end = barrier.end.max(before.end);
            barrier.lsn = barrier.lsn.max(before.lsn);
            if barrier.among != before.among {
                barrier.among = Among::All;
            }
        }
        self.only_pushed = false;
        self.rare_mut().barrier = Some(barrier);
        self.settle_readers();
    }

    /// Applies the tombstones of one batch, of which `hidden` has those of this series and all earlier ones.
    /// Returns what went. A state loaded from a checkpoint that has the batch only gets its barrier.
    pub(crate) fn hide<'t>(
        &mut self,
        new: impl Iterator<Item = &'t Tombstone>,
        hidden: &HiddenParts,
        lsn: Lsn,
    ) -> Hiding {
        if self.has_batch(lsn) {
            new.for_each(|t| self.raise_barrier(t, lsn));
            return Hiding::default();
        }
        let runs = self.snapshots();
        let gone = runs.iter().filter(|run| !is_visible(run, hidden));
        let dead_leaves = gone.clone().map(TreeSnapshot::leaves).sum();
        let gone: SmallVec<[u32; 4]> = gone.map(TreeSnapshot::run_ordinal).collect();
        let mut changed = !gone.is_empty();
        if changed {
            self.drop_runs(&gone);
        }
        for tombstone in new {
            let has_late = self.rare().is_some_and(|r| r.late.is_some());
            if has_late && let Some(late) = &mut self.rare_mut().late {
                changed |= late.remove(tombstone.range, |kind| tombstone.among.includes(kind));
            }
            self.raise_barrier(tombstone, lsn);
        }
        if let Some(late) = self.rare().and_then(|r| r.late.as_ref())
            && late.is_empty()
        {
            self.set_late(LateBuffer::default());
        }
        if self.rare().is_some_and(|r| r.merging.is_some()) {
            // It would bring back what it has read. The merger finds that nothing waits for it.
            self.rare_mut().merging = None;
        }
        self.lift_barrier();
        if changed {
            self.note_change(lsn);
        }
        Hiding {
            is_changed: changed,
            dead_leaves,
        }
    }

    /// The kinds of which a point may be seen.
    pub(crate) fn visible_kinds(&mut self, hidden: &HiddenParts) -> KindSet {
        let runs = self.snapshots();
        let runs = runs.iter().filter(|run| is_visible(run, hidden));
        let late = self.rare().and_then(|r| r.late.as_ref());
        runs.map(TreeSnapshot::kind)
            .chain(late.into_iter().flat_map(LateBuffer::kinds))
            .fold(KindSet::EMPTY, KindSet::with)
    }

    /// Time of the newest point, hidden ones included.
    pub(crate) fn newest(&mut self) -> Option<i64> {
        let late = self.rare().and_then(|r| r.late.as_ref());
        let late = late.and_then(LateBuffer::last_time);
        self.ends()
            .into_iter()
            .filter_map(|r| r.last)
            .chain(late)
            .max()
    }

    /// Whether the tombstone may hide a point of some run. If not it can go: a barrier it raised may stay.
    pub(crate) fn needs(&mut self, range: TimeRange, among: Among, lsn: Lsn) -> bool {
        self.first_hidden(range, among, lsn).is_some()
    }

    /// Ordinal of the first run of which the tombstone may hide something.
    pub(crate) fn first_hidden(&mut self, range: TimeRange, among: Among, lsn: Lsn) -> Option<u32> {
        let hides = |run: &&TreeSnapshot| {
            birth_of(run) < lsn
                && among.includes(run.kind())
                && run
                    .first_time()
                    .zip(run.last_time())
                    .is_some_and(|(first, last)| range.overlaps(first, last))
        };
        let runs = self.snapshots();
        runs.iter().find(hides).map(TreeSnapshot::run_ordinal)
    }
}

/// A run's birth; every snapshot taken under the lock knows it.
pub(crate) fn birth_of(run: &TreeSnapshot) -> Lsn {
    run.birth().unwrap_or_default()
}

/// Whether tombstones leave anything of the time between the run's first and last point.
fn is_visible(run: &TreeSnapshot, hidden: &HiddenParts) -> bool {
    let Some((first, last)) = run.first_time().zip(run.last_time()) else {
        return false;
    };
    let holes = hidden.holes(run.kind(), birth_of(run));
    pieces(first, last, &holes).next().is_some()
}
