//! One run of one series: the writing side. [`Tree`] and [`SharedTree`] own what this writes.
//!
//! [`Tree`]: crate::Tree
//! [`SharedTree`]: crate::SharedTree

use std::sync::Arc;

use alluvium_block::{Appender, PageKind, PageMeta};
use alluvium_codec::{DRAFT_WORDS, Encoder, Tail, TailEncoder};
use alluvium_types::{Column, DatabaseId, Lsn, SeriesId, ValueKind, ValueRef};

use crate::edge::EdgeWriter;
use crate::knobs::{KNOBS, Knobs};
use crate::long_text;
use crate::sealed::Sealed;
use crate::sealing::column_of;
use crate::snapshot::TreeSnapshot;
use crate::weave::LatePoints;

/// What sealing needs, lent by the shard for the time of a write.
#[derive(Debug)]
pub struct PageWriter<'a> {
    /// Where pages go.
    pub appender: &'a mut Appender,
    /// Scratch of the block codec.
    pub encoder: &'a mut Encoder,
    /// Whose pages they are.
    pub database: DatabaseId,
    /// Position of what is being pushed.
    pub lsn: Lsn,
    /// Grows and shrinks with the heap that trees written through this take.
    pub heap: i64,
    /// Bytes of newest points that a run keeps open for late ones: see [`TreeMut::push_bits_beside`].
    pub window_bytes: usize,
    pub(crate) knobs: &'static Knobs,
}

impl<'a> PageWriter<'a> {
    /// Writes pages of `database` as the batch at `lsn`.
    pub fn new(
        appender: &'a mut Appender,
        encoder: &'a mut Encoder,
        database: DatabaseId,
        lsn: Lsn,
    ) -> Self {
        Self {
            appender,
            encoder,
            database,
            lsn,
            heap: 0,
            window_bytes: 0,
            knobs: &KNOBS,
        }
    }
}

/// What only the writer of a run has; what readers share is its edge. 32 bytes.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) birth: Lsn,
    pub(crate) encoder: TailEncoder,
    pub(crate) run_ordinal: u32,
}

impl Core {
    pub(crate) fn new(kind: ValueKind, run_ordinal: u32, birth: Lsn) -> Self {
        Self {
            birth,
            encoder: TailEncoder::new(kind),
            run_ordinal,
        }
    }
}

/// The writer of one run: whoever has this, alone appends to it.
#[derive(Debug)]
pub struct TreeMut<'a> {
    pub(crate) series: SeriesId,
    pub(crate) core: &'a mut Core,
    pub(crate) edge: EdgeWriter<'a>,
}

impl TreeMut<'_> {
    /// The series it belongs to.
    pub fn series(&self) -> SeriesId {
        self.series
    }

    /// Its number among the runs of the series.
    pub fn run_ordinal(&self) -> u32 {
        self.core.run_ordinal
    }

    /// Position of the batch that opened it: every point in it was written at or after.
    pub fn birth(&self) -> Lsn {
        self.core.birth
    }

    /// The kind of its values.
    #[inline]
    pub fn kind(&self) -> ValueKind {
        self.core.encoder.kind()
    }

    /// Time of the newest point, in nanoseconds.
    #[inline]
    pub fn last_time(&self) -> Option<i64> {
        self.edge.last_time()
    }

    /// Whether the newest point is this one, bit for bit. For strings it may be `false` although it is: of a
    /// long string, and right after its leaf was sealed. Cost: at most decoding one block.
    pub fn last_is(&self, time: i64, value: ValueRef<'_>) -> bool {
        if self.last_time() != Some(time) || value.kind() != self.kind() {
            return false;
        }
        let in_tail = self.edge.end().is_some_and(|end| end.points > 0);
        match value {
            ValueRef::Str(text) if in_tail => {
                let stored = long_text::quote(text);
                text.len() <= long_text::INLINE_MAX && self.repeats(&stored)
            }
            ValueRef::Str(text) => self.last_block_ends_with(text),
            number if in_tail => number.bits() == Some(self.core.encoder.last_bits()),
            number => number.bits() == self.edge.sealed().map(|s| s.last_bits),
        }
    }

    fn overflow_meta(&self, out: &PageWriter<'_>) -> PageMeta {
        PageMeta {
            kind: PageKind::Overflow,
            database: out.database,
            series: self.series.packed(),
            run_ordinal: self.core.run_ordinal,
            leaf_ordinal: self.edge.sealed().map_or(0, |s| s.next_leaf),
            lsn: out.lsn,
            items: 0,
            level: 0,
            flags: 0,
        }
    }

    /// Whether the newest text in the tail, of which there is one, stands as `stored`.
    fn repeats(&self, stored: &str) -> bool {
        let (begin, len) = self.core.encoder.last_text();
        len == stored.len() && self.edge.holds(begin, stored.as_bytes())
    }

    fn last_block_ends_with(&self, text: &str) -> bool {
        let is = |stored| long_text::unquote(stored) == Ok(long_text::Stored::Text(text));
        let Some(open) = self.edge.sealed().map(|s| &s.open) else {
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
    pub fn push(&mut self, out: &mut PageWriter<'_>, time: i64, value: ValueRef<'_>) {
        match value {
            ValueRef::Str(text) if text.len() > long_text::INLINE_MAX => {
                let meta = self.overflow_meta(out);
                let stored = long_text::write(out.appender, meta, time, text);
                self.push_text(out, time, &stored);
            }
            ValueRef::Str(text) => self.push_text(out, time, &long_text::quote(text)),
            other => {
                assert_eq!(other.kind(), self.kind(), "a value of another kind pushed");
                self.push_bits(out, time, other.bits().unwrap_or_default());
            }
        }
    }

    /// Appends a text as it stands in leaves.
    fn push_text(&mut self, out: &mut PageWriter<'_>, time: i64, stored: &str) {
        if self.edge.end().is_none() {
            self.begin(out);
        }
        let end = self.edge.end().unwrap_or_default();
        assert!(
            self.last_time().is_none_or(|last| time > last),
            "a point pushed that is not after the newest"
        );
        let repeats = end.points > 0 && self.repeats(stored);
        let mut bytes = Vec::with_capacity(stored.len() + 8 * DRAFT_WORDS);
        self.core
            .encoder
            .encode_text(end, time, stored, repeats, &mut bytes);
        out.heap += self.edge.push_bytes(time, &bytes) as i64;
        if end.points + 1 >= out.knobs.tail_points
            || end.bytes + bytes.len() >= out.knobs.tail_bytes
        {
            self.flush_tail(out, None);
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
    pub fn push_bits(&mut self, out: &mut PageWriter<'_>, time: i64, bits: u64) {
        if self.push_number(out, time, bits) {
            self.flush_tail(out, None);
        }
    }

    /// As [`Self::push_bits`], beside points that came late: those which belong between points that are not yet encoded
    /// as blocks of their final size are taken from there. The newest points wait for such, up to
    /// [`PageWriter::window_bytes`]. Returns whether late points were asked for.
    ///
    /// # Panics
    /// As [`Self::push_bits`].
    pub fn push_bits_beside(
        &mut self,
        out: &mut PageWriter<'_>,
        late: &mut dyn LatePoints,
        time: i64,
        bits: u64,
    ) -> bool {
        let is_full = self.push_number(out, time, bits);
        if is_full {
            self.flush_tail(out, Some(late));
        }
        is_full
    }

    /// Makes blocks of the newest points together with those late ones which belong among them.
    pub fn take_late(&mut self, out: &mut PageWriter<'_>, late: &mut dyn LatePoints) {
        if self.edge.end().is_some_and(|end| end.points > 0) {
            let window = std::mem::take(&mut out.window_bytes);
            self.flush_tail(out, Some(late));
            out.window_bytes = window;
        }
    }

    /// Returns whether the tail is full.
    #[inline(always)]
    fn push_number(&mut self, out: &mut PageWriter<'_>, time: i64, bits: u64) -> bool {
        let Some(next) = self.edge.next() else {
            self.begin(out);
            return self.push_number_again(out, time, bits);
        };
        let end = next.tail();
        assert!(
            time > end.last_time || end.points == 0 && next.is_first(),
            "a point pushed that is not after the newest"
        );
        let draft = self.core.encoder.encode_bits(end, time, bits);
        out.heap += next.push(time, &draft) as i64;
        end.points + 1 >= out.knobs.tail_points || end.bytes + draft.len() >= out.knobs.tail_bytes
    }

    #[cold]
    fn push_number_again(&mut self, out: &mut PageWriter<'_>, time: i64, bits: u64) -> bool {
        self.push_number(out, time, bits)
    }

    /// Publishes an empty tail.
    #[cold]
    fn begin(&mut self, out: &mut PageWriter<'_>) {
        let kind = self.kind();
        out.heap += self.edge.replace(kind, None, &[], 0);
    }

    /// Appends the points `begin..end` as they stand in leaves: long strings are references, others are quoted.
    ///
    /// # Panics
    /// As [`Self::push`].
    pub(crate) fn push_stored(
        &mut self,
        out: &mut PageWriter<'_>,
        column: &Column,
        begin: usize,
        end: usize,
    ) {
        for i in begin..end {
            let value = column.value(i).expect("as many values as times");
            match value {
                ValueRef::Str(stored) => self.push_text(out, column.times[i], stored),
                number => self.push_bits(out, column.times[i], number.bits().unwrap_or_default()),
            }
        }
    }

    /// What readers see from now on, whatever is pushed later. Cost: a few reference counts and a copy of
    /// the tail, at most about 1 KiB beside a long string's.
    pub fn snapshot(&self) -> TreeSnapshot {
        let core = &self.core;
        self.edge
            .snapshot(self.series, core.run_ordinal, core.birth)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.edge.heap_bytes()
    }

    /// Makes a block of the tail, and publishes it in the tail's place.
    #[cold]
    #[inline(never)]
    fn flush_tail(&mut self, out: &mut PageWriter<'_>, late: Option<&mut dyn LatePoints>) {
        self.flush(out, |sealed, out, tail, bytes| {
            sealed.add_tail(out, tail, bytes, late)
        });
    }

    /// Makes blocks of the tail and of all that waits.
    pub(crate) fn flush_whole(&mut self, out: &mut PageWriter<'_>) {
        self.flush(out, |sealed, out, tail, bytes| {
            sealed.note_newest(tail);
            sealed.settle_all(out, tail, bytes.len(), None)
        });
    }

    /// Hands the points of the tail to the sealed part, which returns those that stay.
    fn flush(
        &mut self,
        out: &mut PageWriter<'_>,
        add: impl FnOnce(&mut Sealed, &mut PageWriter<'_>, &Column, Arc<[u8]>) -> Option<Tail>,
    ) {
        let kind = self.kind();
        let tail = self.snapshot().tail;
        let mut column = column_of(kind, tail.points());
        tail.decode_into(&mut column)
            .expect("a tail reads what it wrote");
        let mut sealed = match self.edge.sealed() {
            Some(sealed) => Sealed::clone(sealed),
            None => Sealed::new(self.series, self.core.run_ordinal, self.core.birth),
        };
        let left = add(&mut sealed, out, &column, tail.bytes);
        let (encoder, end, bytes) = left.unwrap_or_else(|| Tail::new(kind)).into_parts();
        self.core.encoder = encoder;
        let head = Some(Arc::new(sealed));
        out.heap += self.edge.replace(kind, head, &bytes, end.points);
    }
}
