//! Writes anew the runs that have pages in volumes that are to go.

use std::sync::Arc;

use alluvium_nbtree::{PageWalk, ReadStats, TreeSnapshot, WalkScope};
use alluvium_types::ValueKind;

use crate::databases::DatabaseState;
use crate::error::SeriesReadError;
use crate::open::StoreInner;
use crate::series::Series;
use crate::space::marking::pages_read;
use crate::space::series_walk::SeriesWalk;

/// Series looked at in one call.
const LOOKS: usize = 64;

/// Volumes of a database being left.
#[derive(Debug)]
pub(super) struct Leaving {
    pub database: Arc<DatabaseState>,
    /// Ascending; closed.
    pub volumes: Arc<[u32]>,
    walk: SeriesWalk,
    /// The series at hand, and those of its runs that may have pages there.
    at: Option<(Arc<Series>, Vec<(u32, PageWalk)>)>,
}

/// What a look came to.
pub(super) enum LeaveProgress {
    More,
    /// A run with a page there: its series, which may be away, and ordinal.
    Found(Arc<Series>, u32),
    Done,
}

impl Leaving {
    pub(super) fn new(database: Arc<DatabaseState>, volumes: Vec<u32>) -> Self {
        Self {
            database,
            volumes: volumes.into(),
            walk: SeriesWalk::default(),
            at: None,
        }
    }

    /// Looks for the next run with a page in one of the volumes, until about `budget` pages were read.
    pub(super) fn step(
        &mut self,
        store: &StoreInner,
        budget: u64,
        spent: &mut u64,
    ) -> Result<LeaveProgress, SeriesReadError> {
        let mut stats = ReadStats::default();
        let mut looks = 0;
        let progress = loop {
            if let Some((series, runs)) = &mut self.at
                && let Some((ordinal, walk)) = runs.last_mut()
            {
                let left = budget.saturating_sub(pages_read(&stats));
                if left == 0 {
                    break LeaveProgress::More;
                }
                let (volumes, mut is_there) = (&self.volumes, false);
                let mut seen = |addr: alluvium_block::LogicAddr| {
                    is_there |= volumes.binary_search(&addr.volume).is_ok();
                };
                let more = walk.step(&store.block, &mut stats, left as usize, &mut seen)?;
                let ordinal = *ordinal;
                if is_there || !more {
                    runs.pop();
                }
                if is_there {
                    break LeaveProgress::Found(Arc::clone(series), ordinal);
                }
                continue;
            }
            if looks >= LOOKS {
                break LeaveProgress::More;
            }
            looks += 1;
            match self.walk.next(store, &self.database)? {
                Some(series) => {
                    let runs = self.candidates(&series);
                    self.at = Some((series, runs));
                }
                None => break LeaveProgress::Done,
            }
        };
        *spent += pages_read(&stats);
        Ok(progress)
    }

    /// Runs of a series that may have pages there, as far as one can tell without reading.
    fn candidates(&self, series: &Series) -> Vec<(u32, PageWalk)> {
        let Some(newest) = self.volumes.last() else {
            return Vec::new();
        };
        let scope = WalkScope {
            newest_volume: *newest,
            texts: true,
        };
        let cut = self.database.retention.cut();
        let may_be_there = |run: &TreeSnapshot| {
            let entries = run.roots().flatten();
            let mut old = entries.filter(|entry| entry.oldest_volume <= *newest);
            old.next().is_some() || run.kind() == ValueKind::Str
        };
        // Leaves without points cannot be written anew.
        let has_compounds = |run: &TreeSnapshot| {
            cut.keeps_aggregates() && run.first_time().is_some_and(|first| first < cut.points)
        };
        let mut state = series.lock();
        if state.rare().is_some_and(|r| r.merging.is_some()) {
            return Vec::new();
        }
        let runs = state.snapshots().into_iter();
        let runs = runs.filter(|run| may_be_there(run) && !has_compounds(run));
        runs.map(|run| (run.run_ordinal(), PageWalk::new(run, scope)))
            .collect()
    }
}
