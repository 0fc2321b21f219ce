//! The real series of the shared data set and the hardest values, written, lost by a kill, read back bit for bit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_io::MemoryDevice;
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Commit, Database, Direction, ReadStats, RefusedLine, Selector, Store, StoreConfig, SystemClock,
    TimeRange,
};
use alluvium_types::{Column, SeriesKey, Value, ValueRef};

/// Points in the order they are sent, by series.
type Sent = BTreeMap<String, Vec<(i64, Value)>>;
/// What must be there: of each time the last value.
type Kept = BTreeMap<String, BTreeMap<i64, Value>>;

fn kept(sent: &Sent) -> Kept {
    let last = |points: &Vec<(i64, Value)>| points.iter().cloned().collect();
    sent.iter().map(|(n, p)| (n.clone(), last(p))).collect()
}

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 4 << 20,
        segment_bytes: 1 << 20,
        group_bytes_max: 64 << 10,
        checkpoint_log_bytes: 3 << 20,
        memory_bytes: 64 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

/// The files of the data set; `None` where it is absent.
fn real_series() -> Option<Sent> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let Ok(files) = std::fs::read_dir(folder) else {
        println!(
            "not shown: the shared data set is absent ({})",
            folder.display()
        );
        return None;
    };
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let kind_of = |file: &str| {
        let row = readme
            .lines()
            .find(|l| l.starts_with(&format!("| {file} |")));
        row.unwrap().split('|').nth(2).unwrap().trim().to_owned()
    };
    let mut all = Sent::new();
    for file in files {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let Some(series) = name.strip_suffix(".csv.zst") else {
            continue;
        };
        let kind = kind_of(&name);
        let packed = std::fs::read(file.path()).unwrap();
        let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
        let points = text.lines().skip(1).map(|line| {
            let (time, value) = line.split_once(',').unwrap();
            let value = match kind.as_str() {
                "f64" => Value::F64(value.parse().unwrap()),
                "i64" => Value::I64(value.parse().unwrap()),
                "bool" => Value::Bool(value == "1"),
                "str" => Value::Str(value.into()),
                other => panic!("{name} is of kind {other}"),
            };
            (time.parse().unwrap(), value)
        });
        all.insert(series.to_owned(), points.collect());
    }
    assert!(!all.is_empty(), "the data set is empty");
    Some(all)
}

/// Values and times at every edge; each series also in falling order of time, so that runs hold them too.
fn edges() -> Sent {
    let nans = [
        0x7ff8_0000_0000_0000,
        0x7ff8_0000_0000_0001,
        0x7fff_ffff_ffff_ffff,
        0x7ff0_0000_0000_0001,
        0x7ff4_dead_beef_0001,
        0x7ff7_ffff_ffff_ffff,
        0xfff8_0000_0000_0000,
        0xfff0_0000_0000_0002,
        0xffff_ffff_ffff_ffff,
    ];
    let floats = [
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        -f64::from_bits(1),
        f64::from_bits(0x000f_ffff_ffff_ffff),
        0.1 + 0.2,
    ];
    let floats: Vec<Value> = nans
        .into_iter()
        .map(f64::from_bits)
        .chain(floats)
        .map(Value::F64)
        .collect();
    let integers = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX].map(Value::I64);
    let unsigned = [0, 1, 1 << 63, (1 << 63) - 1, u64::MAX - 1, u64::MAX].map(Value::U64);
    let longest = "é".repeat(alluvium_types::MAX_STRING_BYTES / 2);
    let texts = ["", "\0", "a,b\"\n", "\u{10ffff}", longest.as_str()].map(|s| Value::Str(s.into()));
    let mut sent = Sent::new();
    for (name, values) in [
        ("floats", floats),
        ("integers", integers.to_vec()),
        ("unsigned", unsigned.to_vec()),
        ("texts", texts.to_vec()),
    ] {
        // From one end of time to the other, with ordinary steps at either end and in between.
        let times: Vec<i64> = (0..40)
            .map(|i| i64::MIN + i)
            .chain([-1, 0, 1])
            .chain((0..2000).map(|i| 1_700_000_000_000_000_000 + i * 1_000_000_007))
            .chain((1..=40).rev().map(|i| i64::MAX - i))
            .collect();
        let few = if name == "texts" { 6 } else { 1 };
        let points = times.iter().step_by(few).enumerate();
        let points: Vec<(i64, Value)> = points
            .map(|(i, t)| (*t, values[i % values.len()].clone()))
            .collect();
        let falling = points.iter().rev().cloned().collect();
        sent.insert(format!("{name}_falling"), falling);
        let ends = [points[0].0, points[points.len() - 1].0];
        assert_eq!(ends, [i64::MIN, i64::MAX - 1]);
        sent.insert(name.to_owned(), points);
    }
    sent
}

/// Sends everything, a slice of each series in turn, two slices to a batch. `settle` ends a commit.
fn send(database: &Database, sent: &Sent, slice: usize, mut settle: impl FnMut(Commit)) {
    let longest = sent.values().map(Vec::len).max().unwrap_or(0);
    let mut writer = database.writer();
    let mut slices = 0;
    for from in (0..longest).step_by(slice) {
        for (name, points) in sent {
            let Some(points) = points.get(from..(from + slice).min(points.len())) else {
                continue;
            };
            let row = writer.cached(name.as_bytes()).unwrap_or_else(|| {
                let key = SeriesKey::new("real", [("name", name.as_str())]).unwrap();
                writer.resolve(name.as_bytes(), key)
            });
            for (time, value) in points {
                writer.begin_line(row, *time).unwrap();
                writer.field("v", value.as_ref()).unwrap();
                writer.end_line().unwrap();
            }
            slices += 1;
            if slices % 2 == 0 {
                settle(writer.commit(None).unwrap());
            }
        }
    }
    settle(writer.commit(None).unwrap());
}

/// Reads all and compares, forward and backward; returns how many points there are.
fn compare(database: &Database, want: &Kept) -> usize {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let found = snapshot.select(&Selector::default()).unwrap();
    let names: Vec<&str> = found.iter().map(|i| i.key.tag("name").unwrap()).collect();
    assert_eq!(names.len(), want.len(), "{names:?}");
    let mut count = 0;
    for (info, name) in found.iter().zip(names) {
        let points = &want[name];
        let series = snapshot.series(info);
        for direction in [Direction::Forward, Direction::Backward] {
            let mut wanted: Box<dyn Iterator<Item = _>> = match direction {
                Direction::Forward => Box::new(points.iter()),
                Direction::Backward => Box::new(points.iter().rev()),
            };
            let mut cursor = series.scan(TimeRange::ALL, direction);
            let mut column = Column::new(series.kind());
            while cursor.next_batch(&mut stats, &mut column).unwrap() {
                for (i, time) in column.times.iter().enumerate() {
                    let value = column.value(i).unwrap();
                    let (want_time, want) = wanted
                        .next()
                        .unwrap_or_else(|| panic!("{name}: {time} is one too many"));
                    assert!(
                        time == want_time && value.same(want.as_ref()),
                        "{name}: {value:?} at {time}, but {want:?} at {want_time} was sent"
                    );
                    count += 1;
                }
            }
            assert_eq!(wanted.next(), None, "{name} is not whole");
        }
        assert_eq!(series.first_time(), points.keys().next().copied());
        assert_eq!(series.last_time(), points.keys().last().copied());
        let aggregate = series.aggregate(TimeRange::ALL, &mut stats).unwrap();
        assert_eq!(aggregate.count, points.len() as u64, "{name}");
    }
    count / 2
}

fn in_memory(sent: &Sent) {
    let device = Arc::new(MemoryDevice::new(5));
    let open = |shards| {
        let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(&device);
        Store::open(device, Arc::new(SystemClock), config(shards)).unwrap()
    };
    let want = kept(sent);
    let store = open(2);
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    send(&database, sent, 1000, |commit| {
        commit.wait().unwrap();
    });
    let points = compare(&database, &want);
    store.close().unwrap();
    drop((database, store));
    let store = open(3);
    assert_eq!(compare(&store.database("db").unwrap(), &want), points);
    println!("{points} points of {} series in memory", want.len());
}

fn on_the_simulated_disk(sent: &Sent, power_cut: bool) {
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let open = |device: &Arc<SimDevice>, shards| {
        let device: Arc<dyn alluvium_store::Device> = Arc::<SimDevice>::clone(device);
        let clock: Arc<dyn alluvium_store::Clock> = Arc::<SimClock>::clone(&clock);
        Store::open(device, clock, config(shards)).unwrap()
    };
    let sim = SimConfig {
        lanes: 5,
        ..SimConfig::default()
    };
    let device = SimDevice::new(7, sim);
    let store = open(&device, 2);
    let settle = |mut commit: Commit| {
        for _ in 0..10_000 {
            if let Poll::Ready(result) = commit.poll(Waker::noop()) {
                result.unwrap();
                return;
            }
            store.drive();
            clock.advance_ns(3_000_000);
        }
        panic!("a commit neither ended nor failed");
    };
    let (database, created) = store.create_database("db").unwrap();
    settle(created);
    send(&database, sent, 1000, settle);
    let checkpoints = store.status().checkpoints;
    drop((database, store));
    // Nothing is closed or flushed: what was acknowledged is in the log, behind some checkpoint or none.
    let device = if power_cut {
        device.crash()
    } else {
        device.kill()
    };
    let store = open(&device, 4);
    let recovery = store.recovery().clone();
    assert!(!recovery.clean);
    let points = compare(&store.database("db").unwrap(), &kept(sent));
    println!("{points} points after {checkpoints} checkpoints and an end, {recovery:?}");
    // And a second time, by other shards, before anything was written.
    drop(store);
    let store = open(&device.kill(), 1);
    assert_eq!(compare(&store.database("db").unwrap(), &kept(sent)), points);
}

#[test]
fn real_series_in_memory() {
    if let Some(sent) = real_series() {
        in_memory(&sent);
    }
}

#[test]
fn real_series_after_a_kill() {
    if let Some(sent) = real_series() {
        on_the_simulated_disk(&sent, false);
    }
}

#[test]
fn real_series_after_a_power_cut() {
    if let Some(sent) = real_series() {
        on_the_simulated_disk(&sent, true);
    }
}

#[test]
fn edge_values_in_memory() {
    in_memory(&edges());
}

#[test]
fn edge_values_after_a_kill_or_a_power_cut() {
    on_the_simulated_disk(&edges(), false);
    on_the_simulated_disk(&edges(), true);
}

#[test]
fn the_reserved_time_is_refused_and_its_neighbour_is_not() {
    let device = Arc::new(MemoryDevice::new(2));
    let store = Store::open(device, Arc::new(SystemClock), config(1)).unwrap();
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut writer = database.writer();
    let row = writer.resolve(b"r", SeriesKey::new("real", [("name", "r")]).unwrap());
    assert_eq!(
        writer.begin_line(row, i64::MAX),
        Err(RefusedLine::ReservedTime)
    );
    for time in [i64::MAX - 1, i64::MIN] {
        writer.begin_line(row, time).unwrap();
        writer.field("v", ValueRef::I64(time)).unwrap();
        writer.end_line().unwrap();
    }
    writer.commit(None).unwrap().wait().unwrap();
    let points = [i64::MIN, i64::MAX - 1].map(|t| (t, Value::I64(t)));
    let want = Kept::from([("r".to_owned(), points.into())]);
    assert_eq!(compare(&database, &want), 2);
}
