//! Blocks: up to 1,024 points, self-describing but for the number of points, the first time, and the models
//! that blocks of one page share.
//!
//! ```text
//! varint bytes of the time column | time column | form u8 | scale u8 (decimals) | exceptions behind their varint
//! length (decimals that have some) | bytes of the main column u16 (if something follows it) | main column | second
//! column or words
//! ```
//!
//! Forms: 0 raw, 8 bytes each. 1 integers. 2 decimals. 3 decimals and distances. 4 ordered bit patterns.
//! 6 dictionary of texts. 8 texts. Bit 4 of forms 1, 2 and 4: the main column is of ids. Bit 7: the words are
//! those of the block before. Bit 7 of a scale: there are exceptions.

use std::ops::Range;

use alluvium_types::{Column, ValueKind, Values};

use crate::error::CodecError;
use crate::floats::{self, Fit, FloatScratch};
use crate::integers::{self, IntegerScratch, Known, LENT, Setting};
use crate::models::{Models, columns};
use crate::repeats::{self, Words};
use crate::varint::{get_bytes, put_bytes, put_u64};
use crate::{Compression, strings};

/// Most points of a block.
pub const MAX_BLOCK_POINTS: usize = 1024;

const RAW: u8 = 0;
const INTEGERS: u8 = 1;
pub(crate) const DECIMALS: u8 = 2;
pub(crate) const DISTANCES: u8 = 3;
const ORDERED: u8 = 4;
const TEXT_DICTIONARY: u8 = 6;
const TEXTS: u8 = 8;

/// The bit of a form that says that the main column is of ids of a dictionary.
const IDS: u8 = 0x10;

/// The bit of a scale that says that exceptions follow.
const EXCEPTIONS: u8 = 0x80;

/// The last winning choice of one series. Never affects correctness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint(pub(crate) u8);

/// What encoding a block came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStats {
    /// Bytes appended.
    pub bytes: usize,
    /// Points in them.
    pub points: usize,
}

/// Where the parts of a value column are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueParts<'a> {
    /// Without the bit that says that words are lent.
    pub(crate) form: u8,
    words_lent: bool,
    scale: u8,
    exceptions: &'a [u8],
    /// All of it; `None` where there is no main column. The column of texts is followed by them.
    pub(crate) main: Option<&'a [u8]>,
    /// From its first byte to the end of the block.
    pub(crate) second: Option<&'a [u8]>,
    /// What follows form, scale and exceptions.
    rest: &'a [u8],
}

impl<'a> ValueParts<'a> {
    pub(crate) fn of(values: &'a [u8]) -> Result<Self, CodecError> {
        let (first, mut rest) = values.split_first().ok_or(CodecError::Truncated)?;
        let form = first & !LENT;
        let words_lent = first & LENT != 0;
        let mut scale = 0;
        let mut exceptions: &[u8] = &[];
        if matches!(form & !IDS, DECIMALS | DISTANCES) {
            let (byte, after) = rest.split_first().ok_or(CodecError::Truncated)?;
            (scale, rest) = (*byte & !EXCEPTIONS, after);
            if byte & EXCEPTIONS != 0 {
                exceptions = get_bytes(&mut rest)?;
            }
        }
        let (mut main, mut second) = (Some(rest), None);
        let two = form == DISTANCES || form == TEXT_DICTIONARY || form & IDS != 0;
        if two && !words_lent {
            let (bytes, after) = rest.split_first_chunk::<2>().ok_or(CodecError::Truncated)?;
            let bytes = usize::from(u16::from_le_bytes(*bytes));
            let parts = after.split_at_checked(bytes).ok_or(CodecError::Truncated)?;
            (main, second) = (Some(parts.0), Some(parts.1));
            rest = after;
        }
        if form == RAW || form == TEXTS {
            main = None;
        }
        Ok(Self {
            form,
            words_lent,
            scale,
            exceptions,
            main,
            second,
            rest,
        })
    }
}

/// Encodes blocks; holds buffers only. One per thread or shard, not per series.
#[derive(Debug, Default)]
pub struct Encoder {
    compression: Compression,
    integers: IntegerScratch,
    floats: FloatScratch,
    signed: Vec<i64>,
    words: Words,
    candidate: Vec<u8>,
}

impl Encoder {
    /// An encoder of the given choice between size and speed.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            ..Self::default()
        }
    }

    /// What it chooses between size and speed from now on.
    pub fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// Appends one block with the points of `range` of `column`, whose times strictly increase. `models` are those
    /// in force in its page.
    ///
    /// Cost: 10 to 35 ns a point, 50 in blocks of a few hundred.
    ///
    /// # Panics
    /// If the range is empty, longer than [`MAX_BLOCK_POINTS`], or outside the column.
    pub fn encode(
        &mut self,
        column: &Column,
        range: Range<usize>,
        hint: &mut Hint,
        models: Models<'_>,
        out: &mut Vec<u8>,
    ) -> BlockStats {
        let n = range.len();
        assert!(
            (1..=MAX_BLOCK_POINTS).contains(&n),
            "a block holds 1 to 1024 points"
        );
        let start = out.len();
        let mut times = std::mem::take(&mut self.candidate);
        times.clear();
        let setting = Setting {
            lent: models.times,
            first_known: true,
            ..Setting::own(self.compression)
        };
        integers::encode(
            &column.times[range.clone()],
            setting,
            &mut self.integers,
            &mut times,
        );
        put_u64(out, times.len() as u64);
        out.extend_from_slice(&times);
        self.candidate = times;
        match &column.values {
            Values::Numeric(bits) => self.numeric(column.kind(), &bits[range], hint, models, out),
            Values::Strings(texts) => {
                let values = range.map(|i| texts.get(i).unwrap_or_default());
                self.texts(values, models, out);
            }
        }
        BlockStats {
            bytes: out.len() - start,
            points: n,
        }
    }

    fn numeric(
        &mut self,
        kind: ValueKind,
        bits: &[u64],
        hint: &mut Hint,
        models: Models<'_>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        if kind == ValueKind::F64 {
            let mut signed = std::mem::take(&mut self.signed);
            match floats::choose(bits, hint) {
                Fit::Decimals(k) => {
                    floats::mantissas(bits, k, &mut signed, &mut self.floats);
                    let mut head = vec![k];
                    if self.floats.has_exceptions() {
                        head[0] |= EXCEPTIONS;
                        let mut exceptions = Vec::new();
                        floats::put_exceptions(&self.floats, &mut exceptions);
                        put_bytes(&mut head, &exceptions);
                    }
                    self.main_column(&signed, DECIMALS, &head, models, out);
                }
                Fit::Distances(k) => {
                    floats::distances(bits, k, &mut signed, &mut self.floats);
                    let lent = (models.second_form == DISTANCES).then_some(models.second);
                    out.extend_from_slice(&[DISTANCES, k, 0, 0]);
                    let main = out.len();
                    let setting = self.setting(models.main);
                    integers::encode(&signed, setting, &mut self.integers, out);
                    put_length(out, main);
                    let setting = self.setting(lent.flatten());
                    integers::encode(&self.floats.distances, setting, &mut self.integers, out);
                }
                Fit::Ordered => {
                    signed.clear();
                    signed.extend(bits.iter().map(|b| floats::ordered(*b as i64)));
                    self.main_column(&signed, ORDERED, &[], models, out);
                }
            }
            self.signed = signed;
        } else {
            let mut signed = std::mem::take(&mut self.signed);
            signed.clear();
            signed.extend(bits.iter().map(|b| *b as i64));
            self.main_column(&signed, INTEGERS, &[], models, out);
            self.signed = signed;
        }
        if out.len() - start > 1 + bits.len() * 8 {
            out.truncate(start);
            out.push(RAW);
            bits.iter()
                .for_each(|b| out.extend_from_slice(&b.to_le_bytes()));
        }
    }

    fn setting<'m>(&self, lent: Option<&'m [u8]>) -> Setting<'m> {
        Setting {
            lent,
            ..Setting::own(self.compression)
        }
    }

    /// Appends form, scale and the values or their ids and words.
    fn main_column(
        &mut self,
        values: &[i64],
        form: u8,
        head: &[u8],
        models: Models<'_>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.push(form);
        out.extend_from_slice(head);
        integers::encode(values, self.setting(models.main), &mut self.integers, out);
        let plain = out.len() - start;
        if !self.words.fill(values, plain * 8) {
            return;
        }
        let mut words = std::mem::take(&mut self.words);
        let lent = (models.second_form == form | IDS).then_some(models.second);
        let known = lent
            .flatten()
            .and_then(|mut known| repeats::decode_words(&mut known).ok());
        let words_lent = words.rank(known.as_deref());
        let second = out.len();
        out.push(form | IDS | if words_lent { LENT } else { 0 });
        out.extend_from_slice(head);
        if !words_lent {
            out.extend_from_slice(&[0; 2]);
        }
        let main = out.len();
        self.ids(&words.ids, models, out);
        if !words_lent {
            put_length(out, main);
            words.put(self.compression, &mut self.integers, out);
        }
        self.words = words;
        integers::keep_shorter(out, start, second);
    }

    fn ids(&mut self, ids: &[i64], models: Models<'_>, out: &mut Vec<u8>) {
        let begin = out.len();
        let setting = self.setting(models.main);
        integers::encode(ids, setting, &mut self.integers, out);
        integers::encode_symbols(ids, setting, &mut self.integers, begin, out);
    }

    fn texts<'a>(
        &mut self,
        values: impl Iterator<Item = &'a str> + Clone,
        models: Models<'a>,
        out: &mut Vec<u8>,
    ) {
        let lent = (models.second_form == TEXT_DICTIONARY).then_some(models.second);
        let known = lent
            .flatten()
            .and_then(|mut w| strings::decode_words(&mut w).ok());
        let found = strings::dictionary(values.clone(), known.unwrap_or_default());
        let Some((words, ids, words_lent)) = found else {
            out.push(TEXTS);
            let setting = Setting::own(self.compression);
            strings::encode_plain(values, setting, &mut self.integers, out);
            return;
        };
        out.push(TEXT_DICTIONARY | if words_lent { LENT } else { 0 });
        if !words_lent {
            out.extend_from_slice(&[0; 2]);
        }
        let main = out.len();
        self.ids(&ids, models, out);
        if !words_lent {
            put_length(out, main);
            strings::put_words(&words, out);
        }
    }
}

/// Fills in the length of what stands from `main` on, two bytes before it.
fn put_length(out: &mut [u8], main: usize) {
    // A block that long is never kept: it does not fit a page.
    let length = u16::try_from(out.len() - main).unwrap_or(u16::MAX);
    out[main - 2..main].copy_from_slice(&length.to_le_bytes());
}

/// Names of the time and value encodings of a block, for people.
///
/// # Errors
/// If the bytes end within the heads of its columns.
pub fn encoding_names(block: &[u8]) -> Result<(&'static str, String), CodecError> {
    let (times, values) = columns(block)?;
    let parts = ValueParts::of(values)?;
    let form = match parts.form & !IDS {
        RAW => "raw",
        INTEGERS => "integers",
        DECIMALS => "decimals",
        DISTANCES => "decimals and distances",
        ORDERED => "bit patterns",
        TEXT_DICTIONARY => "words",
        TEXTS => "texts",
        _ => "unknown",
    };
    let ids = if parts.form & IDS != 0 { " by id" } else { "" };
    let main = parts.main.map_or("", integers::encoding_name);
    let second = parts.second.filter(|_| parts.form == DISTANCES);
    let second = second.map_or(String::new(), |column| {
        format!(", {}", integers::encoding_name(column))
    });
    Ok((
        integers::encoding_name(times),
        format!("{form}{ids} {main}{second}").trim_end().to_owned(),
    ))
}

/// Decodes a block of `points` points of which the first is at `first_time`, appending to `out`. `models` are those
/// in force behind the blocks before it in its page.
///
/// # Errors
/// If the bytes are not a block of the column's kind, or `points` is not 1 to 1024; `out` may hold a part of it then.
/// Damage within packed bits or codes reads as other numbers: finding it is the page's checksum's work.
pub fn decode_block(
    block: &[u8],
    points: usize,
    first_time: i64,
    models: Models<'_>,
    out: &mut Column,
) -> Result<(), CodecError> {
    if !(1..=MAX_BLOCK_POINTS).contains(&points) {
        return Err(CodecError::Invalid {
            field: "points of a block",
            value: points as u64,
        });
    }
    let (mut times, values) = columns(block)?;
    let known = Known {
        lent: models.times,
        first: Some(first_time),
        part: false,
    };
    integers::decode(&mut times, points, known, &mut out.times)?;
    ended(times)?;
    let parts = ValueParts::of(values)?;
    let kind = out.kind();
    let rest = match &mut out.values {
        Values::Numeric(bits) => decode_numbers(kind, &parts, points, models, bits)?,
        Values::Strings(texts) => {
            let mut rest = parts.rest;
            let mut ids = Vec::with_capacity(points);
            let known = Known {
                lent: models.main,
                ..Known::default()
            };
            match parts.form {
                TEXT_DICTIONARY => {
                    let mut main = parts.main.ok_or(CodecError::Truncated)?;
                    integers::decode(&mut main, points, known, &mut ids)?;
                    ended(main)?;
                    rest = parts.second.unwrap_or_default();
                    let words = with_second(&parts, models, &mut rest, strings::decode_words)?;
                    strings::look_up(&ids, &words, texts)?;
                }
                TEXTS => strings::decode_plain(&mut rest, points, &mut ids, texts)?,
                other => return Err(wrong_form(other)),
            }
            rest
        }
    };
    ended(rest)
}

fn ended(rest: &[u8]) -> Result<(), CodecError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(CodecError::Invalid {
        field: "bytes behind a column",
        value: rest.len() as u64,
    })
}

fn wrong_form(form: u8) -> CodecError {
    CodecError::Invalid {
        field: "form of values",
        value: u64::from(form),
    }
}

/// Reads what follows the main column, or what an earlier block lends.
fn with_second<'a, T>(
    parts: &ValueParts<'a>,
    models: Models<'a>,
    rest: &mut &'a [u8],
    read: impl Fn(&mut &'a [u8]) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    if !parts.words_lent {
        return read(rest);
    }
    let lent = (models.second_form == parts.form).then_some(models.second);
    let mut lent = lent.flatten().ok_or(wrong_form(parts.form))?;
    read(&mut lent)
}

/// Returns what follows the column.
fn decode_numbers<'a>(
    kind: ValueKind,
    parts: &ValueParts<'a>,
    points: usize,
    models: Models<'a>,
    out: &mut Vec<u64>,
) -> Result<&'a [u8], CodecError> {
    let mut rest = parts.rest;
    let form = parts.form & !IDS;
    let of_kind = match form {
        RAW => parts.form == RAW && !parts.words_lent,
        INTEGERS => kind != ValueKind::F64,
        DECIMALS | ORDERED => kind == ValueKind::F64,
        DISTANCES => kind == ValueKind::F64 && parts.form == DISTANCES && !parts.words_lent,
        _ => false,
    };
    if !of_kind {
        return Err(wrong_form(parts.form));
    }
    if form == RAW {
        let (words, after) = rest
            .split_at_checked(points * 8)
            .ok_or(CodecError::Truncated)?;
        out.extend(
            words
                .chunks_exact(8)
                .map(|w| w.first_chunk::<8>().map_or(0, |w| u64::from_le_bytes(*w))),
        );
        return Ok(after);
    }
    let begin = out.len();
    let known = Known {
        lent: models.main,
        ..Known::default()
    };
    let mut main = parts.main.ok_or(CodecError::Truncated)?;
    integers::decode(&mut main, points, known, out)?;
    ended(main)?;
    rest = parts.second.unwrap_or_default();
    let column = out.get_mut(begin..).unwrap_or_default();
    if parts.form & IDS != 0 {
        let words = with_second(parts, models, &mut rest, repeats::decode_words)?;
        repeats::look_up(column, &words)?;
    } else if parts.words_lent {
        return Err(wrong_form(parts.form));
    }
    match form {
        DECIMALS => {
            floats::from_mantissas(column, parts.scale)?;
            floats::get_exceptions(parts.exceptions, column)?;
        }
        DISTANCES => {
            let lent = (models.second_form == DISTANCES).then_some(models.second);
            let known = Known {
                lent: lent.flatten(),
                ..Known::default()
            };
            let read = |bytes: &mut &'a [u8]| {
                let mut distances: Vec<i64> = Vec::with_capacity(points);
                integers::decode(bytes, points, known, &mut distances)?;
                Ok(distances)
            };
            let distances = with_second(parts, models, &mut rest, read)?;
            floats::from_mantissas(column, parts.scale)?;
            floats::move_by(column, &distances);
        }
        ORDERED => column
            .iter_mut()
            .for_each(|b| *b = floats::ordered(*b as i64) as u64),
        _ => {}
    }
    Ok(rest)
}
