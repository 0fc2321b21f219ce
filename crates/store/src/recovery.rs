//! From a superblock to a running store: definitions, tails, then redo of the log.
//!
//! Volumes are rolled back by forgetting: the manifest knows the next page of every extent, pages beyond are
//! of a lost life and are overwritten. The log of the lives since is redone, lives in order, streams of one
//! life side by side: their partitions are disjoint. A point is applied only if its batch is newer than the
//! series' tail. Nothing that a root names is written over before the first checkpoint of the new life, so a crash in here repeats.

mod loading;
mod redo;
mod tails;

use alluvium_block::Root;
use alluvium_io::Lane;
use alluvium_types::DatabaseId;
use alluvium_wal::{StreamInfo, sync_stream};
use parking_lot::Mutex;

use self::loading::{complete_tables, load_catalog, load_definitions, load_tombstones};
use self::redo::{redo_catalog, redo_stream};
use self::tails::load_tails;
use crate::error::OpenError;
use crate::ledger::Ledger;
use crate::open::{StoreInner, salt};

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The store had been closed.
    pub clean: bool,
    /// Series with a record in the tails files.
    pub series_loaded: u64,
    /// Those of them that were left in the tails files.
    pub series_left: u64,
    /// Log frames read.
    pub frames: u64,
    /// Log sections redone.
    pub sections: u64,
    /// Points in them, those that the tails had included.
    pub points: u64,
    /// Log bytes read.
    pub log_bytes: u64,
    /// Streams that ended in a torn frame.
    pub torn_streams: u64,
    /// Pages of tails files that did not hold, or could not be read, and were made again.
    pub tails_pages_mended: u64,
    /// What did not hold of the newest checkpoint, if the store was opened from the one before it and the log since.
    pub newest_damaged: Option<String>,
    /// Files removed that no superblock named.
    pub files_swept: u64,
    /// Nanoseconds from the call of open to a store that serves.
    pub duration_ns: u64,
}

/// Brings `inner`, opened on the manifest's volumes, to what the checkpoint has. Nothing is written.
pub(crate) fn load(
    inner: &StoreInner,
    root: &Root,
    ledger: &Ledger,
) -> Result<RecoveryReport, OpenError> {
    let mut report = RecoveryReport {
        clean: root.clean,
        ..RecoveryReport::default()
    };
    load_catalog(inner, &ledger.catalog)?;
    // Series that deletes touch stay in memory.
    load_tombstones(inner, ledger)?;
    if inner.config.redo_threads_max > 1 {
        // Definitions fill the index, tails the tables of series.
        std::thread::scope(|scope| {
            let tails = scope.spawn(|| load_tails(inner, ledger, &mut report));
            load_definitions(inner, ledger)?;
            tails.join().expect("loading does not panic")
        })?;
    } else {
        load_definitions(inner, ledger)?;
        load_tails(inner, ledger, &mut report)?;
    }
    complete_tables(inner)?;
    // Directories and filters of segments, which stay in memory as what they were read into.
    inner.index_cache.shrink(0);
    let databases = inner.catalog.read().all();
    databases.iter().for_each(|d| StoreInner::raise_barriers(d));
    Ok(report)
}

/// Goes on to the state of everything acknowledged.
pub(crate) fn redo(
    inner: &StoreInner,
    ledger: &Ledger,
    streams: &[StreamInfo],
    report: RecoveryReport,
) -> Result<RecoveryReport, OpenError> {
    let salt = salt(inner.instance);
    let from = |stream: &StreamInfo| match stream.incarnation.cmp(&ledger.incarnation) {
        std::cmp::Ordering::Less => u64::MAX,
        std::cmp::Ordering::Equal => ledger
            .redo_from
            .get(usize::from(stream.shard))
            .copied()
            .unwrap_or(u64::MAX),
        std::cmp::Ordering::Greater => 0,
    };
    let needed: Vec<(&StreamInfo, u64)> = streams
        .iter()
        .map(|s| (s, from(s)))
        .filter(|(_, from)| *from != u64::MAX)
        .collect();
    check_streams(ledger, streams)?;
    for (stream, from) in &needed {
        sync_stream(inner.device.as_ref(), Lane(0), stream)?;
        redo_catalog(inner, stream, salt, *from)?;
    }
    // A drop cut between the catalogue and the volumes leaves volumes of nobody.
    for id in inner.block.databases() {
        if inner.catalog.read().by_id(id).is_none() {
            let paths = inner.forget_volumes(id);
            inner.checkpointer.lock().add_removals(paths);
        }
    }
    let mut lives: Vec<u32> = needed.iter().map(|(s, _)| s.incarnation).collect();
    lives.dedup();
    let report = Mutex::new(report);
    for life in lives {
        let of_life: Vec<_> = needed
            .iter()
            .filter(|(s, _)| s.incarnation == life)
            .collect();
        for together in of_life.chunks(inner.config.redo_threads_max.max(1)) {
            if let [(stream, from)] = together {
                redo_stream(inner, stream, salt, *from, &report)?;
                continue;
            }
            std::thread::scope(|scope| {
                let threads: Vec<_> = together
                    .iter()
                    .map(|(stream, from)| {
                        scope.spawn(|| redo_stream(inner, stream, salt, *from, &report))
                    })
                    .collect();
                threads
                    .into_iter()
                    .try_for_each(|t| t.join().expect("redo does not panic"))
            })?;
        }
    }
    Ok(report.into_inner())
}

/// A shard that had frames when the checkpoint captured it keeps a segment at least: without one, whatever was
/// acknowledged since would be missing without a word.
pub(crate) fn check_streams(ledger: &Ledger, streams: &[StreamInfo]) -> Result<(), OpenError> {
    for (shard, from) in ledger.redo_from.iter().enumerate() {
        let shard = shard as u16;
        let is_it = |s: &&StreamInfo| s.incarnation == ledger.incarnation && s.shard == shard;
        let there = streams.iter().find(is_it);
        if *from > 1 && there.is_none_or(|s| s.segments.is_empty()) {
            let stream = StreamInfo {
                incarnation: ledger.incarnation,
                shard,
                segments: Vec::new(),
                free: Vec::new(),
            };
            return Err(alluvium_wal::LogError::MissingSegment {
                stream: stream.name(),
                segment: 1,
            }
            .into());
        }
    }
    Ok(())
}

impl StoreInner {
    /// Forgets the volumes of a dropped database. Returns their paths.
    pub(crate) fn forget_volumes(&self, database: DatabaseId) -> Vec<String> {
        self.merger.lock().forget_database(database);
        for shard in &self.shards {
            let mut state = shard.state.lock();
            state.appender.forget_database(database);
            // Or its memory would stay until the next checkpoint takes the list.
            state.dirty.retain(|(d, _)| d.id != database);
            state.several_runs.retain(|(d, _)| d.id != database);
        }
        self.block.drop_database(database)
    }
}
