//! Hot backups in the middle of everything, and what comes back from them: on a disk of their own that fails, too, or in a
//! folder of the store's disk, where volumes that take no more pages are files with two names.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::{Lane, Op};
use alluvium_sim::{Fault, FaultPlan, SimConfig, SimDevice, SimFolder};
use alluvium_store::{BackupTarget, Database, Device, Store, restore};
use parking_lot::Mutex;

use super::beside::{Beside, Others, Sent};
use super::days;
use super::lives::Pending;
use super::oracle::Oracle;
use super::world::{LANES, World, drive_some, trace};
use crate::model::{self, read_all};

/// Every so many-th backup of a world is one of links.
const LINKED_EVERY: u64 = 3;

/// Where a backup is.
#[derive(Debug, Clone)]
enum Place {
    /// A disk of its own.
    Disk(Arc<SimDevice>),
    /// A folder of the disk of the store, whichever that is by now.
    Folder(String),
}

/// A backup as it was made.
#[derive(Debug)]
pub struct Taken {
    place: Place,
    /// The store said that it is complete.
    complete: bool,
    /// All that was sent until it ended; what was there when it began must be in it.
    oracle: Oracle,
    /// The database beside.
    beside: Option<bool>,
}

/// The backup before.
#[derive(Debug, Clone)]
pub struct Base {
    place: Place,
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
        self.backups += 1;
        let (place, fails) = if (self.seed + self.backups).is_multiple_of(LINKED_EVERY) {
            // What goes wrong with the disk of this life goes wrong with the copy.
            (Place::Folder(format!("backup.{}", self.backups)), false)
        } else {
            (Place::Disk(disk), fails)
        };
        let device = self.device_of(&place);
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
            disk: device,
            clock: Arc::clone(&self.clock),
            ticks: Arc::default(),
            others: Some(Mutex::new(others)),
        });
        // Of one that did not end it is known that it is refused.
        let base = self.base.clone();
        let base = base.filter(|base| self.dice.below(if base.whole { 2 } else { 12 }) == 0);
        let target = BackupTarget {
            device: Arc::<Beside>::clone(&busy),
            directory: match &place {
                Place::Disk(_) => None,
                Place::Folder(name) => Some(SimFolder::new(Arc::clone(&self.device), name).path()),
            },
            base: base.as_ref().map(|base| self.device_of(&base.place)),
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
                    let number = self.oracle.send_removal(&removal);
                    (number, self.kind.delete_level())
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
        if let Ok(report) = &result {
            self.counts.files_linked += report.volumes_linked + report.files_from_base;
        }
        self.taken = Some(Taken {
            place,
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
        let Some(mut taken) = self.taken.take() else {
            return;
        };
        if let Place::Disk(disk) = &mut taken.place {
            *disk = if self.dice.below(2) == 0 {
                disk.crash()
            } else {
                disk.kill()
            };
            self.counts.crashes += 1;
        }
        self.check_linked();
        let backup = self.device_of(&taken.place);
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
        self.base = Some(Base {
            place: taken.place.clone(),
            whole,
        });
        if let Err(error) = result {
            let text = error.to_string();
            assert!(!taken.complete, "a complete backup: {text}");
            let by_name = text.contains("did not end") || text.contains("nothing to restore");
            assert!(by_name, "refused, but not by name: {text}");
            self.counts.backups_refused += 1;
            return;
        }
        let shards = self.shards();
        let store = self.open_on(third, shards).unwrap();
        taken.check(&store);
        self.counts.backups_restored += 1;
        drop(store);
        if matches!(taken.place, Place::Folder(_)) {
            self.linked = Some(taken);
        }
        self.remove_old_folders();
    }

    /// The last backup of links still holds, whatever became since of the volumes that the store had in common with it.
    fn check_linked(&mut self) {
        let Some(linked) = self.linked.take() else {
            return;
        };
        let third = self.third();
        let restored = restore(
            &self.device_of(&linked.place),
            &(Arc::<SimDevice>::clone(&third) as Arc<dyn Device>),
        );
        restored.expect("it was whole");
        linked.check(&self.open_on(third, 2).unwrap());
        self.counts.linked_again += 1;
        self.linked = Some(linked);
    }

    /// Removes backups of links that nobody needs any more: the names, for the files may be the store's.
    fn remove_old_folders(&self) {
        let places = [
            self.base.as_ref().map(|base| &base.place),
            self.linked.as_ref().map(|linked| &linked.place),
        ];
        for number in 1..=self.backups {
            let name = format!("backup.{number}");
            let is_it = |place: &&Place| matches!(place, Place::Folder(of) if *of == name);
            if places.iter().flatten().any(is_it) {
                continue;
            }
            for dir in ["", "/vol", "/wal"] {
                let dir = format!("{name}{dir}");
                for file in self.device.list(&dir).unwrap() {
                    let path = format!("{dir}/{}", file.name);
                    let removed = self.device.submit(Lane(0), Op::Remove { path });
                    removed.wait(&*self.device, Lane(0)).unwrap();
                }
            }
        }
    }

    fn device_of(&self, place: &Place) -> Arc<dyn Device> {
        match place {
            Place::Disk(disk) => Arc::<SimDevice>::clone(disk),
            Place::Folder(name) => Arc::new(SimFolder::new(Arc::clone(&self.device), name)),
        }
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
