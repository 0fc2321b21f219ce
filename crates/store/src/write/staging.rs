//! Memory of the lines between parsing and commit: the budget is asked before they grow, and large buffers go with their batch.

use alluvium_types::{Owner, PARTITION_COUNT};
use alluvium_wal::PointGroup;

use super::{Batch, BatchLine, Writer};
use crate::error::WriteError;

/// One writer keeps at most this part of the memory budget for its next batch, whatever the setting says.
const KEPT_SHARE: u64 = 1024;

/// Bytes of lines after which the budget is asked again, at least.
const LOOK_BYTES: usize = 16 << 10;

/// What a writer has told the budget of its buffers.
#[derive(Debug, Default)]
pub(super) struct Staging {
    reserved: u64,
    /// Bytes of lines up to which that is enough.
    enough_until: usize,
}

impl Staging {
    /// Bytes that it has told.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }
}

impl Writer {
    /// Asks the budget for what the lines so far may need next. To be called behind each line: until they have grown by a
    /// quarter it is a comparison.
    ///
    /// # Errors
    /// If `memory_staging_percent` of the budget do not cover it: the batch is forgotten.
    #[inline]
    pub fn admit_growth(&mut self) -> Result<(), WriteError> {
        let size = self.batch.size() + self.met_since();
        if size <= self.staging.enough_until {
            return Ok(());
        }
        self.reserve_staging(size)
    }

    #[cold]
    fn reserve_staging(&mut self, size: usize) -> Result<(), WriteError> {
        // Each buffer doubles once at most before the next look.
        let needed = 2 * self.staging_bytes() + 4 * LOOK_BYTES as u64;
        let more = needed.saturating_sub(self.staging.reserved);
        let budget = &self.store.budget;
        let limit = self.store.staging_limit();
        // What it holds already is its own, however little is left.
        if more > 0
            && let Err(refusal) = budget.reserve_within(Owner::Staging, more, limit)
        {
            self.clear();
            return Err(refusal.into());
        }
        self.staging.reserved += more;
        self.staging.enough_until = size + size / 4 + LOOK_BYTES;
        Ok(())
    }

    /// Lets large buffers go behind a batch, all of them where memory is short, and tells the budget what is left.
    pub(super) fn settle_staging(&mut self) {
        let share = self.store.budget.limit() / KEPT_SHARE;
        let kept = share.min(self.store.config.writer_staging_bytes_max as u64);
        let is_short = self.store.budget.used() > self.store.soft_limit();
        if is_short || self.batch.heap_bytes() as u64 > kept {
            self.batch = Batch::default();
            self.group = PointGroup::default();
        }
        let bytes = self.staging_bytes();
        let budget = &self.store.budget;
        budget.force(Owner::Staging, bytes);
        budget.release(Owner::Staging, self.staging.reserved);
        self.staging = Staging {
            reserved: bytes,
            enough_until: 0,
        };
    }

    /// Gives back all it has told the budget.
    pub(super) fn release_staging(&mut self) {
        let budget = &self.store.budget;
        budget.release(Owner::Staging, self.staging.reserved);
        self.staging = Staging::default();
    }

    fn staging_bytes(&self) -> u64 {
        let group = &self.group;
        let of_group = group.rows.capacity() * 4
            + (group.times.capacity() + group.bits.capacity()) * 8
            + group.strings.heap_bytes();
        (self.batch.heap_bytes() + of_group + self.met_since()) as u64
    }
}

impl Batch {
    /// Bytes of the lines, without the room of their buffers.
    fn size(&self) -> usize {
        self.line_count * size_of::<BatchLine>()
            + self.bits.len() * 8
            + self.strings.len() * 4
            + self.strings.text_bytes()
    }

    fn heap_bytes(&self) -> usize {
        let lines: usize = self.lines.iter().map(Vec::capacity).sum();
        lines * size_of::<BatchLine>() + self.bits.capacity() * 8 + self.strings.heap_bytes()
    }
}

const _: () = assert!(
    PARTITION_COUNT <= 64,
    "a look sums the room of as many lists"
);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_io::{Device, MemoryDevice, SystemClock};
    use alluvium_types::{SeriesKey, ValueRef};

    use super::*;
    use crate::{Store, StoreConfig};

    #[test]
    fn lines_are_asked_for_before_they_grow_and_given_back_behind_them() {
        let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
        let config = StoreConfig {
            shards: 2,
            memory_bytes: 32 << 20,
            volume_bytes: 1 << 20,
            heap: None,
            ..StoreConfig::default()
        };
        let store = Store::open(device, Arc::new(SystemClock), config).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        let mut writer = database.writer();
        let staged = |writer: &Writer| writer.store.budget.used_by(Owner::Staging);
        let limit = 32 << 20;
        for text in ["", "some text that has to be somewhere"] {
            let mut lines = 0;
            let refused = loop {
                let key = SeriesKey::new("m", [("host", "a")]).unwrap();
                let known = writer.cached(b"m,host=a");
                let row = known.unwrap_or_else(|| writer.resolve(b"m,host=a", key));
                writer.begin_line(row, lines).unwrap();
                for field in ["a", "b", "c"] {
                    writer.field(field, ValueRef::F64(lines as f64)).unwrap();
                }
                writer.field("s", ValueRef::Str(text)).unwrap();
                writer.end_line().unwrap();
                lines += 1;
                if let Err(refusal) = writer.admit_growth() {
                    break refusal;
                }
                let held = writer.staging_bytes();
                assert!(held <= staged(&writer), "{held} bytes, {lines} lines");
            };
            assert!(matches!(refused, WriteError::Memory(_)), "{refused}");
            assert!(lines > 10_000, "{lines} lines only");
            assert_eq!(writer.lines(), 0);
            assert!(staged(&writer) <= limit / KEPT_SHARE, "{}", staged(&writer));
        }
        let key = SeriesKey::new("m", [("host", "b")]).unwrap();
        let row = writer.resolve(b"m,host=b", key);
        writer.begin_line(row, 1).unwrap();
        writer.field("a", ValueRef::F64(1.0)).unwrap();
        writer.end_line().unwrap();
        writer.commit(None).unwrap().wait().unwrap();
        let budget = Arc::clone(&writer.store.budget);
        drop(writer);
        assert_eq!(budget.used_by(Owner::Staging), 0);
    }
}
