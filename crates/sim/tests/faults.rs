//! What a power cut, a kill and planned faults leave behind, each by many seeds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, IoErrorKind, IoResult, Lane, Op, OpenMode, Read,
    WriteData,
};
use alluvium_sim::{Fault, FaultPlan, Prng, SimConfig, SimDevice, SimFolder};

const PAGE: u64 = 4096;
const LANE: Lane = Lane(0);

fn run(disk: &SimDevice, op: Op) -> IoResult {
    disk.submit(LANE, op).wait(disk, LANE)
}

fn open(disk: &SimDevice, path: &str) -> FileId {
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    match run(
        disk,
        Op::Open {
            path: path.into(),
            mode,
        },
    )
    .expect("opens")
    {
        Completion::Opened { file, .. } => file,
        Completion::Done => panic!("opening gave no file"),
    }
}

fn write(file: FileId, page: u64, pages: usize, fill: u8, sync: bool) -> Op {
    let mut buffer = AlignedBuf::zeroed(pages * PAGE as usize);
    buffer.bytes_mut().fill(fill);
    Op::Write {
        file,
        offset: page * PAGE,
        data: WriteData::Buffer(Arc::new(buffer)),
        sync,
    }
}

fn sync_root() -> Op {
    Op::SyncDir {
        path: String::new(),
    }
}

/// A file with a durable name, and its first page durably full of ones.
fn settled(seed: u64, config: SimConfig) -> (Arc<SimDevice>, FileId) {
    let disk = SimDevice::new(seed, config);
    let file = open(&disk, "f");
    run(&disk, sync_root()).expect("syncs");
    run(&disk, write(file, 0, 1, 1, true)).expect("writes");
    (disk, file)
}

/// The bytes of a file, or `None` if there is no such name.
fn bytes(disk: &SimDevice, path: &str, pages: usize) -> Option<Vec<u8>> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !disk
        .list(dir)
        .expect("lists")
        .iter()
        .any(|l| l.name == name)
    {
        return None;
    }
    let file = open(disk, path);
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(pages * PAGE as usize),
    }];
    disk.read(&mut reads).expect("reads");
    Some(reads[0].into.bytes().to_vec())
}

fn planned(faults: FaultPlan) -> SimConfig {
    SimConfig {
        faults,
        ..SimConfig::default()
    }
}

/// What was synced survives; an unsynced write is whole, absent, or torn at sectors, and each of these happens.
#[test]
fn power_cut_keeps_what_was_synced_and_tears_the_rest_at_sectors() {
    let (mut whole, mut absent, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (disk, file) = settled(seed, SimConfig::default());
        run(&disk, write(file, 1, 2, 2, false)).expect("writes");
        let after = disk.crash();
        let content = bytes(&after, "f", 3).expect("the name is durable");
        assert!(
            content[..4096].iter().all(|b| *b == 1),
            "seed {seed}: synced bytes changed"
        );
        let sectors: Vec<u8> = content[4096..]
            .chunks(512)
            .map(|sector| {
                assert!(
                    sector.iter().all(|b| *b == sector[0]),
                    "seed {seed}: torn within a sector"
                );
                sector[0]
            })
            .collect();
        match sectors.iter().map(|b| usize::from(*b == 2)).sum::<usize>() {
            16 => whole += 1,
            0 => absent += 1,
            _ => torn += 1,
        }
        assert!(run(&disk, sync_root()).is_err(), "the old device is off");
        assert_eq!(
            bytes(&after.crash(), "f", 3),
            Some(content),
            "seed {seed}: what survived one cut survives the next"
        );
    }
    assert!(
        whole > 30 && absent > 30 && torn > 30,
        "{whole} {absent} {torn}"
    );
}

/// Each change of names is there or not, on its own, until its directory is synced.
#[test]
fn power_cut_decides_each_unsynced_name() {
    let mut seen = HashSet::new();
    for seed in 0..200 {
        let (disk, _) = settled(seed, SimConfig::default());
        open(&disk, "new");
        run(
            &disk,
            Op::Rename {
                from: "f".into(),
                to: "g".into(),
            },
        )
        .expect("renames");
        let mut names: Vec<_> = disk
            .crash()
            .list("")
            .expect("lists")
            .into_iter()
            .map(|l| l.name)
            .collect();
        names.sort();
        seen.insert(names.join(" "));
    }
    let seen: Vec<&str> = ["f", "f new", "g", "g new"]
        .into_iter()
        .filter(|s| seen.contains(*s))
        .collect();
    assert_eq!(seen, ["f", "f new", "g", "g new"]);
    for seed in 0..50 {
        let (disk, _) = settled(seed, SimConfig::default());
        run(
            &disk,
            Op::Rename {
                from: "f".into(),
                to: "g".into(),
            },
        )
        .expect("renames");
        run(&disk, sync_root()).expect("syncs");
        run(&disk, Op::Remove { path: "g".into() }).expect("removes");
        let after = disk.crash();
        assert_eq!(bytes(&after, "f", 1), None);
        if let Some(content) = bytes(&after, "g", 1) {
            assert!(
                content.iter().all(|b| *b == 1),
                "seed {seed}: a renamed file keeps its synced content"
            );
        }
    }
}

/// A sync that is submitted before a write has completed need not cover it.
#[test]
fn sync_covers_only_what_completed_before_it_was_submitted() {
    let mut lost = 0;
    for seed in 0..100 {
        let (disk, file) = settled(seed, SimConfig::default());
        let tickets = [
            disk.submit(LANE, write(file, 1, 1, 2, false)),
            disk.submit(LANE, Op::Sync { file }),
        ];
        tickets.iter().for_each(|ticket| {
            ticket.wait(&*disk, LANE).expect("completes");
        });
        let content = bytes(&disk.crash(), "f", 2).expect("there");
        lost += u32::from(content[4096..].iter().all(|b| *b == 0));
    }
    assert!(lost > 10, "{lost}");
}

/// A successor has the lanes that were asked for, and its seed alone decides what it finds.
#[test]
fn successors_take_lanes_and_seed() {
    let mut found = HashSet::new();
    for seed in 0..40 {
        let mut images = HashSet::new();
        // What the life before drew does not matter.
        for before in 0..3 {
            let config = SimConfig {
                ordered: true,
                latency_drives_max: 1,
                ..SimConfig::default()
            };
            let (disk, file) = settled(before, config);
            run(&disk, write(file, 1, 2, 2, false)).expect("writes");
            let after = disk.crash_into(5, seed);
            assert_eq!(after.lanes(), 5);
            let sync = after.submit(Lane(4), sync_root());
            sync.wait(&*after, Lane(4)).expect("the last lane works");
            images.insert(bytes(&after, "f", 3).expect("there"));
            let killed = after.kill_into(1, seed);
            assert_eq!(killed.lanes(), 1);
            images.insert(bytes(&killed, "f", 3).expect("a kill changes nothing at rest"));
        }
        assert_eq!(images.len(), 1, "seed {seed}");
        found.extend(images);
    }
    assert!(found.len() > 5, "{}", found.len());
}

#[test]
fn kill_keeps_what_completed_and_tears_what_was_in_flight_at_pages() {
    let (mut whole, mut absent, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let config = SimConfig {
            latency_drives_max: 8,
            ..SimConfig::default()
        };
        let (disk, file) = settled(seed, config);
        run(&disk, write(file, 1, 1, 2, false)).expect("writes");
        let flying = disk.submit(LANE, write(file, 2, 4, 3, false));
        let never_driven = disk.submit(Lane(1), write(file, 0, 1, 9, false));
        disk.drive(LANE);
        let ended = flying.is_ended();
        let content = bytes(&disk.kill(), "f", 6).expect("there");
        assert!(content[..4096].iter().all(|b| *b == 1), "seed {seed}");
        assert!(
            content[4096..8192].iter().all(|b| *b == 2),
            "seed {seed}: completed writes outlive the process"
        );
        let there = content[8192..].chunks(4096).filter(|page| {
            assert!(
                page.iter().all(|b| *b == page[0]),
                "seed {seed}: torn within a page"
            );
            page[0] == 3
        });
        match there.count() {
            4 => whole += 1,
            0 => absent += 1,
            _ => torn += 1,
        }
        assert!(
            flying.result().expect("ended").is_ok() == ended,
            "seed {seed}: in flight at the kill is not acknowledged"
        );
        assert!(never_driven.result().expect("ended").is_err());
    }
    assert!(
        whole > 30 && absent > 30 && torn > 30,
        "{whole} {absent} {torn}"
    );
}

#[test]
fn kill_leaves_volatile_what_was() {
    let lost = (0..100).filter(|seed| {
        let (disk, file) = settled(*seed, SimConfig::default());
        run(&disk, write(file, 1, 1, 2, false)).expect("writes");
        let content = bytes(&disk.kill().crash(), "f", 2).expect("there");
        content[4096..].iter().all(|b| *b == 0)
    });
    assert!(lost.count() > 10);
}

#[test]
fn planned_errors_hit_the_operation_named_and_no_other() {
    for (fault, kind) in [
        (Fault::Eio, IoErrorKind::Other),
        (Fault::NoSpace, IoErrorKind::NoSpace),
    ] {
        let faults = FaultPlan {
            ops: BTreeMap::from([(3, fault)]),
            ..FaultPlan::default()
        };
        let (disk, file) = settled(1, planned(faults));
        assert_eq!(disk.ops(), 3);
        let error = run(&disk, write(file, 0, 1, 5, true)).expect_err("planned");
        assert_eq!(error.kind, kind);
        run(&disk, write(file, 1, 1, 6, true)).expect("the next is fine");
        let content = bytes(&disk.crash(), "f", 2).expect("there");
        assert_eq!((content[0], content[4096]), (1, 6));
    }
}

#[test]
fn torn_fault_writes_a_head_of_whole_sectors() {
    let mut lengths = HashSet::new();
    for seed in 0..100 {
        let faults = FaultPlan {
            ops: BTreeMap::from([(3, Fault::Torn)]),
            ..FaultPlan::default()
        };
        let (disk, file) = settled(seed, planned(faults));
        assert!(run(&disk, write(file, 1, 1, 2, true)).is_err());
        let content = bytes(&disk, "f", 2).expect("there");
        let head = content[4096..].iter().take_while(|b| **b == 2).count();
        assert!(
            head % 512 == 0 && content[4096 + head..].iter().all(|b| *b == 0),
            "seed {seed}"
        );
        lengths.insert(head);
    }
    assert!(lengths.len() > 5, "{lengths:?}");
}

#[test]
fn sync_that_fails_once_loses_content_though_the_next_succeeds() {
    for seed in 0..50 {
        let faults = FaultPlan {
            syncs: BTreeMap::from([(2, Fault::LosesContent)]),
            ..FaultPlan::default()
        };
        let (disk, file) = settled(seed, planned(faults));
        run(&disk, write(file, 1, 1, 2, false)).expect("writes");
        assert!(run(&disk, Op::Sync { file }).is_err());
        run(&disk, Op::Sync { file }).expect("a kernel says so too");
        assert_eq!(
            bytes(&disk, "f", 2).expect("there")[4096],
            2,
            "the cache still has it"
        );
        let content = bytes(&disk.crash(), "f", 2).expect("there");
        assert!(
            content[4096..].iter().all(|b| *b == 0),
            "seed {seed}: the disk never got it"
        );
    }
}

#[test]
fn syncs_fail_for_good_from_the_operation_named() {
    let faults = FaultPlan {
        fail_syncs_from_op: Some(3),
        ..FaultPlan::default()
    };
    let (disk, file) = settled(1, planned(faults));
    run(&disk, write(file, 0, 1, 2, false)).expect("writes go on");
    assert!(run(&disk, Op::Sync { file }).is_err());
    assert!(run(&disk, write(file, 0, 1, 2, true)).is_err());
    assert!(run(&disk, sync_root()).is_err());
}

#[test]
fn lost_and_misdirected_writes_claim_success() {
    let faults = FaultPlan {
        ops: BTreeMap::from([(3, Fault::Lost), (4, Fault::Misdirected { by: PAGE })]),
        ..FaultPlan::default()
    };
    let (disk, file) = settled(1, planned(faults));
    run(&disk, write(file, 0, 1, 7, true)).expect("claims so");
    run(&disk, write(file, 0, 1, 8, true)).expect("claims so");
    let content = bytes(&disk.crash(), "f", 2).expect("there");
    assert_eq!((content[0], content[4096]), (1, 8));
}

#[test]
fn faults_of_writes_below_a_path_count_its_writes_alone_and_are_counted() {
    let (disk, file) = settled(1, SimConfig::default());
    let other = open(&disk, "g");
    let faults = BTreeMap::from([(1, Fault::Eio)]);
    disk.set_faults(FaultPlan {
        writes_below: Some(("f".into(), faults)),
        ..FaultPlan::default()
    });
    run(&disk, write(file, 0, 1, 7, true)).expect("the first one");
    run(&disk, write(other, 0, 1, 7, true)).expect("of another file");
    assert_eq!(disk.faults_met(), 0);
    run(&disk, write(file, 0, 1, 8, true)).expect_err("the second one");
    run(&disk, write(file, 0, 1, 9, true)).expect("the third one");
    assert_eq!(disk.faults_met(), 1);
}

#[test]
fn a_read_may_fail_and_the_next_is_right() {
    let (disk, _) = settled(1, SimConfig::default());
    disk.set_faults(FaultPlan {
        reads: [disk.reads()].into(),
        ..FaultPlan::default()
    });
    let file = open(&disk, "f");
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(4096),
    }];
    disk.read(&mut reads).expect_err("the first one");
    disk.read(&mut reads).expect("the second one");
    assert_eq!((reads[0].into.bytes()[0], disk.faults_met()), (1, 1));
}

#[test]
fn syncs_may_take_longer_than_other_operations() {
    let slow = SimConfig {
        latency_drives_max: 1,
        sync_drives_max: 5,
        ..SimConfig::default()
    };
    let mut longest = [0, 0];
    for seed in 0..20 {
        let (disk, file) = settled(seed, slow.clone());
        for (sync, longest) in [false, true].into_iter().zip(&mut longest) {
            let ticket = disk.submit(LANE, write(file, 0, 1, 7, sync));
            let mut drives = 0;
            while ticket.result().is_none() {
                disk.drive(LANE);
                drives += 1;
            }
            *longest = drives.max(*longest);
        }
    }
    assert_eq!(longest, [1, 6]);
}

#[test]
fn flipped_bits_stay_flipped() {
    let (disk, _) = settled(1, SimConfig::default());
    assert!(disk.flip_bit("f", 100, 3));
    assert!(!disk.flip_bit("f", 1 << 20, 3) && !disk.flip_bit("absent", 0, 0));
    assert_eq!(bytes(&disk, "f", 1).expect("there")[100], 1 ^ 8);
    assert_eq!(bytes(&disk.crash(), "f", 1).expect("there")[100], 1 ^ 8);
}

#[test]
fn capacity_bounds_blocks_and_allocation_is_a_promise() {
    let (disk, file) = settled(
        1,
        planned(FaultPlan {
            capacity: Some(8 * PAGE),
            ..FaultPlan::default()
        }),
    );
    let mode = OpenMode {
        create: true,
        allocate: 4 * PAGE,
        direct: false,
    };
    let Ok(Completion::Opened { file: other, .. }) = run(
        &disk,
        Op::Open {
            path: "o".into(),
            mode,
        },
    ) else {
        panic!("fits")
    };
    run(&disk, write(file, 1, 3, 2, true)).expect("fits");
    let error = run(&disk, write(file, 4, 1, 2, true)).expect_err("full");
    assert_eq!(error.kind, IoErrorKind::NoSpace);
    run(&disk, write(other, 0, 4, 3, true)).expect("was promised");
    run(&disk, write(file, 0, 4, 4, true)).expect("overwriting takes nothing");
    let mode = OpenMode {
        create: true,
        allocate: PAGE,
        direct: false,
    };
    assert!(
        run(
            &disk,
            Op::Open {
                path: "p".into(),
                mode
            }
        )
        .is_err()
    );
    run(&disk, Op::Close { file: other }).expect("closes");
    run(&disk, Op::Remove { path: "o".into() }).expect("removes");
    run(&disk, write(file, 4, 4, 2, true)).expect("fits again");
}

/// A workload that a test may cut after every single operation.
#[test]
fn crash_after_every_operation_leaves_a_prefix_of_synced_writes() {
    let work = |disk: &SimDevice| -> Result<(), alluvium_io::IoError> {
        let mode = OpenMode {
            create: true,
            ..OpenMode::default()
        };
        let Completion::Opened { file, .. } = run(
            disk,
            Op::Open {
                path: "f".into(),
                mode,
            },
        )?
        else {
            panic!("opens")
        };
        run(disk, sync_root())?;
        for page in 0..8 {
            run(disk, write(file, page, 1, 1 + page as u8, true))?;
        }
        Ok(())
    };
    let whole = SimDevice::new(5, SimConfig::default());
    work(&whole).expect("no faults");
    assert_eq!(
        (
            whole.ops(),
            whole.syncs_of("f"),
            whole.syncs(),
            whole.pages_written()
        ),
        (10, 8, 9, 8)
    );
    for ops in 0..=whole.ops() {
        let faults = FaultPlan {
            crash_after_ops: Some(ops),
            ..FaultPlan::default()
        };
        let disk = SimDevice::new(5, planned(faults));
        assert!(ops == whole.ops() || work(&disk).is_err() && disk.is_crashed());
        if ops == whole.ops() {
            work(&disk).expect("all fit");
        }
        assert_eq!(disk.ops(), ops);
        let after = disk.crash();
        let content = bytes(&after, "f", 8);
        if ops >= 2 {
            let content = content.expect("the name is durable");
            let written: Vec<u8> = content.chunks(4096).map(|page| page[0]).collect();
            let wanted: Vec<u8> = (1..=8)
                .map(|n| if u64::from(n) + 2 <= ops { n } else { 0 })
                .collect();
            assert_eq!(written, wanted, "after {ops}");
        }
    }
}

/// Random work on both lanes: completion order varies by seed, and the same seed repeats everything.
#[test]
fn same_seed_same_calls_same_state() {
    let history = |seed: u64| {
        let (disk, file) = settled(seed, SimConfig::default());
        let mut dice = Prng::new(99);
        let mut order = Vec::new();
        let mut tickets = Vec::new();
        for i in 0..200 {
            let lane = Lane(dice.below(2) as usize);
            let op = match dice.below(8) {
                0 => Op::Sync { file },
                1 => Op::Rename {
                    from: "f".into(),
                    to: "f".into(),
                },
                _ => write(file, dice.below(50), 1, i as u8, dice.chance(1, 4)),
            };
            tickets.push(disk.submit(lane, op));
            if dice.chance(1, 2) {
                disk.drive(lane);
            }
            order.push(tickets.iter().filter(|ticket| ticket.is_ended()).count());
        }
        let live = disk.state_hash();
        let after = disk.crash();
        (order, live, after.state_hash(), after.crash().state_hash())
    };
    for seed in 0..10 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
    assert_ne!(history(1).1, history(2).1);
}

/// A second name is durable when its directory is, shows what the first one's writer does, outlives it, and keeps holes out.
#[test]
fn a_file_may_have_names_in_two_folders() {
    let mut kept = HashSet::new();
    for seed in 0..20 {
        let (disk, file) = settled(seed, SimConfig::default());
        let folder = SimFolder::new(Arc::clone(&disk), "copy");
        let to = folder.path().join("g");
        disk.link("f", &to).expect("the same disk");
        assert_eq!(
            disk.link("f", &to).unwrap_err().kind,
            IoErrorKind::Other,
            "it is there"
        );
        let elsewhere = SimDevice::new(seed + 1, SimConfig::default()).path();
        let refused = disk.link("f", &elsewhere.join("g")).unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::Unsupported);
        let punch = Op::Punch {
            file,
            offset: 0,
            len: PAGE,
        };
        let refused = run(&disk, punch.clone()).unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::Linked);
        kept.insert(bytes(&disk.crash_into(1, seed), "copy/g", 1).is_some());

        let (disk, file) = settled(seed, SimConfig::default());
        let folder = SimFolder::new(Arc::clone(&disk), "copy");
        disk.link("f", &folder.path().join("g"))
            .expect("the same disk");
        let sync = Op::SyncDir {
            path: String::new(),
        };
        folder
            .submit(LANE, sync)
            .wait(&folder, LANE)
            .expect("syncs");
        run(&disk, Op::Remove { path: "f".into() }).expect("removes");
        run(&disk, sync_root()).expect("syncs");
        run(&disk, write(file, 0, 1, 7, true)).expect("writes");
        let after = disk.crash();
        let found = bytes(&after, "copy/g", 1).expect("its name is durable");
        assert!(found.iter().all(|b| *b == 7), "the writer's last page");
        assert!(bytes(&after, "f", 1).is_none());
        run(&disk, punch).unwrap_err();
    }
    assert_eq!(
        kept.len(),
        2,
        "a name is volatile until its folder is synced"
    );
}

/// What a sync may have covered is never written again, here by the same bytes: not even what would tear to nothing worse.
#[test]
#[should_panic(expected = "a write at 4096 of wal/a, whose writes reach to 8192")]
fn files_that_are_appended_to_take_no_write_before_their_end() {
    let config = SimConfig {
        append_only: Some("wal/"),
        ..SimConfig::default()
    };
    let disk = SimDevice::new(3, config);
    let elsewhere = open(&disk, "vol/a");
    let file = open(&disk, "wal/a");
    for page in [0, 1, 1] {
        run(&disk, write(elsewhere, page, 1, 7, false)).unwrap();
    }
    for page in [0, 1, 1] {
        run(&disk, write(file, page, 1, 7, false)).unwrap();
    }
}

#[test]
fn a_copy_disturbs_nothing() {
    let (disk, file) = settled(3, SimConfig::default());
    run(&disk, write(file, 0, 1, 9, false)).unwrap();
    let before = disk.state_hash();
    let copy = disk.copy();
    assert_eq!(bytes(&copy, "f", 1), Some(vec![9; PAGE as usize]));
    let other = open(&copy, "b");
    run(&copy, write(other, 0, 1, 1, true)).unwrap();
    assert_eq!(disk.state_hash(), before);
    assert_eq!(
        disk.list("").unwrap().len() + 1,
        copy.list("").unwrap().len()
    );
}

#[test]
fn a_spoilt_block_cannot_be_read_until_it_is_written() {
    let (disk, _) = settled(1, SimConfig::default());
    let file = open(&disk, "f");
    run(&disk, write(file, 0, 3, 7, true)).expect("writes");
    assert!(disk.spoil("f", PAGE + 100) && !disk.spoil("absent", 0));
    let disk = disk.crash();
    let file = open(&disk, "f");
    let read = |page: u64, pages: u64| {
        let into = AlignedBuf::zeroed((pages * PAGE) as usize);
        let offset = page * PAGE;
        disk.read(&mut [Read { file, offset, into }]).is_ok()
    };
    assert!(read(0, 1) && read(2, 1));
    assert!(!read(1, 1) && !read(0, 3));
    run(&disk, write(file, 1, 1, 8, false)).expect("writes");
    assert!(read(0, 3));
}
