//! What a checkpoint has: databases, definitions, deletes and the tails of series.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium_block::Sections;
use alluvium_index::{IndexError, PartitionIndex, begins_anew, rows_after};
use alluvium_io::{AlignedBuf, Completion, Op, OpenMode, Read};
use alluvium_nbtree::{read_tail_record, tail_record_key, tail_record_len};
use alluvium_types::{DatabaseId, Partition};
use alluvium_wal::{Entry, read_section};

use super::RecoveryReport;
use crate::database_settings::DatabaseSettings;
use crate::databases::{Catalog, DatabaseState};
use crate::error::OpenError;
use crate::ledger::{Ledger, NamedFile};
use crate::named_file::read_named;
use crate::open::StoreInner;
use crate::part_tags::{LIVE_TAG, split_tag};
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::segments::of_partition;
use crate::series::{Series, SeriesPlace};
use crate::series_table::Slot;
use crate::shard::shard_of;
use crate::tail_files::{RecordPlace, TailsFile};
use crate::tombstones::Placed;

/// Bytes of tails read at a time.
const TAILS_PIECE_BYTES: u64 = 1 << 20;

/// The databases of a catalogue section.
pub(super) fn load_catalog(inner: &StoreInner, bytes: &[u8]) -> Result<(), OpenError> {
    let mut catalog = inner.catalog.write();
    for entry in read_section(bytes)?.entries {
        match entry {
            Entry::CreateDatabase {
                id,
                name,
                seed,
                settings,
            } => {
                catalog.add(Arc::new(database(inner, id, name, seed, &settings)));
            }
            Entry::Cut { id, cut } => {
                if let Some(database) = catalog.by_id(id) {
                    inner.restore_cut(database, &cut)?;
                }
            }
            Entry::Mark(last) => catalog.note_id(last as u32),
            _ => {
                return Err(OpenError::Manifest {
                    section: "its catalogue",
                });
            }
        }
    }
    Ok(())
}

pub(super) fn database(
    inner: &StoreInner,
    id: DatabaseId,
    name: String,
    seed: u64,
    settings: &[u8],
) -> DatabaseState {
    let text = std::str::from_utf8(settings).unwrap_or_default();
    let settings = DatabaseSettings::read(text, DatabaseSettings::of(&inner.config));
    let state = DatabaseState::new(id, name, seed, settings, Arc::clone(&inner.budget));
    inner.apply_retention(&state);
    state
}

pub(super) fn load_definitions(inner: &StoreInner, ledger: &Ledger) -> Result<(), OpenError> {
    // Of each partition the parts since the last that begins anew, as (file, tag of the part).
    let mut needed: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut live: Vec<(u64, usize)> = Vec::new();
    let mut files = Vec::new();
    for (number, file) in ledger.series.iter().enumerate() {
        let bytes = read_named(inner.device.as_ref(), &file.series_path(), *file)?;
        let sections = Sections::decode(&bytes)?;
        for (tag, part) in sections.iter() {
            if tag & LIVE_TAG != 0 {
                live.push((tag, number));
                continue;
            }
            let parts = needed.entry(tag).or_default();
            if begins_anew(part) {
                parts.clear();
            }
            parts.push(number);
        }
        files.push(sections);
    }
    let catalog = inner.catalog.read();
    let needed: Vec<_> = needed.into_iter().collect();
    each(inner, &needed, |(tag, parts)| {
        let (tag, id, partition) = (*tag, split_tag(*tag).0, split_tag(*tag).1);
        // Parts of a database dropped since are of no use.
        let Some(database) = catalog.by_id(id) else {
            return Ok(());
        };
        let state = database.partition(partition);
        let named = of_partition(&ledger.segments, id, partition);
        let mut segments = Some(inner.open_segments(state, &named)?);
        let rows = parts.last().and_then(|n| files.get(*n)?.get(tag));
        let rows = rows.map_or(0, rows_after);
        let mut days = state.live.write();
        for (_, number) in live.iter().filter(|(t, _)| *t == tag | LIVE_TAG) {
            let of_file = files.get(*number).and_then(|file| file.get(tag | LIVE_TAG));
            let applied = of_file.map_or(Ok(()), |bytes| days.apply(bytes, rows));
            applied.map_err(IndexError::from)?;
        }
        *state.live_sealed.lock() = days.mark();
        let active = inner.active_rows(&days);
        drop(days);
        let mut loaded = PartitionIndex::new();
        for part in parts.iter().filter_map(|n| files.get(*n)?.get(tag)) {
            match segments.take() {
                Some(segments) => {
                    loaded = PartitionIndex::open(database.seed, part, segments, active.as_ref())?;
                }
                None => loaded.apply_part(database.seed, part)?,
            }
        }
        *state.sealed.lock() = loaded.mark();
        *state.index.write() = loaded;
        Ok(())
    })
}

/// Does `work` for each item, on up to `redo_threads_max` threads: with 1 on the caller's, in their order. Returns the
/// first error met.
fn each<T: Sync>(
    inner: &StoreInner,
    items: &[T],
    work: impl Fn(&T) -> Result<(), OpenError> + Sync,
) -> Result<(), OpenError> {
    let threads = inner.config.redo_threads_max.min(items.len());
    if threads <= 1 {
        return items.iter().try_for_each(work);
    }
    let next = AtomicUsize::new(0);
    let one = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let mut ended = threads
            .into_iter()
            .map(|t| t.join().expect("loading does not panic"));
        ended.try_for_each(|result| result)
    })
}

/// Before redo: what it brings back must be hidden again.
pub(super) fn load_tombstones(inner: &StoreInner, ledger: &Ledger) -> Result<(), OpenError> {
    let catalog = inner.catalog.read();
    for bytes in &ledger.tombstones {
        let section = read_section(bytes)?;
        let Some(database) = catalog.by_id(section.database) else {
            continue;
        };
        for entry in section.entries {
            let Entry::Delete(list) = entry else {
                return Err(OpenError::Manifest {
                    section: "its deletes",
                });
            };
            let lsn = section.lsn;
            let placed = list.into_iter().map(|tombstone| Placed { tombstone, lsn });
            database
                .partition(section.partition)
                .change_tombstones(|set| placed.for_each(|p| set.insert(p)));
        }
    }
    Ok(())
}

pub(super) fn load_tails(
    inner: &StoreInner,
    ledger: &Ledger,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let catalog = inner.catalog.read();
    for file in &ledger.tails {
        load_tails_file(inner, &catalog, *file, report)?;
    }
    Ok(())
}

/// Definitions without points in a tail still need a place in the table.
pub(super) fn complete_tables(inner: &StoreInner) -> Result<(), OpenError> {
    let databases = inner.catalog.read().all();
    let parts: Vec<_> = databases
        .iter()
        .flat_map(|database| database.touched().map(move |part| (database, part)))
        .collect();
    each(inner, &parts, |(database, part)| {
        let index = part.index.read();
        let mut table = part.table.write();
        let mut made = 0;
        for row in (0..index.row_count()).map(alluvium_types::Row) {
            for (field, _) in index.fields_of(row) {
                made += i64::from(table.ensure(SeriesPlace {
                    partition: part.partition,
                    row,
                    field,
                }));
            }
        }
        database.charge(made * SERIES_BYTES);
        Ok(())
    })
}

/// Reads one file piece by piece, and keeps it open for the records of series that are left in it.
fn load_tails_file(
    inner: &StoreInner,
    catalog: &Catalog,
    named: NamedFile,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let bad = OpenError::Manifest {
        section: "a file it names: length or checksum differs",
    };
    let (device, lane) = (&inner.device, inner.index_lane());
    let (path, mode) = (named.tails_path(), OpenMode::default());
    let opened = device.submit(lane, Op::Open { path, mode });
    let opened = opened.wait(device.as_ref(), lane)?;
    let Completion::Opened { file, len } = opened else {
        return Err(bad);
    };
    let open = TailsFile::new(Arc::clone(device), lane, file, named);
    if named.len > len {
        return Err(bad);
    }
    let number = inner.tail_files.add(Some(open));
    let (mut read, mut crc) = (0, 0);
    // Of the file, from `begin` on.
    let (mut bytes, mut begin) = (Vec::new(), 0_u64);
    while read < named.len {
        let want = (named.len - read).min(TAILS_PIECE_BYTES);
        let mut reads = [Read {
            file,
            offset: read,
            into: AlignedBuf::zeroed(want as usize),
        }];
        device.read(&mut reads)?;
        let piece = reads[0].into.bytes().get(..want as usize);
        let piece = piece.unwrap_or_default();
        crc = alluvium_block::crc32c_append(crc, piece);
        bytes.extend_from_slice(piece);
        read += want;
        let mut rest = bytes.as_slice();
        while let Some(len) = tail_record_len(rest) {
            if begin + len > named.len {
                return Err(bad);
            }
            let Some((record, behind)) = rest.split_at_checked(len as usize) else {
                break;
            };
            let place = number.and_then(|n| RecordPlace::new(n, begin, len));
            load_record(inner, catalog, record, place, report)?;
            begin += len;
            rest = behind;
        }
        let left = rest.len();
        bytes.drain(..bytes.len() - left);
    }
    if crc == named.crc && bytes.is_empty() {
        Ok(())
    } else {
        Err(bad)
    }
}

/// Leaves a record where it is and keeps its place, if its series may be away. Returns whether it was left.
fn leave_record(
    catalog: &Catalog,
    bytes: &[u8],
    place: RecordPlace,
    report: &mut RecoveryReport,
) -> Result<bool, OpenError> {
    let (key, runs) = tail_record_key(bytes)?;
    let Some(database) = catalog.by_id(key.database) else {
        return Ok(true);
    };
    let part = database.partition(Partition(key.partition.0 & 15));
    let mut table = part.table.write();
    // One without runs may be empty, and one in memory on a list already.
    let may_stay = runs > 0
        && table.get(key.row, key.field).is_none()
        && part.hidden(key.row, key.field).is_empty();
    if may_stay {
        let new = !table.put_away(key.row, key.field, place);
        part.note_away(&table);
        database.charge(i64::from(new) * AWAY_BYTES);
        report.series_loaded += u64::from(new);
        report.series_left += u64::from(new);
    }
    Ok(may_stay)
}

/// Takes one record in, or leaves it where it is if memory is short: the place is all that is kept then.
fn load_record(
    inner: &StoreInner,
    catalog: &Catalog,
    bytes: &[u8],
    place: Option<RecordPlace>,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    if inner.budget.used() > inner.soft_limit() / 2
        && let Some(place) = place
        && leave_record(catalog, bytes, place, report)?
    {
        return Ok(());
    }
    let record = read_tail_record(bytes)?;
    let key = record.key;
    let Some(database) = catalog.by_id(key.database) else {
        return Ok(());
    };
    let partition = Partition(key.partition.0 & 15);
    let part = database.partition(partition);
    let mut table = part.table.write();
    let of = SeriesPlace {
        partition,
        row: key.row,
        field: key.field,
    };
    let was_away = table.slot(key.row, key.field).and_then(Slot::record);
    if was_away.is_some() {
        table.put(Arc::new(Series::new(of)));
        part.note_away(&table);
        database.charge(SERIES_BYTES - AWAY_BYTES);
        report.series_left -= 1;
    }
    let new = table.ensure(of);
    let Some(series) = table.get(key.row, key.field) else {
        return Ok(());
    };
    // A later file's record takes the place of an earlier one's.
    let before = series.lock().heap_bytes() as i64;
    series.load(record, place);
    let mut state = series.lock();
    if state.is_empty() {
        // A checkpoint lets go of it again.
        part.emptied.lock().push((key.row, key.field));
    }
    if state.wants_merger() {
        let shard = &inner.shards[shard_of(partition, inner.shards.len())];
        let listed = (Arc::clone(database), Arc::clone(series));
        shard.state.lock().several_runs.push(listed);
    }
    let grown = state.heap_bytes() as i64 - before;
    database.charge(grown + i64::from(new) * SERIES_BYTES);
    report.series_loaded += u64::from(new);
    Ok(())
}
