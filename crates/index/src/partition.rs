//! The index of one partition: rows, fields, series.

use std::sync::Arc;

use alluvium_types::{FieldId, Row, SeriesKey, ValueKind};
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::dictionary::Dictionary;
use crate::field_sets::{FieldSets, NO_FIELDS};
use crate::head::Head;
use crate::journal::Journal;
use crate::paged::Paged;
use crate::palette::Palette;
use crate::postings::bitmap_bytes;
use crate::removal::mark_row;
use crate::schema::{Schema, Schemas};
use crate::table::Table;
use crate::varint::{get_u32, put_u64};
use crate::{FlatKey, IndexError, KeyHash, KindSet, Segment};

/// Longest measurement, tag key, tag value or field name.
pub const MAX_NAME_BYTES: usize = 65_536;

/// Most tags of one tag set.
pub const MAX_TAGS: usize = 4096;

/// Hashes looked up together: enough to keep the memory system busy, few enough to stay in registers and L1.
pub(crate) const BATCH: usize = 16;

/// Numbers of values for which there is room kept.
const IDS_KEPT: usize = 32 * BATCH;

/// A measurement within the partition, numbered in creation order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeasurementId(pub u32);

/// Everything defined in one (database, partition): tag sets, fields, series, and how to find them.
///
/// See the crate's page for an example, and the methods for their cost. Numbers are dense and depend only on
/// the order of calls.
#[derive(Debug, Clone)]
pub struct PartitionIndex {
    /// Tag set to row.
    pub(crate) table: Table<u128>,
    /// Rows whose tag sets were sealed, in order from row 0 on.
    pub(crate) sealed: Arc<Vec<Arc<Segment>>>,
    /// Rows behind those, while a segment is made of them.
    pub(crate) frozen: Option<Arc<Head>>,
    /// The rows behind those.
    pub(crate) head: Head,
    /// By row: its shape.
    pub(crate) row_schemas: Palette,
    /// By row: its field list.
    pub(crate) row_sets: Palette,
    pub(crate) sets: FieldSets,
    pub(crate) schemas: Schemas,
    pub(crate) measurement_names: Dictionary,
    pub(crate) measurements: Paged<Measurement>,
    pub(crate) key_names: Dictionary,
    pub(crate) tag_keys: Paged<TagKey>,
    /// The measurement of each field, in creation order over all measurements.
    pub(crate) field_order: Paged<u32>,
    pub(crate) journal: Journal,
    pub(crate) series: u64,
    /// Rows that had series and have none.
    pub(crate) removed: RoaringBitmap,
    /// Sealed rows that are not in the table.
    pub(crate) silent: u32,
    /// Changes of field lists so far.
    pub(crate) changes: u64,
    /// Where the tuple of a new row is put together.
    pub(crate) tuple: Vec<u8>,
    /// Where the numbers of values of some rows are.
    pub(crate) ids: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    pub(crate) fields: Dictionary,
    /// Its shapes, ascending.
    pub(crate) schemas: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct TagKey {
    /// Shapes that have this key.
    pub(crate) schemas: Vec<u32>,
}

impl Default for PartitionIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl PartitionIndex {
    /// An index of nothing.
    pub fn new() -> Self {
        Self {
            table: Table::new(),
            sealed: Arc::default(),
            frozen: None,
            head: Head::default(),
            row_schemas: Palette::default(),
            row_sets: Palette::default(),
            sets: FieldSets::new(),
            schemas: Schemas::default(),
            measurement_names: Dictionary::new(),
            measurements: Paged::default(),
            key_names: Dictionary::new(),
            tag_keys: Paged::default(),
            field_order: Paged::default(),
            journal: Journal::default(),
            series: 0,
            removed: RoaringBitmap::new(),
            silent: 0,
            changes: 0,
            tuple: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// The row of a tag set, unless it is [silent](Self::may_be_silent). One cache miss or two.
    #[inline]
    pub fn lookup(&self, hash: KeyHash) -> Option<Row> {
        self.table.find(hash.bits(), |_| true).map(Row)
    }

    /// Looks up many tag sets and appends one answer for each, in order. The cache misses of up to 16 overlap.
    pub fn lookup_batch(&self, hashes: &[KeyHash], out: &mut Vec<Option<Row>>) {
        out.reserve(hashes.len());
        let mut groups = hashes.chunks_exact(BATCH);
        for group in &mut groups {
            let probes: [_; BATCH] = std::array::from_fn(|i| self.table.probe(group[i].bits()));
            out.extend(probes.map(|probe| self.table.resume(probe, |_| true).map(Row)));
        }
        out.extend(groups.remainder().iter().map(|&hash| self.lookup(hash)));
    }

    /// Creates the next row. Rows ascend from 0.
    ///
    /// `hash` is [`KeyHash::of`] of `key` under the seed of the database. A tag set whose row is silent must have been
    /// looked for in [`Self::may_be_silent`].
    ///
    /// # Errors
    /// If the tag set exists, the partition is full, or a name or the list of tags is too long; nothing is
    /// changed then.
    pub fn insert_row(&mut self, hash: KeyHash, key: &SeriesKey) -> Result<Row, IndexError> {
        self.insert_flat(hash, FlatKey::new(key, &mut Vec::new()))
    }

    /// As [`Self::insert_row`], of a key in its flat form.
    ///
    /// # Errors
    /// As [`Self::insert_row`].
    pub fn insert_flat(&mut self, hash: KeyHash, key: FlatKey<'_>) -> Result<Row, IndexError> {
        self.check_new(hash, key)?;
        let row = self.row_count();
        self.insert_all(&[(hash, key)]);
        Ok(Row(row))
    }

    /// Creates rows of tag sets as [`Self::insert_flat`] does, up to the first that it would refuse; returns how many. Costs
    /// less where tags of several rows have the same keys: a key's values and postings are then looked for together.
    pub fn insert_all(&mut self, tag_sets: &[(KeyHash, FlatKey<'_>)]) -> usize {
        let first = self.row_count();
        let mut schemas: SmallVec<[u32; BATCH]> = SmallVec::new();
        let mut before = None;
        for (hash, key) in tag_sets {
            let row = self.row_count();
            if self.check_new(*hash, *key).is_err() {
                break;
            }
            let schema = match (before, schemas.last()) {
                (Some(before), Some(schema)) if key.is_alike(before) => *schema,
                _ => self.intern_schema(row, *key),
            };
            before = Some(key);
            self.row_schemas.push(schema);
            self.row_sets.push_for_now(NO_FIELDS);
            self.table.insert(hash.bits(), row);
            schemas.push(schema);
        }
        let (mut row, mut at) = (first, 0);
        for alike in schemas.chunk_by(|a, b| a == b) {
            let end = at + alike.len();
            self.add_alike(alike[0], row, &tag_sets[at..end]);
            (row, at) = (row + alike.len() as u32, end);
        }
        schemas.len()
    }

    /// Appends the values of rows of one shape, key by key.
    fn add_alike(&mut self, schema: u32, first: u32, tag_sets: &[(KeyHash, FlatKey<'_>)]) {
        let shape = self.schemas.get(schema).expect("just interned");
        let rows = tag_sets.len();
        let mut tags: SmallVec<[_; BATCH]> = tag_sets.iter().map(|(_, key)| key.tags()).collect();
        let mut values: SmallVec<[&[u8]; BATCH]> = SmallVec::new();
        // By key, then by row.
        let mut ids = std::mem::take(&mut self.ids);
        for &key in &shape.keys {
            values.clear();
            values.extend(
                tags.iter_mut()
                    .map(|tags| tags.next().map_or(&b""[..], |tag| tag.1)),
            );
            self.head.add_values(key, &values, first, &mut ids);
        }
        let mut tuple = std::mem::take(&mut self.tuple);
        for row in 0..rows {
            tuple.clear();
            for id in ids.get(row..).unwrap_or_default().iter().step_by(rows) {
                put_u64(&mut tuple, (*id).into());
            }
            self.head.append(schema, &tuple);
        }
        // What rows of very many tags have made it grow to is given back.
        ids.clear();
        ids.shrink_to(IDS_KEPT);
        (self.tuple, self.ids) = (tuple, ids);
    }

    /// Whether a row may be created.
    fn check_new(&self, hash: KeyHash, key: FlatKey<'_>) -> Result<(), IndexError> {
        if let Some(row) = self.lookup(hash) {
            return Err(IndexError::RowExists { row });
        }
        let row = self.row_count();
        if row == u32::MAX {
            return Err(IndexError::PartitionFull { rows: row });
        }
        if key.longest_bytes() > MAX_NAME_BYTES {
            let bytes = key.longest_bytes();
            return Err(IndexError::NameTooLong { bytes });
        }
        if key.tag_count() > MAX_TAGS {
            let tags = key.tag_count();
            return Err(IndexError::TooManyTags { tags });
        }
        Ok(())
    }

    /// Number of rows.
    pub fn row_count(&self) -> u32 {
        self.row_schemas.len() as u32
    }

    /// The tag set of a row in memory, spelt out; `None` too for a row that is sealed, of which
    /// [`Segment::spell`] tells. Costs an allocation for each name.
    pub fn key(&self, row: Row) -> Option<SeriesKey> {
        let head = self.head_of(row.0)?;
        let schema = self.schema_of(row.0)?;
        let mut values = head.tuple(row.0)?;
        let measurement = self.measurement_names.name(schema.measurement)?;
        let mut tags = Vec::with_capacity(schema.keys.len());
        for &key in &schema.keys {
            let value = get_u32(&mut values)?;
            tags.push((
                self.key_names.name(key)?,
                head.key(key)?.values.name(value)?,
            ));
        }
        SeriesKey::new(measurement, tags).ok()
    }

    /// The value of one tag of a row in memory; `None` if the row has no such tag or is sealed.
    pub fn tag(&self, row: Row, key: &str) -> Option<&str> {
        let key = self.key_names.find(key)?;
        let value = self.value_of(row.0, key)?;
        self.head_of(row.0)?.key(key)?.values.name(value)
    }

    /// The measurement of a row.
    pub fn measurement_of(&self, row: Row) -> Option<MeasurementId> {
        Some(MeasurementId(self.schema_of(row.0)?.measurement))
    }

    /// The measurement of this name.
    pub fn measurement(&self, name: &str) -> Option<MeasurementId> {
        self.measurement_names.find(name).map(MeasurementId)
    }

    /// The name of a measurement.
    pub fn measurement_name(&self, measurement: MeasurementId) -> Option<&str> {
        self.measurement_names.name(measurement.0)
    }

    /// The field of this name.
    pub fn field(&self, measurement: MeasurementId, name: &str) -> Option<FieldId> {
        let measurement = self.measurements.get(measurement.0 as usize)?;
        measurement.fields.find(name).map(FieldId)
    }

    /// How many fields a measurement has, all rows together; 0 if it does not exist.
    pub fn field_count(&self, measurement: MeasurementId) -> u32 {
        let measurement = self.measurements.get(measurement.0 as usize);
        measurement.map_or(0, |m| m.fields.len())
    }

    /// The field of this name, created if need be. Fields of a measurement ascend from 0.
    ///
    /// # Errors
    /// If the measurement does not exist or is full, or the name is too long.
    pub fn insert_field(
        &mut self,
        measurement: MeasurementId,
        name: &str,
    ) -> Result<FieldId, IndexError> {
        let Some(it) = self.measurements.get_mut(measurement.0 as usize) else {
            return Err(IndexError::UnknownMeasurement { measurement });
        };
        if let Some(field) = it.fields.find(name) {
            return Ok(FieldId(field));
        }
        check_name(name)?;
        if it.fields.len() >= FieldId::LIMIT {
            let name = self.measurement_name(measurement).unwrap_or_default();
            return Err(IndexError::TooManyFields {
                measurement: name.to_owned(),
            });
        }
        self.field_order.push(measurement.0);
        Ok(FieldId(it.fields.intern(name)))
    }

    /// The name of a field.
    pub fn field_name(&self, measurement: MeasurementId, field: FieldId) -> Option<&str> {
        let measurement = self.measurements.get(measurement.0 as usize)?;
        measurement.fields.name(field.0)
    }

    /// Records that the series (row, field, kind) exists; `false` if it did. Costs a small look-up when other
    /// rows took the same fields in the same order.
    ///
    /// # Errors
    /// If the row does not exist, or the field does not in the row's measurement.
    pub fn add_series(
        &mut self,
        row: Row,
        field: FieldId,
        kind: ValueKind,
    ) -> Result<bool, IndexError> {
        let set = self.set_of(row).ok_or(IndexError::UnknownRow { row })?;
        if self.sets.kinds(set, field).contains(kind) {
            return Ok(false);
        }
        let known = self
            .measurement_of(row)
            .and_then(|m| self.measurements.get(m.0 as usize))
            .is_some_and(|m| field.0 < m.fields.len());
        if !known {
            return Err(IndexError::UnknownField { row, field });
        }
        let to = self.sets.add(set, field, kind);
        self.set_row(row.0, to);
        self.series += 1;
        Ok(true)
    }

    /// The kinds that one field of a row has had; empty if there is no such series.
    pub fn kinds(&self, row: Row, field: FieldId) -> KindSet {
        let set = self.set_of(row).unwrap_or(NO_FIELDS);
        self.sets.kinds(set, field)
    }

    /// The fields of a row, ascending; none if the row does not exist.
    pub fn fields_of(&self, row: Row) -> impl Iterator<Item = (FieldId, KindSet)> + '_ {
        self.sets.fields(self.set_of(row).unwrap_or(NO_FIELDS))
    }

    /// Number of series (row, field, kind).
    pub fn series_count(&self) -> u64 {
        self.series
    }

    /// Bytes on the heap, by the capacities of all buffers. Walks the bitmaps: for metrics, not for each write.
    pub fn heap_bytes(&self) -> usize {
        self.heap_breakdown().iter().map(|(_, bytes)| bytes).sum()
    }

    /// What [`PartitionIndex::heap_bytes`] adds up, by structure.
    pub fn heap_breakdown(&self) -> [(&'static str, usize); 10] {
        let fields: usize = self
            .measurements
            .iter()
            .map(|m| m.fields.heap_bytes() + m.schemas.capacity() * 4)
            .sum();
        let heads = || self.heads();
        let lists: usize = self.tag_keys.iter().map(|k| k.schemas.capacity() * 4).sum();
        [
            ("table", self.table.heap_bytes()),
            ("tuples", heads().map(|h| h.tuples.heap_bytes()).sum()),
            ("row shapes", self.row_schemas.heap_bytes()),
            ("row field lists", self.row_sets.heap_bytes()),
            ("field lists", self.sets.heap_bytes()),
            (
                "names",
                fields
                    + self.measurement_names.heap_bytes()
                    + self.key_names.heap_bytes()
                    + self.field_order.heap_bytes()
                    + self.measurements.heap_bytes()
                    + self.tag_keys.heap_bytes(),
            ),
            ("values", heads().map(Head::values_bytes).sum()),
            (
                "postings",
                heads().map(Head::postings_bytes).sum::<usize>()
                    + lists
                    + self.schemas.heap_bytes()
                    + bitmap_bytes(&self.removed),
            ),
            ("segments", self.sealed.iter().map(|s| s.heap_bytes()).sum()),
            ("journal", self.journal.heap_bytes()),
        ]
    }

    /// The shape of a row.
    #[inline]
    pub(crate) fn schema_of(&self, row: u32) -> Option<&Schema> {
        self.schemas.get(self.row_schemas.get(row as usize)?)
    }

    /// What is in memory, in the order of rows.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Head> {
        self.frozen.as_deref().into_iter().chain([&self.head])
    }

    /// The head that a row's tag set is in; `None` if it is sealed.
    pub(crate) fn head_of(&self, row: u32) -> Option<&Head> {
        if row >= self.head.base {
            return Some(&self.head);
        }
        self.frozen.as_deref().filter(|frozen| row >= frozen.base)
    }

    /// The number, within its head, of a row's value under a key.
    pub(crate) fn value_of(&self, row: u32, key: u32) -> Option<u32> {
        let at = self.schema_of(row)?.keys.iter().position(|&k| k == key)?;
        self.head_of(row)?.value_at(row, at)
    }

    #[inline]
    pub(crate) fn set_of(&self, row: Row) -> Option<u32> {
        self.row_sets.get(row.0 as usize)
    }

    /// Notes a row's new field list.
    pub(crate) fn set_row(&mut self, row: u32, set: u32) {
        if self.row_sets.set(row as usize, set) {
            self.journal.touch(row);
            self.changes += 1;
            mark_row(&mut self.removed, row, set);
        }
    }

    /// The measurement of this name, new if need be.
    pub(crate) fn intern_measurement(&mut self, name: &str) -> u32 {
        let id = self.measurement_names.intern(name);
        if id as usize == self.measurements.len() {
            self.measurements.push(Measurement {
                fields: Dictionary::new(),
                schemas: Vec::new(),
            });
        }
        id
    }

    /// The tag key of this name, new if need be.
    pub(crate) fn intern_key(&mut self, name: &[u8]) -> u32 {
        let id = self.key_names.intern_bytes(name);
        if id as usize == self.tag_keys.len() {
            self.tag_keys.push(TagKey {
                schemas: Vec::new(),
            });
        }
        id
    }

    /// A new shape, first used by `row`.
    pub(crate) fn add_schema(&mut self, measurement: u32, keys: &[u32], row: u32) -> u32 {
        let schema = self.schemas.add(measurement, keys, row);
        self.measurements[measurement as usize].schemas.push(schema);
        for &key in keys {
            self.tag_keys[key as usize].schemas.push(schema);
        }
        schema
    }

    fn intern_schema(&mut self, row: u32, key: FlatKey<'_>) -> u32 {
        let measurement = self.intern_measurement(key.measurement());
        // The shape of the row before is the best guess, and spares a look-up for each key.
        if let Some(last) = self.last_schema(row)
            && let Some(schema) = self.schemas.get(last)
            && schema.measurement == measurement
            && schema.keys.len() == key.tag_count()
            && schema
                .keys
                .iter()
                .zip(key.tags())
                .all(|(&id, (name, _))| self.key_names.bytes(id) == Some(name))
        {
            return last;
        }
        let mut keys = Vec::with_capacity(key.tag_count());
        for (name, _) in key.tags() {
            keys.push(self.intern_key(name));
        }
        self.schemas
            .find(measurement, &keys)
            .unwrap_or_else(|| self.add_schema(measurement, &keys, row))
    }

    fn last_schema(&self, row: u32) -> Option<u32> {
        self.row_schemas.get(row.checked_sub(1)? as usize)
    }
}

fn check_name(name: &str) -> Result<(), IndexError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(IndexError::NameTooLong { bytes: name.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(index: &mut PartitionIndex, key: &SeriesKey) -> Result<Row, IndexError> {
        index.insert_row(KeyHash::of(1, key, &mut Vec::new()), key)
    }

    fn key<'a>(measurement: &str, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> SeriesKey {
        SeriesKey::new(measurement, tags).unwrap()
    }

    #[test]
    fn rows_are_found_and_spelt_out() {
        let mut index = PartitionIndex::new();
        let keys = [
            key("cpu", [("host", "a"), ("dc", "x")]),
            key("cpu", [("host", "b"), ("dc", "x")]),
            key("cpu", []),
            key("mem", [("host", "a")]),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(insert(&mut index, key), Ok(Row(i as u32)));
        }
        assert_eq!(
            insert(&mut index, &keys[1]),
            Err(IndexError::RowExists { row: Row(1) })
        );
        for (i, key) in keys.iter().enumerate() {
            let row = Row(i as u32);
            assert_eq!(
                index.lookup(KeyHash::of(1, key, &mut Vec::new())),
                Some(row)
            );
            assert_eq!(index.key(row).as_ref(), Some(key));
            let name = index.measurement_name(index.measurement_of(row).unwrap());
            assert_eq!(name, Some(key.measurement()));
            for tag in ["host", "dc", "none"] {
                assert_eq!(index.tag(row, tag), key.tag(tag));
            }
        }
        assert_eq!(index.key(Row(4)), None);
        assert_eq!(index.row_count(), 4);
    }

    #[test]
    fn batches_answer_in_order() {
        let mut index = PartitionIndex::new();
        let mut hashes = Vec::new();
        for i in 0..100 {
            let text = i.to_string();
            let key = key("m", [("t", text.as_str())]);
            hashes.push(KeyHash::of(1, &key, &mut Vec::new()));
            if i % 3 != 0 {
                insert(&mut index, &key).unwrap();
            }
        }
        for len in [0, 1, 15, 16, 17, 100] {
            let mut out = vec![None];
            index.lookup_batch(&hashes[..len], &mut out);
            let single: Vec<_> = hashes[..len].iter().map(|&h| index.lookup(h)).collect();
            assert_eq!(out[1..], single);
        }
    }

    #[test]
    fn series_are_counted_once() {
        let mut index = PartitionIndex::new();
        let row = insert(&mut index, &key("cpu", [("host", "a")])).unwrap();
        let cpu = index.measurement("cpu").unwrap();
        let (a, b) = (
            index.insert_field(cpu, "a").unwrap(),
            index.insert_field(cpu, "b").unwrap(),
        );
        assert_eq!(index.insert_field(cpu, "a"), Ok(a));
        assert_eq!(index.add_series(row, b, ValueKind::F64), Ok(true));
        assert_eq!(index.add_series(row, b, ValueKind::F64), Ok(false));
        assert_eq!(index.add_series(row, b, ValueKind::Str), Ok(true));
        assert_eq!(index.add_series(row, a, ValueKind::I64), Ok(true));
        assert_eq!(index.series_count(), 3);
        assert_eq!(index.kinds(row, b).first(), Some(ValueKind::F64));
        let fields: Vec<_> = index.fields_of(row).map(|(f, k)| (f, k.len())).collect();
        assert_eq!(fields, [(a, 1), (b, 2)]);
        assert_eq!(
            index.add_series(row, FieldId(2), ValueKind::F64),
            Err(IndexError::UnknownField {
                row,
                field: FieldId(2)
            })
        );
        assert_eq!(
            index.add_series(Row(9), a, ValueKind::F64),
            Err(IndexError::UnknownRow { row: Row(9) })
        );
        assert_eq!(
            index.insert_field(MeasurementId(3), "a"),
            Err(IndexError::UnknownMeasurement {
                measurement: MeasurementId(3)
            })
        );
    }

    #[test]
    fn what_is_too_long_changes_nothing() {
        let mut index = PartitionIndex::new();
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let bad = key("m", [("a", "b"), ("t", long.as_str())]);
        assert_eq!(
            insert(&mut index, &bad),
            Err(IndexError::NameTooLong {
                bytes: MAX_NAME_BYTES + 1
            })
        );
        let tags = (0..=MAX_TAGS).map(|i| (i.to_string(), "v"));
        let bad = SeriesKey::new("m", tags).unwrap();
        assert!(matches!(
            insert(&mut index, &bad),
            Err(IndexError::TooManyTags { .. })
        ));
        assert_eq!(index.measurement("m"), None);
        assert_eq!(index.row_count(), 0);
        insert(&mut index, &key("m", [("t", &long[1..])])).unwrap();
        assert_eq!(index.tag(Row(0), "t"), Some(&long[1..]));
    }
}
