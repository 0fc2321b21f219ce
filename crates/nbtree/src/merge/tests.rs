//! Merged runs against a map that later runs overwrite.

use std::collections::BTreeMap;

use alluvium_block::{Expect, PageKind};
use alluvium_types::{DatabaseId, TimeRange, Value, ValueKind};
use proptest::prelude::*;

use super::*;
use crate::knobs::{KNOBS, Knobs};
use crate::model_tests::{Bench, Points, TINY, check, reopen, series, set_level, value_strategy};

type Map = BTreeMap<i64, Value>;

fn writer(bench: &mut Bench) -> PageWriter<'_> {
    let knobs = bench.knobs;
    let mut out = PageWriter::new(
        &mut bench.appender,
        &mut bench.encoder,
        DatabaseId(1),
        Lsn(9),
    );
    out.knobs = knobs;
    out
}

fn grow(
    bench: &mut Bench,
    kind: ValueKind,
    ordinal: u32,
    points: &Points,
    knobs: &'static Knobs,
) -> Tree {
    let birth = Lsn(u64::from(ordinal) + 10);
    let mut tree = Tree::new(series(kind), ordinal, birth);
    bench.knobs = knobs;
    for (time, value) in points {
        bench.push(&mut tree, *time, value.as_ref());
    }
    tree
}

fn source(tree: &Tree) -> MergeSource {
    MergeSource {
        snapshot: tree.snapshot(),
        hidden: Vec::new(),
        leave: [].into(),
    }
}

/// Merges to the end; what the growing run gets between the steps comes from `more`.
fn merge(
    bench: &mut Bench,
    runs: &mut [Tree],
    knobs: &'static Knobs,
    more: &mut dyn Iterator<Item = (i64, Value)>,
) -> (Tree, MergeStats) {
    bench.knobs = knobs;
    let mut merge = Merge::new(runs.iter().map(source).collect());
    let growing = merge.growing();
    let growing = runs
        .iter()
        .position(|r| r.run_ordinal() == growing)
        .unwrap();
    let mut is_open = false;
    loop {
        for (time, value) in more.take(5) {
            bench.push(&mut runs[growing], time, value.as_ref());
        }
        let store = std::sync::Arc::clone(&bench.store);
        let progress = merge.step(&store, &mut writer(bench), 3).unwrap();
        if progress == MergeProgress::More {
            continue;
        }
        if merge.has_outgrown(&runs[growing].snapshot()) {
            merge.follow(source(&runs[growing]));
        } else if is_open {
            break;
        } else {
            merge.open_result(&mut writer(bench));
            is_open = true;
        }
    }
    for (time, value) in more.take(3) {
        bench.push(&mut runs[growing], time, value.as_ref());
    }
    if merge.has_outgrown(&runs[growing].snapshot()) {
        let store = std::sync::Arc::clone(&bench.store);
        merge.follow(source(&runs[growing]));
        while merge.step(&store, &mut writer(bench), 3).unwrap() == MergeProgress::More {}
    }
    let stats = merge.stats();
    let tree = merge
        .finish(&mut writer(bench), &runs[growing].snapshot())
        .unwrap();
    (tree, stats)
}

/// Points in stretches: some close together, with gaps that other runs fall into.
fn run_strategy(kind: ValueKind) -> impl Strategy<Value = Points> {
    let stretch = (0_i64..4000, 1_i64..12, 1_usize..250);
    let values = prop::collection::vec(value_strategy(kind), 300);
    (prop::collection::vec(stretch, 0..6), values).prop_map(|(stretches, values)| {
        let mut out = Map::new();
        for (begin, step, count) in stretches {
            for n in 0..count {
                let value = values[(begin as usize + n) % values.len()].clone();
                out.insert(begin + step * n as i64, value);
            }
        }
        out.into_iter().collect()
    })
}

fn overlay(runs: &[Points]) -> Map {
    runs.iter().flatten().cloned().collect()
}

fn cuts(spans: &[(u16, u16)]) -> Vec<(i64, i64)> {
    let at = |share: u16| i64::from(share) / 9 - 100;
    spans.iter().map(|(a, b)| (at(*a), at(*b))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_run_is_the_overlay_of_its_sources(
        (kind, runs, again) in prop::sample::select(ValueKind::ALL.to_vec()).prop_flat_map(|kind| (
            Just(kind),
            prop::collection::vec(run_strategy(kind), 1..6),
            run_strategy(kind),
        )),
        growth in prop::collection::vec(any::<u16>(), 0..200),
        spans in prop::collection::vec(any::<(u16, u16)>(), 1..4),
    ) {
        let mut bench = Bench::new();
        let mut trees: Vec<Tree> = runs
            .iter()
            .zip(2..)
            .map(|(points, ordinal)| grow(&mut bench, kind, ordinal, points, &TINY))
            .collect();
        let mut model = overlay(&runs);
        let last = model.keys().next_back().copied().unwrap_or(0);
        let value = runs.iter().flatten().next().map(|p| p.1.clone());
        let more: Points = value.map_or(Vec::new(), |value| {
            let times = growth.iter().scan(last, |t, step| {
                *t += 1 + i64::from(*step) % 50;
                Some(*t)
            });
            times.map(|t| (t, value.clone())).collect()
        });
        let mut growth = more.iter().cloned();
        let (tree, _) = merge(&mut bench, &mut trees, &TINY, &mut growth);
        let taken = more.len() - growth.len();
        model.extend(more[..taken].iter().cloned());
        prop_assert_eq!(tree.run_ordinal(), 2);
        prop_assert_eq!(tree.birth(), Lsn(11 + trees.len() as u64));
        let cuts = cuts(&spans);
        let points: Points = model.clone().into_iter().collect();
        check(&tree.snapshot(), &bench.store, &points, &cuts);
        // It goes on as any tree does: saved, appended to, merged with a later run.
        let mut tree = reopen(&tree);
        for (time, value) in growth {
            bench.push(&mut tree, time, value.as_ref());
            model.insert(time, value);
        }
        let late = grow(&mut bench, kind, 30, &again, &TINY);
        model.extend(again.iter().cloned());
        let (tree, _) = merge(&mut bench, &mut [tree, late], &TINY, &mut std::iter::empty());
        let points: Points = model.into_iter().collect();
        check(&tree.snapshot(), &bench.store, &points, &cuts);
        check(&reopen(&tree).snapshot(), &bench.store, &points, &cuts);
    }

    #[test]
    fn hidden_points_are_left_behind(
        runs in prop::collection::vec(run_strategy(ValueKind::I64), 1..4),
        hidden in prop::collection::vec((0_i64..5000, 1_i64..900), 0..4),
    ) {
        let mut bench = Bench::new();
        let mut ranges: Vec<TimeRange> = Vec::new();
        for (begin, len) in hidden {
            let begin = ranges.last().map_or(begin, |r| r.end() + begin / 4);
            ranges.push(TimeRange::new(begin, begin + len).unwrap());
        }
        let mut model = Map::new();
        let mut sources = Vec::new();
        for (ordinal, points) in runs.iter().enumerate() {
            let tree = grow(&mut bench, ValueKind::I64, ordinal as u32, points, &TINY);
            // Tombstones reach the older runs only.
            let hidden = if ordinal + 1 < runs.len() { ranges.clone() } else { Vec::new() };
            let seen = points.iter().filter(|p| !hidden.iter().any(|h| h.contains(p.0)));
            model.extend(seen.cloned());
            sources.push((tree, hidden));
        }
        let with_hidden = |(tree, hidden): &(Tree, Vec<TimeRange>)| MergeSource {
            snapshot: tree.snapshot(),
            hidden: hidden.clone(),
            leave: [].into(),
        };
        let mut merge = Merge::new(sources.iter().map(with_hidden).collect());
        let store = std::sync::Arc::clone(&bench.store);
        while merge.step(&store, &mut writer(&mut bench), 5).unwrap() == MergeProgress::More {}
        let growing = merge.growing() as usize;
        let tree = merge.finish(&mut writer(&mut bench), &sources[growing].0.snapshot()).unwrap();
        let points: Points = model.into_iter().collect();
        check(&tree.snapshot(), &bench.store, &points, &[(100, 2000)]);
    }
}

/// Numbers that hardly compress: some 600 points a leaf.
fn noise(times: impl Iterator<Item = i64>) -> Points {
    let mut state = 1_u64;
    times
        .map(|time| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (time, Value::F64((state >> 12) as f64 / 1e9))
        })
        .collect()
}

fn gauge(times: impl Iterator<Item = i64>) -> Points {
    let mut state = 1_u64;
    let mut level = 5000_i64;
    times
        .map(|time| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            level += (state >> 60) as i64 - 7;
            (time, Value::F64(level as f64 / 100.0))
        })
        .collect()
}

/// A page of a tree.
struct Seen {
    level: usize,
    items: usize,
    bytes: usize,
}

/// Every page below the unfinished entries of a tree, leaves last.
fn pages_of(bench: &Bench, tree: &Tree) -> Vec<Seen> {
    let snapshot = tree.snapshot();
    let series = snapshot.series().packed();
    let (mut out, mut entries) = (Vec::new(), Vec::new());
    for level in (0..snapshot.levels().len()).rev() {
        let mut below = Vec::new();
        entries.extend(snapshot.levels()[level].iter().copied());
        for entry in std::mem::take(&mut entries) {
            let kind = if level == 0 {
                PageKind::Leaf
            } else {
                PageKind::Inner
            };
            let page = bench
                .store
                .read(entry.page, Expect { kind, series })
                .unwrap();
            let (items, bytes) = (page.meta().items.into(), page.body().len());
            out.push(Seen {
                level,
                items,
                bytes,
            });
            if level > 0 {
                let inner = crate::describe_inner(page.body(), page.meta().items).unwrap();
                assert_eq!(
                    inner.entries.iter().map(|e| e.leaves).sum::<u32>(),
                    entry.leaves
                );
                below.extend(inner.entries);
            }
        }
        entries = below;
    }
    out
}

/// Pages of which less than half is used.
fn small_pages(bench: &Bench, tree: &Tree, knobs: &Knobs) -> usize {
    let small = |page: &&Seen| {
        if page.level == 0 {
            page.bytes * 2 < knobs.leaf_bytes
        } else {
            page.items * 2 < knobs.fan_out_max && page.bytes * 2 < knobs.inner_bytes
        }
    };
    pages_of(bench, tree).iter().filter(small).count()
}

/// Leaves of a few blocks, inner pages of eight entries.
static SMALL: Knobs = Knobs {
    tail_points: 7,
    tail_bytes: 64,
    block_points: 20,
    leaf_bytes: 300,
    inner_bytes: 4000,
    fan_out_max: 8,
};

/// Single late points all over, merged again and again, leave no trail of half-empty pages.
#[test]
fn pages_stay_half_full() {
    let mut bench = Bench::new();
    let kind = ValueKind::F64;
    let main = noise((0..40_000).map(|i| i * 10));
    let mut tree = grow(&mut bench, kind, 0, &main, &SMALL);
    let mut model: Map = main.into_iter().collect();
    let mut dice = 3_u64;
    for round in 0..30 {
        let mut late = Vec::new();
        for _ in 0..=round % 20 {
            dice = dice
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            late.push(((dice >> 33) % 400_000) as i64 - 1000);
        }
        late.sort_unstable();
        late.dedup();
        let late = noise(late.into_iter());
        model.extend(late.iter().cloned());
        let run = grow(&mut bench, kind, 1, &late, &SMALL);
        let mut runs = [tree, run];
        tree = merge(&mut bench, &mut runs, &SMALL, &mut std::iter::empty()).0;
    }
    let (pages, small) = (
        pages_of(&bench, &tree).len(),
        small_pages(&bench, &tree, &SMALL),
    );
    let tall = tree.snapshot().levels().len();
    println!("{tall} levels, {pages} pages, {small} small");
    assert!(
        tall >= 4 && small * 200 <= pages,
        "{small} of {pages} pages"
    );
    let points: Points = model.into_iter().collect();
    check(&tree.snapshot(), &bench.store, &points, &[(7777, 200_000)]);
}

const S: i64 = 1_000_000_000;

/// A late stretch of one percent costs the leaves it falls into and the inner pages above them.
#[test]
fn a_late_run_costs_the_leaves_it_falls_into() {
    let mut bench = Bench::new();
    let count = 1_000_000_i64;
    let main = noise((0..count).map(|i| i * 10 * S));
    let late = noise((0..count / 100).map(|i| (300_000 + i) * 10 * S + 1));
    let kind = ValueKind::F64;
    let mut runs = [
        grow(&mut bench, kind, 0, &main, &KNOBS),
        grow(&mut bench, kind, 1, &late, &KNOBS),
    ];
    let leaves = runs[0].snapshot().leaves();
    let (tree, stats) = merge(&mut bench, &mut runs, &KNOBS, &mut std::iter::empty());
    println!("{leaves} leaves; {stats:?}");
    assert_eq!(tree.snapshot().points(), 1_010_000);
    assert!(stats.adopted_leaves * 100 > leaves * 97);
    let touched = 1_010_000 / 100 * 2 / (main.len() as u64 / leaves);
    assert!(stats.pages_written < touched + 16, "{stats:?}");
    let small = small_pages(&bench, &tree, &KNOBS);
    assert!(small <= 3, "{small} small pages");
    let mut map: Map = main.into_iter().collect();
    map.extend(late);
    let points: Points = map.into_iter().collect();
    check(
        &tree.snapshot(),
        &bench.store,
        &points,
        &[(2_000_000 * S, 5_000_000 * S)],
    );
}

/// Days in random order: patience makes runs of days that lie between each other's.
#[test]
fn days_side_by_side_are_adopted() {
    let mut bench = Bench::with_knobs(&KNOBS);
    let kind = ValueKind::F64;
    let (days, points) = (60_i64, 8640_i64);
    let day = |d: i64| noise((0..points).map(move |i| (d * points + i) * 10 * S));
    let mut runs: Vec<Tree> = Vec::new();
    let mut dice = 7_u64;
    let mut left: Vec<i64> = (0..days).collect();
    while !left.is_empty() {
        dice = dice
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let d = left.swap_remove((dice >> 33) as usize % left.len());
        let begin = d * points * 10 * S;
        // The rule of the store: an own last and all higher ones before it.
        let accepting = (0..runs.len())
            .rev()
            .take_while(|r| runs[*r].last_time().is_some_and(|l| l < begin))
            .max_by_key(|r| runs[*r].last_time());
        let run = accepting.unwrap_or_else(|| {
            runs.push(Tree::new(series(kind), runs.len() as u32, Lsn(1)));
            runs.len() - 1
        });
        for (time, value) in day(d) {
            bench.push(&mut runs[run], time, value.as_ref());
        }
    }
    let sealed: u64 = runs.iter().map(|r| r.snapshot().leaves()).sum();
    assert!(runs.len() > 4, "{} runs", runs.len());
    let (tree, stats) = merge(&mut bench, &mut runs, &KNOBS, &mut std::iter::empty());
    println!("{} runs, {sealed} leaves; {stats:?}", runs.len());
    assert_eq!(tree.snapshot().points(), (days * points) as u64);
    // A leaf or two at each border of a day, and the inner pages.
    assert!(stats.pages_written < 4 * days as u64, "{stats:?}");
    let small = small_pages(&bench, &tree, &KNOBS);
    assert!(small <= 3, "{small} small pages");
    let all: Points = (0..days).flat_map(day).collect();
    check(
        &tree.snapshot(),
        &bench.store,
        &all,
        &[(5000 * S, 3_000_000 * S)],
    );
}

/// Points late by up to three hours: what is written is about what was there.
#[test]
fn leaves_of_merged_points_are_full() {
    let mut bench = Bench::new();
    let kind = ValueKind::F64;
    let all = gauge((0..300_000).map(|i| i * 10 * S));
    let late = |i: usize| i * 7919 % 10 == 3;
    let pick = |wanted: bool| {
        let points = all.iter().enumerate().filter(|(i, _)| late(*i) == wanted);
        points.map(|(_, p)| p.clone()).collect::<Points>()
    };
    let mut runs = [
        grow(&mut bench, kind, 0, &pick(false), &KNOBS),
        grow(&mut bench, kind, 1, &pick(true), &KNOBS),
    ];
    let in_order = grow(&mut bench, kind, 0, &all, &KNOBS).snapshot().leaves();
    let (tree, stats) = merge(&mut bench, &mut runs, &KNOBS, &mut std::iter::empty());
    let leaves = tree.snapshot().leaves();
    println!("{in_order} leaves in order, {leaves} merged; {stats:?}");
    assert!(
        leaves * 100 <= in_order * 103,
        "{leaves} leaves for {in_order}"
    );
    check(
        &tree.snapshot(),
        &bench.store,
        &all,
        &[(777 * S, 2_000_000 * S)],
    );
}

#[test]
fn a_lost_page_ends_the_merge_and_an_expired_one_does_not() {
    let mut bench = Bench::new();
    let kind = ValueKind::I64;
    let points =
        |begin: i64| -> Points { (0..2000).map(|i| (begin + i * 2, Value::I64(i))).collect() };
    let runs = [
        grow(&mut bench, kind, 0, &points(0), &TINY),
        grow(&mut bench, kind, 1, &points(1), &TINY),
    ];
    let store = std::sync::Arc::clone(&bench.store);
    let mut broken = source(&runs[0]);
    let level = broken
        .snapshot
        .levels()
        .iter()
        .rposition(|l| !l.is_empty())
        .unwrap();
    let mut entries = broken.snapshot.levels()[level].to_vec();
    entries[0].page.crc ^= 1;
    let lost = entries[0].aggregate.count;
    set_level(&mut broken.snapshot, level, entries.clone());
    let mut merge = Merge::new(vec![broken.clone(), source(&runs[1])]);
    let failed = loop {
        match merge.step(&store, &mut writer(&mut bench), 3) {
            Ok(MergeProgress::More) => {}
            Ok(MergeProgress::Drained) => panic!("a lost page went unnoticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, TreeError::BadPage { .. }), "{failed}");
    entries[0].page.addr.volume = 4_000_000;
    set_level(&mut broken.snapshot, level, entries);
    let mut merge = Merge::new(vec![broken, source(&runs[1])]);
    while merge.step(&store, &mut writer(&mut bench), 3).unwrap() == MergeProgress::More {}
    let growing = merge.growing() as usize;
    let tree = merge
        .finish(&mut writer(&mut bench), &runs[growing].snapshot())
        .unwrap();
    assert_eq!(tree.snapshot().points(), 4000 - lost);
}
