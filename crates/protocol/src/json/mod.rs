//! The JSON query language: `POST /api/query`.
//!
//! [`Request::parse`] turns a body into plain data with every time and duration resolved to nanoseconds; what
//! series and functions mean is the query engine's business. Unknown and repeated fields are refused by name.

mod error;
mod node;
mod read;
mod request;

pub use error::RequestError;
pub use read::{BODY_BYTES_MAX, DEPTH_MAX, LIST_ITEMS_MAX};
pub use request::{
    Align, Direction, Fill, Filter, Format, Function, Grouping, OrderBy, Output, Pattern, Query,
    Request, Shape, Span, TagMatch, TimeFormat,
};
