//! Tag sections a writer has met, as they were sent.

use std::collections::{HashMap, VecDeque};

use alluvium_index::{FlatKey, FlatKeyParts, KeyHash};
use alluvium_types::{PARTITION_COUNT, Partition, Row};

use crate::error::RefusedLine;
use crate::split_table::SplitTable;

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

    /// Whether its row is known, and that all series of a shape are there for it.
    pub(crate) fn is_settled(&self, shape: u32) -> bool {
        self.row != NONE && self.ensured == shape
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
struct Unresolved {
    /// Where its bytes are among those of all of them.
    at: usize,
    key: FlatKeyParts,
    hash: KeyHash,
}

/// Bytes of keys whose rows are known by now that may lie among the others', at least.
const GAPS_BYTES: usize = 64 << 10;

/// Room for keys that a batch leaves behind, at most.
const TEXTS_KEPT_BYTES: usize = 2 << 20;

/// Room for so many, too.
const KEPT: usize = 16 << 10;

/// Where only one in so many still waits for its row, it is set aside.
const GAPS_SHARE: usize = 8;

/// Tag sections as they were sent, so that sorting and unescaping happen once a series and writer. They are known by 96
/// bits of their xxh3-128 under the secret seed of the database, as tag sets are in the index: see [`KeyHash`].
#[derive(Debug)]
pub(crate) struct RawKeys {
    seed: u64,
    table: SplitTable,
    pub known: Vec<Known>,
    /// Those whose rows are not known, by number from `first` on, with gaps.
    unresolved: VecDeque<Option<Unresolved>>,
    first: u32,
    /// How many they are.
    waiting: usize,
    /// Older ones: keys whose lines were refused, and what a limit has kept out.
    left_over: HashMap<u32, Unresolved, foldhash::fast::FixedState>,
    /// Why no line may have some of the keys: they never get a row.
    refused: HashMap<u32, RefusedLine, foldhash::fast::FixedState>,
    /// The unresolved keys, one behind the other.
    texts: Vec<u8>,
    /// Bytes in there of keys that are still unresolved.
    texts_used: usize,
}

impl RawKeys {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            table: SplitTable::new(),
            known: Vec::new(),
            unresolved: VecDeque::new(),
            first: 0,
            waiting: 0,
            left_over: HashMap::default(),
            refused: HashMap::default(),
            texts: Vec::new(),
            texts_used: 0,
        }
    }

    fn print(&self, raw: &[u8]) -> [u32; 3] {
        print_of(KeyHash::of_input(self.seed, raw))
    }

    pub(crate) fn find(&self, raw: &[u8]) -> Option<u32> {
        let print = self.print(raw);
        self.table
            .find(slot_hash(print), |i| self.known[i as usize].print == print)
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.known.len() * (size_of::<Known>() + TABLE_BYTES)
            + self.unresolved.capacity() * size_of::<Option<Unresolved>>()
            + self.left_over.len() * 2 * size_of::<Unresolved>()
            + self.refused.len() * 2 * size_of::<RefusedLine>()
            + self.texts.capacity()
    }

    /// Keys whose rows are not known, and bytes of their texts.
    pub(crate) fn unresolved_size(&self) -> (u64, u64) {
        let keys = self.waiting + self.left_over.len();
        (keys as u64, self.texts_used as u64)
    }

    fn waiting(&self, token: u32) -> Option<&Unresolved> {
        match token.checked_sub(self.first) {
            Some(at) => self.unresolved.get(at as usize)?.as_ref(),
            None => self.left_over.get(&token),
        }
    }

    /// What a tag set is looked up by, until its row is known.
    pub(crate) fn unresolved_hash(&self, token: u32) -> Option<KeyHash> {
        self.waiting(token).map(|of| of.hash)
    }

    /// A tag set whose row is not known yet, and what it is looked up by.
    pub(crate) fn unresolved(&self, token: u32) -> Option<(KeyHash, FlatKey<'_>)> {
        let of = self.waiting(token)?;
        Some((of.hash, of.key.of(self.texts.get(of.at..)?)?))
    }

    /// Why no line may have a key.
    pub(crate) fn refusal(&self, token: u32) -> Option<&RefusedLine> {
        self.refused.get(&token)
    }

    pub(crate) fn add(
        &mut self,
        raw: &[u8],
        key: FlatKey<'_>,
        hash: KeyHash,
        refusal: Option<RefusedLine>,
    ) -> u32 {
        let at = self.known.len() as u32;
        let print = self.print(raw);
        self.known.push(Known {
            print,
            row: NONE,
            place: u32::from(hash.partition().0) << MEASUREMENT_BITS | NO_MEASUREMENT,
            ensured: NONE,
        });
        if self.unresolved.len() > GAPS_SHARE * self.waiting + KEPT {
            self.set_aside();
        }
        if self.unresolved.is_empty() {
            self.first = at;
        }
        let waiting = if let Some(refusal) = refusal {
            self.refused.insert(at, refusal);
            None
        } else {
            let at = self.texts.len();
            self.texts.extend_from_slice(key.bytes());
            self.texts_used += key.bytes().len();
            let key = key.parts();
            self.waiting += 1;
            Some(Unresolved { at, key, hash })
        };
        self.unresolved.push_back(waiting);
        let known = &self.known;
        let hash_of = |i| slot_hash(known[i as usize].print);
        self.table.insert(slot_hash(print), at, hash_of);
        at
    }

    /// Says which row a tag set is.
    pub(crate) fn settle(&mut self, token: u32, row: Row) {
        self.known[token as usize].row = row.0;
        let settled = if let Some(at) = token.checked_sub(self.first) {
            let waiting = self.unresolved.get_mut(at as usize);
            let settled = waiting.and_then(Option::take);
            self.waiting -= usize::from(settled.is_some());
            while let Some(None) = self.unresolved.front() {
                self.unresolved.pop_front();
                self.first += 1;
            }
            if self.unresolved.is_empty() {
                self.unresolved.shrink_to(KEPT);
            }
            settled
        } else {
            self.left_over.remove(&token)
        };
        let Some(of) = settled else { return };
        self.texts_used -= of.key.len();
        if self.texts.len() - self.texts_used > GAPS_BYTES.max(4 * self.texts_used) {
            self.close_gaps();
        }
    }

    /// Puts the few that still wait among many that do not where they cost nothing.
    fn set_aside(&mut self) {
        for (token, of) in (self.first..).zip(self.unresolved.drain(..)) {
            if let Some(of) = of {
                self.left_over.insert(token, of);
            }
        }
        self.waiting = 0;
        self.unresolved.shrink_to(KEPT);
    }

    /// Drops the bytes of keys whose rows are known. Costs a copy of the others, and a look at some that are not there.
    fn close_gaps(&mut self) {
        let mut texts = Vec::with_capacity(self.texts_used);
        let waiting = self.unresolved.iter_mut().flatten();
        for of in waiting.chain(self.left_over.values_mut()) {
            let from = std::mem::replace(&mut of.at, texts.len());
            texts.extend_from_slice(&self.texts[from..from + of.key.len()]);
        }
        // The next batch needs about as much room, unless this one was exceptional.
        self.texts.clear();
        self.texts.shrink_to(TEXTS_KEPT_BYTES.max(texts.len()));
        self.texts.extend_from_slice(&texts);
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
            let token = keys.add(
                raw.as_bytes(),
                FlatKey::new(&key, &mut Vec::new()),
                hash,
                None,
            );
            assert_eq!((token, keys.unresolved_hash(n)), (n, Some(hash)));
            assert_eq!(keys.known[n as usize].measurement(), NONE);
            keys.known[n as usize].set_measurement(n);
            assert_eq!(keys.known[n as usize].measurement(), n);
            assert_eq!(keys.known[n as usize].partition(), hash.partition());
        }
        let before = keys.texts_used;
        keys.settle(17, Row(3));
        assert!(keys.texts_used < before);
        assert_eq!(keys.known[17].row(), Some(Row(3)));
        assert!(keys.unresolved_hash(17).is_none() && keys.unresolved_hash(18).is_some());
        for n in 0..5000_u32 {
            assert_eq!(keys.find(format!("cpu,host=h{n}").as_bytes()), Some(n));
        }
        assert_eq!(keys.find(b"cpu,host=h5000"), None);
        // The others are there still when most of them are gone.
        for n in (0..5000).filter(|n| n % 1000 != 18) {
            keys.settle(n, Row(n));
        }
        assert!(keys.texts.len() <= GAPS_BYTES + keys.texts_used);
        for n in 0..5000 {
            let key = keys
                .unresolved(n)
                .map(|(_, key)| key.tags().next().unwrap().1);
            let host = format!("h{n}");
            assert_eq!(key, (n % 1000 == 18).then_some(host.as_bytes()));
        }
        // Nor is there room for all that came after one that waits.
        let (first, later) = (5018 - 5000, 20_000 + KEPT as u32);
        for n in 5000..later {
            let raw = format!("cpu,host=h{n}");
            let key = SeriesKey::new("cpu", [("host", format!("h{n}"))]).unwrap();
            let hash = KeyHash::of(7, &key, &mut Vec::new());
            keys.add(
                raw.as_bytes(),
                FlatKey::new(&key, &mut Vec::new()),
                hash,
                None,
            );
            if n % 7000 != 1 {
                keys.settle(n, Row(n));
            }
        }
        assert!(keys.unresolved.len() <= KEPT + GAPS_SHARE * keys.waiting + 1);
        assert!(keys.left_over.len() > 4, "some have been set aside");
        let waits = |n: &u32| keys.unresolved(*n).is_some();
        assert_eq!(
            (0..later).filter(waits).count(),
            5 + (later as usize - 5000) / 7000 + 1
        );
        for n in [first, 7001] {
            let host = format!("h{n}");
            let key = keys
                .unresolved(n)
                .map(|(_, key)| key.tags().next().unwrap().1);
            assert_eq!(key, Some(host.as_bytes()));
            keys.settle(n, Row(n));
            assert!(keys.unresolved(n).is_none());
        }
        let key = SeriesKey::new("cpu", [("host", "refused")]).unwrap();
        let mut scratch = Vec::new();
        let key = FlatKey::new(&key, &mut scratch);
        let hash = KeyHash::of_input(7, key.bytes());
        let why = RefusedLine::ManyTags { tags: 9, limit: 8 };
        let token = keys.add(b"cpu,host=refused", key, hash, Some(why));
        assert!(keys.unresolved(token).is_none() && keys.refusal(token).is_some());
        assert_eq!(keys.find(b"cpu,host=refused"), Some(token));
        keys.clear();
        assert_eq!((keys.find(b"cpu,host=h1"), keys.bytes()), (None, 0));
    }
}
