//! What one series held when it was asked for.

use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_nbtree::{Direction, Tree, TreeSnapshot};
use alluvium_types::{Column, Lsn, TimeRange, ValueKind, ValueRef};

use super::cursor::SeriesCursor;
use super::source::{Points, Source};
use crate::barrier::birth_of;
use crate::cut::Cut;
use crate::error::{RecallError, SeriesReadError};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::readers::ReadPin;
use crate::series::{Series, SeriesLock, SeriesPlace};
use crate::tombstones::HiddenParts;

/// What one series held at one moment. Reading it takes no lock.
#[derive(Debug, Clone)]
pub struct SeriesSnapshot {
    pub(super) pages: Arc<BlockStore>,
    pub(super) kind: ValueKind,
    /// By priority: of equal times the last source's point counts.
    pub(super) sources: Vec<Source>,
    /// Why nothing is known of it.
    pub(super) broken: Option<Box<RecallError>>,
    pub(crate) cut: Cut,
    /// Pages that die meanwhile are kept for it.
    _pin: ReadPin,
}

impl SeriesSnapshot {
    /// Of a series that is not there, or of which nothing is known for the reason of `broken`.
    pub(super) fn without_points(
        store: &StoreInner,
        broken: Option<RecallError>,
        (kind, cut, pin): (ValueKind, Cut, ReadPin),
    ) -> Self {
        Self {
            pages: Arc::clone(&store.block),
            kind,
            sources: Vec::new(),
            broken: broken.map(Box::new),
            cut,
            _pin: pin,
        }
    }

    /// What a series holds now of a kind, of every number where that is [`ValueKind::F64`]: as it was when the series was
    /// selected, for numbers of another kind that have come since make it another one. Takes no lock where one run is all
    /// there is and nothing of it is deleted.
    pub(super) fn of(
        store: &StoreInner,
        part: &PartitionState,
        series: &Series,
        (kind, cut, pin): (ValueKind, Cut, ReadPin),
    ) -> Self {
        let SeriesPlace { row, field, .. } = series.place;
        // In this order: a run that was seen before a delete is not read behind it.
        if let Some(run) = series.only_run()
            && part.hidden(row, field).is_empty()
        {
            let wanted = is_of(kind, run.kind());
            let run = wanted.then(|| run.with_expiry(cut.expiry()));
            let nothing = HiddenParts::default();
            let source = run.and_then(|r| Source::new(Points::Run(r), Lsn(0), &nothing));
            return Self {
                pages: Arc::clone(&store.block),
                kind,
                sources: source.into_iter().collect(),
                broken: None,
                cut,
                _pin: pin,
            };
        }
        let wanted = |k| is_of(kind, k);
        Self::locked(store, part, series, (kind, cut, pin), wanted).0
    }

    /// The numbers, or the texts, that a series holds now, in a kind that all of them have, and the position of the newest
    /// batch in it. Waits for the record of an older part that is not in memory.
    pub(crate) fn of_locked(
        store: &StoreInner,
        part: &PartitionState,
        series: &Series,
        (kind, cut, pin): (ValueKind, Cut, ReadPin),
    ) -> (Self, Lsn) {
        let wanted = |k: ValueKind| k.is_numeric() == kind.is_numeric();
        let (mut snapshot, lsn) = Self::locked(store, part, series, (kind, cut, pin), wanted);
        let mut kinds = snapshot.sources.iter().map(Source::kind);
        if let Some(first) = kinds.next() {
            snapshot.kind = if kinds.all(|kind| kind == first) {
                first
            } else {
                ValueKind::F64
            };
        }
        (snapshot, lsn)
    }

    fn locked(
        store: &StoreInner,
        part: &PartitionState,
        series: &Series,
        (kind, cut, pin): (ValueKind, Cut, ReadPin),
        wanted: impl Fn(ValueKind) -> bool,
    ) -> (Self, Lsn) {
        let mut sources = Vec::new();
        let mut state = series.lock();
        // Under the lock: what a delete takes out of the late buffer is still there only if it is hidden here.
        let hidden = part.hidden(series.place.row, series.place.field);
        let mut add = |runs: Vec<TreeSnapshot>, late: Vec<Column>, lsn: Lsn| {
            for run in runs.into_iter().filter(|r| wanted(r.kind())) {
                let birth = birth_of(&run);
                let run = run.with_expiry(cut.expiry());
                sources.extend(Source::new(Points::Run(run), birth, &hidden));
            }
            for column in late.into_iter().filter(|c| wanted(c.kind())) {
                let late = Points::Late(Arc::new(column));
                sources.extend(Source::new(late, lsn, &hidden));
            }
        };
        let runs = state.snapshots();
        let late = state.rare().and_then(|r| r.late.as_ref());
        let late = late.map_or(Vec::new(), |late| late.columns(TimeRange::ALL, &wanted));
        let lsn = state.lsn;
        // The files while the place is known to be right.
        let older = state.older().map(|place| (place, store.tail_files.open()));
        drop(state);
        let mut broken = None;
        if let Some((place, files)) = older {
            match store.older(&files, (part.database, series.place), place) {
                Ok(older) => {
                    let runs = older.runs.iter().map(Tree::snapshot).collect();
                    add(runs, older.late, older.key.lsn);
                }
                Err(error) => broken = Some(Box::new(error)),
            }
        }
        add(runs, late, lsn);
        let snapshot = Self {
            pages: Arc::clone(&store.block),
            kind,
            sources,
            broken,
            cut,
            _pin: pin,
        };
        (snapshot, lsn)
    }

    /// Whether the oldest or newest point of some run, if it is not deleted, lies outside `range`. Reads nothing.
    pub(crate) fn has_end_outside(&self, range: TimeRange) -> bool {
        self.sources.iter().any(|source| {
            let (ends, pieces) = (source.span(), &source.pieces);
            let (Some((first, last)), Some(left), Some(right)) =
                (ends, pieces.first(), pieces.last())
            else {
                return false;
            };
            (left.0 == first && !range.contains(first))
                || (right.1 == last && !range.contains(last))
        })
    }

    /// Whether a point inside one of these ranges may have been written since. Points that went do not count.
    pub(crate) fn differs(&self, state: &mut SeriesLock<'_>, ranges: &[TimeRange]) -> bool {
        let wanted = |k: ValueKind| k.is_numeric() == self.kind.is_numeric();
        let known = |run: &TreeSnapshot| {
            self.sources.iter().find_map(|s| match &s.points {
                Points::Run(t)
                    if (t.run_ordinal(), t.birth()) == (run.run_ordinal(), run.birth()) =>
                {
                    t.last_time()
                }
                _ => None,
            })
        };
        let grown = |run: &TreeSnapshot| {
            let (Some(first), Some(last)) = (run.first_time(), run.last_time()) else {
                return false;
            };
            let first = known(run).map_or(first, |before| before.saturating_add(1));
            first <= last && ranges.iter().any(|r| r.overlaps(first, last))
        };
        let late_then = self.sources.iter().filter_map(|s| match &s.points {
            Points::Late(column) => Some(column.as_ref()),
            Points::Run(_) => None,
        });
        let is_known = |time: i64, value: ValueRef<'_>| {
            let mut same = late_then.clone().filter(|c| c.kind() == value.kind());
            same.any(|column| {
                let at = column.times.binary_search(&time).ok();
                at.and_then(|at| column.value(at))
                    .is_some_and(|v| v.same(value))
            })
        };
        let runs = state.snapshots();
        if runs.iter().any(|run| wanted(run.kind()) && grown(run)) {
            return true;
        }
        let late = state.rare().and_then(|r| r.late.as_ref());
        let mut late = late.into_iter().flat_map(crate::late::LateBuffer::iter);
        late.any(|(time, value)| {
            wanted(value.kind())
                && ranges.iter().any(|r| r.contains(time))
                && !is_known(time, value)
        })
    }

    /// Its runs, each with the pieces of which nothing is deleted, ends included.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&TreeSnapshot, &[(i64, i64)])> {
        self.sources.iter().filter_map(|s| match &s.points {
            Points::Run(tree) => Some((tree, s.pieces.as_slice())),
            Points::Late(_) => None,
        })
    }

    pub(super) fn check(&self) -> Result<(), SeriesReadError> {
        match &self.broken {
            None => Ok(()),
            Some(error) => Err(SeriesReadError::Recall(RecallError::clone(error))),
        }
    }

    pub(crate) fn pages(&self) -> &BlockStore {
        &self.pages
    }

    /// The kind every answer is given in.
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// No point, or aggregate, that has not expired is before this time, nanoseconds. It is the time of the oldest one
    /// unless that was deleted.
    pub fn first_time(&self) -> Option<i64> {
        if self.broken.is_some() {
            return Some(self.cut.aggregates);
        }
        let live = |s: &&Source| s.pieces.last().is_some_and(|p| p.1 >= self.cut.aggregates);
        let live = self.sources.iter().filter(live);
        let firsts = live.filter_map(|s| s.pieces.first());
        firsts
            .map(|(first, _)| (*first).max(self.cut.aggregates))
            .min()
    }

    /// No point, or aggregate, that has not expired is behind this time, nanoseconds. It is the time of the newest one
    /// unless that was deleted.
    pub fn last_time(&self) -> Option<i64> {
        if self.broken.is_some() {
            return Some(i64::MAX - 1);
        }
        let lasts = self.sources.iter().filter_map(|s| s.pieces.last());
        let lasts = lasts.map(|(_, last)| *last);
        lasts.filter(|last| *last >= self.cut.aggregates).max()
    }
    /// The points inside `range`, one a timestamp, in batches.
    pub fn scan(&self, range: TimeRange, direction: Direction) -> SeriesCursor {
        SeriesCursor::new(self, range, direction)
    }
}

/// Whether a point of a kind is one of a series that was selected as `selected`: mixed numbers are floats.
fn is_of(selected: ValueKind, kind: ValueKind) -> bool {
    match selected {
        ValueKind::F64 => kind.is_numeric(),
        selected => kind == selected,
    }
}

#[cfg(test)]
mod tests {
    use alluvium_io::{Device, MemoryDevice, SystemClock};
    use alluvium_nbtree::ReadStats;
    use alluvium_types::{PARTITION_COUNT, Partition, SeriesKey};

    use super::*;
    use crate::{Database, Store, StoreConfig};

    fn write(database: &Database, time: i64, value: ValueRef<'_>) {
        let mut writer = database.writer();
        let row = writer.resolve(b"m", SeriesKey::new("m", [("a", "b"); 0]).unwrap());
        writer.begin_line(row, time).unwrap();
        writer.field("v", value).unwrap();
        writer.end_line().unwrap();
        writer.commit(None).unwrap().wait().unwrap();
    }

    #[test]
    fn a_delete_judges_by_numbers_of_all_kinds_whatever_it_was_told_of() {
        let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
        let config = StoreConfig {
            shards: 2,
            volume_bytes: 1 << 20,
            ..StoreConfig::default()
        };
        let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        write(&database, 1, ValueRef::I64(1));
        write(&database, 3, ValueRef::I64(3));
        let snapshot = database.snapshot();
        let selected = snapshot.select(&crate::Selector::default()).unwrap();
        // One in order, one late.
        write(&database, 4, ValueRef::F64(0.5));
        write(&database, 2, ValueRef::F64(0.5));
        let stats = &mut ReadStats::default();
        let inner = &store.0;
        let state = &database.state;
        for p in 0..PARTITION_COUNT {
            let Some(part) = state.touched_partition(Partition(p as u8)) else {
                continue;
            };
            let id = selected[0].id;
            let series = part.table.read().get(id.row(), id.field()).cloned();
            let view = (ValueKind::I64, Cut::default(), inner.readers.pin());
            let now = SeriesSnapshot::of_locked(inner, part, &series.unwrap(), view).0;
            let count = now.aggregate(TimeRange::ALL, stats).unwrap().count;
            assert_eq!((now.kind(), count), (ValueKind::F64, 4));
        }
    }
}
