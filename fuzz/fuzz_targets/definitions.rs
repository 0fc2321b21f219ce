//! Any part of definitions is applied or refused: nothing panics, and an index that took one writes it again as
//! a part that makes the same index.
//!
//! The input is the body of a part and, in its first bytes, the numbers of its header; magic, version, length and
//! checksum are put right.
#![no_main]

use alluvium_codec::crc32c;
use alluvium_index::{DefinitionMark, PartitionIndex, Selector};
use alluvium_types::Row;
use libfuzzer_sys::fuzz_target;

const SEED: u64 = 42;
const HEADER_BYTES: usize = 64;
/// The checksum covers what is behind it.
const CRC_END: usize = 12;

fn part(numbers: [u8; 5], body: &[u8]) -> Vec<u8> {
    let [rows, fields, lists, runs, series] = numbers;
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(b"AlDf");
    out.extend_from_slice(&1_u16.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    for number in [0, 0, rows, fields, lists, runs, 0] {
        // The largest stands for numbers that no body can hold.
        let number = if number == u8::MAX {
            u32::MAX
        } else {
            u32::from(number)
        };
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [0, u64::from(series), body.len() as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(body);
    let crc = crc32c(&out[CRC_END..]);
    out[CRC_END - 4..CRC_END].copy_from_slice(&crc.to_le_bytes());
    out
}

fn same(a: &PartitionIndex, b: &PartitionIndex) {
    assert_eq!(
        (a.row_count(), a.series_count()),
        (b.row_count(), b.series_count())
    );
    for row in (0..a.row_count()).map(Row) {
        assert_eq!(a.key(row), b.key(row));
        assert!(a.fields_of(row).eq(b.fields_of(row)));
    }
}

fuzz_target!(|data: &[u8]| {
    // As it is, it is hardly ever one.
    let _ = PartitionIndex::new().apply_part(SEED, data);
    let Some((numbers, body)) = data.split_first_chunk::<5>() else {
        return;
    };
    let mut index = PartitionIndex::new();
    if index.apply_part(SEED, &part(*numbers, body)).is_err() {
        return;
    }
    let everything = Selector::default().compile().expect("it has no matchers");
    let found: u64 = index
        .select(&everything)
        .expect("nothing is sealed")
        .iter()
        .map(|s| s.kinds.len() as u64)
        .sum();
    assert_eq!(found, index.series_count());
    for row in (0..index.row_count()).map(Row) {
        assert!(index.key(row).is_some() && index.measurement_of(row).is_some());
    }
    let mut again = PartitionIndex::new();
    if let Some(bytes) = index.encode_part(DefinitionMark::default()) {
        again.apply_part(SEED, &bytes).expect("its own part");
    }
    same(&index, &again);
});
