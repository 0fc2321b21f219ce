//! Integer columns whose values recur: runs, and a sorted dictionary.
//!
//! Runs: varint number of runs, at least 2; integer column of their values behind its varint length; integer
//! column of their lengths but the last, which is what is left. Dictionary: ids as one integer column; elsewhere varint number of distinct
//! values, 2 to 256, and an integer column of these, ascending. Ids keep the order of values, so that neighbours
//! on an uneven grid stay near each other.

use crate::Compression;
use crate::entropy::Sorts;
use crate::error::CodecError;
use crate::integers::{self, IntegerScratch, Known, Setting, Word};
use crate::varint::{get_bytes, get_u64, put_bytes, put_u64};

/// Most values of a dictionary.
const WORDS_MAX: usize = 256;

/// Bits that a word and its code take, about: the least that was seen to be taken where a dictionary paid.
const WORD_BITS: usize = 6;

/// Slots of the table that finds a value's place: a power of two, at most a quarter used.
const SLOTS: usize = 4 * WORDS_MAX;

/// Appends the runs of at least two unequal values.
pub(crate) fn encode_runs(
    values: &[i64],
    compression: Compression,
    scratch: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    let (mut runs, mut lengths) = (Vec::new(), Vec::new());
    for run in values.chunk_by(|a, b| a == b) {
        runs.push(run[0]);
        lengths.push(run.len() as i64);
    }
    lengths.pop();
    put_u64(out, runs.len() as u64);
    let setting = Setting {
        part: true,
        ..Setting::own(compression)
    };
    let mut column = Vec::new();
    integers::encode(&runs, setting, scratch, &mut column);
    put_bytes(out, &column);
    integers::encode(&lengths, setting, scratch, out);
}

fn count_of(bytes: &mut &[u8], field: &'static str, most: usize) -> Result<usize, CodecError> {
    let count = get_u64(bytes)?;
    // A single one would be a const column.
    if count < 2 || count > most as u64 {
        return Err(CodecError::Invalid {
            field,
            value: count,
        });
    }
    Ok(count as usize)
}

/// Takes runs of `n` values off the front.
pub(crate) fn decode_runs<W: Word>(
    bytes: &mut &[u8],
    n: usize,
    out: &mut Vec<W>,
) -> Result<(), CodecError> {
    let count = count_of(bytes, "number of runs", n)?;
    let (mut runs, mut lengths) = (Vec::<W>::new(), Vec::<i64>::new());
    let known = Known {
        part: true,
        ..Known::default()
    };
    integers::decode(&mut get_bytes(bytes)?, count, known, &mut runs)?;
    integers::decode(bytes, count - 1, known, &mut lengths)?;
    let mut left = n;
    for (i, value) in runs.iter().enumerate() {
        let length = match lengths.get(i) {
            Some(length) => usize::try_from(*length).unwrap_or(usize::MAX),
            None => left,
        };
        if length == 0 || length > left {
            return Err(CodecError::Invalid {
                field: "length of a run",
                value: length as u64,
            });
        }
        out.resize(out.len() + length, *value);
        left -= length;
    }
    Ok(())
}

/// The distinct values of a column and where each of its values is among them.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// Of each slot: 0 if free, else one more than the place in `distinct`.
    slots: Vec<u16>,
    /// Ascending once the ids are made.
    pub(crate) distinct: Vec<i64>,
    places: Vec<u16>,
    /// How often each of `distinct` occurs.
    counts: Vec<u32>,
    /// Of each value its rank.
    pub(crate) ids: Vec<i64>,
}

impl Words {
    /// Takes the values apart; `false` if a dictionary of them would likely take more than `bits_max`.
    pub(crate) fn fill(&mut self, values: &[i64], bits_max: usize) -> bool {
        self.slots.clear();
        self.slots.resize(SLOTS, 0);
        self.distinct.clear();
        self.places.clear();
        self.counts.clear();
        let most = WORDS_MAX.min(values.len() / 2);
        for value in values {
            // Fibonacci hashing: the high bits of a product with the golden ratio.
            let hash = (*value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut slot = (hash >> (64 - SLOTS.ilog2())) as usize;
            let place = loop {
                match self.slots[slot] {
                    0 => {
                        if self.distinct.len() >= most {
                            return false;
                        }
                        self.distinct.push(*value);
                        self.counts.push(0);
                        self.slots[slot] = self.distinct.len() as u16;
                        break self.distinct.len() - 1;
                    }
                    used if self.distinct[usize::from(used) - 1] == *value => {
                        break usize::from(used) - 1;
                    }
                    _ => slot = (slot + 1) % SLOTS,
                }
            };
            self.places.push(place as u16);
            self.counts[place] += 1;
        }
        let count = self.distinct.len();
        let (min, max) = (self.distinct.iter().min(), self.distinct.iter().max());
        let (Some(min), Some(max)) = (min, max) else {
            return false;
        };
        let gap = max.wrapping_sub(*min) as u64 / count as u64;
        // On a dense grid the values say as much as their ranks.
        if count < 2 || gap < 2 {
            return false;
        }
        let word_bits = 64 - gap.leading_zeros() as usize;
        let id_bits = (count - 1).checked_ilog2().map_or(0, |b| b as usize + 1);
        // Ids may well take less than their full width, but rarely less than their entropy.
        let mut ids = Sorts::default();
        self.counts.iter().for_each(|count| ids.add(*count));
        count * word_bits + values.len() * id_bits / 2 < bits_max
            && ids.bits() as usize + count * WORD_BITS <= bits_max
    }

    /// Sorts the values and makes the ids; `known`, ascending, takes the place of the values if it has them all.
    /// Says whether it has.
    pub(crate) fn rank(&mut self, known: Option<&[i64]>) -> bool {
        let mut ranks = vec![0; self.distinct.len()];
        let by_known = known.is_some_and(|known| {
            ranks.iter_mut().zip(&self.distinct).all(|(rank, value)| {
                let found = known.binary_search(value);
                *rank = found.unwrap_or_default() as i64;
                found.is_ok()
            })
        });
        if !by_known {
            let mut order: Vec<u16> = (0..self.distinct.len() as u16).collect();
            order.sort_unstable_by_key(|place| self.distinct[usize::from(*place)]);
            for (rank, place) in order.iter().enumerate() {
                ranks[usize::from(*place)] = rank as i64;
            }
            self.distinct.sort_unstable();
        }
        self.ids.clear();
        self.ids
            .extend(self.places.iter().map(|p| ranks[usize::from(*p)]));
        by_known
    }

    /// Appends the sorted values.
    pub(crate) fn put(
        &self,
        compression: Compression,
        scratch: &mut IntegerScratch,
        out: &mut Vec<u8>,
    ) {
        put_u64(out, self.distinct.len() as u64);
        let setting = Setting {
            part: true,
            ..Setting::own(compression)
        };
        integers::encode(&self.distinct, setting, scratch, out);
    }
}

/// Takes the values of a dictionary off the front.
pub(crate) fn decode_words(bytes: &mut &[u8]) -> Result<Vec<i64>, CodecError> {
    let count = count_of(bytes, "size of a dictionary", WORDS_MAX)?;
    let mut words = Vec::new();
    let known = Known {
        part: true,
        ..Known::default()
    };
    integers::decode(bytes, count, known, &mut words)?;
    Ok(words)
}

/// Puts the words in the place of their ids.
pub(crate) fn look_up(ids: &mut [u64], words: &[i64]) -> Result<(), CodecError> {
    for id in ids {
        let word = usize::try_from(*id).ok().and_then(|id| words.get(id));
        *id = *word.ok_or(CodecError::Invalid {
            field: "dictionary id",
            value: *id,
        })? as u64;
    }
    Ok(())
}
