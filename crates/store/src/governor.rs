//! Keeps the store within its memory: shrinks caches, then lets series go that nobody uses. See `docs/adr/0016-memory.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_io::HeapUse;
use alluvium_types::{ByteCount, DatabaseId, Owner, PARTITION_COUNT, Partition, Row};

use crate::databases::DatabaseState;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::series::{Series, SeriesLock};

/// Rows looked at per hold of a shard's lock.
const SLICE_ROWS: u32 = 512;
/// Slices in one call.
const SLICES: usize = 8;
/// Nanoseconds between checkpoints that are asked for so that series may go.
const CHECKPOINT_PAUSE_NS: u64 = 500_000_000;
/// How many times longer a series must be idle to go where memory is only just short.
const PATIENCE: u64 = 120;
/// A checkpoint is worth it when this part of the budget, one in so many, would come of it: as much as open tails have grown
/// since the last one, which leaves only what comes behind it, or as idle series have that have changed since.
const WORTH_SHARE: u64 = 16;
/// As [`WORTH_SHARE`], where that would be more than is to be given back.
const WORTH_SHARE_MIN: u64 = 128;

/// One part in so many of the time goes to looking at the heap, at the index, and to trimming the heap.
const LOOK_SHARE: u64 = 100;
/// Free memory on the heap that is given back: one part in so many of the budget where memory is short, else of what is in use.
const TRIM_SHARE: u64 = 16;
/// Free memory on the heap that is kept where memory is not short, at least.
const TRIM_MIN_BYTES: u64 = 16 << 20;
/// The index is looked at when batches may have made one part in so many of the budget.
const UNSEEN_SHARE: u64 = 64;
/// Nanoseconds between two looks at what the days of rows take.
const DAYS_PAUSE_NS: u64 = 10_000_000_000;
/// Nanoseconds for which room is made for a batch that was refused: it comes again.
const WANTED_NS: u64 = 60_000_000_000;
/// It is not made for one that needs more than such a part of what series may use: what would have to go for it is in use.
const WANTED_SHARE: u64 = 4;
/// Nanoseconds between trims.
const TRIM_PAUSE_NS: u64 = 1_000_000_000;

/// What the governor has done since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct GovernorCounts {
    pub spilled: AtomicU64,
    pub recalled: AtomicU64,
    pub refused: AtomicU64,
    pub checkpoints: AtomicU64,
    pub parted: AtomicU64,
    pub joined: AtomicU64,
    /// Bytes of open tails behind the last checkpoint.
    pub held_after: AtomicU64,
    /// Bytes of the index that the budget was told of as they were made, since it was last looked at.
    pub index_unseen: AtomicU64,
    /// Bytes that a batch lacked for its new series, for [`WANTED_NS`], and until when.
    wanted: AtomicU64,
    wanted_until_ns: AtomicU64,
}

/// What the governor does, and has done since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GovernorStatus {
    /// Bytes in use at which series and caches begin to leave memory.
    pub soft_limit: ByteCount,
    /// Bytes in use at which new series are refused.
    pub series_limit: ByteCount,
    /// The use is past the soft limit.
    pub under_pressure: bool,
    /// Series that are not in memory now.
    pub series_away: u64,
    /// Times a series left memory.
    pub spilled: u64,
    /// Times one came back.
    pub recalled: u64,
    /// Batches refused because of new series.
    pub refused: u64,
    /// Checkpoints asked for so that series might go.
    pub checkpoints: u64,
    /// Series of which only the newer part is in memory now.
    pub series_parted: u64,
    /// Times that a series was left with a newer part only.
    pub parted: u64,
    /// Times that the two parts of one were joined.
    pub joined: u64,
}

/// Where the next slice begins.
#[derive(Debug, Clone, Copy)]
struct Hand {
    database: DatabaseId,
    partition: u8,
    row: Row,
}

impl Default for Hand {
    fn default() -> Self {
        Self {
            database: DatabaseId(0),
            partition: 0,
            row: Row(0),
        }
    }
}

/// The clock's hand over all series, and when it moves.
#[derive(Debug, Default)]
pub(crate) struct Governor {
    hand: Option<Hand>,
    next_ns: u64,
    /// When the last round began.
    begun_ns: u64,
    /// Series in memory that this round has met, and those of them that nobody uses and no record has.
    met: u64,
    changed: u64,
    next_checkpoint_ns: u64,
    /// What of the index and the log the budget was told.
    index_bytes: u64,
    log_bytes: u64,
    /// What the days of rows took when they were last looked at, which costs a look at each 65,536 rows of each day.
    days_bytes: u64,
    next_days_ns: u64,
    next_index_ns: u64,
    next_heap_ns: u64,
    next_trim_ns: u64,
    /// The least that was free on the heap since it was last trimmed. What has been given back counts as free, too.
    least_free: u64,
}

impl Governor {
    fn begin_round(&mut self, now: u64) {
        self.hand = Some(Hand::default());
        self.begun_ns = now;
        (self.met, self.changed) = (0, 0);
    }
}

impl StoreInner {
    /// Nanoseconds between two rounds, which is how long a series must be idle to go.
    fn round_ns(&self) -> u64 {
        let (soft, hard) = (self.soft_limit(), self.series_limit());
        let used = self.budget.used();
        let least = self.config.spill_round_ms.saturating_mul(1_000_000);
        if used <= soft {
            return self.config.spill_idle_ms.saturating_mul(1_000_000);
        }
        // 1 at the soft limit, 0 at the other one.
        let room = hard.saturating_sub(used) as f64 / hard.saturating_sub(soft).max(1) as f64;
        let longer = (least * PATIENCE) as f64 * room * room;
        least.max(longer as u64)
    }

    /// Bytes in use at which memory is given back: fewer where a batch has waited for more room than that leaves.
    pub(crate) fn soft_limit(&self) -> u64 {
        let hard = self.series_limit();
        let wanted = self.governor_counts.wanted.load(Ordering::Relaxed);
        self.set_soft_limit().min(hard - wanted.min(hard / 2))
    }

    /// The same as it is set.
    pub(crate) fn set_soft_limit(&self) -> u64 {
        self.budget.limit() / 100 * self.config.memory_soft_percent.min(100)
    }

    /// Bytes in use at which batches may not grow any more.
    pub(crate) fn staging_limit(&self) -> u64 {
        self.budget.limit() / 100 * self.config.memory_staging_percent.min(100)
    }

    /// Bytes in use at which nothing new is made.
    pub(crate) fn series_limit(&self) -> u64 {
        self.budget.limit() / 100 * self.config.memory_series_percent.min(100)
    }

    /// Counts a batch that was refused because of new series, for which it needs so many bytes.
    pub(crate) fn note_refusal(&self, wanted: u64) {
        let counts = &self.governor_counts;
        counts.refused.fetch_add(1, Ordering::Relaxed);
        if wanted > self.series_limit() / WANTED_SHARE {
            return;
        }
        // When it comes again its body is there, too.
        let wanted = wanted + self.budget.used_by(Owner::Bodies);
        // A smaller one does not keep what a larger one wanted.
        if wanted >= counts.wanted.load(Ordering::Relaxed) {
            let until = self.clock.monotonic_ns().saturating_add(WANTED_NS);
            counts.wanted_until_ns.store(until, Ordering::Relaxed);
            counts.wanted.store(wanted, Ordering::Relaxed);
        }
    }

    /// Lets memory go for a slice if it is time. Never waits. Returns whether to call again at once.
    pub(crate) fn drive_governor(&self, now: u64) -> bool {
        // Another thread does it: that is progress enough.
        let Some(mut governor) = self.governor.try_lock() else {
            return false;
        };
        let governor = &mut *governor;
        if now < governor.next_ns {
            return false;
        }
        let counts = &self.governor_counts;
        if now > counts.wanted_until_ns.load(Ordering::Relaxed) {
            counts.wanted.store(0, Ordering::Relaxed);
        }
        let pause = self.config.govern_ms.max(1) * 1_000_000;
        self.count_log(governor);
        self.observe_heap(governor, now, pause);
        if governor.hand.is_none() {
            self.count_index(governor, now);
        }
        let over = self.budget.used().saturating_sub(self.soft_limit());
        self.block.bound_cache(self.cache_bytes(over));
        if over == 0 {
            if governor.hand.is_none() {
                let idle_ns = self.config.spill_idle_ms.saturating_mul(1_000_000);
                if idle_ns == 0 || now < governor.begun_ns.saturating_add(idle_ns) {
                    governor.next_ns = now + pause;
                    return false;
                }
                governor.begin_round(now);
            }
            // Nobody waits for it: a few slices between pauses.
            self.turn(governor);
            governor.next_ns = now + pause / 8;
            return false;
        }
        self.index_cache.shrink(self.index_cache.limit() / 2);
        if governor.hand.is_none() {
            if now < governor.begun_ns.saturating_add(self.round_ns()) {
                governor.next_ns = now + pause;
                return false;
            }
            governor.begin_round(now);
        }
        if self.turn(governor) {
            return true;
        }
        governor.next_ns = now + pause;
        let is_over = governor.hand.is_none();
        let held = self.budget.used_by(Owner::OpenTails);
        let held_after = self.governor_counts.held_after.load(Ordering::Relaxed);
        let idle = held / governor.met.max(1) * governor.changed;
        let freed = idle.max(held.saturating_sub(held_after));
        let limit = self.budget.limit();
        // What is asked for, or little of it where little is too much.
        let is_worth_it = freed > (limit / WORTH_SHARE).min(over.max(limit / WORTH_SHARE_MIN));
        if is_over && is_worth_it && now >= governor.next_checkpoint_ns {
            // What is not in a checkpoint cannot go.
            if let Some(mut checkpointer) = self.checkpointer.try_lock()
                && checkpointer.is_idle()
            {
                checkpointer.request();
                governor.next_checkpoint_ns = now + CHECKPOINT_PAUSE_NS;
                self.governor_counts
                    .checkpoints
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        false
    }

    /// Lets series go while the store is being opened, if memory is short. The caller holds no lock.
    pub(crate) fn relieve(&self) {
        let Some(mut governor) = self.governor.try_lock() else {
            return;
        };
        let pause = self.config.govern_ms.max(1) * 1_000_000;
        self.observe_heap(&mut governor, self.clock.monotonic_ns(), pause);
        if self.budget.used() > self.soft_limit() {
            governor.hand.get_or_insert_default();
            self.turn(&mut governor);
        }
    }

    /// What the page cache may take where so much is to be given back.
    fn cache_bytes(&self, over: u64) -> u64 {
        let most = self.config.memory_bytes / 100 * self.config.cache_percent.min(90);
        if over == 0 {
            return most;
        }
        let held = self.budget.used_by(Owner::PageCache);
        held.saturating_sub(over).min(most).max(most / 16)
    }

    /// Tells the budget what the process has on its heap. Looking costs more the more free blocks there are: it takes at
    /// most a [`LOOK_SHARE`]th of the time.
    fn observe_heap(&self, governor: &mut Governor, now: u64, pause: u64) {
        let Some(probe) = self.config.heap else {
            return;
        };
        if now < governor.next_heap_ns {
            return;
        }
        let Some(HeapUse { live, free }) = (probe.used)() else {
            governor.next_heap_ns = u64::MAX;
            return;
        };
        self.budget.observe(live);
        let took = self.clock.monotonic_ns().saturating_sub(now);
        governor.next_heap_ns = now + pause.max(took * LOOK_SHARE);
        governor.least_free = governor.least_free.min(free);
        let is_short = live + free > self.soft_limit() && free > self.budget.limit() / TRIM_SHARE;
        let spare = free - governor.least_free;
        let is_idle = spare > TRIM_MIN_BYTES.max(live / TRIM_SHARE);
        if (is_short || is_idle) && now >= governor.next_trim_ns {
            governor.least_free = free;
            let begun = self.clock.monotonic_ns();
            (probe.trim)();
            let took = self.clock.monotonic_ns().saturating_sub(begun);
            governor.next_trim_ns = now + TRIM_PAUSE_NS.max(took * LOOK_SHARE);
        }
    }

    /// Tells the budget how much of the log is in memory: bounded by its backlog, so it need not ask.
    fn count_log(&self, governor: &mut Governor) {
        let pending = |shard: &crate::shard::Shard| shard.state.lock().log.heap_bytes() as u64;
        let bytes = self.shards.iter().map(pending).sum();
        self.budget.force(Owner::Log, bytes);
        self.budget.release(Owner::Log, governor.log_bytes);
        governor.log_bytes = bytes;
    }

    /// Tells the budget how much the index takes. Looking costs more the more rows wait to be sealed: it takes at most a
    /// [`LOOK_SHARE`]th of the time, unless much was made since, which counts for more than it took.
    fn count_index(&self, governor: &mut Governor, now: u64) {
        let unseen = &self.governor_counts.index_unseen;
        let much = self.budget.limit() / UNSEEN_SHARE;
        if now < governor.next_index_ns && unseen.load(Ordering::Relaxed) < much {
            return;
        }
        let databases = self.catalog.read().all();
        // What comes from here on is counted twice until the next look.
        let unseen = unseen.swap(0, Ordering::Relaxed);
        let parts = || databases.iter().flat_map(|d| d.touched());
        if now >= governor.next_days_ns {
            let days: usize = parts().map(|p| p.live.read().heap_bytes()).sum();
            governor.days_bytes = days as u64;
            governor.next_days_ns = now + DAYS_PAUSE_NS;
        }
        let names: usize = parts().map(|p| p.index.read().heap_bytes()).sum();
        let bytes = names as u64 + governor.days_bytes;
        self.budget.force(Owner::Index, bytes);
        self.budget
            .release(Owner::Index, governor.index_bytes + unseen);
        governor.index_bytes = bytes;
        let took = self.clock.monotonic_ns().saturating_sub(now);
        governor.next_index_ns = now.saturating_add(took.saturating_mul(LOOK_SHARE));
    }

    /// Moves the hand on. Returns whether it is not round yet and memory is still to be given back.
    fn turn(&self, governor: &mut Governor) -> bool {
        for _ in 0..SLICES {
            let Some(hand) = &mut governor.hand else {
                return false;
            };
            let databases = self.catalog.read();
            let ids = databases.all();
            drop(databases);
            let at = ids.partition_point(|d| d.id < hand.database);
            let Some(database) = ids.get(at) else {
                governor.hand = None;
                return false;
            };
            if database.id != hand.database {
                *hand = Hand {
                    database: database.id,
                    ..Hand::default()
                };
            }
            let part = database.touched_partition(Partition(hand.partition));
            let next = part.and_then(|part| {
                let counts = (&mut governor.met, &mut governor.changed);
                self.spill_rows(database, part, hand.row, counts)
            });
            if let Some(next) = next {
                hand.row = next;
                continue;
            }
            hand.row = Row(0);
            hand.partition += 1;
            if usize::from(hand.partition) >= PARTITION_COUNT {
                hand.partition = 0;
                hand.database.0 += 1;
            }
        }
        self.budget.used() > self.soft_limit()
    }

    /// Lets series of a slice of rows go that were not used since the hand last came by. Returns the row to go on with, if
    /// there are more.
    fn spill_rows(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        from: Row,
        (met, changed): (&mut u64, &mut u64),
    ) -> Option<Row> {
        // Writers of the partition have looked which series are away before they took this lock.
        let _shard = self.shard_of(part.partition).state.lock();
        let mut table = part.table.write();
        let from = table.next_here(from)?;
        let end = table.row_count().min(from.0.saturating_add(SLICE_ROWS));
        let next = (end < table.row_count()).then_some(Row(end));
        if part.is_held() {
            return next;
        }
        let (mut heap, mut gone, mut parted) = (0, 0, 0);
        for row in from.0..end {
            let idle = std::cell::Cell::new((*met, *changed));
            let meet = |state: &mut SeriesLock<'_>| {
                let is_recent = std::mem::take(&mut state.is_recent);
                let (met, changed) = idle.get();
                let is_unsaved = state.dirty && !is_recent;
                idle.set((met + 1, changed + u64::from(is_unsaved)));
                !is_recent
            };
            let leave = |series: &mut Series| {
                let field = series.place.field;
                let mut state = series.lock();
                if !meet(&mut state) {
                    return None;
                }
                let record = state.may_leave()?;
                if !part.hidden(Row(row), field).is_empty() {
                    return None;
                }
                heap += state.heap_bytes() as i64 + SERIES_BYTES - AWAY_BYTES;
                gone += 1;
                parted += u64::from(state.older().is_some());
                Some(record)
            };
            // Lists of changed series hold them.
            let held = |series: &Series| {
                meet(&mut series.lock());
            };
            table.spill_row(Row(row), leave, held);
            (*met, *changed) = idle.get();
        }
        if gone > 0 {
            table.pack(from.0..end);
            part.note_away(&table);
            part.parted.fetch_sub(parted, Ordering::Release);
            part.spills.fetch_add(1, Ordering::AcqRel);
            drop(table);
            database.charge(-heap);
            self.governor_counts
                .spilled
                .fetch_add(gone, Ordering::Relaxed);
        }
        next
    }

    pub(crate) fn governor_status(&self) -> GovernorStatus {
        let databases = self.catalog.read().all();
        let of_parts = |read: fn(&PartitionState) -> &AtomicU64| {
            let parts = databases.iter().flat_map(|d| d.touched());
            parts.map(|p| read(p).load(Ordering::Relaxed)).sum()
        };
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let counts = &self.governor_counts;
        GovernorStatus {
            soft_limit: ByteCount(self.soft_limit()),
            series_limit: ByteCount(self.series_limit()),
            under_pressure: self.budget.used() > self.soft_limit(),
            series_away: of_parts(|p| &p.away),
            spilled: count(&counts.spilled),
            recalled: count(&counts.recalled),
            refused: count(&counts.refused),
            checkpoints: count(&counts.checkpoints),
            series_parted: of_parts(|p| &p.parted),
            parted: count(&counts.parted),
            joined: count(&counts.joined),
        }
    }
}
