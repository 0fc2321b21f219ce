//! A backup under writes, from earlier ones and on failing disks, and what comes back from it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_io::{DeviceOptions, Lane, Layer, MemoryDevice, Op, Ticket};
use alluvium_sim::{FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{
    BackupError, BackupReport, BackupTarget, Database, Device, Store, StoreConfig, restore, verify,
};
use alluvium_types::{TimeRange, Value};
use model::{Dice, Line, Model, Removal, batch, check_lists, check_reads, read_all, same, write};

const SHARDS: usize = 2;

fn config() -> StoreConfig {
    StoreConfig {
        shards: SHARDS,
        volume_bytes: 128 << 10,
        extent_pages: 4,
        segment_bytes: 256 << 10,
        late_points_max: 100,
        merge_runs_max: 2,
        merge_late_points: 100,
        merge_quiet_ms: 1,
        space_check_ms: 1,
        space_hole_pages_min: 4,
        index_segment_rows: 4,
        cache_percent: 1,
        memory_bytes: 64 << 20,
        ..StoreConfig::default()
    }
}

fn directory() -> tempfile::TempDir {
    // Beside the build, which is on a disk; the system's temporary directory may be memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn device(dir: &Path) -> Arc<dyn Device> {
    let options = DeviceOptions {
        lanes: SHARDS + 1,
        ..DeviceOptions::default()
    };
    alluvium_io::open(dir, &options).unwrap()
}

fn clock() -> Arc<SimClock> {
    Arc::new(SimClock::new(1_700_000_000_000_000_000))
}

fn open(device: &Arc<dyn Device>) -> (Store, Database) {
    let store = Store::open(Arc::clone(device), clock(), config()).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    (store, database)
}

fn back_up(store: &Store, dir: &Path, base: Option<&Path>, link: bool) -> BackupReport {
    let target = BackupTarget {
        device: device(dir),
        directory: link.then(|| dir.canonicalize().unwrap()),
        base: base.map(device),
    };
    store.backup(&target).unwrap()
}

/// What a backup gives back, in a directory that was moved since it was restored.
fn restored(backup: &Path) -> (tempfile::TempDir, Arc<dyn Device>, Store, Database) {
    let dir = directory();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    {
        let (from, to) = (device(backup), device(&first));
        let report = restore(&from, &to).unwrap();
        assert!(report.verified.is_sound() && report.verified.pages > 0);
    }
    std::fs::rename(&first, &second).unwrap();
    let device = device(&second);
    let (store, database) = open(&device);
    (dir, device, store, database)
}

fn fill(database: &Database, model: &mut Model, dice: &mut Dice, now: &mut i64, batches: u32) {
    for _ in 0..batches {
        let mut lines = batch(dice, now, 12, 200);
        // Noise fills pages.
        lines.extend((0..400).map(|i| Line {
            host: i % 12,
            time: *now + i64::from(i),
            fields: vec![("noise", Value::F64(dice.roll() as f64 / 3e15))],
        }));
        *now += 400;
        write(database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
    }
}

#[test]
fn everything_acknowledged_before_a_backup_under_writes_comes_back() {
    let (source, target) = (directory(), directory());
    let device = device(source.path());
    let (store, database) = open(&device);
    let (mut dice, mut now, mut model) = (Dice(11), 1_000_000, Model::default());
    fill(&database, &mut model, &mut dice, &mut now, 60);
    let removal = Removal {
        hosts: Some(vec![3]),
        field: None,
        range: TimeRange::new(0, now / 2).unwrap(),
        above: None,
    };
    let deleted = database.delete(&removal.request()).unwrap();
    deleted.commit.wait().unwrap();
    model.remove(&removal);
    // Behind this every further batch may be in the backup, and each host is as after some of them.
    let stop = AtomicBool::new(false);
    let (report, later) = std::thread::scope(|scope| {
        scope.spawn(|| store.pump(&stop));
        let writer = scope.spawn(|| {
            let mut later = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let lines = batch(&mut dice, &mut now, 12, 50);
                write(&database, &lines, None).unwrap().wait().unwrap();
                later.push(lines);
            }
            later
        });
        let report = back_up(&store, target.path(), None, true);
        stop.store(true, Ordering::Release);
        store.wake();
        (report, writer.join().unwrap())
    });
    assert!(
        report.volumes_linked > 0 && report.volumes_copied > 0,
        "{report:?}"
    );
    let (_dir, _device, _store, database) = restored(target.path());
    let found = read_all(&database);
    check_reads(&database, &found, &mut Dice(5));
    check_lists(&database, &found);
    let of_host = |model: &Model, host: u32| Model {
        series: model
            .series
            .iter()
            .filter(|(k, _)| k.0 == host)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    let mut missing: Vec<u32> = (0..12).collect();
    for lines in later.iter().map(Some).chain([None]) {
        missing.retain(|h| same(&of_host(&found, *h), &of_host(&model, *h)).is_err());
        if let Some(lines) = lines {
            model.apply(lines);
        }
    }
    assert!(
        missing.is_empty(),
        "hosts {missing:?} are as after no batch of {}",
        later.len()
    );
    println!("{report:?}, {} batches meanwhile", later.len());
}

#[test]
fn an_incremental_backup_stands_alone_and_links_what_is_the_same() {
    let (source, all) = (directory(), directory());
    let device = device(source.path());
    let (store, database) = open(&device);
    let (mut dice, mut now, mut model) = (Dice(12), 1_000_000, Model::default());
    fill(&database, &mut model, &mut dice, &mut now, 160);
    let path = |n: u32| all.path().join(n.to_string());
    let first = back_up(&store, &path(1), None, false);
    assert!(
        first.volumes_linked == 0 && first.volumes_copied > 1,
        "{first:?}"
    );
    fill(&database, &mut model, &mut dice, &mut now, 5);
    let second = back_up(&store, &path(2), Some(&path(1)), true);
    assert!(second.files_from_base > 1, "{second:?}");
    // Merges meanwhile decide how much: about half.
    assert!(
        second.bytes_copied - second.log_bytes < (first.bytes_copied - first.log_bytes) / 4 * 3,
        "{second:?} {first:?}"
    );
    std::fs::remove_dir_all(path(1)).unwrap();
    drop((database, store, device, source));
    let (_dir, _device, _store, database) = restored(&path(2));
    same(&read_all(&database), &model).unwrap();
    check_reads(&database, &model, &mut Dice(5));
}

#[test]
fn the_base_must_be_an_earlier_backup_of_the_same_store() {
    let dirs = [directory(), directory(), directory(), directory()];
    let [source, other, backup, target] = &dirs;
    let (first, second) = (device(source.path()), device(other.path()));
    let (store, _database) = open(&first);
    let (stranger, _) = open(&second);
    back_up(&store, backup.path(), None, true);
    let target = |base: Arc<dyn Device>| BackupTarget {
        device: device(&target.path().join(format!("{base:p}"))),
        directory: None,
        base: Some(base),
    };
    let refused = |store: &Store, base: Arc<dyn Device>, word: &str| {
        let error = store.backup(&target(base)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(&stranger, device(backup.path()), "another store");
    refused(&store, Arc::new(MemoryDevice::new(1)), "empty");
    refused(&store, Arc::clone(&second), "opened");
    // A target that holds something.
    let filled = BackupTarget {
        device: device(backup.path()),
        directory: None,
        base: None,
    };
    assert!(matches!(
        store.backup(&filled),
        Err(BackupError::NotEmpty { .. })
    ));
}

/// A store that was restored and one that was not go on under the same numbers: what either backs up is no base for the other.
#[test]
fn the_base_must_be_of_the_same_line_of_history() {
    let (source, dir) = (directory(), directory());
    let path = |name: &str| dir.path().join(name);
    let device_of_source = device(source.path());
    let (store, database) = open(&device_of_source);
    let (mut model, mut dice, mut now) = (Model::default(), Dice(21), 1_000_000);
    fill(&database, &mut model, &mut dice, &mut now, 60);
    back_up(&store, &path("before"), None, true);
    let (_left, _, left, in_left) = restored(&path("before"));
    let (_right, _, right, in_right) = restored(&path("before"));
    // All three write as much, and not the same.
    let mut models = [(model.clone(), 1), (model.clone(), 2), (model, 3)];
    let all = [(&store, &database), (&left, &in_left), (&right, &in_right)];
    for ((_, database), (model, seed)) in all.iter().zip(&mut models) {
        let (mut dice, mut now) = (Dice(*seed), now);
        fill(database, model, &mut dice, &mut now, 60);
    }
    let names = ["store", "left", "right"];
    for ((store, _), name) in all.iter().zip(names) {
        let report = back_up(store, &path(name), Some(&path("before")), true);
        assert!(report.files_from_base > 0, "{report:?}");
    }
    for (i, (store, _)) in all.iter().enumerate() {
        for (other, name) in names.iter().enumerate() {
            let target = BackupTarget {
                device: device(&path(&format!("{i} on {other}"))),
                directory: Some(path(&format!("{i} on {other}"))),
                base: Some(device(&path(name))),
            };
            let result = store.backup(&target);
            match result {
                Ok(_) => assert_eq!(i, other),
                Err(error) => {
                    assert!(
                        i != other && matches!(error, BackupError::Base { .. }),
                        "{error}"
                    );
                }
            }
        }
    }
    for (i, (model, _)) in models.iter().enumerate() {
        let (_dir, _device, _store, database) = restored(&path(&format!("{i} on {i}")));
        same(&read_all(&database), model).unwrap();
    }
}

/// Where the newest superblock is lost, volumes that only it named have a name in the backup, too: a new one takes no number of theirs.
#[test]
fn volumes_that_a_lost_superblock_named_are_not_written_to() {
    let (source, target) = (directory(), directory());
    let before = device(source.path());
    let (store, database) = open(&before);
    let (mut model, mut dice, mut now) = (Model::default(), Dice(15), 1_000_000);
    fill(&database, &mut model, &mut dice, &mut now, 5);
    store.checkpoint().wait().unwrap();
    fill(&database, &mut model, &mut dice, &mut now, 60);
    let report = back_up(&store, target.path(), None, true);
    assert!(report.volumes_linked > 0, "{report:?}");
    // A kill, and rot.
    drop((database, store, before));
    let superblock = source.path().join("superblock");
    let mut bytes = std::fs::read(&superblock).unwrap();
    let slot = (report.superblock_seq % 2) as usize * (1 << 20);
    bytes[slot + 30] ^= 1;
    std::fs::write(&superblock, bytes).unwrap();
    let after = device(source.path());
    let (store, database) = open(&after);
    same(&read_all(&database), &model).unwrap();
    let mut later = model.clone();
    fill(&database, &mut later, &mut dice, &mut now, 60);
    store.checkpoint().wait().unwrap();
    same(&read_all(&database), &later).unwrap();
    drop((database, store, after));
    let (_dir, _device, _store, restored) = restored(target.path());
    same(&read_all(&restored), &model).unwrap();
}

#[test]
fn no_holes_are_made_in_files_that_a_backup_has_too() {
    let (source, target) = (directory(), directory());
    let device = device(source.path());
    let clock = clock();
    let shared: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&clock);
    let store = Store::open(Arc::clone(&device), shared, config()).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let (mut dice, mut model) = (Dice(13), Model::default());
    for begin in (0..8000).step_by(200) {
        let lines: Vec<Line> = (begin..begin + 200)
            .flat_map(|time| (0..12).map(move |host| (host, time)))
            .map(|(host, time)| Line {
                host,
                time,
                fields: vec![("f", Value::F64(dice.roll() as f64 / 3e15))],
            })
            .collect();
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
    }
    let report = back_up(&store, target.path(), None, true);
    assert!(report.volumes_linked > 0, "{report:?}");
    let removal = Removal {
        hosts: Some((1..12).collect()),
        field: None,
        range: TimeRange::ALL,
        above: None,
    };
    let deleted = database.delete(&removal.request()).unwrap();
    deleted.commit.wait().unwrap();
    let mut quiet = 0;
    while quiet < 500 {
        store.drive();
        clock.advance_ns(1_000_000);
        let status = store.status();
        let is_idle = !status.space.is_working
            && status.space.pages_settling == 0
            && status.merging.series_waiting == 0
            && status.space.walks > 0;
        quiet = if is_idle { quiet + 1 } else { 0 };
    }
    let status = store.status().space;
    assert!(
        !status.no_holes && status.last_error.is_none(),
        "{status:?}"
    );
    drop((database, store, device));
    let (_dir, _device, _store, restored) = restored(target.path());
    same(&read_all(&restored), &model).unwrap();
}

/// A store on a simulated disk with some volumes, closed.
fn simulated(model: &mut Model) -> (Arc<dyn Device>, Store, Database) {
    let sim = SimConfig {
        lanes: SHARDS + 1,
        ..SimConfig::default()
    };
    let device: Arc<dyn Device> = SimDevice::new(1, sim);
    let (store, database) = open(&device);
    let (mut dice, mut now) = (Dice(14), 1_000_000);
    fill(&database, model, &mut dice, &mut now, 20);
    (device, store, database)
}

#[test]
fn a_backup_cut_at_any_operation_is_refused_by_name_or_whole() {
    let mut model = Model::default();
    let (_device, store, _database) = simulated(&mut model);
    let (mut unfinished, mut whole) = (0, 0);
    for ops in 0.. {
        let disk = SimDevice::new(ops, SimConfig::default());
        disk.set_faults(FaultPlan {
            crash_after_ops: Some(ops),
            ..FaultPlan::default()
        });
        let target = BackupTarget {
            device: Arc::<SimDevice>::clone(&disk) as Arc<dyn Device>,
            directory: None,
            base: None,
        };
        let ended = store.backup(&target).is_ok();
        let after: Arc<dyn Device> = disk.crash();
        let sim = SimConfig {
            lanes: SHARDS + 1,
            ..SimConfig::default()
        };
        let fresh: Arc<dyn Device> = SimDevice::new(1, sim);
        match restore(&after, &fresh) {
            Ok(_) => {
                let (_store, database) = open(&fresh);
                same(&read_all(&database), &model).unwrap();
                whole += 1;
            }
            Err(error) => {
                assert!(!ended, "after {ops} operations: {error}");
                let sentence = error.to_string();
                let by_name =
                    sentence.contains("did not end") || sentence.contains("nothing to restore");
                assert!(by_name, "after {ops} operations: {sentence}");
                unfinished += 1;
            }
        }
        if ended {
            break;
        }
    }
    assert!(unfinished > 20 && whole > 0, "{unfinished} {whole}");
    // The store never noticed.
    assert!(store.status().failure.is_none());
}

/// A backup of which one page does not hold that something leads to, and the name of that page.
fn rotten() -> (Arc<dyn Device>, String) {
    let mut model = Model::default();
    let (_device, store, _database) = simulated(&mut model);
    let disk = SimDevice::new(9, SimConfig::default());
    let target = BackupTarget {
        device: Arc::<SimDevice>::clone(&disk) as Arc<dyn Device>,
        directory: None,
        base: None,
    };
    store.backup(&target).unwrap();
    let backup: Arc<dyn Device> = Arc::<SimDevice>::clone(&disk) as Arc<dyn Device>;
    assert!(verify(&backup).unwrap().is_sound());
    // Which pages something leads to depends on how far merges came.
    let page = (1..64).find(|page| {
        let flip = || disk.flip_bit("vol/00000001", page * 4096 + 100, 3);
        if !flip() {
            return false;
        }
        let is_found = !verify(&backup).unwrap().is_sound();
        is_found || !flip()
    });
    let place = format!("page 1:{}", page.expect("some page is needed"));
    (backup, place)
}

#[test]
fn a_rotten_backup_is_not_restored() {
    let (backup, rotten) = rotten();
    let fresh: Arc<dyn Device> = SimDevice::new(1, SimConfig::default());
    let error = restore(&backup, &fresh).unwrap_err();
    assert!(
        matches!(&error, BackupError::Damaged { place, .. } if *place == rotten),
        "{error}"
    );
    let again = restore(&fresh, &(Arc::new(MemoryDevice::new(1)) as Arc<dyn Device>));
    assert!(again.unwrap_err().to_string().contains("did not end"));
}

#[test]
fn a_restore_that_was_cut_before_all_was_checked_does_not_open() {
    let (backup, _) = rotten();
    let mut refused = 0;
    for ops in 0.. {
        let disk = SimDevice::new(ops, SimConfig::default());
        disk.set_faults(FaultPlan {
            crash_after_ops: Some(ops),
            ..FaultPlan::default()
        });
        let target: Arc<dyn Device> = Arc::<SimDevice>::clone(&disk) as Arc<dyn Device>;
        let error = restore(&backup, &target).unwrap_err();
        let ended = matches!(error, BackupError::Damaged { .. });
        for after in [
            disk.crash_into(SHARDS + 1, ops),
            disk.kill_into(SHARDS + 1, ops),
        ] {
            match Store::open(after, clock(), config()) {
                Ok(store) => assert!(store.databases().is_empty(), "after {ops} operations"),
                Err(error) => {
                    let sentence = error.to_string();
                    assert!(
                        sentence.contains("did not end"),
                        "after {ops} operations: {sentence}"
                    );
                    refused += 1;
                }
            }
        }
        if ended {
            break;
        }
    }
    assert!(refused > 20, "{refused}");
}

/// A disk for backups. As soon as the log of the second shard has begun to be copied there, much is written to the store
/// and a database is made.
#[derive(Debug)]
struct Meanwhile {
    disk: Arc<SimDevice>,
    source: Arc<dyn Device>,
    store: Store,
    database: Database,
    happened: AtomicBool,
}

impl Meanwhile {
    /// How many segments the catalogue's stream has.
    fn segments(&self) -> usize {
        let files = self.source.list("wal").unwrap().into_iter();
        let is_catalogue = |name: &str| !name.starts_with("free.") && name.contains("-0000.");
        files.filter(|file| is_catalogue(&file.name)).count()
    }

    fn happen(&self) {
        let (mut dice, mut now, mut model) = (Dice(15), 9_000_000, Model::default());
        let before = self.segments();
        // The last of them is made ready before it is written to.
        while self.segments() < before + 2 {
            fill(&self.database, &mut model, &mut dice, &mut now, 1);
        }
        let (_, created) = self.store.create_database("later").unwrap();
        created.wait().unwrap();
    }
}

impl Layer for Meanwhile {
    fn behind(&self) -> &dyn Device {
        &*self.disk
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        if let Op::Open { path, .. } = &op
            && path.starts_with("wal/")
            && path.contains("-0001.")
            && !self.happened.swap(true, Ordering::Relaxed)
        {
            self.happen();
        }
        self.disk.submit(lane, op)
    }
}

/// Other streams speak of databases and go by cuts that the catalogue's had before: of that one a copy must never be the
/// older, whatever segments it has gone on to since the backup began.
#[test]
fn the_catalogue_is_copied_as_it_is_when_all_else_is() {
    let mut model = Model::default();
    let (source, store, database) = simulated(&mut model);
    let disk = SimDevice::new(9, SimConfig::default());
    let busy = Arc::new(Meanwhile {
        disk: Arc::clone(&disk),
        source,
        store: store.clone(),
        database,
        happened: AtomicBool::new(false),
    });
    let target = BackupTarget {
        device: Arc::<Meanwhile>::clone(&busy) as Arc<dyn Device>,
        directory: None,
        base: None,
    };
    store.backup(&target).unwrap();
    assert!(busy.happened.load(Ordering::Relaxed));
    let sim = SimConfig {
        lanes: SHARDS + 1,
        ..SimConfig::default()
    };
    let fresh: Arc<dyn Device> = SimDevice::new(1, sim);
    restore(&(disk as Arc<dyn Device>), &fresh).unwrap();
    let (store, _database) = open(&fresh);
    assert!(store.database("later").is_some());
}
