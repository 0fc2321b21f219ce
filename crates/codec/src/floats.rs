//! Float columns as integers: mantissas where the values are decimals, mantissas and distances where they are
//! nearly, ordered bit patterns where they are not.
//!
//! Decimals (after Afroozeh and others, ALP 2023, but with a true division): value = mantissa / 10^k for one k in
//! the block, checked bit for bit; values that misfit are exceptions. Averages and sums of decimals are a few
//! units in the last place off: their distance from mantissa / 10^k, counted in floats, is a column of its own.

use crate::block::{DECIMALS, DISTANCES, Hint};
use crate::error::CodecError;
use crate::simd::multiversion;
use crate::varint::{get_u64, put_u64, zigzag};

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

/// How a column of floats becomes integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Mantissas of a scale, few exceptions.
    Decimals(u8),
    /// Mantissas of a scale, and how far each value is from its decimal.
    Distances(u8),
    /// Bit patterns in the order of the values.
    Ordered,
}

/// Whole number nearest to `value * power`, if it is small enough.
#[inline(always)]
fn nearest(value: f64, power: f64) -> Option<i64> {
    let scaled = value * power;
    // NaN is not.
    (scaled.abs() < MANTISSA_MAX)
        .then(|| (scaled + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64)
}

/// The mantissa of a value for one k, if value = mantissa / 10^k exactly, the sign of zero included.
#[inline(always)]
fn mantissa(bits: u64, power: f64) -> Option<i64> {
    // Compared after the cast, which loses the sign of zero as the decoder does.
    nearest(f64::from_bits(bits), power).filter(|whole| decimal(*whole, power) == bits)
}

/// The bits of mantissa / power.
#[inline(always)]
fn decimal(mantissa: i64, power: f64) -> u64 {
    let float = f64::from_bits(MAGIC.to_bits().wrapping_add(mantissa as u64)) - MAGIC;
    (float / power).to_bits()
}

/// Bit patterns to integers in the order of the values, and back.
#[inline(always)]
pub(crate) fn ordered(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// How many floats `bits` is above mantissa / power.
#[inline(always)]
fn distance(bits: u64, mantissa: i64, power: f64) -> i64 {
    ordered(bits as i64).wrapping_sub(ordered(decimal(mantissa, power) as i64))
}

/// From one float's nearest mantissa to another's exact one.
#[inline(always)]
pub(crate) fn mantissa_delta(from: u64, to: u64, k: u8) -> Option<i64> {
    let power = POWERS[usize::from(k & 15)];
    let near = nearest(f64::from_bits(from), power)?;
    Some(mantissa(to, power)? - near)
}

/// The float whose mantissa is so far from another's nearest one.
#[inline(always)]
pub(crate) fn add_mantissa(from: u64, delta: i64, k: u8) -> Option<u64> {
    let power = POWERS[usize::from(k & 15)];
    let near = nearest(f64::from_bits(from), power)?;
    Some(decimal(near.wrapping_add(delta), power))
}

fn bit_len(value: i64) -> u32 {
    64 - zigzag(value).leading_zeros()
}

/// Chooses by samples; remembers the choice.
pub(crate) fn choose(bits: &[u64], hint: &mut Hint) -> Fit {
    let (k, misfits) = choose_scale(bits, hint.0 & 15);
    // A misfit costs nine bytes and a bit: past a twentieth something else is smaller.
    if misfits * 20 <= bits.len() {
        hint.0 = k | DECIMALS << 4;
        return Fit::Decimals(k);
    }
    let step = bits.len().div_ceil(SAMPLE);
    let pairs = || bits.windows(2).step_by(step);
    // Bits of a delta of bit patterns, or of a pattern's distance from the first.
    let pattern = |b: u64| ordered(b as i64);
    let by_delta: u32 = pairs()
        .map(|w| bit_len(pattern(w[1]).wrapping_sub(pattern(w[0]))))
        .sum();
    let from_first: u32 = pairs()
        .map(|w| bit_len(pattern(w[1]).wrapping_sub(pattern(bits[0]))))
        .sum();
    let mut best = (by_delta.min(from_first), Fit::Ordered);
    // A scale that costs more than what is known already is left early.
    let mut try_scale = |k: u8| {
        let power = POWERS[usize::from(k)];
        // Two columns have two widths: each is a bit or two above what its values need.
        let mut cost = 3 * bits.len().div_ceil(step) as u32;
        for pair in pairs() {
            let whole = |b: u64| nearest(f64::from_bits(b), power);
            let (Some(before), Some(this)) = (whole(pair[0]), whole(pair[1])) else {
                return;
            };
            cost += bit_len(this - before) + bit_len(distance(pair[1], this, power));
            if cost >= best.0 {
                return;
            }
        }
        best = (cost, Fit::Distances(k));
    };
    let remembered = hint.0 & 15;
    if hint.0 >> 4 == DISTANCES {
        try_scale(remembered);
    }
    (0..POWERS.len() as u8).for_each(&mut try_scale);
    // A misfit of any value that was not looked at would spoil the distances.
    if let Fit::Distances(k) = best.1 {
        let power = POWERS[usize::from(k)];
        if bits
            .iter()
            .any(|b| nearest(f64::from_bits(*b), power).is_none())
        {
            best.1 = Fit::Ordered;
        }
    }
    hint.0 = match best.1 {
        Fit::Distances(k) => k | DISTANCES << 4,
        _ => 0,
    };
    best.1
}

/// The scale with fewest misfits in a sample, and how many of them.
fn choose_scale(bits: &[u64], remembered: u8) -> (u8, usize) {
    let step = bits.len().div_ceil(SAMPLE);
    let misfits = |k: u8| {
        let power = POWERS[usize::from(k)];
        bits.iter()
            .step_by(step)
            .filter(|b| mantissa(**b, power).is_none())
            .count()
    };
    let mut best = (remembered, misfits(remembered));
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
    exceptions: Vec<(usize, u64)>,
    pub(crate) distances: Vec<i64>,
}

/// Takes values apart into mantissas and exceptions.
pub(crate) fn mantissas(bits: &[u64], k: u8, out: &mut Vec<i64>, scratch: &mut FloatScratch) {
    let power = POWERS[usize::from(k)];
    let exceptions = &mut scratch.exceptions;
    out.clear();
    exceptions.clear();
    let mut last = None;
    for (i, b) in bits.iter().enumerate() {
        match mantissa(*b, power) {
            Some(m) => last = Some(m),
            // The mantissa before costs nothing in a column of deltas.
            None => exceptions.push((i, *b)),
        }
        out.push(last.unwrap_or(0));
    }
    // Leading exceptions take the first mantissa there is.
    let leading = exceptions
        .iter()
        .enumerate()
        .take_while(|(i, (place, _))| i == place)
        .count();
    let fill = out.get(leading).copied().unwrap_or(0);
    out[..leading].fill(fill);
}

impl FloatScratch {
    /// Whether the last values taken apart had exceptions.
    pub(crate) fn has_exceptions(&self) -> bool {
        !self.exceptions.is_empty()
    }
}

/// Appends for each exception its gap and raw bits.
pub(crate) fn put_exceptions(scratch: &FloatScratch, out: &mut Vec<u8>) {
    let mut next = 0;
    for (place, raw) in &scratch.exceptions {
        put_u64(out, (place - next) as u64);
        out.extend_from_slice(&raw.to_le_bytes());
        next = place + 1;
    }
}

/// Puts exceptions in their places.
pub(crate) fn get_exceptions(mut bytes: &[u8], column: &mut [u64]) -> Result<(), CodecError> {
    let mut place = 0_usize;
    while !bytes.is_empty() {
        let gap = get_u64(&mut bytes)?;
        place = place.saturating_add(usize::try_from(gap).unwrap_or(usize::MAX));
        let (raw, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or(CodecError::Truncated)?;
        bytes = rest;
        let slot = column.get_mut(place).ok_or(CodecError::Invalid {
            field: "place of an exception",
            value: place as u64,
        })?;
        *slot = u64::from_le_bytes(*raw);
        place += 1;
    }
    Ok(())
}

/// Takes values apart into mantissas and distances; each has a mantissa near it.
pub(crate) fn distances(bits: &[u64], k: u8, out: &mut Vec<i64>, scratch: &mut FloatScratch) {
    let power = POWERS[usize::from(k)];
    out.clear();
    out.extend(
        bits.iter()
            .map(|b| nearest(f64::from_bits(*b), power).unwrap_or_default()),
    );
    scratch.distances.clear();
    scratch
        .distances
        .extend(bits.iter().zip(&*out).map(|(b, m)| distance(*b, *m, power)));
}

/// Turns mantissas into the bits of their decimals.
pub(crate) fn from_mantissas(column: &mut [u64], k: u8) -> Result<(), CodecError> {
    let power = *POWERS.get(usize::from(k)).ok_or(CodecError::Invalid {
        field: "decimal scale",
        value: u64::from(k),
    })?;
    divide(column, power);
    Ok(())
}

multiversion! {
    /// Turns mantissas into the bits of mantissa / power.
    fn divide(column: &mut [u64], power: f64) {
        if !WIDE {
            column.iter_mut().for_each(|bits| *bits = decimal(*bits as i64, power));
            return;
        }
        // Correctly rounded quotients from the correctly rounded reciprocal (Markstein 1990): the first correction
        // brings the product within one unit in the last place, the second rounds. Powers are far from the ends of
        // the exponents, so that nothing under- or overflows.
        let reciprocal = 1.0 / power;
        for bits in column {
            let mantissa = f64::from_bits(MAGIC.to_bits().wrapping_add(*bits)) - MAGIC;
            let q = mantissa * reciprocal;
            let q = (-power).mul_add(q, mantissa).mul_add(reciprocal, q);
            let q = (-power).mul_add(q, mantissa).mul_add(reciprocal, q);
            *bits = q.to_bits();
        }
    }
}

/// Moves each float by so many.
pub(crate) fn move_by(column: &mut [u64], distances: &[i64]) {
    for (bits, distance) in column.iter_mut().zip(distances) {
        *bits = ordered(ordered(*bits as i64).wrapping_add(*distance)) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corrected product is the quotient: ends of the range, neighbours of powers of two and ten, and mantissas
    /// from all over.
    #[test]
    fn quotients_are_correctly_rounded() {
        let most = MANTISSA_MAX as i64 - 1;
        let mut mantissas = vec![0, 1, -1, most, -most];
        for bit in 0..51 {
            mantissas.extend([(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        }
        for power in POWERS {
            mantissas.extend((-2..3).map(|near| (power as i64 + near) % most));
        }
        let mut state = 1_u64;
        for shift in 13..60 {
            for _ in 0..500 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                mantissas.push((state as i64) >> shift);
            }
        }
        for power in POWERS {
            let mut column: Vec<u64> = mantissas.iter().map(|m| *m as u64).collect();
            divide(&mut column, power);
            for (mantissa, bits) in mantissas.iter().zip(column) {
                assert_eq!(bits, decimal(*mantissa, power), "{mantissa} / {power}");
            }
        }
    }
}
