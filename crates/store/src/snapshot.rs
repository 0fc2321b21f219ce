//! The one read door: which series there are, and what one of them held when it was asked for.
//!
//! A series' snapshot is consistent: what its only run has published, or all its runs and late points under its lock.
//! Different series of one query are snapshots of slightly different moments. Points are visible when
//! they are applied, which may be before they are durable.

mod buckets;
mod cursor;
mod source;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_index::{CompiledSelector, SelectedRow, Selector};
use alluvium_types::{FieldId, Partition, Row, SeriesId, SeriesKey, TimeRange, ValueKind};

pub use self::cursor::SeriesCursor;
pub use self::view::SeriesSnapshot;
use crate::bounds::Bounds;
use crate::cut::Cut;
use crate::databases::DatabaseState;
use crate::error::{RecallError, StoreError};
use crate::losses::{IndexLoss, OnLoss};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::readers::ReadPin;
use crate::series::Series;
use crate::series_table::Slot;

/// Series that are prepared together: a list of them takes 8 MiB.
const PREPARED_MAX: usize = 1 << 20;

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
    pub(crate) on_loss: OnLoss,
    pub(crate) bounds: Bounds,
}

impl Snapshot {
    /// Whether its database was dropped: its pages may be gone, and points are missing then without a word.
    pub fn is_dropped(&self) -> bool {
        self.database.is_dropped()
    }

    pub(crate) fn new(store: Arc<StoreInner>, database: Arc<DatabaseState>) -> Self {
        let cut = database.retention.cut();
        let pin = store.readers.pin();
        Self {
            store,
            database,
            cut,
            pin,
            on_loss: OnLoss::default(),
            bounds: Bounds::default(),
        }
    }

    /// The same, whose answers go around damaged blocks of the index: [`Self::index_losses`] has what they may lack.
    #[must_use]
    pub fn tolerant(self) -> Self {
        Self {
            on_loss: OnLoss::noting(),
            ..self
        }
    }

    /// The same, whose searches, suggestions and tests for what it knows keep to `bounds`.
    #[must_use]
    pub fn bounded(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// What the answers so far may lack, of a tolerant one.
    pub fn index_losses(&self) -> Vec<IndexLoss> {
        self.on_loss.noted()
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
            self.select_part(part, &compiled, range, bytes_max, &mut found)?;
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
            Some(Slot::Here(series)) => series.lock().has_live(is_text, &self.cut),
            Some(Slot::Away(record)) => !record.is_pointless(),
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

    /// Brings back those of these series that have left memory, as far as there is room for them: reads that
    /// [`Self::series`] would make for each are joined. Waits for them.
    pub fn prepare(&self, series: &[SeriesInfo]) {
        let mut parts = self.database.touched();
        if parts.all(|part| part.away.load(Ordering::Acquire) == 0) {
            return;
        }
        for series in series.chunks(PREPARED_MAX) {
            let mut wanted: BTreeMap<Partition, Vec<(Row, FieldId)>> = BTreeMap::new();
            for id in series.iter().map(|info| info.id) {
                let of_partition = wanted.entry(id.partition()).or_default();
                of_partition.push((id.row(), id.field()));
            }
            for (partition, wanted) in wanted {
                if let Some(part) = self.database.touched_partition(partition) {
                    self.store.bring_many_back(&self.database, part, wanted);
                }
            }
        }
    }

    /// What a series holds now. Waits where it has left memory; if it cannot be read, every answer is that error.
    pub fn series(&self, info: &SeriesInfo) -> SeriesSnapshot {
        let view = (info.id.kind(), self.cut, self.pin.clone());
        match self.view(info) {
            Ok(Some((part, series))) => SeriesSnapshot::of(&self.store, part, &series, view),
            Ok(None) => SeriesSnapshot::without_points(&self.store, None, view),
            Err(error) => SeriesSnapshot::without_points(&self.store, Some(error), view),
        }
    }

    /// The series of one partition, in no order.
    fn select_part(
        &self,
        part: &PartitionState,
        selector: &CompiledSelector,
        range: TimeRange,
        bytes_max: u64,
        found: &mut Vec<SeriesInfo>,
    ) -> Result<(), StoreError> {
        let mut names: Vec<(u32, u32, Arc<str>)> = Vec::new();
        let selected = part.select(selector, range, &self.on_loss, |index, selected| {
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
        let mut keys = rows.iter().zip(part.keys(&rows, &self.on_loss)?).peekable();
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
}
