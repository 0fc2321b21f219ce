//! What was written rots, goes astray or never arrives: an opening refuses by name or the store answers, and an
//! answer is right or says that something is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use alluvium_sim::{Fault, FaultPlan};
use alluvium_store::{
    Database, Device, Direction, ReadStats, Selector, SeriesInfo, Store, StoreError, TimeRange,
};
use alluvium_types::{Column, Value};

use super::counts::Counts;
use super::world::{Kind, World, drive_some, host_of, trace, wait};
use crate::model::{Model, read_all, same, write};

/// Values of one time, oldest first.
type History = BTreeMap<(u32, String, bool), BTreeMap<i64, Vec<Value>>>;

/// Pages per series and batch past which a cursor is thought to go round in circles.
const BATCHES_MAX: u32 = 100_000;

/// One world whose data pages get lost or misdirected on the way, or whose files rot after the end.
pub fn run(seed: u64) -> Counts {
    let kind = Kind {
        heavy: true,
        ..Kind::default()
    };
    let mut world = World::new(seed, kind);
    let store = world.open().unwrap();
    let (database, created) = store.create_database("db").unwrap();
    wait(&store, created, &world.clock).unwrap();
    let on_the_way = world.dice.below(3) == 0;
    if on_the_way {
        let fault = match world.dice.below(2) {
            0 => Fault::Lost,
            _ => Fault::Misdirected {
                by: 4096 * (1 + world.dice.below(8)),
            },
        };
        let faults = (0..=world.dice.below(3)).map(|_| (world.dice.below(60), fault));
        let faults = BTreeMap::from_iter(faults.collect::<Vec<_>>());
        world.device.set_faults(FaultPlan {
            writes_below: Some(("vol/".to_owned(), faults)),
            ..FaultPlan::default()
        });
    }
    let (model, history) = fill(&mut world, &store, &database);
    world.counts.data_pages += store.status().pages_written;
    if on_the_way || world.dice.below(2) == 0 {
        store.close().unwrap();
    }
    world.counts.lives += 1;
    drop((database, store));
    world.end(false);
    let (rotten, mendable, flipped) = if on_the_way {
        ("vol/".to_owned(), false, Vec::new())
    } else {
        flip(&mut world)
    };
    if is_segment(&rotten) && world.dice.below(2) == 0 {
        rot_in_both(world, &rotten, &flipped, &model, &history)
    } else {
        rot_in_one(world, &rotten, mendable, &model, &history)
    }
}

/// One file that rots: another has the same, it is mended, or what is missing is told.
fn rot_in_one(
    mut world: World,
    rotten: &str,
    mendable: bool,
    model: &Model,
    history: &History,
) -> Counts {
    // Everything else there is twice, or can be made again.
    world.rotten = !mendable;
    let opened = world.open();
    trace(|| {
        format!(
            "  rot in {rotten}: {:?}",
            opened.as_ref().map(Store::recovery)
        )
    });
    match opened {
        Err(error) => {
            // Of a volume's file only the header is needed to open.
            let text = error.to_string();
            assert!(!is_twin(rotten), "there is a copy: {text}");
            assert!(!mendable, "there is a mending file: {text}");
            let allowed = !rotten.starts_with("vol/") || text.contains("header");
            assert!(allowed, "a data page keeps the store shut: {text}");
            world.counts.damage_named += 1;
        }
        Ok(store) => {
            let database = store.database("db");
            if rotten.starts_with("wal/") {
                // The last frame may be the one that rots: it cannot be told from one that a crash tore.
                let found = database
                    .as_ref()
                    .map_or(Model::default(), crate::model::read_all);
                world.oracle.check(&found, i64::MIN).unwrap();
            } else {
                let database = database.expect("its creation was acknowledged");
                if is_twin(rotten) || mendable {
                    same(model, &read_all(&database)).unwrap();
                }
                if mendable {
                    // What was not read is found and mended as well.
                    store.scrub_round();
                    assert_eq!(store.scrub_round().findings, []);
                    world.counts.mended += 1;
                }
                check(&database, model, history, rotten, &mut world.counts);
            }
        }
    }
    world.count_device();
    world.counts
}

/// A segment of the index that rots in both files: answers have what they can and say how much they may lack, and a checkpoint that
/// makes it anew may be cut short anywhere.
fn rot_in_both(
    mut world: World,
    rotten: &str,
    flipped: &[(u64, u8)],
    model: &Model,
    history: &History,
) -> Counts {
    let other = match rotten.strip_prefix("copy-") {
        Some(first) => first.to_owned(),
        None => format!("copy-{rotten}"),
    };
    for (offset, bit) in flipped {
        world.device.flip_bit(&other, *offset, *bit);
    }
    world.rotten = true;
    for round in 0..3 {
        let store = match world.open() {
            Ok(store) => store,
            Err(error) => {
                // What an opening needs of it: its directory, or tuples and texts for a page of hashes.
                assert!(round == 0, "it has opened before: {error}");
                world.counts.damage_named += 1;
                break;
            }
        };
        let database = store.database("db").expect("its creation was acknowledged");
        check(&database, model, history, "index.", &mut world.counts);
        check_listed(&database, model);
        store.scrub_round();
        let checkpoint = store.checkpoint();
        if round < 2 {
            let turns = world.dice.below(40);
            drive_some(&store, &world.clock, turns);
            let power_cut = world.dice.below(2) == 0;
            drop((checkpoint, database, store));
            world.end(power_cut);
            continue;
        }
        wait(&store, checkpoint, &world.clock).unwrap();
        if store.status().index.mended > 0 {
            same(model, &read_all(&database)).unwrap();
            assert_eq!(store.scrub_round().findings, []);
            world.counts.mended += 1;
        }
    }
    world.count_device();
    world.counts
}

/// What a tolerant reader is shown is there, and what it is not it is told of.
fn check_listed(database: &Database, model: &Model) {
    let snapshot = database.snapshot().tolerant();
    let listed = snapshot.select(&Selector::default()).unwrap();
    let key = |info: &SeriesInfo| {
        let text = !info.id.kind().is_numeric();
        (host_of(&info.key), info.field.to_string(), text)
    };
    let listed: BTreeSet<_> = listed.iter().map(key).collect();
    let losses = snapshot.index_losses();
    let lost: u64 = losses.iter().map(|loss| loss.tag_sets).sum();
    assert!(listed.iter().all(|key| model.series.contains_key(key)));
    let hosts = |keys: &mut dyn Iterator<Item = u32>| keys.collect::<BTreeSet<u32>>().len() as u64;
    let (all, found) = (
        hosts(&mut model.series.keys().map(|(host, ..)| *host)),
        hosts(&mut listed.iter().map(|(host, ..)| *host)),
    );
    assert!(all - found <= lost, "{found} of {all}, {lost} are told of");
}

/// Whether a file is one of a segment's two.
fn is_segment(path: &str) -> bool {
    path.strip_prefix("copy-")
        .unwrap_or(path)
        .starts_with("index.")
}

/// Whether a file is one of two.
fn is_twin(path: &str) -> bool {
    let path = path.strip_prefix("copy-").unwrap_or(path);
    path.starts_with("series.") || path.starts_with("index.")
}

/// Whether pages of a file, which ascend, can be made again of its mending file.
fn are_mendable(path: &str, pages: &BTreeSet<u64>) -> bool {
    let groups: BTreeSet<(u64, u64)> = pages.iter().map(|page| (page / 256, page % 16)).collect();
    path.starts_with("mend.") || path.starts_with("tails.") && groups.len() == pages.len()
}

/// Turns over a bit or two of one file, anywhere in it, or makes blocks of a tails file unreadable; returns its path, whether
/// that must not be felt: it is in tails, no two pages of a group, or in what mends them; and which bits.
fn flip(world: &mut World) -> (String, bool, Vec<(u64, u8)>) {
    loop {
        let folder = ["", "wal/", "vol/", "vol/"][world.dice.below(4) as usize];
        let files = world.device.list(folder.trim_end_matches('/')).unwrap();
        let files: Vec<_> = files
            .iter()
            .filter(|f| f.len > 0 && f.name != "LOCK")
            .collect();
        if files.is_empty() {
            continue;
        }
        let file = files[world.dice.below(files.len() as u64) as usize];
        let path = format!("{folder}{}", file.name);
        let (mut any, mut pages, mut bits) = (false, BTreeSet::new(), Vec::new());
        let spoils = path.starts_with("tails.") && world.dice.below(2) == 0;
        for _ in 0..=world.dice.below(2) {
            let (offset, bit) = (world.dice.below(file.len), world.dice.below(8) as u8);
            pages.insert(offset / 4096);
            bits.push((offset, bit));
            any |= if spoils {
                world.device.spoil(&path, offset)
            } else {
                world.device.flip_bit(&path, offset, bit)
            };
        }
        if any {
            let mendable = are_mendable(&path, &pages);
            return (path, mendable, bits);
        }
    }
}

/// Writes batches, with a checkpoint now and then. What there is now, and all that was sent.
fn fill(world: &mut World, store: &Store, database: &Database) -> (Model, History) {
    let (mut model, mut history) = (Model::default(), History::new());
    for _ in 0..10 + world.dice.below(30) {
        let lines = 10 + world.dice.below(50);
        let lines = world.batch(6, lines);
        world.oracle.send(&lines);
        for line in &lines {
            for (field, value) in &line.fields {
                let key = (
                    line.host,
                    (*field).to_owned(),
                    matches!(value, Value::Str(_)),
                );
                let times = history.entry(key).or_default();
                times.entry(line.time).or_default().push(value.clone());
            }
        }
        model.apply(&lines);
        let commit = write(database, &lines, None).unwrap();
        world.place_hosts(database, &lines);
        wait(store, commit, &world.clock).unwrap();
        if world.dice.below(8) == 0 {
            wait(store, store.checkpoint(), &world.clock).unwrap();
        }
        drive_some(store, &world.clock, 8);
    }
    (model, history)
}

/// The N-th read of a running store fails, for N = 0, 1, 2 … until what is asked passes without meeting it: a point that is missing has
/// an error beside it, and the next time everything is there.
pub fn every_read_may_fail(seed: u64) -> (Counts, u64) {
    let kind = Kind {
        heavy: true,
        ..Kind::default()
    };
    let mut world = World::new(seed, kind);
    let store = world.open().unwrap();
    let (database, created) = store.create_database("db").unwrap();
    wait(&store, created, &world.clock).unwrap();
    let (model, history) = fill(&mut world, &store, &database);
    store.close().unwrap();
    drop((database, store));
    world.end(false);
    for failing in 0.. {
        // Just opened, so that pages and records are read and not remembered.
        let store = world.open().unwrap();
        let database = store.database("db").unwrap();
        let from = world.device.reads();
        world.device.set_faults(FaultPlan {
            // A page is asked for twice before it is given up.
            reads: BTreeSet::from([from + failing, from + failing + 1]),
            ..FaultPlan::default()
        });
        let named = world.counts.damage_named;
        // A block of the index is one of what may be read.
        check(&database, &model, &history, "index.", &mut world.counts);
        let reached = world.device.reads() > from + failing;
        world.device.set_faults(FaultPlan::default());
        let named = world.counts.damage_named - named;
        assert!(reached || named == 0, "read {failing}: {named} errors");
        same(&model, &read_all(&database)).unwrap();
        drive_some(&store, &world.clock, 8);
        assert_eq!(store.status().failure, None);
        store.close().unwrap();
        drop((database, store));
        world.end(false);
        if !reached {
            return (world.counts, failing);
        }
    }
    unreachable!("what is asked has an end")
}

/// Every point that is given was sent; one that is missing or old has an error beside it; and so for counts.
fn check(database: &Database, model: &Model, history: &History, rotten: &str, counts: &mut Counts) {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let mut seen = 0;
    let selected = match snapshot.select(&Selector::default()) {
        Ok(selected) => selected,
        Err(StoreError::Index(_)) if rotten.starts_with("index.") => {
            // Blocks of index segments are read when they are needed.
            counts.damage_named += 1;
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for info in selected {
        let series = snapshot.series(&info);
        let text = !series.kind().is_numeric();
        let key = (host_of(&info.key), info.field.to_string(), text);
        let sent = &model.series[&key];
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(series.kind());
        let (mut found, mut errors, mut last) = (BTreeMap::new(), 0_u64, None);
        for batch in 0.. {
            assert!(batch < BATCHES_MAX, "a cursor that does not end: {last:?}");
            match cursor.next_batch(&mut stats, &mut column) {
                Ok(false) => break,
                Err(error) => {
                    errors += 1;
                    last = Some(error);
                }
                Ok(true) => {
                    for (i, time) in column.times.iter().enumerate() {
                        let value = column.value(i).unwrap().to_owned();
                        assert!(found.insert(*time, value).is_none(), "a time given twice");
                    }
                }
            }
        }
        for (time, value) in &found {
            let newest = sent.get(time).map(|v| v.as_ref().same(value.as_ref()));
            let older = || {
                let values = history[&key].get(time);
                values.is_some_and(|all| all.iter().any(|v| v.as_ref().same(value.as_ref())))
            };
            let is_right = newest == Some(true) || errors > 0 && newest.is_some() && older();
            assert!(is_right, "{key:?} at {time} is {value:?}, {errors} errors");
        }
        let missing = sent.len() - found.len();
        assert!(
            missing == 0 || errors > 0,
            "{key:?} lacks {missing} points without a word"
        );
        match series.aggregate(TimeRange::ALL, &mut stats) {
            Ok(all) => assert_eq!(all.count, sent.len() as u64, "{key:?}"),
            Err(_) => errors += 1,
        }
        let mut bucketed = 0;
        let buckets = series.buckets(TimeRange::ALL, 500, 0, &mut stats, &mut |_, a| {
            bucketed += a.count;
            ControlFlow::Continue(())
        });
        match buckets {
            Ok(()) => assert_eq!(bucketed, sent.len() as u64, "{key:?}"),
            Err(_) => errors += 1,
        }
        counts.damage_named += errors;
        counts.compared += found.len() as u64;
        seen += 1;
    }
    assert_eq!(seen, model.series.len(), "a series is not listed");
}
