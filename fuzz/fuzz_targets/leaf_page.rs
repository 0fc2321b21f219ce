//! Any body of a leaf is described or refused: nothing panics, and what is described is in order of time.
#![no_main]

use alluvium_nbtree::describe_leaf;
use alluvium_types::ValueKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, items, body @ ..] = data else {
        return;
    };
    let kind = ValueKind::ALL[usize::from(*kind) % ValueKind::ALL.len()];
    if let Ok(leaf) = describe_leaf(kind, body, u16::from(*items)) {
        assert_eq!(leaf.blocks.len(), usize::from(*items));
        let points: usize = leaf.blocks.iter().map(|b| b.points).sum();
        assert_eq!(points, leaf.points.len());
        assert!(
            leaf.blocks
                .windows(2)
                .all(|w| w[0].first_time < w[1].first_time)
        );
    }
});
