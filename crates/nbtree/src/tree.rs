//! One run of one series: the writing side.

use std::sync::Arc;

use alluvium_block::{Appender, PageDraft, PageKind, PageMeta, Role};
use alluvium_codec::{Encoder, Hint, Models, Tail};
use alluvium_types::{Aggregate, Column, DatabaseId, Lsn, SeriesId, ValueKind, ValueRef, Values};

use crate::knobs::{KNOBS, Knobs};
use crate::open_leaf::{OpenBlock, OpenLeaf, decode_at};
use crate::snapshot::TreeSnapshot;
use crate::subtree_ref::SubtreeRef;
use crate::{inner, leaf, long_text};

/// A page with less room than this share of its body is sealed without another block.
pub(crate) const FILL_SHARE: usize = 25;
/// This share of a page may stay unused behind the last block.
pub(crate) const SLACK_SHARE: usize = 64;
/// Encodings tried to find the longest prefix that fits.
const FIT_TRIES: usize = 3;

/// What sealing needs, lent by the shard for the time of a write.
#[derive(Debug)]
pub struct PageWriter<'a> {
    /// Where pages go.
    pub appender: &'a mut Appender,
    /// Scratch of the block codec.
    pub encoder: &'a mut Encoder,
    /// Whose pages they are.
    pub database: DatabaseId,
}

/// One run of one series, of one kind: an append-only tree of pages, of which only the right edge is in
/// memory. Times strictly increase.
///
/// Memory: about 170 bytes and the bytes of the tail until the first block exists; then the encoded blocks
/// of one page, and about 170 bytes for each unfinished entry of an inner page, 64 a level at most.
#[derive(Debug)]
pub struct Tree {
    series: SeriesId,
    run_ordinal: u32,
    birth: Lsn,
    /// Serial number of the next leaf: how many the run, or those merged into it, have written.
    pub(crate) next_leaf: u32,
    pub(crate) points: u64,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    /// Raw bits of the newest point; 0 for strings.
    pub(crate) last_bits: u64,
    /// Of the newest point.
    pub(crate) lsn: Lsn,
    pub(crate) hint: Hint,
    pub(crate) tail: Tail,
    pub(crate) open: Option<Arc<OpenLeaf>>,
    /// References no inner page holds yet: `levels[0]` to leaves, `levels[n]` to inner pages of level n.
    pub(crate) levels: Vec<Arc<Vec<SubtreeRef>>>,
    pub(crate) knobs: &'static Knobs,
}

impl Tree {
    /// An empty run, opened by the batch at `birth`. Its kind is the series'.
    pub fn new(series: SeriesId, run_ordinal: u32, birth: Lsn) -> Self {
        Self::with_knobs(series, run_ordinal, birth, &KNOBS)
    }

    pub(crate) fn with_knobs(
        series: SeriesId,
        run_ordinal: u32,
        birth: Lsn,
        knobs: &'static Knobs,
    ) -> Self {
        Self {
            series,
            run_ordinal,
            birth,
            next_leaf: 0,
            points: 0,
            first_time: 0,
            last_time: 0,
            last_bits: 0,
            lsn: Lsn(0),
            hint: Hint::default(),
            tail: Tail::new(series.kind()),
            open: None,
            levels: Vec::new(),
            knobs,
        }
    }

    #[cfg(test)]
    pub(crate) fn set_knobs(&mut self, knobs: &'static Knobs) {
        self.knobs = knobs;
    }

    /// The series it belongs to.
    pub fn series(&self) -> SeriesId {
        self.series
    }

    /// Its number among the runs of the series.
    pub fn run_ordinal(&self) -> u32 {
        self.run_ordinal
    }

    /// Position of the batch that opened it: every point in it was written at or after.
    pub fn birth(&self) -> Lsn {
        self.birth
    }

    /// The kind of its values.
    pub fn kind(&self) -> ValueKind {
        self.series.kind()
    }

    /// How many points were pushed, expired ones included.
    pub fn points(&self) -> u64 {
        self.points
    }

    /// Time of the oldest point, in nanoseconds.
    pub fn first_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.first_time)
    }

    /// Time of the newest point, in nanoseconds.
    #[inline]
    pub fn last_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.last_time)
    }

    /// Whether the newest point is this one, bit for bit. For strings it may be `false` although it is: of a
    /// long string, and right after its leaf was sealed. Cost: at most decoding one block.
    pub fn last_is(&self, time: i64, value: ValueRef<'_>) -> bool {
        if self.points == 0 || time != self.last_time || value.kind() != self.kind() {
            return false;
        }
        match value {
            ValueRef::Str(text) => self.last_text_is(text),
            other => other.bits() == Some(self.last_bits),
        }
    }

    fn last_text_is(&self, text: &str) -> bool {
        let is = |stored| long_text::unquote(stored) == Ok(long_text::Stored::Text(text));
        if let Some(stored) = self.tail.last_str() {
            return is(stored);
        }
        let Some(open) = &self.open else {
            return false;
        };
        let Some(last) = open.blocks().count().checked_sub(1) else {
            return false;
        };
        let mut column = Column::new(ValueKind::Str);
        let newest = open
            .decode(last, &mut column)
            .ok()
            .and_then(|()| column.value(column.len().checked_sub(1)?));
        matches!(newest, Some(ValueRef::Str(stored)) if is(stored))
    }

    /// Appends a point. A string of more than 1 KiB goes to overflow pages at once.
    ///
    /// Cost: see [`Self::push_bits`].
    ///
    /// # Panics
    /// If `time` is not after the newest point, or the value is of another kind.
    pub fn push(&mut self, out: &mut PageWriter<'_>, time: i64, value: ValueRef<'_>, lsn: Lsn) {
        match value {
            ValueRef::Str(text) => {
                self.advance(time, 0, lsn);
                if text.len() > long_text::INLINE_MAX {
                    let meta = self.meta(out.database, PageKind::Overflow);
                    let stored = long_text::write(out.appender, meta, text);
                    self.tail.push(time, ValueRef::Str(&stored));
                } else {
                    self.tail.push(time, ValueRef::Str(&long_text::quote(text)));
                }
                self.settle_tail(out);
            }
            other => {
                assert_eq!(other.kind(), self.kind(), "a value of another kind pushed");
                self.push_bits(out, time, other.bits().unwrap_or_default(), lsn);
            }
        }
    }

    /// Appends a numeric point.
    ///
    /// Cost: one push to the tail; each point is encoded two to three times on its way into a page, and
    /// decoded once or twice.
    ///
    /// # Panics
    /// If `time` is not after the newest point, or the tree holds strings.
    #[inline]
    pub fn push_bits(&mut self, out: &mut PageWriter<'_>, time: i64, bits: u64, lsn: Lsn) {
        self.advance(time, bits, lsn);
        self.tail.push_bits(time, bits);
        self.settle_tail(out);
    }

    #[inline]
    pub(crate) fn advance(&mut self, time: i64, bits: u64, lsn: Lsn) {
        if self.points == 0 {
            self.first_time = time;
        } else {
            assert!(
                time > self.last_time,
                "a point pushed that is not after the newest"
            );
        }
        self.points += 1;
        self.last_time = time;
        self.last_bits = bits;
        self.lsn = lsn;
    }

    #[inline]
    pub(crate) fn settle_tail(&mut self, out: &mut PageWriter<'_>) {
        if self.tail.points() >= self.knobs.tail_points
            || self.tail.bytes().len() >= self.knobs.tail_bytes
        {
            self.flush_tail(out);
        }
    }

    /// What readers see from now on, whatever is pushed later. Cost: a few reference counts and a copy of
    /// the tail, at most about 1 KiB beside a long string's.
    pub fn snapshot(&self) -> TreeSnapshot {
        TreeSnapshot {
            series: self.series,
            run_ordinal: self.run_ordinal,
            birth: self.birth,
            lsn: self.lsn,
            next_leaf: self.next_leaf,
            points: self.points,
            first_time: self.first_time,
            last_time: self.last_time,
            levels: self.levels.iter().map(Arc::clone).collect(),
            open: self.open.clone(),
            tail: self.tail.snapshot(),
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let levels: usize = self
            .levels
            .iter()
            .map(|l| l.capacity() * size_of::<SubtreeRef>() + size_of::<Vec<SubtreeRef>>() + 16)
            .sum();
        self.tail.heap_bytes()
            + self.open.as_ref().map_or(0, |open| open.heap_bytes())
            + self.levels.capacity() * size_of::<Arc<Vec<SubtreeRef>>>()
            + levels
    }

    /// Makes a block of the tail.
    #[cold]
    #[inline(never)]
    fn flush_tail(&mut self, out: &mut PageWriter<'_>) {
        let kind = self.kind();
        let open = Arc::make_mut(
            self.open
                .get_or_insert_with(|| Arc::new(OpenLeaf::new(kind))),
        );
        let mut tail = column_of(kind, self.tail.points());
        self.tail.decode_into(&mut tail);
        let first_time = open.small.first().map_or(tail.times[0], |b| b.first_time);
        let room = open.room(self.knobs.leaf_bytes, first_time);
        // As many points as fill half of a tail like this one.
        let returned = self.knobs.tail_bytes * tail.len() / (2 * self.tail.bytes().len().max(1));
        self.tail.clear();
        let small_points = open.small_points();
        if small_points + tail.len() < self.knobs.block_points {
            let mut bytes = Vec::with_capacity(self.knobs.tail_bytes);
            let range = 0..tail.len();
            out.encoder
                .encode(&tail, range, &mut self.hint, Models::default(), &mut bytes);
            if open.small_bytes() + bytes.len() <= room {
                open.small_aggregate
                    .merge(&Aggregate::of(kind, &tail.times, tail.bits()));
                open.small.push(block(&tail, 0, tail.len(), &bytes));
                return;
            }
        }
        // Enough for a block of full size, or for the page.
        let mut column = column_of(kind, small_points + tail.len());
        let small = std::mem::take(&mut open.small);
        for index in 0..small.len() {
            decode_at(&small, index, &mut column).expect("a block of our own making decodes");
        }
        open.small_aggregate = Aggregate::empty(kind);
        column.extend_from(&tail, 0, tail.len());
        self.settle(out, &column, returned.min(self.knobs.tail_points / 2));
    }

    /// Moves every point of `column`, the newest points of the run, into blocks, sealing full pages. The last
    /// ones go back to the tail if they are at most `returned`.
    fn settle(&mut self, out: &mut PageWriter<'_>, column: &Column, returned: usize) {
        let knobs = self.knobs;
        let kind = self.kind();
        let mut begin = 0;
        let mut bytes = Vec::with_capacity(knobs.leaf_bytes);
        while begin < column.len() {
            let left = column.len() - begin;
            if begin > 0 && left <= returned {
                for i in begin..column.len() {
                    let value = column.value(i).expect("index below the length");
                    self.tail.push(column.times[i], value);
                }
                return;
            }
            let open = Arc::make_mut(
                self.open
                    .get_or_insert_with(|| Arc::new(OpenLeaf::new(kind))),
            );
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
                    fitter.models = Models::default();
                    fitter.encode(take, &mut bytes);
                    open.small_aggregate = part(column, begin, begin + take);
                    open.small.push(block(column, begin, begin + take, &bytes));
                    return;
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
    }

    fn meta(&self, database: DatabaseId, kind: PageKind) -> PageMeta {
        PageMeta {
            kind,
            database,
            series: self.series.packed(),
            run_ordinal: self.run_ordinal,
            leaf_ordinal: self.next_leaf,
            lsn: self.lsn,
            items: 0,
            level: 0,
            flags: 0,
        }
    }

    /// Seals the finished blocks as a leaf. There is at least one, and no small one.
    fn seal_leaf(&mut self, out: &mut PageWriter<'_>) {
        let Some(open) = self.open.take() else { return };
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
            ..self.meta(out.database, PageKind::Leaf)
        };
        let used = leaf::encode(blocks, draft.body_mut());
        draft.set_used(used);
        let page = out.appender.append(Role::Leaves, meta, draft);
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
        let knobs = self.knobs;
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
            ..self.meta(out.database, PageKind::Inner)
        };
        let page = out.appender.append(Role::Inners, meta, draft);
        let mut aggregate = Aggregate::empty(self.kind());
        for entry in entries {
            aggregate.merge(&entry.aggregate);
        }
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

fn block(column: &Column, begin: usize, end: usize, bytes: &[u8]) -> OpenBlock {
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

fn column_of(kind: ValueKind, points: usize) -> Column {
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
