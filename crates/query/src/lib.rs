//! Many series, lazily, to batches of rows.
//!
//! A [`Plan`] says which series to select, what to make of the points of each, which of them become one, and in
//! which order and number rows go out. An [`Execution`] runs it over a [`Source`], reading no more than the next
//! batch needs, within [`Limits`]. It is *not* a language (languages lower to plans), holds no data and no lock,
//! starts no thread, and writes no text but [`explain`].

mod buckets;
mod combined;
mod error;
mod execution;
mod explain;
mod fill;
mod function;
mod groups;
mod limits;
mod lower;
mod output_series;
mod plan;
mod raw;
mod row_batch;
mod source;
mod stub;

pub use alluvium_index::{Label, Matcher, Selector, Test};
pub use error::QueryError;
pub use execution::{Execution, Stats};
pub use explain::explain;
pub use function::Function;
pub use limits::Limits;
pub use lower::plan;
pub use output_series::OutputSeries;
pub use plan::{Alternative, ColumnName, Fill, Grouping, Order, Plan, Selection, TagSet, Window};
pub use row_batch::{BATCH_ROWS, RowBatch, RowRef};
pub use source::{SeriesReader, SeriesScan, Source};
pub use stub::{Direction, ReadStats, SeriesInfo};
