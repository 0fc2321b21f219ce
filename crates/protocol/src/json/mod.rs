//! The JSON query language: `POST /api/query`; and `POST /api/delete`, `/api/search` and `/api/suggest`, which select in the same
//! words.
//!
//! [`Request::parse`] turns a body into plain data with every time and duration resolved to nanoseconds; what
//! series and functions mean is the query engine's business. Unknown and repeated fields are refused by name.

mod delete;
mod error;
mod names;
mod node;
mod read;
mod request;

pub use delete::{Comparison, DeleteRequest};
pub use error::RequestError;
pub use names::{NamesOf, SearchRequest, SuggestRequest};
pub use read::{BODY_BYTES_MAX, DEPTH_MAX, FILTER_TAGS_MAX, LIST_ITEMS_MAX};
pub use request::{
    Align, Direction, Fill, Filter, Format, Function, Grouping, OrderBy, Output, Pattern, Query,
    Request, Shape, Span, TagMatch, TimeFormat,
};
