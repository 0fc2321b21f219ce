//! What a database is created with and keeps for ever.

use std::fmt;

use alluvium_codec::Compression;

use crate::config::{Durability, StoreConfig};

/// Settings of one database, logged with its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// When its writes are acknowledged, where they say nothing else.
    pub durability: Durability,
    /// What its blocks prefer, size or speed.
    pub compression: Compression,
}

impl DatabaseSettings {
    /// Those of a store's databases that say nothing else.
    pub fn of(config: &StoreConfig) -> Self {
        Self {
            durability: config.durability,
            compression: config.compression,
        }
    }

    /// Reads what [`fmt::Display`] writes; what is missing or unknown, as from a newer version, is as in `others`.
    pub(crate) fn read(text: &str, others: Self) -> Self {
        let mut settings = others;
        for (name, value) in text.split(' ').filter_map(|word| word.split_once(':')) {
            match name {
                "durability" => settings.durability = value.parse().unwrap_or(others.durability),
                "compression" => settings.compression = value.parse().unwrap_or(others.compression),
                _ => {}
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
        )
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
                let settings = DatabaseSettings {
                    durability,
                    compression,
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
