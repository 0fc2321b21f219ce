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
/// Words of a number: the longest, with its control byte and a change of scale before it, has 19 bytes.
pub const DRAFT_WORDS: usize = 3;

/// How far a tail has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TailEnd {
    /// Points in it.
    pub points: usize,
    /// Bytes in it.
    pub bytes: usize,
    /// Time of the newest point; of no meaning without points.
    pub last_time: i64,
}

/// Writes the stream of one tail. Whoever keeps the bytes keeps [`TailEnd`] with them; this is 20 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed(4))]
pub struct TailEncoder {
    last_delta: i64,
    /// Raw bits; of strings where the last text begins in the stream, its length above 32 bits.
    last_bits: u64,
    kind: ValueKind,
    /// Power of ten of the mantissas.
    scale: u8,
    /// Power of 1000 ns.
    unit: u8,
    /// Points of another scale or unit; stays at the largest number.
    misfits: u8,
}

// There is one an open series.
const _: () = assert!(size_of::<TailEncoder>() == 20);

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

/// The bytes of one number with its time, gathered in registers: bytes stored one by one and loaded as words would
/// wait for one another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Draft {
    words: [u64; DRAFT_WORDS],
    len: usize,
}

impl Draft {
    /// The bytes as little-endian words, of which the first [`Self::len`] bytes count and the others are zero.
    #[inline(always)]
    pub fn words(&self) -> [u64; DRAFT_WORDS] {
        self.words
    }

    /// How many bytes count, at least 1.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a point is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the bytes that count.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; DRAFT_WORDS * 8];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&bytes[..self.len]);
    }

    /// Sets bits of one of the first bytes, which is there.
    #[inline(always)]
    fn set(&mut self, at: usize, bits: u8) {
        self.words[0] |= u64::from(bits) << (8 * at);
    }

    /// Appends a value that has no more than so many bytes. Fields begin before byte 16.
    #[inline(always)]
    fn field(&mut self, value: u64, bytes: u8) {
        let shift = 8 * self.len as u32;
        let [low, middle, high] = &mut self.words;
        if shift < 64 {
            *low |= value << shift;
            // Two shifts, for one of 64 is none.
            *middle |= value >> 1 >> (63 - shift);
        } else {
            *middle |= value << (shift - 64);
            *high |= value >> 1 >> (127 - shift);
        }
        self.len += usize::from(bytes);
    }
}

impl TailEncoder {
    /// The encoder of an empty tail.
    pub fn new(kind: ValueKind) -> Self {
        Self {
            last_delta: 0,
            last_bits: 0,
            kind,
            scale: 0,
            unit: 0,
            misfits: 0,
        }
    }

    /// The kind of the values.
    #[inline]
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// Raw bits of the newest number; 0 before the first.
    pub fn last_bits(&self) -> u64 {
        self.last_bits
    }

    /// Where the newest text stands in the stream: its first byte and its length. Of no meaning before the first.
    pub fn last_text(&self) -> (usize, usize) {
        (
            self.last_bits as u32 as usize,
            (self.last_bits >> 32) as usize,
        )
    }

    /// The bytes of a text; none follow the time if it `repeats` the newest one.
    ///
    /// # Panics
    /// If the time is not after the last one, or the tail is of numbers.
    pub fn encode_text(
        &mut self,
        end: TailEnd,
        time: i64,
        text: &str,
        repeats: bool,
        out: &mut Vec<u8>,
    ) {
        assert!(
            self.kind == ValueKind::Str,
            "a text pushed into a tail of numbers"
        );
        let begin = out.len();
        let mut draft = Draft::default();
        let control = self.time_field(end, time, &mut draft);
        draft.set(control, u8::from(!repeats) << 4);
        draft.write(out);
        if !repeats {
            put_bytes(out, text.as_bytes());
            let at = end.bytes + out.len() - begin - text.len();
            self.last_bits = at as u64 | (text.len() as u64) << 32;
        }
    }

    /// The bytes of a number. Cost: 10 to 20 ns.
    ///
    /// # Panics
    /// If the time is not after the last one.
    #[inline]
    pub fn encode_bits(&mut self, end: TailEnd, time: i64, bits: u64) -> Draft {
        let mut draft = Draft::default();
        let is_float = self.kind == ValueKind::F64;
        let xor = (bits ^ self.last_bits).swap_bytes();
        let xor_bytes = cut(xor);
        let delta_at = |scale| {
            let wanted = is_float && xor_bytes > 1;
            wanted.then(|| floats::mantissa_delta(self.last_bits, bits, scale))?
        };
        let mut delta = delta_at(self.scale);
        if end.points > 0 && self.misfits < u8::MAX {
            // Looks for a unit and a scale at the second point, and ever more rarely where they misfit.
            let misfit =
                is_float && xor_bytes > 3 && delta.is_none() || self.misfits_time(end, time);
            let misfits = self.misfits + u8::from(misfit);
            if end.points == 1 || misfit && misfits.is_power_of_two() {
                let found = self.search(end, time, bits);
                delta = delta_at(found.0);
                self.set(found, &mut draft);
            }
            self.misfits = misfits;
        }
        let control = self.time_field(end, time, &mut draft);
        if is_float {
            let (mut field, mut bytes, mut high) = (xor, xor_bytes, xor_bytes);
            if let Some(delta) = delta {
                let zigzag = zigzag(delta);
                let shorter = cut(zigzag);
                if shorter < bytes && shorter <= BY_MANTISSA_MAX {
                    (field, bytes, high) = (zigzag, shorter, BY_MANTISSA + shorter);
                }
            }
            draft.set(control, high << 4);
            draft.field(field, bytes);
        } else {
            let field = zigzag((bits as i64).wrapping_sub(self.last_bits as i64));
            let bytes = cut(field);
            draft.set(control, bytes << 4);
            draft.field(field, bytes);
        }
        self.last_bits = bits;
        draft
    }

    /// Whether a time costs three bytes or more that another unit might save.
    #[inline(always)]
    fn misfits_time(&self, end: TailEnd, time: i64) -> bool {
        let second = (time.wrapping_sub(end.last_time)).wrapping_sub(self.last_delta);
        cut(zigzag(second)) > 2 && by_unit(second, self.unit).is_none()
    }

    /// The scale and the unit that fit this point.
    #[cold]
    #[inline(never)]
    fn search(&self, end: TailEnd, time: i64, bits: u64) -> (u8, u8) {
        let (mut scale, mut unit) = (self.scale, self.unit);
        if end.points == 1 || self.misfits_time(end, time) {
            let second = time
                .wrapping_sub(end.last_time)
                .wrapping_sub(self.last_delta);
            let divides = |unit: &u8| by_unit(second, *unit).is_some();
            unit = (1..=UNIT_MAX).rev().find(divides).unwrap_or(0);
        }
        let fits = |k: &u8| floats::mantissa_delta(self.last_bits, bits, *k).is_some();
        if self.kind == ValueKind::F64 && (end.points == 1 || !fits(&scale)) {
            scale = (0..16).find(fits).unwrap_or(scale);
        }
        (scale, unit)
    }

    /// Goes on with this scale and unit, and says so where they are others.
    fn set(&mut self, (scale, unit): (u8, u8), draft: &mut Draft) {
        if (scale, unit) != (self.scale, self.unit) {
            (self.scale, self.unit) = (scale, unit);
            draft.field(u64::from(SET | scale << 4), 1);
            draft.field(unit.into(), 1);
        }
    }

    /// Writes control byte and time; returns where the control byte is.
    #[inline(always)]
    fn time_field(&mut self, end: TailEnd, time: i64, draft: &mut Draft) -> usize {
        assert!(
            end.points == 0 || time > end.last_time,
            "times of a tail strictly increase"
        );
        let control = draft.len;
        draft.len += 1;
        let delta = if end.points == 0 {
            time
        } else {
            time.wrapping_sub(end.last_time)
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
            draft.set(control, high + bytes);
            draft.field(field, bytes);
        }
        // The first delta is the time itself, which says nothing of the next.
        self.last_delta = if end.points == 0 { 0 } else { delta };
        control
    }
}

/// A tail that keeps its bytes itself.
#[derive(Debug, Clone)]
pub struct Tail {
    encoder: TailEncoder,
    end: TailEnd,
    bytes: Vec<u8>,
}

impl Tail {
    /// An empty tail.
    pub fn new(kind: ValueKind) -> Self {
        Self {
            encoder: TailEncoder::new(kind),
            end: TailEnd::default(),
            bytes: Vec::new(),
        }
    }

    /// The kind of its values.
    pub fn kind(&self) -> ValueKind {
        self.encoder.kind
    }

    /// Points in it.
    pub fn points(&self) -> usize {
        self.end.points
    }

    /// The stream.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Time of the newest point.
    pub fn last_time(&self) -> Option<i64> {
        (self.end.points > 0).then_some(self.end.last_time)
    }

    /// What goes on writing where it stopped, how far it came, and the stream.
    pub fn into_parts(self) -> (TailEncoder, TailEnd, Vec<u8>) {
        (self.encoder, self.end, self.bytes)
    }

    /// Appends a point.
    ///
    /// # Panics
    /// If the kind is another or the time is not after the last one.
    pub fn push(&mut self, time: i64, value: ValueRef<'_>) {
        assert_eq!(
            value.kind(),
            self.kind(),
            "a value of another kind pushed into a tail"
        );
        match value {
            ValueRef::Str(text) => {
                let (begin, len) = self.encoder.last_text();
                let last = self.bytes.get(begin..begin + len);
                let repeats = self.end.points > 0 && last == Some(text.as_bytes());
                self.encoder
                    .encode_text(self.end, time, text, repeats, &mut self.bytes);
            }
            number => {
                let bits = number.bits().unwrap_or_default();
                let draft = self.encoder.encode_bits(self.end, time, bits);
                draft.write(&mut self.bytes);
            }
        }
        self.end = TailEnd {
            points: self.end.points + 1,
            bytes: self.bytes.len(),
            last_time: time,
        };
    }

    /// Appends the points to a column of the same kind.
    ///
    /// # Panics
    /// If the kinds differ.
    pub fn decode_into(&self, out: &mut Column) {
        decode_tail(self.kind(), &self.bytes, self.points(), out)
            .expect("a tail reads what it wrote");
    }

    /// The tail that wrote these bytes; appending goes on where it stopped.
    ///
    /// # Errors
    /// If the bytes are not a whole tail of so many points of increasing times.
    pub fn from_bytes(kind: ValueKind, bytes: &[u8], points: usize) -> Result<Self, CodecError> {
        let mut column = Column::new(kind);
        decode_tail(kind, bytes, points, &mut column)?;
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
}

/// Time of the first point of a tail's stream; `None` if it is empty or no tail.
pub fn tail_first_time(mut bytes: &[u8]) -> Option<i64> {
    let r = &mut bytes;
    let (control, rest) = r.split_first()?;
    *r = rest;
    let low = control & 0xf;
    // The first point comes before any unit.
    (low <= 8).then(|| get_cut(r, low).ok().map(unzigzag))?
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

/// Appends the `points` points of a tail's stream to a column of the same kind.
///
/// # Errors
/// If the bytes are not a whole tail of so many points. Times are not checked to increase.
///
/// # Panics
/// If the column is of another kind.
pub fn decode_tail(
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
