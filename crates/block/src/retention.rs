//! Which points a volume holds, and how volumes leave: closed first, so that no page joins them any more, then
//! freed, so that every page in them reads as expired.
//!
//! When a volume may go is the caller's decision. This module keeps the times it decides by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use alluvium_codec::{CodecError, varint};
use alluvium_types::{ByteCount, DatabaseId, PAGE_SIZE, TimeRange};

use crate::store::BlockStore;
use crate::volume::{Role, Volume};

/// Times of the points in or below the pages of one volume. Each only grows outward.
#[derive(Debug)]
pub(crate) struct VolumeTimes {
    oldest: AtomicI64,
    /// First instant behind the newest point.
    end: AtomicI64,
    /// The same, with points from the future counted as if they were of the moment they came.
    settled: AtomicI64,
    /// Clock when the volume was planned.
    begun: i64,
    /// Clock when it was closed; `OPEN` if it takes pages.
    closed: AtomicI64,
}

/// Not closed.
const OPEN: i64 = i64::MAX;

impl VolumeTimes {
    /// Of a volume without points.
    pub(crate) fn new(begun: i64) -> Self {
        Self {
            oldest: AtomicI64::new(i64::MAX),
            end: AtomicI64::new(i64::MIN),
            settled: AtomicI64::new(i64::MIN),
            begun,
            closed: AtomicI64::new(OPEN),
        }
    }

    /// Notes points that are appended while the clock shows `now`.
    pub(crate) fn note(&self, times: TimeRange, now: i64) {
        self.oldest.fetch_min(times.begin(), Ordering::Relaxed);
        self.end.fetch_max(times.end(), Ordering::Relaxed);
        let settled = times.end().min(now.saturating_add(1));
        self.settled.fetch_max(settled, Ordering::Relaxed);
    }

    /// Whether no more pages are given out.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) != OPEN
    }

    fn close(&self, now: i64) {
        let was = self.closed.load(Ordering::Acquire);
        self.closed
            .store(was.min(now).min(OPEN - 1), Ordering::Release);
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let load = |n: &AtomicI64| n.load(Ordering::Relaxed);
        for time in [
            load(&self.oldest),
            load(&self.end),
            load(&self.settled),
            self.begun,
            load(&self.closed),
        ] {
            varint::put_i64(out, time);
        }
    }

    pub(crate) fn get(r: &mut &[u8]) -> Result<Self, CodecError> {
        let mut next = || varint::get_i64(r);
        Ok(Self {
            oldest: AtomicI64::new(next()?),
            end: AtomicI64::new(next()?),
            settled: AtomicI64::new(next()?),
            begun: next()?,
            closed: AtomicI64::new(next()?),
        })
    }
}

/// A volume as whoever decides about its end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its number.
    pub id: u32,
    /// Owner.
    pub database: DatabaseId,
    /// Which of its two sets.
    pub role: Role,
    /// Pages written and not given back, its header left out.
    pub pages: u64,
    /// Time of the oldest point in or below its pages, in nanoseconds; `i64::MAX` without points.
    pub oldest: i64,
    /// First instant behind the newest point; `i64::MIN` without points.
    pub end: i64,
    /// The same, with points from the future counted as if they were of the moment they came.
    pub settled: i64,
    /// Clock when the volume was planned.
    pub begun: i64,
    /// Clock when it was closed; `None` if it takes pages.
    pub closed: Option<i64>,
}

impl VolumeInfo {
    /// What its pages take.
    pub fn bytes(&self) -> ByteCount {
        ByteCount(self.pages * PAGE_SIZE as u64)
    }
}

impl BlockStore {
    /// Tells what the clock shows: points behind it count as of now in [`VolumeInfo::settled`]. Until the first
    /// call no point is from the future.
    pub fn set_now(&self, wall_ns: i64) {
        self.now.store(wall_ns, Ordering::Relaxed);
    }

    /// All volumes by database, role and number.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let info = |v: &Arc<Volume>| VolumeInfo {
            id: v.id,
            database: v.set.database,
            role: v.set.role,
            pages: v.allocated(),
            oldest: v.times.oldest.load(Ordering::Relaxed),
            end: v.times.end.load(Ordering::Relaxed),
            settled: v.times.settled.load(Ordering::Relaxed),
            begun: v.times.begun,
            closed: v
                .times
                .is_closed()
                .then(|| v.times.closed.load(Ordering::Acquire)),
        };
        let mut all: Vec<VolumeInfo> = self.volumes.read().values().map(info).collect();
        all.sort_unstable_by_key(|v| (v.database, v.role, v.id));
        all
    }

    /// Bounds the size of the volumes that a database gets from now on; `None` leaves it to the settings.
    pub fn limit_volumes(&self, database: DatabaseId, bytes: Option<u64>) {
        let mut limits = self.volume_limits.lock();
        match bytes {
            Some(bytes) => drop(limits.insert(database, bytes)),
            None => drop(limits.remove(&database)),
        }
    }

    /// Gives out no more pages of these volumes. Appenders go on with what they hold until each was told
    /// [`Appender::leave_closed`](crate::Appender::leave_closed); from then on their times stand still.
    pub fn close_volumes(&self, ids: &[u32]) {
        let mut sets = self.sets.lock();
        let volumes = self.volumes.read();
        for volume in ids.iter().filter_map(|id| volumes.get(id)) {
            volume.times.close(self.now.load(Ordering::Relaxed));
            if let Some(set) = sets.get_mut(&volume.set) {
                set.active = set.active.take().filter(|v| v.id != volume.id);
                set.free.retain(|e| {
                    let stays = e.volume.id != volume.id;
                    if !stays {
                        e.volume.leave_unwritten((e.next, e.end));
                    }
                    stays
                });
            }
        }
    }

    /// Forgets volumes: their pages read as expired from now on. They must be closed, and left by every appender,
    /// which must then forget what it has queued of them. Returns their paths; the files may be removed once no
    /// superblock names them. Unknown numbers are passed over.
    pub fn free_volumes(&self, ids: &[u32]) -> Vec<String> {
        self.close_volumes(ids);
        let mut volumes = self.volumes.write();
        let gone: Vec<Arc<Volume>> = ids.iter().filter_map(|id| volumes.remove(id)).collect();
        drop(volumes);
        self.forget(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_outward_and_the_future_settles() {
        let times = VolumeTimes::new(7);
        times.note(TimeRange::inclusive(10, 20), 100);
        times.note(TimeRange::inclusive(-5, 15), 100);
        let numbers = |t: &VolumeTimes| {
            let mut out = Vec::new();
            t.put(&mut out);
            let mut rest = out.as_slice();
            let got = VolumeTimes::get(&mut rest).unwrap();
            assert!(rest.is_empty());
            let load = |n: &AtomicI64| n.load(Ordering::Relaxed);
            (
                load(&got.oldest),
                load(&got.end),
                load(&got.settled),
                got.begun,
                got.is_closed(),
            )
        };
        assert_eq!(numbers(&times), (-5, 21, 21, 7, false));
        times.note(TimeRange::inclusive(5000, 6000), 200);
        times.close(i64::MAX);
        assert_eq!(numbers(&times), (-5, 6001, 201, 7, true));
        let cut = VolumeTimes::get(&mut [0x80].as_slice());
        assert!(cut.is_err());
    }
}
