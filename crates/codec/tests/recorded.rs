//! Every recorded series comes back bit for bit, through blocks and through tails.

use std::path::Path;

use alluvium_codec::{Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, Tail, decode_block};
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
    for (compression, one) in [Compression::Balanced, Compression::Small]
        .into_iter()
        .flat_map(|c| all.iter().map(move |one| (c, one)))
    {
        encoder.set_compression(compression);
        let (name, column) = (&one.name, &one.column);
        // Lengths of every sort, so that blocks begin and end anywhere.
        for step in [MAX_BLOCK_POINTS, 129, 17] {
            let mut hint = Hint::default();
            let mut back = Column::new(column.kind());
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            for begin in (0..column.len()).step_by(step) {
                let end = column.len().min(begin + step);
                // A page of five blocks, which lend each other models.
                if blocks.len() == 5 {
                    blocks.clear();
                }
                let mut models = Models::default();
                for block in &blocks {
                    models = models.after(block).expect("a whole block");
                }
                let mut bytes = Vec::new();
                let stats = encoder.encode(column, begin..end, &mut hint, models, &mut bytes);
                assert_eq!(stats.points, end - begin);
                let first = column.times[begin];
                let decoded = decode_block(&bytes, end - begin, first, models, &mut back);
                assert_eq!(decoded, Ok(()), "{name}");
                blocks.push(bytes);
            }
            assert!(back == *column, "{name} in blocks of {step}");
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
        assert!(back == *column, "{name} through tails");
    }
}
