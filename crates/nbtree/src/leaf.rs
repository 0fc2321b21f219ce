//! The body of a sealed leaf: blocks one after the other, and behind them a directory that says where each
//! begins in bytes and in time. `docs/format/leaf.md` is the specification.

use alluvium_codec::{MAX_BLOCK_POINTS, decode_block};
use alluvium_types::{Column, TimeRange};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{BadPageCause, BodyError};

mod layout {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
    use zerocopy::little_endian::{I64, U16};

    /// One block in the directory of a leaf.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
    #[repr(C)]
    pub(super) struct DirectoryEntry {
        /// Time of the first point, in nanoseconds.
        pub first_time: I64,
        /// Where the block begins in the body.
        pub offset: U16,
        /// How many points it holds.
        pub points: U16,
    }

    const _: () = assert!(size_of::<DirectoryEntry>() == super::DIRECTORY_ENTRY_BYTES);
}

use layout::DirectoryEntry;

/// Bytes a block takes in the directory.
pub(crate) const DIRECTORY_ENTRY_BYTES: usize = 12;

/// Writes the body of a leaf: the blocks as (first time, points, bytes). Returns the bytes used.
///
/// # Panics
/// If they do not fit.
pub(crate) fn encode<'a>(
    blocks: impl Iterator<Item = (i64, u16, &'a [u8])> + Clone,
    body: &mut [u8],
) -> usize {
    let mut at = 0;
    for (_, _, bytes) in blocks.clone() {
        body[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
    let mut offset = 0;
    for (first_time, points, bytes) in blocks {
        let entry = DirectoryEntry {
            first_time: first_time.into(),
            offset: (offset as u16).into(),
            points: points.into(),
        };
        body[at..at + DIRECTORY_ENTRY_BYTES].copy_from_slice(entry.as_bytes());
        at += DIRECTORY_ENTRY_BYTES;
        offset += bytes.len();
    }
    at
}

/// The checked directory of a sealed leaf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafView<'a> {
    blocks: &'a [u8],
    directory: &'a [DirectoryEntry],
}

impl<'a> LeafView<'a> {
    /// Checks the directory of a body of `blocks` blocks.
    ///
    /// # Errors
    /// If the directory is cut short or contradicts itself.
    pub(crate) fn new(body: &'a [u8], blocks: usize) -> Result<Self, BodyError> {
        let directory_bytes = blocks * DIRECTORY_ENTRY_BYTES;
        let Some(split) = body.len().checked_sub(directory_bytes) else {
            return Err(BodyError("the directory is longer than the page"));
        };
        let (blocks, directory) = body.split_at(split);
        let directory = <[DirectoryEntry]>::ref_from_bytes(directory)
            .map_err(|_| BodyError("the directory is cut short"))?;
        let mut end = blocks.len();
        for entry in directory.iter().rev() {
            let offset = usize::from(entry.offset.get());
            if offset >= end {
                return Err(BodyError("blocks overlap"));
            }
            end = offset;
            if !(1..=MAX_BLOCK_POINTS).contains(&usize::from(entry.points.get())) {
                return Err(BodyError("a block has no points, or too many"));
            }
        }
        if end != 0 || directory.is_empty() {
            return Err(BodyError("the first block does not begin the page"));
        }
        let ascending = directory
            .windows(2)
            .all(|w| w[0].first_time.get() < w[1].first_time.get());
        if !ascending {
            return Err(BodyError("blocks are out of order"));
        }
        Ok(Self { blocks, directory })
    }

    /// How many blocks.
    pub(crate) fn len(&self) -> usize {
        self.directory.len()
    }

    /// Time of the first point of a block, in nanoseconds.
    pub(crate) fn first_time(&self, block: usize) -> Option<i64> {
        self.directory.get(block).map(|e| e.first_time.get())
    }

    /// How many points a block holds.
    pub(crate) fn points(&self, block: usize) -> Option<usize> {
        self.directory.get(block).map(|e| e.points.get().into())
    }

    /// The bytes of a block.
    pub(crate) fn bytes(&self, block: usize) -> Option<&'a [u8]> {
        let begin = self.directory.get(block)?.offset.get();
        let end = match self.directory.get(block + 1) {
            Some(next) => next.offset.get().into(),
            None => self.blocks.len(),
        };
        self.blocks.get(begin.into()..end)
    }

    /// The blocks that may hold points of `range`, as half-open indexes.
    pub(crate) fn blocks_in(&self, range: TimeRange) -> (usize, usize) {
        let begin = self
            .directory
            .partition_point(|e| e.first_time.get() <= range.begin());
        let end = self
            .directory
            .partition_point(|e| e.first_time.get() < range.end());
        let begin = begin.saturating_sub(1);
        (begin, end.max(begin))
    }

    /// Appends the points of a block to `out`.
    ///
    /// # Errors
    /// If it does not decode to what the directory says.
    pub(crate) fn decode(&self, block: usize, out: &mut Column) -> Result<(), BadPageCause> {
        let (Some(bytes), Some(entry)) = (self.bytes(block), self.directory.get(block)) else {
            return Err(BadPageCause::Body(BodyError("a block is missing")));
        };
        let before = out.len();
        let consumed = decode_block(bytes, out)?;
        let decoded = out.len() - before;
        if consumed != bytes.len() || decoded != usize::from(entry.points.get()) {
            return Err(BadPageCause::Body(BodyError(
                "a block is not as long as the directory says",
            )));
        }
        if out.times.get(before) != Some(&entry.first_time.get()) {
            return Err(BadPageCause::Body(BodyError(
                "a block does not begin when the directory says",
            )));
        }
        Ok(())
    }
}
