//! Units of the timestamps that a client sends.

use std::str::FromStr;

/// What one unit of a timestamp means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Nanoseconds, the default.
    #[default]
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
    /// Minutes.
    M,
    /// Hours.
    H,
    /// Guessed from the size of each timestamp, as InfluxDB 3 does: below 5e9 seconds, below 5e12
    /// milliseconds, below 5e15 microseconds, else nanoseconds.
    Auto,
}

/// The name of a precision that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid precision {name:?} (use n, ns, u, us, µs, ms, s, m, h, auto or a full name such as second)"
)]
pub struct UnknownPrecision {
    /// What was asked for.
    pub name: String,
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    /// Reads the spellings of InfluxDB 1, 2 and 3; the empty text is nanoseconds.
    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        Ok(match name {
            "" | "n" | "ns" | "nanosecond" => Self::Ns,
            "u" | "us" | "µ" | "µs" | "microsecond" => Self::Us,
            "ms" | "millisecond" => Self::Ms,
            "s" | "second" => Self::S,
            "m" => Self::M,
            "h" => Self::H,
            "auto" => Self::Auto,
            other => {
                return Err(UnknownPrecision {
                    name: other.chars().take(32).collect(),
                });
            }
        })
    }
}

impl Precision {
    /// Nanoseconds of one unit, for a timestamp of this size.
    fn unit_ns(self, time: i64) -> i64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
            Self::S => 1_000_000_000,
            Self::M => 60_000_000_000,
            Self::H => 3_600_000_000_000,
            Self::Auto => match time.unsigned_abs() / 1_000_000_000 {
                0..5 => 1_000_000_000,
                5..5_000 => 1_000_000,
                5_000..5_000_000 => 1_000,
                _ => 1,
            },
        }
    }

    /// The nanoseconds of a timestamp sent in this unit; `None` if they do not fit into 64 bits or are the
    /// reserved `i64::MAX`.
    pub fn to_ns(self, time: i64) -> Option<i64> {
        time.checked_mul(self.unit_ns(time))
            .filter(|ns| *ns != i64::MAX)
    }

    /// The last whole unit at or before `time_ns`, as InfluxDB stores points that came without a timestamp.
    pub fn cut(self, time_ns: i64) -> i64 {
        match self {
            Self::Ns | Self::Auto => time_ns,
            _ => time_ns.saturating_sub(time_ns.rem_euclid(self.unit_ns(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_multiply_and_overflow_is_seen() {
        let to_ns = |name: &str, t| name.parse::<Precision>().unwrap().to_ns(t);
        assert_eq!(to_ns("ns", 7), Some(7));
        assert_eq!(to_ns("u", -7), Some(-7_000));
        assert_eq!(to_ns("h", 1), Some(3_600_000_000_000));
        assert_eq!(to_ns("h", 99_999_999_999), None);
        assert_eq!(to_ns("n", i64::MAX), None);
        assert_eq!(to_ns("n", i64::MAX - 1), Some(i64::MAX - 1));
        assert_eq!(to_ns("n", i64::MIN), Some(i64::MIN));
        assert_eq!(
            to_ns("auto", 1_700_000_000),
            Some(1_700_000_000_000_000_000)
        );
        assert_eq!(
            to_ns("auto", 1_700_000_000_000),
            Some(1_700_000_000_000_000_000)
        );
        assert_eq!(
            to_ns("auto", 1_700_000_000_000_000),
            Some(1_700_000_000_000_000_000)
        );
        assert_eq!(
            to_ns("auto", -1_700_000_000_000_000_000),
            Some(-1_700_000_000_000_000_000)
        );
    }

    #[test]
    fn instants_are_cut_to_whole_units() {
        assert_eq!(Precision::S.cut(1_999_999_999), 1_000_000_000);
        assert_eq!(Precision::S.cut(-1), -1_000_000_000);
        assert_eq!(Precision::Ns.cut(7), 7);
        assert_eq!(Precision::Auto.cut(7), 7);
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["NS", "1ns", "d", "seconds"] {
            assert!(name.parse::<Precision>().is_err(), "{name}");
        }
    }
}
