//! Wire text to points and back: line protocol, JSON queries, rows of answers, refusals.
//!
//! It reads and writes bytes in memory. It is *not* a server: no sockets, no compression, no clock; and it knows
//! nothing of storage. Bytes from outside never panic and never reserve memory by a length they claim.
//!
//! ```
//! use alluvium_protocol::line::{FieldValue, Limits, LineParser, Precision, decode_key};
//!
//! let mut parser = LineParser::new(b"cpu,host=a idle=93.5 7\n", Precision::Ns, 0, Limits::default());
//! let line = parser.next_line().unwrap().unwrap();
//! assert_eq!(decode_key(line.key).unwrap().to_string(), "cpu host=a");
//! assert_eq!(line.fields[0].value, FieldValue::F64(93.5));
//! ```
//!
//! Limits, all settings or named constants: a line 1 MiB, a string 64 KiB, 16,384 fields and 256 tags a line; a
//! JSON query 1 MiB and 32 levels; 100 refused lines listed in a reply.

mod error_reply;
mod found;
pub mod influxql;
pub mod json;
pub mod line;
mod render;
mod text;
pub mod time;

pub use error_reply::{LEFT_OUT_MAX, LISTED_LINES_MAX, PartialWrite, error_body, v2_error_body};
pub use found::FoundWriter;
pub use render::{RowWriter, SeriesName};
