//! The body of a sealed leaf: blocks one after the other, and behind them a directory that says where each
//! begins in bytes and in time. `docs/format/leaf.md` is the specification.

use alluvium_codec::{MAX_BLOCK_POINTS, decode_block};
use alluvium_types::{Column, TimeRange};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{BadPageCause, BodyError};
use crate::layout::DirectoryEntry;

/// Bytes a block takes in the directory.
pub(crate) const DIRECTORY_ENTRY_BYTES: usize = size_of::<DirectoryEntry>();

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

#[cfg(test)]
mod tests {
    use alluvium_types::ValueKind;
    use proptest::prelude::*;

    use super::*;

    const BLOCKS: [(i64, u16, &[u8]); 3] = [(-5, 2, b"ab"), (10, 1024, b"cde"), (20, 1, b"f")];

    fn body() -> Vec<u8> {
        let mut body = vec![0; 100];
        let used = encode(BLOCKS.into_iter(), &mut body);
        body.truncate(used);
        body
    }

    #[test]
    fn blocks_read_back_through_the_directory() {
        let body = body();
        let view = LeafView::new(&body, 3).unwrap();
        for (i, (first_time, points, bytes)) in BLOCKS.into_iter().enumerate() {
            assert_eq!(view.first_time(i), Some(first_time));
            assert_eq!(view.points(i), Some(points.into()));
            assert_eq!(view.bytes(i), Some(bytes));
        }
        for (begin, end, blocks) in [
            (-9, -5, (0, 0)),
            (-9, -4, (0, 1)),
            (0, 10, (0, 1)),
            (10, 11, (1, 2)),
            (15, 99, (1, 3)),
            (30, 30, (2, 3)),
        ] {
            let range = TimeRange::new(begin, end).unwrap();
            assert_eq!(view.blocks_in(range), blocks, "{begin}..{end}");
        }
    }

    #[test]
    fn bytes_are_as_documented() {
        let hex: Vec<String> = body().iter().map(|b| format!("{b:02x}")).collect();
        let page = include_str!("../../../docs/format/leaf.md");
        let example = page
            .split("```hex")
            .nth(1)
            .and_then(|s| s.split("```").next());
        let mut documented = Vec::new();
        for line in example.expect("the page has a worked example").lines() {
            let bytes = line.split('#').next().unwrap_or_default();
            documented.extend(bytes.split_whitespace().map(str::to_owned));
        }
        assert_eq!(hex.join(" "), documented.join(" "));
    }

    #[test]
    fn directories_that_contradict_themselves_are_refused() {
        let good = body();
        assert!(LeafView::new(&good, 4).is_err(), "a block too many");
        assert!(LeafView::new(&good, 2).is_err(), "a block too few");
        assert!(LeafView::new(&good, 0).is_err());
        assert!(LeafView::new(&good, 4000).is_err());
        let directory = 6;
        // Offset of the second block, points of the first, time of the third.
        for (at, byte) in [
            (directory + 12 + 8, 9),
            (directory + 10, 0),
            (directory + 24, 10),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(LeafView::new(&bad, 3).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(
            body in prop::collection::vec(any::<u8>(), 0..300),
            items in 0_u16..30,
            kind in prop::sample::select(ValueKind::ALL.to_vec()),
        ) {
            let _ = crate::describe_leaf(kind, &body, items);
        }

        #[test]
        fn no_blocks_panic(
            blocks in prop::collection::vec((1_u16..1024, prop::collection::vec(any::<u8>(), 1..60)), 1..9),
            kind in prop::sample::select(ValueKind::ALL.to_vec()),
        ) {
            let mut body = vec![0; 1000];
            let (count, times) = (blocks.len(), 0_i64..);
            let blocks = times.zip(&blocks).map(|(t, (points, bytes))| (t, *points, bytes.as_slice()));
            let used = encode(blocks, &mut body);
            let _ = crate::describe_leaf(kind, &body[..used], count as u16);
        }
    }
}
