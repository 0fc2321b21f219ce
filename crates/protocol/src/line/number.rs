//! Numbers of line protocol: exact integers and correctly rounded floats.
//!
//! Most floats on the wire are short decimals. One whose digits make an integer of at most 2^53 and whose
//! fraction has at most 22 digits is one exact division away from its value (Clinger 1990, *How to read
//! floating point numbers accurately*); everything else goes to the standard library (Lemire 2021).

use super::{FieldValue, LineErrorKind};

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Digits that always fit into 64 bits.
const SAFE_DIGITS: usize = 19;

/// Reads digits from `at`; the value is meaningless past [`SAFE_DIGITS`] of them.
#[inline(always)]
fn digits(text: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(byte) = text.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

/// Eight digits at once, or `None` if one of the eight bytes is no digit.
#[inline(always)]
fn eight_digits(text: &[u8], at: usize) -> Option<u64> {
    let chunk = u64::from_le_bytes(*text.get(at..)?.first_chunk::<8>()?);
    let low = chunk.wrapping_sub(0x3030_3030_3030_3030);
    if (chunk.wrapping_add(0x4646_4646_4646_4646) | low) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    // Pairs, then fours, then all eight: Lemire, "Quickly parsing eight digits", 2018.
    let pairs = low.wrapping_mul(10).wrapping_add(low >> 8);
    let fours = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let rest = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some(fours.wrapping_add(rest) >> 32)
}

/// Reads an integer timestamp at `at`, returning it and the offset behind it. `None` in place of the value
/// means it does not fit; the outer error that there is no number.
#[inline]
pub(super) fn timestamp(text: &[u8], at: usize) -> Result<(Option<i64>, usize), LineErrorKind> {
    let negative = text.get(at) == Some(&b'-');
    let begin = at + usize::from(negative);
    let (mut value, mut end) = (0, begin);
    while let Some(eight) = eight_digits(text, end).filter(|_| end - begin <= 8) {
        value = value * 100_000_000 + eight;
        end += 8;
    }
    let (value, end) = digits(text, end, value);
    if end == begin {
        return Err(LineErrorKind::BadTimestamp);
    }
    Ok((integer(text, begin, end, negative, value), end))
}

/// The integer in `text[begin..end]`, whose value so far is `value` if it has few digits.
#[inline(always)]
fn integer(text: &[u8], begin: usize, end: usize, negative: bool, value: u64) -> Option<i64> {
    let value = if end - begin <= SAFE_DIGITS {
        value
    } else {
        unsigned(text, begin, end)?
    };
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

#[cold]
fn unsigned(text: &[u8], begin: usize, end: usize) -> Option<u64> {
    std::str::from_utf8(text.get(begin..end)?)
        .ok()?
        .parse()
        .ok()
}

/// Reads the number at `at`: `[-]digits[.digits][e[+-]digits]`, or `[-]digits i`, or `digits u`. Digits may be
/// missing on one side of the point. Returns the value and the offset behind it; what follows is the caller's
/// to judge.
///
/// # Errors
/// If it is no number or out of range.
#[inline]
pub(super) fn number(text: &[u8], at: usize) -> Result<(FieldValue<'_>, usize), LineErrorKind> {
    let negative = text.get(at) == Some(&b'-');
    let begin = at + usize::from(negative);
    let (mut mantissa, mut end) = digits(text, begin, 0);
    let mut digit_count = end - begin;
    let mut fraction_digits = 0;
    match text.get(end) {
        Some(b'i') if digit_count > 0 => {
            return integer(text, begin, end, negative, mantissa)
                .map(|v| (FieldValue::I64(v), end + 1))
                .ok_or(LineErrorKind::IntegerOutOfRange);
        }
        Some(b'u') if digit_count > 0 && !negative => {
            let value = if digit_count <= SAFE_DIGITS {
                Some(mantissa)
            } else {
                unsigned(text, begin, end)
            };
            return value
                .map(|v| (FieldValue::U64(v), end + 1))
                .ok_or(LineErrorKind::IntegerOutOfRange);
        }
        Some(b'.') => {
            let point = end;
            (mantissa, end) = digits(text, point + 1, mantissa);
            fraction_digits = end - point - 1;
            digit_count += fraction_digits;
        }
        _ => {}
    }
    if digit_count == 0 {
        return Err(LineErrorKind::InvalidNumber);
    }
    let has_exponent = matches!(text.get(end), Some(b'e' | b'E'));
    if !has_exponent && digit_count <= SAFE_DIGITS && mantissa <= 1 << 53 {
        let power = POWERS
            .get(fraction_digits)
            .ok_or(LineErrorKind::InvalidNumber)?;
        let value = mantissa as f64 / power;
        let value = if negative { -value } else { value };
        return Ok((FieldValue::F64(value), end));
    }
    slow_float(text, at, end, has_exponent)
}

#[cold]
fn slow_float(
    text: &[u8],
    at: usize,
    mut end: usize,
    has_exponent: bool,
) -> Result<(FieldValue<'_>, usize), LineErrorKind> {
    if has_exponent {
        end += 1;
        if matches!(text.get(end), Some(b'+' | b'-')) {
            end += 1;
        }
        let begin = end;
        (_, end) = digits(text, end, 0);
        if end == begin {
            return Err(LineErrorKind::InvalidNumber);
        }
    }
    let value: f64 = text
        .get(at..end)
        .and_then(|t| std::str::from_utf8(t).ok())
        .and_then(|t| t.parse().ok())
        .ok_or(LineErrorKind::InvalidNumber)?;
    if value.is_finite() {
        Ok((FieldValue::F64(value), end))
    } else {
        Err(LineErrorKind::FloatOutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<FieldValue<'static>, LineErrorKind>) {
        let got = number(text.as_bytes(), 0);
        match (&got, &expected) {
            (Ok((FieldValue::F64(a), end)), Ok(FieldValue::F64(b))) => {
                assert_eq!(a.to_bits(), b.to_bits(), "{text}");
                assert_eq!(*end, text.len(), "{text}");
            }
            _ => assert_eq!(got.map(|g| g.0), expected, "{text}"),
        }
    }

    #[test]
    fn numbers_are_exact() {
        check("58i", Ok(FieldValue::I64(58)));
        check("-9223372036854775808i", Ok(FieldValue::I64(i64::MIN)));
        check("9223372036854775807i", Ok(FieldValue::I64(i64::MAX)));
        check(
            "9223372036854775808i",
            Err(LineErrorKind::IntegerOutOfRange),
        );
        check("18446744073709551615u", Ok(FieldValue::U64(u64::MAX)));
        check(
            "18446744073709551616u",
            Err(LineErrorKind::IntegerOutOfRange),
        );
        check("0000000000000000000000007i", Ok(FieldValue::I64(7)));
        check("-0", Ok(FieldValue::F64(-0.0)));
        check("-0i", Ok(FieldValue::I64(0)));
        check("1.", Ok(FieldValue::F64(1.0)));
        check(".5", Ok(FieldValue::F64(0.5)));
        check("-.5", Ok(FieldValue::F64(-0.5)));
        check("1.e1", Ok(FieldValue::F64(10.0)));
        check("1e-400", Ok(FieldValue::F64(0.0)));
        check("1e400", Err(LineErrorKind::FloatOutOfRange));
        check("0.1", Ok(FieldValue::F64(0.1)));
        check("9007199254740993", Ok(FieldValue::F64(9007199254740992.0)));
        check(
            "18446744073709551616.5",
            Ok(FieldValue::F64(18446744073709551616.5)),
        );
        check("5e-324", Ok(FieldValue::F64(5e-324)));
        check("0.0000000000000000000000001", Ok(FieldValue::F64(1e-25)));
        for bad in ["-", ".", "-.", "e5", "1e", "1e+", "i", "-i", "--1"] {
            check(bad, Err(LineErrorKind::InvalidNumber));
        }
    }

    proptest! {
        #[test]
        fn floats_read_as_the_standard_library_reads_them(
            text in "-?([0-9]{1,22}(\\.[0-9]{0,24})?|\\.[0-9]{1,24})([eE][+-]?[0-9]{1,3})?"
        ) {
            let expected: f64 = text.parse().unwrap();
            match number(text.as_bytes(), 0) {
                Ok((FieldValue::F64(v), end)) => {
                    prop_assert_eq!(v.to_bits(), expected.to_bits());
                    prop_assert_eq!(end, text.len());
                }
                other => prop_assert!(expected.is_infinite(), "{:?}", other),
            }
        }

        #[test]
        fn timestamps_read_back(t in any::<i64>()) {
            let text = format!("{t} ");
            prop_assert_eq!(timestamp(text.as_bytes(), 0), Ok((Some(t), text.len() - 1)));
        }

        #[test]
        fn long_digit_strings_are_seen_to_overflow(text in "[1-9][0-9]{19,40}") {
            let expected = text.parse::<i64>().ok();
            prop_assert_eq!(timestamp(text.as_bytes(), 0), Ok((expected, text.len())));
        }
    }
}
