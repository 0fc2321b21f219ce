//! Runs written anew so that volumes can go, and the walk that finds their pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium_block::{BlockConfig, BlockStore, LogicAddr};
use alluvium_io::{Lane, MemoryDevice};
use alluvium_types::{Budget, DatabaseId, Value, ValueKind};

use super::*;
use crate::model_tests::{Bench, Points, TINY, check, series};
use crate::page_walk::{PageWalk, WalkScope};

fn bench() -> Bench {
    let config = BlockConfig {
        // Sixteen pages.
        volume_bytes: 64 << 10,
        extent_pages: 4,
        batch_pages: 4,
        cache_bytes: 0,
    };
    let budget = Arc::new(Budget::new(u64::MAX));
    let device = Arc::new(MemoryDevice::new(1));
    let store = BlockStore::create(device, config, [7; 16], 1, budget);
    Bench {
        appender: store.appender(Lane(0)),
        store,
        ..Bench::new()
    }
}

fn pages_of(
    store: &BlockStore,
    snapshot: TreeSnapshot,
    newest_volume: u32,
) -> BTreeSet<(u32, u32)> {
    let texts = true;
    let scope = WalkScope {
        newest_volume,
        texts,
    };
    let mut walk = PageWalk::new(snapshot, scope);
    let mut all = BTreeSet::new();
    let mut seen = |addr: LogicAddr| {
        assert!(all.insert((addr.volume, addr.page)), "{addr} shown twice");
    };
    let stats = &mut ReadStats::default();
    while walk.step(store, stats, 3, &mut seen).unwrap() {}
    all
}

fn points(kind: ValueKind, count: i64) -> Points {
    let value = |n: i64| match kind {
        // Every ninth is kept in pages of its own, some in several.
        ValueKind::Str if n % 9 == 0 => {
            Value::Str(format!("{n}-").repeat(600 + (n % 5) as usize * 900).into())
        }
        ValueKind::Str => Value::Str(format!("state {}", n % 7).into()),
        _ => Value::F64((n as f64 * 0.7).sin()),
    };
    (0..count).map(|n| (n * 3, value(n))).collect()
}

#[test]
fn every_page_is_found_and_none_stays_in_a_volume_to_be_left() {
    for (kind, count) in [(ValueKind::F64, 12_000), (ValueKind::Str, 400)] {
        let mut bench = bench();
        let points = points(kind, count);
        let mut tree = Tree::new(series(kind), 0, Lsn(1));
        for (time, value) in &points {
            bench.push(&mut tree, *time, value.as_ref());
        }
        let store = Arc::clone(&bench.store);
        let before = pages_of(&store, tree.snapshot(), u32::MAX);
        let database = DatabaseId(1);
        assert_eq!(before.len() as u64, store.allocated_pages(database));
        let newest = before.iter().map(|(volume, _)| *volume).max().unwrap();
        assert!(newest > 8, "too few volumes: {newest}");
        let some = pages_of(&store, tree.snapshot(), 3);
        let old = |(volume, _): &&(u32, u32)| *volume <= 3;
        assert!(before.iter().filter(old).all(|page| some.contains(page)));
        assert!(some.len() < before.len());

        for leave in [vec![2], vec![1, 4, newest], (1..=newest).collect()] {
            store.close_volumes(&leave);
            bench.appender.leave_closed();
            let source = MergeSource {
                snapshot: tree.snapshot(),
                hidden: Vec::new(),
                leave: leave.clone().into(),
            };
            let mut merge = Merge::new(vec![source]);
            let mut out =
                PageWriter::new(&mut bench.appender, &mut bench.encoder, database, Lsn(9));
            out.knobs = &TINY;
            while merge.step(&store, &mut out, 2).unwrap() == MergeProgress::More {}
            tree = merge.finish(&mut out, &tree.snapshot()).unwrap();
            let after = pages_of(&store, tree.snapshot(), u32::MAX);
            let left = |(volume, _): &&(u32, u32)| leave.contains(volume);
            assert_eq!(after.iter().filter(left).count(), 0, "{kind:?} {leave:?}");
            let elsewhere = before.iter().filter(|page| !left(page)).count();
            let adopted = after.intersection(&before).count();
            assert!(
                adopted * 2 >= elsewhere,
                "{adopted} of {elsewhere} pages stayed where they are"
            );
            // Nothing of it is needed any more.
            store.retire_volumes(&leave);
            check(&tree.snapshot(), &store, &points, &[(100, 900)]);
        }
    }
}
