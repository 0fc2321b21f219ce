//! The open tail: points as a byte-aligned stream that grows by a few bytes a point.
//!
//! A point is a control byte, a time field and a value field, both little-endian with their high zero bytes cut.
//!
//! Time field: the delta of the time's delta in zigzag; low half of the control byte 0 to 8: so many bytes; 9 to 13:
//! by the unit, 1 to 5 bytes. Value field of integers and booleans: the zigzag delta. Of floats: high half 0 to 8: so
//! many bytes of the XOR with the value before, bytes reversed, so that short binary fractions lose their zeros; 9 to
//! 15: 0 to 6 bytes of the zigzag delta of mantissas at the scale. Of strings: nothing if the value repeats (high half
//! 0), else length and text (high half 1).
//!
//! Low half 15 is not a point: it sets the scale to the high half and the unit to 1000^n ns, n in the byte behind it.
//! At first the scale is 0 and the unit 1 ns; the writer finds both at the second point and looks for another scale
//! ever more rarely. `docs/format/block.md` is the specification.

use alluvium_types::{Column, ValueKind, ValueRef};

use crate::error::CodecError;
use crate::floats;
use crate::varint::{get_bytes, put_bytes, unzigzag, zigzag};

/// Low half of the control byte that sets scale and unit.
const SET: u8 = 15;
/// Low half of a time field by the unit, less its bytes.
const BY_UNIT: u8 = 8;
/// Most bytes of a time field by the unit.
const BY_UNIT_MAX: u8 = 5;
/// High half of a float by its mantissa, less the bytes of the field.
const BY_MANTISSA: u8 = 9;
/// Most bytes of a field of mantissas.
const BY_MANTISSA_MAX: u8 = 6;
/// Largest exponent of 1000 of a unit.
const UNIT_MAX: u8 = 3;
/// Bytes of the longest number with its control byte and a change of scale before it.
const LONGEST: usize = 2 + 1 + 8 + 8;

/// Points of one series not yet in a block.
#[derive(Debug, Clone)]
pub struct Tail {
    bytes: Vec<u8>,
    first_time: i64,
    last_time: i64,
    last_delta: i64,
    /// Raw bits; of strings where the last text begins in `bytes`, its length above 32 bits.
    last_bits: u64,
    points: u32,
    kind: ValueKind,
    /// Power of ten of the mantissas.
    scale: u8,
    /// Power of 1000 ns.
    unit: u8,
    /// Floats that were of another scale; stays at the largest number.
    misfits: u8,
}

/// Bytes without the high ones that are zero.
#[inline(always)]
fn cut(value: u64) -> u8 {
    (64 - value.leading_zeros()).div_ceil(8) as u8
}

/// A time's distance by the unit, if it is a multiple.
#[inline(always)]
fn by_unit(distance: i64, unit: u8) -> Option<i64> {
    // Divisions by constants are multiplications.
    let (quotient, rest) = match unit {
        1 => (distance / 1_000, distance % 1_000),
        2 => (distance / 1_000_000, distance % 1_000_000),
        3 => (distance / 1_000_000_000, distance % 1_000_000_000),
        _ => return None,
    };
    (rest == 0).then_some(quotient)
}

/// A point while it is written.
#[derive(Default)]
struct Draft {
    bytes: [u8; LONGEST + 8],
    len: usize,
}

impl Draft {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline(always)]
    fn field(&mut self, value: u64, bytes: u8) {
        self.bytes[self.len..self.len + 8].copy_from_slice(&value.to_le_bytes());
        self.len += usize::from(bytes);
    }
}

impl Tail {
    /// An empty tail.
    pub fn new(kind: ValueKind) -> Self {
        Self {
            bytes: Vec::new(),
            first_time: 0,
            last_time: 0,
            last_delta: 0,
            last_bits: 0,
            points: 0,
            kind,
            scale: 0,
            unit: 0,
            misfits: 0,
        }
    }

    /// The kind of its values.
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// Points in it.
    pub fn points(&self) -> usize {
        self.points as usize
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.points == 0
    }

    /// The stream.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Time of the oldest point.
    pub fn first_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.first_time)
    }

    /// Time of the newest point.
    pub fn last_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.last_time)
    }

    /// Raw bits of the newest point; `None` without points or for strings.
    pub fn last_bits(&self) -> Option<u64> {
        (self.points > 0 && self.kind.is_numeric()).then_some(self.last_bits)
    }

    /// Text of the newest point; `None` without points or for numbers.
    pub fn last_str(&self) -> Option<&str> {
        if self.points == 0 || self.kind.is_numeric() {
            return None;
        }
        std::str::from_utf8(self.last_text()).ok()
    }

    fn last_text(&self) -> &[u8] {
        let (begin, len) = (
            self.last_bits as u32 as usize,
            (self.last_bits >> 32) as usize,
        );
        self.bytes.get(begin..begin + len).unwrap_or_default()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends a point.
    ///
    /// # Panics
    /// If the kind is another or the time is not after the last one.
    pub fn push(&mut self, time: i64, value: ValueRef<'_>) {
        assert_eq!(
            value.kind(),
            self.kind,
            "a value of another kind pushed into a tail"
        );
        match value {
            ValueRef::Str(text) => {
                let mut draft = Draft::default();
                let control = self.time_field(time, &mut draft);
                let repeats = self.points > 0 && self.last_text() == text.as_bytes();
                draft.bytes[control] |= u8::from(!repeats) << 4;
                self.write(&draft);
                if !repeats {
                    self.grow(text.len() + 10);
                    put_bytes(&mut self.bytes, text.as_bytes());
                    self.last_bits =
                        (self.bytes.len() - text.len()) as u64 | (text.len() as u64) << 32;
                }
                self.points += 1;
            }
            number => self.push_bits(time, number.bits().unwrap_or_default()),
        }
    }

    /// Appends a numeric point. Cost: 10 to 25 ns in cache.
    ///
    /// # Panics
    /// If the time is not after the last one.
    #[inline]
    pub fn push_bits(&mut self, time: i64, bits: u64) {
        let mut draft = Draft::default();
        if self.points > 0 {
            self.settle(time, bits, &mut draft);
        }
        let control = self.time_field(time, &mut draft);
        if self.kind == ValueKind::F64 {
            let xor = (bits ^ self.last_bits).swap_bytes();
            let mut bytes = cut(xor);
            let mut field = xor;
            let mut high = bytes;
            if bytes > 1
                && let Some(delta) = floats::mantissa_delta(self.last_bits, bits, self.scale)
            {
                let zigzag = zigzag(delta);
                let shorter = cut(zigzag);
                if shorter < bytes && shorter <= BY_MANTISSA_MAX {
                    (field, bytes, high) = (zigzag, shorter, BY_MANTISSA + shorter);
                }
            }
            draft.bytes[control] |= high << 4;
            draft.field(field, bytes);
        } else {
            let field = zigzag((bits as i64).wrapping_sub(self.last_bits as i64));
            let bytes = cut(field);
            draft.bytes[control] |= bytes << 4;
            draft.field(field, bytes);
        }
        self.write(&draft);
        self.last_bits = bits;
        self.points += 1;
    }

    /// Looks for a unit and a scale, at the second point and where floats misfit.
    #[inline(always)]
    fn settle(&mut self, time: i64, bits: u64, draft: &mut Draft) {
        let misfit = self.kind == ValueKind::F64
            && self.misfits < u8::MAX
            && cut((bits ^ self.last_bits).swap_bytes()) > 3
            && floats::mantissa_delta(self.last_bits, bits, self.scale).is_none();
        self.misfits += u8::from(misfit);
        if self.points == 1 || misfit && self.misfits.is_power_of_two() {
            self.search(time, bits, draft);
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&mut self, time: i64, bits: u64, draft: &mut Draft) {
        let (mut unit, mut scale) = (self.unit, self.scale);
        if self.points == 1 {
            let delta = time.wrapping_sub(self.last_time);
            let divides = |unit: &u8| by_unit(delta, *unit).is_some();
            unit = (1..=UNIT_MAX).rev().find(divides).unwrap_or(0);
        }
        if self.kind == ValueKind::F64 {
            let fits = |k: &u8| floats::mantissa_delta(self.last_bits, bits, *k).is_some();
            scale = (0..16).find(fits).unwrap_or(scale);
        }
        if (unit, scale) != (self.unit, self.scale) {
            (self.unit, self.scale) = (unit, scale);
            draft.byte(SET | scale << 4);
            draft.byte(unit);
        }
    }

    /// Writes control byte and time; returns where the control byte is.
    #[inline(always)]
    fn time_field(&mut self, time: i64, draft: &mut Draft) -> usize {
        assert!(
            self.points == 0 || time > self.last_time,
            "times of a tail strictly increase"
        );
        let control = draft.len;
        draft.byte(0);
        let delta = if self.points == 0 {
            self.first_time = time;
            time
        } else {
            time.wrapping_sub(self.last_time)
        };
        let second = delta.wrapping_sub(self.last_delta);
        if second != 0 {
            let (mut field, mut high) = (zigzag(second), 0);
            if let Some(steps) = by_unit(second, self.unit)
                && cut(zigzag(steps)) <= BY_UNIT_MAX
            {
                (field, high) = (zigzag(steps), BY_UNIT);
            }
            let bytes = cut(field);
            draft.bytes[control] = high + bytes;
            draft.field(field, bytes);
        }
        // The first delta is the time itself, which says nothing of the next.
        self.last_delta = if self.points == 0 { 0 } else { delta };
        self.last_time = time;
        control
    }

    #[inline(always)]
    fn write(&mut self, draft: &Draft) {
        if self.bytes.len() + draft.len > self.bytes.capacity() {
            self.grow(draft.len);
        }
        self.bytes.extend_from_slice(&draft.bytes[..draft.len]);
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, more: usize) {
        // A quarter as much again: doubling would leave a quarter of all tails' memory unused on average. Allocators
        // give out multiples of 16 bytes and keep 8 of them.
        let len = self.bytes.len();
        let wanted = (len + more).max(len + len / 4);
        let capacity = wanted.saturating_sub(8).next_multiple_of(16) + 8;
        self.bytes.reserve_exact(capacity - len);
    }

    /// Appends the points to a column of the same kind.
    ///
    /// # Panics
    /// If the kinds differ.
    pub fn decode_into(&self, out: &mut Column) {
        read(self.kind, &self.bytes, self.points(), out).expect("a tail reads what it wrote");
    }

    /// Drops the points and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new(self.kind);
    }

    /// The tail that wrote these bytes; appending goes on where it stopped.
    ///
    /// # Errors
    /// If the bytes are not a whole tail of so many points of increasing times.
    pub fn from_bytes(kind: ValueKind, bytes: &[u8], points: usize) -> Result<Self, CodecError> {
        let mut column = Column::new(kind);
        read(kind, bytes, points, &mut column)?;
        if let Some(pair) = column.times.windows(2).find(|w| w[0] >= w[1]) {
            return Err(CodecError::Invalid {
                field: "time",
                value: pair[1] as u64,
            });
        }
        let mut tail = Self::new(kind);
        tail.bytes.reserve_exact(bytes.len());
        for (i, time) in column.times.iter().enumerate() {
            let value = column.value(i).ok_or(CodecError::Truncated)?;
            tail.push(*time, value);
        }
        if tail.bytes != bytes {
            return Err(CodecError::Invalid {
                field: "tail length",
                value: bytes.len() as u64,
            });
        }
        Ok(tail)
    }

    /// A copy of what is there, to read without the tail.
    pub fn snapshot(&self) -> TailSnapshot {
        TailSnapshot {
            kind: self.kind,
            points: self.points,
            first_time: self.first_time,
            last_time: self.last_time,
            bytes: self.bytes.as_slice().into(),
        }
    }
}

/// A tail as it was at one moment.
#[derive(Debug, Clone)]
pub struct TailSnapshot {
    kind: ValueKind,
    points: u32,
    first_time: i64,
    last_time: i64,
    bytes: std::sync::Arc<[u8]>,
}

impl TailSnapshot {
    /// The kind of its values.
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// Points in it.
    pub fn points(&self) -> usize {
        self.points as usize
    }

    /// Time of the oldest point.
    pub fn first_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.first_time)
    }

    /// Time of the newest point.
    pub fn last_time(&self) -> Option<i64> {
        (self.points > 0).then_some(self.last_time)
    }

    /// Appends the points to a column of the same kind.
    ///
    /// # Errors
    /// Never for a snapshot of a tail; the stream is checked all the same.
    pub fn decode_into(&self, out: &mut Column) -> Result<(), CodecError> {
        read(self.kind, &self.bytes, self.points(), out)
    }
}

fn get_cut(bytes: &mut &[u8], len: u8) -> Result<u64, CodecError> {
    let len = usize::from(len);
    if len > 8 {
        return Err(CodecError::Invalid {
            field: "field length",
            value: len as u64,
        });
    }
    if let Some(word) = bytes.first_chunk::<8>() {
        let value =
            u64::from_le_bytes(*word) & u64::MAX.checked_shr(64 - 8 * len as u32).unwrap_or(0);
        *bytes = &bytes[len..];
        return Ok(value);
    }
    let (head, rest) = bytes.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *bytes = rest;
    let mut word = [0; 8];
    word[..len].copy_from_slice(head);
    Ok(u64::from_le_bytes(word))
}

fn read(
    kind: ValueKind,
    mut bytes: &[u8],
    points: usize,
    out: &mut Column,
) -> Result<(), CodecError> {
    let r = &mut bytes;
    let (mut time, mut delta, mut bits) = (0_i64, 0_i64, 0_u64);
    let mut text = "";
    // A point takes at least a byte.
    if points > r.len() {
        return Err(CodecError::Truncated);
    }
    let (mut unit, mut scale) = (1_i64, 0_u8);
    let mut i = 0;
    while i < points {
        let (control, rest) = r.split_first().ok_or(CodecError::Truncated)?;
        *r = rest;
        let (low, high) = (control & 0xf, control >> 4);
        if low == SET {
            let (exponent, rest) = r.split_first().ok_or(CodecError::Truncated)?;
            *r = rest;
            if *exponent > UNIT_MAX {
                return Err(CodecError::Invalid {
                    field: "unit of a tail",
                    value: u64::from(*exponent),
                });
            }
            (unit, scale) = (1000_i64.pow(u32::from(*exponent)), high);
            continue;
        }
        let second = if low > BY_UNIT {
            unzigzag(get_cut(r, low - BY_UNIT)?).wrapping_mul(unit)
        } else {
            unzigzag(get_cut(r, low)?)
        };
        let step = second.wrapping_add(delta);
        time = time.wrapping_add(step);
        delta = if i == 0 { 0 } else { step };
        i += 1;
        if kind == ValueKind::Str {
            if high > 0 {
                let bytes = get_bytes(r)?;
                text = std::str::from_utf8(bytes).map_err(|e| CodecError::Invalid {
                    field: "text",
                    value: e.valid_up_to() as u64,
                })?;
            }
            out.push_str(time, text);
            continue;
        }
        if kind == ValueKind::F64 && high >= BY_MANTISSA {
            let delta = unzigzag(get_cut(r, high - BY_MANTISSA)?);
            bits = floats::add_mantissa(bits, delta, scale).ok_or(CodecError::Invalid {
                field: "float before a delta of mantissas",
                value: bits,
            })?;
        } else {
            let field = get_cut(r, high)?;
            bits = if kind == ValueKind::F64 {
                bits ^ field.swap_bytes()
            } else {
                (bits as i64).wrapping_add(unzigzag(field)) as u64
            };
        }
        out.push_bits(time, bits);
    }
    if r.is_empty() {
        Ok(())
    } else {
        Err(CodecError::Invalid {
            field: "tail length",
            value: r.len() as u64,
        })
    }
}
