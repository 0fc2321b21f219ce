//! Any body of an inner page is described or refused: nothing panics, no entry contradicts itself.
#![no_main]

use alluvium_nbtree::describe_inner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [items, body @ ..] = data else { return };
    if let Ok(inner) = describe_inner(body, u16::from(*items)) {
        assert_eq!(inner.entries.len(), usize::from(*items));
        for entry in &inner.entries {
            assert_eq!(entry.aggregate.kind, inner.kind);
            assert!(entry.aggregate.nan_count <= entry.aggregate.count);
            assert!(entry.first_time() <= entry.last_time());
        }
    }
});
