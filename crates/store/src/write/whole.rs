//! A batch of which all is taken or nothing. What it would make is found before any shard's lock is taken, and the limits of
//! series are asked for all of it at once; then it is written as any other.
//!
//! What it has found stays so: while a partition is held nothing leaves its memory or its name table, and room that was
//! granted is this batch's. If a delete takes series of it between that look and the writing they are made again, beyond a
//! limit if others have taken their room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_index::{IndexError, KeyHash, KindSet, PartitionIndex};
use alluvium_types::{FieldId, Owner, PARTITION_COUNT, Partition};
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::define::kind_in;
use super::room::New;
use super::{BatchLine, Writer};
use crate::commit::{Commit, LeftOutLines};
use crate::config::Durability;
use crate::error::WriteError;
use crate::partition::PartitionState;
use crate::series_limits::{SeriesCounts, Trial};

/// Bytes of memory that looking at one value of a new series takes, at most.
const VALUE_BYTES: u64 = 128;

/// Room for series that the limits have granted a batch, by measurement.
#[derive(Debug, Default)]
pub(super) struct Granted(HashMap<Box<str>, u64, foldhash::fast::FixedState>);

impl Granted {
    /// Uses room for new series; what was not granted is counted all the same.
    pub(super) fn take(&mut self, counts: &SeriesCounts, measurement: &str, series: u64) {
        let left = self.0.get_mut(measurement);
        let granted = left.map_or(0, |left| {
            let taken = series.min(*left);
            *left -= taken;
            taken
        });
        if series > granted {
            counts.count(measurement, series - granted);
        }
    }

    /// Gives back what was not used.
    fn give_back(self, counts: &SeriesCounts) {
        for (measurement, left) in self.0.iter().filter(|(_, left)| **left > 0) {
            counts.forget(measurement, *left);
        }
    }
}

/// Partitions that keep what they have in memory, until it is dropped.
struct Held(Vec<Arc<PartitionState>>);

impl Drop for Held {
    fn drop(&mut self) {
        for part in &self.0 {
            part.held.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What a batch would make that is not there.
#[derive(Default)]
struct Wanted {
    measurements: Vec<(Box<str>, u64)>,
    by_name: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    refused: LeftOutLines,
    /// How much of the index it would be.
    new: New,
    /// Tried line by line: what is refused makes nothing.
    trial: Option<Trial>,
}

impl Wanted {
    fn measurement(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = self.measurements.len() as u32;
        self.measurements.push((name.into(), 0));
        self.by_name.insert(name.into(), number);
        number
    }
}

/// A tag set, whether it is there or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Row(u32),
    New(KeyHash),
}

/// What the lines of one partition looked at so far would make.
#[derive(Default)]
struct Seen {
    rows: HashSet<KeyHash, foldhash::fast::FixedState>,
    /// By number of the measurement and name.
    fields: HashSet<(u32, u32), foldhash::fast::FixedState>,
    /// By number of the measurement, how many of them.
    field_counts: HashMap<u32, usize, foldhash::fast::FixedState>,
    kinds: HashMap<(Place, u32), KindSet, foldhash::fast::FixedState>,
}

impl Seen {
    /// Notes a field that a measurement does not have. `None` if it was met; otherwise whether the measurement, which has
    /// `there`, would have too many.
    fn add_field(&mut self, measurement: u32, name: u32, there: u32) -> Option<bool> {
        self.fields.insert((measurement, name)).then(|| {
            let new = self.field_counts.entry(measurement).or_default();
            *new += 1;
            there as usize + *new > FieldId::LIMIT as usize
        })
    }
}

impl Writer {
    /// As [`Self::commit`], but if a line would be left out nothing of the batch is taken: neither points nor names. A crash
    /// before the commit has ended may leave a part, as of any batch: for each partition all of it, or its first so many
    /// lines where they are more than a section of the log.
    ///
    /// Costs a look at every line whose series this writer does not know, and nothing for others.
    ///
    /// # Errors
    /// [`WriteError::Lines`] if the limits have no room for all new series, or the index has no number for a new row or
    /// field; otherwise as [`Self::commit`].
    pub fn commit_whole(&mut self, durability: Option<Durability>) -> Result<Commit, WriteError> {
        self.commit_with(durability, |writer, level| {
            let _held = writer.hold();
            writer.granted = Some(Granted::default());
            let result = writer.commit_batch(level);
            if let Some(granted) = writer.granted.take() {
                granted.give_back(&writer.database.series_counts);
            }
            result
        })
    }

    fn hold(&self) -> Held {
        let with_lines = (0..PARTITION_COUNT).filter(|p| !self.batch.lines[*p].is_empty());
        let parts = with_lines.map(|p| Arc::clone(self.database.partition(Partition(p as u8))));
        let held = Held(parts.collect());
        for part in &held.0 {
            part.held.fetch_add(1, Ordering::AcqRel);
        }
        held
    }

    /// Finds what the batch would make and asks for room for all of it.
    pub(super) fn grant(&mut self) -> Result<(), WriteError> {
        self.granted = Some(self.look(Self::ask_for_room)??);
        Ok(())
    }

    /// Runs `work`, which looks at every line whose series this writer does not know, with memory for that.
    pub(super) fn look<T>(&mut self, work: impl FnOnce(&Self) -> T) -> Result<T, WriteError> {
        for p in 0..PARTITION_COUNT {
            if !self.batch.lines[p].is_empty() {
                let part = Arc::clone(self.database.partition(Partition(p as u8)));
                self.note_removals(&part);
            }
        }
        let values = |p: usize| {
            let unsettled = self.batch.lines[p].iter().filter(|l| !self.is_settled(l));
            let of = |line: &BatchLine| self.shapes.lists[line.shape as usize].len() as u64;
            unsettled.map(of).sum()
        };
        let most: u64 = (0..PARTITION_COUNT).map(values).max().unwrap_or(0);
        let bytes = most * VALUE_BYTES;
        let budget = &self.store.budget;
        budget.reserve_within(Owner::Staging, bytes, self.store.staging_limit())?;
        let result = work(self);
        budget.release(Owner::Staging, bytes);
        Ok(result)
    }

    /// What the lines would make, without those that the limits of series have no room for.
    pub(super) fn count_new(&self) -> New {
        let counts = &self.database.series_counts;
        let mut wanted = Wanted::default();
        (0..PARTITION_COUNT).for_each(|p| self.want(p, &mut wanted));
        if counts.have_room(&self.database.name, &wanted.measurements) {
            return wanted.new;
        }
        let names = wanted.measurements.iter().map(|(name, _)| &**name);
        let mut tried = Wanted {
            trial: Some(counts.trial(names)),
            ..Wanted::default()
        };
        (0..PARTITION_COUNT).for_each(|p| self.want(p, &mut tried));
        tried.new
    }

    fn ask_for_room(&self) -> Result<Granted, WriteError> {
        let counts = &self.database.series_counts;
        let mut wanted = Wanted::default();
        (0..PARTITION_COUNT).for_each(|p| self.want(p, &mut wanted));
        let fits = wanted.refused.lines() == 0
            && counts.admit_all(&self.database.name, &wanted.measurements);
        if fits {
            return Ok(Granted(wanted.measurements.into_iter().collect()));
        }
        // Once more, to tell which lines do not.
        let names = wanted.measurements.iter().map(|(name, _)| &**name);
        let mut tried = Wanted {
            trial: Some(counts.trial(names)),
            ..Wanted::default()
        };
        (0..PARTITION_COUNT).for_each(|p| self.want(p, &mut tried));
        if tried.refused.lines() == 0 {
            // A delete has made room since.
            return Err(WriteError::Backlog { pending_bytes: 0 });
        }
        Err(WriteError::Lines(Box::new(tried.refused)))
    }

    pub(super) fn is_settled(&self, line: &BatchLine) -> bool {
        self.keys.known[line.token as usize].is_settled(line.shape)
    }

    /// Finds what the lines of one partition would make.
    fn want(&self, p: usize, wanted: &mut Wanted) {
        let Some(part) = self.database.touched_partition(Partition(p as u8)) else {
            return;
        };
        let index = part.index.read();
        let mut seen = Seen::default();
        for line in self.batch.lines[p].iter().filter(|l| !self.is_settled(l)) {
            self.want_line(&index, line, &mut seen, wanted);
        }
    }

    fn want_line(
        &self,
        index: &PartitionIndex,
        line: &BatchLine,
        seen: &mut Seen,
        wanted: &mut Wanted,
    ) {
        let unresolved = self.keys.unresolved(line.token);
        let row = self.keys.known[line.token as usize].row();
        let row = row.or_else(|| index.lookup(unresolved?.0));
        let (place, measurement, name) = match (row, unresolved) {
            (Some(row), _) => {
                let of = index.measurement_of(row);
                let name = of.and_then(|of| index.measurement_name(of));
                (Place::Row(row.0), of, name.unwrap_or_default())
            }
            (None, Some((hash, key))) => {
                let name = key.measurement();
                (Place::New(hash), index.measurement(name), name)
            }
            // A key is kept until its row is known.
            (None, None) => return,
        };
        let number = wanted.measurement(name);
        let mut made = New::default();
        let mut refuse = |why: IndexError| wanted.refused.push(why.into(), line.number);
        if let Place::New(hash) = place
            && seen.rows.insert(hash)
        {
            made.rows += 1;
            made.text_bytes += unresolved.map_or(0, |(_, key)| key.bytes().len() as u64);
            if seen.rows.len() > (u32::MAX - index.row_count()) as usize {
                let rows = index.row_count();
                refuse(IndexError::PartitionFull { rows });
            }
        }
        let shape = &self.shapes.lists[line.shape as usize];
        let mut new: SmallVec<[((Place, u32), KindSet); 16]> = SmallVec::new();
        for (i, (field_name, raw)) in shape.iter().enumerate() {
            let text = &self.shapes.names[*field_name as usize];
            let field = measurement.and_then(|of| index.field(of, text));
            let there = || measurement.map_or(0, |of| index.field_count(of));
            if field.is_none()
                && let Some(is_past_limit) = seen.add_field(number, *field_name, there())
            {
                made.fields += 1;
                made.text_bytes += text.len() as u64;
                if is_past_limit {
                    let measurement = name.to_owned();
                    refuse(IndexError::TooManyFields { measurement });
                }
            }
            let there = match (row, field, seen.kinds.get(&(place, *field_name))) {
                (_, _, Some(met)) => *met,
                (Some(row), Some(field), None) => index.kinds(row, field),
                _ => KindSet::EMPTY,
            };
            let kind = kind_in(there, *raw, self.batch.bits[line.values as usize + i]).0;
            if !there.contains(kind) {
                new.push(((place, *field_name), there.with(kind)));
            }
        }
        let series = new.len() as u64;
        if let (Some(trial), true) = (&mut wanted.trial, series > 0)
            && let Err(why) = trial.admit(&self.database.name, name, series)
        {
            wanted.refused.push(why.into(), line.number);
            return;
        }
        made.series = series;
        wanted.new.add(made);
        wanted.measurements[number as usize].1 += series;
        seen.kinds.extend(new);
    }
}

#[cfg(test)]
mod tests {
    use alluvium_io::{Device, MemoryDevice};
    use alluvium_sim::SimClock;
    use alluvium_types::{SeriesKey, ValueRef};

    use super::*;
    use crate::{Store, StoreConfig};

    #[test]
    fn nothing_of_a_held_partition_leaves_memory() {
        let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(3));
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let config = StoreConfig {
            shards: 2,
            volume_bytes: 1 << 20,
            memory_bytes: 64 << 20,
            spill_idle_ms: 1000,
            govern_ms: 1,
            ..StoreConfig::default()
        };
        let store = Store::open(device, Arc::<SimClock>::clone(&clock), config).unwrap();
        let (database, created) = store.create_database("db").unwrap();
        created.wait().unwrap();
        let mut writer = database.writer();
        for host in 0..200 {
            let key = SeriesKey::new("m", [("host", host.to_string())]).unwrap();
            let row = writer.resolve(format!("m,host={host}").as_bytes(), key);
            writer.begin_line(row, 1).unwrap();
            writer.field("a", ValueRef::F64(1.0)).unwrap();
            writer.end_line().unwrap();
        }
        let held = writer.hold();
        writer.commit_whole(None).unwrap().wait().unwrap();
        store.checkpoint().wait().unwrap();
        let away = || {
            for _ in 0..2000 {
                store.drive();
                clock.advance_ns(2_000_000);
            }
            store.status().governor.series_away
        };
        assert_eq!(away(), 0);
        drop(held);
        assert_eq!(away(), 200);
    }
}
