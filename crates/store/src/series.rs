//! One (row, field): a small set of runs and a late buffer, and the rule that picks a run for a point.
//!
//! A run accepts t only if its own last time and that of every run of a higher ordinal is before t; among
//! those the one with the greatest last time takes it, as in patience sorting. So at equal times the higher
//! ordinal holds the later write, and reads need no log position to tell which one wins.
//!
//! A point no run accepts waits in the late buffer. While it holds points, everything at or before its last
//! time goes there too: otherwise a run could take a rewrite of a buffered time, and the flush of the buffer
//! would bury the newer write under the older one.

use std::sync::atomic::AtomicU8;

use alluvium_nbtree::{PageWriter, SharedTree, SharedTreeLock, Tree, TreeMut, TreeSnapshot};
use alluvium_types::{FieldId, Lsn, Partition, Row, SeriesId, ValueKind, ValueRef};
use smallvec::SmallVec;

use crate::barrier::Barrier;
use crate::late::{LateBuffer, LateOfRun};
use crate::merging::{Listing, Merging};
use crate::partition::PartitionState;
use crate::tail_files::RecordPlace;

mod expire;
mod parted;

pub(crate) use parted::{Parts, points_of};

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

/// What the writers of a series have beside its first run.
#[derive(Debug, Default)]
pub(crate) struct SeriesState {
    /// Position of the newest batch applied.
    pub lsn: Lsn,
    rare: Option<Box<Rare>>,
    /// Where its newest record is; what it holds only while it is not dirty. Taken apart, for the padding.
    record_at: u64,
    record_file: u8,
    /// Where the record of its older part is, if only the newer is in memory.
    older_file: u8,
    older_at: u64,
    /// On its shard's list of series that the next checkpoint must write.
    pub dirty: bool,
    /// Changed since it was loaded from a record: until then the record has everything up to `lsn`.
    is_changed: bool,
    /// Used since the governor last came by.
    pub is_recent: bool,
    /// The checkpoint under way has written it. If it is dirty all the same it is on its shard's list for the next one.
    pub captured: bool,
    /// Nothing but points behind the newest came since the last checkpoint took what there was.
    pub only_pushed: bool,
}

const _: () = assert!(size_of::<SeriesState>() <= 40);

/// What only series with late points, several kinds or deletes have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Runs but the first, by ordinal.
    more: Vec<Tree>,
    /// Not before the last time of any of them.
    more_last: Option<i64>,
    pub late: Option<LateBuffer>,
    /// Keeps later points from runs in which a tombstone would hide them.
    pub barrier: Option<Barrier>,
    /// Runs that are being merged, and what the merger knows of the series.
    pub merging: Option<Merging>,
    pub listing: Listing,
}

impl Rare {
    /// Whether the first run is all there is, and takes all that is newer.
    fn is_plain(&self) -> bool {
        self.more.is_empty() && self.late.is_none() && self.barrier.is_none()
    }

    fn heap_bytes(&self) -> usize {
        let run = |r: &Tree| size_of::<Tree>() + r.heap_bytes();
        let late = self.late.as_ref().map_or(0, LateBuffer::heap_bytes);
        size_of::<Self>() + self.more.iter().map(run).sum::<usize>() + late
    }

    /// As [`Self::heap_bytes`], without what the trees have.
    fn own_bytes(&self) -> i64 {
        let late = self.late.as_ref().map_or(0, LateBuffer::heap_bytes);
        (size_of::<Self>() + self.more.len() * size_of::<Tree>() + late) as i64
    }
}

impl SeriesState {
    /// Whether a batch is in the record that this state was loaded from. Redo passes over those.
    #[inline]
    pub(crate) fn has_batch(&self, lsn: Lsn) -> bool {
        !self.is_changed && lsn <= self.lsn
    }

    /// Notes a change by the batch at `lsn`.
    #[inline]
    pub(crate) fn note_change(&mut self, lsn: Lsn) {
        self.lsn = self.lsn.max(lsn);
        self.is_changed = true;
        self.is_recent = true;
    }

    /// Where its record is, if that holds what this does.
    pub(crate) fn record(&self) -> Option<RecordPlace> {
        let place = RecordPlace::of_parts(self.record_file, self.record_at)?;
        (!self.dirty).then_some(place)
    }

    /// Says where its record is; `None` if it has none that is read alone.
    pub(crate) fn set_record(&mut self, place: Option<RecordPlace>) {
        (self.record_file, self.record_at) = RecordPlace::parts(place);
    }

    /// Whether the first run is all there is, in memory or elsewhere.
    #[inline]
    fn is_plain(&self) -> bool {
        self.has_one_run() && self.older().is_none()
    }

    /// Whether the first run is all there is in memory.
    #[inline]
    fn has_one_run(&self) -> bool {
        self.rare.as_ref().is_none_or(|r| r.is_plain())
    }

    /// The late points that the first run may take among its newest: where it alone has points, and no merge reads what
    /// it appends.
    #[inline]
    fn late_for_first<'a>(
        &'a mut self,
        first: &TreeMut<'_>,
        part: &'a PartitionState,
    ) -> Option<LateOfRun<'a>> {
        let rare = self.rare.as_mut()?;
        if !rare.more.is_empty() || rare.barrier.is_some() || rare.merging.is_some() {
            return None;
        }
        let late = rare.late.as_mut()?;
        if part.is_deleting() {
            // Among those of the run nobody would see that they came behind what a delete has tested.
            return None;
        }
        let (series, birth) = (first.series(), first.birth());
        first
            .kind()
            .is_numeric()
            .then(|| late.of_run(series, birth, part))
    }

    /// The run of the highest ordinal, if it alone may take the point: the one below it ends later. `first_last` is the
    /// newest time of the first run.
    #[inline]
    fn highest_takes(
        &mut self,
        time: i64,
        kind: ValueKind,
        first_last: Option<i64>,
    ) -> Option<&mut Tree> {
        let rare = self.rare.as_mut()?;
        if rare.late.is_some() || rare.barrier.is_some() || rare.merging.is_some() {
            return None;
        }
        let (highest, below) = rare.more.split_last_mut()?;
        let below = below.last().map_or(first_last, Tree::last_time);
        let takes = highest.kind() == kind
            && highest.last_time().is_none_or(|last| last < time)
            && below.is_some_and(|last| last >= time);
        takes.then_some(highest)
    }

    /// Whether a point at `time`, later than `last`, the newest of the first run, may go there at once: late points and
    /// the other runs end before it, and they end before `last`, so that no run of a greater last time is to be preferred.
    #[inline]
    fn first_takes(&self, time: i64, last: Option<i64>) -> bool {
        let Some(rare) = &self.rare else { return true };
        let late = rare.late.as_ref().and_then(LateBuffer::last_time);
        rare.barrier.is_none()
            && late.is_none_or(|late| late < time)
            && (rare.more.is_empty() || rare.more_last < last)
    }

    /// Whether it is dirty, and whether the checkpoint under way has written it.
    pub(crate) fn marks(&self) -> (bool, bool) {
        (self.dirty, self.captured)
    }

    pub(crate) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn more(&self) -> &[Tree] {
        self.rare.as_ref().map_or(&[], |r| &r.more)
    }
}

/// A (row, field) of a partition, shared by its shard and by readers. Its first run is read without the lock while
/// it is all there is.
#[derive(Debug)]
pub(crate) struct Series {
    pub place: SeriesPlace,
    /// What its writers look at before they take any lock; see [`Parts`].
    parts: AtomicU8,
    shared: SharedTree<SeriesState>,
}

impl Series {
    pub(crate) fn new(place: SeriesPlace) -> Self {
        Self {
            place,
            parts: AtomicU8::new(Parts::Whole as u8),
            shared: SharedTree::new(SeriesState::default()),
        }
    }

    /// The short lock: held for one append or one snapshot, never across I/O. Writers hold it under their shard's
    /// lock; readers only where [`Self::only_run`] gives nothing.
    #[inline]
    pub(crate) fn lock(&self) -> SeriesLock<'_> {
        SeriesLock {
            place: self.place,
            parts: &self.parts,
            lock: self.shared.lock(),
        }
    }

    /// The first run, if it is all there is. Never waits.
    pub(crate) fn only_run(&self) -> Option<TreeSnapshot> {
        self.shared.snapshot(|kind| self.place.id(kind))
    }
}

impl Series {
    /// Asks the cache for what a push touches.
    #[inline]
    pub(crate) fn prefetch(&self) {
        let place: *const u8 = std::ptr::from_ref(self).cast();
        alluvium_io::prefetch(place);
        alluvium_io::prefetch(place.wrapping_add(size_of::<Self>() - 1));
    }

    /// Asks the cache for the tail; the series should be there.
    #[inline]
    pub(crate) fn prefetch_tail(&self) {
        self.shared.prefetch();
    }
}

/// The writers' turn at a series.
#[derive(Debug)]
pub(crate) struct SeriesLock<'a> {
    place: SeriesPlace,
    parts: &'a AtomicU8,
    lock: SharedTreeLock<'a, SeriesState>,
}

impl std::ops::Deref for SeriesLock<'_> {
    type Target = SeriesState;

    fn deref(&self) -> &SeriesState {
        &self.lock
    }
}

impl std::ops::DerefMut for SeriesLock<'_> {
    fn deref_mut(&mut self) -> &mut SeriesState {
        &mut self.lock
    }
}

/// What decides whether a run may take a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunEnd {
    ordinal: u32,
    pub kind: ValueKind,
    pub birth: Lsn,
    pub last: Option<i64>,
}

impl RunEnd {
    fn of(run: &TreeMut<'_>) -> Self {
        Self {
            ordinal: run.run_ordinal(),
            kind: run.kind(),
            birth: run.birth(),
            last: run.last_time(),
        }
    }

    fn of_more(run: &Tree) -> Self {
        Self {
            ordinal: run.run_ordinal(),
            kind: run.kind(),
            birth: run.birth(),
            last: run.last_time(),
        }
    }
}

impl SeriesLock<'_> {
    /// Takes one point of the batch that `out` names. The caller holds the shard's lock.
    #[inline]
    pub(crate) fn push(
        &mut self,
        out: &mut PageWriter<'_>,
        time: i64,
        value: ValueRef<'_>,
        part: &PartitionState,
        late_points_max: usize,
    ) -> Taken {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        state.note_change(out.lsn);
        if let Some(mut first) = first
            && let last = first.last_time()
            && last.is_none_or(|last| last < time)
            && first.kind() == value.kind()
            && state.first_takes(time, last)
        {
            if let Some(mut late) = state.late_for_first(&first, part) {
                let bits = value.bits().unwrap_or_default();
                if first.push_bits_beside(out, &mut late, time, bits) {
                    self.settle_late(out);
                }
                return Taken::InOrder;
            }
            append(&mut first, out, time, value);
            return Taken::InOrder;
        }
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let first_last = first.and_then(|first| first.last_time());
        if let Some(run) = state.highest_takes(time, value.kind(), first_last) {
            append(&mut run.writer(), out, time, value);
            let more_last = &mut state.rare_mut().more_last;
            *more_last = (*more_last).max(Some(time));
            return Taken::InOrder;
        }
        let taken = self.push_slow(out, time, value, part, late_points_max);
        self.lift_barrier();
        taken
    }

    #[cold]
    fn push_slow(
        &mut self,
        out: &mut PageWriter<'_>,
        time: i64,
        value: ValueRef<'_>,
        part: &PartitionState,
        late_points_max: usize,
    ) -> Taken {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let buffered = state
            .rare()
            .and_then(|r| r.late.as_ref())
            .and_then(LateBuffer::last_time);
        if let Some(first) = &first
            && state.has_one_run()
            && first.last_is(time, value)
        {
            return Taken::Repeat;
        }
        if buffered.is_none_or(|last| last < time) {
            if let Some(run) = self.accepting(value.kind(), time) {
                self.append_to(run, out, time, value);
                return Taken::InOrder;
            }
            if self
                .ends()
                .iter()
                .all(|r| r.last.is_none_or(|last| last < time))
            {
                // The first point of its kind, newer than everything: a sibling opens at once.
                let run = self.open_run(out, value.kind());
                self.append_to(run, out, time, value);
                return Taken::InOrder;
            }
        }
        // Readers must come for the lock before there is anything they would miss.
        self.lock.withhold(true);
        self.only_pushed = false;
        out.heap -= self.own_bytes();
        let late = self.rare_mut().late.get_or_insert_default();
        late.insert(time, value);
        let is_full = late.len() >= late_points_max || late.is_full_of_text() || late.is_in_order();
        out.heap += self.own_bytes();
        if is_full {
            self.flush_late(out, part);
        }
        Taken::Late
    }

    fn own_bytes(&self) -> i64 {
        self.rare().map_or(0, Rare::own_bytes)
    }

    /// Ends of the runs by ordinal.
    pub(crate) fn ends(&mut self) -> SmallVec<[RunEnd; 4]> {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let more = state.more().iter().map(RunEnd::of_more);
        first.iter().map(RunEnd::of).chain(more).collect()
    }

    /// The index of the run that may take a point of this kind at this time, if any.
    fn accepting(&mut self, kind: ValueKind, time: i64) -> Option<usize> {
        let mut best: Option<(usize, Option<i64>)> = None;
        for (i, run) in self.ends().iter().enumerate().rev() {
            if run.last.is_some_and(|l| l >= time) {
                // Every run of a lower ordinal would be overruled by this one.
                break;
            }
            let merging = self.rare().and_then(|r| r.merging.as_ref());
            if merging.is_some_and(|m| m.freezes(run.ordinal)) {
                continue;
            }
            let barrier = self.rare().and_then(|r| r.barrier.as_ref());
            if barrier.is_some_and(|b| b.bars(run, time)) {
                continue;
            }
            if run.kind == kind && best.is_none_or(|(_, b)| b < run.last) {
                best = Some((i, run.last));
            }
        }
        best.map(|(i, _)| i)
    }

    /// Opens a run of the next ordinal, born with the batch that `out` names. Returns its index.
    fn open_run(&mut self, out: &mut PageWriter<'_>, kind: ValueKind) -> usize {
        let last = self.ends().last().map(|r| r.ordinal);
        let tree = Tree::new(self.place.id(kind), last.map_or(0, |o| o + 1), out.lsn);
        if last.is_none() {
            // Deletes may have taken every run and left late points.
            let plain = self.is_plain();
            let before = self.heap_bytes() as i64;
            self.lock.put(tree, !plain);
            out.heap += self.heap_bytes() as i64 - before;
            return 0;
        }
        self.lock.withhold(true);
        out.heap -= self.own_bytes();
        self.rare_mut().more.push(tree);
        out.heap += self.own_bytes();
        self.more().len()
    }

    fn append_to(
        &mut self,
        index: usize,
        out: &mut PageWriter<'_>,
        time: i64,
        value: ValueRef<'_>,
    ) {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        match index.checked_sub(1) {
            None => {
                if let Some(mut first) = first {
                    append(&mut first, out, time, value);
                }
            }
            Some(more) => {
                let rare = state.rare_mut();
                rare.more_last = rare.more_last.max(Some(time));
                if let Some(run) = rare.more.get_mut(more) {
                    append(&mut run.writer(), out, time, value);
                }
            }
        }
    }

    /// Moves the late points to runs. The caller holds the shard's lock.
    pub(crate) fn flush_late(&mut self, out: &mut PageWriter<'_>, part: &PartitionState) {
        self.only_pushed = false;
        let before = self.own_bytes();
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        if let Some(mut first) = first
            && let Some(mut late) = state.late_for_first(&first, part)
        {
            first.take_late(out, &mut late);
        }
        let Some(late) = self.rare_mut().late.take() else {
            return;
        };
        out.heap += self.own_bytes() - before;
        for (time, value) in late.iter() {
            let run = self.accepting(value.kind(), time);
            let run = run.unwrap_or_else(|| self.open_run(out, value.kind()));
            self.append_to(run, out, time, value);
        }
        self.settle_readers();
    }

    /// Forgets a late buffer that the first run has emptied.
    #[cold]
    fn settle_late(&mut self, out: &mut PageWriter<'_>) {
        if self.buffered() == 0 {
            out.heap -= self.own_bytes();
            self.rare_mut().late = None;
            out.heap += self.own_bytes();
            self.settle_readers();
        }
    }

    /// Lets readers go by the first run alone where it is all there is.
    pub(crate) fn settle_readers(&mut self) {
        let plain = self.is_plain();
        self.lock.withhold(!plain);
    }

    /// Leaves of all runs.
    pub(crate) fn leaves(&mut self) -> u64 {
        self.snapshots().iter().map(TreeSnapshot::leaves).sum()
    }

    /// How many runs there are.
    pub(crate) fn runs(&mut self) -> usize {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        usize::from(first.is_some()) + state.more().len()
    }

    /// Whether the merger must be told that there is something to merge.
    #[inline]
    pub(crate) fn wants_merger(&mut self) -> bool {
        if self.has_one_run() || self.older().is_some() {
            return false;
        }
        let (runs, buffered) = (self.runs(), self.buffered());
        self.rare_mut().listing.note(runs, buffered)
    }

    /// Points in the late buffer.
    pub(crate) fn buffered(&self) -> usize {
        let late = self.rare().and_then(|r| r.late.as_ref());
        late.map_or(0, LateBuffer::len)
    }

    /// What every run holds now, by ordinal.
    pub(crate) fn snapshots(&mut self) -> Vec<TreeSnapshot> {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let first = first.map(|run| run.snapshot());
        let more = state.more().iter().map(Tree::snapshot);
        first.into_iter().chain(more).collect()
    }

    /// What the run of this ordinal holds now.
    pub(crate) fn run(&mut self, ordinal: u32) -> Option<TreeSnapshot> {
        self.snapshots()
            .into_iter()
            .find(|r| r.run_ordinal() == ordinal)
    }

    /// Puts the late points in the place of those there are.
    pub(crate) fn set_late(&mut self, late: LateBuffer) {
        self.only_pushed = false;
        if late.is_empty() {
            if let Some(rare) = &mut self.lock.rare {
                rare.late = None;
            }
        } else {
            self.lock.withhold(true);
            self.rare_mut().late = Some(late);
        }
        self.settle_readers();
    }

    /// Puts these runs, given by ordinal, in the place of those there are.
    pub(crate) fn set_runs(&mut self, runs: Vec<Tree>) {
        self.only_pushed = false;
        let mut runs = runs.into_iter();
        let first = runs.next();
        let more: Vec<Tree> = runs.collect();
        if self.rare().is_some() || !more.is_empty() {
            self.lock.withhold(true);
            let rare = self.rare_mut();
            rare.more_last = more.iter().filter_map(Tree::last_time).max();
            rare.more = more;
        }
        let plain = self.is_plain();
        match first {
            Some(first) => self.lock.put(first, !plain),
            None => self.lock.clear(),
        }
    }

    /// Drops runs.
    pub(crate) fn drop_runs(&mut self, ordinals: &[u32]) {
        self.only_pushed = false;
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let drops_first = first.is_some_and(|f| ordinals.contains(&f.run_ordinal()));
        if let Some(rare) = &mut state.rare {
            rare.more.retain(|r| !ordinals.contains(&r.run_ordinal()));
        }
        if drops_first {
            let next = state.rare.as_mut().filter(|rare| !rare.more.is_empty());
            match next.map(|rare| rare.more.remove(0)) {
                Some(next) => {
                    let plain = self.is_plain();
                    self.lock.put(next, !plain);
                }
                None => self.lock.clear(),
            }
        }
        self.settle_readers();
    }

    /// Puts a merged run in the place of its sources.
    pub(crate) fn replace_runs(&mut self, sources: &[u32], result: Tree) {
        self.only_pushed = false;
        if result.last_time().is_none() {
            // Deletes hid every point.
            self.drop_runs(sources);
            return;
        }
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        let replaces_first = first.is_none_or(|f| sources.contains(&f.run_ordinal()));
        let more = &mut state.rare_mut().more;
        more.retain(|r| !sources.contains(&r.run_ordinal()));
        if replaces_first {
            // It has the lowest ordinal of its sources.
            let plain = self.is_plain();
            self.lock.put(result, !plain);
        } else {
            let at = more.partition_point(|r| r.run_ordinal() < result.run_ordinal());
            more.insert(at, result);
        }
        let rare = self.rare_mut();
        rare.more_last = rare.more.iter().filter_map(Tree::last_time).max();
    }

    /// Where its record is, if that and the log have all of it and nobody works at it. One without points needs none.
    pub(crate) fn may_leave(&mut self) -> Option<RecordPlace> {
        if self.dirty || self.rare().is_some_and(|r| r.merging.is_some()) {
            return None;
        }
        if self.is_empty() {
            return Some(RecordPlace::POINTLESS);
        }
        self.record()
    }

    /// Heap of its runs and late points.
    pub(crate) fn heap_bytes(&mut self) -> usize {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        first.map_or(0, |run| run.heap_bytes()) + state.rare().map_or(0, Rare::heap_bytes)
    }
}

#[inline]
fn append(tree: &mut TreeMut<'_>, out: &mut PageWriter<'_>, time: i64, value: ValueRef<'_>) {
    match value.bits() {
        Some(bits) => tree.push_bits(out, time, bits),
        None => tree.push(out, time, value),
    }
}
