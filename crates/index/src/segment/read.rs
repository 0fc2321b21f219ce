//! Reads a segment: a directory in memory, blocks when they are asked for.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use alluvium_types::{Row, SeriesKey};
use roaring::RoaringBitmap;
use zerocopy::FromBytes;

use crate::blobs::Blobs;
use crate::postings::bitmap_bytes;
use crate::segment::filter::Filter;
use crate::segment::layout::{
    BLOCK_ROWS, BLOCK_VALUES, CRC_BYTES, HASH_PAGE_BYTES, MAGIC, PAGE_SLOTS, SLOT_BYTES,
    TRAILER_BYTES, Trailer, VERSION,
};
use crate::segment::tuple_block::TupleBlock;
use crate::segment::write::filter_key;
use crate::varint::{get_str, get_u32, get_u64};
use crate::{KeyHash, MAX_NAME_BYTES, MAX_TAGS, SegmentError};

/// Where the bytes of a segment are: files, or memory. Reading may wait; its user holds no lock.
pub trait SegmentFile: Debug + Send + Sync {
    /// Bytes of the segment.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with the bytes from `offset` on; the range is within the length. It answers whether they are what was
    /// written; where they are not, a file with copies goes on to the next one.
    ///
    /// # Errors
    /// If they cannot be read from any copy.
    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError>;

    /// As [`Self::read`]; says with each range whether `visit` has found the very same bytes, which are in memory since, to
    /// be what was written.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_again(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Result<(), SegmentError> {
        self.read(offset, bytes, &mut |bytes| visit(bytes, false))
    }
}

impl SegmentFile for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        let begin = usize::try_from(offset).ok();
        let slice = begin.and_then(|b| self.get(b..b.checked_add(bytes)?));
        visit(slice.ok_or(damaged("length", offset))?);
        Ok(())
    }
}

/// A block: where it begins, and its bytes without their checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRef {
    pub(crate) at: u64,
    pub(crate) bytes: u32,
}

/// A key of a segment.
#[derive(Debug)]
pub(crate) struct SegmentKey {
    pub(crate) id: u32,
    pub(crate) name: Box<str>,
    /// Distinct values, numbered in their order.
    pub(crate) values: u32,
    /// Rows that have it.
    pub(crate) rows: u64,
    /// First value of each block.
    pub(crate) fences: Blobs,
    pub(crate) blocks: Vec<BlockRef>,
}

impl SegmentKey {
    /// The block in which `value` is if it is anywhere.
    pub(crate) fn block_of(&self, value: &str) -> usize {
        let (mut low, mut high) = (0, self.blocks.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.fences.get(middle).unwrap_or_default() <= value.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }
}

/// A shape of a segment.
#[derive(Debug)]
pub(crate) struct SegmentShape {
    pub(crate) schema: u32,
    pub(crate) measurement: u32,
    pub(crate) measurement_name: Box<str>,
    /// Numbers among the segment's keys, in the order of their names.
    pub(crate) keys: Vec<u32>,
    pub(crate) rows: RoaringBitmap,
}

/// The tag sets of a range of rows, for ever: found by hash, by tag, and spelt out.
///
/// In memory are the directory and a filter, about 2.5 bytes a row; everything else is read when asked for. Everything
/// that reads may wait and may fail.
#[derive(Debug)]
pub struct Segment {
    file: Arc<dyn SegmentFile>,
    base: u32,
    rows: u32,
    pub(crate) keys: Vec<SegmentKey>,
    /// Numbers of the keys, in the order of their names.
    keys_by_name: Vec<u32>,
    pub(crate) shapes: Vec<SegmentShape>,
    tuples: Vec<BlockRef>,
    hashes_at: u64,
    /// The high half of the first slot of each hash page.
    fences: Vec<u64>,
    /// Absent if two rows have the same key in it, which does not happen, or if it does not hold.
    filter: Option<Filter>,
    /// Why it does not.
    filter_lost: Option<SegmentError>,
}

impl Segment {
    /// Reads directory and filter. A filter that does not hold is done without: everything may be here, and each look-up reads a page.
    ///
    /// # Errors
    /// If the directory cannot be read, or is not that of a segment this program knows.
    pub fn open(file: Arc<dyn SegmentFile>) -> Result<Self, SegmentError> {
        let len = file.len();
        let at = len
            .checked_sub(TRAILER_BYTES as u64)
            .ok_or(damaged("length", len))?;
        let mut trailer = None;
        file.read(at, TRAILER_BYTES, &mut |bytes| {
            let crc = bytes.get(..TRAILER_BYTES - CRC_BYTES).map(crc32c::crc32c);
            let read = Trailer::read_from_bytes(bytes).ok();
            let read = read.filter(|t| Some(t.crc.get()) == crc);
            let holds = read.is_some();
            trailer = trailer.or(read);
            holds
        })?;
        let trailer = trailer.ok_or(damaged("trailer", at))?;
        if trailer.magic != MAGIC {
            return Err(damaged("magic", at));
        }
        if trailer.version.get() != VERSION {
            let found = trailer.version.get();
            return Err(SegmentError::Version { found });
        }
        let directory_at = trailer.directory_at.get();
        let directory = BlockRef {
            at: directory_at,
            bytes: u32::try_from(trailer.directory_bytes.get())
                .map_err(|_| damaged("directory", directory_at))?,
        };
        let mut segment = Self {
            file,
            base: trailer.base.get(),
            rows: trailer.rows.get(),
            keys: Vec::new(),
            keys_by_name: Vec::new(),
            shapes: Vec::new(),
            tuples: Vec::new(),
            hashes_at: 0,
            fences: Vec::new(),
            filter: None,
            filter_lost: None,
        };
        let bytes = segment.block(directory, "directory", |bytes| Some(bytes.to_vec()))?;
        let filter = segment
            .read_directory(&mut bytes.as_slice())
            .ok_or(damaged("directory", directory_at))?;
        if filter.bytes > 0 {
            match segment.block(filter, "filter", Filter::decode) {
                Ok(filter) => segment.filter = Some(filter),
                Err(error) => segment.filter_lost = Some(error),
            }
        }
        Ok(segment)
    }

    /// Its rows.
    pub fn rows(&self) -> Range<u32> {
        self.base..self.base + self.rows
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len()
    }

    /// Bytes in memory.
    pub fn heap_bytes(&self) -> usize {
        let keys: usize = self
            .keys
            .iter()
            .map(|k| k.fences.heap_bytes() + k.blocks.capacity() * size_of::<BlockRef>())
            .sum();
        let shapes: usize = self.shapes.iter().map(|s| bitmap_bytes(&s.rows)).sum();
        keys + shapes
            + self.keys.capacity() * size_of::<SegmentKey>()
            + self.keys_by_name.capacity() * 4
            + self.shapes.capacity() * size_of::<SegmentShape>()
            + self.tuples.capacity() * size_of::<BlockRef>()
            + self.fences.capacity() * 8
            + self.filter.as_ref().map_or(0, Filter::heap_bytes)
    }

    /// The key of this name, and its number.
    pub(crate) fn key_named(&self, name: &str) -> Option<(usize, &SegmentKey)> {
        let name_of = |at: &u32| self.keys.get(*at as usize).map(|key| &*key.name);
        let found = self
            .keys_by_name
            .binary_search_by_key(&Some(name), name_of)
            .ok()?;
        let at = *self.keys_by_name.get(found)? as usize;
        Some((at, self.keys.get(at)?))
    }

    /// Why it goes without its filter, if it has to.
    pub fn filter_lost(&self) -> Option<&SegmentError> {
        self.filter_lost.as_ref()
    }

    /// Whether a tag set may be here. Never waits; one in 256 of those that are not passes.
    pub fn may_contain(&self, hash: KeyHash) -> bool {
        let slot = hash.bits() << 32;
        let filter = self.filter.as_ref();
        filter.is_none_or(|f| f.may_contain(filter_key(slot)))
    }

    /// The row of a tag set. Reads one page if the filter passes, two if the hash sits on a border.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub fn find(&self, hash: KeyHash) -> Result<Option<Row>, SegmentError> {
        if !self.may_contain(hash) {
            return Ok(None);
        }
        let wanted = hash.bits() << 32;
        let high = (wanted >> 64) as u64;
        let end = self.fences.partition_point(|f| *f <= high);
        let mut page = end;
        while page > 0 {
            page -= 1;
            let mut found = None;
            self.hash_page(page, |slot| {
                if slot >> 32 == wanted >> 32 {
                    found = Some(Row(slot as u32));
                }
            })?;
            // The page before may end with the same high half.
            if found.is_some() || self.fences.get(page).is_none_or(|f| *f < high) {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Calls `visit` with every slot of the name table, ascending. Reads all hash pages.
    pub(crate) fn slots(&self, mut visit: impl FnMut(u128)) -> Result<(), SegmentError> {
        (0..self.fences.len()).try_for_each(|page| self.hash_page(page, &mut visit))
    }

    /// Number of hash pages.
    pub(crate) fn hash_pages(&self) -> usize {
        self.fences.len()
    }

    /// Calls `visit` with the slots of one page, ascending.
    pub(crate) fn hash_page(
        &self,
        page: usize,
        mut visit: impl FnMut(u128),
    ) -> Result<(), SegmentError> {
        let block = BlockRef {
            at: self.hashes_at + (page * HASH_PAGE_BYTES) as u64,
            bytes: (HASH_PAGE_BYTES - CRC_BYTES) as u32,
        };
        let rows = self.rows();
        self.block(block, "hash page", |bytes| {
            let (count, slots) = bytes.split_first_chunk::<4>()?;
            let count = u32::from_le_bytes(*count) as usize;
            if count > PAGE_SLOTS {
                return None;
            }
            for slot in slots.chunks_exact(SLOT_BYTES).take(count) {
                let slot = u128::from_le_bytes(slot.try_into().ok()?);
                if !rows.contains(&(slot as u32)) {
                    return None;
                }
                visit(slot);
            }
            Some(())
        })
    }

    /// The tag set of a row; `None` if the row is not here.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn key(&self, row: Row) -> Result<Option<SeriesKey>, SegmentError> {
        if !self.rows().contains(&row.0) {
            return Ok(None);
        }
        Ok(self.spell(&[row.0])?.pop())
    }

    /// The tag sets of rows, which ascend and are all here. Reads each block once.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn spell(&self, rows: &[u32]) -> Result<Vec<SeriesKey>, SegmentError> {
        let mut tuples: Vec<(u32, Vec<u32>)> = Vec::with_capacity(rows.len());
        let mut wanted: Vec<Vec<u32>> = vec![Vec::new(); self.keys.len()];
        self.visit_tuples(rows, |_, block, at| {
            let (shape, values) = block.row(at)?;
            let values = values.collect::<Option<Vec<u32>>>()?;
            let keys = &self.shapes.get(shape as usize)?.keys;
            for (key, rank) in keys.iter().zip(&values) {
                wanted.get_mut(*key as usize)?.push(*rank);
            }
            tuples.push((shape, values));
            Some(())
        })?;
        let mut names: Vec<(Vec<u32>, Vec<String>)> = Vec::with_capacity(wanted.len());
        for (key, mut ranks) in self.keys.iter().zip(wanted) {
            ranks.sort_unstable();
            ranks.dedup();
            let texts = self.values_at(key, &ranks)?;
            names.push((ranks, texts));
        }
        let spell = |(shape, values): &(u32, Vec<u32>)| {
            let shape = self.shapes.get(*shape as usize)?;
            let mut tags = Vec::with_capacity(values.len());
            for (key, rank) in shape.keys.iter().zip(values) {
                let (ranks, texts) = names.get(*key as usize)?;
                let text = texts.get(ranks.binary_search(rank).ok()?)?;
                tags.push((&*self.keys.get(*key as usize)?.name, text.as_str()));
            }
            SeriesKey::new(&*shape.measurement_name, tags).ok()
        };
        let spelt: Option<Vec<SeriesKey>> = tuples.iter().map(spell).collect();
        spelt.ok_or(damaged("tag set", self.base.into()))
    }

    /// Of ascending rows, all here: calls `visit` with each row, its block, and its place in that.
    pub(crate) fn visit_tuples(
        &self,
        rows: &[u32],
        mut visit: impl FnMut(u32, &TupleBlock<'_>, u32) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let block_of = |row: &u32| (row - self.base) / BLOCK_ROWS;
        for group in rows.chunk_by(|a, b| block_of(a) == block_of(b)) {
            let Some(number) = group.first().map(block_of) else {
                continue;
            };
            self.tuple_block(number, |block| {
                for row in group {
                    visit(*row, block, (row - self.base) % BLOCK_ROWS)?;
                }
                Some(())
            })?;
        }
        Ok(())
    }

    /// Number of blocks of tuples.
    pub(crate) fn tuple_blocks(&self) -> u32 {
        self.tuples.len() as u32
    }

    /// Reads one block of tuples, 1024 rows or what is left.
    pub(crate) fn tuple_block<T>(
        &self,
        number: u32,
        read: impl FnOnce(&TupleBlock<'_>) -> Option<T>,
    ) -> Result<T, SegmentError> {
        let block = self.tuples.get(number as usize).copied();
        let block = block.ok_or(damaged("tuple block", number.into()))?;
        let count = (self.rows - number * BLOCK_ROWS).min(BLOCK_ROWS);
        let keys = |shape: u32| Some(self.shapes.get(shape as usize)?.keys.len());
        self.block(block, "tuples", |bytes| {
            let block = TupleBlock::read(bytes, keys)?;
            (block.count() == count).then_some(())?;
            read(&block)
        })
    }

    /// Reads a block and checks it, once while it stays in memory.
    pub(crate) fn block<T>(
        &self,
        block: BlockRef,
        what: &'static str,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, SegmentError> {
        let whole = u64::from(block.bytes) + CRC_BYTES as u64;
        let end = block.at.checked_add(whole);
        if end.is_none_or(|end| end > self.file.len()) {
            return Err(damaged(what, block.at));
        }
        let mut read = Some(read);
        let mut out = None;
        let file = &self.file;
        file.read_again(block.at, whole as usize, &mut |bytes, is_known| {
            let Some((bytes, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
                return false;
            };
            let holds = is_known || crc32c::crc32c(bytes) == u32::from_le_bytes(*crc);
            if holds && let Some(read) = read.take() {
                out = read(bytes);
            }
            holds
        })?;
        out.ok_or(damaged(what, block.at))
    }

    pub(crate) fn bitmap(&self, mut bytes: &[u8]) -> Option<RoaringBitmap> {
        let bitmap = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
        let rows = self.rows();
        let inside = |row: Option<u32>| row.is_none_or(|r| rows.contains(&r));
        (bytes.is_empty() && inside(bitmap.min()) && inside(bitmap.max())).then_some(bitmap)
    }

    /// Fills this in; returns where the filter is.
    fn read_directory(&mut self, rest: &mut &[u8]) -> Option<BlockRef> {
        self.base.checked_add(self.rows)?;
        for _ in 0..get_u32(rest)? {
            let key = read_key(rest)?;
            self.keys.push(key);
        }
        let mut by_name: Vec<u32> = (0..self.keys.len() as u32).collect();
        by_name.sort_by_key(|at| self.keys.get(*at as usize).map(|key| &*key.name));
        self.keys_by_name = by_name;
        let mut seen = 0;
        for _ in 0..get_u32(rest)? {
            let shape = self.read_shape(rest)?;
            seen += shape.rows.len();
            self.shapes.push(shape);
        }
        if seen != u64::from(self.rows) {
            return None;
        }
        for _ in 0..self.rows.div_ceil(BLOCK_ROWS) {
            self.tuples.push(read_ref(rest)?);
        }
        self.hashes_at = get_u64(rest)?;
        let pages = (self.rows as usize).div_ceil(PAGE_SLOTS);
        let fences = pages.checked_mul(8)?;
        let (fences, after) = rest.split_at_checked(fences)?;
        *rest = after;
        let fences = fences.chunks_exact(8).map(|f| f.try_into().ok());
        self.fences = fences
            .map(|f| f.map(u64::from_le_bytes))
            .collect::<Option<_>>()?;
        let end = (pages * HASH_PAGE_BYTES) as u64;
        if self.hashes_at.checked_add(end)? > self.file.len() || !self.fences.is_sorted() {
            return None;
        }
        let filter = read_ref(rest)?;
        rest.is_empty().then_some(filter)
    }

    fn read_shape(&mut self, rest: &mut &[u8]) -> Option<SegmentShape> {
        let schema = get_u32(rest)?;
        let measurement = get_u32(rest)?;
        let measurement_name = get_str(rest).filter(|n| n.len() <= MAX_NAME_BYTES)?.into();
        let count = get_u32(rest).filter(|n| *n as usize <= MAX_TAGS)?;
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(get_u32(rest).filter(|k| (*k as usize) < self.keys.len())?);
        }
        let bytes = usize::try_from(get_u64(rest)?).ok()?;
        let (bytes, after) = rest.split_at_checked(bytes)?;
        *rest = after;
        let rows = self.bitmap(bytes)?;
        for key in &keys {
            self.keys.get_mut(*key as usize)?.rows += rows.len();
        }
        Some(SegmentShape {
            schema,
            measurement,
            measurement_name,
            keys,
            rows,
        })
    }
}

fn read_key(rest: &mut &[u8]) -> Option<SegmentKey> {
    let id = get_u32(rest)?;
    let name = get_str(rest).filter(|n| n.len() <= MAX_NAME_BYTES)?.into();
    let values = get_u32(rest)?;
    let (mut fences, mut blocks) = (Blobs::default(), Vec::new());
    for _ in 0..values.div_ceil(BLOCK_VALUES) {
        blocks.push(read_ref(rest)?);
        let first = get_str(rest).filter(|n| n.len() <= MAX_NAME_BYTES)?;
        fences.push(first.as_bytes());
    }
    blocks.shrink_to_fit();
    Some(SegmentKey {
        id,
        name,
        values,
        rows: 0,
        fences,
        blocks,
    })
}

fn read_ref(rest: &mut &[u8]) -> Option<BlockRef> {
    Some(BlockRef {
        at: get_u64(rest)?,
        bytes: get_u32(rest)?,
    })
}

pub(crate) fn damaged(what: &'static str, at: u64) -> SegmentError {
    SegmentError::Damaged { what, at }
}
