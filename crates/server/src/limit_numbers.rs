//! Settings that are numbers, by name: limits of requests beside those of the store.

use std::ops::RangeInclusive;
use std::time::Duration;

use alluvium_store::{SettingError as StoreSettingError, StoreConfig};

use crate::config::{Config, Limits};

/// A setting that is refused, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// Neither the server nor its store has one of this name.
    #[error("setting {name:?} is unknown; those that are numbers are {}", names().join(", "))]
    Unknown {
        /// What was given, cut to 64 characters.
        name: String,
    },
    /// No number, or one out of range.
    #[error(transparent)]
    Number(StoreSettingError),
}

struct Setting {
    name: &'static str,
    range: RangeInclusive<u64>,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

macro_rules! settings {
    (
        numbers { $($name:ident: $kind:ty, $range:expr;)* }
        milliseconds { $($time:ident as $time_ms:ident, $time_range:expr;)* }
    ) => {
        const SETTINGS: &[Setting] = &[
            $(Setting {
                name: stringify!($name),
                range: $range,
                get: |limits| limits.$name as u64,
                // Every range lies within its type.
                set: |limits, number| limits.$name = number as $kind,
            },)*
            $(Setting {
                name: stringify!($time_ms),
                range: $time_range,
                get: |limits| limits.$time.as_millis() as u64,
                set: |limits, number| limits.$time = Duration::from_millis(number),
            },)*
        ];
    };
}

const DAY_MS: u64 = 86_400_000;

settings! {
    numbers {
        body_bytes_max: usize, 1024..=1 << 30;
        line_bytes_max: usize, 256..=1 << 26;
        header_bytes_max: usize, 8192..=1 << 24;
        connections_max: usize, 1..=1 << 20;
        inline_bytes_max: usize, 0..=1 << 24;
        parallel_writes_max: usize, 1..=1024;
        queries_max: usize, 1..=1024;
        queries_waiting_max: usize, 0..=1 << 20;
        query_memory_bytes: u64, 1 << 16..=1 << 40;
        search_default: usize, 1..=1_000_000;
        search_max: usize, 1..=1_000_000;
        suggest_default: usize, 1..=1_000_000;
        suggest_max: usize, 1..=1_000_000;
        cardinality_default: usize, 1..=100_000;
        cardinality_max: usize, 1..=100_000;
        cardinality_days_default: usize, 1..=36_500;
        cardinality_days_max: usize, 1..=36_500;
    }
    milliseconds {
        header_time as header_time_ms, 1..=DAY_MS;
        body_idle as body_idle_ms, 1..=DAY_MS;
        answer_idle as answer_idle_ms, 1..=DAY_MS;
        query_deadline as query_deadline_ms, 1..=DAY_MS;
        commit_time as commit_time_ms, 1..=DAY_MS;
        stop_time as stop_time_ms, 0..=DAY_MS;
    }
}

fn names() -> Vec<&'static str> {
    let of_store = StoreConfig::default();
    let of_store = of_store.numbers().map(|(name, _)| name);
    let limits = SETTINGS.iter().map(|setting| setting.name);
    limits.chain(of_store).collect()
}

impl Limits {
    /// Names and values of the settings that are numbers; those that are times end with `_ms`, milliseconds.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SETTINGS.iter().map(|s| (s.name, (s.get)(self)))
    }
}

impl Config {
    /// Sets the one of this name, of the limits or of the store.
    ///
    /// # Errors
    /// If there is none, or the text is no number in its range.
    pub fn set_number(&mut self, name: &str, text: &str) -> Result<(), SettingError> {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            return self.store.set_number(name, text).map_err(|e| match e {
                StoreSettingError::Unknown { name } => SettingError::Unknown { name },
                error => SettingError::Number(error),
            });
        };
        let number = text.parse().ok().filter(|n| setting.range.contains(n));
        let number = number.ok_or_else(|| {
            SettingError::Number(StoreSettingError::Number {
                name: setting.name,
                text: text.chars().take(64).collect(),
                range: setting.range.clone(),
            })
        })?;
        (setting.set)(&mut self.limits, number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_io::MemoryDevice;

    use super::*;
    use crate::config::Storage;

    fn config() -> Config {
        Config::new(Storage::Device(Arc::new(MemoryDevice::new(3))))
    }

    #[test]
    fn every_limit_is_set_by_its_name() {
        let debug = format!("{:?}", Limits::default());
        let fields = debug.matches(": ").count();
        assert_eq!(SETTINGS.len(), fields, "a limit has no setting: {debug}");
        for (name, number) in Limits::default().numbers() {
            let range = &SETTINGS.iter().find(|s| s.name == name).unwrap().range;
            for number in [number, *range.start(), *range.end()] {
                let mut config = config();
                config.set_number(name, &number.to_string()).unwrap();
                let mut numbers = config.limits.numbers();
                assert_eq!(numbers.find(|(n, _)| *n == name), Some((name, number)));
            }
        }
    }

    #[test]
    fn unknown_names_and_numbers_out_of_range_are_refused_by_name() {
        let mut config = config();
        let unknown = config.set_number("query_max", "3").unwrap_err().to_string();
        for name in ["query_max", "queries_max", "merge_runs_max"] {
            assert!(unknown.contains(name), "{unknown}");
        }
        for bad in ["", "-1", "0", "1025", "3 "] {
            let refused = config.set_number("queries_max", bad).unwrap_err();
            assert!(refused.to_string().contains("from 1 to 1024"), "{refused}");
        }
        let refused = config.set_number("merge_runs_max", "1").unwrap_err();
        assert!(refused.to_string().contains("from 2 to 64"), "{refused}");
        config.set_number("merge_runs_max", "3").unwrap();
        assert_eq!(config.store.merge_runs_max, 3);
    }
}
