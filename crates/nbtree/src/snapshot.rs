//! One run of one series: the reading side, as it was at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_codec::TailSnapshot;
use alluvium_types::{Aggregate, Column, Lsn, SeriesId, TimeRange, ValueKind};
use smallvec::SmallVec;

use crate::cursor::{Cursor, Direction};
use crate::error::TreeError;
use crate::open_leaf::OpenLeaf;
use crate::reader::Reader;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;
use crate::walk::{Buckets, Walk};

/// A run as it was when the snapshot was taken. Holding it keeps nothing from being written; pages it refers
/// to may expire meanwhile, which reads as absence.
#[derive(Debug, Clone)]
pub struct TreeSnapshot {
    pub(crate) series: SeriesId,
    pub(crate) run_ordinal: u32,
    pub(crate) birth: Lsn,
    pub(crate) lsn: Lsn,
    pub(crate) next_leaf: u32,
    pub(crate) points: u64,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    pub(crate) levels: SmallVec<[Arc<Vec<SubtreeRef>>; 4]>,
    pub(crate) open: Option<Arc<OpenLeaf>>,
    pub(crate) tail: TailSnapshot,
}

impl TreeSnapshot {
    /// The series it belongs to.
    pub fn series(&self) -> SeriesId {
        self.series
    }

    /// Its number among the runs of the series.
    pub fn run_ordinal(&self) -> u32 {
        self.run_ordinal
    }

    /// Position of the batch that opened the run.
    pub fn birth(&self) -> Lsn {
        self.birth
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

    /// Time of the newest point, in nanoseconds.
    pub fn last_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.last_time)
    }

    /// The references no inner page holds yet: `[0]` to leaves, `[n]` to inner pages of level n; the highest
    /// level holds the oldest points. For inspection.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &[SubtreeRef]> {
        self.levels.iter().map(|level| level.as_slice())
    }

    /// Leaves written, those of the runs merged into it included.
    pub fn leaves(&self) -> u64 {
        let entries = self.levels.iter().flat_map(|level| level.iter());
        entries.map(|e| u64::from(e.leaves)).sum()
    }

    /// Appends the points that no page holds yet to `out`, long strings as references.
    pub(crate) fn unsealed(&self, out: &mut Column) -> Result<(), TreeError> {
        let broken = |cause| TreeError::OpenLeaf {
            series: self.series,
            cause,
        };
        if let Some(open) = &self.open {
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
    /// decoded. Expired pages that lie wholly inside still count by their aggregate.
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
        let mut walk = Walk::new(reader, range, buckets, emit);
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
