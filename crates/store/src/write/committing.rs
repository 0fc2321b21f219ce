//! A batch on its way: admitted before any lock, then defined, logged and applied under one shard's lock after another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_index::find_in;
use alluvium_types::{Lsn, PARTITION_COUNT, Partition, Position, ValueKind};
use alluvium_wal::{GROUP_VALUES_MAX, LogTicket};
use smallvec::SmallVec;

use super::room::New;
use super::{BatchLine, Writer};
use crate::commit::Commit;
use crate::config::Durability;
use crate::error::{StoreError, WriteError};
use crate::parting::Unready;
use crate::partition::PartitionState;
use crate::raw_keys::NONE;
use crate::shard::{ShardState, shard_of};

/// Times that a batch is looked through again because series of it left memory, before it is refused.
const LOOKS_MAX: u32 = 16;

impl Writer {
    pub(super) fn commit_batch(&mut self, durability: Durability) -> Result<Commit, WriteError> {
        let store = Arc::clone(&self.store);
        store.admit_writes()?;
        if self.database.creation().is_some() {
            // Creation must be durable before any other partition logs the database's id.
            return Err(WriteError::Backlog { pending_bytes: 0 });
        }
        // Refuse before anything is applied, as far as one can know.
        for (i, shard) in store.shards.iter().enumerate() {
            if self.touches(i) {
                shard.state.lock().admit(&store.config)?;
            }
        }
        // Before any lock: it may read pages of the index, and records of series.
        for p in 0..PARTITION_COUNT {
            self.recall(p)?;
        }
        let room = self.make_room()?;
        for p in 0..PARTITION_COUNT {
            self.bring_back(p)?;
        }
        if self.granted.is_some() {
            self.grant()?;
        }
        self.made = New::default();
        let mut looks_left = LOOKS_MAX;
        let mut tickets: SmallVec<[LogTicket; 2]> = SmallVec::new();
        let mut position = Position::default();
        for (i, shard) in store.shards.iter().enumerate() {
            if !self.touches(i) {
                continue;
            }
            let mut state = loop {
                let state = shard.state.lock();
                // Rows leave the name table under this lock only, once a day or with a new segment.
                let of_shard = |p: &usize| shard_of(Partition(*p as u8), store.shards.len()) == i;
                // Series leave memory under it, too.
                let has_gone = |p: usize| self.has_missed(p) || self.has_spilled(p);
                let late = (0..PARTITION_COUNT).find(|p| of_shard(p) && has_gone(*p));
                let Some(late) = late else { break state };
                drop(state);
                if looks_left == 0 {
                    return Err(WriteError::Backlog { pending_bytes: 0 });
                }
                looks_left -= 1;
                self.recall(late)?;
                self.bring_back(late)?;
            };
            if self.database.is_dropped() {
                return Err(StoreError::NoDatabase {
                    name: self.database.name.clone(),
                }
                .into());
            }
            let mut last = None;
            for p in (0..PARTITION_COUNT)
                .filter(|p| shard_of(Partition(*p as u8), store.shards.len()) == i)
            {
                if self.batch.lines[p].is_empty() {
                    continue;
                }
                let partition = Partition(p as u8);
                let (lsn, ticket) = self.write_partition(&mut state, partition, durability);
                position.0.push((partition, lsn));
                last = ticket.or(last);
            }
            tickets.extend(last);
            state.log.drive();
            store.device.drive(shard.lane);
            state.log.drive();
        }
        if durability == Durability::None {
            tickets.clear();
        }
        if let Some(room) = room {
            room.end(self.made);
        }
        Ok(Commit::new(store, tickets, position))
    }

    /// Whether [`Self::commit`] may have to wait for the device: partitions of its lines have series that left memory, or rows that
    /// left the name table and may be among those this writer does not know. Costs three loads a partition, and then a look at
    /// each line.
    pub fn may_wait(&self) -> bool {
        (0..PARTITION_COUNT).any(|p| {
            !self.batch.lines[p].is_empty()
                && self
                    .database
                    .touched_partition(Partition(p as u8))
                    .is_some_and(|part| part.may_wait(|| self.has_unknown(p)))
        })
    }

    /// Whether rows have left the name table since this batch's were looked for. Takes no lock.
    fn has_missed(&self, p: usize) -> bool {
        let part = self.database.touched_partition(Partition(p as u8));
        self.has_unknown(p)
            && part.is_some_and(|part| part.silences.load(Ordering::Acquire) != self.silences[p])
    }

    /// Whether lines of a partition are of tag sets whose row this writer does not know.
    fn has_unknown(&self, p: usize) -> bool {
        let mut lines = self.batch.lines[p].iter();
        lines.any(|line| self.keys.known[line.token as usize].row == NONE)
    }

    /// Finds the rows of tag sets that have left the name table. Waits for a page of a segment for each of those, and for
    /// one new tag set in some hundred; never where no row is silent.
    fn recall(&mut self, p: usize) -> Result<(), StoreError> {
        let Some(part) = self.database.touched_partition(Partition(p as u8)) else {
            return Ok(());
        };
        if !self.has_unknown(p) {
            return Ok(());
        }
        // In this order: what leaves behind the look below counts as missed.
        self.silences[p] = part.silences.load(Ordering::Acquire);
        let mut wanted = Vec::new();
        {
            let index = part.index.read();
            if index.silent_rows() == 0 {
                return Ok(());
            }
            for line in &self.batch.lines[p] {
                let Some(hash) = self.keys.unresolved_hash(line.token) else {
                    continue;
                };
                if index.lookup(hash).is_none() {
                    let segments = index.may_be_silent(hash);
                    if !segments.is_empty() {
                        wanted.push((line.token, segments));
                    }
                }
            }
        }
        for (token, segments) in wanted {
            if let Some(hash) = self.keys.unresolved_hash(token)
                && let Some(row) = find_in(&segments, hash)?
            {
                self.keys.settle(token, row);
                self.come_back.push((hash, row));
            }
        }
        Ok(())
    }

    /// Whether series have left memory since this batch's were looked for. Takes no lock.
    fn has_spilled(&self, p: usize) -> bool {
        let part = self.database.touched_partition(Partition(p as u8));
        !self.batch.lines[p].is_empty()
            && part.is_some_and(|part| part.spills.load(Ordering::Acquire) != self.spills[p])
    }

    /// Brings back the series of this batch's rows that have left memory, all fields of them, or begins newer parts of them.
    /// Waits for records.
    fn bring_back(&mut self, p: usize) -> Result<(), WriteError> {
        if self.batch.lines[p].is_empty() {
            return Ok(());
        }
        let Some(part) = self.database.touched_partition(Partition(p as u8)) else {
            return Ok(());
        };
        // In this order: what leaves behind the look below counts as spilled since.
        self.spills[p] = part.spills.load(Ordering::Acquire);
        let missing = part.away.load(Ordering::Acquire) + part.parted.load(Ordering::Acquire);
        if missing == 0 {
            return Ok(());
        }
        if self.has_unknown(p) {
            let index = part.index.read();
            for line in &self.batch.lines[p] {
                if let Some(hash) = self.keys.unresolved_hash(line.token)
                    && let Some(row) = index.lookup(hash)
                {
                    self.keys.settle(line.token, row);
                }
            }
        }
        let lines = &self.batch.lines[p];
        let row = |line: &BatchLine| self.keys.known[line.token as usize].row();
        let rows: Vec<_> = lines.iter().filter_map(row).collect();
        let is_plain = |(_, kind): &(u32, ValueKind)| kind.is_numeric();
        let shapes = lines.chunk_by(|a, b| a.shape == b.shape);
        let mut shapes = shapes.filter_map(|lines| lines.first());
        let plain = shapes.all(|line| {
            let shape = self.shapes.lists.get(line.shape as usize);
            shape.is_some_and(|shape| shape.iter().all(is_plain))
        });
        let is_short = self.store.budget.used() > self.store.soft_limit();
        let unready = Unready::of_rows(part, rows, plain, is_short);
        Ok(self.store.make_ready(&self.database, part, &unready)?)
    }

    fn touches(&self, shard: usize) -> bool {
        let shards = self.store.shards.len();
        (0..PARTITION_COUNT).any(|p| {
            shard_of(Partition(p as u8), shards) == shard && !self.batch.lines[p].is_empty()
        })
    }

    /// Everything of the batch that belongs to one partition, under its shard's lock.
    fn write_partition(
        &mut self,
        state: &mut ShardState,
        partition: Partition,
        durability: Durability,
    ) -> (Lsn, Option<LogTicket>) {
        let store = Arc::clone(&self.store);
        let database = Arc::clone(&self.database);
        let part = Arc::clone(database.partition(partition));
        let mut lines = std::mem::take(&mut self.batch.lines[usize::from(partition.0)]);
        let mut lsn = state.next_lsn(partition);
        state.section.begin(database.id, partition, lsn);
        let defined = self.define(state, &part, &mut lines);
        if self.left_out.is_some() {
            lines.retain(|line| line.shape != NONE);
        }
        let logs_points = durability != Durability::None;
        let sync = durability == Durability::Sync;
        let mut ticket = None;
        let mut points = 0;
        let mut at = 0;
        while at < lines.len() {
            at = self.fill_group(&part, &lines, at);
            if logs_points {
                state.section.points(&self.group);
            }
            points += self.group.bits.len();
            part.note_points(&self.group);
            let late = store.late_rules();
            let missing = state.apply(&database, &part, &self.group, lsn, late, &store.counters);
            if missing > 0 {
                // They are in the log: the next opening has them.
                store.fail(StoreError::Failed {
                    reason: format!("{missing} values of a batch found no series in memory"),
                });
            }
            if at < lines.len() && state.section.len() >= store.section_bytes_max {
                ticket = Some(store.push_section(state, points as u32, sync));
                points = 0;
                lsn = state.next_lsn(partition);
                state.section.begin(database.id, partition, lsn);
            }
        }
        if logs_points || defined {
            ticket = Some(store.push_section(state, points as u32, sync));
        }
        if let Durability::Interval { ms } = durability {
            let due = store.clock.monotonic_ns() + u64::from(ms) * 1_000_000;
            state.flush_due_ns = Some(state.flush_due_ns.map_or(due, |d| d.min(due)));
        }
        lines.clear();
        self.batch.lines[usize::from(partition.0)] = lines;
        (lsn, ticket)
    }

    /// Collects the lines from `at` on that share a shape and a measurement; returns the first that does not.
    fn fill_group(&mut self, part: &PartitionState, lines: &[BatchLine], at: usize) -> usize {
        let group = &mut self.group;
        group.fields.clear();
        group.rows.clear();
        group.times.clear();
        group.bits.clear();
        group.strings.clear();
        let Some(first) = lines.get(at) else {
            return at;
        };
        let measurement = self.keys.known[first.token as usize].measurement();
        let shape = &self.shapes.lists[first.shape as usize];
        let plan = self
            .plans
            .entry((part.partition.0, measurement, first.shape))
            .or_insert_with(|| {
                let index = part.index.read();
                let field = |(name, _): &(u32, ValueKind)| {
                    index.field(
                        alluvium_index::MeasurementId(measurement),
                        &self.shapes.names[*name as usize],
                    )
                };
                shape
                    .iter()
                    .map(|f| field(f).expect("every field was defined above"))
                    .collect()
            });
        group.fields.extend(
            plan.iter()
                .zip(shape.iter())
                .map(|(field, (_, kind))| (*field, *kind)),
        );
        let width = shape.len();
        let has_strings = shape.iter().any(|(_, kind)| !kind.is_numeric());
        let mut end = at;
        for line in &lines[at..] {
            let known = &self.keys.known[line.token as usize];
            let full = group.bits.len() >= GROUP_VALUES_MAX;
            if line.shape != first.shape || known.measurement() != measurement || full {
                break;
            }
            end += 1;
            let Some(row) = known.row() else {
                continue;
            };
            group.rows.push(row);
            group.times.push(line.time);
            let values = &self.batch.bits[line.values as usize..line.values as usize + width];
            if has_strings {
                for ((_, kind), bits) in shape.iter().zip(values) {
                    if kind.is_numeric() {
                        group.bits.push(*bits);
                    } else {
                        group.bits.push(group.strings.len() as u64);
                        group
                            .strings
                            .push(self.batch.strings.get(*bits as usize).unwrap_or_default());
                    }
                }
            } else {
                group.bits.extend_from_slice(values);
            }
        }
        end
    }
}
