//! Sections come back as they went in, bit for bit, and any bytes are a section or an error.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use alluvium_codec::varint::put_u64;
use alluvium_types::{
    DatabaseId, FieldId, Lsn, Partition, Row, SeriesKey, StringColumn, TimeRange, ValueKind,
};
use alluvium_wal::{
    Among, Entry, GROUP_VALUES_MAX, PointGroup, SectionBuilder, Tombstone, read_section,
    section_head,
};
use proptest::prelude::*;

fn encoded(entries: &[Entry]) -> Vec<u8> {
    let mut builder = SectionBuilder::default();
    builder.begin(DatabaseId(7), Partition(15), Lsn(1 << 40));
    for entry in entries {
        match entry {
            Entry::CreateDatabase {
                id,
                name,
                seed,
                settings,
            } => builder.create_database(*id, name, *seed, settings),
            Entry::DropDatabase { id } => builder.drop_database(*id),
            Entry::Row { row, key } => builder.row(*row, key),
            Entry::Field {
                measurement,
                field,
                name,
            } => builder.field(measurement, *field, name),
            Entry::Points(group) => builder.points(group),
            Entry::Mark(mark) => builder.mark(*mark),
            Entry::Delete(tombstones) => builder.delete(tombstones),
            Entry::Settings { id, settings } => builder.settings(*id, settings),
            Entry::Cut { id, cut } => builder.cut(*id, cut),
        }
    }
    builder.finish().to_vec()
}

/// Everything a group says, texts in place of their indexes, which may be shared.
fn meaning(
    group: &PointGroup,
) -> (
    Vec<(FieldId, ValueKind)>,
    Vec<Row>,
    Vec<i64>,
    Vec<(u64, String)>,
) {
    let kinds = group.fields.iter().map(|(_, kind)| *kind).cycle();
    let cells = group.bits.iter().zip(kinds).map(|(bits, kind)| match kind {
        ValueKind::Str => (0, group.strings.get(*bits as usize).unwrap().to_owned()),
        _ => (*bits, String::new()),
    });
    let cells = cells.collect();
    (
        group.fields.clone(),
        group.rows.clone(),
        group.times.clone(),
        cells,
    )
}

fn check(group: &PointGroup) -> usize {
    let bytes = encoded(&[Entry::Mark(1), Entry::Points(group.clone()), Entry::Mark(2)]);
    let section = read_section(&bytes).unwrap();
    let [Entry::Mark(1), Entry::Points(found), Entry::Mark(2)] = &section.entries[..] else {
        panic!("{section:?}")
    };
    assert_eq!(meaning(found), meaning(group));
    bytes.len()
}

fn one_column(kind: ValueKind, bits: &[u64]) -> PointGroup {
    PointGroup {
        fields: vec![(FieldId(3), kind)],
        rows: vec![Row(0); bits.len()],
        times: (0..bits.len() as i64).collect(),
        bits: bits.to_vec(),
        strings: StringColumn::new(),
    }
}

#[test]
fn edges_of_every_kind_come_back() {
    let floats = [
        0.0,
        -0.0,
        f64::NAN,
        f64::from_bits(0x7ff0_0000_0000_0001),
        f64::INFINITY,
        f64::MIN_POSITIVE / 4.0,
        4_503_599_627_370_495.0,
        9_007_199_254_740_993.0,
        0.1,
        -0.1,
        1e300,
        23.4567,
        1.0 / 3.0,
    ]
    .map(f64::to_bits);
    // Alone, in pairs, and all together: every choice of encoding meets every value.
    for a in floats {
        check(&one_column(ValueKind::F64, &[a]));
        check(&one_column(ValueKind::F64, &[a, a, a]));
        for b in floats {
            check(&one_column(ValueKind::F64, &[a, b]));
            check(&one_column(ValueKind::F64, &[a, a, a, a, b]));
        }
    }
    check(&one_column(ValueKind::F64, &floats));
    let words = [
        0,
        1,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        1 << 55,
        (1 << 54) + 1,
        127,
        128,
    ];
    for kind in [ValueKind::I64, ValueKind::U64] {
        check(&one_column(kind, &words));
        for a in words {
            check(&one_column(kind, &[a]));
            check(&one_column(kind, &[a, 5]));
        }
    }
    for len in 0..20 {
        let bits: Vec<u64> = (0..len).map(|i| i / 3 % 2).collect();
        check(&one_column(ValueKind::Bool, &bits));
    }
}

#[test]
fn extreme_times_and_rows_come_back() {
    let mut group = one_column(ValueKind::I64, &[1; 6]);
    group.times = vec![i64::MIN, i64::MAX, 0, i64::MAX - 1, i64::MIN + 1, -1];
    group.rows = [0, u32::MAX, 1, u32::MAX - 1, 7, 7].map(Row).to_vec();
    check(&group);
}

#[test]
fn regular_rows_take_few_bytes() {
    // Ten small decimals a line, a host a line, one second: as TSBS sends them.
    let mut group = PointGroup {
        fields: (0..10).map(|i| (FieldId(i), ValueKind::F64)).collect(),
        ..PointGroup::default()
    };
    for line in 0..1_000_u32 {
        group.rows.push(Row(line));
        group.times.push(1_700_000_000_000_000_000);
        for field in 0..10 {
            let value = f64::from((line * 37 + field * 11) % 100);
            group.bits.push(value.to_bits());
        }
    }
    let per_value = check(&group) as f64 / 10_000.0;
    assert!(per_value < 2.5, "{per_value} bytes a value");
}

#[test]
fn columns_that_stand_still_take_a_word() {
    let floats = [0.0, 1.0 / 3.0].map(f64::to_bits);
    for (kind, bits) in [
        (ValueKind::F64, floats[0]),
        (ValueKind::F64, floats[1]),
        (ValueKind::I64, 3),
        (ValueKind::U64, u64::MAX),
    ] {
        let length = |lines| check(&one_column(kind, &vec![bits; lines]));
        // A row and a time each, nothing for the value.
        assert_eq!(length(100) - length(50), 2 * 50, "{kind:?} {bits:x}");
    }
}

#[test]
fn texts_come_back_whether_a_dictionary_holds_them_or_not() {
    for distinct in [1, 2, 63, 64, 65, 200] {
        for lines in [1, 64, 127, 128, 129, 300_u64] {
            let words: Vec<String> = (0..distinct).map(|n| format!("state {n}")).collect();
            let mut group = one_column(ValueKind::Str, &[]);
            group.strings = words.iter().map(String::as_str).collect();
            // The last words come late, when a dictionary looks worth its while.
            for line in 0..lines {
                let at = if line < 256 { line % 64 } else { line };
                group.bits.push(at % distinct);
                group.rows.push(Row(0));
                group.times.push(line as i64);
            }
            let bytes = check(&group) as u64;
            assert!(distinct > 2 || lines < 64 || bytes < 40 + 4 * lines);
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c]{1,2}", any::<String>()]
}

fn value(kind: ValueKind) -> BoxedStrategy<u64> {
    match kind {
        ValueKind::F64 => prop_oneof![
            any::<u64>(),
            any::<f64>().prop_map(f64::to_bits),
            (-10_000_i64..10_000, 0_i32..6)
                .prop_map(|(m, k)| (m as f64 / 10_f64.powi(k)).to_bits()),
        ]
        .boxed(),
        ValueKind::Bool => (0_u64..2).boxed(),
        ValueKind::Str => (0_u64..8).boxed(),
        _ => prop_oneof![any::<u64>(), 0_u64..300].boxed(),
    }
}

fn group() -> impl Strategy<Value = PointGroup> {
    let kinds = prop::collection::vec(prop::sample::select(ValueKind::ALL.to_vec()), 1..6);
    (kinds, 0_usize..40).prop_flat_map(|(kinds, lines)| {
        let line: Vec<_> = kinds.iter().map(|kind| value(*kind)).collect();
        let fields: Vec<_> = (10..).map(FieldId).zip(kinds).collect();
        (
            prop::collection::vec(line, lines),
            prop::collection::vec(any::<u32>().prop_map(Row), lines),
            prop::collection::vec(any::<i64>(), lines),
            prop::collection::vec(text(), 8),
        )
            .prop_map(move |(bits, rows, times, texts)| PointGroup {
                fields: fields.clone(),
                rows,
                times,
                bits: bits.concat(),
                strings: texts.iter().map(String::as_str).collect(),
            })
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (any::<u32>(), text(), any::<u64>(), any::<Vec<u8>>()).prop_map(
            |(id, name, seed, settings)| Entry::CreateDatabase {
                id: DatabaseId(id),
                name,
                seed,
                settings
            }
        ),
        any::<u32>().prop_map(|id| Entry::DropDatabase { id: DatabaseId(id) }),
        (
            any::<u32>(),
            text(),
            prop::collection::btree_map(text(), text(), 0..4)
        )
            .prop_map(|(row, name, tags)| Entry::Row {
                row: Row(row),
                key: SeriesKey::new(name, tags).unwrap()
            }),
        (text(), 0..FieldId::LIMIT, text()).prop_map(|(measurement, field, name)| {
            Entry::Field {
                measurement,
                field: FieldId(field),
                name,
            }
        }),
        any::<u64>().prop_map(Entry::Mark),
        prop::collection::vec(tombstone(), 0..4).prop_map(Entry::Delete),
        (any::<u32>(), any::<Vec<u8>>()).prop_map(|(id, settings)| Entry::Settings {
            id: DatabaseId(id),
            settings
        }),
        (any::<u32>(), any::<Vec<u8>>()).prop_map(|(id, cut)| Entry::Cut {
            id: DatabaseId(id),
            cut
        }),
    ]
}

fn tombstone() -> impl Strategy<Value = Tombstone> {
    let rows = prop::collection::vec(0_u32..500, 0..40);
    let among = prop::sample::select(vec![Among::All, Among::Numbers, Among::Texts]);
    let field = prop::option::of(0..FieldId::LIMIT);
    (rows, field, among, any::<i64>(), any::<i64>()).prop_map(|(rows, field, among, a, b)| {
        Tombstone {
            rows: rows.into_iter().map(Row).collect(),
            field: field.map(FieldId),
            among,
            range: TimeRange::new(a.min(b), a.max(b)).unwrap(),
        }
    })
}

/// A section with one group, all zeros: ten bytes a field and two a line.
fn zeros(fields: usize, lines: usize) -> Vec<u8> {
    let mut bytes = encoded(&[]);
    bytes.push(5);
    put_u64(&mut bytes, fields as u64);
    (0..fields as u64).for_each(|field| put_u64(&mut bytes, field << 3 | 1));
    put_u64(&mut bytes, lines as u64);
    bytes.resize(bytes.len() + 2 * lines + 9 * fields, 0);
    bytes
}

/// Four mebibytes of a frame that holds could say 64 million equal values.
#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of values")]
fn a_group_takes_no_more_lines_than_writers_give_it() {
    let is_read = |fields, lines| read_section(&zeros(fields, lines)).is_ok();
    let lines = GROUP_VALUES_MAX / 1024;
    assert!(is_read(1024, lines) && !is_read(1024, lines + 1));
    assert!(is_read(1, GROUP_VALUES_MAX) && !is_read(1, GROUP_VALUES_MAX + 1));
    // One line may be as wide as it likes: each of its fields takes bytes.
    assert!(is_read(2 * GROUP_VALUES_MAX, 1) && !is_read(2 * GROUP_VALUES_MAX, 2));
    assert!(!is_read(1000, 64_000));
    let fields = (0..1000).map(|i| (FieldId(i), ValueKind::F64)).collect();
    let longest = PointGroup {
        fields,
        rows: vec![Row(7); 66],
        times: vec![9; 66],
        bits: vec![3; 66_000],
        ..PointGroup::default()
    };
    check(&longest);
}

proptest! {
    #[test]
    fn groups_come_back_bit_for_bit(group in group()) {
        check(&group);
    }

    #[test]
    fn entries_come_back(entries in prop::collection::vec(entry(), 0..8)) {
        let bytes = encoded(&entries);
        let section = read_section(&bytes).unwrap();
        prop_assert_eq!(&section.entries, &entries);
        let head = (section.database, section.partition, section.lsn);
        prop_assert_eq!(head, (DatabaseId(7), Partition(15), Lsn(1 << 40)));
        prop_assert_eq!(section_head(&bytes).unwrap(), head);
    }

    #[test]
    fn a_cut_or_changed_section_is_an_error_or_another_section(
        group in group(), at in any::<prop::sample::Index>(), change in 1_u8..,
    ) {
        let mut bytes = encoded(&[Entry::Points(group)]);
        let at = at.index(bytes.len());
        // Cutting inside the entry always shows; behind the head alone there is a section without entries.
        if at > 8 {
            prop_assert!(read_section(&bytes[..at]).is_err());
        }
        bytes[at] ^= change;
        drop(read_section(&bytes));
    }

    #[test]
    fn any_bytes_are_a_section_or_an_error(bytes in any::<Vec<u8>>()) {
        drop(read_section(&bytes));
    }
}
