//! Selectors to series: narrowest positive set first, negations subtract.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_types::{FieldId, Row};
use roaring::{MultiOps, RoaringBitmap};

use crate::field_sets::NO_FIELDS;
use crate::head::Head;
use crate::segment::{LostRows, MatchScratch};
use crate::selector::{CompiledSelector, Label};
use crate::tag_rows::Resolved;
use crate::{KindSet, PartitionIndex, Segment, SegmentError};

/// One field of one row that a selector matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectedRow {
    /// The tag set.
    pub row: Row,
    /// The field.
    pub field: FieldId,
    /// The kinds it has had: one series each.
    pub kinds: KindSet,
}

/// Which fields of a measurement pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fields {
    All,
    /// These, ascending.
    Only(Vec<u32>),
}

/// Which measurements, and which of their fields, pass.
#[derive(Debug)]
pub(crate) enum Names {
    All,
    /// By measurement number, ascending.
    Some(Vec<(u32, Fields)>),
}

impl Names {
    /// The fields that pass, where those of all rows left are the same: all rows left are of a measurement that passes, and
    /// where there is one, its fields need no look-up.
    pub(crate) fn of_all(&self) -> Option<&Fields> {
        match self {
            Self::Some(passing) => match passing.as_slice() {
                [(_, fields)] => Some(fields),
                all if all.iter().all(|(_, fields)| *fields == Fields::All) => Some(&Fields::All),
                _ => None,
            },
            Self::All => Some(&Fields::All),
        }
    }
}

/// A selector made ready for the sealed rows of one index: what of it segments can answer without the index.
#[derive(Debug, Clone)]
pub struct SealedPlan {
    selector: CompiledSelector,
    /// Measurements that pass, ascending; `None` if all do.
    measurements: Option<Vec<u32>>,
    segments: Arc<Vec<Arc<Segment>>>,
    end: u32,
    /// Rows that are enough to be listed, and how the others are counted.
    enough: Option<(usize, Counted)>,
}

impl SealedPlan {
    /// The sealed rows that pass the matchers on tags. Of rows that are not in `live`, if that is given, it need not be
    /// true: segments without a live row are not looked at. Reads blocks, so it may wait: the index is not locked.
    ///
    /// # Errors
    /// If blocks are damaged, or cannot be read, without which it is not known of some rows.
    pub fn rows(&self, live: Option<&RoaringBitmap>) -> Result<SealedRows, SegmentError> {
        let found = self.rows_around(live);
        match found.lost.first() {
            Some(lost) => Err(lost.error.clone()),
            None => Ok(found),
        }
    }

    /// As [`Self::rows`], without rows of which it is not known: see [`SealedRows::lost`]. A segment of which a block does not
    /// hold is looked at row by row.
    pub fn rows_around(&self, live: Option<&RoaringBitmap>) -> SealedRows {
        let mut found = SealedRows {
            end: self.end,
            rows: RoaringBitmap::new(),
            counted: None,
            lost: Vec::new(),
        };
        let mut scratch = MatchScratch::default();
        let (selector, measurements) = (&self.selector, self.measurements.as_deref());
        let enough = self.enough.as_ref().filter(|_| live.is_none());
        for segment in self.segments.iter() {
            let carefully = |lost: &mut Vec<LostRows>| {
                let (rows, missing) = segment.matching_carefully(selector, measurements, live);
                lost.extend(missing);
                rows
            };
            if let Some((limit, begun)) = enough
                && found.rows.len() >= *limit as u64 + begun.without.len()
            {
                let without = &begun.without;
                let count = segment.count_matching(selector, measurements, without, &mut scratch);
                let count = count.unwrap_or_else(|_| {
                    let rows = carefully(&mut found.lost);
                    rows.len() - rows.intersection_len(without)
                });
                let counted = found.counted.get_or_insert_with(|| begun.clone());
                counted.rows += count;
            } else {
                let rows = segment.matching_among(selector, measurements, live, &mut scratch);
                found.rows |= rows.unwrap_or_else(|_| carefully(&mut found.lost));
            }
        }
        found
    }
}

/// Sealed rows that pass the matchers on tags: what [`SealedPlan::rows`] found.
#[derive(Debug, Clone)]
pub struct SealedRows {
    /// The first row that was not sealed then.
    pub(crate) end: u32,
    rows: RoaringBitmap,
    /// Those behind them.
    pub(crate) counted: Option<Counted>,
    lost: Vec<LostRows>,
}

impl SealedRows {
    /// Rows of which it is not known whether they pass.
    pub fn lost(&self) -> &[LostRows] {
        &self.lost
    }
}

/// Rows that were counted, not listed.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub rows: u64,
    /// Those that were not to be counted: none of their fields passes.
    pub without: RoaringBitmap,
    /// What the index called its changes when that was told.
    pub changes: u64,
}

impl PartitionIndex {
    /// Makes a selector ready for the sealed rows. Costs little.
    pub fn plan(&self, selector: &CompiledSelector) -> SealedPlan {
        let measurements = match self.names(selector) {
            Names::All => None,
            Names::Some(passing) => Some(passing.into_iter().map(|(m, _)| m).collect()),
        };
        SealedPlan {
            selector: selector.clone(),
            measurements,
            segments: Arc::clone(&self.sealed),
            end: self.sealed_rows(),
            enough: None,
        }
    }

    /// As [`Self::plan`], for [`Self::first_rows_counted`]: once `limit` rows are known, the others are only counted, if it
    /// can be told from a look at each run of neighbours which of them have no field that passes.
    pub fn plan_first(&self, selector: &CompiledSelector, limit: usize) -> SealedPlan {
        let without = self.sealed_without_fields(selector, self.sealed_rows());
        let counted = without.map(|without| Counted {
            rows: 0,
            without,
            changes: self.changes,
        });
        SealedPlan {
            enough: counted.map(|counted| (limit, counted)),
            ..self.plan(selector)
        }
    }

    /// Whether rows have been sealed since: what was found then is not all there is now.
    pub fn is_outdated(&self, sealed: &SealedRows) -> bool {
        sealed.end != self.sealed_rows()
    }

    /// The series that match, in order of row, then field: those of the sealed rows found before, and those in memory.
    /// Of these only the ones whose row is in `live`, if that is given.
    ///
    /// Costs about the size of the narrowest positive set: texts are looked up, expressions scan the values of
    /// their tag once. Never waits.
    pub fn select_with(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
    ) -> Vec<SelectedRow> {
        let mut selected = Vec::new();
        self.visit(selector, sealed, live, |item| {
            selected.push(item);
            ControlFlow::Continue(())
        });
        selected
    }

    /// The series that match of rows that pass the matchers on tags: of some that [`Self::rows_with`] found.
    pub fn select_among(
        &self,
        selector: &CompiledSelector,
        rows: &RoaringBitmap,
    ) -> Vec<SelectedRow> {
        let mut selected = Vec::new();
        self.visit_rows(&self.names(selector), rows, |item| {
            selected.push(item);
            ControlFlow::Continue(())
        });
        selected
    }

    /// Whether [`Self::select_with`] would list anything. Ends at the first series found.
    pub fn any_with(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
    ) -> bool {
        let mut any = false;
        self.visit(selector, sealed, live, |_| {
            any = true;
            ControlFlow::Break(())
        });
        any
    }

    /// The series that match, all in one step. Waits for blocks if rows are sealed.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn select(&self, selector: &CompiledSelector) -> Result<Vec<SelectedRow>, SegmentError> {
        let sealed = self.plan(selector).rows(None)?;
        Ok(self.select_with(selector, &sealed, None))
    }

    /// Number of (row, field) pairs that match, all in one step.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn count(&self, selector: &CompiledSelector) -> Result<u64, SegmentError> {
        let sealed = self.plan(selector).rows(None)?;
        Ok(self.count_with(selector, &sealed, None))
    }

    /// The rows that pass the matchers on tags, of measurements that pass.
    pub(crate) fn rows_passing<'a>(
        &self,
        selector: &CompiledSelector,
        names: &Names,
        sealed: &'a SealedRows,
        live: Option<&RoaringBitmap>,
    ) -> Cow<'a, RoaringBitmap> {
        let heads = self.heads().filter(|h| h.base >= sealed.end);
        let heads = heads.filter_map(|head| self.matching_rows(head, selector, names));
        let in_memory = heads.union();
        let mut rows = Cow::Borrowed(&sealed.rows);
        if !in_memory.is_empty() {
            *rows.to_mut() |= in_memory;
        }
        match (live, rows) {
            (None, rows) => rows,
            (Some(live), Cow::Borrowed(rows)) => Cow::Owned(rows & live),
            (Some(live), Cow::Owned(rows)) => Cow::Owned(rows & live),
        }
    }

    fn visit(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
        found: impl FnMut(SelectedRow) -> ControlFlow<()>,
    ) {
        let names = self.names(selector);
        let rows = self.rows_passing(selector, &names, sealed, live);
        self.visit_rows(&names, &rows, found);
    }

    /// Calls `found` with the fields of rows that pass the names, row by row, until it says that this is enough.
    fn visit_rows(
        &self,
        names: &Names,
        rows: &RoaringBitmap,
        mut found: impl FnMut(SelectedRow) -> ControlFlow<()>,
    ) {
        let of_all = names.of_all();
        for row in rows {
            let set = self.row_sets.get(row as usize).unwrap_or(NO_FIELDS);
            let Some(fields) = of_all.or_else(|| self.fields_passing(row, names)) else {
                continue;
            };
            let row = Row(row);
            let flow = match fields {
                Fields::All => {
                    let mut of_row = self.sets.fields(set);
                    of_row.try_for_each(|(field, kinds)| found(SelectedRow { row, field, kinds }))
                }
                Fields::Only(fields) => fields.iter().try_for_each(|&field| {
                    let field = FieldId(field);
                    let kinds = self.sets.kinds(set, field);
                    if kinds.is_empty() {
                        return ControlFlow::Continue(());
                    }
                    found(SelectedRow { row, field, kinds })
                }),
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// Measurements with at least one matching field, by their names alone.
    pub(crate) fn names(&self, selector: &CompiledSelector) -> Names {
        if !selector.names_matter() {
            return Names::All;
        }
        let passing = self
            .candidate_measurements(selector)
            .into_iter()
            .filter_map(|m| Some((m, self.fields_matching(selector, m)?)));
        Names::Some(passing.collect())
    }

    /// Measurements that the selector's required texts allow; ascending.
    fn candidate_measurements(&self, selector: &CompiledSelector) -> Vec<u32> {
        let mut candidates: Option<Vec<u32>> = None;
        for matcher in &selector.matchers {
            let Some(texts) = matcher.required() else {
                continue;
            };
            let mut these: Vec<u32> = match matcher.label {
                Label::Measurement => texts
                    .iter()
                    .filter_map(|t| self.measurement_names.find(t))
                    .collect(),
                // A name is a measurement, or a measurement, an underscore and a field, cut at any underscore.
                Label::Name => texts
                    .iter()
                    .flat_map(|t| {
                        let cuts = t.match_indices('_').map(|(at, _)| &t[..at]);
                        cuts.chain([t.as_str()])
                    })
                    .filter_map(|name| self.measurement_names.find(name))
                    .collect(),
                Label::Field | Label::Tag(_) => continue,
            };
            these.sort_unstable();
            these.dedup();
            if let Some(before) = &candidates {
                these.retain(|m| before.binary_search(m).is_ok());
            }
            candidates = Some(these);
        }
        candidates.unwrap_or_else(|| (0..self.measurement_names.len()).collect())
    }

    /// Fields of a measurement that pass all matchers on measurement, field and name; `None` if there are none.
    fn fields_matching(&self, selector: &CompiledSelector, measurement: u32) -> Option<Fields> {
        let name = self.measurement_names.name(measurement)?;
        let mut of_fields = Vec::new();
        for matcher in &selector.matchers {
            match matcher.label {
                Label::Measurement if !matcher.matches(name) => return None,
                Label::Field | Label::Name => of_fields.push(matcher),
                _ => {}
            }
        }
        if of_fields.is_empty() {
            return Some(Fields::All);
        }
        let mut metric = String::new();
        let mut passes = |field: &str| {
            metric.clear();
            metric.push_str(name);
            if field != "value" {
                metric.push('_');
                metric.push_str(field);
            }
            of_fields.iter().all(|m| match m.label {
                Label::Field => m.matches(field),
                _ => m.matches(&metric),
            })
        };

        let dictionary = &self.measurements.get(measurement as usize)?.fields;
        let required = of_fields
            .iter()
            .find_map(|m| m.required().filter(|_| m.label == Label::Field));
        let mut fields: Vec<u32> = match required {
            Some(texts) => texts
                .iter()
                .filter(|t| passes(t))
                .filter_map(|t| dictionary.find(t))
                .collect(),
            None => (0..)
                .zip(dictionary.iter())
                .filter(|(_, field)| passes(field))
                .map(|(id, _)| id)
                .collect(),
        };
        fields.sort_unstable();
        (!fields.is_empty()).then_some(Fields::Only(fields))
    }

    /// Rows of a head that pass the matchers on tags, of measurements that pass.
    fn matching_rows(
        &self,
        head: &Head,
        selector: &CompiledSelector,
        names: &Names,
    ) -> Option<RoaringBitmap> {
        let mut positive = Vec::new();
        let mut negative = Vec::new();
        for (key, matcher) in selector.tag_matchers() {
            match self.resolve(head, key, matcher) {
                Resolved::Everything => {}
                Resolved::Nothing => return None,
                Resolved::Rows(rows) if rows.negative => negative.push(rows),
                Resolved::Rows(rows) => positive.push(rows),
            }
        }
        positive.sort_by_key(|rows| rows.estimate);

        let named = match names {
            Names::All => None,
            Names::Some(passing) => {
                let measurements = passing.iter();
                let measurements =
                    measurements.filter_map(|(m, _)| self.measurements.get(*m as usize));
                let schemas: Vec<u32> = measurements
                    .flat_map(|m| m.schemas.iter().copied())
                    .collect();
                Some(head.rows_of_shapes(&schemas))
            }
        };
        let mut rest = positive.iter();
        let mut rows = match &named {
            Some(named) if positive.first().is_none_or(|p| named.len() < p.estimate) => {
                named.clone()
            }
            _ => match rest.next() {
                Some(first) => self.rows_of(head, first),
                None => all_rows(head),
            },
        };
        if let Some(named) = &named {
            rows &= named;
        }
        for matcher in rest.chain(&negative) {
            if rows.is_empty() {
                return None;
            }
            self.narrow(head, &mut rows, matcher);
        }
        Some(rows)
    }

    /// The fields of a row that pass, of those its measurement has.
    #[inline]
    pub(crate) fn fields_passing<'a>(&self, row: u32, names: &'a Names) -> Option<&'a Fields> {
        match names {
            Names::All => Some(&Fields::All),
            Names::Some(passing) => {
                let measurement = self.schema_of(row)?.measurement;
                let at = passing
                    .binary_search_by(|(m, _)| m.cmp(&measurement))
                    .ok()?;
                passing.get(at).map(|(_, fields)| fields)
            }
        }
    }
}

fn all_rows(head: &Head) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    all.insert_range(head.base..head.end());
    all
}
