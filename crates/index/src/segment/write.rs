//! Writes a segment: values by key, tuples, hashes, filter, and the directory of them all.

use roaring::RoaringBitmap;
use zerocopy::IntoBytes;

use crate::postings::RowsRef;
use crate::segment::filter::Filter;
use crate::segment::layout::{
    CRC_BYTES, HASH_PAGE_BYTES, INLINE_ROWS, MAGIC, PAGE_SLOTS, Trailer, VERSION,
};
use crate::segment::tuple_block::TupleBlockBuilder;
use crate::segment::value_block::ValueBlockBuilder;
use crate::varint::{put_str, put_u64};

/// A shape of the segment, as its writer knows it.
#[derive(Debug, Clone)]
pub(crate) struct ShapeEntry {
    pub(crate) schema: u32,
    pub(crate) measurement: u32,
    pub(crate) measurement_name: Box<str>,
    /// Numbers of its keys among those of the segment.
    pub(crate) keys: Vec<u32>,
    pub(crate) rows: RoaringBitmap,
}

/// A segment that is being written: keys first, then the rows, then the rest.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    out: Vec<u8>,
    base: u32,
    rows: u32,
    keys: Vec<u8>,
    key_count: u32,
    /// Of the key begun.
    values: u32,
    value_blocks: Vec<(u64, u32, String)>,
    block: ValueBlockBuilder,
    block_first: String,
    tuples: TupleBlockBuilder,
    tuple_blocks: Vec<(u64, u32)>,
    hashes_at: u64,
    /// The high half of the first slot of each hash page.
    fences: Vec<u64>,
    /// Where the filter is; nowhere if there is none.
    filter: (u64, u32),
}

impl SegmentWriter {
    pub(crate) fn new(base: u32) -> Self {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        Self {
            out,
            base,
            rows: 0,
            keys: Vec::new(),
            key_count: 0,
            values: 0,
            value_blocks: Vec::new(),
            block: ValueBlockBuilder::default(),
            block_first: String::new(),
            tuples: TupleBlockBuilder::default(),
            tuple_blocks: Vec::new(),
            hashes_at: 0,
            fences: Vec::new(),
            filter: (0, 0),
        }
    }

    fn put_block(&mut self, bytes: &[u8]) -> (u64, u32) {
        let at = self.out.len() as u64;
        self.out.extend_from_slice(bytes);
        let crc = crc32c::crc32c(bytes);
        self.out.extend_from_slice(&crc.to_le_bytes());
        (at, bytes.len() as u32)
    }

    /// Adds the next value, in ascending order, of the key that [`Self::end_key`] will name.
    pub(crate) fn value(&mut self, value: &str, rows: RowsRef<'_>) {
        if self.block.count == 0 {
            self.block_first.clear();
            self.block_first.push_str(value);
        }
        match rows {
            RowsRef::One(row) => self.inline(value, &[row]),
            RowsRef::List(list) if list.len() <= INLINE_ROWS => self.inline(value, list),
            RowsRef::List(list) => self.bitmap(value, list.iter().copied().collect()),
            RowsRef::Bitmap(bitmap, more) if rows.len() <= INLINE_ROWS as u64 => {
                let rows = bitmap.iter().chain(more.iter().copied());
                self.inline(value, &rows.collect::<Vec<_>>());
            }
            RowsRef::Bitmap(bitmap, more) => {
                let mut rows = bitmap.clone();
                rows.extend(more);
                self.bitmap(value, rows);
            }
        }
        self.values += 1;
        if self.block.is_full() {
            self.end_value_block();
        }
    }

    fn inline(&mut self, value: &str, rows: &[u32]) {
        let base = self.base;
        self.block.push_inline(value, rows.iter().map(|r| r - base));
    }

    fn bitmap(&mut self, value: &str, bitmap: RoaringBitmap) {
        let bytes = bitmap_to_bytes(bitmap);
        let (at, len) = self.put_block(&bytes);
        self.block.push_bitmap(value, at, len);
    }

    fn end_value_block(&mut self) {
        let bytes = self.block.finish();
        let (at, len) = self.put_block(&bytes);
        let first = std::mem::take(&mut self.block_first);
        self.value_blocks.push((at, len, first));
    }

    /// Ends a key, whose values have been given.
    pub(crate) fn end_key(&mut self, id: u32, name: &str) {
        if self.block.count > 0 {
            self.end_value_block();
        }
        let keys = &mut self.keys;
        put_u64(keys, id.into());
        put_str(keys, name);
        put_u64(keys, self.values.into());
        for (at, len, first) in self.value_blocks.drain(..) {
            put_u64(keys, at);
            put_u64(keys, len.into());
            put_str(keys, &first);
        }
        self.values = 0;
        self.key_count += 1;
    }

    /// Adds the next row: the number of its shape within the segment, and the ranks of its values.
    pub(crate) fn row(&mut self, shape: u32, ranks: &[u32]) {
        self.tuples.push(shape, ranks);
        self.rows += 1;
        if self.tuples.is_full() {
            self.end_tuple_block();
        }
    }

    fn end_tuple_block(&mut self) {
        let bytes = self.tuples.finish();
        let block = self.put_block(&bytes);
        self.tuple_blocks.push(block);
    }

    /// Adds the name table, behind the last row. `slots` are hash and row of all rows as the table has them, ascending.
    pub(crate) fn hashes(&mut self, slots: &[u128]) {
        if !self.tuples.is_empty() {
            self.end_tuple_block();
        }
        debug_assert_eq!(slots.len(), self.rows as usize);
        self.hashes_at = self.out.len() as u64;
        for page in slots.chunks(PAGE_SLOTS) {
            self.fences.push((page[0] >> 64) as u64);
            let begin = self.out.len();
            self.out
                .extend_from_slice(&(page.len() as u32).to_le_bytes());
            for slot in page {
                self.out.extend_from_slice(&slot.to_le_bytes());
            }
            self.out.resize(begin + HASH_PAGE_BYTES - CRC_BYTES, 0);
            let crc = crc32c::crc32c(&self.out[begin..]);
            self.out.extend_from_slice(&crc.to_le_bytes());
        }
    }

    /// Adds the filter, behind the name table: `slots` are those given there.
    pub(crate) fn filter(&mut self, slots: &[u128]) {
        let hashes: Vec<u64> = slots.iter().map(|slot| filter_key(*slot)).collect();
        if let Some(filter) = Filter::build(&hashes) {
            let mut bytes = Vec::new();
            filter.encode(&mut bytes);
            self.filter = self.put_block(&bytes);
        }
    }

    /// Ends the segment, whose filter is written.
    pub(crate) fn finish(mut self, shapes: &[ShapeEntry]) -> Vec<u8> {
        let mut directory = Vec::new();
        put_u64(&mut directory, self.key_count.into());
        directory.append(&mut self.keys);
        put_u64(&mut directory, shapes.len() as u64);
        for shape in shapes {
            put_u64(&mut directory, shape.schema.into());
            put_u64(&mut directory, shape.measurement.into());
            put_str(&mut directory, &shape.measurement_name);
            put_u64(&mut directory, shape.keys.len() as u64);
            shape
                .keys
                .iter()
                .for_each(|k| put_u64(&mut directory, u64::from(*k)));
            let rows = bitmap_to_bytes(shape.rows.clone());
            put_u64(&mut directory, rows.len() as u64);
            directory.extend_from_slice(&rows);
        }
        for (at, len) in &self.tuple_blocks {
            put_u64(&mut directory, *at);
            put_u64(&mut directory, u64::from(*len));
        }
        put_u64(&mut directory, self.hashes_at);
        for fence in &self.fences {
            directory.extend_from_slice(&fence.to_le_bytes());
        }
        // Two rows with half a hash in common have no filter: every look-up reads a page then.
        let (at, len) = self.filter;
        put_u64(&mut directory, at);
        put_u64(&mut directory, len.into());
        let (directory_at, directory_bytes) = self.put_block(&directory);
        let mut trailer = Trailer {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            base: self.base.into(),
            rows: self.rows.into(),
            directory_at: directory_at.into(),
            directory_bytes: u64::from(directory_bytes).into(),
            reserved_too: 0.into(),
            crc: 0.into(),
        };
        let end = trailer.as_bytes().len() - CRC_BYTES;
        trailer.crc = crc32c::crc32c(&trailer.as_bytes()[..end]).into();
        self.out.extend_from_slice(trailer.as_bytes());
        self.out
    }
}

/// What the filter knows a slot by: the middle of its hash, which the fences do not fix.
pub(crate) fn filter_key(slot: u128) -> u64 {
    (slot >> 32) as u64
}

fn bitmap_to_bytes(mut bitmap: RoaringBitmap) -> Vec<u8> {
    bitmap.optimize();
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap
        .serialize_into(&mut bytes)
        .expect("a vector takes every byte");
    bytes
}
