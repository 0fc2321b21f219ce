//! The seam between the query engine and whatever holds series.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use alluvium_types::{Aggregate, Column, TimeRange};

use crate::error::QueryError;
use crate::{Direction, ReadStats, Selector, SeriesInfo};

/// Series that can be found by their labels. One of the four seams of the project; the store's snapshot is
/// the real one, tests bring their own.
pub trait Source: Send {
    /// The series a selector matches, in any order, no series twice. Numeric kinds of one field are one entry;
    /// a string sibling is an entry of its own. Series without a point in `range` may be left out, and should be where
    /// the source can tell without looking at them.
    ///
    /// # Errors
    /// If the selector does not compile or the series cannot be listed, and [`QueryError::Memory`] if the list would take
    /// clearly more than `bytes_max` bytes of memory.
    fn select(
        &self,
        selector: &Selector,
        range: TimeRange,
        bytes_max: u64,
    ) -> Result<Vec<SeriesInfo>, QueryError>;

    /// Whether a selector matches any series, whenever its points are.
    ///
    /// # Errors
    /// As [`Source::select`].
    fn knows(&self, selector: &Selector) -> Result<bool, QueryError> {
        let found = self.select(selector, TimeRange::ALL, u64::MAX)?;
        Ok(!found.is_empty())
    }

    /// Names of the metrics that a selector leaves, the first `limit` of them in their order. Those without a point in
    /// `range` may be left out.
    ///
    /// # Errors
    /// As [`Source::select`].
    fn metrics(
        &self,
        selector: &Selector,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, QueryError> {
        let found = self.select(selector, range, u64::MAX)?;
        let names: BTreeSet<String> = found.iter().map(SeriesInfo::metric_name).collect();
        Ok(names.into_iter().take(limit).collect())
    }

    /// Whether what was read so far is to be trusted.
    ///
    /// # Errors
    /// [`QueryError::Dropped`] if the data has gone meanwhile, so that points may be missing without a word.
    fn check(&self) -> Result<(), QueryError> {
        Ok(())
    }

    /// Says that these are opened next, so that what must be read for that is read for many at a time.
    fn prepare(&self, _series: &[SeriesInfo]) {}

    /// A consistent view of one series, from now on.
    ///
    /// # Errors
    /// If the series cannot be opened.
    fn open(&self, series: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError>;
}

/// A consistent view of one series. All values are of the kind of the series' id.
pub trait SeriesReader: Send {
    /// Times no point lies before and no point lies after; `None` when there is no point. They may be wider
    /// than the points, never narrower.
    fn bounds(&self) -> Option<(i64, i64)>;

    /// What is known of the points in `range`.
    ///
    /// # Errors
    /// If a page cannot be read.
    fn aggregate(&self, range: TimeRange, stats: &mut ReadStats) -> Result<Aggregate, QueryError>;

    /// The aggregate of each bin `[origin + k*step, origin + (k+1)*step)` that holds points of `range`, oldest
    /// first, with the bin's begin, until `emit` breaks.
    ///
    /// # Errors
    /// If a page cannot be read.
    fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), QueryError>;

    /// The points of `range`, in batches. Reads nothing until the first batch is asked for.
    fn scan(&self, range: TimeRange, direction: Direction) -> Box<dyn SeriesScan>;
}

/// The points of one series, a batch at a time.
pub trait SeriesScan: Send {
    /// Replaces the content of `out` by the next batch, in the order asked for. False, and nothing in `out`,
    /// at the end.
    ///
    /// # Errors
    /// If a page cannot be read.
    fn next_batch(&mut self, stats: &mut ReadStats, out: &mut Column) -> Result<bool, QueryError>;
}
