//! The tag sets of the newest rows, in memory: tuples, values and postings until they are sealed.

use std::ops::Range;

use roaring::{MultiOps, RoaringBitmap};

use crate::blobs::Blobs;
use crate::dictionary::Dictionary;
use crate::paged::Paged;
use crate::postings::{Postings, PostingsStore, RowsRef, bitmap_bytes};
use crate::sparse::Sparse;
use crate::varint::get_u32;

/// Rows from `base` on. Numbers of values are its own: they begin again in the next head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) base: u32,
    /// Measurements, keys and shapes that there were when it began.
    pub(crate) known_before: (u32, u32, u32),
    /// By row: one value number for each key of its shape, as varints.
    pub(crate) tuples: Blobs,
    /// By key, of those with values.
    pub(crate) keys: Sparse<KeyHead, 8>,
    pub(crate) postings: PostingsStore,
    /// By shape, of those with rows.
    shape_rows: Sparse<RoaringBitmap, 256>,
}

/// The values of one key.
#[derive(Debug, Clone)]
pub(crate) struct KeyHead {
    pub(crate) values: Dictionary,
    /// By value.
    pub(crate) postings: Paged<Postings>,
}

impl Default for KeyHead {
    fn default() -> Self {
        Self {
            values: Dictionary::new(),
            postings: Paged::default(),
        }
    }
}

impl KeyHead {
    /// Adds the highest row so far to the rows of a value.
    #[inline]
    fn add_row(&mut self, store: &mut PostingsStore, value: u32, row: u32) {
        match self.postings.get_mut(value as usize) {
            Some(postings) => *postings = store.push(*postings, row),
            None => self.postings.push(Postings::one(row)),
        }
    }
}

impl Head {
    pub(crate) fn new(base: u32, known_before: (u32, u32, u32)) -> Self {
        Self {
            base,
            known_before,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.tuples.len() as u32
    }

    pub(crate) fn end(&self) -> u32 {
        self.base + self.len()
    }

    /// The varints of a row's values.
    pub(crate) fn tuple(&self, row: u32) -> Option<&[u8]> {
        self.tuples.get(row.checked_sub(self.base)? as usize)
    }

    pub(crate) fn key(&self, key: u32) -> Option<&KeyHead> {
        self.keys.get(key)
    }

    pub(crate) fn key_mut(&mut self, key: u32) -> &mut KeyHead {
        self.keys.get_or_insert_with(key, KeyHead::default)
    }

    /// The keys that have values here, with these.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u32, &KeyHead)> {
        self.keys.iter()
    }

    /// The numbers of values, new if need be, of rows one behind the other, which they have from here on.
    pub(crate) fn add_values(&mut self, key: u32, values: &[&[u8]], row: u32, ids: &mut Vec<u32>) {
        let of_key = self.keys.get_or_insert_with(key, KeyHead::default);
        let begin = ids.len();
        of_key.values.intern_all(values, ids);
        for (id, row) in ids[begin..].iter().zip(row..) {
            of_key.add_row(&mut self.postings, *id, row);
        }
    }

    /// Appends the next row, whose values know of it already.
    pub(crate) fn append(&mut self, schema: u32, tuple: &[u8]) {
        let row = self.end();
        self.shape_mut(schema).insert(row);
        self.tuples.push(tuple);
    }

    /// Notes that rows above all so far have a shape.
    pub(crate) fn add_rows_of_shape(&mut self, schema: u32, rows: Range<u32>) {
        if !rows.is_empty() {
            self.shape_mut(schema).insert_range(rows);
        }
    }

    fn shape_mut(&mut self, schema: u32) -> &mut RoaringBitmap {
        self.shape_rows
            .get_or_insert_with(schema, RoaringBitmap::new)
    }

    /// The rows of a shape.
    pub(crate) fn rows_of_shape(&self, schema: u32) -> Option<&RoaringBitmap> {
        self.shape_rows.get(schema)
    }

    /// The shapes that have rows here, with them.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (u32, &RoaringBitmap)> {
        self.shape_rows.iter()
    }

    /// The union of the rows of some shapes.
    pub(crate) fn rows_of_shapes(&self, schemas: &[u32]) -> RoaringBitmap {
        schemas
            .iter()
            .filter_map(|&s| self.rows_of_shape(s))
            .union()
    }

    /// The rows of a value.
    pub(crate) fn value_rows(&self, key: u32, value: u32) -> Option<RowsRef<'_>> {
        let postings = self.key(key)?.postings.get(value as usize)?;
        Some(self.postings.rows(*postings))
    }

    /// The number of a row's value under the key at place `at` of its shape.
    pub(crate) fn value_at(&self, row: u32, at: usize) -> Option<u32> {
        let mut values = self.tuple(row)?;
        for _ in 0..at {
            get_u32(&mut values)?;
        }
        get_u32(&mut values)
    }

    pub(crate) fn values_bytes(&self) -> usize {
        self.keys().map(|(_, key)| key.values.heap_bytes()).sum()
    }

    pub(crate) fn postings_bytes(&self) -> usize {
        let words: usize = self.keys().map(|(_, key)| key.postings.heap_bytes()).sum();
        let shapes: usize = self.shapes().map(|(_, rows)| bitmap_bytes(rows)).sum();
        words
            + shapes
            + self.postings.heap_bytes()
            + self.keys.heap_bytes()
            + self.shape_rows.heap_bytes()
    }
}
