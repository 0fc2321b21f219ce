//! Bytes of a part, fixed for ever. The page `docs/format/definitions.md` explains this very example.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;

use alluvium_index::{DefinitionMark, IndexError, KeyHash, PartError, PartitionIndex};
use alluvium_types::{Row, SeriesKey, ValueKind};

const SEED: u64 = 1;

fn insert(index: &mut PartitionIndex, key: &SeriesKey) -> Row {
    let hash = KeyHash::of(SEED, key, &mut Vec::new());
    index.insert_row(hash, key).unwrap()
}

fn example() -> (PartitionIndex, [Vec<u8>; 2]) {
    let mut index = PartitionIndex::new();
    let a = SeriesKey::new("cpu", [("dc", "x"), ("host", "a")]).unwrap();
    let b = SeriesKey::new("cpu", [("dc", "x"), ("host", "b")]).unwrap();
    for key in [&a, &b] {
        let row = insert(&mut index, key);
        let cpu = index.measurement("cpu").unwrap();
        for field in ["idle", "user"] {
            let field = index.insert_field(cpu, field).unwrap();
            index.add_series(row, field, ValueKind::F64).unwrap();
        }
    }
    let first = index.encode_part(DefinitionMark::default()).unwrap();
    let mark = index.mark();
    let cpu = index.measurement("cpu").unwrap();
    let user = index.field(cpu, "user").unwrap();
    index.add_series(Row(0), user, ValueKind::I64).unwrap();
    insert(&mut index, &SeriesKey::new("mem", [("host", "a")]).unwrap());
    let second = index.encode_part(mark).unwrap();
    (index, [first, second])
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        let gap = if i % 16 == 0 && i > 0 { "\n" } else { " " };
        write!(text, "{gap}{byte:02x}").unwrap();
    }
    text.trim_start().to_owned()
}

#[test]
fn parts_are_these_bytes() {
    let (_, [first, second]) = example();
    assert_eq!(hex(&first), FIRST);
    assert_eq!(hex(&second), SECOND);
}

const FIRST: &str = "\
41 6c 44 66 01 00 00 00 2e c2 e0 ec 00 00 00 00
00 00 00 00 02 00 00 00 02 00 00 00 01 00 00 00
01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
04 00 00 00 00 00 00 00 30 00 00 00 00 00 00 00
00 00 03 63 70 75 02 00 02 64 63 00 04 68 6f 73
74 00 01 78 00 01 61 01 01 00 01 62 00 04 69 64
6c 65 00 04 75 73 65 72 02 00 21 00 21 00 02 00";

const SECOND: &str = "\
41 6c 44 66 01 00 00 00 63 5b 9a b0 02 00 00 00
02 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00
02 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00
05 00 00 00 00 00 00 00 19 00 00 00 00 00 00 00
00 00 03 6d 65 6d 01 02 01 02 00 21 00 23 02 00
21 00 21 00 01 00 00 01 01";

#[test]
fn parts_apply_in_order_only() {
    let (index, [first, second]) = example();
    let mut copy = PartitionIndex::new();
    let early = copy.apply_part(SEED, &second);
    assert!(matches!(
        early,
        Err(IndexError::Part(PartError::NotNext { .. }))
    ));
    copy.apply_part(SEED, &first).unwrap();
    copy.apply_part(SEED, &second).unwrap();
    assert_eq!(copy.row_count(), 3);
    assert_eq!(copy.series_count(), 5);
    for row in 0..3 {
        assert_eq!(copy.key(Row(row)), index.key(Row(row)));
        assert!(copy.fields_of(Row(row)).eq(index.fields_of(Row(row))));
    }
}

#[test]
fn each_kind_of_damage_has_its_name() {
    let (_, [first, _]) = example();
    let check = |bytes: &[u8], expected: fn(PartError) -> bool| match PartitionIndex::new()
        .apply_part(SEED, bytes)
    {
        Err(IndexError::Part(error)) => assert!(expected(error), "{error}"),
        other => panic!("{other:?}"),
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = first.clone();
        bytes[at] = byte;
        bytes
    };
    check(&with(0, b'B'), |e| matches!(e, PartError::Magic));
    check(&with(4, 2), |e| e == PartError::Version { found: 2 });
    check(&with(70, 0xff), |e| matches!(e, PartError::Checksum { .. }));
    check(&first[..first.len() - 1], |e| {
        matches!(e, PartError::Length { .. })
    });
    check(&[], |e| matches!(e, PartError::Length { .. }));
    check(b"hello, world", |e| matches!(e, PartError::Magic));

    let mut wrong_count = with(60, 0);
    wrong_count[48] = 9;
    let crc = crc32c::crc32c(&wrong_count[12..]);
    wrong_count[8..12].copy_from_slice(&crc.to_le_bytes());
    check(&wrong_count, |e| {
        matches!(
            e,
            PartError::Invalid {
                what: "number of series",
                ..
            }
        )
    });
}

#[test]
fn no_byte_of_a_part_may_change() {
    let (_, [first, _]) = example();
    for at in 0..first.len() {
        for bit in 0..8 {
            let mut bad = first.clone();
            bad[at] ^= 1 << bit;
            let found = PartitionIndex::new().apply_part(SEED, &bad);
            assert!(found.is_err(), "bit {bit} of byte {at}");
        }
    }
}
