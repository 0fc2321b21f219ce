//! What a store says of itself.

use std::sync::atomic::Ordering;

use alluvium_block::{Role, SetUsage};
use alluvium_types::{ByteCount, Owner, PAGE_SIZE};

use crate::believed_clock::ClockStatus;
use crate::database::Store;
use crate::databases::DatabaseState;
use crate::governor::GovernorStatus;
use crate::merging::MergingStatus;
use crate::open::StoreInner;
use crate::recovery::RecoveryReport;
use crate::retention_settings::Retention;
use crate::space::SpaceStatus;

/// One database in [`Status`].
#[derive(Debug, Clone)]
pub struct DatabaseStatus {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its durability level.
    pub durability: String,
    /// What its blocks prefer.
    pub compression: String,
    /// Series.
    pub series: u64,
    /// Deletes that still hide something.
    pub tombstones: u64,
    /// Leaf and overflow pages.
    pub leaves: SetUsage,
    /// Inner pages.
    pub inners: SetUsage,
    /// What its pages take, those of dead ones that were not given back included.
    pub allocated: ByteCount,
    /// What of it lives, as far as is known without looking.
    pub live: ByteCount,
    /// What it keeps and what is gone.
    pub retention: RetentionStatus,
}

/// Retention of one database in [`Status`].
#[derive(Debug, Clone)]
pub struct RetentionStatus {
    /// Its settings.
    pub settings: Retention,
    /// Points before this instant have expired, nanoseconds.
    pub points_from: Option<i64>,
    /// Aggregates before this instant have expired, nanoseconds.
    pub aggregates_from: Option<i64>,
    /// Volumes freed since opening.
    pub volumes_freed: u64,
    /// What their pages took.
    pub bytes_freed: ByteCount,
}

impl RetentionStatus {
    fn of(database: &DatabaseState) -> Self {
        let cut = database.retention.cut();
        let known = |time: i64| (time != i64::MIN).then_some(time);
        let (volumes_freed, bytes_freed) = database.retention.freed_so_far();
        Self {
            settings: database.retention.settings(),
            points_from: known(cut.points),
            aggregates_from: known(cut.aggregates),
            volumes_freed,
            bytes_freed: ByteCount(bytes_freed),
        }
    }
}

/// The part of the series index that is in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexStatus {
    /// Segments of all partitions.
    pub segments: u64,
    /// Rows in them.
    pub sealed_rows: u64,
    /// Rows in all.
    pub rows: u64,
    /// Sealed rows that are found through their segment only.
    pub silent_rows: u64,
    /// Times that a row fell silent since opening; those that an opening found so are not among them.
    pub silenced: u64,
    /// Times that a write found a silent row again since opening.
    pub returned: u64,
    /// Segments made of rows in memory since opening.
    pub seals: u64,
    /// Segments made of others since opening.
    pub merges: u64,
    /// Merges that gave up because a segment could not be read.
    pub failed_merges: u64,
    /// Blocks read from the copy of a segment because the first file could not be read or does not hold.
    pub copies_read: u64,
    /// Segments of which a block held in neither file, and that were made anew.
    pub mended: u64,
    /// Blocks found in memory.
    pub cache_hits: u64,
    /// Blocks read from the device.
    pub cache_misses: u64,
}

/// A store at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// Backend of the device and why.
    pub backend: String,
    /// Process lives of this data directory.
    pub incarnation: u32,
    /// The commit the superblock names.
    pub superblock_seq: u64,
    /// Memory by owner.
    pub memory: Vec<(&'static str, ByteCount)>,
    /// The budget.
    pub memory_limit: ByteCount,
    /// What keeps within it.
    pub governor: GovernorStatus,
    /// Databases by id.
    pub databases: Vec<DatabaseStatus>,
    /// What retention makes of the clock.
    pub clock: ClockStatus,
    /// Live log bytes, all shards.
    pub log: ByteCount,
    /// Log bytes waiting for the device.
    pub log_pending: ByteCount,
    /// Pages waiting for the device.
    pub pages_pending: u64,
    /// Bytes of the checkpointed tails.
    pub tails: ByteCount,
    /// Bytes of the mending files beside them.
    pub mending_files: ByteCount,
    /// Pages of tails that did not hold, or could not be read, and were made again for a reader or the opening.
    pub tails_pages_mended: u64,
    /// Bytes of the checkpointed definitions.
    pub definitions: ByteCount,
    /// Checkpoints completed since opening.
    pub checkpoints: u64,
    /// Nanoseconds the last one took.
    pub checkpoint_duration_ns: u64,
    /// What opening found.
    pub recovery: RecoveryReport,
    /// Points taken since opening, redone ones included.
    pub points: u64,
    /// Of them: came after a newer one.
    pub late_points: u64,
    /// Of them: repeated the newest point bit for bit.
    pub repeated_points: u64,
    /// Values that opened a sibling of another kind.
    pub kind_conflicts: u64,
    /// Integers stored as floats, exactly.
    pub widened_values: u64,
    /// Pages read from the device, served from memory, written, and the writes they took.
    pub pages_read: u64,
    /// Pages served from memory.
    pub page_cache_hits: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Vectored writes they took.
    pub page_write_batches: u64,
    /// Reads that met a damaged page, of one page as often as it was read.
    pub bad_page_reads: u64,
    /// Addresses of the first [`BAD_PAGES_MAX`](alluvium_block::BAD_PAGES_MAX) damaged pages and what did not hold.
    pub bad_pages: Vec<(String, String)>,
    /// Merging of runs.
    pub merging: MergingStatus,
    /// Giving back the room of dead pages.
    pub space: SpaceStatus,
    /// Sealed rows of the series index.
    pub index: IndexStatus,
    /// Why nothing is acknowledged any more, if so.
    pub failure: Option<String>,
    /// The device has no room, or what is kept for deletes and checkpoints is in use: writes are refused until it has, or will be
    /// soon.
    pub full: bool,
}

impl StoreInner {
    pub(crate) fn status(&self) -> Status {
        let (mut log, mut log_pending, mut pages_pending, mut full) = (0, 0, 0, false);
        for shard in &self.shards {
            let state = shard.state.lock();
            log += state.log.live_bytes();
            log_pending += state.log.pending_bytes() as u64;
            pages_pending += state.appender.queued_pages() as u64;
            full |= state.log.is_full() || state.appender.is_full();
        }
        let databases = self.catalog.read().all();
        let databases = databases
            .iter()
            .map(|d| {
                let allocated = self.block.allocated_pages(d.id) * PAGE_SIZE as u64;
                let dead = d.space.debt() * PAGE_SIZE as u64;
                (d, allocated, allocated.saturating_sub(dead))
            })
            .map(|(d, allocated, live)| DatabaseStatus {
                allocated: ByteCount(allocated),
                live: ByteCount(live),
                id: d.id.0,
                name: d.name.clone(),
                durability: d.settings.durability.to_string(),
                compression: d.settings.compression.to_string(),
                series: d.series_count(),
                tombstones: d.touched().map(|p| p.tombstones().count() as u64).sum(),
                leaves: self.block.usage(d.id, Role::Leaves),
                inners: self.block.usage(d.id, Role::Inners),
                retention: RetentionStatus::of(d),
            })
            .collect();
        let (
            (tails, mending, definitions),
            checkpoints,
            checkpoint_duration_ns,
            superblock_seq,
            lacks_room,
        ) = {
            let c = self.checkpointer.lock();
            (
                c.file_bytes(),
                c.completed(),
                c.last_duration_ns,
                c.seq(),
                c.lacks_room(),
            )
        };
        full |= self.reserve.is_spent() || lacks_room;
        let used = |owner: Owner| (owner.name(), ByteCount(self.budget.used_by(owner)));
        let paused = self.merging_paused.load(Ordering::Relaxed);
        let (merging, mut space) = {
            let merger = self.merger.lock();
            pages_pending += merger.appender.queued_pages() as u64;
            full |= merger.appender.is_full();
            (merger.status(paused), merger.space_status())
        };
        let all = self.catalog.read().all();
        space.pages_dead = all.iter().map(|d| d.space.debt()).sum();
        let metrics = self.block.metrics();
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        Status {
            backend: self.device.backend(),
            incarnation: self.incarnation,
            superblock_seq,
            memory: Owner::ALL.into_iter().map(used).collect(),
            memory_limit: ByteCount(self.budget.limit()),
            governor: self.governor_status(),
            databases,
            clock: self.believed.status(self.clock.as_ref()),
            log: ByteCount(log),
            log_pending: ByteCount(log_pending),
            pages_pending,
            tails: ByteCount(tails),
            mending_files: ByteCount(mending),
            tails_pages_mended: self.recovery.tails_pages_mended
                + count(&self.tail_files.mended.pages),
            definitions: ByteCount(definitions),
            checkpoints,
            checkpoint_duration_ns,
            recovery: self.recovery.clone(),
            points: count(&self.counters.accepted),
            late_points: count(&self.counters.late),
            repeated_points: count(&self.counters.repeats),
            kind_conflicts: count(&self.counters.conflicts),
            widened_values: count(&self.counters.widened),
            pages_read: count(&metrics.pages_read),
            page_cache_hits: count(&metrics.cache_hits),
            pages_written: count(&metrics.pages_written),
            page_write_batches: count(&metrics.write_batches),
            bad_page_reads: count(&metrics.bad_pages),
            bad_pages: self
                .block
                .bad_pages()
                .into_iter()
                .map(|(addr, damage)| (addr.to_string(), damage.to_string()))
                .collect(),
            merging,
            space,
            index: self.index_status(),
            failure: self.failure().map(|f| f.to_string()),
            full,
        }
    }
}

impl Store {
    /// Whether a shard's log waits for room: what is being written is not durable before there is some. Takes each shard's
    /// lock for a moment.
    pub fn is_log_full(&self) -> bool {
        let mut shards = self.0.shards.iter();
        shards.any(|shard| shard.state.lock().log.is_full())
    }
}
