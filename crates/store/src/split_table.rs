//! Numbers by hash, in parts that grow one at a time.
//!
//! A table that doubles moves all it has: of millions that is a tenth of a second in which a writer stands still. Parts of one
//! that has been split are as many times smaller, and do not all double at the same insertion.

use hashbrown::HashTable;

/// Numbers at which there are parts.
const SPLIT_AT: usize = 1 << 16;

/// Parts then, a power of two.
const PARTS: usize = 64;

/// Bits of a hash that say which part: a part looks at the lowest and the highest ones.
const PART_SHIFT: u32 = 36;

/// Numbers by a hash that the caller knows of each.
#[derive(Debug)]
pub(crate) struct SplitTable {
    /// One, or all of them.
    parts: Vec<HashTable<u32>>,
}

fn part_of(hash: u64, parts: usize) -> usize {
    (hash >> PART_SHIFT) as usize & (parts - 1)
}

impl SplitTable {
    pub(crate) fn new() -> Self {
        Self {
            parts: vec![HashTable::new()],
        }
    }

    /// The number with this hash that is the one meant.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let part = &self.parts[part_of(hash, self.parts.len())];
        part.find(hash, |number| is_it(*number)).copied()
    }

    /// Adds a number that is not there. `hash_of` says the hash of any of them.
    pub(crate) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if self.parts.len() == 1 && self.parts[0].len() >= SPLIT_AT {
            self.split(&hash_of);
        }
        let parts = self.parts.len();
        let part = &mut self.parts[part_of(hash, parts)];
        part.insert_unique(hash, number, |number| hash_of(*number));
    }

    fn split(&mut self, hash_of: &impl Fn(u32) -> u64) {
        // Room for a quarter more than their share: few grow at once.
        let room = SPLIT_AT / PARTS * 5 / 4;
        let whole = std::mem::replace(
            &mut self.parts,
            (0..PARTS).map(|_| HashTable::with_capacity(room)).collect(),
        );
        for number in whole.into_iter().flatten() {
            let hash = hash_of(number);
            let part = &mut self.parts[part_of(hash, PARTS)];
            part.insert_unique(hash, number, |number| hash_of(*number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_found_before_and_after_a_split() {
        let hash_of = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut table = SplitTable::new();
        let count = 3 * SPLIT_AT as u32;
        for number in 0..count {
            assert_eq!(table.find(hash_of(number), |n| n == number), None);
            table.insert(hash_of(number), number, hash_of);
        }
        for number in 0..count {
            assert_eq!(table.find(hash_of(number), |n| n == number), Some(number));
        }
        assert_eq!(table.parts.len(), PARTS);
        let largest = table.parts.iter().map(HashTable::len).max().unwrap();
        assert!(
            largest < count as usize / PARTS * 2,
            "{largest} in one part"
        );
    }
}
