//! From pages that nothing leads to any more to room: not before both superblocks are past them, nor while somebody
//! who began before may still read them.

use std::sync::Arc;

use alluvium_block::{PageRange, PunchBatch};
use alluvium_io::Lane;

use crate::databases::DatabaseState;
use crate::merging::Merger;
use crate::open::StoreInner;
use crate::readers::Readers;
use crate::space::SpaceStatus;

/// Holes made in one batch.
const HOLES_AT_ONCE: usize = 256;

/// What one walk over a database found to be dead.
#[derive(Debug)]
pub(super) struct Settling {
    pub database: Arc<DatabaseState>,
    /// The last checkpoint that had begun by then: what it captured may still lead there, what a later one does not.
    pub begun_checkpoint: u64,
    /// Whoever may have learned of the pages.
    pub readers: Readers,
    /// Readers are waited for no longer, monotonic nanoseconds.
    pub readers_until_ns: u64,
    /// Volumes of which nothing lives, and their pages.
    pub free: Vec<(u32, u64)>,
    /// Holes still to be made.
    pub punch: Vec<(u32, PageRange)>,
    pub going: Option<PunchBatch>,
}

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettleProgress {
    Done,
    /// Readers, or the device.
    Waiting,
    /// A checkpoint that has not begun.
    Checkpoint,
}

impl Settling {
    /// Moves on as far as it can. Cost: at most [`HOLES_AT_ONCE`] operations queued.
    pub(super) fn step(
        &mut self,
        store: &StoreInner,
        merger: &mut Merger,
        totals: &mut SpaceStatus,
        now: u64,
    ) -> SettleProgress {
        if self.database.is_dropped() {
            return SettleProgress::Done;
        }
        let lane = Lane(store.shards.len());
        if let Some(batch) = &mut self.going {
            let Some((pages, failure)) = batch.result(&store.block) else {
                return SettleProgress::Waiting;
            };
            totals.pages_given_back += pages;
            self.going = None;
            if store.block.has_no_holes() {
                // Its volumes are to be left instead.
                self.punch.clear();
                self.database.space.look_again();
            } else if let Some(error) = failure {
                totals.last_error = Some(error.to_string());
            }
        }
        if self.free.is_empty() && self.punch.is_empty() {
            return SettleProgress::Done;
        }
        let (last, before_last) = store.checkpointer.lock().completed_numbers();
        let past = |number: u64| number > self.begun_checkpoint;
        if !past(last) {
            return SettleProgress::Checkpoint;
        }
        if !self.readers.are_gone() && now < self.readers_until_ns {
            return SettleProgress::Waiting;
        }
        if !self.free.is_empty() {
            // A checkpoint that runs now has begun behind the walk, like the last one: whether its manifest
            // names these volumes or not, what it captured does not lead there. Their files go two superblocks later.
            let ids: Vec<u32> = self.free.iter().map(|(id, _)| *id).collect();
            let pages: u64 = self.free.drain(..).map(|(_, pages)| pages).sum();
            let paths = store.retire_volumes(&ids, merger);
            totals.volumes_freed += paths.len() as u64;
            totals.pages_given_back += pages;
            store.checkpointer.lock().add_removals(paths);
        }
        if self.punch.is_empty() {
            return SettleProgress::Done;
        }
        if !past(before_last) {
            return SettleProgress::Checkpoint;
        }
        if store.backups.is_running() {
            // What it copies or links was settled by the superblock it began with, and must stay whole until it is done.
            return SettleProgress::Waiting;
        }
        let from = self.punch.len().saturating_sub(HOLES_AT_ONCE);
        let holes = self.punch.split_off(from);
        self.going = Some(store.block.start_punch(lane, &holes));
        store.device.drive(lane);
        SettleProgress::Waiting
    }
}
