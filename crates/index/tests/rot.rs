//! Segments of which a byte has rotted in every copy: what is answered is right, what is missing is counted, and what is made of other
//! blocks is made again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_index::{
    KeyHash, Label, Matcher, MergeJob, PartitionIndex, Segment, SegmentError, SegmentFile,
    Selector, Test, merge_segments,
};
use alluvium_types::{Row, SeriesKey, ValueKind};
use roaring::RoaringBitmap;

const SEED: u64 = 5;
const ROWS: u32 = 3_000;

/// A file of which one byte can be made another.
#[derive(Debug)]
struct Rotten {
    bytes: Vec<u8>,
    at: AtomicU64,
}

const NOWHERE: u64 = u64::MAX;

impl SegmentFile for Rotten {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        let mut read = self.bytes[offset as usize..][..bytes].to_vec();
        let at = self.at.load(Ordering::Relaxed);
        if let Some(byte) = at
            .checked_sub(offset)
            .and_then(|at| read.get_mut(at as usize))
        {
            *byte ^= 0x40;
        }
        visit(&read);
        Ok(())
    }
}

fn tags(row: u32) -> Vec<(&'static str, String)> {
    let mut tags = vec![
        ("host", format!("host_{row}")),
        ("half", (row % 2).to_string()),
        ("group", (row * 7_919 % 900).to_string()),
    ];
    if !row.is_multiple_of(5) {
        tags.push(("most", (row / 9 % 4).to_string()));
    }
    tags
}

fn key(row: u32) -> SeriesKey {
    let measurement = if row.is_multiple_of(3) { "m" } else { "n" };
    SeriesKey::new(measurement, tags(row)).unwrap()
}

/// All rows in one segment.
fn sealed() -> (PartitionIndex, Arc<Rotten>, Arc<Segment>) {
    let mut index = PartitionIndex::new();
    let mut scratch = Vec::new();
    for row in 0..ROWS {
        let key = key(row);
        let row = index
            .insert_row(KeyHash::of(SEED, &key, &mut scratch), &key)
            .unwrap();
        let measurement = index.measurement_of(row).unwrap();
        let field = index.insert_field(measurement, "value").unwrap();
        index.add_series(row, field, ValueKind::F64).unwrap();
    }
    index.freeze();
    let bytes = index.seal_job().unwrap().build(&index);
    let file = Arc::new(Rotten {
        bytes,
        at: AtomicU64::new(NOWHERE),
    });
    let segment = Segment::open(Arc::<Rotten>::clone(&file)).unwrap();
    let segment = Arc::new(segment);
    index.seal(Arc::clone(&segment)).unwrap();
    (index, file, segment)
}

fn selectors() -> Vec<Selector> {
    let tag = |key: &str, test| Matcher::new(Label::Tag(key.into()), test);
    let of = |matchers: Vec<Matcher>| Selector { matchers };
    let metric = || Matcher::new(Label::Name, Test::Equal("m".into()));
    vec![
        of(vec![tag("half", Test::Equal("1".into()))]),
        of(vec![
            tag("half", Test::Equal("0".into())),
            tag("group", Test::In(vec!["7".into(), "350".into()])),
        ]),
        of(vec![metric(), tag("most", Test::Exists).negated()]),
        of(vec![tag("host", Test::Regex("host_1.*7".into()))]),
        of(vec![
            tag("most", Test::Regex("[12]".into())).negated(),
            metric(),
        ]),
        of(vec![tag("most", Test::Equal(String::new()))]),
        of(vec![tag("none", Test::Equal("x".into()))]),
    ]
}

/// A byte of each page or so of the file, of those in front of the directory.
fn places(file: &Rotten) -> impl Iterator<Item = u64> {
    (8..file.bytes.len() as u64 - 4_000).step_by(613)
}

fn mended(segment: &Arc<Segment>) -> Result<Vec<u8>, SegmentError> {
    let mut job = MergeJob::mending(Arc::clone(segment), SEED)?;
    loop {
        if let Some(bytes) = job.step()? {
            return Ok(bytes);
        }
    }
}

#[test]
fn what_is_answered_is_right_and_what_is_missing_is_counted() {
    let (index, file, segment) = sealed();
    let rows_of = |selector: &Selector| {
        let compiled = selector.compile().unwrap();
        let sealed = index.plan(&compiled).rows_around(None);
        let rows = index.select_with(&compiled, &sealed, None);
        let rows: RoaringBitmap = rows.iter().map(|item| item.row.0).collect();
        let lost: u64 = sealed.lost().iter().map(|lost| lost.rows.len()).sum();
        assert_eq!(index.plan(&compiled).rows(None).is_err(), lost > 0);
        let first = index.plan_first(&compiled, 9).rows_around(None);
        let (count, _) = index.first_rows_counted(&compiled, &first, 9).unwrap();
        assert_eq!(count, rows.len(), "{selector:?}");
        (rows, lost)
    };
    let selectors = selectors();
    let expected: Vec<RoaringBitmap> = selectors
        .iter()
        .map(|selector| {
            let (rows, lost) = rows_of(selector);
            assert_eq!(lost, 0);
            rows
        })
        .collect();
    let all: Vec<u32> = (0..ROWS).collect();
    let everything: RoaringBitmap = (0..ROWS).collect();
    let (mut answered_whole, mut answered_in_part, mut unspelt) = (0, 0, 0);
    for at in places(&file) {
        file.at.store(at, Ordering::Relaxed);
        let is_damaged = merge_segments(&[Arc::clone(&segment)]).is_err();
        for (selector, expected) in selectors.iter().zip(&expected) {
            let (rows, lost) = rows_of(selector);
            assert!(rows.is_subset(expected), "{at}: {selector:?}");
            let missing = expected.len() - rows.len();
            assert!(missing <= lost, "{at}: {selector:?} {missing} of {lost}");
            match lost {
                0 => answered_whole += u32::from(is_damaged),
                _ => answered_in_part += 1,
            }
        }
        let (keys, lost) = segment.spell_carefully(&all);
        for (row, spelt) in (0..).zip(&keys) {
            assert!(
                spelt.as_ref().is_none_or(|spelt| *spelt == key(row)),
                "{at}"
            );
        }
        let missing = keys.iter().filter(|key| key.is_none()).count() as u64;
        assert_eq!(missing, lost.map_or(0, |lost| lost.rows.len()));
        assert_eq!(segment.spell(&all).is_err(), missing > 0);
        unspelt += u32::from(missing > 0);

        for prefix in ["", "3"] {
            let whole: BTreeSet<String> = all
                .iter()
                .flat_map(|row| tags(*row))
                .filter(|(tag, value)| *tag == "group" && value.starts_with(prefix))
                .map(|(_, value)| value)
                .collect();
            let (found, lost) = segment.tag_values_carefully(&everything, "group", prefix, 2_000);
            assert!(found.is_sorted() && found.iter().all(|v| whole.contains(v)));
            assert!(lost.is_some() || found.len() == whole.len(), "{at}");
        }

        let values = all.iter().flat_map(|row| tags(*row));
        let values = values.filter(|(tag, _)| *tag == "group");
        let mut whole: BTreeMap<String, u64> = BTreeMap::new();
        values.for_each(|(_, value)| *whole.entry(value).or_default() += 1);
        for skipped in [0, 1, 300] {
            let mut found: Vec<(String, u64)> = Vec::new();
            let lost = segment.tag_value_sizes_carefully("group", skipped, |value, rows| {
                found.push((value.to_owned(), rows));
            });
            let known = |(value, rows): &(String, u64)| whole.get(value).is_some_and(|n| rows <= n);
            assert!(found.iter().all(known), "{at}");
            let rest = whole.values().skip(skipped).sum::<u64>();
            let counted = found.iter().map(|(_, rows)| rows).sum::<u64>();
            let lost = lost.map_or(0, |lost| lost.rows.len());
            assert!(
                counted <= rest && counted + lost >= rest,
                "{at}: {counted} {lost}"
            );
        }
    }
    let counted = (answered_whole, answered_in_part, unspelt);
    assert!(
        answered_whole > 200 && answered_in_part > 10 && unspelt > 20,
        "{counted:?}"
    );
}

#[test]
fn lists_of_rows_and_hashes_are_made_again() {
    let (_, file, segment) = sealed();
    let whole = merge_segments(&[Arc::clone(&segment)]).unwrap();
    let (mut made_again, mut gone) = (0, 0);
    for at in places(&file) {
        file.at.store(at, Ordering::Relaxed);
        let is_damaged = merge_segments(&[Arc::clone(&segment)]).is_err();
        if let Ok(bytes) = mended(&segment) {
            assert!(bytes == whole, "{at}: it differs from what it was");
            made_again += u32::from(is_damaged);
        } else {
            // A text or a tuple is in no other block.
            let all: Vec<u32> = (0..ROWS).collect();
            assert!(segment.spell(&all).is_err(), "{at}");
            gone += 1;
        }
    }
    assert!(made_again > 50 && gone > 20, "{made_again} {gone}");
}

#[test]
fn a_filter_that_does_not_hold_is_done_without_and_made_again() {
    let (_, file, segment) = sealed();
    let whole = merge_segments(&[segment]).unwrap();
    let mut scratch = Vec::new();
    let mut hash_of = |row| KeyHash::of(SEED, &key(row), &mut scratch);
    let (mut without, mut shut) = (0, 0);
    // The filter and the directory are the last blocks.
    for at in (file.bytes.len() as u64 - 9_000..file.bytes.len() as u64).step_by(97) {
        file.at.store(at, Ordering::Relaxed);
        let Ok(segment) = Segment::open(Arc::<Rotten>::clone(&file)) else {
            shut += 1;
            continue;
        };
        if segment.filter_lost().is_none() {
            continue;
        }
        without += 1;
        for row in (0..ROWS).step_by(101) {
            let hash = hash_of(row);
            assert!(segment.may_contain(hash));
            assert_eq!(segment.find(hash).unwrap(), Some(Row(row)), "{at}");
        }
        assert_eq!(segment.find(hash_of(ROWS)).unwrap(), None);
        assert!(
            mended(&Arc::new(segment)).unwrap() == whole,
            "{at}: it differs from what it was"
        );
    }
    assert!(without > 10 && shut > 2, "{without} {shut}");
}
