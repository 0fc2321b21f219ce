//! Numbers of every kind, compared without rounding.

use std::cmp::Ordering;

use crate::ValueRef;

/// A number: an integer of any kind, or a float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Of values only from the least `i64` to the greatest `u64`.
    Integer(i128),
    /// A float of 64 bits.
    Float(f64),
}

impl Number {
    /// What a value counts as; booleans are 0 and 1, texts are no numbers.
    pub fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::F64(v) => Some(Self::Float(v)),
            ValueRef::I64(v) => Some(Self::Integer(v.into())),
            ValueRef::U64(v) => Some(Self::Integer(v.into())),
            ValueRef::Bool(v) => Some(Self::Integer(v.into())),
            ValueRef::Str(_) => None,
        }
    }

    /// The order of the numbers themselves: 2^53 and 2^53 + 1 are apart, -0.0 and 0 are not. `None` with a NaN.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Float(a), Self::Integer(b)) => compare_mixed(a, b),
            (Self::Integer(a), Self::Float(b)) => compare_mixed(b, a).map(Ordering::reverse),
        }
    }
}

/// A float against an integer. Where the whole parts are alike the rest of the float decides.
fn compare_mixed(a: f64, b: i128) -> Option<Ordering> {
    if a.is_infinite() {
        return a.partial_cmp(&0.0);
    }
    let whole = a.trunc();
    let rest = a.partial_cmp(&whole)?;
    // A whole part past the integers becomes the outermost of them, which no value is.
    Some((whole as i128).cmp(&b).then(rest))
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering::{Equal, Greater, Less};

    use super::*;

    #[test]
    fn nothing_is_rounded() {
        const LARGE: i128 = (1 << 53) + 1;
        let (int, float) = (Number::Integer, Number::Float);
        for (a, b, order) in [
            (int(LARGE), int(LARGE - 1), Some(Greater)),
            (int(LARGE), float((LARGE - 1) as f64), Some(Greater)),
            (float(3.5), int(3), Some(Greater)),
            (float(-3.5), int(-3), Some(Less)),
            (float(-0.0), int(0), Some(Equal)),
            (float(-0.0), float(0.0), Some(Equal)),
            (int(u64::MAX.into()), float(f64::INFINITY), Some(Less)),
            (
                int(i64::MIN.into()),
                float(f64::NEG_INFINITY),
                Some(Greater),
            ),
            (int(u64::MAX.into()), float(1e300), Some(Less)),
            (int(0), float(f64::NAN), None),
            (float(f64::NAN), float(f64::NAN), None),
        ] {
            assert_eq!(a.compare(b), order, "{a:?} {b:?}");
            assert_eq!(b.compare(a), order.map(Ordering::reverse), "{b:?} {a:?}");
        }
        assert_eq!(Number::of(ValueRef::Bool(true)), Some(int(1)));
        assert_eq!(Number::of(ValueRef::Str("1")), None);
    }
}
