//! What one partition of one database has in memory: its index and its series by row.

use std::sync::Arc;

use alluvium_index::{DefinitionMark, PartitionIndex};
use alluvium_types::{FieldId, Partition, Row};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::series::{Series, SeriesPlace};

/// A partition. Only its shard's owner changes it, under the shard's lock; readers share the two locks.
#[derive(Debug)]
pub(crate) struct PartitionState {
    pub partition: Partition,
    pub index: RwLock<PartitionIndex>,
    pub table: RwLock<SeriesTable>,
    /// Definitions up to here are in a part that a superblock names.
    pub sealed: Mutex<DefinitionMark>,
}

impl PartitionState {
    pub(crate) fn new(partition: Partition) -> Self {
        let index = PartitionIndex::new();
        let sealed = Mutex::new(index.mark());
        Self {
            partition,
            index: RwLock::new(index),
            table: RwLock::default(),
            sealed,
        }
    }
}

/// Series by row, then by field.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    rows: Vec<SmallVec<[(FieldId, Arc<Series>); 1]>>,
}

impl SeriesTable {
    /// Cost: one index into the rows, one probe where the field's number says, else a binary search.
    #[inline]
    pub(crate) fn get(&self, row: Row, field: FieldId) -> Option<&Arc<Series>> {
        let fields = self.rows.get(row.0 as usize)?;
        // Rows of a measurement mostly have its first fields, all of them.
        if let Some((id, series)) = fields.get(field.0 as usize)
            && *id == field
        {
            return Some(series);
        }
        let at = fields.binary_search_by_key(&field, |(id, _)| *id).ok()?;
        fields.get(at).map(|(_, series)| series)
    }

    /// The series, made if it is not there. Returns whether it was made.
    pub(crate) fn ensure(&mut self, place: SeriesPlace) -> (&Arc<Series>, bool) {
        let row = place.row.0 as usize;
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, SmallVec::new);
        }
        let fields = &mut self.rows[row];
        match fields.binary_search_by_key(&place.field, |(id, _)| *id) {
            Ok(at) => (&fields[at].1, false),
            Err(at) => {
                fields.insert(at, (place.field, Arc::new(Series::new(place))));
                (&fields[at].1, true)
            }
        }
    }

    /// The series of each row from `row` on, with its number.
    pub(crate) fn rows_from(
        &self,
        row: Row,
    ) -> impl Iterator<Item = (Row, impl Iterator<Item = &Arc<Series>>)> {
        let begin = (row.0 as usize).min(self.rows.len());
        self.rows[begin..]
            .iter()
            .enumerate()
            .map(move |(i, fields)| {
                let series = fields.iter().map(|(_, series)| series);
                (Row((begin + i) as u32), series)
            })
    }

    /// Every series, by row and field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.rows
            .iter()
            .flat_map(|fields| fields.iter().map(|(_, series)| series))
    }
}
