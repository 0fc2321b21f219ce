//! The log of the lives since a checkpoint, applied again.

use std::sync::Arc;

use alluvium_index::{FlatKey, KeyHash, LoadError, find_in};
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::{Entry, PointGroup, SectionReader, StreamInfo, replay, skim};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::RecoveryReport;
use super::loading::database;
use crate::database_settings::DatabaseSettings;
use crate::databases::DatabaseState;
use crate::delete::apply_delete;
use crate::error::OpenError;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::SERIES_BYTES;
use crate::series::SeriesPlace;
use crate::series_table::SeriesTable;
use crate::shard::shard_of;

/// Applies what a stream says of databases: before any other partition's sections, which name their ids.
pub(super) fn redo_catalog(
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
            let mut section = SectionReader::new(bytes)?;
            let mut group = PointGroup::default();
            let mut catalog = inner.catalog.write();
            loop {
                // What lines bring is not looked at yet.
                while section.next_row()?.is_some() {}
                let Some(entry) = section.next_entry(&mut group)? else {
                    break;
                };
                match entry {
                    Entry::CreateDatabase {
                        id,
                        name,
                        seed,
                        settings,
                    } if id.0 > catalog.last_id() => {
                        // Ids are logged in their order. What is not beyond the superblock's last one is in its catalogue, or
                        // was dropped: it must not take its name from a database created since.
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
                    Entry::Points(points) => group = points,
                    _ => {}
                }
            }
            Ok(())
        },
    )?;
    Ok(())
}

pub(super) fn redo_stream(
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
    /// Gives the tag sets that come next in a section their rows.
    fn rows(
        &mut self,
        section: &mut SectionReader<'_>,
        database: &DatabaseState,
        part: &PartitionState,
    ) -> Result<(), OpenError> {
        let Some(mut next) = section.next_row()? else {
            return Ok(());
        };
        let mut index = part.index.write();
        loop {
            let (row, key) = next;
            let scratch = &mut self.hash_scratch;
            let flat = FlatKey::of_parts(key.measurement(), key.tags(), scratch);
            let hash = KeyHash::of_input(database.seed, flat.bytes());
            let mut known = index.lookup(hash);
            if known.is_none() {
                let segments = index.may_be_silent(hash);
                if !segments.is_empty() {
                    drop(index);
                    known = find_in(&segments, hash).map_err(LoadError::from)?;
                    index = part.index.write();
                }
            }
            let got = match known {
                Some(known) => known,
                None => index.insert_flat(hash, flat)?,
            };
            if got != row {
                return Err(undefined(part.partition, "a row under another number"));
            }
            match section.next_row()? {
                Some(row) => next = row,
                None => return Ok(()),
            }
        }
    }

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
        loop {
            self.rows(&mut section, &database, &part)?;
            let Some(entry) = section.next_entry(&mut self.group)? else {
                break;
            };
            match entry {
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
                | Entry::Mark(_)
                // Taken before.
                | Entry::Row { .. } => {}
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
