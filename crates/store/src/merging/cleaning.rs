//! Finds runs of which deletes hide something, so that they are written anew without it.
//!
//! It goes from database to database, partition to partition, tombstone to tombstone and row to row, and remembers
//! no more than where it is: a delete of an hour of a million series lists nothing. When it has been everywhere it
//! rests. A run it has had written is born behind the tombstones, so it is not found again.

use std::sync::Arc;

use alluvium_types::{DatabaseId, Partition, Row};
use smallvec::smallvec;

use crate::databases::DatabaseState;
use crate::merging::policy::Ordinals;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::series::Series;
use crate::tombstones::Placed;

/// Rows looked at in one call.
const ROWS: usize = 64;

/// Where the walk is.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    /// Partitions up to this one were walked through.
    last: Option<(DatabaseId, Partition)>,
    at: Option<Place>,
    /// Rests until then, monotonic nanoseconds.
    next_ns: u64,
}

/// What is left to look at of one partition.
#[derive(Debug)]
struct Place {
    database: Arc<DatabaseState>,
    part: Arc<PartitionState>,
    /// As they were when it came there; the last one is looked at.
    tombstones: Vec<Placed>,
    /// The first row and field of it that was not looked at.
    row: Row,
    field: usize,
}

/// A run with something to leave out.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) database: Arc<DatabaseState>,
    pub(super) series: Arc<Series>,
    /// Of the one run.
    pub(super) ordinals: Ordinals,
}

/// What a look came to.
pub(super) enum Look {
    /// Nothing to do until later.
    Rest,
    /// There is more to look at.
    More,
    Found(Found),
}

impl Cleaning {
    /// Looks at the next few rows.
    pub(super) fn look(&mut self, store: &StoreInner, now: u64) -> Look {
        if now < self.next_ns {
            return Look::Rest;
        }
        let Some(place) = &mut self.at else {
            self.at = self.next_place(store);
            if self.at.is_none() {
                *self = Self {
                    next_ns: now + store.config.merge_quiet_ms * 1_000_000,
                    ..Self::default()
                };
                return Look::Rest;
            }
            return Look::More;
        };
        if place.database.is_dropped() || place.tombstones.is_empty() {
            self.last = Some((place.database.id, place.part.partition));
            self.at = None;
            return Look::More;
        }
        place.look().map_or(Look::More, Look::Found)
    }

    /// Lets go of a database.
    pub(super) fn forget_database(&mut self, database: DatabaseId) {
        if self.at.as_ref().is_some_and(|p| p.database.id == database) {
            self.at = None;
        }
    }

    /// The next partition with deletes.
    fn next_place(&self, store: &StoreInner) -> Option<Place> {
        let databases = store.catalog.read().all();
        let parts = databases
            .iter()
            .flat_map(|d| d.touched().map(move |part| (d, part)));
        let mut left = parts.filter(|(d, part)| {
            self.last.is_none_or(|last| last < (d.id, part.partition))
                && !part.tombstones().is_empty()
        });
        let (database, part) = left.next()?;
        Some(Place {
            database: Arc::clone(database),
            part: Arc::clone(part),
            tombstones: part.tombstones().all(),
            row: Row(0),
            field: 0,
        })
    }
}

impl Place {
    fn look(&mut self) -> Option<Found> {
        let cut = self.database.retention.cut();
        let placed = self.tombstones.last()?;
        if cut.keeps_aggregates() && placed.tombstone.range.begin() < cut.points {
            // Leaves without points cannot be written anew.
            self.tombstones.pop();
            return None;
        }
        let tombstone = &placed.tombstone;
        let table = self.part.table.read();
        for _ in 0..ROWS {
            let row = tombstone.rows.next_at(self.row);
            let Some(row) = row.filter(|row| row.0 < table.row_count()) else {
                drop(table);
                self.tombstones.pop();
                (self.row, self.field) = (Row(0), 0);
                return None;
            };
            if row != self.row {
                (self.row, self.field) = (row, 0);
            }
            // Deletes touch none that is away.
            for (field, series) in table.of_row(row).skip(self.field) {
                self.field += 1;
                if tombstone.field.is_some_and(|f| f != field) {
                    continue;
                }
                let mut state = series.lock();
                let (range, among) = (tombstone.range, tombstone.among);
                let ordinal = state.first_hidden(range, among, placed.lsn);
                let is_merging = state.rare().is_some_and(|r| r.merging.is_some());
                if let Some(ordinal) = ordinal.filter(|_| !is_merging) {
                    return Some(Found {
                        database: Arc::clone(&self.database),
                        series: Arc::clone(series),
                        ordinals: smallvec![ordinal],
                    });
                }
            }
            // Rows are numbered below `u32::MAX`.
            (self.row, self.field) = (Row(row.0 + 1), 0);
        }
        None
    }
}
