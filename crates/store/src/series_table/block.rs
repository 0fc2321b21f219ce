//! A block of rows of the table: those with a series in memory, and the others packed.

use std::sync::Arc;

use alluvium_types::FieldId;
use smallvec::SmallVec;

use super::packed::{AwayEntry, Packed};
use crate::series::Series;
use crate::tail_files::RecordPlace;

/// Series that are away and not packed are packed from so many on, and one for each four that are.
const LOOSE_MIN: usize = 16;

/// What there is of a series.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is in memory.
    Here { field: FieldId, series: Arc<Series> },
    /// It is in a record; see [`RecordPlace::parts`]. Nobody has it in memory.
    Away { file: u8, field: FieldId, at: u64 },
}

const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    pub(super) fn away(field: FieldId, record: RecordPlace) -> Self {
        let (file, at) = RecordPlace::parts(Some(record));
        Self::Away { file, field, at }
    }

    pub(super) fn field(&self) -> FieldId {
        match self {
            Self::Here { field, .. } | Self::Away { field, .. } => *field,
        }
    }

    pub(super) fn here(&self) -> Option<&Arc<Series>> {
        match self {
            Self::Here { series, .. } => Some(series),
            Self::Away { .. } => None,
        }
    }

    pub(super) fn record(&self) -> Option<RecordPlace> {
        match self {
            Self::Here { .. } => None,
            Self::Away { file, at, .. } => RecordPlace::of_parts(*file, *at),
        }
    }
}

/// The entries of a row, by field.
pub(super) type RowEntries = SmallVec<[Entry; 1]>;

/// Up to 128 rows.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The rows that have entries of their own; these are in `rows`, in their order.
    present: u128,
    rows: Vec<RowEntries>,
    /// Series that are away, but for those with an entry of their own: that counts.
    packed: Option<Packed>,
    /// Entries of their own that are away.
    loose: usize,
}

impl Block {
    fn rank(&self, row: u8) -> usize {
        (self.present & ((1 << row) - 1)).count_ones() as usize
    }

    /// A row's own entries.
    #[inline]
    pub(super) fn own(&self, row: u8) -> &[Entry] {
        if self.present >> row & 1 == 0 {
            return &[];
        }
        &self.rows[self.rank(row)]
    }

    /// A series' own entry. Rows of a measurement mostly have its first fields, all of them.
    #[inline]
    pub(super) fn entry(&self, row: u8, field: FieldId) -> Option<&Entry> {
        let entries = self.own(row);
        if let Some(entry) = entries.get(field.0 as usize)
            && entry.field() == field
        {
            return Some(entry);
        }
        let at = entries.binary_search_by_key(&field, Entry::field).ok()?;
        entries.get(at)
    }

    /// The record of a series without an entry of its own.
    pub(super) fn packed(&self, row: u8, field: FieldId) -> Option<RecordPlace> {
        self.packed.as_ref()?.get(row, field)
    }

    pub(super) fn is_packed(&self, row: u8, field: FieldId) -> bool {
        let packed = self.packed.as_ref();
        packed.is_some_and(|packed| packed.contains(row, field))
    }

    /// Fields and records of what is packed of a row, also of those with an entry of their own.
    pub(super) fn packed_of_row(&self, row: u8) -> SmallVec<[(FieldId, RecordPlace); 4]> {
        let packed = self.packed.as_ref();
        packed.map_or(SmallVec::new(), |packed| packed.of_row(row))
    }

    /// The next row from `row` on that has entries of its own.
    pub(super) fn next_own(&self, row: u8) -> Option<u8> {
        let rest = self.present >> row;
        (rest != 0).then(|| row + rest.trailing_zeros() as u8)
    }

    /// Puts an entry in the place of a series' own, and returns that.
    pub(super) fn set(&mut self, row: u8, new: Entry) -> Option<Entry> {
        let rank = self.rank(row);
        if self.present >> row & 1 == 0 {
            self.present |= 1 << row;
            self.rows.insert(rank, RowEntries::new());
        }
        self.loose += usize::from(new.here().is_none());
        let entries = &mut self.rows[rank];
        match entries.binary_search_by_key(&new.field(), Entry::field) {
            Ok(at) => {
                let old = std::mem::replace(&mut entries[at], new);
                self.loose -= usize::from(old.here().is_none());
                Some(old)
            }
            Err(at) => {
                entries.insert(at, new);
                None
            }
        }
    }

    /// Lets `change` turn entries of a row that are in memory into records.
    pub(super) fn spill(
        &mut self,
        row: u8,
        mut change: impl FnMut(&mut Arc<Series>) -> Option<RecordPlace>,
    ) -> usize {
        if self.present >> row & 1 == 0 {
            return 0;
        }
        let rank = self.rank(row);
        let mut gone = 0;
        for entry in &mut self.rows[rank] {
            if let Entry::Here { field, series } = entry
                && let Some(record) = change(series)
            {
                *entry = Entry::away(*field, record);
                gone += 1;
            }
        }
        self.loose += gone;
        gone
    }

    pub(super) fn has_no_own(&self) -> bool {
        self.present == 0
    }

    /// Takes out what is packed, unless rows have entries of their own.
    pub(super) fn unpack(&mut self, entries: &mut Vec<AwayEntry>) {
        if self.has_no_own()
            && let Some(packed) = self.packed.take()
        {
            entries.extend(packed.entries());
        }
    }

    /// Packs series of a block without any.
    pub(super) fn pack_all(&mut self, entries: &[AwayEntry]) {
        if let Some(packed) = Packed::new(entries) {
            self.packed = Some(packed);
        }
    }

    /// Lets go of all there is of a series.
    pub(super) fn remove(&mut self, row: u8, field: FieldId) {
        if self.present >> row & 1 == 1 {
            let rank = self.rank(row);
            let entries = &mut self.rows[rank];
            if let Ok(at) = entries.binary_search_by_key(&field, Entry::field) {
                let old = entries.remove(at);
                self.loose -= usize::from(old.here().is_none());
                entries.shrink_to_fit();
            }
        }
        if self.is_packed(row, field) {
            self.repack(Some((row, field)));
        }
    }

    /// Packs those that are away if there are many.
    pub(super) fn pack_if_many(&mut self) {
        let packed = self.packed.as_ref().map_or(0, Packed::count);
        if self.loose >= LOOSE_MIN + packed / 4 {
            self.repack(None);
        }
    }

    /// Packs those that are away.
    pub(super) fn pack(&mut self) {
        if self.loose > 0 {
            self.repack(None);
        }
    }

    /// Takes packed series, all in `file`, in the place of the packed ones if it has the same, and none of them was there
    /// before.
    pub(super) fn replace(&mut self, new: Packed, file: u8) -> Result<(), Packed> {
        match &mut self.packed {
            Some(packed) if self.present == 0 && new.may_replace(packed, file) => {
                *packed = new;
                Ok(())
            }
            _ => Err(new),
        }
    }

    /// Packs those that are away, but for `without`. What was packed and has an entry of its own goes.
    fn repack(&mut self, without: Option<(u8, FieldId)>) {
        let packed = self.packed.take();
        let packed = packed.map_or(SmallVec::new(), |packed| packed.entries());
        let mut away: Vec<AwayEntry> = packed
            .into_iter()
            .filter(|(row, field, _)| {
                Some((*row, *field)) != without && self.entry(*row, *field).is_none()
            })
            .collect();
        let mut present = self.present;
        for entries in &mut self.rows {
            let row = present.trailing_zeros() as u8;
            present &= present - 1;
            entries.retain(|entry| {
                let record = entry.record();
                away.extend(record.map(|record| (row, entry.field(), record)));
                entry.here().is_some()
            });
            entries.shrink_to_fit();
            if entries.is_empty() {
                self.present &= !(1 << row);
            }
        }
        self.rows.retain(|entries| !entries.is_empty());
        if self.rows.len() < self.rows.capacity() / 2 {
            self.rows.shrink_to_fit();
        }
        self.loose = 0;
        away.sort_unstable_by_key(|(row, field, _)| (*row, *field));
        self.packed = Packed::new(&away);
    }

    /// Bytes on the heap but for what rows have there, and an allocator's own sixteen for each allocation.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let packed = self.packed.as_ref().map_or(0, |p| p.heap_bytes() + 16);
        packed + self.rows.capacity() * size_of::<RowEntries>()
    }

    #[cfg(test)]
    pub(super) fn packed_series(&self) -> &Packed {
        self.packed.as_ref().expect("something is packed")
    }
}
