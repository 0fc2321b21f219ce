//! An open-addressing table from hashes to ids whose growth never stops the world.
//!
//! Keys are spread over shards by their leading bits, as in extendible hashing (Fagin et al., 1979): a
//! directory of 2^depth entries points at shards, and a shard that is full doubles alone. Inside a shard every
//! slot holds hash and id in one integer; slots are kept in ascending order with gaps, each at or after the
//! home its hash names (linear probing in Robin Hood order, Celis 1986, with the hash itself as the order). A
//! search may stop at the first larger slot, so absent keys cost as little as present ones at a load of 7/8; a
//! split cuts the sorted slots in two, and a rebuild is one sequential pass over at most 128 KiB.

/// Home slots beyond which a shard splits instead of growing: bounds the work of one insert.
const SHARD_CAPACITY_MAX: usize = 8192;

/// Leading bits the directory may use; past it shards grow without bound.
const DEPTH_MAX: u32 = 20;

/// A hash and an id in one integer, id in the low 32 bits; all ones means empty.
pub(crate) trait Slot: Copy + Ord {
    const EMPTY: Self;
    /// The slot for a hash (in the slot's own width of leading bits) and an id.
    fn new(hash: Self, id: u32) -> Self;
    fn id(self) -> u32;
    /// Whether both carry the same hash.
    fn same_hash(self, other: Self) -> bool;
    /// The slot of the same hash with id 0, where a search begins.
    fn first_of_hash(self) -> Self;
    /// The 32 leading bits.
    fn leading(self) -> u32;
}

/// 96 bits of hash: equality of hashes is taken for identity.
impl Slot for u128 {
    const EMPTY: Self = Self::MAX;
    fn new(hash: Self, id: u32) -> Self {
        hash << 32 | Self::from(id)
    }
    fn id(self) -> u32 {
        self as u32
    }
    fn same_hash(self, other: Self) -> bool {
        self >> 32 == other >> 32
    }
    fn first_of_hash(self) -> Self {
        self >> 32 << 32
    }
    fn leading(self) -> u32 {
        (self >> 96) as u32
    }
}

/// 32 bits of hash: the caller verifies each candidate.
impl Slot for u64 {
    const EMPTY: Self = Self::MAX;
    fn new(hash: Self, id: u32) -> Self {
        hash << 32 | Self::from(id)
    }
    fn id(self) -> u32 {
        self as u32
    }
    fn same_hash(self, other: Self) -> bool {
        self >> 32 == other >> 32
    }
    fn first_of_hash(self) -> Self {
        self >> 32 << 32
    }
    fn leading(self) -> u32 {
        (self >> 32) as u32
    }
}

/// A map from hash to id. Ids must be below `u32::MAX`.
#[derive(Debug, Clone)]
pub(crate) struct Table<S> {
    directory: Vec<u32>,
    depth: u32,
    shards: Vec<Shard<S>>,
}

/// Where a search begins, found ahead of the search so that the cache misses of a batch overlap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe<S> {
    shard: u32,
    home: u32,
    wanted: S,
    first: S,
}

impl<S: Slot> Table<S> {
    pub(crate) fn new() -> Self {
        Self {
            directory: vec![0],
            depth: 0,
            shards: vec![Shard::with_capacity(6, 0)],
        }
    }

    /// The table of slots that ascend. Costs a copy of each.
    pub(crate) fn from_sorted(slots: &[S]) -> Self {
        let mut depth = 0;
        while depth < DEPTH_MAX && slots.len() >> depth > SHARD_CAPACITY_MAX * 3 / 4 {
            depth += 1;
        }
        let mut rest = slots;
        let shards = (1..=1_u64 << depth).map(|next| {
            let end = rest.partition_point(|s| u64::from(s.leading()) >> (32 - depth) < next);
            let (these, others) = rest.split_at(end);
            rest = others;
            Shard::rebuilt(these, depth)
        });
        Self {
            shards: shards.collect(),
            directory: (0..1 << depth).collect(),
            depth,
        }
    }

    /// Adds many slots in any order; `false` if two hashes are the same, and nothing is added then. Few beside those there
    /// are go in one by one, more of them by sorting all.
    pub(crate) fn add_all(&mut self, mut slots: Vec<S>) -> bool {
        slots.sort_unstable();
        if slots.windows(2).any(|pair| pair[0].same_hash(pair[1])) {
            return false;
        }
        let is_there = |slot: &S| self.find_slot(*slot).is_some();
        let len: usize = self.shards.iter().map(|shard| shard.len).sum();
        if len > 0 && slots.iter().any(is_there) {
            return false;
        }
        self.add_sorted(slots);
        true
    }

    /// Adds slots that ascend and are not there. As [`Self::add_all`] otherwise.
    pub(crate) fn add_sorted(&mut self, mut slots: Vec<S>) {
        let len: usize = self.shards.iter().map(|shard| shard.len).sum();
        if slots.len() < len / 4 {
            slots.into_iter().for_each(|slot| self.insert_slot(slot));
            return;
        }
        slots.extend(self.shards.iter().flat_map(Shard::entries));
        if len > 0 {
            slots.sort_unstable();
        }
        *self = Self::from_sorted(&slots);
    }

    fn find_slot(&self, slot: S) -> Option<u32> {
        self.resume(self.probe_slot(slot), |_| true)
    }

    /// Calls `visit` with the slots of one shard whose leading bits are `from` or more, ascending; returns where the next
    /// shard begins, 2^32 behind the last. `from` is below that.
    pub(crate) fn slots_from(&self, from: u64, visit: impl FnMut(S)) -> u64 {
        let index = (from >> (32 - self.depth)) as usize;
        let shard = &self.shards[self.directory[index] as usize];
        let span = 1_u64 << (32 - shard.depth);
        let entries = shard.entries();
        let entries = entries.skip_while(|slot| u64::from(slot.leading()) < from);
        entries.for_each(visit);
        (from / span + 1) * span
    }

    /// Forgets the ids that `keep` refuses; returns how many. Costs a look at each, and a copy of the shards that change.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u32) -> bool) -> u32 {
        let shards = 0..self.shards.len();
        shards.map(|shard| self.retain_in(shard, &mut keep)).sum()
    }

    /// As [`Self::retain`] in one shard, of those there are from 0 on; new ones come behind them.
    pub(crate) fn retain_in(&mut self, shard: usize, mut keep: impl FnMut(u32) -> bool) -> u32 {
        let Some(shard) = self.shards.get_mut(shard) else {
            return 0;
        };
        let kept: Vec<S> = shard.entries().filter(|s| keep(s.id())).collect();
        let gone = (shard.len - kept.len()) as u32;
        if gone > 0 {
            *shard = Shard::rebuilt(&kept, shard.depth);
        }
        gone
    }

    /// Number of shards.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Finds the id stored under `hash` that `is_it` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: S, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.resume(self.probe(hash), is_it)
    }

    /// First half of [`Table::find`]: reads the home slot, which is what misses the cache.
    #[inline]
    pub(crate) fn probe(&self, hash: S) -> Probe<S> {
        self.probe_slot(S::new(hash, 0))
    }

    #[inline]
    fn probe_slot(&self, slot: S) -> Probe<S> {
        let wanted = slot.first_of_hash();
        let shard = self.directory[self.directory_index(wanted)];
        let at = &self.shards[shard as usize];
        let home = at.home(wanted);
        Probe {
            shard,
            home: home as u32,
            wanted,
            first: at.slots[home],
        }
    }

    /// Second half of [`Table::find`].
    #[inline]
    pub(crate) fn resume(
        &self,
        probe: Probe<S>,
        mut is_it: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let slots = &self.shards[probe.shard as usize].slots;
        let mut slot = probe.first;
        let mut i = probe.home as usize;
        loop {
            if slot >= probe.wanted {
                if slot == S::EMPTY || !slot.same_hash(probe.wanted) {
                    return None;
                }
                if is_it(slot.id()) {
                    return Some(slot.id());
                }
            }
            i += 1;
            slot = *slots.get(i)?;
        }
    }

    /// Adds an id under `hash`; the caller has made sure that it is not there.
    pub(crate) fn insert(&mut self, hash: S, id: u32) {
        debug_assert!(id != u32::MAX, "reserved for empty slots");
        self.insert_slot(S::new(hash, id));
    }

    fn insert_slot(&mut self, slot: S) {
        loop {
            let index = self.directory[self.directory_index(slot)];
            let shard = &mut self.shards[index as usize];
            if shard.has_room() && shard.insert(slot) {
                return;
            }
            if shard.capacity < SHARD_CAPACITY_MAX || shard.depth >= DEPTH_MAX {
                shard.grow();
            } else {
                self.split(index);
            }
        }
    }

    /// Takes an id away; `false` if it is not there under this hash. Never gives memory back.
    pub(crate) fn remove(&mut self, hash: S, id: u32) -> bool {
        let slot = S::new(hash, id);
        let shard = self.directory[self.directory_index(slot)];
        self.shards[shard as usize].remove(slot)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|s| s.slots.len()).sum();
        slots * size_of::<S>()
            + self.directory.capacity() * 4
            + self.shards.capacity() * size_of::<Shard<S>>()
    }

    #[inline]
    fn directory_index(&self, slot: S) -> usize {
        // A shift by 32 at depth 0 must give 0, hence the wider integer.
        (u64::from(slot.leading()) >> (32 - self.depth)) as usize
    }

    /// Replaces one shard by two, told apart by the next leading bit.
    fn split(&mut self, index: u32) {
        let old = &self.shards[index as usize];
        let depth = old.depth + 1;
        let full: Vec<S> = old.entries().collect();
        let border = full.partition_point(|s| s.leading() >> (32 - depth) & 1 == 0);
        let (low, high) = full.split_at(border);
        let (low, high) = (Shard::rebuilt(low, depth), Shard::rebuilt(high, depth));
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|&s| [s, s]).collect();
            self.depth = depth;
        }
        let new = self.shards.len() as u32;
        self.shards.push(high);
        self.shards[index as usize] = low;
        for (i, entry) in self.directory.iter_mut().enumerate() {
            if *entry == index && i >> (self.depth - depth) & 1 == 1 {
                *entry = new;
            }
        }
    }
}

/// One sorted run of slots with gaps.
#[derive(Debug, Clone)]
struct Shard<S> {
    slots: Box<[S]>,
    /// Homes; `slots` is a little longer so that no run wraps around.
    capacity: usize,
    len: usize,
    /// Leading bits that all keys of this shard share.
    depth: u32,
}

impl<S: Slot> Shard<S> {
    fn with_capacity(capacity: usize, depth: u32) -> Self {
        let slots = capacity + capacity / 64 + 4;
        Self {
            slots: vec![S::EMPTY; slots].into_boxed_slice(),
            capacity,
            len: 0,
            depth,
        }
    }

    #[inline]
    fn home(&self, slot: S) -> usize {
        // The bits after those all keys share, scaled to the capacity: monotone, so order is kept.
        let bits = slot.leading() << self.depth;
        ((u64::from(bits) * self.capacity as u64) >> 32) as usize
    }

    fn has_room(&self) -> bool {
        (self.len + 1) * 8 <= self.capacity * 7
    }

    /// Puts a slot in its place; `false` if its run would leave the shard, which is then unchanged.
    fn insert(&mut self, slot: S) -> bool {
        let home = self.home(slot);
        let Some(run) = self.slots[home..].iter().position(|&s| s == S::EMPTY) else {
            return false;
        };
        let gap = home + run;
        let at = home + self.slots[home..gap].partition_point(|&s| s < slot);
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = slot;
        self.len += 1;
        true
    }

    /// Takes a slot out, and moves those behind it that are not at home one place back.
    fn remove(&mut self, slot: S) -> bool {
        let home = self.home(slot);
        let run = self.slots[home..].iter().position(|&s| s >= slot);
        let Some(at) = run
            .map(|run| home + run)
            .filter(|&at| self.slots[at] == slot)
        else {
            return false;
        };
        let behind = (at + 1..).zip(&self.slots[at + 1..]);
        let away = behind.take_while(|&(i, &s)| s != S::EMPTY && self.home(s) < i);
        let end = at + 1 + away.count();
        self.slots.copy_within(at + 1..end, at);
        self.slots[end - 1] = S::EMPTY;
        self.len -= 1;
        true
    }

    fn entries(&self) -> impl Iterator<Item = S> + '_ {
        self.slots.iter().copied().filter(|&s| s != S::EMPTY)
    }

    fn grow(&mut self) {
        let entries: Vec<S> = self.entries().collect();
        let capacity = self.capacity + self.capacity / 5 + 2;
        *self = Self::filled(&entries, capacity, self.depth);
    }

    /// The shard of half a split: room for a fifth more.
    fn rebuilt(entries: &[S], depth: u32) -> Self {
        let capacity = entries.len() * 8 / 7 * 6 / 5 + 6;
        Self::filled(entries, capacity, depth)
    }

    fn filled(entries: &[S], mut capacity: usize, depth: u32) -> Self {
        'wider: loop {
            let mut shard = Self::with_capacity(capacity, depth);
            let mut next = 0;
            for &slot in entries {
                let at = shard.home(slot).max(next);
                let Some(place) = shard.slots.get_mut(at) else {
                    // A run leaves the end: more slack, which grows with the capacity.
                    capacity += capacity / 5 + 2;
                    continue 'wider;
                };
                *place = slot;
                next = at + 1;
            }
            shard.len = entries.len();
            return shard;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(i: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes())
    }

    #[test]
    fn finds_what_was_inserted_and_nothing_else() {
        let mut table = Table::<u128>::new();
        for i in 0..200_000_u32 {
            assert_eq!(table.find(mixed(i.into()), |_| true), None);
            table.insert(mixed(i.into()), i);
        }
        assert!(table.depth > 3, "shards split");
        for i in 0..200_000_u32 {
            assert_eq!(table.find(mixed(i.into()), |_| true), Some(i));
        }
        for i in 200_000..400_000 {
            assert_eq!(table.find(mixed(i), |_| true), None);
        }
        let bytes = table.heap_bytes() as f64 / 200_000.0;
        assert!(bytes < 24.0, "{bytes} bytes per entry");
    }

    #[test]
    fn a_table_of_sorted_slots_finds_them_and_takes_more() {
        for n in [0_u32, 1, 100, 50_000, 200_000] {
            let slot = |i: u32| u128::new(mixed(i.into()), i);
            let mut slots: Vec<u128> = (0..n).map(slot).collect();
            slots.sort_unstable();
            let mut table = Table::from_sorted(&slots);
            let (mut all, mut from) = (Vec::new(), 0);
            while from < 1 << 32 {
                from = table.slots_from(from, |slot| all.push(slot));
            }
            assert_eq!(all, slots);
            for i in n..n + 20_000 {
                assert_eq!(table.find(mixed(i.into()), |_| true), None);
                table.insert(mixed(i.into()), i);
            }
            for i in 0..n + 20_000 {
                assert_eq!(table.find(mixed(i.into()), |_| true), Some(i));
            }
            let gone = table.retain(|id| id % 3 == 0);
            assert_eq!(gone, n + 20_000 - (n + 20_000).div_ceil(3));
            for i in 0..n + 20_000 {
                let expected = (i % 3 == 0).then_some(i);
                assert_eq!(table.find(mixed(i.into()), |_| true), expected);
            }
        }
    }

    #[test]
    fn many_at_once_are_as_one_by_one() {
        for (before, more) in [(0_u32, 1_u32), (0, 50_000), (1000, 50_000), (50_000, 1000)] {
            let slot = |i: u32| u128::new(mixed(i.into()), i);
            let mut table = Table::new();
            (0..before).for_each(|i| table.insert(mixed(i.into()), i));
            assert!(table.add_all((before..before + more).map(slot).collect()));
            for i in 0..before + more {
                assert_eq!(table.find(mixed(i.into()), |_| true), Some(i));
            }
            let next = before + more;
            assert_eq!(table.find(mixed(next.into()), |_| true), None);
            // One that is there, and one that comes twice.
            let again = u128::new(mixed(0), next);
            assert!(!table.add_all(vec![slot(next), again]));
            assert!(!table.add_all(vec![slot(next), u128::new(mixed(next.into()), next + 1)]));
            assert_eq!(table.find(mixed(next.into()), |_| true), None);
        }
    }

    #[test]
    fn equal_hashes_are_told_apart_by_the_caller() {
        let mut table = Table::<u64>::new();
        for i in 0..5000 {
            table.insert(u64::from(i % 3 == 0) * 0xffff_ffff, i);
        }
        for i in 0..5000 {
            let hash = u64::from(i % 3 == 0) * 0xffff_ffff;
            assert_eq!(table.find(hash, |id| id == i), Some(i));
            assert_eq!(table.find(hash ^ 1, |id| id == i), None);
        }
    }

    #[test]
    fn what_is_taken_away_is_gone_and_the_rest_is_found() {
        let mut table = Table::<u64>::new();
        let mut there = std::collections::BTreeSet::new();
        for i in 0..300_000_u64 {
            // Some hashes come several times.
            let id = (mixed(i) % 60_000) as u32;
            let hash = mixed(u64::from(id / 3)) as u64 >> 32;
            assert_eq!(table.remove(hash, id), there.remove(&id), "{id}");
            if i % 4 != 0 {
                table.insert(hash, id);
                there.insert(id);
            }
        }
        for id in 0..60_000_u32 {
            let hash = mixed(u64::from(id / 3)) as u64 >> 32;
            let found = table.find(hash, |found| found == id);
            assert_eq!(found.is_some(), there.contains(&id), "{id}");
        }
        let len: usize = table.shards.iter().map(|shard| shard.len).sum();
        assert_eq!(len, there.len());
        assert!(there.len() > 30_000 && !there.is_empty());
    }

    #[test]
    fn slots_stay_sorted_and_reachable() {
        let mut shard = Shard::<u64>::with_capacity(64, 0);
        for i in 0..56_u64 {
            assert!(shard.has_room());
            let slot = u64::new(mixed(i) as u64 >> 32, i as u32);
            if !shard.insert(slot) {
                shard.grow();
                assert!(shard.insert(slot));
            }
            let entries: Vec<u64> = shard.entries().collect();
            assert!(entries.is_sorted() && entries.len() == i as usize + 1);
        }
        for (at, &slot) in shard.slots.iter().enumerate() {
            if slot != u64::EMPTY {
                let home = shard.home(slot);
                assert!(home <= at);
                assert!(shard.slots[home..at].iter().all(|&s| s != u64::EMPTY));
            }
        }
    }
}
