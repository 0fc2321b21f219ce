//! A disk on which time passes while a backup waits, or beside which others write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvium_io::{Lane, Layer};
use alluvium_sim::SimClock;
use alluvium_store::{Commit, Database, Device, Durability, Store};
use parking_lot::Mutex;

use super::world::{DRIVE_NS, Kind, batch_of, drive_some};
use crate::model::{Dice, Line, Removal, write};

/// A simulated disk that calls wait for: one thread does all, so nothing else would happen until they return.
#[derive(Debug)]
pub struct Beside {
    pub disk: Arc<dyn Device>,
    pub clock: Arc<SimClock>,
    /// Whether time passes where somebody waits: not while a store opens or closes, which never looks at the clock.
    pub ticks: Arc<AtomicBool>,
    /// Who has a turn whenever this disk is driven.
    pub others: Option<Mutex<Others>>,
}

impl Layer for Beside {
    fn behind(&self) -> &dyn Device {
        &*self.disk
    }

    fn drive(&self, lane: Lane) -> usize {
        let ended = self.disk.drive(lane);
        if let Some(mut others) = self.others.as_ref().and_then(Mutex::try_lock) {
            others.turn();
        }
        ended
    }

    fn wait(&self, timeout: Duration) {
        if self.ticks.load(Ordering::Relaxed) {
            self.clock.advance_ns(DRIVE_NS);
        }
        self.disk.wait(timeout);
    }
}

/// Something that was sent.
#[derive(Debug)]
pub enum Sent {
    Lines(Vec<Line>, Durability),
    Removal(Removal),
}

/// Those who write, delete and ask for checkpoints meanwhile.
#[derive(Debug)]
pub struct Others {
    pub store: Store,
    pub database: Database,
    pub clock: Arc<SimClock>,
    pub kind: Kind,
    pub dice: Dice,
    /// See [`World`](super::World).
    pub now: i64,
    pub first_host: u32,
    /// Batches and deletes still to be sent.
    pub left: u64,
    /// What was sent, in order, and the commit of what was not refused. Nothing is sent behind a refusal.
    pub sent: VecDeque<(Sent, Option<Commit>)>,
}

impl Others {
    fn turn(&mut self) {
        if self.dice.below(3) == 0 {
            let turns = 1 + self.dice.below(6);
            drive_some(&self.store, &self.clock, turns);
        }
        if self.dice.below(30) == 0 {
            drop(self.store.checkpoint());
        }
        let refused = self.sent.back().is_some_and(|(_, commit)| commit.is_none());
        if self.left > 0 && !refused && self.dice.below(6) == 0 {
            self.left -= 1;
            self.send();
        }
    }

    fn send(&mut self) {
        // So that the volumes know the time.
        drive_some(&self.store, &self.clock, 1);
        if self.dice.below(6) == 0 {
            let mut removal = Removal::random(&mut self.dice, self.now, 6);
            for host in removal.hosts.iter_mut().flatten() {
                *host += self.first_host;
            }
            let deleted = self.database.delete(&removal.request());
            let commit = deleted.ok().map(|deleted| deleted.commit);
            self.sent.push_back((Sent::Removal(removal), commit));
            return;
        }
        let lines = 1 + self.dice.below(60);
        let mut lines = batch_of(
            (&mut self.dice, &mut self.now, &self.clock),
            (self.kind, self.first_host),
            (6, lines),
        );
        let live = self.database.live().0;
        lines.retain(|line| live.contains(line.time));
        let level = if self.dice.below(4) == 0 {
            Durability::Os
        } else {
            Durability::Sync
        };
        let commit = write(&self.database, &lines, Some(level)).ok();
        self.sent.push_back((Sent::Lines(lines, level), commit));
    }
}
