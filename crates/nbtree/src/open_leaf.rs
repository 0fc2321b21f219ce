//! The leaf being filled, but for its tail: finished blocks that will stand in the page as they are, and
//! small ones that will be joined before the page is sealed. Numbers wait there as the tails they were, so that they
//! are encoded as a block but once.

use std::sync::Arc;

use alluvium_codec::{CodecError, MAX_BLOCK_POINTS, Models, decode_block, decode_tail};
use alluvium_types::{Aggregate, Column, ValueKind};

use crate::leaf::directory_bytes;

/// An encoded block in memory. Clones share the bytes.
#[derive(Debug, Clone)]
pub(crate) struct OpenBlock {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) first_time: i64,
    pub(crate) points: u16,
}

/// Points to be joined to others.
#[derive(Debug, Clone)]
pub(crate) struct SmallBlock {
    pub(crate) block: OpenBlock,
    /// Its bytes are a tail's, not a block's.
    pub(crate) is_tail: bool,
    pub(crate) aggregate: Aggregate,
}

impl SmallBlock {
    /// Appends its points to `out`.
    pub(crate) fn decode(&self, out: &mut Column) -> Result<(), CodecError> {
        let OpenBlock {
            bytes,
            first_time,
            points,
        } = &self.block;
        let points = usize::from(*points);
        if self.is_tail {
            return decode_tail(self.aggregate.kind, bytes, points, out);
        }
        // It neither lends nor borrows.
        decode_block(bytes, points, *first_time, Models::default(), out)
    }
}

/// Appends the points of the block at `index` to `out`; the ones before it lend it their models.
///
/// # Panics
/// If there is none.
pub(crate) fn decode_at(
    blocks: &[OpenBlock],
    index: usize,
    out: &mut Column,
) -> Result<(), CodecError> {
    let mut models = Models::default();
    for earlier in &blocks[..index] {
        models = models.after(&earlier.bytes)?;
    }
    let block = &blocks[index];
    decode_block(
        &block.bytes,
        block.points.into(),
        block.first_time,
        models,
        out,
    )
}

/// Blocks of the open leaf.
#[derive(Debug, Clone)]
pub(crate) struct OpenLeaf {
    /// Blocks as they will stand in the page, oldest first.
    pub(crate) finished: Vec<OpenBlock>,
    /// Blocks to be joined to larger ones, newer than all finished ones.
    pub(crate) small: Vec<SmallBlock>,
    /// Of the finished blocks.
    pub(crate) finished_aggregate: Aggregate,
    /// Oldest volume of the long strings of the finished blocks; the largest number if there is none.
    pub(crate) oldest_text_volume: u32,
}

impl OpenLeaf {
    pub(crate) fn new(kind: ValueKind) -> Self {
        Self {
            finished: Vec::new(),
            small: Vec::new(),
            finished_aggregate: Aggregate::empty(kind),
            oldest_text_volume: u32::MAX,
        }
    }

    /// Body bytes that the next block, which begins at `first_time`, may take once it is in the directory.
    pub(crate) fn room(&self, leaf_bytes: usize, first_time: i64) -> usize {
        let taken: usize = self.finished.iter().map(|b| b.bytes.len()).sum();
        let blocks = self
            .finished
            .iter()
            .map(|b| (b.first_time, b.points, b.bytes.len()));
        // Of as few points as there may be, so that no entry is longer than this one.
        let next = (first_time, 1, MAX_BLOCK_POINTS);
        leaf_bytes.saturating_sub(taken + directory_bytes(blocks.chain([next])))
    }

    /// The models that the finished blocks lend to the next.
    pub(crate) fn models(&self) -> Models<'_> {
        let mut models = Models::default();
        for block in &self.finished {
            models = models
                .after(&block.bytes)
                .expect("a block of our own making is whole");
        }
        models
    }

    /// Appends the points of the block at `index`, the small ones behind the finished.
    pub(crate) fn decode(&self, index: usize, out: &mut Column) -> Result<(), CodecError> {
        match index.checked_sub(self.finished.len()) {
            None => decode_at(&self.finished, index, out),
            Some(small) => self.small[small].decode(out),
        }
    }

    /// About how many bytes a block of so many points will take, judging by those in the page; 0 if there is
    /// none.
    pub(crate) fn estimated_bytes(&self, points: usize) -> usize {
        let known: usize = self.finished.iter().map(|b| usize::from(b.points)).sum();
        let bytes: usize = self.finished.iter().map(|b| b.bytes.len()).sum();
        bytes * points / known.max(1)
    }

    pub(crate) fn small_points(&self) -> usize {
        let points = |b: &SmallBlock| usize::from(b.block.points);
        self.small.iter().map(points).sum()
    }

    pub(crate) fn small_bytes(&self) -> usize {
        self.small.iter().map(|b| b.block.bytes.len()).sum()
    }

    /// Every block, oldest first.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &OpenBlock> {
        let small = self.small.iter().map(|b| &b.block);
        self.finished.iter().chain(small)
    }

    /// Bytes on the heap, its own not included.
    pub(crate) fn heap_bytes(&self) -> usize {
        // Two counters stand before the bytes of an `Arc`.
        let bytes: usize = self.blocks().map(|b| b.bytes.len() + 16).sum();
        let small = self.small.capacity() * size_of::<SmallBlock>();
        bytes + self.finished.capacity() * size_of::<OpenBlock>() + small
    }
}
