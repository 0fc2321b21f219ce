//! How long a database keeps what it holds, as people write it.

use std::fmt;

/// Smallest bound of a database's size: eight volumes of a header and one page.
pub const MAX_DISK_MIN: u64 = 64 << 10;

const UNITS: [(&str, i64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("ns", 1),
];

/// A setting of retention that is refused, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// An age that does not parse.
    #[error("setting {name} is {text:?}; write an age as 30d, 12h, 90m or 45s, or `ever`")]
    Age {
        /// Its name.
        name: &'static str,
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// A size that does not parse.
    #[error("setting max_disk is {text:?}; write a size as 10GiB, 500MB or 1000000, or `ever`")]
    Size {
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// A size too small to hold volumes.
    #[error("setting max_disk is {bytes} bytes; it must be at least {MAX_DISK_MIN}")]
    SmallSize {
        /// What was given.
        bytes: u64,
    },
    /// Aggregates that go before their points.
    #[error(
        "setting retention_aggregates is {aggregates}, less than retention {points}: points are found through what \
         aggregates lie in; give `same`, `ever` or a longer age"
    )]
    AggregatesFirst {
        /// Age of aggregates.
        aggregates: Age,
        /// Age of points.
        points: Age,
    },
}

/// A positive number of nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(i64);

impl Age {
    /// So many nanoseconds, at least one.
    pub fn from_ns(ns: i64) -> Self {
        Self(ns.max(1))
    }

    /// Nanoseconds.
    pub fn ns(self) -> i64 {
        self.0
    }

    fn parse(name: &'static str, text: &str) -> Result<Self, RetentionError> {
        let bad = || RetentionError::Age {
            name,
            text: clip(text),
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let weeks = ("w", 7 * UNITS[0].1);
        let mut units = UNITS.iter().chain([&weeks]);
        let (_, ns) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let number: i64 = number.parse().map_err(|_| bad())?;
        let total = number.checked_mul(*ns).filter(|t| *t > 0);
        total.map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, ns) = UNITS
            .iter()
            .find(|(_, ns)| self.0 % ns == 0)
            .expect("every age is a number of nanoseconds");
        write!(f, "{}{unit}", self.0 / ns)
    }
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// How long the aggregates of expired points stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAggregates {
    /// For ever.
    Ever,
    /// As long as their points.
    Same,
    /// Until they are so old.
    For(Age),
}

impl fmt::Display for KeepAggregates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ever => f.write_str("ever"),
            Self::Same => f.write_str("same"),
            Self::For(age) => age.fmt(f),
        }
    }
}

/// What a database keeps. The default keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Age at which points expire; `None` is never.
    pub points: Option<Age>,
    /// How long aggregates stay.
    pub aggregates: KeepAggregates,
    /// Bytes of all volumes at which the oldest go; `None` is no bound.
    pub max_disk: Option<u64>,
    /// How far ahead of the clock a point may be where points expire by age. More is refused: such points would keep
    /// the volumes they lie in.
    pub future_max: Age,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            points: None,
            aggregates: KeepAggregates::Ever,
            max_disk: None,
            future_max: Age(UNITS[0].1),
        }
    }
}

impl Retention {
    /// Names of the settings, as [`Self::set`] takes them.
    pub const NAMES: [&'static str; 4] = [
        "retention",
        "retention_aggregates",
        "max_disk",
        "future_max",
    ];

    /// Changes one setting. Follow it with [`Self::check`] when all are given.
    ///
    /// # Errors
    /// If the text is no value of it. An unknown name changes nothing.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), RetentionError> {
        let ever = matches!(text, "ever" | "forever" | "inf");
        match name {
            "retention" if ever => self.points = None,
            "retention" => self.points = Some(Age::parse("retention", text)?),
            "retention_aggregates" if ever => self.aggregates = KeepAggregates::Ever,
            "retention_aggregates" if text == "same" => self.aggregates = KeepAggregates::Same,
            "retention_aggregates" => {
                self.aggregates = KeepAggregates::For(Age::parse("retention_aggregates", text)?);
            }
            "max_disk" if ever => self.max_disk = None,
            "max_disk" => self.max_disk = Some(parse_size(text)?),
            "future_max" => self.future_max = Age::parse("future_max", text)?,
            _ => {}
        }
        Ok(())
    }

    /// The value of a setting, as [`Self::set`] takes it; empty for an unknown name.
    pub fn get(&self, name: &str) -> String {
        let or_ever = |value: Option<String>| value.unwrap_or_else(|| "ever".into());
        match name {
            "retention" => or_ever(self.points.map(|age| age.to_string())),
            "retention_aggregates" => self.aggregates.to_string(),
            "max_disk" => or_ever(self.max_disk.map(|bytes| bytes.to_string())),
            "future_max" => self.future_max.to_string(),
            _ => String::new(),
        }
    }

    /// Whether the settings fit together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), RetentionError> {
        if let (KeepAggregates::For(aggregates), Some(points)) = (self.aggregates, self.points)
            && aggregates < points
        {
            return Err(RetentionError::AggregatesFirst { aggregates, points });
        }
        match self.max_disk {
            Some(bytes) if bytes < MAX_DISK_MIN => Err(RetentionError::SmallSize { bytes }),
            _ => Ok(()),
        }
    }

    /// Whether anything ever expires.
    pub fn is_on(&self) -> bool {
        self.points.is_some()
            || self.max_disk.is_some()
            || matches!(self.aggregates, KeepAggregates::For(_))
    }
}

/// Reads `4096`, `64KiB`, `2GiB`, `1.5GB`.
fn parse_size(text: &str) -> Result<u64, RetentionError> {
    let bad = || RetentionError::Size { text: clip(text) };
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1_048_576.0,
        "mb" => 1e6,
        "g" | "gib" => 1_073_741_824.0,
        "gb" => 1e9,
        "t" | "tib" => 1_099_511_627_776.0,
        "tb" => 1e12,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    if number * scale < 9e18 {
        Ok((number * scale) as u64)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_what_they_print() {
        for (name, text, printed) in [
            ("retention", "30d", "30d"),
            ("retention", "2w", "14d"),
            ("retention", "90m", "90m"),
            ("retention", "48h", "2d"),
            ("retention", "ever", "ever"),
            ("retention_aggregates", "same", "same"),
            ("retention_aggregates", "400d", "400d"),
            ("max_disk", "1.5GiB", "1610612736"),
            ("max_disk", "ever", "ever"),
            ("future_max", "1500ms", "1500ms"),
        ] {
            let mut settings = Retention::default();
            settings.set(name, text).unwrap();
            assert_eq!(settings.get(name), printed);
            let mut again = Retention::default();
            again.set(name, printed).unwrap();
            assert_eq!(again, settings);
        }
    }

    #[test]
    fn bad_settings_name_the_way_out() {
        let mut settings = Retention::default();
        for (name, text) in [
            ("retention", "30"),
            ("retention", "-1d"),
            ("retention", "0d"),
            ("retention", "99999999999d"),
            ("retention", "1y"),
            ("retention_aggregates", ""),
            ("future_max", "ever"),
        ] {
            let error = settings.set(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("30d"), "{error}");
        }
        for text in ["much", "", "1e3", "99999999TiB"] {
            let error = settings.set("max_disk", text).unwrap_err().to_string();
            assert!(error.contains("10GiB"), "{error}");
        }
        settings.set("retention", "30d").unwrap();
        settings.set("retention_aggregates", "7d").unwrap();
        assert!(settings.check().unwrap_err().to_string().contains("same"));
        settings.set("retention_aggregates", "30d").unwrap();
        settings.check().unwrap();
        settings.set("max_disk", "1").unwrap();
        assert!(settings.check().unwrap_err().to_string().contains("65536"));
    }
}
