//! Repeats of long texts: what the encoder writes, the decoder reads.
//!
//! Cause: a dictionary made a few kilobytes of 64 MiB of text, and a reader refuses blocks that unpack to so much.
//! Symptom: points were encoded and could not be read again.

use alluvium_codec::{Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block};
use alluvium_types::{Column, MAX_STRING_BYTES, ValueKind};

fn check(text_bytes: usize) -> usize {
    let mut column = Column::new(ValueKind::Str);
    let text = "x".repeat(text_bytes);
    for time in 0..MAX_BLOCK_POINTS as i64 {
        column.push_str(time, &text);
    }
    let mut bytes = Vec::new();
    let (range, models) = (0..column.len(), Models::default());
    Encoder::default().encode(&column, range, &mut Hint::default(), models, &mut bytes);
    let mut back = Column::new(ValueKind::Str);
    assert_eq!(
        decode_block(&bytes, column.len(), 0, models, &mut back),
        Ok(())
    );
    assert!(back == column);
    bytes.len()
}

#[test]
fn every_length_comes_back() {
    assert!(check(1024) < 2048, "a mebibyte is still a dictionary's");
    check(1025);
    check(4096);
    check(MAX_STRING_BYTES);
}
