//! A snapshot that answers without its damaged pages and blocks of the index, and remembers what is missing.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_store::{
    IndexLoss, LostPoints, SeriesCursor, SeriesReadError, SeriesSnapshot, Snapshot,
};
use alluvium_types::{Aggregate, Column, TimeRange};
use parking_lot::Mutex;

use crate::error::QueryError;
use crate::output_series::write_name;
use crate::source::{SeriesReader, SeriesScan, Source};
use crate::{Direction, ReadStats, Selector, SeriesInfo};

/// Losses of one query that are told one by one.
pub const LOSSES_MAX: usize = 100;

/// What an answer lacks: shared by whoever answers and whoever reads.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    sentences: Vec<String>,
    more: u64,
    /// A sentence for each partition of which tag sets may be missing.
    of_index: Vec<String>,
}

impl Losses {
    /// Whether anything is missing.
    pub fn is_empty(&self) -> bool {
        let found = self.0.lock();
        found.sentences.is_empty() && found.of_index.is_empty()
    }

    /// A sentence for each of the first [`LOSSES_MAX`] damaged pages and blocks of the index that were met, with what is missing,
    /// and one that counts the others.
    pub fn sentences(&self) -> Vec<String> {
        let found = self.0.lock();
        let mut all = found.of_index.clone();
        all.extend_from_slice(&found.sentences);
        if found.more > 0 {
            all.push(format!(
                "partial: {} more damaged pages or blocks",
                found.more
            ));
        }
        all
    }

    /// Notes which tag sets an answer may lack, in place of those noted before.
    pub fn note_index(&self, losses: &[IndexLoss]) {
        let sentence = |loss: &IndexLoss| {
            format!(
                "partial: up to {} tag sets of partition {} may be missing: {}",
                loss.tag_sets, loss.partition.0, loss.error
            )
        };
        self.0.lock().of_index = losses.iter().map(sentence).collect();
    }

    fn note(&self, info: &SeriesInfo, lost: &LostPoints, error: &SeriesReadError) {
        let name = write_name(&info.metric_name(), info.key.tags());
        let sentence = format!(
            "partial: {} points of {name} from {} to {} ns are missing: {error}",
            lost.points, lost.first_time, lost.last_time
        );
        let mut found = self.0.lock();
        if found.sentences.contains(&sentence) {
            return;
        }
        if found.sentences.len() < LOSSES_MAX {
            found.sentences.push(sentence);
        } else {
            found.more += 1;
        }
    }
}

/// A [`Source`] that goes around damaged pages. Within the times of one, points of other runs of its series are left out
/// of aggregates, too.
#[derive(Debug, Clone)]
pub struct Tolerant {
    snapshot: Snapshot,
    losses: Losses,
}

impl Tolerant {
    /// Answers from `snapshot`; what is missing goes to `losses`.
    pub fn new(snapshot: Snapshot, losses: Losses) -> Self {
        let snapshot = snapshot.tolerant();
        Self { snapshot, losses }
    }

    /// An answer of the index, with a note of what it may lack.
    fn noted<T>(&self, answer: T) -> T {
        self.losses.note_index(&self.snapshot.index_losses());
        answer
    }
}

impl Source for Tolerant {
    fn select(
        &self,
        selector: &Selector,
        range: TimeRange,
        bytes_max: u64,
    ) -> Result<Vec<SeriesInfo>, QueryError> {
        self.noted(Source::select(&self.snapshot, selector, range, bytes_max))
    }

    fn knows(&self, selector: &Selector) -> Result<bool, QueryError> {
        self.noted(Source::knows(&self.snapshot, selector))
    }

    fn metrics(
        &self,
        selector: &Selector,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<String>, QueryError> {
        self.noted(Source::metrics(&self.snapshot, selector, range, limit))
    }

    fn prepare(&self, series: &[SeriesInfo]) {
        Source::prepare(&self.snapshot, series);
    }

    fn open(&self, series: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
        Ok(Box::new(Opened {
            snapshot: self.snapshot.series(series),
            context: Context {
                info: series.clone(),
                losses: self.losses.clone(),
            },
        }))
    }
}

#[derive(Clone)]
struct Context {
    info: SeriesInfo,
    losses: Losses,
}

impl Context {
    fn failed(&self, error: SeriesReadError) -> QueryError {
        QueryError::Storage {
            series: write_name(&self.info.metric_name(), self.info.key.tags()),
            source: Box::new(error),
        }
    }

    /// What of `rest` is left around the points that an error tells are lost: in front of them and behind.
    fn around(
        &self,
        rest: TimeRange,
        error: SeriesReadError,
    ) -> Result<[TimeRange; 2], QueryError> {
        let lost = error
            .lost()
            .filter(|l| rest.overlaps(l.first_time, l.last_time));
        let Some(lost) = lost else {
            return Err(self.failed(error));
        };
        self.losses.note(&self.info, &lost, &error);
        let part = |begin: i64, end: i64| TimeRange::new(begin, end.max(begin));
        let first = lost.first_time.max(rest.begin());
        let behind = lost.last_time.saturating_add(1).min(rest.end());
        let parts = part(rest.begin(), first).and_then(|a| Ok([a, part(behind, rest.end())?]));
        parts.map_err(|_| self.failed(error))
    }
}

struct Opened {
    snapshot: SeriesSnapshot,
    context: Context,
}

impl SeriesReader for Opened {
    fn bounds(&self) -> Option<(i64, i64)> {
        self.snapshot.first_time().zip(self.snapshot.last_time())
    }

    fn aggregate(&self, range: TimeRange, stats: &mut ReadStats) -> Result<Aggregate, QueryError> {
        let mut whole: Option<Aggregate> = None;
        let mut parts = VecDeque::from([range]);
        while let Some(part) = parts.pop_front() {
            match self.snapshot.aggregate(part, stats) {
                Ok(aggregate) => match &mut whole {
                    Some(whole) => whole.merge(&aggregate),
                    None => whole = Some(aggregate),
                },
                Err(error) => {
                    let [before, behind] = self.context.around(part, error)?;
                    parts.push_front(behind);
                    parts.push_front(before);
                }
            }
        }
        Ok(whole.unwrap_or_else(|| Aggregate::empty(self.context.info.id.kind())))
    }

    fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        origin: i64,
        stats: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), QueryError> {
        let mut parts = VecDeque::from([range]);
        // The last bin, which what lies behind a damaged page may add to.
        let mut held: Option<(i64, Aggregate)> = None;
        while let Some(part) = parts.pop_front() {
            let (mut next, mut stopped) = (part.begin(), false);
            let mut take = |bin: i64, aggregate: &Aggregate| {
                next = next.max(bin.saturating_add(step_ns));
                match &mut held {
                    Some((of, whole)) if *of == bin => whole.merge(aggregate),
                    _ => {
                        if let Some((of, whole)) = held.replace((bin, *aggregate))
                            && emit(of, &whole).is_break()
                        {
                            stopped = true;
                            return ControlFlow::Break(());
                        }
                    }
                }
                ControlFlow::Continue(())
            };
            let result = self
                .snapshot
                .buckets(part, step_ns, origin, stats, &mut take);
            if stopped {
                return Ok(());
            }
            if let Err(error) = result {
                let next = next.min(part.end());
                let rest = TimeRange::new(next, part.end()).unwrap_or(part);
                let [before, behind] = self.context.around(rest, error)?;
                parts.push_front(behind);
                parts.push_front(before);
            }
        }
        if let Some((bin, aggregate)) = held {
            let _ = emit(bin, &aggregate);
        }
        Ok(())
    }

    fn scan(&self, range: TimeRange, direction: Direction) -> Box<dyn SeriesScan> {
        Box::new(Scan {
            cursor: self.snapshot.scan(range, direction),
            context: self.context.clone(),
        })
    }
}

struct Scan {
    cursor: SeriesCursor,
    context: Context,
}

impl SeriesScan for Scan {
    fn next_batch(&mut self, stats: &mut ReadStats, out: &mut Column) -> Result<bool, QueryError> {
        loop {
            match self.cursor.next_batch(stats, out) {
                Ok(more) => return Ok(more),
                Err(error) => match error.lost() {
                    // The cursor has moved behind it.
                    Some(lost) => self.context.losses.note(&self.context.info, &lost, &error),
                    None => return Err(self.context.failed(error)),
                },
            }
        }
    }
}
