//! A shard: the state that writing to its partitions needs, under one lock that is never held across I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_block::Appender;
use alluvium_io::Lane;
use alluvium_nbtree::{Encoder, PageWriter};
use alluvium_types::{DatabaseId, Lsn, PARTITION_COUNT, Partition, ValueRef};
use alluvium_wal::{LogWriter, PointGroup, SectionBuilder, Tombstone};
use parking_lot::Mutex;

use crate::config::StoreConfig;
use crate::databases::DatabaseState;
use crate::error::{DeleteError, StoreError, WriteError};
use crate::late::LateRules;
use crate::partition::PartitionState;
use crate::series::{Series, Taken};

/// Series of a table from which on they are thought not to be in the cache.
const PREFETCH_SERIES: usize = 8192;
/// Values ahead of which memory is asked for: the series, and half as far its tail.
const PREFETCH_AHEAD: usize = 32;

/// Bytes that a log should have room for.
const LOG_BYTES_MIN: u64 = 16 << 10;

/// Points by what became of them, since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct PointCounters {
    pub accepted: AtomicU64,
    pub late: AtomicU64,
    pub repeats: AtomicU64,
    pub conflicts: AtomicU64,
    pub widened: AtomicU64,
}

/// A shard and its lane of the device.
#[derive(Debug)]
pub(crate) struct Shard {
    pub lane: Lane,
    pub state: Mutex<ShardState>,
}

/// What is behind a shard's lock.
#[derive(Debug)]
pub(crate) struct ShardState {
    pub appender: Appender,
    pub log: LogWriter,
    pub encoder: Encoder,
    pub section: SectionBuilder,
    /// Last position given, by partition; only those of this shard move.
    pub last_lsn: [Lsn; PARTITION_COUNT],
    /// Series touched since the last checkpoint took this list.
    pub dirty: Vec<(Arc<DatabaseState>, Arc<Series>)>,
    /// Heap of their open tails when they came there, bytes: about twice what the next checkpoint writes of them.
    pub dirty_heap_bytes: u64,
    /// Series that have got a second run since the merger took this list.
    pub several_runs: Vec<(Arc<DatabaseState>, Arc<Series>)>,
    /// When unflushed frames of interval databases must be flushed, monotonic nanoseconds.
    pub flush_due_ns: Option<u64>,
    /// When the last frame was pushed, for idle frames.
    pub last_push_ns: u64,
}

impl ShardState {
    /// The next position of a partition.
    pub(crate) fn next_lsn(&mut self, partition: Partition) -> Lsn {
        let last = &mut self.last_lsn[usize::from(partition.0)];
        last.0 += 1;
        *last
    }

    /// Refuses when the device is full, behind, or no longer trusted.
    pub(crate) fn admit(&self, config: &StoreConfig) -> Result<(), WriteError> {
        if let Some(error) = self.log.failure() {
            return Err(StoreError::Failed {
                reason: error.to_string(),
            }
            .into());
        }
        if let Some(error) = self.appender.failure() {
            return Err(StoreError::Failed {
                reason: error.to_string(),
            }
            .into());
        }
        if self.log.is_full() || self.appender.is_full() {
            return Err(WriteError::Full);
        }
        let log = self.log.pending_bytes();
        let pages = self.appender.queued_pages();
        if log > config.log_backlog_bytes_max || pages > config.page_backlog_max {
            let pending_bytes = (log + pages * alluvium_types::PAGE_SIZE) as u64;
            return Err(WriteError::Backlog { pending_bytes });
        }
        Ok(())
    }

    /// Refuses what the log cannot take. A delete writes no page: there need be no room for one.
    pub(crate) fn admit_delete(
        &self,
        config: &StoreConfig,
        list: &[Tombstone],
    ) -> Result<(), DeleteError> {
        let log = self.log.failure().map(ToString::to_string);
        let failure = log.or_else(|| self.appender.failure().map(ToString::to_string));
        if let Some(reason) = failure {
            return Err(StoreError::Failed { reason }.into());
        }
        // The next segment is asked for when a quarter of one is left, and where it was refused so are writes: the
        // quarter is for deletes.
        if self.log.is_full() && self.log.room() < section_bytes(list) {
            return Err(DeleteError::Full);
        }
        let pending = self.log.pending_bytes();
        if pending > config.log_backlog_bytes_max {
            let pending_bytes = pending as u64;
            return Err(DeleteError::Backlog { pending_bytes });
        }
        Ok(())
    }

    /// Whether what waits, or the next delete, finds no room in the log.
    pub(crate) fn is_log_stuck(&self) -> bool {
        self.log.is_full() && self.log.room() < LOG_BYTES_MIN
    }

    /// Appends the points of one group to their series: the one path of live writes and of redo.
    ///
    /// Every (row, field) must be in the partition's table; those that are not are skipped and counted in the result, so
    /// that redo can refuse a log that speaks of what nothing defines.
    pub(crate) fn apply(
        &mut self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        group: &PointGroup,
        lsn: Lsn,
        rules: LateRules,
        counters: &PointCounters,
    ) -> usize {
        self.encoder.set_compression(database.settings.compression);
        let mut out = PageWriter::new(&mut self.appender, &mut self.encoder, database.id, lsn);
        out.window_bytes = rules.window_bytes;
        let table = part.table.read();
        let width = group.fields.len();
        let (mut late, mut repeats, mut missing) = (0, 0, 0);
        let is_large = table.row_count() as usize * width > PREFETCH_SERIES;
        for (line, (row, time)) in group.rows.iter().zip(&group.times).enumerate() {
            if is_large {
                for (field, _) in &group.fields {
                    let ahead = |steps: usize| {
                        let row = group.rows.get(line + 1 + steps / width)?;
                        table.get(*row, *field)
                    };
                    if let Some(series) = ahead(PREFETCH_AHEAD) {
                        series.prefetch();
                    }
                    if let Some(series) = ahead(PREFETCH_AHEAD / 2) {
                        series.prefetch_tail();
                    }
                }
            }
            let values = group
                .bits
                .get(line * width..(line + 1) * width)
                .unwrap_or_default();
            for ((field, kind), bits) in group.fields.iter().zip(values) {
                let Some(series) = table.get(*row, *field) else {
                    missing += 1;
                    continue;
                };
                let value = if kind.is_numeric() {
                    ValueRef::from_bits(*kind, *bits)
                } else {
                    ValueRef::Str(group.strings.get(*bits as usize).unwrap_or_default())
                };
                let mut state = series.lock();
                if state.has_batch(lsn) {
                    // The checkpoint this state came from has the whole batch.
                    continue;
                }
                match state.push(&mut out, *time, value, part, rules.points_max) {
                    Taken::InOrder => {}
                    Taken::Late => late += 1,
                    Taken::Repeat => repeats += 1,
                }
                state.note_ripeness();
                if state.wants_merger() {
                    self.several_runs
                        .push((Arc::clone(database), Arc::clone(series)));
                }
                if !state.dirty {
                    state.dirty = true;
                    self.dirty_heap_bytes += state.heap_bytes() as u64;
                    self.dirty.push((Arc::clone(database), Arc::clone(series)));
                }
            }
        }
        if out.heap != 0 {
            database.charge(out.heap);
        }
        counters
            .accepted
            .fetch_add(group.bits.len() as u64, Ordering::Relaxed);
        if late > 0 {
            counters.late.fetch_add(late, Ordering::Relaxed);
        }
        if repeats > 0 {
            counters.repeats.fetch_add(repeats, Ordering::Relaxed);
        }
        missing
    }
}

/// Bytes of log that a delete takes.
fn section_bytes(list: &[Tombstone]) -> u64 {
    let mut section = SectionBuilder::default();
    section.begin(DatabaseId(0), Partition(0), Lsn(u64::MAX));
    section.delete(list);
    section.finish().len() as u64
}

/// Which shard owns a partition.
pub(crate) fn shard_of(partition: Partition, shards: usize) -> usize {
    usize::from(partition.0) % shards
}
