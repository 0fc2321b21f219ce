//! Many series, lazily, to batches of rows.
//!
//! A [`Plan`] says which series to select, what to make of the points of each, which of them become one, and in
//! which order and number rows go out. An [`Execution`] runs it over a [`Source`], reading no more than the next
//! batch needs, within [`Limits`]. [`plan()`] lowers the JSON query language; other languages build plans of
//! their own.
//!
//! It is *not* a language and not a store: it holds no data and no lock, starts no thread, waits for nothing but
//! its source, and writes no text but that of [`explain`]. `docs/QUERY.md` says what can be asked.
//!
//! ```
//! use std::sync::Arc;
//!
//! use alluvium_io::SystemClock;
//! use alluvium_protocol::json::Request;
//! use alluvium_query::*;
//! use alluvium_types::TimeRange;
//!
//! /// A source without series. The store's snapshot is the real one.
//! struct Nothing;
//!
//! impl Source for Nothing {
//!     fn select(&self, _: &Selector, _: TimeRange, _: u64) -> Result<Vec<SeriesInfo>, QueryError> {
//!         Ok(Vec::new())
//!     }
//!     fn open(&self, _: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
//!         unreachable!("no series was selected")
//!     }
//! }
//!
//! let request = Request::parse(br#"{"aggregate": {"cpu_idle": ["min", "mean"]}}"#, 0)?;
//! let limits = Limits::new(Arc::new(SystemClock));
//! let refusal = Execution::start(Box::new(Nothing), plan(&request)?, limits, Arc::default());
//! assert_eq!(refusal.err().map(|e| e.code()), Some("unknown_metric"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Limits: those of [`Limits`]; a plan of up to 2^32 groups; a batch of [`BATCH_ROWS`] rows or 1 MiB of text.

mod buckets;
mod combined;
mod error;
mod every;
mod execution;
mod explain;
mod fill;
mod function;
mod groups;
mod limits;
mod lower;
mod lower_delete;
mod lower_names;
mod output_series;
mod plan;
mod raw;
mod row_batch;
mod selector_text;
mod source;
mod store_source;
mod tolerant;

pub use alluvium_index::{Label, Matcher, Selector, Test};
pub use alluvium_store::{Direction, ReadStats, SeriesInfo};
pub use error::QueryError;
pub use every::EVERY_METRIC_MAX;
pub use execution::{Execution, Stats};
pub use explain::explain;
pub use function::Function;
pub use limits::Limits;
pub use lower::{LOOKS_MAX, plan};
pub use lower_delete::delete;
pub use lower_names::{search, suggest};
pub use output_series::OutputSeries;
pub use plan::{
    Alternative, ColumnName, EVERY_METRIC, Fill, Grouping, Order, Plan, Selection, TagSet, Window,
};
pub use row_batch::{BATCH_ROWS, RowBatch, RowRef};
pub use selector_text::{MATCHERS_MAX, SelectorTextError, parse_selector};
pub use source::{SeriesReader, SeriesScan, Source};
pub use tolerant::{LOSSES_MAX, Losses, Tolerant};
