//! Rows of the index that cannot be read: an error, or a note beside an answer without them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

/// The rows of each partition, and what was met first.
type Noted = BTreeMap<Partition, LostRows>;

/// What becomes of rows that cannot be read: an error, unless somebody wants to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnLoss(Option<Arc<Mutex<Noted>>>);

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
        for lost in lost {
            let Some(noted) = &self.0 else {
                return Err(lost.error);
            };
            match noted.lock().entry(partition) {
                Entry::Occupied(mut known) => known.get_mut().rows |= lost.rows,
                Entry::Vacant(place) => {
                    place.insert(lost);
                }
            }
        }
        Ok(())
    }

    /// What was noted so far: an entry a partition.
    pub(crate) fn noted(&self) -> Vec<IndexLoss> {
        let Some(noted) = &self.0 else {
            return Vec::new();
        };
        let noted = noted.lock();
        let losses = noted.iter().map(|(partition, lost)| IndexLoss {
            partition: *partition,
            tag_sets: lost.rows.len(),
            error: lost.error.clone(),
        });
        losses.collect()
    }
}
