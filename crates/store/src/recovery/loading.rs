//! What a checkpoint has: databases, definitions and deletes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium_block::Sections;
use alluvium_index::{IndexError, LiveDays, PartitionIndex, begins_anew, rows_after};
use alluvium_types::DatabaseId;
use alluvium_wal::{Entry, read_section};

use crate::copies::read_definitions;
use crate::database_settings::DatabaseSettings;
use crate::databases::DatabaseState;
use crate::error::OpenError;
use crate::ledger::Ledger;
use crate::open::StoreInner;
use crate::part_tags::{LIVE_TAG, split_tag};
use crate::recall::AWAY_BYTES;
use crate::segments::of_partition;
use crate::tail_files::RecordPlace;
use crate::tombstones::Placed;

/// Series without points that a table is told of at once.
const POINTLESS_AT_ONCE: usize = 1 << 16;

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
            Entry::Mark(last) => {
                let last = u32::try_from(last).map_err(|_| OpenError::Manifest {
                    section: "its catalogue",
                })?;
                catalog.note_id(last);
            }
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
        let bytes = read_definitions(inner.device.as_ref(), *file)?;
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
        let active = active.map(LiveDays::union);
        let mut loaded = PartitionIndex::new();
        for part in parts.iter().filter_map(|n| files.get(*n)?.get(tag)) {
            match segments.take() {
                Some(segments) => {
                    loaded =
                        PartitionIndex::open(database.seed, part, segments, active.as_deref())?;
                }
                None => loaded.apply_part(database.seed, part)?,
            }
        }
        *state.sealed.lock() = loaded.mark();
        if loaded.silent_rows() > 0 {
            state.silences.fetch_add(1, Ordering::Release);
        }
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

/// Definitions without points in a tail still need a place in the table: such series come into memory when they are written
/// to.
pub(super) fn complete_tables(inner: &StoreInner) -> Result<(), OpenError> {
    let databases = inner.catalog.read().all();
    let parts: Vec<_> = databases
        .iter()
        .flat_map(|database| database.touched().map(move |part| (database, part)))
        .collect();
    each(inner, &parts, |(database, part)| {
        let index = part.index.read();
        let mut table = part.table.write();
        let mut pointless = Vec::new();
        let mut made = 0;
        for row in (0..index.row_count()).map(alluvium_types::Row) {
            for (field, _) in index.fields_of(row) {
                if !table.contains(row, field) {
                    pointless.push((row, field, RecordPlace::POINTLESS));
                }
            }
            if pointless.len() >= POINTLESS_AT_ONCE {
                made += table.add_away(&mut pointless);
                pointless.clear();
            }
        }
        made += table.add_away(&mut pointless);
        table.pack_all();
        part.note_away(&table);
        database.charge(made as i64 * AWAY_BYTES);
        Ok(())
    })
}
