//! From a head to a segment, and from several segments to one.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::head::Head;
use crate::postings::RowsRef;
use crate::segment::read::{Segment, damaged};
use crate::segment::write::{SegmentWriter, ShapeEntry};
use crate::table::Table;
use crate::varint::get_u32;
use crate::{PartitionIndex, SegmentError};

/// What is needed to make a segment of the oldest rows in memory; holds no lock on the index.
#[derive(Debug)]
pub struct SealJob {
    head: Arc<Head>,
    /// By key number: its name, where it has values.
    keys: Vec<Option<Box<str>>>,
    /// By shape with rows: shape, measurement, its name, keys.
    shapes: Vec<(u32, u32, Box<str>, Box<[u32]>)>,
    slots: Vec<u128>,
}

impl PartitionIndex {
    /// Rows that are sealed.
    pub fn sealed_rows(&self) -> u32 {
        self.frozen.as_deref().unwrap_or(&self.head).base
    }

    /// Rows in memory that have not been frozen.
    pub fn head_rows(&self) -> u32 {
        self.head.len()
    }

    /// The sealed rows' segments, in their order.
    pub fn segments(&self) -> &Arc<Vec<Arc<Segment>>> {
        &self.sealed
    }

    /// Freezes the rows in memory, so that a segment can be made of them beside writers and readers; nothing if some
    /// are frozen already, or there are none. New rows go to a new head.
    pub fn freeze(&mut self) {
        if self.frozen.is_some() || self.head.len() == 0 {
            return;
        }
        // Their series are known by now: most rows around them have the same.
        let rows = self.head.base as usize..self.head.end() as usize;
        self.row_sets.settle(rows);
        let next = Head::new(self.head.end(), self.known());
        self.frozen = Some(Arc::new(std::mem::replace(&mut self.head, next)));
    }

    /// Measurements, keys and shapes so far.
    pub(crate) fn known(&self) -> (u32, u32, u32) {
        (
            self.measurement_names.len(),
            self.key_names.len(),
            self.schemas.len(),
        )
    }

    /// What [`SealJob::build`] needs to make a segment of the frozen rows; `None` if there are none. Costs a pass over
    /// the name table.
    pub fn seal_job(&self) -> Option<SealJob> {
        let head = Arc::clone(self.frozen.as_ref()?);
        let rows = head.base..head.end();
        let mut slots = Vec::with_capacity(head.len() as usize);
        slots.extend(self.table.slots().filter(|s| rows.contains(&(*s as u32))));
        let keys = (0..head.keys.len() as u32).map(|id| {
            let used = head.key(id).is_some_and(|key| key.values.len() > 0);
            let name = self.key_names.name(id).filter(|_| used);
            name.map(Into::into)
        });
        let shapes = head.shapes().filter_map(|(id, _)| {
            let schema = self.schemas.get(id)?;
            let name = self.measurement_names.name(schema.measurement)?;
            Some((id, schema.measurement, name.into(), schema.keys.clone()))
        });
        Some(SealJob {
            keys: keys.collect(),
            shapes: shapes.collect(),
            slots,
            head: Arc::clone(&head),
        })
    }

    /// Lets a segment take the place of the frozen rows.
    ///
    /// # Errors
    /// If it is not of exactly these rows; nothing is changed then.
    pub fn seal(&mut self, segment: Arc<Segment>) -> Result<(), SegmentError> {
        let rows = segment.rows();
        match &self.frozen {
            Some(frozen) if rows == (frozen.base..frozen.end()) => {}
            _ => {
                return Err(SegmentError::NotWhole {
                    expected: self.head.base,
                    found: rows.end,
                });
            }
        }
        self.frozen = None;
        let mut all = self.sealed.to_vec();
        all.push(segment);
        self.sealed = Arc::new(all);
        Ok(())
    }

    /// Lets a segment take the place of those whose rows it has.
    ///
    /// # Errors
    /// If it does not begin and end as some of them do; nothing is changed then.
    pub fn replace_segments(&mut self, merged: Arc<Segment>) -> Result<(), SegmentError> {
        let rows = merged.rows();
        let begin = self
            .sealed
            .iter()
            .position(|s| s.rows().start == rows.start);
        let end = self.sealed.iter().position(|s| s.rows().end == rows.end);
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(SegmentError::NotWhole {
                expected: self.sealed_rows(),
                found: rows.end,
            });
        };
        let mut all = self.sealed.to_vec();
        all.splice(begin..=end, [merged]);
        self.sealed = Arc::new(all);
        Ok(())
    }

    /// Takes the segments of rows that parts speak of; called before any part is applied. The name table gets the rows in
    /// `active` only, if that is given.
    pub(crate) fn attach(
        &mut self,
        segments: Vec<Arc<Segment>>,
        sealed_rows: u32,
        active: Option<&RoaringBitmap>,
    ) -> Result<(), SegmentError> {
        let mut next = 0;
        for segment in &segments {
            if segment.rows().start != next {
                break;
            }
            next = segment.rows().end;
        }
        let whole: u64 = segments.iter().map(|s| s.rows().len() as u64).sum();
        if next != sealed_rows || whole != u64::from(next) {
            return Err(SegmentError::NotWhole {
                expected: sealed_rows,
                found: next,
            });
        }
        let mut slots = Vec::new();
        let mut silent = 0;
        for segment in &segments {
            let rows = segment.rows();
            let count = rows.len();
            if active.is_some_and(|active| active.range_cardinality(rows) == 0) {
                silent += count as u32;
                continue;
            }
            let before = slots.len();
            slots.reserve(if active.is_none() { count } else { 0 });
            let mut seen = 0;
            segment.slots(|slot| {
                seen += 1;
                if active.is_none_or(|active| active.contains(slot as u32)) {
                    slots.push(slot);
                }
            })?;
            if seen != count {
                return Err(damaged("number of hashes", u64::from(segment.rows().start)));
            }
            silent += (count - (slots.len() - before)) as u32;
        }
        self.silent = silent;
        sort_runs(&mut slots);
        self.table = Table::from_sorted(&slots);
        self.sealed = Arc::new(segments);
        Ok(())
    }
}

impl SealJob {
    /// Makes the segment's bytes. Costs about a microsecond a row.
    pub fn build(mut self) -> Vec<u8> {
        let head = &self.head;
        let mut writer = SegmentWriter::new(head.base);
        // By key: its number within the segment, and the rank of each of its values.
        let mut numbers: Vec<u32> = vec![0; self.keys.len()];
        let mut ranks: Vec<Vec<u32>> = vec![Vec::new(); self.keys.len()];
        let mut count = 0;
        for (id, name) in (0..).zip(&self.keys) {
            let (Some(name), Some(key)) = (name, head.key(id)) else {
                continue;
            };
            numbers[id as usize] = count;
            count += 1;
            let mut values: Vec<(&str, u32)> = key.values.iter().zip(0..).collect();
            values.sort_unstable();
            let of_key = &mut ranks[id as usize];
            of_key.resize(values.len(), 0);
            for (rank, (value, number)) in (0..).zip(values) {
                of_key[number as usize] = rank;
                let rows = head.value_rows(id, number);
                writer.value(value, rows.expect("every value has a row"));
            }
            writer.end_key(id, name);
        }

        let entries: Vec<ShapeEntry<'_>> = self
            .shapes
            .iter()
            .map(|(id, measurement, name, keys)| ShapeEntry {
                schema: *id,
                measurement: *measurement,
                measurement_name: name,
                keys: keys.iter().map(|k| numbers[*k as usize]).collect(),
                rows: head.rows_of_shape(*id).cloned().unwrap_or_default(),
            })
            .collect();
        let mut of_row = vec![0_u32; head.len() as usize];
        for (number, entry) in (0..).zip(&entries) {
            for row in &entry.rows {
                of_row[(row - head.base) as usize] = number;
            }
        }
        let mut tuple = Vec::new();
        for (shape, row) in of_row.iter().zip(head.base..) {
            tuple.clear();
            let mut values = head.tuple(row).unwrap_or_default();
            for key in &self.shapes[*shape as usize].3 {
                let value = get_u32(&mut values).expect("a value for each key");
                tuple.push(ranks[*key as usize][value as usize]);
            }
            writer.row(*shape, &tuple);
        }
        self.slots.sort_unstable();
        writer.finish(&entries, &self.slots)
    }
}

/// Sorts slots that are sorted runs, one a segment.
#[expect(
    clippy::stable_sort_primitive,
    reason = "the stable sort finds the runs and merges them"
)]
fn sort_runs(slots: &mut [u128]) {
    slots.sort();
}

/// One segment of the rows of several, which follow each other. Reads all of them and holds the result in memory.
///
/// # Errors
/// If one cannot be read, is damaged, or does not follow the one before.
pub fn merge_segments(segments: &[Arc<Segment>]) -> Result<Vec<u8>, SegmentError> {
    let Some(first) = segments.first() else {
        return Err(damaged("list of segments", 0));
    };
    for pair in segments.windows(2) {
        if let [before, after] = pair
            && before.rows().end != after.rows().start
        {
            return Err(SegmentError::NotWhole {
                expected: before.rows().end,
                found: after.rows().start,
            });
        }
    }
    let mut writer = SegmentWriter::new(first.rows().start);
    let mut ids: Vec<(u32, &str)> = segments
        .iter()
        .flat_map(|s| s.keys.iter().map(|k| (k.id, &*k.name)))
        .collect();
    ids.sort_unstable();
    ids.dedup_by_key(|(id, _)| *id);
    // By segment and key of it: the new rank of each old one.
    let mut ranks: Vec<Vec<Vec<u32>>> = segments
        .iter()
        .map(|s| vec![Vec::new(); s.keys.len()])
        .collect();
    for (id, name) in &ids {
        merge_key(segments, *id, &mut ranks, &mut writer)?;
        writer.end_key(*id, name);
    }

    let mut entries: Vec<ShapeEntry<'_>> = Vec::new();
    // By segment and shape of it: the new number.
    let mut numbers: Vec<Vec<u32>> = Vec::new();
    for segment in segments {
        let mut of_segment = Vec::new();
        for shape in &segment.shapes {
            let found = entries.iter().position(|e| e.schema == shape.schema);
            let at = found.unwrap_or_else(|| {
                let key = |k: &u32| {
                    let id = segment.keys.get(*k as usize).map(|k| k.id);
                    ids.iter().position(|(i, _)| Some(*i) == id).unwrap_or(0) as u32
                };
                entries.push(ShapeEntry {
                    schema: shape.schema,
                    measurement: shape.measurement,
                    measurement_name: &shape.measurement_name,
                    keys: shape.keys.iter().map(key).collect(),
                    rows: RoaringBitmap::new(),
                });
                entries.len() - 1
            });
            entries[at].rows |= &shape.rows;
            of_segment.push(at as u32);
        }
        numbers.push(of_segment);
    }

    let mut tuple = Vec::new();
    let mut slots = Vec::new();
    for ((segment, ranks), numbers) in segments.iter().zip(&ranks).zip(&numbers) {
        segment.tuples(|shape, values| {
            tuple.clear();
            let keys = &segment.shapes.get(shape as usize)?.keys;
            for (key, value) in keys.iter().zip(values) {
                tuple.push(*ranks.get(*key as usize)?.get(*value as usize)?);
            }
            writer.row(*numbers.get(shape as usize)?, &tuple);
            Some(())
        })?;
        segment.slots(|slot| slots.push(slot))?;
    }
    sort_runs(&mut slots);
    let rows: usize = segments.iter().map(|s| s.rows().len()).sum();
    if slots.len() != rows {
        return Err(damaged("number of hashes", 0));
    }
    Ok(writer.finish(&entries, &slots))
}

/// Writes the values of one key, each with its rows of all segments.
fn merge_key(
    segments: &[Arc<Segment>],
    id: u32,
    ranks: &mut [Vec<Vec<u32>>],
    writer: &mut SegmentWriter,
) -> Result<(), SegmentError> {
    // (value, segment, old rank), sorted: short-lived, and a merge is bounded by its caller.
    let mut values: Vec<(String, usize, u32)> = Vec::new();
    let mut lists: Vec<Vec<RoaringOrFew>> = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let mut of_segment: Vec<RoaringOrFew> = Vec::new();
        if let Some(at) = segment.keys.iter().position(|k| k.id == id) {
            let key = &segment.keys[at];
            segment.scan_values(key, "", |rank, value| {
                values.push((value.to_owned(), number, rank));
                true
            })?;
            of_segment.resize_with(key.values as usize, || RoaringOrFew::Few(Vec::new()));
            let mut bitmaps = Vec::new();
            segment.rows_of_values(
                key,
                std::slice::from_ref(&(0..key.values)),
                |rank, row| {
                    if let Some(RoaringOrFew::Few(list)) = of_segment.get_mut(rank as usize) {
                        list.push(row);
                    }
                },
                |rank, bitmap| bitmaps.push((rank, bitmap)),
            )?;
            for (rank, bitmap) in bitmaps {
                if let Some(place) = of_segment.get_mut(rank as usize) {
                    *place = RoaringOrFew::Many(bitmap);
                }
            }
            ranks[number][at] = vec![0; key.values as usize];
        }
        lists.push(of_segment);
    }
    values.sort_unstable();
    let mut rank = 0;
    for same in values.chunk_by(|a, b| a.0 == b.0) {
        let mut rows = RoaringBitmap::new();
        let mut few = Vec::new();
        for (_, number, old) in same {
            let at = segments[*number].keys.iter().position(|k| k.id == id);
            let of_key = at.and_then(|at| ranks.get_mut(*number)?.get_mut(at));
            if let Some(place) = of_key.and_then(|k| k.get_mut(*old as usize)) {
                *place = rank;
            }
            match lists
                .get_mut(*number)
                .and_then(|l| l.get_mut(*old as usize))
            {
                Some(RoaringOrFew::Few(list)) => few.append(list),
                Some(RoaringOrFew::Many(bitmap)) => rows |= std::mem::take(bitmap),
                None => {}
            }
        }
        let Some((value, _, _)) = same.first() else {
            continue;
        };
        if rows.is_empty() {
            // They ascend unless a segment is damaged behind good checksums.
            few.sort_unstable();
            few.dedup();
            if few.is_empty() {
                return Err(damaged("value without rows", 0));
            }
            writer.value(value, RowsRef::List(&few));
        } else {
            rows.extend(few);
            writer.value(value, RowsRef::Bitmap(&rows));
        }
        rank += 1;
    }
    Ok(())
}

/// The rows of a value while segments are merged.
#[derive(Debug)]
enum RoaringOrFew {
    Few(Vec<u32>),
    Many(RoaringBitmap),
}
