//! Deletes: what is asked is resolved to series, ranges and counts by reading; then tombstones are logged and
//! applied, a partition at a time, under its shard's lock.
//!
//! A series of which nothing will be left is deleted over all of its time, so that its memory is given back and
//! no list names it. Whether that is so is found out before the lock is taken and holds only while nothing was
//! written to the series since; otherwise the range that was asked for is deleted. A test of values is resolved to
//! the times of points before anything is logged, and again if one of those times was written to meanwhile.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic;

use alluvium_index::{KindSet, PartitionIndex, SelectedRow, Selector};
use alluvium_nbtree::{Direction, ReadStats};
use alluvium_types::{
    Column, FieldId, Lsn, Number, Position, Row, RowSet, SeriesKey, TimeRange, ValueKind, ValueRef,
};
use alluvium_wal::{Among, LogTicket, Tombstone};
use smallvec::SmallVec;

use crate::barrier::Hiding;
use crate::commit::Commit;
use crate::config::Durability;
use crate::databases::{DatabaseState, DeleteUnderWay};
use crate::error::{DeleteError, StoreError};
use crate::losses::OnLoss;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::{AWAY_BYTES, SERIES_BYTES};
use crate::series::Series;
use crate::series_table::{SeriesTable, Slot};
use crate::shard::ShardState;
use crate::snapshot::SeriesSnapshot;
use crate::tombstones::{Placed, Tombstones};

/// Ranges to which the test of values of one delete may be resolved.
pub const DELETE_RANGES_MAX: usize = 65_536;

/// How often a delete is resolved again because a series was written to meanwhile.
const ATTEMPTS: usize = 5;

/// What to delete.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Of series that any of these selects; none selects nothing.
    pub selections: Vec<DeleteSelection>,
    /// Points inside this range; what is written later is not touched, though it lie inside.
    pub range: TimeRange,
    /// Of them, only numbers that pass.
    pub test: Option<ValueTest>,
}

/// One way for a series to be selected.
#[derive(Debug, Clone, Default)]
pub struct DeleteSelection {
    /// All its matchers must hold.
    pub selector: Selector,
    /// Complete tag sets, one of which the series must have; each sorted by key.
    pub tag_sets: Option<Arc<BTreeSet<Vec<(String, String)>>>>,
}

/// A comparison of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A test of numbers; texts never pass. Booleans are 0 and 1; nothing is rounded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValueTest {
    /// All of them must hold. NaN passes `!=` alone.
    pub comparisons: Vec<(Comparison, Number)>,
}

impl ValueTest {
    /// Whether the value passes.
    pub fn passes(&self, value: ValueRef<'_>) -> bool {
        let Some(number) = Number::of(value) else {
            return false;
        };
        self.comparisons.iter().all(|(comparison, with)| {
            let order = number.compare(*with);
            match comparison {
                Comparison::Equal => order == Some(Ordering::Equal),
                Comparison::NotEqual => order != Some(Ordering::Equal),
                Comparison::Less => order == Some(Ordering::Less),
                Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
                Comparison::Greater => order == Some(Ordering::Greater),
                Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
            }
        })
    }
}

/// What a delete affects, as it was when the series were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Affected {
    /// Series with such points; a field of a tag set counts as one, its texts as another.
    pub series: u64,
    /// Points.
    pub points: u64,
}

/// A delete that was applied.
#[derive(Debug)]
pub struct Deleted {
    /// What it affected.
    pub affected: Affected,
    /// Ends when it is as durable as the database's writes; at durability `none`, when its log entry is written.
    pub commit: Commit,
}

/// A delete resolved to series, ready to be applied.
#[derive(Debug)]
pub struct DeletePlan {
    store: Arc<StoreInner>,
    database: Arc<DatabaseState>,
    range: TimeRange,
    partitions: Vec<(Arc<PartitionState>, Vec<Planned>)>,
    affected: Affected,
    _under_way: DeleteUnderWay,
}

#[derive(Debug)]
struct Planned {
    row: Row,
    field: FieldId,
    among: Among,
    what: What,
}

#[derive(Debug)]
enum What {
    /// What lies in the range that was asked for.
    Range,
    /// Everything, if no batch came after this one.
    Whole { seen: Lsn },
    /// Some of the numbers.
    Points(Box<Tested>),
}

/// Numbers whose values passed.
#[derive(Debug)]
struct Tested {
    /// Where they are.
    ranges: Vec<TimeRange>,
    /// What was tested.
    snapshot: SeriesSnapshot,
    /// Position of the newest batch, if no other number was there.
    whole: Option<Lsn>,
}

impl DeletePlan {
    /// Resolves a delete. Reads pages, so it waits; takes no lock for long.
    pub(crate) fn new(
        store: &Arc<StoreInner>,
        database: &Arc<DatabaseState>,
        delete: &Delete,
    ) -> Result<Self, DeleteError> {
        let mut plan = Self {
            store: Arc::clone(store),
            database: Arc::clone(database),
            range: delete.range,
            partitions: Vec::new(),
            affected: Affected::default(),
            _under_way: database.begin_delete(),
        };
        let mut ranges_left = DELETE_RANGES_MAX;
        for part in database.touched() {
            let mut planned = Vec::new();
            for selected in select(part, &delete.selections)? {
                // Also if nothing of it goes: no tombstone may be of a series that is away, or in two parts.
                let wanted = [(selected.row, selected.field)];
                let back = store.bring_back(database, part, &wanted, true);
                let back = back.and_then(|()| store.join(database, part, &wanted));
                back.map_err(StoreError::from)?;
                let series = part.table.read().get(selected.row, selected.field).cloned();
                let Some(series) = series else { continue };
                for (kind, among) in both(selected.kinds) {
                    let found = match &delete.test {
                        None => plan.resolve_range(part, &series, kind)?,
                        Some(_) if !kind.is_numeric() => None,
                        Some(test) => {
                            plan.resolve_test(part, &series, kind, test, &mut ranges_left)?
                        }
                    };
                    let Some((points, what)) = found else {
                        continue;
                    };
                    plan.affected.series += 1;
                    plan.affected.points += points;
                    planned.push(Planned {
                        row: selected.row,
                        field: selected.field,
                        among,
                        what,
                    });
                }
            }
            if !planned.is_empty() {
                plan.partitions.push((Arc::clone(part), planned));
            }
        }
        Ok(plan)
    }

    /// What it will affect, as it was when the series were read.
    pub fn affected(&self) -> Affected {
        self.affected
    }

    /// How many points of a series lie in the range, and whether those are all it has.
    fn resolve_range(
        &self,
        part: &PartitionState,
        series: &Series,
        kind: ValueKind,
    ) -> Result<Option<(u64, What)>, DeleteError> {
        let (snapshot, seen) = SeriesSnapshot::of_locked(
            &self.store,
            part,
            series,
            (
                kind,
                self.database.retention.cut(),
                self.store.readers.pin(),
            ),
        );
        let (Some(first), Some(last)) = (snapshot.first_time(), snapshot.last_time()) else {
            return Ok(None);
        };
        let stats = &mut ReadStats::default();
        let covered = self.range.covers(first, last);
        let range = if covered { TimeRange::ALL } else { self.range };
        let points = snapshot.aggregate(range, stats)?.count;
        if points == 0 {
            return Ok(None);
        }
        let whole = covered
            || !snapshot.has_end_outside(self.range)
                && snapshot.aggregate(TimeRange::ALL, stats)?.count == points;
        let what = if whole {
            What::Whole { seen }
        } else {
            What::Range
        };
        Ok(Some((points, what)))
    }

    /// The ranges of points whose values pass. Points between which there is no other are one range.
    fn resolve_test(
        &self,
        part: &PartitionState,
        series: &Series,
        kind: ValueKind,
        test: &ValueTest,
        ranges_left: &mut usize,
    ) -> Result<Option<(u64, What)>, DeleteError> {
        let (snapshot, seen) = SeriesSnapshot::of_locked(
            &self.store,
            part,
            series,
            (
                kind,
                self.database.retention.cut(),
                self.store.readers.pin(),
            ),
        );
        let cursor = snapshot.scan(self.range, Direction::Forward);
        let mut cursor = cursor.testing(test.clone());
        let mut column = Column::new(snapshot.kind());
        let (mut ranges, mut points) = (Vec::new(), 0);
        let mut open: Option<(i64, i64)> = None;
        while cursor.next_batch(&mut ReadStats::default(), &mut column)? {
            for (time, passes) in column.times.iter().zip(cursor.passed()) {
                if *passes {
                    points += 1;
                    open = Some((open.map_or(*time, |(first, _)| first), *time));
                } else if let Some((first, last)) = open.take() {
                    ranges.push(TimeRange::inclusive(first, last));
                }
            }
            if ranges.len() > *ranges_left {
                return Err(DeleteError::TooManyRanges {
                    limit: DELETE_RANGES_MAX,
                });
            }
        }
        ranges.extend(open.map(|(first, last)| TimeRange::inclusive(first, last)));
        *ranges_left = ranges_left.saturating_sub(ranges.len());
        if points == 0 {
            return Ok(None);
        }
        let stats = &mut ReadStats::default();
        let is_whole = !snapshot.has_end_outside(self.range)
            && snapshot.aggregate(TimeRange::ALL, stats)?.count == points;
        let what = What::Points(Box::new(Tested {
            ranges,
            snapshot,
            whole: is_whole.then_some(seen),
        }));
        Ok(Some((points, what)))
    }

    /// Logs and applies it. Never waits. Nothing is read back from before it as soon as this returns.
    ///
    /// # Errors
    /// See [`DeleteError`]. After [`DeleteError::Disturbed`] some partitions may have been dealt with: resolve it
    /// again.
    pub fn commit(self) -> Result<Deleted, DeleteError> {
        let store = Arc::clone(&self.store);
        store.admit_deletes()?;
        self.check_room()?;
        let mut tickets: SmallVec<[LogTicket; 2]> = SmallVec::new();
        let mut position = Position::default();
        for (part, planned) in &self.partitions {
            let shard = store.shard_of(part.partition);
            let mut state = shard.state.lock();
            if self.database.is_dropped() {
                let name = self.database.name.clone();
                return Err(StoreError::NoDatabase { name }.into());
            }
            let list = {
                let (index, table) = (part.index.read(), part.table.read());
                build(&index, &table, planned, self.range).ok_or(DeleteError::Disturbed)?
            };
            if list.is_empty() {
                continue;
            }
            let lsn = state.next_lsn(part.partition);
            let sync = self.database.settings.durability == Durability::Sync;
            state.section.begin(self.database.id, part.partition, lsn);
            state.section.delete(&list);
            let ticket = store.push_section(&mut state, 0, sync);
            self.database.note_delete(shard.lane, &ticket);
            tickets.push(ticket);
            if let Durability::Interval { ms } = self.database.settings.durability {
                let due = store.clock.monotonic_ns() + u64::from(ms) * 1_000_000;
                state.flush_due_ns = Some(state.flush_due_ns.map_or(due, |d| d.min(due)));
            }
            apply_delete(&mut state, &self.database, part, &list, lsn);
            position.0.push((part.partition, lsn));
            state.log.drive();
            store.device.drive(shard.lane);
            state.log.drive();
        }
        // Of what is gone already, the delete that took it may not have ended: it is not said to be gone before that.
        tickets.extend(self.database.unended_deletes());
        Ok(Deleted {
            affected: self.affected,
            commit: Commit::new(store, tickets, position),
        })
    }

    /// Refuses before anything is applied, as far as one can know.
    fn check_room(&self) -> Result<(), DeleteError> {
        let config = &self.store.config;
        let sets = || self.database.touched().map(|p| p.tombstones());
        let mut bytes: usize = sets().map(|t| t.bytes()).sum();
        for (part, planned) in &self.partitions {
            let shard = self.store.shard_of(part.partition);
            let list = build(&part.index.read(), &part.table.read(), planned, self.range)
                .ok_or(DeleteError::Disturbed)?;
            shard.state.lock().admit_delete(config, &list)?;
            let (more, wide) = Tombstones::cost(&list);
            bytes += more;
            let limit = config.wide_tombstones_max;
            if part.tombstones().wide_count() + wide > limit {
                return Err(DeleteError::TooManyTombstones {
                    setting: "wide_tombstones_max",
                    limit,
                });
            }
        }
        let limit = config.tombstone_bytes_max;
        if bytes > limit {
            return Err(DeleteError::TooManyTombstones {
                setting: "tombstone_bytes_max",
                limit,
            });
        }
        Ok(())
    }
}

/// Resolves and applies, again if series were written to meanwhile.
pub(crate) fn delete(
    store: &Arc<StoreInner>,
    database: &Arc<DatabaseState>,
    delete: &Delete,
) -> Result<Deleted, DeleteError> {
    let mut attempts = 1;
    loop {
        match DeletePlan::new(store, database, delete)?.commit() {
            Err(DeleteError::Disturbed) if attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

/// A numeric kind and the kind of texts, as far as the series has them; both are series of their own to readers.
fn both(kinds: KindSet) -> impl Iterator<Item = (ValueKind, Among)> {
    let mut numeric = kinds.iter().filter(|k| k.is_numeric());
    let first = numeric.next();
    let numbers = match numeric.next() {
        Some(_) => Some(ValueKind::F64),
        None => first,
    };
    let texts = kinds.contains(ValueKind::Str).then_some(ValueKind::Str);
    let (of_numbers, of_texts) = match (numbers, texts) {
        (Some(_), Some(_)) => (Among::Numbers, Among::Texts),
        _ => (Among::All, Among::All),
    };
    let numbers = numbers.map(|kind| (kind, of_numbers));
    numbers
        .into_iter()
        .chain(texts.map(|kind| (kind, of_texts)))
}

/// The fields of rows that any selection selects, by row and field.
fn select(
    part: &PartitionState,
    selections: &[DeleteSelection],
) -> Result<Vec<SelectedRow>, DeleteError> {
    let mut found: Vec<SelectedRow> = Vec::new();
    // What cannot be looked at might have to go, too.
    let on_loss = OnLoss::default();
    for selection in selections {
        let compiled = selection.selector.compile().map_err(StoreError::from)?;
        let selected = part.select(&compiled, TimeRange::ALL, &on_loss, |_, selected| selected);
        let mut selected = selected.map_err(StoreError::from)?;
        if let Some(sets) = &selection.tag_sets {
            let mut rows: Vec<Row> = selected.iter().map(|s| s.row).collect();
            rows.dedup();
            let keys = part.keys(&rows, &on_loss).map_err(StoreError::from)?;
            let admitted = |key: &Option<Arc<_>>| {
                let key: Option<&SeriesKey> = key.as_deref();
                key.is_some_and(|key| sets.contains(key.tags()))
            };
            let admitted: Vec<bool> = keys.iter().map(admitted).collect();
            selected.retain(|s| rows.binary_search(&s.row).is_ok_and(|at| admitted[at]));
        }
        found.append(&mut selected);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Series that are deleted over the same range, among the same kinds.
#[derive(Default)]
struct Together {
    /// Rows of which every field is deleted.
    rows: Vec<Row>,
    by_field: BTreeMap<FieldId, Vec<Row>>,
    newest: Option<i64>,
    /// Of the row at hand.
    fields: Vec<FieldId>,
}

impl Together {
    fn end_row(&mut self, row: Row, mut fields: impl Iterator<Item = FieldId>) {
        self.fields.sort_unstable();
        if fields.all(|field| self.fields.binary_search(&field).is_ok()) {
            self.rows.push(row);
        } else {
            for field in &self.fields {
                self.by_field.entry(*field).or_default().push(row);
            }
        }
        self.fields.clear();
    }

    fn tombstones(self, range: TimeRange, among: Among, out: &mut Vec<Tombstone>) {
        if range.is_empty() {
            return;
        }
        let all = (!self.rows.is_empty()).then_some((None, self.rows));
        let by_field = self.by_field.into_iter().map(|(f, rows)| (Some(f), rows));
        for (field, rows) in all.into_iter().chain(by_field) {
            out.push(Tombstone {
                rows: RowSet::from_iter(rows),
                field,
                among,
                range,
            });
        }
    }
}

/// The tombstones of what was planned in one partition; ranges are clipped to the newest time there is. `None` if a
/// point that was tested has been written anew.
fn build(
    index: &PartitionIndex,
    table: &SeriesTable,
    planned: &[Planned],
    range: TimeRange,
) -> Option<Vec<Tombstone>> {
    let kinds = [Among::All, Among::Numbers, Among::Texts];
    let groups = [(range, false), (TimeRange::ALL, true)];
    let mut groups =
        groups.map(|(range, whole)| (range, whole, kinds.map(|a| (a, Together::default()))));
    let mut out = Vec::new();
    for of_row in planned.chunk_by(|a, b| a.row == b.row) {
        let Some(row) = of_row.first().map(|p| p.row) else {
            continue;
        };
        for planned in of_row {
            let Some(slot) = table.slot(row, planned.field) else {
                continue;
            };
            // It has left memory since it was looked at.
            let series = slot.here()?;
            let mut state = series.lock();
            if state.older().is_some() {
                return None;
            }
            let is_whole = match &planned.what {
                What::Points(tested) if tested.whole == Some(state.lsn) => true,
                What::Points(tested) => {
                    if tested.snapshot.differs(&mut state, &tested.ranges) {
                        return None;
                    }
                    out.extend(tested.ranges.iter().map(|range| Tombstone {
                        rows: RowSet::one(row),
                        field: Some(planned.field),
                        among: Among::Numbers,
                        range: *range,
                    }));
                    continue;
                }
                What::Whole { seen } => state.lsn == *seen,
                What::Range => false,
            };
            for (_, whole, by_kinds) in &mut groups {
                for (among, together) in by_kinds {
                    if *whole == is_whole && *among == planned.among {
                        together.newest = together.newest.max(state.newest());
                        together.fields.push(planned.field);
                    }
                }
            }
        }
        // Fields that came since the plan was made are not meant; some that were may have gone.
        let fields = || index.fields_of(row).map(|(field, _)| field);
        for (_, _, by_kinds) in &mut groups {
            by_kinds
                .iter_mut()
                .filter(|(_, t)| !t.fields.is_empty())
                .for_each(|(_, t)| t.end_row(row, fields()));
        }
    }
    for (range, whole, by_kinds) in groups {
        for (among, together) in by_kinds {
            // Where a series goes as a whole no run is left that could take a later point. Its newest time would not
            // do: redo may find a run that reaches farther, with points that are hidden already.
            let last = if whole {
                Some(i64::MAX - 1)
            } else {
                together.newest
            };
            let Some(last) = last else { continue };
            let range = range.intersect(TimeRange::inclusive(i64::MIN, last));
            together.tombstones(range, among, &mut out);
        }
    }
    Some(out)
}

/// Hides what the tombstones of one batch say: the one path of live deletes and of redo. The caller holds the
/// shard's lock. Cost: a look at every series of their rows.
pub(crate) fn apply_delete(
    shard: &mut ShardState,
    database: &Arc<DatabaseState>,
    part: &PartitionState,
    list: &[Tombstone],
    lsn: Lsn,
) {
    part.change_tombstones(|set| {
        for tombstone in list {
            let tombstone = tombstone.clone();
            set.insert(Placed { tombstone, lsn });
        }
    });
    let mut left: Vec<(Row, SmallVec<[(FieldId, KindSet); 2]>)> = Vec::new();
    let (mut emptied, mut heap_delta) = (Vec::new(), 0_i64);
    let table = part.table.read();
    // Those of one row come together: the series is looked at once for all of them.
    let mut list: Vec<&Tombstone> = list.iter().collect();
    list.sort_by_key(|t| (t.rows.len(), t.rows.runs().next()));
    for same in list.chunk_by(|a, b| a.rows.len() == 1 && a.rows == b.rows) {
        let Some(rows) = same.first().map(|t| &t.rows) else {
            continue;
        };
        // A row that nothing defines would be of a damaged log; the table's size bounds the walk.
        let rows = rows.iter().take_while(|row| row.0 < table.row_count());
        for row in rows {
            let mut changed = SmallVec::new();
            for (field, series) in table.of_row(row) {
                let of_field = |t: &&&Tombstone| t.field.is_none_or(|f| f == field);
                let mut new = same.iter().filter(of_field).copied().peekable();
                if new.peek().is_none() {
                    continue;
                }
                let hidden = part.hidden(row, field);
                let mut state = series.lock();
                let before = state.heap_bytes();
                let Hiding {
                    is_changed,
                    dead_leaves,
                } = state.hide(new, &hidden, lsn);
                database.space.note_dead_leaves(dead_leaves);
                heap_delta += state.heap_bytes() as i64 - before as i64;
                let visible = state.visible_kinds(&hidden);
                if is_changed && !state.dirty {
                    state.dirty = true;
                    shard.dirty_heap_bytes += state.heap_bytes() as u64;
                    shard.dirty.push((Arc::clone(database), Arc::clone(series)));
                }
                if state.is_empty() {
                    emptied.push((row, field));
                }
                if is_changed || visible.is_empty() || state.has_batch(lsn) {
                    changed.push((field, visible));
                }
            }
            if !changed.is_empty() {
                changed.sort_unstable_by_key(|(field, _)| *field);
                left.push((row, changed));
            }
        }
    }
    drop(table);
    if heap_delta != 0 {
        database.charge(heap_delta);
    }
    part.emptied.lock().append(&mut emptied);
    if left.is_empty() {
        return;
    }
    let mut index = part.index.write();
    let mut any_gone = false;
    for (row, fields) in left {
        let before = index.series_count();
        let is_gone = index.retain_series(row, |field, kinds| {
            let of_field = fields.binary_search_by_key(&field, |(f, _)| *f).ok();
            of_field.map_or(kinds, |at| fields[at].1)
        });
        if is_gone && let Some(of) = index.measurement_of(row) {
            let name = index.measurement_name(of).unwrap_or_default();
            let gone = before - index.series_count();
            database.series_counts.forget(name, gone);
        }
        any_gone |= is_gone;
    }
    drop(index);
    if any_gone {
        part.removals.fetch_add(1, atomic::Ordering::Relaxed);
    }
}

impl StoreInner {
    /// Raises the barriers of tombstones that came with a checkpoint: they are not part of it.
    pub(crate) fn raise_barriers(database: &DatabaseState) {
        for part in database.touched() {
            let table = part.table.read();
            for Placed { tombstone, lsn } in part.tombstones().all() {
                let rows = tombstone.rows.iter();
                for row in rows.take_while(|row| row.0 < table.row_count()) {
                    for (field, series) in table.of_row(row) {
                        if tombstone.field.is_none_or(|f| f == field) {
                            series.lock().raise_barrier(&tombstone, lsn);
                        }
                    }
                }
            }
        }
    }

    /// Drops series without points, and tombstones that hide nothing any more. Only those whose log entries no superblock needs may go:
    /// redone after a drop, one would hide what came later. And only between checkpoints: one that is running
    /// may have written runs that were rewritten since.
    pub(crate) fn drop_spent_deletes(&self, redo_from: &[Lsn]) {
        let databases = self.catalog.read().all();
        for database in databases {
            for part in database.touched() {
                if part.tombstones().is_empty() && part.emptied.lock().is_empty() {
                    continue;
                }
                let redone = redo_from.get(usize::from(part.partition.0));
                let redone = redone.copied().unwrap_or_default();
                // Holds deletes back; readers go on.
                let _shard = self.shard_of(part.partition).state.lock();
                drop_emptied(&database, part);
                let table = part.table.read();
                let cut = database.retention.cut();
                let mut all = part.tombstones().all();
                let hides_nothing = |placed: &Placed| {
                    // What has expired with its aggregates is not read, whoever hides it.
                    placed.tombstone.range.end() <= cut.aggregates || !is_needed(&table, placed)
                };
                all.retain(|placed| placed.lsn <= redone && hides_nothing(placed));
                part.change_tombstones(|set| all.iter().for_each(|p| set.remove(p)));
            }
        }
    }
}

/// Lets go of series that deletes have emptied. Only those that a checkpoint has written as empty: what it wrote
/// before is overruled then. The caller holds the shard's lock.
fn drop_emptied(database: &DatabaseState, part: &PartitionState) {
    let emptied = std::mem::take(&mut *part.emptied.lock());
    if emptied.is_empty() {
        return;
    }
    let mut dropped = 0;
    let index = part.index.read();
    let mut table = part.table.write();
    for (row, field) in emptied {
        let series = match table.slot(row, field) {
            Some(Slot::Here(series)) => series,
            Some(Slot::Away(place))
                if place.is_pointless() && index.kinds(row, field).is_empty() =>
            {
                table.remove(row, field);
                database.charge(-AWAY_BYTES);
                continue;
            }
            _ => continue,
        };
        let mut state = series.lock();
        if !state.is_empty() || !index.kinds(row, field).is_empty() {
            // It has points again.
            continue;
        }
        let is_dirty = state.dirty;
        drop(state);
        if is_dirty {
            part.emptied.lock().push((row, field));
        } else {
            table.remove(row, field);
            dropped += 1;
        }
    }
    database.charge(-dropped * SERIES_BYTES);
}

/// Whether some series has a run of which the tombstone may hide something. Cost: a look at the series up to the
/// first such one.
fn is_needed(table: &SeriesTable, placed: &Placed) -> bool {
    let Placed { tombstone, lsn } = placed;
    let rows = tombstone.rows.iter();
    for row in rows.take_while(|row| row.0 < table.row_count()) {
        let needs = |(field, series): (FieldId, &Arc<Series>)| {
            tombstone.field.is_none_or(|f| f == field)
                && series.lock().needs(tombstone.range, tombstone.among, *lsn)
        };
        if table.of_row(row).any(needs) {
            return true;
        }
    }
    false
}
