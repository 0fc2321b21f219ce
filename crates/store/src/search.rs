//! What there is: tag sets that match, and names that begin with something. Looks at the index, never at points.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_index::{CompiledSelector, PartitionIndex, SealedRows, SelectedRow, Selector};
use alluvium_types::{Row, SeriesId, SeriesKey, TimeRange, metric_name};
use roaring::RoaringBitmap;

use crate::error::StoreError;
use crate::partition::PartitionState;
use crate::snapshot::Snapshot;

/// Rows looked at together: between them nothing is locked, and a question that has met its bounds ends.
const ROWS_AT_ONCE: usize = 4096;

/// What a tag set takes beside its texts in an answer, and each name in it, roughly.
const FOUND_BYTES: u64 = 128;
const NAME_BYTES: u64 = 32;

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
    /// As [`Snapshot::select`], and if its bounds are met.
    pub fn knows(&self, selector: &Selector) -> Result<bool, StoreError> {
        let compiled = selector.compile()?;
        let on_loss = &self.on_loss;
        for part in self.database.touched() {
            self.bounds.check()?;
            let any = if self.cut.is_none() {
                part.resolve(&compiled, TimeRange::ALL, on_loss, |index, sealed, live| {
                    index.any_with(&compiled, sealed, live)
                })?
            } else {
                let mut any = false;
                self.by_row(part, &compiled, TimeRange::ALL, |of_rows| {
                    any = !of_rows.is_empty();
                    Ok(if any {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                })?;
                any
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
    /// As [`Snapshot::select`], and if its bounds are met.
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
            self.bounds.check()?;
            self.search_part(part, &compiled, range, limit, &mut found)?;
        }
        found.tag_sets.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// As [`Self::search`] of those tag sets that `admits` takes, in no told order beyond `limit`: one more is counted then, which says
    /// that there are others. Costs a look at every tag set that matches, until there are enough.
    ///
    /// # Errors
    /// As [`Snapshot::select`], and if its bounds are met.
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
            let mut is_enough = false;
            self.by_row(part, &compiled, range, |of_rows| {
                self.spelt(part, of_rows, |of_row, key| {
                    let Some(key) = key.filter(|key| admits(key)) else {
                        return Ok(ControlFlow::Continue(()));
                    };
                    found.matching += 1;
                    is_enough = found.tag_sets.len() == limit;
                    if is_enough {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.list(part, of_row, key, &mut found)?;
                    Ok(ControlFlow::Continue(()))
                })
            })?;
            if is_enough {
                break;
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
        limit: usize,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        if !self.cut.is_none() {
            return self.by_row(part, selector, range, |of_rows| {
                found.matching += of_rows.len() as u64;
                let room = (limit - found.tag_sets.len()).min(of_rows.len());
                self.list_all(part, &of_rows[..room], found)?;
                Ok(ControlFlow::Continue(()))
            });
        }
        let room = limit - found.tag_sets.len();
        // Only of those that are listed the fields are wanted.
        let (matching, first) = if range == TimeRange::ALL {
            let counted = |_: &PartitionIndex, matching, first| (matching, first);
            part.first_rows(selector, room, &self.on_loss, counted)?
        } else {
            part.resolve(selector, range, &self.on_loss, |index, sealed, live| {
                index.first_rows_with(selector, sealed, live, room)
            })?
        };
        // Without those whose fields have gone meanwhile.
        found.matching += matching - first.len();
        self.rows_by_row(part, selector, &first, |of_rows| {
            found.matching += of_rows.len() as u64;
            self.list_all(part, of_rows, found)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Calls `visit` with the rows of a partition that match and have not expired, some thousand at a time with their fields,
    /// until it says that this is enough. Between two calls nothing is locked.
    fn by_row(
        &self,
        part: &PartitionState,
        selector: &CompiledSelector,
        range: TimeRange,
        visit: impl FnMut(&[&[SelectedRow]]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        self.bounds.check()?;
        let rows = part.resolve(selector, range, &self.on_loss, |index, sealed, live| {
            index.rows_with(selector, sealed, live)
        })?;
        let bytes = rows.serialized_size() as u64;
        self.bounds.hold(bytes)?;
        self.rows_by_row(part, selector, &rows, visit)?;
        self.bounds.release(bytes);
        Ok(())
    }

    /// As [`Self::by_row`], of rows that pass the matchers on tags.
    fn rows_by_row(
        &self,
        part: &PartitionState,
        selector: &CompiledSelector,
        rows: &RoaringBitmap,
        mut visit: impl FnMut(&[&[SelectedRow]]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = rows.iter();
        loop {
            let some: RoaringBitmap = rows.by_ref().take(ROWS_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.bounds.check()?;
            let mut selected = part.index.read().select_among(selector, &some);
            let bytes = size_of_val(selected.as_slice()) as u64;
            self.bounds.hold(bytes)?;
            if !self.cut.is_none() {
                selected.retain(|item| self.keeps(part, item));
            }
            let of_rows: Vec<&[SelectedRow]> = selected.chunk_by(|a, b| a.row == b.row).collect();
            let flow = visit(&of_rows)?;
            self.bounds.release(bytes);
            if flow.is_break() {
                return Ok(());
            }
        }
    }

    /// Calls `visit` with the tag set of each of these rows; with none of one that cannot be spelt, which is noted.
    fn spelt(
        &self,
        part: &PartitionState,
        of_rows: &[&[SelectedRow]],
        mut visit: impl FnMut(
            &[SelectedRow],
            Option<Arc<SeriesKey>>,
        ) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let rows = of_rows.iter().filter_map(|of_row| of_row.first());
        let rows: Vec<Row> = rows.map(|item| item.row).collect();
        let keys = part.keys(&rows, &self.on_loss)?;
        for (of_row, key) in of_rows.iter().zip(keys) {
            if visit(of_row, key)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Lists these rows, which are counted, but for those that cannot be spelt.
    fn list_all(
        &self,
        part: &PartitionState,
        of_rows: &[&[SelectedRow]],
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let flow = self.spelt(part, of_rows, |of_row, key| {
            match key {
                Some(key) => self.list(part, of_row, key, found)?,
                None => found.matching -= 1,
            }
            Ok(ControlFlow::Continue(()))
        });
        flow.map(drop)
    }

    fn list(
        &self,
        part: &PartitionState,
        of_row: &[SelectedRow],
        key: Arc<SeriesKey>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let fields = fields_of(&part.index.read(), of_row);
        // Once as it is listed, once as it is written.
        self.bounds.hold(2 * found_bytes(&key, &fields))?;
        found.tag_sets.push(FoundTagSet { key, fields });
        Ok(())
    }

    /// The first `limit` names that begin with `prefix`, sorted, of series that match and have a point on a day that
    /// `range` touches. Values of a tag cost a look at each one up to the last answer, or at each tag set where
    /// these are few; other names cost about the rows that match.
    ///
    /// # Errors
    /// As [`Snapshot::select`], and if its bounds are met.
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
            self.bounds.check()?;
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
                            let mut first: BTreeSet<String> = BTreeSet::new();
                            for name in fitting {
                                first.insert(name);
                                if first.len() > limit {
                                    first.pop_last();
                                }
                            }
                            first.into_iter().collect()
                        }
                    };
                    (rows, Arc::clone(index.segments()), in_memory)
                })?;
            let bytes = sealed_rows.serialized_size() as u64;
            self.bounds.hold(bytes)?;
            add(in_memory);
            if let NameKind::Value(key) = kind {
                for segment in segments.iter() {
                    self.bounds.check()?;
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
            self.bounds.release(bytes);
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

/// What a tag set takes in an answer, roughly.
fn found_bytes(key: &SeriesKey, fields: &[Arc<str>]) -> u64 {
    let tags = key.tags().iter();
    let tags: usize = tags.map(|(key, value)| key.len() + value.len()).sum();
    let names = 2 * key.tags().len() + fields.len();
    let texts = key.measurement().len() + tags;
    let texts = texts + fields.iter().map(|field| field.len()).sum::<usize>();
    FOUND_BYTES + names as u64 * NAME_BYTES + texts as u64
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
