//! Blocks of index segments that were read lately, of the whole store, within a bound.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_types::{Budget, Owner};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

/// The blocks, all right by their checksums, and what was counted about segments.
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
    /// Rows that left a name table, and that a write put back.
    pub silenced: AtomicU64,
    /// See `silenced`.
    pub returned: AtomicU64,
    /// Blocks that had to be read from the copy of a segment.
    pub copies_read: AtomicU64,
    /// Segments of which a file does not hold, for the scrubber to look at next.
    suspects: Mutex<HashSet<u64>>,
    /// Segments of which a block holds in neither file, for a checkpoint to make anew.
    broken: Mutex<HashSet<u64>>,
    /// Those of them that could not be.
    hopeless: Mutex<HashSet<u64>>,
    /// Segments that were made anew.
    pub mended: AtomicU64,
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
            silenced: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            seals: AtomicU64::new(0),
            merges: AtomicU64::new(0),
            failed_merges: AtomicU64::new(0),
            copies_read: AtomicU64::new(0),
            suspects: Mutex::default(),
            broken: Mutex::default(),
            hopeless: Mutex::default(),
            mended: AtomicU64::new(0),
        }
    }

    /// Notes a segment of which a file does not hold.
    pub(crate) fn suspect(&self, number: u64) {
        self.suspects.lock().insert(number);
    }

    /// The segments noted since this was last asked.
    pub(crate) fn take_suspects(&self) -> HashSet<u64> {
        std::mem::take(&mut *self.suspects.lock())
    }

    /// Notes a segment of which a block holds in neither file.
    pub(crate) fn note_broken(&self, number: u64) {
        if !self.hopeless.lock().contains(&number) {
            self.broken.lock().insert(number);
        }
    }

    /// Notes one that cannot be made anew: nobody tries again in this life.
    pub(crate) fn give_up(&self, number: u64) {
        self.hopeless.lock().insert(number);
        self.broken.lock().remove(&number);
    }

    /// Whether there is one.
    pub(crate) fn any_broken(&self) -> bool {
        !self.broken.lock().is_empty()
    }

    /// The segments noted since this was last asked.
    pub(crate) fn take_broken(&self) -> HashSet<u64> {
        std::mem::take(&mut *self.broken.lock())
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

    pub(crate) fn get(&self, place: (u64, u64), bytes: usize) -> Option<Arc<[u8]>> {
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

    /// Drops the blocks of segments that nobody asks any more. Costs a look at every block.
    pub(crate) fn forget(&self, numbers: &[u64]) {
        let mut blocks = self.blocks.lock();
        let blocks = &mut *blocks;
        let before = blocks.bytes;
        blocks.by_place.retain(|(of, _), (block, _)| {
            let stays = !numbers.contains(of);
            if !stays {
                blocks.bytes -= block.len();
            }
            stays
        });
        if blocks.bytes < before {
            blocks.order.retain(|(of, _)| !numbers.contains(of));
        }
        self.budget
            .release(Owner::Index, (before - blocks.bytes) as u64);
    }

    pub(crate) fn put(&self, place: (u64, u64), block: Arc<[u8]>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        cache.put((2, 1), vec![0; 300].into());
        cache.forget(&[1, 3]);
        assert_eq!(cache.blocks.lock().bytes, 300, "of the other segment");
        cache.put((1, 0), vec![0; 500].into());
        assert!(
            cache.get((1, 0), 500).is_some(),
            "it comes again as any other"
        );
        assert_eq!(
            budget.used_by(Owner::Index),
            cache.blocks.lock().bytes as u64
        );
    }
}
