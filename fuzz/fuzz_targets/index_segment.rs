//! Any bytes are a segment or not: nothing panics, whatever is asked of it.
//!
//! In the second form the input is taken for a segment whose checksums are put right: that of the trailer and, where the
//! trailer says it is, that of the directory. Blocks whose checksums do not hold are then refused one by one.
#![no_main]

use std::sync::{Arc, OnceLock};

use alluvium_codec::crc32c;
use alluvium_index::{
    CompiledSelector, KeyHash, Label, Matcher, Segment, Selector, Test, merge_segments,
};
use alluvium_types::Row;
use libfuzzer_sys::fuzz_target;

const TRAILER_BYTES: usize = 40;

/// Makes the checksums of trailer and directory right.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let trailer = bytes.len().checked_sub(TRAILER_BYTES)?;
    let number = |at: usize| {
        let eight = data.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(eight)).ok()
    };
    let (at, len) = (number(trailer + 16)?, number(trailer + 24)?);
    let end = at.checked_add(len)?;
    let crc = crc32c(bytes.get(at..end)?);
    bytes
        .get_mut(end..end.checked_add(4)?)?
        .copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c(&bytes[trailer..trailer + TRAILER_BYTES - 4]);
    bytes[trailer + TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

/// Compiled once: an expression takes longer than everything else here.
fn selectors() -> &'static [CompiledSelector] {
    static SELECTORS: OnceLock<Vec<CompiledSelector>> = OnceLock::new();
    SELECTORS.get_or_init(|| {
        let tests = [
            Test::Equal("a".into()),
            Test::Exists,
            Test::Regex("a.*".into()),
            Test::Regex(".*b".into()),
        ];
        let matcher = |test: &Test, negated| Matcher {
            negated,
            ..Matcher::new(Label::Tag("host".into()), test.clone())
        };
        let both = |test: &Test| [false, true].map(|negated| matcher(test, negated));
        let matchers = tests.iter().flat_map(both);
        let compile = |matcher| {
            let matchers = vec![matcher];
            Selector { matchers }.compile().expect("valid")
        };
        matchers.map(compile).collect()
    })
}

fn ask(bytes: Vec<u8>) {
    let Ok(segment) = Segment::open(Arc::new(bytes)) else {
        return;
    };
    let segment = Arc::new(segment);
    let rows = segment.rows();
    let _ = segment.find(KeyHash::from_bits(7));
    for row in rows.clone().take(100) {
        let _ = segment.key(Row(row));
    }
    for compiled in selectors() {
        if let Ok(found) = segment.matching(compiled, None) {
            assert!(found.min().is_none_or(|row| rows.contains(&row)));
            assert!(found.max().is_none_or(|row| rows.contains(&row)));
            let _ = segment.tag_values(&found, "host", "", 10);
        }
    }
    if rows.len() < 10_000
        && let Ok(merged) = merge_segments(&[Arc::clone(&segment)])
        && let Ok(merged) = Segment::open(Arc::new(merged))
    {
        assert_eq!(merged.rows(), rows);
    }
}

fuzz_target!(|data: &[u8]| {
    ask(data.to_vec());
    if let Some(bytes) = mended(data) {
        ask(bytes);
    }
});
