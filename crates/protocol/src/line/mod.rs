//! InfluxDB line protocol.
//!
//! One line is `measurement[,tag=value…] field=value[,field=value…] [timestamp]`. Reading is split in two, so
//! that the hot path allocates nothing and looks at most bytes once: [`LineParser`] finds a line's key (the
//! measurement and tags, as sent), its fields and its time; [`decode_key`] and [`decode_name`] unescape and
//! check names, which a caller does once per distinct spelling and remembers.
//!
//! Everything that InfluxDB 1.6.7 takes is taken, and besides it CRLF line ends and unsigned integers.

mod error;
mod key;
mod number;
mod parser;
mod precision;
mod recover;
mod write;

pub use error::{LineError, LineErrorKind, Place};
pub use key::{borrow_key, decode_key, decode_key_limited, decode_name, decode_string};
pub use parser::{Field, FieldValue, Limits, Line, LineParser};
pub use precision::{Precision, UnknownPrecision};
pub use write::{WriteLineError, write_line};
