//! The body of a sealed leaf: a directory that says where each block begins in time and how long it is, then the
//! blocks. `docs/format/leaf.md` is the specification.

use alluvium_codec::{CodecError, MAX_BLOCK_POINTS, Models, decode_block, varint};
use alluvium_types::{Column, TimeRange};
use smallvec::SmallVec;

use crate::columns::gcd;
use crate::error::{BadPageCause, BodyError};

/// A block as the directory has it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first_time: i64,
    /// Where the block begins behind the directory.
    offset: u16,
    points: u16,
}

/// What divides all distances between first times.
fn unit_of(first_times: impl Iterator<Item = i64> + Clone) -> u64 {
    let pairs = first_times.clone().zip(first_times.skip(1));
    let unit = pairs.fold(0, |unit, (a, b)| gcd(unit, b.wrapping_sub(a) as u64));
    unit.max(1)
}

fn put_directory(blocks: impl Iterator<Item = (i64, u16, usize)> + Clone, out: &mut Vec<u8>) {
    let unit = unit_of(blocks.clone().map(|b| b.0));
    varint::put_u64(out, unit);
    let mut last: Option<(i64, usize)> = None;
    for (first_time, points, bytes) in blocks {
        match last {
            None => varint::put_i64(out, first_time),
            Some((before, bytes)) => {
                varint::put_u64(out, bytes as u64);
                varint::put_u64(out, first_time.wrapping_sub(before) as u64 / unit);
            }
        }
        varint::put_u64(out, MAX_BLOCK_POINTS as u64 - u64::from(points));
        last = Some((first_time, bytes));
    }
}

/// Bytes of the directory of blocks given as (first time, points, bytes).
pub(crate) fn directory_bytes(blocks: impl Iterator<Item = (i64, u16, usize)> + Clone) -> usize {
    let mut out = Vec::with_capacity(256);
    put_directory(blocks, &mut out);
    out.len()
}

/// Writes the body of a leaf: the blocks as (first time, points, bytes). Returns the bytes used.
///
/// # Panics
/// If they do not fit.
pub(crate) fn encode<'a>(
    blocks: impl Iterator<Item = (i64, u16, &'a [u8])> + Clone,
    body: &mut [u8],
) -> usize {
    let mut directory = Vec::with_capacity(256);
    put_directory(
        blocks
            .clone()
            .map(|(time, points, bytes)| (time, points, bytes.len())),
        &mut directory,
    );
    let mut at = directory.len();
    body[..at].copy_from_slice(&directory);
    for (_, _, bytes) in blocks {
        body[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
    at
}

/// The checked directory of a sealed leaf.
#[derive(Debug, Clone)]
pub(crate) struct LeafView<'a> {
    blocks: &'a [u8],
    directory: SmallVec<[Entry; 8]>,
    directory_bytes: usize,
}

impl<'a> LeafView<'a> {
    /// Checks the directory of a body of `blocks` blocks.
    ///
    /// # Errors
    /// If the directory is cut short or contradicts itself.
    pub(crate) fn new(body: &'a [u8], blocks: usize) -> Result<Self, BodyError> {
        let cut = |_: CodecError| BodyError("the directory is cut short");
        let mut rest = body;
        // Every block has a byte in the directory and one of its own.
        if blocks == 0 || blocks > body.len() {
            return Err(BodyError("the page cannot hold so many blocks"));
        }
        let unit = varint::get_u64(&mut rest).map_err(cut)?;
        let mut directory = SmallVec::<[Entry; 8]>::with_capacity(blocks);
        let mut first_time = varint::get_i64(&mut rest).map_err(cut)?;
        let mut offset = 0;
        for block in 0..blocks {
            if block > 0 {
                let bytes = varint::get_u64(&mut rest).map_err(cut)?;
                let steps = varint::get_u64(&mut rest).map_err(cut)?;
                if bytes == 0 || bytes > body.len() as u64 {
                    return Err(BodyError("a block is empty, or longer than the page"));
                }
                offset += bytes as usize;
                // A distance is below 2^64; from the first time on it may not pass the end of time.
                let before = first_time;
                let distance = steps.checked_mul(unit);
                first_time = distance.map_or(before, |d| before.wrapping_add(d as i64));
                if first_time <= before {
                    return Err(BodyError("blocks are out of order"));
                }
            }
            let missing = varint::get_u64(&mut rest).map_err(cut)?;
            if missing >= MAX_BLOCK_POINTS as u64 {
                return Err(BodyError("a block has no points, or too many"));
            }
            directory.push(Entry {
                first_time,
                offset: offset.min(usize::from(u16::MAX)) as u16,
                points: (MAX_BLOCK_POINTS as u64 - missing) as u16,
            });
        }
        if offset >= rest.len() {
            return Err(BodyError("the last block begins past the end"));
        }
        Ok(Self {
            blocks: rest,
            directory,
            directory_bytes: body.len() - rest.len(),
        })
    }

    /// Bytes of the directory.
    pub(crate) fn directory_bytes(&self) -> usize {
        self.directory_bytes
    }

    /// How many blocks.
    pub(crate) fn len(&self) -> usize {
        self.directory.len()
    }

    /// Time of the first point of a block, in nanoseconds.
    pub(crate) fn first_time(&self, block: usize) -> Option<i64> {
        self.directory.get(block).map(|e| e.first_time)
    }

    /// How many points a block holds.
    #[cfg(test)]
    pub(crate) fn points(&self, block: usize) -> Option<usize> {
        self.directory.get(block).map(|e| e.points.into())
    }

    /// The bytes of a block.
    pub(crate) fn bytes(&self, block: usize) -> Option<&'a [u8]> {
        let begin = usize::from(self.directory.get(block)?.offset);
        let end = match self.directory.get(block + 1) {
            Some(next) => next.offset.into(),
            None => self.blocks.len(),
        };
        self.blocks.get(begin..end)
    }

    /// The blocks that may hold points of `range`, as half-open indexes.
    pub(crate) fn blocks_in(&self, range: TimeRange) -> (usize, usize) {
        let begin = self
            .directory
            .partition_point(|e| e.first_time <= range.begin());
        let end = self
            .directory
            .partition_point(|e| e.first_time < range.end());
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
        let mut models = Models::default();
        for earlier in 0..block {
            models = models.after(self.bytes(earlier).unwrap_or_default())?;
        }
        decode_block(bytes, entry.points.into(), entry.first_time, models, out)?;
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
        assert!(LeafView::new(&good, 0).is_err());
        assert!(LeafView::new(&good, 4000).is_err());
        assert!(
            LeafView::new(&good[..good.len() - 1], 3).is_err(),
            "no last block"
        );
        // Unit, points of the first block, bytes of it, steps to the second.
        for (at, byte) in [(0, 0), (4, 0xff), (4, 0), (5, 0)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(LeafView::new(&bad, 3).is_err(), "byte {at}: {bad:x?}");
        }
    }

    #[test]
    fn the_whole_of_time_is_a_distance() {
        let mut body = vec![0; 100];
        let blocks: [(i64, u16, &[u8]); 2] = [(i64::MIN, 1, b"a"), (i64::MAX - 1, 1, b"b")];
        let used = encode(blocks.into_iter(), &mut body);
        assert_eq!(
            used,
            2 + directory_bytes(blocks.iter().map(|b| (b.0, b.1, b.2.len())))
        );
        let view = LeafView::new(&body[..used], 2).unwrap();
        assert_eq!(view.first_time(1), Some(i64::MAX - 1));
        assert_eq!(view.bytes(1), Some(b"b".as_slice()));
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
