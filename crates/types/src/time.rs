//! Instants and half-open ranges of them.

use std::fmt;

/// Nanoseconds since 1970-01-01T00:00:00 UTC, signed.
///
/// `i64::MAX` is reserved: ranges are half-open, so it could never be the time of a readable point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The earliest instant.
    pub const MIN: Self = Self(i64::MIN);
    /// The reserved end of time; no point may carry it.
    pub const MAX: Self = Self(i64::MAX);
}

/// A half-open range of nanoseconds, `begin <= t < end`, with `begin <= end` by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    begin: i64,
    end: i64,
}

/// The ends of a time range were given in the wrong order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRangeError {
    /// The begin that was asked for.
    pub begin: i64,
    /// The end that was asked for.
    pub end: i64,
}

impl fmt::Display for TimeRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "time range begins at {} ns, after its end at {} ns",
            self.begin, self.end
        )
    }
}

impl std::error::Error for TimeRangeError {}

impl TimeRange {
    /// Every instant a point may carry.
    pub const ALL: Self = Self {
        begin: i64::MIN,
        end: i64::MAX,
    };

    /// The range `begin <= t < end`.
    ///
    /// # Errors
    /// If `begin > end`.
    pub fn new(begin: i64, end: i64) -> Result<Self, TimeRangeError> {
        if begin > end {
            Err(TimeRangeError { begin, end })
        } else {
            Ok(Self { begin, end })
        }
    }

    /// The smallest range that holds every instant from `first` to `last`, both included.
    ///
    /// # Panics
    /// If `first > last`.
    pub fn inclusive(first: i64, last: i64) -> Self {
        assert!(first <= last, "inclusive range begins after its end");
        Self {
            begin: first,
            end: last.saturating_add(1),
        }
    }

    /// First instant inside, in nanoseconds.
    pub fn begin(self) -> i64 {
        self.begin
    }

    /// First instant behind the range, in nanoseconds.
    pub fn end(self) -> i64 {
        self.end
    }

    /// Whether no instant is inside.
    pub fn is_empty(self) -> bool {
        self.begin == self.end
    }

    /// Whether `t` is inside.
    pub fn contains(self, t: i64) -> bool {
        self.begin <= t && t < self.end
    }

    /// Whether every instant from `first` to `last`, both included, is inside.
    pub fn covers(self, first: i64, last: i64) -> bool {
        self.begin <= first && last < self.end
    }

    /// Whether some instant from `first` to `last`, both included, is inside.
    pub fn overlaps(self, first: i64, last: i64) -> bool {
        self.begin <= last && first < self.end
    }

    /// What is inside both; an empty range if nothing is.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let begin = self.begin.max(other.begin);
        Self {
            begin,
            end: self.end.min(other.end).max(begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open() {
        let r = TimeRange::new(10, 20).unwrap();
        assert!(r.contains(10) && !r.contains(20));
        assert!(r.covers(10, 19) && !r.covers(10, 20));
        assert!(r.overlaps(19, 30) && !r.overlaps(20, 30));
        assert!(r.intersect(TimeRange::new(30, 40).unwrap()).is_empty());
        assert!(TimeRange::new(2, 1).is_err());
        assert!(TimeRange::inclusive(5, 5).contains(5));
    }
}
