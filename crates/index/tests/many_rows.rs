//! Selectors over enough rows for every form of postings: bitmaps of several containers and sparse lists; in memory, in one
//! segment and in several.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use alluvium_index::{KeyHash, KindSet, Label, Matcher, PartitionIndex, Segment, Selector, Test};
use alluvium_types::{FieldId, Row, SeriesKey, ValueKind};
use roaring::RoaringBitmap;

const ROWS: u32 = 150_000;

type ValueOf = fn(u32) -> Option<u32>;

/// Row to value of each tag: unique, once in 3000 rows, in halves and thirds, absent for most, and absent for some.
const TAGS: [(&str, ValueOf); 6] = [
    ("id", Some),
    ("group", |row| Some(row.wrapping_mul(2_654_435_761) % 3000)),
    ("half", |row| Some(row % 2)),
    ("rare", |row| row.is_multiple_of(1000).then_some(row % 7)),
    ("third", |row| Some(row / 5 % 3)),
    ("most", |row| (row % 10 != 3).then_some(row / 7 % 4)),
];

/// Sealed in segments of so many rows.
fn index(segment_rows: u32) -> PartitionIndex {
    let mut index = PartitionIndex::new();
    let mut scratch = Vec::new();
    for row in 0..ROWS {
        let tags = TAGS
            .iter()
            .filter_map(|(key, value)| Some((*key, value(row)?.to_string())));
        let key = SeriesKey::new(measurement(row), tags).unwrap();
        let hash = KeyHash::of(1, &key, &mut scratch);
        let row = index.insert_row(hash, &key).unwrap();
        let measurement = index.measurement_of(row).unwrap();
        for name in ["value", "other"] {
            let field = index.insert_field(measurement, name).unwrap();
            index.add_series(row, field, ValueKind::F64).unwrap();
        }
        if index.head_rows() == segment_rows {
            index.freeze();
            let bytes = index.seal_job().unwrap().build(&index);
            let segment = Segment::open(Arc::new(bytes)).unwrap();
            index.seal(Arc::new(segment)).unwrap();
        }
    }
    index
}

fn measurement(row: u32) -> &'static str {
    if row.is_multiple_of(3) { "m" } else { "n" }
}

fn check(index: &PartitionIndex, matchers: &[(&str, Test, bool)], expected: impl Fn(u32) -> bool) {
    let matchers = matchers.iter().map(|(tag, test, negated)| Matcher {
        label: Label::Tag((*tag).into()),
        test: test.clone(),
        negated: *negated,
    });
    let mut selector = Selector {
        matchers: matchers.collect(),
    };
    let name = Matcher::new(Label::Name, Test::Equal("m_other".into()));
    selector.matchers.push(name);
    let found = index.select(&selector.compile().unwrap()).unwrap();
    let named = |row: &u32| measurement(*row) == "m" && expected(*row);
    let rows: Vec<u32> = found.iter().map(|s| s.row.0).collect();
    assert!(rows.into_iter().eq((0..ROWS).filter(named)), "{selector:?}");

    selector.matchers.pop();
    let field = Matcher::new(Label::Field, Test::Equal("value".into()));
    selector.matchers.push(field);
    let found = index.select(&selector.compile().unwrap()).unwrap();
    let rows: Vec<u32> = found.iter().map(|s| s.row.0).collect();
    let expected: Vec<u32> = (0..ROWS).filter(|&row| expected(row)).collect();
    assert_eq!(rows.len(), expected.len(), "{selector:?}");
    assert_eq!(rows, expected, "{selector:?}");

    let compiled = selector.compile().unwrap();
    assert_eq!(index.count(&compiled).unwrap(), expected.len() as u64);
    // Of all fields: a field of two measurements is told by looking at each row.
    selector.matchers.pop();
    let of_all = selector.compile().unwrap();
    for limit in [0, 9, ROWS as usize] {
        let sealed = index.plan_first(&of_all, limit).rows(None).unwrap();
        let (count, first) = index
            .first_rows_counted(&of_all, &sealed, limit)
            .expect("nothing has changed");
        assert_eq!(count, expected.len() as u64, "{selector:?}");
        let wanted = expected.iter().take(limit).copied();
        assert!(first.into_iter().eq(wanted), "{selector:?}");
    }
    let some: [RoaringBitmap; 3] = [
        (9..ROWS).step_by(1999).collect(),
        (0..ROWS).filter(|row| row % 7 < 3).collect(),
        (50_000..50_100).collect(),
    ];
    for live in some {
        let sealed = index.plan(&compiled).rows(Some(&live)).unwrap();
        let found = index.rows_with(&compiled, &sealed, Some(&live));
        let expected: RoaringBitmap = expected.iter().copied().collect();
        assert_eq!(found, expected & &live, "{selector:?}");
        let count = index.count_with(&compiled, &sealed, Some(&live));
        assert_eq!(count, found.len());
        let (count, first) = index.first_rows_with(&compiled, &sealed, Some(&live), 7);
        assert_eq!(
            (count, first),
            (found.len(), found.iter().take(7).collect())
        );
    }
}

#[test]
fn rows_without_a_field_that_is_meant_are_not_counted() {
    let mut index = index(50_000);
    let tag =
        |key: &str, value: &str| Matcher::new(Label::Tag(key.into()), Test::Equal(value.into()));
    let mut selector = Selector {
        matchers: vec![tag("half", "1")],
    };
    let check = |index: &PartitionIndex, selector: &Selector, expected: u64| {
        let compiled = selector.compile().unwrap();
        let plain = index.plan(&compiled).rows(None).unwrap();
        let (by_list, first) = index.first_rows_with(&compiled, &plain, None, 9);
        let sealed = index.plan_first(&compiled, 9).rows(None).unwrap();
        let counted = index.first_rows_counted(&compiled, &sealed, 9);
        assert_eq!(counted, Some((by_list, first)), "{selector:?}");
        assert_eq!(by_list, expected, "{selector:?}");
        sealed
    };
    check(&index, &selector, 75_000);
    let field = Matcher::new(Label::Field, Test::Equal("value".into()));
    let measurement = Matcher::new(Label::Measurement, Test::Equal("m".into()));
    selector.matchers.extend([field, measurement]);
    check(&index, &selector, 25_000);

    // Some rows lose the field, one of them all fields, and one has nothing but another.
    let measurement = index.measurement_of(Row(77_775)).unwrap();
    let value = index.field(measurement, "value").unwrap();
    let before = check(&index, &selector, 25_000);
    let mut lose = |row, of: &dyn Fn(FieldId) -> bool| {
        let keep = |field, kinds| if of(field) { KindSet::EMPTY } else { kinds };
        assert!(index.retain_series(Row(row), keep));
    };
    lose(77_775, &|field| field == value);
    lose(9, &|_| true);
    lose(60_003, &|field| field == value);
    let compiled = selector.compile().unwrap();
    assert_eq!(index.first_rows_counted(&compiled, &before, 9), None);
    check(&index, &selector, 24_997);
    selector.matchers.truncate(1);
    check(&index, &selector, 74_999);
    // All of two chunks, then one row of each of more chunks than are looked at row by row.
    let mut lose = |row| assert!(index.retain_series(Row(row), |_, _| KindSet::EMPTY));
    (8192..16_384).for_each(&mut lose);
    check(&index, &selector, 74_999 - 4096);
    let mut lose = |row| assert!(index.retain_series(Row(row), |_, _| KindSet::EMPTY));
    (4..22).map(|chunk| chunk * 4096 + 1).for_each(&mut lose);
    check(&index, &selector, 74_999 - 4096 - 18);
}

#[test]
fn every_form_of_postings_answers_in_memory() {
    every_form_answers(&index(u32::MAX));
}

#[test]
fn every_form_of_postings_answers_in_one_segment() {
    every_form_answers(&index(ROWS));
}

#[test]
fn every_form_of_postings_answers_in_segments_and_memory() {
    every_form_answers(&index(70_001));
}

#[test]
fn every_form_of_postings_answers_in_a_segment_and_half_as_many_rows_in_memory() {
    every_form_answers(&index(100_000));
}

fn every_form_answers(index: &PartitionIndex) {
    let equal = |text: &str| Test::Equal(text.into());
    let regex = |text: &str| Test::Regex(text.into());
    let [_, (_, group), (_, half), (_, rare), (_, third), (_, most)] = TAGS;
    let check = |matchers: &[(&str, Test, bool)], expected: &dyn Fn(u32) -> bool| {
        check(index, matchers, expected);
    };

    check(&[], &|_| true);
    check(&[("id", equal("77777"), false)], &|row| row == 77_777);
    check(&[("id", equal("77777"), true)], &|row| row != 77_777);
    check(&[("group", equal("5"), false)], &|row| {
        group(row) == Some(5)
    });
    check(
        &[("group", regex("1.*"), false), ("half", equal("1"), true)],
        &|row| group(row).unwrap().to_string().starts_with('1') && half(row) == Some(0),
    );
    check(&[("rare", Test::Exists, false)], &|row| row % 1000 == 0);
    check(
        &[("rare", Test::Exists, true), ("half", equal("0"), false)],
        &|row| row % 1000 != 0 && row % 2 == 0,
    );
    check(
        &[
            ("rare", regex("[0-5]|"), false),
            ("group", regex(".*7"), false),
        ],
        &|row| rare(row) != Some(6) && group(row).unwrap() % 10 == 7,
    );
    check(
        &[("id", regex("1000.*"), false), ("half", regex("0"), true)],
        &|row| row.to_string().starts_with("1000") && row % 2 == 1,
    );
    let ids = Test::In(vec!["3".into(), "149999".into(), "none".into()]);
    check(&[("id", ids.clone(), false)], &|row| {
        row == 3 || row == 149_999
    });
    check(&[("id", ids, true)], &|row| row != 3 && row != 149_999);
    check(
        &[("half", equal("1"), false), ("third", equal("2"), false)],
        &|row| row % 2 == 1 && third(row) == Some(2),
    );
    check(
        &[("half", equal("1"), false), ("third", equal("2"), true)],
        &|row| row % 2 == 1 && third(row) != Some(2),
    );
    let two = Test::In(vec!["0".into(), "2".into()]);
    check(
        &[("third", two.clone(), false), ("half", Test::Exists, false)],
        &|row| third(row) != Some(1),
    );
    check(
        &[("third", two, true), ("group", regex("1.*"), true)],
        &|row| third(row) == Some(1) && !group(row).unwrap().to_string().starts_with('1'),
    );
    check(&[("id", regex(".*99.*"), false)], &|row| {
        row.to_string().contains("99")
    });
    check(
        &[("id", regex(".*99.*"), true), ("third", equal("0"), false)],
        &|row| !row.to_string().contains("99") && third(row) == Some(0),
    );
    check(
        &[
            ("id", regex(".*9[0-4].*"), false),
            ("most", equal("3"), false),
        ],
        &|row| {
            let id = row.to_string().into_bytes();
            let is_pair = |pair: &[u8]| pair[0] == b'9' && pair[1] < b'5';
            id.windows(2).any(is_pair) && most(row) == Some(3)
        },
    );
    check(&[("most", Test::Exists, false)], &|row| most(row).is_some());
    check(
        &[("most", Test::Exists, true), ("half", equal("1"), false)],
        &|row| most(row).is_none() && row % 2 == 1,
    );
    let absent = Test::In(vec![String::new(), "1".into()]);
    check(
        &[
            ("most", absent.clone(), false),
            ("third", equal("1"), false),
        ],
        &|row| most(row).is_none_or(|m| m == 1) && third(row) == Some(1),
    );
    check(&[("most", absent, true)], &|row| {
        most(row).is_some_and(|m| m != 1)
    });
}
