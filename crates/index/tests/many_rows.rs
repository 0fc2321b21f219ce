//! Selectors over enough rows for every form of postings: bitmaps of several containers and sparse lists.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use alluvium_index::{KeyHash, Label, Matcher, PartitionIndex, Selector, Test};
use alluvium_types::{SeriesKey, ValueKind};

const ROWS: u32 = 150_000;

type ValueOf = fn(u32) -> Option<u32>;

/// Row to value of each tag: unique, once in 3000 rows, in halves, and absent for most.
const TAGS: [(&str, ValueOf); 4] = [
    ("id", Some),
    ("group", |row| Some(row.wrapping_mul(2_654_435_761) % 3000)),
    ("half", |row| Some(row % 2)),
    ("rare", |row| row.is_multiple_of(1000).then_some(row % 7)),
];

fn index() -> PartitionIndex {
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
}

#[test]
fn every_form_of_postings_answers() {
    let index = index();
    let equal = |text: &str| Test::Equal(text.into());
    let regex = |text: &str| Test::Regex(text.into());
    let [_, (_, group), (_, half), (_, rare)] = TAGS;
    let check = |matchers: &[(&str, Test, bool)], expected: &dyn Fn(u32) -> bool| {
        check(&index, matchers, expected);
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
}
