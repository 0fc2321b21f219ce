//! The durable form: parts, each with everything defined since the one before.
//!
//! A part holds the rows in order, each as the number of its shape and the numbers of its values; whatever is
//! new is spelt out where it first occurs, so that a part needs no table of strings and every dictionary gets
//! the same numbers again. Then come the new fields, then the field lists of all rows that got new series. The
//! exact form is in `docs/format/definitions.md`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use alluvium_types::{FieldId, Row};
use roaring::RoaringBitmap;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::field_sets::NO_FIELDS;
use crate::gathered::Gathered;
use crate::hash::{push_hash_bytes, push_hash_part};
use crate::head::Head;
use crate::layout::{BEGINS_ANEW, CONTINUES, CRC_END, HEADER_BYTES, MAGIC, PartHeader, VERSION};
use crate::palette::CHUNK;
use crate::postings::RowsRef;
use crate::table::Slot;
use crate::varint::{get_str, get_u32, get_u64, put_str, put_u64};
use crate::{
    IndexError, KeyHash, KindSet, LoadError, MAX_NAME_BYTES, MAX_TAGS, PartError, PartitionIndex,
    Segment,
};

/// How far an index had come: rows, fields and series up to here are in earlier parts.
///
/// The default mark is that of an empty index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefinitionMark {
    rows: u32,
    fields: u32,
    series: u64,
    touches: u64,
    changes: u64,
    /// First row of the head.
    base: u32,
}

impl PartitionIndex {
    /// The present state, for a later [`PartitionIndex::encode_part`].
    pub fn mark(&self) -> DefinitionMark {
        DefinitionMark {
            rows: self.row_count(),
            fields: self.field_order.len() as u32,
            series: self.series,
            touches: self.journal.position(),
            changes: self.changes,
            base: self.head.base,
        }
    }

    /// Everything defined since a mark of this index, as one part; `None` if there is nothing. If rows were frozen since,
    /// the part begins anew: it replaces all before it, and needs the segments of the frozen rows beside it.
    ///
    /// About the bytes of the new strings, 12 bytes for each row with ten tags, and little for the series of
    /// rows with the same fields. Costs a read of each new or changed row.
    pub fn encode_part(&self, since: DefinitionMark) -> Option<Vec<u8>> {
        let now = self.mark();
        let anew = since.base != now.base;
        let since = if anew {
            DefinitionMark {
                rows: now.base,
                ..DefinitionMark::default()
            }
        } else {
            since
        };
        let same = (since.rows, since.fields, since.changes) == (now.rows, now.fields, now.changes);
        if same && !anew {
            return None;
        }
        let mut out = vec![0; HEADER_BYTES];
        if anew {
            self.encode_names(&mut out);
        }
        for row in since.rows..now.rows {
            self.encode_row(row, &mut out);
        }
        self.encode_fields(since.fields as usize, &mut out);
        let (lists, runs) = if since.changes == now.changes {
            (0, 0)
        } else {
            self.encode_series(since.touches, &mut out)
        };

        let mut header = PartHeader::new_zeroed();
        header.magic = MAGIC;
        header.version = VERSION.into();
        header.kind = if anew { BEGINS_ANEW } else { CONTINUES }.into();
        header.sealed_rows = now.base.into();
        header.rows_before = since.rows.into();
        header.fields_before = since.fields.into();
        header.rows = (now.rows - since.rows).into();
        header.fields = (now.fields - since.fields).into();
        header.lists = lists.into();
        header.runs = runs.into();
        header.series_before = since.series.into();
        header.series_after = now.series.into();
        header.body_bytes = ((out.len() - HEADER_BYTES) as u64).into();
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        let crc = crc32c::crc32c(&out[CRC_END..]);
        out[CRC_END - 4..CRC_END].copy_from_slice(&crc.to_le_bytes());
        Some(out)
    }

    /// Applies a part, which must begin exactly where this index is. `seed` is the database's, for the hashes.
    ///
    /// # Errors
    /// If the bytes are not a whole, unchanged part of a known version, or do not continue from here. After
    /// [`PartError::Invalid`] the index may hold a piece of the part and must be dropped.
    pub fn apply_part(&mut self, seed: u64, bytes: &[u8]) -> Result<(), IndexError> {
        let header = check_part(bytes)?;
        self.apply_checked(seed, &header, bytes)
    }

    /// An index of the first part: one from the start, or one that begins anew with the segments of its sealed rows in
    /// their order. Reads their name tables: of all rows, or only of those in `active`, the others being silent.
    ///
    /// # Errors
    /// As [`Self::apply_part`], or if segments are missing, damaged or of another index.
    pub fn open(
        seed: u64,
        part: &[u8],
        segments: Vec<Arc<Segment>>,
        active: Option<&RoaringBitmap>,
    ) -> Result<Self, LoadError> {
        let header = check_part(part).map_err(IndexError::from)?;
        let mut index = Self::new();
        index.attach(segments, header.sealed_rows.get(), active, seed)?;
        if header.kind.get() == BEGINS_ANEW {
            index.head = Head::new(header.sealed_rows.get(), (0, 0, 0));
            let mut rest = &part[HEADER_BYTES..];
            let names = index.apply_names(&mut rest).and_then(|()| {
                index.head.known_before = index.known();
                index.apply_shapes_of_segments()
            });
            let at = part.len() - rest.len();
            let invalid = |what| IndexError::Part(PartError::Invalid { what, at });
            names.ok_or(invalid("names of sealed rows"))?;
            index.apply_rest(seed, &header, part, rest)?;
        } else {
            index.apply_checked(seed, &header, part)?;
        }
        index.row_sets.settle(0..index.row_count() as usize);
        Ok(index)
    }

    fn apply_checked(
        &mut self,
        seed: u64,
        header: &PartHeader,
        bytes: &[u8],
    ) -> Result<(), IndexError> {
        if header.kind.get() != CONTINUES || header.sealed_rows.get() != self.head.base {
            return Err(IndexError::Part(PartError::NotNext {
                begins_at_row: header.rows_before.get(),
                rows: self.row_count(),
            }));
        }
        self.apply_rest(seed, header, bytes, &bytes[HEADER_BYTES..])
    }

    fn apply_rest(
        &mut self,
        seed: u64,
        header: &PartHeader,
        bytes: &[u8],
        mut rest: &[u8],
    ) -> Result<(), IndexError> {
        let now = self.mark();
        let before = (
            header.rows_before.get(),
            header.fields_before.get(),
            header.series_before.get(),
        );
        if before != (now.rows, now.fields, now.series) {
            return Err(IndexError::Part(PartError::NotNext {
                begins_at_row: before.0,
                rows: now.rows,
            }));
        }
        let applied = self.apply_body(seed, header, &mut rest);
        applied.map_err(|what| {
            let at = bytes.len() - rest.len();
            IndexError::Part(PartError::Invalid { what, at })
        })
    }

    /// Lets go of what only marks before this one need: call it when a part up to `mark` is durable. Parts since
    /// older marks stay right, but name the fields of every row again.
    pub fn forget_before(&mut self, mark: DefinitionMark) {
        self.journal.forget_before(mark.touches);
    }

    /// A row: shape, then values. Numbers are one higher than they are, 0 says that a new one is spelt out.
    fn encode_row(&self, row: u32, out: &mut Vec<u8>) {
        let head = &self.head;
        let (Some(mut tuple), Some(id)) = (head.tuple(row), self.row_schemas.get(row as usize))
        else {
            return;
        };
        let Some(schema) = self.schemas.get(id) else {
            return;
        };
        if schema.first_row == row {
            put_u64(out, 0);
            self.encode_schema(id, out);
        } else {
            put_u64(out, u64::from(id) + 1);
        }
        for &key in &schema.keys {
            let (Some(value), Some(values)) = (get_u32(&mut tuple), head.key(key)) else {
                return;
            };
            let first = head.value_rows(key, value).and_then(RowsRef::first);
            if first == Some(row) {
                put_u64(out, 0);
                put_str(out, values.values.name(value).unwrap_or_default());
            } else {
                put_u64(out, u64::from(value) + 1);
            }
        }
    }

    fn encode_schema(&self, id: u32, out: &mut Vec<u8>) {
        let Some(schema) = self.schemas.get(id) else {
            return;
        };
        let measurement = schema.measurement;
        let of_measurement = &self.measurements[measurement as usize].schemas;
        if of_measurement.first() == Some(&id) {
            put_u64(out, 0);
            put_str(
                out,
                self.measurement_names.name(measurement).unwrap_or_default(),
            );
        } else {
            put_u64(out, u64::from(measurement) + 1);
        }
        put_u64(out, schema.keys.len() as u64);
        for &key in &schema.keys {
            if self.tag_keys[key as usize].schemas.first() == Some(&id) {
                put_u64(out, 0);
                put_str(out, self.key_names.name(key).unwrap_or_default());
            } else {
                put_u64(out, u64::from(key) + 1);
            }
        }
    }

    /// Measurements, keys and shapes that there were when the head began.
    fn encode_names(&self, out: &mut Vec<u8>) {
        let (measurements, keys, schemas) = self.head.known_before;
        put_u64(out, measurements.into());
        for id in 0..measurements {
            put_str(out, self.measurement_names.name(id).unwrap_or_default());
        }
        put_u64(out, keys.into());
        for id in 0..keys {
            put_str(out, self.key_names.name(id).unwrap_or_default());
        }
        put_u64(out, schemas.into());
        for schema in (0..schemas).filter_map(|id| self.schemas.get(id)) {
            put_u64(out, schema.measurement.into());
            put_u64(out, schema.keys.len() as u64);
            schema.keys.iter().for_each(|k| put_u64(out, u64::from(*k)));
        }
    }

    fn apply_names(&mut self, rest: &mut &[u8]) -> Option<()> {
        for id in 0..get_u32(rest)? {
            let name = decode_name(rest)?;
            (self.intern_measurement(name) == id).then_some(())?;
        }
        for id in 0..get_u32(rest)? {
            let name = decode_name(rest)?;
            (self.intern_key(name.as_bytes()) == id).then_some(())?;
        }
        for _ in 0..get_u32(rest)? {
            let measurement = get_u32(rest).filter(|m| *m < self.measurement_names.len())?;
            let count = get_u32(rest).filter(|n| *n as usize <= MAX_TAGS)?;
            let mut keys = Vec::new();
            for _ in 0..count {
                keys.push(get_u32(rest).filter(|k| *k < self.key_names.len())?);
            }
            if !self.is_new_shape(measurement, &keys) {
                return None;
            }
            // No row of a head has it first.
            self.add_schema(measurement, &keys, u32::MAX);
        }
        Some(())
    }

    /// Gives each sealed row its shape, which must be one of those that were named.
    fn apply_shapes_of_segments(&mut self) -> Option<()> {
        for segment in Arc::clone(&self.sealed).iter() {
            let rows = segment.rows();
            let mut of_row = vec![u32::MAX; rows.len()];
            for shape in &segment.shapes {
                let schema = self.schemas.get(shape.schema)?;
                let ids = shape.keys.iter().map(|k| segment.keys.get(*k as usize));
                let same = schema.measurement == shape.measurement
                    && schema.keys.len() == shape.keys.len()
                    && ids.zip(&schema.keys).all(|(k, id)| {
                        k.is_some_and(|k| k.id == *id && self.key_names.name(*id) == Some(&*k.name))
                    });
                same.then_some(())?;
                for row in &shape.rows {
                    *of_row.get_mut((row - rows.start) as usize)? = shape.schema;
                }
            }
            for schema in of_row {
                (schema != u32::MAX).then_some(())?;
                self.row_schemas.push(schema);
                self.row_sets.push(NO_FIELDS);
            }
        }
        Some(())
    }

    fn is_new_shape(&self, measurement: u32, keys: &[u32]) -> bool {
        let ascending = keys
            .windows(2)
            .all(|pair| self.key_names.name(pair[0]) < self.key_names.name(pair[1]));
        ascending && self.schemas.find(measurement, keys).is_none()
    }

    fn encode_fields(&self, from: usize, out: &mut Vec<u8>) {
        // Numbers of the new fields: count back from the end of each measurement.
        let mut next: HashMap<u32, u32> = HashMap::new();
        for &m in self.field_order.iter_from(from) {
            *next
                .entry(m)
                .or_insert(self.measurements[m as usize].fields.len()) -= 1;
        }
        for &m in self.field_order.iter_from(from) {
            let field = next.entry(m).or_default();
            put_u64(out, m.into());
            let name = self.measurements[m as usize].fields.name(*field);
            put_str(out, name.unwrap_or_default());
            *field += 1;
        }
    }

    /// The distinct lists, then runs of neighbouring rows that have one; their numbers.
    fn encode_series(&self, touches: u64, out: &mut Vec<u8>) -> (u32, u32) {
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let mut runs: Vec<(u32, u32, u32)> = Vec::new();
        let mut push = |rows: Range<u32>, set: u32| {
            // A list that became empty must replace the one of an earlier part.
            if set == NO_FIELDS && !self.removed.contains(rows.start) {
                return;
            }
            let new = numbers.len() as u32;
            let number = *numbers.entry(set).or_insert_with(|| {
                put_u64(out, self.sets.fields(set).count() as u64);
                let mut next = 0;
                for (field, kinds) in self.sets.fields(set) {
                    put_u64(out, (field.0 - next).into());
                    out.push(kinds.byte());
                    next = field.0 + 1;
                }
                new
            });
            match runs.last_mut() {
                Some((first, count, list)) if *first + *count == rows.start && *list == number => {
                    *count += rows.end - rows.start;
                }
                _ => runs.push((rows.start, rows.end - rows.start, number)),
            }
        };
        // Of all rows those that are alike are taken together. So are they for too old a mark, which costs bytes, not
        // truth: a list may be given to a row again.
        let touched = (touches > 0).then(|| self.journal.rows_since(touches));
        let Some(touched) = touched.flatten() else {
            for begin in (0..self.row_count()).step_by(CHUNK) {
                let end = self.row_count().min(begin.saturating_add(CHUNK as u32));
                match self.row_sets.uniform(begin as usize / CHUNK) {
                    Some(set) if set != NO_FIELDS => push(begin..end, set),
                    _ => (begin..end).for_each(|row| push(row..row + 1, self.list_of(row))),
                }
            }
            return encode_runs(&runs, &numbers, out);
        };
        for row in touched {
            push(row..row + 1, self.list_of(row));
        }
        encode_runs(&runs, &numbers, out)
    }

    fn apply_body(
        &mut self,
        seed: u64,
        header: &PartHeader,
        rest: &mut &[u8],
    ) -> Result<(), &'static str> {
        let mut scratch = Vec::new();
        // A row takes a byte at least: what the header says is not believed.
        let rows = (header.rows.get() as usize).min(rest.len());
        let mut slots = Vec::with_capacity(rows);
        let mut gathered = Gathered::default();
        for _ in 0..header.rows.get() {
            let row = self.row_count();
            let hash = self.apply_row(seed, rest, &mut scratch, &mut gathered)?;
            slots.push(u128::new(hash.bits(), row));
        }
        if !gathered.settle(&mut self.head) {
            // A value spelt out again would get a number that the writer did not mean.
            return Err("new value");
        }
        if !self.table.add_all(slots) {
            return Err("tag set (it is there already)");
        }
        for _ in 0..header.fields.get() {
            self.apply_field(rest).ok_or("field")?;
        }
        let mut lists = Vec::new();
        for _ in 0..header.lists.get() {
            lists.push(decode_list(rest).ok_or("field list")?);
        }
        let mut numbers = vec![None; lists.len()];
        let mut next = 0;
        for _ in 0..header.runs.get() {
            self.apply_run(&lists, &mut numbers, &mut next, rest)
                .ok_or("run of rows")?;
        }
        if !rest.is_empty() {
            return Err("end");
        }
        if self.series != header.series_after.get() {
            return Err("number of series");
        }
        Ok(())
    }

    fn apply_row(
        &mut self,
        seed: u64,
        rest: &mut &[u8],
        scratch: &mut Vec<u8>,
        gathered: &mut Gathered,
    ) -> Result<KeyHash, &'static str> {
        let row = self.row_count();
        if row == u32::MAX {
            return Err("number of rows");
        }
        let schema = match get_u64(rest).ok_or("shape")? {
            0 => self.apply_schema(row, rest).ok_or("new shape")?,
            id => known(id, self.schemas.len()).ok_or("shape")?,
        };
        let shape = self.schemas.get(schema).ok_or("shape")?;
        let mut tuple = std::mem::take(&mut self.tuple);
        tuple.clear();
        scratch.clear();
        let measurement = self.measurement_names.name(shape.measurement);
        push_hash_part(measurement.ok_or("measurement")?, scratch);
        for &id in &shape.keys {
            push_hash_bytes(self.key_names.bytes(id).ok_or("key")?, scratch);
            let value = match get_u64(rest).ok_or("value")? {
                0 => {
                    let name = decode_name(rest).ok_or("new value")?;
                    push_hash_bytes(name.as_bytes(), scratch);
                    gathered.add_value(&mut self.head, id, name, row)
                }
                number => {
                    let values = &self.head.key_mut(id).values;
                    let value = known(number, values.len()).ok_or("value")?;
                    push_hash_bytes(values.bytes(value).ok_or("value")?, scratch);
                    gathered.add_row_of_value(&mut self.head, id, value, row);
                    value
                }
            };
            put_u64(&mut tuple, value.into());
        }
        let hash = KeyHash::of_input(seed, scratch);
        gathered.add_row_of_shape(&mut self.head, schema, row);
        self.head.tuples.push(&tuple);
        self.row_schemas.push(schema);
        self.row_sets.push(NO_FIELDS);
        self.tuple = tuple;
        Ok(hash)
    }

    fn apply_schema(&mut self, row: u32, rest: &mut &[u8]) -> Option<u32> {
        let measurement = match get_u64(rest)? {
            0 => {
                let name =
                    decode_name(rest).filter(|n| self.measurement_names.find(n).is_none())?;
                self.intern_measurement(name)
            }
            id => known(id, self.measurement_names.len())?,
        };
        let count = usize::try_from(get_u64(rest)?)
            .ok()
            .filter(|&n| n <= MAX_TAGS)?;
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let key = match get_u64(rest)? {
                0 => {
                    let name = decode_name(rest).filter(|n| self.key_names.find(n).is_none())?;
                    self.intern_key(name.as_bytes())
                }
                id => known(id, self.key_names.len())?,
            };
            keys.push(key);
        }
        if !self.is_new_shape(measurement, &keys) {
            return None;
        }
        Some(self.add_schema(measurement, &keys, row))
    }

    fn apply_field(&mut self, rest: &mut &[u8]) -> Option<()> {
        let id = get_u32(rest)?;
        let name = decode_name(rest)?;
        let measurement = self.measurements.get_mut(id as usize)?;
        let fields = &mut measurement.fields;
        if fields.find(name).is_some() || fields.len() >= FieldId::LIMIT {
            return None;
        }
        fields.intern(name);
        self.field_order.push(id);
        Some(())
    }

    /// Gives a run of rows its list.
    fn apply_run(
        &mut self,
        lists: &[Vec<(FieldId, KindSet)>],
        numbers: &mut [Option<u32>],
        next: &mut u32,
        rest: &mut &[u8],
    ) -> Option<()> {
        let first = next.checked_add(get_u32(rest)?)?;
        let end = first.checked_add(get_u32(rest)?)?;
        let at = get_u32(rest)? as usize;
        let list = lists.get(at)?;
        if end > self.row_count() {
            return None;
        }
        *next = end;
        let fields_needed = list.last().map_or(0, |(field, _)| field.0 + 1);
        let size: u64 = list.iter().map(|(_, kinds)| kinds.len() as u64).sum();
        for row in first..end {
            let schema = self.schema_of(row)?;
            if fields_needed > self.measurements[schema.measurement as usize].fields.len() {
                return None;
            }
            let old = self.set_of(Row(row))?;
            self.series = self.series - self.sets.series(old) + size;
            let set = match numbers.get(at)? {
                // Only a list that a row holds keeps its number.
                Some(number) if old != *number => self.sets.join(old, *number),
                Some(number) => *number,
                None => self.sets.replace(old, list),
            };
            *numbers.get_mut(at)? = Some(set);
            self.set_row(row, set);
        }
        Some(())
    }
}

/// Writes runs of neighbouring rows that have one list; returns the numbers of lists and runs.
fn encode_runs(
    runs: &[(u32, u32, u32)],
    numbers: &HashMap<u32, u32>,
    out: &mut Vec<u8>,
) -> (u32, u32) {
    let mut next = 0;
    for &(first, count, list) in runs {
        put_u64(out, (first - next).into());
        put_u64(out, count.into());
        put_u64(out, list.into());
        next = first + count;
    }
    (numbers.len() as u32, runs.len() as u32)
}

/// Whether a part replaces all parts before it; `false` for what is no part.
pub fn begins_anew(part: &[u8]) -> bool {
    PartHeader::read_from_prefix(part).is_ok_and(|(h, _)| h.kind.get() == BEGINS_ANEW)
}

/// Rows of an index that has applied a part; 0 for what is no part.
pub fn rows_after(part: &[u8]) -> u32 {
    let header = PartHeader::read_from_prefix(part);
    header.map_or(0, |(h, _)| h.rows_before.get().saturating_add(h.rows.get()))
}

/// Checks all that can be checked without an index.
fn check_part(bytes: &[u8]) -> Result<PartHeader, PartError> {
    let found = bytes.len() as u64;
    if bytes.get(..4).is_some_and(|magic| magic != MAGIC) {
        return Err(PartError::Magic);
    }
    let (header, body) = PartHeader::read_from_prefix(bytes).map_err(|_| PartError::Length {
        expected: HEADER_BYTES as u64,
        found,
    })?;
    if header.version.get() != VERSION {
        return Err(PartError::Version {
            found: header.version.get(),
        });
    }
    // The checksum begins behind it.
    if header.kind.get() > BEGINS_ANEW {
        return Err(PartError::Invalid {
            what: "kind",
            at: 6,
        });
    }
    if header.body_bytes.get() != body.len() as u64 {
        return Err(PartError::Length {
            expected: header.body_bytes.get().saturating_add(HEADER_BYTES as u64),
            found,
        });
    }
    let crc = crc32c::crc32c(&bytes[CRC_END..]);
    if crc != header.crc.get() {
        return Err(PartError::Checksum {
            expected: header.crc.get(),
            found: crc,
        });
    }
    Ok(header)
}

fn known(number: u64, count: u32) -> Option<u32> {
    let id = u32::try_from(number.checked_sub(1)?).ok()?;
    (id < count).then_some(id)
}

fn decode_name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    get_str(rest).filter(|name| name.len() <= MAX_NAME_BYTES)
}

fn decode_list(rest: &mut &[u8]) -> Option<Vec<(FieldId, KindSet)>> {
    let count = get_u32(rest)?;
    let mut list = Vec::new();
    let mut next = 0_u32;
    for _ in 0..count {
        let field = next.checked_add(get_u32(rest)?)?;
        if field >= FieldId::LIMIT {
            return None;
        }
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        list.push((FieldId(field), KindSet::from_byte(byte)?));
        next = field + 1;
    }
    Some(list)
}
