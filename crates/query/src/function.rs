//! Functions of a set of points, read off what is known of the set.

use std::fmt;

/// A function of the points of one window. NaN is kept out of all but `count`, `first` and `last`; without a
/// number the others are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Function {
    /// Number of points, NaN included.
    Count,
    /// Sum; exact for integers while it fits 64 bits, otherwise the nearest float.
    Sum,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Mean of all points.
    Mean,
    /// Oldest value.
    First,
    /// Newest value.
    Last,
    /// Time of the smallest value, earliest if several.
    MinTimestamp,
    /// Time of the largest value, earliest if several.
    MaxTimestamp,
    /// Time of the oldest point.
    FirstTimestamp,
    /// Time of the newest point.
    LastTimestamp,
    /// Square root of the population variance.
    Stddev,
    /// Population variance.
    Variance,
    /// Increase per second between the oldest and the newest point of the window; missing for one point. Over
    /// several series, the sum of their rates.
    Rate,
    /// Sum of the steps of a counter, whose falls are resets. Over several series, the sum of theirs.
    Increase,
    /// Largest minus smallest value.
    Spread,
}

impl Function {
    /// Every function, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::Count,
        Self::Sum,
        Self::Min,
        Self::Max,
        Self::Mean,
        Self::First,
        Self::Last,
        Self::MinTimestamp,
        Self::MaxTimestamp,
        Self::FirstTimestamp,
        Self::LastTimestamp,
        Self::Stddev,
        Self::Variance,
        Self::Rate,
        Self::Increase,
        Self::Spread,
    ];

    /// The name in requests and columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::MinTimestamp => "min_timestamp",
            Self::MaxTimestamp => "max_timestamp",
            Self::FirstTimestamp => "first_timestamp",
            Self::LastTimestamp => "last_timestamp",
            Self::Stddev => "stddev",
            Self::Variance => "variance",
            Self::Rate => "rate",
            Self::Increase => "increase",
            Self::Spread => "spread",
        }
    }

    /// The function with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Whether it is a function of strings too.
    pub fn takes_strings(self) -> bool {
        matches!(
            self,
            Self::Count | Self::First | Self::Last | Self::FirstTimestamp | Self::LastTimestamp
        )
    }

    /// Whether its values are times in nanoseconds.
    pub fn gives_times(self) -> bool {
        matches!(
            self,
            Self::MinTimestamp | Self::MaxTimestamp | Self::FirstTimestamp | Self::LastTimestamp
        )
    }

    /// Every name, for messages.
    pub(crate) fn list() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for f in Function::ALL {
            assert_eq!(Function::from_name(f.name()), Some(f));
        }
        assert_eq!(Function::from_name("median"), None);
    }
}
