//! How many series a database has, of what, and since when. Looks at the index, never at points.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_index::{DayGrowth, DistinctSketch, MeasurementSize};
use hashbrown::HashMap;

use crate::database::Database;
use crate::error::StoreError;
use crate::minute_counts::{MINUTES, minute_of};

/// Values of one tag up to which they are counted one by one, added up over segments.
const EXACT_VALUES_MAX: u64 = 1 << 16;

/// Values looked at for one answer. Tags with more than what is left are estimated by the sum over segments.
const VALUES_MAX: u64 = 32 << 20;

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
    /// Tag sets that have it.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cardinality {
    /// Tag sets that have a series; exact.
    pub tag_sets: u64,
    /// Series: field and kind of a tag set; exact.
    pub series: u64,
    /// Measurements in all, and those with the most series, the largest first; exact.
    pub measurements: (u64, Vec<MeasurementSize>),
    /// Tags in all, and those with the most values, the largest first.
    pub tags: (u64, Vec<TagCount>),
    /// Values with the most tag sets, the largest first. Of tags that were too many to be looked at there are none.
    pub values: Vec<ValueCount>,
    /// The last days of points, oldest first: tag sets with points that day, and those that had none before.
    pub days: Vec<DayGrowth>,
    /// Whether no tag set has lost all its series: such ones count among tags, values and days still.
    pub nothing_removed: bool,
    /// Whether nothing has expired either: what was there before a day may be forgotten otherwise.
    pub days_are_exact: bool,
    /// New series.
    pub rate: SeriesRate,
}

/// What is known of a tag over all partitions.
#[derive(Debug, Default)]
struct Tag {
    tag_sets: u64,
    /// Values added up over segments and partitions.
    looks: u64,
}

impl Database {
    /// How many series there are, of what, and since when: at most `top` of each list, and `days` days. Costs a read of
    /// every row's field list and of the values of the tags that are counted, at most 32 Mi of them; waits for blocks,
    /// without a lock.
    ///
    /// # Errors
    /// If a segment of the index cannot be read, or its bounds are met.
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
            for of_day in part.live.read().growth() {
                let sum = by_day.entry(of_day.day).or_insert(DayGrowth {
                    rows: 0,
                    new: 0,
                    ..of_day
                });
                sum.rows += of_day.rows;
                sum.new += of_day.new;
            }
        }
        let (tag_counts, values) = count_tags(self, tags, top, removed == 0)?;
        let mut sizes: Vec<MeasurementSize> = measurements.into_values().collect();
        sizes.retain(|size| size.tag_sets > 0);
        sizes.sort_unstable_by(|a, b| b.series.cmp(&a.series).then_with(|| a.name.cmp(&b.name)));
        let tag_sets = sizes.iter().map(|size| size.tag_sets).sum();
        let series = sizes.iter().map(|size| size.series).sum();
        let count = sizes.len() as u64;
        sizes.truncate(top);
        let skipped = by_day.len().saturating_sub(days);
        Ok(Cardinality {
            tag_sets,
            series,
            measurements: (count, sizes),
            tags: tag_counts,
            values,
            days: by_day.into_values().skip(skipped).collect(),
            nothing_removed: removed == 0,
            days_are_exact: removed == 0 && self.state.retention.cut().is_none(),
            rate: self.series_rate(),
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

/// Counts values, of tags with few of them first, so that one with too many takes nothing from the others.
fn count_tags(
    database: &Database,
    tags: BTreeMap<String, Tag>,
    top: usize,
    nothing_removed: bool,
) -> Result<(Tags, Vec<ValueCount>), StoreError> {
    let mut counts = Vec::with_capacity(tags.len());
    let mut values: Vec<ValueCount> = Vec::new();
    let mut by_looks: Vec<(String, Tag)> = tags.into_iter().collect();
    by_looks.sort_by_key(|(_, tag)| tag.looks);
    let mut left = VALUES_MAX;
    for (key, tag) in by_looks {
        let mut distinct = Count {
            count: tag.looks,
            is_exact: tag.looks <= 1 && nothing_removed,
        };
        if tag.looks <= left {
            left -= tag.looks;
            let found = count_values(database, &key, tag.looks, top)?;
            distinct = found.distinct;
            distinct.is_exact &= nothing_removed;
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
            values.truncate(top);
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
    counts.truncate(top);
    Ok(((count, counts), values))
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

fn count_values(
    database: &Database,
    key: &str,
    looks: u64,
    top: usize,
) -> Result<Values, StoreError> {
    let is_exact = looks <= EXACT_VALUES_MAX;
    let mut counter = ValueCounter::new(is_exact, top);
    let mut held = 0;
    for part in database.state.touched() {
        database.bounds.check()?;
        let segments = {
            let index = part.index.read();
            index.values_in_memory(key, |value, rows| counter.add(value, rows));
            Arc::clone(index.segments())
        };
        for segment in segments.iter() {
            database.bounds.check()?;
            counter.end_layer();
            database.bounds.hold(counter.bytes - held)?;
            held = counter.bytes;
            segment.tag_value_sizes(key, |value, rows| counter.add(value, rows))?;
        }
        counter.end_layer();
        database.bounds.hold(counter.bytes - held)?;
        held = counter.bytes;
    }
    let distinct = if is_exact {
        counter.sums.len() as u64
    } else {
        counter.sketch.estimate().min(looks)
    };
    let mut largest: Vec<(String, u64)> = counter.sums.into_iter().collect();
    keep_largest(&mut largest, top);
    database.bounds.release(held);
    Ok(Values {
        distinct: Count {
            count: distinct,
            is_exact,
        },
        largest,
    })
}

/// Adds up the values of layers: segments, and what is in memory. Of many values each layer gives those with the most
/// tag sets; what is small everywhere is left out.
struct ValueCounter {
    is_exact: bool,
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
    fn new(is_exact: bool, top: usize) -> Self {
        Self {
            is_exact,
            sketch: DistinctSketch::default(),
            sums: HashMap::new(),
            bytes: 0,
            layer: Vec::new(),
            kept: top.saturating_mul(4).max(64),
            least: 0,
        }
    }

    fn add(&mut self, value: &str, rows: u64) {
        if self.is_exact {
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
        for is_exact in [true, false] {
            let mut counter = ValueCounter::new(is_exact, 2);
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
            assert_eq!(largest, expected, "{is_exact}");
            assert_eq!(counter.sums.len() == 3002, is_exact);
        }
    }
}
