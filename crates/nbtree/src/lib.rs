//! One run of one series: an append-only tree of 4 KiB pages with aggregates.
//!
//! [`Tree`] takes points in order of time and keeps only its right edge in memory: an open leaf and the
//! entries no inner page holds yet. Full leaves and inner pages are appended to volumes and never change.
//! A [`SharedTree`] is read without a lock while it is written. [`TreeSnapshot`] reads a run as it was at one moment:
//! aggregates of any range from a few pages, buckets, and scans either way.
//!
//! [`Merge`] makes one run of several, by reference where they do not overlap.
//!
//! It does not know which runs a series has, nor retention or the log; and a tree never reads while it appends.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use alluvium_block::BlockStore;
//! use alluvium_codec::Encoder;
//! use alluvium_io::{Lane, MemoryDevice};
//! use alluvium_nbtree::{PageWriter, ReadStats, Tree};
//! use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange, ValueKind};
//!
//! let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
//! let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
//! let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
//! let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::I64);
//! let mut tree = Tree::new(series, 0, Lsn(1));
//! for n in 0..10_000 {
//!     tree.push_bits(&mut out, n * 1_000, n as u64);
//! }
//! let range = TimeRange::new(5_000, 9_000)?;
//! let mut stats = ReadStats::default();
//! let aggregate = tree.snapshot().aggregate(&store, range, &mut stats)?;
//! assert_eq!((aggregate.count, aggregate.mean()), (4, Some(6.5)));
//! # Ok(())
//! # }
//! ```
//!
//! Limits: 2^32 leaves a run, 64 entries an inner page, strings of 64 KiB.

mod adopt;
mod columns;
mod cursor;
mod descent;
mod describe;
mod edge;
mod error;
mod expiry;
mod inner;
mod knobs;
mod layout;
mod leaf;
mod long_text;
mod merge;
#[cfg(test)]
mod model_tests;
mod open_leaf;
mod owned;
mod packer;
mod page_check;
mod page_walk;
mod parting;
mod reader;
mod salvage;
mod sealed;
mod sealing;
mod snapshot;
mod state;
mod stats;
mod subtree_ref;
mod tails;
mod tree;
mod walk;
mod weave;

pub use alluvium_codec::Encoder;
pub use cursor::{Cursor, Direction};
pub use describe::{
    BlockDescription, InnerDescription, LeafDescription, describe_inner, describe_leaf,
};
pub use error::{BadPageCause, BodyError, TreeError};
pub use expiry::Expiry;
pub use merge::{Merge, MergeProgress, MergeSource, MergeStats};
pub use owned::{SharedTree, SharedTreeLock, Tree};
pub use page_check::PageCheck;
pub use page_walk::{PageWalk, WalkScope};
pub use salvage::{salvaged_leaf, salvaged_text};
pub use snapshot::TreeSnapshot;
pub use stats::ReadStats;
pub use subtree_ref::SubtreeRef;
pub use tails::{
    TailHead, TailKey, TailRecord, put_tail_record, read_tail_record, tail_record_head,
    tail_record_len, tail_records,
};
pub use tree::{PageWriter, TreeMut};
pub use weave::LatePoints;
