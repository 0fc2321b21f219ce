//! A store in memory against a naive one: any order, rewrites, siblings, checkpoints, clean restarts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use alluvium_io::MemoryDevice;
use alluvium_store::{Store, StoreConfig, SystemClock};
use model::{Dice, Model, batch, check_reads, read_all, same, write};

fn config(shards: usize) -> StoreConfig {
    StoreConfig {
        shards,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        late_points_max: 50,
        tail_chain_max: 3,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: &Arc<MemoryDevice>, shards: usize) -> Store {
    let device: Arc<dyn alluvium_store::Device> = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config(shards)).unwrap()
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let device = Arc::new(MemoryDevice::new(5));
    let mut store = open(&device, 2);
    let (mut database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    let mut model = Model::default();
    let mut now = 1_000_000;
    for round in 0..40 {
        let lines = 1 + dice.below(400);
        let lines = batch(&mut dice, &mut now, 5, lines);
        write(&database, &lines, None).unwrap().wait().unwrap();
        model.apply(&lines);
        match dice.below(6) {
            0 => {
                store.checkpoint().wait().unwrap();
            }
            1 => {
                store.close().unwrap();
                drop((database, store));
                // Another number of shards owns the same partitions.
                store = open(&device, 1 + dice.below(4) as usize);
                assert!(store.recovery().clean);
                database = store.database("db").unwrap();
            }
            _ => {}
        }
        if round % 5 == 4 {
            same(&read_all(&database), &model).unwrap();
            check_reads(&database, &model, &mut dice);
        }
    }
}

#[test]
fn equals_a_naive_store() {
    for seed in 1..=12 {
        println!("seed {seed}");
        run(seed * 0x9e37_79b9);
    }
}
