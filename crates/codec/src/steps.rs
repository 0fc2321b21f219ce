//! What a column of integers is told by before it is encoded: distances from the first value, their divisor and
//! period, deltas, and about where these lie and how far apart.

use crate::simd::multiversion;
use crate::varint::zigzag;

/// Values looked at to find a centre.
const CENTRE_SAMPLE: usize = 127;

/// Neighbours, and others, looked at to guess a common divisor.
const DIVISOR_SAMPLE: usize = 8;

/// Residuals whose spread is that of all of them.
const SPREAD_ALL: usize = 256;

/// Of so many residuals in a row ...
const SPREAD_STEP: usize = 67;

/// ... so many tell the spread.
const SPREAD_RUN: usize = 48;

/// Most deltas of a period: clocks of whole milliseconds at 64, 100 or 44.1 thousand a second have fewer.
pub(crate) const PERIOD_MAX: usize = 64;

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Greatest common divisor of the distances of values from the first; 1 where a distance passes 64 bits.
fn divisor<'a>(first: i64, values: impl Iterator<Item = &'a i64>) -> u64 {
    let mut g = 0;
    for value in values {
        let Some(distance) = value.checked_sub(first) else {
            return 1;
        };
        g = gcd(g, distance.unsigned_abs());
        if g == 1 {
            return 1;
        }
    }
    // A divisor past the signed range would only ever divide one distance.
    if g > i64::MAX as u64 { 1 } else { g.max(1) }
}

/// Fills `steps` with the distances of all values but the first from it, by their greatest common divisor, which
/// it returns.
pub(crate) fn distances(values: &[i64], steps: &mut Vec<i64>) -> i64 {
    let first = values[0];
    steps.clear();
    steps.resize(values.len() - 1, 0);
    // A few values mostly know the divisor of all: some neighbours, some far apart.
    let step = values.len().div_ceil(DIVISOR_SAMPLE);
    let near = values[1..].iter().take(DIVISOR_SAMPLE);
    let some = near.chain(values[1..].iter().step_by(step));
    let mut g = divisor(first, some) as i64;
    if !divide(values, g, steps) {
        g = divisor(first, values[1..].iter()) as i64;
        divide(values, g, steps);
    }
    g
}

/// The number whose product with an odd one is 1 in 64 bits.
fn inverse(odd: u64) -> u64 {
    // Newton: three bits are right at first, then twice as many each time.
    (0..5).fold(odd, |x, _| {
        x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x)))
    })
}

multiversion! {
    /// Fills `steps` with the distances of values from the first by `g`, at least 1; says whether it divides all.
    fn divide(values: &[i64], g: i64, steps: &mut [i64]) -> bool {
        let (Some((first, values)), Ok(g)) = (values.split_first(), u64::try_from(g)) else {
            return false;
        };
        let pairs = steps.iter_mut().zip(values);
        if g == 1 {
            pairs.for_each(|(step, value)| *step = value.wrapping_sub(*first));
            return true;
        }
        // An exact quotient is a product with the inverse of the odd factor; another product is one that times the
        // divisor passes 64 bits.
        let twos = g.trailing_zeros();
        let odd = g >> twos;
        let (inverse, most) = (inverse(odd) as i64, (i64::MAX as u64 / odd) as i64);
        let below = (1 << twos) - 1;
        let (mut passing, mut inexact) = (0, 0);
        for (step, value) in pairs {
            let distance = value.wrapping_sub(*first);
            let quotient = (distance >> twos).wrapping_mul(inverse);
            passing |= (value ^ first) & (distance ^ value);
            inexact |= (distance & below) | i64::from(quotient > most) | i64::from(quotient < -most);
            *step = quotient;
        }
        passing >= 0 && inexact == 0
    }
}

/// The number of deltas after which they repeat, to the end and four times at least.
pub(crate) fn period(values: &[i64]) -> Option<usize> {
    let deltas = |from: usize| values[from..].windows(2).map(|w| w[1].wrapping_sub(w[0]));
    // A delta unlike those before it is none of their repetitions.
    let first = deltas(0).next()?;
    let shortest = deltas(0).position(|delta| delta != first)? + 1;
    let longest = PERIOD_MAX.min((values.len() - 1) / 4);
    (shortest..=longest).find(|p| deltas(*p).zip(deltas(0)).all(|(late, early)| late == early))
}

/// Each value less the one before it, the first less zero.
pub(crate) fn differences(values: &[i64], out: &mut Vec<i64>) {
    out.clear();
    out.resize(values.len(), 0);
    subtract_neighbours(values, out);
}

multiversion! {
    fn subtract_neighbours(values: &[i64], out: &mut [i64]) {
        if let (Some(first), Some(value)) = (out.first_mut(), values.first()) {
            *first = *value;
        }
        for (out, pair) in out.iter_mut().skip(1).zip(values.windows(2)) {
            *out = pair[1].wrapping_sub(pair[0]);
        }
    }
}

/// About the median: of every so many-th value.
pub(crate) fn centre(values: &[i64], scratch: &mut Vec<i64>) -> i64 {
    scratch.clear();
    scratch.extend(values.iter().step_by(values.len().div_ceil(CENTRE_SAMPLE)));
    let middle = scratch.len() / 2;
    *scratch.select_nth_unstable(middle).1
}

multiversion! {
    /// Bits of the distances from a centre, about: of some of them.
    pub(crate) fn spread(values: &[i64], centre: i64) -> u64 {
        let bits = |v: &i64| u64::from(64 - zigzag(v.wrapping_sub(centre)).leading_zeros());
        if values.len() <= SPREAD_ALL {
            return values.iter().map(bits).sum();
        }
        values.chunks(SPREAD_STEP).flat_map(|some| some.iter().take(SPREAD_RUN)).map(bits).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[i64]) -> i64 {
        let mut steps = vec![1; 3];
        let g = distances(values, &mut steps);
        assert!(g >= 1);
        let back: Vec<i64> = steps
            .iter()
            .map(|s| values[0].wrapping_add(s.wrapping_mul(g)))
            .collect();
        assert_eq!(back, values[1..]);
        let expected = divisor(values[0], values[1..].iter());
        assert_eq!(g as u64, expected);
        g
    }

    #[test]
    fn divisors_are_those_of_all_distances() {
        assert_eq!(check(&[5, 5 + 12, 5 - 18]), 6);
        assert_eq!(check(&[i64::MIN, i64::MAX]), 1);
        assert_eq!(check(&[0, i64::MIN]), 1);
        assert_eq!(check(&[-1, i64::MAX - 1, -1]), i64::MAX);
        assert_eq!(check(&[0, 1 << 62, -1 << 62]), 1 << 62);
        // One that no sample has.
        let mut values: Vec<i64> = (0..1000).map(|i| i * 1_000_000).collect();
        values[777] += 1000;
        assert_eq!(check(&values), 1000);
        values[777] += 1;
        assert_eq!(check(&values), 1);
        // Multiples of the twos of the divisor, but not of the rest: wrong quotients of either sign.
        for k in 1..40 {
            values[777] = 777_000_000 + 64 * k;
            assert_eq!(check(&values), 64 * gcd(k as u64, 15_625) as i64);
        }
    }

    #[test]
    fn periods_repeat_to_the_end() {
        let mut values: Vec<i64> = (0..100).map(|i| i / 3 * 10 + i % 3).collect();
        assert_eq!(period(&values), Some(3));
        values[99] += 1;
        assert_eq!(period(&values), None);
        assert_eq!(period(&[0, 1, 2, 3, 4, 5]), None);
    }

    proptest! {
        #[test]
        fn distances_come_back(
            first in any::<i64>(),
            g in 1_i64..i64::MAX,
            shift in 0_u32..64,
            factors in prop::collection::vec(any::<i64>(), 1..100),
        ) {
            let mut values = vec![first];
            values.extend(factors.iter().map(|f| first.wrapping_add((f >> shift).wrapping_mul(g))));
            check(&values);
        }
    }
}
