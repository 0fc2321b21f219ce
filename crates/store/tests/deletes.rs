//! Deletes against a naive store: by tags, field, time and value, mixed with late points, rewrites, checkpoints and
//! restarts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Comparison, Delete, DeleteError, DeleteSelection, Durability, ReadStats, Selector, Store,
    StoreConfig, SystemClock, ValueRef, ValueTest,
};
use alluvium_types::{Number, SeriesKey, TimeRange, Value};
use model::{Dice, Line, Model, Removal, batch, check_lists, check_reads, read_all, same, write};

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        late_points_max: 20,
        merge_runs_max: 2,
        merge_late_points: 20,
        merge_quiet_ms: 1,
        merge_slice_pages: 2,
        tail_chain_max: 3,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: &Arc<MemoryDevice>, shards: usize) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config(shards)).unwrap()
}

/// Returns how many merges ended.
fn run(seed: u64) -> u64 {
    let mut merges = 0;
    let mut dice = Dice(seed);
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device, 2);
    let (mut database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut model = Model::default();
    let mut now = 1_000_000;
    for round in 0..60 {
        let lines = 1 + dice.below(300);
        let lines = batch(&mut dice, &mut now, 5, lines);
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
        for _ in 0..dice.below(3) {
            let removal = Removal::random(&mut dice, now, 5);
            let planned = database.plan_delete(&removal.request()).unwrap().affected();
            let deleted = database.delete(&removal.request()).unwrap();
            let affected = model.remove(&removal);
            assert_eq!(deleted.affected, affected, "{removal:?}");
            assert_eq!(planned, affected, "{removal:?}");
            same(&read_all(&database), &model).unwrap();
            deleted.commit.wait().unwrap();
            same(&read_all(&database), &model).unwrap();
            for _ in 0..dice.below(20) {
                store.drive();
            }
            same(&read_all(&database), &model).unwrap();
            check_lists(&database, &model);
        }
        for _ in 0..dice.below(200) {
            store.drive();
        }
        match dice.below(6) {
            0 => {
                store.checkpoint().wait().unwrap();
            }
            1 | 2 => {
                if dice.below(2) == 0 {
                    store.close().unwrap();
                }
                merges += store.status().merging.merges;
                drop((database, store));
                // Another number of shards owns the same partitions.
                store = open(&device, 1 + dice.below(4) as usize);
                database = store.database("db").unwrap();
                same(&read_all(&database), &model).unwrap();
                check_lists(&database, &model);
            }
            _ => {}
        }
        if round % 5 == 4 {
            same(&read_all(&database), &model).unwrap();
            check_reads(&database, &model, &mut dice);
        }
    }
    merges + store.status().merging.merges
}

#[test]
fn equals_a_naive_store() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok();
    let range = seeds.as_deref().and_then(|s| s.split_once(".."));
    let range = range.map_or(1..13, |(a, b)| a.parse().unwrap()..b.parse().unwrap());
    let mut merges = 0;
    for seed in range {
        println!("seed {seed}");
        merges += run(seed * 0x9e37_79b9);
    }
    println!("{merges} merges");
    assert!(merges > 20, "only {merges} merges");
}

fn lines(host: u32, times: std::ops::Range<i64>) -> Vec<Line> {
    times
        .map(|time| Line {
            host,
            time,
            fields: vec![
                ("f", Value::F64((time as f64).sin())),
                ("i", Value::I64(time)),
            ],
        })
        .collect()
}

fn of(hosts: Option<Vec<u32>>, range: TimeRange) -> Removal {
    Removal {
        hosts,
        field: None,
        range,
        above: None,
    }
}

/// What a delete of a part leaves behind: tombstones, until the runs are written anew without it.
#[test]
fn deletes_are_carried_out_in_the_end() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut model = Model::default();
    for host in 0..6 {
        let lines = lines(host, 0..20_000);
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
    }
    store.pause_merging(true);
    for part in [5_000..9_000, 10_000..10_001, 15_000..30_000] {
        let range = TimeRange::new(part.start, part.end).unwrap();
        let removal = of(None, range);
        database.delete(&removal.request()).unwrap();
        model.remove(&removal);
    }
    let tombstones = || store.status().databases[0].tombstones;
    assert!(tombstones() > 0);
    store.checkpoint().wait().unwrap();
    assert!(tombstones() > 0, "they still hide points");
    store.pause_merging(false);
    for _ in 0..100_000 {
        store.drive();
        if store.status().merging.merges >= 12 {
            break;
        }
    }
    let merging = store.status().merging;
    assert_eq!((merging.merges, merging.failed), (12, 0), "{merging:?}");
    assert!(merging.pages_dead > 0 && merging.leaves_adopted > 0);
    store.checkpoint().wait().unwrap();
    assert_eq!(tombstones(), 0);
    same(&read_all(&database), &model).unwrap();
    check_reads(&database, &model, &mut Dice(5));
    store.close().unwrap();
    drop((database, store));
    let store = open(&device, 3);
    let database = store.database("db").unwrap();
    assert_eq!(store.status().databases[0].tombstones, 0);
    same(&read_all(&database), &model).unwrap();
}

/// A series that goes as a whole gives its memory back at once, and its deletion is forgotten with the next
/// checkpoint; a writer that has met it makes it anew.
#[test]
fn a_whole_series_leaves_nothing() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let used = || {
        let memory = store.status().memory;
        let tails = memory.iter().find(|(name, _)| name.contains("tail"));
        tails.unwrap().1.0
    };
    let mut writer = database.writer();
    let mut write = |time: i64, value: f64| {
        let token = writer.cached(b"m,host=h0").unwrap_or_else(|| {
            let key = SeriesKey::new("m", [("host", "h0")]).unwrap();
            writer.resolve(b"m,host=h0", key)
        });
        writer.begin_line(token, time).unwrap();
        writer.field("f", ValueRef::F64(value)).unwrap();
        writer.end_line().unwrap();
        writer.commit(None).unwrap().wait().unwrap();
    };
    write(1, 0.5);
    let before = used();
    for time in 2..3_000 {
        write(time, time as f64 * 0.77);
    }
    assert!(used() > before);
    let deleted = database
        .delete(&of(None, TimeRange::ALL).request())
        .unwrap();
    assert_eq!(
        (deleted.affected.series, deleted.affected.points),
        (1, 2_999)
    );
    assert!(
        used() <= before,
        "{} bytes, {before} with one point",
        used()
    );
    check_lists(&database, &Model::default());
    assert_eq!(store.status().databases[0].series, 0);
    assert!(store.status().databases[0].tombstones > 0);
    store.checkpoint().wait().unwrap();
    assert_eq!(store.status().databases[0].tombstones, 0);
    // Older than what was deleted, and again by the same writer.
    write(1_000, 7.0);
    let mut model = Model::default();
    let fields = vec![("f", Value::F64(7.0))];
    model.apply(&[Line {
        host: 0,
        time: 1_000,
        fields,
    }]);
    check_lists(&database, &model);
    same(&read_all(&database), &model).unwrap();
}

#[test]
fn a_delete_is_logged_where_points_are_not() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let settings = alluvium_store::DatabaseSettings {
        durability: Durability::None,
        ..store.default_settings()
    };
    let (database, created) = store.create_database_with("db", settings).unwrap();
    created.wait().unwrap();
    let lines = lines(0, 0..1_000);
    write(&database, &lines, None).unwrap().wait().unwrap();
    store.checkpoint().wait().unwrap();
    let removal = of(None, TimeRange::new(100, 900).unwrap());
    let deleted = database.delete(&removal.request()).unwrap();
    assert!(!deleted.commit.position().0.is_empty());
    deleted.commit.wait().unwrap();
    drop((database, store));
    let store = open(&device, 2);
    let mut model = Model::default();
    model.apply(&lines);
    model.remove(&removal);
    same(&read_all(&store.database("db").unwrap()), &model).unwrap();
}

#[test]
fn deletes_are_remembered_up_to_a_limit() {
    let device = Arc::new(MemoryDevice::new(5));
    let config = StoreConfig {
        tombstone_bytes_max: 5_000,
        wide_tombstones_max: 3,
        merge_paused: true,
        ..config(2)
    };
    let as_device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(&device);
    let store = Store::open(as_device, Arc::new(SystemClock), config).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    for host in 0..200 {
        write(&database, &lines(host, 0..100), None).unwrap();
    }
    let range = |t: i64| TimeRange::new(t, t + 1).unwrap();
    for t in 1..4 {
        database.delete(&of(None, range(t)).request()).unwrap();
    }
    let before = read_all(&database);
    let refused = database.delete(&of(None, range(50)).request()).unwrap_err();
    assert!(
        refused.to_string().contains("wide_tombstones_max"),
        "{refused}"
    );
    let mut last = None;
    for t in (5..99).step_by(2) {
        match database.delete(&of(Some(vec![7]), range(t)).request()) {
            Ok(_) => {}
            Err(error) => {
                last = Some(error.to_string());
                break;
            }
        }
    }
    assert!(last.unwrap().contains("tombstone_bytes_max"));
    let after = read_all(&database);
    let others = |m: &Model| {
        m.series
            .keys()
            .filter(|k| k.0 != 7)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(others(&before), others(&after));
}

/// A test of values is of the points that were read: one that was written anew is looked at again.
#[test]
fn a_point_rewritten_meanwhile_is_not_deleted() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let point = |time: i64, value: f64| {
        vec![Line {
            host: 0,
            time,
            fields: vec![("f", Value::F64(value))],
        }]
    };
    let mut model = Model::default();
    let apply = |model: &mut Model, lines: &[Line]| {
        write(&database, lines, None).unwrap().wait().unwrap();
        model.apply(lines);
    };
    for time in 0..100 {
        apply(
            &mut model,
            &point(time, if time % 10 < 5 { 1.0 } else { 9.0 }),
        );
    }
    let above = |range: TimeRange| Removal {
        above: Some(5.0),
        ..of(None, range)
    };
    let first = above(TimeRange::new(0, 50).unwrap());
    // Behind the points that are tested: nothing to do with them.
    let plan = database.plan_delete(&first.request()).unwrap();
    apply(&mut model, &point(200, 9.0));
    apply(&mut model, &point(60, 9.0));
    assert_eq!(plan.commit().unwrap().affected.points, 25);
    model.remove(&first);
    same(&read_all(&database), &model).unwrap();
    // One of them, late.
    let second = above(TimeRange::ALL);
    let plan = database.plan_delete(&second.request()).unwrap();
    assert_eq!(plan.affected().points, 27);
    apply(&mut model, &point(75, 2.0));
    assert!(matches!(plan.commit(), Err(DeleteError::Disturbed)));
    same(&read_all(&database), &model).unwrap();
    let deleted = database.delete(&second.request()).unwrap();
    assert_eq!(deleted.affected, model.remove(&second));
    same(&read_all(&database), &model).unwrap();
    // All of them go; what comes meanwhile does not.
    let plan = database
        .plan_delete(&of(None, TimeRange::ALL).request())
        .unwrap();
    let all = of(None, TimeRange::new(i64::MIN, 201).unwrap());
    let planned = database.plan_delete(&all.request()).unwrap();
    apply(&mut model, &point(300, 1.0));
    planned.commit().unwrap();
    model.remove(&all);
    same(&read_all(&database), &model).unwrap();
    // But where everything was asked for, it was meant.
    plan.commit().unwrap();
    same(&read_all(&database), &Model::default()).unwrap();
}

/// The same, where the late point takes its place among the newest of the run before the delete is applied: there nothing tells it
/// from those that were tested.
#[test]
fn a_point_rewritten_and_woven_in_meanwhile_is_not_deleted() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut model = Model::default();
    let apply = |model: &mut Model, lines: &[Line]| {
        write(&database, lines, None).unwrap().wait().unwrap();
        model.apply(lines);
    };
    let point = |time: i64, value: f64| Line {
        host: 0,
        time,
        fields: vec![("f", Value::F64(value))],
    };
    let lines: Vec<Line> = (0..100).map(|time| point(time, 9.0)).collect();
    apply(&mut model, &lines);
    let removal = Removal {
        above: Some(5.0),
        ..of(None, TimeRange::new(0, 100).unwrap())
    };
    let plan = database.plan_delete(&removal.request()).unwrap();
    assert_eq!(plan.affected().points, 100);
    apply(&mut model, &[point(75, 2.0)]);
    // As many as encode what is in memory, small and without a pattern.
    let mut dice = Dice(3);
    for begin in (100..20_100).step_by(500) {
        let point = |time| point(time, dice.roll() as f64 / 1e20);
        let lines: Vec<Line> = (begin..begin + 500).map(point).collect();
        apply(&mut model, &lines);
    }
    assert!(matches!(plan.commit(), Err(DeleteError::Disturbed)));
    same(&read_all(&database), &model).unwrap();
    let deleted = database.delete(&removal.request()).unwrap();
    assert_eq!(deleted.affected, model.remove(&removal));
    same(&read_all(&database), &model).unwrap();
}

/// Numbers of several kinds are read as floats; what a delete compares is what was written.
#[test]
fn a_delete_by_value_compares_each_kind_as_it_is() {
    const LARGE: i128 = 1 << 53;
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 1);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let values = [
        Value::F64(0.5),
        Value::I64(LARGE as i64 + 1),
        Value::F64(LARGE as f64),
    ];
    let lines = (0..).zip(values).map(|(time, value)| Line {
        host: 0,
        time,
        fields: vec![("f", value)],
    });
    let lines: Vec<Line> = lines.collect();
    write(&database, &lines, None).unwrap().wait().unwrap();
    let delete = |comparison, with| {
        let request = Delete {
            selections: vec![DeleteSelection::default()],
            range: TimeRange::ALL,
            test: Some(ValueTest {
                comparisons: vec![(comparison, Number::Integer(with))],
            }),
        };
        database.delete(&request).unwrap().affected.points
    };
    assert_eq!(delete(Comparison::Equal, LARGE), 1, "the float");
    assert_eq!(delete(Comparison::Equal, LARGE), 0);
    assert_eq!(delete(Comparison::LessOrEqual, LARGE), 1, "the half");
    assert_eq!(delete(Comparison::Equal, LARGE + 1), 1, "the integer");
}

/// Of two fields that were planned one had been emptied, and another field had come in the meantime: as many as the row had, but not the
/// same.
#[test]
fn a_field_that_comes_between_plan_and_delete_is_not_meant() {
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 1);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let line = |time: i64, fields: &[&'static str]| Line {
        host: 0,
        time,
        fields: fields.iter().map(|f| (*f, Value::F64(1.5))).collect(),
    };
    let mut model = Model::default();
    let apply = |model: &mut Model, lines: &[Line]| {
        write(&database, lines, None).unwrap().wait().unwrap();
        model.apply(lines);
    };
    let first: Vec<Line> = (10..20).map(|time| line(time, &["a", "b"])).collect();
    apply(&mut model, &first);
    let removal = of(Some(vec![0]), TimeRange::new(0, 15).unwrap());
    let plan = database.plan_delete(&removal.request()).unwrap();
    assert_eq!(plan.affected().series, 2);
    model.remove(&removal);
    let emptied = Removal {
        field: Some("a"),
        ..of(Some(vec![0]), TimeRange::ALL)
    };
    database.delete(&emptied.request()).unwrap();
    model.remove(&emptied);
    apply(&mut model, &[line(12, &["c"])]);
    plan.commit().unwrap();
    same(&read_all(&database), &model).unwrap();
    store.checkpoint().wait().unwrap();
    same(&read_all(&database), &model).unwrap();
}

/// A delete between two slices of a full checkpoint emptied a series that the walk had still to come by. The walk wrote it
/// and the series left the table, but it stayed on the list of changed ones: the next checkpoint wrote it again, empty,
/// over the record of the one that had come in its place, and what that held was lost with the log.
#[test]
fn a_series_emptied_while_a_full_checkpoint_goes_by_leaves_nothing_behind() {
    for (before, drives) in (1..5).flat_map(|before| (0..40).map(move |drives| (before, drives))) {
        let device = Arc::new(MemoryDevice::new(5));
        let mut store = open(&device, 1);
        let (mut database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        let mut model = Model::default();
        let send = |database: &_, model: &mut Model, time| {
            let line = |host| Line {
                host,
                time,
                fields: vec![("f", Value::F64(time as f64))],
            };
            let lines: Vec<Line> = (0..40).map(line).collect();
            write(database, &lines, None).unwrap().wait().unwrap();
            model.apply(&lines);
        };
        send(&database, &mut model, 1);
        // One of these numbers makes the next one full.
        for _ in 0..before {
            store.checkpoint().wait().unwrap();
        }
        let full = store.checkpoint();
        for _ in 0..drives {
            store.drive();
        }
        let removal = Removal {
            hosts: None,
            field: None,
            range: TimeRange::ALL,
            above: None,
        };
        let deleted = database.delete(&removal.request()).unwrap();
        model.remove(&removal);
        deleted.commit.wait().unwrap();
        full.wait().unwrap();
        send(&database, &mut model, 2);
        store.checkpoint().wait().unwrap();
        drop((database, store));
        store = open(&device, 1);
        database = store.database("db").unwrap();
        same(&read_all(&database), &model)
            .unwrap_or_else(|e| panic!("{before} before, {drives} drives: {e}"));
    }
}

/// Readers take no lock: one that was held up between two looks must not show what is deleted beside what was written after
/// the delete. Each series is such a chance once, and the readers, more than there are processors, are ahead of the writer.
#[test]
fn readers_see_no_deleted_points_beside_newer_ones() {
    const SERIES: usize = 8_000;
    const OLD: i64 = 10;
    const READERS: u64 = 6;
    let device = Arc::new(MemoryDevice::new(5));
    let store = open(&device, 2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let point = |host: usize, time: i64| Line {
        host: host as u32,
        time,
        fields: vec![("f", Value::F64(time as f64))],
    };
    // One that stays, and those that go.
    let all: Vec<usize> = (0..SERIES).collect();
    for hosts in all.chunks(1_000) {
        let of_host = |host: &usize| (0..=OLD).map(|time| point(*host, time)).collect::<Vec<_>>();
        let lines: Vec<Line> = hosts.iter().flat_map(of_host).collect();
        write(&database, &lines, None).unwrap().wait().unwrap();
    }
    let mut series = database.snapshot().select(&Selector::default()).unwrap();
    series.sort_by_key(|info| info.key.tag("host").unwrap()[1..].parse::<usize>().unwrap());
    let removal = |host: usize| Removal {
        hosts: Some(vec![host as u32]),
        ..of(None, TimeRange::new(1, OLD + 1).unwrap())
    };
    let at = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (at, series, database) = (&at, &series, &database);
                scope.spawn(move || {
                    let mut dice = Dice(reader + 1);
                    let mut newer = 0_u64;
                    loop {
                        let now = at.load(Ordering::Acquire);
                        if now >= SERIES {
                            return newer;
                        }
                        let Some(info) = series.get(now + dice.below(4) as usize) else {
                            continue;
                        };
                        let snapshot = database.snapshot().series(info);
                        let count = snapshot.aggregate(TimeRange::ALL, &mut ReadStats::default());
                        let count = count.unwrap().count as i64;
                        // Before the delete, behind it, and with the newer point.
                        assert!([OLD + 1, 1, 2].contains(&count), "{count} points");
                        newer += u64::from(count == 2);
                    }
                })
            })
            .collect();
        for host in 0..SERIES {
            at.store(host, Ordering::Release);
            drop(database.delete(&removal(host).request()).unwrap());
            drop(write(&database, &[point(host, 1_000)], None).unwrap());
            if host % 16 == 0 {
                store.drive();
            }
        }
        at.store(SERIES, Ordering::Release);
        let newer: u64 = readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum();
        assert!(newer > 100, "the readers were elsewhere");
    });
}
