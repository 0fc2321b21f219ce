//! Gives the room of dead pages back: finds them, makes holes of them, writes volumes anew of which little lives.
//!
//! Pages die when runs are merged, deleted or dropped. What died is counted; when that is enough, a walk over the inner
//! pages of the database marks every page that lives ([`marking`]). What it did not mark is dead, whoever left it there,
//! a merge that was called off or a lost life of the process included: no count has to be right for data to be safe.
//! Volumes of which nothing lives go as a whole, stretches of dead pages become holes, and volumes of which little lives
//! are left: their runs are written anew by the merger, and the next walk finds nothing there. Dead pages are given back
//! behind two superblocks and the readers of that moment ([`settling`]).
//!
//! `docs/adr/0013-space.md` says what is promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alluvium_types::DatabaseId;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::config::StoreConfig;
use crate::databases::DatabaseState;
use crate::merging::Merger;
use crate::open::StoreInner;
use crate::space::leaving::{LeaveProgress, Leaving};
use crate::space::marking::{MarkProgress, Marking};
use crate::space::marks::Worth;
use crate::space::settling::{SettleProgress, Settling};

mod leaving;
mod marking;
mod marks;
mod series_walk;
mod settling;

pub(crate) use series_walk::SeriesWalk;

/// Of dead leaves, one inner page in so many died with them, at least.
const LEAVES_PER_INNER: u64 = 32;

/// What a database knows of its dead pages.
#[derive(Debug, Default)]
pub(crate) struct DatabaseSpace {
    /// Pages that died since the last walk began, about.
    debt: AtomicU64,
    /// A walk is due whatever the debt.
    again: AtomicBool,
    /// Where the next walk goes on, of a database that is too large for one.
    part_begin: AtomicU32,
    /// Volumes that were to be left, with the pages that lived there then: one that stays as it was is let be.
    tried: Mutex<HashMap<u32, u64, foldhash::fast::FixedState>>,
}

impl DatabaseSpace {
    /// Notes dead pages.
    pub(crate) fn note_dead(&self, pages: u64) {
        self.debt.fetch_add(pages, Ordering::Relaxed);
    }

    /// Notes dead leaves; their parents died with them.
    pub(crate) fn note_dead_leaves(&self, leaves: u64) {
        self.note_dead(leaves + leaves.div_ceil(LEAVES_PER_INNER));
    }

    /// Pages that died and were not looked for yet, about.
    pub(crate) fn debt(&self) -> u64 {
        self.debt.load(Ordering::Relaxed)
    }

    /// Whether so much has died that it is looked for.
    pub(crate) fn is_due(&self, store: &StoreInner, database: DatabaseId) -> bool {
        if self.again.load(Ordering::Relaxed) {
            return true;
        }
        let (debt, config) = (self.debt(), &store.config);
        debt >= config.space_slack_pages()
            && debt >= store.block.allocated_pages(database) / 100 * config.space_dead_percent
    }

    /// Has the database walked through whatever its debt.
    fn look_again(&self) {
        self.again.store(true, Ordering::Relaxed);
    }

    fn take_debt(&self) -> u64 {
        self.again.store(false, Ordering::Relaxed);
        self.debt.swap(0, Ordering::Relaxed)
    }

    fn part_begin(&self) -> u32 {
        self.part_begin.load(Ordering::Relaxed)
    }
}

/// Giving room back since the store was opened, and what is owed.
#[derive(Debug, Clone, Default)]
pub struct SpaceStatus {
    /// Pages that died since their database was last walked through, about.
    pub pages_dead: u64,
    /// Dead pages that were found and wait for two superblocks, or for readers that began before.
    pub pages_settling: u64,
    /// Whether a walk or the writing anew of volumes goes on, or files are about to be removed.
    pub is_working: bool,
    /// Walks over a database.
    pub walks: u64,
    /// Volumes whose living pages were written anew elsewhere.
    pub volumes_left: u64,
    /// Volumes freed since nothing in them lived.
    pub volumes_freed: u64,
    /// Pages given back, by holes and with volumes.
    pub pages_given_back: u64,
    /// Walks given up, for a damaged page: nothing is given back then.
    pub failed: u64,
    /// Why the last one was, or a hole was not made.
    pub last_error: Option<String>,
    /// The file system makes no holes: room comes back by whole volumes only.
    pub no_holes: bool,
}

impl SpaceStatus {
    /// Whether room is about to be given back.
    pub(crate) fn is_owing(&self) -> bool {
        self.is_working || self.pages_settling > 0
    }
}

#[derive(Debug)]
enum Phase {
    Rest,
    Marking(Box<Marking>),
    Leaving(Box<Leaving>),
}

/// Looks after the room of all databases, one at a time.
#[derive(Debug)]
pub(crate) struct SpaceKeeper {
    phase: Phase,
    settling: Vec<Settling>,
    /// Databases up to this one were looked at.
    last: DatabaseId,
    next_look_ns: u64,
    /// Files of freed volumes are to be removed behind the next superblocks.
    files_going: bool,
    totals: SpaceStatus,
}

impl Default for SpaceKeeper {
    fn default() -> Self {
        Self {
            phase: Phase::Rest,
            settling: Vec::new(),
            last: DatabaseId(0),
            next_look_ns: 0,
            files_going: false,
            totals: SpaceStatus::default(),
        }
    }
}

impl SpaceKeeper {
    /// What it did and what it has found. The debt of databases is theirs.
    pub(crate) fn status(&self) -> SpaceStatus {
        let pages = |s: &Settling| {
            let holes = s.punch.iter().map(|(_, (b, e))| u64::from(e - b));
            let going = s.going.iter().map(alluvium_block::PunchBatch::pages);
            holes
                .chain(s.free.iter().map(|f| f.1))
                .chain(going)
                .sum::<u64>()
        };
        SpaceStatus {
            pages_settling: self.settling.iter().map(pages).sum(),
            is_working: self.files_going || !matches!(self.phase, Phase::Rest),
            ..self.totals.clone()
        }
    }

    /// Forgets a database whose volumes are about to go.
    pub(crate) fn forget_database(&mut self, database: DatabaseId) {
        let at_hand = match &self.phase {
            Phase::Rest => None,
            Phase::Marking(marking) => Some(marking.database.id),
            Phase::Leaving(leaving) => Some(leaving.database.id),
        };
        if at_hand == Some(database) {
            self.phase = Phase::Rest;
        }
        self.settling.retain(|s| s.database.id != database);
    }

    /// Moves on by about `budget` pages. `may_write`: runs may be written anew. Returns whether there is more to do at
    /// once; `spent` grows by the pages read.
    pub(crate) fn drive(
        &mut self,
        store: &StoreInner,
        merger: &mut Merger,
        (now, budget, may_write): (u64, u64, bool),
        spent: &mut u64,
    ) -> bool {
        self.settle(store, merger, now);
        if merger.is_merging() || budget == 0 {
            return false;
        }
        match std::mem::replace(&mut self.phase, Phase::Rest) {
            Phase::Rest => {
                if now < self.next_look_ns {
                    return false;
                }
                let Some(database) = self.next_due(store) else {
                    self.last = DatabaseId(0);
                    self.next_look_ns = now + store.config.space_check_ms * 1_000_000;
                    return false;
                };
                self.last = database.id;
                let marking = Marking::begin(store, merger, database);
                self.phase = Phase::Marking(Box::new(marking));
                true
            }
            Phase::Marking(mut marking) => {
                match marking.step(store, budget, spent) {
                    Ok(MarkProgress::More) => self.phase = Phase::Marking(marking),
                    Ok(MarkProgress::Done) => self.judge(store, merger, *marking, now),
                    Err(error) => {
                        marking.database.space.note_dead(marking.debt / 2);
                        self.fail(&error.to_string());
                        self.next_look_ns = now + store.config.space_check_ms * 1_000_000;
                    }
                }
                true
            }
            Phase::Leaving(leaving) if !may_write => {
                self.phase = Phase::Leaving(leaving);
                false
            }
            Phase::Leaving(mut leaving) => {
                match leaving.step(store, budget, spent) {
                    Ok(LeaveProgress::More) => self.phase = Phase::Leaving(leaving),
                    Ok(LeaveProgress::Found(series, ordinal)) => {
                        let volumes = Arc::clone(&leaving.volumes);
                        // One that cannot be read, or goes again, is found by the next walk.
                        let series = store.resident(&leaving.database, series.place);
                        if let Ok(Some(series)) = series {
                            merger.begin_leaving(&leaving.database, series, ordinal, volumes, now);
                        }
                        self.phase = Phase::Leaving(leaving);
                    }
                    Ok(LeaveProgress::Done) => {
                        self.totals.volumes_left += leaving.volumes.len() as u64;
                        leaving.database.space.look_again();
                        self.next_look_ns = now;
                    }
                    Err(error) => self.fail(&error.to_string()),
                }
                true
            }
        }
    }

    fn fail(&mut self, error: &str) {
        self.totals.failed += 1;
        self.totals.last_error = Some(error.to_owned());
    }

    /// The next database of which enough has died, none of whose pages wait to be given back.
    fn next_due(&self, store: &StoreInner) -> Option<Arc<DatabaseState>> {
        let databases = store.catalog.read().all_that(|d| {
            d.space.is_due(store, d.id)
                && !d.is_dropped()
                && self.settling.iter().all(|s| s.database.id != d.id)
        });
        let behind = databases.into_iter().filter(|d| d.id > self.last);
        behind.min_by_key(|d| d.id)
    }

    /// Everything that lives is marked.
    fn judge(&mut self, store: &StoreInner, merger: &mut Merger, marking: Marking, now: u64) {
        self.totals.walks += 1;
        let Marking {
            database,
            marks,
            rest_from,
            ..
        } = marking;
        let space = &database.space;
        space.part_begin.store(rest_from, Ordering::Relaxed);
        if rest_from != 0 {
            space.look_again();
        }
        if marks.is_empty() {
            return;
        }
        let has_holes = !store.block.has_no_holes();
        let worth = Worth {
            hole_pages_min: has_holes.then_some(store.config.space_hole_pages_min.max(1)),
            live_percent: store.config.space_live_percent,
            filling_pages_max: store.config.space_slack_pages(),
        };
        let mut verdict = marks.verdict(worth);
        if !verdict.free.is_empty() {
            let ids: Vec<u32> = verdict.free.iter().map(|(id, _)| *id).collect();
            store.leave_volumes(&ids, merger);
            // Somebody may have written to one until now.
            let now_there = store.block.volumes();
            verdict
                .free
                .retain(|(id, pages)| now_there.iter().any(|v| v.id == *id && v.pages == *pages));
        }
        let mut tried = space.tried.lock();
        tried.retain(|id, _| verdict.leave.iter().any(|(leave, _)| leave == id));
        verdict
            .leave
            .retain(|(id, live)| tried.insert(*id, *live).is_none_or(|before| before > *live));
        drop(tried);
        if !verdict.leave.is_empty() {
            let ids: Vec<u32> = verdict.leave.iter().map(|(id, _)| *id).collect();
            store.leave_volumes(&ids, merger);
            self.phase = Phase::Leaving(Box::new(Leaving::new(Arc::clone(&database), ids)));
        }
        if !verdict.free.is_empty() || !verdict.punch.is_empty() {
            let begun_checkpoint = store.checkpointer.lock().begun();
            self.settling.push(Settling {
                database,
                begun_checkpoint,
                readers: store.readers.so_far(),
                readers_until_ns: now + store.config.space_readers_ms * 1_000_000,
                free: verdict.free,
                punch: verdict.punch,
                going: None,
            });
        }
    }

    /// Gives back what may be, and asks for the checkpoints that this waits for.
    fn settle(&mut self, store: &StoreInner, merger: &mut Merger, now: u64) {
        let Self {
            settling, totals, ..
        } = self;
        let freed = totals.volumes_freed;
        let mut wants_checkpoint = false;
        settling.retain_mut(|s| match s.step(store, merger, totals, now) {
            SettleProgress::Done => false,
            SettleProgress::Waiting => true,
            SettleProgress::Checkpoint => {
                wants_checkpoint = true;
                true
            }
        });
        totals.no_holes = store.block.has_no_holes();
        self.files_going |= totals.volumes_freed > freed;
        if !self.files_going && !wants_checkpoint {
            return;
        }
        let mut checkpointer = store.checkpointer.lock();
        self.files_going &= checkpointer.has_removals();
        if (self.files_going || wants_checkpoint) && checkpointer.is_idle() {
            checkpointer.request();
        }
    }
}

impl StoreConfig {
    /// Dead pages, or pages of a volume that still takes some, that are let be: an extent for each appender.
    pub(crate) fn space_slack_pages(&self) -> u64 {
        u64::from(self.extent_pages) * (self.shards as u64 + 1)
    }
}

impl StoreInner {
    /// Closes volumes, and has every appender leave them.
    fn leave_volumes(&self, ids: &[u32], merger: &mut Merger) {
        self.block.close_volumes(ids);
        for shard in &self.shards {
            shard.state.lock().appender.leave_closed();
        }
        merger.appender.leave_closed();
    }

    /// Forgets volumes in which nothing lives. Returns their paths.
    fn retire_volumes(&self, ids: &[u32], merger: &mut Merger) -> Vec<String> {
        let paths = self.block.retire_volumes(ids);
        for shard in &self.shards {
            shard.state.lock().appender.forget_volumes(ids);
        }
        merger.appender.forget_volumes(ids);
        paths
    }

    /// Notes pages of a database that were written and that none of its `leaves` explains: of the store as its superblock
    /// has it, before anything is redone.
    pub(crate) fn note_lost_pages(&self, database: &DatabaseState, leaves: u64) {
        let allocated = self.block.allocated_pages(database.id);
        let inners = leaves.div_ceil(LEAVES_PER_INNER);
        database
            .space
            .note_dead(allocated.saturating_sub(leaves.saturating_add(inners)));
    }
}
