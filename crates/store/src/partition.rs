//! What one partition of one database has in memory: its index and its series by row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use alluvium_index::{
    CompiledSelector, DefinitionMark, LiveDays, Liveness, LivenessMark, PartitionIndex, SealedPlan,
    SealedRows, SegmentError, SelectedRow,
};
use alluvium_types::{DatabaseId, FieldId, Partition, Row, SeriesKey, TimeRange};
use alluvium_wal::PointGroup;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use roaring::RoaringBitmap;

use crate::losses::OnLoss;
use crate::minute_counts::MinuteCounts;
use crate::segments::HeldSegment;
use crate::series_table::SeriesTable;
use crate::tombstones::{HiddenParts, Tombstones};

/// A partition. Only its shard's owner changes it, under the shard's lock; readers share the two locks.
#[derive(Debug)]
pub(crate) struct PartitionState {
    pub database: DatabaseId,
    pub partition: Partition,
    pub index: RwLock<PartitionIndex>,
    pub table: RwLock<SeriesTable>,
    /// Definitions up to here are in a part that a superblock names.
    pub sealed: Mutex<DefinitionMark>,
    /// Series of the table that are away. Changed with the table.
    pub away: AtomicU64,
    /// Series of the table of which only the newer part is in memory.
    pub parted: AtomicU64,
    /// How often series have gone away: a writer that has brought some back before looks again.
    pub spills: AtomicU64,
    /// Batches under way that are taken whole: while there are any nothing leaves memory or the name table.
    pub held: AtomicU32,
    /// The index's segments and their files, in order. Changed by checkpoints only.
    pub segments: Mutex<Vec<HeldSegment>>,
    /// How often rows have left the name table, not to be in it at the opening counted: a writer that has looked for some before
    /// looks again.
    pub silences: AtomicU64,
    /// The day on which rows were last let out of the name table.
    pub silenced_day: AtomicI64,
    /// Rows by the days of their points. Changed by its shard's owner; nothing else is locked while this is.
    pub live: RwLock<Liveness>,
    /// Days up to here are in a file that a superblock names.
    pub live_sealed: Mutex<LivenessMark>,
    /// What deletes hide of its series. Changed by [`Self::change_tombstones`].
    tombstones: RwLock<Tombstones>,
    /// Whether there is a tombstone: readers of a partition without deletes take no lock to learn it.
    any_tombstones: AtomicBool,
    /// Series that deletes have left without a point, for a checkpoint to let go of.
    pub emptied: Mutex<Vec<(Row, FieldId)>>,
    /// How often series have gone from the index: a writer that remembers what exists looks again.
    pub removals: AtomicU64,
    /// Series that writes have made lately.
    pub created: MinuteCounts,
    /// Deletes of the database that are being resolved.
    deletes: Arc<AtomicU32>,
}

impl PartitionState {
    pub(crate) fn new(database: DatabaseId, partition: Partition, deletes: Arc<AtomicU32>) -> Self {
        let index = PartitionIndex::new();
        let sealed = Mutex::new(index.mark());
        Self {
            database,
            partition,
            index: RwLock::new(index),
            table: RwLock::default(),
            sealed,
            away: AtomicU64::new(0),
            parted: AtomicU64::new(0),
            spills: AtomicU64::new(0),
            held: AtomicU32::new(0),
            segments: Mutex::default(),
            silences: AtomicU64::new(0),
            silenced_day: AtomicI64::new(i64::MIN),
            live: RwLock::default(),
            live_sealed: Mutex::default(),
            tombstones: RwLock::default(),
            any_tombstones: AtomicBool::new(false),
            emptied: Mutex::default(),
            removals: AtomicU64::new(0),
            created: MinuteCounts::default(),
            deletes,
        }
    }

    /// Whether a delete of its database is being resolved: what is written meanwhile must be told from what was there.
    pub(crate) fn is_deleting(&self) -> bool {
        self.deletes.load(Ordering::Acquire) > 0
    }

    /// Whether what is in memory must stay there. The caller has the shard's lock: who holds the partition takes that once
    /// before it relies on it.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Whether a write may have to read what is not in memory: of tag sets that its writer does not know, or of any.
    pub(crate) fn may_wait(&self, any_unknown: impl FnOnce() -> bool) -> bool {
        self.away.load(Ordering::Acquire) > 0
            || self.parted.load(Ordering::Acquire) > 0
            || self.silences.load(Ordering::Acquire) > 0 && any_unknown()
    }

    /// Notes how many series of its table are away; whoever has changed that has the table still.
    pub(crate) fn note_away(&self, table: &SeriesTable) {
        self.away.store(table.away() as u64, Ordering::Release);
    }

    /// Notes on which days the rows of a group are written to: before its points are applied.
    pub(crate) fn note_points(&self, group: &PointGroup) {
        let mut live = self.live.write();
        for (row, time) in group.rows.iter().zip(&group.times) {
            live.note(*row, *time);
        }
    }

    /// The series that match, of rows with points on a day of `range`; by row and field, with what `read` makes of the index at the same moment. Waits for blocks
    /// of sealed rows, without a lock.
    pub(crate) fn select<T>(
        &self,
        selector: &CompiledSelector,
        range: TimeRange,
        on_loss: &OnLoss,
        read: impl FnOnce(&PartitionIndex, Vec<SelectedRow>) -> T,
    ) -> Result<T, SegmentError> {
        self.resolve(selector, range, on_loss, |index, sealed, live| {
            read(index, index.select_with(selector, sealed, live))
        })
    }

    /// As [`Self::select`], for who makes something else of the rows found: those sealed, and the rows with points on
    /// a day of `range` unless that is all of time.
    pub(crate) fn resolve<T>(
        &self,
        selector: &CompiledSelector,
        range: TimeRange,
        on_loss: &OnLoss,
        read: impl FnOnce(&PartitionIndex, &SealedRows, Option<&RoaringBitmap>) -> T,
    ) -> Result<T, SegmentError> {
        let days = (range != TimeRange::ALL).then(|| self.live.read().days_in(range));
        let live = days.map(LiveDays::union);
        self.with_sealed(
            |index| index.plan(selector),
            live.as_deref(),
            on_loss,
            |index, sealed| read(index, sealed, live.as_deref()),
        )
    }

    /// How many rows have a series that matches, whenever its points are, and the first `limit` of them: as
    /// [`PartitionIndex::first_rows_with`]. Of rows in segments that are not among these no list is made, unless many
    /// of all rows have no field that is meant.
    pub(crate) fn first_rows<T>(
        &self,
        selector: &CompiledSelector,
        limit: usize,
        on_loss: &OnLoss,
        read: impl Fn(&PartitionIndex, u64, RoaringBitmap) -> T,
    ) -> Result<T, SegmentError> {
        let counted = self.with_sealed(
            |index| index.plan_first(selector, limit),
            None,
            on_loss,
            |index, sealed| {
                let (count, first) = index.first_rows_counted(selector, sealed, limit)?;
                Some(read(index, count, first))
            },
        )?;
        if let Some(counted) = counted {
            return Ok(counted);
        }
        // Series have come or gone meanwhile.
        self.resolve(selector, TimeRange::ALL, on_loss, |index, sealed, _| {
            let (count, first) = index.first_rows_with(selector, sealed, None, limit);
            read(index, count, first)
        })
    }

    /// Looks for sealed rows beside the index, then reads it as it was then.
    fn with_sealed<T>(
        &self,
        plan: impl Fn(&PartitionIndex) -> SealedPlan,
        live: Option<&RoaringBitmap>,
        on_loss: &OnLoss,
        read: impl FnOnce(&PartitionIndex, &SealedRows) -> T,
    ) -> Result<T, SegmentError> {
        loop {
            let planned = plan(&self.index.read());
            let sealed = planned.rows_around(live);
            let index = self.index.read();
            // Rows in memory may have become a segment meanwhile.
            if !index.is_outdated(&sealed) {
                on_loss.take(self.partition, sealed.lost().iter().cloned())?;
                return Ok(read(&index, &sealed));
            }
        }
    }

    /// The tag sets of rows, which ascend. Waits as [`Self::select`] does.
    pub(crate) fn keys(
        &self,
        rows: &[Row],
        on_loss: &OnLoss,
    ) -> Result<Vec<Option<Arc<SeriesKey>>>, SegmentError> {
        let index = self.index.read();
        let segments = Arc::clone(index.segments());
        let sealed = index.sealed_rows();
        let in_memory = rows.iter().filter(|row| row.0 >= sealed);
        let in_memory: Vec<_> = in_memory.map(|row| index.key(*row).map(Arc::new)).collect();
        drop(index);
        let mut keys = Vec::with_capacity(rows.len());
        for segment in segments.iter() {
            let here = rows.iter().map(|row| row.0);
            let here: Vec<u32> = here.filter(|row| segment.rows().contains(row)).collect();
            if let Ok(spelt) = segment.spell(&here) {
                keys.extend(spelt.into_iter().map(|key| Some(Arc::new(key))));
                continue;
            }
            let (spelt, lost) = segment.spell_carefully(&here);
            on_loss.take(self.partition, lost)?;
            keys.extend(spelt.into_iter().map(|key| key.map(Arc::new)));
        }
        keys.extend(in_memory);
        Ok(keys)
    }

    /// What deletes hide of a series.
    #[inline]
    pub(crate) fn hidden(&self, row: Row, field: FieldId) -> HiddenParts {
        if self.any_tombstones.load(Ordering::Acquire) {
            self.tombstones.read().of(row, field)
        } else {
            HiddenParts::default()
        }
    }

    /// Its tombstones. No series is locked while this is held: readers come with a series' lock.
    pub(crate) fn tombstones(&self) -> RwLockReadGuard<'_, Tombstones> {
        self.tombstones.read()
    }

    /// Changes them; the caller holds the shard's lock, and no series'.
    pub(crate) fn change_tombstones(&self, change: impl FnOnce(&mut Tombstones)) {
        let mut set = self.tombstones.write();
        change(&mut set);
        self.any_tombstones
            .store(!set.is_empty(), Ordering::Release);
    }
}
