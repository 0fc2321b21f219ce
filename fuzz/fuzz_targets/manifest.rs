//! Any bytes are a manifest or an error, and any list of volumes opens or is refused.
//!
//! The bytes are read as a whole manifest, and once more as the section that lists the volumes.
#![no_main]

use std::sync::Arc;

use alluvium_block::{BlockConfig, BlockStore, Expect, LogicAddr, Manifest, PageKind, PageRef};
use alluvium_io::MemoryDevice;
use alluvium_types::{Budget, DatabaseId};
use libfuzzer_sys::fuzz_target;

/// The section of the block store.
const VOLUMES: u64 = 1;

fn open(manifest: &Manifest) {
    let device = Arc::new(MemoryDevice::new(1));
    let budget = Arc::new(Budget::new(1 << 20));
    let opened = BlockStore::open(device, BlockConfig::default(), [7; 16], 2, budget, manifest);
    let Ok(store) = opened else { return };
    // What was read is a state that can be saved, and read again.
    let mut saved = Manifest::new();
    store.save(&mut saved, &[]);
    let page = PageRef {
        addr: LogicAddr { volume: 1, page: 1 },
        generation: 1,
        crc: 0,
    };
    let expect = Expect {
        kind: PageKind::Leaf,
        series: 0,
    };
    assert!(
        store.read(page, expect).is_err(),
        "there are no volumes on the device"
    );
    drop(store.drop_database(DatabaseId(1)));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).expect("its own bytes"), manifest);
        open(&manifest);
    }
    let mut manifest = Manifest::new();
    manifest.set(VOLUMES, data.to_vec());
    open(&manifest);
});
