//! Tag sections a writer has met, as they were sent.

use std::collections::HashMap;

use alluvium_index::{FlatKey, KeyHash};
use alluvium_types::{PARTITION_COUNT, Partition, Row};
use hashbrown::HashTable;

use crate::error::RefusedLine;

/// No row, measurement or shape.
pub(crate) const NONE: u32 = u32::MAX;

/// Bytes of the table a tag set, at its least load.
const TABLE_BYTES: usize = 10;

/// One tag set a writer has met; there may be one a series and writer, so it is kept small.
#[derive(Debug)]
pub(crate) struct Known {
    print: [u32; 3],
    /// `NONE` until it is looked up under its shard's lock.
    pub row: u32,
    /// The partition in the high bits; all others are set until the measurement is known.
    place: u32,
    /// The shape all of whose series are known to exist, as they are, for this row.
    pub ensured: u32,
}

const _: () = assert!(size_of::<Known>() == 24);

const MEASUREMENT_BITS: u32 = u32::BITS - PARTITION_COUNT.trailing_zeros();
const NO_MEASUREMENT: u32 = (1 << MEASUREMENT_BITS) - 1;

impl Known {
    pub(crate) fn partition(&self) -> Partition {
        Partition((self.place >> MEASUREMENT_BITS) as u8)
    }

    /// `NONE` until it is known, and where its number is too large to be kept.
    pub(crate) fn measurement(&self) -> u32 {
        match self.place & NO_MEASUREMENT {
            NO_MEASUREMENT => NONE,
            measurement => measurement,
        }
    }

    pub(crate) fn set_measurement(&mut self, measurement: u32) {
        self.place = self.place & !NO_MEASUREMENT | measurement.min(NO_MEASUREMENT);
    }

    pub(crate) fn row(&self) -> Option<Row> {
        (self.row != NONE).then_some(Row(self.row))
    }
}

fn print_of(hash: KeyHash) -> [u32; 3] {
    let bits = hash.bits();
    [0, 32, 64].map(|shift| (bits >> shift) as u32)
}

fn slot_hash(print: [u32; 3]) -> u64 {
    u64::from(print[0]) | u64::from(print[1]) << 32
}

/// A tag set whose row is not known yet.
#[derive(Debug)]
pub(crate) struct Unresolved {
    pub key: FlatKey,
    pub hash: KeyHash,
    /// Why no line may have this key.
    pub refusal: Option<Box<RefusedLine>>,
}

impl Unresolved {
    fn bytes(&self) -> usize {
        2 * size_of::<Self>() + self.key.heap_bytes()
    }
}

/// Tag sections as they were sent, so that sorting and unescaping happen once a series and writer. They are known by 96
/// bits of their xxh3-128 under the secret seed of the database, as tag sets are in the index: see [`KeyHash`].
#[derive(Debug)]
pub(crate) struct RawKeys {
    seed: u64,
    table: HashTable<u32>,
    pub known: Vec<Known>,
    pub unresolved: HashMap<u32, Unresolved, foldhash::fast::FixedState>,
    /// Of the keys in there: those refused stay until all is forgotten.
    unresolved_bytes: usize,
}

impl RawKeys {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            table: HashTable::new(),
            known: Vec::new(),
            unresolved: HashMap::default(),
            unresolved_bytes: 0,
        }
    }

    fn print(&self, raw: &[u8]) -> [u32; 3] {
        print_of(KeyHash::of_input(self.seed, raw))
    }

    pub(crate) fn find(&self, raw: &[u8]) -> Option<u32> {
        let print = self.print(raw);
        self.table
            .find(slot_hash(print), |i| self.known[*i as usize].print == print)
            .copied()
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.known.len() * (size_of::<Known>() + TABLE_BYTES) + self.unresolved_bytes
    }

    /// What a tag set is looked up by, until its row is known.
    pub(crate) fn unresolved_hash(&self, token: u32) -> Option<KeyHash> {
        if self.known[token as usize].row != NONE {
            return None;
        }
        self.unresolved.get(&token).map(|u| u.hash)
    }

    pub(crate) fn add(&mut self, raw: &[u8], key: Unresolved) -> u32 {
        let at = self.known.len() as u32;
        let print = self.print(raw);
        self.known.push(Known {
            print,
            row: NONE,
            place: u32::from(key.hash.partition().0) << MEASUREMENT_BITS | NO_MEASUREMENT,
            ensured: NONE,
        });
        self.unresolved_bytes += key.bytes();
        self.unresolved.insert(at, key);
        let known = &self.known;
        self.table.insert_unique(slot_hash(print), at, |i| {
            slot_hash(known[*i as usize].print)
        });
        at
    }

    /// Says which row a tag set is.
    pub(crate) fn settle(&mut self, token: u32, row: Row) {
        self.known[token as usize].row = row.0;
        if let Some(key) = self.unresolved.remove(&token) {
            self.unresolved_bytes -= key.bytes();
        }
    }

    pub(crate) fn clear(&mut self) {
        // What it had grown to is given back.
        *self = Self::new(self.seed);
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::SeriesKey;

    use super::*;

    #[test]
    fn sections_are_found_as_they_were_sent_and_keep_their_hash() {
        let mut keys = RawKeys::new(7);
        for n in 0..5000_u32 {
            let raw = format!("cpu,host=h{n}");
            let key = SeriesKey::new("cpu", [("host", format!("h{n}"))]).unwrap();
            let hash = KeyHash::of(7, &key, &mut Vec::new());
            let key = FlatKey::new(&key, &mut Vec::new());
            let refusal = None;
            let token = keys.add(raw.as_bytes(), Unresolved { key, hash, refusal });
            assert_eq!((token, keys.unresolved_hash(n)), (n, Some(hash)));
            assert_eq!(keys.known[n as usize].measurement(), NONE);
            keys.known[n as usize].set_measurement(n);
            assert_eq!(keys.known[n as usize].measurement(), n);
            assert_eq!(keys.known[n as usize].partition(), hash.partition());
        }
        // What is not resolved counts, refused or not.
        let before = keys.bytes();
        keys.settle(17, Row(3));
        assert!(keys.bytes() + "cpuhosth17".len() < before);
        assert_eq!(keys.known[17].row(), Some(Row(3)));
        assert!(keys.unresolved_hash(17).is_none() && keys.unresolved_hash(18).is_some());
        for n in 0..5000_u32 {
            assert_eq!(keys.find(format!("cpu,host=h{n}").as_bytes()), Some(n));
        }
        assert_eq!(keys.find(b"cpu,host=h5000"), None);
        keys.clear();
        assert_eq!((keys.find(b"cpu,host=h1"), keys.bytes()), (None, 0));
    }
}
