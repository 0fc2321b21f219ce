//! Room in memory for what a batch would make: asked for before it is made, so that no body passes the budget.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_types::{Owner, PARTITION_COUNT, Partition};

use super::Writer;
use crate::error::WriteError;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recall::SERIES_BYTES;

/// Bytes of the index for a new tag set beside its text, at most; measured: 100 to 140.
const ROW_BYTES: u64 = 160;

/// Bytes of the index for a new field of a measurement beside its name.
const FIELD_BYTES: u64 = 128;

/// Bytes of a new series: in its table, and in the index.
const NEW_SERIES_BYTES: u64 = SERIES_BYTES as u64 + 8;

/// A batch that may need more than such a share of the budget is looked at line by line.
const ROUGH_SHARE: u64 = 64;

/// What a batch would make at most, as far as was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct New {
    pub rows: u64,
    pub fields: u64,
    pub series: u64,
    /// Of keys and of names of fields.
    pub text_bytes: u64,
}

impl New {
    /// Bytes of the index alone; series are charged as they are made.
    fn index_bytes(self) -> u64 {
        self.rows * ROW_BYTES + self.fields * FIELD_BYTES + self.text_bytes
    }

    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.fields += other.fields;
        self.series += other.series;
        self.text_bytes += other.text_bytes;
    }

    fn bytes(self) -> u64 {
        self.index_bytes() + self.series * NEW_SERIES_BYTES
    }
}

/// Memory held for what a batch makes, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    store: Arc<StoreInner>,
    bytes: u64,
}

impl Room {
    /// Ends with the batch: what was made in the index stays told to the budget until the index is looked at.
    pub(super) fn end(mut self, made: New) {
        let kept = made.index_bytes().min(self.bytes);
        let unseen = &self.store.governor_counts.index_unseen;
        unseen.fetch_add(kept, Ordering::Relaxed);
        self.bytes -= kept;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.store.budget.release(Owner::Index, self.bytes);
    }
}

impl Writer {
    /// Asks the budget for what the batch would make. Costs nothing where every series is known, and a look at each line
    /// where memory is short.
    ///
    /// # Errors
    /// [`WriteError::NewSeries`] if `memory_series_percent` of the budget have no room for it.
    pub(super) fn make_room(&mut self) -> Result<Option<Room>, WriteError> {
        let (keys, text_bytes) = self.keys.unresolved_size();
        let unsettled = self.batch.unsettled;
        // What a delete took is made again.
        let is_stale = (0..PARTITION_COUNT).any(|p| {
            let part = self.database.touched_partition(Partition(p as u8));
            let removals = |part: &Arc<PartitionState>| part.removals.load(Ordering::Relaxed);
            !self.batch.lines[p].is_empty()
                && part.is_some_and(|part| removals(part) != self.removals[p])
        });
        if keys == 0 && unsettled == 0 && !is_stale {
            return Ok(None);
        }
        let most = New {
            rows: keys,
            fields: unsettled,
            series: unsettled,
            text_bytes: text_bytes + self.met_since() as u64,
        };
        let store = Arc::clone(&self.store);
        let limit = store.series_limit();
        let room = |bytes| {
            let taken = store.budget.reserve_within(Owner::Index, bytes, limit);
            taken.map(|()| {
                Some(Room {
                    store: Arc::clone(&store),
                    bytes,
                })
            })
        };
        let is_rough = !is_stale && most.bytes() <= limit / ROUGH_SHARE;
        if is_rough && let Ok(room) = room(most.bytes()) {
            return Ok(room);
        }
        let new = self.look(Self::count_new)?;
        if new.bytes() == 0 {
            return Ok(None);
        }
        room(new.bytes()).map_err(|refusal| {
            store.note_refusal(new.bytes() + self.staging.reserved());
            WriteError::NewSeries(refusal)
        })
    }
}
