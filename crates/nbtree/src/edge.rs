//! The right edge of a run as its one writer and any number of readers share it: the sealed part as a whole, and the
//! open tail up to what is published. See `alluvium_io::Published`; this says what stands in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use alluvium_codec::{DRAFT_WORDS, Draft, TailEnd, tail_first_time};
use alluvium_io::{Published, PublishedEnd, PublishedWriter, SHORT_WORDS, View};
use alluvium_types::{Lsn, SeriesId, ValueKind};

use crate::sealed::Sealed;
use crate::snapshot::{TailBytes, TreeSnapshot};

/// Everything before the tail; `None` while nothing is.
pub(crate) type Head = Option<Arc<Sealed>>;

const _: () = assert!(DRAFT_WORDS == SHORT_WORDS);

/// The note: points of the tail in 16 bits, the kind in 4, and whether readers may not go by this alone.
const KIND_SHIFT: u32 = 16;
const WITHHELD: u64 = 1 << 20;

fn note_of(kind: ValueKind, points: usize) -> u64 {
    points as u64 | u64::from(kind.number()) << KIND_SHIFT
}

fn points_of(note: u64) -> usize {
    usize::from(note as u16)
}

fn kind_of(note: u64) -> Option<ValueKind> {
    ValueKind::from_number((note >> KIND_SHIFT) as u8 & 0xf)
}

/// Whether there ever was a point.
fn is_begun(view: &View<'_, Head>) -> bool {
    points_of(view.note()) > 0 || view.head().is_some()
}

/// Bytes on the heap.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is handed where a view is given"
)]
pub(crate) fn heap_bytes(view: View<'_, Head>) -> usize {
    view.heap_bytes() + view.head().as_ref().map_or(0, |s| s.heap_bytes())
}

/// Copies what a view shows.
fn take(view: &View<'_, Head>, kind: ValueKind, last_time: i64) -> (Head, TailBytes) {
    let mut bytes = Vec::new();
    view.read(&mut bytes);
    let points = points_of(view.note());
    let first_time = tail_first_time(&bytes).unwrap_or(last_time);
    let tail = TailBytes {
        kind,
        points: points as u32,
        first_time,
        last_time,
        bytes: bytes.into(),
    };
    (view.head().clone(), tail)
}

/// What is published, and the time of the newest point beside it.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) published: Published<Head>,
    pub(crate) last_time: AtomicI64,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            published: Published::default(),
            last_time: AtomicI64::new(i64::MIN),
        }
    }
}

impl Edge {
    pub(crate) fn snapshot(&self, series: SeriesId, ordinal: u32, birth: Lsn) -> TreeSnapshot {
        let last_time = || self.last_time.load(Ordering::Acquire);
        let seen = self
            .published
            .read(|view| take(&view, series.kind(), last_time()));
        let (head, tail) = seen.unwrap_or_else(|| (None, TailBytes::empty(series.kind())));
        TreeSnapshot::new(series, ordinal, Some(birth), head, tail)
    }

    pub(crate) fn last_time(&self) -> Option<i64> {
        let any = self.published.read(|view| is_begun(&view))?;
        any.then(|| self.last_time.load(Ordering::Acquire))
    }

    pub(crate) fn writer(&mut self) -> EdgeWriter<'_> {
        EdgeWriter {
            writer: self.published.writer(),
            last_time: &self.last_time,
        }
    }
}

/// What a reader beside the writer sees; `None` before the first point and while it is withheld. The last time may be
/// that of a point pushed at this moment.
pub(crate) fn seen(
    published: &Published<Head>,
    last_time: &AtomicI64,
    series: impl FnOnce(ValueKind) -> SeriesId,
) -> Option<TreeSnapshot> {
    let (head, tail) = published.read(|view| {
        let kind = kind_of(view.note()).filter(|_| view.note() & WITHHELD == 0)?;
        // Behind the word, so that it is not before the newest point seen.
        Some(take(&view, kind, last_time.load(Ordering::Acquire)))
    })??;
    let (ordinal, birth) = head
        .as_ref()
        .map_or((0, None), |s| (s.run_ordinal, Some(s.birth)));
    Some(TreeSnapshot::new(
        series(tail.kind),
        ordinal,
        birth,
        head,
        tail,
    ))
}

/// The one writer of an edge.
#[derive(Debug)]
pub(crate) struct EdgeWriter<'a> {
    pub(crate) writer: PublishedWriter<'a, Head>,
    pub(crate) last_time: &'a AtomicI64,
}

impl EdgeWriter<'_> {
    /// How far the tail has come; `None` before the first head.
    #[inline]
    pub(crate) fn end(&self) -> Option<TailEnd> {
        let view = self.writer.view()?;
        Some(TailEnd {
            points: points_of(view.note()),
            bytes: view.len(),
            last_time: self.last_time.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn sealed(&self) -> Option<&Arc<Sealed>> {
        self.writer.view()?.head().as_ref()
    }

    /// Time of the newest point ever pushed.
    #[inline]
    pub(crate) fn last_time(&self) -> Option<i64> {
        is_begun(&self.writer.view()?).then(|| self.last_time.load(Ordering::Relaxed))
    }

    /// Whether the tail holds these bytes at `begin`.
    pub(crate) fn holds(&self, begin: usize, bytes: &[u8]) -> bool {
        self.writer.view().is_some_and(|v| v.holds(begin, bytes))
    }

    /// Where the next point goes; `None` before the first head.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<EdgeEnd<'_>> {
        Some(EdgeEnd {
            end: self.writer.end()?,
            last_time: self.last_time,
        })
    }

    /// Appends one point of so many bytes. Returns what it took of the heap.
    pub(crate) fn push_bytes(&mut self, time: i64, bytes: &[u8]) -> usize {
        self.last_time.store(time, Ordering::Relaxed);
        let note = self.note() + 1;
        self.writer.append(bytes, note)
    }

    #[inline]
    fn note(&self) -> u64 {
        self.writer.view().map_or(0, |v| v.note())
    }

    /// Publishes another head and a tail of so many points in one step. Returns by how much the heap grew.
    pub(crate) fn replace(
        &mut self,
        kind: ValueKind,
        head: Head,
        tail: &[u8],
        points: usize,
    ) -> i64 {
        let before = self.heap_bytes() as i64;
        let note = note_of(kind, points) | self.note() & WITHHELD;
        self.writer.replace(head, tail, note);
        self.heap_bytes() as i64 - before
    }

    /// Says whether readers may go by this edge alone.
    pub(crate) fn withhold(&mut self, withheld: bool) {
        let note = self.note();
        let wanted = if withheld {
            note | WITHHELD
        } else {
            note & !WITHHELD
        };
        if note != wanted {
            self.writer.set_note(wanted);
        }
    }

    /// What the writer itself sees.
    pub(crate) fn snapshot(&self, series: SeriesId, ordinal: u32, birth: Lsn) -> TreeSnapshot {
        let last_time = self.last_time.load(Ordering::Relaxed);
        let (head, tail) = match self.writer.view() {
            Some(view) => take(&view, series.kind(), last_time),
            None => (None, TailBytes::empty(series.kind())),
        };
        TreeSnapshot::new(series, ordinal, Some(birth), head, tail)
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.writer.view().map_or(0, heap_bytes)
    }
}

/// Where the one writer of an edge goes on: looked up once a point.
#[derive(Debug)]
pub(crate) struct EdgeEnd<'a> {
    end: PublishedEnd<'a, Head>,
    last_time: &'a AtomicI64,
}

impl EdgeEnd<'_> {
    #[inline]
    pub(crate) fn tail(&self) -> TailEnd {
        TailEnd {
            points: points_of(self.end.note()),
            bytes: self.end.len(),
            last_time: self.last_time.load(Ordering::Relaxed),
        }
    }

    /// Whether there is nothing before the tail.
    #[inline]
    pub(crate) fn is_first(&self) -> bool {
        self.end.head().is_none()
    }

    /// Appends one point. Returns what it took of the heap.
    #[inline]
    pub(crate) fn push(self, time: i64, draft: &Draft) -> usize {
        self.last_time.store(time, Ordering::Relaxed);
        let note = self.end.note() + 1;
        self.end.append_short(draft.words(), draft.len(), note)
    }
}
