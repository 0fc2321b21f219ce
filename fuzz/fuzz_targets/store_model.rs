//! A store answers as a map in which the last write wins, across checkpoints, clean and unclean restarts and
//! other numbers of shards.
//!
//! The input is a list of steps of a byte each, with the bytes they need: lines (one at a time, or runs of
//! them), commit, checkpoint, close and open, open without closing.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Database, Direction, ReadStats, Selector, Store, StoreConfig, SystemClock, TimeRange, Writer,
};
use alluvium_types::{Column, SeriesKey, Value, ValueKind, ValueRef};
use libfuzzer_sys::fuzz_target;

/// Points in runs of one input: of most, and of one in 32, which fill leaves.
const RUN_POINTS_MAX: u64 = 64;
const LONG_RUN_POINTS_MAX: u64 = 1_500;
/// Openings but the first: of half of the inputs none, of one in eight two.
const RESTARTS: [u32; 8] = [2, 1, 1, 1, 0, 0, 0, 0];

const HOSTS: [&str; 4] = ["h0", "h1", "h2", "h3"];
const RAW_KEYS: [&[u8]; 4] = [b"m,host=h0", b"m,host=h1", b"m,host=h2", b"m,host=h3"];
const FIELDS: [&str; 2] = ["f0", "f1"];

/// (host, field, whether text), then time.
type Model = BTreeMap<(&'static str, &'static str, bool), BTreeMap<i64, Value>>;

fn open(device: &Arc<MemoryDevice>, shards: usize) -> Store {
    let config = StoreConfig {
        shards,
        volume_bytes: 1 << 18,
        extent_pages: 4,
        segment_bytes: 256 << 10,
        redo_threads_max: 1,
        late_points_max: 24,
        tail_chain_max: 2,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    let device = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config).expect("a whole directory opens")
}

/// Writes one point of a series that `choice` names: host, field and kind. `value` has what the kind needs of it.
fn write(writer: &mut Writer, model: &mut Model, choice: u8, time: i64, value: u64) {
    let host = usize::from(choice & 3);
    let field = FIELDS[usize::from(choice >> 2 & 1)];
    let value = match choice >> 3 & 7 {
        0..=2 => Value::F64((value % 10_000) as f64 / 100.0),
        3 => Value::F64(f64::from_bits(value & 0xbfff_ffff_ffff_ffff)),
        4 => Value::I64(value as i64),
        5 => Value::U64(value),
        6 => Value::Bool(value & 1 == 1),
        _ => Value::Str(format!("state {}", value % 7).into()),
    };
    let row = writer.cached(RAW_KEYS[host]).unwrap_or_else(|| {
        let key = SeriesKey::new("m", [("host", HOSTS[host])]).expect("one tag");
        writer.resolve(RAW_KEYS[host], key)
    });
    writer.begin_line(row, time).expect("times are allowed");
    writer
        .field(field, value.as_ref())
        .expect("values are short");
    writer.end_line().expect("it has a field");
    let is_text = value.as_ref().kind() == ValueKind::Str;
    let series = model.entry((HOSTS[host], field, is_text)).or_default();
    series.insert(time, value);
}

fn as_f64(value: &Value) -> f64 {
    match value {
        Value::F64(v) => *v,
        Value::I64(v) => *v as f64,
        Value::U64(v) => *v as f64,
        Value::Bool(v) => f64::from(u8::from(*v)),
        Value::Str(_) => f64::NAN,
    }
}

fn check(database: &Database, model: &Model) {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    let mut found = 0;
    for info in snapshot.select(&Selector::default()).expect("it compiles") {
        let series = snapshot.series(&info);
        let host = info.key.tag("host").expect("every series has a host");
        let is_text = series.kind() == ValueKind::Str;
        let id = (host, &*info.field, is_text);
        let want = model.iter().find(|(known, _)| **known == id);
        let (_, want) = want.expect("nobody wrote it");
        found += 1;
        let aggregate = series
            .aggregate(TimeRange::ALL, &mut stats)
            .expect("pages are whole");
        assert_eq!(aggregate.count, want.len() as u64, "{id:?}");
        for direction in [Direction::Forward, Direction::Backward] {
            let mut cursor = series.scan(TimeRange::ALL, direction);
            let mut seen = Column::new(series.kind());
            let mut batch = Column::new(series.kind());
            while cursor
                .next_batch(&mut stats, &mut batch)
                .expect("pages are whole")
            {
                seen.extend_from(&batch, 0, batch.len());
            }
            if direction == Direction::Backward {
                seen.reverse();
            }
            assert!(seen.times.iter().eq(want.keys()), "{id:?}");
            for (i, value) in want.values().enumerate() {
                let found = seen.value(i).expect("as many values as times");
                // Where numeric kinds are mixed, answers are floats.
                let same = if found.kind() == value.as_ref().kind() {
                    found.same(value.as_ref())
                } else {
                    matches!(found, ValueRef::F64(v) if v == as_f64(value))
                };
                assert!(
                    same,
                    "{id:?} at {}: {found:?} against {value:?}",
                    seen.times[i]
                );
            }
        }
    }
    assert_eq!(found, model.len(), "of {:?}", model.keys());
}

fuzz_target!(|data: &[u8]| {
    alluvium_fuzz::compares::link();
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device, 1);
    let (mut database, created) = store.create_database("db").expect("a good name");
    created.wait().expect("memory does not fail");
    let mut writer = database.writer();
    let mut model = Model::new();
    let (mut now, mut restarts) = (1_000_i64, 0);
    let share = alluvium_fuzz::share(data);
    let restarts_max = RESTARTS[usize::from(share % 8)];
    let mut points_left = if share == 0 {
        LONG_RUN_POINTS_MAX
    } else {
        RUN_POINTS_MAX
    };
    let mut rest = data.get(..256).unwrap_or(data);
    while let [step, a, b, c, behind @ ..] = rest {
        rest = behind;
        match step % 8 {
            0..=2 => {
                now += i64::from(*b as i8);
                let value = u64::from(*c).wrapping_mul(0x0101_0101_0101_0101);
                write(&mut writer, &mut model, *a, now, value);
            }
            3..=4 => {
                // A run that fills blocks and leaves, in order or backwards.
                let step_ns = i64::from(*b as i8);
                let points = (u64::from(*c) * 4).min(points_left);
                points_left -= points;
                for i in 0..points {
                    now += step_ns;
                    write(&mut writer, &mut model, *a, now, i * i);
                }
            }
            5 => {
                writer
                    .commit(None)
                    .expect("the store takes writes")
                    .wait()
                    .expect("memory does not fail");
            }
            6 => {
                writer
                    .commit(None)
                    .expect("the store takes writes")
                    .wait()
                    .expect("memory does not fail");
                store.checkpoint().wait().expect("memory does not fail");
            }
            _ if restarts < restarts_max => {
                restarts += 1;
                let ended = writer.commit(None).expect("the store takes writes").wait();
                ended.expect("memory does not fail");
                if *a & 1 == 0 {
                    store.close().expect("memory does not fail");
                }
                drop((writer, database, store));
                store = open(&device, 1 + usize::from(*b) % 4);
                database = store.database("db").expect("it was created");
                writer = database.writer();
                check(&database, &model);
            }
            _ => {}
        }
    }
    writer
        .commit(None)
        .expect("the store takes writes")
        .wait()
        .expect("memory does not fail");
    check(&database, &model);
});
