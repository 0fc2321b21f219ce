//! Brings series back that are away: reads their records without a lock, then lets them take their places.
//!
//! Who reads may be overtaken: a series that came back meanwhile, or whose record was copied to another file, is not
//! touched. What was read is still what the series held when it was looked up, which is all that a reader needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_nbtree::{TailRecord, read_tail_record};
use alluvium_types::{BudgetExceeded, FieldId, Owner, Row};

use crate::databases::DatabaseState;
use crate::error::RecallError;
use crate::late::LateBuffer;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::series::{Series, SeriesPlace};
use crate::series_table::Slot;
use crate::tail_files::{OpenFiles, RecordPlace};

/// Series whose records are read before they take their places.
const SLICE_SERIES: usize = 256;
/// Times that a series is looked up again because something came in between.
const ATTEMPTS: usize = 16;
/// Heap of one series beside its open leaf: its place in the table and its shared allocation.
pub(crate) const SERIES_BYTES: i64 = 176;
/// What is left of it when it is away: its place in the table, packed or soon to be.
pub(crate) const AWAY_BYTES: i64 = 4;

/// Series as their records have them, in no table.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub series: Vec<(RecordPlace, Series)>,
    pub files: OpenFiles,
}

impl Series {
    /// Makes it what a record says, which lies at `place`.
    pub(crate) fn load(&self, record: TailRecord, place: Option<RecordPlace>) {
        let mut state = self.lock();
        state.set_runs(record.runs);
        state.lsn = record.key.lsn;
        state.is_recent = true;
        state.set_record(place);
        state.set_late(LateBuffer::of(&record.late));
    }
}

impl StoreInner {
    /// The series of these rows that are away, of all fields.
    pub(crate) fn away_of_rows(
        part: &PartitionState,
        rows: impl Iterator<Item = Row>,
    ) -> Vec<(Row, FieldId)> {
        let mut away = Vec::new();
        if part.away.load(Ordering::Acquire) == 0 {
            return away;
        }
        let table = part.table.read();
        for row in rows {
            let slots = table.slots_of_row(row).into_iter();
            let of_row = slots.filter(|(_, slot)| slot.here().is_none());
            away.extend(of_row.map(|(field, _)| (row, field)));
        }
        drop(table);
        away.sort_unstable();
        away.dedup();
        away
    }

    /// Brings series back into memory. Waits; the caller has no lock.
    ///
    /// # Errors
    /// If a record cannot be read, or, where `within_budget`, they would not fit.
    pub(crate) fn bring_back(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        wanted: &[(Row, FieldId)],
        within_budget: bool,
    ) -> Result<(), RecallError> {
        for slice in wanted.chunks(SLICE_SERIES) {
            self.bring_neighbours_back(part, slice);
            let mut attempts = ATTEMPTS;
            loop {
                let fetched = self.fetch(database, part, slice, within_budget)?;
                if fetched.series.is_empty() {
                    break;
                }
                if attempts == 0 {
                    return Err(RecallError::Unsettled);
                }
                attempts -= 1;
                self.install(database, part, fetched);
            }
        }
        Ok(())
    }

    /// Brings back those of `wanted` that are away, in the order of their records, while there is room. Waits; the caller has
    /// no lock. Who needs one whose record cannot be read hears of it then.
    pub(crate) fn bring_many_back(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        wanted: Vec<(Row, FieldId)>,
    ) {
        if part.away.load(Ordering::Acquire) == 0 {
            return;
        }
        let table = part.table.read();
        let away = wanted.into_iter().filter_map(|(row, field)| {
            let place = table.slot(row, field).and_then(|s| s.record())?;
            Some((place.order(), (row, field)))
        });
        let mut away: Vec<_> = away.collect();
        drop(table);
        away.sort_unstable();
        let away: Vec<(Row, FieldId)> = away.into_iter().map(|(_, series)| series).collect();
        for slice in away.chunks(SLICE_SERIES) {
            let is_full = self.budget.used() >= self.soft_limit();
            if is_full || self.bring_back(database, part, slice, true).is_err() {
                return;
            }
        }
    }

    /// The series itself, brought back if it is away and whole; `None` if it is gone, or goes again at this moment. Waits; the
    /// caller has no lock.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub(crate) fn resident(
        &self,
        database: &Arc<DatabaseState>,
        place: SeriesPlace,
    ) -> Result<Option<Arc<Series>>, RecallError> {
        let Some(part) = database.touched_partition(place.partition) else {
            return Ok(None);
        };
        let wanted = [(place.row, place.field)];
        self.bring_back(database, part, &wanted, false)?;
        self.join(database, part, &wanted)?;
        Ok(part
            .table
            .read()
            .get(place.row, place.field)
            .map(Arc::clone))
    }

    /// A series to read from: the one in memory, or one that its record was made into. That takes its place if
    /// it `may_stay` and there is room. Waits for the record; the caller has no lock.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub(crate) fn view(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        row: Row,
        field: FieldId,
        may_stay: bool,
    ) -> Result<Option<Arc<Series>>, RecallError> {
        for _ in 0..ATTEMPTS {
            match part.table.read().slot(row, field) {
                None => return Ok(None),
                Some(Slot::Here(series)) => return Ok(Some(Arc::clone(series))),
                Some(Slot::Away(_)) => {}
            }
            let mut fetched = self.fetch(database, part, &[(row, field)], false)?;
            if may_stay && self.budget.used() < self.soft_limit() {
                self.install(database, part, fetched);
            } else if let Some((_, series)) = fetched.series.pop() {
                return Ok(Some(Arc::new(series)));
            }
        }
        Err(RecallError::Unsettled)
    }

    /// Whether so many bytes of what is away may come back for a writer.
    pub(crate) fn admit_recall(&self, asked: u64) -> Result<(), RecallError> {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        if used.saturating_add(asked) > limit {
            return Err(RecallError::Memory(BudgetExceeded {
                owner: Owner::OpenTails,
                asked,
                used,
                limit,
            }));
        }
        Ok(())
    }

    /// Reads the records of those that are away.
    fn fetch(
        &self,
        database: &DatabaseState,
        part: &PartitionState,
        wanted: &[(Row, FieldId)],
        within_budget: bool,
    ) -> Result<Fetched, RecallError> {
        let mut places = Vec::new();
        let mut away = Vec::new();
        let mut series = Vec::new();
        let of = |(row, field)| SeriesPlace {
            partition: part.partition,
            row,
            field,
        };
        let files = {
            let table = part.table.read();
            for (row, field) in wanted {
                match table.slot(*row, *field).and_then(|s| s.record()) {
                    None => {}
                    Some(place) if place.is_pointless() => {
                        series.push((place, Series::new(of((*row, *field)))));
                    }
                    Some(place) => {
                        places.push(place);
                        away.push((*row, *field));
                    }
                }
            }
            self.tail_files.open()
        };
        if places.is_empty() && series.is_empty() {
            return Ok(Fetched::default());
        }
        if within_budget {
            let asked = places.iter().map(|p| 2 * p.len());
            let count = (places.len() + series.len()) as u64;
            self.admit_recall(asked.sum::<u64>() + count * SERIES_BYTES as u64)?;
        }
        let records = files.read(self.device.as_ref(), &places);
        let records = records.map_err(|error| RecallError::Read(Arc::new(error)))?;
        series.reserve(records.len());
        for ((bytes, place), (row, field)) in records.iter().zip(&places).zip(away) {
            let record = read_tail_record(bytes);
            let record = record.map_err(|error| RecallError::Record(Arc::new(error)))?;
            let key = record.key;
            let wanted = (database.id, part.partition, row, field);
            if (key.database, key.partition, key.row, key.field) != wanted {
                return Err(RecallError::Foreign);
            }
            let loaded = Series::new(of((row, field)));
            loaded.load(record, Some(*place));
            series.push((*place, loaded));
        }
        Ok(Fetched { series, files })
    }

    /// Lets series take their places, but for those that have changed since they were looked up.
    pub(crate) fn install(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        fetched: Fetched,
    ) {
        let (mut heap, mut count) = (0, 0);
        let mut listed = Vec::new();
        let mut table = part.table.write();
        let open = self.tail_files.open();
        for (place, series) in fetched.series {
            let SeriesPlace { row, field, .. } = series.place;
            let now = table.slot(row, field).and_then(|s| s.record());
            let is_there = place.is_pointless() || open.agree_on(&fetched.files, place.file());
            if now != Some(place) || !is_there {
                continue;
            }
            let series = Arc::new(series);
            let mut state = series.lock();
            heap += state.heap_bytes() as i64 + SERIES_BYTES - AWAY_BYTES;
            if state.wants_merger() {
                listed.push((Arc::clone(database), Arc::clone(&series)));
            }
            drop(state);
            table.put(series);
            count += 1;
        }
        part.note_away(&table);
        drop(table);
        database.charge(heap);
        self.governor_counts
            .recalled
            .fetch_add(count, Ordering::Relaxed);
        if !listed.is_empty() {
            let mut shard = self.shard_of(part.partition).state.lock();
            shard.several_runs.extend(listed);
        }
    }
}
