//! Which rows are in segments: freezing, sealing, opening.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::head::Head;
use crate::segment::read::{Segment, damaged};
use crate::segment::seal_job::SealJob;
use crate::segment::write::ShapeEntry;
use crate::table::Table;
use crate::{PartitionIndex, SegmentError};

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

    /// Makes a segment of the frozen rows; `None` if there are none. Costs little before its first step.
    pub fn seal_job(&self) -> Option<SealJob> {
        let head = Arc::clone(self.frozen.as_ref()?);
        let keys = (0..self.key_names.len()).map(|id| {
            let used = head.key(id).is_some_and(|key| key.values.len() > 0);
            let name = self.key_names.name(id).filter(|_| used);
            name.map(Into::into)
        });
        let shapes = head.shapes().filter_map(|(id, rows)| {
            let schema = self.schemas.get(id)?;
            Some(ShapeEntry {
                schema: id,
                measurement: schema.measurement,
                measurement_name: self.measurement_names.name(schema.measurement)?.into(),
                keys: schema.keys.to_vec(),
                rows: rows.clone(),
            })
        });
        Some(SealJob::new(&head, keys.collect(), shapes.collect()))
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
    /// `active` only, if that is given. Hashes of a page that does not hold are made again, under the seed of the database. Hashes of a page that does not hold are made again under `seed`.
    pub(crate) fn attach(
        &mut self,
        segments: Vec<Arc<Segment>>,
        sealed_rows: u32,
        active: Option<&RoaringBitmap>,
        seed: u64,
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
            let is_active = |slot: u128| active.is_none_or(|active| active.contains(slot as u32));
            let read = segment.slots(|slot| {
                seen += 1;
                slots.extend(is_active(slot).then_some(slot));
            });
            if read.is_err() {
                slots.truncate(before);
                seen = 0;
                segment.slots_carefully(seed, |slot| {
                    seen += 1;
                    slots.extend(is_active(slot).then_some(slot));
                })?;
            }
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

/// Sorts slots that are sorted runs, one a segment.
#[expect(
    clippy::stable_sort_primitive,
    reason = "the stable sort finds the runs and merges them"
)]
pub(crate) fn sort_runs(slots: &mut [u128]) {
    slots.sort();
}
