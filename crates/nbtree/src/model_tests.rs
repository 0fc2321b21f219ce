//! Trees against a sorted vector, grown tall by small pages.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_block::{Appender, BlockStore};
use alluvium_codec::Encoder;
use alluvium_io::{Device, Lane, MemoryDevice};
use alluvium_types::{
    Aggregate, Column, DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, Sum, TimeRange, Value,
    ValueKind, ValueRef,
};
use proptest::prelude::*;

use crate::knobs::{KNOBS, Knobs};
use crate::sealed::Sealed;
use crate::{
    Direction, LatePoints, PageWriter, ReadStats, SubtreeRef, Tree, TreeError, TreeSnapshot,
};

/// Leaves of a few blocks, inner pages of three entries: 2,000 points make a tree of five levels.
pub(crate) static TINY: Knobs = Knobs {
    tail_points: 7,
    tail_bytes: 64,
    block_points: 20,
    leaf_bytes: 300,
    inner_bytes: 1000,
    fan_out_max: 3,
};

pub(crate) struct Bench {
    pub(crate) store: Arc<BlockStore>,
    pub(crate) appender: Appender,
    pub(crate) encoder: Encoder,
    pub(crate) knobs: &'static Knobs,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_knobs(&TINY)
    }

    pub(crate) fn with_knobs(knobs: &'static Knobs) -> Self {
        let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
        let appender = store.appender(Lane(0));
        Self {
            store,
            appender,
            encoder: Encoder::default(),
            knobs,
        }
    }

    pub(crate) fn push(&mut self, tree: &mut Tree, time: i64, value: ValueRef<'_>) {
        let lsn = Lsn(time.unsigned_abs());
        let mut out = PageWriter::new(&mut self.appender, &mut self.encoder, DatabaseId(1), lsn);
        out.knobs = self.knobs;
        let before = tree.heap_bytes();
        tree.push(&mut out, time, value);
        assert_eq!(before as i64 + out.heap, tree.heap_bytes() as i64);
    }
}

pub(crate) fn series(kind: ValueKind) -> SeriesId {
    SeriesId::new(Partition(3), Row(4), FieldId(5), kind)
}

pub(crate) type Points = Vec<(i64, Value)>;

fn column(kind: ValueKind, points: &[(i64, Value)]) -> Column {
    let mut column = Column::new(kind);
    for (time, value) in points {
        column.push(*time, value.as_ref());
    }
    column
}

fn inside(points: &[(i64, Value)], range: TimeRange) -> &[(i64, Value)] {
    let begin = points.partition_point(|p| p.0 < range.begin());
    let end = points.partition_point(|p| p.0 < range.end());
    &points[begin..end.max(begin)]
}

fn folded(kind: ValueKind, points: &[(i64, Value)]) -> Aggregate {
    let mut all = Aggregate::empty(kind);
    for (time, value) in points {
        all.push(*time, value.as_ref().bits().unwrap_or_default());
    }
    all
}

fn assert_close(got: f64, want: f64, scale: f64, what: &str) {
    let close = (got - want).abs() <= 1e-9 * scale.abs().max(1.0);
    assert!(
        close || got.to_bits() == want.to_bits(),
        "{what}: {got} for {want}"
    );
}

fn assert_same(got: &Aggregate, want: &Aggregate) {
    assert_eq!(got.count, want.count);
    if want.count == 0 {
        return;
    }
    assert_eq!(got.nan_count, want.nan_count);
    assert_eq!((got.first, got.last), (want.first, want.last));
    assert_eq!((got.min, got.max), (want.min, want.max));
    let scale = want.m2 + want.sum.to_f64().abs() + want.increase + 1e6;
    assert_close(got.m2, want.m2, scale, "m2");
    assert_close(got.increase, want.increase, scale, "increase");
    match (got.sum, want.sum) {
        (Sum::Integer(a), Sum::Integer(b)) => assert_eq!(a, b),
        (a, b) => assert_close(a.to_f64(), b.to_f64(), scale, "sum"),
    }
}

pub(crate) fn scan(
    snapshot: &TreeSnapshot,
    store: &BlockStore,
    range: TimeRange,
    direction: Direction,
) -> Column {
    let mut cursor = snapshot.scan(range, direction);
    let (mut all, mut batch) = (Column::new(snapshot.kind()), Column::new(snapshot.kind()));
    let mut stats = ReadStats::default();
    while cursor.next_batch(store, &mut stats, &mut batch).unwrap() {
        assert!((1..=1024).contains(&batch.len()));
        all.extend_from(&batch, 0, batch.len());
    }
    all
}

/// Compares everything a snapshot answers about some ranges with the model.
pub(crate) fn check(
    snapshot: &TreeSnapshot,
    store: &BlockStore,
    points: &[(i64, Value)],
    cuts: &[(i64, i64)],
) {
    let kind = snapshot.kind();
    assert_eq!(snapshot.points(), points.len() as u64);
    assert_eq!(snapshot.first_time(), points.first().map(|p| p.0));
    assert_eq!(snapshot.last_time(), points.last().map(|p| p.0));
    let mut stats = ReadStats::default();
    let ranges = cuts
        .iter()
        .map(|(a, b)| TimeRange::new(*a.min(b), *a.max(b)).unwrap());
    for range in ranges.chain([TimeRange::ALL]) {
        let wanted = inside(points, range);
        let got = snapshot.aggregate(store, range, &mut stats).unwrap();
        assert_same(&got, &folded(kind, wanted));
        let want = column(kind, wanted);
        assert_eq!(scan(snapshot, store, range, Direction::Forward), want);
        let mut backward = scan(snapshot, store, range, Direction::Backward);
        backward.reverse();
        assert_eq!(backward, want);
        let span = range.end().saturating_sub(range.begin());
        for step in [1.max(span / 7), 13, 100_000] {
            check_buckets(snapshot, store, wanted, range, step);
        }
    }
}

fn check_buckets(
    snapshot: &TreeSnapshot,
    store: &BlockStore,
    wanted: &[(i64, Value)],
    range: TimeRange,
    step: i64,
) {
    let origin = 5;
    let bucket_of = |t: i64| {
        let begin = i128::from(t) - (i128::from(t) - origin).rem_euclid(step.into());
        begin.max(i64::MIN.into()) as i64
    };
    let mut want = Vec::new();
    for group in wanted.chunk_by(|a, b| bucket_of(a.0) == bucket_of(b.0)) {
        want.push((bucket_of(group[0].0), folded(snapshot.kind(), group)));
    }
    let mut got = Vec::new();
    let mut stats = ReadStats::default();
    let mut emit = |begin: i64, bucket: &Aggregate| {
        got.push((begin, *bucket));
        ControlFlow::Continue(())
    };
    snapshot
        .buckets(store, range, step, origin as i64, &mut stats, &mut emit)
        .unwrap();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.0, want.0);
        assert_same(&got.1, &want.1);
    }
    // Stops as soon as it is told to.
    let mut emitted = 0;
    let mut emit = |_: i64, _: &Aggregate| {
        emitted += 1;
        ControlFlow::Break(())
    };
    snapshot
        .buckets(store, range, step, origin as i64, &mut stats, &mut emit)
        .unwrap();
    assert_eq!(emitted, want.len().min(1));
}

pub(crate) fn reopen(tree: &Tree) -> Tree {
    let mut bytes = vec![0xaa];
    tree.snapshot()
        .encode_state(&mut Encoder::default(), &mut bytes);
    let len = bytes.len() - 1;
    bytes.extend_from_slice(&[1, 2, 3]);
    let (back, consumed) = Tree::decode_state(&bytes[1..]).unwrap();
    assert_eq!(consumed, len);
    let mut again = Vec::new();
    back.snapshot()
        .encode_state(&mut Encoder::default(), &mut again);
    assert_eq!(again, bytes[1..=len], "a state must read back to itself");
    back
}

pub(crate) fn value_strategy(kind: ValueKind) -> BoxedStrategy<Value> {
    match kind {
        ValueKind::F64 => prop_oneof![
            8 => (-1_000_000_i64..1_000_000).prop_map(|v| Value::F64(v as f64 / 100.0)),
            4 => (-1e6..1e6).prop_map(Value::F64),
            1 => Just(Value::F64(f64::NAN)),
            1 => Just(Value::F64(-0.0)),
            1 => Just(Value::F64(0.0)),
            1 => Just(Value::F64(f64::from_bits(0x7ff0_0000_0000_0001))),
        ]
        .boxed(),
        ValueKind::I64 => prop_oneof![
            6 => (-1000_i64..1000).prop_map(Value::I64),
            1 => any::<i64>().prop_map(Value::I64),
        ]
        .boxed(),
        ValueKind::U64 => prop_oneof![
            6 => (0_u64..1000).prop_map(Value::U64),
            1 => any::<u64>().prop_map(Value::U64),
        ]
        .boxed(),
        ValueKind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueKind::Str => prop_oneof![
            20 => "[a-c]{0,3}".prop_map(|s| Value::Str(s.into())),
            4 => "\\PC{0,30}".prop_map(|s| Value::Str(s.into())),
            1 => "[a-z]{0,3}".prop_map(|s| Value::Str(format!("\u{ffff}>{s}").into())),
            1 => (1025_usize..20_000).prop_map(|n| Value::Str("long ".repeat(n / 5 + 1).into())),
        ]
        .boxed(),
    }
}

fn points_strategy(kind: ValueKind) -> impl Strategy<Value = Points> {
    let step = prop_oneof![6 => Just(10_i64), 2 => 1_i64..50, 1 => 1_i64..1_000_000_000_000];
    (
        prop_oneof![4 => Just(0_i64), 1 => -1_000_000_i64..1_000_000, 1 => Just(i64::MIN)],
        prop::collection::vec((step, value_strategy(kind)), 0..1200),
    )
        .prop_map(|(start, steps)| {
            let mut time = start;
            let mut out = Vec::with_capacity(steps.len());
            for (step, value) in steps {
                out.push((time, value));
                time += step;
            }
            out
        })
}

fn run(kind: ValueKind, points: &Points, marks: &[prop::sample::Index], spans: &[(u16, u16)]) {
    let mut bench = Bench::new();
    let mut tree = Tree::new(series(kind), 9, Lsn(1));
    let mut marks: Vec<usize> = marks.iter().map(|m| m.index(points.len() + 1)).collect();
    marks.sort_unstable();
    let mut taken = Vec::new();
    for (i, (time, value)) in points.iter().enumerate() {
        for _ in marks.iter().filter(|m| **m == i) {
            taken.push((i, tree.snapshot()));
            tree = reopen(&tree);
        }
        bench.push(&mut tree, *time, value.as_ref());
        assert_eq!(tree.last_time(), Some(*time));
        if kind.is_numeric() {
            assert!(tree.writer().last_is(*time, value.as_ref()));
        }
        assert!(!tree.writer().last_is(time + 1, value.as_ref()));
    }
    let at = |share: u16| {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return i64::from(share);
        };
        // A little beyond both ends.
        let span = i128::from(last.0) - i128::from(first.0) + 40;
        let time = i128::from(first.0) - 20 + span * i128::from(share) / i128::from(u16::MAX);
        time.max(i64::MIN.into()) as i64
    };
    let cuts: Vec<(i64, i64)> = spans.iter().map(|(a, b)| (at(*a), at(*b))).collect();
    taken.push((points.len(), tree.snapshot()));
    taken.push((points.len(), reopen(&tree).snapshot()));
    for (count, snapshot) in &taken {
        check(snapshot, &bench.store, &points[..*count], &cuts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_answers_as_a_sorted_vector(
        (kind, points) in prop::sample::select(ValueKind::ALL.to_vec())
            .prop_flat_map(|kind| (Just(kind), points_strategy(kind))),
        marks in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        spans in prop::collection::vec(any::<(u16, u16)>(), 1..5),
    ) {
        run(kind, &points, &marks, &spans);
    }

    #[test]
    fn late_points_take_their_place_among_the_newest(
        steps in prop::collection::vec((any::<u16>(), 0_i64..40, prop::option::weighted(0.3, 1_i64..400)), 1..600),
        window in prop::sample::select(vec![0_usize, 40, 200, 900]),
        take_at in any::<prop::sample::Index>(),
    ) {
        weave(&steps, window, take_at.index(steps.len()));
    }

    #[test]
    fn no_state_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Tree::decode_state(&bytes);
    }

    #[test]
    fn a_damaged_state_is_refused_or_consistent(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (_, tree, _) = gauge(5000, &TINY);
        let mut bytes = Vec::new();
        tree.snapshot().encode_state(&mut Encoder::default(), &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok((tree, _)) = Tree::decode_state(&bytes) {
            let _ = tree.snapshot();
            let _ = tree.heap_bytes();
        }
        prop_assert!(Tree::decode_state(&bytes[..at]).is_err(), "a cut state was taken");
    }
}

/// Late points of a run, by time.
#[derive(Default)]
struct Late(BTreeMap<i64, u64>);

impl LatePoints for Late {
    fn take(&mut self, after: Option<i64>, before: i64) -> Column {
        let mut taken = Column::new(ValueKind::F64);
        self.0.retain(|time, bits| {
            let stays = after.is_some_and(|after| *time <= after) || *time >= before;
            if !stays {
                taken.push_bits(*time, *bits);
            }
            stays
        });
        taken
    }
}

/// Pushes a point a step, some beside late ones: what the run and the late points hold must always be what was written.
/// Returns how many are left.
fn weave(steps: &[(u16, i64, Option<i64>)], window: usize, take_at: usize) -> usize {
    let mut bench = Bench::new();
    let mut tree = Tree::new(series(ValueKind::F64), 0, Lsn(1));
    let (mut late, mut model) = (Late::default(), BTreeMap::new());
    let mut now = 0;
    for (i, (value, step, behind)) in steps.iter().enumerate() {
        let bits = f64::from(*value).to_bits();
        now += step + 1;
        let mut out = PageWriter::new(
            &mut bench.appender,
            &mut bench.encoder,
            DatabaseId(1),
            Lsn(1),
        );
        out.knobs = bench.knobs;
        out.window_bytes = window;
        let before = tree.heap_bytes();
        tree.writer()
            .push_bits_beside(&mut out, &mut late, now, bits);
        model.insert(now, bits);
        if let Some(behind) = behind {
            let bits = (f64::from(*value) + 1.0).to_bits();
            late.0.insert(now - behind, bits);
            model.insert(now - behind, bits);
        }
        if i == take_at {
            tree.writer().take_late(&mut out, &mut late);
        }
        assert_eq!(before as i64 + out.heap, tree.heap_bytes() as i64);
    }
    for tree in [&tree, &reopen(&tree)] {
        let snapshot = tree.snapshot();
        let found = scan(&snapshot, &bench.store, TimeRange::ALL, Direction::Forward);
        let times = found.times.iter().copied();
        let mut found: BTreeMap<i64, u64> = times.zip(found.bits().iter().copied()).collect();
        assert_eq!(snapshot.points(), found.len() as u64);
        assert_eq!(snapshot.first_time(), found.keys().next().copied());
        let points: Points = found
            .iter()
            .map(|(t, b)| (*t, Value::F64(f64::from_bits(*b))))
            .collect();
        let mut stats = ReadStats::default();
        let all = snapshot
            .aggregate(&bench.store, TimeRange::ALL, &mut stats)
            .unwrap();
        assert_same(&all, &folded(ValueKind::F64, &points));
        found.extend(&late.0);
        assert_eq!(found, model);
    }
    late.0.len()
}

#[test]
fn a_window_takes_all_that_are_not_later_than_it() {
    let steps: Vec<_> = (0..2000_u16)
        .map(|i| (i, 9, (i % 10 == 3).then_some(i64::from(i % 13) * 10 + 1)))
        .collect();
    let (wide, none) = (weave(&steps, 900, usize::MAX), weave(&steps, 0, usize::MAX));
    assert!(
        wide < 60 && none > wide,
        "of 200: {wide} left with a window, {none} without"
    );
}

/// A gauge every 10 s with two decimals.
fn gauge(count: i64, knobs: &'static Knobs) -> (Bench, Tree, Points) {
    let mut bench = Bench::with_knobs(knobs);
    let mut tree = Tree::new(series(ValueKind::F64), 0, Lsn(1));
    let mut points = Vec::new();
    let mut state = 1_u64;
    let mut level = 5000_i64;
    for i in 0..count {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        level += (state >> 60) as i64 - 7;
        let jitter = ((state >> 40) % 20) as i64 * 1_000_000;
        let time = i * 10_000_000_000 + jitter;
        let value = Value::F64(level as f64 / 100.0);
        bench.push(&mut tree, time, value.as_ref());
        points.push((time, value));
    }
    (bench, tree, points)
}

#[test]
fn small_pages_make_tall_trees() {
    let (bench, tree, points) = gauge(20_000, &TINY);
    let snapshot = tree.snapshot();
    assert!(
        snapshot.roots().len() >= 5,
        "{} levels",
        snapshot.roots().len()
    );
    check(
        &snapshot,
        &bench.store,
        &points,
        &[(777, 13_000_000_000_000), (0, 1)],
    );
}

#[test]
fn aggregates_open_few_pages() {
    let count = if cfg!(debug_assertions) {
        300_000
    } else {
        2_000_000
    };
    let (bench, tree, points) = gauge(count, &KNOBS);
    let snapshot = tree.snapshot();
    let levels = snapshot.roots().len() as u64;
    assert!(levels >= 2);
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..1000 {
        let (a, b) = (random(points.len()), random(points.len()));
        let (a, b) = (a.min(b), a.max(b));
        let range = TimeRange::inclusive(points[a].0 - 1, points[b].0);
        let mut stats = ReadStats::default();
        let got = snapshot.aggregate(&bench.store, range, &mut stats).unwrap();
        assert_eq!(got.count, (b - a + 1) as u64);
        assert_eq!(got.first.bits, points[a].1.as_ref().bits().unwrap());
        assert_eq!(got.last.bits, points[b].1.as_ref().bits().unwrap());
        assert!(stats.leaf_pages <= 2, "{stats:?}");
        assert!(
            stats.inner_pages <= 2 * (levels - 1),
            "{stats:?} of {levels} levels"
        );
        assert!(stats.points_decoded <= 16 * 1024, "{stats:?}");
    }
}

#[test]
fn pages_come_back_from_the_device_in_batches() {
    let config = alluvium_block::BlockConfig {
        cache_bytes: 0,
        ..alluvium_block::BlockConfig::default()
    };
    let budget = Arc::new(alluvium_types::Budget::new(u64::MAX));
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(1));
    let store = BlockStore::create(Arc::clone(&device), config, [1; 16], 1, budget);
    let appender = store.appender(Lane(0));
    let mut bench = Bench {
        store,
        appender,
        encoder: Encoder::default(),
        knobs: &TINY,
    };
    let mut tree = Tree::new(series(ValueKind::I64), 0, Lsn(1));
    let points: Points = (0..30_000)
        .map(|i| (i * 10, Value::I64(i * i % 1009)))
        .collect();
    for (time, value) in &points {
        bench.push(&mut tree, *time, value.as_ref());
    }
    bench.appender.flush();
    while bench.appender.drive() {
        device.drive(Lane(0));
    }
    assert_eq!(bench.appender.queued_pages(), 0);
    let before = bench.store.metrics().pages_read.load(Ordering::Relaxed);
    check(
        &tree.snapshot(),
        &bench.store,
        &points,
        &[(100_003, 250_001)],
    );
    let read = bench.store.metrics().pages_read.load(Ordering::Relaxed) - before;
    assert!(read > 1000, "only {read} pages came from the device");
}

#[test]
fn every_point_after_a_long_silence_is_kept_with_its_kind() {
    // Extremes of time and value in one tree.
    let points: Points = vec![
        (i64::MIN, Value::I64(i64::MAX)),
        (-1, Value::I64(i64::MIN)),
        (0, Value::I64(0)),
        (i64::MAX - 1, Value::I64(i64::MIN)),
    ];
    let mut bench = Bench::with_knobs(&KNOBS);
    let mut tree = Tree::new(series(ValueKind::I64), 0, Lsn(1));
    for (time, value) in &points {
        bench.push(&mut tree, *time, value.as_ref());
    }
    check(
        &tree.snapshot(),
        &bench.store,
        &points,
        &[(i64::MIN, 0), (-1, i64::MAX)],
    );
}

#[test]
#[should_panic(expected = "not after the newest")]
fn time_must_increase() {
    let mut bench = Bench::new();
    let mut tree = Tree::new(series(ValueKind::Bool), 0, Lsn(1));
    bench.push(&mut tree, 5, ValueRef::Bool(true));
    bench.push(&mut tree, 5, ValueRef::Bool(true));
}

#[test]
fn a_repeat_of_a_string_is_known() {
    let mut bench = Bench::new();
    let mut tree = Tree::new(series(ValueKind::Str), 0, Lsn(1));
    for n in 0..7 {
        bench.push(&mut tree, n, ValueRef::Str("abc"));
        assert!(tree.writer().last_is(n, ValueRef::Str("abc")), "point {n}");
        assert!(!tree.writer().last_is(n, ValueRef::Str("abd")));
    }
    assert_eq!(
        tree.snapshot().tail.points,
        0,
        "the last one was asked of a block"
    );
}

pub(crate) fn set_level(snapshot: &mut TreeSnapshot, level: usize, entries: Vec<SubtreeRef>) {
    let mut sealed = Sealed::clone(snapshot.sealed.as_ref().unwrap());
    sealed.levels[level] = Arc::new(entries);
    snapshot.sealed = Some(Arc::new(sealed));
}

#[test]
fn a_lost_page_is_told_and_what_surrounds_it_is_read() {
    let (bench, tree, points) = gauge(2000, &TINY);
    let mut snapshot = tree.snapshot();
    // The oldest inner page of the highest level that has two.
    let level = snapshot
        .levels()
        .iter()
        .rposition(|l| l.len() >= 2)
        .unwrap();
    let mut entries = snapshot.levels()[level].to_vec();
    let lost = entries[1];
    entries[1].page.crc ^= 1;
    set_level(&mut snapshot, level, entries.clone());
    let mut stats = ReadStats::default();
    let outside = |p: &&(i64, Value)| p.0 < lost.first_time() || p.0 > lost.last_time();
    let want: Vec<i64> = points.iter().filter(outside).map(|p| p.0).collect();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut cursor = snapshot.scan(TimeRange::ALL, direction);
        let (mut got, mut errors) = (Vec::new(), 0);
        let mut batch = Column::new(ValueKind::F64);
        loop {
            match cursor.next_batch(&bench.store, &mut stats, &mut batch) {
                Ok(true) => got.extend_from_slice(&batch.times),
                Ok(false) => break,
                Err(TreeError::BadPage {
                    addr,
                    points,
                    first_time,
                    last_time,
                    ..
                }) => {
                    assert_eq!(addr, lost.page.addr);
                    assert_eq!(points, lost.aggregate.count);
                    assert_eq!(
                        (first_time, last_time),
                        (lost.first_time(), lost.last_time())
                    );
                    errors += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        got.sort_unstable();
        assert_eq!((errors, &got), (1, &want));
    }
    assert_eq!(stats.bad_pages, 2);
    let begin = lost.first_time() + 1;
    let cut = TimeRange::new(begin, i64::MAX).unwrap();
    let answer = snapshot.aggregate(&bench.store, cut, &mut stats);
    assert!(
        matches!(answer, Err(TreeError::BadPage { .. })),
        "{answer:?}"
    );
    // A volume that is gone is absence, and whole subtrees still count.
    entries[1].page.addr.volume = 4_000_000;
    set_level(&mut snapshot, level, entries);
    let mut stats = ReadStats::default();
    let part = snapshot.aggregate(&bench.store, cut, &mut stats).unwrap();
    let after = points.iter().filter(|p| p.0 > lost.last_time()).count();
    assert_eq!((part.count, stats.expired_pages), (after as u64, 1));
    let all = snapshot
        .aggregate(&bench.store, TimeRange::ALL, &mut stats)
        .unwrap();
    assert_eq!(all.count, points.len() as u64);
    assert_eq!(
        scan(&snapshot, &bench.store, TimeRange::ALL, Direction::Forward).times,
        want
    );
}

#[test]
fn long_strings_come_back_whole_and_in_bounded_batches() {
    let mut bench = Bench::with_knobs(&KNOBS);
    let mut tree = Tree::new(series(ValueKind::Str), 0, Lsn(1));
    let texts: Vec<String> = (0..60_usize)
        .map(|n| {
            char::from(b'a' + (n % 26) as u8)
                .to_string()
                .repeat(n * 1100 + 1000)
        })
        .collect();
    let mut points = Points::new();
    for (n, text) in texts.iter().enumerate() {
        let text = text[..text.len().min(65_536)].to_owned();
        bench.push(&mut tree, n as i64, ValueRef::Str(&text));
        points.push((n as i64, Value::Str(text.into())));
    }
    check(&tree.snapshot(), &bench.store, &points, &[(7, 33)]);
    let mut cursor = tree.snapshot().scan(TimeRange::ALL, Direction::Forward);
    let mut batch = Column::new(ValueKind::Str);
    let mut stats = ReadStats::default();
    assert!(
        cursor
            .next_batch(&bench.store, &mut stats, &mut batch)
            .unwrap()
    );
    assert!(
        batch.len() < 60,
        "more than a MiB of text came in one batch"
    );
    assert!(stats.overflow_pages > 0);
}

#[test]
fn pages_are_filled() {
    let (bench, tree, _) = gauge(200_000, &KNOBS);
    let snapshot = tree.snapshot();
    let (mut leaves, mut free, mut blocks, mut points) = (0_usize, 0, 0, 0);
    let mut visit = |entries: &[crate::SubtreeRef]| {
        for entry in entries {
            let expect = alluvium_block::Expect {
                kind: alluvium_block::PageKind::Leaf,
                series: snapshot.series().packed(),
            };
            let page = bench.store.read(entry.page, expect).unwrap();
            leaves += 1;
            free += KNOBS.leaf_bytes - page.body().len();
            blocks += usize::from(page.meta().items);
            points += entry.aggregate.count as usize;
        }
    };
    for (level, entries) in snapshot.levels().iter().enumerate() {
        if level == 0 {
            visit(entries);
        } else if level == 1 {
            for entry in entries.iter() {
                let expect = alluvium_block::Expect {
                    kind: alluvium_block::PageKind::Inner,
                    series: snapshot.series().packed(),
                };
                let page = bench.store.read(entry.page, expect).unwrap();
                let inner = crate::describe_inner(page.body(), page.meta().items);
                visit(&inner.unwrap().entries);
            }
        }
    }
    let wasted = free as f64 / (leaves * KNOBS.leaf_bytes) as f64;
    println!(
        "{leaves} leaves, {:.1} blocks and {:.0} points each, {:.2} % wasted",
        blocks as f64 / leaves as f64,
        points as f64 / leaves as f64,
        wasted * 100.0
    );
    assert!(
        leaves > 20 && wasted < 0.03,
        "{wasted} of {leaves} leaves wasted"
    );
    assert!(points / blocks > 600, "{} points a block", points / blocks);
}

#[test]
fn an_empty_or_small_tree_is_small() {
    let mut bench = Bench::with_knobs(&KNOBS);
    let mut tree = Tree::new(series(ValueKind::F64), 0, Lsn(1));
    assert!(size_of::<Tree>() <= 80, "{} bytes", size_of::<Tree>());
    assert_eq!(tree.heap_bytes(), 0);
    for n in 0..3 {
        bench.push(&mut tree, n * 10_000, ValueRef::F64(1.5));
    }
    assert!(tree.heap_bytes() <= 64, "{} bytes", tree.heap_bytes());
}
