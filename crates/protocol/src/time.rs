//! Instants and durations as people write them. Calendar arithmetic is Howard Hinnant's *chrono-compatible
//! low-level date algorithms*: proleptic Gregorian, UTC, no leap seconds.

const NS_PER_S: i64 = 1_000_000_000;
const S_PER_DAY: i64 = 86_400;

/// Why a time or duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Not a form that is known.
    #[error(
        "{text:?} is not a time (use integer nanoseconds, 2024-05-01T10:00:00Z, 20240501T100000, now or now-1h)"
    )]
    NotATime {
        /// The text.
        text: String,
    },
    /// Not a form that is known.
    #[error("{text:?} is not a duration (use an integer and n, us, ms, s, m, min, h, d or w)")]
    NotADuration {
        /// The text.
        text: String,
    },
    /// Months and years have no fixed length.
    #[error("calendar duration {text:?} is not supported yet (use d or w)")]
    Calendar {
        /// The text.
        text: String,
    },
    /// Outside the 64-bit nanoseconds.
    #[error("{text:?} is outside the years 1677 to 2262")]
    OutOfRange {
        /// The text.
        text: String,
    },
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Reads a duration in nanoseconds: one or more integers with units (`10s`, `5min`, `1h30m`), or one integer
/// without, which is nanoseconds. Never negative.
///
/// # Errors
/// If the text is no duration, is one of months or years, or passes 292 years.
///
/// ```
/// assert_eq!(alluvium_protocol::time::parse_duration("1h30m"), Ok(5_400_000_000_000));
/// ```
pub fn parse_duration(text: &str) -> Result<i64, TimeError> {
    let not_one = || TimeError::NotADuration { text: clip(text) };
    let too_long = || TimeError::OutOfRange { text: clip(text) };
    if text.is_empty() {
        return Err(not_one());
    }
    let mut total = 0_i64;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        if number.is_empty() || (unit.is_empty() && parts > 0) {
            return Err(not_one());
        }
        let unit = match unit {
            "" | "n" | "ns" => 1,
            "u" | "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => NS_PER_S,
            "m" | "min" => 60 * NS_PER_S,
            "h" => 3_600 * NS_PER_S,
            "d" => S_PER_DAY * NS_PER_S,
            "w" => 7 * S_PER_DAY * NS_PER_S,
            "mo" | "y" => return Err(TimeError::Calendar { text: clip(text) }),
            _ => return Err(not_one()),
        };
        let number: i64 = number.parse().map_err(|_| too_long())?;
        total = number
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(too_long)?;
        rest = behind;
        parts += 1;
    }
    Ok(total)
}

/// Reads an instant in nanoseconds since 1970: integer nanoseconds, `now`, `now-1h`, `now+5m`, or ISO 8601 in
/// its basic (`20240501T100000.5`) or extended form (`2024-05-01`, `2024-05-01T10:00`,
/// `2024-05-01 10:00:00,123456789+02:00`); without a zone it is UTC.
///
/// # Errors
/// If the text is none of these, or outside 64-bit nanoseconds.
///
/// ```
/// use alluvium_protocol::time::parse_time;
/// assert_eq!(parse_time("1970-01-01T00:00:01.5Z", 0), Ok(1_500_000_000));
/// assert_eq!(parse_time("now-1s", 5_000_000_000), Ok(4_000_000_000));
/// ```
pub fn parse_time(text: &str, now_ns: i64) -> Result<i64, TimeError> {
    let out_of_range = || TimeError::OutOfRange { text: clip(text) };
    if let Some(rest) = text.strip_prefix("now") {
        let shifted = match rest.as_bytes().first() {
            None => Some(now_ns),
            Some(b'-') => now_ns.checked_sub(parse_duration(&rest[1..])?),
            Some(b'+') => now_ns.checked_add(parse_duration(&rest[1..])?),
            Some(_) => return Err(TimeError::NotATime { text: clip(text) }),
        };
        return shifted.ok_or_else(out_of_range);
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| out_of_range());
    }
    let (seconds, fraction) =
        parse_iso(text.as_bytes()).ok_or_else(|| TimeError::NotATime { text: clip(text) })?;
    i64::try_from(i128::from(seconds) * i128::from(NS_PER_S) + i128::from(fraction))
        .map_err(|_| out_of_range())
}

struct Scanner<'a> {
    text: &'a [u8],
}

impl Scanner<'_> {
    fn number(&mut self, digits: usize) -> Option<i64> {
        let head = self.text.get(..digits)?;
        if !head.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.text = self.text.get(digits..)?;
        Some(
            head.iter()
                .fold(0, |n, d| n * 10 + i64::from(d.wrapping_sub(b'0'))),
        )
    }

    fn take(&mut self, any_of: &[u8]) -> bool {
        match self.text.split_first() {
            Some((byte, rest)) if any_of.contains(byte) => {
                self.text = rest;
                true
            }
            _ => false,
        }
    }
}

/// Seconds and nanoseconds since 1970.
fn parse_iso(text: &[u8]) -> Option<(i64, i64)> {
    let mut s = Scanner { text };
    let year = s.number(4)?;
    let extended = s.take(b"-");
    let month = s.number(2)?;
    if extended && !s.take(b"-") {
        return None;
    }
    let day = s.number(2)?;
    let (mut seconds_of_day, mut fraction, mut offset) = (0, 0, 0);
    if s.take(b"Tt ") {
        let hour = s.number(2)?;
        if extended && !s.take(b":") {
            return None;
        }
        let minute = s.number(2)?;
        let has_seconds = if extended {
            s.take(b":")
        } else {
            s.text.first().is_some_and(u8::is_ascii_digit)
        };
        let mut second = 0;
        if has_seconds {
            second = s.number(2)?;
            if s.take(b".,") {
                let digits = s.text.iter().take_while(|b| b.is_ascii_digit()).count();
                if !(1..=9).contains(&digits) {
                    return None;
                }
                fraction = s.number(digits)? * 10_i64.pow(9 - digits as u32);
            }
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        seconds_of_day = hour * 3_600 + minute * 60 + second;
        if !s.take(b"Zz") {
            let sign = match s.text.first() {
                Some(b'+') => 1,
                Some(b'-') => -1,
                _ => 0,
            };
            if sign != 0 {
                s.take(b"+-");
                let hours = s.number(2)?;
                let minutes = if s.take(b":") || !s.text.is_empty() {
                    s.number(2)?
                } else {
                    0
                };
                if hours > 23 || minutes > 59 {
                    return None;
                }
                offset = sign * (hours * 3_600 + minutes * 60);
            }
        }
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !s.text.is_empty() || day < 1 || day > days_in_month {
        return None;
    }
    let days = days_from_civil(year, month, day);
    Some((days * S_PER_DAY + seconds_of_day - offset, fraction))
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Appends an instant as RFC 3339 with nine digits and `Z`.
///
/// ```
/// let mut out = Vec::new();
/// alluvium_protocol::time::write_rfc3339(&mut out, 1_700_000_000_000_000_001);
/// assert_eq!(out, b"2023-11-14T22:13:20.000000001Z");
/// ```
pub fn write_rfc3339(out: &mut Vec<u8>, time_ns: i64) {
    fn put(out: &mut [u8], mut value: i64) {
        for byte in out.iter_mut().rev() {
            *byte = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    let seconds = time_ns.div_euclid(NS_PER_S);
    let (year, month, day) = civil_from_days(seconds.div_euclid(S_PER_DAY));
    let second = seconds.rem_euclid(S_PER_DAY);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], second / 3_600);
    put(&mut text[14..16], second / 60 % 60);
    put(&mut text[17..19], second % 60);
    put(&mut text[20..29], time_ns.rem_euclid(NS_PER_S));
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants() {
        let t = 1_483_228_800_000_000_000;
        for text in [
            "2017-01-01",
            "20170101",
            "2017-01-01T00:00",
            "2017-01-01T00:00:00Z",
            "2017-01-01 00:00:00.000000000z",
            "2017-01-01T02:00:00+02:00",
            "2016-12-31T19:00:00-0500",
            "2016-12-31T19:00:00-05",
            "20170101T000000",
            "20170101T0000",
            "20170101T000000,0",
            "20170101T000000.0Z",
        ] {
            // Eight digits alone are nanoseconds, as in the classic.
            let expected = if text == "20170101" { 20_170_101 } else { t };
            assert_eq!(parse_time(text, 0), Ok(expected), "{text}");
        }
        assert_eq!(parse_time("-5", 0), Ok(-5));
        assert_eq!(parse_time("2016-02-29", 0), Ok(1_456_704_000_000_000_000));
        assert_eq!(parse_time("now+1m", 5), Ok(60_000_000_005));
        assert!(matches!(
            parse_time("1500-01-01", 0),
            Err(TimeError::OutOfRange { .. })
        ));
        for bad in [
            "",
            "-",
            "2017-02-29",
            "2017-13-01",
            "2017-01-01T24:00:00Z",
            "2017-01-01T00:00:60Z",
            "2017-01-01T00:00:00.Z",
            "2017-01-01T00:00:00.0123456789Z",
            "2017-01-01T00:00:00ZZ",
            "nowish",
            "2017-0101",
            "201701-01",
            "yesterday",
            "2017-01-01T",
            "\u{e9}",
        ] {
            assert!(parse_time(bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn known_durations() {
        assert_eq!(parse_duration("10"), Ok(10));
        assert_eq!(parse_duration("5min"), Ok(300_000_000_000));
        assert_eq!(parse_duration("5m"), Ok(300_000_000_000));
        assert_eq!(parse_duration("1ms"), Ok(1_000_000));
        assert_eq!(parse_duration("2d"), Ok(172_800_000_000_000));
        assert!(matches!(
            parse_duration("1mo"),
            Err(TimeError::Calendar { .. })
        ));
        assert!(matches!(
            parse_duration("300y"),
            Err(TimeError::Calendar { .. })
        ));
        assert!(matches!(
            parse_duration("99999999w"),
            Err(TimeError::OutOfRange { .. })
        ));
        for bad in ["", "s", "-1s", "1x", "1h5", "1.5h", "1 h", "µs"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn rfc3339_reads_back(t in any::<i64>()) {
            let mut out = Vec::new();
            write_rfc3339(&mut out, t);
            prop_assert_eq!(parse_time(std::str::from_utf8(&out).unwrap(), 0), Ok(t));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = parse_time(&text, i64::MAX);
            let _ = parse_duration(&text);
        }
    }
}
