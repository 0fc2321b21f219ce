//! Points of lines of one shape, a column a field.
//!
//! Rows and times first, as varints of their differences (times: of differences of differences), then each
//! field's values by the cheapest of: all equal, zigzag varints, decimals of one scale checked bit for bit, raw
//! words, bits for booleans, a dictionary or plain text for strings.

use alluvium_codec::CodecError;
use alluvium_codec::varint::{
    get_bytes, get_i64, get_u64, put_bytes, put_i64, put_u64, unzigzag, zigzag,
};
use alluvium_types::{FieldId, Row, StringColumn, ValueKind};

const EQUAL: u8 = 0;
const VARINT: u8 = 1;
const DECIMAL: u8 = 2;
const RAW: u8 = 3;
const BITS: u8 = 4;
const WORDS: u8 = 5;
const TEXT: u8 = 6;

/// From so many lines on, one word for all is shorter than a varint each.
const EQUAL_LINES_MIN: usize = 9;

const POWERS: [f64; 5] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];

/// A group that has so many values takes no further line. So it is never longer than this and one line more, whose fields
/// take two bytes each of the frame at least: a group read from a frame of `n` bytes takes at most `8 * (65,536 + n)` for its
/// values, however few bytes say that they are all equal.
pub const GROUP_VALUES_MAX: usize = 65_536;

/// Below it every product with a power is rounded to the right integer or refused.
const MANTISSA_MAX: f64 = 4_503_599_627_370_496.0;

/// Points of lines of one shape, in the order they arrived; see [`GROUP_VALUES_MAX`] for how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PointGroup {
    /// The shape.
    pub fields: Vec<(FieldId, ValueKind)>,
    /// A row a line.
    pub rows: Vec<Row>,
    /// Nanoseconds, one a line.
    pub times: Vec<i64>,
    /// `bits[line * fields.len() + field]`: raw bits or, for strings, an index into `strings`.
    pub bits: Vec<u64>,
    /// Texts.
    pub strings: StringColumn,
}

fn mantissa(bits: u64, power: f64) -> Option<i64> {
    let scaled = (f64::from_bits(bits) * power).round_ties_even();
    if scaled.is_nan() || scaled.abs() >= MANTISSA_MAX {
        return None;
    }
    let whole = scaled as i64;
    ((whole as f64 / power).to_bits() == bits).then_some(whole)
}

/// Whether the group had room for its last line.
fn fits(lines: usize, width: usize) -> bool {
    let before_last = lines.saturating_sub(1).checked_mul(width);
    before_last.is_some_and(|values| values < GROUP_VALUES_MAX)
}

pub(crate) fn put_group(group: &PointGroup, out: &mut Vec<u8>) {
    let width = group.fields.len();
    // What cannot be read again must not be acknowledged.
    assert!(
        fits(group.rows.len(), width),
        "a group of {} lines of {width} fields is too long to be read",
        group.rows.len()
    );
    put_u64(out, width as u64);
    for (field, kind) in &group.fields {
        put_u64(out, u64::from(field.0) << 3 | u64::from(kind.number()));
    }
    put_u64(out, group.rows.len() as u64);
    let mut last = 0;
    for row in &group.rows {
        put_i64(out, i64::from(row.0) - last);
        last = i64::from(row.0);
    }
    let (mut last, mut step) = (0_i64, 0_i64);
    for (i, time) in group.times.iter().enumerate() {
        let delta = time.wrapping_sub(last);
        put_i64(out, delta.wrapping_sub(step));
        // The first difference is the time itself, which says nothing of the next.
        step = if i == 0 { 0 } else { delta };
        last = *time;
    }
    for (place, (_, kind)) in group.fields.iter().enumerate() {
        let column = group.bits.iter().skip(place).step_by(width.max(1)).copied();
        if kind.is_numeric() && group.rows.len() >= EQUAL_LINES_MIN && put_equal(&column, out) {
            continue;
        }
        match kind {
            ValueKind::Str => put_texts(column, &group.strings, out),
            ValueKind::Bool => put_bools(column, out),
            ValueKind::F64 => put_floats(column, out),
            ValueKind::I64 | ValueKind::U64 => put_integers(column, out),
        }
    }
}

fn put_equal(column: &(impl Iterator<Item = u64> + Clone), out: &mut Vec<u8>) -> bool {
    let mut values = column.clone();
    let Some(first) = values.next() else {
        return false;
    };
    if !values.all(|v| v == first) {
        return false;
    }
    out.push(EQUAL);
    out.extend_from_slice(&first.to_le_bytes());
    true
}

fn put_raw(column: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    out.push(RAW);
    column.for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

fn put_integers(column: impl Iterator<Item = u64> + Clone, out: &mut Vec<u8>) {
    // A varint of nine bytes or more is longer than the word.
    if column.clone().any(|v| zigzag(v as i64) >> 56 != 0) {
        if !put_equal(&column, out) {
            put_raw(column, out);
        }
        return;
    }
    out.push(VARINT);
    column.for_each(|v| put_i64(out, v as i64));
}

fn put_floats(column: impl Iterator<Item = u64> + Clone, out: &mut Vec<u8>) {
    let start = out.len();
    'scale: for (k, power) in POWERS.iter().enumerate() {
        // Most scales are refused by the first values.
        if column
            .clone()
            .take(4)
            .any(|v| mantissa(v, *power).is_none())
        {
            continue;
        }
        out.extend([DECIMAL, k as u8]);
        for v in column.clone() {
            let Some(m) = mantissa(v, *power) else {
                out.truncate(start);
                continue 'scale;
            };
            put_i64(out, m);
        }
        return;
    }
    if !put_equal(&column, out) {
        put_raw(column, out);
    }
}

fn put_bools(column: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    out.push(BITS);
    let (mut byte, mut held) = (0_u8, 0);
    for v in column {
        byte |= u8::from(v != 0) << held;
        held += 1;
        if held == 8 {
            out.push(byte);
            (byte, held) = (0, 0);
        }
    }
    if held > 0 {
        out.push(byte);
    }
}

fn put_texts(column: impl Iterator<Item = u64> + Clone, strings: &StringColumn, out: &mut Vec<u8>) {
    let text = |index: u64| strings.get(index as usize).unwrap_or_default();
    let mut words: Vec<&str> = Vec::new();
    let mut ids: Vec<u8> = Vec::new();
    for value in column.clone().map(text) {
        let at = words.iter().position(|w| *w == value);
        if at.is_none() {
            if words.len() == 64 {
                break;
            }
            words.push(value);
        }
        ids.push(at.unwrap_or(words.len() - 1) as u8);
    }
    if ids.len() == column.clone().count() && words.len() * 2 <= ids.len() {
        out.push(WORDS);
        put_u64(out, words.len() as u64);
        words.iter().for_each(|w| put_bytes(out, w.as_bytes()));
        out.extend_from_slice(&ids);
        return;
    }
    out.push(TEXT);
    column.for_each(|v| put_bytes(out, text(v).as_bytes()));
}

/// Takes a group off the front of a section, into buffers of the caller.
pub(crate) fn get_group(bytes: &mut &[u8], group: &mut PointGroup) -> Result<(), CodecError> {
    let PointGroup {
        fields,
        rows,
        times,
        bits,
        strings,
    } = group;
    fields.clear();
    rows.clear();
    times.clear();
    bits.clear();
    strings.clear();
    let width = count(bytes)?;
    for _ in 0..width {
        let packed = get_u64(bytes)?;
        let kind = ValueKind::from_number((packed & 7) as u8);
        let kind = kind.ok_or(CodecError::Invalid {
            field: "kind",
            value: packed & 7,
        })?;
        let field = packed >> 3;
        if field >= u64::from(FieldId::LIMIT) {
            return Err(CodecError::Invalid {
                field: "field",
                value: field,
            });
        }
        fields.push((FieldId(field as u32), kind));
    }
    let lines = count(bytes)?;
    let mut row = 0_i64;
    for _ in 0..lines {
        row = row.wrapping_add(get_i64(bytes)?);
        let row = u32::try_from(row).map_err(|_| CodecError::Invalid {
            field: "row",
            value: row as u64,
        })?;
        rows.push(Row(row));
    }
    let (mut time, mut step) = (0_i64, 0_i64);
    for i in 0..lines {
        let delta = get_i64(bytes)?.wrapping_add(step);
        time = time.wrapping_add(delta);
        step = if i == 0 { 0 } else { delta };
        times.push(time);
    }
    if !fits(lines, width) {
        return Err(CodecError::Invalid {
            field: "lines",
            value: lines as u64,
        });
    }
    bits.resize(lines * width, 0);
    for (place, (_, kind)) in fields.iter().enumerate() {
        let (mode, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        let mut cells = bits.iter_mut().skip(place).step_by(width);
        match (*mode, *kind) {
            (WORDS | TEXT, ValueKind::Str) => get_texts(bytes, *mode, lines, cells, strings)?,
            (BITS, ValueKind::Bool) => {
                let packed = take(bytes, lines.div_ceil(8))?;
                cells
                    .enumerate()
                    .for_each(|(i, cell)| *cell = u64::from(packed[i / 8] >> (i % 8) & 1));
            }
            (EQUAL, kind) if kind.is_numeric() => {
                let value = word(take(bytes, 8)?);
                cells.for_each(|cell| *cell = value);
            }
            (RAW, kind) if kind.is_numeric() => {
                let words = take(bytes, lines * 8)?;
                cells
                    .zip(words.chunks_exact(8))
                    .for_each(|(cell, w)| *cell = word(w));
            }
            (VARINT, ValueKind::I64 | ValueKind::U64) => {
                cells.try_for_each(|cell| get_i64(bytes).map(|v| *cell = v as u64))?;
            }
            (DECIMAL, ValueKind::F64) => {
                let k = take(bytes, 1)?[0];
                let power = *POWERS.get(usize::from(k)).ok_or(CodecError::Invalid {
                    field: "decimal scale",
                    value: u64::from(k),
                })?;
                cells.try_for_each(|cell| {
                    get_u64(bytes).map(|v| *cell = (unzigzag(v) as f64 / power).to_bits())
                })?;
            }
            (other, _) => {
                return Err(CodecError::Invalid {
                    field: "column mode",
                    value: u64::from(other),
                });
            }
        }
    }
    Ok(())
}

fn get_texts<'c>(
    bytes: &mut &[u8],
    mode: u8,
    lines: usize,
    cells: impl Iterator<Item = &'c mut u64>,
    strings: &mut StringColumn,
) -> Result<(), CodecError> {
    let mut next = |text: &[u8]| {
        let text = std::str::from_utf8(text).map_err(|e| CodecError::Invalid {
            field: "text",
            value: e.valid_up_to() as u64,
        })?;
        strings.push(text);
        Ok::<u64, CodecError>(strings.len() as u64 - 1)
    };
    if mode == TEXT {
        for cell in cells {
            *cell = next(get_bytes(bytes)?)?;
        }
        return Ok(());
    }
    let count = count(bytes)?;
    let mut words = Vec::with_capacity(count.min(256));
    for _ in 0..count {
        words.push(get_bytes(bytes)?);
    }
    // Words are stored once; cells share them.
    let mut at = Vec::with_capacity(words.len());
    for word in words {
        at.push(next(word)?);
    }
    for (cell, id) in cells.zip(take(bytes, lines)?) {
        *cell = *at.get(usize::from(*id)).ok_or(CodecError::Invalid {
            field: "dictionary id",
            value: u64::from(*id),
        })?;
    }
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk::<8>()
        .map_or(0, |w| u64::from_le_bytes(*w))
}

/// A number of things each of which takes a byte at least.
pub(crate) fn count(bytes: &mut &[u8]) -> Result<usize, CodecError> {
    let count = get_u64(bytes)?;
    if count > bytes.len() as u64 {
        return Err(CodecError::Truncated);
    }
    Ok(count as usize)
}

pub(crate) fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], CodecError> {
    let (head, rest) = bytes.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *bytes = rest;
    Ok(head)
}
