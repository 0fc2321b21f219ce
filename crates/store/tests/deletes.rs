//! Deletes against a naive store: by tags, field, time and value, mixed with late points, rewrites, checkpoints and
//! restarts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{Store, StoreConfig, SystemClock};
use model::{Dice, Model, Removal, batch, check_lists, check_reads, read_all, same, write};

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
