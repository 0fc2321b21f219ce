//! From a superblock to a running store: definitions, tails, then redo of the log.
//!
//! Volumes are rolled back by forgetting: the manifest knows the next page of every extent, pages beyond are
//! of a lost life and are overwritten. The log of the lives since is redone, lives in order, streams of one
//! life side by side: their partitions are disjoint. A point is applied only if its batch is newer than the
//! series' tail. Nothing is written before the first checkpoint of the new life, so a crash in here repeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium_block::{Root, Sections};
use alluvium_index::{
    FlatKey, IndexError, KeyHash, LoadError, PartitionIndex, begins_anew, find_in, rows_after,
};
use alluvium_io::{AlignedBuf, Completion, Device, Lane, Op, OpenMode, Read};
use alluvium_nbtree::{read_tail_record, tail_record_key, tail_record_len};
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::{
    Entry, PointGroup, SectionReader, StreamInfo, read_section, replay, skim, sync_stream,
};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::database_settings::DatabaseSettings;
use crate::databases::{Catalog, DatabaseState};
use crate::delete::apply_delete;
use crate::error::OpenError;
use crate::ledger::{Ledger, NamedFile};
use crate::open::{StoreInner, salt};
use crate::partition::PartitionState;
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::segments::of_partition;
use crate::series::{Series, SeriesPlace};
use crate::series_table::{SeriesTable, Slot};
use crate::shard::shard_of;
use crate::tail_files::{RecordPlace, TailsFile};
use crate::tombstones::Placed;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The store had been closed.
    pub clean: bool,
    /// Series loaded from tails.
    pub series_loaded: u64,
    /// Those of them that were left in the tails files because memory is short.
    pub series_left: u64,
    /// Log frames read.
    pub frames: u64,
    /// Log sections redone.
    pub sections: u64,
    /// Points in them, those that the tails had included.
    pub points: u64,
    /// Log bytes read.
    pub log_bytes: u64,
    /// Streams that ended in a torn frame.
    pub torn_streams: u64,
    /// Files removed that no superblock named.
    pub files_swept: u64,
    /// Nanoseconds from the call of open to a store that serves.
    pub duration_ns: u64,
}

/// Bytes of tails read at a time.
const TAILS_PIECE_BYTES: u64 = 1 << 20;

/// Reads a file that the manifest names and checks it. Waits.
pub(crate) fn read_named(
    device: &dyn Device,
    path: &str,
    file: NamedFile,
) -> Result<Vec<u8>, OpenError> {
    let mut whole = Vec::with_capacity(file.len as usize);
    check_named(device, path, file, |piece| whole.extend_from_slice(piece))?;
    Ok(whole)
}

/// Checks a file that the manifest names, a piece in memory at a time, each of which is shown to `visit` before the
/// checksum of all is known. Waits.
pub(crate) fn check_named(
    device: &dyn Device,
    path: &str,
    file: NamedFile,
    mut visit: impl FnMut(&[u8]),
) -> Result<(), OpenError> {
    let bad = OpenError::Manifest {
        section: "a file it names: length or checksum differs",
    };
    let lane = Lane(0);
    let opening = Op::Open {
        path: path.to_owned(),
        mode: OpenMode::default(),
    };
    let Completion::Opened { file: id, len } = device.submit(lane, opening).wait(device, lane)?
    else {
        return Err(bad);
    };
    let mut pieces = || {
        if file.len > len {
            return Ok(None);
        }
        let (mut read, mut crc) = (0, 0);
        while read < file.len {
            let want = (file.len - read).min(TAILS_PIECE_BYTES) as usize;
            let mut reads = [Read {
                file: id,
                offset: read,
                into: AlignedBuf::zeroed(want),
            }];
            device.read(&mut reads)?;
            let piece = &reads[0].into.bytes()[..want];
            crc = alluvium_block::crc32c_append(crc, piece);
            visit(piece);
            read += want as u64;
        }
        Ok::<_, alluvium_io::IoError>(Some(crc))
    };
    let crc = pieces();
    device
        .submit(lane, Op::Close { file: id })
        .wait(device, lane)?;
    match crc? {
        Some(crc) if crc == file.crc => Ok(()),
        _ => Err(bad),
    }
}

/// The databases of a catalogue section.
fn load_catalog(inner: &StoreInner, bytes: &[u8]) -> Result<(), OpenError> {
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

fn database(
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

/// Brings `inner`, opened on the manifest's volumes, to the state of everything acknowledged.
pub(crate) fn recover(
    inner: &StoreInner,
    root: &Root,
    ledger: &Ledger,
    streams: &[StreamInfo],
) -> Result<RecoveryReport, OpenError> {
    let mut report = RecoveryReport {
        clean: root.clean,
        ..RecoveryReport::default()
    };
    load_catalog(inner, &ledger.catalog)?;
    // Series that deletes touch stay in memory.
    load_tombstones(inner, ledger)?;
    if inner.config.redo_threads_max > 1 {
        // Definitions fill the index, tails the tables of series.
        std::thread::scope(|scope| {
            let tails = scope.spawn(|| load_tails(inner, ledger, &mut report));
            load_definitions(inner, ledger)?;
            tails.join().expect("loading does not panic")
        })?;
    } else {
        load_definitions(inner, ledger)?;
        load_tails(inner, ledger, &mut report)?;
    }
    complete_tables(inner)?;
    let databases = inner.catalog.read().all();
    databases.iter().for_each(|d| StoreInner::raise_barriers(d));
    let salt = salt(root.instance);
    let from = |stream: &StreamInfo| match stream.incarnation.cmp(&ledger.incarnation) {
        std::cmp::Ordering::Less => u64::MAX,
        std::cmp::Ordering::Equal => ledger
            .redo_from
            .get(usize::from(stream.shard))
            .copied()
            .unwrap_or(u64::MAX),
        std::cmp::Ordering::Greater => 0,
    };
    let needed: Vec<(&StreamInfo, u64)> = streams
        .iter()
        .map(|s| (s, from(s)))
        .filter(|(_, from)| *from != u64::MAX)
        .collect();
    check_streams(ledger, streams)?;
    for (stream, from) in &needed {
        sync_stream(inner.device.as_ref(), Lane(0), stream)?;
        redo_catalog(inner, stream, salt, *from)?;
    }
    // A drop cut between the catalogue and the volumes leaves volumes of nobody.
    for id in inner.block.databases() {
        if inner.catalog.read().by_id(id).is_none() {
            let paths = inner.forget_volumes(id);
            inner.checkpointer.lock().add_removals(paths);
        }
    }
    let mut lives: Vec<u32> = needed.iter().map(|(s, _)| s.incarnation).collect();
    lives.dedup();
    let report = Mutex::new(report);
    for life in lives {
        let of_life: Vec<_> = needed
            .iter()
            .filter(|(s, _)| s.incarnation == life)
            .collect();
        for together in of_life.chunks(inner.config.redo_threads_max.max(1)) {
            if let [(stream, from)] = together {
                redo_stream(inner, stream, salt, *from, &report)?;
                continue;
            }
            std::thread::scope(|scope| {
                let threads: Vec<_> = together
                    .iter()
                    .map(|(stream, from)| {
                        scope.spawn(|| redo_stream(inner, stream, salt, *from, &report))
                    })
                    .collect();
                threads
                    .into_iter()
                    .try_for_each(|t| t.join().expect("redo does not panic"))
            })?;
        }
    }
    Ok(report.into_inner())
}

/// A shard that had frames when the checkpoint captured it keeps a segment at least: without one, whatever was
/// acknowledged since would be missing without a word.
pub(crate) fn check_streams(ledger: &Ledger, streams: &[StreamInfo]) -> Result<(), OpenError> {
    for (shard, from) in ledger.redo_from.iter().enumerate() {
        let shard = shard as u16;
        let is_it = |s: &&StreamInfo| s.incarnation == ledger.incarnation && s.shard == shard;
        let there = streams.iter().find(is_it);
        if *from > 1 && there.is_none_or(|s| s.segments.is_empty()) {
            let stream = StreamInfo {
                incarnation: ledger.incarnation,
                shard,
                segments: Vec::new(),
                free: Vec::new(),
            };
            return Err(alluvium_wal::LogError::MissingSegment {
                stream: stream.name(),
                segment: 1,
            }
            .into());
        }
    }
    Ok(())
}

fn load_definitions(inner: &StoreInner, ledger: &Ledger) -> Result<(), OpenError> {
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

/// In the tag of a partition's days, beside its definitions.
pub(crate) const LIVE_TAG: u64 = 0x10;

/// Tag of a partition's days in a file of definitions.
pub(crate) fn live_tag(database: DatabaseId, partition: Partition) -> u64 {
    part_tag(database, partition) | LIVE_TAG
}

/// Tag of a partition's part in a file of definitions.
pub(crate) fn part_tag(database: DatabaseId, partition: Partition) -> u64 {
    u64::from(database.0) << 8 | u64::from(partition.0)
}

pub(crate) fn split_tag(tag: u64) -> (DatabaseId, Partition) {
    // A partition past the last one is masked: the part itself is checked.
    (DatabaseId((tag >> 8) as u32), Partition(tag as u8 & 15))
}

fn load_tails(
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
fn complete_tables(inner: &StoreInner) -> Result<(), OpenError> {
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

/// Before redo: what it brings back must be hidden again.
fn load_tombstones(inner: &StoreInner, ledger: &Ledger) -> Result<(), OpenError> {
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

/// Applies what a stream says of databases: before any other partition's sections, which name their ids.
fn redo_catalog(
    inner: &StoreInner,
    stream: &StreamInfo,
    salt: u64,
    from: u64,
) -> Result<(), OpenError> {
    // Whatever the number of shards is, partition 0 is of the first.
    if stream.shard != 0 {
        return Ok(());
    }
    skim(
        inner.device.as_ref(),
        stream,
        salt,
        from,
        &mut |_, bytes| {
            if alluvium_wal::section_head(bytes)?.1 != Partition(0) {
                return Ok(());
            }
            let mut catalog = inner.catalog.write();
            for entry in read_section(bytes)?.entries {
                match entry {
                    Entry::CreateDatabase {
                        id,
                        name,
                        seed,
                        settings,
                    } if catalog.by_id(id).is_none() => {
                        catalog.add(Arc::new(database(inner, id, name, seed, &settings)));
                    }
                    Entry::Settings { id, settings } => {
                        if let Some(database) = catalog.by_id(id) {
                            let text = std::str::from_utf8(&settings).unwrap_or_default();
                            let settings = DatabaseSettings::read(text, database.settings_now());
                            database.retention.set_settings(settings.retention);
                            database.series_counts.set_limits(settings.series_limits);
                            inner.apply_retention(database);
                        }
                    }
                    Entry::Cut { id, cut } => {
                        if let Some(database) = catalog.by_id(id) {
                            inner.restore_cut(database, &cut)?;
                        }
                    }
                    Entry::DropDatabase { id } => {
                        if let Some(gone) = catalog.remove(id) {
                            let paths = inner.forget_volumes(gone.id);
                            inner.checkpointer.lock().add_removals(paths);
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        },
    )?;
    Ok(())
}

fn redo_stream(
    inner: &StoreInner,
    stream: &StreamInfo,
    salt: u64,
    from: u64,
    report: &Mutex<RecoveryReport>,
) -> Result<(), OpenError> {
    let databases: HashMap<DatabaseId, Arc<DatabaseState>> = inner
        .catalog
        .read()
        .all()
        .into_iter()
        .map(|d| (d.id, d))
        .collect();
    let mut redo = Redo {
        inner,
        databases,
        hash_scratch: Vec::new(),
        group: PointGroup::default(),
        sections: 0,
        points: 0,
        failed: None,
    };
    let end = replay(
        inner.device.as_ref(),
        stream,
        salt,
        from,
        &mut |_, bytes| {
            if redo.failed.is_none() {
                redo.failed = redo.section(bytes).err();
            }
            Ok(())
        },
    )?;
    if let Some(error) = redo.failed {
        return Err(error);
    }
    let mut report = report.lock();
    report.sections += redo.sections;
    report.points += redo.points;
    report.log_bytes += end.bytes;
    report.frames += end.next_seq.saturating_sub(from.max(1));
    report.torn_streams += u64::from(end.torn_at.is_some());
    Ok(())
}

struct Redo<'a> {
    inner: &'a StoreInner,
    databases: HashMap<DatabaseId, Arc<DatabaseState>>,
    hash_scratch: Vec<u8>,
    group: PointGroup,
    sections: u64,
    points: u64,
    failed: Option<OpenError>,
}

impl Redo<'_> {
    fn section(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        let mut section = SectionReader::new(bytes)?;
        let (partition, lsn) = (section.partition, section.lsn);
        let shard = &self.inner.shards[shard_of(partition, self.inner.shards.len())];
        let mut state = shard.state.lock();
        let last = &mut state.last_lsn[usize::from(partition.0)];
        *last = (*last).max(lsn);
        self.sections += 1;
        let Some(database) = self.databases.get(&section.database).map(Arc::clone) else {
            // Dropped since, or a catalogue entry of partition 0.
            return Ok(());
        };
        let part = Arc::clone(database.partition(partition));
        while let Some(entry) = section.next_entry(&mut self.group)? {
            match entry {
                Entry::Row { row, key } => {
                    let flat = FlatKey::new(&key, &mut self.hash_scratch);
                    let hash = KeyHash::of_input(database.seed, &self.hash_scratch);
                    let found = part.index.read().lookup(hash);
                    let known = if found.is_some() {
                        found
                    } else {
                        let segments = part.index.read().may_be_silent(hash);
                        find_in(&segments, hash).map_err(LoadError::from)?
                    };
                    let mut index = part.index.write();
                    let got = if let Some(known) = known {
                        known
                    } else {
                        index.insert_flat(hash, &flat)?
                    };
                    if got != row {
                        return Err(undefined(partition, "a row under another number"));
                    }
                }
                Entry::Field {
                    measurement,
                    field,
                    name,
                } => {
                    let mut index = part.index.write();
                    let Some(id) = index.measurement(&measurement) else {
                        return Err(undefined(partition, "a measurement"));
                    };
                    if index.insert_field(id, &name)? != field {
                        return Err(undefined(partition, "a field under another number"));
                    }
                }
                Entry::Points(group) => {
                    // Again with the lock: who redoes another stream may have let some go.
                    loop {
                        let rows = group.rows.iter().copied();
                        let away = StoreInner::away_of_rows(&part, rows);
                        if away.is_empty() {
                            break;
                        }
                        drop(state);
                        self.inner.bring_back(&database, &part, &away, false)?;
                        state = shard.state.lock();
                    }
                    define_series(&database, &part, &group, lsn);
                    part.note_points(&group);
                    self.points += group.bits.len() as u64;
                    let late = self.inner.late_rules();
                    let counters = &self.inner.counters;
                    if state.apply(&database, &part, &group, lsn, late, counters) > 0 {
                        return Err(undefined(partition, "a series"));
                    }
                    // Its buffers serve the next group.
                    self.group = group;
                }
                Entry::Delete(list) => {
                    let rows = part.table.read().row_count();
                    loop {
                        let of = list.iter().map(|t| t.rows.iter());
                        let of = of.flat_map(|set| set.take_while(|r| r.0 < rows));
                        let away = StoreInner::away_of_rows(&part, of);
                        if away.is_empty() {
                            break;
                        }
                        drop(state);
                        self.inner.bring_back(&database, &part, &away, false)?;
                        state = shard.state.lock();
                    }
                    apply_delete(&mut state, &database, &part, &list, lsn);
                }
                Entry::CreateDatabase { .. }
                | Entry::DropDatabase { .. }
                | Entry::Settings { .. }
                | Entry::Cut { .. }
                | Entry::Mark(_) => {}
            }
        }
        // Pages must leave for the device while redo goes on, or they would pile up.
        let _ = state.appender.drive();
        let lane = shard.lane;
        let wait = state.appender.queued_pages() > self.inner.config.page_backlog_max;
        drop(state);
        self.inner.device.drive(lane);
        // What redo has looked at and found complete may go again.
        self.inner.relieve();
        if wait {
            self.inner.device.wait(std::time::Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Series are defined by their first point. One whose tail has the whole batch is as the definitions of that
/// checkpoint say, which were taken later: it may have been deleted meanwhile.
fn define_series(database: &DatabaseState, part: &PartitionState, group: &PointGroup, lsn: Lsn) {
    let table = part.table.read();
    let missing = |table: &SeriesTable| {
        let mut missing = Vec::new();
        let index = part.index.read();
        for row in &group.rows {
            for (field, kind) in &group.fields {
                let series = table.get(*row, *field);
                let is_new = !index.kinds(*row, *field).contains(*kind)
                    && series.is_none_or(|s| !s.lock().has_batch(lsn));
                if series.is_none() || is_new {
                    missing.push((*row, *field, *kind));
                }
            }
        }
        missing
    };
    let missing = missing(&table);
    drop(table);
    if missing.is_empty() {
        return;
    }
    let mut index = part.index.write();
    let mut table = part.table.write();
    for (row, field, kind) in missing {
        // A row or field that nothing defined is refused by the index; apply then reports it.
        if index.add_series(row, field, kind).is_ok() {
            let place = SeriesPlace {
                partition: part.partition,
                row,
                field,
            };
            if table.ensure(place) {
                database.charge(SERIES_BYTES);
            }
        }
    }
}

fn undefined(partition: Partition, what: &'static str) -> OpenError {
    OpenError::Undefined {
        partition: partition.0,
        what,
    }
}

impl StoreInner {
    /// Forgets the volumes of a dropped database. Returns their paths.
    pub(crate) fn forget_volumes(&self, database: DatabaseId) -> Vec<String> {
        self.merger.lock().forget_database(database);
        for shard in &self.shards {
            let mut state = shard.state.lock();
            state.appender.forget_database(database);
            // Or its memory would stay until the next checkpoint takes the list.
            state.dirty.retain(|(d, _)| d.id != database);
            state.several_runs.retain(|(d, _)| d.id != database);
        }
        self.block.drop_database(database)
    }
}
