//! What a batch names that is not there yet: rows, fields and series, and the kind that each value is stored as.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_index::{FlatKey, IndexError, KeyHash, KindSet, MeasurementId, PartitionIndex};
use alluvium_types::{Row, ValueKind};
use smallvec::SmallVec;

use super::shapes::Shape;
use super::whole::Granted;
use super::{BatchLine, Writer};
use crate::databases::DatabaseState;
use crate::error::RefusedLine;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::raw_keys::{Known, NONE, RawKeys};
use crate::recall::SERIES_BYTES;
use crate::series::SeriesPlace;
use crate::series_limits::TooManySeries;
use crate::series_table::SeriesTable;
use crate::shard::ShardState;

/// Lines looked at together before they are defined: as many as the name table looks up at once.
const LINES_AHEAD: usize = 16;

const CACHE_LINE: usize = 64;

/// Places of some of the lines looked at together.
type Ahead = SmallVec<[usize; LINES_AHEAD]>;

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
        if lines.iter().all(|line| self.is_settled(line)) {
            return false;
        }
        let mut index = part.index.write();
        let mut table = part.table.write();
        let of_part = |(hash, _): &mut (KeyHash, Row)| hash.partition() == part.partition;
        let come_back = self.come_back.extract_if(.., of_part);
        let returned = come_back.filter(|(hash, row)| index.restore(*hash, *row));
        let returned = returned.count() as u64;
        let count = &self.store.index_cache.returned;
        count.fetch_add(returned, Ordering::Relaxed);
        let before = index.series_count();
        let mut defined = false;
        for lines in lines.chunks_mut(LINES_AHEAD) {
            let absent = self.look_ahead(&index, lines);
            let made = self.make_rows(state, &mut index, lines, &absent);
            defined |= made > 0;
            for (at, line) in lines.iter_mut().enumerate() {
                if self.is_settled(line) {
                    continue;
                }
                let admitted = absent.iter().take(made).any(|absent| *absent == at);
                let noted = (admitted, &mut defined);
                let result = self.define_line(state, part, &mut index, &mut table, line, noted);
                if let Err(error) = result {
                    // A row or field that was made before a number ran out stays and is logged.
                    line.shape = NONE;
                    let left_out = self.left_out.get_or_insert_default();
                    left_out.push(error, line.number);
                }
            }
        }
        let created = index.series_count() - before;
        part.created.note(self.store.clock.monotonic_ns(), created);
        defined
    }

    /// Finds the rows of some lines, those that are there; returns which lines bring a tag set that is not. Their texts lie
    /// as far apart as the batch has spread them over partitions, and their places in the name table anywhere: looked at
    /// together, the waits for memory overlap.
    fn look_ahead(&mut self, index: &PartitionIndex, lines: &[BatchLine]) -> Ahead {
        let mut hashes: SmallVec<[KeyHash; LINES_AHEAD]> = SmallVec::new();
        let mut unknown = Ahead::new();
        for (at, line) in lines.iter().enumerate() {
            if let Some((hash, key)) = self.keys.unresolved(line.token) {
                hashes.push(hash);
                unknown.push(at);
                let lines = key.bytes().chunks(CACHE_LINE);
                lines.for_each(|line| alluvium_io::prefetch(line.as_ptr()));
            }
        }
        let mut rows = Vec::new();
        index.lookup_batch(&hashes, &mut rows);
        let mut absent = Ahead::new();
        for (at, row) in unknown.into_iter().zip(rows) {
            let token = lines[at].token;
            if let Some(row) = row {
                self.keys.settle(token, row);
            } else if absent.iter().all(|at| lines[*at].token != token) {
                absent.push(at);
            }
        }
        absent
    }

    /// Makes the rows of lines that bring tag sets, together, while the limits let all of their series come; returns of how
    /// many. The others are for [`Self::define_line`], which says what is wrong with which.
    fn make_rows(
        &mut self,
        state: &mut ShardState,
        index: &mut PartitionIndex,
        lines: &[BatchLine],
        absent: &[usize],
    ) -> usize {
        let mut keys: SmallVec<[(KeyHash, FlatKey<'_>); LINES_AHEAD]> = SmallVec::new();
        let unresolved = |at: &usize| self.keys.unresolved(lines[*at].token);
        keys.extend(absent.iter().map_while(unresolved));
        // A new row has none of the series of its line.
        let series = |lists: &[Shape], at: usize| lists[lines[at].shape as usize].len() as u64;
        let of = |at: usize| keys[at].1.measurement();
        let mut admitted = 0;
        while admitted < keys.len() {
            let alike = (admitted..keys.len()).take_while(|at| of(*at) == of(admitted));
            let end = admitted + alike.count();
            let lists = &self.shapes.lists;
            let wanted = absent[admitted..end].iter().map(|at| series(lists, *at));
            let wanted = wanted.sum();
            if admit(&mut self.granted, &self.database, of(admitted), wanted).is_err() {
                break;
            }
            admitted = end;
        }
        let first = index.row_count();
        let made = index.insert_all(&keys[..admitted]);
        for (row, (_, key)) in (first..).zip(&keys[..made]) {
            self.made.text_bytes += key.bytes().len() as u64;
            let section = &mut state.section;
            section.row_of_parts(Row(row), key.measurement(), key.tag_count(), key.tags());
        }
        for ((_, key), at) in keys.iter().zip(absent).take(admitted).skip(made) {
            let unmade = series(&self.shapes.lists, *at);
            let counts = &self.database.series_counts;
            counts.forget(key.measurement(), unmade);
        }
        drop(keys);
        self.made.rows += made as u64;
        for (row, at) in (first..).zip(&absent[..made]) {
            self.keys.settle(lines[*at].token, Row(row));
        }
        made
    }

    /// Series that were known to exist may have been deleted since.
    pub(super) fn note_removals(&mut self, part: &PartitionState) {
        let seen = &mut self.removals[usize::from(part.partition.0)];
        let now = part.removals.load(Ordering::Relaxed);
        if std::mem::replace(seen, now) != now {
            let of_part = |known: &&mut Known| known.partition() == part.partition;
            for known in self.keys.known.iter_mut().filter(of_part) {
                known.ensured = NONE;
            }
        }
    }

    /// Decides what a line's values are stored as, and makes what is not there for them: all of it, or nothing if there is no
    /// room for all its series. `admitted`: there is.
    fn define_line(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        index: &mut PartitionIndex,
        table: &mut SeriesTable,
        line: &mut BatchLine,
        (admitted, defined): (bool, &mut bool),
    ) -> Result<(), RefusedLine> {
        let row = self.row_there(index, line.token);
        let measurement = row.map(|row| {
            let of = index.measurement_of(row);
            of.ok_or(IndexError::UnknownRow { row })
        });
        let measurement = measurement.transpose()?;
        let shape = Arc::clone(&self.shapes.lists[line.shape as usize]);
        let mut decided: SmallVec<[(u32, ValueKind); 16]> = SmallVec::new();
        let mut new: SmallVec<[(u32, ValueKind); 16]> = SmallVec::new();
        for (i, (name, raw)) in shape.iter().enumerate() {
            let text = &self.shapes.names[*name as usize];
            // A new row has none.
            let of = measurement.filter(|_| !admitted);
            let field = of.and_then(|of| index.field(of, text));
            let kinds = match (row, field) {
                (Some(row), Some(field)) => index.kinds(row, field),
                _ => KindSet::EMPTY,
            };
            let bits = &mut self.batch.bits[line.values as usize + i];
            let kind = self.store.settle_kind(kinds, *raw, bits);
            if !kinds.contains(kind) {
                new.push((*name, kind));
            }
            decided.push((*name, kind));
        }
        if !new.is_empty() {
            let mut left = new.len() as u64;
            debug_assert!(
                !admitted || new.len() == shape.len(),
                "a new row has no series"
            );
            if !admitted {
                let name = measurement_name(index, &self.keys, line.token, measurement);
                admit(&mut self.granted, &self.database, name, left)?;
            }
            let noted = (&mut left, defined);
            let made = self.make(state, part, index, table, line.token, &new, noted);
            if left > 0 {
                // The row may be there by now.
                let row = self.keys.known[line.token as usize].row();
                let there = measurement.or_else(|| index.measurement_of(row?));
                let name = measurement_name(index, &self.keys, line.token, there);
                self.database.series_counts.forget(name, left);
            }
            made?;
        }
        let known = &mut self.keys.known[line.token as usize];
        let measurement = known.row().and_then(|row| index.measurement_of(row));
        known.set_measurement(measurement.map_or(NONE, |of| of.0));
        if *decided == *shape {
            known.ensured = line.shape;
        } else {
            line.shape = self.shapes.shape(&decided, NONE);
        }
        Ok(())
    }

    /// The row of a tag set, if it is there.
    fn row_there(&mut self, index: &PartitionIndex, token: u32) -> Option<Row> {
        let known = self.keys.known[token as usize].row();
        known.or_else(|| {
            let row = index.lookup(self.keys.unresolved_hash(token)?)?;
            self.keys.settle(token, row);
            Some(row)
        })
    }

    /// Makes the row of a tag set if need be, and new series of it. Counts `left` down by each, and notes
    /// whether a row or a field was defined: a series is by its first point in the log, and needs no entry of its own.
    #[expect(
        clippy::too_many_arguments,
        reason = "what its caller has locked, and what is new"
    )]
    fn make(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        index: &mut PartitionIndex,
        table: &mut SeriesTable,
        token: u32,
        new: &[(u32, ValueKind)],
        (left, defined): (&mut u64, &mut bool),
    ) -> Result<(), RefusedLine> {
        let row = if let Some(row) = self.keys.known[token as usize].row() {
            row
        } else {
            let key = self.keys.unresolved(token);
            self.made.text_bytes += key.map_or(0, |(_, key)| key.bytes().len() as u64);
            let row = insert_row(index, state, &mut self.keys, token)?;
            self.made.rows += 1;
            *defined = true;
            row
        };
        let measurement = index.measurement_of(row);
        let measurement = measurement.ok_or(IndexError::UnknownRow { row })?;
        for (name, kind) in new {
            let text = &self.shapes.names[*name as usize];
            let field = if let Some(field) = index.field(measurement, text) {
                field
            } else {
                let field = index.insert_field(measurement, text)?;
                self.made.fields += 1;
                self.made.text_bytes += text.len() as u64;
                let of = index.measurement_name(measurement).unwrap_or_default();
                state.section.field(of, field, text);
                *defined = true;
                field
            };
            index.add_series(row, field, *kind)?;
            *left -= 1;
            let place = SeriesPlace {
                partition: part.partition,
                row,
                field,
            };
            if table.ensure(place) {
                self.database.charge(SERIES_BYTES);
            }
        }
        Ok(())
    }
}

/// Counts new series of a measurement: of those that were granted, or if the limits let them come.
fn admit(
    granted: &mut Option<Granted>,
    database: &DatabaseState,
    measurement: &str,
    series: u64,
) -> Result<(), TooManySeries> {
    let counts = &database.series_counts;
    match granted {
        Some(granted) => {
            granted.take(counts, measurement, series);
            Ok(())
        }
        None => counts.admit(&database.name, measurement, series),
    }
}

/// The measurement of a tag set, which is there or is still to be made.
fn measurement_name<'a>(
    index: &'a PartitionIndex,
    keys: &'a RawKeys,
    token: u32,
    there: Option<MeasurementId>,
) -> &'a str {
    let of_row = there.and_then(|of| index.measurement_name(of));
    let new = || keys.unresolved(token).map(|(_, key)| key.measurement());
    of_row.or_else(new).unwrap_or_default()
}

fn insert_row(
    index: &mut PartitionIndex,
    state: &mut ShardState,
    keys: &mut RawKeys,
    token: u32,
) -> Result<Row, RefusedLine> {
    let unresolved = keys.unresolved(token);
    let (hash, key) = unresolved.expect("a key is kept until its row is known");
    let row = index.insert_flat(hash, key)?;
    let section = &mut state.section;
    section.row_of_parts(row, key.measurement(), key.tag_count(), key.tags());
    keys.settle(token, row);
    Ok(row)
}

impl StoreInner {
    /// The kind a value is stored as, see [`kind_in`]; counts what is not as it was sent. `bits` follows the kind.
    fn settle_kind(&self, kinds: KindSet, raw: ValueKind, bits: &mut u64) -> ValueKind {
        let (kind, widened) = kind_in(kinds, raw, *bits);
        if let Some(widened) = widened {
            *bits = widened;
            self.counters.widened.fetch_add(1, Ordering::Relaxed);
        } else if !kinds.is_empty() && !kinds.contains(raw) {
            self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        kind
    }
}

/// The kind a value is stored as where a field has these: an integer goes into a float series if nothing is lost, with the
/// bits returned; any other stranger opens a sibling.
pub(super) fn kind_in(kinds: KindSet, raw: ValueKind, bits: u64) -> (ValueKind, Option<u64>) {
    let first = kinds.first().filter(|first| *first == ValueKind::F64);
    match first.and_then(|_| widen(raw, bits)) {
        Some(widened) => (ValueKind::F64, Some(widened.to_bits())),
        None => (raw, None),
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
