//! The fuzzy checkpoint, one step at a time beside running writers.
//!
//! Order: for each shard note where redo would begin, then write the tails of its dirty series, a slice under
//! its lock at a time, so that a slice never cuts a batch; then its new definitions. When all shards are
//! through, flush every log and queue every page up to there, and make what segments of the index are due, a slice
//! at a time; wait until all have happened; save the volumes'
//! state, make volumes, tails and definitions durable; commit manifest and superblock. Only then may go what
//! the superblock before the last one needed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_block::{Manifest, Root, RootCommit, Sections, SyncBatch};
use alluvium_index::{DefinitionMark, LivenessMark};
use alluvium_io::{IoError, IoErrorKind, Lane, Op, Ticket};
use alluvium_nbtree::Encoder;
use alluvium_types::{DatabaseId, Lsn, PARTITION_COUNT, Partition};
use alluvium_wal::{LogTicket, SectionBuilder, StreamInfo};

use crate::capture::{CapturedSeries, MovedRecords, Slice, TableWalk};
use crate::databases::DatabaseState;
use crate::error::StoreError;
use crate::ledger::{Ledger, NamedFile, NamedSegment};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::piece_file::{Abandoned, PieceFile};
use crate::recovery::{live_tag, part_tag};
use crate::segments::{Built, NewSegment, SEGMENTS_PER_CHECKPOINT, SegmentBuild};
use crate::series::Series;
use crate::shard::shard_of;
use crate::tail_files::TAIL_FILES_MAX;

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

#[derive(Debug)]
struct Running {
    number: u64,
    root: Root,
    /// All series and definitions are written, not only what changed.
    full: bool,
    step: Step,
    redo_from: Vec<u64>,
    tails: PieceFile,
    series: Option<PieceFile>,
    definitions: Sections,
    sealed: Vec<(Arc<PartitionState>, DefinitionMark)>,
    live_sealed: Vec<(Arc<PartitionState>, LivenessMark)>,
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
    captured: Vec<CapturedSeries>,
    encoder: Encoder,
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
    /// `before`: what the superblock before the last one names, if that can be read.
    pub(crate) fn new(root: &Root, ledger: Ledger, before: Option<Ledger>) -> Self {
        Self {
            root: *root,
            previous: before.unwrap_or_else(|| ledger.clone()),
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

    /// Bytes of the files that the last superblock names: tails, definitions.
    pub(crate) fn file_bytes(&self) -> (u64, u64) {
        let sum = |files: &[NamedFile]| files.iter().map(|f| f.len).sum::<u64>();
        let segments: u64 = self.current.segments.iter().map(|s| s.file.len).sum();
        (
            sum(&self.current.tails),
            sum(&self.current.series) + segments,
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
        if live - checkpointer.log_floor > self.config.checkpoint_log_bytes {
            return true;
        }
        let age = now.saturating_sub(checkpointer.last_ended_ns);
        // Files of dropped databases go two checkpoints later, also where nobody writes any more.
        age >= self.config.checkpoint_ms * 1_000_000
            && (!checkpointer.removals.is_empty()
                || self.shards.iter().any(|s| !s.state.lock().dirty.is_empty()))
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
        let name = NamedFile {
            seq: root.seq,
            len: 0,
            crc: 0,
        };
        let chain_max = self.config.tail_chain_max.min(TAIL_FILES_MAX / 2 - 1);
        let full = checkpointer.current.tails.len() >= chain_max;
        checkpointer.running = Some(Box::new(Running {
            number: checkpointer.started,
            tails: PieceFile::create(self.device.as_ref(), lane, name.tails_path(), root.seq),
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
                let ledger = std::mem::take(ledger);
                running.step = Step::Commit { commit, ledger };
                Ok(Progress::Again)
            }
            Step::Commit { commit, ledger } => match commit.poll(self.device.as_ref()) {
                Poll::Pending => Ok(Progress::Waiting),
                Poll::Ready(result) => {
                    result?;
                    let series = running.series.as_ref();
                    if !series.is_none_or(PieceFile::is_closed) {
                        return Ok(Progress::Waiting);
                    }
                    Ok(Progress::Done(Box::new(std::mem::take(ledger))))
                }
            },
        }
    }

    /// Writes the tails of one slice of one shard's dirty series.
    fn capture(&self, running: &mut Running, lane: Lane) -> Result<Progress, IoError> {
        if !running.tails.drive(self.device.as_ref(), lane, false)? {
            return Ok(Progress::Waiting);
        }
        let Step::Capture { shard, list } = &mut running.step else {
            return Ok(Progress::Again);
        };
        // Taken before the shard's lock: creating a database holds the catalogue while it logs.
        let databases = if running.full && list.is_none() {
            self.catalog.read().all()
        } else {
            Vec::new()
        };
        let mut state = self.shards[*shard].state.lock();
        let list = list.get_or_insert_with(|| {
            running.redo_from.push(state.log.next_section_seq());
            for (p, lsn) in running.lsn_from.iter_mut().enumerate() {
                if shard_of(Partition(p as u8), self.shards.len()) == *shard {
                    *lsn = state.last_lsn[p];
                }
            }
            let mut dirty = std::mem::take(&mut state.dirty);
            if running.full {
                // A database that came in between has all its series on the list of dirty ones.
                let is_new = |d: &DatabaseState| databases.iter().all(|known| known.id != d.id);
                let known = dirty.extract_if(.., |(d, _)| !is_new(d));
                running.aside.extend(known);
                running.walk = Some(TableWalk::new(databases));
            }
            dirty
        });
        let done = *shard;
        let mut slice = Slice::new(&mut running.tails, &mut running.encoder, running.full);
        if let Some(walk) = &mut running.walk {
            let is_mine = |p: Partition| shard_of(p, self.shards.len()) == done;
            let away = walk.capture(&mut slice, &self.tail_files, is_mine);
            running.captured.append(&mut slice.captured);
            drop(state);
            match away {
                Some(away) => self.copy_records(&mut running.tails, &mut running.moved, away)?,
                None => running.walk = None,
            }
            return Ok(Progress::Again);
        }
        while !slice.is_full()
            && let Some((database, series)) = list.pop()
        {
            slice.capture(&database, &series);
        }
        running.captured.append(&mut slice.captured);
        if !list.is_empty() {
            return Ok(Progress::Again);
        }
        drop(state);
        self.capture_definitions(running, done);
        if done + 1 < self.shards.len() {
            running.step = Step::Capture {
                shard: done + 1,
                list: None,
            };
            return Ok(Progress::Again);
        }
        self.end_capture(running, lane);
        Ok(Progress::Again)
    }

    /// Definitions and deletes come after the series that they are of.
    fn capture_definitions(&self, running: &mut Running, shard: usize) {
        for database in self.catalog.read().all() {
            for part in database
                .touched()
                .filter(|p| shard_of(p.partition, self.shards.len()) == shard)
            {
                let deletes = part.tombstones().encode(database.id, part.partition);
                running.tombstones.extend(deletes);
                let since = if running.full {
                    DefinitionMark::default()
                } else {
                    *part.sealed.lock()
                };
                // Before the definitions, which then have every row of them.
                Self::capture_days(running, &database, part);
                // Those frozen by a checkpoint that failed take the other half of the numbers.
                let has_room = (running.building.len() as u64) < SEGMENTS_PER_CHECKPOINT / 2;
                let rows_max = self.config.index_segment_rows.max(1);
                if has_room && part.index.read().head_rows() >= rows_max {
                    part.index.write().freeze();
                }
                let index = part.index.read();
                if let Some(bytes) = index.encode_part(since) {
                    running
                        .definitions
                        .set(part_tag(database.id, part.partition), bytes);
                    running.sealed.push((Arc::clone(part), index.mark()));
                }
                drop(index);
                let number = running.building.len() as u64;
                let number = running.root.seq * SEGMENTS_PER_CHECKPOINT + number;
                let planned = self.plan_segment(part, number, has_room);
                running.building.extend(planned);
            }
        }
    }

    /// The days on which rows were written to since they were last captured.
    fn capture_days(running: &mut Running, database: &DatabaseState, part: &Arc<PartitionState>) {
        let since = if running.full {
            LivenessMark::default()
        } else {
            *part.live_sealed.lock()
        };
        let cut = database.retention.cut();
        let mut live = part.live.write();
        live.forget_before(cut.points.min(cut.aggregates));
        if let Some(bytes) = live.encode(since) {
            let tag = live_tag(database.id, part.partition);
            running.definitions.set(tag, bytes);
            running.live_sealed.push((Arc::clone(part), live.mark()));
        }
    }

    fn end_capture(&self, running: &mut Running, lane: Lane) {
        if !running.definitions.is_empty() {
            let name = NamedFile {
                seq: running.root.seq,
                len: 0,
                crc: 0,
            };
            let mut file = PieceFile::create(
                self.device.as_ref(),
                lane,
                name.series_path(),
                running.root.seq,
            );
            file.pending = running.definitions.encode();
            running.series = Some(file);
        }
        let (mut flushes, mut marks) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let mut state = shard.state.lock();
            state.appender.flush();
            marks.push(state.appender.mark());
            flushes.push(state.log.flush(self.clock.wall_ns()));
            state.flush_due_ns = None;
            state.log.drive();
            state.appender.drive();
        }
        running.step = Step::Settle {
            flushes,
            marks,
            merged: None,
        };
    }

    /// Goes on with the next segment of the index; `false` if all are made.
    fn build_slice(&self, running: &mut Running) -> Result<bool, IoError> {
        let Some(build) = running.building.front_mut() else {
            return Ok(false);
        };
        let built = self.build_segment(build).map_err(|error| {
            IoError::new("write", "an index segment", std::io::Error::other(error))
        })?;
        if !matches!(built, Built::More) {
            running.building.pop_front();
        }
        if let Built::Segment(new) = built {
            running.segments.push(*new);
        }
        Ok(true)
    }

    /// Makes segments, then waits for everything to be written, then starts making it durable.
    fn settle_all(
        &self,
        checkpointer: &mut Checkpointer,
        running: &mut Running,
        lane: Lane,
    ) -> Result<Progress, IoError> {
        if self.build_slice(running)? {
            return Ok(Progress::Again);
        }
        let Step::Settle {
            flushes,
            marks,
            merged,
        } = &mut running.step
        else {
            return Ok(Progress::Again);
        };
        // Runs that were captured may have been merged: their pages are below this mark.
        let merged = match merged {
            Some(mark) => *mark,
            None => match self.merger.try_lock() {
                None => return Ok(Progress::Waiting),
                Some(mut merger) => {
                    merger.appender.flush();
                    merger.appender.drive();
                    *merged.insert(merger.appender.mark())
                }
            },
        };
        running.tails.drive(self.device.as_ref(), lane, true)?;
        if let Some(series) = &mut running.series {
            series.drive(self.device.as_ref(), lane, true)?;
        }
        for new in &mut running.segments {
            new.file.drive(self.device.as_ref(), lane, true)?;
        }
        let files_written = running.tails.is_written()
            && running.series.as_ref().is_none_or(PieceFile::is_written)
            && running.segments.iter().all(|new| new.file.is_written());
        let flushed = flushes.iter().all(|t| matches!(t.result(), Some(Ok(()))));
        for (shard, flush) in self.shards.iter().zip(&*flushes) {
            if flush.result().is_none() {
                let log = &mut shard.state.lock().log;
                // A full log may still have room in the segment it is in.
                if !log.drive() && log.is_full() && flush.result().is_none() {
                    return Err(no_space("log"));
                }
            }
        }
        if !files_written || !flushed {
            return Ok(Progress::Waiting);
        }
        let mut extents = Vec::new();
        for (shard, mark) in self.shards.iter().zip(&*marks) {
            let mut state = shard.state.lock();
            if !state.appender.is_written(*mark) {
                if state.appender.is_full() {
                    return Err(no_space("volume"));
                }
                state.appender.drive();
                return Ok(Progress::Waiting);
            }
            extents.extend(state.appender.open_extents());
        }
        let Some(mut merger) = self.merger.try_lock() else {
            return Ok(Progress::Waiting);
        };
        if !merger.appender.is_written(merged) {
            if merger.appender.is_full() {
                return Err(no_space("volume"));
            }
            merger.appender.drive();
            return Ok(Progress::Waiting);
        }
        extents.extend(merger.appender.open_extents());
        drop(merger);
        let ledger = self.next_ledger(checkpointer, running);
        let mut manifest = Manifest::new();
        self.block.save(&mut manifest, &extents);
        ledger.save(&mut manifest);
        let volumes = self.block.start_sync(lane);
        let device = self.device.as_ref();
        let files = [Some(&running.tails), running.series.as_ref()];
        let segments = running.segments.iter().map(|new| &new.file);
        let files = files.into_iter().flatten().chain(segments);
        let files = files.filter_map(|f| f.sync(device, lane)).collect();
        running.step = Step::Sync {
            volumes,
            files,
            manifest,
            ledger,
        };
        Ok(Progress::Again)
    }

    fn next_ledger(&self, checkpointer: &Checkpointer, running: &Running) -> Ledger {
        let chain = |old: &[NamedFile], new: Option<NamedFile>| {
            let kept = if running.full { &[] } else { old };
            kept.iter().copied().chain(new).collect()
        };
        let catalog = self.catalog.read();
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(0), Partition(0), Lsn(0));
        for database in catalog.all() {
            let settings = database.settings_now().to_string().into_bytes();
            section.create_database(database.id, &database.name, database.seed, &settings);
            let (cut, going) = database.retention.logged();
            if !cut.is_none() {
                section.cut(database.id, &cut.encode(&going));
            }
        }
        section.mark(u64::from(catalog.last_id()));
        Ledger {
            incarnation: self.incarnation,
            redo_from: running.redo_from.clone(),
            last_lsn: self.positions(),
            tails: chain(&checkpointer.current.tails, Some(running.tails.named())),
            series: chain(
                &checkpointer.current.series,
                running.series.as_ref().map(PieceFile::named),
            ),
            segments: self.named_segments(&running.segments),
            removals: checkpointer.removals.clone(),
            catalog: section.finish().to_vec(),
            tombstones: running.tombstones.clone(),
        }
    }

    fn finish(
        &self,
        checkpointer: &mut Checkpointer,
        mut running: Running,
        ledger: Ledger,
        now: u64,
    ) {
        let lane = self.checkpoint_lane();
        self.note_records(&mut running.tails, running.captured, running.moved, &ledger);
        for (part, mark) in running.sealed {
            *part.sealed.lock() = mark;
            part.index.write().forget_before(mark);
        }
        for (part, mark) in running.live_sealed {
            *part.live_sealed.lock() = mark;
        }
        let is_named = |n: &&NewSegment| ledger.segments.iter().any(|s| s.file == n.held.file);
        // Of a database that was dropped meanwhile.
        let unnamed = running.segments.iter().filter(|n| !is_named(n));
        for segment in unnamed {
            let path = segment.held.file.index_path();
            drop(self.device.submit(lane, Op::Remove { path }));
        }
        let renewed: Vec<_> = running
            .segments
            .iter()
            .map(|n| Arc::clone(&n.part))
            .collect();
        self.place_segments(running.segments);
        self.silence_rows(&renewed);
        self.drop_spent_deletes(&running.lsn_from);
        self.block.close_dropped(lane);
        let remove = |path: String| drop(self.device.submit(lane, Op::Remove { path }));
        // What the superblock before the last one named and the last one does not is needed by nobody now.
        let old = std::mem::replace(
            &mut checkpointer.previous,
            std::mem::replace(&mut checkpointer.current, ledger),
        );
        let named = |files: fn(&Ledger) -> &Vec<NamedFile>, file: &NamedFile| {
            files(&checkpointer.previous).contains(file)
                || files(&checkpointer.current).contains(file)
        };
        for file in old.tails.iter().filter(|f| !named(|l| &l.tails, f)) {
            remove(file.tails_path());
        }
        for file in old.series.iter().filter(|f| !named(|l| &l.series, f)) {
            remove(file.series_path());
        }
        let kept = [&checkpointer.previous, &checkpointer.current];
        let is_kept = |s: &NamedSegment| kept.iter().any(|l| l.segments.contains(s));
        for segment in old.segments.iter().filter(|s| !is_kept(s)) {
            remove(segment.file.index_path());
        }
        if let Some(seq) = running.root.seq.checked_sub(2).filter(|seq| *seq > 0) {
            remove(alluvium_block::manifest_path(seq));
        }
        // Files of dropped databases go when both superblocks are past them, and are forgotten when the directory
        // was synced after that: until then a power cut may bring them back.
        let gone = std::mem::take(&mut checkpointer.removed);
        checkpointer.removals.retain(|path| !gone.contains(path));
        for path in &checkpointer.previous.removals {
            if !gone.contains(path) {
                remove(path.clone());
                checkpointer.removed.push(path.clone());
            }
        }
        if !checkpointer.removed.is_empty() {
            self.block.note_removal();
        }
        if checkpointer.previous.incarnation == self.incarnation {
            for (shard, from) in self.shards.iter().zip(&checkpointer.previous.redo_from) {
                shard.state.lock().log.trim(from.saturating_sub(1));
            }
            if !std::mem::replace(&mut checkpointer.old_streams_removed, true) {
                self.remove_old_streams(lane);
            }
        }
        checkpointer.root = running.root;
        checkpointer.lacks_room = false;
        checkpointer.completed_before =
            std::mem::replace(&mut checkpointer.completed, running.number);
        checkpointer.last_ended_ns = now;
        checkpointer.last_duration_ns = self.clock.monotonic_ns() - checkpointer.begun_ns;
        checkpointer.wakers.drain(..).for_each(Waker::wake);
    }

    /// Streams of earlier lives, which both superblocks are past.
    fn remove_old_streams(&self, lane: Lane) {
        let Ok(streams) = alluvium_wal::list_streams(self.device.as_ref()) else {
            return;
        };
        let old = |s: &&StreamInfo| s.incarnation < self.incarnation;
        for stream in streams.iter().filter(old) {
            alluvium_wal::remove_stream(self.device.as_ref(), lane, stream);
        }
    }

    /// A checkpoint failed: what it captured is dirty again. No room is tried again later; anything else is
    /// the end of acknowledging.
    fn abandon(&self, checkpointer: &mut Checkpointer, running: Running, error: IoError, now: u64) {
        let reason = error.to_string();
        // A failed sync is never tried again, whatever its reason: the next one would only seem to cover what
        // this one lost.
        let repeatable = match &running.step {
            Step::Capture { .. } | Step::Settle { .. } => true,
            Step::Sync { .. } => false,
            Step::Commit { commit, .. } => commit.may_be_repeated(),
        };
        let full = error.kind == IoErrorKind::NoSpace && repeatable;
        let left = match running.step {
            Step::Capture {
                list: Some(list), ..
            } => list,
            _ => Vec::new(),
        };
        // Before the others are marked: those that the walk has not come by are marked, but on no list.
        let unseen = running.aside.into_iter();
        let unseen: Vec<_> = unseen.filter(|(_, s)| s.lock().dirty).collect();
        let captured = running.captured.into_iter();
        let captured = captured.flat_map(|c| {
            let series = c.series.into_iter();
            series.map(move |(series, _)| (Arc::clone(&c.database), series))
        });
        for (database, series) in captured.chain(left).chain(unseen) {
            let shard = self.shard_of(series.place.partition);
            let mut shard = shard.state.lock();
            let mut state = series.lock();
            // Those still to be captured are marked, but no longer on the list.
            state.dirty = true;
            drop(state);
            shard.dirty.push((database, series));
        }
        let files = [Some(running.tails), running.series];
        let segments = running.segments.into_iter().map(|new| new.file);
        let files = files.into_iter().flatten().chain(segments);
        checkpointer
            .abandoned
            .extend(files.map(|f| f.abandon(full)));
        let error = if full {
            StoreError::NoRoom { reason }
        } else {
            let error = StoreError::Failed { reason };
            self.fail(error.clone());
            error
        };
        checkpointer.lacks_room = full;
        checkpointer.retry_at_ns = now + 1_000_000_000;
        checkpointer.last_error = Some((running.number, error));
        checkpointer.wakers.drain(..).for_each(Waker::wake);
    }
}

enum Progress {
    Again,
    Waiting,
    Done(Box<Ledger>),
}

fn no_space(what: &str) -> IoError {
    IoError::new(
        "write",
        what,
        std::io::Error::from(std::io::ErrorKind::StorageFull),
    )
}

const _: () = assert!(PARTITION_COUNT <= 16, "part tags mask partitions by 15");

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
