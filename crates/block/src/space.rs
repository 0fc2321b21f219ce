//! Which pages of a volume take room, and how the room of dead ones is given back: a hole for a range of pages, the
//! whole file for a volume of which nothing lives.
//!
//! Which pages are dead is the caller's decision: it must know that neither superblock leads to them. This module
//! says what it may decide about, and answers reads of what is gone by name, never with zeros.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_codec::{CodecError, varint};
use alluvium_io::{IoError, IoErrorKind, Lane, Op, Ticket};
use alluvium_types::{DatabaseId, PAGE_SIZE};

use crate::appender::Appender;
use crate::store::{BlockStore, OpenExtent};
use crate::volume::{Role, Volume};

/// Pages `begin..end` of a volume.
pub type PageRange = (u32, u32);

/// Pages of one volume that take no room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holes {
    /// Ascending, none touching the next.
    pub(crate) ranges: Vec<PageRange>,
    /// On their way: read as gone already, but not remembered by a manifest.
    going: Vec<PageRange>,
    /// Pages of the ranges that were never written: an appender left its extent before they were.
    unwritten: u32,
}

impl Holes {
    pub(crate) fn contains(&self, page: u32) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= page);
        let among = |(begin, end): &PageRange| (*begin..*end).contains(&page);
        self.ranges.get(at).is_some_and(among) || self.going.iter().any(among)
    }

    fn add(&mut self, (begin, end): PageRange) {
        if begin >= end {
            return;
        }
        let from = self.ranges.partition_point(|(_, e)| *e < begin);
        let to = self.ranges.partition_point(|(b, _)| *b <= end);
        let touched = self.ranges.get(from..to).unwrap_or_default();
        let begin = touched.first().map_or(begin, |(b, _)| begin.min(*b));
        let end = touched.last().map_or(end, |(_, e)| end.max(*e));
        self.ranges.splice(from..to, [(begin, end)]);
    }

    /// Notes pages that nobody will write.
    pub(crate) fn add_unwritten(&mut self, range: PageRange) {
        self.unwritten += range.1.saturating_sub(range.0);
        self.add(range);
    }

    /// Pages that were written and given back.
    pub(crate) fn given_back(&self) -> u64 {
        let all: u64 = self.ranges.iter().map(|(b, e)| u64::from(e - b)).sum();
        all.saturating_sub(self.unwritten.into())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        varint::put_u64(out, self.unwritten.into());
        varint::put_u64(out, self.ranges.len() as u64);
        let mut at = 0;
        for (begin, end) in &self.ranges {
            varint::put_u64(out, u64::from(begin - at));
            varint::put_u64(out, u64::from(end - begin));
            at = *end;
        }
    }

    pub(crate) fn get(r: &mut &[u8]) -> Result<Self, CodecError> {
        let unwritten = varint::get_u64(r)? as u32;
        let mut holes = Self {
            unwritten,
            ..Self::default()
        };
        let mut at = 0_u32;
        for _ in 0..varint::get_u64(r)? {
            let begin = at.saturating_add(varint::get_u64(r)? as u32);
            at = begin.saturating_add(varint::get_u64(r)? as u32);
            holes.add((begin, at));
        }
        Ok(holes)
    }
}

/// One volume, for whoever looks for dead pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpace {
    /// Its number.
    pub id: u32,
    /// Which of its database's sets.
    pub role: Role,
    /// Somebody may still write pages of it that none were written of.
    pub is_filling: bool,
    /// First page that was never handed out.
    pub end: u32,
    /// Pages that were written when it was looked at and have not been given back: ascending, apart.
    pub written: Vec<PageRange>,
    /// Pages of it that took room before that, as [`BlockStore::volumes`] counts them: after a crash not the same number.
    pub allocated: u64,
}

impl VolumeSpace {
    /// How many pages are written and take room.
    pub fn pages(&self) -> u64 {
        self.written.iter().map(|(b, e)| u64::from(e - b)).sum()
    }
}

/// What was handed out of each volume of a database at one moment, before the extents of the appenders are looked at: these are
/// listed of a survey, so that it cannot be the other way round, and a page appended in between be taken for one that was there.
#[derive(Debug)]
pub struct SpaceSurvey {
    /// With the pages that took room, the first page that belonged to no extent, whether more are cut from it, and the extents that belonged to
    /// no appender.
    volumes: Vec<(Arc<Volume>, u64, u32, bool, Vec<PageRange>)>,
    /// Extents that appenders have not filled.
    open: Vec<OpenExtent>,
}

impl SpaceSurvey {
    /// Notes the extents of an appender: a page of theirs that is not written yet is none of those written, whenever it will be.
    pub fn note_open(&mut self, appender: &Appender) {
        self.open.extend(appender.open_extents());
    }

    /// The volumes with the pages that were written when the survey began; perhaps some that were a little later. The extents of
    /// every appender have been noted.
    pub fn written(self) -> Vec<VolumeSpace> {
        let mut all: Vec<VolumeSpace> = Vec::with_capacity(self.volumes.len());
        for (volume, allocated, end, is_active, mut gaps) in self.volumes {
            let unfilled = self.open.iter().filter(|e| e.volume == volume.id);
            gaps.extend(unfilled.map(|e| (e.next, e.end)));
            let is_filling = is_active || !gaps.is_empty();
            // Last: an extent that was left meanwhile is among them.
            gaps.extend(&volume.holes.lock().ranges);
            gaps.sort_unstable();
            let (mut written, mut at) = (Vec::new(), 1);
            for (begin, gap_end) in gaps {
                if at < begin.min(end) {
                    written.push((at, begin.min(end)));
                }
                at = at.max(gap_end);
            }
            if at < end {
                written.push((at, end));
            }
            all.push(VolumeSpace {
                id: volume.id,
                role: volume.set.role,
                is_filling,
                end,
                written,
                allocated,
            });
        }
        all.sort_unstable_by_key(|v| v.id);
        all
    }
}

/// Holes being made.
#[derive(Debug)]
pub struct PunchBatch {
    going: Vec<(Arc<Volume>, PageRange, Ticket)>,
}

impl PunchBatch {
    /// Pages that are on their way.
    pub fn pages(&self) -> u64 {
        let pages = self.going.iter().map(|(_, (b, e), _)| u64::from(e - b));
        pages.sum()
    }

    /// `None` while any is being made; else how many pages were given back and the first failure.
    pub fn result(&mut self, store: &BlockStore) -> Option<(u64, Option<IoError>)> {
        if self.going.iter().any(|(_, _, ticket)| !ticket.is_ended()) {
            return None;
        }
        let (mut pages, mut failure) = (0, None);
        for (volume, range, ticket) in self.going.drain(..) {
            let result = ticket.result().unwrap_or(Ok(alluvium_io::Completion::Done));
            let mut holes = volume.holes.lock();
            holes.going.retain(|r| *r != range);
            match result {
                Ok(_) => {
                    holes.add(range);
                    pages += u64::from(range.1 - range.0);
                    // The next manifest remembers it, so it must be durable then.
                    volume.dirty.store(true, Ordering::Release);
                }
                Err(error) => {
                    // What a backup has, too, stays as it is: the next walk asks again.
                    if error.kind == IoErrorKind::Linked {
                        continue;
                    }
                    if error.kind == IoErrorKind::Unsupported {
                        store.no_holes.store(true, Ordering::Relaxed);
                    }
                    failure.get_or_insert(error);
                }
            }
        }
        Some((pages, failure))
    }
}

impl BlockStore {
    /// Begins to list the pages of a database that are written.
    pub fn survey(&self, database: DatabaseId) -> SpaceSurvey {
        let sets = self.sets.lock();
        let volumes = self.volumes.read();
        let of_database = volumes.values().filter(|v| v.set.database == database);
        let look = |volume: &Arc<Volume>| {
            let allocated = volume.allocated();
            let set = sets.get(&volume.set);
            let active = set.and_then(|set| set.active.as_ref());
            let is_active = active.is_some_and(|v| v.id == volume.id);
            let free = set.iter().flat_map(|set| &set.free);
            let free = free.filter(|e| e.volume.id == volume.id);
            let free = free.map(|e| (e.next, e.end)).collect();
            let end = volume.handed_out.load(Ordering::Acquire);
            (Arc::clone(volume), allocated, end, is_active, free)
        };
        SpaceSurvey {
            volumes: of_database.map(look).collect(),
            open: Vec::new(),
        }
    }

    /// Whether a database has pages of long strings, which only leaves lead to.
    pub fn has_overflow_pages(&self, database: DatabaseId) -> bool {
        let volumes = self.volumes.read();
        let mut all = volumes.values().filter(|v| v.set.database == database);
        all.any(|v| v.has_overflow.load(Ordering::Relaxed))
    }

    /// Starts giving ranges of pages back. From now on they read as [`ReadError::GivenBack`]. Volumes that are gone,
    /// or whose file is not open, are passed over; so is everything once the file system has said that it cannot.
    ///
    /// [`ReadError::GivenBack`]: crate::ReadError::GivenBack
    pub fn start_punch(&self, lane: Lane, pages: &[(u32, PageRange)]) -> PunchBatch {
        let mut going = Vec::new();
        if self.no_holes.load(Ordering::Relaxed) {
            return PunchBatch { going };
        }
        for (id, range) in pages {
            let volume = self.volumes.read().get(id).map(Arc::clone);
            let Some((volume, file)) = volume.and_then(|v| Some((Arc::clone(&v), v.file()?)))
            else {
                continue;
            };
            volume.holes.lock().going.push(*range);
            volume.has_holes.store(true, Ordering::Release);
            self.cache.forget_pages(*id, *range);
            let op = Op::Punch {
                file,
                offset: u64::from(range.0) * PAGE_SIZE as u64,
                len: u64::from(range.1 - range.0) * PAGE_SIZE as u64,
            };
            let ticket = self.device.submit(lane, op);
            going.push((volume, *range, ticket));
        }
        PunchBatch { going }
    }

    /// Whether the file system has refused to make holes: room comes back by whole volumes only.
    pub fn has_no_holes(&self) -> bool {
        self.no_holes.load(Ordering::Relaxed)
    }

    /// As [`Self::free_volumes`], for volumes whose living pages were written anew elsewhere: their pages read as
    /// [`ReadError::GivenBack`](crate::ReadError::GivenBack), for they are missing, not expired.
    pub fn retire_volumes(&self, ids: &[u32]) -> Vec<String> {
        let mut retired = self.retired.lock();
        retired.extend(ids);
        drop(retired);
        self.free_volumes(ids)
    }

    /// Pages that take room, by database: those written less those given back.
    pub fn allocated_pages(&self, database: DatabaseId) -> u64 {
        let volumes = self.volumes.read();
        let of_database = volumes.values().filter(|v| v.set.database == database);
        of_database.map(|v| v.allocated()).sum()
    }
}

impl Volume {
    /// Pages that were written and not given back, its header left out.
    pub(crate) fn allocated(&self) -> u64 {
        let appended = self.appended.load(Ordering::Relaxed);
        if !self.has_holes.load(Ordering::Acquire) {
            return appended;
        }
        appended.saturating_sub(self.holes.lock().given_back())
    }

    /// Whether a page was given back.
    pub(crate) fn is_hole(&self, page: u32) -> bool {
        self.has_holes.load(Ordering::Acquire) && self.holes.lock().contains(page)
    }

    /// Notes pages of an extent that nobody will fill.
    pub(crate) fn leave_unwritten(&self, range: PageRange) {
        if range.0 < range.1 {
            self.holes.lock().add_unwritten(range);
            self.has_holes.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_come_back() {
        let mut holes = Holes::default();
        for range in [(10, 20), (40, 50), (20, 25), (30, 40), (5, 5), (60, 61)] {
            holes.add(range);
        }
        assert_eq!(holes.ranges, [(10, 25), (30, 50), (60, 61)]);
        holes.add((24, 31));
        holes.add_unwritten((61, 64));
        assert_eq!(holes.ranges, [(10, 50), (60, 64)]);
        assert_eq!(holes.given_back(), 41);
        let inside = |page| holes.contains(page);
        assert!(inside(10) && inside(49) && inside(63));
        assert!(!inside(9) && !inside(50) && !inside(64));
        let mut bytes = Vec::new();
        holes.put(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!(Holes::get(&mut rest).unwrap(), holes);
        assert!(rest.is_empty());
        for cut in 0..bytes.len() {
            assert!(Holes::get(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
