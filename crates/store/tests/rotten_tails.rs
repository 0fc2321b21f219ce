//! Tails files that rot, lose sectors or are cut short, and mending files that do: nothing is felt as long as no two pages of a group
//! are gone, and what was gone is written anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium_io::{AlignedBuf, Completion, Lane, Op, OpenMode, Read, WriteData};
use alluvium_sim::{FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{
    BackupTarget, Database, Device, OpenError, Store, StoreConfig, restore, salvage, verify,
};
use alluvium_types::Value;
use model::{Dice, Line, Model, read_all, same, write};

/// Pages of a stripe and of a group in it.
const STRIPE: u64 = 256;
const GROUPS: u64 = 16;

fn config() -> StoreConfig {
    StoreConfig {
        shards: 1,
        volume_bytes: 1 << 20,
        segment_bytes: 256 << 10,
        merge_paused: true,
        memory_bytes: 256 << 20,
        redo_threads_max: 1,
        scrub_bytes_per_s: 1 << 30,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn try_open(device: &Arc<SimDevice>, config: StoreConfig) -> Result<(Store, Database), OpenError> {
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let store = Store::open(shared(device), clock, config)?;
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    Ok((store, database))
}

fn open(device: &Arc<SimDevice>) -> (Store, Database) {
    try_open(device, config()).unwrap()
}

fn shared(device: &Arc<SimDevice>) -> Arc<dyn Device> {
    Arc::<SimDevice>::clone(device) as Arc<dyn Device>
}

fn disk() -> Arc<SimDevice> {
    let sim = SimConfig {
        lanes: 2,
        ..SimConfig::default()
    };
    SimDevice::new(1, sim)
}

/// A line of a text that takes 800 bytes in a tail.
fn line(dice: &mut Dice, host: u32, time: i64) -> Line {
    let words: Vec<String> = (0..50).map(|_| format!("{:016x}", dice.roll())).collect();
    let text = words.concat();
    Line {
        host,
        time,
        fields: vec![("text", Value::Str(text.into()))],
    }
}

/// A base of several stripes, and three increments on it, of which the superblock before the last names two.
fn world() -> (Arc<SimDevice>, Model) {
    let (device, mut model, mut dice) = (disk(), Model::default(), Dice(3));
    let (store, database) = open(&device);
    let mut time = 0;
    for (rounds, hosts) in [(2, 0..900), (1, 300..600), (1, 0..30), (1, 400..450)] {
        for _ in 0..rounds {
            time += 10;
            let lines: Vec<Line> = hosts.clone().map(|h| line(&mut dice, h, time)).collect();
            write(&database, &lines, None).unwrap().wait().unwrap();
            model.apply(&lines);
        }
        store.checkpoint().wait().unwrap();
    }
    let lines: Vec<Line> = (0..20).map(|h| line(&mut dice, h, time + 10)).collect();
    write(&database, &lines, None).unwrap().wait().unwrap();
    model.apply(&lines);
    drop((store, database));
    (device.kill(), model)
}

/// Names of tails files and their pages, oldest first; those that hold something.
fn tails(device: &SimDevice) -> Vec<(String, u64)> {
    let mut files = device.list("").unwrap();
    files.retain(|f| f.name.starts_with("tails.") && f.len > 0);
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let files = files.into_iter().map(|f| (f.name, f.len / 4096));
    files.collect()
}

fn mending(tails: &str) -> String {
    tails.replace("tails.", "mend.")
}

fn run(device: &SimDevice, op: Op) -> Completion {
    device.submit(Lane(0), op).wait(device, Lane(0)).unwrap()
}

fn open_file(device: &SimDevice, path: &str, create: bool) -> (alluvium_io::FileId, u64) {
    let mode = OpenMode {
        create,
        ..OpenMode::default()
    };
    let path = path.to_owned();
    match run(device, Op::Open { path, mode }) {
        Completion::Opened { file, len } => (file, len),
        Completion::Done => panic!("not opened"),
    }
}

fn read(device: &SimDevice, path: &str) -> Vec<u8> {
    let (file, len) = open_file(device, path, false);
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(len as usize),
    }];
    device.read(&mut reads).unwrap();
    run(device, Op::Close { file });
    reads[0].into.bytes()[..len as usize].to_vec()
}

/// Takes away what is in a file from a page on.
fn cut(device: &SimDevice, path: &str, pages: u64) {
    let bytes = read(device, path);
    run(device, Op::Remove { path: path.into() });
    let (file, _) = open_file(device, path, true);
    let mut buffer = AlignedBuf::zeroed(pages as usize * 4096);
    let len = buffer.len();
    buffer.bytes_mut().copy_from_slice(&bytes[..len]);
    let write = Op::Write {
        file,
        offset: 0,
        data: WriteData::Buffer(Arc::new(buffer)),
        sync: true,
    };
    run(device, write);
    run(device, Op::Close { file });
}

fn is_sound(device: &Arc<SimDevice>) -> bool {
    verify(&shared(device)).unwrap().is_sound()
}

fn rot(device: &SimDevice, path: &str, page: u64, dice: &mut Dice) {
    for at in 0..=dice.below(3) {
        let offset = page * 4096 + at * 1024 + dice.below(1024);
        assert!(device.flip_bit(path, offset, dice.below(8) as u8));
    }
}

/// Some pages of a file, no two of a group.
fn one_of_a_group(dice: &mut Dice, pages: u64) -> BTreeSet<u64> {
    let mut groups = BTreeSet::new();
    let some = (0..=dice.below(40)).map(|_| dice.below(pages));
    some.filter(|page| groups.insert((page / STRIPE, page % GROUPS)))
        .collect()
}

/// Pages of a file that follow each other, 64 KiB of them.
fn burst(dice: &mut Dice, pages: u64) -> BTreeSet<u64> {
    let begin = dice.below(pages);
    // Not across the border of two stripes, where it would be two shorter ones.
    let end = (begin / STRIPE + 1) * STRIPE;
    (begin..pages.min(end).min(begin + GROUPS)).collect()
}

/// The store opens as if nothing were wrong, and what is damaged is found, mended, and whole after a crash.
fn heals(device: &Arc<SimDevice>, model: &Model, damaged: &[(&str, Vec<u8>)], mended: u64) {
    let mut report = verify(&shared(device)).unwrap();
    report.findings.sort_by(|a, b| a.place.cmp(&b.place));
    for (path, _) in damaged {
        let found = report.findings.iter().find(|f| f.place == *path);
        assert!(found.is_some(), "{path}: {:?}", report.findings);
    }
    let (store, database) = open(device);
    assert_eq!(store.recovery().newest_damaged, None);
    assert_eq!(store.recovery().tails_pages_mended, mended);
    assert_eq!(store.status().tails_pages_mended, mended);
    same(&read_all(&database), model).unwrap();
    let found = store.scrub_round().findings;
    assert_eq!(found, report.findings);
    assert_eq!(store.scrub_round().findings, []);
    for (path, was) in damaged {
        assert_eq!(&read(device, path), was, "{path}");
    }
    drop((store, database));
    let device = device.crash();
    assert!(is_sound(&device));
    let (store, database) = open(&device);
    assert_eq!(store.recovery().tails_pages_mended, 0);
    same(&read_all(&database), model).unwrap();
}

#[test]
fn a_page_of_each_group_or_64_kib_of_any_tails_file_may_go() {
    let (base, model) = world();
    assert!(is_sound(&base));
    let tails = tails(&base);
    assert_eq!(tails.len(), 4);
    assert!(tails[0].1 > 300 && tails[1].1 > 100, "{tails:?}");
    let mut dice = Dice(17);
    for (path, pages) in &tails {
        let whole = read(&base, path);
        for round in 0..8 {
            let device = base.copy();
            let gone = if round % 2 == 0 {
                one_of_a_group(&mut dice, *pages)
            } else {
                burst(&mut dice, *pages)
            };
            for page in &gone {
                if round % 4 < 2 {
                    rot(&device, path, *page, &mut dice);
                } else {
                    assert!(device.spoil(path, page * 4096));
                }
            }
            println!("{path} {round}: {gone:?}");
            heals(&device, &model, &[(path, whole.clone())], gone.len() as u64);
        }
    }
}

#[test]
fn a_tails_file_may_lose_its_end() {
    let (base, model) = world();
    let (path, pages) = tails(&base).remove(0);
    let whole = read(&base, &path);
    let device = base.copy();
    cut(&device, &path, pages - 9);
    heals(&device, &model, &[(&path, whole)], 9);
}

#[test]
fn rot_in_a_mending_file_is_harmless_and_written_anew() {
    let (base, model) = world();
    let (tails, _) = tails(&base).remove(0);
    let path = mending(&tails);
    let (whole, of_tails) = (read(&base, &path), read(&base, &tails));
    let mut dice = Dice(5);
    for page in 0..whole.len() as u64 / 4096 {
        let device = base.copy();
        rot(&device, &path, page, &mut dice);
        heals(&device, &model, &[(&path, whole.clone())], 0);
        // What the rest of it gives back it still does: another group of the stripe, or another stripe.
        let (stripe, part) = (page / (GROUPS + 1), page % (GROUPS + 1));
        let other = if part == 0 {
            (stripe + 1) % 2 * STRIPE + 7
        } else {
            stripe * STRIPE + part % GROUPS
        };
        let device = base.copy();
        rot(&device, &path, page, &mut dice);
        rot(&device, &tails, other, &mut dice);
        let both = [(&*path, whole.clone()), (&*tails, of_tails.clone())];
        heals(&device, &model, &both, 1);
    }
    // Blocks that cannot be read, and none at all.
    let device = base.copy();
    assert!(device.spoil(&path, 0) && device.spoil(&path, 17 * 4096));
    heals(&device, &model, &[(&path, whole.clone())], 0);
    let device = base.copy();
    run(&device, Op::Remove { path: path.clone() });
    heals(&device, &model, &[(&path, whole)], 0);
}

#[test]
fn two_pages_of_a_group_are_lost_and_named() {
    let (base, model) = world();
    let tails = tails(&base);
    let mut dice = Dice(7);
    for (i, (path, pages)) in tails.iter().enumerate() {
        for round in 0..3 {
            let device = base.copy();
            let page = dice.below(pages - 1);
            let (two, what) = match round {
                0 => ([Some(page), other_of_group(page, *pages)], "differs; pages"),
                1 => ([Some(page), None], "differs"),
                _ => (
                    [Some(page), other_of_group(page, *pages)],
                    "Input/output error",
                ),
            };
            if round == 1 {
                let path = mending(path);
                run(&device, Op::Remove { path });
            }
            if round != 1 && two[1].is_none() {
                continue;
            }
            for page in two.into_iter().flatten() {
                if round == 2 {
                    assert!(device.spoil(path, page * 4096));
                } else {
                    rot(&device, path, page, &mut dice);
                }
            }
            let report = verify(&shared(&device)).unwrap();
            let found = report.findings.iter().find(|f| f.place == *path).unwrap();
            assert!(found.what.contains(what), "{found:?}");
            match try_open(&device, config()) {
                // Both superblocks name it.
                Err(error) => {
                    println!("{path} {round}: {error}");
                    assert!(i + 1 < tails.len() || round == 2);
                }
                Ok((store, database)) => {
                    assert_eq!(i + 1, tails.len());
                    assert!(store.recovery().newest_damaged.is_some());
                    same(&read_all(&database), &model).unwrap();
                }
            }
        }
    }
}

/// Another page of its group, if the file has one.
fn other_of_group(page: u64, pages: u64) -> Option<u64> {
    let stripe = page / STRIPE * STRIPE;
    let mut of_stripe = stripe..pages.min(stripe + STRIPE);
    of_stripe.find(|other| other % GROUPS == page % GROUPS && *other != page)
}

/// Leaves all series in their files.
fn all_away() -> StoreConfig {
    StoreConfig {
        open_load_bytes_max: 0,
        recall_percent: 0,
        ..config()
    }
}

#[test]
fn records_that_are_read_later_come_back_too() {
    let (base, model) = world();
    let mut dice = Dice(9);
    for round in 0..12 {
        let device = base.copy();
        let config = StoreConfig {
            tail_chain_max: 3,
            // Some come back by and by, and not when they are asked for.
            recall_percent: if round % 3 == 2 { 100 } else { 0 },
            ..all_away()
        };
        let (store, database) = try_open(&device, config).unwrap();
        assert_eq!(store.recovery().tails_pages_mended, 0);
        let mut damaged = Vec::new();
        for (path, pages) in tails(&device) {
            damaged.push((path.clone(), read(&device, &path)));
            for page in burst(&mut dice, pages) {
                if round % 2 == 0 {
                    rot(&device, &path, page, &mut dice);
                } else {
                    assert!(device.spoil(&path, page * 4096));
                }
            }
        }
        for _ in 0..round % 3 * 100 {
            store.drive();
        }
        if round % 3 == 1 {
            // The chain begins anew: records are copied that were not read before.
            store.checkpoint().wait().unwrap();
            store.checkpoint().wait().unwrap();
        }
        same(&read_all(&database), &model).unwrap();
        assert!(store.status().tails_pages_mended > 0, "{round}");
        if round % 3 != 1 {
            // What a reader met comes first.
            while store.scrub_status().files == 0 {
                store.scrub_step();
            }
            assert_eq!(store.scrub_status().findings.len(), 1);
            store.scrub_round();
            assert_eq!(store.scrub_round().findings, []);
            for (path, was) in &damaged {
                assert_eq!(&read(&device, path), was, "{path}");
            }
        }
        drop((store, database));
        let device = device.crash();
        let (_store, database) = open(&device);
        same(&read_all(&database), &model).unwrap();
    }
}

#[test]
fn a_cut_while_mending_leaves_what_can_be_mended() {
    let (base, model) = world();
    let mut dice = Dice(11);
    let mut cuts = 0;
    for ops in 0.. {
        let device = base.copy();
        let (store, database) = open(&device);
        for (i, (path, pages)) in tails(&base).iter().enumerate() {
            if i == 1 {
                rot(&device, &mending(path), 0, &mut dice);
                continue;
            }
            for page in burst(&mut dice, *pages) {
                rot(&device, path, page, &mut dice);
            }
        }
        device.set_faults(FaultPlan {
            crash_after_ops: Some(device.ops() + ops),
            ..FaultPlan::default()
        });
        store.scrub_round();
        let ended = !device.is_crashed();
        drop((store, database));
        let device = device.crash();
        let (store, database) = open(&device);
        same(&read_all(&database), &model).unwrap();
        store.scrub_round();
        assert_eq!(store.scrub_round().findings, [], "{ops}");
        cuts += 1;
        if ended {
            break;
        }
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn backups_and_restores_do_without_sectors_and_salvage_mends() {
    let (base, model) = world();
    let mut dice = Dice(13);
    for round in 0..4 {
        let device = base.copy();
        let (store, _database) = open(&device);
        // The backup's own checkpoint comes behind these.
        for (path, pages) in tails(&device) {
            for page in burst(&mut dice, pages) {
                match round {
                    0 => rot(&device, &path, page, &mut dice),
                    1 => assert!(device.spoil(&path, page * 4096)),
                    // The same two blocks, again and again.
                    2 => drop(device.spoil(&mending(&path), page % 2 * 4096)),
                    _ => {}
                }
            }
        }
        let backup = disk();
        let target = BackupTarget {
            device: shared(&backup),
            directory: None,
            base: None,
        };
        store.backup(&target).unwrap();
        if round == 3 {
            for (path, pages) in tails(&backup) {
                for page in burst(&mut dice, pages) {
                    assert!(backup.spoil(&path, page * 4096));
                }
            }
        }
        // It opens as it is, and so does what is restored of it.
        let (opened, database) = open(&backup.copy());
        same(&read_all(&database), &model).unwrap();
        drop((opened, database));
        let restored = disk();
        let report = restore(&shared(&backup), &shared(&restored)).unwrap();
        assert!(report.verified.is_sound());
        let (_store, database) = open(&restored);
        same(&read_all(&database), &model).unwrap();
        // Without a superblock.
        let path = "superblock".into();
        run(&backup, Op::Remove { path });
        let saved = disk();
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let report = salvage(&shared(&backup), &shared(&saved), clock, config()).unwrap();
        assert_eq!(report.bad_files, [""; 0]);
        assert_eq!(report.pages_mended > 0, round != 2, "{report:?}");
        let (_store, database) = open(&saved);
        same(&read_all(&database), &model).unwrap();
    }
    // Two of a group that cannot be read are no backup.
    let device = base.copy();
    let (store, _database) = open(&device);
    let (path, _) = tails(&device).remove(0);
    assert!(device.spoil(&path, 0) && device.spoil(&path, GROUPS * 4096));
    let target = BackupTarget {
        device: shared(&disk()),
        directory: None,
        base: None,
    };
    assert!(store.backup(&target).is_err());
}
