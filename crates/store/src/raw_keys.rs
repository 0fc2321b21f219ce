//! Tag sections a writer has met, as they were sent.

use alluvium_index::KeyHash;
use alluvium_types::{Partition, Row, SeriesKey};
use hashbrown::HashTable;

use crate::error::RefusedLine;

/// No row, measurement or shape.
pub(crate) const NONE: u32 = u32::MAX;

/// One tag set a writer has met; there may be one a series, so it is kept small.
#[derive(Debug)]
pub(crate) struct Known {
    pub hash: KeyHash,
    /// Begin and length in the text.
    pub raw: (u32, u32),
    /// Until the row is looked up under its shard's lock.
    pub key: Option<Box<Unresolved>>,
    /// `NONE` until it is looked up.
    pub row: u32,
    pub measurement: u32,
    /// The shape all of whose series are known to exist, as they are, for this row.
    pub ensured: u32,
    pub partition: Partition,
}

const _: () = assert!(size_of::<Known>() <= 48);

impl Known {
    pub(crate) fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let begin = self.raw.0 as usize;
        &text[begin..begin + self.raw.1 as usize]
    }

    pub(crate) fn row(&self) -> Option<Row> {
        (self.row != NONE).then_some(Row(self.row))
    }
}

/// A tag set whose row is not known yet.
#[derive(Debug)]
pub(crate) struct Unresolved {
    pub key: SeriesKey,
    /// Why no line may have this key.
    pub refusal: Option<RefusedLine>,
}

/// Tag sections as they were sent, so that sorting and unescaping happen once a series and writer.
#[derive(Debug, Default)]
pub(crate) struct RawKeys {
    table: HashTable<u32>,
    pub text: Vec<u8>,
    pub known: Vec<Known>,
    hasher: foldhash::fast::FixedState,
}

impl RawKeys {
    fn hash(&self, raw: &[u8]) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, raw)
    }

    pub(crate) fn find(&self, raw: &[u8]) -> Option<u32> {
        let (known, text) = (&self.known, &self.text);
        self.table
            .find(self.hash(raw), |i| *known[*i as usize].text(text) == *raw)
            .copied()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.known.len() * (size_of::<Known>() + 8)
    }

    pub(crate) fn add(&mut self, raw: &[u8], known: Known) -> u32 {
        let at = self.known.len() as u32;
        let hash = self.hash(raw);
        self.text.extend_from_slice(raw);
        self.known.push(known);
        let (entries, text, hasher) = (&self.known, &self.text, &self.hasher);
        self.table.insert_unique(hash, at, |i| {
            std::hash::BuildHasher::hash_one(hasher, entries[*i as usize].text(text))
        });
        at
    }

    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.text.clear();
        self.known.clear();
    }
}
