//! The sizes that shape a tree. Tests shrink them to grow tall trees from few points.

use alluvium_block::PageDraft;
use alluvium_codec::MAX_BLOCK_POINTS;

/// Sizes of a tree's parts.
#[derive(Debug)]
pub(crate) struct Knobs {
    /// Points at which the tail becomes a block.
    pub(crate) tail_points: usize,
    /// Bytes at which the tail becomes a block.
    pub(crate) tail_bytes: usize,
    /// Points of a finished block.
    pub(crate) block_points: usize,
    /// Bytes of a leaf's body.
    pub(crate) leaf_bytes: usize,
    /// Bytes of an inner page's body.
    pub(crate) inner_bytes: usize,
    /// Most entries of an inner page: bounds the unfinished entries in memory.
    pub(crate) fan_out_max: usize,
}

/// What every tree on disk is shaped by.
pub(crate) static KNOBS: Knobs = Knobs {
    tail_points: 512,
    tail_bytes: 1024,
    block_points: MAX_BLOCK_POINTS,
    leaf_bytes: PageDraft::BODY_BYTES,
    inner_bytes: PageDraft::BODY_BYTES,
    fan_out_max: 64,
};
