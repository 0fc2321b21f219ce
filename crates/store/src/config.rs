//! Settings of a store, each with its meaning and default.

use std::fmt;
use std::str::FromStr;

use alluvium_codec::Compression;
use alluvium_io::HeapUse;

use crate::retention_settings::Retention;
use crate::series_limits::SeriesLimits;

/// Blocks of index segments take at most one part in so many of the budget.
const INDEX_CACHE_SHARE: u64 = 32;

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Its log frame is flushed: survives kill and power loss.
    Sync,
    /// Its log frame is written, a flush is at most this far away: survives a kill; power loss may take the
    /// last `ms` milliseconds and one flush.
    Interval {
        /// Milliseconds between flushes, at least 1.
        ms: u32,
    },
    /// Its log frame is written to the kernel: survives a kill, no promise for power loss.
    Os,
    /// In memory: back to the last checkpoint after a crash. Definitions are logged all the same.
    None,
}

impl Durability {
    /// How much is promised, for comparing levels: more is stronger.
    pub fn strength(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Os => 1,
            Self::Interval { .. } => 2,
            Self::Sync => 3,
        }
    }
}

/// A durability level that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability {0:?} is unknown; use sync, interval=100ms, os or none")]
pub struct DurabilityError(pub String);

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || DurabilityError(text.to_owned());
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            "none" => Ok(Self::None),
            _ => {
                let span = text.strip_prefix("interval=").ok_or_else(bad)?;
                let ms = match (span.strip_suffix("ms"), span.strip_suffix('s')) {
                    (Some(ms), _) => ms.parse::<u32>().ok(),
                    (None, Some(s)) => s.parse::<u32>().ok().and_then(|s| s.checked_mul(1000)),
                    (None, None) => span.parse().ok(),
                };
                ms.filter(|ms| *ms > 0)
                    .map(|ms| Self::Interval { ms })
                    .ok_or_else(bad)
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync => f.write_str("sync"),
            Self::Interval { ms } => write!(f, "interval={ms}ms"),
            Self::Os => f.write_str("os"),
            Self::None => f.write_str("none"),
        }
    }
}

/// The allocator, for the governor.
#[derive(Debug, Clone, Copy)]
pub struct HeapProbe {
    /// What is on the heap; `None` if that cannot be told.
    pub used: fn() -> Option<HeapUse>,
    /// Gives free memory back to the system.
    pub trim: fn(),
}

impl HeapProbe {
    /// The allocator of the system: of a process that does little beside its store.
    pub const SYSTEM: Self = Self {
        used: alluvium_io::heap_use,
        trim: alluvium_io::trim_heap,
    };
}

/// Settings of a store. Every bound is here.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Shards: partitions are dealt to them; may change between runs. 1 to 16.
    pub shards: usize,
    /// Size of a data volume once a database has outgrown its small first ones, bytes.
    pub volume_bytes: u64,
    /// Consecutive pages a shard reserves at a time.
    pub extent_pages: u32,
    /// Pages of one vectored write.
    pub batch_pages: usize,
    /// Hard memory budget, bytes.
    pub memory_bytes: u64,
    /// Share of the budget past which caches shrink and idle series leave memory, percent.
    pub memory_soft_percent: u64,
    /// Share of the budget past which new series are refused, percent. Points of known ones are past all of it.
    pub memory_series_percent: u64,
    /// Share of the budget past which batches may not grow any more, percent: the rest is for queries, deletes and what
    /// a batch makes of itself.
    pub memory_staging_percent: u64,
    /// Milliseconds without use after which a series leaves memory although there is room; up to twice as many may
    /// pass. 0: never.
    pub spill_idle_ms: u64,
    /// Milliseconds without use after which a series leaves memory where it is short: so many past `memory_series_percent`,
    /// 120 times as many at `memory_soft_percent`. What is used more often stays: it would only come back.
    pub spill_round_ms: u64,
    /// Heap of an open tail, bytes, from which on a checkpoint, where memory is short, leaves only the points in it that came
    /// since.
    pub part_bytes_min: u64,
    /// Bytes of tails files up to which an opening makes all their series. Of more of them series are left there, and
    /// come back when they are used, or by and by.
    pub open_load_bytes_max: u64,
    /// Share of the driver's time in which series that an opening left come back before they are used, percent; 0:
    /// they do not. Only while less than half of `memory_soft_percent` is in use.
    pub recall_percent: u64,
    /// Milliseconds between looks at memory.
    pub govern_ms: u64,
    /// How the governor learns what the process has on its heap beside what is accounted for; `None`: it does not.
    pub heap: Option<HeapProbe>,
    /// Share of the budget for the page cache, percent.
    pub cache_percent: u64,
    /// Size of a log segment, bytes.
    pub segment_bytes: u64,
    /// Largest log frame, bytes.
    pub group_bytes_max: usize,
    /// Log bytes of one shard waiting for the device at which writes are refused.
    pub log_backlog_bytes_max: usize,
    /// Pages of one shard waiting for the device at which writes are refused.
    pub page_backlog_max: usize,
    /// Level of databases that say nothing else.
    pub durability: Durability,
    /// Compression of databases that say nothing else.
    pub compression: Compression,
    /// What databases that say nothing else keep.
    pub retention: Retention,
    /// How many series databases that say nothing else may have.
    pub series_limits: SeriesLimits,
    /// Milliseconds between looks for what has expired.
    pub retention_check_ms: u64,
    /// Threads that redo log streams while opening, at most: one for each shard of the life before. At 1 the caller's
    /// own thread redoes one stream after the other, in the same order every time. At least 1.
    pub redo_threads_max: usize,
    /// Milliseconds until an idle shard declares what it has flushed.
    pub idle_frame_ms: u64,
    /// Growth of the log since the last checkpoint, all shards together, at which the next one starts, bytes; or twice the
    /// bytes of tails that changed since, if that is more.
    pub checkpoint_log_bytes: u64,
    /// Milliseconds between checkpoints when anything changed.
    pub checkpoint_ms: u64,
    /// Checkpoints whose tails are chained before all tails are rewritten.
    pub tail_chain_max: usize,
    /// Late points a series buffers before they go to a run.
    pub late_points_max: usize,
    /// Bytes of newest points, at about two a point, that a series which gets late ones keeps open for them; none past
    /// half of the memory limit.
    pub late_window_bytes: usize,
    /// Runs of a series at which they are merged although late points still come.
    pub merge_runs_max: usize,
    /// Late points of a series, where they overlap others, at which its runs are merged; but not before they are
    /// `merge_late_percent` of the largest run.
    pub merge_late_points: u64,
    /// Share of the largest run, percent.
    pub merge_late_percent: u64,
    /// Milliseconds without late runs after which the runs of a series are merged, however few.
    pub merge_quiet_ms: u64,
    /// Pages a merge reads and writes in one call of [`Store::drive`](crate::Store::drive).
    pub merge_slice_pages: usize,
    /// Pages merges read and write in a second.
    pub merge_pages_per_s: u64,
    /// Merging begins paused.
    pub merge_paused: bool,
    /// Milliseconds between looks for databases of which enough has died.
    pub space_check_ms: u64,
    /// Share of a database's pages that may be dead before they are looked for, percent.
    pub space_dead_percent: u64,
    /// A volume is written anew if less than this share of its pages lives, holes left out, percent. With the share
    /// above it bounds what a database takes: four times what lives.
    pub space_live_percent: u64,
    /// Consecutive dead pages that are worth a hole.
    pub space_hole_pages_min: u32,
    /// Milliseconds that dead pages are kept for readers which began before they died.
    pub space_readers_ms: u64,
    /// Bytes the scrubber reads in a second, see [`Store::scrub_step`](crate::Store::scrub_step); 0: it does nothing.
    pub scrub_bytes_per_s: u64,
    /// Milliseconds between two rounds of the scrubber.
    pub scrub_pause_ms: u64,
    /// Room kept for giving room back on a full disk, bytes; 0 for none. Should take a few checkpoints.
    pub reserve_bytes: u64,
    /// Memory that the remembered deletes of one database may take, bytes.
    pub tombstone_bytes_max: usize,
    /// Remembered deletes of more than four tag sets in one partition: each costs every look at a series a little.
    pub wide_tombstones_max: usize,
    /// Rows of a partition in memory at which a checkpoint makes an index segment of them.
    pub index_segment_rows: u32,
    /// Neighbouring index segments of a size that are made one; below 2 none are.
    pub index_merge_segments: usize,
    /// Rows of an index segment that is made of others, at most: bounds the work of one merge.
    pub index_merge_rows_max: u32,
    /// Days without a point after which a row leaves the table that finds it by its tag set without reading; 0: never.
    pub index_silent_days: u32,
    /// Bytes of index segments' blocks kept in memory, at most a thirty-second of the budget. An expression looks at all values
    /// of a tag: where their blocks do not stay in memory, it reads them again each time.
    pub index_cache_bytes: usize,
    /// Values of a tag, added up over the segments of the index, up to which a count of cardinality takes them one by one, each
    /// held meanwhile: 65,536. More are estimated.
    pub cardinality_exact_values_max: u64,
    /// Values that one count of cardinality looks at: 32 Mi. Tags with more than what is left are estimated by the sum over segments.
    pub cardinality_values_max: u64,
    /// Bytes of raw tag sections one writer remembers.
    pub writer_cache_bytes_max: usize,
    /// Bytes of buffers one writer keeps between batches, at most a thousandth of the budget.
    pub writer_staging_bytes_max: usize,
    /// Databases that may exist.
    pub databases_max: usize,
    /// Identity of a new data directory; random if `None`.
    pub instance: Option<[u8; 16]>,
}

impl StoreConfig {
    /// What blocks of index segments may take of memory, bytes.
    pub fn index_cache_limit(&self) -> usize {
        let of_budget = self.memory_bytes / INDEX_CACHE_SHARE;
        self.index_cache_bytes
            .min(usize::try_from(of_budget).unwrap_or(usize::MAX))
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shards: 2,
            volume_bytes: 4 << 30,
            extent_pages: 64,
            batch_pages: 64,
            memory_bytes: 4 << 30,
            memory_soft_percent: 70,
            memory_series_percent: 80,
            memory_staging_percent: 90,
            spill_idle_ms: 3_600_000,
            spill_round_ms: 500,
            part_bytes_min: 128,
            open_load_bytes_max: 4 << 20,
            recall_percent: 25,
            govern_ms: 50,
            heap: None,
            cache_percent: 25,
            segment_bytes: 64 << 20,
            group_bytes_max: 4 << 20,
            log_backlog_bytes_max: 64 << 20,
            page_backlog_max: 16 << 10,
            durability: Durability::Sync,
            compression: Compression::Balanced,
            retention: Retention::default(),
            series_limits: SeriesLimits::default(),
            retention_check_ms: 1000,
            redo_threads_max: 16,
            idle_frame_ms: 100,
            checkpoint_log_bytes: 256 << 20,
            checkpoint_ms: 300_000,
            tail_chain_max: 8,
            late_points_max: 1024,
            late_window_bytes: 6144,
            merge_runs_max: 4,
            merge_late_points: 16_384,
            merge_late_percent: 1,
            merge_quiet_ms: 10_000,
            merge_slice_pages: 32,
            merge_pages_per_s: 16_384,
            merge_paused: false,
            space_check_ms: 1000,
            space_dead_percent: 12,
            space_live_percent: 30,
            space_hole_pages_min: 16,
            space_readers_ms: 60_000,
            scrub_bytes_per_s: 0,
            scrub_pause_ms: 600_000,
            reserve_bytes: 0,
            tombstone_bytes_max: 8 << 20,
            wide_tombstones_max: 1024,
            index_segment_rows: 65_536,
            index_merge_segments: 4,
            index_merge_rows_max: 262_144,
            index_silent_days: 2,
            index_cache_bytes: 256 << 20,
            cardinality_exact_values_max: 1 << 16,
            cardinality_values_max: 32 << 20,
            writer_cache_bytes_max: 64 << 20,
            writer_staging_bytes_max: 4 << 20,
            databases_max: 65_536,
            instance: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_reads_what_it_prints() {
        for level in ["sync", "interval=100ms", "os", "none"] {
            assert_eq!(level.parse::<Durability>().unwrap().to_string(), level);
        }
        assert_eq!("interval=2s".parse(), Ok(Durability::Interval { ms: 2000 }));
        for bad in [
            "",
            "Sync",
            "interval=",
            "interval=0ms",
            "interval=-1ms",
            "interval=5000000s",
        ] {
            assert!(bad.parse::<Durability>().is_err(), "{bad}");
        }
    }
}
