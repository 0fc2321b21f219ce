//! The leaf being filled, but for its tail: finished blocks that will stand in the page as they are, and
//! small ones that will be joined before the page is sealed.

use std::sync::Arc;

use alluvium_codec::{CodecError, decode_block};
use alluvium_types::{Aggregate, Column, ValueKind};

use crate::leaf::DIRECTORY_ENTRY_BYTES;

/// An encoded block in memory. Clones share the bytes.
#[derive(Debug, Clone)]
pub(crate) struct OpenBlock {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) first_time: i64,
    pub(crate) points: u16,
}

impl OpenBlock {
    /// Appends its points to `out`.
    pub(crate) fn decode(&self, out: &mut Column) -> Result<(), CodecError> {
        decode_block(&self.bytes, out).map(|_| ())
    }
}

/// Blocks of the open leaf. A series has one only once its tail first became a block.
#[derive(Debug, Clone)]
pub(crate) struct OpenLeaf {
    /// Blocks as they will stand in the page, oldest first.
    pub(crate) finished: Vec<OpenBlock>,
    /// Blocks to be joined to larger ones, newer than all finished ones.
    pub(crate) small: Vec<OpenBlock>,
    /// Of the finished blocks.
    pub(crate) finished_aggregate: Aggregate,
    /// Of the small blocks.
    pub(crate) small_aggregate: Aggregate,
    /// Oldest volume of the long strings of the finished blocks; the largest number if there is none.
    pub(crate) oldest_text_volume: u32,
}

impl OpenLeaf {
    pub(crate) fn new(kind: ValueKind) -> Self {
        Self {
            finished: Vec::new(),
            small: Vec::new(),
            finished_aggregate: Aggregate::empty(kind),
            small_aggregate: Aggregate::empty(kind),
            oldest_text_volume: u32::MAX,
        }
    }

    /// Body bytes that the next block may take once it is in the directory.
    pub(crate) fn room(&self, leaf_bytes: usize) -> usize {
        let taken: usize = self
            .finished
            .iter()
            .map(|b| b.bytes.len() + DIRECTORY_ENTRY_BYTES)
            .sum();
        leaf_bytes.saturating_sub(taken + DIRECTORY_ENTRY_BYTES)
    }

    /// About how many bytes a block of so many points will take, judging by those in the page; 0 if there is
    /// none.
    pub(crate) fn estimated_bytes(&self, points: usize) -> usize {
        let known: usize = self.finished.iter().map(|b| usize::from(b.points)).sum();
        let bytes: usize = self.finished.iter().map(|b| b.bytes.len()).sum();
        bytes * points / known.max(1)
    }

    pub(crate) fn small_points(&self) -> usize {
        self.small.iter().map(|b| usize::from(b.points)).sum()
    }

    pub(crate) fn small_bytes(&self) -> usize {
        self.small.iter().map(|b| b.bytes.len()).sum()
    }

    /// Every block, oldest first.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &OpenBlock> {
        self.finished.iter().chain(&self.small)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        // Two counters stand before the bytes of an `Arc`.
        let bytes: usize = self.blocks().map(|b| b.bytes.len() + 16).sum();
        let slots = self.finished.capacity() + self.small.capacity();
        size_of::<Self>() + 16 + bytes + slots * size_of::<OpenBlock>()
    }
}
