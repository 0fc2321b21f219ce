//! What a database is created with. It keeps all of it but retention and limits, which may be changed.

use std::fmt;

use alluvium_codec::Compression;

use crate::config::{Durability, StoreConfig};
use crate::retention_settings::Retention;
use crate::series_limits::SeriesLimits;

/// Settings of one database, logged with its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// When its writes are acknowledged, where they say nothing else.
    pub durability: Durability,
    /// What its blocks prefer, size or speed.
    pub compression: Compression,
    /// What it keeps.
    pub retention: Retention,
    /// How many series it takes.
    pub series_limits: SeriesLimits,
}

impl DatabaseSettings {
    /// Those of a store's databases that say nothing else.
    pub fn of(config: &StoreConfig) -> Self {
        Self {
            durability: config.durability,
            compression: config.compression,
            retention: config.retention,
            series_limits: config.series_limits,
        }
    }

    /// Reads what [`fmt::Display`] writes; what is missing or unknown, as from a newer version, is as in `others`, but
    /// for retention and limits: nothing expires and nothing is refused that does not say so itself.
    pub(crate) fn read(text: &str, others: Self) -> Self {
        let mut settings = Self {
            retention: Retention::default(),
            series_limits: SeriesLimits::default(),
            ..others
        };
        for (name, value) in text.split(' ').filter_map(|word| word.split_once(':')) {
            match name {
                "durability" => settings.durability = value.parse().unwrap_or(others.durability),
                "compression" => settings.compression = value.parse().unwrap_or(others.compression),
                name => {
                    drop(settings.retention.set(name, value));
                    drop(settings.series_limits.set(name, value));
                }
            }
        }
        settings
    }
}

impl fmt::Display for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "durability:{} compression:{}",
            self.durability, self.compression
        )?;
        Retention::NAMES
            .iter()
            .try_for_each(|name| write!(f, " {name}:{}", self.retention.get(name)))?;
        self.series_limits.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_what_they_print() {
        let others = DatabaseSettings::of(&StoreConfig::default());
        for durability in [Durability::Sync, Durability::Interval { ms: 7 }] {
            for compression in [Compression::Balanced, Compression::Small] {
                let mut retention = Retention::default();
                retention.set("retention", "30d").unwrap();
                retention.set("max_disk", "1GiB").unwrap();
                let series_limits = SeriesLimits {
                    database: Some(5),
                    measurement: None,
                };
                let settings = DatabaseSettings {
                    durability,
                    compression,
                    retention,
                    series_limits,
                };
                assert_eq!(
                    DatabaseSettings::read(&settings.to_string(), others),
                    settings
                );
            }
        }
        assert_eq!(DatabaseSettings::read("", others), others);
        assert_eq!(
            DatabaseSettings::read("colour:red durability:never", others),
            others
        );
    }
}
