//! Aggregates of several series joined into one.
//!
//! [`Aggregate::merge`] joins spans of one series, in time. Here the spans are of different series: they may
//! lie over each other in time and differ in kind, and steps between their points mean nothing.

use std::cmp::Ordering;

use alluvium_types::{Aggregate, Sample, Sum, Value, ValueKind, ValueRef};

use crate::function::Function;

/// A point and the series it came from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    member: u32,
    kind: ValueKind,
    sample: Sample,
}

impl Origin {
    fn value(self) -> ValueRef<'static> {
        ValueRef::from_bits(self.kind, self.sample.bits)
    }
}

/// What is known of the points of several series in one window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Combined {
    count: u64,
    numbers: u64,
    /// The points at the ends of time; `None` before the first series.
    ends: Option<(Origin, Origin)>,
    /// Smallest and largest value; `None` without numbers.
    extremes: Option<(Origin, Origin)>,
    integers: i128,
    floats: Option<(f64, f64)>,
    /// The one kind of the numbers, or `None` if they are mixed.
    kind: Option<ValueKind>,
    mean: f64,
    m2: f64,
    increase: f64,
    rate: Option<f64>,
}

/// A text that only the series can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextAt {
    pub member: u32,
    pub time: i64,
}

impl Combined {
    pub(crate) fn new() -> Self {
        Self {
            count: 0,
            numbers: 0,
            ends: None,
            extremes: None,
            integers: 0,
            floats: None,
            kind: None,
            mean: 0.0,
            m2: 0.0,
            increase: 0.0,
            rate: None,
        }
    }

    /// Time of the oldest point.
    pub(crate) fn first_time(&self) -> Option<i64> {
        self.ends.map(|(first, _)| first.sample.time)
    }

    /// Adds one series. Members come in ascending order, which settles ties of time.
    pub(crate) fn add(&mut self, member: u32, a: &Aggregate) {
        if a.count == 0 {
            return;
        }
        self.count += a.count;
        let origin = |sample| Origin {
            member,
            kind: a.kind,
            sample,
        };
        match &mut self.ends {
            None => self.ends = Some((origin(a.first), origin(a.last))),
            Some((first, last)) => {
                if a.first.time < first.sample.time {
                    *first = origin(a.first);
                }
                if a.last.time >= last.sample.time {
                    *last = origin(a.last);
                }
            }
        }
        let n = a.number_count();
        if a.kind == ValueKind::Str || n == 0 {
            return;
        }
        match &mut self.extremes {
            None => self.extremes = Some((origin(a.min), origin(a.max))),
            Some((min, max)) => {
                let (new_min, new_max) = (origin(a.min), origin(a.max));
                if earlier_of(compare(new_min.value(), min.value()), new_min, *min) {
                    *min = new_min;
                }
                if earlier_of(compare(max.value(), new_max.value()), new_max, *max) {
                    *max = new_max;
                }
            }
        }
        match a.sum {
            Sum::Integer(v) => self.integers += v,
            Sum::Float { high, low } => match &mut self.floats {
                None => self.floats = Some((high, low)),
                Some((h, l)) => {
                    add_compensated(h, l, high);
                    *l += low;
                }
            },
        }
        let mean = a.sum.to_f64() / n as f64;
        if self.numbers == 0 {
            (self.mean, self.m2, self.kind) = (mean, a.m2, Some(a.kind));
        } else {
            // Chan, Golub, LeVeque 1979.
            let (x, y) = (self.numbers as f64, n as f64);
            let delta = mean - self.mean;
            self.m2 += a.m2 + delta * delta * (x * y / (x + y));
            self.mean += delta * (y / (x + y));
            if self.kind != Some(a.kind) {
                self.kind = None;
            }
        }
        self.numbers += n;
        self.increase += a.increase;
        let span = i128::from(a.last.time) - i128::from(a.first.time);
        if span > 0 {
            *self.rate.get_or_insert(0.0) += a.increase / (span as f64 / 1e9);
        }
    }

    /// The value of one function; a text comes from `text`.
    pub(crate) fn value<E>(
        &self,
        function: Function,
        text: &mut dyn FnMut(TextAt) -> Result<Option<Box<str>>, E>,
    ) -> Result<Option<Value>, E> {
        let mut end = |origin: Origin| {
            if origin.kind == ValueKind::Str {
                let at = TextAt {
                    member: origin.member,
                    time: origin.sample.time,
                };
                Ok(text(at)?.map(Value::Str))
            } else {
                Ok(Some(origin.value().to_owned()))
            }
        };
        let has_numbers = self.numbers > 0;
        let min = self.extremes.map(|(min, _)| min);
        let max = self.extremes.map(|(_, max)| max);
        Ok(match function {
            Function::Count => Some(Value::U64(self.count)),
            Function::First => self
                .ends
                .map(|(first, _)| end(first))
                .transpose()?
                .flatten(),
            Function::Last => self.ends.map(|(_, last)| end(last)).transpose()?.flatten(),
            Function::FirstTimestamp => self.ends.map(|(first, _)| Value::I64(first.sample.time)),
            Function::LastTimestamp => self.ends.map(|(_, last)| Value::I64(last.sample.time)),
            Function::Min => min.map(|o| o.value().to_owned()),
            Function::Max => max.map(|o| o.value().to_owned()),
            Function::MinTimestamp => min.map(|o| Value::I64(o.sample.time)),
            Function::MaxTimestamp => max.map(|o| Value::I64(o.sample.time)),
            Function::Spread => self.extremes.map(|(min, max)| self.spread(min, max)),
            Function::Sum => has_numbers.then(|| self.sum()),
            Function::Mean => has_numbers.then(|| Value::F64(self.sum_f64() / self.numbers as f64)),
            Function::Variance => has_numbers.then(|| Value::F64(self.variance())),
            Function::Stddev => has_numbers.then(|| Value::F64(self.variance().sqrt())),
            Function::Increase => has_numbers.then_some(Value::F64(self.increase)),
            Function::Rate => self.rate.map(Value::F64),
        })
    }

    fn variance(&self) -> f64 {
        (self.m2 / self.numbers as f64).clamp(0.0, f64::INFINITY)
    }

    fn sum_f64(&self) -> f64 {
        match self.floats {
            None => self.integers as f64,
            Some((mut high, mut low)) => {
                if self.integers != 0 {
                    add_compensated(&mut high, &mut low, self.integers as f64);
                }
                // An infinite sum makes the compensation NaN; the sum itself is the answer then.
                if high.is_finite() { high + low } else { high }
            }
        }
    }

    fn sum(&self) -> Value {
        if self.floats.is_some() {
            Value::F64(self.sum_f64())
        } else {
            integer(self.kind, self.integers)
        }
    }

    fn spread(&self, min: Origin, max: Origin) -> Value {
        match (as_i128(min.value()), as_i128(max.value())) {
            (Some(a), Some(b)) => integer(self.kind, b - a),
            _ => Value::F64(as_f64(max.value()) - as_f64(min.value())),
        }
    }
}

/// Whether the new origin replaces the old: it wins the comparison, or ties at an earlier time.
fn earlier_of(new_against_old: Ordering, new: Origin, old: Origin) -> bool {
    new_against_old == Ordering::Less
        || new_against_old == Ordering::Equal && new.sample.time < old.sample.time
}

/// The integer in the kind of its series, else in any 64 bits that hold it, else the nearest float.
fn integer(kind: Option<ValueKind>, v: i128) -> Value {
    if kind == Some(ValueKind::U64)
        && let Ok(v) = u64::try_from(v)
    {
        return Value::U64(v);
    }
    i64::try_from(v)
        .map(Value::I64)
        .or_else(|_| u64::try_from(v).map(Value::U64))
        .unwrap_or(Value::F64(v as f64))
}

fn add_compensated(high: &mut f64, low: &mut f64, v: f64) {
    let t = *high + v;
    *low += if high.abs() >= v.abs() {
        (*high - t) + v
    } else {
        (v - t) + *high
    };
    *high = t;
}

fn as_i128(v: ValueRef<'_>) -> Option<i128> {
    match v {
        ValueRef::I64(v) => Some(v.into()),
        ValueRef::U64(v) => Some(v.into()),
        ValueRef::Bool(v) => Some(v.into()),
        ValueRef::F64(_) | ValueRef::Str(_) => None,
    }
}

fn as_f64(v: ValueRef<'_>) -> f64 {
    match v {
        ValueRef::F64(v) => v,
        other => as_i128(other).unwrap_or(0) as f64,
    }
}

/// Exact across kinds. Never NaN: those are kept out of the extremes.
fn compare(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b, as_i128(a), as_i128(b)) {
        (_, _, Some(a), Some(b)) => a.cmp(&b),
        (ValueRef::F64(a), ValueRef::F64(b), ..) => a.total_cmp(&b),
        (ValueRef::F64(a), _, _, Some(b)) => compare_mixed(a, b),
        (_, ValueRef::F64(b), Some(a), _) => compare_mixed(b, a).reverse(),
        _ => Ordering::Equal,
    }
}

/// A float against an integer of at most 65 bits. Floats past 2^65 saturate far outside such integers.
fn compare_mixed(a: f64, b: i128) -> Ordering {
    let whole = a.trunc();
    // The total order puts -0.0 before 0.0, so it must be before the integer 0 too.
    let is_negative_zero = a == 0.0 && a.is_sign_negative();
    (whole as i128)
        .cmp(&b)
        .then_with(|| a.partial_cmp(&whole).unwrap_or(Ordering::Equal))
        .then(if is_negative_zero {
            Ordering::Less
        } else {
            Ordering::Equal
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(points: &[(i64, f64)]) -> Aggregate {
        let mut a = Aggregate::empty(ValueKind::F64);
        for (t, v) in points {
            a.push(*t, v.to_bits());
        }
        a
    }

    fn integers(points: &[(i64, i64)]) -> Aggregate {
        let mut a = Aggregate::empty(ValueKind::I64);
        for (t, v) in points {
            a.push(*t, *v as u64);
        }
        a
    }

    fn of(members: &[Aggregate]) -> Combined {
        let mut c = Combined::new();
        for (i, a) in members.iter().enumerate() {
            c.add(i as u32, a);
        }
        c
    }

    fn value(c: &Combined, f: Function) -> Option<Value> {
        c.value::<()>(f, &mut |_| Ok(None)).unwrap()
    }

    #[test]
    fn series_that_overlap_in_time_join() {
        let c = of(&[
            floats(&[(10, 5.0), (30, 1.0)]),
            floats(&[(5, 1.0), (20, f64::NAN), (40, 9.0)]),
        ]);
        check(&c, Function::Count, Value::U64(5));
        check(&c, Function::First, Value::F64(1.0));
        check(&c, Function::Last, Value::F64(9.0));
        check(&c, Function::MinTimestamp, Value::I64(5));
        check(&c, Function::Mean, Value::F64(4.0));
        check(&c, Function::Variance, Value::F64(11.0));
        check(&c, Function::Spread, Value::F64(8.0));
        check(&c, Function::Increase, Value::F64(1.0));
    }

    #[track_caller]
    fn check(c: &Combined, f: Function, expected: Value) {
        assert_eq!(value(c, f), Some(expected), "{f}");
    }

    #[test]
    fn kinds_mix_without_losing_exactness() {
        let big = (1_i64 << 53) + 1;
        let c = of(&[integers(&[(1, big)]), floats(&[(2, (1_i64 << 53) as f64)])]);
        check(&c, Function::Max, Value::I64(big));
        check(&c, Function::Min, Value::F64((1_i64 << 53) as f64));
        let sums = of(&[integers(&[(1, i64::MAX)]), integers(&[(1, 1)])]);
        check(&sums, Function::Sum, Value::U64(1 << 63));
        assert_eq!(
            compare_mixed(f64::INFINITY, i128::from(u64::MAX)),
            Ordering::Greater
        );
        assert_eq!(compare_mixed(-0.5, 0), Ordering::Less);
        assert_eq!(compare_mixed(0.5, 0), Ordering::Greater);
    }

    #[test]
    fn nan_alone_leaves_numbers_missing() {
        let c = of(&[floats(&[(1, f64::NAN)])]);
        for f in [
            Function::Min,
            Function::Mean,
            Function::Sum,
            Function::Stddev,
            Function::Increase,
        ] {
            assert_eq!(value(&c, f), None, "{f}");
        }
        check(&c, Function::Count, Value::U64(1));
    }

    #[test]
    fn one_point_has_no_rate() {
        assert_eq!(value(&of(&[floats(&[(1, 2.0)])]), Function::Rate), None);
        let c = of(&[
            floats(&[(0, 2.0), (2_000_000_000, 8.0)]),
            floats(&[(0, 1.0), (1_000_000_000, 2.0)]),
        ]);
        check(&c, Function::Rate, Value::F64(4.0));
    }
}
