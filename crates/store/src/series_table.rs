//! The series of a partition by row and field: in memory, or away in a tails file.
//!
//! Rows lie in blocks of 128. One with a series in memory costs 24 bytes and 16 for each series but one; what is away is
//! packed by and by and costs about a byte a series, so that tag sets nobody asks for may be many.

use std::sync::Arc;

use alluvium_types::{FieldId, Row};
use smallvec::SmallVec;

use crate::series::{Series, SeriesPlace};
use crate::tail_files::RecordPlace;

mod block;
mod packed;
#[cfg(test)]
mod tests;

pub(crate) use packed::{AwayEntry, Packed};

use block::{Block, Entry};

/// What there is of a series.
#[derive(Debug)]
pub(crate) enum Slot<'a> {
    /// It is in memory.
    Here(&'a Arc<Series>),
    /// It is in a record. Nobody has it in memory.
    Away(RecordPlace),
}

impl<'a> Slot<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        match entry {
            Entry::Here { series, .. } => Some(Self::Here(series)),
            Entry::Away { .. } => entry.record().map(Self::Away),
        }
    }

    /// The series, if it is in memory.
    pub(crate) fn here(&self) -> Option<&'a Arc<Series>> {
        match self {
            Self::Here(series) => Some(series),
            Self::Away(_) => None,
        }
    }

    /// Where its record is, if it is away.
    pub(crate) fn record(&self) -> Option<RecordPlace> {
        match self {
            Self::Here(_) => None,
            Self::Away(record) => Some(*record),
        }
    }
}

/// Number of a row's block, and of the row in it.
fn block_of(row: Row) -> (usize, u8) {
    let rows = packed::ROWS as u32;
    ((row.0 / rows) as usize, (row.0 % rows) as u8)
}

/// Series by row, then by field.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    blocks: Vec<Block>,
    rows: u32,
    away: usize,
}

impl SeriesTable {
    /// The series, if it is in memory. Cost: three loads and a count of bits, one probe where the field's number says, else a
    /// binary search.
    #[inline]
    pub(crate) fn get(&self, row: Row, field: FieldId) -> Option<&Arc<Series>> {
        let (block, row) = block_of(row);
        self.blocks.get(block)?.entry(row, field)?.here()
    }

    /// What there is of a series. Cost of one that is away: up to 256 lengths added up.
    pub(crate) fn slot(&self, row: Row, field: FieldId) -> Option<Slot<'_>> {
        let (block, row) = block_of(row);
        let block = self.blocks.get(block)?;
        match block.entry(row, field) {
            Some(entry) => Slot::of(entry),
            None => block.packed(row, field).map(Slot::Away),
        }
    }

    /// Whether there is anything of a series.
    pub(crate) fn contains(&self, row: Row, field: FieldId) -> bool {
        let (number, row) = block_of(row);
        let is_there = |b: &Block| b.entry(row, field).is_some() || b.is_packed(row, field);
        self.blocks.get(number).is_some_and(is_there)
    }

    /// Series that are away.
    pub(crate) fn away(&self) -> usize {
        self.away
    }

    /// Rows so far: none at or above has a series.
    pub(crate) fn row_count(&self) -> u32 {
        self.rows
    }

    fn block_mut(&mut self, row: Row) -> (&mut Block, u8) {
        let (block, in_block) = block_of(row);
        if self.rows <= row.0 {
            self.rows = row.0 + 1;
            if self.blocks.len() <= block {
                if self.blocks.capacity() <= block {
                    // Not twice as many: blocks without a series in memory are about a third of what their rows cost.
                    let more = block + 1 - self.blocks.len();
                    self.blocks.reserve_exact(more.max(self.blocks.len() / 8));
                }
                self.blocks.resize_with(block + 1, Block::default);
            }
        }
        (&mut self.blocks[block], in_block)
    }

    /// Sees to it that there is a series. Returns whether it was made.
    pub(crate) fn ensure(&mut self, place: SeriesPlace) -> bool {
        let is_new = !self.contains(place.row, place.field);
        if is_new {
            self.put(Arc::new(Series::new(place)));
        }
        is_new
    }

    /// Puts a series into memory, in the place of what there is of it.
    pub(crate) fn put(&mut self, series: Arc<Series>) {
        let SeriesPlace { row, field, .. } = series.place;
        self.set(row, Entry::Here { field, series });
    }

    /// Says that a series is in a record and not in memory.
    pub(crate) fn put_away(&mut self, row: Row, field: FieldId, record: RecordPlace) {
        self.set(row, Entry::away(field, record));
        self.block_mut(row).0.pack_if_many();
    }

    /// As [`Self::put_away`] of many at once, but leaves a series alone that there is something of, and of two records of one
    /// the first counts. Returns how many were added. Costs a sort, which is little where they ascend, and each block of
    /// rows is packed once.
    pub(crate) fn add_away(&mut self, met: &mut [(Row, FieldId, RecordPlace)]) -> usize {
        met.sort_by_key(|(row, field, _)| (*row, *field));
        let before = self.away;
        let mut entries: Vec<AwayEntry> = Vec::new();
        for of_block in met.chunk_by(|a, b| block_of(a.0).0 == block_of(b.0).0) {
            let Some((last, ..)) = of_block.last() else {
                continue;
            };
            let block = self.block_mut(*last).0;
            if !block.has_no_own() {
                for (row, field, record) in of_block {
                    if !self.contains(*row, *field) {
                        self.put_away(*row, *field, *record);
                    }
                }
                continue;
            }
            entries.clear();
            block.unpack(&mut entries);
            let packed = entries.len();
            let met = of_block.iter();
            entries.extend(met.map(|(row, field, place)| (block_of(*row).1, *field, *place)));
            let key = |(row, field, _): &AwayEntry| (*row, *field);
            if !entries.is_sorted_by_key(key) {
                entries.sort_by_key(key);
            }
            entries.dedup_by_key(|entry| key(entry));
            block.pack_all(&entries);
            self.away += entries.len() - packed;
        }
        self.away - before
    }

    fn set(&mut self, row: Row, new: Entry) {
        let (field, is_away) = (new.field(), new.here().is_none());
        let (block, row) = self.block_mut(row);
        let was_away = match block.set(row, new) {
            Some(old) => old.here().is_none(),
            None => block.is_packed(row, field),
        };
        self.away += usize::from(is_away);
        self.away -= usize::from(was_away);
    }

    /// Lets those series of a row out of memory for which `record` says where they are, and which nobody else has. The
    /// others are shown to `held`.
    pub(crate) fn spill_row(
        &mut self,
        row: Row,
        mut record: impl FnMut(&mut Series) -> Option<RecordPlace>,
        mut held: impl FnMut(&Series),
    ) {
        let (block, row) = block_of(row);
        let Some(block) = self.blocks.get_mut(block) else {
            return;
        };
        self.away += block.spill(row, |series| {
            let Some(series) = Arc::get_mut(series) else {
                held(series);
                return None;
            };
            record(series)
        });
    }

    /// Packs what is away of these rows, and of others in their blocks.
    pub(crate) fn pack(&mut self, rows: std::ops::Range<u32>) {
        let (first, last) = (block_of(Row(rows.start)).0, block_of(Row(rows.end)).0);
        let blocks = self.blocks.iter_mut().skip(first);
        blocks.take(last + 1 - first).for_each(Block::pack);
    }

    /// Packs all that is away.
    pub(crate) fn pack_all(&mut self) {
        self.blocks.iter_mut().for_each(Block::pack);
    }

    /// Takes packed series of a block, all in the file of that number, in the place of those there: if they are the same, and
    /// nothing of the block is in memory or in that file. Returns them otherwise.
    pub(crate) fn replace_away(&mut self, block: u32, new: Packed, file: u8) -> Result<(), Packed> {
        match self.blocks.get_mut(block as usize) {
            Some(block) => block.replace(new, file),
            None => Err(new),
        }
    }

    /// Lets go of a series.
    pub(crate) fn remove(&mut self, row: Row, field: FieldId) {
        let is_away = self.slot(row, field).is_some_and(|s| s.here().is_none());
        self.away -= usize::from(is_away);
        let (block, row) = block_of(row);
        if let Some(block) = self.blocks.get_mut(block) {
            block.remove(row, field);
        }
    }

    /// What there is of the series of a row, by field. Cost: see [`Self::slot`].
    pub(crate) fn slots_of_row(&self, row: Row) -> SmallVec<[(FieldId, Slot<'_>); 4]> {
        let (block, row) = block_of(row);
        let Some(block) = self.blocks.get(block) else {
            return SmallVec::new();
        };
        let own = block.own(row).iter();
        let own = own.filter_map(|entry| Some((entry.field(), Slot::of(entry)?)));
        let mut slots: SmallVec<[(FieldId, Slot<'_>); 4]> = own.collect();
        let packed = block.packed_of_row(row).into_iter();
        let packed = packed.filter(|(field, _)| block.entry(row, *field).is_none());
        let count = slots.len();
        slots.extend(packed.map(|(field, record)| (field, Slot::Away(record))));
        if count > 0 && slots.len() > count {
            slots.sort_unstable_by_key(|(field, _)| *field);
        }
        slots
    }

    /// The series of a row that are in memory, by field.
    pub(crate) fn of_row(&self, row: Row) -> impl Iterator<Item = (FieldId, &Arc<Series>)> {
        let (block, row) = block_of(row);
        let own = self.blocks.get(block).map_or(&[][..], |b| b.own(row));
        own.iter()
            .filter_map(|entry| Some((entry.field(), entry.here()?)))
    }

    /// The first row from `row` on that may have a series in memory.
    pub(crate) fn next_here(&self, row: Row) -> Option<Row> {
        let (first, mut in_block) = block_of(row);
        for (number, block) in self.blocks.iter().enumerate().skip(first) {
            if let Some(found) = block.next_own(std::mem::take(&mut in_block)) {
                return Some(Row((number * packed::ROWS) as u32 + u32::from(found)));
            }
        }
        None
    }
}

/// Series that are away, gathered in the order of the table to be kept packed.
#[derive(Debug, Default)]
pub(crate) struct PackedBlocks {
    blocks: Vec<(u32, Packed)>,
    open: Vec<AwayEntry>,
    block: u32,
}

impl PackedBlocks {
    /// Adds one behind those before.
    pub(crate) fn push(&mut self, row: Row, field: FieldId, record: RecordPlace) {
        let (block, in_block) = block_of(row);
        if self.block != block as u32 {
            self.seal();
            self.block = block as u32;
        }
        self.open.push((in_block, field, record));
    }

    fn seal(&mut self) {
        let packed = Packed::new(&self.open);
        self.blocks
            .extend(packed.map(|packed| (self.block, packed)));
        self.open.clear();
    }

    /// Each block and its number.
    pub(crate) fn into_blocks(mut self) -> Vec<(u32, Packed)> {
        self.seal();
        self.blocks
    }

    /// Row, field and record of each of a block.
    pub(crate) fn entries(
        block: u32,
        packed: &Packed,
    ) -> impl Iterator<Item = (Row, FieldId, RecordPlace)> {
        let first = block * packed::ROWS as u32;
        let entries = packed.entries().into_iter();
        entries.map(move |(row, field, record)| (Row(first + u32::from(row)), field, record))
    }
}
