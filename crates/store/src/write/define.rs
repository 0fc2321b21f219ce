//! What a batch names that is not there yet: rows, fields and series, and the kind that each value is stored as.

use std::sync::atomic::Ordering;

use alluvium_index::{IndexError, PartitionIndex};
use alluvium_types::{FieldId, Row, ValueKind};
use smallvec::SmallVec;

use super::{BatchLine, Writer};
use crate::commit::LeftOut;
use crate::databases::DatabaseState;
use crate::error::RefusedLine;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::raw_keys::{Known, NONE, RawKeys, Unresolved};
use crate::recall::SERIES_BYTES;
use crate::series::SeriesPlace;
use crate::series_table::SeriesTable;
use crate::shard::ShardState;

impl Writer {
    /// Makes sure that every row, field and series of the lines exists, logging what is new, and settles the
    /// kind of every value. Returns whether anything was defined.
    pub(super) fn define(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        lines: &mut [BatchLine],
    ) -> bool {
        self.note_removals(part);
        let settled =
            |known: &Known, line: &BatchLine| known.row != NONE && known.ensured == line.shape;
        if lines
            .iter()
            .all(|l| settled(&self.keys.known[l.token as usize], l))
        {
            return false;
        }
        let mut index = part.index.write();
        let mut table = part.table.write();
        for (hash, row) in self
            .come_back
            .extract_if(.., |(hash, _)| hash.partition() == part.partition)
        {
            index.restore(hash, row);
        }
        let before = index.series_count();
        let mut defined = false;
        for line in lines {
            if settled(&self.keys.known[line.token as usize], line) {
                continue;
            }
            let result = self.define_line(state, part, &mut index, &mut table, line, &mut defined);
            if let Err(error) = result {
                // What was defined for it so far stays and is logged; the line itself is left out.
                line.shape = NONE;
                let first = || LeftOut {
                    why: error,
                    number: line.number,
                    lines: 0,
                };
                self.left_out.get_or_insert_with(first).lines += 1;
            }
        }
        let created = index.series_count() - before;
        part.created.note(self.store.clock.monotonic_ns(), created);
        defined
    }

    /// Series that were known to exist may have been deleted since.
    fn note_removals(&mut self, part: &PartitionState) {
        let seen = &mut self.removals[usize::from(part.partition.0)];
        let now = part.removals.load(Ordering::Relaxed);
        if std::mem::replace(seen, now) != now {
            let of_part = |known: &&mut Known| known.partition() == part.partition;
            for known in self.keys.known.iter_mut().filter(of_part) {
                known.ensured = NONE;
            }
        }
    }

    fn define_line(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        index: &mut PartitionIndex,
        table: &mut SeriesTable,
        line: &mut BatchLine,
        defined: &mut bool,
    ) -> Result<(), RefusedLine> {
        let known = &self.keys.known[line.token as usize];
        let row = if let Some(row) = known.row() {
            row
        } else {
            let (row, new) = define_row(index, state, &mut self.keys, &self.database, line.token)?;
            *defined |= new;
            row
        };
        let measurement = index
            .measurement_of(row)
            .ok_or(IndexError::UnknownRow { row })?;
        let known = &mut self.keys.known[line.token as usize];
        known.set_measurement(measurement.0);
        let shape = self.shapes.lists[line.shape as usize].clone();
        let mut decided: SmallVec<[(u32, ValueKind); 16]> = SmallVec::new();
        for (i, (name, raw)) in shape.iter().enumerate() {
            let name_text = &self.shapes.names[*name as usize];
            let field = if let Some(field) = index.field(measurement, name_text) {
                field
            } else {
                let field = index.insert_field(measurement, name_text)?;
                let measurement_name = index.measurement_name(measurement).unwrap_or_default();
                state.section.field(measurement_name, field, name_text);
                *defined = true;
                field
            };
            let bits = &mut self.batch.bits[line.values as usize + i];
            let kind = self.store.settle_kind(index, row, field, *raw, bits);
            // A series is defined by its first point in the log; no entry of its own is needed.
            if !index.kinds(row, field).contains(kind) {
                let name = index.measurement_name(measurement).unwrap_or_default();
                let counts = &self.database.series_counts;
                counts.admit(&self.database.name, name)?;
                index.add_series(row, field, kind)?;
                let place = SeriesPlace {
                    partition: part.partition,
                    row,
                    field,
                };
                if table.ensure(place) {
                    self.database.charge(SERIES_BYTES);
                }
            }
            decided.push((*name, kind));
        }
        if *decided == *shape {
            known.ensured = line.shape;
        } else {
            line.shape = self.shapes.shape(&decided, NONE);
        }
        Ok(())
    }
}

fn define_row(
    index: &mut PartitionIndex,
    state: &mut ShardState,
    keys: &mut RawKeys,
    database: &DatabaseState,
    token: u32,
) -> Result<(Row, bool), RefusedLine> {
    let unresolved = keys.unresolved.get(&token);
    let Unresolved { key, hash, .. } = unresolved.expect("a key is kept until its row is known");
    let hash = *hash;
    if let Some(row) = index.lookup(hash) {
        keys.settle(token, row);
        return Ok((row, false));
    }
    // A row is for ever: none without room for one series.
    database
        .series_counts
        .room(&database.name, key.measurement())?;
    let row = index.insert_flat(hash, key)?;
    let section = &mut state.section;
    section.row_of_parts(row, key.measurement(), key.tag_count(), key.tags());
    keys.settle(token, row);
    Ok((row, true))
}

impl StoreInner {
    /// The kind a value is stored as: an integer goes into a float series if nothing is lost, any other
    /// stranger opens a sibling. `bits` follows the kind.
    fn settle_kind(
        &self,
        index: &PartitionIndex,
        row: Row,
        field: FieldId,
        raw: ValueKind,
        bits: &mut u64,
    ) -> ValueKind {
        let kinds = index.kinds(row, field);
        let Some(first) = kinds.first() else {
            return raw;
        };
        if first == ValueKind::F64
            && let Some(widened) = widen(raw, *bits)
        {
            *bits = widened.to_bits();
            self.counters.widened.fetch_add(1, Ordering::Relaxed);
            return ValueKind::F64;
        }
        if !kinds.contains(raw) {
            self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        raw
    }
}

/// An integer as a float, if it comes back exactly.
fn widen(kind: ValueKind, bits: u64) -> Option<f64> {
    match kind {
        ValueKind::I64 => {
            let v = bits as i64;
            let f = v as f64;
            (f as i128 == i128::from(v)).then_some(f)
        }
        ValueKind::U64 => {
            let f = bits as f64;
            (f as u128 == u128::from(bits)).then_some(f)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_integers_widen() {
        assert_eq!(widen(ValueKind::I64, 5), Some(5.0));
        assert_eq!(
            widen(ValueKind::I64, (-(1_i64 << 53)) as u64),
            Some(-(2.0_f64.powi(53)))
        );
        assert_eq!(widen(ValueKind::I64, (1 << 53) + 1), None);
        assert_eq!(widen(ValueKind::I64, i64::MAX as u64), None);
        assert_eq!(widen(ValueKind::U64, u64::MAX), None);
        assert_eq!(widen(ValueKind::U64, 1 << 63), Some(2.0_f64.powi(63)));
        assert_eq!(widen(ValueKind::Bool, 1), None);
    }
}
