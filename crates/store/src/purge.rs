//! Takes out of memory what is left there of expired points: open tails, late buffers, whole runs. A slice of series
//! at a time, under their shard's lock.

use std::sync::Arc;

use alluvium_nbtree::PageWriter;
use alluvium_types::{PARTITION_COUNT, Partition, Row};

use crate::cut::Cut;
use crate::databases::DatabaseState;
use crate::open::StoreInner;

/// Series looked at per hold of a shard's lock.
const SLICE_SERIES: usize = 256;

/// One pass over the series of a database.
#[derive(Debug)]
pub(crate) struct Purge {
    database: Arc<DatabaseState>,
    cut: Cut,
    partition: u8,
    row: u32,
}

impl Purge {
    pub(crate) fn new(database: Arc<DatabaseState>) -> Self {
        let cut = database.retention.cut();
        Self {
            database,
            cut,
            partition: 0,
            row: 0,
        }
    }

    pub(crate) fn is_of(&self, database: &DatabaseState) -> bool {
        self.database.id == database.id
    }

    /// Purges the next slice; `true` when all is done.
    pub(crate) fn step(&mut self, store: &StoreInner) -> bool {
        if usize::from(self.partition) >= PARTITION_COUNT || self.database.is_dropped() {
            return true;
        }
        let partition = Partition(self.partition);
        let next = match self.database.touched_partition(partition) {
            None => None,
            Some(part) => {
                let mut shard = store.shard_of(partition).state.lock();
                let shard = &mut *shard;
                if shard.admit(&store.config).is_err() {
                    // The device is behind; expired points can wait.
                    return false;
                }
                shard
                    .encoder
                    .set_compression(self.database.settings.compression);
                let lsn = shard.last_lsn[usize::from(self.partition)];
                let mut out = PageWriter::new(
                    &mut shard.appender,
                    &mut shard.encoder,
                    self.database.id,
                    lsn,
                );
                let table = part.table.read();
                let mut heap = 0;
                let mut seen = 0;
                let mut rows = table.rows_from(Row(self.row));
                let next = loop {
                    let Some((row, series)) = rows.next() else {
                        break None;
                    };
                    if seen >= SLICE_SERIES {
                        break Some(row);
                    }
                    for series in series {
                        seen += 1;
                        let mut state = series.lock();
                        let before = state.heap_bytes() as i64;
                        if state.expire(&mut out, &self.cut) {
                            heap += state.heap_bytes() as i64 - before;
                            if !state.dirty {
                                state.dirty = true;
                                let entry = (Arc::clone(&self.database), Arc::clone(series));
                                shard.dirty.push(entry);
                            }
                        }
                    }
                };
                self.database.charge(heap);
                next
            }
        };
        match next {
            Some(row) => self.row = row.0,
            None => {
                self.partition += 1;
                self.row = 0;
            }
        }
        usize::from(self.partition) >= PARTITION_COUNT
    }
}
