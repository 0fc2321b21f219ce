//! Order of arrival changes no answer: the same points sorted, shuffled, with a fifth repeated or overwritten, in
//! blocks from the last to the first, with openings in between, with runs merged and not. Counts, extremes, ends
//! and integers are equal bit for bit, sums of floats within four ulp of the sum of magnitudes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{
    Database, Direction, ReadStats, Selector, SeriesSnapshot, Store, StoreConfig, SystemClock,
};
use alluvium_types::{Aggregate, Column, Sum, TimeRange, Value, ValueKind};
use model::{Dice, Line, read_all, same, write};

fn config(merging: bool) -> StoreConfig {
    StoreConfig {
        shards: 2,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        late_points_max: 40,
        merge_runs_max: 3,
        merge_late_points: 200,
        merge_quiet_ms: 0,
        merge_slice_pages: 2,
        merge_pages_per_s: 1 << 40,
        merge_paused: !merging,
        tail_chain_max: 3,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

struct World {
    device: Arc<MemoryDevice>,
    merging: bool,
    store: Store,
    database: Database,
    merges: u64,
    adopted: u64,
}

impl World {
    fn new(merging: bool) -> Self {
        let device = Arc::new(MemoryDevice::new(3));
        let store = open(&device, merging);
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        Self {
            device,
            merging,
            store,
            database,
            merges: 0,
            adopted: 0,
        }
    }

    fn write(&mut self, lines: &[Line], dice: &mut Dice) {
        let mut rest = lines;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(rest.len().min(1 + dice.below(700) as usize));
            rest = behind;
            write(&self.database, batch, None).unwrap().wait().unwrap();
            for _ in 0..dice.below(40) {
                self.store.drive();
            }
            if dice.below(8) == 0 {
                self.reopen();
            }
        }
    }

    /// Closed in the middle of a merge, too.
    fn reopen(&mut self) {
        self.note();
        self.store.close().unwrap();
        self.store = open(&self.device, self.merging);
        self.database = self.store.database("db").unwrap();
    }

    /// Adds up what was merged before the store is closed.
    fn note(&mut self) {
        let status = self.store.status().merging;
        assert_eq!((status.failed, status.last_error), (0, None));
        self.merges += status.merges;
        self.adopted += status.leaves_adopted;
    }

    /// Merges whatever can be merged.
    fn settle(&self) {
        let mut turns = 0;
        while self.merging && self.store.status().merging.series_waiting > 0 {
            self.store.drive();
            turns += 1;
            assert!(turns < 1_000_000, "{:?}", self.store.status().merging);
        }
    }
}

fn open(device: &Arc<MemoryDevice>, merging: bool) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config(merging)).unwrap()
}

fn value(dice: &mut Dice, field: &str) -> Value {
    match field {
        "f" => Value::F64(match dice.below(40) {
            0 => f64::NAN,
            1 => -0.0,
            _ => dice.roll() as f64 / 1e5 - 1e7,
        }),
        "i" => Value::I64(dice.roll() as i64 >> dice.below(50)),
        "u" => Value::U64(dice.below(1000)),
        "b" => Value::Bool(dice.below(2) == 1),
        _ if dice.below(200) == 0 => Value::Str("long ".repeat(400).into()),
        _ => Value::Str(format!("state{}", dice.below(5)).into()),
    }
}

/// Lines of two hosts in order of time.
fn sorted(dice: &mut Dice, count: usize) -> Vec<Line> {
    let mut time = 1_000;
    let line = |_| {
        time += 1 + dice.below(20) as i64;
        let mut fields = vec![("f", value(dice, "f")), ("i", value(dice, "i"))];
        for name in ["u", "b", "s"] {
            if dice.below(3) == 0 {
                fields.push((name, value(dice, name)));
            }
        }
        Line {
            host: dice.below(2) as u32,
            time,
            fields,
        }
    };
    (0..count).map(line).collect()
}

fn shuffle(lines: &mut [Line], dice: &mut Dice) {
    for i in (1..lines.len()).rev() {
        lines.swap(i, dice.below(i as u64 + 1) as usize);
    }
}

/// Lines a fifth of which come again later; some first come with other values.
fn with_repeats(lines: &[Line], dice: &mut Dice) -> Vec<Line> {
    let mut out = Vec::new();
    let mut held: Vec<Line> = Vec::new();
    for line in lines {
        if dice.below(5) == 0 {
            held.push(line.clone());
            let mut first = line.clone();
            if dice.below(2) == 0 {
                for (name, of) in &mut first.fields {
                    *of = value(dice, name);
                }
            }
            out.push(first);
        } else {
            out.push(line.clone());
        }
        if dice.below(300) == 0 {
            out.append(&mut held);
        }
    }
    out.append(&mut held);
    out
}

fn reversed_blocks(lines: &[Line], dice: &mut Dice) -> Vec<Line> {
    let mut blocks = Vec::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let (block, behind) = rest.split_at(rest.len().min(50 + dice.below(900) as usize));
        blocks.push(block);
        rest = behind;
    }
    blocks.into_iter().rev().flatten().cloned().collect()
}

fn magnitude(series: &SeriesSnapshot, range: TimeRange) -> f64 {
    let mut cursor = series.scan(range, Direction::Forward);
    let mut column = Column::new(series.kind());
    let mut sum = 0.0;
    while cursor
        .next_batch(&mut ReadStats::default(), &mut column)
        .unwrap()
    {
        let values = column.bits().iter().map(|b| f64::from_bits(*b).abs());
        sum += values.filter(|v| !v.is_nan()).sum::<f64>();
    }
    sum
}

fn assert_equal(a: &Aggregate, b: &Aggregate, magnitude: f64) {
    assert_eq!((a.count, a.nan_count), (b.count, b.nan_count));
    if a.count == 0 {
        return;
    }
    assert_eq!((a.first, a.last), (b.first, b.last));
    if a.number_count() == 0 || a.kind == ValueKind::Str {
        return;
    }
    assert_eq!((a.min, a.max), (b.min, b.max));
    match (a.sum, b.sum) {
        (Sum::Integer(x), Sum::Integer(y)) => assert_eq!(x, y),
        (x, y) => {
            let ulp = magnitude * f64::EPSILON;
            let apart = (x.to_f64() - y.to_f64()).abs();
            assert!(apart <= 4.0 * ulp, "{x:?} and {y:?} are {apart} apart");
        }
    }
}

fn scanned(series: &SeriesSnapshot, range: TimeRange, direction: Direction) -> Column {
    let mut cursor = series.scan(range, direction);
    let mut column = Column::new(series.kind());
    let mut all = Column::new(series.kind());
    while cursor
        .next_batch(&mut ReadStats::default(), &mut column)
        .unwrap()
    {
        all.extend_from(&column, 0, column.len());
    }
    all
}

fn buckets(series: &SeriesSnapshot, range: TimeRange, step: i64) -> Vec<(i64, Aggregate)> {
    let mut out = Vec::new();
    let mut emit = |begin: i64, bucket: &Aggregate| {
        out.push((begin, *bucket));
        ControlFlow::Continue(())
    };
    series
        .buckets(range, step, 7, &mut ReadStats::default(), &mut emit)
        .unwrap();
    out
}

/// Every kind of read of every series answers alike.
fn assert_answers(one: &Database, other: &Database, dice: &mut Dice) {
    let (one, other) = (one.snapshot(), other.snapshot());
    let all = one.select(&Selector::default()).unwrap();
    assert_eq!(all.len(), other.select(&Selector::default()).unwrap().len());
    for info in &all {
        let theirs = other.select(&Selector::default()).unwrap();
        let same = theirs
            .iter()
            .find(|i| i.key == info.key && i.field == info.field && i.id.kind() == info.id.kind());
        let (a, b) = (one.series(info), other.series(same.unwrap()));
        let (first, last) = (a.first_time().unwrap(), a.last_time().unwrap());
        assert_eq!((b.first_time(), b.last_time()), (Some(first), Some(last)));
        let span = (last - first + 20) as u64;
        let cut = |dice: &mut Dice| first - 10 + dice.below(span) as i64;
        let mut ranges = vec![TimeRange::ALL];
        for _ in 0..6 {
            let (x, y) = (cut(dice), cut(dice));
            ranges.push(TimeRange::new(x.min(y), x.max(y)).unwrap());
        }
        for range in ranges {
            let scale = magnitude(&a, range);
            let stats = &mut ReadStats::default();
            let (x, y) = (
                a.aggregate(range, stats).unwrap(),
                b.aggregate(range, stats).unwrap(),
            );
            assert_equal(&x, &y, scale);
            let step = 1 + dice.below(3000) as i64;
            let (x, y) = (buckets(&a, range, step), buckets(&b, range, step));
            assert_eq!(x.len(), y.len());
            for ((begin, x), (other, y)) in x.iter().zip(&y) {
                assert_eq!(begin, other);
                let bucket = TimeRange::new(*begin, begin + step).unwrap();
                assert_equal(x, y, magnitude(&a, bucket));
            }
            for direction in [Direction::Forward, Direction::Backward] {
                assert_eq!(scanned(&a, range, direction), scanned(&b, range, direction));
            }
        }
    }
}

#[test]
fn shuffled_equals_sorted() {
    let (mut merges, mut adopted) = (0, 0);
    for seed in 1..=6_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let lines = sorted(&mut dice, 6000);
        let mut reference = World::new(false);
        write(&reference.database, &lines, None)
            .unwrap()
            .wait()
            .unwrap();
        let mut shuffled = lines.clone();
        shuffle(&mut shuffled, &mut dice);
        let orders = [
            ("shuffled", shuffled),
            ("repeated", with_repeats(&lines, &mut dice)),
            ("reversed blocks", reversed_blocks(&lines, &mut dice)),
        ];
        for (name, order) in orders {
            for merging in [true, false] {
                println!("seed {seed}, {name}, merging {merging}");
                let mut world = World::new(merging);
                world.write(&order, &mut dice);
                same(&read_all(&world.database), &read_all(&reference.database)).unwrap();
                assert_answers(&reference.database, &world.database, &mut dice);
                world.settle();
                assert_answers(&reference.database, &world.database, &mut dice);
                world.note();
                assert_eq!(merging, world.merges > 0);
                merges += world.merges;
                adopted += world.adopted;
            }
        }
        reference.reopen();
        same(&read_all(&reference.database), &{
            let mut model = model::Model::default();
            model.apply(&lines);
            model
        })
        .unwrap();
    }
    println!("{merges} merges, {adopted} leaves adopted");
}
