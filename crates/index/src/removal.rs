//! Series that are gone: a row keeps its number and its tag set for ever, its field list can shrink.
//!
//! A row whose last series went is marked, so that lists of names leave out what no series has any more; the next
//! series of the row takes the mark away.

use std::ops::Range;

use alluvium_types::{FieldId, Row};
use roaring::RoaringBitmap;

use crate::field_sets::NO_FIELDS;
use crate::{KindSet, PartitionIndex};

impl PartitionIndex {
    /// Keeps of a row's series those that `keep` answers; it gets each field with the kinds it has, and answers
    /// some of them. Returns whether anything went. Costs a read of the row's field list.
    pub fn retain_series(
        &mut self,
        row: Row,
        mut keep: impl FnMut(FieldId, KindSet) -> KindSet,
    ) -> bool {
        let Some(set) = self.set_of(row).filter(|set| *set != NO_FIELDS) else {
            return false;
        };
        let mut changed = false;
        let mut left = Vec::new();
        for (field, kinds) in self.sets.fields(set) {
            let kept = kinds.intersect(keep(field, kinds));
            changed |= kept != kinds;
            if !kept.is_empty() {
                left.push((field, kept));
            }
        }
        if !changed {
            return false;
        }
        let before = self.sets.series(set);
        let to = self.sets.replace(set, &left);
        self.series = self.series - before + self.sets.series(to);
        self.set_row(row.0, to);
        true
    }

    /// Fields of some rows that have had values of several kinds, by row and field, the first `limit` of them.
    ///
    /// Costs a look at every distinct field list, and at each row only if one of those has several kinds.
    pub fn mixed_kinds(&self, rows: Range<u32>, limit: usize) -> Vec<(Row, FieldId, KindSet)> {
        if !self.sets.any_mixed() {
            return Vec::new();
        }
        let rows = rows.map(Row);
        rows.flat_map(|row| self.fields_of(row).map(move |(f, k)| (row, f, k)))
            .filter(|(_, _, kinds)| kinds.len() > 1)
            .take(limit)
            .collect()
    }
}

/// Keeps the marks of rows without series right when a row's field list changes.
pub(crate) fn mark_row(removed: &mut RoaringBitmap, row: u32, set: u32) {
    if set == NO_FIELDS {
        removed.insert(row);
    } else if !removed.is_empty() {
        removed.remove(row);
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::{SeriesKey, ValueKind};

    use super::*;
    use crate::{DefinitionMark, KeyHash, Selector};

    fn index() -> PartitionIndex {
        let mut index = PartitionIndex::new();
        for (measurement, host) in [("cpu", "a"), ("cpu", "b"), ("mem", "c")] {
            let key = SeriesKey::new(measurement, [("host", host)]).unwrap();
            let hash = KeyHash::of(1, &key, &mut Vec::new());
            let row = index.insert_row(hash, &key).unwrap();
            let measurement = index.measurement(measurement).unwrap();
            for field in ["x", "y"] {
                let field = index.insert_field(measurement, field).unwrap();
                index.add_series(row, field, ValueKind::F64).unwrap();
            }
        }
        index
    }

    /// Measurements and hosts that are listed, and the number of series.
    fn lists(index: &PartitionIndex) -> (Vec<String>, Vec<String>, u64) {
        let all = Selector::default().compile().unwrap();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let selected = index.select(&all).unwrap();
        assert_eq!(index.count(&all).unwrap(), selected.len() as u64);
        (
            owned(index.measurement_names(&all).unwrap()),
            index.tag_values(&all, "host", "", 9).unwrap(),
            index.series_count(),
        )
    }

    #[test]
    fn a_row_without_series_is_not_listed_until_it_has_one_again() {
        let mut index = index();
        assert!(index.retain_series(Row(2), |_, _| KindSet::EMPTY));
        assert!(!index.retain_series(Row(2), |_, _| KindSet::EMPTY));
        assert!(index.retain_series(Row(0), |f, k| if f == FieldId(0) {
            KindSet::EMPTY
        } else {
            k
        }));
        assert!(!index.retain_series(Row(1), |_, k| k));
        assert!(!index.retain_series(Row(9), |_, k| k));
        let (names, hosts, series) = lists(&index);
        assert_eq!(
            (names.as_slice(), series),
            (["cpu".to_owned()].as_slice(), 3)
        );
        assert_eq!(hosts, ["a", "b"]);
        assert_eq!(
            index
                .tag_keys(&Selector::default().compile().unwrap())
                .unwrap(),
            ["host"]
        );
        index
            .add_series(Row(2), FieldId(1), ValueKind::Str)
            .unwrap();
        assert_eq!(lists(&index).0, ["cpu", "mem"]);
        assert_eq!(
            index.kinds(Row(2), FieldId(1)).first(),
            Some(ValueKind::Str)
        );
    }

    #[test]
    fn the_first_kind_goes_and_another_takes_its_place() {
        let mut index = index();
        index
            .add_series(Row(0), FieldId(0), ValueKind::Str)
            .unwrap();
        assert_eq!(index.mixed_kinds(0..9, 9).len(), 1);
        let texts = KindSet::of(ValueKind::Str);
        assert!(index.retain_series(Row(0), |f, k| if f == FieldId(0) { texts } else { k }));
        assert_eq!(index.kinds(Row(0), FieldId(0)), texts);
        assert!(index.mixed_kinds(0..9, 9).is_empty());
    }

    #[test]
    fn parts_carry_what_went() {
        let mut index = index();
        let mut parts = Vec::new();
        let mut mark = DefinitionMark::default();
        let seal = |index: &mut PartitionIndex, mark: &mut DefinitionMark, parts: &mut Vec<_>| {
            if let Some(part) = index.encode_part(*mark) {
                parts.push(part);
            }
            *mark = index.mark();
            index.forget_before(*mark);
        };
        index.retain_series(Row(1), |_, _| KindSet::EMPTY);
        seal(&mut index, &mut mark, &mut parts);
        index.retain_series(
            Row(0),
            |f, k| if f == FieldId(0) { KindSet::EMPTY } else { k },
        );
        seal(&mut index, &mut mark, &mut parts);
        // As many series as before: only the order of changes tells.
        index.retain_series(
            Row(2),
            |f, k| if f == FieldId(0) { KindSet::EMPTY } else { k },
        );
        index
            .add_series(Row(2), FieldId(0), ValueKind::I64)
            .unwrap();
        seal(&mut index, &mut mark, &mut parts);
        assert_eq!(parts.len(), 3);
        assert!(index.encode_part(mark).is_none());
        let whole = index.encode_part(DefinitionMark::default()).unwrap();
        for parts in [parts, vec![whole]] {
            let mut copy = PartitionIndex::new();
            for part in &parts {
                copy.apply_part(1, part).unwrap();
            }
            assert_eq!(lists(&copy), lists(&index));
            for row in (0..3).map(Row) {
                assert!(copy.fields_of(row).eq(index.fields_of(row)), "{row:?}");
            }
        }
    }
}
