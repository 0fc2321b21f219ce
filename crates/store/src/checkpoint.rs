//! The fuzzy checkpoint, one step at a time beside running writers.
//!
//! Order: for each shard note where redo would begin, then write the tails of its dirty series, a slice under
//! its lock at a time, so that a slice never cuts a batch; then its new definitions. When all shards are
//! through, flush every log and queue every page up to there, and make what segments of the index are due, a slice
//! at a time; wait until all have happened; save the volumes'
//! state, make volumes, tails and definitions durable; commit manifest and superblock. Only then may go what
//! the superblock before the last one needed.

mod capturing;
mod ending;
mod settling;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_block::{Manifest, Root, RootCommit, Sections, SyncBatch};
use alluvium_index::{DefinitionMark, LivenessMark};
use alluvium_io::{IoError, Lane, Ticket};
use alluvium_nbtree::Encoder;
use alluvium_types::{Lsn, PARTITION_COUNT};
use alluvium_wal::LogTicket;
use hashbrown::HashSet;

use crate::capture::{CapturedSeries, MovedRecords, TableWalk};
use crate::databases::DatabaseState;
use crate::error::StoreError;
use crate::ledger::{Ledger, NamedFile};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::piece_file::Abandoned;
use crate::segments::{NewSegment, SegmentBuild};
use crate::series::Series;
use crate::tail_files::TAIL_FILES_MAX;
use crate::tails_writer::TailsWriter;
use crate::twin_file::TwinFile;

#[derive(Debug)]
enum Step {
    /// Capturing this shard: the series left to write, once its list was taken.
    Capture {
        shard: usize,
        list: Option<Vec<(Arc<DatabaseState>, Arc<Series>)>>,
    },
    /// Waiting for logs, pages and the files of this checkpoint to be written.
    Settle {
        flushes: Vec<LogTicket>,
        marks: Vec<u64>,
        /// Of the merger's pages, once it could be asked.
        merged: Option<u64>,
    },
    /// Waiting for volumes and files to be durable.
    Sync {
        volumes: SyncBatch,
        files: Vec<Ticket>,
        manifest: Manifest,
        ledger: Ledger,
    },
    /// Waiting for manifest and superblock, and for the files to be closed.
    Commit { commit: RootCommit, ledger: Ledger },
}

/// Bytes of tails files behind the first of a chain from which on the chain is written anew, if that is as long as they are: so
/// tails take at most about twice their bytes on disk, and writing them all once costs what was written since.
const TAILS_BEHIND_MIN: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Running {
    number: u64,
    root: Root,
    /// All series and definitions are written, not only what changed.
    full: bool,
    step: Step,
    redo_from: Vec<u64>,
    pub tails: TailsWriter,
    series: Option<TwinFile>,
    definitions: Sections,
    sealed: Vec<(Arc<PartitionState>, DefinitionMark)>,
    live_sealed: Vec<(Arc<PartitionState>, LivenessMark)>,
    /// Segments to be made anew if they can be.
    broken: HashSet<u64>,
    /// Segments to be made once all is captured, the next one first.
    building: VecDeque<SegmentBuild>,
    segments: Vec<NewSegment>,
    /// Of a full one: the series of a shard that are left to write.
    walk: Option<TableWalk>,
    /// Of a full one: series that were on a list of dirty ones, which the walk comes by.
    aside: Vec<(Arc<DatabaseState>, Arc<Series>)>,
    /// Records of series that are away which were copied.
    moved: Vec<MovedRecords>,
    tombstones: Vec<Vec<u8>>,
    /// By partition: what is newer is in the log from `redo_from` on.
    lsn_from: [Lsn; PARTITION_COUNT],
    /// What to mark dirty again if this checkpoint fails, and where the records are.
    pub captured: Vec<CapturedSeries>,
    pub encoder: Encoder,
}

/// Runs checkpoints, one at a time.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    root: Root,
    /// What the last superblock names, and the one before it.
    current: Ledger,
    previous: Ledger,
    running: Option<Box<Running>>,
    /// Files of failed checkpoints: the next one, of the same names, begins when they are gone.
    abandoned: Vec<Abandoned>,
    requested: u64,
    requested_clean: bool,
    started: u64,
    completed: u64,
    /// The number of the one before that, for the superblock slots are two.
    completed_before: u64,
    last_error: Option<(u64, StoreError)>,
    lacks_room: bool,
    wakers: Vec<Waker>,
    last_ended_ns: u64,
    retry_at_ns: u64,
    /// Live log bytes when the last checkpoint began, or what trimming has left of them since: segments go as a
    /// whole and two superblocks late, so it is growth that asks for a checkpoint, not size.
    log_floor: u64,
    /// Files of dropped databases, for the next ledger.
    removals: Vec<String>,
    /// Those of them whose removal was submitted by the last checkpoint.
    removed: Vec<String>,
    old_streams_removed: bool,
    /// No checkpoint begins while this is above zero: a backup looks at what the last one names.
    held: u32,
    pub last_duration_ns: u64,
    begun_ns: u64,
}

impl Checkpointer {
    pub(crate) fn new(root: &Root, ledger: Ledger) -> Self {
        Self {
            root: *root,
            previous: ledger.clone(),
            removals: ledger.removals.clone(),
            current: ledger,
            running: None,
            abandoned: Vec::new(),
            requested: 0,
            requested_clean: false,
            started: 0,
            completed: 0,
            completed_before: 0,
            last_error: None,
            lacks_room: false,
            wakers: Vec::new(),
            removed: Vec::new(),
            old_streams_removed: false,
            held: 0,
            last_ended_ns: 0,
            retry_at_ns: 0,
            log_floor: 0,
            last_duration_ns: 0,
            begun_ns: 0,
        }
    }

    /// Says what the superblock before the last one names.
    pub(crate) fn know_before(&mut self, before: Ledger) {
        self.previous = before;
    }

    /// Checkpoints completed in this process life.
    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    /// The number of the last checkpoint that has begun.
    pub(crate) fn begun(&self) -> u64 {
        self.started
    }

    /// The numbers of those that the two superblocks are of; 0 for one of an earlier life.
    pub(crate) fn completed_numbers(&self) -> (u64, u64) {
        (self.completed, self.completed_before)
    }

    /// Whether none is running or asked for.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.requested <= self.started
    }

    /// Asks for one.
    pub(crate) fn request(&mut self) {
        self.requested = self.started + 1;
    }

    /// Whether the last attempt failed for want of room.
    pub(crate) fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    /// Whether files wait for superblocks to be removed.
    pub(crate) fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    /// The commit the last superblock names.
    pub(crate) fn seq(&self) -> u64 {
        self.root.seq
    }

    /// Bytes of the files that the last superblock names: tails; what mends them; definitions with segments of the index, and
    /// their copies.
    pub(crate) fn file_bytes(&self) -> (u64, u64, u64) {
        let sum = |files: &[NamedFile]| files.iter().map(|f| f.len).sum::<u64>();
        let mending = self.current.tails.iter().map(|f| f.mending().len);
        let segments: u64 = self.current.segments.iter().map(|s| s.file.len).sum();
        (
            sum(&self.current.tails),
            mending.sum(),
            2 * (sum(&self.current.series) + segments),
        )
    }

    /// The last commit, if no other is under way.
    pub(crate) fn at_rest(&self) -> Option<u64> {
        self.running.is_none().then_some(self.root.seq)
    }

    /// Files beside volumes that the last superblock names.
    pub(crate) fn plain_files(&self) -> Vec<(String, NamedFile)> {
        crate::backup::plain_files(&self.current)
    }

    /// Lets no checkpoint begin until [`Self::release`], unless one is running. Returns whether it was so.
    pub(crate) fn hold(&mut self) -> bool {
        let idle = self.running.is_none();
        self.held += u32::from(idle);
        idle
    }

    /// Ends one [`Self::hold`].
    pub(crate) fn release(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    pub(crate) fn add_removals(&mut self, paths: Vec<String>) {
        self.removals.extend(paths);
    }
}

impl StoreInner {
    fn checkpoint_lane(&self) -> Lane {
        Lane(self.shards.len())
    }

    /// Asks for a checkpoint that begins after this call; the answer is for `poll_checkpoint`.
    pub(crate) fn request_checkpoint(&self, clean: bool) -> u64 {
        let mut checkpointer = self.checkpointer.lock();
        let number = checkpointer.started + 1;
        checkpointer.requested = number;
        checkpointer.requested_clean |= clean;
        drop(checkpointer);
        self.device.wake();
        number
    }

    pub(crate) fn poll_checkpoint(
        &self,
        number: u64,
        waker: &Waker,
    ) -> Poll<Result<(), StoreError>> {
        let mut checkpointer = self.checkpointer.lock();
        if checkpointer.completed >= number {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        if let Some((failed, error)) = &checkpointer.last_error
            && *failed >= number
        {
            return Poll::Ready(Err(error.clone()));
        }
        if !checkpointer.wakers.iter().any(|w| w.will_wake(waker)) {
            checkpointer.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    /// Starts a checkpoint if one is due and moves the running one on. Returns whether to call again at once.
    pub(crate) fn drive_checkpoint(self: &Arc<Self>, now: u64) -> bool {
        // Another thread drives it already: that is progress enough.
        let Some(mut checkpointer) = self.checkpointer.try_lock() else {
            return false;
        };
        let checkpointer = &mut *checkpointer;
        if self.failure().is_some() {
            // Nothing ends any more that waits for the log, and nothing begins.
            checkpointer.wakers.drain(..).for_each(Waker::wake);
        }
        let lane = self.checkpoint_lane();
        let ended = self.device.drive(lane);
        let device = self.device.as_ref();
        checkpointer
            .abandoned
            .retain_mut(|f| !f.drive(device, lane));
        if checkpointer.running.is_none() && self.is_due(checkpointer, now) {
            checkpointer.begun_ns = now;
            self.start_checkpoint(checkpointer);
        }
        let Some(mut running) = checkpointer.running.take() else {
            self.device.drive(lane);
            return ended > 0;
        };
        let again = match self.step(checkpointer, &mut running) {
            Ok(Progress::Again) => {
                checkpointer.running = Some(running);
                true
            }
            Ok(Progress::Waiting) => {
                checkpointer.running = Some(running);
                ended > 0
            }
            Ok(Progress::Done(ledger)) => {
                self.finish(checkpointer, *running, *ledger, now);
                true
            }
            Err(error) => {
                self.abandon(checkpointer, *running, error, now);
                false
            }
        };
        self.device.drive(lane);
        again
    }

    fn is_due(&self, checkpointer: &mut Checkpointer, now: u64) -> bool {
        if self.failure().is_some()
            || now < checkpointer.retry_at_ns
            || !checkpointer.abandoned.is_empty()
            || checkpointer.held > 0
        {
            return false;
        }
        if checkpointer.requested > checkpointer.started {
            return true;
        }
        let live = self.live_log_bytes();
        checkpointer.log_floor = checkpointer.log_floor.min(live);
        let grown = live - checkpointer.log_floor;
        // Very many series that get a point now and then would have their tails written more often than their points.
        if grown > self.config.checkpoint_log_bytes && grown > self.dirty_heap_bytes() {
            return true;
        }
        let age = now.saturating_sub(checkpointer.last_ended_ns);
        // Files of dropped databases go two checkpoints later, also where nobody writes any more.
        age >= self.config.checkpoint_ms * 1_000_000
            && (!checkpointer.removals.is_empty()
                || self.index_cache.any_broken()
                || self.shards.iter().any(|s| !s.state.lock().dirty.is_empty()))
    }

    fn dirty_heap_bytes(&self) -> u64 {
        let dirty = |s: &crate::shard::Shard| s.state.lock().dirty_heap_bytes;
        self.shards.iter().map(dirty).sum()
    }

    fn live_log_bytes(&self) -> u64 {
        let live = |s: &crate::shard::Shard| s.state.lock().log.live_bytes();
        self.shards.iter().map(live).sum()
    }

    fn start_checkpoint(&self, checkpointer: &mut Checkpointer) {
        checkpointer.started += 1;
        checkpointer.log_floor = self.live_log_bytes();
        let clean = std::mem::take(&mut checkpointer.requested_clean);
        let root = Root {
            seq: checkpointer.root.seq + 1,
            incarnation: self.incarnation,
            clean,
            wall_ns: self.believed.remember(self.clock.as_ref()),
            ..checkpointer.root
        };
        let lane = self.checkpoint_lane();
        let chain_max = self.config.tail_chain_max.min(TAIL_FILES_MAX / 2 - 1);
        let tails = &checkpointer.current.tails;
        let base = tails.first().map_or(0, |file| file.len);
        let behind: u64 = tails.iter().skip(1).map(|file| file.len).sum();
        let full = tails.len() >= chain_max || behind > base.max(TAILS_BEHIND_MIN);
        checkpointer.running = Some(Box::new(Running {
            number: checkpointer.started,
            tails: TailsWriter::create(self.device.as_ref(), lane, root.seq),
            series: None,
            root,
            full,
            step: Step::Capture {
                shard: 0,
                list: None,
            },
            redo_from: Vec::new(),
            definitions: Sections::new(),
            sealed: Vec::new(),
            live_sealed: Vec::new(),
            broken: self.index_cache.take_broken(),
            building: VecDeque::new(),
            segments: Vec::new(),
            walk: None,
            aside: Vec::new(),
            moved: Vec::new(),
            tombstones: Vec::new(),
            lsn_from: [Lsn(0); PARTITION_COUNT],
            captured: Vec::new(),
            encoder: Encoder::default(),
        }));
    }

    fn step(
        &self,
        checkpointer: &mut Checkpointer,
        running: &mut Running,
    ) -> Result<Progress, IoError> {
        let lane = self.checkpoint_lane();
        match &mut running.step {
            Step::Capture { .. } => self.capture(running, lane),
            Step::Settle { .. } => self.settle_all(checkpointer, running, lane),
            Step::Sync {
                volumes,
                files,
                manifest,
                ledger,
            } => {
                for ticket in files.iter() {
                    match ticket.result() {
                        None => return Ok(Progress::Waiting),
                        Some(result) => drop(result?),
                    }
                }
                match volumes.result() {
                    None => return Ok(Progress::Waiting),
                    Some(result) => result?,
                }
                let device = self.device.as_ref();
                let commit = RootCommit::start(device, lane, running.root, manifest);
                if let Some(series) = &mut running.series {
                    series.close(device, lane);
                }
                running.tails.close_mending(device, lane);
                let ledger = std::mem::take(ledger);
                running.step = Step::Commit { commit, ledger };
                Ok(Progress::Again)
            }
            Step::Commit { commit, ledger } => match commit.poll(self.device.as_ref()) {
                Poll::Pending => Ok(Progress::Waiting),
                Poll::Ready(result) => {
                    result?;
                    let series = running.series.as_ref();
                    let is_closed = series.is_none_or(TwinFile::is_closed);
                    if !is_closed || !running.tails.is_mending_closed() {
                        return Ok(Progress::Waiting);
                    }
                    Ok(Progress::Done(Box::new(std::mem::take(ledger))))
                }
            },
        }
    }
}

enum Progress {
    Again,
    Waiting,
    Done(Box<Ledger>),
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
