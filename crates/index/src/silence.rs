//! Rows that fell silent: out of the name table, but not forgotten.
//!
//! Only sealed rows leave: their segment finds them again, through its filter and one page. A table without them answers
//! "not here" for a tag set that has a row, so whoever would create one asks [`PartitionIndex::may_be_silent`] first, and
//! its segments where that is so; what they find comes back by [`PartitionIndex::restore`].

use std::sync::Arc;

use alluvium_types::Row;
use roaring::RoaringBitmap;

use crate::{KeyHash, PartitionIndex, Segment, SegmentError};

/// Shards of the name table that one part of a pass looks at.
const SHARDS_AT_ONCE: usize = 4;

impl PartitionIndex {
    /// Takes the sealed rows that are not in `active` out of the name table. Returns how many went. Costs a pass over
    /// the table.
    pub fn silence(&mut self, active: &RoaringBitmap) -> u32 {
        let sealed = self.sealed_rows();
        let gone = self
            .table
            .retain(|row| row >= sealed || active.contains(row));
        self.silent += gone;
        gone
    }

    /// As [`Self::silence`], a part of the table at a time: from `part` on, 0 at first, until there is no next one. Others may come and go
    /// in between. Costs about half a millisecond.
    pub fn silence_part(&mut self, active: &RoaringBitmap, part: usize) -> (u32, Option<usize>) {
        let sealed = self.sealed_rows();
        let end = part + SHARDS_AT_ONCE;
        let keep = |row| row >= sealed || active.contains(row);
        let gone = (part..end)
            .map(|shard| self.table.retain_in(shard, keep))
            .sum();
        self.silent += gone;
        (gone, (end < self.table.shard_count()).then_some(end))
    }

    /// Rows that are not in the name table.
    pub fn silent_rows(&self) -> u32 {
        self.silent
    }

    /// Segments that may have the row of a tag set that [`Self::lookup`] does not find; none if there surely is no such
    /// row. Never waits.
    pub fn may_be_silent(&self, hash: KeyHash) -> Vec<Arc<Segment>> {
        if self.silent == 0 {
            return Vec::new();
        }
        let segments = self.sealed.iter();
        let segments = segments.filter(|s| s.may_contain(hash));
        segments.cloned().collect()
    }

    /// Puts a row that its segment found back into the name table. Returns whether it was not there.
    pub fn restore(&mut self, hash: KeyHash, row: Row) -> bool {
        let is_silent =
            self.silent > 0 && row.0 < self.sealed_rows() && self.lookup(hash).is_none();
        if is_silent {
            self.table.insert(hash.bits(), row.0);
            self.silent -= 1;
        }
        is_silent
    }

    /// The row of a tag set wherever it is, in one step. Waits for a page if it is silent.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub fn find(&self, hash: KeyHash) -> Result<Option<Row>, SegmentError> {
        if let Some(row) = self.lookup(hash) {
            return Ok(Some(row));
        }
        find_in(&self.may_be_silent(hash), hash)
    }
}

/// The row of a tag set in one of these segments, the newest first. Waits for a page of each whose filter passes.
///
/// # Errors
/// If a page cannot be read or is damaged.
pub fn find_in(segments: &[Arc<Segment>], hash: KeyHash) -> Result<Option<Row>, SegmentError> {
    for segment in segments.iter().rev() {
        if let Some(row) = segment.find(hash)? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}
