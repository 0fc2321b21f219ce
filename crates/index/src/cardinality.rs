//! How many there are: tag sets of measurements, values of tags, tag sets of values.

use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64;

use crate::head::Head;
use crate::palette::CHUNK;
use crate::postings::RowsRef;
use crate::segment::SegmentKey;
use crate::{PartitionIndex, Segment, SegmentError};

/// Registers of a sketch, a power of two: 4096 make the standard error 1.04 / 64, or 1.6 %.
const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 12;

/// How many tag sets and series a measurement has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasurementSize {
    /// Its name.
    pub name: String,
    /// Tag sets that have a series.
    pub tag_sets: u64,
    /// Series: field and kind of a tag set.
    pub series: u64,
}

/// How many tag sets and values a tag has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSize {
    /// Its key.
    pub key: String,
    /// Tag sets that have it, and a series.
    pub tag_sets: u64,
    /// Its values in each segment and in memory, added up: how many looks a count of them takes, and how many
    /// distinct ones there are at most.
    pub values: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct ShapeSize {
    tag_sets: u64,
    series: u64,
}

impl PartitionIndex {
    /// Measurements with what they hold, in creation order. Costs a look at every row, or at every 4096 of them where they are
    /// alike, and at every shape; never waits.
    pub fn measurement_sizes(&self) -> Vec<MeasurementSize> {
        let names = self.measurement_names.iter();
        let sizes = names.map(|name| MeasurementSize {
            name: name.to_owned(),
            tag_sets: 0,
            series: 0,
        });
        let mut sizes: Vec<MeasurementSize> = sizes.collect();
        for (shape, of_shape) in self.schemas.iter().zip(self.shape_sizes()) {
            if let Some(size) = sizes.get_mut(shape.measurement as usize) {
                size.tag_sets += of_shape.tag_sets;
                size.series += of_shape.series;
            }
        }
        sizes
    }

    /// Tags with what they hold, in creation order. Costs as [`Self::measurement_sizes`] does, and a look at every key of each
    /// shape and segment; never waits.
    pub fn tag_sizes(&self) -> Vec<TagSize> {
        let names = self.key_names.iter();
        let sizes = names.map(|name| TagSize {
            key: name.to_owned(),
            tag_sets: 0,
            values: 0,
        });
        let mut sizes: Vec<TagSize> = sizes.collect();
        for (shape, of_shape) in self.schemas.iter().zip(self.shape_sizes()) {
            for key in &shape.keys {
                if let Some(size) = sizes.get_mut(*key as usize) {
                    size.tag_sets += of_shape.tag_sets;
                }
            }
        }
        let sealed = self.sealed.iter().flat_map(|segment| &segment.keys);
        let sealed = sealed.map(|key| (key.id, key.values));
        let in_memory = self.heads().flat_map(Head::keys);
        let in_memory = in_memory.map(|(id, key)| (id, key.values.len()));
        for (id, values) in sealed.chain(in_memory) {
            if let Some(size) = sizes.get_mut(id as usize) {
                size.values += u64::from(values);
            }
        }
        sizes
    }

    /// What each shape holds.
    fn shape_sizes(&self) -> Vec<ShapeSize> {
        let mut sizes = vec![ShapeSize::default(); self.schemas.len() as usize];
        let mut add = |shape: u32, list: u32, rows: u64| {
            let series = self.sets.series(list);
            if let Some(size) = sizes.get_mut(shape as usize).filter(|_| series > 0) {
                size.tag_sets += rows;
                size.series += rows * series;
            }
        };
        let end = self.row_count() as usize;
        for (chunk, begin) in (0..end).step_by(CHUNK).enumerate() {
            let rows = begin..end.min(begin + CHUNK);
            let shape = self.row_schemas.uniform(chunk);
            if let (Some(shape), Some(list)) = (shape, self.row_sets.uniform(chunk)) {
                add(shape, list, rows.len() as u64);
                continue;
            }
            for row in rows {
                let (shape, list) = (self.row_schemas.get(row), self.row_sets.get(row));
                if let (Some(shape), Some(list)) = (shape, list) {
                    add(shape, list, 1);
                }
            }
        }
        sizes
    }

    /// Calls `visit` with each value that a tag has in memory and its number of tag sets; a value comes again where rows
    /// are frozen. Never waits.
    pub fn values_in_memory(&self, key: &str, mut visit: impl FnMut(&str, u64)) {
        let Some(id) = self.key_names.find(key) else {
            return;
        };
        for head in self.heads() {
            let Some(key) = head.key(id) else { continue };
            for (value, name) in (0..).zip(key.values.iter()) {
                visit(name, head.value_rows(id, value).map_or(0, RowsRef::len));
            }
        }
    }

    /// Rows that had series and have none: what is counted by values counts them still.
    pub fn removed_rows(&self) -> u64 {
        self.removed.len()
    }
}

impl Segment {
    /// Calls `visit` with each value of a tag and its number of tag sets, ascending by value. Reads all value blocks of
    /// the tag, and the bitmaps of values with many.
    ///
    /// # Errors
    /// If a block cannot be read or is damaged.
    pub fn tag_value_sizes(
        &self,
        key: &str,
        mut visit: impl FnMut(&str, u64),
    ) -> Result<(), SegmentError> {
        let Some((_, key)) = self.key_named(key) else {
            return Ok(());
        };
        let counts = self.value_counts(key)?;
        self.scan_values(key, "", |rank, value| {
            visit(
                value,
                counts.get(rank as usize).copied().unwrap_or(0).into(),
            );
            true
        })
    }

    fn value_counts(&self, key: &SegmentKey) -> Result<Vec<u32>, SegmentError> {
        // Bounded by the rows: each value has one.
        let mut counts = vec![0_u32; key.values as usize];
        let mut bitmaps: Vec<(u32, u64)> = Vec::new();
        self.rows_of_values(
            key,
            std::slice::from_ref(&(0..key.values)),
            |rank, _| {
                if let Some(count) = counts.get_mut(rank as usize) {
                    *count += 1;
                }
            },
            |rank, rows: RoaringBitmap| bitmaps.push((rank, rows.len())),
        )?;
        for (rank, rows) in bitmaps {
            if let Some(count) = counts.get_mut(rank as usize) {
                *count += rows as u32;
            }
        }
        Ok(counts)
    }
}

/// Estimates how many distinct texts were added, in 4 KiB: HyperLogLog (Flajolet and others, 2007), with linear
/// counting where few registers are set. Standard error 1.6 %.
#[derive(Debug, Clone)]
pub struct DistinctSketch {
    registers: Box<[u8; REGISTERS]>,
}

impl Default for DistinctSketch {
    fn default() -> Self {
        Self {
            registers: Box::new([0; REGISTERS]),
        }
    }
}

impl DistinctSketch {
    /// Adds a text. A text added again changes nothing.
    pub fn add(&mut self, text: &str) {
        let hash = xxh3_64(text.as_bytes());
        let register = (hash >> (u64::BITS - REGISTER_BITS)) as usize;
        // The bit at the end bounds the rank where all others are 0.
        let rest = hash << REGISTER_BITS | 1 << (REGISTER_BITS - 1);
        let rank = rest.leading_zeros() as u8 + 1;
        if let Some(known) = self.registers.get_mut(register) {
            *known = rank.max(*known);
        }
    }

    /// About how many distinct texts there were.
    pub fn estimate(&self) -> u64 {
        let count = REGISTERS as f64;
        let sum: f64 = self
            .registers
            .iter()
            .map(|r| 0.5_f64.powi((*r).into()))
            .sum();
        let raw = 0.7213 / (1.0 + 1.079 / count) * count * count / sum;
        let empty = self.registers.iter().map(|r| usize::from(*r == 0));
        let empty: usize = empty.sum();
        let estimate = if raw <= 2.5 * count && empty > 0 {
            count * (count / empty as f64).ln()
        } else {
            raw
        };
        estimate.round() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use alluvium_types::{Row, SeriesKey, ValueKind};

    use super::*;
    use crate::{KeyHash, KindSet};

    #[test]
    fn sketches_are_near_what_was_added() {
        let mut sketch = DistinctSketch::default();
        assert_eq!(sketch.estimate(), 0);
        let mut added: u32 = 0;
        for expected in [10_u32, 1000, 20_000, 300_000] {
            while added < expected {
                sketch.add(&format!("value {added}"));
                sketch.add(&format!("value {}", added / 2));
                added += 1;
            }
            let error = sketch.estimate() as f64 / f64::from(expected) - 1.0;
            assert!(error.abs() < 0.05, "{expected}: {error}");
        }
    }

    /// Rows half sealed, half in memory: 100 hosts in three regions, odd ones with two fields.
    fn index() -> PartitionIndex {
        let mut index = PartitionIndex::new();
        for n in 0..200 {
            let host = format!("h{}", n % 100);
            let measurement = if n < 100 { "cpu" } else { "mem" };
            let tags = [("host", host), ("region", format!("r{}", n % 3))];
            let key = SeriesKey::new(measurement, tags).unwrap();
            let hash = KeyHash::of(1, &key, &mut Vec::new());
            let row = index.insert_row(hash, &key).unwrap();
            let measurement = index.measurement(measurement).unwrap();
            for field in ["idle", "user"].iter().take(1 + n % 2) {
                let field = index.insert_field(measurement, field).unwrap();
                index.add_series(row, field, ValueKind::F64).unwrap();
            }
            if n == 120 {
                index.freeze();
                let bytes = index.seal_job().unwrap().build(&index);
                let segment = Segment::open(Arc::new(bytes)).unwrap();
                index.seal(Arc::new(segment)).unwrap();
            }
        }
        index
    }

    #[test]
    fn sizes_count_what_is_sealed_and_what_is_not() {
        let index = index();
        let size = |name: &str| MeasurementSize {
            name: name.into(),
            tag_sets: 100,
            series: 150,
        };
        assert_eq!(index.measurement_sizes(), [size("cpu"), size("mem")]);
        let tags = index.tag_sizes();
        assert_eq!((tags[0].key.as_str(), tags[0].tag_sets), ("host", 200));
        assert_eq!((tags[1].key.as_str(), tags[1].tag_sets), ("region", 200));
        // A hundred in the segment, those of rows 121 to 199 in memory.
        assert_eq!((tags[0].values, tags[1].values), (179, 6));
        let mut regions: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |value: &str, rows| *regions.entry(value.into()).or_default() += rows;
        index.values_in_memory("region", &mut add);
        for segment in index.segments().iter() {
            segment.tag_value_sizes("region", &mut add).unwrap();
        }
        let regions: Vec<_> = regions.iter().map(|(v, n)| (v.as_str(), *n)).collect();
        assert_eq!(regions, [("r0", 67), ("r1", 67), ("r2", 66)]);
    }

    #[test]
    fn rows_without_series_are_not_counted_among_tags() {
        let mut index = index();
        for row in (0..100).chain([150, 151]).map(Row) {
            index.retain_series(row, |_, _| KindSet::EMPTY);
        }
        let sizes = index.measurement_sizes();
        let sizes = sizes.iter().map(|m| (m.tag_sets, m.series));
        assert_eq!(sizes.collect::<Vec<_>>(), [(0, 0), (98, 147)]);
        let tags = index.tag_sizes();
        assert_eq!((tags[0].tag_sets, tags[1].tag_sets), (98, 98));
    }

    /// Many measurements with tags of their own, over several segments: every count is that of all rows looked at one by one.
    #[test]
    fn sizes_of_many_shapes_are_those_of_their_rows() {
        let mut index = PartitionIndex::new();
        let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for n in 0..20_000_u64 {
            // Rows that are alike by chunks at first, in turn behind.
            let of = if n < 9000 { n / 4500 } else { n % 700 };
            let (name, own) = (format!("m{of}"), format!("t{}", of % 300));
            let tags = [("host", n.to_string()), (own.as_str(), "x".to_owned())];
            let key = SeriesKey::new(&name, tags).unwrap();
            let hash = KeyHash::of(1, &key, &mut Vec::new());
            let row = index.insert_row(hash, &key).unwrap();
            let measurement = index.measurement(&name).unwrap();
            let fields = 1 + of % 3;
            for field in 0..fields {
                let field = index.insert_field(measurement, &format!("f{field}"));
                index
                    .add_series(row, field.unwrap(), ValueKind::F64)
                    .unwrap();
            }
            for name in [name, own, "host".into()] {
                let (tag_sets, series) = expected.entry(name).or_default();
                (*tag_sets, *series) = (*tag_sets + 1, *series + fields);
            }
            if n % 6000 == 5999 {
                index.freeze();
                let bytes = index.seal_job().unwrap().build(&index);
                let segment = Segment::open(Arc::new(bytes)).unwrap();
                index.seal(Arc::new(segment)).unwrap();
            }
        }
        let measurements = index.measurement_sizes();
        assert_eq!(measurements.len(), 700);
        for size in measurements {
            let found = (size.tag_sets, size.series);
            assert_eq!(expected.get(&size.name), Some(&found), "{}", size.name);
        }
        let tags = index.tag_sizes();
        assert_eq!(tags.len(), 301);
        for size in tags {
            let tag_sets = expected.get(&size.key).map(|(tag_sets, _)| *tag_sets);
            assert_eq!(tag_sets, Some(size.tag_sets), "{}", size.key);
        }
    }
}
