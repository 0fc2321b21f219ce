//! Every series of a database, one after the other, whatever comes and goes meanwhile.

use std::sync::Arc;

use alluvium_types::{FieldId, PARTITION_COUNT, Partition, Row};

use crate::databases::DatabaseState;
use crate::error::RecallError;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::series::Series;

/// Where the walk is. It is by row and field, not by place in a list: a series that goes must not hide the one behind
/// it.
#[derive(Debug)]
pub(crate) struct SeriesWalk {
    partition: u8,
    row: Row,
    /// The last field of the row that was given.
    field: Option<FieldId>,
}

impl Default for SeriesWalk {
    fn default() -> Self {
        Self {
            partition: 0,
            row: Row(0),
            field: None,
        }
    }
}

impl SeriesWalk {
    /// The next series; `None` at the end. One that came after the walk had passed its place is left out. One that is away
    /// is read, and stays away; of one in two parts the older one is given, which alone has pages. Waits for that.
    pub(crate) fn next(
        &mut self,
        store: &StoreInner,
        database: &Arc<DatabaseState>,
    ) -> Result<Option<Arc<Series>>, RecallError> {
        while usize::from(self.partition) < PARTITION_COUNT {
            if let Some(part) = database.touched_partition(Partition(self.partition)) {
                while let Some((row, field, here)) = self.next_place(part) {
                    let found = match here {
                        Some(series) => Some(store.part_with_pages(database.id, series)?),
                        None => store.view(database, part, row, field, false)?,
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
            self.partition += 1;
            self.row = Row(0);
            self.field = None;
        }
        Ok(None)
    }

    /// Partition and row of the series that was given last, or whose record could not be read.
    pub(crate) fn place(&self) -> (u8, u32) {
        (self.partition, self.row.0)
    }

    fn next_place(&mut self, part: &PartitionState) -> Option<(Row, FieldId, Option<Arc<Series>>)> {
        let table = part.table.read();
        while self.row.0 < table.row_count() {
            let slots = table.slots_of_row(self.row);
            let passed = |last| slots.partition_point(|(field, _)| *field <= last);
            if let Some((field, slot)) = slots.get(self.field.map_or(0, passed)) {
                self.field = Some(*field);
                return Some((self.row, *field, slot.here().map(Arc::clone)));
            }
            self.row.0 += 1;
            self.field = None;
        }
        None
    }
}
