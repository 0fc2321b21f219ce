//! What reading cost: counted by every walk, added up by whoever answers a query.

/// Counters of one or more reads of trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadStats {
    /// Leaf pages opened.
    pub leaf_pages: u64,
    /// Inner pages opened.
    pub inner_pages: u64,
    /// Pages of long strings opened.
    pub overflow_pages: u64,
    /// Pages of the above that came from memory.
    pub cached_pages: u64,
    /// Subtrees answered by their aggregate without being opened.
    pub aggregates_used: u64,
    /// Blocks decoded, open tails included.
    pub blocks_decoded: u64,
    /// Points decoded.
    pub points_decoded: u64,
    /// Pages wanted that had expired; treated as absent.
    pub expired_pages: u64,
    /// Pages wanted that were damaged.
    pub bad_pages: u64,
}

impl ReadStats {
    /// Adds the counters of another read.
    pub fn merge(&mut self, other: &Self) {
        self.leaf_pages += other.leaf_pages;
        self.inner_pages += other.inner_pages;
        self.overflow_pages += other.overflow_pages;
        self.cached_pages += other.cached_pages;
        self.aggregates_used += other.aggregates_used;
        self.blocks_decoded += other.blocks_decoded;
        self.points_decoded += other.points_decoded;
        self.expired_pages += other.expired_pages;
        self.bad_pages += other.bad_pages;
    }
}
