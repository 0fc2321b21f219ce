//! Any bytes are a segment or not: nothing panics, whatever is asked of it.
//!
//! In the second form every checksum is put right, so that all that stands in blocks is read.
#![no_main]

use std::sync::{Arc, OnceLock};

use alluvium_codec::crc32c;
use alluvium_index::{
    CompiledSelector, KeyHash, Label, Matcher, MergeJob, Segment, SegmentError, SegmentFile,
    Selector, Test, merge_segments,
};
use alluvium_types::Row;
use libfuzzer_sys::fuzz_target;

/// A segment whose every block has the right checksum, for it is made when the block is read: those of the trailer and the
/// directory are in the same place.
#[derive(Debug)]
struct Sealed(Vec<u8>);

impl SegmentFile for Sealed {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        SegmentFile::read(&self.0, offset, bytes, &mut |block| {
            let mut block = block.to_vec();
            if let Some((content, crc)) = block.split_last_chunk_mut::<4>() {
                *crc = crc32c(content).to_le_bytes();
            }
            visit(&block)
        })
    }
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

fn ask(file: Arc<dyn SegmentFile>) {
    let Ok(segment) = Segment::open(file) else {
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
    if rows.len() < 1_000 {
        around_damage(&segment);
    }
    if rows.len() < 10_000
        && let Ok(merged) = merge_segments(&[Arc::clone(&segment)])
        && let Ok(merged) = Segment::open(Arc::new(merged))
    {
        assert_eq!(merged.rows(), rows);
        let _ = segment.spell(&rows.clone().collect::<Vec<u32>>());
    }
}

/// What goes on where blocks do not hold.
fn around_damage(segment: &Arc<Segment>) {
    let rows: Vec<u32> = segment.rows().collect();
    let (spelt, lost) = segment.spell_carefully(&rows);
    let missing = spelt.iter().filter(|key| key.is_none()).count() as u64;
    assert_eq!(missing, lost.map_or(0, |lost| lost.rows.len()));
    let all = rows.iter().copied().collect();
    let (values, _) = segment.tag_values_carefully(&all, "host", "", 10);
    assert!(values.len() <= 10);
    let Ok(mut job) = MergeJob::mending(Arc::clone(segment), 7) else {
        return;
    };
    while let Ok(None) = job.step() {}
}

fuzz_target!(|data: &[u8]| {
    ask(Arc::new(data.to_vec()));
    ask(Arc::new(Sealed(data.to_vec())));
});
