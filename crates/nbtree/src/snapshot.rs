//! One run of one series: the reading side, as it was at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_codec::{CodecError, decode_tail};
use alluvium_types::{Aggregate, Column, Lsn, SeriesId, TimeRange, ValueKind};

use crate::cursor::{Cursor, Direction};
use crate::error::TreeError;
use crate::expiry::Expiry;
use crate::open_leaf::OpenLeaf;
use crate::reader::Reader;
use crate::sealed::Sealed;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;
use crate::walk::{Buckets, Walk};

/// The tail of a run as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct TailBytes {
    pub(crate) kind: ValueKind,
    pub(crate) points: u32,
    pub(crate) first_time: i64,
    /// Not before the newest point.
    pub(crate) last_time: i64,
    pub(crate) bytes: Arc<[u8]>,
}

impl TailBytes {
    pub(crate) fn empty(kind: ValueKind) -> Self {
        Self {
            kind,
            points: 0,
            first_time: 0,
            last_time: 0,
            bytes: Arc::default(),
        }
    }

    pub(crate) fn points(&self) -> usize {
        self.points as usize
    }

    pub(crate) fn span(&self) -> Option<(i64, i64)> {
        (self.points > 0).then_some((self.first_time, self.last_time))
    }

    /// Appends the points to a column of the same kind.
    pub(crate) fn decode_into(&self, out: &mut Column) -> Result<(), CodecError> {
        decode_tail(self.kind, &self.bytes, self.points(), out)
    }
}

/// A run as it was when the snapshot was taken. Holding it keeps nothing from being written; pages it refers
/// to may expire meanwhile, which reads as absence.
#[derive(Debug, Clone)]
pub struct TreeSnapshot {
    pub(crate) series: SeriesId,
    pub(crate) run_ordinal: u32,
    pub(crate) birth: Option<Lsn>,
    pub(crate) points: u64,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    pub(crate) sealed: Option<Arc<Sealed>>,
    pub(crate) tail: TailBytes,
    pub(crate) expiry: Expiry,
    /// Compound points that overlap any of these are gone.
    pub(crate) holes: Option<Arc<[TimeRange]>>,
}

impl TreeSnapshot {
    pub(crate) fn new(
        series: SeriesId,
        run_ordinal: u32,
        birth: Option<Lsn>,
        sealed: Option<Arc<Sealed>>,
        tail: TailBytes,
    ) -> Self {
        let (before, first_time) = sealed
            .as_ref()
            .map_or((0, tail.first_time), |s| (s.points, s.first_time));
        Self {
            series,
            run_ordinal,
            birth,
            points: before + u64::from(tail.points),
            first_time,
            last_time: tail.last_time,
            sealed,
            tail,
            expiry: Expiry::default(),
            holes: None,
        }
    }

    pub(crate) fn levels(&self) -> &[Arc<Vec<SubtreeRef>>] {
        self.sealed.as_ref().map_or(&[], |s| &s.levels)
    }

    /// Serial number of the next leaf.
    pub(crate) fn next_leaf(&self) -> u32 {
        self.sealed.as_ref().map_or(0, |s| s.next_leaf)
    }

    pub(crate) fn open(&self) -> Option<&OpenLeaf> {
        self.sealed.as_ref().map(|s| &s.open)
    }

    /// The series it belongs to.
    pub fn series(&self) -> SeriesId {
        self.series
    }

    /// Its number among the runs of the series.
    pub fn run_ordinal(&self) -> u32 {
        self.run_ordinal
    }

    /// Position of the batch that opened the run; `None` if it was taken without the lock and before the first block.
    pub fn birth(&self) -> Option<Lsn> {
        self.birth
    }

    /// The same run, of which some points have expired.
    #[must_use]
    pub fn with_expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// The same run, of which no compound point may be used that overlaps one of these ranges: some of its points are
    /// deleted. Points that can be told apart are left to the caller, which does not ask for those ranges.
    #[must_use]
    pub fn with_holes(mut self, holes: &[TimeRange]) -> Self {
        self.holes = (!holes.is_empty()).then(|| holes.into());
        self
    }

    /// The kind of its values.
    pub fn kind(&self) -> ValueKind {
        self.series.kind()
    }

    /// How many points it holds, expired ones included.
    pub fn points(&self) -> u64 {
        self.points
    }

    /// Time of the oldest point, in nanoseconds.
    pub fn first_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.first_time)
    }

    /// Time of the newest point, in nanoseconds; of one pushed at that moment if it was taken without the lock.
    pub fn last_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.last_time)
    }

    /// The references no inner page holds yet: `[0]` to leaves, `[n]` to inner pages of level n; the highest
    /// level holds the oldest points. For inspection.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &[SubtreeRef]> {
        self.levels().iter().map(|level| level.as_slice())
    }

    /// Leaves written, those of the runs merged into it included.
    pub fn leaves(&self) -> u64 {
        let entries = self.levels().iter().flat_map(|level| level.iter());
        entries.map(|e| u64::from(e.leaves)).sum()
    }

    /// Appends the points that no page holds yet to `out`, long strings as references.
    pub(crate) fn unsealed(&self, out: &mut Column) -> Result<(), TreeError> {
        let broken = |cause| TreeError::OpenLeaf {
            series: self.series,
            cause,
        };
        if let Some(open) = self.open() {
            for index in 0..open.blocks().count() {
                open.decode(index, out).map_err(broken)?;
            }
        }
        if self.tail.points() > 0 {
            self.tail.decode_into(out).map_err(broken)?;
        }
        Ok(())
    }

    /// The aggregate of the points in `range`.
    ///
    /// Opens at most two inner pages a level and two leaves; blocks of those leaves that lie outside are not
    /// decoded. Expired pages that lie wholly inside still count by their aggregate, unless [`Self::with_expiry`] says otherwise.
    ///
    /// # Errors
    /// If a page that is needed is damaged, or the device fails.
    pub fn aggregate(
        &self,
        pages: &BlockStore,
        range: TimeRange,
        stats: &mut ReadStats,
    ) -> Result<Aggregate, TreeError> {
        let mut all = Aggregate::empty(self.kind());
        let mut emit = |_: i64, bucket: &Aggregate| {
            all = *bucket;
            ControlFlow::Continue(())
        };
        self.walk(pages, range, Buckets::one(range), stats, &mut emit)?;
        Ok(all)
    }

    /// The aggregates of the points in `range` by buckets `[origin + k * step_ns, origin + (k + 1) * step_ns)`:
    /// those that are not empty, in the order of time, each with where its bucket begins (the earliest time
    /// if that is before it). Stops early if `emit` says so.
    ///
    /// Opens only pages that hold a border of a bucket, in batches.
    ///
    /// # Errors
    /// If a page that is needed is damaged, or the device fails. Buckets that end before it were emitted.
    ///
    /// # Panics
    /// If `step_ns` is not positive.
    pub fn buckets(
        &self,
        pages: &BlockStore,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        assert!(step_ns > 0, "a bucket needs a positive step");
        self.walk(pages, range, Buckets::grid(step_ns, origin), stats, emit)
    }

    fn walk(
        &self,
        pages: &BlockStore,
        range: TimeRange,
        buckets: Buckets,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let overlaps = self.points > 0 && range.overlaps(self.first_time, self.last_time);
        if !overlaps {
            return Ok(());
        }
        let reader = Reader {
            pages,
            series: self.series,
            stats,
        };
        let mut walk = Walk::new(reader, range, buckets, self, emit);
        match walk.run(self)? {
            ControlFlow::Continue(()) => walk.finish(),
            ControlFlow::Break(()) => {}
        }
        Ok(())
    }

    /// The points in `range`, batch by batch.
    pub fn scan(&self, range: TimeRange, direction: Direction) -> Cursor {
        Cursor::new(self.clone(), range, direction)
    }
}
