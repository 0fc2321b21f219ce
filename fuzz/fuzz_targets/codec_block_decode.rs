//! Any bytes are blocks or errors: nothing panics, memory is bounded, and a block that was read is written and
//! read again as the same points.
//!
//! The input is what a page would hold: the kind of the column, then blocks, each behind two bytes with the number
//! of its points, eight with its first time, and two with its length. Later blocks may use the models of earlier
//! ones.
#![no_main]

use alluvium_codec::{
    Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, encoding_names,
};
use alluvium_types::{Column, ValueKind, Values};
use libfuzzer_sys::fuzz_target;

/// What a block of text may unpack to, unless its own bytes are more.
const TEXT_BYTES_MAX: usize = 1 << 20;

const BLOCKS_MAX: usize = 8;

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    let kind = ValueKind::ALL[usize::from(*kind) % ValueKind::ALL.len()];
    let (mut data, mut models) = (data, Models::default());
    for _ in 0..BLOCKS_MAX {
        let Some((head, behind)) = data.split_first_chunk::<12>() else {
            return;
        };
        let [p0, p1, time @ .., l0, l1] = *head;
        let points = usize::from(u16::from_le_bytes([p0, p1]));
        let first_time = i64::from_le_bytes(time);
        let len = usize::from(u16::from_le_bytes([l0, l1])).min(behind.len());
        let (block, behind) = behind.split_at(len);
        data = behind;
        read(kind, block, points, first_time, models);
        // A page whose blocks do not even tell their parts is read no further.
        match models.after(block) {
            Ok(after) => models = after,
            Err(_) => return,
        }
    }
});

fn read(kind: ValueKind, block: &[u8], points: usize, first_time: i64, models: Models<'_>) {
    if let Ok((times, values)) = encoding_names(block) {
        assert!(!times.is_empty() && !values.is_empty());
    }
    let mut column = Column::new(kind);
    let result = decode_block(block, points, first_time, models, &mut column);
    // Also what a failed reading leaves behind is bounded.
    assert!(column.times.capacity() <= 4 * MAX_BLOCK_POINTS);
    let values = match &column.values {
        Values::Numeric(bits) => {
            assert!(bits.capacity() <= 4 * MAX_BLOCK_POINTS);
            bits.len()
        }
        Values::Strings(texts) => {
            assert!(texts.len() <= MAX_BLOCK_POINTS);
            assert!(texts.text_bytes() <= TEXT_BYTES_MAX.max(block.len()));
            texts.len()
        }
    };
    if result.is_err() {
        return;
    }
    assert_eq!((column.len(), values), (points, points));
    assert_eq!(column.times.first(), Some(&first_time));
    // The encoder takes increasing times only.
    if column.times.windows(2).any(|w| w[0] >= w[1]) {
        return;
    }
    for compression in [Compression::Balanced, Compression::Small] {
        let (mut again, mut hint) = (Vec::new(), Hint::default());
        let mut encoder = Encoder::new(compression);
        encoder.encode(&column, 0..points, &mut hint, models, &mut again);
        let mut back = Column::new(kind);
        decode_block(&again, points, first_time, models, &mut back).expect("its own block");
        assert_eq!(back, column);
    }
}
