//! Every recorded series comes back bit for bit, through blocks and through tails.

use std::path::Path;

use alluvium_codec::{Encoder, Hint, MAX_BLOCK_POINTS, Tail, decode_block};
use alluvium_types::Column;

mod series;

#[test]
fn recorded_series_come_back_bit_for_bit() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let Some(all) = series::read_all(Path::new(dir)) else {
        println!("skipped: no recorded series at {dir}");
        return;
    };
    assert!(!all.is_empty(), "{dir} holds no series");
    let mut encoder = Encoder::default();
    for one in all {
        let (name, column) = (one.name, one.column);
        // Lengths of every sort, so that blocks begin and end anywhere.
        for step in [MAX_BLOCK_POINTS, 129, 17] {
            let mut hint = Hint::default();
            let mut bytes = Vec::new();
            let mut sizes = Vec::new();
            for begin in (0..column.len()).step_by(step) {
                let end = column.len().min(begin + step);
                let stats = encoder.encode(&column, begin..end, &mut hint, &mut bytes);
                assert_eq!(stats.points, end - begin);
                sizes.push(stats.bytes);
            }
            let mut back = Column::new(column.kind());
            let mut rest = bytes.as_slice();
            for size in sizes {
                assert_eq!(decode_block(rest, &mut back), Ok(size), "{name}");
                rest = &rest[size..];
            }
            assert!(back == column, "{name} in blocks of {step}");
        }
        let mut back = Column::new(column.kind());
        for begin in (0..column.len()).step_by(500) {
            let mut tail = Tail::new(column.kind());
            for i in begin..column.len().min(begin + 500) {
                tail.push(column.times[i], column.value(i).expect("a point"));
            }
            let restored = Tail::from_bytes(column.kind(), tail.bytes(), tail.points());
            restored.expect("a whole tail").decode_into(&mut back);
        }
        assert!(back == column, "{name} through tails");
    }
}
