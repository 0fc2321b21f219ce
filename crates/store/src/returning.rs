//! Brings series back that an opening left in their files: file by file, a piece at a time, while there is room. Those of
//! silent rows stay where they are.
//!
//! Whatever uses a series before brings it back itself, and waits for that. Here records are read one behind the other, so
//! that soon nobody has to.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_index::LiveDays;
use alluvium_io::{AlignedBuf, Read};
use alluvium_nbtree::{read_tail_record, tail_record_head, tail_record_len};
use alluvium_types::{DatabaseId, FieldId, PAGE_SIZE, Partition, Row};

use crate::databases::DatabaseState;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::Fetched;
use crate::series::{Series, SeriesPlace};
use crate::tail_files::{OpenFiles, RecordPlace};

/// Bytes read at a time, unless a record is longer.
const PIECE_BYTES: u64 = 128 << 10;

/// Series wanted together from which on those whose records lie among theirs come back with them.
const TOGETHER_MIN: usize = 16;

/// Where the next piece begins.
#[derive(Debug, Default)]
pub(crate) struct Returning {
    /// Nothing is left, or there is no room.
    is_over: bool,
    files: OpenFiles,
    /// The number of the file, and where in it.
    file: usize,
    at: u64,
    next_ns: u64,
}

/// Which series to bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those of rows with points of the last days: see the setting `index_silent_days`.
    Active,
}

/// Series of one partition whose records are in a piece.
type OfPartition = BTreeMap<(DatabaseId, Partition), Vec<(RecordPlace, Series)>>;

impl Returning {
    /// Those that an opening left, if it did.
    pub(crate) fn new(any_left: bool) -> Self {
        Self {
            is_over: !any_left,
            ..Self::default()
        }
    }
}

impl StoreInner {
    /// Whether so much of memory is in use that series are not brought back before they are used.
    pub(crate) fn is_half_full(&self) -> bool {
        self.budget.used() > self.set_soft_limit() / 2
    }

    /// When the next piece is due, monotonic nanoseconds; `None` if there is none.
    pub(crate) fn next_return_ns(&self) -> Option<u64> {
        let returning = self.returning.lock();
        (!returning.is_over).then_some(returning.next_ns)
    }

    /// Brings back the series of one piece if it is time. Waits for the read, without a lock. Returns whether to call again
    /// at once.
    pub(crate) fn drive_returning(&self, now: u64) -> bool {
        let mut returning = {
            let mut shared = self.returning.lock();
            if shared.is_over || now < shared.next_ns {
                return false;
            }
            // Until it is put back there is nothing to do for others.
            std::mem::replace(&mut *shared, Returning::new(false))
        };
        let share = self.config.recall_percent.min(100);
        if share == 0 || self.is_half_full() || !self.bring_piece_back(&mut returning) {
            return false;
        }
        let took = self.clock.monotonic_ns().saturating_sub(now);
        returning.next_ns = now + took * 100 / share;
        let again = returning.next_ns <= now + took;
        *self.returning.lock() = returning;
        again
    }

    /// Goes on by a piece. Returns whether there may be more.
    fn bring_piece_back(&self, returning: &mut Returning) -> bool {
        let open = self.tail_files.open();
        if !open.is_alike(&returning.files, returning.file) {
            // A checkpoint has written all anew. What came back is passed over.
            if !self.any_away() {
                return false;
            }
            (returning.file, returning.at) = (0, 0);
        }
        returning.files = open;
        let Some((file, len)) = returning.files.file(returning.file) else {
            returning.file += 1;
            returning.at = 0;
            return returning.file < returning.files.numbers();
        };
        let offset = returning.at - returning.at % PAGE_SIZE as u64;
        let mut want = PIECE_BYTES;
        loop {
            let bytes = want.min(len.saturating_sub(offset));
            let read = Read {
                file,
                offset,
                into: AlignedBuf::zeroed(bytes.next_multiple_of(PAGE_SIZE as u64) as usize),
            };
            let (files, number) = (&returning.files, returning.file as u8);
            let Ok(read) = files.read_stretch(self.device.as_ref(), number, read) else {
                // Who needs one of these says so.
                return false;
            };
            let piece = read.into.bytes().get(..bytes as usize);
            let piece = piece.unwrap_or_default();
            let rest = piece.get((returning.at - offset) as usize..);
            let at = (returning.file as u8, returning.at);
            let (taken, longest) = self.take_records(
                &returning.files,
                at,
                rest.unwrap_or_default(),
                Which::Active,
            );
            returning.at += taken;
            if taken > 0 {
                return true;
            }
            if longest > want && longest < len {
                want = longest.next_multiple_of(PAGE_SIZE as u64) + PAGE_SIZE as u64;
                continue;
            }
            // The end, or what no opening would have passed over.
            returning.file += 1;
            returning.at = 0;
            return true;
        }
    }

    /// Brings back series of a partition whose records are to be read anyway, and those whose records lie among them,
    /// of whatever partition: lines that come together are of all partitions, and so are records that lie together. Does
    /// nothing for few, or where there is no room. Waits; the caller has no lock, and sees itself to those left.
    pub(crate) fn bring_neighbours_back(&self, part: &PartitionState, wanted: &[(Row, FieldId)]) {
        if wanted.len() < TOGETHER_MIN || self.is_half_full() {
            return;
        }
        let table = part.table.read();
        let places = wanted.iter().filter_map(|(row, field)| {
            let record = table.slot(*row, *field)?.record()?;
            (!record.is_pointless()).then_some(record)
        });
        let places: Vec<RecordPlace> = places.collect();
        let files = self.tail_files.open();
        drop(table);
        if places.len() < TOGETHER_MIN {
            return;
        }
        let read = files.read_spans(self.device.as_ref(), &places, |at, bytes| {
            self.take_records(&files, at, bytes, Which::All);
        });
        // Who needs one that cannot be read hears of it when it is read alone.
        drop(read);
    }

    /// Takes in the whole records at the front of `bytes`, which lie at `at`, file and offset. Returns how many bytes they
    /// are, and how long the one behind them is.
    fn take_records(
        &self,
        files: &OpenFiles,
        at: (u8, u64),
        bytes: &[u8],
        which: Which,
    ) -> (u64, u64) {
        let catalog = self.catalog.read();
        let mut active = BTreeMap::new();
        let mut found = OfPartition::new();
        let (mut rest, mut longest) = (bytes, 0);
        while let Some(len) = tail_record_len(rest) {
            let Some((record, behind)) = rest.split_at_checked(len as usize) else {
                longest = len;
                break;
            };
            let offset = at.1 + (bytes.len() - rest.len()) as u64;
            rest = behind;
            let Some(place) = RecordPlace::new(at.0, offset, len) else {
                continue;
            };
            // One that is damaged is an error of who uses its series.
            let Ok(head) = tail_record_head(record) else {
                continue;
            };
            let (id, partition) = (head.key.database, Partition(head.key.partition.0 & 15));
            let database = catalog.by_id(id);
            let part = database.and_then(|d| d.touched_partition(partition));
            let (row, field) = (head.key.row, head.key.field);
            let is_there = |part: &Arc<PartitionState>| {
                part.table.read().slot(row, field).and_then(|s| s.record()) == Some(place)
            };
            let Some(part) = part.filter(|part| is_there(part)) else {
                continue;
            };
            if which == Which::Active {
                let rows = active.entry((id, partition)).or_insert_with(|| {
                    let days = self.active_rows(&part.live.read());
                    days.map(LiveDays::union)
                });
                if rows.as_ref().is_some_and(|rows| !rows.contains(row.0)) {
                    continue;
                }
            }
            let Ok(record) = read_tail_record(record) else {
                continue;
            };
            let series = Series::new(SeriesPlace {
                partition,
                row,
                field,
            });
            series.load(record, Some(place));
            found
                .entry((id, partition))
                .or_default()
                .push((place, series));
        }
        let of_database: Vec<(Arc<DatabaseState>, Partition, Vec<_>)> = found
            .into_iter()
            .filter_map(|((id, partition), series)| {
                Some((Arc::clone(catalog.by_id(id)?), partition, series))
            })
            .collect();
        drop(catalog);
        for (database, partition, series) in of_database {
            if let Some(part) = database.touched_partition(partition) {
                let files = files.clone();
                self.install(&database, part, Fetched { series, files });
            }
        }
        ((bytes.len() - rest.len()) as u64, longest)
    }

    fn any_away(&self) -> bool {
        let databases = self.catalog.read().all();
        let mut parts = databases.iter().flat_map(|d| d.touched());
        parts.any(|part| part.away.load(std::sync::atomic::Ordering::Acquire) > 0)
    }
}
