//! Answers about many rows at once: neighbours mostly have the same field list, so it is looked at once for all of them.

use std::ops::Range;

use alluvium_types::FieldId;
use roaring::RoaringBitmap;

use crate::PartitionIndex;
use crate::evaluate::{Fields, Names, SealedRows};
use crate::field_sets::NO_FIELDS;
use crate::palette::CHUNK;
use crate::selector::CompiledSelector;

/// Chunks of which each row is looked at before a count: some ten microseconds each.
const MIXED_CHUNKS_MAX: usize = 16;

impl PartitionIndex {
    /// Number of (row, field) pairs that [`Self::select_with`] would list. Costs a look at each run of neighbours that
    /// have the same fields, and at each row of the others.
    pub fn count_with(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
    ) -> u64 {
        let names = self.names(selector);
        let rows = self.rows_passing(selector, &names, sealed, live);
        let mut count = 0;
        self.by_field_list(&rows, names.of_all(), |list, run| match (list, run) {
            (Some(list), Run::Alike(range)) => count += list * rows.range_cardinality(range),
            (Some(list), Run::Row(_)) => count += list,
            (None, Run::Row(row)) => {
                let fields = self.fields_passing(row, &names);
                count += fields.map_or(0, |fields| self.fields_in(self.list_of(row), fields));
            }
            (None, Run::Alike(_)) => {}
        });
        count
    }

    /// Rows with at least one series that [`Self::select_with`] would list. Costs as [`Self::count_with`] does.
    pub fn rows_with(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
    ) -> RoaringBitmap {
        let names = self.names(selector);
        let rows = self.rows_passing(selector, &names, sealed, live);
        let without = self.without_fields(&names, &rows);
        rows.into_owned() - without
    }

    /// How many rows [`Self::rows_with`] has, and the first `limit` of them. Makes no set of the others where all of them are
    /// in segments.
    pub fn first_rows_with(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        live: Option<&RoaringBitmap>,
        limit: usize,
    ) -> (u64, RoaringBitmap) {
        let names = self.names(selector);
        let rows = self.rows_passing(selector, &names, sealed, live);
        let without = self.without_fields(&names, &rows);
        let first = rows.iter().filter(|row| !without.contains(*row));
        let count = rows.len() - rows.intersection_len(&without);
        (count, first.take(limit).collect())
    }

    /// As [`Self::first_rows_with`] of all rows, for what a plan of [`Self::plan_first`] with that limit has found. `None` if
    /// rows have got or lost fields since, so that what was counted is not what there is.
    pub fn first_rows_counted(
        &self,
        selector: &CompiledSelector,
        sealed: &SealedRows,
        limit: usize,
    ) -> Option<(u64, RoaringBitmap)> {
        let mut further = 0;
        if let Some(counted) = &sealed.counted {
            if self.changes != counted.changes {
                let now = self.sealed_without_fields(selector, sealed.end);
                now.filter(|now| *now == counted.without)?;
            }
            further = counted.rows;
        }
        let (count, first) = self.first_rows_with(selector, sealed, None, limit);
        Some((count + further, first))
    }

    /// The rows before `end` that have no field which passes. `None` if that would cost a look at too many rows.
    pub(crate) fn sealed_without_fields(
        &self,
        selector: &CompiledSelector,
        end: u32,
    ) -> Option<RoaringBitmap> {
        let names = self.names(selector);
        let fields = names.of_all()?;
        let mut without = RoaringBitmap::new();
        let (mut known, mut looked_at) = ((NO_FIELDS, false), 0);
        let mut passes = |list: u32| {
            if list != known.0 {
                known = (list, self.fields_in(list, fields) > 0);
            }
            known.1
        };
        let chunks = (end as usize).div_ceil(CHUNK);
        for chunk in 0..chunks {
            let rows = (chunk * CHUNK) as u32..chunk_end(chunk).min(end);
            if !self.row_sets.any(chunk, |list| !passes(list)) {
                continue;
            }
            if self.row_sets.uniform(chunk).is_some() {
                without.insert_range(rows);
                continue;
            }
            looked_at += 1;
            if looked_at > MIXED_CHUNKS_MAX {
                return None;
            }
            let has_none = |row: &u32| self.fields_in(self.list_of(*row), fields) == 0;
            without.extend(rows.filter(has_none));
        }
        Some(without)
    }

    /// A set that those of some rows are in which have no field that passes, and others that are not among these rows.
    fn without_fields(&self, names: &Names, rows: &RoaringBitmap) -> RoaringBitmap {
        let mut without = RoaringBitmap::new();
        self.by_field_list(rows, names.of_all(), |list, run| match (list, run) {
            (Some(0), Run::Alike(range)) => {
                without.insert_range(range);
            }
            (Some(0), Run::Row(row)) => {
                without.insert(row);
            }
            (None, Run::Row(row)) => {
                let fields = self.fields_passing(row, names);
                let list = self.list_of(row);
                if fields.is_none_or(|fields| self.fields_in(list, fields) == 0) {
                    without.insert(row);
                }
            }
            _ => {}
        });
        without
    }

    /// Calls `visit` with all of some rows, those that are alike together, and how many of `fields` each has; without
    /// `fields` with each row, and without a number.
    fn by_field_list(
        &self,
        rows: &RoaringBitmap,
        fields: Option<&Fields>,
        mut visit: impl FnMut(Option<u64>, Run),
    ) {
        let Some(fields) = fields else {
            rows.iter().for_each(|row| visit(None, Run::Row(row)));
            return;
        };
        let (mut known, mut count) = (NO_FIELDS, 0);
        let mut count_of = |list| {
            if list != known {
                (known, count) = (list, self.fields_in(list, fields));
            }
            Some(count)
        };
        let mut rest = rows.iter();
        let mut alike: Option<(u32, Range<u32>)> = None;
        while let Some(row) = rest.next() {
            let chunk = row as usize / CHUNK;
            let Some(list) = self.row_sets.uniform(chunk) else {
                // A run must not reach over rows that are told one by one.
                if let Some((list, run)) = alike.take() {
                    visit(count_of(list), Run::Alike(run));
                }
                visit(count_of(self.list_of(row)), Run::Row(row));
                continue;
            };
            let range = (chunk * CHUNK) as u32..chunk_end(chunk);
            rest.advance_to(range.end);
            match &mut alike {
                Some((of, run)) if *of == list => run.end = range.end,
                _ => {
                    if let Some((list, run)) = alike.replace((list, range)) {
                        visit(count_of(list), Run::Alike(run));
                    }
                }
            }
        }
        if let Some((list, run)) = alike {
            visit(count_of(list), Run::Alike(run));
        }
    }

    /// The number of a row's field list.
    pub(crate) fn list_of(&self, row: u32) -> u32 {
        self.row_sets.get(row as usize).unwrap_or(NO_FIELDS)
    }

    /// How many of some fields a list has.
    fn fields_in(&self, list: u32, fields: &Fields) -> u64 {
        let has = |field: &&u32| !self.sets.kinds(list, FieldId(**field)).is_empty();
        match fields {
            Fields::All => self.sets.fields(list).count() as u64,
            Fields::Only(fields) => fields.iter().filter(has).count() as u64,
        }
    }
}

/// Rows that have the same fields.
enum Run {
    Row(u32),
    /// Those of a range.
    Alike(Range<u32>),
}

fn chunk_end(chunk: usize) -> u32 {
    u32::try_from((chunk + 1) * CHUNK).unwrap_or(u32::MAX)
}
