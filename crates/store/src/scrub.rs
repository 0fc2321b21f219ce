//! Looks for rot while the store is open: every page that a series leads to, the headers of volumes, the files that the
//! superblock names, and the frames of the log that are durable and still needed, read from the device at a set rate, round
//! after round. Of what there is a copy or a mending file of, what does not hold is written anew.
//!
//! A page whose run is written anew meanwhile does not count any more, nor does a frame that was trimmed. The log of an
//! earlier life, which an opening has read and which goes with the first checkpoint, is not looked at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alluvium_block::{OtherSlot, load_roots, volume_path};
use alluvium_io::{Device, IoError};
use alluvium_nbtree::{PageCheck, ReadStats};
use alluvium_types::PAGE_SIZE;
use alluvium_wal::StreamCheck;
use hashbrown::HashSet;
use parking_lot::Mutex;

use crate::copies::Copies;
use crate::database::Store;
use crate::databases::DatabaseState;
use crate::ledger::NamedFile;
use crate::open::{StoreInner, salt};
use crate::shard::Shard;
use crate::space::SeriesWalk;
use crate::tails_check::TailsCheck;
use crate::verify::{FINDINGS_MAX, Finding};

/// Pages of one step.
const STEP_PAGES: usize = 64;
/// Bytes of the log of one step.
const STEP_LOG_BYTES: u64 = 1 << 20;
/// Series looked at in one step, however few pages they have.
const STEP_SERIES: usize = 256;

/// The scrubber of an open store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// Rounds through everything since the store was opened.
    pub rounds: u64,
    /// Pages of this round so far.
    pub pages: u64,
    /// Runs of this round so far.
    pub runs: u64,
    /// Files of this round so far.
    pub files: u64,
    /// Headers of volumes of this round so far.
    pub volumes: u64,
    /// Frames of the log of this round so far.
    pub frames: u64,
    /// Bytes read since the store was opened.
    pub bytes: u64,
    /// Pages of the last whole round.
    pub round_pages: u64,
    /// What this round has found, and the last one where this one has not been yet; the first [`FINDINGS_MAX`] by place.
    pub findings: Vec<Finding>,
}

/// A file and the one that it can be made whole of.
enum Pair {
    Copies(Copies),
    Tails(TailsCheck),
}

impl Pair {
    fn findings(&self) -> Vec<(String, String)> {
        match self {
            Self::Copies(copies) => copies.findings(),
            Self::Tails(tails) => tails.findings(),
        }
    }

    fn repair(&mut self, device: &dyn Device) -> Result<(), IoError> {
        match self {
            Self::Copies(copies) => copies.repair(device),
            Self::Tails(tails) => tails.repair(device),
        }
    }
}

/// One round.
#[derive(Debug)]
struct Round {
    files: VecDeque<(String, NamedFile)>,
    /// Files that were looked at before their turn.
    hurried: HashSet<String>,
    volumes: VecDeque<u32>,
    streams: Vec<StreamCheck>,
    databases: VecDeque<Arc<DatabaseState>>,
    walk: SeriesWalk,
    runs: Vec<(u32, PageCheck)>,
    found: BTreeMap<String, Finding>,
    pages: u64,
    runs_begun: u64,
    files_read: u64,
    volumes_read: u64,
    frames: u64,
    bytes: u64,
}

impl Round {
    fn begin(store: &StoreInner) -> Self {
        let mut round = Self {
            files: store.checkpointer.lock().plain_files().into(),
            hurried: HashSet::new(),
            volumes: store.block.headed_volumes().into(),
            streams: store.stream_checks(),
            databases: store.catalog.read().all().into(),
            walk: SeriesWalk::default(),
            runs: Vec::new(),
            found: BTreeMap::new(),
            pages: 0,
            runs_begun: 0,
            files_read: 0,
            volumes_read: 0,
            frames: 0,
            bytes: 0,
        };
        round.check_root(store);
        round
    }

    fn find(&mut self, finding: Finding) {
        if self.found.len() < FINDINGS_MAX {
            self.found.insert(finding.place.clone(), finding);
        }
    }

    /// Both slots, if no commit writes one just now.
    fn check_root(&mut self, store: &StoreInner) {
        let before = store.checkpointer.lock().at_rest();
        let roots = load_roots(store.device.as_ref());
        if before.is_none() || store.checkpointer.lock().at_rest() != before {
            return;
        }
        let what = match roots {
            Ok(Some(roots)) if roots.other != OtherSlot::Damaged => return,
            Ok(Some(_)) => "a slot, or the manifest it names, is damaged".to_owned(),
            Ok(None) => "it is gone".to_owned(),
            Err(error) => error.to_string(),
        };
        self.find(Finding {
            place: "superblock".into(),
            what,
            lost: None,
        });
    }

    /// One file. It may have been removed since the round began: then it does not count.
    fn check_file(&mut self, store: &StoreInner, path: String, file: NamedFile) {
        let device = store.device.as_ref();
        self.files_read += 1;
        self.bytes += file.len;
        // Each with the one beside it.
        let is_segment = file.index_paths()[0] == path;
        let mut pair = if is_segment {
            Pair::Copies(Copies::of_segment(device, file))
        } else if file.series_paths()[0] == path {
            Pair::Copies(Copies::of_definitions(device, file))
        } else if file.is_tails(&path) {
            Pair::Tails(TailsCheck::of(device, file, |_| {}))
        } else {
            return;
        };
        let mut found = pair.findings();
        let named = store.checkpointer.lock().plain_files();
        if found.is_empty() || !named.contains(&(path, file)) {
            return;
        }
        if let Pair::Copies(copies) = &pair
            && is_segment
            && copies.is_lost()
        {
            store.index_cache.note_broken(file.seq);
        }
        if let Err(error) = pair.repair(device) {
            let says = format!(", and cannot be written anew: {error}");
            found.iter_mut().for_each(|(_, what)| what.push_str(&says));
        }
        for (place, what) in found {
            self.find(Finding {
                place,
                what,
                lost: None,
            });
        }
    }

    /// Segments and tails files that a reader found to be rotten come first.
    fn hurry(&mut self, store: &StoreInner) {
        let segments = store.index_cache.take_suspects();
        let tails = std::mem::take(&mut *store.tail_files.mended.suspects.lock());
        if segments.is_empty() && tails.is_empty() {
            return;
        }
        let named = store.checkpointer.lock().plain_files();
        for (path, file) in named {
            let is_suspect = segments.contains(&file.seq) && path == file.index_paths()[0]
                || tails.contains(&file.seq) && file.is_tails(&path);
            // Once a round: one that cannot be mended is met again and again.
            if is_suspect && self.hurried.insert(path.clone()) {
                self.files.push_front((path, file));
            }
        }
    }

    fn next_database(&mut self) {
        self.databases.pop_front();
        self.walk = SeriesWalk::default();
    }

    /// Headers of some volumes.
    fn check_volumes(&mut self, store: &StoreInner) {
        let many = self.volumes.len().min(STEP_PAGES);
        for id in self.volumes.drain(..many).collect::<Vec<_>>() {
            self.volumes_read += 1;
            self.bytes += PAGE_SIZE as u64;
            if let Err(error) = store.block.check_volume_header(id) {
                self.find(Finding {
                    place: volume_path(id),
                    what: error.to_string(),
                    lost: None,
                });
            }
        }
    }

    /// A piece of a stream of the log.
    fn check_stream(&mut self, store: &StoreInner, mut stream: StreamCheck) {
        let (frames, bytes) = (stream.frames, stream.bytes);
        let read = stream.step(store.device.as_ref(), STEP_LOG_BYTES);
        self.frames += stream.frames - frames;
        self.bytes += stream.bytes - bytes;
        match read {
            Ok(false) => {}
            Ok(true) => self.streams.push(stream),
            Err(error) => {
                let shard = usize::from(stream.shard());
                let shard = store.shards.get(shard);
                let trimmed = shard.map_or(0, |s| s.state.lock().log.trimmed_seq());
                if trimmed >= stream.needed() {
                    // Perhaps it was trimmed while it was read.
                    stream.restart(trimmed + 1);
                    self.streams.push(stream);
                    return;
                }
                self.find(Finding {
                    place: format!("wal/{}", stream.name()),
                    what: error.to_string(),
                    lost: None,
                });
            }
        }
    }

    /// Reads a file, some headers, a piece of the log, or about [`STEP_PAGES`] pages. Returns whether there is more.
    fn step(&mut self, store: &StoreInner) -> bool {
        self.hurry(store);
        if let Some(stream) = self.streams.pop() {
            self.check_stream(store, stream);
            return true;
        }
        if !self.volumes.is_empty() {
            self.check_volumes(store);
            return true;
        }
        if let Some((path, file)) = self.files.pop_front() {
            self.check_file(store, path, file);
            return true;
        }
        let mut stats = ReadStats::default();
        let mut looked = 0;
        let read = |stats: &ReadStats| {
            stats.leaf_pages + stats.inner_pages + stats.overflow_pages + stats.bad_pages
        };
        while (read(&stats) as usize) < STEP_PAGES && looked < STEP_SERIES {
            if let Some((database, mut run)) = self.runs.pop() {
                let left = STEP_PAGES - read(&stats) as usize;
                let mut found = Vec::new();
                let mut note = |error| found.push(Finding::of_page(database, &error));
                // One that was written anew meanwhile does not count any more.
                if let Ok(true) = run.step(&store.block, &mut stats, left, &mut note) {
                    self.runs.push((database, run));
                }
                found.into_iter().for_each(|f| self.find(f));
                continue;
            }
            let Some(database) = self.databases.front() else {
                break;
            };
            if database.is_dropped() {
                self.next_database();
                continue;
            }
            let id = database.id.0;
            looked += 1;
            match self.walk.next(store, database) {
                Ok(None) => {
                    self.next_database();
                }
                Ok(Some(series)) => {
                    let runs = series.lock().snapshots().into_iter();
                    self.runs.extend(runs.map(|run| (id, PageCheck::new(run))));
                }
                Err(error) => {
                    let (partition, row) = self.walk.place();
                    self.find(Finding {
                        place: format!("record of database {id}, partition {partition}, row {row}"),
                        what: error.to_string(),
                        lost: None,
                    });
                }
            }
            self.runs_begun += self.runs.len() as u64;
        }
        self.pages += read(&stats);
        self.bytes += read(&stats) * PAGE_SIZE as u64;
        !self.databases.is_empty() || !self.runs.is_empty()
    }
}

/// What the scrubber remembers.
#[derive(Debug, Default)]
pub(crate) struct Scrubber {
    round: Option<Box<Round>>,
    last: BTreeMap<String, Finding>,
    totals: ScrubStatus,
}

impl Scrubber {
    fn end(&mut self, round: Round) {
        self.totals.rounds += 1;
        self.totals.bytes += round.bytes;
        self.totals.round_pages = round.pages;
        self.last = round.found;
    }

    pub(crate) fn status(&self) -> ScrubStatus {
        let mut status = self.totals.clone();
        let mut findings = self.last.clone();
        if let Some(round) = &self.round {
            status.pages = round.pages;
            status.runs = round.runs_begun;
            status.files = round.files_read;
            status.volumes = round.volumes_read;
            status.frames = round.frames;
            status.bytes += round.bytes;
            findings.extend(round.found.clone());
        }
        status.findings = findings.into_values().take(FINDINGS_MAX).collect();
        status
    }
}

impl StoreInner {
    /// Checks of what is durable of the log at this moment.
    fn stream_checks(&self) -> Vec<StreamCheck> {
        let of_shard = |(number, shard): (usize, &Shard)| {
            let state = shard.state.lock();
            let (needed, durable) = (state.log.trimmed_seq() + 1, state.log.durable_seq());
            let stream = (self.incarnation, number as u16);
            StreamCheck::new(stream, salt(self.instance), needed, durable)
        };
        self.shards.iter().enumerate().map(of_shard).collect()
    }
}

impl Store {
    /// Moves the scrubber on by a file or some pages and says how long to pause until the next step, so that it keeps to
    /// `scrub_bytes_per_s`, and `scrub_pause_ms` between rounds. Waits for the device: it belongs to a thread of its own.
    /// With a rate of 0 it does nothing.
    pub fn scrub_step(&self) -> Duration {
        let inner = &self.0;
        let rate = inner.config.scrub_bytes_per_s;
        if rate == 0 || inner.is_closing() {
            return Duration::from_millis(inner.config.scrub_pause_ms.max(1));
        }
        let taken = inner.scrubber.lock().round.take();
        let mut round = taken.unwrap_or_else(|| Box::new(Round::begin(inner)));
        let before = round.bytes;
        let more = round.step(inner);
        let bytes = round.bytes - before;
        let mut scrubber = inner.scrubber.lock();
        if more {
            scrubber.round = Some(round);
            drop(scrubber);
            return Duration::from_nanos(
                (u128::from(bytes) * 1_000_000_000 / u128::from(rate)) as u64,
            );
        }
        scrubber.end(*round);
        Duration::from_millis(inner.config.scrub_pause_ms)
    }

    /// A whole round at once, without pauses, beside whatever the scrubber does. Waits.
    pub fn scrub_round(&self) -> ScrubStatus {
        let inner = &self.0;
        let mut round = Round::begin(inner);
        while round.step(inner) {}
        let (runs, files, pages) = (round.runs_begun, round.files_read, round.pages);
        let (volumes, frames) = (round.volumes_read, round.frames);
        let mut scrubber = inner.scrubber.lock();
        let findings = round.found.values().cloned().collect();
        scrubber.end(round);
        ScrubStatus {
            pages,
            runs,
            files,
            volumes,
            frames,
            findings,
            ..scrubber.totals.clone()
        }
    }

    /// What the scrubber has found so far.
    pub fn scrub_status(&self) -> ScrubStatus {
        self.0.scrubber.lock().status()
    }
}

/// Shared by whoever drives the scrubber and whoever asks.
pub(crate) type SharedScrubber = Mutex<Scrubber>;
