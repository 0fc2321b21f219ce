//! Columns to bytes and back: self-describing blocks, and the open tail that grows by a few bytes a point.
//!
//! It knows no page, no file and no series. Everything comes back bit for bit: NaN payloads, the sign of zero,
//! integers at both ends.
//!
//! ```
//! use alluvium_codec::{Encoder, Hint, Models, Tail, decode_block};
//! use alluvium_types::{Column, ValueKind, ValueRef};
//!
//! let mut tail = Tail::new(ValueKind::F64);
//! for n in 0..100 {
//!     tail.push(n * 1_000, ValueRef::F64(20.0 + n as f64 / 100.0));
//! }
//! let mut column = Column::new(ValueKind::F64);
//! tail.decode_into(&mut column);
//! let mut bytes = Vec::new();
//! let stats = Encoder::default().encode(&column, 0..100, &mut Hint::default(), Models::default(), &mut bytes);
//! assert!(stats.bytes < 40);
//! let mut back = Column::new(ValueKind::F64);
//! decode_block(&bytes, 100, 0, Models::default(), &mut back)?;
//! assert_eq!(back, column);
//! # Ok::<(), alluvium_codec::CodecError>(())
//! ```
//!
//! Limits: 1,024 points a block; an encoded block is at most its raw size and 16 bytes.

mod bits;
mod block;
mod compression;
mod entropy;
mod error;
mod floats;
mod frames;
mod huffman;
mod integers;
mod models;
mod packing;
mod repeats;
mod simd;
mod steps;
mod streams;
mod strings;
mod tail;
pub mod varint;

pub use block::{BlockStats, Encoder, Hint, MAX_BLOCK_POINTS, decode_block, encoding_names};
pub use compression::{Compression, CompressionError};
pub use crc32c::{crc32c, crc32c_append};
pub use error::CodecError;
pub use models::Models;
pub use tail::{DRAFT_WORDS, Draft, Tail, TailEncoder, TailEnd, decode_tail, tail_first_time};
