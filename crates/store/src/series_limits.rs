//! How many series a database and each of its measurements may have, and how many they have.

use std::fmt;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::partition::PartitionState;

/// A limit that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {name} is {text:?}; write a number of series, or `none`")]
pub struct LimitError {
    /// Its name.
    pub name: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

/// More series than a limit allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{of} has no room for new series: setting {setting} allows {limit}; delete some or raise it with PUT /api/databases"
)]
pub struct TooManySeries {
    /// `database NAME` or `measurement NAME`, cut to 80 characters.
    pub of: String,
    /// The setting.
    pub setting: &'static str,
    /// Its value.
    pub limit: u64,
}

/// How many series, (tag set, field, kind), may exist; `None` is no bound. More than a limit that was lowered stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeriesLimits {
    /// In the database.
    pub database: Option<u64>,
    /// In each of its measurements.
    pub measurement: Option<u64>,
}

impl SeriesLimits {
    /// Names of the settings, in the order they are written.
    pub const NAMES: [&'static str; 2] = ["series_max", "measurement_series_max"];

    /// Sets the setting of this name.
    ///
    /// # Errors
    /// If the text is no number and not `none`. Other names than [`Self::NAMES`] are ignored.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), LimitError> {
        let Some(name) = Self::NAMES.into_iter().find(|n| *n == name) else {
            return Ok(());
        };
        let number = match text {
            "none" => None,
            text => Some(text.parse().map_err(|_| LimitError {
                name,
                text: text.chars().take(64).collect(),
            })?),
        };
        if name == Self::NAMES[0] {
            self.database = number;
        } else {
            self.measurement = number;
        }
        Ok(())
    }

    /// The setting of this name as [`Self::set`] reads it.
    pub fn get(&self, name: &str) -> String {
        let limit = if name == Self::NAMES[0] {
            self.database
        } else {
            self.measurement
        };
        limit.map_or_else(|| "none".into(), |n| n.to_string())
    }
}

impl fmt::Display for SeriesLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::NAMES
            .iter()
            .try_for_each(|name| write!(f, " {name}:{}", self.get(name)))
    }
}

#[derive(Debug, Default)]
struct Counts {
    limits: SeriesLimits,
    database: u64,
    measurements: HashMap<Box<str>, u64, foldhash::fast::FixedState>,
}

/// Series of a database and of its measurements, of all partitions. Its lock is taken for a moment, whatever else is
/// held, and only when series come or go.
#[derive(Debug, Default)]
pub(crate) struct SeriesCounts(Mutex<Counts>);

impl SeriesCounts {
    pub(crate) fn new(limits: SeriesLimits) -> Self {
        Self(Mutex::new(Counts {
            limits,
            ..Counts::default()
        }))
    }

    pub(crate) fn limits(&self) -> SeriesLimits {
        self.0.lock().limits
    }

    pub(crate) fn set_limits(&self, limits: SeriesLimits) {
        self.0.lock().limits = limits;
    }

    /// Counts what there is, after an opening. Costs a look at every row.
    pub(crate) fn recount<'a>(&self, parts: impl Iterator<Item = &'a PartitionState>) {
        let counts = &mut *self.0.lock();
        counts.database = 0;
        counts.measurements.clear();
        for part in parts {
            for size in part.index.read().measurement_sizes() {
                counts.database += size.series;
                *counts.measurements.entry_ref(&*size.name).or_default() += size.series;
            }
        }
    }

    /// Counts new series of a measurement, if all of them may come.
    pub(crate) fn admit(
        &self,
        database: &str,
        measurement: &str,
        series: u64,
    ) -> Result<(), TooManySeries> {
        let counts = &mut *self.0.lock();
        counts.room(database, measurement, series)?;
        counts.add(measurement, series);
        Ok(())
    }

    /// Counts new series of several measurements, or none of them if some may not come.
    pub(crate) fn admit_all(&self, database: &str, wanted: &[(Box<str>, u64)]) -> bool {
        let counts = &mut *self.0.lock();
        let all_fit = counts.have_room(database, wanted);
        if all_fit {
            for (name, series) in wanted {
                counts.add(name, *series);
            }
        }
        all_fit
    }

    /// Whether new series of several measurements may come.
    pub(crate) fn have_room(&self, database: &str, wanted: &[(Box<str>, u64)]) -> bool {
        self.0.lock().have_room(database, wanted)
    }

    /// Counts series of a measurement that have come, whatever the limits.
    pub(crate) fn count(&self, measurement: &str, series: u64) {
        self.0.lock().add(measurement, series);
    }

    /// The counts of these measurements and of the database, to see which of many series would fit. No other count is right.
    pub(crate) fn trial<'a>(&self, names: impl Iterator<Item = &'a str>) -> Trial {
        let counts = self.0.lock();
        let of = |name: &'a str| Some((name.into(), *counts.measurements.get(name)?));
        Trial(Counts {
            limits: counts.limits,
            database: counts.database,
            measurements: names.filter_map(of).collect(),
        })
    }

    /// Counts series of a measurement that are gone.
    pub(crate) fn forget(&self, measurement: &str, series: u64) {
        let counts = &mut *self.0.lock();
        counts.database = counts.database.saturating_sub(series);
        if let Some(count) = counts.measurements.get_mut(measurement) {
            *count = count.saturating_sub(series);
        }
    }

    #[cfg(test)]
    pub(crate) fn counted(&self, measurement: &str) -> (u64, u64) {
        let counts = self.0.lock();
        let of = counts.measurements.get(measurement);
        (counts.database, of.copied().unwrap_or(0))
    }
}

/// Counts to try with, apart from those that hold.
#[derive(Debug)]
pub(crate) struct Trial(Counts);

impl Trial {
    /// As [`SeriesCounts::admit`].
    pub(crate) fn admit(
        &mut self,
        database: &str,
        measurement: &str,
        series: u64,
    ) -> Result<(), TooManySeries> {
        self.0.room(database, measurement, series)?;
        self.0.add(measurement, series);
        Ok(())
    }
}

impl Counts {
    fn add(&mut self, measurement: &str, series: u64) {
        self.database += series;
        *self.measurements.entry_ref(measurement).or_default() += series;
    }

    fn room(&self, database: &str, measurement: &str, series: u64) -> Result<(), TooManySeries> {
        self.room_of_database(database, series)?;
        self.room_of_measurement(measurement, series)
    }

    fn have_room(&self, database: &str, wanted: &[(Box<str>, u64)]) -> bool {
        let all = wanted.iter().map(|(_, series)| series).sum();
        wanted.iter().all(|(name, series)| {
            self.room_of_database(database, all).is_ok()
                && self.room_of_measurement(name, *series).is_ok()
        })
    }

    fn room_of_database(&self, name: &str, series: u64) -> Result<(), TooManySeries> {
        let room = |limit| has_room(self.database, series, limit);
        match self.limits.database {
            Some(limit) if !room(limit) => Err(TooManySeries {
                of: format!("database {}", cut(name)),
                setting: SeriesLimits::NAMES[0],
                limit,
            }),
            _ => Ok(()),
        }
    }

    fn room_of_measurement(&self, name: &str, series: u64) -> Result<(), TooManySeries> {
        let Some(limit) = self.limits.measurement else {
            return Ok(());
        };
        let count = self.measurements.get(name).copied().unwrap_or(0);
        if has_room(count, series, limit) {
            return Ok(());
        }
        Err(TooManySeries {
            of: format!("measurement {}", cut(name)),
            setting: SeriesLimits::NAMES[1],
            limit,
        })
    }
}

/// Nothing new always has room, also where there are more than a limit that was lowered.
fn has_room(count: u64, series: u64, limit: u64) -> bool {
    series == 0 || count.saturating_add(series) <= limit
}

fn cut(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_what_they_print() {
        let mut limits = SeriesLimits::default();
        limits.set("series_max", "1000").unwrap();
        assert_eq!(
            limits.to_string(),
            " series_max:1000 measurement_series_max:none"
        );
        limits.set("measurement_series_max", "7").unwrap();
        limits.set("series_max", "none").unwrap();
        limits.set("another", "x").unwrap();
        assert_eq!((limits.database, limits.measurement), (None, Some(7)));
        for bad in ["", "-1", "1e6", "ever"] {
            assert!(limits.set("series_max", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_series_more_than_a_limit_is_refused_until_one_goes() {
        let counts = SeriesCounts::new(SeriesLimits {
            database: Some(3),
            measurement: Some(2),
        });
        counts.admit("db", "cpu", 1).unwrap();
        counts.admit("db", "cpu", 1).unwrap();
        let full = counts.admit("db", "cpu", 1).unwrap_err();
        assert_eq!((full.of.as_str(), full.limit), ("measurement cpu", 2));
        counts.admit("db", "mem", 1).unwrap();
        assert_eq!(counts.admit("db", "disk", 1).unwrap_err().of, "database db");
        counts.forget("cpu", 1);
        assert_eq!(counts.counted("cpu"), (2, 1));
        counts.admit("db", "cpu", 1).unwrap();
        counts.set_limits(SeriesLimits::default());
        counts.admit("db", "cpu", 1).unwrap();
    }

    #[test]
    fn many_series_are_counted_all_or_none() {
        let counts = SeriesCounts::new(SeriesLimits {
            database: Some(10),
            measurement: Some(6),
        });
        let wanted = |cpu, mem| [("cpu".into(), cpu), ("mem".into(), mem)];
        assert!(!counts.admit_all("db", &wanted(6, 5)));
        assert!(!counts.admit_all("db", &wanted(2, 7)));
        assert_eq!(counts.counted("cpu"), (0, 0));
        assert!(counts.admit_all("db", &wanted(6, 4)));
        assert_eq!(
            (counts.counted("cpu"), counts.counted("mem")),
            ((10, 6), (10, 4))
        );
        // Nothing new fits, whatever there is.
        counts.count("cpu", 3);
        assert!(counts.admit_all("db", &wanted(0, 0)));
        let mut trial = counts.trial(["mem", "new"].into_iter());
        assert_eq!(trial.admit("db", "new", 1).unwrap_err().of, "database db");
        counts.set_limits(SeriesLimits {
            database: None,
            measurement: Some(6),
        });
        let mut trial = counts.trial(["mem", "new"].into_iter());
        trial.admit("db", "mem", 2).unwrap();
        assert_eq!(
            trial.admit("db", "mem", 1).unwrap_err().of,
            "measurement mem"
        );
        assert_eq!(counts.counted("mem"), (13, 4));
    }
}
