//! Segments of the index as files: written by checkpoints, read in blocks through a bounded cache.
//!
//! A partition whose rows in memory have become many enough gets a segment of them at the next checkpoint; several
//! neighbours of a size are made one. A file that no superblock names any more is removed, but stays readable for
//! whoever still has it open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_index::{DAY_NS, Liveness, MergeJob, SealJob, Segment, SegmentError, SegmentFile};
use alluvium_io::{AlignedBuf, Completion, Device, FileId, IoError, Lane, Op, OpenMode, Read};
use alluvium_types::{Budget, DatabaseId, Owner, PAGE_SIZE, Partition, TimeRange};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::ledger::{NamedFile, NamedSegment};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::piece_file::PieceFile;
use crate::status::IndexStatus;

/// Segments a checkpoint may write; the number of a file has room for them.
pub(crate) const SEGMENTS_PER_CHECKPOINT: u64 = 1 << 16;

/// Blocks of segments that were read lately, of the whole store.
#[derive(Debug)]
pub(crate) struct IndexCache {
    limit: usize,
    budget: Arc<Budget>,
    blocks: Mutex<Blocks>,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub seals: AtomicU64,
    pub merges: AtomicU64,
    /// Merges of segments that could not be read.
    pub failed_merges: AtomicU64,
}

#[derive(Debug, Default)]
struct Blocks {
    by_place: HashMap<(u64, u64), (Arc<[u8]>, bool)>,
    /// In the order they came; one that was used since it was last looked at goes to the end.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
}

impl Blocks {
    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit
            && let Some(oldest) = self.order.pop_front()
        {
            let entry = self.by_place.get_mut(&oldest);
            if entry.is_some_and(|(_, used)| std::mem::take(used)) {
                self.order.push_back(oldest);
            } else {
                let gone = self.by_place.remove(&oldest);
                self.bytes -= gone.map_or(0, |(block, _)| block.len());
            }
        }
    }
}

impl IndexCache {
    pub(crate) fn new(limit: usize, budget: Arc<Budget>) -> Self {
        Self {
            limit,
            budget,
            blocks: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            seals: AtomicU64::new(0),
            merges: AtomicU64::new(0),
            failed_merges: AtomicU64::new(0),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Drops blocks until no more bytes than these are left.
    pub(crate) fn shrink(&self, bytes: usize) {
        let mut blocks = self.blocks.lock();
        let before = blocks.bytes;
        blocks.shrink(bytes);
        let gone = before.saturating_sub(blocks.bytes);
        self.budget.release(Owner::Index, gone as u64);
    }

    fn get(&self, place: (u64, u64), bytes: usize) -> Option<Arc<[u8]>> {
        let mut blocks = self.blocks.lock();
        let found = blocks.by_place.get_mut(&place);
        let found = found.filter(|(block, _)| block.len() == bytes);
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found.map(|(block, used)| {
            *used = true;
            Arc::clone(block)
        })
    }

    fn put(&self, place: (u64, u64), block: Arc<[u8]>) {
        if block.len() > self.limit / 4 {
            return;
        }
        let mut blocks = self.blocks.lock();
        let blocks = &mut *blocks;
        let before = blocks.bytes;
        blocks.bytes += block.len();
        if let Some((old, _)) = blocks.by_place.insert(place, (block, false)) {
            blocks.bytes -= old.len();
        } else {
            blocks.order.push_back(place);
        }
        blocks.shrink(self.limit);
        let (more, less) = (
            blocks.bytes.saturating_sub(before),
            before.saturating_sub(blocks.bytes),
        );
        self.budget.force(Owner::Index, more as u64);
        self.budget.release(Owner::Index, less as u64);
    }
}

/// Where the bytes are at the moment.
#[derive(Debug)]
enum Place {
    /// In memory until a superblock names the file.
    Memory(Arc<Vec<u8>>),
    File(FileId),
}

/// The bytes of one segment. Dropping it closes the file.
#[derive(Debug)]
pub(crate) struct StoredSegment {
    device: Arc<dyn Device>,
    lane: Lane,
    cache: Arc<IndexCache>,
    pub number: u64,
    len: u64,
    place: RwLock<Place>,
}

impl StoredSegment {
    /// Opens a file that a manifest names. Waits.
    fn open(inner: &StoreInner, file: NamedFile) -> Result<Self, OpenError> {
        let lane = inner.index_lane();
        let opening = Op::Open {
            path: file.index_path(),
            mode: OpenMode::default(),
        };
        let opened = inner.device.submit(lane, opening);
        let opened = opened.wait(inner.device.as_ref(), lane)?;
        let Completion::Opened { file: id, len } = opened else {
            return Err(missing());
        };
        let stored = Self {
            device: Arc::clone(&inner.device),
            lane,
            cache: Arc::clone(&inner.index_cache),
            number: file.seq,
            len: file.len,
            place: RwLock::new(Place::File(id)),
        };
        if len < file.len {
            return Err(missing());
        }
        Ok(stored)
    }
}

fn missing() -> OpenError {
    OpenError::Manifest {
        section: "an index segment it names: the file is missing or short",
    }
}

impl SegmentFile for StoredSegment {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SegmentError> {
        let file = match &*self.place.read() {
            Place::Memory(whole) => return whole.read(offset, bytes, visit),
            Place::File(file) => *file,
        };
        let key = (self.number, offset);
        let block = if let Some(block) = self.cache.get(key, bytes) {
            block
        } else {
            let begin = offset - offset % PAGE_SIZE as u64;
            let skip = (offset - begin) as usize;
            let mut reads = [Read {
                file,
                offset: begin,
                into: AlignedBuf::zeroed((skip + bytes).next_multiple_of(PAGE_SIZE)),
            }];
            let read = self.device.read(&mut reads);
            read.map_err(|error| SegmentError::Read {
                source: Arc::new(error),
            })?;
            let block: Arc<[u8]> = reads[0].into.bytes()[skip..skip + bytes].into();
            self.cache.put(key, Arc::clone(&block));
            block
        };
        visit(&block);
        Ok(())
    }
}

impl Drop for StoredSegment {
    fn drop(&mut self) {
        if let Place::File(file) = *self.place.get_mut() {
            drop(self.device.submit(self.lane, Op::Close { file }));
        }
    }
}

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
    pub file: PieceFile,
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
    Merge(Box<MergeJob>),
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

/// A segment of a directory that is not open, for whoever checks it or saves what is left. Reads all of it into memory.
pub(crate) fn segment_of(
    device: &Arc<dyn Device>,
    file: NamedFile,
) -> Result<Arc<Segment>, SegmentError> {
    let whole = read_whole(device.as_ref(), &file.index_path(), file.len);
    let whole = whole.map_err(|error| SegmentError::Read {
        source: Arc::new(error),
    })?;
    Segment::open(Arc::new(whole)).map(Arc::new)
}

/// The first `len` bytes of a file, or as many as there are.
pub(crate) fn read_whole(device: &dyn Device, path: &str, len: u64) -> Result<Vec<u8>, IoError> {
    let lane = Lane(0);
    let opening = Op::Open {
        path: path.to_owned(),
        mode: OpenMode::default(),
    };
    let Completion::Opened { file, len: there } =
        device.submit(lane, opening).wait(device, lane)?
    else {
        return Ok(Vec::new());
    };
    let len = len.min(there) as usize;
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(len.next_multiple_of(PAGE_SIZE)),
    }];
    let read = if len == 0 {
        Ok(())
    } else {
        device.read(&mut reads)
    };
    device.submit(lane, Op::Close { file }).wait(device, lane)?;
    read?;
    Ok(reads[0].into.bytes()[..len].to_vec())
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
        let path = named.index_path();
        let mut file = PieceFile::create(self.device.as_ref(), lane, path, number);
        file.pending = bytes.to_vec();
        let stored = Arc::new(StoredSegment {
            device: Arc::clone(&self.device),
            lane,
            cache: Arc::clone(&self.index_cache),
            number,
            len: bytes.len() as u64,
            place: RwLock::new(Place::Memory(bytes)),
        });
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

    /// A segment to be made of a partition's frozen rows, or one of several segments, if it is time.
    pub(crate) fn plan_segment(
        &self,
        part: &Arc<PartitionState>,
        number: u64,
        may_merge: bool,
    ) -> Option<SegmentBuild> {
        let job = part.index.read().seal_job();
        let work = if let Some(job) = job {
            Work::Seal(Box::new(job))
        } else {
            let held = part.segments.lock().clone();
            let rows: Vec<u32> = held.iter().map(|h| h.segment.rows().len() as u32).collect();
            let StoreConfig {
                index_merge_segments: fan,
                index_merge_rows_max: rows_max,
                ..
            } = self.config;
            let range = mergeable(&rows, fan, rows_max).filter(|_| may_merge)?;
            let inputs = held.get(range)?.iter().map(|h| Arc::clone(&h.segment));
            Work::Merge(Box::new(MergeJob::new(inputs.collect()).ok()?))
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
            Work::Seal(job) => (job.step(&part.index.read()), true),
            Work::Merge(job) => {
                let Ok(bytes) = job.step() else {
                    // Reads of it say what is wrong; those of the others go on.
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
        for mut new in new {
            let Some(file) = new.file.take_file() else {
                continue;
            };
            *new.held.stored.place.write() = Place::File(file);
            let mut held = new.part.segments.lock();
            *held = new.placed_in(&held);
            drop(held);
            let segment = Arc::clone(&new.held.segment);
            let mut index = new.part.index.write();
            let counter = if new.is_seal {
                &self.index_cache.seals
            } else {
                &self.index_cache.merges
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let placed = if new.is_seal {
                index.seal(segment)
            } else {
                index.replace_segments(segment)
            };
            placed.expect("only checkpoints change segments, one at a time");
        }
    }

    /// Rows with points on the last days, and those ahead; `None` if silent rows stay in the name table.
    pub(crate) fn active_rows(&self, live: &Liveness) -> Option<RoaringBitmap> {
        let days = i64::from(self.config.index_silent_days);
        let now = self.believed.status(self.clock.as_ref()).believed_ns;
        let from = now.saturating_sub(days.saturating_mul(DAY_NS));
        let recent = TimeRange::new(from, i64::MAX).ok()?;
        (days > 0).then(|| live.rows_in(recent))
    }

    /// Lets rows that fell silent leave the name tables: of partitions with new segments, and of all on a new day. Costs
    /// a pass over the table of one partition at a time, under its shard's lock.
    pub(crate) fn silence_rows(&self, renewed: &[Arc<PartitionState>]) {
        let today = self.believed.status(self.clock.as_ref()).believed_ns / DAY_NS;
        for database in self.catalog.read().all() {
            for part in database.touched() {
                let day = part.silenced_day.swap(today, Ordering::Relaxed);
                let is_renewed = renewed.iter().any(|p| Arc::ptr_eq(p, part));
                if part.segments.lock().is_empty() || (day == today && !is_renewed) {
                    continue;
                }
                let _shard = self.shard_of(part.partition).state.lock();
                let active = self.active_rows(&part.live.read());
                if let Some(active) = active
                    && part.index.write().silence(&active) > 0
                {
                    part.silences.fetch_add(1, Ordering::Release);
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

    #[test]
    fn the_cache_keeps_what_is_used_within_its_limit() {
        let budget = Arc::new(Budget::new(1 << 20));
        let cache = IndexCache::new(4000, Arc::clone(&budget));
        for i in 0..100 {
            cache.put((1, i), vec![i as u8; 500].into());
            assert!(
                cache.get((1, 0), 500).is_some(),
                "the first is used each time"
            );
            assert!(cache.blocks.lock().bytes <= 4000);
        }
        assert!(cache.get((1, 50), 500).is_none());
        assert_eq!(cache.get((1, 99), 500).as_deref(), Some(&[99; 500][..]));
        assert!(cache.get((1, 99), 400).is_none(), "another length");
        cache.put((2, 0), vec![0; 2000].into());
        assert!(cache.get((2, 0), 2000).is_none(), "too large to keep");
        assert_eq!(
            budget.used_by(Owner::Index),
            cache.blocks.lock().bytes as u64
        );
    }
}
