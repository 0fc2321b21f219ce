//! Everything of a run before its tail, as it stood when the last block was made. Never changed: the next one is
//! made beside it and shares what did not change.

use std::sync::Arc;

use alluvium_codec::Hint;
use alluvium_types::{Lsn, SeriesId};
use smallvec::SmallVec;

use crate::open_leaf::OpenLeaf;
use crate::subtree_ref::SubtreeRef;

/// References no inner page holds yet: `[0]` to leaves, `[n]` to inner pages of level n.
pub(crate) type Levels = SmallVec<[Arc<Vec<SubtreeRef>>; 1]>;

#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) series: SeriesId,
    pub(crate) run_ordinal: u32,
    pub(crate) birth: Lsn,
    /// Serial number of the next leaf: how many the run, or those merged into it, have written.
    pub(crate) next_leaf: u32,
    /// In pages and blocks.
    pub(crate) points: u64,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    /// Raw bits of the newest point in it; 0 for strings.
    pub(crate) last_bits: u64,
    pub(crate) levels: Levels,
    pub(crate) open: OpenLeaf,
    pub(crate) hint: Hint,
}

impl Sealed {
    pub(crate) fn new(series: SeriesId, run_ordinal: u32, birth: Lsn) -> Self {
        Self {
            series,
            run_ordinal,
            birth,
            next_leaf: 0,
            points: 0,
            first_time: 0,
            last_time: 0,
            last_bits: 0,
            levels: Levels::new(),
            open: OpenLeaf::new(series.kind()),
            hint: Hint::default(),
        }
    }

    /// Bytes on the heap, its own included.
    pub(crate) fn heap_bytes(&self) -> usize {
        let level = |l: &Arc<Vec<SubtreeRef>>| {
            l.capacity() * size_of::<SubtreeRef>() + size_of::<Vec<SubtreeRef>>() + 16
        };
        let levels: usize = self.levels.iter().map(level).sum();
        let spilled = if self.levels.spilled() {
            self.levels.capacity() * size_of::<Arc<Vec<SubtreeRef>>>()
        } else {
            0
        };
        size_of::<Self>() + 24 + levels + spilled + self.open.heap_bytes()
    }
}
