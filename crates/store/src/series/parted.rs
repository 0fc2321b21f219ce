//! A series in two parts: the older one in a record, the newer one in memory. Every write in the newer part came
//! after all that the record has, so whatever both say of a moment, the newer part is right.

use std::sync::atomic::{AtomicU8, Ordering};

use alluvium_block::BlockStore;
use alluvium_nbtree::{Direction, PageWriter, ReadStats, TailRecord, TreeError, TreeSnapshot};
use alluvium_types::{Column, TimeRange};

use super::{Rare, Series, SeriesLock, SeriesState};
use crate::late::LateBuffer;
use crate::partition::PartitionState;
use crate::tail_files::RecordPlace;

/// How much of a series is in memory, as those may know who have no lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Parts {
    /// All of it.
    Whole,
    /// The newer part.
    Newer,
    /// The newer part, and it is time to join it to the other: it grows out of its tail, has late points, or the older
    /// part fills a page.
    Ripe,
}

impl Series {
    /// How much of it is in memory. It may change at once; where that matters [`SeriesState::older`] says.
    #[inline]
    pub(crate) fn parts(&self) -> Parts {
        match self.parts.load(Ordering::Relaxed) {
            0 => Parts::Whole,
            1 => Parts::Newer,
            _ => Parts::Ripe,
        }
    }
}

impl SeriesState {
    /// The record of its older part, if it has two.
    #[inline]
    pub(crate) fn older(&self) -> Option<RecordPlace> {
        RecordPlace::of_parts(self.older_file, self.older_at)
    }
}

impl SeriesLock<'_> {
    /// Says where its older part is. Readers come for the lock from here on, or need not any more.
    pub(crate) fn set_older(&mut self, place: Option<RecordPlace>) {
        let parts = match place {
            None => Parts::Whole,
            Some(_) => Parts::Newer,
        };
        set(self.parts, parts);
        if place.is_some() {
            self.lock.withhold(true);
        }
        (self.older_file, self.older_at) = RecordPlace::parts(place);
        if place.is_none() {
            self.settle_readers();
        }
    }

    /// Notes that a newer part should be joined to the older one, if so it is. To be called after a push.
    #[inline]
    pub(crate) fn note_ripeness(&mut self) {
        if self.parts.load(Ordering::Relaxed) == Parts::Newer as u8 && self.is_grown() {
            set(self.parts, Parts::Ripe);
        }
    }

    #[cold]
    fn is_grown(&mut self) -> bool {
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        !state.has_one_run() || first.is_some_and(|first| first.has_blocks())
    }

    /// Points of the first run in memory so far, by which [`Self::part`] tells what came since.
    pub(crate) fn points(&mut self) -> u64 {
        let place = self.place;
        let (first, _) = self.lock.split(|kind| place.id(kind));
        first.map_or(0, |first| first.points())
    }

    /// Lets all but the points go that came after the first run had so many, modulo 2^32: they are in the record at
    /// `place`, as is the older part that there may be. Returns by how much the heap grew; `None`, and nothing is changed,
    /// where that cannot be told or does not pay. The caller holds the shard's lock.
    pub(crate) fn part(
        &mut self,
        place: RecordPlace,
        points_then: u32,
        bytes_min: u64,
    ) -> Option<i64> {
        let pays = self.older().is_some() || self.heap_bytes() as u64 >= bytes_min;
        let is_idle = |r: &Rare| r.merging.is_none() && !r.listing.is_waiting();
        let is_free = self.only_pushed && self.has_one_run() && self.rare().is_none_or(is_idle);
        if !pays || !is_free {
            return None;
        }
        let own = self.own_bytes();
        let since = (self.points() as u32).wrapping_sub(points_then);
        // Readers must come for the lock before there is anything they would miss.
        self.lock.withhold(true);
        let series = self.place;
        let (first, _) = self.lock.split(|kind| series.id(kind));
        let grown = match first {
            Some(mut first) => first.keep_newest(since.into()),
            None => Some(0),
        };
        let Some(grown) = grown else {
            self.settle_readers();
            return None;
        };
        self.lock.rare = None;
        self.set_older(Some(place));
        Some(grown - own)
    }

    /// Says that the older part is in the record at `place`, which has all that was in memory when it was written. Returns by how
    /// much the heap grew. The caller holds the shard's lock.
    pub(crate) fn move_older(&mut self, place: RecordPlace) -> i64 {
        let before = self.heap_bytes() as i64;
        if !self.dirty && self.rare().is_none_or(|r| r.merging.is_none()) {
            // Nothing came since.
            self.lock.withhold(true);
            self.lock.clear();
            self.lock.rare = None;
            self.set_older(Some(place));
        } else {
            self.set_older(Some(place));
            self.ripen();
        }
        self.heap_bytes() as i64 - before
    }

    /// Says that it is time to join the parts, if there are two.
    pub(crate) fn ripen(&mut self) {
        if self.older().is_some() {
            set(self.parts, Parts::Ripe);
        }
    }

    /// What is in memory, a later write in the place of an earlier one.
    ///
    /// # Errors
    /// If a long string cannot be read.
    pub(crate) fn newer_points(&mut self, pages: &BlockStore) -> Result<LateBuffer, TreeError> {
        let runs = self.snapshots();
        let late = self.rare().and_then(|rare| rare.late.as_ref());
        points_of(pages, &runs, late)
    }

    /// Puts what is in memory onto the older part, and that in its place. The caller holds the shard's lock.
    ///
    /// # Errors
    /// If a long string in memory cannot be read. Nothing is changed then.
    pub(crate) fn join(
        &mut self,
        out: &mut PageWriter<'_>,
        older: TailRecord,
        pages: &BlockStore,
        (part, late_points_max): (&PartitionState, usize),
    ) -> Result<(), TreeError> {
        let newer = self.newer_points(pages)?;
        let before = self.heap_bytes() as i64;
        self.lock.rare = None;
        self.set_runs(older.runs);
        self.set_late(LateBuffer::of(&older.late));
        out.heap += self.heap_bytes() as i64 - before;
        (self.lsn, out.lsn) = (self.lsn.max(older.key.lsn), self.lsn.max(older.key.lsn));
        for (time, value) in newer.iter() {
            self.push(out, time, value, part, late_points_max);
        }
        let series = self.place;
        let (first, state) = self.lock.split(|kind| series.id(kind));
        if let Some(mut first) = first.filter(|first| first.kind().is_numeric())
            && state.has_one_run()
        {
            first.settle_open(out);
        }
        self.set_older(None);
        Ok(())
    }
}

/// The points of runs, given by ordinal, and of a late buffer, a later write in the place of an earlier one.
///
/// # Errors
/// If a page cannot be read.
pub(crate) fn points_of(
    pages: &BlockStore,
    runs: &[TreeSnapshot],
    late: Option<&LateBuffer>,
) -> Result<LateBuffer, TreeError> {
    let mut points = LateBuffer::default();
    for run in runs {
        let mut cursor = run.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(run.kind());
        while cursor.next_batch(pages, &mut ReadStats::default(), &mut column)? {
            points.extend(&column);
        }
    }
    for (time, value) in late.into_iter().flat_map(LateBuffer::iter) {
        points.insert(time, value);
    }
    Ok(points)
}

fn set(parts: &AtomicU8, to: Parts) {
    parts.store(to as u8, Ordering::Relaxed);
}
