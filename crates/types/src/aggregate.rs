//! What is known of a set of points without reading them, and how two such facts join.
//!
//! Laws: `merge` is associative up to floating-point rounding, exact for count, min, max, first, last and
//! integer sums. The order of `merge` is the order of time: the receiver holds the older points.
//!
//! Conventions: -0.0 is less than 0.0; ties of min and max keep the earliest time; NaN is counted apart and
//! kept out of min, max, sum, mean and increase, but `first` and `last` may be NaN.

use std::cmp::Ordering;

use crate::{ValueKind, ValueRef};

/// A point of a numeric series: time in nanoseconds, value as raw bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Nanoseconds.
    pub time: i64,
    /// Raw bits; 0 for strings.
    pub bits: u64,
}

/// A sum: exact for integers, compensated (Neumaier 1974) for floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sum {
    /// Value and the rounding error not yet part of it.
    Float {
        /// The rounded sum.
        high: f64,
        /// What rounding lost.
        low: f64,
    },
    /// Exact: 2^64 values of 64 bits fit.
    Integer(i128),
}

impl Sum {
    fn zero(kind: ValueKind) -> Self {
        if kind == ValueKind::F64 {
            Self::Float {
                high: 0.0,
                low: 0.0,
            }
        } else {
            Self::Integer(0)
        }
    }

    /// The sum as the nearest float.
    pub fn to_f64(self) -> f64 {
        match self {
            // An infinite sum makes the compensation NaN; the sum itself is the answer then.
            Self::Float { high, low } => {
                if high.is_finite() {
                    high + low
                } else {
                    high
                }
            }
            Self::Integer(v) => v as f64,
        }
    }
}

pub(crate) fn add_compensated(high: &mut f64, low: &mut f64, v: f64) {
    let t = *high + v;
    *low += if high.abs() >= v.abs() {
        (*high - t) + v
    } else {
        (v - t) + *high
    };
    *high = t;
}

/// Count, ends, extremes and moments of the points of one series over one span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    /// Kind of the values. Strings have counts and times only.
    pub kind: ValueKind,
    /// Points, NaN included. Every other field is meaningless while it is 0.
    pub count: u64,
    /// Points that are NaN.
    pub nan_count: u64,
    /// Oldest point.
    pub first: Sample,
    /// Newest point.
    pub last: Sample,
    /// Smallest value, earliest time; meaningless while every point is NaN.
    pub min: Sample,
    /// Largest value, earliest time; meaningless while every point is NaN.
    pub max: Sample,
    /// Sum of the values that are not NaN.
    pub sum: Sum,
    /// Sum of squares about the mean.
    pub m2: f64,
    /// Sum of the steps of a counter: a fall is a reset, after which the new value counts whole. A step to or
    /// from NaN counts nothing.
    pub increase: f64,
}

impl Aggregate {
    /// The aggregate of no points.
    pub fn empty(kind: ValueKind) -> Self {
        Self {
            kind,
            count: 0,
            nan_count: 0,
            first: Sample::default(),
            last: Sample::default(),
            min: Sample::default(),
            max: Sample::default(),
            sum: Sum::zero(kind),
            m2: 0.0,
            increase: 0.0,
        }
    }

    /// The aggregate of one column, whose times ascend. Cost: two plain passes. Sums of floats, `m2` and
    /// `increase` may differ from those of [`Self::push`] by rounding.
    pub fn of(kind: ValueKind, times: &[i64], bits: &[u64]) -> Self {
        let mut out = Self::empty(kind);
        if kind == ValueKind::Str {
            if let (Some(first), Some(last)) = (times.first(), times.last()) {
                out.count = times.len() as u64;
                out.first.time = *first;
                out.last.time = *last;
            }
            return out;
        }
        crate::fold::fold(kind, times, bits)
    }

    /// Values that are not NaN.
    pub fn number_count(&self) -> u64 {
        self.count - self.nan_count
    }

    /// Adds a point newer than all before. For strings `bits` is ignored.
    pub fn push(&mut self, time: i64, bits: u64) {
        let sample = Sample {
            time,
            bits: if self.kind == ValueKind::Str { 0 } else { bits },
        };
        let previous = self.last;
        let had_points = self.count > 0;
        if !had_points {
            self.first = sample;
        }
        self.last = sample;
        self.count += 1;
        if self.kind == ValueKind::Str {
            return;
        }
        let value = as_f64(self.kind, bits);
        if value.is_nan() {
            self.nan_count += 1;
            return;
        }
        let numbers = self.number_count();
        if numbers == 1 {
            self.min = sample;
            self.max = sample;
        } else {
            if compare(self.kind, bits, self.min.bits) == Ordering::Less {
                self.min = sample;
            }
            if compare(self.kind, bits, self.max.bits) == Ordering::Greater {
                self.max = sample;
            }
        }
        // Welford 1962 through the old and the new mean.
        let old_mean = if numbers == 1 {
            0.0
        } else {
            self.sum.to_f64() / (numbers - 1) as f64
        };
        match &mut self.sum {
            Sum::Float { high, low } => add_compensated(high, low, value),
            Sum::Integer(sum) => *sum += as_i128(self.kind, bits),
        }
        if numbers > 1 {
            self.m2 += (value - old_mean) * (value - self.sum.to_f64() / numbers as f64);
        }
        if had_points {
            self.increase += step(self.kind, previous.bits, bits);
        }
    }

    /// Joins the points of `newer`, all of which come after these.
    ///
    /// # Panics
    /// If the kinds differ.
    pub fn merge(&mut self, newer: &Self) {
        assert_eq!(
            self.kind, newer.kind,
            "aggregates of different kinds joined"
        );
        if newer.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *newer;
            return;
        }
        if self.kind != ValueKind::Str {
            self.increase += newer.increase + step(self.kind, self.last.bits, newer.first.bits);
            let (a, b) = (self.number_count(), newer.number_count());
            if a == 0 {
                (self.min, self.max, self.m2, self.sum) =
                    (newer.min, newer.max, newer.m2, newer.sum);
            } else if b > 0 {
                if compare(self.kind, newer.min.bits, self.min.bits) == Ordering::Less {
                    self.min = newer.min;
                }
                if compare(self.kind, newer.max.bits, self.max.bits) == Ordering::Greater {
                    self.max = newer.max;
                }
                // Chan, Golub, LeVeque 1979.
                let delta = newer.sum.to_f64() / b as f64 - self.sum.to_f64() / a as f64;
                self.m2 += newer.m2 + delta * delta * (a as f64 * b as f64 / (a + b) as f64);
                match (&mut self.sum, newer.sum) {
                    (Sum::Float { high, low }, Sum::Float { high: h, low: l }) => {
                        add_compensated(high, low, h);
                        *low += l;
                    }
                    (Sum::Integer(x), Sum::Integer(y)) => *x += y,
                    _ => unreachable!("equal kinds have equal sums"),
                }
            }
        }
        self.count += newer.count;
        self.nan_count += newer.nan_count;
        self.last = newer.last;
    }

    /// The same points with their values as floats; strings stay as they are. Integers beyond 2^53 are rounded.
    #[must_use]
    pub fn as_floats(&self) -> Self {
        if !self.kind.is_numeric() || self.kind == ValueKind::F64 {
            return *self;
        }
        let float = |sample: Sample| Sample {
            bits: as_f64(self.kind, sample.bits).to_bits(),
            ..sample
        };
        Self {
            kind: ValueKind::F64,
            first: float(self.first),
            last: float(self.last),
            min: float(self.min),
            max: float(self.max),
            sum: Sum::Float {
                high: self.sum.to_f64(),
                low: 0.0,
            },
            ..*self
        }
    }

    /// Mean of the numbers; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        (self.number_count() > 0 && self.kind.is_numeric())
            .then(|| self.sum.to_f64() / self.number_count() as f64)
    }

    /// Population variance of the numbers, NaN where some are infinite; `None` without any.
    pub fn variance(&self) -> Option<f64> {
        (self.number_count() > 0 && self.kind.is_numeric())
            .then(|| (self.m2 / self.number_count() as f64).clamp(0.0, f64::INFINITY))
    }

    /// The smallest value; `None` without numbers.
    pub fn min_value(&self) -> Option<ValueRef<'static>> {
        (self.number_count() > 0 && self.kind.is_numeric())
            .then(|| ValueRef::from_bits(self.kind, self.min.bits))
    }

    /// The largest value; `None` without numbers.
    pub fn max_value(&self) -> Option<ValueRef<'static>> {
        (self.number_count() > 0 && self.kind.is_numeric())
            .then(|| ValueRef::from_bits(self.kind, self.max.bits))
    }
}

fn as_f64(kind: ValueKind, bits: u64) -> f64 {
    match kind {
        ValueKind::F64 => f64::from_bits(bits),
        ValueKind::I64 => bits as i64 as f64,
        _ => bits as f64,
    }
}

fn as_i128(kind: ValueKind, bits: u64) -> i128 {
    if kind == ValueKind::I64 {
        i128::from(bits as i64)
    } else {
        i128::from(bits)
    }
}

fn compare(kind: ValueKind, a: u64, b: u64) -> Ordering {
    match kind {
        ValueKind::F64 => f64::from_bits(a).total_cmp(&f64::from_bits(b)),
        ValueKind::I64 => (a as i64).cmp(&(b as i64)),
        _ => a.cmp(&b),
    }
}

fn step(kind: ValueKind, from: u64, to: u64) -> f64 {
    if kind == ValueKind::F64 {
        let (from, to) = (f64::from_bits(from), f64::from_bits(to));
        if from.is_nan() || to.is_nan() {
            0.0
        } else if to < from {
            to
        } else {
            // Equal infinities make NaN here; no step was taken.
            let rise = to - from;
            if rise.is_nan() { 0.0 } else { rise }
        }
    } else {
        let (from, to) = (as_i128(kind, from), as_i128(kind, to));
        (if to < from { to } else { to - from }) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64], t0: i64) -> Aggregate {
        let times: Vec<i64> = (0..values.len() as i64).map(|i| t0 + i).collect();
        let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
        Aggregate::of(ValueKind::F64, &times, &bits)
    }

    #[test]
    fn integers_become_floats() {
        let mut whole = Aggregate::empty(ValueKind::I64);
        let mut floats = Aggregate::empty(ValueKind::F64);
        for (time, value) in [(1, -3_i64), (5, 7), (9, 0)] {
            whole.push(time, value as u64);
            floats.push(time, (value as f64).to_bits());
        }
        assert_eq!(whole.as_floats(), floats);
        assert_eq!(floats.as_floats(), floats);
    }

    #[test]
    fn merging_equals_folding_at_every_cut() {
        let values = [3.0, f64::NAN, -0.0, 0.0, 7.5, 1.0, f64::NAN, 2.0, 7.5];
        let whole = of(&values, 0);
        for cut in 0..=values.len() {
            let mut left = of(&values[..cut], 0);
            left.merge(&of(&values[cut..], cut as i64));
            assert_eq!(left.count, whole.count);
            assert_eq!(left.nan_count, whole.nan_count);
            assert_eq!((left.first, left.last), (whole.first, whole.last));
            assert_eq!((left.min, left.max), (whole.min, whole.max), "cut at {cut}");
            assert_eq!(left.increase, whole.increase, "cut at {cut}");
            assert!((left.m2 - whole.m2).abs() < 1e-12);
            assert_eq!(left.sum.to_f64(), whole.sum.to_f64());
        }
        assert_eq!(whole.min.bits, (-0.0_f64).to_bits());
        assert_eq!(whole.max.time, 4, "ties keep the earliest");
    }

    #[test]
    fn cancelling_sums_keep_what_a_plain_sum_loses() {
        assert_eq!(of(&[1e100, 1.0, -1e100], 0).sum.to_f64(), 1.0);
    }

    #[test]
    fn integer_sums_are_exact_past_64_bits() {
        let bits = [u64::MAX; 3];
        let a = Aggregate::of(ValueKind::U64, &[1, 2, 3], &bits);
        assert_eq!(a.sum, Sum::Integer(i128::from(u64::MAX) * 3));
        let b = Aggregate::of(ValueKind::I64, &[1, 2], &[i64::MIN as u64, i64::MIN as u64]);
        assert_eq!(b.sum, Sum::Integer(i128::from(i64::MIN) * 2));
    }

    #[test]
    fn counters_count_resets() {
        let a = of(&[10.0, 15.0, 3.0, 4.0], 0);
        assert_eq!(a.increase, 5.0 + 3.0 + 1.0);
    }
}
