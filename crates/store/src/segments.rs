//! Segments of the index as files: written by checkpoints, read in blocks through a bounded cache.
//!
//! A partition whose rows in memory have become many enough gets a segment of them at the next checkpoint; several
//! neighbours of a size are made one. A file that no superblock names any more is removed, but stays readable for
//! whoever still has it open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_index::{DAY_NS, LiveDays, Liveness, MergeJob, SealJob, Segment, SegmentError};
use alluvium_io::Lane;
use alluvium_types::{DatabaseId, Partition, TimeRange};
use hashbrown::HashSet;

use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::ledger::{NamedFile, NamedSegment};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::status::IndexStatus;
use crate::stored_segment::StoredSegment;
use crate::twin_file::TwinFile;

/// Segments a checkpoint may write; the number of a file has room for them.
pub(crate) const SEGMENTS_PER_CHECKPOINT: u64 = 1 << 16;

/// A segment and the file behind it.
#[derive(Debug, Clone)]
pub(crate) struct HeldSegment {
    pub segment: Arc<Segment>,
    pub stored: Arc<StoredSegment>,
    pub file: NamedFile,
}

/// A segment that a checkpoint writes.
#[derive(Debug)]
pub(crate) struct NewSegment {
    pub part: Arc<PartitionState>,
    pub held: HeldSegment,
    pub file: TwinFile,
    /// Made of frozen rows, not of other segments.
    pub is_seal: bool,
}

impl NewSegment {
    /// The partition's segments when this one is among them.
    pub(crate) fn placed_in(&self, held: &[HeldSegment]) -> Vec<HeldSegment> {
        let rows = self.held.segment.rows();
        let before = held.iter().filter(|h| h.segment.rows().end <= rows.start);
        let after = held.iter().filter(|h| h.segment.rows().start >= rows.end);
        let all = before.chain([&self.held]).chain(after);
        all.cloned().collect()
    }
}

/// A segment that a checkpoint makes, slice by slice.
#[derive(Debug)]
pub(crate) struct SegmentBuild {
    part: Arc<PartitionState>,
    /// Of its file.
    number: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Seal(Box<SealJob>),
    /// With the segments that it reads.
    Merge(
        Box<MergeJob>,
        #[expect(dead_code, reason = "it is dropped with the job")] Leaving,
    ),
    /// Of one of which a block holds in neither file: its number.
    Mend(
        Box<MergeJob>,
        #[expect(dead_code, reason = "it is dropped with the job")] Leaving,
        u64,
    ),
}

/// Segments that a merge reads: what is read of them from now on is not worth room in memory. If they stay after all, it is
/// again when this is dropped.
#[derive(Debug)]
struct Leaving(Vec<Arc<StoredSegment>>);

impl Leaving {
    fn of(held: &[HeldSegment]) -> Self {
        let stored: Vec<_> = held.iter().map(|h| Arc::clone(&h.stored)).collect();
        stored.iter().for_each(|stored| stored.keep_blocks(false));
        Self(stored)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.iter().for_each(|stored| stored.keep_blocks(true));
    }
}

/// What a slice of a build came to.
#[derive(Debug)]
pub(crate) enum Built {
    /// There is more to do.
    More,
    /// A merge that met damage: the segments stay as they are.
    Nothing,
    Segment(Box<NewSegment>),
}

/// The neighbours that should be one segment: the newest `fan` of a size in a row, if together they stay within
/// `rows_max`.
fn mergeable(rows: &[u32], fan: usize, rows_max: u32) -> Option<std::ops::Range<usize>> {
    if fan < 2 {
        return None;
    }
    let tier = |rows: &u32| rows.max(&1).ilog(fan as u32);
    (0..=rows.len().checked_sub(fan)?).rev().find_map(|begin| {
        let window = rows.get(begin..begin + fan)?;
        let sum: u64 = window.iter().map(|r| u64::from(*r)).sum();
        // A large one may be followed by smaller ones, never the other way round for long.
        let highest = window.iter().map(tier).max();
        let first = window.first().map(tier);
        (highest == first
            && sum <= u64::from(rows_max)
            && window.iter().skip(1).all(|r| Some(tier(r) + 1) >= first))
        .then_some(begin..begin + fan)
    })
}

impl StoreInner {
    /// The lane on which files of the index are opened and closed.
    pub(crate) fn index_lane(&self) -> Lane {
        Lane(self.shards.len())
    }

    /// A segment of bytes that are still to be written, under a number of this checkpoint.
    fn new_segment(
        &self,
        part: &Arc<PartitionState>,
        number: u64,
        bytes: Vec<u8>,
        is_seal: bool,
    ) -> Result<NewSegment, SegmentError> {
        let lane = self.index_lane();
        let bytes = Arc::new(bytes);
        let named = NamedFile {
            seq: number,
            len: bytes.len() as u64,
            crc: 0,
        };
        let paths = named.index_paths();
        let file = TwinFile::create(self.device.as_ref(), lane, paths, (number, &bytes));
        let stored = Arc::new(StoredSegment::in_memory(self, named, bytes));
        let segment = Segment::open(Arc::<StoredSegment>::clone(&stored))?;
        Ok(NewSegment {
            part: Arc::clone(part),
            held: HeldSegment {
                segment: Arc::new(segment),
                stored,
                file: named,
            },
            file,
            is_seal,
        })
    }

    /// A segment to be made of a partition's frozen rows, or else anew of one of those `broken`, or of several if it is time. What is
    /// broken and has to wait is noted again.
    pub(crate) fn plan_segment(
        &self,
        part: &Arc<PartitionState>,
        (seed, number): (u64, u64),
        may_merge: bool,
        broken: &HashSet<u64>,
    ) -> Option<SegmentBuild> {
        // The definitions just captured need the segment of these rows beside them.
        let job = part.index.read().seal_job();
        let held = part.segments.lock().clone();
        let mut waiting = held.iter().filter(|h| broken.contains(&h.file.seq));
        let may_mend = job.is_none() && may_merge;
        let mend = if may_mend { waiting.next() } else { None };
        waiting.for_each(|h| self.index_cache.note_broken(h.file.seq));
        let work = if let Some(job) = job {
            Work::Seal(Box::new(job))
        } else if let Some(mend) = mend {
            let job = MergeJob::mending(Arc::clone(&mend.segment), seed).ok()?;
            let leaving = Leaving::of(std::slice::from_ref(mend));
            Work::Mend(Box::new(job), leaving, mend.file.seq)
        } else {
            let rows: Vec<u32> = held.iter().map(|h| h.segment.rows().len() as u32).collect();
            let StoreConfig {
                index_merge_segments: fan,
                index_merge_rows_max: rows_max,
                ..
            } = self.config;
            let range = mergeable(&rows, fan, rows_max).filter(|_| may_merge)?;
            let held = held.get(range)?;
            let leaving = Leaving::of(held);
            let inputs = held.iter().map(|h| Arc::clone(&h.segment));
            Work::Merge(Box::new(MergeJob::new(inputs.collect()).ok()?), leaving)
        };
        Some(SegmentBuild {
            part: Arc::clone(part),
            number,
            work,
        })
    }

    /// Goes on with a segment for some milliseconds. Writers and readers go on meanwhile; a merge reads a bounded number
    /// of blocks.
    pub(crate) fn build_segment(&self, build: &mut SegmentBuild) -> Result<Built, SegmentError> {
        let SegmentBuild { part, number, work } = build;
        let (bytes, is_seal) = match work {
            Work::Seal(job) => (job.step(|| part.index.read()), true),
            Work::Merge(job, _) => {
                let Ok(bytes) = job.step() else {
                    // Reads of it say what is wrong; those of the others go on.
                    self.index_cache
                        .failed_merges
                        .fetch_add(1, Ordering::Relaxed);
                    return Ok(Built::Nothing);
                };
                (bytes, false)
            }
            Work::Mend(job, _, of) => {
                let Ok(bytes) = job.step() else {
                    self.index_cache.give_up(*of);
                    self.index_cache
                        .failed_merges
                        .fetch_add(1, Ordering::Relaxed);
                    return Ok(Built::Nothing);
                };
                (bytes, false)
            }
        };
        let Some(bytes) = bytes else {
            return Ok(Built::More);
        };
        let new = self.new_segment(part, *number, bytes, is_seal)?;
        Ok(Built::Segment(Box::new(new)))
    }

    /// Lets new segments take their places: a superblock names them.
    pub(crate) fn place_segments(&self, new: Vec<NewSegment>) {
        for new in new {
            let mut held = new.part.segments.lock();
            let placed = new.placed_in(&held);
            let stays = |h: &&HeldSegment| placed.iter().any(|p| p.file.seq == h.file.seq);
            let left = held.iter().filter(|h| !stays(h)).map(|h| h.file.seq);
            let left: Vec<u64> = left.collect();
            *held = placed;
            drop(held);
            let lane = self.index_lane();
            let Some(file) = new.file.take_first(self.device.as_ref(), lane) else {
                continue;
            };
            new.held.stored.place_in(file);
            let segment = Arc::clone(&new.held.segment);
            let mut index = new.part.index.write();
            let counter = match (new.is_seal, left.len()) {
                (true, _) => &self.index_cache.seals,
                (false, 1) => &self.index_cache.mended,
                (false, _) => &self.index_cache.merges,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let placed = if new.is_seal {
                index.seal(segment)
            } else {
                index.replace_segments(segment)
            };
            placed.expect("only checkpoints change segments, one at a time");
            drop(index);
            if !left.is_empty() {
                self.index_cache.forget(&left);
            }
        }
    }

    /// Rows with points on the last days, and those ahead; `None` if silent rows stay in the name table.
    pub(crate) fn active_rows(&self, live: &Liveness) -> Option<LiveDays> {
        let days = i64::from(self.config.index_silent_days);
        let now = self.believed.status(self.clock.as_ref()).believed_ns;
        let from = now.saturating_sub(days.saturating_mul(DAY_NS));
        let recent = TimeRange::new(from, i64::MAX).ok()?;
        (days > 0).then(|| live.days_in(recent))
    }

    /// Lets rows that fell silent leave the name tables: of partitions with new segments, and of all on a new day. Costs
    /// a pass over each table, a part at a time under its shard's lock.
    pub(crate) fn silence_rows(&self, renewed: &[Arc<PartitionState>]) {
        let today = self.believed.status(self.clock.as_ref()).believed_ns / DAY_NS;
        for database in self.catalog.read().all() {
            for part in database.touched() {
                let day = part.silenced_day.swap(today, Ordering::Relaxed);
                let is_renewed = renewed.iter().any(|p| Arc::ptr_eq(p, part));
                if part.segments.lock().is_empty() || (day == today && !is_renewed) {
                    continue;
                }
                let active = self.active_rows(&part.live.read());
                let Some(active) = active.map(LiveDays::union) else {
                    continue;
                };
                let mut next = Some(0);
                while let Some(place) = next {
                    // A row that is written to meanwhile may go all the same: its writer finds it again.
                    let _shard = self.shard_of(part.partition).state.lock();
                    if part.is_held() {
                        // At the next checkpoint.
                        part.silenced_day.store(i64::MIN, Ordering::Relaxed);
                        break;
                    }
                    let (gone, after) = part.index.write().silence_part(&active, place);
                    next = after;
                    if gone > 0 {
                        part.silences.fetch_add(1, Ordering::Release);
                        let silenced = &self.index_cache.silenced;
                        silenced.fetch_add(u64::from(gone), Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Opens the segments of a partition. Waits.
    pub(crate) fn open_segments(
        &self,
        part: &PartitionState,
        named: &[NamedSegment],
    ) -> Result<Vec<Arc<Segment>>, OpenError> {
        let mut held = Vec::with_capacity(named.len());
        for one in named {
            let stored = Arc::new(StoredSegment::open(self, one.file)?);
            let segment = Segment::open(Arc::<StoredSegment>::clone(&stored));
            let segment = Arc::new(segment.map_err(alluvium_index::LoadError::from)?);
            held.push(HeldSegment {
                segment,
                stored,
                file: one.file,
            });
        }
        let segments = held.iter().map(|h| Arc::clone(&h.segment)).collect();
        *part.segments.lock() = held;
        Ok(segments)
    }

    pub(crate) fn index_status(&self) -> IndexStatus {
        let cache = &self.index_cache;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut status = IndexStatus {
            seals: count(&cache.seals),
            merges: count(&cache.merges),
            failed_merges: count(&cache.failed_merges),
            copies_read: count(&cache.copies_read),
            mended: count(&cache.mended),
            silenced: count(&cache.silenced),
            returned: count(&cache.returned),
            cache_hits: count(&cache.hits),
            cache_misses: count(&cache.misses),
            ..IndexStatus::default()
        };
        for database in self.catalog.read().all() {
            for part in database.touched() {
                let index = part.index.read();
                status.segments += index.segments().len() as u64;
                status.sealed_rows += u64::from(index.sealed_rows());
                status.rows += u64::from(index.row_count());
                status.silent_rows += u64::from(index.silent_rows());
            }
        }
        status
    }

    /// Segments by database and partition, with those that are being written in their places.
    pub(crate) fn named_segments(&self, new: &[NewSegment]) -> Vec<NamedSegment> {
        let mut named = Vec::new();
        for database in self.catalog.read().all() {
            for part in database.touched() {
                let mut held = part.segments.lock().clone();
                for new in new.iter().filter(|n| Arc::ptr_eq(&n.part, part)) {
                    held = new.placed_in(&held);
                }
                named.extend(held.into_iter().map(|h| NamedSegment {
                    database: database.id,
                    partition: part.partition,
                    file: h.file,
                }));
            }
        }
        named
    }
}

/// The segments of one partition, in their order.
pub(crate) fn of_partition(
    named: &[NamedSegment],
    database: DatabaseId,
    partition: Partition,
) -> Vec<NamedSegment> {
    let of_it = |n: &&NamedSegment| n.database == database && n.partition == partition;
    named.iter().filter(of_it).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_size_are_merged() {
        assert_eq!(mergeable(&[], 4, 1000), None);
        assert_eq!(mergeable(&[1, 1, 1], 4, 1000), None);
        assert_eq!(mergeable(&[1, 1, 1, 1], 4, 1000), Some(0..4));
        assert_eq!(mergeable(&[64, 1, 1, 1], 4, 1000), None, "not of a size");
        assert_eq!(mergeable(&[64, 1, 1, 1, 1], 4, 1000), Some(1..5));
        assert_eq!(mergeable(&[300, 300, 300, 300], 4, 1000), None, "too many");
        assert_eq!(mergeable(&[3, 1], 2, 1000), Some(0..2));
        assert_eq!(mergeable(&[1, 3], 2, 1000), None);
        assert_eq!(mergeable(&[1, 1], 0, 1000), None);
    }
}
