//! Takes out of memory what is left there of expired points: open tails, late buffers, whole runs. A slice of series
//! at a time, under their shard's lock.

use std::sync::Arc;

use alluvium_nbtree::PageWriter;
use alluvium_types::{PARTITION_COUNT, Partition, Row};

use crate::cut::Cut;
use crate::databases::DatabaseState;
use crate::open::StoreInner;
use crate::partition::PartitionState;

/// Series looked at per hold of a shard's lock.
const SLICE_SERIES: usize = 256;

/// One pass over the series of a database.
#[derive(Debug)]
pub(crate) struct Purge {
    database: Arc<DatabaseState>,
    cut: Cut,
    partition: u8,
    row: Row,
}

/// How a pass goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PurgeProgress {
    Again,
    /// The device is behind: expired points can wait.
    Waiting,
    Done,
}

/// What became of a slice.
enum Slice {
    /// The next one begins at this row.
    Ended(Row),
    /// That was the last row.
    Done,
    Later,
}

impl Purge {
    pub(crate) fn new(database: Arc<DatabaseState>) -> Self {
        let cut = database.retention.cut();
        Self {
            database,
            cut,
            partition: 0,
            row: Row(0),
        }
    }

    pub(crate) fn is_of(&self, database: &DatabaseState) -> bool {
        self.database.id == database.id
    }

    /// Purges the next slice.
    pub(crate) fn step(&mut self, store: &StoreInner) -> PurgeProgress {
        if self.database.is_dropped() {
            return PurgeProgress::Done;
        }
        let part = self.database.touched_partition(Partition(self.partition));
        match part.map_or(Slice::Done, |part| self.slice(store, part)) {
            Slice::Later => return PurgeProgress::Waiting,
            Slice::Ended(row) => self.row = row,
            Slice::Done => {
                self.partition += 1;
                self.row = Row(0);
            }
        }
        if usize::from(self.partition) < PARTITION_COUNT {
            PurgeProgress::Again
        } else {
            PurgeProgress::Done
        }
    }

    fn slice(&self, store: &StoreInner, part: &PartitionState) -> Slice {
        let mut shard = store.shard_of(part.partition).state.lock();
        let shard = &mut *shard;
        if shard.admit(&store.config).is_err() {
            return Slice::Later;
        }
        let database = &self.database;
        shard.encoder.set_compression(database.settings.compression);
        let lsn = shard.last_lsn[usize::from(part.partition.0)];
        let mut out = PageWriter::new(&mut shard.appender, &mut shard.encoder, database.id, lsn);
        let table = part.table.read();
        let (mut heap, mut seen) = (0, 0);
        let mut end = Slice::Done;
        // Those that are away are passed over: reads go by the cut, and they are rid of what has expired when they come
        // back and the next cut comes.
        let mut next = table.next_here(self.row);
        while let Some(row) = next {
            if seen >= SLICE_SERIES {
                end = Slice::Ended(row);
                break;
            }
            next = table.next_here(Row(row.0 + 1));
            seen += 1;
            for (_, series) in table.of_row(row) {
                seen += 1;
                let mut state = series.lock();
                let before = state.heap_bytes() as i64;
                let leaves = state.leaves();
                if !state.expire(&mut out, &self.cut) {
                    continue;
                }
                let dead = leaves.saturating_sub(state.leaves());
                database.space.note_dead_leaves(dead);
                heap += state.heap_bytes() as i64 - before;
                if !state.dirty {
                    state.dirty = true;
                    shard.dirty_heap_bytes += state.heap_bytes() as u64;
                    shard.dirty.push((Arc::clone(database), Arc::clone(series)));
                }
            }
        }
        database.charge(heap);
        end
    }
}
