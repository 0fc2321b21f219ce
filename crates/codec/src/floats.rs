//! Float columns: decimals where they are decimals, split bit patterns where they are not.
//!
//! Encoding 2, decimal (after Afroozeh and others, ALP 2023, but with a true division): value = mantissa / 10^k
//! for one k in the block, checked bit for bit; values that misfit are exceptions.
//! Encoding 4, split: the upper bits, which change slowly, as an integer column; the lower ones packed.

use crate::error::CodecError;
use crate::integers::{self, IntegerScratch};
use crate::packing::{pack, unpack};
use crate::varint::{get_u64, put_u64};

const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

/// Largest mantissa: twice it added to a float leaves no bits for a fraction, which rounds to even and turns
/// integers into floats and back by additions alone, on any machine.
const MANTISSA_MAX: f64 = 2_251_799_813_685_248.0;

/// 2^52 + 2^51.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Values looked at to choose k.
const SAMPLE: usize = 64;

/// The mantissa of a value for one k, if value = mantissa / 10^k exactly, the sign of zero included.
#[inline]
fn mantissa(bits: u64, power: f64) -> Option<i64> {
    let scaled = f64::from_bits(bits) * power;
    if scaled.is_nan() || scaled.abs() >= MANTISSA_MAX {
        return None;
    }
    let whole = (scaled + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64;
    // Compared after the cast, which loses the sign of zero as the decoder does.
    (decimal(whole, power) == bits).then_some(whole)
}

/// The bits of mantissa / power.
#[inline(always)]
fn decimal(mantissa: i64, power: f64) -> u64 {
    let float = f64::from_bits(MAGIC.to_bits().wrapping_add(mantissa as u64)) - MAGIC;
    (float / power).to_bits()
}

/// The scale with fewest misfits in a sample, and how many of them.
pub(crate) fn choose_scale(bits: &[u64], remembered: u8) -> (u8, usize) {
    let step = bits.len().div_ceil(SAMPLE);
    let misfits = |k: u8| {
        let power = POWERS[usize::from(k)];
        bits.iter()
            .step_by(step)
            .filter(|b| mantissa(**b, power).is_none())
            .count()
    };
    let mut best = (remembered.min(15), misfits(remembered.min(15)));
    // The remembered scale is kept only if a smaller one would not do as well.
    for k in 0..POWERS.len() as u8 {
        let count = misfits(k);
        if count < best.1 || (count == best.1 && k < best.0) {
            best = (k, count);
        }
        if best.1 == 0 && best.0 <= k {
            break;
        }
    }
    (best.0, best.1 * step)
}

#[derive(Debug, Default)]
pub(crate) struct FloatScratch {
    mantissas: Vec<i64>,
    exceptions: Vec<(usize, u64)>,
}

/// Appends k, the exceptions (gap, raw bits) and the mantissas.
pub(crate) fn encode_decimal(
    bits: &[u64],
    k: u8,
    scratch: &mut FloatScratch,
    integers: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    let power = POWERS[usize::from(k)];
    let FloatScratch {
        mantissas,
        exceptions,
    } = scratch;
    mantissas.clear();
    exceptions.clear();
    let mut last = 0;
    for (i, b) in bits.iter().enumerate() {
        match mantissa(*b, power) {
            Some(m) => last = m,
            // The mantissa before costs nothing in a column of deltas.
            None => exceptions.push((i, *b)),
        }
        mantissas.push(last);
    }
    if let Some((first, _)) = exceptions.first()
        && *first == 0
    {
        // Leading exceptions take the first mantissa there is.
        let fill = bits.iter().find_map(|b| mantissa(*b, power)).unwrap_or(0);
        for (m, b) in mantissas.iter_mut().zip(bits) {
            if mantissa(*b, power).is_some() {
                break;
            }
            *m = fill;
        }
    }
    out.push(k);
    put_u64(out, exceptions.len() as u64);
    let mut next = 0;
    for (place, raw) in exceptions.iter() {
        put_u64(out, (place - next) as u64);
        out.extend_from_slice(&raw.to_le_bytes());
        next = place + 1;
    }
    integers::encode(mantissas, integers, out);
}

pub(crate) fn decode_decimal(
    bytes: &mut &[u8],
    n: usize,
    out: &mut Vec<u64>,
) -> Result<(), CodecError> {
    let (k, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    *bytes = rest;
    let power = *POWERS.get(usize::from(*k)).ok_or(CodecError::Invalid {
        field: "decimal scale",
        value: u64::from(*k),
    })?;
    let count = get_u64(bytes)?;
    if count > n as u64 {
        return Err(CodecError::Invalid {
            field: "exceptions",
            value: count,
        });
    }
    let mut exceptions = Vec::with_capacity(count as usize);
    let mut place = 0_usize;
    for _ in 0..count {
        let gap = get_u64(bytes)?;
        place = place.saturating_add(usize::try_from(gap).unwrap_or(usize::MAX));
        let (raw, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or(CodecError::Truncated)?;
        *bytes = rest;
        if place >= n {
            return Err(CodecError::Invalid {
                field: "place of an exception",
                value: place as u64,
            });
        }
        exceptions.push((place, u64::from_le_bytes(*raw)));
        place += 1;
    }
    let begin = out.len();
    integers::decode(bytes, n, out)?;
    for bits in out.get_mut(begin..).unwrap_or_default() {
        *bits = decimal(*bits as i64, power);
    }
    for (place, raw) in exceptions {
        if let Some(slot) = out.get_mut(begin + place) {
            *slot = raw;
        }
    }
    Ok(())
}

/// Bits of the lower part of a split.
const LOWER: [u32; 3] = [52, 48, 44];

/// Appends the split whose upper parts pack best.
pub(crate) fn encode_split(
    bits: &[u64],
    scratch: &mut FloatScratch,
    integers: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    let mut best: Option<(usize, u32)> = None;
    let start = out.len();
    let mut upper = |lower: u32, integers: &mut IntegerScratch, out: &mut Vec<u8>| {
        scratch.mantissas.clear();
        scratch
            .mantissas
            .extend(bits.iter().map(|b| (b >> lower) as i64));
        integers::encode(&scratch.mantissas, integers, out);
    };
    for lower in LOWER {
        upper(lower, integers, out);
        let total = (out.len() - start) + bits.len() * lower as usize / 8;
        out.truncate(start);
        if best.is_none_or(|(t, _)| total < t) {
            best = Some((total, lower));
        }
    }
    let lower = best.map_or(LOWER[0], |(_, lower)| lower);
    out.push(lower as u8);
    upper(lower, integers, out);
    pack(out, bits, lower);
}

pub(crate) fn decode_split(
    bytes: &mut &[u8],
    n: usize,
    integers: &mut Vec<i64>,
    out: &mut Vec<u64>,
) -> Result<(), CodecError> {
    let (lower, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    *bytes = rest;
    let lower = u32::from(*lower);
    if !LOWER.contains(&lower) {
        return Err(CodecError::Invalid {
            field: "lower bits",
            value: u64::from(lower),
        });
    }
    integers.clear();
    integers::decode(bytes, n, integers)?;
    let begin = out.len();
    out.resize(begin + n, 0);
    unpack(bytes, lower, &mut out[begin..])?;
    for (slot, upper) in out[begin..].iter_mut().zip(integers.iter()) {
        *slot |= (*upper as u64) << lower;
    }
    Ok(())
}
