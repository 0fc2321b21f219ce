//! The series of a partition by row and field: in memory, or away in a tails file.

use std::sync::Arc;

use alluvium_types::{FieldId, Row};
use smallvec::SmallVec;

use crate::series::{Series, SeriesPlace};
use crate::tail_files::RecordPlace;

/// A series' place in the table: 16 bytes, which are all that one has that is away.
#[derive(Debug)]
pub(crate) enum Slot {
    /// In memory.
    Here { field: FieldId, series: Arc<Series> },
    /// In a record; see [`RecordPlace::parts`]. Nobody has it in memory.
    Away { file: u8, field: FieldId, at: u64 },
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    fn away(field: FieldId, record: RecordPlace) -> Self {
        let (file, at) = RecordPlace::parts(Some(record));
        Self::Away { file, field, at }
    }

    pub(crate) fn field(&self) -> FieldId {
        match self {
            Self::Here { field, .. } | Self::Away { field, .. } => *field,
        }
    }

    /// The series, if it is in memory.
    #[inline]
    pub(crate) fn here(&self) -> Option<&Arc<Series>> {
        match self {
            Self::Here { series, .. } => Some(series),
            Self::Away { .. } => None,
        }
    }

    /// Where its record is, if it is away.
    #[inline]
    pub(crate) fn record(&self) -> Option<RecordPlace> {
        match self {
            Self::Here { .. } => None,
            Self::Away { file, at, .. } => RecordPlace::of_parts(*file, *at),
        }
    }
}

/// Series by row, then by field.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    rows: Vec<SmallVec<[Slot; 1]>>,
    away: usize,
}

impl SeriesTable {
    /// The series, if it is in memory. Cost: one index into the rows, one probe where the field's number says, else a
    /// binary search.
    #[inline]
    pub(crate) fn get(&self, row: Row, field: FieldId) -> Option<&Arc<Series>> {
        self.slot(row, field)?.here()
    }

    /// What there is of a series.
    #[inline]
    pub(crate) fn slot(&self, row: Row, field: FieldId) -> Option<&Slot> {
        let fields = self.rows.get(row.0 as usize)?;
        // Rows of a measurement mostly have its first fields, all of them.
        if let Some(slot) = fields.get(field.0 as usize)
            && slot.field() == field
        {
            return Some(slot);
        }
        let at = fields.binary_search_by_key(&field, Slot::field).ok()?;
        fields.get(at)
    }

    fn slot_mut(&mut self, row: Row, field: FieldId) -> Option<&mut Slot> {
        let fields = self.rows.get_mut(row.0 as usize)?;
        let at = fields.binary_search_by_key(&field, Slot::field).ok()?;
        fields.get_mut(at)
    }

    /// Rows there are places for.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Series that are away.
    pub(crate) fn away(&self) -> usize {
        self.away
    }

    /// Sees to it that there is a series. Returns whether it was made.
    pub(crate) fn ensure(&mut self, place: SeriesPlace) -> bool {
        self.slot_or(place.row, place.field, || Slot::Here {
            field: place.field,
            series: Arc::new(Series::new(place)),
        })
    }

    /// Returns whether `make` was needed.
    fn slot_or(&mut self, row: Row, field: FieldId, make: impl FnOnce() -> Slot) -> bool {
        let row = row.0 as usize;
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, SmallVec::new);
        }
        let fields = &mut self.rows[row];
        match fields.binary_search_by_key(&field, Slot::field) {
            Ok(_) => false,
            Err(at) => {
                fields.insert(at, make());
                true
            }
        }
    }

    /// Puts a series into memory, in the place of what there is of it. Returns whether there was something.
    pub(crate) fn put(&mut self, series: Arc<Series>) -> bool {
        let SeriesPlace { row, field, .. } = series.place;
        self.set(row, field, Slot::Here { field, series })
    }

    /// Says that a series is in a record and not in memory. Returns whether there was something of it.
    pub(crate) fn put_away(&mut self, row: Row, field: FieldId, record: RecordPlace) -> bool {
        self.set(row, field, Slot::away(field, record))
    }

    /// Says that a series is in a record, if there is nothing of it yet.
    pub(crate) fn leave(&mut self, row: Row, field: FieldId, record: RecordPlace) {
        let new = self.slot_or(row, field, || Slot::away(field, record));
        self.away += usize::from(new);
    }

    fn set(&mut self, row: Row, field: FieldId, new: Slot) -> bool {
        self.away += usize::from(new.record().is_some());
        let mut new = Some(new);
        let made = self.slot_or(row, field, || new.take().expect("it is made once"));
        if let Some(new) = new
            && let Some(slot) = self.slot_mut(row, field)
        {
            let old = std::mem::replace(slot, new);
            self.away -= usize::from(old.record().is_some());
        }
        !made
    }

    /// Lets those series of a row out of memory for which `record` says where they are, and which nobody else has. The
    /// others are shown to `held`.
    pub(crate) fn spill_row(
        &mut self,
        row: Row,
        mut record: impl FnMut(&mut Series) -> Option<RecordPlace>,
        mut held: impl FnMut(&Series),
    ) {
        let Some(fields) = self.rows.get_mut(row.0 as usize) else {
            return;
        };
        for slot in fields {
            let Slot::Here { field, series } = slot else {
                continue;
            };
            let Some(series) = Arc::get_mut(series) else {
                held(series);
                continue;
            };
            if let Some(record) = record(series) {
                *slot = Slot::away(*field, record);
                self.away += 1;
            }
        }
    }

    /// Lets go of a series.
    pub(crate) fn remove(&mut self, row: Row, field: FieldId) {
        if let Some(fields) = self.rows.get_mut(row.0 as usize)
            && let Ok(at) = fields.binary_search_by_key(&field, Slot::field)
        {
            let old = fields.remove(at);
            self.away -= usize::from(old.record().is_some());
            fields.shrink_to_fit();
        }
    }

    /// What there is of the series of a row, by field.
    pub(crate) fn slots_of_row(&self, row: Row) -> &[Slot] {
        self.rows
            .get(row.0 as usize)
            .map_or(&[], SmallVec::as_slice)
    }

    /// The series of a row that are in memory, by field.
    pub(crate) fn of_row(&self, row: Row) -> impl Iterator<Item = (FieldId, &Arc<Series>)> {
        let slots = self.slots_of_row(row).iter();
        slots.filter_map(|slot| Some((slot.field(), slot.here()?)))
    }

    /// Rows so far: none at or above has a series.
    pub(crate) fn row_count(&self) -> u32 {
        self.rows.len() as u32
    }

    /// The series in memory of each row from `row` on, with its number.
    pub(crate) fn rows_from(
        &self,
        row: Row,
    ) -> impl Iterator<Item = (Row, impl Iterator<Item = &Arc<Series>>)> {
        let begin = (row.0 as usize).min(self.rows.len());
        self.rows[begin..]
            .iter()
            .enumerate()
            .map(move |(i, fields)| {
                let series = fields.iter().filter_map(Slot::here);
                (Row((begin + i) as u32), series)
            })
    }
}
