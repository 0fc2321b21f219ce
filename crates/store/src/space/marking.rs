//! The walk that marks every living page of a database.
//!
//! Pages written after it began are not judged, so it does not matter what is written, merged or deleted meanwhile: a
//! page that was dead when the walk came by its series never lives again.

use std::sync::Arc;

use alluvium_nbtree::{PageWalk, ReadStats, TreeSnapshot, WalkScope};

use crate::databases::DatabaseState;
use crate::error::SeriesReadError;
use crate::merging::Merger;
use crate::open::StoreInner;
use crate::space::marks::Marks;
use crate::space::series_walk::SeriesWalk;

/// Pages whose marks are held at once: 32 MiB of them. A larger database is walked through once for each part.
const MARKED_PAGES_MAX: u64 = 1 << 28;
/// Series looked at in one call.
const LOOKS: usize = 64;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Marking {
    pub database: Arc<DatabaseState>,
    pub marks: Marks,
    /// Volumes behind this one are for the next walk; 0 if these were all.
    pub rest_from: u32,
    /// The debt it is to settle: comes back if it fails.
    pub debt: u64,
    scope: WalkScope,
    walk: SeriesWalk,
    /// Runs of the series at hand.
    runs: Vec<PageWalk>,
}

/// How a walk goes on.
pub(super) enum MarkProgress {
    More,
    Done,
}

impl Marking {
    /// Begins a walk. No merge may be under way: pages that it has written would lead nowhere.
    pub(super) fn begin(store: &StoreInner, merger: &Merger, database: Arc<DatabaseState>) -> Self {
        let debt = database.space.take_debt();
        let from = database.space.part_begin();
        // Every page in these extents that is written by then is found by the walk, which begins behind that.
        let mut survey = store.block.survey(database.id);
        for shard in &store.shards {
            survey.note_open(&shard.state.lock().appender);
        }
        survey.note_open(&merger.appender);
        let (mut pages, mut rest_from) = (0, 0);
        let mut part = survey.written();
        part.retain(|volume| {
            let wanted = volume.id >= from && rest_from == 0;
            pages += u64::from(volume.end);
            if wanted && pages > MARKED_PAGES_MAX && pages > u64::from(volume.end) {
                rest_from = volume.id;
                return false;
            }
            wanted
        });
        let marks = Marks::new(part.into_iter());
        let scope = WalkScope {
            newest_volume: marks.newest(),
            texts: store.block.has_overflow_pages(database.id),
        };
        Self {
            database,
            marks,
            rest_from,
            debt,
            scope,
            walk: SeriesWalk::default(),
            runs: Vec::new(),
        }
    }

    /// Goes on until about `budget` pages were read.
    pub(super) fn step(
        &mut self,
        store: &StoreInner,
        budget: u64,
        spent: &mut u64,
    ) -> Result<MarkProgress, SeriesReadError> {
        let mut stats = ReadStats::default();
        let mut looks = 0;
        let marks = &mut self.marks;
        let mut seen = |addr| marks.mark(addr);
        loop {
            while let Some(run) = self.runs.last_mut() {
                let left = budget.saturating_sub(pages_read(&stats));
                if left == 0 {
                    *spent += pages_read(&stats);
                    return Ok(MarkProgress::More);
                }
                if !run.step(&store.block, &mut stats, left as usize, &mut seen)? {
                    self.runs.pop();
                }
            }
            if looks >= LOOKS {
                *spent += pages_read(&stats);
                return Ok(MarkProgress::More);
            }
            looks += 1;
            let Some(found) = self.walk.next(store, &self.database)? else {
                *spent += pages_read(&stats);
                return Ok(MarkProgress::Done);
            };
            let runs = found.lock().snapshots().into_iter();
            let with_pages = runs.filter(|r| self.scope.texts || leads_to_pages(r));
            self.runs
                .extend(with_pages.map(|r| PageWalk::new(r, self.scope)));
        }
    }
}

/// Whether anything of a run is in pages, long strings in its open leaf left out.
fn leads_to_pages(run: &TreeSnapshot) -> bool {
    run.roots().any(|level| !level.is_empty())
}

/// Pages of all kinds.
pub(super) fn pages_read(stats: &ReadStats) -> u64 {
    stats.leaf_pages + stats.inner_pages + stats.overflow_pages
}
