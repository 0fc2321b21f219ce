//! Hot backups in the middle of everything, on a disk of their own that fails, too, and what comes back from them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_sim::{Fault, FaultPlan, SimConfig, SimDevice};
use alluvium_store::{BackupTarget, Database, Device, Durability, Store, restore};
use parking_lot::Mutex;

use super::beside::{Beside, Others, Sent};
use super::days;
use super::lives::Pending;
use super::oracle::Oracle;
use super::world::{LANES, World, drive_some, trace};
use crate::model::{self, read_all};

/// A backup as it was made.
#[derive(Debug)]
pub struct Taken {
    disk: Arc<SimDevice>,
    /// The store said that it is complete.
    complete: bool,
    /// All that was sent until it ended; what was there when it began must be in it.
    oracle: Oracle,
    /// The database beside.
    beside: Option<bool>,
}

/// The disk of the backup before.
#[derive(Debug, Clone)]
pub struct Base {
    disk: Arc<SimDevice>,
    /// It is one that can be restored.
    whole: bool,
}

impl World {
    /// Takes a hot backup while others write. Whether all that was sent meanwhile was taken.
    pub fn back_up(
        &mut self,
        (store, database): (&Store, &Database),
        calm: bool,
        pending: &mut Vec<Pending>,
    ) -> bool {
        let sim = SimConfig {
            latency_drives_max: 1 + self.dice.below(4) as u32,
            sync_drives_max: self.dice.below(3) as u32,
            ..SimConfig::default()
        };
        let disk = SimDevice::new(self.dice.roll(), sim);
        let fails = self.dice.below(2) == 0;
        if fails {
            disk.set_faults(self.target_faults());
        }
        let others = Others {
            store: store.clone(),
            database: database.clone(),
            clock: Arc::clone(&self.clock),
            kind: self.kind,
            dice: model::Dice(self.dice.roll() | 1),
            now: self.now,
            first_host: self.first_host,
            left: self.dice.below(40),
            sent: VecDeque::new(),
        };
        let busy = Arc::new(Beside {
            disk: Arc::clone(&disk),
            clock: Arc::clone(&self.clock),
            ticks: Arc::default(),
            others: Some(Mutex::new(others)),
        });
        // Of one that did not end it is known that it is refused.
        let base = self.base.clone();
        let base = base.filter(|base| self.dice.below(if base.whole { 2 } else { 12 }) == 0);
        let target = BackupTarget {
            device: Arc::<Beside>::clone(&busy),
            directory: None,
            base: base.as_ref().map(|base| {
                let base: Arc<dyn Device> = Arc::<SimDevice>::clone(&base.disk);
                base
            }),
        };
        let before = self.oracle.sent();
        self.ticks.store(true, Ordering::Relaxed);
        let result = store.backup(&target);
        self.ticks.store(false, Ordering::Relaxed);
        drive_some(store, &self.clock, 1);
        trace(|| format!("  a backup: {result:?}"));
        let is_sound = base.as_ref().is_none_or(|base| base.whole);
        assert!(
            is_sound || result.is_err(),
            "a backup is built on one that did not end"
        );
        assert!(
            result.is_ok() || !calm || fails || !is_sound,
            "nothing was wrong: {result:?}"
        );
        drop(target);
        let others = Arc::into_inner(busy).and_then(|busy| busy.others);
        let others = others.expect("nobody else has it").into_inner();
        self.now = others.now;
        let mut taken = true;
        for (sent, commit) in others.sent {
            let (number, level) = match sent {
                Sent::Lines(lines, level) => {
                    let number = self.oracle.send(&lines);
                    self.place_hosts(database, &lines);
                    (number, level)
                }
                Sent::Removal(removal) => {
                    self.counts.deletes += 1;
                    (self.oracle.send_removal(&removal), Durability::Sync)
                }
            };
            match commit {
                Some(commit) => pending.push((number, level, commit)),
                None => taken = false,
            }
        }
        let mut oracle = self.oracle.clone();
        // A checkpoint comes first: it has whatever was applied, at any level and acknowledged or not.
        for number in 0..before {
            oracle.acknowledge(number);
        }
        self.counts.backups += 1;
        self.taken = Some(Taken {
            disk,
            complete: result.is_ok(),
            oracle,
            beside: self.beside,
        });
        taken
    }

    /// What goes wrong on the disk of a backup.
    fn target_faults(&mut self) -> FaultPlan {
        let mut plan = FaultPlan::default();
        let at = self.dice.below(120);
        match self.dice.below(8) {
            0 => plan.ops = BTreeMap::from([(at, Fault::Eio)]),
            1 => plan.ops = BTreeMap::from([(at, Fault::Torn)]),
            2 => plan.ops = BTreeMap::from([(at, Fault::NoSpace)]),
            3 => plan.syncs = BTreeMap::from([(at / 3, Fault::LosesContent)]),
            4 => plan.capacity = Some(4096 << self.dice.below(9)),
            _ => plan.crash_after_ops = Some(at),
        }
        plan
    }

    /// After the end of a life, and of the power of the backup's disk or of who wrote it: a backup that was said to be
    /// complete comes back and is what it should be; another is refused by name, or whole as well.
    pub fn check_backup(&mut self) {
        let Some(taken) = self.taken.take() else {
            return;
        };
        let disk = if self.dice.below(2) == 0 {
            taken.disk.crash()
        } else {
            taken.disk.kill()
        };
        self.counts.crashes += 1;
        let backup: Arc<dyn Device> = Arc::<SimDevice>::clone(&disk);
        let mut third = self.third();
        if self.dice.below(4) == 0 {
            third.set_faults(FaultPlan {
                crash_after_ops: Some(self.dice.below(60)),
                ..FaultPlan::default()
            });
        }
        let result = restore(
            &backup,
            &(Arc::<SimDevice>::clone(&third) as Arc<dyn Device>),
        );
        let result = if third.is_crashed() {
            self.check_cut_restore(&third, &taken, result.is_ok());
            third = self.third();
            restore(
                &backup,
                &(Arc::<SimDevice>::clone(&third) as Arc<dyn Device>),
            )
        } else {
            result
        };
        let whole = result.is_ok();
        self.base = Some(Base { disk, whole });
        if let Err(error) = result {
            let text = error.to_string();
            assert!(!taken.complete, "a complete backup: {text}");
            let by_name = text.contains("did not end") || text.contains("nothing to restore");
            assert!(by_name, "refused, but not by name: {text}");
            self.counts.backups_refused += 1;
            return;
        }
        let shards = 1 + self.dice.below(LANES as u64 - 1) as usize;
        let store = self.open_on(third, shards).unwrap();
        taken.check(&store);
        self.counts.backups_restored += 1;
    }

    fn third(&mut self) -> Arc<SimDevice> {
        let sim = SimConfig {
            lanes: LANES,
            ..SimConfig::default()
        };
        SimDevice::new(self.dice.roll(), sim)
    }

    /// A restore that was cut has left nothing, something that is refused by name, or all of it.
    fn check_cut_restore(&self, third: &Arc<SimDevice>, taken: &Taken, ended: bool) {
        match self.open_on(third.crash(), 2) {
            Ok(store) if ended || !store.databases().is_empty() => taken.check(&store),
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                assert!(!ended && text.contains("did not end"), "{text}");
            }
        }
    }
}

impl Taken {
    /// What came back is what was there when the backup began, and of what came later a prefix.
    fn check(&self, store: &Store) {
        let database = store.database("db").expect("it was there");
        let (found, cut) = (read_all(&database), database.live().0.begin());
        self.oracle.clone().check(&found, cut).unwrap();
        days::check(&database, &found);
        let there = store.database("beside").is_some();
        assert!(
            self.beside.is_none_or(|must| must == there),
            "the database beside"
        );
    }
}
