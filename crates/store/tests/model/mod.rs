//! A naive store, and the comparison of a real one with it.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use alluvium_store::{
    Affected, Comparison, Database, Delete, DeleteSelection, Direction, Durability, Label, Matcher,
    ReadStats, Selector, Test, ValueTest, WriteError,
};
use alluvium_types::{Aggregate, Column, Number, SeriesKey, TimeRange, Value, ValueKind, ValueRef};

/// One line: host, time, fields.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) host: u32,
    pub(crate) time: i64,
    pub(crate) fields: Vec<(&'static str, Value)>,
}

/// (host, field, whether text) to time to value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) series: BTreeMap<(u32, String, bool), BTreeMap<i64, Value>>,
}

impl Model {
    pub(crate) fn apply(&mut self, lines: &[Line]) {
        for line in lines {
            for (field, value) in &line.fields {
                let text = value.as_ref().kind() == ValueKind::Str;
                let series = self
                    .series
                    .entry((line.host, (*field).to_owned(), text))
                    .or_default();
                series.insert(line.time, value.clone());
            }
        }
    }
}

/// A delete in the words of the model: of which hosts and field, when, and of which numbers.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    pub(crate) hosts: Option<Vec<u32>>,
    pub(crate) field: Option<&'static str>,
    pub(crate) range: TimeRange,
    /// Numbers above it only.
    pub(crate) above: Option<f64>,
}

impl Removal {
    /// Any shape of delete around `now`.
    pub(crate) fn random(dice: &mut Dice, now: i64, hosts: u64) -> Self {
        let some = |dice: &mut Dice| {
            (0..=dice.below(3))
                .map(|_| dice.below(hosts) as u32)
                .collect()
        };
        let hosts = (dice.below(4) > 0).then(|| some(dice));
        let field = (dice.below(2) == 0).then(|| ["f", "i", "b", "s"][dice.below(4) as usize]);
        let (a, b) = (now - dice.below(2000) as i64, now - dice.below(2000) as i64);
        let range = match dice.below(6) {
            0 => TimeRange::ALL,
            1 => TimeRange::new(i64::MIN, a).expect("ordered"),
            2 => TimeRange::new(a, i64::MAX).expect("ordered"),
            _ => TimeRange::new(a.min(b), a.max(b)).expect("ordered"),
        };
        let above = (dice.below(4) == 0).then(|| dice.below(100) as f64);
        Self {
            hosts,
            field,
            range,
            above,
        }
    }

    /// Whether it deletes the point.
    pub(crate) fn hits(&self, host: u32, field: &str, time: i64, value: &Value) -> bool {
        self.hosts.as_ref().is_none_or(|h| h.contains(&host))
            && self.field.is_none_or(|f| f == field)
            && self.range.contains(time)
            && self
                .above
                .is_none_or(|limit| Self::test(limit).passes(value.as_ref()))
    }

    fn test(limit: f64) -> ValueTest {
        let comparisons = vec![(Comparison::Greater, Number::Float(limit))];
        ValueTest { comparisons }
    }

    pub(crate) fn request(&self) -> Delete {
        let mut matchers = Vec::new();
        if let Some(hosts) = &self.hosts {
            let names = hosts.iter().map(|h| format!("h{h}")).collect();
            matchers.push(Matcher::new(Label::Tag("host".into()), Test::In(names)));
        }
        if let Some(field) = self.field {
            matchers.push(Matcher::new(Label::Field, Test::Equal(field.into())));
        }
        let selector = Selector { matchers };
        Delete {
            selections: vec![DeleteSelection {
                selector,
                tag_sets: None,
            }],
            range: self.range,
            test: self.above.map(Self::test),
        }
    }
}

impl Model {
    /// Returns how many series and points went.
    pub(crate) fn remove(&mut self, removal: &Removal) -> Affected {
        let mut affected = Affected::default();
        for ((host, field, _), points) in &mut self.series {
            let before = points.len();
            points.retain(|time, value| !removal.hits(*host, field, *time, value));
            affected.points += (before - points.len()) as u64;
            affected.series += u64::from(before > points.len());
        }
        self.series.retain(|_, points| !points.is_empty());
        affected
    }
}

/// A small xorshift: the seed is the test's.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// A batch around `now`: mostly in order, some late, some rewrites.
pub(crate) fn batch(dice: &mut Dice, now: &mut i64, hosts: u64, lines: u64) -> Vec<Line> {
    (0..lines)
        .map(|_| {
            let time = match dice.below(10) {
                0 => *now - dice.below(1000) as i64,
                1 => *now,
                _ => {
                    *now += 1 + dice.below(3) as i64;
                    *now
                }
            };
            let mut fields = vec![("f", Value::F64(random_float(dice)))];
            if dice.below(3) > 0 {
                fields.push(("i", Value::I64(dice.roll() as i64 >> dice.below(60))));
            }
            if dice.below(4) == 0 {
                fields.push(("b", Value::Bool(dice.below(2) == 1)));
            }
            if dice.below(4) == 0 {
                fields.push(("s", Value::Str(format!("state{}", dice.below(5)).into())));
            }
            Line {
                host: dice.below(hosts) as u32,
                time,
                fields,
            }
        })
        .collect()
}

/// A batch of which a twentieth is much later.
pub(crate) fn late_batch(dice: &mut Dice, now: &mut i64, hosts: u64, lines: u64) -> Vec<Line> {
    let mut batch = batch(dice, now, hosts, lines);
    for line in &mut batch {
        if dice.below(20) == 0 {
            line.time -= dice.below(10_000) as i64;
        }
    }
    batch
}

fn random_float(dice: &mut Dice) -> f64 {
    match dice.below(8) {
        0 => f64::from_bits(dice.roll() << 11 | dice.roll()),
        1 => -0.0,
        2 => f64::from_bits(0x7ff0_0000_0000_0002),
        _ => dice.below(10_000) as f64 / 100.0,
    }
}

/// Writes a batch.
pub(crate) fn write(
    database: &Database,
    lines: &[Line],
    durability: Option<Durability>,
) -> Result<alluvium_store::Commit, WriteError> {
    let mut writer = database.writer();
    for line in lines {
        let raw = format!("m,host=h{}", line.host);
        let row = writer.cached(raw.as_bytes());
        let row = row.unwrap_or_else(|| {
            let key = SeriesKey::new("m", [("host", format!("h{}", line.host))]).expect("one tag");
            writer.resolve(raw.as_bytes(), key)
        });
        writer.begin_line(row, line.time).expect("allowed times");
        for (field, value) in &line.fields {
            writer.field(field, value.as_ref()).expect("short strings");
        }
        writer.end_line().expect("lines have fields");
    }
    writer.commit(durability)
}

/// Everything a database holds, read by scanning forward.
pub(crate) fn read_all(database: &Database) -> Model {
    let snapshot = database.snapshot();
    let mut model = Model::default();
    let mut stats = ReadStats::default();
    for info in snapshot
        .select(&Selector::default())
        .expect("the empty selector compiles")
    {
        let host = info
            .key
            .tag("host")
            .and_then(|h| h[1..].parse().ok())
            .expect("hosts are hN");
        let series = snapshot.series(&info);
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(series.kind());
        let mut points = BTreeMap::new();
        while cursor
            .next_batch(&mut stats, &mut column)
            .expect("pages are whole")
        {
            for (i, time) in column.times.iter().enumerate() {
                let value = column.value(i).expect("as many values as times").to_owned();
                assert!(points.insert(*time, value).is_none(), "a time given twice");
            }
        }
        if !points.is_empty() {
            let text = series.kind() == ValueKind::Str;
            model
                .series
                .insert((host, info.field.to_string(), text), points);
        }
    }
    model
}

/// Bit for bit.
pub(crate) fn same(a: &Model, b: &Model) -> Result<(), String> {
    let keys: std::collections::BTreeSet<_> = a.series.keys().chain(b.series.keys()).collect();
    for key in keys {
        let empty = BTreeMap::new();
        let (left, right) = (
            a.series.get(key).unwrap_or(&empty),
            b.series.get(key).unwrap_or(&empty),
        );
        let times: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
        for time in times {
            let equal = match (left.get(time), right.get(time)) {
                (Some(l), Some(r)) => l.as_ref().same(r.as_ref()),
                _ => false,
            };
            if !equal {
                return Err(format!(
                    "{key:?} at {time}: {:?} against {:?}",
                    left.get(time),
                    right.get(time)
                ));
            }
        }
    }
    Ok(())
}

/// Aggregates, buckets and backward scans of every series equal folds of the model.
pub(crate) fn check_reads(database: &Database, model: &Model, dice: &mut Dice) {
    let snapshot = database.snapshot();
    let mut stats = ReadStats::default();
    for info in snapshot.select(&Selector::default()).expect("compiles") {
        let host: u32 = info
            .key
            .tag("host")
            .and_then(|h| h[1..].parse().ok())
            .expect("hosts are hN");
        let series = snapshot.series(&info);
        let kind = series.kind();
        let empty = BTreeMap::new();
        let points = model
            .series
            .get(&(host, info.field.to_string(), kind == ValueKind::Str))
            .unwrap_or(&empty);
        let (low, high) = (
            series.first_time().unwrap_or(0),
            series.last_time().unwrap_or(0),
        );
        for _ in 0..4 {
            let a = low - 5 + dice.below((high - low + 10) as u64) as i64;
            let b = low - 5 + dice.below((high - low + 10) as u64) as i64;
            let range = TimeRange::new(a.min(b), a.max(b)).expect("ordered");
            let inside: Vec<(i64, ValueRef<'_>)> = points
                .range(range.begin()..range.end())
                .map(|(t, v)| (*t, v.as_ref()))
                .collect();
            let want = fold(kind, &inside);
            let got = series
                .aggregate(range, &mut stats)
                .expect("pages are whole");
            assert_close(&got, &want);

            let step = 1 + dice.below(200) as i64;
            let mut wanted: Vec<(i64, Aggregate)> = Vec::new();
            for (time, value) in &inside {
                let begin = time.div_euclid(step) * step;
                if wanted.last().is_none_or(|(b, _)| *b != begin) {
                    wanted.push((begin, Aggregate::empty(kind)));
                }
                let last = wanted.last_mut().expect("just pushed");
                last.1.push(*time, value.bits().unwrap_or(0));
            }
            let mut got = Vec::new();
            series
                .buckets(range, step, 0, &mut stats, &mut |begin, a| {
                    got.push((begin, *a));
                    ControlFlow::Continue(())
                })
                .expect("pages are whole");
            assert_eq!(got.len(), wanted.len(), "{info:?} {range:?} step {step}");
            for ((gb, g), (wb, w)) in got.iter().zip(&wanted) {
                assert_eq!(gb, wb);
                assert_close(g, w);
            }

            let mut cursor = series.scan(range, Direction::Backward);
            let mut column = Column::new(kind);
            let mut back = Vec::new();
            while cursor
                .next_batch(&mut stats, &mut column)
                .expect("pages are whole")
            {
                back.extend(column.times.iter().copied());
            }
            let forward: Vec<i64> = inside.iter().rev().map(|(t, _)| *t).collect();
            assert_eq!(back, forward);
        }
    }
}

fn fold(kind: ValueKind, points: &[(i64, ValueRef<'_>)]) -> Aggregate {
    let mut out = Aggregate::empty(kind);
    for (time, value) in points {
        out.push(*time, value.bits().unwrap_or(0));
    }
    out
}

/// Exact but for float sums, which may differ in rounding; sums that overflow are not compared.
fn assert_close(got: &Aggregate, want: &Aggregate) {
    assert_eq!((got.count, got.nan_count), (want.count, want.nan_count));
    if want.count == 0 {
        return;
    }
    assert_eq!((got.first, got.last), (want.first, want.last));
    if want.number_count() == 0 || want.kind == ValueKind::Str {
        return;
    }
    assert_eq!((got.min, got.max), (want.min, want.max));
    let (g, w) = (got.sum.to_f64(), want.sum.to_f64());
    let largest = |s: alluvium_types::Sample| match want.min_value() {
        Some(ValueRef::F64(_)) => f64::from_bits(s.bits).abs(),
        _ => 1.0,
    };
    let scale = largest(want.min).max(largest(want.max)) * want.count as f64;
    assert!(
        !w.is_finite() || !scale.is_finite() || (g - w).abs() <= scale * 1e-14,
        "{g} against {w}"
    );
}

/// Exactly the series that have points are listed.
pub(crate) fn check_lists(database: &Database, model: &Model) {
    let listed = database
        .snapshot()
        .select(&Selector::default())
        .expect("compiles");
    let listed: std::collections::BTreeSet<(u32, String, bool)> = listed
        .into_iter()
        .map(|info| {
            let host = info.key.tag("host").and_then(|h| h[1..].parse().ok());
            let text = info.id.kind() == ValueKind::Str;
            (host.expect("hosts are hN"), info.field.to_string(), text)
        })
        .collect();
    let expected = model.series.iter().filter(|(_, points)| !points.is_empty());
    assert_eq!(listed, expected.map(|(key, _)| key.clone()).collect());
    let measurements = database
        .measurements(&Selector::default())
        .expect("compiles");
    assert_eq!(measurements.is_empty(), model.series.is_empty());
}
