//! Settings that are numbers, by name: for command lines and settings files.

use std::ops::RangeInclusive;

use crate::config::StoreConfig;

/// A setting that is refused, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// There is none of this name.
    #[error("setting {name:?} is unknown; those that are numbers are {}", names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was given, cut to 64 characters.
        name: String,
    },
    /// No number, or one out of range.
    #[error("setting {name} is {text:?}; give a number from {} to {}", .range.start(), .range.end())]
    Number {
        /// Its name.
        name: &'static str,
        /// What was given, cut to 64 characters.
        text: String,
        /// What may be given.
        range: RangeInclusive<u64>,
    },
}

struct Setting {
    name: &'static str,
    range: RangeInclusive<u64>,
    get: fn(&StoreConfig) -> u64,
    set: fn(&mut StoreConfig, u64),
}

macro_rules! settings {
    ($($name:ident: $kind:ty, $range:expr;)*) => {
        const SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($name),
            range: $range,
            get: |config| config.$name as u64,
            // Every range lies within its type.
            set: |config, number| config.$name = number as $kind,
        }),*];
    };
}

const MS_MAX: u64 = 365 * 86_400_000;
const BYTES_MAX: u64 = 1 << 40;

settings! {
    memory_soft_percent: u64, 1..=100;
    memory_series_percent: u64, 1..=100;
    memory_staging_percent: u64, 1..=100;
    spill_idle_ms: u64, 0..=MS_MAX;
    spill_round_ms: u64, 0..=60_000;
    part_bytes_min: u64, 0..=1 << 20;
    open_load_bytes_max: u64, 0..=BYTES_MAX;
    recall_percent: u64, 0..=100;
    govern_ms: u64, 1..=60_000;
    cache_percent: u64, 1..=90;
    log_backlog_bytes_max: usize, 1 << 20..=BYTES_MAX;
    page_backlog_max: usize, 64..=1 << 24;
    retention_check_ms: u64, 1..=MS_MAX;
    checkpoint_log_bytes: u64, 1 << 20..=BYTES_MAX;
    checkpoint_ms: u64, 100..=MS_MAX;
    tail_chain_max: usize, 1..=63;
    late_points_max: usize, 16..=1 << 16;
    late_window_bytes: usize, 0..=8192;
    merge_runs_max: usize, 2..=64;
    merge_late_points: u64, 1..=1 << 32;
    merge_late_percent: u64, 0..=100;
    merge_quiet_ms: u64, 0..=MS_MAX;
    merge_slice_pages: usize, 1..=4096;
    merge_pages_per_s: u64, 1..=1 << 32;
    space_check_ms: u64, 1..=MS_MAX;
    space_dead_percent: u64, 1..=100;
    space_live_percent: u64, 0..=90;
    space_hole_pages_min: u32, 1..=1 << 20;
    space_readers_ms: u64, 1..=MS_MAX;
    scrub_pause_ms: u64, 1..=MS_MAX;
    reserve_bytes: u64, 0..=BYTES_MAX;
    tombstone_bytes_max: usize, 1 << 16..=BYTES_MAX;
    wide_tombstones_max: usize, 1..=1 << 20;
    index_segment_rows: u32, 1024..=1 << 22;
    index_merge_segments: usize, 0..=64;
    index_merge_rows_max: u32, 1024..=1 << 24;
    cardinality_exact_values_max: u64, 0..=1 << 24;
    cardinality_values_max: u64, 0..=1 << 40;
    index_silent_days: u32, 0..=36_500;
    index_cache_bytes: usize, 0..=BYTES_MAX;
    writer_cache_bytes_max: usize, 1 << 16..=1 << 32;
    writer_staging_bytes_max: usize, 0..=1 << 32;
    databases_max: usize, 1..=1 << 20;
}

fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name)
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

impl StoreConfig {
    /// Names and values of the settings that are numbers.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SETTINGS.iter().map(|s| (s.name, (s.get)(self)))
    }

    /// Sets the one of this name.
    ///
    /// # Errors
    /// If there is none, or the text is no number in its range.
    pub fn set_number(&mut self, name: &str, text: &str) -> Result<(), SettingError> {
        let setting = SETTINGS.iter().find(|s| s.name == name);
        let setting = setting.ok_or_else(|| SettingError::Unknown { name: clip(name) })?;
        let number = text.parse().ok().filter(|n| setting.range.contains(n));
        let number = number.ok_or_else(|| SettingError::Number {
            name: setting.name,
            text: clip(text),
            range: setting.range.clone(),
        })?;
        (setting.set)(self, number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_is_set_by_its_name() {
        let defaults = StoreConfig::default();
        for (name, number) in defaults.numbers() {
            let mut config = StoreConfig::default();
            config.set_number(name, &number.to_string()).unwrap();
            assert_eq!(
                config.numbers().find(|(n, _)| *n == name),
                Some((name, number))
            );
            let range = &SETTINGS.iter().find(|s| s.name == name).unwrap().range;
            for end in [*range.start(), *range.end()] {
                config.set_number(name, &end.to_string()).unwrap();
                assert_eq!(
                    config.numbers().find(|(n, _)| *n == name),
                    Some((name, end))
                );
            }
        }
    }

    #[test]
    fn unknown_names_and_numbers_out_of_range_are_refused_by_name() {
        let mut config = StoreConfig::default();
        let unknown = config.set_number("merge_run", "3").unwrap_err().to_string();
        assert!(unknown.contains("merge_run") && unknown.contains("merge_runs_max"));
        for bad in ["", "-1", "1", "65", "3 "] {
            let refused = config.set_number("merge_runs_max", bad).unwrap_err();
            assert!(refused.to_string().contains("from 2 to 64"), "{refused}");
        }
    }
}
