//! Blocks: up to 1,024 points, self-describing.
//!
//! ```text
//! points u16 | bytes of the time column u16 | time encoding u8 | value encoding u8 | times | bytes of values u16.. | values
//! ```
//!
//! The value column is behind its varint length, so that a block tells where it ends.

use std::ops::Range;

use alluvium_types::{Column, Values};

use crate::error::CodecError;
use crate::floats::{self, FloatScratch};
use crate::integers::{self, IntegerScratch};
use crate::strings;
use crate::varint;

/// Most points of a block.
pub const MAX_BLOCK_POINTS: usize = 1024;

const HEADER: usize = 6;

const RAW: u8 = 0;
const INTEGER: u8 = 1;
const DECIMAL: u8 = 2;
const SPLIT: u8 = 4;
const DICTIONARY: u8 = 6;
const PLAIN: u8 = 8;

/// The last winning choice of one series: a scale. Never affects correctness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint(u8);

/// What encoding a block came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStats {
    /// Bytes appended.
    pub bytes: usize,
    /// Points in them.
    pub points: usize,
    /// Encoding of the times.
    pub time_encoding: u8,
    /// Encoding of the values.
    pub value_encoding: u8,
}

/// Encodes blocks; holds buffers only. One per thread or shard, not per series.
#[derive(Debug, Default)]
pub struct Encoder {
    integers: IntegerScratch,
    floats: FloatScratch,
    signed: Vec<i64>,
    values: Vec<u8>,
}

impl Encoder {
    /// Appends one block with the points of `range` of `column`, whose times strictly increase.
    ///
    /// # Panics
    /// If the range is empty, longer than [`MAX_BLOCK_POINTS`], or outside the column.
    pub fn encode(
        &mut self,
        column: &Column,
        range: Range<usize>,
        hint: &mut Hint,
        out: &mut Vec<u8>,
    ) -> BlockStats {
        let n = range.len();
        assert!(
            (1..=MAX_BLOCK_POINTS).contains(&n),
            "a block holds 1 to 1024 points"
        );
        let start = out.len();
        out.extend_from_slice(&(n as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        integers::encode(&column.times[range.clone()], &mut self.integers, out);
        let time_len = out.len() - start - HEADER;
        let time_encoding = out[start + HEADER];
        self.values.clear();
        let value_encoding = match &column.values {
            Values::Numeric(bits) => self.numeric(column.kind(), &bits[range], hint),
            Values::Strings(texts) => {
                let values = range.map(|i| texts.get(i).unwrap_or_default());
                if let Some((words, ids)) = strings::dictionary(values.clone()) {
                    strings::encode_dictionary(&words, &ids, &mut self.integers, &mut self.values);
                    DICTIONARY
                } else {
                    strings::encode_plain(values, &mut self.integers, &mut self.values);
                    PLAIN
                }
            }
        };
        varint::put_bytes(out, &self.values);
        out[start + 2..start + 4].copy_from_slice(&(time_len as u16).to_le_bytes());
        out[start + 4] = time_encoding;
        out[start + 5] = value_encoding;
        BlockStats {
            bytes: out.len() - start,
            points: n,
            time_encoding,
            value_encoding,
        }
    }

    fn numeric(&mut self, kind: alluvium_types::ValueKind, bits: &[u64], hint: &mut Hint) -> u8 {
        let encoding = if kind == alluvium_types::ValueKind::F64 {
            let (k, misfits) = floats::choose_scale(bits, hint.0);
            // A misfit costs nine bytes and a bit; past a twentieth the split is smaller.
            if misfits * 20 <= bits.len() {
                hint.0 = k;
                floats::encode_decimal(
                    bits,
                    k,
                    &mut self.floats,
                    &mut self.integers,
                    &mut self.values,
                );
                DECIMAL
            } else {
                floats::encode_split(bits, &mut self.floats, &mut self.integers, &mut self.values);
                SPLIT
            }
        } else {
            self.signed.clear();
            self.signed.extend(bits.iter().map(|b| *b as i64));
            integers::encode(&self.signed, &mut self.integers, &mut self.values);
            INTEGER
        };
        if self.values.len() > bits.len() * 8 {
            self.values.clear();
            bits.iter()
                .for_each(|b| self.values.extend_from_slice(&b.to_le_bytes()));
            return RAW;
        }
        encoding
    }
}

/// Number of points of the block at the front.
///
/// # Errors
/// If there is no whole header or its number is not 1 to 1024.
pub fn block_points(bytes: &[u8]) -> Result<usize, CodecError> {
    let head = bytes.first_chunk::<HEADER>().ok_or(CodecError::Truncated)?;
    let n = usize::from(u16::from_le_bytes([head[0], head[1]]));
    if (1..=MAX_BLOCK_POINTS).contains(&n) {
        Ok(n)
    } else {
        Err(CodecError::Invalid {
            field: "points of a block",
            value: n as u64,
        })
    }
}

/// Names of the time and value encodings of the block at the front, for people.
///
/// # Errors
/// If there is no whole header.
pub fn encoding_names(bytes: &[u8]) -> Result<(&'static str, &'static str), CodecError> {
    let head = bytes.first_chunk::<HEADER>().ok_or(CodecError::Truncated)?;
    let time = match head[4] {
        0 => "const",
        1 => "arithmetic",
        2 => "pfor order 0",
        3 => "pfor order 1",
        4 => "pfor order 2",
        8 => "raw",
        _ => "unknown",
    };
    let value = match head[5] {
        RAW => "raw",
        INTEGER => "integer",
        DECIMAL => "decimal",
        SPLIT => "split",
        DICTIONARY => "dictionary",
        PLAIN => "plain",
        _ => "unknown",
    };
    Ok((time, value))
}

/// Decodes the block at the front, appending to `out`; returns the bytes it took.
///
/// # Errors
/// If the bytes are no block of the column's kind; `out` may hold a part of it then.
pub fn decode_block(bytes: &[u8], out: &mut Column) -> Result<usize, CodecError> {
    let n = block_points(bytes)?;
    let head = bytes.first_chunk::<HEADER>().ok_or(CodecError::Truncated)?;
    let time_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let mut times = bytes
        .get(HEADER..HEADER + time_len)
        .ok_or(CodecError::Truncated)?;
    let mut rest = bytes
        .get(HEADER + time_len..)
        .ok_or(CodecError::Truncated)?;
    integers::decode(&mut times, n, &mut out.times)?;
    let mut values = varint::get_bytes(&mut rest)?;
    let used = bytes.len() - rest.len();
    let v = &mut values;
    let mut scratch = Vec::new();
    let kind = out.kind();
    match (&mut out.values, head[5]) {
        (Values::Numeric(bits), RAW) => {
            let words = v.get(..n * 8).ok_or(CodecError::Truncated)?;
            bits.extend(
                words
                    .chunks_exact(8)
                    .map(|w| w.first_chunk::<8>().map_or(0, |w| u64::from_le_bytes(*w))),
            );
        }
        (Values::Numeric(bits), INTEGER) => {
            integers::decode(v, n, bits)?;
        }
        (Values::Numeric(bits), DECIMAL) if kind == alluvium_types::ValueKind::F64 => {
            floats::decode_decimal(v, n, bits)?;
        }
        (Values::Numeric(bits), SPLIT) if kind == alluvium_types::ValueKind::F64 => {
            floats::decode_split(v, n, &mut scratch, bits)?;
        }
        (Values::Strings(texts), DICTIONARY) => {
            strings::decode_dictionary(v, n, &mut scratch, texts)?;
        }
        (Values::Strings(texts), PLAIN) => strings::decode_plain(v, n, &mut scratch, texts)?,
        (_, other) => {
            return Err(CodecError::Invalid {
                field: "value encoding",
                value: u64::from(other),
            });
        }
    }
    Ok(used)
}
