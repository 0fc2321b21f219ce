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
//! Limits: a line 1 MiB, a string 64 KiB, a JSON query 1 MiB and 32 levels; all are settings or named constants.

pub mod json;
pub mod line;
pub mod time;
