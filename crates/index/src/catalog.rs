//! What exists: the lists behind SHOW statements and completion.

use std::collections::BinaryHeap;

use crate::schema::Schema;
use crate::selector::CompiledSelector;
use alluvium_types::FieldId;

use crate::{KindSet, MeasurementId, PartitionIndex};

impl PartitionIndex {
    /// All measurements, in creation order.
    pub fn measurements(&self) -> impl Iterator<Item = (MeasurementId, &str)> + '_ {
        let names = self.measurement_names.iter();
        (0..).map(MeasurementId).zip(names)
    }

    /// Names of the measurements with a matching series, sorted.
    pub fn measurement_names(&self, selector: &CompiledSelector) -> Vec<&str> {
        let mut ids: Vec<u32> = self
            .schemas_selected(selector)
            .map(|schema| schema.measurement)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut names: Vec<&str> = ids
            .into_iter()
            .filter_map(|id| self.measurement_names.name(id))
            .collect();
        names.sort_unstable();
        names
    }

    /// Keys of all tags that a matching series has, sorted.
    pub fn tag_keys(&self, selector: &CompiledSelector) -> Vec<&str> {
        let mut ids: Vec<u32> = self
            .schemas_selected(selector)
            .flat_map(|schema| schema.keys.iter().copied())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut names: Vec<&str> = ids
            .into_iter()
            .filter_map(|id| self.key_names.name(id))
            .collect();
        names.sort_unstable();
        names
    }

    /// The first `limit` values of a tag that begin with `prefix`, sorted. Costs a scan of the tag's values.
    pub fn tag_values(&self, key: &str, prefix: &str, limit: usize) -> Vec<&str> {
        let Some(id) = self.key_names.find(key) else {
            return Vec::new();
        };
        let key = &self.tag_keys[id as usize];
        let listed = |value: u32| {
            let rows = key.postings.get(value as usize);
            rows.is_none_or(|rows| self.any_listed(self.postings.rows(rows)))
        };
        let values = (0..).zip(key.values.iter());
        let values = values.filter(|(id, v)| v.starts_with(prefix) && listed(*id));
        lowest(values.map(|(_, v)| v), limit)
    }

    /// As [`PartitionIndex::tag_values`], of matching series only. Costs a read of every matching row.
    pub fn tag_values_of(
        &self,
        selector: &CompiledSelector,
        key: &str,
        prefix: &str,
        limit: usize,
    ) -> Vec<&str> {
        if selector.matchers.is_empty() {
            return self.tag_values(key, prefix, limit);
        }
        let Some(id) = self.key_names.find(key) else {
            return Vec::new();
        };
        let rows = self.rows_selected(selector);
        let mut values: Vec<u32> = rows
            .iter()
            .filter_map(|row| self.value_of(row, id))
            .collect();
        values.sort_unstable();
        values.dedup();
        let names = values
            .into_iter()
            .filter_map(|value| self.tag_keys[id as usize].values.name(value));
        lowest(names.filter(|v| v.starts_with(prefix)), limit)
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

    /// Shapes of the rows with a matching series, each once.
    fn schemas_selected(&self, selector: &CompiledSelector) -> impl Iterator<Item = &Schema> + '_ {
        let every = selector.matchers.is_empty();
        let rows = (!every).then(|| self.rows_selected(selector));
        (0..self.schemas.len())
            .filter_map(|id| self.schemas.get(id))
            .filter(move |schema| match &rows {
                Some(rows) => !rows.is_disjoint(&schema.rows),
                None => self.is_listed(schema),
            })
    }
}

/// The lowest `limit` of distinct names, sorted, in memory for no more than those.
fn lowest<'a>(names: impl Iterator<Item = &'a str>, limit: usize) -> Vec<&'a str> {
    let mut heap = BinaryHeap::new();
    for name in names {
        if heap.len() < limit {
            heap.push(name);
        } else if heap.peek().is_some_and(|&highest| name < highest) {
            heap.pop();
            heap.push(name);
        }
    }
    heap.into_sorted_vec()
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
        assert_eq!(index.measurement_names(&all), ["cpu", "mem"]);
        assert_eq!(index.measurement_names(&idle), ["cpu"]);
        assert_eq!(index.tag_keys(&all), ["dc", "host", "rack"]);
        assert_eq!(index.tag_keys(&mem), ["host", "rack"]);
        assert_eq!(index.tag_values("host", "", 9), ["a", "ab", "b"]);
        assert_eq!(index.tag_values("host", "", 2), ["a", "ab"]);
        assert_eq!(index.tag_values("host", "a", 1), ["a"]);
        assert_eq!(index.tag_values("none", "", 9), Vec::<&str>::new());
        assert_eq!(index.tag_values_of(&idle, "host", "", 9), ["a", "b"]);
        assert_eq!(index.tag_values_of(&mem, "dc", "", 9), Vec::<&str>::new());
        assert_eq!(
            index.tag_values_of(&mem, "host", "b", 9),
            Vec::<&str>::new()
        );
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
