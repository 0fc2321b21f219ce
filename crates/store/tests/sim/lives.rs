//! What a process does between its start and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_sim::{Fault, FaultPlan};
use alluvium_store::{Clock, Commit, Database, Device, Durability, Finding, Store, verify};

use super::counts::Counts;
use super::days::DAY_NS;
use super::world::{DRIVE_NS, Kind, World, drive_some, trace, wait};
use crate::model::{self, Model, Removal, read_all, write};

/// Lives of a world where nobody says another number.
pub const LIVES: u64 = 6;

/// What is to be waited for: its number, how it was asked for.
pub type Pending = (usize, Durability, Commit);

/// Runs a world until it had so many lives and wrote so many pages.
pub fn run(seed: u64, kind: Kind, lives: u64, writes: u64) -> Counts {
    run_watched(seed, kind, lives, writes, &mut |_| {})
}

/// As [`run`]; calls `watch` at the end of every life, when the store is open again.
pub fn run_watched(
    seed: u64,
    kind: Kind,
    lives: u64,
    writes: u64,
    watch: &mut dyn FnMut(&World),
) -> Counts {
    let mut world = World::new(seed, kind);
    let mut store = world.recover();
    while world.counts.lives < lives || world.counts.page_writes < writes {
        world.live(store);
        if world.counts.lives % VERIFIED_SHARE == seed % VERIFIED_SHARE {
            world.verify();
        }
        store = world.recover();
        world.check(&store);
        watch(&world);
    }
    // Recovering again without writing changes nothing.
    let all = |store: &Store| {
        store
            .database("db")
            .map_or(Model::default(), |db| read_all(&db))
    };
    let once = all(&store);
    drop(store);
    world.end(false);
    let store = world.open().unwrap();
    model::same(&once, &all(&store)).unwrap();
    world.count_device();
    world.counts
}

/// What is left of one life in so many is verified as it is, before anybody recovers it.
const VERIFIED_SHARE: u64 = 6;

/// Times the slowest operation of the device, and drives beside, in which a flush that is due has happened: behind a frame that
/// is under way, the opening of a segment and the frames that wait.
const FLUSH_OPERATIONS: u64 = 12;
const FLUSH_DRIVES: u64 = 6;

/// What goes wrong in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// The end comes at an operation, not between two calls.
    CutAt(u64),
    /// One operation fails.
    Fails(u64, Fault),
    /// One sync fails; what it should have kept is lost or not.
    SyncFails(u64, Fault),
    /// So much room is left.
    Room(u64),
}

impl World {
    /// Every page that can be reached holds, is the one meant, and agrees with what stands above it; files and log hold.
    fn verify(&self) {
        let device: Arc<dyn Device> = self.device.copy();
        let report = verify(&device).unwrap();
        // An end in the middle of a commit tears the slot that it writes, which looks like one that has rotted.
        let is_torn = |f: &Finding| self.slot_torn && f.place == "superblock" && f.lost.is_none();
        let torn = report.findings.iter().filter(|f| is_torn(f)).count() as u64;
        assert_eq!(report.findings_total, torn, "{report:?}");
    }

    fn trouble(&mut self) -> Trouble {
        let (ops, syncs) = (self.device.ops(), self.device.syncs());
        let is_long = self.kind.busy || self.kind.many;
        let at = ops + self.dice.below(if is_long { 1500 } else { 400 });
        match self.dice.below(16) {
            // What was refused is read back, so that ends come between two calls.
            0..=6 if self.kind.limited => Trouble::Nothing,
            0..=6 => Trouble::CutAt(at),
            7 => Trouble::Fails(at, Fault::Eio),
            8 => Trouble::Fails(at, Fault::Torn),
            9 => Trouble::Fails(at, Fault::NoSpace),
            10 => Trouble::SyncFails(syncs + self.dice.below(60), Fault::LosesContent),
            11 => Trouble::Room(64 << 10 << self.dice.below(6)),
            _ => Trouble::Nothing,
        }
    }

    fn plan(&mut self, trouble: Trouble) {
        let mut plan = FaultPlan::default();
        match trouble {
            Trouble::Nothing => {}
            Trouble::CutAt(at) => plan.crash_after_ops = Some(at),
            Trouble::Fails(at, fault) => plan.ops = BTreeMap::from([(at, fault)]),
            Trouble::SyncFails(at, fault) => plan.syncs = BTreeMap::from([(at, fault)]),
            Trouble::Room(more) => plan.capacity = Some(self.device.footprint() + more),
        }
        self.device.set_faults(plan);
    }

    /// One process life, which ends in a power cut or a kill.
    pub fn live(&mut self, store: Store) {
        self.counts.lives += 1;
        self.power_cut = self.dice.below(3) > 0;
        let trouble = self.trouble();
        self.plan(trouble);
        if let Trouble::SyncFails(..) = trouble {
            // What a kernel could not write it keeps in memory as if it had: it goes with the power, whenever that
            // goes. A restart before that would read what is not on the disk.
            self.power_cut = true;
        }
        if self.kind.churn {
            self.first_host += 10;
            if !self.kind.retention.is_on() {
                self.now += DAY_NS;
            }
        }
        let mut pending: Vec<Pending> = Vec::new();
        self.aging.clear();
        self.checkpoints.clear();
        if let Ok((database, created)) = store.create_database("db")
            && wait(&store, created, &self.clock).is_some()
        {
            let calm = trouble == Trouble::Nothing;
            let went_through = self.work((&store, &database), calm, &mut pending);
            let is_sound = went_through && !self.device.is_crashed();
            if is_sound && self.dice.below(6) == 0 && store.status().failure.is_none() {
                self.check_live(&database);
            }
            if self.dice.below(8) == 0 && trouble == Trouble::Nothing && store.close().is_ok() {
                // What is closed is durable, whatever level was asked for.
                for (_, level, _) in &mut pending {
                    *level = Durability::Sync;
                }
                for (_, due) in &mut self.aging {
                    *due = 0;
                }
                if went_through {
                    self.oracle.captured(self.oracle.sent());
                }
                self.take_acknowledgements(&store, &mut pending);
                assert!(
                    pending.is_empty(),
                    "closed, and something is not acknowledged"
                );
            }
            self.nothing_is_acknowledged_after_a_failure(&store, &database);
        }
        let status = store.status();
        if trouble == Trouble::Nothing {
            assert_eq!(
                (status.merging.failed, status.merging.last_error),
                (0, None)
            );
            assert_eq!(status.index.failed_merges, 0);
            // A hole may be on its way when the power goes.
            let error = status
                .space
                .last_error
                .filter(|e| !e.contains("the power is off"));
            assert_eq!((status.space.failed, error), (0, None));
        }
        self.counts.segments_max = self.counts.segments_max.max(status.index.segments);
        self.counts.silenced += status.index.silenced;
        self.counts.silent_written += status.index.returned;
        self.counts.merges += status.merging.merges;
        self.counts.data_pages += status.pages_written;
        self.counts.seals += status.index.seals;
        self.counts.index_merges += status.index.merges;
        self.counts.spilled += status.governor.spilled;
        self.counts.recalled += status.governor.recalled;
        self.counts.parted += status.governor.parted;
        self.counts.joined += status.governor.joined;
        self.counts.given_back += status.space.pages_given_back;
        self.counts.left += status.space.volumes_left;
        let freed = status.databases.iter().map(|d| d.retention.volumes_freed);
        self.counts.volumes_freed += freed.sum::<u64>();
        trace(|| {
            format!(
                "  life with {trouble:?} ends in {}, checkpoints {}, failure {:?}, {} not acknowledged, met {:?}",
                if self.power_cut {
                    "a power cut"
                } else {
                    "a kill"
                },
                status.checkpoints,
                status.failure,
                pending.len(),
                self.device.last_fault(),
            )
        });
        self.checkpoints.clear();
        drop((pending, store));
        self.end(self.power_cut);
        self.check_backup();
    }

    /// Batches, deletes, checkpoints, a database beside. Whether it came to its end without an error.
    fn work(
        &mut self,
        (store, database): (&Store, &Database),
        calm: bool,
        pending: &mut Vec<Pending>,
    ) -> bool {
        let batches = match self.kind {
            Kind { many: true, .. } => 24,
            Kind { heavy: true, .. } => 160,
            _ => 60,
        };
        let hosts = self.kind.hosts();
        for _ in 0..self.dice.below(batches) {
            let lines_max = match self.kind {
                Kind { many: true, .. } => 800,
                Kind { busy: true, .. } => 300,
                _ => 60,
            };
            let lines = 1 + self.dice.below(lines_max);
            let mut lines = self.batch(hosts, lines);
            let live = database.live().0;
            lines.retain(|line| live.contains(line.time));
            let level = self.level();
            let written = if self.kind.limited {
                self.write_limited(database, &mut lines, level)
            } else {
                let number = self.oracle.send_at(&lines, level != Durability::None);
                write(database, &lines, Some(level)).map(|commit| (number, commit))
            };
            match written {
                Ok((number, commit)) => pending.push((number, level, commit)),
                Err(error) => {
                    trace(|| format!("  a write is refused: {error}"));
                    return false;
                }
            }
            self.place_hosts(database, &lines);
            // Deletes leave little to expire.
            let rare = match (self.kind.busy, self.kind.retention.is_on()) {
                (true, _) => 4,
                (_, true) => 40,
                _ => 5,
            };
            if self.dice.below(rare) == 0 {
                let mut removal = Removal::random(&mut self.dice, self.now, hosts);
                for host in removal.hosts.iter_mut().flatten() {
                    *host += self.first_host;
                }
                let number = self.oracle.send_removal(&removal);
                match database.delete(&removal.request()) {
                    Ok(deleted) => {
                        pending.push((number, self.kind.delete_level(), deleted.commit));
                    }
                    Err(error) => {
                        trace(|| format!("  a delete is refused: {error}"));
                        return false;
                    }
                }
                self.counts.deletes += 1;
            }
            // The log of many series asks for few.
            if self.dice.below(if self.kind.many { 3 } else { 12 }) == 0 {
                self.checkpoints
                    .push((self.oracle.sent(), store.checkpoint()));
            }
            if self.dice.below(60) == 0 && !self.make_or_drop_another(store) {
                return false;
            }
            let backs_up = self.kind.backups && self.taken.is_none() && self.dice.below(20) == 0;
            if backs_up && !self.back_up((store, database), calm, pending) {
                return false;
            }
            let is_long = self.kind.busy || self.kind.many;
            let turns = self.dice.below(if is_long { 120 } else { 12 });
            drive_some(store, &self.clock, turns);
            if let Some(Durability::Interval { ms }) = self.kind.durability
                && self.dice.below(6) == 0
            {
                // Until what was written is old enough.
                let wait_ns = self.flush_ns() + u64::from(ms) * 1_000_000;
                drive_some(store, &self.clock, wait_ns / DRIVE_NS + 1);
            }
            self.cut = self.cut.max(database.live().0.begin());
            self.take_acknowledgements(store, pending);
        }
        true
    }

    /// What a batch asks for.
    fn level(&mut self) -> Durability {
        // Whatever is flushed takes with it what is flushed at intervals: seldom, or nothing would wait for those.
        let at_intervals = matches!(self.kind.durability, Some(Durability::Interval { .. }));
        let is_rare = self.dice.below(if at_intervals { 24 } else { 4 }) == 0;
        match self.kind.durability {
            Some(_) if is_rare => Durability::Sync,
            Some(level) => level,
            None if is_rare => Durability::Os,
            None => Durability::Sync,
        }
    }

    /// The database beside comes with a batch, or goes.
    fn make_or_drop_another(&mut self, store: &Store) -> bool {
        let is_there = store.database("beside").is_some();
        let before = std::mem::take(&mut self.beside);
        let commit = if is_there {
            store.drop_database("beside").ok()
        } else {
            store
                .create_database("beside")
                .ok()
                .map(|(_, created)| created)
        };
        let Some(commit) = commit else {
            // Refused as a whole.
            self.beside = before;
            return false;
        };
        if wait(store, commit, &self.clock).is_none() {
            return false;
        }
        self.beside = Some(!is_there);
        if let Some(beside) = store.database("beside") {
            let lines = self.batch(6, 40);
            drop(write(&beside, &lines, None));
        }
        true
    }

    fn take_acknowledgements(&mut self, store: &Store, pending: &mut Vec<Pending>) {
        let now = self.clock.monotonic_ns();
        let flush_ns = self.flush_ns();
        // Where the power is off, or nothing is acknowledged any more, no flush comes that was due.
        let flushes = !self.device.is_crashed() && store.status().failure.is_none();
        let Self {
            oracle,
            counts,
            power_cut,
            aging,
            checkpoints,
            ..
        } = self;
        pending.retain_mut(|(number, level, commit)| match commit.poll(Waker::noop()) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                let survives = match level {
                    Durability::Sync => true,
                    Durability::Interval { .. } | Durability::Os => !*power_cut,
                    Durability::None => false,
                };
                if result.is_ok() && survives {
                    counts.acked += oracle.acknowledge(*number);
                } else if result.is_ok()
                    && let Durability::Interval { ms } = level
                {
                    aging.push((*number, now + u64::from(*ms) * 1_000_000 + flush_ns));
                }
                false
            }
        });
        aging.retain(|(number, due)| {
            let has_come = *due <= now && flushes;
            if has_come {
                let values = oracle.acknowledge(*number);
                counts.acked += values;
                counts.aged += values;
            }
            !has_come
        });
        checkpoints.retain_mut(|(sent, commit)| match commit.poll(Waker::noop()) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                if result.is_ok() {
                    oracle.captured(*sent);
                }
                false
            }
        });
    }

    /// Time in which a flush that is due has happened.
    fn flush_ns(&self) -> u64 {
        let operation = self.seed % 4 + self.seed / 4 % 4 + 1;
        (FLUSH_OPERATIONS * operation + FLUSH_DRIVES) * DRIVE_NS
    }

    /// A store that lost nothing holds exactly what was sent, in the middle of whatever it is doing.
    fn check_live(&mut self, database: &Database) {
        let cut = database.live().0.begin();
        let mut expected = self.oracle.live();
        for points in expected.series.values_mut() {
            *points = points.split_off(&cut);
        }
        model::same(&expected, &read_all(database)).unwrap();
    }

    /// A failed write or sync ends acknowledging until the store is opened anew.
    fn nothing_is_acknowledged_after_a_failure(&mut self, store: &Store, database: &Database) {
        if store.status().failure.is_none() {
            return;
        }
        // A host of its own, whose partition the oracle does not know: a batch refused before may be there in part.
        let mut lines = self.batch(1, 6);
        for line in &mut lines {
            line.host = 1_000_000 + self.counts.lives as u32;
        }
        self.oracle.send(&lines);
        if let Ok(commit) = write(database, &lines, Some(Durability::Sync)) {
            let acknowledged = wait(store, commit, &self.clock).is_some();
            assert!(!acknowledged, "acknowledged behind a failure");
        }
    }
}
