//! One (row, field): a small set of runs and a late buffer, and the rule that picks a run for a point.
//!
//! A run accepts t only if its own last time and that of every run of a higher ordinal is before t; among
//! those the one with the greatest last time takes it, as in patience sorting. So at equal times the higher
//! ordinal holds the later write, and reads need no log position to tell which one wins.
//!
//! A point no run accepts waits in the late buffer. While it holds points, everything at or before its last
//! time goes there too: otherwise a run could take a rewrite of a buffered time, and the flush of the buffer
//! would bury the newer write under the older one.

use alluvium_nbtree::{PageWriter, Tree};
use alluvium_types::{FieldId, Lsn, Partition, Row, SeriesId, ValueKind, ValueRef};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::late::LateBuffer;
use crate::merging::{Listing, Merging};

/// What became of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Appended to a run.
    InOrder,
    /// Went to the late buffer.
    Late,
    /// Repeats the newest point bit for bit.
    Repeat,
}

/// Where new runs get their names from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeriesPlace {
    pub partition: Partition,
    pub row: Row,
    pub field: FieldId,
}

impl SeriesPlace {
    fn id(self, kind: ValueKind) -> SeriesId {
        SeriesId::new(self.partition, self.row, self.field, kind)
    }
}

/// Everything of a series that is in memory.
#[derive(Debug, Default)]
pub(crate) struct SeriesState {
    /// By ordinal, ascending.
    pub runs: SmallVec<[Tree; 1]>,
    pub late: Option<Box<LateBuffer>>,
    /// Position of the newest batch applied.
    pub lsn: Lsn,
    /// Position up to which the checkpoint this state was loaded from had everything.
    pub loaded_lsn: Lsn,
    /// On its shard's list of series that the next checkpoint must write.
    pub dirty: bool,
    /// Runs that are being merged, and what the merger knows of the series.
    pub merging: Option<Box<Merging>>,
    pub listing: Listing,
}

impl SeriesState {
    /// Takes one point. The caller holds the shard's lock.
    #[inline]
    pub(crate) fn push(
        &mut self,
        out: &mut PageWriter<'_>,
        place: SeriesPlace,
        time: i64,
        value: ValueRef<'_>,
        lsn: Lsn,
        late_points_max: usize,
    ) -> Taken {
        self.lsn = lsn;
        if self.late.is_none()
            && let [only] = self.runs.as_mut_slice()
            && only.kind() == value.kind()
            && only.last_time().is_none_or(|last| last < time)
        {
            append(only, out, time, value, lsn);
            return Taken::InOrder;
        }
        self.push_slow(out, place, time, value, lsn, late_points_max)
    }

    #[cold]
    fn push_slow(
        &mut self,
        out: &mut PageWriter<'_>,
        place: SeriesPlace,
        time: i64,
        value: ValueRef<'_>,
        lsn: Lsn,
        late_points_max: usize,
    ) -> Taken {
        let buffered = self.late.as_ref().and_then(|l| l.last_time());
        if buffered.is_none()
            && let [only] = self.runs.as_slice()
            && only.last_is(time, value)
        {
            return Taken::Repeat;
        }
        if buffered.is_none_or(|last| last < time) {
            if let Some(run) = self.accepting(value.kind(), time) {
                append(&mut self.runs[run], out, time, value, lsn);
                return Taken::InOrder;
            }
            if self
                .runs
                .iter()
                .all(|r| r.last_time().is_none_or(|last| last < time))
            {
                // The first point of its kind, newer than everything: a sibling opens at once.
                let run = self.open_run(place, value.kind(), lsn);
                append(&mut self.runs[run], out, time, value, lsn);
                return Taken::InOrder;
            }
        }
        let late = self.late.get_or_insert_default();
        late.insert(time, value);
        if late.len() >= late_points_max || late.is_full_of_text() {
            self.flush_late(out, place, lsn);
        }
        Taken::Late
    }

    /// The run that may take a point of this kind at this time, if any.
    fn accepting(&self, kind: ValueKind, time: i64) -> Option<usize> {
        let mut best: Option<(usize, Option<i64>)> = None;
        for (i, run) in self.runs.iter().enumerate().rev() {
            let last = run.last_time();
            if last.is_some_and(|l| l >= time) {
                // Every run of a lower ordinal would be overruled by this one.
                break;
            }
            let frozen = self.merging.as_ref();
            if frozen.is_some_and(|m| m.freezes(run.run_ordinal())) {
                continue;
            }
            if run.kind() == kind && best.is_none_or(|(_, b)| b < last) {
                best = Some((i, last));
            }
        }
        best.map(|(i, _)| i)
    }

    fn open_run(&mut self, place: SeriesPlace, kind: ValueKind, birth: Lsn) -> usize {
        let ordinal = self.runs.last().map_or(0, |r| r.run_ordinal() + 1);
        self.runs.push(Tree::new(place.id(kind), ordinal, birth));
        self.runs.len() - 1
    }

    fn flush_late(&mut self, out: &mut PageWriter<'_>, place: SeriesPlace, lsn: Lsn) {
        let Some(late) = self.late.take() else { return };
        for (time, value) in late.iter() {
            let run = self.accepting(value.kind(), time);
            let run = run.unwrap_or_else(|| self.open_run(place, value.kind(), lsn));
            append(&mut self.runs[run], out, time, value, lsn);
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(Tree::heap_bytes).sum();
        let spilled = if self.runs.spilled() {
            self.runs.capacity() * size_of::<Tree>()
        } else {
            0
        };
        let late = self
            .late
            .as_ref()
            .map_or(0, |l| l.heap_bytes() + size_of::<LateBuffer>());
        runs + spilled + late
    }
}

#[inline]
fn append(tree: &mut Tree, out: &mut PageWriter<'_>, time: i64, value: ValueRef<'_>, lsn: Lsn) {
    match value.bits() {
        Some(bits) => tree.push_bits(out, time, bits, lsn),
        None => tree.push(out, time, value, lsn),
    }
}

/// A (row, field) of a partition, shared by its shard and by readers.
#[derive(Debug)]
pub(crate) struct Series {
    pub place: SeriesPlace,
    state: Mutex<SeriesState>,
}

impl Series {
    pub(crate) fn new(place: SeriesPlace) -> Self {
        Self {
            place,
            state: Mutex::new(SeriesState::default()),
        }
    }

    /// The short latch: held for one append or one snapshot, never across I/O.
    #[inline]
    pub(crate) fn latch(&self) -> MutexGuard<'_, SeriesState> {
        self.state.lock()
    }
}
