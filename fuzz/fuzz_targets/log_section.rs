//! Any bytes are a section or an error: nothing panics, and columns have the shape they claim.
#![no_main]

use alluvium_wal::{Entry, read_section};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(section) = read_section(data) else {
        return;
    };
    for entry in section.entries {
        if let Entry::Delete(list) = &entry {
            let ascending = list.iter().all(|t| t.rows.iter().take(1000).is_sorted());
            assert!(ascending);
        }
        if let Entry::Points(group) = entry {
            assert_eq!(group.rows.len(), group.times.len());
            assert_eq!(group.bits.len(), group.rows.len() * group.fields.len());
        }
    }
});
