//! Columns to bytes and back.
mod error;
pub mod varint;
pub use error::CodecError;
pub use crc32c::{crc32c, crc32c_append};
