//! Selectors to series: narrowest positive set first, negations subtract.

use alluvium_types::{FieldId, Row};
use roaring::RoaringBitmap;

use crate::field_sets::NO_FIELDS;
use crate::selector::{CompiledSelector, Label};
use crate::tag_rows::Resolved;
use crate::{KindSet, PartitionIndex};

/// Rows up to which the measurement of each is read from its tuple.
const ROWS_BY_TUPLE: u64 = 1000;

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
enum Fields {
    All,
    /// These, ascending.
    Only(Vec<u32>),
}

/// Which measurements, and which of their fields, pass.
#[derive(Debug)]
enum Names {
    All,
    /// By measurement number, ascending.
    Some(Vec<(u32, Fields)>),
}

impl PartitionIndex {
    /// The series that match, in order of row, then field.
    ///
    /// Costs about the size of the narrowest positive set: texts are looked up, expressions scan the values of
    /// their tag once.
    pub fn select(&self, selector: &CompiledSelector) -> Vec<SelectedRow> {
        let mut selected = Vec::new();
        self.visit(selector, |item| selected.push(item));
        selected
    }

    /// Number of (row, field) pairs that match, without listing them.
    pub fn count(&self, selector: &CompiledSelector) -> u64 {
        let mut count = 0;
        self.visit(selector, |_| count += 1);
        count
    }

    fn visit(&self, selector: &CompiledSelector, mut found: impl FnMut(SelectedRow)) {
        let names = self.names(selector);
        let Some(mut rows) = self.matching_rows(selector, &names) else {
            return;
        };
        // Many rows of one measurement: one pass over bitmaps is cheaper than a look at every tuple.
        let mut of_all = None;
        if let Names::Some(passing) = &names
            && let [(measurement, fields)] = passing.as_slice()
            && rows.len() > ROWS_BY_TUPLE
            && let Some(it) = self.measurements.get(*measurement as usize)
        {
            rows &= self.rows_of_schemas(&it.schemas);
            of_all = Some(fields);
        }
        for row in &rows {
            let set = self.row_sets.get(row as usize).unwrap_or(NO_FIELDS);
            let Some(fields) = of_all.or_else(|| self.fields_passing(row, &names)) else {
                continue;
            };
            let row = Row(row);
            match fields {
                Fields::All => {
                    for (field, kinds) in self.sets.fields(set) {
                        found(SelectedRow { row, field, kinds });
                    }
                }
                Fields::Only(fields) => {
                    for &field in fields {
                        let field = FieldId(field);
                        let kinds = self.sets.kinds(set, field);
                        if !kinds.is_empty() {
                            found(SelectedRow { row, field, kinds });
                        }
                    }
                }
            }
        }
    }

    /// Rows with at least one matching series.
    pub(crate) fn rows_selected(&self, selector: &CompiledSelector) -> RoaringBitmap {
        let mut rows = Vec::new();
        self.visit(selector, |item| {
            if rows.last() != Some(&item.row.0) {
                rows.push(item.row.0);
            }
        });
        rows.into_iter().collect()
    }

    /// Measurements with at least one matching field, by their names alone.
    fn names(&self, selector: &CompiledSelector) -> Names {
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

    /// Rows that pass the matchers on tags. Measurements are only used to narrow them: the caller asks
    /// [`PartitionIndex::fields_passing`] for each.
    fn matching_rows(&self, selector: &CompiledSelector, names: &Names) -> Option<RoaringBitmap> {
        let mut positive = Vec::new();
        let mut negative = Vec::new();
        for (key, matcher) in selector.tag_matchers() {
            match self.resolve(key, matcher) {
                Resolved::Everything => {}
                Resolved::Nothing => return None,
                Resolved::Rows(rows) if rows.negative => negative.push(rows),
                Resolved::Rows(rows) => positive.push(rows),
            }
        }
        positive.sort_by_key(|rows| rows.estimate);

        let schemas: Option<Vec<u32>> = match names {
            Names::All => None,
            Names::Some(passing) => Some(
                passing
                    .iter()
                    .filter_map(|(m, _)| self.measurements.get(*m as usize))
                    .flat_map(|m| m.schemas.iter().copied())
                    .collect(),
            ),
        };
        let named: Option<u64> = schemas.as_ref().map(|schemas| {
            let schemas = schemas.iter().filter_map(|&s| self.schemas.get(s));
            schemas.map(|s| s.rows.len()).sum()
        });

        let mut rest = positive.iter();
        let mut rows = match (&schemas, named) {
            (Some(schemas), Some(named))
                if positive.first().is_none_or(|first| named < first.estimate) =>
            {
                self.rows_of_schemas(schemas)
            }
            _ => rest
                .next()
                .map_or_else(|| self.all_rows(), |first| self.rows_of(first)),
        };
        for matcher in rest.chain(&negative) {
            if rows.is_empty() {
                return None;
            }
            self.narrow(&mut rows, matcher);
        }
        Some(rows)
    }

    fn all_rows(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.row_count());
        all
    }

    #[inline]
    fn fields_passing<'a>(&self, row: u32, names: &'a Names) -> Option<&'a Fields> {
        match names {
            Names::All => Some(&Fields::All),
            Names::Some(passing) => {
                let (schema, _) = self.tuple(row)?;
                let at = passing
                    .binary_search_by(|(m, _)| m.cmp(&schema.measurement))
                    .ok()?;
                passing.get(at).map(|(_, fields)| fields)
            }
        }
    }
}
