//! The words every other Alluvium crate speaks: series, time, value, column, aggregate, size, budget.
//!
//! It holds vocabulary and the laws that go with it (packing of ids, merging of aggregates). It holds no
//! codec, no I/O, no configuration, and depends on nothing.
//!
//! ```
//! use alluvium_types::{Aggregate, ValueKind};
//!
//! let mut left = Aggregate::empty(ValueKind::F64);
//! left.push(10, 1.5_f64.to_bits());
//! let mut right = Aggregate::empty(ValueKind::F64);
//! right.push(20, 0.5_f64.to_bits());
//! left.merge(&right);
//! assert_eq!(left.count, 2);
//! assert_eq!(left.mean(), Some(1.0));
//! ```

mod aggregate;
mod budget;
mod column;
mod fold;
mod number;
mod row_set;
mod series_id;
mod series_key;
mod size;
mod time;
mod value;

pub use aggregate::{Aggregate, Sample, Sum};
pub use budget::{Budget, BudgetExceeded, Owner};
pub use column::{Column, StringColumn, Values};
pub use number::Number;
pub use row_set::RowSet;
pub use series_id::{
    DatabaseId, FieldId, Lsn, PARTITION_COUNT, Partition, Position, Row, SeriesId,
};
pub use series_key::{BorrowedKey, SeriesKey, metric_name};
pub use size::{ByteCount, CHUNK_SIZE, PAGE_HEADER_BYTES, PAGE_SIZE};
pub use time::{TimeRange, TimeRangeError, Timestamp};
pub use value::{MAX_STRING_BYTES, Value, ValueKind, ValueRef};
