//! Points to blocks, blocks to leaves, leaves to inner pages: the making of a run's sealed part.

use std::sync::Arc;

use alluvium_block::{PageDraft, PageKind, PageMeta, Role};
use alluvium_codec::{Encoder, Hint, Models, Tail};
use alluvium_types::{Aggregate, Column, TimeRange, ValueKind, Values};

use crate::open_leaf::{OpenBlock, OpenLeaf, SmallBlock};
use crate::sealed::Sealed;
use crate::subtree_ref::SubtreeRef;
use crate::tree::PageWriter;
use crate::weave::LatePoints;
use crate::{inner, leaf, long_text};

/// A page with less room than this share of its body is sealed without another block.
pub(crate) const FILL_SHARE: usize = 25;
/// This share of a page may stay unused behind the last block.
pub(crate) const SLACK_SHARE: usize = 256;
/// Encodings tried to find the longest prefix that fits.
const FIT_TRIES: usize = 3;

impl Sealed {
    /// Takes in the points of the tail, and late ones among the newest; returns those that stay in the tail.
    pub(crate) fn add_tail(
        &mut self,
        out: &mut PageWriter<'_>,
        tail: &Column,
        bytes: Arc<[u8]>,
        late: Option<&mut dyn LatePoints>,
    ) -> Option<Tail> {
        let tail_bytes = bytes.len();
        self.note_newest(tail);
        let small = &self.open.small;
        let first_time = small.first().map_or(tail.times[0], |b| b.block.first_time);
        let room = self.open.room(out.knobs.leaf_bytes, first_time);
        if let Some(late) = late {
            if out.window_bytes == 0 {
                return self.settle_all(out, tail, tail_bytes, Some(late));
            }
            let waits = self.wait(out, tail, bytes);
            self.open.small.push(waits);
            if self.open.small_bytes() > out.window_bytes {
                self.settle_oldest(out, late);
            }
            return None;
        }
        let points = self.open.small_points() + tail.len();
        if points < out.knobs.block_points {
            let waits = self.wait(out, tail, bytes);
            let bytes = self.open.small_bytes() + waits.block.bytes.len();
            let expected = match self.open.estimated_bytes(points) {
                _ if !waits.is_tail => bytes,
                // Tails are a quarter longer than the block they will be, or more.
                0 => bytes - bytes / 5,
                estimate => estimate,
            };
            if expected <= room {
                self.open.small.push(waits);
                return None;
            }
        }
        self.settle_all(out, tail, tail_bytes, None)
    }

    /// Counts the points of a tail.
    pub(crate) fn note_newest(&mut self, tail: &Column) {
        let (Some(first), Some(last)) = (tail.times.first(), tail.times.last()) else {
            return;
        };
        if self.points == 0 {
            self.first_time = *first;
        }
        self.points += tail.len() as u64;
        self.last_time = *last;
        self.last_bits = tail.bits().last().copied().unwrap_or_default();
    }

    /// The tail as a small block: numbers as they are, texts encoded, for they are much shorter then.
    fn wait(&mut self, out: &mut PageWriter<'_>, tail: &Column, bytes: Arc<[u8]>) -> SmallBlock {
        let is_tail = tail.kind().is_numeric();
        let block = if is_tail {
            OpenBlock {
                bytes,
                first_time: tail.times[0],
                points: tail.len() as u16,
            }
        } else {
            let mut bytes = Vec::with_capacity(out.knobs.tail_bytes);
            let (range, models) = (0..tail.len(), Models::default());
            out.encoder
                .encode(tail, range, &mut self.hint, models, &mut bytes);
            block(tail, 0, tail.len(), &bytes)
        };
        SmallBlock {
            block,
            is_tail,
            aggregate: Aggregate::of(tail.kind(), &tail.times, tail.bits()),
        }
    }

    /// Makes blocks of everything that waits, with the late points among it: enough for a block of full size, or for the
    /// page. Some of the newest stay.
    pub(crate) fn settle_all(
        &mut self,
        out: &mut PageWriter<'_>,
        tail: &Column,
        tail_bytes: usize,
        late: Option<&mut dyn LatePoints>,
    ) -> Option<Tail> {
        let knobs = out.knobs;
        let mut column = column_of(tail.kind(), self.open.small_points() + tail.len());
        for small in std::mem::take(&mut self.open.small) {
            small
                .decode(&mut column)
                .expect("a block of our own making decodes");
        }
        column.extend_from(tail, 0, tail.len());
        if let Some(late) = late {
            column = self.weave(column, late, i64::MAX);
        }
        // As many points as fill half of a tail like this one.
        let returned = knobs.tail_bytes * tail.len() / (2 * tail_bytes.max(1));
        let returned = returned
            .min(knobs.tail_points / 2)
            .min(tail.len().saturating_sub(1));
        let settled = self.settle(out, &column, returned);
        self.last_time = column.times[settled - 1];
        self.last_bits = column.bits().get(settled - 1).copied().unwrap_or_default();
        let left = tail_of(&column, settled)?;
        self.points -= left.points() as u64;
        Some(left)
    }

    /// Moves the points of `column`, the newest points of the run, into blocks, sealing full pages. Returns how many:
    /// at most `returned` of them stay behind.
    pub(crate) fn settle(
        &mut self,
        out: &mut PageWriter<'_>,
        column: &Column,
        returned: usize,
    ) -> usize {
        let knobs = out.knobs;
        let mut begin = 0;
        let mut bytes = Vec::with_capacity(knobs.leaf_bytes);
        while begin < column.len() {
            let left = column.len() - begin;
            if begin > 0 && left <= returned {
                return begin;
            }
            let open = &mut self.open;
            let room = open.room(knobs.leaf_bytes, column.times[begin]);
            let little = knobs.leaf_bytes / FILL_SHARE;
            if room < little && !open.finished.is_empty() {
                self.seal_leaf(out);
                continue;
            }
            let take = left.min(knobs.block_points);
            let mut fitter = Fitter {
                encoder: out.encoder,
                hint: &mut self.hint,
                models: open.models(),
                column,
                begin,
                room,
                slack: knobs.leaf_bytes / SLACK_SHARE,
                must: open.finished.is_empty(),
            };
            let estimate = open.estimated_bytes(take);
            // Clearly too much for the page: do not encode it only to see that.
            let full = if estimate > room + room / 4 {
                None
            } else {
                Some(fitter.encode(take, &mut bytes)).filter(|len| *len <= room)
            };
            let taken = match full {
                Some(len) if take < knobs.block_points && room - len >= little => {
                    // A block that will be joined to others lends and borrows nothing.
                    if !open.finished.is_empty() {
                        fitter.models = Models::default();
                        fitter.encode(take, &mut bytes);
                    }
                    open.small.push(SmallBlock {
                        block: block(column, begin, begin + take, &bytes),
                        is_tail: false,
                        aggregate: part(column, begin, begin + take),
                    });
                    return column.len();
                }
                Some(_) => take,
                None => fitter.fit(take, estimate.max(bytes.len()), &mut bytes),
            };
            if taken > 0 {
                open.finished_aggregate
                    .merge(&part(column, begin, begin + taken));
                open.oldest_text_volume = open.oldest_text_volume.min(long_text::oldest_volume(
                    column,
                    begin,
                    begin + taken,
                ));
                open.finished
                    .push(block(column, begin, begin + taken, &bytes));
                begin += taken;
            }
            // With much room left the estimate was too high: the data became simpler.
            if full.is_none() && (taken == 0 || room - bytes.len() < knobs.leaf_bytes / 8) {
                self.seal_leaf(out);
            }
        }
        column.len()
    }

    fn meta(&self, out: &PageWriter<'_>, kind: PageKind) -> PageMeta {
        PageMeta {
            kind,
            database: out.database,
            series: self.series.packed(),
            run_ordinal: self.run_ordinal,
            leaf_ordinal: self.next_leaf,
            lsn: out.lsn,
            items: 0,
            level: 0,
            flags: 0,
        }
    }

    /// Seals the finished blocks as a leaf. There is at least one, and no small one.
    fn seal_leaf(&mut self, out: &mut PageWriter<'_>) {
        let open = std::mem::replace(&mut self.open, OpenLeaf::new(self.series.kind()));
        assert!(open.small.is_empty(), "a leaf sealed with points left over");
        let blocks = open
            .finished
            .iter()
            .map(|b| (b.first_time, b.points, b.bytes.as_ref()));
        let entry = self.write_leaf(
            out,
            blocks,
            open.finished_aggregate,
            open.oldest_text_volume,
        );
        self.add_entry(out, 0, entry);
    }

    /// Writes a leaf of blocks as (first time, points, bytes), with the aggregate of their points and the oldest
    /// volume of their long strings. Its reference is still to be added.
    pub(crate) fn write_leaf<'a>(
        &mut self,
        out: &mut PageWriter<'_>,
        blocks: impl ExactSizeIterator<Item = (i64, u16, &'a [u8])> + Clone,
        aggregate: Aggregate,
        oldest_text_volume: u32,
    ) -> SubtreeRef {
        let mut draft = PageDraft::new();
        let meta = PageMeta {
            items: blocks.len() as u16,
            ..self.meta(out, PageKind::Leaf)
        };
        let used = leaf::encode(blocks, draft.body_mut());
        draft.set_used(used);
        let times = times_of(&aggregate);
        let page = out.appender.append(Role::Leaves, meta, times, draft);
        self.next_leaf += 1;
        SubtreeRef {
            page,
            oldest_volume: oldest_text_volume.min(page.addr.volume),
            leaves: 1,
            aggregate,
        }
    }

    /// Adds a reference to a level, below which nothing is unfinished, and seals every inner page that is full.
    pub(crate) fn add_entry(
        &mut self,
        out: &mut PageWriter<'_>,
        level: usize,
        mut entry: SubtreeRef,
    ) {
        let knobs = out.knobs;
        for level in level.. {
            if self.levels.len() <= level {
                self.levels.resize_with(level + 1, Arc::default);
            }
            let entries = &self.levels[level];
            if entries.is_empty()
                || entries.len() < knobs.fan_out_max
                    && inner::encoded_bytes(entries, Some(&entry)) <= knobs.inner_bytes
            {
                Arc::make_mut(&mut self.levels[level]).push(entry);
                return;
            }
            let full = std::mem::replace(&mut self.levels[level], Arc::new(vec![entry]));
            entry = self.seal_inner(out, &full, level as u8 + 1);
        }
    }

    pub(crate) fn seal_inner(
        &self,
        out: &mut PageWriter<'_>,
        entries: &[SubtreeRef],
        level: u8,
    ) -> SubtreeRef {
        let mut draft = PageDraft::new();
        let used = inner::encode(entries, draft.body_mut());
        draft.set_used(used);
        let meta = PageMeta {
            items: entries.len() as u16,
            level,
            ..self.meta(out, PageKind::Inner)
        };
        let mut aggregate = Aggregate::empty(self.series.kind());
        for entry in entries {
            aggregate.merge(&entry.aggregate);
        }
        let times = times_of(&aggregate);
        let page = out.appender.append(Role::Inners, meta, times, draft);
        SubtreeRef {
            page,
            oldest_volume: entries
                .iter()
                .map(|e| e.oldest_volume)
                .fold(page.addr.volume, u32::min),
            leaves: entries.iter().map(|e| e.leaves).sum(),
            aggregate,
        }
    }
}

/// Of the points of an aggregate that is not empty.
fn times_of(aggregate: &Aggregate) -> TimeRange {
    TimeRange::inclusive(aggregate.first.time, aggregate.last.time)
}

/// The points from `begin` on as a tail; none if there are none.
pub(crate) fn tail_of(column: &Column, begin: usize) -> Option<Tail> {
    (begin < column.len()).then(|| {
        let mut tail = Tail::new(column.kind());
        for i in begin..column.len() {
            let value = column.value(i).expect("index below the length");
            tail.push(column.times[i], value);
        }
        tail
    })
}

pub(crate) fn block(column: &Column, begin: usize, end: usize, bytes: &[u8]) -> OpenBlock {
    OpenBlock {
        bytes: bytes.into(),
        first_time: column.times[begin],
        points: (end - begin) as u16,
    }
}

pub(crate) fn part(column: &Column, begin: usize, end: usize) -> Aggregate {
    let bits = column.bits();
    let bits = if bits.is_empty() {
        bits
    } else {
        &bits[begin..end]
    };
    Aggregate::of(column.kind(), &column.times[begin..end], bits)
}

pub(crate) fn column_of(kind: ValueKind, points: usize) -> Column {
    let mut column = Column::new(kind);
    column.times.reserve(points);
    if let Values::Numeric(bits) = &mut column.values {
        bits.reserve(points);
    }
    column
}

/// Finds about the longest block from `begin` that fits the room left in a page.
pub(crate) struct Fitter<'a> {
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) hint: &'a mut Hint,
    /// What the blocks before lend.
    pub(crate) models: Models<'a>,
    pub(crate) column: &'a Column,
    pub(crate) begin: usize,
    pub(crate) room: usize,
    /// Bytes that may stay unused.
    pub(crate) slack: usize,
    /// Whether a block must be found, for the page is empty.
    pub(crate) must: bool,
}

impl Fitter<'_> {
    pub(crate) fn encode(&mut self, points: usize, bytes: &mut Vec<u8>) -> usize {
        bytes.clear();
        let range = self.begin..self.begin + points;
        self.encoder
            .encode(self.column, range, self.hint, self.models, bytes);
        bytes.len()
    }

    /// Leaves the block in `bytes` and returns its points, 0 if none was found. `take` points do not fit, or
    /// are thought not to: they take about `take_bytes`.
    pub(crate) fn fit(&mut self, take: usize, take_bytes: usize, bytes: &mut Vec<u8>) -> usize {
        let (mut low, mut low_bytes) = (0, 0);
        let (mut high, mut high_bytes) = (take, take_bytes);
        let mut best = Vec::new();
        let mut tries = 0;
        while high - low > 1 && (tries < FIT_TRIES || (self.must && low == 0)) {
            // Between two measured prefixes bytes grow about evenly; aim a little low.
            let grow = high_bytes.saturating_sub(low_bytes).max(1);
            let target = (self.room - low_bytes).saturating_sub(self.slack / 2);
            let aim = if tries < FIT_TRIES {
                low + (high - low) * target / grow
            } else {
                high / 2
            };
            let points = aim.clamp(low + 1, high - 1);
            let len = self.encode(points, bytes);
            tries += 1;
            if len <= self.room {
                (low, low_bytes) = (points, len);
                std::mem::swap(&mut best, bytes);
                if self.room - len <= self.slack {
                    break;
                }
            } else {
                (high, high_bytes) = (points, len);
            }
        }
        if low == 0 && self.must {
            // One point is all there is to take.
            low = 1;
            let len = self.encode(1, &mut best);
            assert!(len <= self.room, "one point does not fit an empty page");
        }
        *bytes = best;
        low
    }
}
