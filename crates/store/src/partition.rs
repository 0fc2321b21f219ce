//! What one partition of one database has in memory: its index and its series by row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use alluvium_index::{
    CompiledSelector, DefinitionMark, Liveness, LivenessMark, PartitionIndex, SealedRows,
    SegmentError, SelectedRow,
};
use alluvium_types::{FieldId, Partition, Row, SeriesKey, TimeRange};
use alluvium_wal::PointGroup;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::minute_counts::MinuteCounts;
use crate::segments::HeldSegment;
use crate::series::{Series, SeriesPlace};
use crate::tombstones::{HiddenParts, Tombstones};

/// A partition. Only its shard's owner changes it, under the shard's lock; readers share the two locks.
#[derive(Debug)]
pub(crate) struct PartitionState {
    pub partition: Partition,
    pub index: RwLock<PartitionIndex>,
    pub table: RwLock<SeriesTable>,
    /// Definitions up to here are in a part that a superblock names.
    pub sealed: Mutex<DefinitionMark>,
    /// The index's segments and their files, in order. Changed by checkpoints only.
    pub segments: Mutex<Vec<HeldSegment>>,
    /// How often rows have left the name table: a writer that has looked for some before looks again.
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
}

impl PartitionState {
    pub(crate) fn new(partition: Partition) -> Self {
        let index = PartitionIndex::new();
        let sealed = Mutex::new(index.mark());
        Self {
            partition,
            index: RwLock::new(index),
            table: RwLock::default(),
            sealed,
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
        }
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
        read: impl FnOnce(&PartitionIndex, Vec<SelectedRow>) -> T,
    ) -> Result<T, SegmentError> {
        self.resolve(selector, range, |index, sealed, live| {
            read(index, index.select_with(selector, sealed, live))
        })
    }

    /// As [`Self::select`], for who makes something else of the rows found: those sealed, and the rows with points on
    /// a day of `range` unless that is all of time.
    pub(crate) fn resolve<T>(
        &self,
        selector: &CompiledSelector,
        range: TimeRange,
        read: impl FnOnce(&PartitionIndex, &SealedRows, Option<&RoaringBitmap>) -> T,
    ) -> Result<T, SegmentError> {
        let live = (range != TimeRange::ALL).then(|| self.live.read().rows_in(range));
        loop {
            let plan = self.index.read().plan(selector);
            let sealed = plan.rows(live.as_ref())?;
            let index = self.index.read();
            // Rows in memory may have become a segment meanwhile.
            if !index.is_outdated(&sealed) {
                return Ok(read(&index, &sealed, live.as_ref()));
            }
        }
    }

    /// The tag sets of rows, which ascend. Waits as [`Self::select`] does.
    pub(crate) fn keys(&self, rows: &[Row]) -> Result<Vec<Option<Arc<SeriesKey>>>, SegmentError> {
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
            let spelt = segment.spell(&here)?.into_iter();
            keys.extend(spelt.map(|key| Some(Arc::new(key))));
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

/// Series by row, then by field.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    rows: Vec<SmallVec<[(FieldId, Arc<Series>); 1]>>,
}

impl SeriesTable {
    /// Cost: one index into the rows, one probe where the field's number says, else a binary search.
    #[inline]
    pub(crate) fn get(&self, row: Row, field: FieldId) -> Option<&Arc<Series>> {
        let fields = self.rows.get(row.0 as usize)?;
        // Rows of a measurement mostly have its first fields, all of them.
        if let Some((id, series)) = fields.get(field.0 as usize)
            && *id == field
        {
            return Some(series);
        }
        let at = fields.binary_search_by_key(&field, |(id, _)| *id).ok()?;
        fields.get(at).map(|(_, series)| series)
    }

    /// Rows there are places for.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The series, made if it is not there. Returns whether it was made.
    pub(crate) fn ensure(&mut self, place: SeriesPlace) -> (&Arc<Series>, bool) {
        let row = place.row.0 as usize;
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, SmallVec::new);
        }
        let fields = &mut self.rows[row];
        match fields.binary_search_by_key(&place.field, |(id, _)| *id) {
            Ok(at) => (&fields[at].1, false),
            Err(at) => {
                fields.insert(at, (place.field, Arc::new(Series::new(place))));
                (&fields[at].1, true)
            }
        }
    }

    /// Lets go of a series.
    pub(crate) fn remove(&mut self, row: Row, field: FieldId) {
        if let Some(fields) = self.rows.get_mut(row.0 as usize)
            && let Ok(at) = fields.binary_search_by_key(&field, |(id, _)| *id)
        {
            fields.remove(at);
            fields.shrink_to_fit();
        }
    }

    /// The series of a row, by field.
    pub(crate) fn of_row(&self, row: Row) -> &[(FieldId, Arc<Series>)] {
        self.rows
            .get(row.0 as usize)
            .map_or(&[], SmallVec::as_slice)
    }

    /// Rows so far: none at or above has a series.
    pub(crate) fn row_count(&self) -> u32 {
        self.rows.len() as u32
    }

    /// The series of each row from `row` on, with its number.
    pub(crate) fn rows_from(
        &self,
        row: Row,
    ) -> impl Iterator<Item = (Row, impl Iterator<Item = &Arc<Series>>)> {
        let begin = (row.0 as usize).min(self.rows.len());
        self.rows[begin..]
            .iter()
            .enumerate()
            .map(move |(i, fields)| {
                let series = fields.iter().map(|(_, series)| series);
                (Row((begin + i) as u32), series)
            })
    }

    /// Every series, by row and field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.rows
            .iter()
            .flat_map(|fields| fields.iter().map(|(_, series)| series))
    }
}
