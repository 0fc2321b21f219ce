//! The aggregate of a whole column in a few plain passes, without a division per point.
//!
//! Extremes are found as values first, and their times afterwards. Sums run in four lanes, so that additions do not wait for one another.

use crate::{Aggregate, Sample, Sum, ValueKind};

const LANES: usize = 4;

/// The aggregate of a numeric column whose times ascend; `times` and `bits` have the same length.
pub(crate) fn fold(kind: ValueKind, times: &[i64], bits: &[u64]) -> Aggregate {
    let mut out = Aggregate::empty(kind);
    let len = times.len().min(bits.len());
    let (times, bits) = (&times[..len], &bits[..len]);
    let (Some(first_time), Some(last_time)) = (times.first(), times.last()) else {
        return out;
    };
    out.count = len as u64;
    out.first = Sample {
        time: *first_time,
        bits: bits[0],
    };
    out.last = Sample {
        time: *last_time,
        bits: bits[len - 1],
    };
    let extremes = match kind {
        ValueKind::F64 => fold_floats(bits, &mut out),
        ValueKind::I64 => fold_integers(
            bits,
            &mut out,
            i64_key,
            |b| b as i64 as f64,
            |b| i128::from(b as i64),
        ),
        _ => fold_integers(bits, &mut out, u64_key, |b| b as f64, i128::from),
    };
    if let Some((min, max)) = extremes {
        let sample = |wanted: u64| {
            let index = bits.iter().position(|b| *b == wanted).unwrap_or_default();
            Sample {
                time: times[index],
                bits: wanted,
            }
        };
        out.min = sample(min);
        out.max = sample(max);
    }
    out
}

fn i64_key(bits: u64) -> i64 {
    bits as i64
}

fn u64_key(bits: u64) -> i64 {
    (bits ^ 1 << 63) as i64
}

/// The points behind the last whole chunk, filled up with NaN, which adds nothing.
fn padded(rest: &[u64]) -> [u64; LANES] {
    std::array::from_fn(|i| rest.get(i).copied().unwrap_or(f64::NAN.to_bits()))
}

/// Smallest and largest number, and how many are NaN. No comparison holds for NaN.
fn extremes(bits: &[u64]) -> (f64, f64, u64) {
    let (mut min, mut max) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    let mut nans = [0.0; LANES];
    let (chunks, rest) = bits.as_chunks::<LANES>();
    let last = padded(rest);
    for chunk in chunks.iter().chain([&last]) {
        for (lane, b) in chunk.iter().enumerate() {
            let v = f64::from_bits(*b);
            min[lane] = if v < min[lane] { v } else { min[lane] };
            max[lane] = if v > max[lane] { v } else { max[lane] };
            nans[lane] += if v.is_nan() { 1.0 } else { 0.0 };
        }
    }
    let padding = (LANES - rest.len()) as u64;
    (
        min.into_iter().fold(f64::INFINITY, f64::min),
        max.into_iter().fold(f64::NEG_INFINITY, f64::max),
        nans.iter().sum::<f64>() as u64 - padding,
    )
}

/// Sum of the numbers and what rounding lost of it. A loop of its own: with the extremes it would need more
/// registers than there are.
fn sum_floats<const NANS: bool>(bits: &[u64]) -> Sum {
    let (mut high, mut low) = ([0.0; LANES], [0.0; LANES]);
    let (chunks, rest) = bits.as_chunks::<LANES>();
    let last = std::array::from_fn(|i| rest.get(i).copied().unwrap_or_default());
    for chunk in chunks.iter().chain([&last]) {
        for (lane, b) in chunk.iter().enumerate() {
            let v = f64::from_bits(*b);
            let v = if NANS && v.is_nan() { 0.0 } else { v };
            // Two-sum (Knuth): what rounding lost, without asking which is larger.
            let sum = high[lane] + v;
            let added = sum - high[lane];
            low[lane] += (high[lane] - (sum - added)) + (v - added);
            high[lane] = sum;
        }
    }
    let (mut sum, mut lost) = (0.0, 0.0);
    for (h, l) in high.into_iter().zip(low) {
        crate::aggregate::add_compensated(&mut sum, &mut lost, h);
        lost += l;
    }
    Sum::Float {
        high: sum,
        low: lost,
    }
}

/// Fills sums; returns the raw bits of the extremes, if there are numbers.
fn fold_floats(bits: &[u64], out: &mut Aggregate) -> Option<(u64, u64)> {
    let (min, max, nans) = extremes(bits);
    out.nan_count = nans;
    // Most columns hold no NaN: asking every value whether it is one would cost a third of the time.
    out.sum = if nans == 0 {
        sum_floats::<false>(bits)
    } else {
        sum_floats::<true>(bits)
    };
    let step = |from: u64, to: u64| {
        let (from, to) = (f64::from_bits(from), f64::from_bits(to));
        if to < from { to } else { to - from }
    };
    out.increase = steps(bits, step);
    if out.increase.is_nan() {
        // NaN, or a step from one infinity to the same.
        out.increase = steps(bits, |from, to| {
            let taken = step(from, to);
            if f64::from_bits(from).is_nan() || taken.is_nan() {
                0.0
            } else {
                taken
            }
        });
    }
    let numbers = out.number_count();
    if numbers == 0 {
        return None;
    }
    let mean = out.sum.to_f64() / numbers as f64;
    out.m2 = if nans == 0 {
        squares(bits, |b| f64::from_bits(b) - mean)
    } else {
        squares(bits, |b| {
            let v = f64::from_bits(b);
            if v.is_nan() { 0.0 } else { v - mean }
        })
    };
    Some((extreme_bits(bits, min, -0.0), extreme_bits(bits, max, 0.0)))
}

/// The raw bits of an extreme: comparisons do not tell the zeros apart, so the one that goes first is asked
/// for.
fn extreme_bits(bits: &[u64], extreme: f64, zero: f64) -> u64 {
    if extreme != 0.0 {
        return extreme.to_bits();
    }
    let wanted = zero.to_bits();
    if bits.contains(&wanted) {
        wanted
    } else {
        (-zero).to_bits()
    }
}

/// Fills sums; returns the raw bits of the extremes.
fn fold_integers(
    bits: &[u64],
    out: &mut Aggregate,
    key: impl Fn(u64) -> i64,
    float: impl Fn(u64) -> f64 + Copy,
    wide: impl Fn(u64) -> i128,
) -> Option<(u64, u64)> {
    let (mut min, mut max) = (*bits.first()?, *bits.first()?);
    let mut sum = 0_i128;
    for b in bits {
        min = if key(*b) < key(min) { *b } else { min };
        max = if key(*b) > key(max) { *b } else { max };
        sum += wide(*b);
    }
    out.sum = Sum::Integer(sum);
    out.increase = steps(bits, |from, to| {
        if key(to) < key(from) {
            float(to)
        } else {
            // A rise fits 64 bits without a sign, whatever the sign of its ends.
            to.wrapping_sub(from) as f64
        }
    });
    let mean = sum as f64 / bits.len() as f64;
    out.m2 = squares(bits, |b| float(b) - mean);
    Some((min, max))
}

/// Sum of `step` over neighbours.
fn steps(bits: &[u64], step: impl Fn(u64, u64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let ends = bits.get(1..).unwrap_or_default();
    let (to_chunks, rest) = ends.as_chunks::<LANES>();
    let (from_chunks, _) = bits.as_chunks::<LANES>();
    for (from, to) in from_chunks.iter().zip(to_chunks) {
        for ((lane, from), to) in lanes.iter_mut().zip(from).zip(to) {
            *lane += step(*from, *to);
        }
    }
    let whole = ends.len() - rest.len();
    let rest: f64 = (whole..ends.len()).map(|i| step(bits[i], ends[i])).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Sum of the squares of what `from_mean` says.
fn squares(bits: &[u64], from_mean: impl Fn(u64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = bits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, b) in lanes.iter_mut().zip(chunk) {
            let d = from_mean(*b);
            *lane += d * d;
        }
    }
    let rest = rest.iter().map(|b| from_mean(*b)).map(|d| d * d);
    lanes.iter().sum::<f64>() + rest.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(kind: ValueKind, times: &[i64], bits: &[u64]) -> Aggregate {
        let mut out = Aggregate::empty(kind);
        for (t, b) in times.iter().zip(bits) {
            out.push(*t, *b);
        }
        out
    }

    #[test]
    fn folding_agrees_with_pushing_at_every_length() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            state >> 20
        };
        for kind in [
            ValueKind::F64,
            ValueKind::I64,
            ValueKind::U64,
            ValueKind::Bool,
        ] {
            for len in 0..70 {
                let times: Vec<i64> = (0..len).map(|i| i * 10 - 300).collect();
                let bits: Vec<u64> = (0..len)
                    .map(|_| match (kind, random() % 9) {
                        (ValueKind::F64, 0) => f64::NAN.to_bits(),
                        (ValueKind::F64, 1) => (-0.0_f64).to_bits(),
                        (ValueKind::F64, 2) => 0.0_f64.to_bits(),
                        (ValueKind::F64, n) => {
                            (((random() % 2000) as f64 - 1000.0) * n as f64).to_bits()
                        }
                        (ValueKind::I64, 0) => i64::MIN as u64,
                        (ValueKind::I64, n) => ((random() % 5) as i64 - n as i64) as u64,
                        (ValueKind::U64, 0) => u64::MAX,
                        (ValueKind::U64, _) => random() % 5,
                        _ => random() % 2,
                    })
                    .collect();
                let (got, want) = (fold(kind, &times, &bits), pushed(kind, &times, &bits));
                assert_eq!((got.count, got.nan_count), (want.count, want.nan_count));
                assert_eq!((got.first, got.last), (want.first, want.last));
                assert_eq!((got.min, got.max), (want.min, want.max), "{kind} {len}");
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (a.abs() + 1.0);
                assert!(
                    close(got.m2, want.m2),
                    "{kind} {len}: {} {}",
                    got.m2,
                    want.m2
                );
                // Steps of opposite signs cancel: rounding follows the largest of them.
                let scale = bits.iter().map(|b| {
                    if kind == ValueKind::I64 {
                        *b as i64 as f64
                    } else {
                        0.0
                    }
                });
                let scale = scale.fold(0.0, |a: f64, b| a.max(b.abs()));
                assert!(
                    close(got.increase + scale, want.increase + scale),
                    "{kind} {len}"
                );
                match (got.sum, want.sum) {
                    (Sum::Integer(a), Sum::Integer(b)) => assert_eq!(a, b),
                    (a, b) => assert!(close(a.to_f64(), b.to_f64())),
                }
            }
        }
    }

    #[test]
    fn only_nan_has_no_extremes() {
        let bits = [f64::NAN.to_bits(); 5];
        let got = fold(ValueKind::F64, &[1, 2, 3, 4, 5], &bits);
        assert_eq!((got.count, got.nan_count), (5, 5));
        assert_eq!((got.min, got.max), (Sample::default(), Sample::default()));
        assert_eq!((got.sum.to_f64(), got.m2, got.increase), (0.0, 0.0, 0.0));
    }

    #[test]
    fn infinities_sum_to_infinity() {
        let bits = [1.0, f64::INFINITY, 2.0].map(f64::to_bits);
        let got = fold(ValueKind::F64, &[1, 2, 3], &bits);
        assert_eq!(got.sum.to_f64(), f64::INFINITY);
        assert_eq!(got.max.time, 2);
    }
}
