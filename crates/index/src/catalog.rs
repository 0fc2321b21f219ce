//! What exists: the lists behind SHOW statements and completion.

use std::collections::BTreeSet;

use alluvium_types::FieldId;
use foldhash::fast::FixedState;
use hashbrown::HashSet;
use roaring::{MultiOps, RoaringBitmap};

use crate::evaluate::Fields;
use crate::head::Head;
use crate::selector::CompiledSelector;
use crate::{KindSet, MeasurementId, PartitionIndex, SegmentError};

impl PartitionIndex {
    /// All measurements, in creation order.
    pub fn measurements(&self) -> impl Iterator<Item = (MeasurementId, &str)> + '_ {
        let names = self.measurement_names.iter();
        (0..).map(MeasurementId).zip(names)
    }

    /// Names of the measurements with one of these rows, sorted. Never waits.
    pub fn measurements_of(&self, rows: &RoaringBitmap) -> Vec<&str> {
        let mut ids: Vec<u32> = self
            .shapes_of(rows)
            .filter_map(|schema| Some(self.schemas.get(schema)?.measurement))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let names = ids.into_iter();
        let mut names: Vec<&str> = names
            .filter_map(|id| self.measurement_names.name(id))
            .collect();
        names.sort_unstable();
        names
    }

    /// Keys of all tags that one of these rows has, sorted. Never waits.
    pub fn tag_keys_of(&self, rows: &RoaringBitmap) -> Vec<&str> {
        let shapes = self.shapes_of(rows).filter_map(|s| self.schemas.get(s));
        let mut ids: Vec<u32> = shapes.flat_map(|s| s.keys.iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        let names = ids.into_iter().filter_map(|id| self.key_names.name(id));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names
    }

    /// The first `limit` values that a tag has in these rows, of those in memory, and that begin with `prefix`;
    /// sorted. Of the sealed ones [`crate::Segment::tag_values`] tells. Costs a look at every value, and at the rows of those
    /// that may be among the answers.
    pub fn tag_values_in_memory(
        &self,
        rows: &RoaringBitmap,
        key: &str,
        prefix: &str,
        limit: usize,
    ) -> Vec<&str> {
        let Some(id) = self.key_names.find(key) else {
            return Vec::new();
        };
        let mut names = BTreeSet::new();
        for head in self.heads() {
            let Some(key) = head.key(id) else { continue };
            let values = (0..).zip(key.values.iter());
            for (value, name) in values.filter(|(_, name)| name.starts_with(prefix)) {
                let is_far = names.len() >= limit && names.last().is_some_and(|last| name >= *last);
                let of_value = head.value_rows(id, value);
                if is_far || !of_value.is_some_and(|of_value| of_value.meets(rows)) {
                    continue;
                }
                names.insert(name);
                if names.len() > limit {
                    names.pop_last();
                }
            }
        }
        names.into_iter().collect()
    }

    /// Names of the fields that a selector means of these rows, sorted. Costs a look at two numbers of each row, and at each
    /// distinct field list once. Never waits.
    pub fn fields_of_rows(&self, selector: &CompiledSelector, rows: &RoaringBitmap) -> Vec<&str> {
        let seen = self.fields_seen(selector, rows);
        let fields = self.measurements.iter().zip(&seen);
        let names = fields.flat_map(|(m, fields)| fields.iter().filter_map(|f| m.fields.name(f)));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Measurement and field of what a selector means of these rows, each pair once. Costs as [`Self::fields_of_rows`] does.
    pub fn metrics_of_rows(
        &self,
        selector: &CompiledSelector,
        rows: &RoaringBitmap,
    ) -> Vec<(&str, &str)> {
        let seen = self.fields_seen(selector, rows);
        let mut pairs = Vec::new();
        for ((of, fields), number) in self.measurements.iter().zip(&seen).zip(0..) {
            let Some(measurement) = self.measurement_names.name(number) else {
                continue;
            };
            let names = fields.iter().filter_map(|f| of.fields.name(f));
            pairs.extend(names.map(|name| (measurement, name)));
        }
        pairs
    }

    /// By measurement: the fields that a selector means of these rows.
    fn fields_seen(&self, selector: &CompiledSelector, rows: &RoaringBitmap) -> Vec<RoaringBitmap> {
        let names = self.names(selector);
        let mut seen: Vec<RoaringBitmap> = Vec::new();
        seen.resize_with(self.measurements.len(), RoaringBitmap::new);
        // Shapes and field lists; those of neighbours are mostly the same.
        let mut met: HashSet<(u32, u32), FixedState> = HashSet::default();
        let mut before = None;
        for row in rows {
            let Some(shape) = self.row_schemas.get(row as usize) else {
                continue;
            };
            let list = self.list_of(row);
            if before.replace((shape, list)) == Some((shape, list)) || !met.insert((shape, list)) {
                continue;
            }
            let measurement = self.schemas.get(shape).map(|schema| schema.measurement);
            let of = measurement.and_then(|m| seen.get_mut(m as usize));
            let (Some(of), Some(fields)) = (of, self.fields_passing(row, &names)) else {
                continue;
            };
            match fields {
                Fields::All => of.extend(self.sets.fields(list).map(|(field, _)| field.0)),
                Fields::Only(fields) => {
                    let has = |field: &u32| !self.sets.kinds(list, FieldId(*field)).is_empty();
                    of.extend(fields.iter().copied().filter(has));
                }
            }
        }
        seen
    }

    /// Rows that have a series: all but those of which everything was deleted.
    pub fn listed_rows(&self) -> RoaringBitmap {
        let mut rows = RoaringBitmap::new();
        rows.insert_range(0..self.row_count());
        rows - &self.removed
    }

    /// Rows with a series that matches, all in one step.
    fn rows_selected(&self, selector: &CompiledSelector) -> Result<RoaringBitmap, SegmentError> {
        if selector.matchers.is_empty() {
            return Ok(self.listed_rows());
        }
        let sealed = self.plan(selector).rows(None)?;
        Ok(self.rows_with(selector, &sealed, None))
    }

    /// Names of the measurements with a matching series, sorted, in one step. Waits for blocks if rows are sealed.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn measurement_names(
        &self,
        selector: &CompiledSelector,
    ) -> Result<Vec<&str>, SegmentError> {
        Ok(self.measurements_of(&self.rows_selected(selector)?))
    }

    /// Keys of all tags that a matching series has, sorted, in one step.
    ///
    /// # Errors
    /// As [`Self::measurement_names`].
    pub fn tag_keys(&self, selector: &CompiledSelector) -> Result<Vec<&str>, SegmentError> {
        Ok(self.tag_keys_of(&self.rows_selected(selector)?))
    }

    /// The first `limit` values of a tag that a matching series has and that begin with `prefix`, sorted, in one step.
    ///
    /// # Errors
    /// As [`Self::measurement_names`].
    pub fn tag_values(
        &self,
        selector: &CompiledSelector,
        key: &str,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<String>, SegmentError> {
        let rows = self.rows_selected(selector)?;
        let names = self.tag_values_in_memory(&rows, key, prefix, limit);
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        for segment in self.sealed.iter() {
            names.extend(segment.tag_values(&rows, key, prefix, limit)?);
        }
        names.sort_unstable();
        names.dedup();
        names.truncate(limit);
        Ok(names)
    }

    /// Names of all fields of a measurement, in creation order; none if there is no such measurement.
    pub fn field_names(
        &self,
        measurement: MeasurementId,
    ) -> impl Iterator<Item = (FieldId, &str)> + '_ {
        let fields = self.measurements.get(measurement.0 as usize);
        let names = fields.into_iter().flat_map(|m| m.fields.iter());
        (0..).map(FieldId).zip(names)
    }

    /// All fields of a measurement with every kind that any of its rows has had, in creation order. The first
    /// kind is that of the lowest row. Costs a read of every row of the measurement.
    pub fn field_kinds(&self, measurement: MeasurementId) -> Vec<(FieldId, KindSet)> {
        let Some(it) = self.measurements.get(measurement.0 as usize) else {
            return Vec::new();
        };
        let mut kinds = vec![KindSet::EMPTY; it.fields.len() as usize];
        let mut last = None;
        for row in &self.rows_of_schemas(&it.schemas) {
            let set = self.row_sets.get(row as usize);
            if set == last {
                continue;
            }
            last = set;
            for (field, more) in set.into_iter().flat_map(|set| self.sets.fields(set)) {
                if let Some(known) = kinds.get_mut(field.0 as usize) {
                    *known = more
                        .first()
                        .into_iter()
                        .chain(more.iter())
                        .fold(*known, KindSet::with);
                }
            }
        }
        (0..).map(FieldId).zip(kinds).collect()
    }

    /// Shapes that have one of these rows; one that is in several segments comes several times.
    fn shapes_of(&self, rows: &RoaringBitmap) -> impl Iterator<Item = u32> {
        let of_heads = self.heads().flat_map(Head::shapes);
        let of_segments = self.sealed.iter().flat_map(|s| &s.shapes);
        let of_segments = of_segments.map(|shape| (shape.schema, &shape.rows));
        let meeting = of_heads.chain(of_segments);
        let meeting = meeting.filter(|(_, of_shape)| !of_shape.is_disjoint(rows));
        meeting.map(|(schema, _)| schema)
    }

    /// The rows of some shapes, whose numbers ascend.
    pub(crate) fn rows_of_schemas(&self, schemas: &[u32]) -> RoaringBitmap {
        let of_segments = self.sealed.iter().flat_map(|s| &s.shapes);
        let of_segments = of_segments.filter(|shape| schemas.binary_search(&shape.schema).is_ok());
        let mut rows = of_segments.map(|shape| &shape.rows).union();
        for head in self.heads() {
            rows |= head.rows_of_shapes(schemas);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::{SeriesKey, ValueKind};

    use super::*;
    use crate::{KeyHash, Label, Matcher, Selector, Test};

    fn index() -> PartitionIndex {
        let mut index = PartitionIndex::new();
        for (measurement, tags, field, kind) in [
            (
                "cpu",
                vec![("host", "b"), ("dc", "x")],
                "idle",
                ValueKind::F64,
            ),
            (
                "cpu",
                vec![("host", "a"), ("dc", "x")],
                "idle",
                ValueKind::I64,
            ),
            (
                "mem",
                vec![("host", "ab"), ("rack", "1")],
                "value",
                ValueKind::U64,
            ),
        ] {
            let key = SeriesKey::new(measurement, tags).unwrap();
            let hash = KeyHash::of(1, &key, &mut Vec::new());
            let row = index.insert_row(hash, &key).unwrap();
            let measurement = index.measurement(measurement).unwrap();
            let field = index.insert_field(measurement, field).unwrap();
            index.add_series(row, field, kind).unwrap();
        }
        index
    }

    fn on(label: Label, text: &str) -> CompiledSelector {
        let matchers = vec![Matcher::new(label, Test::Equal(text.into()))];
        Selector { matchers }.compile().unwrap()
    }

    #[test]
    fn lists_are_sorted_and_follow_the_selector() {
        let index = index();
        let all = Selector::default().compile().unwrap();
        let mem = on(Label::Name, "mem");
        let idle = on(Label::Field, "idle");
        assert_eq!(index.measurement_names(&all).unwrap(), ["cpu", "mem"]);
        assert_eq!(index.measurement_names(&idle).unwrap(), ["cpu"]);
        assert_eq!(index.tag_keys(&all).unwrap(), ["dc", "host", "rack"]);
        assert_eq!(index.tag_keys(&mem).unwrap(), ["host", "rack"]);
        assert_eq!(
            index.tag_values(&all, "host", "", 9).unwrap(),
            ["a", "ab", "b"]
        );
        assert_eq!(index.tag_values(&all, "host", "", 2).unwrap(), ["a", "ab"]);
        assert_eq!(index.tag_values(&all, "host", "a", 1).unwrap(), ["a"]);
        assert_eq!(
            index.tag_values(&all, "none", "", 9).unwrap(),
            Vec::<&str>::new()
        );
        assert_eq!(index.tag_values(&idle, "host", "", 9).unwrap(), ["a", "b"]);
        assert_eq!(
            index.tag_values(&mem, "dc", "", 9).unwrap(),
            Vec::<&str>::new()
        );
        assert_eq!(
            index.tag_values(&mem, "host", "b", 9).unwrap(),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn fields_of_what_was_selected_are_listed() {
        let index = index();
        let fields = |selector: CompiledSelector| {
            let rows = index.rows_selected(&selector).unwrap();
            index.fields_of_rows(&selector, &rows)
        };
        let all = Selector::default().compile().unwrap();
        let metrics = index.metrics_of_rows(&all, &index.listed_rows());
        assert_eq!(metrics, [("cpu", "idle"), ("mem", "value")]);
        assert_eq!(fields(all), ["idle", "value"]);
        assert_eq!(fields(on(Label::Field, "idle")), ["idle"]);
        assert_eq!(fields(on(Label::Name, "mem")), ["value"]);
        assert!(fields(on(Label::Name, "none")).is_empty());
    }

    #[test]
    fn fields_are_listed_with_their_kinds() {
        let index = index();
        let cpu = index.measurement("cpu").unwrap();
        let names: Vec<_> = index.field_names(cpu).collect();
        assert_eq!(names, [(FieldId(0), "idle")]);
        let kinds = index.field_kinds(cpu);
        assert_eq!(kinds[0].1.first(), Some(ValueKind::F64));
        assert_eq!(kinds[0].1.len(), 2);
        assert_eq!(index.field_names(MeasurementId(9)).count(), 0);
        assert!(index.field_kinds(MeasurementId(9)).is_empty());
    }
}
