//! The store's snapshot as a source.

use std::ops::ControlFlow;

use alluvium_index::Selector;
use alluvium_store::{NameKind, SeriesCursor, SeriesSnapshot, Snapshot, StoreError};
use alluvium_types::{Aggregate, Column, TimeRange};

use crate::error::QueryError;
use crate::output_series::write_name;
use crate::source::{SeriesReader, SeriesScan, Source};
use crate::{Direction, ReadStats, SeriesInfo};

impl Source for Snapshot {
    fn select(
        &self,
        selector: &Selector,
        range: TimeRange,
        bytes_max: u64,
    ) -> Result<Vec<SeriesInfo>, QueryError> {
        self.select_within(selector, range, bytes_max)
            .map_err(index_failed)
    }

    fn knows(&self, selector: &Selector) -> Result<bool, QueryError> {
        Snapshot::knows(self, selector).map_err(index_failed)
    }

    fn metrics(
        &self,
        selector: &Selector,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, QueryError> {
        self.suggest(NameKind::Metric, selector, range, "", limit)
            .map_err(index_failed)
    }

    fn check(&self) -> Result<(), QueryError> {
        if self.is_dropped() {
            return Err(QueryError::Dropped);
        }
        Ok(())
    }

    fn prepare(&self, series: &[SeriesInfo]) {
        Snapshot::prepare(self, series);
    }

    fn open(&self, series: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
        Ok(Box::new(Opened {
            snapshot: self.series(series),
            info: series.clone(),
        }))
    }
}

fn index_failed(error: StoreError) -> QueryError {
    match error {
        StoreError::Selector(error) => QueryError::Selector(Box::new(error)),
        StoreError::LargeSelection { asked, limit } => QueryError::Memory {
            asked,
            used: 0,
            limit,
        },
        error => QueryError::Storage {
            series: "the index".into(),
            source: Box::new(error),
        },
    }
}

struct Opened {
    snapshot: SeriesSnapshot,
    info: SeriesInfo,
}

struct Scan {
    cursor: SeriesCursor,
    info: SeriesInfo,
}

fn failed<E>(info: &SeriesInfo) -> impl Fn(E) -> QueryError
where
    E: std::error::Error + Send + Sync + 'static,
{
    |error| QueryError::Storage {
        series: write_name(&info.metric_name(), info.key.tags()),
        source: Box::new(error),
    }
}

impl SeriesReader for Opened {
    fn bounds(&self) -> Option<(i64, i64)> {
        self.snapshot.first_time().zip(self.snapshot.last_time())
    }

    fn aggregate(&self, range: TimeRange, stats: &mut ReadStats) -> Result<Aggregate, QueryError> {
        self.snapshot
            .aggregate(range, stats)
            .map_err(failed(&self.info))
    }

    fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), QueryError> {
        self.snapshot
            .buckets(range, step_ns, origin, stats, emit)
            .map_err(failed(&self.info))
    }

    fn scan(&self, range: TimeRange, direction: Direction) -> Box<dyn SeriesScan> {
        Box::new(Scan {
            cursor: self.snapshot.scan(range, direction),
            info: self.info.clone(),
        })
    }
}

impl SeriesScan for Scan {
    fn next_batch(&mut self, stats: &mut ReadStats, out: &mut Column) -> Result<bool, QueryError> {
        self.cursor
            .next_batch(stats, out)
            .map_err(failed(&self.info))
    }
}
