//! String columns: a dictionary with ids where few values recur, else lengths and text.

use alluvium_types::StringColumn;

use crate::error::CodecError;
use crate::integers::{self, IntegerScratch, Known, Setting};
use crate::varint::{get_bytes, get_u64, put_bytes, put_u64};

/// Most values of a dictionary.
const DICTIONARY_MAX: usize = 256;

/// Most text a dictionary may stand for: what bounds a decoder's memory, whatever the words and ids say.
const DICTIONARY_TEXT_MAX: usize = 1 << 20;

/// Words and ids, if few values recur, and whether the words are the `known` ones.
pub(crate) fn dictionary<'a>(
    values: impl Iterator<Item = &'a str> + Clone,
    known: Vec<&'a str>,
) -> Option<(Vec<&'a str>, Vec<i64>, bool)> {
    let lent = known.len();
    let found = assign(values.clone(), known);
    if lent == 0 {
        let (words, ids) = found?;
        return (words.len() * 2 <= ids.len() || ids.len() == 1).then_some((words, ids, false));
    }
    match found {
        Some((words, ids)) if words.len() == lent => Some((words, ids, true)),
        // A dictionary of their own holds no word they do not use.
        _ => dictionary(values, Vec::new()),
    }
}

/// Words, the known ones first, and ids; `None` if they are too many, too long, or known twice.
fn assign<'a>(
    values: impl Iterator<Item = &'a str>,
    known: Vec<&'a str>,
) -> Option<(Vec<&'a str>, Vec<i64>)> {
    let mut table = Table::of(known)?;
    let mut ids = Vec::with_capacity(values.size_hint().0);
    let mut text = 0;
    for value in values {
        text += value.len();
        if text > DICTIONARY_TEXT_MAX {
            return None;
        }
        ids.push(table.id_of(value)?);
    }
    Some((table.words, ids))
}

/// Slots of the table that finds a word: a power of two, at most a quarter used.
const SLOTS: usize = 4 * DICTIONARY_MAX;

/// Words and where they are, by open addressing.
struct Table<'a> {
    words: Vec<&'a str>,
    /// Of each word: see [`head`].
    heads: Vec<u64>,
    /// Of each slot: 0 if free, else one more than the place of its word.
    slots: [u16; SLOTS],
}

/// The first eight bytes of a text, short ones filled up with zeros and their length.
fn head(text: &str) -> u64 {
    let bytes = text.as_bytes();
    if let Some(eight) = bytes.first_chunk() {
        return u64::from_le_bytes(*eight);
    }
    bytes.iter().rev().fold(bytes.len() as u64, |head, byte| {
        head << 8 | u64::from(*byte)
    })
}

impl<'a> Table<'a> {
    /// `None` if a word is there twice.
    fn of(words: Vec<&'a str>) -> Option<Self> {
        let mut table = Self {
            words: Vec::with_capacity(words.len()),
            heads: Vec::new(),
            slots: [0; SLOTS],
        };
        for (id, word) in words.into_iter().enumerate() {
            if table.id_of(word)? != id as i64 {
                return None;
            }
        }
        Some(table)
    }

    /// The place of a word, which is added if it is new; `None` if there is no room for it.
    fn id_of(&mut self, word: &'a str) -> Option<i64> {
        let head = head(word);
        let tail = word
            .as_bytes()
            .last_chunk()
            .map_or(0, |b| u64::from_le_bytes(*b));
        let mixed = (head ^ tail.rotate_left(29) ^ (word.len() as u64) << 56)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (mixed >> (64 - SLOTS.ilog2())) as usize;
        loop {
            match usize::from(self.slots[slot]) {
                0 => break,
                used => {
                    // A short text is all in its head.
                    let at = used - 1;
                    let known = self.words[at];
                    if self.heads[at] == head
                        && known.len() == word.len()
                        && (word.len() <= 8 || known == word)
                    {
                        return Some(at as i64);
                    }
                }
            }
            slot = (slot + 1) % SLOTS;
        }
        if self.words.len() == DICTIONARY_MAX {
            return None;
        }
        self.words.push(word);
        self.heads.push(head);
        self.slots[slot] = self.words.len() as u16;
        Some(self.words.len() as i64 - 1)
    }
}

pub(crate) fn put_words(words: &[&str], out: &mut Vec<u8>) {
    put_u64(out, words.len() as u64);
    words.iter().for_each(|w| put_bytes(out, w.as_bytes()));
}

fn text(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|e| CodecError::Invalid {
        field: "text",
        value: e.valid_up_to() as u64,
    })
}

pub(crate) fn decode_words<'a>(bytes: &mut &'a [u8]) -> Result<Vec<&'a str>, CodecError> {
    let count = get_u64(bytes)?;
    if count > DICTIONARY_MAX as u64 {
        return Err(CodecError::Invalid {
            field: "dictionary",
            value: count,
        });
    }
    let mut words = Vec::with_capacity(count as usize);
    for _ in 0..count {
        words.push(text(get_bytes(bytes)?)?);
    }
    Ok(words)
}

/// Short words that are gathered before they go to the column.
const GATHERED: usize = 64;

pub(crate) fn look_up(
    ids: &[i64],
    words: &[&str],
    out: &mut StringColumn,
) -> Result<(), CodecError> {
    let word = |id: &i64| {
        let word = usize::try_from(*id).ok().and_then(|id| words.get(id));
        word.ok_or(CodecError::Invalid {
            field: "dictionary id",
            value: *id as u64,
        })
    };
    let mut total = 0;
    for id in ids {
        total += word(id)?.len();
    }
    if total > DICTIONARY_TEXT_MAX {
        return Err(CodecError::Invalid {
            field: "text length",
            value: total as u64,
        });
    }
    match words.iter().map(|w| w.len()).max() {
        Some(..=16) => gather::<16>(ids, words, out),
        Some(..=32) => gather::<32>(ids, words, out),
        _ => {
            for id in ids {
                out.push(word(id)?);
            }
            Ok(())
        }
    }
}

/// Appends the words of ids that are known to have one, each of at most `SHORT` bytes: copying that many is one
/// instruction or two.
fn gather<const SHORT: usize>(
    ids: &[i64],
    words: &[&str],
    out: &mut StringColumn,
) -> Result<(), CodecError> {
    let padded = |word: &&str| {
        let mut bytes = [0; SHORT];
        bytes[..word.len()].copy_from_slice(word.as_bytes());
        (bytes, word.len() as u32)
    };
    let short: Vec<([u8; SHORT], u32)> = words.iter().map(padded).collect();
    let short = |id: &i64| short.get(*id as usize).unwrap_or(&([0; SHORT], 0));
    let mut gathered = [[0; SHORT]; GATHERED + 1];
    let gathered = gathered.as_flattened_mut();
    for ids in ids.chunks(GATHERED) {
        let mut end = 0;
        for (bytes, length) in ids.iter().map(short) {
            if let Some(place) = gathered.get_mut(end..).and_then(|b| b.first_chunk_mut()) {
                *place = *bytes;
            }
            end += *length as usize;
        }
        let gathered = gathered.get(..end).unwrap_or_default();
        out.extend(text(gathered)?, ids.iter().map(|id| short(id).1));
    }
    Ok(())
}

pub(crate) fn encode_plain<'a>(
    values: impl Iterator<Item = &'a str> + Clone,
    setting: Setting<'_>,
    integers: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    let lengths: Vec<i64> = values.clone().map(|v| v.len() as i64).collect();
    let mut column = Vec::new();
    integers::encode(&lengths, setting, integers, &mut column);
    put_bytes(out, &column);
    values.for_each(|v| out.extend_from_slice(v.as_bytes()));
}

pub(crate) fn decode_plain(
    bytes: &mut &[u8],
    n: usize,
    lengths: &mut Vec<i64>,
    out: &mut StringColumn,
) -> Result<(), CodecError> {
    lengths.clear();
    let mut column = get_bytes(bytes)?;
    integers::decode(&mut column, n, Known::default(), lengths)?;
    for length in lengths.iter() {
        let length = usize::try_from(*length).map_err(|_| CodecError::Truncated)?;
        let (head, rest) = bytes
            .split_at_checked(length)
            .ok_or(CodecError::Truncated)?;
        *bytes = rest;
        out.push(text(head)?);
    }
    Ok(())
}
