//! Tag sets that no longer change: immutable segments of consecutive rows. See `docs/format/index.md`.
//!
//! A segment is made of a head that has been frozen ([`PartitionIndex::freeze`](crate::PartitionIndex::freeze)), or of
//! several segments that follow each other. Its directory and a filter are in memory; values with their rows, tuples
//! and the name table are read in blocks when a question needs them.

mod careful;
mod dense_rows;
mod filter;
mod lanes;
mod layout;
mod matching;
mod merge;
mod packed;
mod read;
mod seal;
mod seal_job;
mod stored_rows;
mod tuple_block;
mod value_block;
mod values;
mod write;

pub use careful::LostRows;
pub(crate) use matching::MatchScratch;
pub use merge::{MergeJob, merge_segments};
pub(crate) use read::SegmentKey;
pub use read::{Segment, SegmentFile};
pub use seal_job::SealJob;
