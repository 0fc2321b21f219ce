//! Series in two parts. Where memory is short a checkpoint leaves of a series only the points that came behind it, and a
//! write to a series that is away begins a newer part without reading the older one. The next checkpoint writes both as one
//! record; where the newer part outgrows its tail they are joined in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::IoError;
use alluvium_nbtree::{
    Encoder, PageWriter, TailRecord, Tree, TreeError, TreeSnapshot, put_tail_record,
    read_tail_record,
};
use alluvium_types::{Column, DatabaseId, FieldId, Lsn, Row, TimeRange};

use crate::capture::{Captured, CapturedSeries, NewerPart, PREFETCH_AHEAD, note_captured};
use crate::checkpoint::Running;
use crate::databases::DatabaseState;
use crate::error::{RecallError, StoreError};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::series::{Parts, Series, SeriesPlace, points_of};
use crate::tail_files::{OpenFiles, RecordPlace};

/// Series that are joined together.
const SLICE_SERIES: usize = 64;
/// Times that a series is looked up again because its record was moved.
const ATTEMPTS: usize = 16;
/// Longest record of an older part: an open leaf and what no inner page holds yet. Longer ones, of late points or texts, are read
/// when their series is written to.
const OLDER_BYTES_MAX: u64 = 16 << 10;
/// Lines of one batch for one row from which on its series are joined first: the newer part stays in its tail.
const LINES_OF_ROW: usize = 16;

/// What must be done about series before a batch is written to them.
#[derive(Debug, Default)]
pub(crate) struct Unready {
    /// Away, to be read.
    pub away: Vec<(Row, FieldId)>,
    /// Away, to become a newer part.
    begin: Vec<(Row, FieldId)>,
    /// In two parts that are to be joined.
    join: Vec<(Row, FieldId)>,
}

impl Unready {
    /// Of a batch with these rows, one for each line. `plain`: all its values are numbers. `is_short`: there is no room for
    /// what is away.
    pub(crate) fn of_rows(
        part: &PartitionState,
        mut rows: Vec<Row>,
        plain: bool,
        is_short: bool,
    ) -> Self {
        let mut unready = Self::default();
        rows.sort_unstable();
        let table = part.table.read();
        for lines in rows.chunk_by(|a, b| a == b) {
            let Some(row) = lines.first().copied() else {
                continue;
            };
            let few = plain && lines.len() <= LINES_OF_ROW;
            for (field, slot) in table.slots_of_row(row) {
                match (slot.record(), slot.here().map(|s| s.parts())) {
                    (Some(record), _)
                        if is_short
                            && few
                            && record.len() < OLDER_BYTES_MAX
                            && !record.is_pointless() =>
                    {
                        unready.begin.push((row, field));
                    }
                    (Some(_), _) => unready.away.push((row, field)),
                    (None, Some(Parts::Ripe)) => unready.join.push((row, field)),
                    (None, Some(Parts::Newer)) if !few => unready.join.push((row, field)),
                    _ => {}
                }
            }
        }
        unready
    }
}

impl StoreInner {
    /// Sees to it that a batch may be written to these series. Waits for records; the caller has no lock.
    ///
    /// # Errors
    /// If a record cannot be read, or what is read would not fit.
    pub(crate) fn make_ready(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        unready: &Unready,
    ) -> Result<(), RecallError> {
        self.begin_parts(database, part, &unready.begin)?;
        self.bring_back(database, part, &unready.away, true)?;
        self.join(database, part, &unready.join)
    }

    /// Begins newer parts of series that are away, if they fit. Those that have come back meanwhile are left as they are.
    fn begin_parts(
        &self,
        database: &DatabaseState,
        part: &PartitionState,
        begin: &[(Row, FieldId)],
    ) -> Result<(), RecallError> {
        if begin.is_empty() {
            return Ok(());
        }
        self.admit_recall(begin.len() as u64 * SERIES_BYTES as u64)?;
        let mut begun = 0;
        let mut table = part.table.write();
        for (row, field) in begin {
            // A checkpoint may have moved it, as it was.
            let Some(record) = table.slot(*row, *field).and_then(|s| s.record()) else {
                continue;
            };
            let series = Arc::new(Series::new(SeriesPlace {
                partition: part.partition,
                row: *row,
                field: *field,
            }));
            let mut state = series.lock();
            state.set_older(Some(record));
            // It may go again as it came.
            state.set_record(Some(record));
            state.is_recent = true;
            drop(state);
            table.put(series);
            begun += 1;
        }
        part.note_away(&table);
        part.parted.fetch_add(begun, Ordering::Release);
        drop(table);
        database.charge(begun as i64 * (SERIES_BYTES - AWAY_BYTES));
        let counts = &self.governor_counts;
        counts.parted.fetch_add(begun, Ordering::Relaxed);
        Ok(())
    }

    /// Makes whole what of these series is in two parts. Waits for their records; the caller has no lock.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(crate) fn join(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        wanted: &[(Row, FieldId)],
    ) -> Result<(), RecallError> {
        for slice in wanted.chunks(SLICE_SERIES) {
            let mut attempts = ATTEMPTS;
            while self.join_slice(database, part, slice)? {
                if attempts == 0 {
                    return Err(RecallError::Unsettled);
                }
                attempts -= 1;
            }
        }
        Ok(())
    }

    /// Returns whether there may be some in two parts still.
    fn join_slice(
        &self,
        database: &Arc<DatabaseState>,
        part: &PartitionState,
        wanted: &[(Row, FieldId)],
    ) -> Result<bool, RecallError> {
        // In this order: that a place is of one of these files is looked at again below.
        let files = self.tail_files.open();
        let table = part.table.read();
        let found = wanted.iter().filter_map(|(row, field)| {
            let series = table.get(*row, *field)?;
            let older = series.lock().older()?;
            Some((Arc::clone(series), older))
        });
        let found: Vec<(Arc<Series>, RecordPlace)> = found.collect();
        drop(table);
        if found.is_empty() {
            return Ok(false);
        }
        let records = self.older_records(part, &files, &found);
        let mut shard = self.shard_of(part.partition).state.lock();
        let shard = &mut *shard;
        if database.is_dropped() {
            return Ok(false);
        }
        let open = self.tail_files.open();
        let is_current = |series: &Series, older: RecordPlace| {
            series.lock().older() == Some(older) && open.agree_on(&files, older.file())
        };
        if records.is_err() && !found.iter().all(|(s, older)| is_current(s, *older)) {
            return Ok(true);
        }
        let late_points_max = self.late_rules().points_max;
        shard.encoder.set_compression(database.settings.compression);
        let (appender, encoder) = (&mut shard.appender, &mut shard.encoder);
        let mut out = PageWriter::new(appender, encoder, database.id, Lsn(0));
        let (mut joined, mut moved, mut failed) = (0, false, None);
        for ((series, older), record) in found.into_iter().zip(records?) {
            if !is_current(&series, older) {
                moved = true;
                continue;
            }
            let pages = out.appender.mark();
            let mut state = series.lock();
            if let Err(error) = state.join(&mut out, record, &self.block, (part, late_points_max)) {
                failed = Some(RecallError::Record(Arc::new(error)));
                break;
            }
            joined += 1;
            // Its record knows nothing of pages made now.
            if out.appender.mark() != pages && !std::mem::replace(&mut state.dirty, true) {
                shard
                    .dirty
                    .push((Arc::clone(database), Arc::clone(&series)));
            }
            if state.wants_merger() {
                drop(state);
                let listed = (Arc::clone(database), series);
                shard.several_runs.push(listed);
            }
        }
        database.charge(out.heap);
        part.parted.fetch_sub(joined, Ordering::Release);
        let counts = &self.governor_counts;
        counts.joined.fetch_add(joined, Ordering::Relaxed);
        failed.map_or(Ok(moved), Err)
    }

    /// Reads the records of older parts.
    fn older_records(
        &self,
        part: &PartitionState,
        files: &OpenFiles,
        of: &[(Arc<Series>, RecordPlace)],
    ) -> Result<Vec<TailRecord>, RecallError> {
        let places: Vec<RecordPlace> = of.iter().map(|(_, older)| *older).collect();
        let records = files.read(self.device.as_ref(), &places);
        let records = records.map_err(|error| RecallError::Read(Arc::new(error)))?;
        let records = records.iter().zip(of);
        let records =
            records.map(|(bytes, (series, _))| older_record(bytes, part.database, series.place));
        records.collect()
    }

    /// The older part of a series in two parts, of which the caller has just seen where it is.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub(crate) fn older(
        &self,
        files: &OpenFiles,
        (database, of): (DatabaseId, SeriesPlace),
        older: RecordPlace,
    ) -> Result<TailRecord, RecallError> {
        let records = files.read(self.device.as_ref(), &[older]);
        let records = records.map_err(|error| RecallError::Read(Arc::new(error)))?;
        older_record(records.first().map_or(&[], Vec::as_slice), database, of)
    }

    /// The series itself; if only its newer part is in memory, the older one, in no table. Waits for its record.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub(crate) fn part_with_pages(
        &self,
        database: DatabaseId,
        series: Arc<Series>,
    ) -> Result<Arc<Series>, RecallError> {
        let state = series.lock();
        let Some(place) = state.older() else {
            drop(state);
            return Ok(series);
        };
        // The files while the place is known to be right.
        let files = self.tail_files.open();
        drop(state);
        let older = Series::new(series.place);
        older.load(self.older(&files, (database, series.place), place)?, None);
        Ok(Arc::new(older))
    }

    /// Writes series in two parts as whole records. Waits for their older parts; the caller holds no lock, and `files` were open
    /// when they were looked up. All of them are among the captured ones afterwards, also if it fails.
    pub(crate) fn complete(
        &self,
        running: &mut Running,
        newer: Vec<NewerPart>,
        files: &OpenFiles,
    ) -> Result<(), IoError> {
        if newer.is_empty() {
            return Ok(());
        }
        let places: Vec<RecordPlace> = newer.iter().map(|part| part.older).collect();
        let mut records = files.read(self.device.as_ref(), &places);
        let (mut list, mut failed) = (Vec::new(), None);
        for (i, part) in newer.into_iter().enumerate() {
            let offset = running.tails.tails.end();
            let points = part.runs.first().map_or(0, TreeSnapshot::points);
            let (mut len, mut is_ripe) = (None, false);
            if let (Ok(records), None) = (&mut records, &failed) {
                let older = std::mem::take(&mut records[i]);
                let encoder = &mut running.encoder;
                encoder.set_compression(part.database.settings.compression);
                let put = older_record(&older, part.database.id, part.series.place)
                    .map_err(|error| error.to_string())
                    .and_then(|older| {
                        let whole = self.whole(older, &part, encoder);
                        whole.map_err(|error| error.to_string())
                    });
                match put {
                    Ok(whole) => {
                        let runs: Vec<_> = whole.runs.iter().map(Tree::snapshot).collect();
                        let out = &mut running.tails.tails.pending;
                        put_tail_record(out, encoder, &whole.key, &runs, &whole.late);
                        len = Some(running.tails.tails.end() - offset);
                        is_ripe = runs.iter().any(TreeSnapshot::has_more_than_a_page_open);
                    }
                    Err(what) => {
                        let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
                        let what = "a series' checkpointed tail";
                        failed = Some(IoError::new("complete", what, cause));
                    }
                }
            }
            let mut captured = Captured::new(part.series, len, points);
            if is_ripe {
                captured.ripen();
            }
            note_captured(&mut list, &part.database, captured, offset);
        }
        running.captured.append(&mut list);
        records.map(|_| ())?;
        failed.map_or(Ok(()), Err)
    }

    /// What the record of both parts holds.
    fn whole(
        &self,
        mut older: TailRecord,
        newer: &NewerPart,
        encoder: &mut Encoder,
    ) -> Result<TailRecord, TreeError> {
        older.key.lsn = older.key.lsn.max(newer.key.lsn);
        if let ([run], None, [base], []) = (
            newer.runs.as_slice(),
            &newer.late,
            older.runs.as_mut_slice(),
            older.late.as_slice(),
        ) && run.kind() == base.kind()
            && run.kind().is_numeric()
            && run.leaves() == 0
            && base.last_time() < run.first_time()
        {
            let mut points = Column::new(run.kind());
            run.open_points(&mut points)?;
            base.extend_open(encoder, &points);
            return Ok(older);
        }
        let mut late = crate::late::LateBuffer::of(&older.late);
        let points = points_of(&self.block, &newer.runs, newer.late.as_ref())?;
        for (time, value) in points.iter() {
            late.insert(time, value);
        }
        older.late = late.columns(TimeRange::ALL, |_| true);
        Ok(older)
    }

    /// Says of captured series where their records are, and where memory is short lets go of what is in them. Those in two parts
    /// are to be whole again as far as `room` goes, bytes.
    pub(crate) fn note_captured(
        &self,
        captured: CapturedSeries,
        file: u8,
        is_short: bool,
        room: &mut u64,
    ) {
        let CapturedSeries {
            database,
            series,
            mut offset,
        } = captured;
        let of_partition =
            |a: &Captured, b: &Captured| a.series.place.partition == b.series.place.partition;
        let slices = series.chunk_by(of_partition);
        for some in slices.flat_map(|some| some.chunks(SLICE_SERIES)) {
            let Some(partition) = some.first().map(|c| c.series.place.partition) else {
                continue;
            };
            // Deletes must not come between a look at them and what follows.
            let _shard = self.shard_of(partition).state.lock();
            // Series are of partitions that there are.
            let part = database.partition(partition);
            let is_short = is_short && !part.is_held();
            let (mut heap, mut new) = (0, 0);
            for (at, captured) in some.iter().enumerate() {
                if let Some(next) = some.get(at + PREFETCH_AHEAD as usize) {
                    next.series.prefetch();
                }
                let place = RecordPlace::new(file, offset, u64::from(captured.len()));
                offset += u64::from(captured.len());
                let series = &captured.series;
                let mut state = series.lock();
                state.captured = false;
                if !state.dirty {
                    state.set_record(place);
                }
                let was_parted = state.older().is_some();
                let may_part = is_short && u64::from(captured.len()) < OLDER_BYTES_MAX;
                let Some(place) = place.filter(|_| may_part || was_parted) else {
                    if was_parted {
                        // A batch that outgrows its series' tail is joined first, so that this does not come.
                        self.fail(StoreError::Failed {
                            reason: "a series' record has no place".to_owned(),
                        });
                    }
                    continue;
                };
                let SeriesPlace { row, field, .. } = series.place;
                let is_free = !database.is_deleting() && part.hidden(row, field).is_empty();
                let bytes_min = self.config.part_bytes_min;
                let parted = is_free
                    .then(|| state.part(place, captured.points, bytes_min))
                    .flatten();
                new += u64::from(parted.is_some() && !was_parted);
                heap += match parted {
                    Some(grown) => grown,
                    None if was_parted => state.move_older(place),
                    None => 0,
                };
                // What is whole takes about twice its record.
                let takes = 2 * u64::from(captured.len());
                if was_parted && *room >= takes {
                    *room -= takes;
                    state.ripen();
                } else if captured.is_ripe() {
                    state.ripen();
                }
            }
            database.charge(heap);
            if new > 0 {
                part.parted.fetch_add(new, Ordering::Release);
                // Large batches that found them whole look again.
                part.spills.fetch_add(1, Ordering::AcqRel);
                let counts = &self.governor_counts;
                counts.parted.fetch_add(new, Ordering::Relaxed);
            }
        }
    }
}

/// The one record that `bytes` are, if it is this series'.
fn older_record(
    bytes: &[u8],
    database: DatabaseId,
    of: SeriesPlace,
) -> Result<TailRecord, RecallError> {
    let record = read_tail_record(bytes);
    let record = record.map_err(|error| RecallError::Record(Arc::new(error)))?;
    let key = record.key;
    let wanted = (database, of.partition, of.row, of.field);
    if (key.database, key.partition, key.row, key.field) != wanted {
        return Err(RecallError::Foreign);
    }
    Ok(record)
}
