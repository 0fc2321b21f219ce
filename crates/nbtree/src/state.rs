//! The part of a tree that is only in memory, saved in a checkpoint and restored from it.
//!
//! Numbers are varints but for the series; times count from the first time, those of blocks from the block before.
//! Unfinished entries and the aggregate of the finished blocks are packed as in an inner page, without its zero bytes. The tail is saved as one more small block, several small blocks as
//! one, where that is shorter; they come back so. Checksums are the checkpoint's.

use std::sync::Arc;

use alluvium_block::{LogicAddr, PageRef};
use alluvium_codec::{
    CodecError, Encoder, Hint, MAX_BLOCK_POINTS, Models, Tail, tail_first_time, varint,
};
use alluvium_types::{Aggregate, Column, Lsn, PAGE_SIZE, SeriesId, ValueKind};

use crate::error::TreeError;
use crate::inner::{self, InnerView};
use crate::open_leaf::{OpenBlock, SmallBlock};
use crate::owned::Tree;
use crate::sealed::Sealed;
use crate::snapshot::TreeSnapshot;
use crate::subtree_ref::SubtreeRef;

const VERSION: u8 = 4;
/// Points of a tail from which a block may be shorter.
const TAIL_BLOCK_MIN: usize = 4;
/// More levels than 2^32 leaves can need.
const LEVELS_MAX: u64 = 32;

impl TreeSnapshot {
    /// Appends everything that is only in memory to `out`: unfinished inner entries, blocks of the open leaf,
    /// the tail. Pages already appended are referred to, so they must become durable before the state does.
    /// Cost: encoding the tail, 512 points at most, and a copy of the rest.
    ///
    /// # Panics
    /// If the snapshot was not taken by the writer.
    pub fn encode_state(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let birth = self.birth.expect("a state is what the writer sees");
        let sealed = self.sealed.as_deref();
        let (finished, small): (&[_], &[_]) = match self.open() {
            None => (&[], &[]),
            Some(open) => (&open.finished, &open.small),
        };
        let blocks = if small.is_empty() {
            Vec::from_iter(self.tail_block(encoder))
        } else {
            self.joined(small, encoder)
        };
        // A small block tells by its last point.
        let is_told = !blocks.is_empty();
        out.push(VERSION);
        out.extend_from_slice(&self.series.packed().to_le_bytes());
        for number in [
            u64::from(self.run_ordinal),
            birth.0,
            sealed.map_or(0, |s| u64::from(s.next_leaf)),
            self.points,
            sealed.filter(|_| !is_told).map_or(0, |s| s.last_bits),
        ] {
            varint::put_u64(out, number);
        }
        varint::put_i64(out, self.first_time);
        varint::put_u64(out, self.last_time.wrapping_sub(self.first_time) as u64);
        varint::put_u64(out, self.levels().len() as u64);
        for level in self.levels() {
            put_entries(out, level);
        }
        put_blocks(out, self.first_time, finished);
        if let Some(open) = self.open()
            && !finished.is_empty()
        {
            put_aggregate(out, &open.finished_aggregate);
            varint::put_u64(out, open.oldest_text_volume.into());
        }
        put_blocks(out, self.first_time, &blocks);
        if is_told {
            varint::put_u64(out, 0);
        } else {
            varint::put_u64(out, self.tail.points() as u64);
            if self.tail.points > 0 {
                varint::put_bytes(out, &self.tail.bytes);
            }
        }
    }

    /// Small blocks and the tail behind them as blocks of full size, the last one but what is left.
    fn joined(&self, small: &[SmallBlock], encoder: &mut Encoder) -> Vec<OpenBlock> {
        let mut column = Column::new(self.kind());
        for block in small {
            block
                .decode(&mut column)
                .expect("a block of our own making decodes");
        }
        self.tail
            .decode_into(&mut column)
            .expect("a tail reads what it wrote");
        let mut hint = self.sealed.as_ref().map_or(Hint::default(), |s| s.hint);
        let mut bytes = Vec::new();
        let blocks = (0..column.len()).step_by(MAX_BLOCK_POINTS).map(|begin| {
            let end = column.len().min(begin + MAX_BLOCK_POINTS);
            let models = Models::default();
            bytes.clear();
            encoder.encode(&column, begin..end, &mut hint, models, &mut bytes);
            OpenBlock {
                bytes: bytes.as_slice().into(),
                first_time: column.times[begin],
                points: (end - begin) as u16,
            }
        });
        blocks.collect()
    }

    /// The tail as a block, if that is shorter.
    fn tail_block(&self, encoder: &mut Encoder) -> Option<OpenBlock> {
        let points = self.tail.points();
        if !(TAIL_BLOCK_MIN..=MAX_BLOCK_POINTS).contains(&points) {
            return None;
        }
        let mut column = Column::new(self.kind());
        self.tail
            .decode_into(&mut column)
            .expect("a tail reads what it wrote");
        let mut bytes = Vec::with_capacity(self.tail.bytes.len());
        let mut hint = self.sealed.as_ref().map_or(Hint::default(), |s| s.hint);
        let models = Models::default();
        encoder.encode(&column, 0..points, &mut hint, models, &mut bytes);
        // A block has its first time and number of points beside it.
        (bytes.len() + 10 < self.tail.bytes.len()).then(|| OpenBlock {
            bytes: bytes.into(),
            first_time: column.times[0],
            points: points as u16,
        })
    }
}

impl Tree {
    /// The tree whose state stands at the front of `bytes` and how many bytes it took. Pushes go on from
    /// there.
    ///
    /// # Errors
    /// If the state is malformed. Bytes that a checksum vouches for never are.
    pub fn decode_state(bytes: &[u8]) -> Result<(Self, usize), TreeError> {
        let mut rest = bytes;
        let r = &mut rest;
        let Some(([version], body)) = r.split_first_chunk() else {
            return Err(TreeError::State("it is cut short"));
        };
        if *version != VERSION {
            return Err(TreeError::State("its version is unknown"));
        }
        let Some((packed, body)) = body.split_first_chunk() else {
            return Err(TreeError::State("it is cut short"));
        };
        *r = body;
        let series = SeriesId::from_packed(u64::from_le_bytes(*packed))
            .ok_or(TreeError::State("its series cannot exist"))?;
        let kind = series.kind();
        let (run_ordinal, birth) = (get_u32(r)?, Lsn(get_u64(r)?));
        let mut tree = Self::new(series, run_ordinal, birth);
        let mut sealed = Sealed::new(series, run_ordinal, birth);
        sealed.next_leaf = get_u32(r)?;
        let points = get_u64(r)?;
        sealed.last_bits = get_u64(r)?;
        sealed.first_time = get_i64(r)?;
        let last_time = sealed.first_time.wrapping_add(get_u64(r)? as i64);
        let levels = get_u64(r)?;
        if levels > LEVELS_MAX {
            return Err(TreeError::State("it has too many levels"));
        }
        for _ in 0..levels {
            sealed.levels.push(Arc::new(get_entries(r, kind)?));
        }
        let finished = get_blocks(r, sealed.first_time)?;
        let open = &mut sealed.open;
        if !finished.is_empty() {
            open.finished_aggregate = get_aggregate(r, kind)?;
            open.oldest_text_volume = get_u32(r)?;
        }
        open.finished = finished;
        let mut column = Column::new(kind);
        let small = get_blocks(r, sealed.first_time)?;
        open.small.reserve_exact(small.len());
        for block in small {
            let mut small = SmallBlock {
                block,
                is_tail: false,
                aggregate: Aggregate::empty(kind),
            };
            column.clear();
            small
                .decode(&mut column)
                .map_err(|cause| TreeError::OpenLeaf { series, cause })?;
            small.aggregate = Aggregate::of(kind, &column.times, column.bits());
            open.small.push(small);
        }
        if let Some(last) = column.bits().last() {
            // A tail may have become the last block.
            sealed.last_bits = *last;
        }
        let tail_points = get_u64(r)?;
        let mut tail = Tail::new(kind);
        if tail_points > 0 {
            let bytes = get_bytes(r)?;
            tail = Tail::from_bytes(kind, bytes, tail_points as usize)
                .map_err(|cause| TreeError::OpenLeaf { series, cause })?;
        }
        (sealed.points, sealed.last_time) = check_parts(&sealed, &tail, points, last_time)?;
        if points > 0 {
            let (encoder, end, bytes) = tail.into_parts();
            if bytes.len() > alluvium_io::PUBLISHED_BYTES_MAX {
                return Err(TreeError::State("its tail is too long"));
            }
            let head = (sealed.points > 0).then(|| Arc::new(sealed));
            tree.core.encoder = encoder;
            let mut edge = tree.edge.writer();
            edge.replace(kind, head, &bytes, end.points);
            *tree.edge.last_time.get_mut() = last_time;
        }
        Ok((tree, bytes.len() - rest.len()))
    }
}

/// Checks that the parts follow one another in time and add up to so many points that end then; returns how many are
/// not in the tail, and the time of the newest of them.
fn check_parts(
    sealed: &Sealed,
    tail: &Tail,
    points: u64,
    last_time: i64,
) -> Result<(u64, i64), TreeError> {
    let mut found = 0_u64;
    let mut last: Option<i64> = None;
    let mut add = |last: &mut Option<i64>, first_time: i64, last_time: i64, count: u64| {
        let follows = last.is_none_or(|l| l < first_time) && first_time <= last_time;
        *last = Some(last_time);
        found = found.wrapping_add(count);
        follows
    };
    let mut ordered = true;
    for entry in sealed.levels.iter().rev().flat_map(|level| level.iter()) {
        ordered &= add(
            &mut last,
            entry.first_time(),
            entry.last_time(),
            entry.aggregate.count,
        );
    }
    let open = &sealed.open;
    let finished = std::iter::once((&open.finished_aggregate, open.finished.as_slice()));
    let small = open.small.iter();
    let small = small.map(|s| (&s.aggregate, std::slice::from_ref(&s.block)));
    for (aggregate, blocks) in finished.chain(small) {
        let in_blocks: u64 = blocks.iter().map(|b| u64::from(b.points)).sum();
        ordered &= in_blocks == aggregate.count
            && blocks.windows(2).all(|w| w[0].first_time < w[1].first_time);
        if aggregate.count > 0 {
            ordered &= add(
                &mut last,
                aggregate.first.time,
                aggregate.last.time,
                aggregate.count,
            );
        }
    }
    let sealed_last = last.unwrap_or(0);
    if let (Some(first), Some(end)) = (tail_first_time(tail.bytes()), tail.last_time()) {
        ordered &= add(&mut last, first, end, tail.points() as u64);
    }
    let ends = points == 0 || last == Some(last_time) && sealed.first_time <= last_time;
    if ordered && ends && found == points {
        Ok((points - tail.points() as u64, sealed_last))
    } else {
        Err(TreeError::State("its parts do not add up"))
    }
}

fn cut(_: CodecError) -> TreeError {
    TreeError::State("it is cut short")
}

fn get_u64(r: &mut &[u8]) -> Result<u64, TreeError> {
    varint::get_u64(r).map_err(cut)
}

fn get_i64(r: &mut &[u8]) -> Result<i64, TreeError> {
    varint::get_i64(r).map_err(cut)
}

fn get_bytes<'a>(r: &mut &'a [u8]) -> Result<&'a [u8], TreeError> {
    varint::get_bytes(r).map_err(cut)
}

fn get_u32(r: &mut &[u8]) -> Result<u32, TreeError> {
    u32::try_from(get_u64(r)?).map_err(|_| TreeError::State("a number is out of range"))
}

fn put_entries(out: &mut Vec<u8>, entries: &[SubtreeRef]) {
    varint::put_u64(out, entries.len() as u64);
    if entries.is_empty() {
        return;
    }
    let mut body = vec![0; inner::encoded_bytes(entries, None)];
    inner::encode(entries, &mut body);
    put_sparse(out, &body);
}

/// Appends bytes of which many are zero: their number, a bit for each that is not, and these.
fn put_sparse(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put_u64(out, bytes.len() as u64);
    for eight in bytes.chunks(8) {
        let bits = eight
            .iter()
            .rev()
            .fold(0, |bits, b| bits << 1 | u8::from(*b != 0));
        out.push(bits);
    }
    out.extend(bytes.iter().filter(|b| **b != 0));
}

fn get_sparse(r: &mut &[u8]) -> Result<Vec<u8>, TreeError> {
    let len = get_u64(r)?;
    let cut = || TreeError::State("it is cut short");
    if len > PAGE_SIZE as u64 {
        return Err(TreeError::State("a part of it is larger than a page"));
    }
    let len = len as usize;
    let (bits, rest) = r.split_at_checked(len.div_ceil(8)).ok_or_else(cut)?;
    let set = |i: usize| bits[i / 8] >> (i % 8) & 1 == 1;
    let count = (0..len).filter(|i| set(*i)).count();
    let (values, rest) = rest.split_at_checked(count).ok_or_else(cut)?;
    *r = rest;
    let mut values = values.iter();
    let byte = |i| {
        if set(i) {
            values.next().copied().unwrap_or(0)
        } else {
            0
        }
    };
    Ok((0..len).map(byte).collect())
}

fn get_entries(r: &mut &[u8], kind: ValueKind) -> Result<Vec<SubtreeRef>, TreeError> {
    let count = get_u64(r)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let body = get_sparse(r)?;
    let malformed = |_| TreeError::State("its unfinished entries do not decode");
    // A page holds no more, and nothing here is larger than a page.
    let count = usize::try_from(count).ok().filter(|c| *c <= 1024);
    let count = count.ok_or(TreeError::State("it has too many unfinished entries"))?;
    let view = InnerView::new(&body, count).map_err(malformed)?;
    if view.kind() != kind {
        return Err(TreeError::State("its entries are of another kind"));
    }
    let mut entries = Vec::with_capacity(count);
    view.expand_all(&mut entries).map_err(malformed)?;
    Ok(entries)
}

/// An aggregate as the only entry of a page that does not exist.
fn put_aggregate(out: &mut Vec<u8>, aggregate: &Aggregate) {
    let page = PageRef {
        addr: LogicAddr { volume: 0, page: 0 },
        generation: 0,
        crc: 0,
    };
    let entry = SubtreeRef {
        page,
        oldest_volume: 0,
        leaves: 0,
        aggregate: *aggregate,
    };
    put_entries(out, &[entry]);
}

fn get_aggregate(r: &mut &[u8], kind: ValueKind) -> Result<Aggregate, TreeError> {
    match get_entries(r, kind)?.as_slice() {
        [only] => Ok(only.aggregate),
        _ => Err(TreeError::State("an aggregate is missing")),
    }
}

fn put_blocks<'a>(
    out: &mut Vec<u8>,
    first_time: i64,
    blocks: impl IntoIterator<Item = &'a OpenBlock, IntoIter: ExactSizeIterator>,
) {
    let blocks = blocks.into_iter();
    varint::put_u64(out, blocks.len() as u64);
    let mut before = first_time;
    for block in blocks {
        varint::put_u64(out, block.first_time.wrapping_sub(before) as u64);
        before = block.first_time;
        varint::put_u64(out, block.points.into());
        varint::put_bytes(out, &block.bytes);
    }
}

fn get_blocks(r: &mut &[u8], first_time: i64) -> Result<Vec<OpenBlock>, TreeError> {
    let count = get_u64(r)?;
    let mut blocks = Vec::new();
    let mut before = first_time;
    for _ in 0..count {
        let first_time = before.wrapping_add(get_u64(r)? as i64);
        before = first_time;
        let points = get_u64(r)?;
        let bytes = get_bytes(r)?;
        if !(1..=MAX_BLOCK_POINTS as u64).contains(&points) {
            return Err(TreeError::State("a block has no points, or too many"));
        }
        // What it lends must be there when the next block is encoded.
        Models::default().after(bytes).map_err(cut)?;
        blocks.push(OpenBlock {
            bytes: bytes.into(),
            first_time,
            points: points as u16,
        });
    }
    blocks.shrink_to_fit();
    Ok(blocks)
}
