//! Who owns a run: one thread, or one writer at a time with readers beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use alluvium_io::{Guarded, GuardedLock, Pin, Published};
use alluvium_types::{Lsn, SeriesId, ValueKind, ValueRef};

use crate::edge::{Edge, EdgeWriter, Head, heap_bytes, seen};
use crate::sealed::Sealed;
use crate::snapshot::TreeSnapshot;
use crate::tree::{Core, PageWriter, TreeMut};

/// One run of one series, of one kind: an append-only tree of pages, of which only the right edge is in
/// memory. Times strictly increase.
///
/// Memory: 80 bytes and the bytes of the tail until the first block exists; then the encoded blocks of one page, and
/// about 170 bytes for each unfinished entry of an inner page, 64 a level at most.
#[derive(Debug)]
pub struct Tree {
    series: SeriesId,
    pub(crate) core: Core,
    pub(crate) edge: Edge,
}

impl Tree {
    /// An empty run, opened by the batch at `birth`. Its kind is the series'.
    pub fn new(series: SeriesId, run_ordinal: u32, birth: Lsn) -> Self {
        Self {
            series,
            core: Core::new(series.kind(), run_ordinal, birth),
            edge: Edge::default(),
        }
    }

    /// A run of whole leaves and nothing in memory.
    pub(crate) fn of(sealed: Sealed) -> Self {
        let mut tree = Self::new(sealed.series, sealed.run_ordinal, sealed.birth);
        if sealed.points > 0 {
            let (kind, last_time) = (sealed.series.kind(), sealed.last_time);
            let head = Some(Arc::new(sealed));
            tree.edge.writer().replace(kind, head, &[], 0);
            *tree.edge.last_time.get_mut() = last_time;
        }
        tree
    }

    /// Its writer.
    #[inline]
    pub fn writer(&mut self) -> TreeMut<'_> {
        TreeMut {
            series: self.series,
            core: &mut self.core,
            edge: self.edge.writer(),
        }
    }

    /// See [`TreeMut::push`].
    ///
    /// # Panics
    /// If `time` is not after the newest point, or the value is of another kind.
    pub fn push(&mut self, out: &mut PageWriter<'_>, time: i64, value: ValueRef<'_>) {
        self.writer().push(out, time, value);
    }

    /// See [`TreeMut::push_bits`].
    ///
    /// # Panics
    /// If `time` is not after the newest point, or the tree holds strings.
    #[inline]
    pub fn push_bits(&mut self, out: &mut PageWriter<'_>, time: i64, bits: u64) {
        self.writer().push_bits(out, time, bits);
    }

    /// See [`TreeMut::snapshot`].
    pub fn snapshot(&self) -> TreeSnapshot {
        self.edge
            .snapshot(self.series(), self.run_ordinal(), self.birth())
    }

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
    pub fn kind(&self) -> ValueKind {
        self.core.encoder.kind()
    }

    /// Time of the newest point, in nanoseconds.
    pub fn last_time(&self) -> Option<i64> {
        self.edge.last_time()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.edge.published.read(heap_bytes).unwrap_or(0)
    }
}

/// A place for one run that readers see without a lock, beside the writers' own state `W`.
#[derive(Debug)]
pub struct SharedTree<W> {
    guarded: Guarded<Head, Owner<W>>,
    last_time: AtomicI64,
}

#[derive(Debug)]
struct Owner<W> {
    core: Option<Core>,
    state: W,
}

impl<W> SharedTree<W> {
    /// An empty place.
    pub fn new(state: W) -> Self {
        Self {
            guarded: Guarded::new(Owner { core: None, state }),
            last_time: AtomicI64::new(i64::MIN),
        }
    }

    /// The run as it is at this moment; `None` if there is none, it is empty, or it is
    /// [withheld](SharedTreeLock::withhold). Never waits. `series` names the series of the run's kind.
    ///
    /// Cost: a copy of the tail and a few reference counts.
    pub fn snapshot(&self, series: impl FnOnce(ValueKind) -> SeriesId) -> Option<TreeSnapshot> {
        seen(self.guarded.published(), &self.last_time, series)
    }

    /// Takes the writers' turn.
    #[inline]
    pub fn lock(&self) -> SharedTreeLock<'_, W> {
        SharedTreeLock {
            lock: self.guarded.lock(),
            last_time: &self.last_time,
        }
    }

    /// Asks the cache for what a push will touch: the tail, for which the place itself should be there already.
    #[inline]
    pub fn prefetch(&self) {
        self.guarded.published().prefetch();
    }

    /// Asks the cache for where the next bytes will go; [`Self::prefetch`] should have been some pushes ago.
    #[inline]
    pub fn prefetch_end(&self, pin: &Pin) {
        self.guarded.published().prefetch_end(pin);
    }
}

/// The writers' turn at a [`SharedTree`].
#[derive(Debug)]
pub struct SharedTreeLock<'a, W> {
    lock: GuardedLock<'a, Head, Owner<W>>,
    last_time: &'a AtomicI64,
}

impl<W> SharedTreeLock<'_, W> {
    /// The run, if there is one, and the state. `series` names the series of the run's kind.
    #[inline]
    pub fn split(
        &mut self,
        series: impl FnOnce(ValueKind) -> SeriesId,
    ) -> (Option<TreeMut<'_>>, &mut W) {
        let last_time = self.last_time;
        let (owner, writer) = self.lock.split();
        let tree = owner.core.as_mut().map(|core| TreeMut {
            series: series(core.encoder.kind()),
            core,
            edge: EdgeWriter { writer, last_time },
        });
        (tree, &mut owner.state)
    }

    /// Puts a run into the place, at once for readers; what was there is dropped. `withheld`: see [`Self::withhold`].
    pub fn put(&mut self, mut tree: Tree, withheld: bool) {
        let kind = tree.kind();
        if withheld && tree.edge.writer().end().is_none() {
            // Or there would be nothing to mark, and the first point would be seen.
            tree.edge.writer().replace(kind, None, &[], 0);
        }
        if tree.edge.writer().end().is_some() {
            tree.edge.writer().withhold(withheld);
        }
        let Tree { core, edge, .. } = tree;
        // Raised before the points are seen, lowered after: readers may take it for later than it is, never for earlier.
        let last_time = edge.last_time.into_inner();
        self.last_time.fetch_max(last_time, Ordering::Release);
        let (owner, mut writer) = self.lock.split();
        writer.adopt(edge.published);
        owner.core = Some(core);
        self.last_time.store(last_time, Ordering::Release);
    }

    /// Empties the place.
    pub fn clear(&mut self) {
        let (owner, mut writer) = self.lock.split();
        writer.adopt(Published::default());
        owner.core = None;
        self.last_time.store(i64::MIN, Ordering::Release);
    }

    /// Says whether readers may go by the run alone, or must take the writers' turn: there is more than the run.
    /// Has no effect before the first point.
    pub fn withhold(&mut self, withheld: bool) {
        let last_time = self.last_time;
        let (_, writer) = self.lock.split();
        let mut edge = EdgeWriter { writer, last_time };
        if edge.end().is_some() {
            edge.withhold(withheld);
        }
    }
}

impl<W> std::ops::Deref for SharedTreeLock<'_, W> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.lock.state
    }
}

impl<W> std::ops::DerefMut for SharedTreeLock<'_, W> {
    fn deref_mut(&mut self) -> &mut W {
        &mut self.lock.state
    }
}
