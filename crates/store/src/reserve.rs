//! Room kept for the day the disk is full: giving room back needs some, for checkpoints and for runs written anew.
//!
//! A file that holds nothing but its blocks. When the disk is full and something is owed that gives room back, or a log
//! cannot take a delete, it is removed; until it stands again writes are refused, so that they cannot take what deletes,
//! retention and merging work with. It is made again as soon as there is room for it.

use alluvium_block::RESERVE_FILE;
use alluvium_io::{Completion, Lane, Op, OpenMode, Ticket};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::open::StoreInner;

/// Nanoseconds between attempts to make it, and between those while the background may still need the room.
const RETRY_NS: u64 = 1_000_000_000;
const RETRY_OWING_NS: u64 = 10 * RETRY_NS;
/// Nanoseconds between looks whether somebody lacks room.
const LOOK_NS: u64 = 100_000_000;

#[derive(Debug)]
enum State {
    /// There is none, or it is not known yet.
    Absent,
    Making(Ticket),
    Held,
}

/// The reserve of a store.
#[derive(Debug)]
pub(crate) struct Reserve {
    state: Mutex<(State, u64)>,
    /// It was given up, and does not stand again.
    spent: AtomicBool,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            state: Mutex::new((State::Absent, 0)),
            spent: AtomicBool::new(false),
        }
    }
}

impl Reserve {
    /// Whether the background works with it: writes are refused.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

impl StoreInner {
    /// Makes the reserve, or gives it up. Never waits.
    pub(crate) fn drive_reserve(&self, now: u64) {
        if self.config.reserve_bytes == 0 || self.failure().is_some() {
            return;
        }
        let Some(mut state) = self.reserve.state.try_lock() else {
            return;
        };
        let lane = Lane(self.shards.len());
        let (state, next_ns) = &mut *state;
        match state {
            State::Making(ticket) => match ticket.result() {
                None => return,
                Some(Ok(Completion::Opened { file, .. })) => {
                    // Its blocks stay; nobody reads or writes it.
                    drop(self.device.submit(lane, Op::Close { file }));
                    *state = State::Held;
                    self.reserve.spent.store(false, Ordering::Release);
                }
                // Without room it waits: something may still be given back.
                Some(_) => *state = State::Absent,
            },
            State::Absent if now >= *next_ns => {
                *next_ns = now + RETRY_NS;
                let mode = OpenMode {
                    create: true,
                    allocate: self.config.reserve_bytes,
                    direct: false,
                };
                let path = RESERVE_FILE.to_owned();
                *state = State::Making(self.device.submit(lane, Op::Open { path, mode }));
            }
            State::Held if now >= *next_ns => {
                *next_ns = now + LOOK_NS;
                if self.is_log_stuck() || self.is_out_of_room() && self.owes_room() {
                    *next_ns = now + RETRY_OWING_NS;
                    self.reserve.spent.store(true, Ordering::Release);
                    let path = RESERVE_FILE.to_owned();
                    drop(self.device.submit(lane, Op::Remove { path }));
                    *state = State::Absent;
                    // What waits for room is tried again at once.
                    self.next_retry_ns.store(now, Ordering::Relaxed);
                }
            }
            State::Absent | State::Held => return,
        }
        self.device.drive(lane);
    }

    /// Whether a log can take nothing more, or nothing but what waits already: without room for it no checkpoint ends and no
    /// delete begins.
    fn is_log_stuck(&self) -> bool {
        self.shards.iter().any(|s| s.state.lock().is_log_stuck())
    }

    /// Whether somebody was refused room.
    fn is_out_of_room(&self) -> bool {
        let full = |shard: &crate::shard::Shard| {
            let state = shard.state.lock();
            state.log.is_full() || state.appender.is_full()
        };
        self.shards.iter().any(full)
            || self.merger.try_lock().is_some_and(|m| m.appender.is_full())
            || self.checkpointer.try_lock().is_some_and(|c| c.lacks_room())
    }

    /// Whether the background has something to do that gives room back.
    fn owes_room(&self) -> bool {
        let databases = self.catalog.read().all();
        let hides = |d: &crate::databases::DatabaseState| {
            d.space.is_due(self, d.id) || d.touched().any(|part| !part.tombstones().is_empty())
        };
        databases.iter().any(|d| hides(d))
            || self
                .merger
                .try_lock()
                .is_none_or(|m| m.space_status().is_owing())
            || self
                .checkpointer
                .try_lock()
                .is_none_or(|c| c.has_removals())
    }
}
