//! Every series of a database, one after the other, whatever comes and goes meanwhile.

use std::sync::Arc;

use alluvium_types::{FieldId, PARTITION_COUNT, Partition, Row};

use crate::databases::DatabaseState;
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
    /// Gives the next few series to `take`. Returns whether there are more. One that came after the walk had passed its
    /// place is left out.
    pub(crate) fn next(
        &mut self,
        database: &DatabaseState,
        take: &mut Vec<Arc<Series>>,
        max: usize,
    ) -> bool {
        while usize::from(self.partition) < PARTITION_COUNT {
            if let Some(part) = database.touched_partition(Partition(self.partition)) {
                let table = part.table.read();
                while self.row.0 < table.row_count() {
                    let fields = table.of_row(self.row);
                    let from = self
                        .field
                        .map_or(0, |last| fields.partition_point(|(f, _)| *f <= last));
                    for (field, series) in &fields[from..] {
                        if take.len() >= max {
                            return true;
                        }
                        self.field = Some(*field);
                        take.push(Arc::clone(series));
                    }
                    self.row.0 += 1;
                    self.field = None;
                }
            }
            self.partition += 1;
            self.row = Row(0);
            self.field = None;
        }
        false
    }
}
