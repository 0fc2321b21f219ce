//! How many series a database has, of what, and since when. Looks at the index, never at points.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_index::{DayGrowth, DistinctSketch, MeasurementSize};
use alluvium_types::TimeRange;
use hashbrown::HashMap;

use crate::bounds::Bounds;
use crate::config::StoreConfig;
use crate::database::Database;
use crate::databases::DatabaseState;
use crate::error::StoreError;
use crate::losses::{IndexLoss, OnLoss};
use crate::minute_counts::{MINUTES, minute_of};

/// What a sum takes beside its value, roughly.
const SUM_BYTES: u64 = 64;

/// A number, and whether it is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// Whether it is not an estimate.
    pub is_exact: bool,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagCount {
    /// Its key.
    pub key: String,
    /// Distinct values.
    pub values: Count,
    /// Tag sets that have it and a series; exact.
    pub tag_sets: u64,
}

/// A value of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueCount {
    /// The tag's key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Tag sets that have it; an estimate is never too high.
    pub tag_sets: Count,
}

/// How fast series are made. Exact since the store was opened; what came before is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesRate {
    /// In the present minute so far.
    pub this_minute: u64,
    /// In each minute before it, the last one first: 60, or as many as the store has been open.
    pub minutes: Vec<u64>,
}

/// How many series a database has, of what, and since when.
#[derive(Debug, Clone)]
pub struct Cardinality {
    /// Tag sets that have a series; exact.
    pub tag_sets: u64,
    /// Series: field and kind of a tag set; exact.
    pub series: u64,
    /// Measurements in all, and those with the most series, the largest first; exact.
    pub measurements: (u64, Vec<MeasurementSize>),
    /// Tags of tag sets that have a series, exact, and those with the most values, the largest first.
    pub tags: (u64, Vec<TagCount>),
    /// Values with the most tag sets, the largest first. Of tags that were too many to be looked at there are none.
    pub values: Vec<ValueCount>,
    /// The last days of points, oldest first: tag sets with points that day, and those that had none before.
    pub days: Vec<DayGrowth>,
    /// Whether no tag set has lost all its series: such ones count among values and days still.
    pub nothing_removed: bool,
    /// Whether nothing has expired either: what was there before a day may be forgotten otherwise.
    pub days_are_exact: bool,
    /// New series.
    pub rate: SeriesRate,
    /// Tag sets whose values were not counted, because both copies of a block of the index are damaged.
    pub losses: Vec<IndexLoss>,
}

/// What is known of a tag over all partitions.
#[derive(Debug, Default)]
struct Tag {
    tag_sets: u64,
    /// Values added up over segments and partitions.
    looks: u64,
}

impl Database {
    /// How many series there are, of what, and since when: at most `top` of each list, and `days` days. Costs a look at every
    /// row and a read of the values of the tags that are counted, at most `cardinality_values_max` of them; waits for blocks,
    /// without a lock. Goes around blocks of the index that do not hold, which costs a read of their segment's tag sets.
    ///
    /// # Errors
    /// If its bounds are met.
    pub fn cardinality(&self, top: usize, days: usize) -> Result<Cardinality, StoreError> {
        let mut measurements: HashMap<String, MeasurementSize> = HashMap::new();
        let mut tags: BTreeMap<String, Tag> = BTreeMap::new();
        let mut by_day: BTreeMap<i64, DayGrowth> = BTreeMap::new();
        let mut removed = 0;
        for part in self.state.touched() {
            self.bounds.check()?;
            let index = part.index.read();
            for size in index.measurement_sizes() {
                let sum = measurements.entry_ref(size.name.as_str());
                let sum = sum.or_insert_with(|| MeasurementSize {
                    tag_sets: 0,
                    series: 0,
                    ..size.clone()
                });
                sum.tag_sets += size.tag_sets;
                sum.series += size.series;
            }
            for size in index.tag_sizes() {
                let tag = tags.entry(size.key).or_default();
                tag.tag_sets += size.tag_sets;
                tag.looks += size.values;
            }
            removed += index.removed_rows();
            drop(index);
            let days = part.live.read().days_in(TimeRange::ALL);
            for of_day in days.growth() {
                let sum = by_day.entry(of_day.day).or_insert(DayGrowth {
                    rows: 0,
                    new: 0,
                    ..of_day
                });
                sum.rows += of_day.rows;
                sum.new += of_day.new;
            }
        }
        // What only tag sets without a series have is not there.
        tags.retain(|_, tag| tag.tag_sets > 0);
        let count = TagCounting {
            database: &self.state,
            config: &self.store.config,
            bounds: &self.bounds,
            nothing_removed: removed == 0,
            top,
            on_loss: OnLoss::noting(),
        };
        let (tag_counts, values) = count.tags(tags)?;
        let mut sizes: Vec<MeasurementSize> = measurements.into_values().collect();
        sizes.retain(|size| size.tag_sets > 0);
        sizes.sort_unstable_by(|a, b| b.series.cmp(&a.series).then_with(|| a.name.cmp(&b.name)));
        let tag_sets = sizes.iter().map(|size| size.tag_sets).sum();
        let series = sizes.iter().map(|size| size.series).sum();
        let measurement_count = sizes.len() as u64;
        sizes.truncate(top);
        let skipped = by_day.len().saturating_sub(days);
        Ok(Cardinality {
            tag_sets,
            series,
            measurements: (measurement_count, sizes),
            tags: tag_counts,
            values,
            days: by_day.into_values().skip(skipped).collect(),
            nothing_removed: removed == 0,
            days_are_exact: removed == 0 && self.state.retention.cut().is_none(),
            rate: self.series_rate(),
            losses: count.on_loss.noted(),
        })
    }

    fn series_rate(&self) -> SeriesRate {
        let now = minute_of(self.store.clock.monotonic_ns());
        let opened = minute_of(self.store.opened_ns);
        let in_minute = |minute: u64| self.state.touched().map(|p| p.created.of(minute)).sum();
        let minutes = (1..=MINUTES).filter_map(|back| now.checked_sub(back));
        SeriesRate {
            this_minute: in_minute(now),
            minutes: minutes.filter(|m| *m >= opened).map(in_minute).collect(),
        }
    }
}

type Tags = (u64, Vec<TagCount>);

/// A count of tags and their values.
struct TagCounting<'a> {
    database: &'a DatabaseState,
    config: &'a StoreConfig,
    bounds: &'a Bounds,
    nothing_removed: bool,
    top: usize,
    on_loss: OnLoss,
}

impl TagCounting<'_> {
    /// Counts values, of tags with few of them first, so that one with too many takes nothing from the others.
    fn tags(&self, tags: BTreeMap<String, Tag>) -> Result<(Tags, Vec<ValueCount>), StoreError> {
        let mut counts = Vec::with_capacity(tags.len());
        let mut values: Vec<ValueCount> = Vec::new();
        let mut by_looks: Vec<(String, Tag)> = tags.into_iter().collect();
        by_looks.sort_by_key(|(_, tag)| tag.looks);
        let mut left = self.config.cardinality_values_max;
        for (key, tag) in by_looks {
            let mut distinct = Count {
                count: tag.looks,
                is_exact: tag.looks <= 1 && self.nothing_removed,
            };
            if tag.looks <= left {
                left -= tag.looks;
                let found = self.values(&key, tag.looks)?;
                distinct = found.distinct;
                distinct.is_exact &= self.nothing_removed;
                let found = found.largest.into_iter();
                values.extend(found.map(|(value, count)| ValueCount {
                    key: key.clone(),
                    value,
                    tag_sets: Count {
                        count,
                        is_exact: distinct.is_exact,
                    },
                }));
                largest_first(&mut values);
                values.truncate(self.top);
            }
            counts.push(TagCount {
                key,
                values: distinct,
                tag_sets: tag.tag_sets,
            });
        }
        counts.sort_by(|a, b| {
            let by_count = b.values.count.cmp(&a.values.count);
            by_count.then_with(|| a.key.cmp(&b.key))
        });
        let count = counts.len() as u64;
        counts.truncate(self.top);
        Ok(((count, counts), values))
    }

    fn values(&self, key: &str, looks: u64) -> Result<Values, StoreError> {
        let one_by_one = looks <= self.config.cardinality_exact_values_max;
        let mut counter = ValueCounter::new(one_by_one, self.top);
        let (mut is_whole, mut held) = (true, 0);
        for part in self.database.touched() {
            self.bounds.check()?;
            let segments = {
                let index = part.index.read();
                index.values_in_memory(key, |value, rows| counter.add(value, rows));
                Arc::clone(index.segments())
            };
            for segment in segments.iter() {
                self.bounds.check()?;
                counter.end_layer();
                self.bounds.hold(counter.bytes - held)?;
                held = counter.bytes;
                let mut seen = 0;
                let add = |value: &str, rows| {
                    seen += 1;
                    counter.add(value, rows);
                };
                if segment.tag_value_sizes(key, add).is_err() {
                    let add = |value: &str, rows| counter.add(value, rows);
                    let lost = segment.tag_value_sizes_carefully(key, seen, add);
                    is_whole &= lost.is_none();
                    self.on_loss.take(part.partition, lost)?;
                }
            }
            counter.end_layer();
            self.bounds.hold(counter.bytes - held)?;
            held = counter.bytes;
        }
        let distinct = if one_by_one {
            counter.sums.len() as u64
        } else {
            counter.sketch.estimate().min(looks)
        };
        let mut largest: Vec<(String, u64)> = counter.sums.into_iter().collect();
        keep_largest(&mut largest, self.top);
        self.bounds.release(held);
        Ok(Values {
            distinct: Count {
                count: distinct,
                is_exact: one_by_one && is_whole,
            },
            largest,
        })
    }
}

fn largest_first(values: &mut [ValueCount]) {
    values.sort_by(|a, b| {
        let by_count = b.tag_sets.count.cmp(&a.tag_sets.count);
        by_count.then_with(|| (&a.key, &a.value).cmp(&(&b.key, &b.value)))
    });
}

/// The values of one tag.
struct Values {
    distinct: Count,
    /// The values with the most tag sets.
    largest: Vec<(String, u64)>,
}

/// Adds up the values of layers: segments, and what is in memory. Of many values each layer gives those with the most
/// tag sets; what is small everywhere is left out.
struct ValueCounter {
    one_by_one: bool,
    sketch: DistinctSketch,
    sums: HashMap<String, u64>,
    /// What they take, roughly and at most.
    bytes: u64,
    /// The largest of the present layer, twice as many as are kept at most.
    layer: Vec<(String, u64)>,
    kept: usize,
    /// Values with no more tag sets are not among those kept.
    least: u64,
}

impl ValueCounter {
    fn new(one_by_one: bool, top: usize) -> Self {
        Self {
            one_by_one,
            sketch: DistinctSketch::default(),
            sums: HashMap::new(),
            bytes: 0,
            layer: Vec::new(),
            kept: top.saturating_mul(4).max(64),
            least: 0,
        }
    }

    fn add(&mut self, value: &str, rows: u64) {
        if self.one_by_one {
            self.bytes += SUM_BYTES + value.len() as u64;
            *self.sums.entry_ref(value).or_default() += rows;
            return;
        }
        self.sketch.add(value);
        if rows <= self.least {
            return;
        }
        self.layer.push((value.to_owned(), rows));
        if self.layer.len() >= 2 * self.kept {
            keep_largest(&mut self.layer, self.kept);
            self.least = self.layer.last().map_or(0, |(_, rows)| *rows);
        }
    }

    fn end_layer(&mut self) {
        keep_largest(&mut self.layer, self.kept);
        self.least = 0;
        for (value, rows) in self.layer.drain(..) {
            self.bytes += SUM_BYTES + value.len() as u64;
            *self.sums.entry(value).or_default() += rows;
        }
    }
}

fn keep_largest(values: &mut Vec<(String, u64)>, count: usize) {
    values.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    values.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_values_of_many_layers_come_through() {
        for one_by_one in [true, false] {
            let mut counter = ValueCounter::new(one_by_one, 2);
            for layer in 0..3 {
                for n in 0..1000_u64 {
                    // Small ones are not the same in every layer, large ones are.
                    counter.add(&format!("small {layer} {n}"), 1 + n % 3);
                    if n % 400 == 399 {
                        counter.add(&format!("large {}", n / 400), 50 + n);
                    }
                }
                counter.end_layer();
            }
            let mut largest: Vec<_> = counter.sums.clone().into_iter().collect();
            keep_largest(&mut largest, 2);
            let expected = [("large 1".to_owned(), 2547), ("large 0".to_owned(), 1347)];
            assert_eq!(largest, expected, "{one_by_one}");
            assert_eq!(counter.sums.len() == 3002, one_by_one);
        }
    }
}
