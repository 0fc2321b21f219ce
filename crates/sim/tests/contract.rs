//! The simulated disk keeps the contract that the real devices keep.

#[path = "../../io/tests/contract/mod.rs"]
mod contract;

use std::sync::Arc;

use alluvium_io::Device;
use alluvium_sim::{SimConfig, SimDevice, SimFolder};

#[test]
fn simulated_disks_keep_the_contract() {
    for seed in 0..3 {
        for offset_align in [512, 4096] {
            let config = SimConfig {
                offset_align,
                ..SimConfig::default()
            };
            contract::check(&*SimDevice::new(seed, config));
        }
    }
}

#[test]
fn simulated_disks_may_be_shared() {
    let device: Arc<dyn Device> = SimDevice::new(1, SimConfig::default());
    contract::check_threads(&device);
}

#[test]
fn folders_keep_the_contract() {
    let disk = SimDevice::new(1, SimConfig::default());
    contract::check(&SimFolder::new(disk, "inside"));
}
