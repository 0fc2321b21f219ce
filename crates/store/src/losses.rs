//! Rows of the index that cannot be read: an error, or a note beside an answer without them.

use std::sync::Arc;

use alluvium_index::{LostRows, SegmentError};
use alluvium_types::Partition;
use parking_lot::Mutex;

/// Tag sets that an answer may lack, because both copies of a block of the index are damaged.
#[derive(Debug, Clone)]
pub struct IndexLoss {
    /// Where they are.
    pub partition: Partition,
    /// How many, at most.
    pub tag_sets: u64,
    /// What was met first.
    pub error: SegmentError,
}

/// What becomes of rows that cannot be read: an error, unless somebody wants to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnLoss(Option<Arc<Mutex<Vec<IndexLoss>>>>);

impl OnLoss {
    /// Notes them.
    pub(crate) fn noting() -> Self {
        Self(Some(Arc::default()))
    }

    pub(crate) fn take(
        &self,
        partition: Partition,
        lost: impl IntoIterator<Item = LostRows>,
    ) -> Result<(), SegmentError> {
        for LostRows { rows, error } in lost {
            let Some(noted) = &self.0 else {
                return Err(error);
            };
            let mut noted = noted.lock();
            let text = error.to_string();
            let is_it =
                |n: &&mut IndexLoss| n.partition == partition && n.error.to_string() == text;
            // One block fails every question that comes by it.
            if let Some(known) = noted.iter_mut().find(is_it) {
                known.tag_sets = known.tag_sets.max(rows);
                continue;
            }
            noted.push(IndexLoss {
                partition,
                tag_sets: rows,
                error,
            });
        }
        Ok(())
    }

    /// What was noted so far.
    pub(crate) fn noted(&self) -> Vec<IndexLoss> {
        self.0.as_ref().map_or_else(Vec::new, |n| n.lock().clone())
    }
}
