//! Merges runs of series in the background, one series at a time, a slice at a time.
//!
//! A merge reads snapshots and writes pages through an appender of its own: it holds no lock of a shard or series
//! but to begin and to end. Meanwhile the runs it reads take no points, except the one with the greatest last time;
//! late points that would have gone to the others open a run of a higher ordinal, which stays right whatever the
//! merge does. At the end the result takes the place of its sources in one step.
//!
//! A crash loses a merge and nothing else: checkpoints write whichever runs a series has, and wait for the pages of
//! this appender as for those of the shards.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_block::Appender;
use alluvium_nbtree::{
    Encoder, Merge, MergeProgress, MergeSource, MergeStats, PageWriter, Tree, TreeError,
    TreeSnapshot,
};
use alluvium_types::Lsn;

use crate::barrier::birth_of;
use crate::databases::DatabaseState;
use crate::error::StoreError;
use crate::merging::cleaning::{Cleaning, Look};
use crate::merging::policy::{Ordinals, group as group_of};
use crate::open::StoreInner;
use crate::series::{Series, SeriesLock};
use crate::space::{SpaceKeeper, SpaceStatus};
use crate::tombstones::HiddenParts;

mod cleaning;
mod policy;

/// Series looked at in one call.
const LOOKS: usize = 64;
/// Nanoseconds between looks through the list, and more for each series on it.
const LOOK_NS: u64 = 50_000_000;
const LOOK_SERIES_NS: u64 = 20_000;
/// Late points in the buffer of a series for which they are worth a run, to be merged at once, when it is quiet.
const BUFFERED_POINTS: usize = 32;
/// Times a merge follows a run that grows; after that it is given up.
const FOLLOWS_MAX: u32 = 64;

/// Runs of a series that are being merged. Only one of them takes points meanwhile.
#[derive(Debug)]
pub(crate) struct Merging {
    ordinals: Ordinals,
    growing: u32,
}

impl Merging {
    /// Whether the run takes no points.
    pub(crate) fn freezes(&self, ordinal: u32) -> bool {
        ordinal != self.growing && self.ordinals.contains(&ordinal)
    }
}

/// Whether the merger knows a series as one with several runs.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    is_waiting: bool,
    /// Runs it had when it left the list.
    runs: u32,
}

impl Listing {
    /// Whether a series of so many runs and late points in its buffer must be put on the list, which it then counts
    /// as being on.
    #[inline]
    pub(crate) fn note(&mut self, runs: usize, buffered: usize) -> bool {
        if self.is_waiting {
            return false;
        }
        self.is_waiting = runs as u32 > self.runs.max(1) || buffered >= BUFFERED_POINTS;
        self.is_waiting
    }

    /// Whether it is on the list.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// It is off the list until it has more runs than these, or late points enough.
    fn leave(&mut self, runs: usize) {
        *self = Self {
            is_waiting: false,
            runs: runs as u32,
        };
    }
}

/// Merging since the store was opened, and what waits for it.
#[derive(Debug, Clone, Default)]
pub struct MergingStatus {
    /// No merge goes on.
    pub paused: bool,
    /// Series with runs that could be merged.
    pub series_waiting: u64,
    /// Their runs.
    pub runs_waiting: u64,
    /// Points of them that are not in the largest run of their series.
    pub points_waiting: u64,
    /// Merges that ended.
    pub merges: u64,
    /// Merges given up: for a damaged page, or a run that grew too fast.
    pub failed: u64,
    /// Why the last one failed.
    pub last_error: Option<String>,
    /// Pages read, from the device or from memory.
    pub pages_read: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Leaves that stayed where they were.
    pub leaves_adopted: u64,
    /// Points written anew.
    pub points_moved: u64,
    /// Pages that merges have left behind: no series refers to them any more.
    pub pages_dead: u64,
}

/// A series with several runs.
#[derive(Debug)]
struct Waiting {
    database: Arc<DatabaseState>,
    series: Arc<Series>,
    runs: u64,
    late_points: u64,
    /// Since when runs and late points are as they are, monotonic nanoseconds.
    since_ns: u64,
    /// It is on the list, or was; not if a delete alone brought it here.
    is_listed: bool,
}

impl Waiting {
    /// A series that was not found on the list.
    fn unlisted(database: Arc<DatabaseState>, series: Arc<Series>, now: u64) -> Self {
        Self {
            database,
            series,
            runs: 1,
            late_points: 0,
            since_ns: now,
            is_listed: false,
        }
    }
}

#[derive(Debug)]
struct Running {
    waiting: Waiting,
    merge: Merge,
    follows: u32,
    is_open: bool,
    /// Position of the newest point of the series when it was last looked at.
    lsn: Lsn,
    /// Volumes that the result must have no page in.
    leave: Arc<[u32]>,
}

/// The background merger of a store.
#[derive(Debug)]
pub(crate) struct Merger {
    pub(crate) appender: Appender,
    encoder: Encoder,
    waiting: VecDeque<Waiting>,
    running: Option<Box<Running>>,
    cleaning: Cleaning,
    space: SpaceKeeper,
    /// Series left to look at before the next pause.
    looks_left: usize,
    next_look_ns: u64,
    /// Pages it may read or write now.
    allowance: u64,
    allowed_ns: u64,
    totals: MergingStatus,
}

impl Merger {
    pub(crate) fn new(appender: Appender) -> Self {
        Self {
            appender,
            encoder: Encoder::default(),
            waiting: VecDeque::new(),
            running: None,
            cleaning: Cleaning::default(),
            space: SpaceKeeper::default(),
            looks_left: 0,
            next_look_ns: 0,
            allowance: 0,
            allowed_ns: 0,
            totals: MergingStatus::default(),
        }
    }

    /// Lets the pages of a second be read and written within it, and no more than a quarter of them at once.
    fn allow(&mut self, now: u64, pages_per_s: u64) {
        let elapsed = now.saturating_sub(self.allowed_ns).min(1_000_000_000);
        let more = elapsed.saturating_mul(pages_per_s) / 1_000_000_000;
        if more > 0 {
            self.allowed_ns = now;
            self.allowance = (self.allowance + more).min(pages_per_s / 4 + 1);
        }
    }

    pub(crate) fn status(&self, paused: bool) -> MergingStatus {
        let running = self.running.iter().map(|r| &r.waiting);
        let all = || self.waiting.iter().chain(running.clone());
        MergingStatus {
            paused,
            series_waiting: all().count() as u64,
            runs_waiting: all().map(|w| w.runs).sum(),
            points_waiting: all().map(|w| w.late_points).sum(),
            ..self.totals.clone()
        }
    }

    /// Forgets a database whose volumes are about to go.
    pub(crate) fn forget_database(&mut self, database: alluvium_types::DatabaseId) {
        self.appender.forget_database(database);
        self.waiting.retain(|w| w.database.id != database);
        self.cleaning.forget_database(database);
        self.space.forget_database(database);
        if let Some(running) = &self.running
            && running.waiting.database.id == database
        {
            self.running = None;
        }
    }

    fn note(&mut self, stats: &MergeStats) {
        let reads = &stats.reads;
        self.totals.pages_read += reads.leaf_pages + reads.inner_pages;
        self.totals.pages_written += stats.pages_written;
        self.totals.leaves_adopted += stats.adopted_leaves;
        self.totals.points_moved += stats.points_moved;
    }

    /// What room is given back, the debt of databases left out.
    pub(crate) fn space_status(&self) -> SpaceStatus {
        self.space.status()
    }

    /// Whether a merge is under way.
    pub(crate) fn is_merging(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to write a run anew so that none of its pages is in these volumes, unless deletes or another merge have
    /// come in between.
    pub(crate) fn begin_leaving(
        &mut self,
        database: &Arc<DatabaseState>,
        series: Arc<Series>,
        ordinal: u32,
        leave: Arc<[u32]>,
        now: u64,
    ) {
        let waiting = Waiting::unlisted(Arc::clone(database), series, now);
        let mut state = waiting.series.lock();
        let is_merging = state.rare().is_some_and(|r| r.merging.is_some());
        // One whose older part has left memory is found by the next walk.
        let is_free = !is_merging && state.older().is_none();
        if is_free && state.run(ordinal).is_some() {
            let ordinals = Ordinals::from_slice(&[ordinal]);
            let merge = begin(&mut state, &ordinals, &hidden(&waiting), &leave);
            let lsn = state.lsn;
            drop(state);
            self.running = Some(Box::new(Running {
                waiting,
                merge,
                follows: 0,
                is_open: false,
                lsn,
                leave,
            }));
        }
    }

    /// Notes pages that nothing leads to any more.
    fn note_dead(&mut self, database: &DatabaseState, pages: u64) {
        self.totals.pages_dead += pages;
        database.space.note_dead(pages);
    }

    fn fail(&mut self, database: &DatabaseState, stats: &MergeStats, error: &str) {
        self.note(stats);
        self.totals.failed += 1;
        self.note_dead(database, stats.pages_written);
        self.totals.last_error = Some(error.to_owned());
    }
}

impl StoreInner {
    /// Merges for a slice. Never waits for anything but the pages it reads. Returns whether to call again at once.
    pub(crate) fn drive_merging(&self, now: u64) -> bool {
        // Another thread merges: that is progress enough.
        let Some(mut merger) = self.merger.try_lock() else {
            return false;
        };
        let merger = &mut *merger;
        merger.appender.drive();
        if let Some(error) = merger.appender.failure() {
            let reason = error.to_string();
            self.fail(StoreError::Failed { reason });
        }
        self.collect_listed(merger, now);
        if !self.may_merge() {
            return false;
        }
        let stalled = merger.appender.is_full()
            || merger.appender.queued_pages() > self.config.page_backlog_max / 2;
        merger.allow(now, self.config.merge_pages_per_s);
        let slice = merger.allowance.min(self.config.merge_slice_pages as u64);
        // Room is looked for on a full device, too.
        let mut space = std::mem::take(&mut merger.space);
        let mut spent = 0;
        let more_space = space.drive(self, merger, (now, slice, !stalled), &mut spent);
        merger.space = space;
        merger.allowance = merger.allowance.saturating_sub(spent);
        if stalled {
            return more_space;
        }
        if merger.running.is_none() {
            return self.look_for_work(merger, now)
                || self.look_for_deleted(merger, now)
                || more_space;
        }
        if slice == 0 {
            return false;
        }
        let Some(running) = merger.running.take() else {
            return false;
        };
        self.advance(merger, running, slice, now);
        merger.appender.drive();
        true
    }

    fn may_merge(&self) -> bool {
        self.failure().is_none()
            && !self.is_closing()
            && !self.merging_paused.load(Ordering::Relaxed)
    }

    /// Takes over the series that have got a second run.
    fn collect_listed(&self, merger: &mut Merger, now: u64) {
        for shard in &self.shards {
            let Some(mut state) = shard.state.try_lock() else {
                continue;
            };
            let listed = std::mem::take(&mut state.several_runs);
            drop(state);
            let waiting = listed.into_iter().map(|(database, series)| Waiting {
                database,
                series,
                runs: 0,
                late_points: 0,
                since_ns: now,
                is_listed: true,
            });
            merger.waiting.extend(waiting);
        }
    }

    /// Looks at the next few series with several runs, and begins a merge if one should be.
    fn look_for_work(&self, merger: &mut Merger, now: u64) -> bool {
        if merger.looks_left == 0 {
            if now < merger.next_look_ns {
                return false;
            }
            merger.looks_left = merger.waiting.len();
            let pause = LOOK_NS.min(self.config.merge_quiet_ms * 1_000_000);
            merger.next_look_ns = now + pause + merger.looks_left as u64 * LOOK_SERIES_NS;
        }
        for _ in 0..LOOKS {
            if merger.looks_left == 0 {
                return false;
            }
            merger.looks_left -= 1;
            let Some(mut waiting) = merger.waiting.pop_front() else {
                merger.looks_left = 0;
                return false;
            };
            match self.consider(&mut waiting, now) {
                Verdict::Leave => {}
                Verdict::Wait => merger.waiting.push_back(waiting),
                Verdict::Begin(merge, lsn) => {
                    merger.running = Some(Box::new(Running {
                        waiting,
                        merge: *merge,
                        follows: 0,
                        is_open: false,
                        lsn,
                        leave: Arc::default(),
                    }));
                    return true;
                }
            }
        }
        true
    }

    /// Looks for a run of which deletes hide something, and begins to write it anew.
    fn look_for_deleted(&self, merger: &mut Merger, now: u64) -> bool {
        let found = match merger.cleaning.look(self, now) {
            Look::Rest => return false,
            Look::More => return true,
            Look::Found(found) => found,
        };
        let waiting = Waiting::unlisted(found.database, found.series, now);
        let mut state = waiting.series.lock();
        let merge = begin(
            &mut state,
            &found.ordinals,
            &hidden(&waiting),
            &Arc::default(),
        );
        let lsn = state.lsn;
        drop(state);
        merger.running = Some(Box::new(Running {
            waiting,
            merge,
            follows: 0,
            is_open: false,
            lsn,
            leave: Arc::default(),
        }));
        true
    }

    /// Looks at one series, whose late points become a run if it is quiet.
    fn consider(&self, waiting: &mut Waiting, now: u64) -> Verdict {
        if waiting.database.is_dropped() {
            return Verdict::Leave;
        }
        let mut state = waiting.series.lock();
        if state.older().is_some() {
            // It is listed again when its parts are joined.
            unlist(&mut state);
            return Verdict::Leave;
        }
        let mut group = group_of(&unexpired(waiting, &mut state));
        let buffered = state.buffered();
        if group.is_none() && buffered < BUFFERED_POINTS {
            // Runs of several kinds may get others of their kind.
            unlist(&mut state);
            return Verdict::Leave;
        }
        let runs = group.as_ref().map_or(1, |g| g.ordinals.len()) as u64;
        let late_points = group.as_ref().map_or(0, |g| g.late_points) + buffered as u64;
        if (waiting.runs, waiting.late_points) != (runs, late_points) {
            waiting.runs = runs;
            waiting.late_points = late_points;
            waiting.since_ns = now;
        }
        let quiet_ns = now.saturating_sub(waiting.since_ns);
        let is_quiet = quiet_ns >= self.config.merge_quiet_ms * 1_000_000;
        if is_quiet && buffered > 0 {
            drop(state);
            self.flush_late(waiting);
            state = waiting.series.lock();
            group = group_of(&unexpired(waiting, &mut state));
        }
        match group {
            None if is_quiet => {
                unlist(&mut state);
                Verdict::Leave
            }
            Some(group) if is_quiet || group.is_due(&self.config) => {
                let hidden = hidden(waiting);
                let merge = begin(&mut state, &group.ordinals, &hidden, &Arc::default());
                Verdict::Begin(Box::new(merge), state.lsn)
            }
            _ => Verdict::Wait,
        }
    }

    /// Moves the late points of a quiet series to a run.
    fn flush_late(&self, waiting: &Waiting) {
        let database = &waiting.database;
        let mut guard = self.shard_of(waiting.series.place.partition).state.lock();
        if database.is_dropped() {
            return;
        }
        let shard = &mut *guard;
        shard.encoder.set_compression(database.settings.compression);
        let mut state = waiting.series.lock();
        let (appender, encoder) = (&mut shard.appender, &mut shard.encoder);
        // The run is born now: deletes have taken what they hide out of the buffer.
        let partition = waiting.series.place.partition;
        let born = shard.last_lsn[usize::from(partition.0)];
        let mut out = PageWriter::new(appender, encoder, database.id, born);
        state.flush_late(&mut out, database.partition(partition));
        database.charge(out.heap);
        mark_dirty(&mut state, &mut shard.dirty, waiting);
    }

    /// Moves a merge on by a slice, to its end if it is near.
    fn advance(&self, merger: &mut Merger, mut running: Box<Running>, slice: u64, now: u64) {
        let Merger {
            appender, encoder, ..
        } = merger;
        let database = &running.waiting.database;
        encoder.set_compression(database.settings.compression);
        let mut out = PageWriter::new(appender, encoder, database.id, running.lsn);
        let before = effort(&running.merge.stats());
        let step = running.merge.step(&self.block, &mut out, slice as usize);
        let spent = effort(&running.merge.stats()) - before;
        let drained = match step {
            Ok(progress) => progress == MergeProgress::Drained,
            Err(error) => {
                let state = running.waiting.series.lock();
                let is_wanted = state.rare().is_some_and(|r| r.merging.is_some());
                drop(state);
                if is_wanted {
                    Self::give_up(merger, *running, &error.to_string());
                } else {
                    // A delete has called it off, and what it read may have been given back since.
                    Self::call_off(merger, *running, now);
                }
                return;
            }
        };
        if drained {
            let merge = &mut running.merge;
            let mut state = running.waiting.series.lock();
            if state.rare().is_none_or(|r| r.merging.is_none()) {
                drop(state);
                Self::call_off(merger, *running, now);
                return;
            }
            let grown = state.run(merge.growing());
            let grown = grown.filter(|r| merge.has_outgrown(r));
            running.lsn = state.lsn;
            if let Some(run) = grown {
                merge.follow(source(&run, &hidden(&running.waiting), &running.leave));
                drop(state);
                running.follows += 1;
                if running.follows > FOLLOWS_MAX {
                    Self::give_up(
                        merger,
                        *running,
                        "a run grew faster than it could be merged",
                    );
                    return;
                }
            } else if running.is_open {
                drop(state);
                self.end(merger, running, now);
                return;
            } else {
                drop(state);
                merge.open_result(&mut out);
                running.is_open = true;
            }
        }
        merger.allowance = merger.allowance.saturating_sub(spent.max(1));
        merger.running = Some(running);
    }

    /// Puts the result in the place of its sources, unless the growing run has outgrown it again.
    fn end(&self, merger: &mut Merger, running: Box<Running>, now: u64) {
        let Running {
            mut waiting,
            mut merge,
            follows,
            is_open,
            leave,
            ..
        } = *running;
        let shard = self.shard_of(waiting.series.place.partition);
        let mut shard_state = shard.state.lock();
        let mut state = waiting.series.lock();
        let is_wanted = state.rare().is_some_and(|r| r.merging.is_some());
        let Some(run) = state.run(merge.growing()).filter(|_| is_wanted) else {
            drop((state, shard_state));
            let running = Running {
                waiting,
                merge,
                follows,
                is_open,
                lsn: Lsn(0),
                leave,
            };
            Self::call_off(merger, running, now);
            return;
        };
        let lsn = state.lsn;
        if merge.has_outgrown(&run) {
            merge.follow(source(&run, &hidden(&waiting), &leave));
            drop((state, shard_state));
            merger.running = Some(Box::new(Running {
                waiting,
                merge,
                follows: follows + 1,
                is_open,
                lsn,
                leave,
            }));
            return;
        }
        let ordinals: Ordinals = merge.ordinals().collect();
        let database = waiting.database.id;
        let mut out = PageWriter::new(&mut merger.appender, &mut merger.encoder, database, lsn);
        let mut stats = merge.stats();
        let mark = out.appender.mark();
        let finished: Result<Tree, TreeError> = merge.finish(&mut out, &run);
        stats.pages_written += out.appender.mark() - mark;
        state.rare_mut().merging = None;
        match finished {
            Ok(result) => {
                let before = state.heap_bytes() as i64;
                state.replace_runs(&ordinals, result);
                waiting.database.charge(state.heap_bytes() as i64 - before);
                mark_dirty(&mut state, &mut shard_state.dirty, &waiting);
                let left = group_of(&state.snapshots());
                if left.is_none() && waiting.is_listed {
                    unlist(&mut state);
                }
                drop((state, shard_state));
                merger.note(&stats);
                merger.totals.merges += 1;
                merger.note_dead(&waiting.database, stats.dead_pages.values().sum());
                if left.is_some() && waiting.is_listed {
                    waiting.since_ns = now;
                    merger.waiting.push_back(waiting);
                }
            }
            Err(error) => {
                if waiting.is_listed {
                    unlist(&mut state);
                }
                drop((state, shard_state));
                merger.fail(&waiting.database, &stats, &error.to_string());
            }
        }
    }

    /// A delete has called the merge off, for it holds what was deleted. The series waits for another one.
    fn call_off(merger: &mut Merger, running: Running, now: u64) {
        let stats = running.merge.stats();
        merger.note(&stats);
        merger.note_dead(&running.waiting.database, stats.pages_written);
        let mut waiting = running.waiting;
        waiting.since_ns = now;
        if waiting.is_listed {
            merger.waiting.push_back(waiting);
        }
    }

    /// Gives a merge up. The series is not tried again until it is listed by another late run, or the store is
    /// opened again.
    fn give_up(merger: &mut Merger, running: Running, reason: &str) {
        let mut state = running.waiting.series.lock();
        state.rare_mut().merging = None;
        if running.waiting.is_listed {
            unlist(&mut state);
        }
        drop(state);
        merger.fail(&running.waiting.database, &running.merge.stats(), reason);
    }
}

/// What a look at a series came to.
enum Verdict {
    /// There is nothing to merge: off the list.
    Leave,
    /// Not yet.
    Wait,
    /// With the position of the newest point.
    Begin(Box<Merge>, Lsn),
}

/// Lists a series for the next checkpoint.
fn mark_dirty(
    state: &mut SeriesLock<'_>,
    dirty: &mut Vec<(Arc<DatabaseState>, Arc<Series>)>,
    waiting: &Waiting,
) {
    if !std::mem::replace(&mut state.dirty, true) {
        dirty.push((Arc::clone(&waiting.database), Arc::clone(&waiting.series)));
    }
}

/// Takes a series off the list until it has more runs than now, or late points enough.
fn unlist(state: &mut SeriesLock<'_>) {
    let runs = state.runs();
    state.rare_mut().listing.leave(runs);
}

/// What deletes hide of a series; the caller holds its lock.
fn hidden(waiting: &Waiting) -> HiddenParts {
    let place = waiting.series.place;
    let part = waiting.database.partition(place.partition);
    part.hidden(place.row, place.field)
}

/// The runs that may be merged.
fn unexpired(waiting: &Waiting, state: &mut SeriesLock<'_>) -> Vec<TreeSnapshot> {
    let mut runs = state.snapshots();
    let cut = waiting.database.retention.cut();
    if cut.keeps_aggregates() {
        // Overlapping leaves without points cannot become one run.
        runs.retain(|r| r.last_time().is_some_and(|last| last >= cut.points));
    }
    runs
}

fn begin(
    state: &mut SeriesLock<'_>,
    ordinals: &Ordinals,
    hidden: &HiddenParts,
    leave: &Arc<[u32]>,
) -> Merge {
    let runs = state.snapshots();
    let wanted = |r: &&TreeSnapshot| ordinals.contains(&r.run_ordinal());
    let sources = runs.iter().filter(wanted).map(|r| source(r, hidden, leave));
    let mut merge = Merge::new(sources.collect());
    // It leaves out all that is deleted so far.
    merge.born_at_least(hidden.newest());
    state.rare_mut().merging = Some(Merging {
        ordinals: ordinals.clone(),
        growing: merge.growing(),
    });
    merge
}

fn source(run: &TreeSnapshot, hidden: &HiddenParts, leave: &Arc<[u32]>) -> MergeSource {
    MergeSource {
        snapshot: run.clone(),
        hidden: hidden.holes(run.kind(), birth_of(run)),
        leave: Arc::clone(leave),
    }
}

/// Pages of the device's work.
fn effort(stats: &MergeStats) -> u64 {
    stats.reads.leaf_pages + stats.reads.inner_pages + stats.pages_written
}
