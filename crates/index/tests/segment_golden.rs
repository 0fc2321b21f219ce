//! Bytes of a segment, fixed for ever. The page `docs/format/index.md` explains this very example.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::sync::Arc;

use alluvium_index::{
    KeyHash, Label, Matcher, PartitionIndex, Segment, SegmentError, Selector, Test, merge_segments,
};
use alluvium_types::{Row, SeriesKey};

const SEED: u64 = 1;

fn keys() -> [SeriesKey; 3] {
    [
        SeriesKey::new("cpu", [("dc", "x"), ("host", "a1")]).unwrap(),
        SeriesKey::new("cpu", [("dc", "x"), ("host", "a2")]).unwrap(),
        SeriesKey::new("mem", [("host", "a1")]).unwrap(),
    ]
}

fn example() -> Vec<u8> {
    let mut index = PartitionIndex::new();
    for key in keys() {
        let hash = hash_of(&key);
        index.insert_row(hash, &key).unwrap();
    }
    index.freeze();
    index.seal_job().unwrap().build(&index)
}

/// Hexadecimal, sixteen bytes a line; runs of equal lines are one line and a star.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: &[u8] = &[];
    let mut is_run = false;
    for line in bytes.chunks(16) {
        if line == last {
            if !std::mem::replace(&mut is_run, true) {
                text.push_str("*\n");
            }
            continue;
        }
        (last, is_run) = (line, false);
        for (i, byte) in line.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(text, "{gap}{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_segment_is_these_bytes() {
    let bytes = example();
    let found = hex(&bytes);
    assert_eq!(found, include_str!("segment.hex"), "{found}");
}

fn hash_of(key: &SeriesKey) -> KeyHash {
    KeyHash::of(SEED, key, &mut Vec::new())
}

#[test]
fn a_segment_answers() {
    let segment = Segment::open(Arc::new(example())).unwrap();
    for (row, key) in (0..).map(Row).zip(keys()) {
        let hash = hash_of(&key);
        assert_eq!(segment.find(hash).unwrap(), Some(row));
        assert_eq!(segment.key(row).unwrap(), Some(key));
    }
    assert_eq!(segment.key(Row(3)).unwrap(), None);
}

/// Whatever bit is changed, no answer changes: it is the same, or an error.
#[test]
fn no_byte_of_a_segment_may_change_unseen() {
    let whole = example();
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        let answers = || -> Result<(), SegmentError> {
            let segment = Segment::open(Arc::new(bad))?;
            if let Some(error) = segment.filter_lost() {
                assert!(keys().iter().all(|k| segment.may_contain(hash_of(k))));
                return Err(error.clone());
            }
            for (row, key) in (0..).map(Row).zip(keys()) {
                let hash = hash_of(&key);
                assert_eq!(segment.find(hash)?, Some(row), "byte {at}");
                assert_eq!(segment.key(row)?, Some(key), "byte {at}");
            }
            Ok(())
        };
        refused += usize::from(answers().is_err());
    }
    assert_eq!(
        refused,
        whole.len() - 8,
        "the first eight bytes are for people"
    );
    for cut in 0..whole.len() {
        assert!(Segment::open(Arc::new(whole[..cut].to_vec())).is_err());
    }
}

/// Behind good checksums anything may stand: an error or an answer within the segment's rows, never a panic.
#[test]
fn a_directory_that_lies_does_no_harm() {
    let whole = example();
    let trailer = whole.len() - 40;
    let number = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let (begin, bytes) = (number(trailer + 16), number(trailer + 24));
    let mut opened = 0;
    // The directory, and base and rows in the trailer.
    let places = (begin..begin + bytes).chain(trailer + 8..trailer + 16);
    for (at, bit) in places.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = whole.clone();
        bad[at] ^= 1 << bit;
        let crc = crc32c::crc32c(&bad[begin..begin + bytes]);
        bad[begin + bytes..begin + bytes + 4].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&bad[trailer..trailer + 36]);
        bad[trailer + 36..].copy_from_slice(&crc.to_le_bytes());
        let Ok(segment) = Segment::open(Arc::new(bad)) else {
            continue;
        };
        opened += 1;
        let segment = Arc::new(segment);
        let rows = segment.rows();
        for row in rows.clone().take(9) {
            drop(segment.key(Row(row)));
        }
        for key in keys() {
            drop(segment.find(hash_of(&key)));
        }
        for pattern in ["a1", "a.*", ".*2", ".+", ".*"] {
            let matcher = Matcher::new(Label::Tag("host".into()), Test::Regex(pattern.into()));
            for matcher in [matcher.clone(), matcher.negated()] {
                let selector = Selector {
                    matchers: vec![matcher],
                };
                if let Ok(found) = segment.matching(&selector.compile().unwrap(), None) {
                    assert!(found.iter().all(|row| rows.contains(&row)), "byte {at}");
                    drop(segment.tag_values(&found, "host", "", 9));
                }
            }
        }
        drop(merge_segments(&[segment]));
    }
    assert!(opened > 100, "{opened} were not refused at once");
}
