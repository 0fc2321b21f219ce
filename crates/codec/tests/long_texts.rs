//! Repeats of texts, long and short: what the encoder writes, the decoder reads.
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

/// Words are copied by lengths of 16 and 32, and found by their first and last eight bytes.
#[test]
fn words_of_every_length_come_back() {
    for longest in [0, 1, 8, 9, 15, 16, 17, 31, 32, 33, 40] {
        let mut column = Column::new(ValueKind::Str);
        for i in 0..500_usize {
            // A dozen words that differ in their length, or only in their middle.
            let mut text = "é".repeat(longest / 2) + &"x".repeat(longest % 2);
            if longest > 18 && i % 3 == 0 {
                text.replace_range(8..10, ["ab", "cd", "ef"][i % 5 % 3]);
            }
            let end = text.floor_char_boundary(longest.saturating_sub(i % 4));
            column.push_str(i as i64, &text[..end]);
        }
        let (mut hint, mut first, mut back) =
            (Hint::default(), Vec::new(), Column::new(ValueKind::Str));
        let mut encoder = Encoder::default();
        encoder.encode(&column, 0..200, &mut hint, Models::default(), &mut first);
        // The second block borrows the words of the first.
        let models = Models::default().after(&first).expect("a whole block");
        let mut second = Vec::new();
        encoder.encode(&column, 200..500, &mut hint, models, &mut second);
        assert!(
            longest == 0 || second.len() < first.len(),
            "words are borrowed"
        );
        decode_block(&first, 200, 0, Models::default(), &mut back).expect("its own block");
        decode_block(&second, 300, 200, models, &mut back).expect("its own block");
        assert!(back == column, "words of up to {longest} bytes");
    }
}
