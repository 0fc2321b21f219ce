//! The page cache: sealed pages by address, bounded, with second-chance eviction (CLOCK, Corbató 1968).
//! Pages on their way to the device are pinned: readers are served from here until they are written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alluvium_io::PageBuf;
use alluvium_types::{Budget, Owner, PAGE_SIZE};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::logic_addr::LogicAddr;

const SHARDS: usize = 16;

#[derive(Debug)]
struct Slot {
    page: Arc<PageBuf>,
    generation: u32,
    /// Read since the hand last passed.
    touched: AtomicBool,
    pinned: bool,
}

#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<u64, Slot, foldhash::fast::FixedState>,
    hand: VecDeque<u64>,
}

/// Pages that a shard may always keep.
const PAGES_MIN: usize = 4;

/// Sealed pages in memory, at most `capacity` bytes beside the pinned ones.
#[derive(Debug)]
pub(crate) struct PageCache {
    shards: [Mutex<Shard>; SHARDS],
    pages_per_shard: AtomicUsize,
    budget: Arc<Budget>,
}

impl PageCache {
    pub(crate) fn new(capacity: u64, budget: Arc<Budget>) -> Self {
        let pages = (capacity / PAGE_SIZE as u64) as usize;
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            pages_per_shard: AtomicUsize::new((pages / SHARDS).max(PAGES_MIN)),
            budget,
        }
    }

    /// Keeps at most so many bytes from now on; gives back what is over, or soon will. Cost: nothing where the bound
    /// stays.
    pub(crate) fn bound(&self, capacity: u64) {
        let pages = (capacity as usize / PAGE_SIZE / SHARDS).max(PAGES_MIN);
        if self.pages_per_shard.swap(pages, Ordering::Relaxed) > pages {
            for shard in &self.shards {
                self.shrink(&mut shard.lock());
            }
        }
    }

    fn shard(&self, addr: LogicAddr) -> &Mutex<Shard> {
        // Consecutive pages go to different shards.
        &self.shards[(addr.page as usize ^ (addr.volume as usize).wrapping_mul(7)) % SHARDS]
    }

    pub(crate) fn get(&self, addr: LogicAddr, generation: u32) -> Option<Arc<PageBuf>> {
        let shard = self.shard(addr).lock();
        let slot = shard
            .slots
            .get(&addr.packed())
            .filter(|s| s.generation == generation)?;
        slot.touched.store(true, Ordering::Relaxed);
        Some(Arc::clone(&slot.page))
    }

    /// A page that has not reached the device yet.
    pub(crate) fn pinned(&self, addr: LogicAddr) -> Option<Arc<PageBuf>> {
        let shard = self.shard(addr).lock();
        let slot = shard.slots.get(&addr.packed()).filter(|s| s.pinned)?;
        Some(Arc::clone(&slot.page))
    }

    /// Adds a page; a pinned one stays until [`Self::unpin`].
    pub(crate) fn insert(
        &self,
        addr: LogicAddr,
        generation: u32,
        page: Arc<PageBuf>,
        pinned: bool,
    ) {
        let mut shard = self.shard(addr).lock();
        let slot = Slot {
            page,
            generation,
            touched: AtomicBool::new(false),
            pinned,
        };
        match shard.slots.insert(addr.packed(), slot) {
            None => {
                shard.hand.push_back(addr.packed());
                self.budget.force(Owner::PageCache, PAGE_SIZE as u64);
            }
            // A reader's copy of a page must not unpin the writer's.
            Some(old) if old.pinned && old.generation == generation && !pinned => {
                shard.slots.insert(addr.packed(), old);
            }
            Some(_) => {}
        }
        self.shrink(&mut shard);
    }

    /// The page has reached the device and may be evicted.
    pub(crate) fn unpin(&self, addr: LogicAddr) {
        let mut shard = self.shard(addr).lock();
        if let Some(slot) = shard.slots.get_mut(&addr.packed()) {
            slot.pinned = false;
        }
        self.shrink(&mut shard);
    }

    /// Forgets every page of a volume.
    pub(crate) fn forget_volume(&self, volume: u32) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.slots.len();
            shard.slots.retain(|addr, _| (addr >> 32) as u32 != volume);
            shard.hand.retain(|addr| (addr >> 32) as u32 != volume);
            self.budget.release(
                Owner::PageCache,
                ((before - shard.slots.len()) * PAGE_SIZE) as u64,
            );
        }
    }

    /// Forgets pages of a volume that were given back.
    pub(crate) fn forget_pages(&self, volume: u32, (begin, end): (u32, u32)) {
        for page in begin..end {
            let addr = LogicAddr { volume, page };
            let mut shard = self.shard(addr).lock();
            // Its place in the order stays until the hand comes by.
            if shard.slots.remove(&addr.packed()).is_some() {
                self.budget.release(Owner::PageCache, PAGE_SIZE as u64);
            }
        }
    }

    fn shrink(&self, shard: &mut Shard) {
        let pages_max = self.pages_per_shard.load(Ordering::Relaxed);
        // Two turns: the first may only clear marks. Pinned pages are the writer's to bound.
        let mut steps = shard.hand.len() * 2;
        while shard.slots.len() > pages_max && steps > 0 {
            steps -= 1;
            let Some(addr) = shard.hand.pop_front() else {
                return;
            };
            let evict = match shard.slots.get(&addr) {
                None => continue,
                Some(slot) => !slot.pinned && !slot.touched.swap(false, Ordering::Relaxed),
            };
            if evict {
                shard.slots.remove(&addr);
                self.budget.release(Owner::PageCache, PAGE_SIZE as u64);
            } else {
                shard.hand.push_back(addr);
                // A shard full of pinned pages must not be searched at every insert.
                if steps.is_multiple_of(64) && shard.slots.len() <= pages_max + 1 {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_pinned_pages_stay() {
        let budget = Arc::new(Budget::new(u64::MAX));
        let cache = PageCache::new(64 * PAGE_SIZE as u64, Arc::clone(&budget));
        let page = Arc::new(PageBuf::zeroed());
        let at = |page| LogicAddr { volume: 1, page };
        cache.insert(at(0), 1, Arc::clone(&page), true);
        for n in 1..1000 {
            cache.insert(at(n), 1, Arc::clone(&page), false);
        }
        assert!(cache.get(at(0), 1).is_some(), "pinned");
        assert!(cache.get(at(0), 2).is_none(), "another life");
        assert!(budget.used_by(Owner::PageCache) <= 80 * PAGE_SIZE as u64);
        cache.unpin(at(0));
        for n in 1000..2000 {
            cache.insert(at(n), 1, Arc::clone(&page), false);
        }
        assert!(cache.get(at(0), 1).is_none());
        cache.forget_volume(1);
        assert_eq!(budget.used(), 0);
    }
}
