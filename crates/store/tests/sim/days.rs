//! Series by the days of their points.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_store::{Database, Selector};
use alluvium_types::{TimeRange, ValueKind};

use super::oracle::Key;
use super::world::host_of;
use crate::model::Model;

pub const DAY_NS: i64 = 86_400_000_000_000;

/// Each series is found by the days of its points, and none by a day that nobody can have written to.
pub fn check(database: &Database, found: &Model) {
    let mut by_day: BTreeMap<i64, BTreeSet<Key>> = BTreeMap::new();
    for (key, points) in &found.series {
        for time in points.keys() {
            let of_day = by_day.entry(time.div_euclid(DAY_NS)).or_default();
            of_day.insert(key.clone());
        }
    }
    let Some((first, last)) = by_day
        .keys()
        .next()
        .copied()
        .zip(by_day.keys().next_back().copied())
    else {
        return;
    };
    let snapshot = database.snapshot();
    let of_day = |day: i64| {
        let range = TimeRange::new(day * DAY_NS, (day + 1) * DAY_NS).unwrap();
        snapshot.select_in(&Selector::default(), range).unwrap()
    };
    for (day, wanted) in by_day {
        let listed = of_day(day);
        let listed: BTreeSet<Key> = listed
            .iter()
            .map(|info| {
                let text = info.id.kind() == ValueKind::Str;
                (host_of(&info.key), info.field.to_string(), text)
            })
            .collect();
        assert!(listed.is_superset(&wanted), "day {day}");
    }
    for day in [first.min(0) - 2, last + 2] {
        assert!(of_day(day).is_empty(), "day {day}");
    }
}
