//! Short workloads cut after, or failing at, every single operation of the device.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_sim::{Fault, FaultPlan};
use alluvium_store::{Database, Store};

use super::counts::Counts;
use super::world::{Kind, World, drive_some, wait};
use crate::model::{Removal, write};

/// Rounds of the workload.
const ROUNDS: u32 = 6;

/// Writes with late points, deletes, checkpoints, merges, what the kind's retention does, and a database that comes
/// and goes. Whether it came to its end without an error.
pub fn workload(world: &mut World) -> bool {
    world.open().is_ok_and(|store| workload_on(world, &store))
}

fn workload_on(world: &mut World, store: &Store) -> bool {
    let Ok((database, created)) = store.create_database("db") else {
        return false;
    };
    if wait(store, created, &world.clock).is_none() {
        return false;
    }
    for round in 0..ROUNDS {
        let passed = send_batch(world, store, &database)
            && (round % 2 == 1 || send_removal(world, store, &database))
            && (round != 2 || make_beside(world, store))
            && (round != 4 || drop_beside(world, store))
            && (round % 2 == 0 || wait(store, store.checkpoint(), &world.clock).is_some());
        world.cut = world.cut.max(database.live().0.begin());
        if !passed {
            return false;
        }
    }
    let status = store.status();
    world.counts.merges += status.merging.merges;
    world.counts.data_pages += status.pages_written;
    let freed = status.databases.iter().map(|d| d.retention.volumes_freed);
    world.counts.volumes_freed += freed.sum::<u64>();
    true
}

fn send_batch(world: &mut World, store: &Store, database: &Database) -> bool {
    let mut lines = world.batch(3, 30);
    let live = database.live().0;
    lines.retain(|line| live.contains(line.time));
    let number = world.oracle.send(&lines);
    let Ok(commit) = write(database, &lines, None) else {
        return false;
    };
    world.place_hosts(database, &lines);
    let passed = wait(store, commit, &world.clock).is_some();
    if passed {
        world.counts.acked += world.oracle.acknowledge(number);
    }
    passed
}

fn send_removal(world: &mut World, store: &Store, database: &Database) -> bool {
    let removal = Removal::random(&mut world.dice, world.now, 3);
    let number = world.oracle.send_removal(&removal);
    let Ok(deleted) = database.delete(&removal.request()) else {
        return false;
    };
    let passed = wait(store, deleted.commit, &world.clock).is_some();
    if passed {
        world.oracle.acknowledge(number);
        world.counts.deletes += 1;
    }
    passed
}

fn make_beside(world: &mut World, store: &Store) -> bool {
    let Ok((beside, created)) = store.create_database("beside") else {
        return false;
    };
    world.beside = None;
    if wait(store, created, &world.clock).is_none() {
        return false;
    }
    world.beside = Some(true);
    let lines = world.batch(3, 60);
    let commit = write(&beside, &lines, None);
    commit.is_ok_and(|commit| wait(store, commit, &world.clock).is_some())
}

fn drop_beside(world: &mut World, store: &Store) -> bool {
    world.beside = None;
    let Ok(dropped) = store.drop_database("beside") else {
        return false;
    };
    let passed = wait(store, dropped, &world.clock).is_some();
    if passed {
        world.beside = Some(false);
    }
    passed
}

fn cut_after(operations: u64) -> FaultPlan {
    FaultPlan {
        crash_after_ops: Some(operations),
        ..FaultPlan::default()
    }
}

/// The workload cut after every `step`-th operation by a power cut or a kill; with `deep`, each recovery after that
/// is cut after every one of its operations, too.
pub fn every_operation_may_be_the_last(seed: u64, kind: Kind, step: u64, deep: bool) -> Counts {
    let mut counts = Counts::default();
    let mut cut = 0;
    loop {
        let mut world = World::new(seed, kind.strongest());
        world.device.set_faults(cut_after(cut));
        let finished = workload(&mut world);
        let power_cut = seed.is_multiple_of(2) || cut % 3 > 0;
        world.end(power_cut);
        if deep {
            counts += every_operation_of_the_recovery(&mut world, power_cut);
        }
        let store = world.open().unwrap();
        world.check(&store);
        world.count_device();
        counts += world.counts;
        if finished {
            return counts;
        }
        cut += step;
    }
}

/// The workload killed after every `step`-th operation; what comes back takes a batch and acknowledges it, and then the
/// power goes: whatever the kill had left to the kernel's memory must not carry what was built on it.
pub fn a_power_cut_may_follow_every_kill(seed: u64, kind: Kind, step: u64) -> Counts {
    let mut counts = Counts::default();
    let mut cut = 0;
    loop {
        let mut world = World::new(seed, kind.strongest());
        world.device.set_faults(cut_after(cut));
        let finished = workload(&mut world);
        world.end(false);
        let store = world.open().unwrap();
        world.check(&store);
        let (database, created) = store.create_database("db").unwrap();
        assert!(wait(&store, created, &world.clock).is_some(), "cut {cut}");
        assert!(send_batch(&mut world, &store, &database), "cut {cut}");
        drop((database, store));
        world.end(true);
        let store = world.open().unwrap();
        world.check(&store);
        world.count_device();
        counts += world.counts;
        if finished {
            return counts;
        }
        cut += step;
    }
}

/// Opens what is on the disk and cuts that after every operation.
fn every_operation_of_the_recovery(world: &mut World, power_cut: bool) -> Counts {
    let mut counts = Counts::default();
    for cut in 0.. {
        let mut branch = world.branch();
        branch.device.set_faults(cut_after(cut));
        drop(branch.open());
        let reached = branch.device.is_crashed();
        branch.end(power_cut);
        let store = branch.open().unwrap();
        branch.check(&store);
        branch.count_device();
        counts += branch.counts;
        if !reached {
            break;
        }
    }
    counts
}

/// The N-th read of an opening fails, for N = 0, 1, 2 … until it passes without meeting the failure: it is refused, or
/// what it opened is right; and the next opening finds everything.
pub fn every_read_of_a_recovery_may_fail(seed: u64, kind: Kind) -> (Counts, u64) {
    let mut world = World::new(seed, kind.strongest());
    assert!(workload(&mut world), "nothing fails yet");
    world.end(seed.is_multiple_of(2));
    let mut counts = Counts::default();
    for failing in 0.. {
        let mut branch = world.branch();
        branch.device.set_faults(FaultPlan {
            reads: BTreeSet::from([failing]),
            ..FaultPlan::default()
        });
        let opened = branch.open();
        let reached = branch.device.reads() > failing;
        branch.device.set_faults(FaultPlan::default());
        match opened {
            Ok(store) => branch.check(&store),
            Err(_) => branch.counts.damage_named += 1,
        }
        branch.end(false);
        let store = branch.open().unwrap();
        branch.check(&store);
        branch.count_device();
        counts += branch.counts;
        if !reached {
            return (counts, failing);
        }
    }
    unreachable!("an opening has an end")
}

/// A write or a sync that failed, for whatever file, ends acknowledgements until the next opening, and the status says so; a write
/// for which there was no room may be tried again.
fn after_a_fault(world: &mut World, store: &Store, fault: Fault) {
    let Some((what, path)) = world.device.last_fault() else {
        return;
    };
    // It may have been the last of what was under way.
    drive_some(store, &world.clock, 20);
    let failure = store.status().failure;
    let database = store.database("db");
    let probe = database.is_some_and(|database| send_batch(world, store, &database));
    let is_final = what == "sync" || what == "write" && fault != Fault::NoSpace;
    assert!(
        !is_final || failure.is_some(),
        "{what} of {path} failed ({fault:?}), and nothing is said of it"
    );
    assert!(
        !probe || failure.is_none(),
        "acknowledged behind {what} of {path}, {fault:?}"
    );
}

/// The N-th operation fails, for N = 0, 1, 2 … until the workload passes without meeting the failure: always an error
/// or success, never a panic, a hang or a loss, and nothing is acknowledged behind a failed write or sync. Returns counts and
/// how many operations failed.
pub fn every_operation_may_fail(seed: u64, kind: Kind, fault: Fault) -> (Counts, u64) {
    let mut counts = Counts::default();
    let mut failing = 0;
    loop {
        let mut world = World::new(seed, kind.strongest());
        world.device.set_faults(FaultPlan {
            ops: BTreeMap::from([(failing, fault)]),
            ..FaultPlan::default()
        });
        if let Ok(store) = world.open() {
            workload_on(&mut world, &store);
            after_a_fault(&mut world, &store, fault);
        }
        let reached = world.device.ops() > failing;
        // Whatever was answered: what was acknowledged is there after the power goes.
        world.end(true);
        let store = world.open().unwrap();
        world.check(&store);
        world.count_device();
        counts += world.counts;
        if !reached {
            return (counts, failing);
        }
        failing += 1;
    }
}
