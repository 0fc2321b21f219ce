//! What a parent keeps of a child page: where it is, what is below it, and its aggregate.

use alluvium_block::PageRef;
use alluvium_types::{Aggregate, TimeRange};

/// A sealed page of a tree and everything known of the points below it without reading it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubtreeRef {
    /// The page.
    pub page: PageRef,
    /// The oldest volume that holds a page below, this one included: expired with it, some points are gone.
    pub oldest_volume: u32,
    /// How many leaves are below; 1 for a leaf.
    pub leaves: u32,
    /// Aggregate of every point below; its ends are the time range.
    pub aggregate: Aggregate,
}

impl SubtreeRef {
    /// Time of the oldest point below, in nanoseconds.
    pub fn first_time(&self) -> i64 {
        self.aggregate.first.time
    }

    /// Time of the newest point below, in nanoseconds.
    pub fn last_time(&self) -> i64 {
        self.aggregate.last.time
    }
}

/// The part of `refs`, which ascend in time, that overlaps `range`.
pub(crate) fn overlapping(refs: &[SubtreeRef], range: TimeRange) -> &[SubtreeRef] {
    let begin = refs.partition_point(|r| r.last_time() < range.begin());
    let rest = &refs[begin..];
    &rest[..rest.partition_point(|r| r.first_time() < range.end())]
}
