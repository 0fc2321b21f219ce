//! What there is: tag sets that match, and names that begin with something. Looks at the index, never at points.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium_index::{CompiledSelector, PartitionIndex, SealedRows, SelectedRow, Selector};
use alluvium_types::{Row, SeriesId, SeriesKey, TimeRange, metric_name};
use roaring::RoaringBitmap;

use crate::error::StoreError;
use crate::partition::PartitionState;
use crate::snapshot::Snapshot;

/// Tag sets that are spelt together where some of them are not wanted.
const SPELT_AT_ONCE: usize = 4096;

/// Tag sets that match a selector, with their fields that match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// By key.
    pub tag_sets: Vec<FoundTagSet>,
    /// How many match in all, those left out by the limit included.
    pub matching: u64,
}

/// One tag set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTagSet {
    /// Measurement and tags.
    pub key: Arc<SeriesKey>,
    /// Its fields, sorted.
    pub fields: Vec<Arc<str>>,
}

/// What names are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind<'a> {
    /// Measurements.
    Measurement,
    /// Keys of tags.
    Tag,
    /// Values of the tag with this key.
    Value(&'a str),
    /// Fields.
    Field,
    /// Metrics: values of the derived label `__name__`.
    Metric,
}

impl Snapshot {
    /// Whether a selector matches any series that has not expired, whenever its points are. Spells no tag set.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn knows(&self, selector: &Selector) -> Result<bool, StoreError> {
        let compiled = selector.compile()?;
        let on_loss = &self.on_loss;
        for part in self.database.touched() {
            let any = if self.cut.is_none() {
                part.resolve(&compiled, TimeRange::ALL, on_loss, |index, sealed, live| {
                    index.any_with(&compiled, sealed, live)
                })?
            } else {
                let selected =
                    part.select(&compiled, TimeRange::ALL, on_loss, |_, selected| selected)?;
                selected.iter().any(|item| self.keeps(part, item))
            };
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tag sets with a series that matches and a point on a day that `range` touches, at most `limit`. Which ones, where
    /// there are more, is not said. Costs about the sets of rows that the matchers name, a look at each row that matches where
    /// neighbours differ in their fields or a retention hides points, and a few blocks for those that are listed.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn search(
        &self,
        selector: &Selector,
        range: TimeRange,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let compiled = selector.compile()?;
        let range = self.readable(range);
        let mut found = Found::default();
        for part in self.database.touched() {
            let room = limit - found.tag_sets.len();
            self.search_part(part, &compiled, range, room, &mut found)?;
        }
        found.tag_sets.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// As [`Self::search`] of those tag sets that `admits` takes, in no told order beyond `limit`: one more is counted then, which says
    /// that there are others. Costs a look at every tag set that matches, until there are enough.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn search_among(
        &self,
        selector: &Selector,
        range: TimeRange,
        limit: usize,
        admits: impl Fn(&SeriesKey) -> bool,
    ) -> Result<Found, StoreError> {
        let compiled = selector.compile()?;
        let range = self.readable(range);
        let mut found = Found::default();
        for part in self.database.touched() {
            let mut selected =
                part.select(&compiled, range, &self.on_loss, |_, selected| selected)?;
            if !self.cut.is_none() {
                selected.retain(|item| self.keeps(part, item));
            }
            let by_row: Vec<&[SelectedRow]> = selected.chunk_by(|a, b| a.row == b.row).collect();
            for some in by_row.chunks(SPELT_AT_ONCE) {
                let rows = some.iter().filter_map(|of_row| of_row.first());
                let rows: Vec<Row> = rows.map(|item| item.row).collect();
                let keys = part.keys(&rows, &self.on_loss)?;
                for (of_row, key) in some.iter().zip(keys) {
                    let Some(key) = key.filter(|key| admits(key)) else {
                        continue;
                    };
                    found.matching += 1;
                    if found.tag_sets.len() == limit {
                        found.tag_sets.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                        return Ok(found);
                    }
                    let fields = fields_of(&part.index.read(), of_row);
                    found.tag_sets.push(FoundTagSet { key, fields });
                }
            }
        }
        found.tag_sets.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn search_part(
        &self,
        part: &PartitionState,
        selector: &CompiledSelector,
        range: TimeRange,
        room: usize,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let (matching, selected) = if self.cut.is_none() {
            // Only of those that are listed the fields are wanted.
            let listed = |index: &PartitionIndex, matching, first: RoaringBitmap| {
                (matching, index.select_among(selector, &first))
            };
            if range == TimeRange::ALL {
                part.first_rows(selector, room, &self.on_loss, listed)?
            } else {
                part.resolve(selector, range, &self.on_loss, |index, sealed, live| {
                    let (matching, first) = index.first_rows_with(selector, sealed, live, room);
                    listed(index, matching, first)
                })?
            }
        } else {
            let mut selected =
                part.select(selector, range, &self.on_loss, |_, selected| selected)?;
            selected.retain(|item| self.keeps(part, item));
            let of_rows = selected.chunk_by(|a, b| a.row == b.row);
            (of_rows.count() as u64, selected)
        };
        found.matching += matching;
        let by_row = || selected.chunk_by(|a, b| a.row == b.row);
        let rows = by_row().take(room).filter_map(|of_row| of_row.first());
        let rows: Vec<Row> = rows.map(|item| item.row).collect();
        let keys = part.keys(&rows, &self.on_loss)?;
        let index = part.index.read();
        for (of_row, key) in by_row().zip(keys) {
            let Some(key) = key else {
                // It cannot be spelt, which was noted.
                found.matching -= 1;
                continue;
            };
            let fields = fields_of(&index, of_row);
            found.tag_sets.push(FoundTagSet { key, fields });
        }
        Ok(())
    }

    /// The first `limit` names that begin with `prefix`, sorted, of series that match and have a point on a day that
    /// `range` touches. Values of a tag cost a look at each one up to the last answer, or at each tag set where
    /// these are few; other names cost about the rows that match.
    ///
    /// # Errors
    /// As [`Snapshot::select`].
    pub fn suggest(
        &self,
        kind: NameKind<'_>,
        selector: &Selector,
        range: TimeRange,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let compiled = selector.compile()?;
        let range = self.readable(range);
        let mut names: BTreeSet<String> = BTreeSet::new();
        for part in self.database.touched() {
            let mut add = |found: Vec<String>| {
                names.extend(found);
                while names.len() > limit {
                    names.pop_last();
                }
            };
            let (sealed_rows, segments, in_memory) =
                part.resolve(&compiled, range, &self.on_loss, |index, sealed, live| {
                    let rows = rows(index, &compiled, sealed, live);
                    let owned = |names: Vec<&str>| -> Vec<String> {
                        let fitting = names.into_iter().filter(|n| n.starts_with(prefix));
                        fitting.take(limit).map(str::to_owned).collect()
                    };
                    let in_memory = match kind {
                        NameKind::Measurement => owned(index.measurements_of(&rows)),
                        NameKind::Tag => owned(index.tag_keys_of(&rows)),
                        NameKind::Value(key) => {
                            owned(index.tag_values_in_memory(&rows, key, prefix, limit))
                        }
                        NameKind::Field => owned(index.fields_of_rows(&compiled, &rows)),
                        NameKind::Metric => {
                            let names = index.metrics_of_rows(&compiled, &rows).into_iter();
                            let names = names.map(|(of, field)| metric_name(of, field));
                            let fitting = names.filter(|name| name.starts_with(prefix));
                            // Different pairs may have one name.
                            let fitting: BTreeSet<String> = fitting.collect();
                            fitting.into_iter().take(limit).collect()
                        }
                    };
                    (rows, Arc::clone(index.segments()), in_memory)
                })?;
            add(in_memory);
            if let NameKind::Value(key) = kind {
                for segment in segments.iter() {
                    let values = segment.tag_values(&sealed_rows, key, prefix, limit);
                    let values = values.or_else(|_| {
                        let (values, lost) =
                            segment.tag_values_carefully(&sealed_rows, key, prefix, limit);
                        let taken = self.on_loss.take(part.partition, lost);
                        taken.map(|()| values)
                    });
                    add(values?);
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The part of a range that has not expired.
    pub(crate) fn readable(&self, range: TimeRange) -> TimeRange {
        if self.cut.is_none() {
            return range;
        }
        range.intersect(self.cut.live_aggregates())
    }

    /// Whether anything of a field of a row has not expired.
    fn keeps(&self, part: &PartitionState, item: &SelectedRow) -> bool {
        item.kinds.iter().any(|kind| {
            let id = SeriesId::new(part.partition, item.row, item.field, kind);
            self.has_live(id)
        })
    }
}

/// Names of the fields of a row that matches, sorted.
fn fields_of(index: &PartitionIndex, of_row: &[SelectedRow]) -> Vec<Arc<str>> {
    let names = of_row.iter().filter_map(|item| {
        let measurement = index.measurement_of(item.row)?;
        index.field_name(measurement, item.field)
    });
    let mut fields: Vec<Arc<str>> = names.map(Into::into).collect();
    fields.sort_unstable();
    fields
}

/// Rows that match; all that have a series, at once, where nothing is asked of them.
fn rows(
    index: &PartitionIndex,
    selector: &CompiledSelector,
    sealed: &SealedRows,
    live: Option<&RoaringBitmap>,
) -> RoaringBitmap {
    match live {
        None if selector.is_everything() => index.listed_rows(),
        _ => index.rows_with(selector, sealed, live),
    }
}
