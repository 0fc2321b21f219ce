//! What a checkpoint writes of series: one slice under a shard's lock, the walk over all of them, and where their
//! records are once a superblock names the file.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::IoError;
use alluvium_nbtree::{Encoder, TailKey, TreeSnapshot, put_tail_record, tail_record_head};
use alluvium_types::{Column, FieldId, Owner, PARTITION_COUNT, Partition, Row, TimeRange};

use crate::databases::DatabaseState;
use crate::late::LateBuffer;
use crate::ledger::Ledger;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::piece_file::PieceFile;
use crate::series::Series;
use crate::series_table::{PackedBlocks, SeriesTable, Slot};
use crate::tail_files::{OpenFiles, RecordPlace, TailFiles, TailsFile};

/// Series written per hold of a shard's lock.
pub(crate) const SLICE_SERIES: usize = 256;
/// Bytes of late points read and of tails written at which a slice ends; the last series of one may pass it by
/// what a series can hold, somewhat more than 1 MiB.
pub(crate) const SLICE_BYTES: usize = 1 << 20;
/// Rows or series ahead of which memory is asked for: the series, and half as far its tail.
pub(crate) const PREFETCH_AHEAD: u32 = 16;
/// Stands for the number of a file until it has one.
const UNNUMBERED: u8 = 0;

/// A series that a checkpoint has written: the length of its record, and how many points its first run in memory had, modulo
/// 2^32. There is one for each series of the checkpoint until its superblock is written, so it is kept small.
#[derive(Debug)]
pub(crate) struct Captured {
    pub series: Arc<Series>,
    /// See [`Self::len`].
    len_and_ripe: u32,
    pub points: u32,
}

impl Captured {
    const RIPE: u32 = 1 << 31;
    /// More than any place can say.
    const LEN_MAX: u32 = Self::RIPE - 1;

    /// `None`: the record has no place that can be told.
    pub(crate) fn new(series: Arc<Series>, len: Option<u64>, points: u64) -> Self {
        let len = len.map_or(Self::LEN_MAX, |len| {
            u32::try_from(len).map_or(Self::LEN_MAX, |len| len.min(Self::LEN_MAX))
        });
        Self {
            series,
            len_and_ripe: len,
            points: points as u32,
        }
    }

    /// Says that the open leaf in the record is more than a page takes.
    pub(crate) fn ripen(&mut self) {
        self.len_and_ripe |= Self::RIPE;
    }

    /// Length of the record. One of 16 MiB or more has no place, and its series stays in memory.
    pub(crate) fn len(&self) -> u32 {
        self.len_and_ripe & Self::LEN_MAX
    }

    pub(crate) fn is_ripe(&self) -> bool {
        self.len_and_ripe & Self::RIPE != 0
    }
}

/// Series of one database that a checkpoint has written one behind the other.
#[derive(Debug)]
pub(crate) struct CapturedSeries {
    pub database: Arc<DatabaseState>,
    pub series: Vec<Captured>,
    pub offset: u64,
}

/// Adds a series whose record begins at `offset`, where the one before it ends.
pub(crate) fn note_captured(
    list: &mut Vec<CapturedSeries>,
    database: &Arc<DatabaseState>,
    captured: Captured,
    offset: u64,
) {
    match list.last_mut() {
        Some(last) if Arc::ptr_eq(&last.database, database) => last.series.push(captured),
        _ => list.push(CapturedSeries {
            database: Arc::clone(database),
            series: vec![captured],
            offset,
        }),
    }
}

/// A series in two parts of which a checkpoint has what is in memory: see [`StoreInner::complete`].
#[derive(Debug)]
pub(crate) struct NewerPart {
    pub database: Arc<DatabaseState>,
    pub series: Arc<Series>,
    pub older: RecordPlace,
    pub key: TailKey,
    pub runs: Vec<TreeSnapshot>,
    pub late: Option<LateBuffer>,
}

/// Records of one partition that were copied, and where they are in the file that no superblock names yet.
#[derive(Debug)]
pub(crate) struct MovedRecords {
    part: Arc<PartitionState>,
    records: PackedBlocks,
}

/// What is written under one hold of a shard's lock.
#[derive(Debug)]
pub(crate) struct Slice<'a> {
    tails: &'a mut PieceFile,
    encoder: &'a mut Encoder,
    is_full_checkpoint: bool,
    begin: u64,
    late_bytes: usize,
    series: usize,
    pub captured: Vec<CapturedSeries>,
    pub newer: Vec<NewerPart>,
}

impl<'a> Slice<'a> {
    pub(crate) fn new(
        tails: &'a mut PieceFile,
        encoder: &'a mut Encoder,
        is_full_checkpoint: bool,
    ) -> Self {
        Self {
            begin: tails.end(),
            tails,
            encoder,
            is_full_checkpoint,
            late_bytes: 0,
            series: 0,
            captured: Vec::new(),
            newer: Vec::new(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        let written = (self.tails.end() - self.begin) as usize;
        self.series >= SLICE_SERIES || self.late_bytes + written >= SLICE_BYTES
    }

    /// Writes one series. The caller holds its shard's lock.
    pub(crate) fn capture(&mut self, database: &Arc<DatabaseState>, series: &Arc<Series>) {
        self.series += 1;
        if database.is_dropped() {
            return;
        }
        let mut state = series.lock();
        state.dirty = false;
        // Until a superblock names what is written now.
        state.set_record(None);
        if self.is_full_checkpoint && state.is_empty() {
            // All of it has expired; the definitions know it still.
            return;
        }
        let key = TailKey {
            database: database.id,
            partition: series.place.partition,
            row: series.place.row,
            field: series.place.field,
            lsn: state.lsn,
        };
        state.only_pushed = true;
        state.captured = true;
        let runs = state.snapshots();
        let buffer = state.rare().and_then(|r| r.late.as_ref());
        if let Some(older) = state.older() {
            self.newer.push(NewerPart {
                database: Arc::clone(database),
                series: Arc::clone(series),
                older,
                key,
                runs,
                late: buffer.cloned(),
            });
            return;
        }
        let points = runs.first().map_or(0, TreeSnapshot::points);
        let late: Vec<Column> = buffer.map_or(Vec::new(), |buffer| {
            self.late_bytes += buffer.heap_bytes();
            buffer.columns(TimeRange::ALL, |_| true)
        });
        self.encoder.set_compression(database.settings.compression);
        let offset = self.tails.end();
        put_tail_record(&mut self.tails.pending, self.encoder, &key, &runs, &late);
        drop(state);
        let len = self.tails.end() - offset;
        let captured = Captured::new(Arc::clone(series), Some(len), points);
        note_captured(&mut self.captured, database, captured, offset);
    }
}

/// Series that are away, of a slice of a walk.
#[derive(Debug)]
pub(crate) struct AwaySlice {
    part: Arc<PartitionState>,
    files: OpenFiles,
    records: Vec<(Row, FieldId, RecordPlace)>,
}

/// A walk over all series of a shard, by row and field. One that goes or comes back meanwhile is met once, as whatever
/// it is then; one that comes behind the walk is in the log.
#[derive(Debug)]
pub(crate) struct TableWalk {
    databases: Vec<Arc<DatabaseState>>,
    database: usize,
    partition: usize,
    row: Row,
    /// The last field of the row that was met.
    field: Option<FieldId>,
}

impl TableWalk {
    pub(crate) fn new(databases: Vec<Arc<DatabaseState>>) -> Self {
        Self {
            databases,
            database: 0,
            partition: 0,
            row: Row(0),
            field: None,
        }
    }

    /// Writes the series in memory of the next slice and returns those that are away, to be copied when the lock is
    /// released; `None` at the end. The caller holds the shard's lock.
    pub(crate) fn capture(
        &mut self,
        slice: &mut Slice<'_>,
        files: &TailFiles,
        is_mine: impl Fn(Partition) -> bool,
    ) -> Option<AwaySlice> {
        loop {
            let database = self.databases.get(self.database)?;
            let part = database.touched_partition(Partition(self.partition as u8));
            if let Some(part) = part.filter(|p| !database.is_dropped() && is_mine(p.partition)) {
                let (database, part) = (Arc::clone(database), Arc::clone(part));
                let away = self.capture_part(slice, files, &database, part);
                if away.is_some() {
                    return away;
                }
            }
            (self.row, self.field) = (Row(0), None);
            self.partition += 1;
            if self.partition == PARTITION_COUNT {
                self.partition = 0;
                self.database += 1;
            }
        }
    }

    /// Goes on in a partition until the slice is full or it ends; `None` if it had ended before.
    fn capture_part(
        &mut self,
        slice: &mut Slice<'_>,
        files: &TailFiles,
        database: &Arc<DatabaseState>,
        part: Arc<PartitionState>,
    ) -> Option<AwaySlice> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let table = part.table.read();
        if self.row.0 >= table.row_count() {
            return None;
        }
        'rows: while self.row.0 < table.row_count() {
            let ahead = |rows: u32| table.of_row(Row(self.row.0.saturating_add(rows)));
            ahead(PREFETCH_AHEAD).for_each(|(_, series)| series.prefetch());
            ahead(PREFETCH_AHEAD / 2).for_each(|(_, series)| series.prefetch_tail());
            for (field, slot) in table.slots_of_row(self.row) {
                if self.field.is_some_and(|last| field <= last) {
                    continue;
                }
                let is_long = records.len() >= SLICE_SERIES || bytes >= SLICE_BYTES as u64;
                if slice.is_full() || is_long {
                    break 'rows;
                }
                self.field = Some(field);
                if let Some(series) = slot.here() {
                    slice.capture(database, series);
                } else if let Some(record) = slot.record().filter(|r| !r.is_pointless()) {
                    bytes += record.len();
                    records.push((self.row, field, record));
                }
            }
            self.row.0 += 1;
            self.field = None;
        }
        // While the table is held: the places are in these files.
        let files = files.open();
        drop(table);
        Some(AwaySlice {
            part,
            files,
            records,
        })
    }
}

impl StoreInner {
    /// Copies records of series that are away. Waits for them; the caller holds no shard's lock.
    pub(crate) fn copy_records(
        &self,
        tails: &mut PieceFile,
        moved: &mut Vec<MovedRecords>,
        away: AwaySlice,
    ) -> Result<(), IoError> {
        if away.records.is_empty() {
            return Ok(());
        }
        let places: Vec<RecordPlace> = away.records.iter().map(|(.., place)| *place).collect();
        let records = away.files.read(self.device.as_ref(), &places)?;
        if moved
            .last()
            .is_none_or(|m| !Arc::ptr_eq(&m.part, &away.part))
        {
            moved.push(MovedRecords {
                part: away.part,
                records: PackedBlocks::default(),
            });
        }
        for (bytes, (row, field, _)) in records.iter().zip(&away.records) {
            // A damaged record must not get a new checksum of its file.
            let key = tail_record_head(bytes).map(|head| (head.key.row, head.key.field));
            if !key.is_ok_and(|key| key == (*row, *field)) {
                let cause = std::io::Error::from(std::io::ErrorKind::InvalidData);
                return Err(IoError::new("copy", "a series' checkpointed tail", cause));
            }
            // As long as before, so it has a place, unless the file is too long for one.
            let place = RecordPlace::new(UNNUMBERED, tails.end(), bytes.len() as u64);
            if let Some((place, moved)) = place.zip(moved.last_mut()) {
                moved.records.push(*row, *field, place);
            }
            tails.pending.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// A superblock names the file of a checkpoint: series may leave memory into it, and those that are away are there.
    pub(crate) fn note_records(
        &self,
        tails: &mut PieceFile,
        captured: Vec<CapturedSeries>,
        moved: Vec<MovedRecords>,
        ledger: &Ledger,
    ) {
        let (device, lane) = (Arc::clone(&self.device), self.index_lane());
        let file = tails.take_file();
        let file = file.map(|file| TailsFile::new(device, lane, file, tails.named()));
        let Some(number) = self.tail_files.add(file) else {
            // The files before it stay open for those that are away.
            let series = captured.iter().flat_map(|c| &c.series);
            series.for_each(|c| c.series.lock().captured = false);
            return;
        };
        let (used, soft) = (self.budget.used(), self.soft_limit());
        let is_short = used > soft;
        let mut room = (soft / 2).saturating_sub(used);
        for captured in captured {
            self.note_captured(captured, number, is_short, &mut room);
        }
        for MovedRecords { part, records } in moved {
            for (block, mut packed) in records.into_blocks() {
                packed.set_file(number);
                let mut table = part.table.write();
                if let Err(packed) = table.replace_away(block, packed, number) {
                    move_records(&mut table, PackedBlocks::entries(block, &packed));
                }
            }
        }
        self.tail_files.keep(&ledger.tails);
        let held = self.budget.used_by(Owner::OpenTails);
        self.governor_counts
            .held_after
            .store(held, Ordering::Relaxed);
    }
}

/// Says where records are now that were copied, as far as they are what counts still.
fn move_records(
    table: &mut SeriesTable,
    records: impl Iterator<Item = (Row, FieldId, RecordPlace)>,
) {
    for (row, field, new) in records {
        match table.slot(row, field) {
            None => {}
            Some(Slot::Here(series)) => {
                // It came back meanwhile: what has not changed since is what was copied.
                let mut state = series.lock();
                if state.record().is_some_and(|now| now.file() != new.file()) {
                    state.set_record(Some(new));
                }
                // It was begun meanwhile.
                if state.older().is_some_and(|now| now.file() != new.file()) {
                    state.set_older(Some(new));
                }
            }
            // It has changed since it was copied, or has lost its points.
            Some(Slot::Away(now)) if now.file() == new.file() || now.is_pointless() => {}
            Some(Slot::Away(_)) => table.put_away(row, field, new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_record_takes_the_place_of_an_older_one_only() {
        let place = |file, offset| RecordPlace::new(file, offset, 7).unwrap();
        let field = FieldId(0);
        let mut table = SeriesTable::default();
        let there = [place(1, 0), place(2, 7), RecordPlace::POINTLESS];
        for (row, record) in (0..).zip(there) {
            table.put_away(Row(row), field, record);
        }
        let copied = (0..4).map(|row| (Row(row), field, place(2, 100 + u64::from(row) * 7)));
        move_records(&mut table, copied);
        let now = (0..4).map(|row| match table.slot(Row(row), field) {
            Some(Slot::Away(record)) => Some(record),
            _ => None,
        });
        let expected = [Some(place(2, 100)), Some(there[1]), Some(there[2]), None];
        assert!(now.eq(expected));
    }
}
