//! The index against a plain list of series, and its parts against itself.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alluvium_index::{
    DefinitionMark, FlatKey, IndexError, KeyHash, KindSet, Label, Matcher, PartError,
    PartitionIndex, Segment, Selector, Test, begins_anew, merge_segments,
};
use alluvium_types::{FieldId, Row, SeriesKey, ValueKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const SEED: u64 = 0x5eed;

// Names chosen so that `__name__` splits in several ways, with `value` on either side.
const MEASUREMENTS: [&str; 6] = ["a", "a_b", "a_b_value", "cpu", "value", "a_"];
const FIELDS: [&str; 6] = ["value", "b", "c", "b_c", "b_value", "_b"];
const VALUES: [&str; 6] = ["", "x", "y", "xy", "é", "x\ny"];

#[derive(Debug, Clone)]
enum Op {
    /// A new tag set with a few series.
    Row(SeriesKey, Vec<(&'static str, ValueKind)>),
    /// Many tag sets at once, up to the first that is there.
    Rows(Vec<SeriesKey>),
    /// One more series of some row.
    Series(Index, &'static str, ValueKind),
    /// A field that no row has.
    Field(Index, &'static str),
    /// Encodes a part; whether older marks are forgotten.
    Part(bool),
    /// Freezes the rows in memory.
    Freeze,
    /// Makes a segment of the frozen rows.
    Seal,
    /// Makes one segment of several.
    Merge(Index, Index),
    /// Takes the rows out of the name table that do not divide.
    Silence(u32),
    /// Deletes a field of a row.
    Remove(Index, &'static str),
}

fn kind() -> impl Strategy<Value = ValueKind> {
    select(ValueKind::ALL.to_vec())
}

fn key() -> impl Strategy<Value = SeriesKey> {
    let tag = |name: &'static str| {
        proptest::option::of(select(VALUES.to_vec()))
            .prop_map(move |v| v.map(|v| (name, v.to_owned())))
    };
    // `n` has many values with one row each and a few with most rows.
    let n = prop_oneof![
        1 => Just(None),
        4 => (0..3_u32).prop_map(|n| Some(("n", format!("dense{n}")))),
        4 => any::<u16>().prop_map(|n| Some(("n", format!("n{n}")))),
    ];
    let id = any::<u16>().prop_map(|n| Some(("zid", n.to_string())));
    (select(MEASUREMENTS.to_vec()), tag("h"), tag("r"), n, id).prop_map(|(m, h, r, n, id)| {
        SeriesKey::new(m, [h, r, n, id].into_iter().flatten()).unwrap()
    })
}

/// Tag sets of few shapes, some of them side by side.
fn rows() -> impl Strategy<Value = Vec<SeriesKey>> {
    let run = (key(), vec(any::<u16>(), 1..20), any::<bool>());
    let run = run.prop_map(|(key, ids, dense)| {
        let tags = key.tags().iter().map(|(k, v)| (k.clone(), v.clone()));
        let tags: Vec<_> = tags.collect();
        let alike = ids.into_iter().map(|id| {
            let mut tags = tags.clone();
            for (key, value) in &mut tags {
                match key.as_str() {
                    "zid" => *value = id.to_string(),
                    "n" if dense => *value = format!("dense{}", id % 5),
                    _ => {}
                }
            }
            SeriesKey::new(key.measurement(), tags).unwrap()
        });
        alike.collect::<Vec<_>>()
    });
    vec(run, 1..4).prop_map(|runs| runs.concat())
}

fn op() -> impl Strategy<Value = Op> {
    let series = || (select(FIELDS.to_vec()), kind());
    prop_oneof![
        12 => (key(), vec(series(), 0..4)).prop_map(|(k, s)| Op::Row(k, s)),
        2 => rows().prop_map(Op::Rows),
        4 => (any::<Index>(), series()).prop_map(|(i, (f, k))| Op::Series(i, f, k)),
        1 => (any::<Index>(), select(FIELDS.to_vec())).prop_map(|(i, f)| Op::Field(i, f)),
        1 => any::<bool>().prop_map(Op::Part),
        1 => Just(Op::Freeze),
        1 => Just(Op::Seal),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Op::Merge(a, b)),
        1 => (1_u32..4).prop_map(Op::Silence),
        2 => (any::<Index>(), select(FIELDS.to_vec())).prop_map(|(i, f)| Op::Remove(i, f)),
    ]
}

fn test() -> impl Strategy<Value = Test> {
    let text = || {
        let name = (select(MEASUREMENTS.to_vec()), select(FIELDS.to_vec()));
        prop_oneof![
            select(VALUES.to_vec()).prop_map(str::to_owned),
            select(FIELDS.to_vec()).prop_map(str::to_owned),
            name.prop_map(|(m, f)| format!("{m}_{f}")),
            select(MEASUREMENTS.to_vec()).prop_map(str::to_owned),
            (0..3_u32).prop_map(|n| format!("dense{n}")),
        ]
    };
    let patterns = [
        "x|y",
        "x.*",
        ".*",
        ".+",
        "",
        "x|",
        "(x|y)y?",
        "n1.*",
        ".*1.*",
        "dense[01]",
        "dense.|n.*",
        "a_.*",
        ".*y",
        ".*1.*2.*",
        "a(_b)?",
        ".*value",
        "(?i)X",
        "x.y",
        "dense0|dense1",
        "[^x]*",
    ];
    prop_oneof![
        text().prop_map(Test::Equal),
        vec(text(), 0..4).prop_map(Test::In),
        select(patterns.to_vec()).prop_map(|p| Test::Regex(p.into())),
        Just(Test::Exists),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let tags = ["h", "r", "n", "zid", "none"];
    let label = prop_oneof![
        1 => Just(Label::Name),
        1 => Just(Label::Measurement),
        1 => Just(Label::Field),
        4 => select(tags.to_vec()).prop_map(|t| Label::Tag(t.into())),
    ];
    let matcher = (label, test(), any::<bool>()).prop_map(|(label, test, negated)| Matcher {
        label,
        test,
        negated,
    });
    vec(matcher, 0..5).prop_map(|matchers| Selector { matchers })
}

/// All that was defined, as plain as can be.
#[derive(Default)]
struct Model {
    keys: Vec<SeriesKey>,
    series: BTreeMap<(u32, &'static str), Vec<ValueKind>>,
}

impl Model {
    fn matches(
        &self,
        selector: &Selector,
        expressions: &HashMap<&str, regex::Regex>,
        row: u32,
        field: &str,
    ) -> bool {
        let key = &self.keys[row as usize];
        selector.matchers.iter().all(|m| {
            let value = match &m.label {
                Label::Name => key.metric_name(field),
                Label::Measurement => key.measurement().to_owned(),
                Label::Field => field.to_owned(),
                Label::Tag(tag) => key.tag(tag).unwrap_or("").to_owned(),
            };
            let holds = match &m.test {
                Test::Equal(text) => value == *text,
                Test::In(texts) => texts.contains(&value),
                Test::Exists => !value.is_empty(),
                Test::Regex(pattern) => expressions[pattern.as_str()].is_match(&value),
            };
            holds != m.negated
        })
    }
}

fn add(
    index: &mut PartitionIndex,
    model: &mut Model,
    row: u32,
    name: &'static str,
    kind: ValueKind,
) {
    let measurement = index.measurement_of(Row(row)).unwrap();
    let field = index.insert_field(measurement, name).unwrap();
    let kinds = model.series.entry((row, name)).or_default();
    let new = !kinds.contains(&kind);
    assert_eq!(index.add_series(Row(row), field, kind), Ok(new));
    if new {
        kinds.push(kind);
    }
}

fn seal(index: &mut PartitionIndex) {
    if let Some(job) = index.seal_job() {
        let segment = Segment::open(Arc::new(job.build(index))).unwrap();
        index.seal(Arc::new(segment)).unwrap();
    }
}

fn merge(index: &mut PartitionIndex, a: Index, b: Index) {
    let segments = index.segments().to_vec();
    if !segments.is_empty() {
        let (a, b) = (a.index(segments.len()), b.index(segments.len()));
        let bytes = merge_segments(&segments[a.min(b)..=a.max(b)]).unwrap();
        let merged = Segment::open(Arc::new(bytes)).unwrap();
        index.replace_segments(Arc::new(merged)).unwrap();
    }
}

/// The tag set of a row, wherever it is.
fn key_of(index: &PartitionIndex, row: Row) -> Option<SeriesKey> {
    let mut sealed = index.segments().iter();
    let found = sealed.find_map(|s| s.key(row).unwrap());
    found.or_else(|| index.key(row))
}

/// Runs the operations; the replica is fed with parts only.
fn run(ops: Vec<Op>) -> (PartitionIndex, Model, PartitionIndex) {
    let (mut index, mut replica) = (PartitionIndex::new(), PartitionIndex::new());
    let mut model = Model::default();
    let mut seen = HashMap::new();
    let mut mark = DefinitionMark::default();
    let mut scratch = Vec::new();
    for op in ops.into_iter().chain([Op::Part(false)]) {
        match op {
            Op::Row(key, series) => {
                let hash = KeyHash::of(SEED, &key, &mut scratch);
                let next = model.keys.len() as u32;
                let row = *seen.entry(key.clone()).or_insert(next);
                if let Some(found) = index.find(hash).unwrap() {
                    assert_eq!(found.0, row);
                    index.restore(hash, found);
                }
                if row == next {
                    assert_eq!(index.insert_row(hash, &key), Ok(Row(row)));
                    model.keys.push(key);
                } else {
                    let row = Row(row);
                    assert_eq!(
                        index.insert_row(hash, &key),
                        Err(IndexError::RowExists { row })
                    );
                }
                for (field, kind) in series {
                    add(&mut index, &mut model, row, field, kind);
                }
            }
            Op::Rows(keys) => {
                let hashes = keys.iter().map(|key| KeyHash::of(SEED, key, &mut scratch));
                let hashes: Vec<_> = hashes.collect();
                let mut bytes = vec![Vec::new(); keys.len()];
                let flat = keys.iter().zip(&mut bytes);
                let flat = flat.map(|(key, bytes)| FlatKey::new(key, bytes));
                let new: Vec<_> = hashes.iter().copied().zip(flat).collect();
                for hash in hashes {
                    if let Some(found) = index.find(hash).unwrap() {
                        index.restore(hash, found);
                    }
                }
                let mut wanted = 0;
                for key in &keys {
                    if seen.contains_key(key) {
                        break;
                    }
                    seen.insert(key.clone(), model.keys.len() as u32);
                    model.keys.push(key.clone());
                    wanted += 1;
                }
                assert_eq!(index.insert_all(&new), wanted);
            }
            Op::Series(at, field, kind) if !model.keys.is_empty() => {
                let row = at.index(model.keys.len()) as u32;
                add(&mut index, &mut model, row, field, kind);
            }
            Op::Field(at, field) if !model.keys.is_empty() => {
                let row = Row(at.index(model.keys.len()) as u32);
                let measurement = index.measurement_of(row).unwrap();
                index.insert_field(measurement, field).unwrap();
            }
            Op::Part(forget) => {
                if let Some(part) = index.encode_part(mark) {
                    assert_ne!(mark, index.mark());
                    if begins_anew(&part) {
                        // The segment of what it does not have is written beside it.
                        seal(&mut index);
                        let segments = index.segments().to_vec();
                        replica = PartitionIndex::open(SEED, &part, segments, None).unwrap();
                    } else {
                        replica.apply_part(SEED, &part).unwrap();
                    }
                }
                mark = index.mark();
                if forget {
                    index.forget_before(mark);
                }
                assert_eq!(index.encode_part(mark), None);
            }
            Op::Silence(n) => {
                let active = (0..index.row_count()).filter(|row| row % n == 0).collect();
                if n % 2 == 0 {
                    index.silence(&active);
                    continue;
                }
                let mut next = Some(0);
                while let Some(place) = next {
                    (_, next) = index.silence_part(&active, place);
                }
            }
            Op::Freeze => index.freeze(),
            Op::Seal => seal(&mut index),
            Op::Merge(a, b) => merge(&mut index, a, b),
            Op::Remove(at, field) if !model.keys.is_empty() => {
                let row = Row(at.index(model.keys.len()) as u32);
                let gone = model.series.remove(&(row.0, field)).is_some();
                let measurement = index.measurement_of(row).unwrap();
                let field = index.field(measurement, field);
                let changed = index.retain_series(row, |f, kinds| {
                    if Some(f) == field {
                        KindSet::EMPTY
                    } else {
                        kinds
                    }
                });
                assert_eq!(changed, gone);
            }
            Op::Series(..) | Op::Field(..) | Op::Remove(..) => {}
        }
    }
    seal(&mut index);
    (index, model, replica)
}

fn check_against_model(index: &PartitionIndex, model: &Model) {
    assert_eq!(index.row_count() as usize, model.keys.len());
    let series: usize = model.series.values().map(Vec::len).sum();
    assert_eq!(index.series_count(), series as u64);
    let mut found = BTreeMap::new();
    let mut silent = 0;
    for (row, key) in (0..).zip(&model.keys) {
        assert_eq!(key_of(index, Row(row)).as_ref(), Some(key));
        let hash = KeyHash::of(SEED, key, &mut Vec::new());
        assert_eq!(index.find(hash).unwrap(), Some(Row(row)));
        let is_silent = index.lookup(hash).is_none();
        silent += u32::from(is_silent);
        let mut segments = index.segments().iter();
        let in_segment = segments.find_map(|s| s.find(hash).unwrap());
        let is_sealed = row < index.sealed_rows();
        assert_eq!(in_segment, is_sealed.then_some(Row(row)));
        let measurement = index.measurement_of(Row(row)).unwrap();
        for (field, kinds) in index.fields_of(Row(row)) {
            assert_eq!(index.kinds(Row(row), field), kinds);
            let name = index.field_name(measurement, field).unwrap();
            let mut kinds: Vec<_> = kinds.first().into_iter().chain(kinds.iter()).collect();
            kinds[1..].sort_unstable();
            found.insert((row, name), kinds);
        }
    }
    let expected = model.series.iter().map(|(at, kinds)| {
        let mut sorted = kinds.clone();
        sorted.sort_unstable();
        sorted.insert(0, kinds[0]);
        (*at, sorted)
    });
    assert_eq!(found, expected.collect());
    assert_eq!(index.silent_rows(), silent);
}

fn check_select(index: &PartitionIndex, model: &Model, selector: &Selector) {
    let compiled = selector.compile().unwrap();
    let found = index.select(&compiled).unwrap();
    assert!(found.is_sorted_by_key(|s| (s.row, s.field)));
    assert_eq!(index.count(&compiled).unwrap(), found.len() as u64);
    let patterns = selector.matchers.iter().filter_map(|m| match &m.test {
        Test::Regex(pattern) => Some(pattern.as_str()),
        _ => None,
    });
    let expressions = patterns
        .map(|p| (p, regex::Regex::new(&format!(r"\A(?s:{p})\z")).unwrap()))
        .collect();
    let mut expected: Vec<(Row, FieldId)> = model
        .series
        .keys()
        .filter(|(row, field)| model.matches(selector, &expressions, *row, field))
        .map(|(row, field)| {
            let measurement = index.measurement_of(Row(*row)).unwrap();
            (Row(*row), index.field(measurement, field).unwrap())
        })
        .collect();
    expected.sort_unstable();
    let pairs: Vec<_> = found.iter().map(|s| (s.row, s.field)).collect();
    assert_eq!(pairs, expected, "{selector:?}");
    for s in found {
        assert_eq!(s.kinds, index.kinds(s.row, s.field));
    }

    let mut values: Vec<&str> = expected
        .iter()
        .filter_map(|(row, _)| model.keys[row.0 as usize].tag("n"))
        .collect();
    values.sort_unstable();
    values.dedup();
    let mut keys: Vec<&str> = expected
        .iter()
        .flat_map(|(row, _)| model.keys[row.0 as usize].tags())
        .map(|(key, _)| key.as_str())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    // Without matchers, rows that have no series yet count too.
    if !selector.matchers.is_empty() {
        let found = index.tag_values(&compiled, "n", "", usize::MAX).unwrap();
        assert_eq!(found, values, "{selector:?}");
        let narrow: Vec<&str> = values.into_iter().filter(|v| v.starts_with("n1")).collect();
        let narrow = &narrow[..narrow.len().min(3)];
        assert_eq!(index.tag_values(&compiled, "n", "n1", 3).unwrap(), narrow);
        assert_eq!(index.tag_keys(&compiled).unwrap(), keys);
    }
}

/// Few cases unless PROPTEST_CASES asks for more: each makes hundreds of rows and 40 selectors.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    let cases = if asked { default.cases } else { 24 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn index_equals_model_and_replica(
        ops in vec(op(), 0..400),
        selectors in vec(selector(), 40),
    ) {
        let (index, model, replica) = run(ops);
        for it in [&index, &replica] {
            check_against_model(it, &model);
            for selector in &selectors {
                check_select(it, &model, selector);
            }
        }
        // A part from the start depends on nothing but the state: numbers of fields without series included.
        let whole = index.encode_part(DefinitionMark::default());
        prop_assert_eq!(&whole, &replica.encode_part(DefinitionMark::default()));
        if let Some(whole) = whole {
            let segments = index.segments().to_vec();
            let odd = (0..index.row_count()).filter(|row| row % 2 == 1).collect();
            let mut copy = PartitionIndex::open(SEED, &whole, segments, Some(&odd)).unwrap();
            check_against_model(&copy, &model);
            let less = index.segments().iter().skip(1).cloned().collect();
            if !index.segments().is_empty() {
                prop_assert!(PartitionIndex::open(SEED, &whole, less, None).is_err());
            }
            let twice = copy.apply_part(SEED, &whole);
            let refused = matches!(twice, Err(IndexError::Part(PartError::NotNext { .. })));
            prop_assert!(refused);
        }
    }

    #[test]
    fn changed_parts_are_refused_or_harmless(
        ops in vec(op(), 1..60),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Index>(),
    ) {
        let (index, _, _) = run(ops);
        let Some(part) = index.encode_part(DefinitionMark::default()) else { return Ok(()) };
        let mut bad = part.clone();
        for (at, byte) in changes {
            let at = at.index(bad.len());
            bad[at] ^= byte;
        }
        let open = |part: &[u8]| PartitionIndex::open(SEED, part, index.segments().to_vec(), None);
        if bad != part {
            prop_assert!(open(&bad).is_err());
        }
        // With the checksum made right the content may be anything: an error or an index, never a panic.
        let crc = crc32c::crc32c(&bad[12..]);
        bad[8..12].copy_from_slice(&crc.to_le_bytes());
        if let Ok(other) = open(&bad) {
            let whole = other.encode_part(DefinitionMark::default());
            if let Some(whole) = whole {
                let copy = open(&whole).unwrap();
                prop_assert_eq!(copy.series_count(), other.series_count());
            }
        }
        let cut = cut.index(part.len());
        prop_assert!(open(&part[..cut]).is_err());
    }
}
