//! The tails of series, as a checkpoint has them.
//!
//! Files are read from the last one back: of a series the first record met counts. Of a large store every record is
//! checked and stays where it is, so that opening costs no more than reading; series come back when they are used, and
//! by and by ([`returning`](crate::returning)). Of a small one they are made at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_io::{AlignedBuf, Completion, IoError, Op, OpenMode, Read};
use alluvium_nbtree::{TailHead, read_tail_record, tail_record_head, tail_record_len};
use alluvium_types::{DatabaseId, FieldId, PAGE_SIZE, PARTITION_COUNT, Partition, Row};
use parking_lot::RwLockWriteGuard;

use super::RecoveryReport;
use crate::copying::Side;
use crate::databases::{Catalog, DatabaseState};
use crate::error::OpenError;
use crate::ledger::{Ledger, NamedFile};
use crate::mended_tails::MendedTails;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::series::{Series, SeriesPlace};
use crate::series_table::SeriesTable;
use crate::shard::shard_of;
use crate::tail_files::{RecordPlace, TailsFile};

/// Bytes of tails read at a time, unless a record is longer.
const PIECE_BYTES: u64 = 1 << 20;
/// A record left where it is.
type Left = (Row, FieldId, RecordPlace);
/// Those that are gathered before the tables learn of them: 6 MiB. Those of a partition's rows mostly ascend, but not where
/// batches were written side by side.
const GATHERED_MAX: usize = 1 << 18;
/// What they take at most of the budget, one part of so many.
const GATHERED_SHARE: u64 = 64;
/// Bytes of series after which the budget is told of them.
const CHARGED_BYTES: i64 = 64 << 10;

/// Takes in what the tails files have, and notes which pages nothing leads to any more.
pub(super) fn load_tails(
    inner: &StoreInner,
    ledger: &Ledger,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let catalog = inner.catalog.read();
    // As the manifest says: nothing has been looked at.
    let lens = ledger.tails.iter().map(|file| file.len);
    let bytes = lens.fold(0, u64::saturating_add);
    let share = inner.config.memory_bytes / GATHERED_SHARE;
    let mut loader = Loader {
        inner,
        catalog: &catalog,
        leave: bytes > inner.config.open_load_bytes_max,
        database: None,
        tables: [const { None }; PARTITION_COUNT],
        gathered: [const { Vec::new() }; PARTITION_COUNT],
        gathered_count: 0,
        gathered_max: GATHERED_MAX.min(share as usize / size_of::<Left>()),
        heap: 0,
        leaves: 0,
        leaves_of: BTreeMap::new(),
        report,
    };
    for file in ledger.tails.iter().rev() {
        loader.file(*file)?;
    }
    for database in catalog.all() {
        let leaves = loader.leaves_of.get(&database.id).copied().unwrap_or(0);
        inner.note_lost_pages(&database, leaves);
    }
    Ok(())
}

type Table<'a> = (&'a PartitionState, RwLockWriteGuard<'a, SeriesTable>);

struct Loader<'a> {
    inner: &'a StoreInner,
    catalog: &'a Catalog,
    /// Series are not made although there is room.
    leave: bool,
    /// The one whose tables these are.
    database: Option<&'a Arc<DatabaseState>>,
    tables: [Option<Table<'a>>; PARTITION_COUNT],
    /// Records of this file that are left where they are, of which the tables have not been told.
    gathered: [Vec<Left>; PARTITION_COUNT],
    gathered_count: usize,
    gathered_max: usize,
    /// What its series take more than before.
    heap: i64,
    /// Leaves of its series, as far as they are not with those of all databases yet.
    leaves: u64,
    leaves_of: BTreeMap<DatabaseId, u64>,
    report: &'a mut RecoveryReport,
}

impl<'a> Loader<'a> {
    /// Takes one file in, and keeps it open for the records of series that are left in it. One that does not hold is read once
    /// more as its mending file gives it back: of what was met before nothing is taken twice.
    fn file(&mut self, named: NamedFile) -> Result<(), OpenError> {
        let bad = OpenError::Manifest {
            section: "a file it names: length or checksum differs",
        };
        let (device, lane) = (&self.inner.device, self.inner.index_lane());
        let (path, mode) = (named.tails_path(), OpenMode::default());
        let opened = device.submit(lane, Op::Open { path, mode });
        let opened = opened.wait(device.as_ref(), lane)?;
        let Completion::Opened { file, len } = opened else {
            return Err(bad);
        };
        let open = TailsFile::new(Arc::clone(device), lane, file, named);
        let number = self.inner.tail_files.add(Some(open));
        let as_it_is = if named.len > len {
            Err(bad)
        } else {
            self.records(named, number, |offset, len| {
                let mut reads = [Read {
                    file,
                    offset,
                    into: AlignedBuf::zeroed(len),
                }];
                device.read(&mut reads)?;
                let [read] = reads;
                Ok(read.into)
            })
        };
        self.settle();
        let Err(error) = as_it_is else {
            return Ok(());
        };
        let device = device.as_ref();
        let mut mended = MendedTails::new(Side { device, lane }, file, named);
        if !mended.can_mend() {
            return Err(error);
        }
        let again = self.records(named, number, |offset, len| mended.read(offset, len));
        self.settle();
        again.map_err(|_| error)?;
        self.report.tails_pages_mended += mended.mended.len() as u64;
        self.inner.tail_files.suspect(named);
        Ok(())
    }

    /// Takes in the records of one file piece by piece, whose bytes `read` gives: those from an offset on, so many.
    fn records(
        &mut self,
        named: NamedFile,
        number: Option<u8>,
        mut read: impl FnMut(u64, usize) -> Result<AlignedBuf, IoError>,
    ) -> Result<(), OpenError> {
        let bad = OpenError::Manifest {
            section: "a file it names: length or checksum differs",
        };
        // Where the next record begins, up to where the checksum goes, and how much is read next.
        let (mut begin, mut summed, mut want, mut crc) = (0, 0, PIECE_BYTES, 0);
        while begin < named.len {
            let (before, offset) = (begin, begin - begin % PAGE_SIZE as u64);
            let bytes = want.min(named.len - offset);
            let piece = read(offset, bytes as usize)?;
            let piece = piece.bytes().get(..bytes as usize);
            let piece = piece.unwrap_or_default();
            let new = piece.get((summed - offset) as usize..);
            crc = alluvium_block::crc32c_append(crc, new.unwrap_or_default());
            summed = offset + bytes;
            want = PIECE_BYTES;
            let mut rest = piece.get((begin - offset) as usize..).unwrap_or_default();
            while let Some(len) = tail_record_len(rest) {
                if len > named.len - begin {
                    return Err(bad);
                }
                let Some((record, behind)) = rest.split_at_checked(len as usize) else {
                    want = want.max((len + PAGE_SIZE as u64).next_multiple_of(PAGE_SIZE as u64));
                    break;
                };
                let place = number.and_then(|n| RecordPlace::new(n, begin, len));
                self.record(record, place)?;
                begin += len;
                rest = behind;
            }
            if self.gathered_count == 0 || self.gathered_count >= self.gathered_max {
                self.settle();
            }
            if begin == before && summed == named.len {
                return Err(bad);
            }
        }
        if crc == named.crc { Ok(()) } else { Err(bad) }
    }

    /// Takes one record in, or leaves it where it is and keeps its place.
    fn record(&mut self, bytes: &[u8], place: Option<RecordPlace>) -> Result<(), OpenError> {
        let head = tail_record_head(bytes)?;
        let TailHead { key, leaves, runs } = head;
        let partition = Partition(key.partition.0 & 15);
        let Some((database, part, table)) = self.table(key.database, partition) else {
            return Ok(());
        };
        if table.contains(key.row, key.field) {
            // A later record was met before.
            return Ok(());
        }
        // One without runs may be empty, and one that a delete touches must be in memory.
        let may_stay = runs > 0 && part.hidden(key.row, key.field).is_empty();
        if may_stay
            && (self.leave || self.inner.is_half_full())
            && let Some(place) = place
        {
            self.gathered[usize::from(partition.0)].push((key.row, key.field, place));
            self.gathered_count += 1;
            self.leaves = self.leaves.saturating_add(leaves);
            return Ok(());
        }
        if !self.gathered[usize::from(partition.0)].is_empty() {
            // One of them may be of this series, and was met first.
            self.settle();
            return self.record(bytes, place);
        }
        self.report.series_loaded += 1;
        self.leaves = self.leaves.saturating_add(leaves);
        let series = Arc::new(Series::new(SeriesPlace {
            partition,
            row: key.row,
            field: key.field,
        }));
        series.load(read_tail_record(bytes)?, place);
        let mut state = series.lock();
        if state.is_empty() {
            // A checkpoint lets go of it again.
            part.emptied.lock().push((key.row, key.field));
        }
        if state.wants_merger() {
            let shard = &self.inner.shards[shard_of(partition, self.inner.shards.len())];
            let listed = (Arc::clone(database), Arc::clone(&series));
            shard.state.lock().several_runs.push(listed);
        }
        self.heap += state.heap_bytes() as i64 + SERIES_BYTES;
        drop(state);
        if let Some((_, table)) = &mut self.tables[usize::from(partition.0)] {
            table.put(series);
        }
        if self.heap >= CHARGED_BYTES {
            self.charge();
        }
        Ok(())
    }

    /// Tells the budget of the series made since it was told: a piece of records makes several times its bytes.
    fn charge(&mut self) {
        if let Some(database) = self.database {
            database.charge(std::mem::take(&mut self.heap));
        }
    }

    /// The table of a partition, unless its database is gone.
    fn table(
        &mut self,
        id: DatabaseId,
        partition: Partition,
    ) -> Option<(&'a Arc<DatabaseState>, &'a PartitionState, &SeriesTable)> {
        if self.database.is_none_or(|database| database.id != id) {
            self.settle();
            self.database = self.catalog.by_id(id);
        }
        let database = self.database?;
        let table = &mut self.tables[usize::from(partition.0)];
        let (part, table) = table.get_or_insert_with(|| {
            let part = database.partition(partition);
            (part, part.table.write())
        });
        Some((database, part, table))
    }

    /// Lets go of the tables, and says what they hold.
    fn settle(&mut self) {
        for (table, gathered) in self.tables.iter_mut().zip(&mut self.gathered) {
            if let Some((part, mut table)) = table.take() {
                let added = table.add_away(gathered);
                self.heap += added as i64 * AWAY_BYTES;
                self.report.series_loaded += added as u64;
                self.report.series_left += added as u64;
                part.note_away(&table);
            }
            gathered.clear();
        }
        self.gathered_count = 0;
        self.charge();
        let leaves = std::mem::take(&mut self.leaves);
        if let Some(database) = self.database {
            let of = self.leaves_of.entry(database.id).or_default();
            *of = of.saturating_add(leaves);
        }
    }
}
