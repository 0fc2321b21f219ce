//! The one read door: which series there are, and what one of them held when it was asked for.
//!
//! A series' snapshot is consistent: what its only run has published, or all its runs and late points under its lock.
//! Different series of one query are snapshots of slightly different moments. Points are visible when
//! they are applied, which may be before they are durable.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_index::{CompiledSelector, SelectedRow, Selector};
use alluvium_nbtree::{Cursor, Direction, ReadStats, TreeSnapshot};
use alluvium_types::{
    Aggregate, Column, Lsn, Row, SeriesId, SeriesKey, TimeRange, ValueKind, ValueRef,
};
use smallvec::{SmallVec, smallvec};

use crate::barrier::birth_of;
use crate::cut::Cut;
use crate::databases::DatabaseState;
use crate::error::{RecallError, SeriesReadError, StoreError};
use crate::expired::Grid;
use crate::open::StoreInner;
use crate::overlay::{pieces, stretches};
use crate::partition::PartitionState;
use crate::readers::ReadPin;
use crate::series::{Series, SeriesLock, SeriesPlace};
use crate::series_table::Slot;
use crate::tombstones::HiddenParts;

/// What an entry of a list of series takes with its tags, roughly.
const INFO_BYTES: u64 = 256;

/// One series as answers name it. Numeric siblings are one entry, a string sibling is its own.
#[derive(Debug, Clone)]
pub struct SeriesInfo {
    /// Its kind is the one answers are given in: floats where numeric kinds are mixed.
    pub id: SeriesId,
    /// Measurement and tags.
    pub key: Arc<SeriesKey>,
    /// Field.
    pub field: Arc<str>,
}

impl SeriesInfo {
    /// The derived label `__name__`.
    pub fn metric_name(&self) -> String {
        self.key.metric_name(&self.field)
    }
}

/// A database as a query sees it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    store: Arc<StoreInner>,
    pub(crate) database: Arc<DatabaseState>,
    /// What had expired when it was taken.
    pub(crate) cut: Cut,
    pin: ReadPin,
}

impl Snapshot {
    pub(crate) fn new(store: Arc<StoreInner>, database: Arc<DatabaseState>) -> Self {
        let cut = database.retention.cut();
        let pin = store.readers.pin();
        Self {
            store,
            database,
            cut,
            pin,
        }
    }

    /// The series that match, sorted by key, then field, then kind. Waits where index blocks are not in memory.
    ///
    /// # Errors
    /// If the selector does not compile, or a segment of the index cannot be read.
    pub fn select(&self, selector: &Selector) -> Result<Vec<SeriesInfo>, StoreError> {
        self.select_in(selector, TimeRange::ALL)
    }

    /// As [`Self::select`], without series of tag sets that have no point on a day that `range` touches: what is dead
    /// costs nothing. Of the others some may have none inside it.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn select_in(
        &self,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        self.select_within(selector, range, u64::MAX)
    }

    /// As [`Self::select_in`], if the list takes no more than about `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`Self::select`], and if it takes more: before it is made.
    pub fn select_within(
        &self,
        selector: &Selector,
        range: TimeRange,
        bytes_max: u64,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        let compiled = selector.compile()?;
        let range = self.readable(range);
        let mut found: Vec<SeriesInfo> = Vec::new();
        for part in self.database.touched() {
            select_part(part, &compiled, range, bytes_max, &mut found)?;
        }
        if !self.cut.is_none() {
            found.retain(|info| self.has_live(info.id));
        }
        found.sort_by(|a, b| {
            a.key
                .cmp(&b.key)
                .then_with(|| a.field.cmp(&b.field))
                .then_with(|| a.id.kind().cmp(&b.id.kind()))
        });
        Ok(found)
    }

    /// Whether anything of a series has not expired. Of one that is not in memory only its days are known: it has, if its
    /// row was written on one that has not. Cost: its lock.
    pub(crate) fn has_live(&self, id: SeriesId) -> bool {
        let Some(part) = self.database.touched_partition(id.partition()) else {
            return false;
        };
        let table = part.table.read();
        let is_text = id.kind() == ValueKind::Str;
        match table.slot(id.row(), id.field()) {
            Some(Slot::Here { series, .. }) => series.lock().has_live(is_text, &self.cut),
            Some(Slot::Away { .. }) => true,
            None => false,
        }
    }

    fn view(
        &self,
        info: &SeriesInfo,
    ) -> Result<Option<(&Arc<PartitionState>, Arc<Series>)>, RecallError> {
        let Some(part) = self.database.touched_partition(info.id.partition()) else {
            return Ok(None);
        };
        let (row, field) = (info.id.row(), info.id.field());
        let series = self.store.view(&self.database, part, row, field, true)?;
        Ok(series.map(|series| (part, series)))
    }

    /// What a series holds now. Waits where it has left memory; if it cannot be read, every answer is that error.
    pub fn series(&self, info: &SeriesInfo) -> SeriesSnapshot {
        let kind = info.id.kind();
        let cut = self.cut;
        let broken = match self.view(info) {
            Ok(Some((part, series))) => {
                let view = (kind, cut, self.pin.clone());
                return SeriesSnapshot::of(&self.store, part, &series, view);
            }
            Ok(None) => None,
            Err(error) => Some(Box::new(error)),
        };
        SeriesSnapshot {
            pages: Arc::clone(&self.store.block),
            kind,
            sources: Vec::new(),
            broken,
            cut,
            _pin: self.pin.clone(),
        }
    }
}

/// The series of one partition, in no order.
fn select_part(
    part: &PartitionState,
    selector: &CompiledSelector,
    range: TimeRange,
    bytes_max: u64,
    found: &mut Vec<SeriesInfo>,
) -> Result<(), StoreError> {
    let mut names: Vec<(u32, u32, Arc<str>)> = Vec::new();
    let selected = part.select(selector, range, |index, selected| {
        let named = selected.into_iter().filter_map(|item| {
            let measurement = index.measurement_of(item.row)?;
            let known = |(m, f, _): &(u32, u32, _)| *m == measurement.0 && *f == item.field.0;
            let at = names.iter().position(known).unwrap_or_else(|| {
                let name = index.field_name(measurement, item.field);
                let name = name.unwrap_or_default().into();
                names.push((measurement.0, item.field.0, name));
                names.len() - 1
            });
            Some((item, at))
        });
        named.collect::<Vec<(SelectedRow, usize)>>()
    })?;
    let asked = (found.len() + selected.len()) as u64 * INFO_BYTES;
    if asked > bytes_max {
        let limit = bytes_max;
        return Err(StoreError::LargeSelection { asked, limit });
    }
    let mut rows: Vec<Row> = selected.iter().map(|(item, _)| item.row).collect();
    rows.dedup();
    let mut keys = rows.iter().zip(part.keys(&rows)?).peekable();
    for (SelectedRow { row, field, kinds }, name) in selected {
        while keys.next_if(|(r, _)| **r < row).is_some() {}
        let Some((_, Some(key))) = keys.peek() else {
            continue;
        };
        let mut push = |kind| {
            found.push(SeriesInfo {
                id: SeriesId::new(part.partition, row, field, kind),
                key: Arc::clone(key),
                field: Arc::clone(&names[name].2),
            });
        };
        let mut numeric = kinds.iter().filter(|k| k.is_numeric());
        if let Some(first) = numeric.next() {
            push(if numeric.next().is_some() {
                ValueKind::F64
            } else {
                first
            });
        }
        if kinds.contains(ValueKind::Str) {
            push(ValueKind::Str);
        }
    }
    Ok(())
}

/// Something that holds points of one kind in order of time, and where nothing of it is deleted.
#[derive(Debug, Clone)]
struct Source {
    points: Points,
    /// First and last time of each piece, both included, ascending. Where the first begins and the last ends is
    /// a bound: the points there may be deleted.
    pieces: SmallVec<[(i64, i64); 1]>,
}

#[derive(Debug, Clone)]
enum Points {
    Run(TreeSnapshot),
    /// The late buffer, which is newer than every run.
    Late(Arc<Column>),
}

impl Source {
    /// `birth`: deletes at or before it hide nothing here.
    fn new(points: Points, birth: Lsn, hidden: &HiddenParts) -> Option<Self> {
        let mut source = Self {
            points,
            pieces: SmallVec::new(),
        };
        let (first, last) = source.span()?;
        if hidden.is_empty() {
            source.pieces = smallvec![(first, last)];
            return Some(source);
        }
        let holes = hidden.holes(source.kind(), birth);
        source.pieces = pieces(first, last, &holes).collect();
        source.points = match source.points {
            Points::Run(tree) => Points::Run(tree.with_holes(&holes)),
            late @ Points::Late(_) => late,
        };
        (!source.pieces.is_empty()).then_some(source)
    }

    /// Its first and last time, deleted points included.
    fn span(&self) -> Option<(i64, i64)> {
        match &self.points {
            Points::Run(tree) => tree.first_time().zip(tree.last_time()),
            Points::Late(column) => {
                let times = &column.times;
                times.first().copied().zip(times.last().copied())
            }
        }
    }

    fn kind(&self) -> ValueKind {
        match &self.points {
            Points::Run(tree) => tree.kind(),
            Points::Late(column) => column.kind(),
        }
    }

    /// The pieces inside `range`, in the order of `direction`.
    fn pieces_in(&self, range: TimeRange, direction: Direction) -> VecDeque<TimeRange> {
        let inside = |(first, last): &(i64, i64)| {
            let piece = range.intersect(TimeRange::inclusive(*first, *last));
            (!piece.is_empty()).then_some(piece)
        };
        match direction {
            Direction::Forward => self.pieces.iter().filter_map(inside).collect(),
            Direction::Backward => self.pieces.iter().rev().filter_map(inside).collect(),
        }
    }
}

/// What one series held at one moment. Reading it takes no lock.
#[derive(Debug, Clone)]
pub struct SeriesSnapshot {
    pages: Arc<BlockStore>,
    kind: ValueKind,
    /// By priority: of equal times the last source's point counts.
    sources: Vec<Source>,
    /// Why nothing is known of it.
    broken: Option<Box<RecallError>>,
    pub(crate) cut: Cut,
    /// Pages that die meanwhile are kept for it.
    _pin: ReadPin,
}

impl SeriesSnapshot {
    /// The numbers, or the texts, that a series holds now. Takes no lock where one run is all there is and nothing
    /// of it is deleted.
    fn of(
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
            let wanted = run.kind().is_numeric() == kind.is_numeric();
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
        Self::of_locked(store, part, series, (kind, cut, pin)).0
    }

    /// As [`Self::of`], and the position of the newest batch in it.
    pub(crate) fn of_locked(
        store: &StoreInner,
        part: &PartitionState,
        series: &Series,
        (kind, cut, pin): (ValueKind, Cut, ReadPin),
    ) -> (Self, Lsn) {
        let wanted = |k: ValueKind| k.is_numeric() == kind.is_numeric();
        let mut sources = Vec::new();
        let mut state = series.lock();
        // Under the lock: what a delete takes out of the late buffer is still there only if it is hidden here.
        let hidden = part.hidden(series.place.row, series.place.field);
        let runs = state.snapshots().into_iter();
        for run in runs.filter(|r| wanted(r.kind())) {
            let birth = birth_of(&run);
            let run = run.with_expiry(cut.expiry());
            sources.extend(Source::new(Points::Run(run), birth, &hidden));
        }
        if let Some(late) = state.rare().and_then(|r| r.late.as_ref()) {
            for column in late.columns(TimeRange::ALL, wanted) {
                let late = Points::Late(Arc::new(column));
                sources.extend(Source::new(late, state.lsn, &hidden));
            }
        }
        let snapshot = Self {
            pages: Arc::clone(&store.block),
            kind,
            sources,
            broken: None,
            cut,
            _pin: pin,
        };
        (snapshot, state.lsn)
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

    fn check(&self) -> Result<(), SeriesReadError> {
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

    /// Aggregate of the points inside `range`. Where one run alone has points, its inner nodes answer; where
    /// several overlap, or kinds differ, points are merged. Where points have expired and aggregates have not, a leaf
    /// counts whole at the time of its oldest point.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub fn aggregate(
        &self,
        range: TimeRange,
        stats: &mut ReadStats,
    ) -> Result<Aggregate, SeriesReadError> {
        self.check()?;
        let mut total = Aggregate::empty(self.kind);
        let (kept, range) = self.split(range);
        let whole = Grid {
            step_ns: 0,
            origin: 0,
        };
        let mut add = |_: i64, part: &Aggregate| {
            total.merge(part);
            ControlFlow::Continue(())
        };
        let _ = self.kept_buckets(kept, whole, stats, &mut add)?;
        for (part, alone) in self.plan(range) {
            if let Some(tree) = alone {
                total.merge(&tree.aggregate(&self.pages, part, stats)?);
            } else {
                let mut cursor = self.scan(part, Direction::Forward);
                let mut column = Column::new(self.kind);
                while cursor.next_batch(stats, &mut column)? {
                    total.merge(&Aggregate::of(self.kind, &column.times, column.bits()));
                }
            }
        }
        Ok(total)
    }

    /// Aggregates of half-open buckets `[origin + k * step, origin + (k + 1) * step)` clipped to `range`, the
    /// non-empty ones in order of time, each with its begin.
    ///
    /// # Errors
    /// If a page cannot be read.
    ///
    /// # Panics
    /// If `step_ns` is not positive.
    pub fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), SeriesReadError> {
        assert!(step_ns > 0, "a bucket has a positive width");
        self.check()?;
        // A bucket may be filled from several stretches; it is given out when the next one begins.
        let mut open: Option<(i64, Aggregate)> = None;
        let mut stopped = false;
        let mut add = |begin: i64, part: &Aggregate| -> ControlFlow<()> {
            match &mut open {
                Some((at, sum)) if *at == begin => sum.merge(part),
                other => {
                    if let Some((at, sum)) = other.replace((begin, *part)) {
                        return emit(at, &sum);
                    }
                }
            }
            ControlFlow::Continue(())
        };
        let (kept, range) = self.split(range);
        let grid = Grid { step_ns, origin };
        if self.kept_buckets(kept, grid, stats, &mut add)?.is_break() {
            return Ok(());
        }
        for (part, alone) in self.plan(range) {
            if let Some(tree) = alone {
                tree.buckets(
                    &self.pages,
                    part,
                    step_ns,
                    origin,
                    stats,
                    &mut |begin, aggregate| {
                        let flow = add(begin, aggregate);
                        stopped = flow.is_break();
                        flow
                    },
                )?;
            } else {
                let mut cursor = self.scan(part, Direction::Forward);
                let mut column = Column::new(self.kind);
                'batches: while cursor.next_batch(stats, &mut column)? {
                    let mut at = 0;
                    while let Some(time) = column.times.get(at) {
                        let begin = bucket_begin(*time, step_ns, origin);
                        let end = bucket_end(*time, step_ns, origin);
                        let next = at + column.times[at..].partition_point(|t| *t < end);
                        let bits = column.bits().get(at..next).unwrap_or_default();
                        let piece = Aggregate::of(self.kind, &column.times[at..next], bits);
                        if add(begin, &piece).is_break() {
                            stopped = true;
                            break 'batches;
                        }
                        at = next.max(at + 1);
                    }
                }
            }
            if stopped {
                return Ok(());
            }
        }
        if let Some((begin, sum)) = open {
            let _ = emit(begin, &sum);
        }
        Ok(())
    }

    /// The points inside `range`, one a timestamp, in batches.
    pub fn scan(&self, range: TimeRange, direction: Direction) -> SeriesCursor {
        let range = range.intersect(self.cut.live_points());
        let heads = self
            .sources
            .iter()
            .map(|source| Head::new(source, range, direction))
            .collect();
        SeriesCursor {
            pages: Arc::clone(&self.pages),
            kind: self.kind,
            direction,
            heads,
            broken: self.broken.clone(),
        }
    }

    /// Stretches of `range` in order, each with the one run that answers for it alone, if one does.
    fn plan(&self, range: TimeRange) -> Vec<(TimeRange, Option<&TreeSnapshot>)> {
        let spans: Vec<(usize, i64, i64)> = (0..)
            .zip(&self.sources)
            .flat_map(|(i, s)| s.pieces.iter().map(move |(first, last)| (i, *first, *last)))
            .collect();
        let alone = |sources: &[usize]| match sources {
            [one] => match &self.sources[*one].points {
                Points::Run(tree) if tree.kind() == self.kind => Some(tree),
                _ => None,
            },
            _ => None,
        };
        stretches(range, &spans)
            .into_iter()
            .map(|s| (s.range, alone(&s.sources)))
            .collect()
    }
}

/// The begin of the bucket that holds `time`.
fn bucket_begin(time: i64, step: i64, origin: i64) -> i64 {
    let offset = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(step));
    i64::try_from(i128::from(time) - offset).unwrap_or(i64::MIN)
}

/// The end of the bucket that holds `time`; not its begin and a step where the begin was cut at `i64::MIN`.
fn bucket_end(time: i64, step: i64, origin: i64) -> i64 {
    let offset = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(step));
    i64::try_from(i128::from(time) - offset + i128::from(step)).unwrap_or(i64::MAX)
}

/// One source of a merge and its batch at hand.
#[derive(Debug)]
struct Head {
    batches: Batches,
    batch: Column,
    at: usize,
    ended: bool,
}

#[derive(Debug)]
enum Batches {
    Run {
        cursor: Box<Cursor>,
        /// The run and its further pieces, where deletes left several.
        rest: Option<Box<(TreeSnapshot, VecDeque<TimeRange>)>>,
    },
    Late(VecDeque<Column>),
}

impl Head {
    fn new(source: &Source, range: TimeRange, direction: Direction) -> Self {
        let mut pieces = source.pieces_in(range, direction);
        let batches = match &source.points {
            Points::Run(tree) => {
                let nothing = TimeRange::new(range.begin(), range.begin()).unwrap_or(range);
                let first = pieces.pop_front().unwrap_or(nothing);
                Batches::Run {
                    cursor: Box::new(tree.scan(first, direction)),
                    rest: (!pieces.is_empty()).then(|| Box::new((tree.clone(), pieces))),
                }
            }
            Points::Late(column) => {
                let part = |piece: TimeRange| {
                    let begin = column.times.partition_point(|t| *t < piece.begin());
                    let end = column.times.partition_point(|t| *t < piece.end());
                    let mut part = Column::new(column.kind());
                    part.extend_from(column, begin, end.max(begin));
                    if direction == Direction::Backward {
                        part.reverse();
                    }
                    part
                };
                Batches::Late(pieces.into_iter().map(part).collect())
            }
        };
        Self {
            batches,
            batch: Column::new(source.kind()),
            at: 0,
            ended: false,
        }
    }

    /// Makes sure there is a point at hand unless the source has ended.
    fn fill(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        direction: Direction,
    ) -> Result<(), SeriesReadError> {
        while self.at >= self.batch.len() && !self.ended {
            self.at = 0;
            match &mut self.batches {
                Batches::Run { cursor, rest } => {
                    if cursor.next_batch(pages, stats, &mut self.batch)? {
                        continue;
                    }
                    let next = rest.as_mut().and_then(|rest| {
                        let piece = rest.1.pop_front()?;
                        Some(rest.0.scan(piece, direction))
                    });
                    match next {
                        Some(next) => **cursor = next,
                        None => self.ended = true,
                    }
                }
                Batches::Late(columns) => {
                    if let Some(column) = columns.pop_front() {
                        self.batch = column;
                    } else {
                        self.batch.clear();
                        self.ended = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn time(&self) -> Option<i64> {
        self.batch.times.get(self.at).copied()
    }
}

/// Points of one series in order of time, forward or backward.
#[derive(Debug)]
pub struct SeriesCursor {
    pages: Arc<BlockStore>,
    kind: ValueKind,
    direction: Direction,
    heads: Vec<Head>,
    broken: Option<Box<RecallError>>,
}

/// Points of one merged batch.
const MERGED_POINTS: usize = 1024;

impl SeriesCursor {
    /// Clears `out` and fills it with the next points, about a thousand; `false` at the end.
    ///
    /// # Errors
    /// If a page cannot be read.
    ///
    /// # Panics
    /// If `out` is of another kind than the snapshot.
    pub fn next_batch(
        &mut self,
        stats: &mut ReadStats,
        out: &mut Column,
    ) -> Result<bool, SeriesReadError> {
        assert_eq!(
            out.kind(),
            self.kind,
            "a batch of another kind than its series"
        );
        out.clear();
        if let Some(error) = &self.broken {
            return Err(SeriesReadError::Recall(RecallError::clone(error)));
        }
        for head in &mut self.heads {
            head.fill(&self.pages, stats, self.direction)?;
        }
        self.heads.retain(|h| !h.ended);
        if let [only] = self.heads.as_mut_slice()
            && only.at == 0
            && only.batch.kind() == self.kind
        {
            std::mem::swap(out, &mut only.batch);
            only.batch.clear();
            return Ok(!out.is_empty());
        }
        while out.len() < MERGED_POINTS {
            for head in &mut self.heads {
                head.fill(&self.pages, stats, self.direction)?;
            }
            let times = self.heads.iter().filter_map(Head::time);
            let next = match self.direction {
                Direction::Forward => times.min(),
                Direction::Backward => times.max(),
            };
            let Some(time) = next else { break };
            let mut winner: Option<(usize, usize)> = None;
            for (i, head) in self.heads.iter_mut().enumerate() {
                if head.time() == Some(time) {
                    // Later sources are later writes; those below are overwritten.
                    winner = Some((i, head.at));
                    head.at += 1;
                }
            }
            if let Some((i, at)) = winner
                && let Some(value) = self.heads[i].batch.value(at)
            {
                push_as(out, self.kind, time, value);
            }
        }
        Ok(!out.is_empty())
    }
}

/// Adds a value, as a float where kinds are mixed.
fn push_as(out: &mut Column, kind: ValueKind, time: i64, value: ValueRef<'_>) {
    if value.kind() == kind {
        out.push(time, value);
        return;
    }
    let float = match value {
        ValueRef::F64(v) => v,
        ValueRef::I64(v) => v as f64,
        ValueRef::U64(v) => v as f64,
        ValueRef::Bool(v) => f64::from(u8::from(v)),
        ValueRef::Str(_) => return,
    };
    out.push(time, ValueRef::F64(float));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_begins() {
        assert_eq!(bucket_begin(25, 10, 0), 20);
        assert_eq!(bucket_begin(-1, 10, 0), -10);
        assert_eq!(bucket_begin(25, 10, 7), 17);
        assert_eq!(bucket_begin(i64::MIN, 10, 0), i64::MIN);
        assert_eq!(bucket_begin(i64::MAX - 1, i64::MAX, i64::MAX), 0);
        assert_eq!(bucket_end(25, 10, 7), 27);
        // The first bucket is cut: it begins at i64::MIN - 2.
        assert_eq!(bucket_end(i64::MIN, 10, 0), i64::MIN + 8);
        assert_eq!(bucket_end(i64::MAX - 1, i64::MAX, 5), i64::MAX);
    }
}
