//! The way in: lines are collected per partition, then defined, logged and applied shard by shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_index::{
    FlatKey, IndexError, KeyHash, MAX_NAME_BYTES, MAX_TAGS, PartitionIndex, find_in,
};
use alluvium_types::{
    FieldId, Lsn, MAX_STRING_BYTES, Owner, PARTITION_COUNT, Partition, Position, Row, SeriesKey,
    StringColumn, ValueKind, ValueRef,
};
use alluvium_wal::{LogTicket, PointGroup};
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::commit::Commit;
use crate::config::Durability;
use crate::databases::DatabaseState;
use crate::error::{RefusedLine, StoreError, WriteError};
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::raw_keys::{Known, NONE, RawKeys, Unresolved};
use crate::recall::SERIES_BYTES;
use crate::series::SeriesPlace;
use crate::series_table::SeriesTable;
use crate::shard::{ShardState, shard_of};

/// Names or shapes after which a writer forgets what it has met.
const SHAPES_MAX: usize = 16_384;

/// Values of one group: a section is looked at between groups.
const GROUP_VALUES_MAX: usize = 65_536;

/// Times that a batch is looked through again because series of it left memory, before it is refused.
const LOOKS_MAX: u32 = 16;

/// One writer remembers at most this part of the memory budget, whatever the setting says.
const WRITER_CACHE_SHARE: u64 = 16;

/// No time was asked for yet.
const NO_TIMES: (i64, i64) = (i64::MAX, i64::MIN);

/// A tag set this writer has met. Valid until the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowToken(u32);

/// Field names and lists of (name, kind), interned for the life of a writer.
#[derive(Debug, Default)]
struct Shapes {
    names: Vec<Box<str>>,
    by_name: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    lists: Vec<Box<[(u32, ValueKind)]>>,
    /// By name: the line that last used it and the place in that line.
    used: Vec<(u64, u32)>,
    by_shape: HashMap<Box<[(u32, ValueKind)]>, u32, foldhash::fast::FixedState>,
}

impl Shapes {
    /// `guess` is the name at the same place of the line before.
    fn name(&mut self, name: &str, guess: Option<u32>) -> u32 {
        if let Some(guess) = guess
            && &*self.names[guess as usize] == name
        {
            return guess;
        }
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.into());
        self.used.push((0, 0));
        self.by_name.insert(name.into(), id);
        id
    }

    fn shape(&mut self, fields: &[(u32, ValueKind)], guess: u32) -> u32 {
        if self
            .lists
            .get(guess as usize)
            .is_some_and(|s| **s == *fields)
        {
            return guess;
        }
        if let Some(id) = self.by_shape.get(fields) {
            return *id;
        }
        let id = self.lists.len() as u32;
        self.lists.push(fields.into());
        self.by_shape.insert(fields.into(), id);
        id
    }
}

#[derive(Debug, Clone, Copy)]
struct BatchLine {
    token: u32,
    shape: u32,
    time: i64,
    /// First value in `bits`; the shape tells how many.
    values: u32,
}

/// Lines of one batch.
#[derive(Debug, Default)]
struct Batch {
    lines: [Vec<BatchLine>; PARTITION_COUNT],
    /// Raw bits, or an index into `strings`.
    bits: Vec<u64>,
    strings: StringColumn,
    line_count: usize,
}

impl Batch {
    fn clear(&mut self) {
        self.lines.iter_mut().for_each(Vec::clear);
        self.bits.clear();
        self.strings.clear();
        self.line_count = 0;
    }
}

/// Where the fields of a shape are in one partition's measurement.
type Plans = HashMap<(u8, u32, u32), Box<[FieldId]>, foldhash::fast::FixedState>;

/// Collects lines for one database and commits them. One per connection, or pooled: it keeps the raw keys it
/// has met (bounded by the setting `writer_cache_bytes_max`) and its buffers.
#[derive(Debug)]
pub struct Writer {
    store: Arc<StoreInner>,
    database: Arc<DatabaseState>,
    keys: RawKeys,
    shapes: Shapes,
    plans: Plans,
    batch: Batch,
    group: PointGroup,
    open: Option<(RowToken, i64)>,
    /// Times that this batch may have, as far as it was asked: first and last.
    times: (i64, i64),
    /// Number of the line begun, from 1.
    line: u64,
    fields: Vec<(u32, ValueKind)>,
    last_names: Vec<u32>,
    last_shape: u32,
    /// The first reason why a line of the batch could not be defined.
    /// Lines of this batch that were left out, and why the first was.
    left_out: Option<(RefusedLine, u64)>,
    /// By partition: deletes of series up to here are known.
    removals: [u64; PARTITION_COUNT],
    /// By partition: rows that had left the name table by then were looked for.
    silences: [u64; PARTITION_COUNT],
    /// By partition: series that had left memory by then were brought back.
    spills: [u64; PARTITION_COUNT],
    hash_scratch: Vec<u8>,
    reserved: u64,
}

impl Writer {
    pub(crate) fn new(store: Arc<StoreInner>, database: Arc<DatabaseState>) -> Self {
        let keys = RawKeys::new(database.seed);
        Self {
            store,
            database,
            keys,
            shapes: Shapes::default(),
            plans: Plans::default(),
            batch: Batch::default(),
            group: PointGroup::default(),
            open: None,
            times: NO_TIMES,
            line: 0,
            fields: Vec::new(),
            last_names: Vec::new(),
            last_shape: NONE,
            left_out: None,
            removals: [0; PARTITION_COUNT],
            silences: [0; PARTITION_COUNT],
            spills: [0; PARTITION_COUNT],
            hash_scratch: Vec::new(),
            reserved: 0,
        }
    }

    /// The row of a tag section as it was sent; `None` if this writer has not met it.
    pub fn cached(&self, raw_key: &[u8]) -> Option<RowToken> {
        self.keys.find(raw_key).map(RowToken)
    }

    /// The row of a tag section that was not cached, whose canonical form is `key`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers have no use for it behind this, and need not know what is kept"
    )]
    pub fn resolve(&mut self, raw_key: &[u8], key: SeriesKey) -> RowToken {
        let key = FlatKey::new(&key, &mut self.hash_scratch);
        let hash = KeyHash::of_input(self.database.seed, &self.hash_scratch);
        let refusal = check_key(&key).err().map(Box::new);
        RowToken(self.keys.add(raw_key, hash, Unresolved { key, refusal }))
    }

    /// Begins a line; one that was begun and not ended is forgotten.
    ///
    /// # Errors
    /// If the time is the reserved `i64::MAX`, has expired or is too far ahead for the database, or the tag set has too many or too long parts.
    pub fn begin_line(&mut self, row: RowToken, time_ns: i64) -> Result<(), RefusedLine> {
        self.cancel_line();
        if time_ns < self.times.0 || time_ns > self.times.1 {
            self.times = self.store.allowed_times(&self.database, time_ns)?;
        }
        if self.keys.known[row.0 as usize].row == NONE {
            let unresolved = self.keys.unresolved.get(&row.0);
            if let Some(refusal) = unresolved.and_then(|u| u.refusal.as_ref()) {
                return Err((**refusal).clone());
            }
        }
        self.line += 1;
        self.open = Some((row, time_ns));
        Ok(())
    }

    /// Adds a field to the line begun. Of a field given twice the last wins.
    ///
    /// # Errors
    /// If a string or the name is too long.
    pub fn field(&mut self, name: &str, value: ValueRef<'_>) -> Result<(), RefusedLine> {
        if name.len() > MAX_NAME_BYTES {
            return Err(RefusedLine::LongName {
                bytes: name.len(),
                limit: MAX_NAME_BYTES,
            });
        }
        let at = self.fields.len();
        let bits = match value {
            ValueRef::Str(text) => {
                if text.len() > MAX_STRING_BYTES {
                    return Err(RefusedLine::LongString {
                        field: name.chars().take(80).collect(),
                        bytes: text.len(),
                        limit: MAX_STRING_BYTES,
                    });
                }
                self.batch.strings.push(text);
                self.batch.strings.len() as u64 - 1
            }
            number => number.bits().unwrap_or_default(),
        };
        let id = self.shapes.name(name, self.last_names.get(at).copied());
        match self.last_names.get_mut(at) {
            Some(slot) => *slot = id,
            None => self.last_names.push(id),
        }
        let used = &mut self.shapes.used[id as usize];
        if used.0 == self.line {
            let again = used.1 as usize;
            let base = self.batch.bits.len() - at;
            self.fields[again].1 = value.kind();
            self.batch.bits[base + again] = bits;
            return Ok(());
        }
        *used = (self.line, at as u32);
        self.fields.push((id, value.kind()));
        self.batch.bits.push(bits);
        Ok(())
    }

    /// Ends the line begun.
    ///
    /// # Errors
    /// If it has no fields.
    pub fn end_line(&mut self) -> Result<(), RefusedLine> {
        let Some((token, time)) = self.open else {
            return Ok(());
        };
        if self.fields.is_empty() {
            self.cancel_line();
            return Err(RefusedLine::NoFields);
        }
        let shape = self.shapes.shape(&self.fields, self.last_shape);
        self.last_shape = shape;
        let values = (self.batch.bits.len() - self.fields.len()) as u32;
        let partition = self.keys.known[token.0 as usize].partition();
        let line = BatchLine {
            token: token.0,
            shape,
            time,
            values,
        };
        self.batch.lines[usize::from(partition.0)].push(line);
        self.batch.line_count += 1;
        self.fields.clear();
        self.open = None;
        Ok(())
    }

    /// Forgets the line begun.
    pub fn cancel_line(&mut self) {
        self.open = None;
        let keep = self.batch.bits.len() - self.fields.len();
        self.batch.bits.truncate(keep);
        self.fields.clear();
    }

    /// Lines ended since the last commit.
    pub fn lines(&self) -> usize {
        self.batch.line_count
    }

    /// Forgets every line since the last commit.
    pub fn clear(&mut self) {
        self.cancel_line();
        self.times = NO_TIMES;
        self.batch.clear();
    }

    /// Defines, logs and applies the lines since the last commit, and forgets them. Never waits, but for a page of the
    /// index where a tag set comes that was silent for days, and for what series held that have left memory; no lock is
    /// held then. Queries see
    /// the points at once, before they are durable. `durability` may name another level than the database's.
    ///
    /// # Errors
    /// See [`WriteError`]; the lines are forgotten also then.
    pub fn commit(&mut self, durability: Option<Durability>) -> Result<Commit, WriteError> {
        self.cancel_line();
        let result = self.commit_batch(durability.unwrap_or(self.database.settings.durability));
        self.times = NO_TIMES;
        self.batch.clear();
        let share = self.store.budget.limit() / WRITER_CACHE_SHARE;
        let keys_max = self.store.config.writer_cache_bytes_max.min(share as usize);
        if self.keys.bytes() > keys_max
            || self.shapes.lists.len() > SHAPES_MAX
            || self.shapes.names.len() > SHAPES_MAX
        {
            self.forget();
        }
        let bytes = self.keys.bytes() as u64;
        let budget = &self.store.budget;
        budget.force(Owner::Index, bytes);
        budget.release(Owner::Index, self.reserved);
        self.reserved = bytes;
        let left_out = self.left_out.take();
        result.map(|commit| commit.with_left_out(left_out))
    }

    /// Forgets every key, name and shape it has met.
    fn forget(&mut self) {
        self.keys.clear();
        self.shapes = Shapes::default();
        self.plans.clear();
        self.last_names.clear();
        self.last_shape = NONE;
    }

    fn commit_batch(&mut self, durability: Durability) -> Result<Commit, WriteError> {
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
        self.admit_series()?;
        for p in 0..PARTITION_COUNT {
            self.bring_back(p)?;
        }
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
        Ok(Commit::new(store, tickets, position))
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
                let known = &self.keys.known[line.token as usize];
                if known.row == NONE && index.lookup(known.hash()).is_none() {
                    let segments = index.may_be_silent(known.hash());
                    if !segments.is_empty() {
                        wanted.push((line.token, segments));
                    }
                }
            }
        }
        for (token, segments) in wanted {
            let known = &self.keys.known[token as usize];
            if known.row == NONE
                && let Some(row) = find_in(&segments, known.hash())?
            {
                self.keys.settle(token, row);
            }
        }
        Ok(())
    }

    /// Refuses lines of tag sets that are not there yet where memory is nearly used up.
    fn admit_series(&self) -> Result<(), WriteError> {
        let Err(refusal) = self.store.admit_new_series() else {
            return Ok(());
        };
        for p in (0..PARTITION_COUNT).filter(|p| self.has_unknown(*p)) {
            let Some(part) = self.database.touched_partition(Partition(p as u8)) else {
                return Err(refusal);
            };
            let index = part.index.read();
            let known = |line: &BatchLine| &self.keys.known[line.token as usize];
            let mut unknown = self.batch.lines[p].iter().map(known);
            if unknown.any(|k| k.row == NONE && index.lookup(k.hash()).is_none()) {
                self.store.note_refusal();
                return Err(refusal);
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

    /// Brings back the series of this batch's rows that have left memory: all fields of them. Waits for their records.
    fn bring_back(&mut self, p: usize) -> Result<(), WriteError> {
        if self.batch.lines[p].is_empty() {
            return Ok(());
        }
        let Some(part) = self.database.touched_partition(Partition(p as u8)) else {
            return Ok(());
        };
        // In this order: what leaves behind the look below counts as spilled since.
        self.spills[p] = part.spills.load(Ordering::Acquire);
        if part.away.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        if self.has_unknown(p) {
            let index = part.index.read();
            for line in &self.batch.lines[p] {
                let known = &self.keys.known[line.token as usize];
                if known.row == NONE
                    && let Some(row) = index.lookup(known.hash())
                {
                    self.keys.settle(line.token, row);
                }
            }
        }
        let row = |line: &BatchLine| self.keys.known[line.token as usize].row();
        let rows = self.batch.lines[p].iter().filter_map(row);
        let away = StoreInner::away_of_rows(part, rows);
        Ok(self.store.bring_back(&self.database, part, &away, true)?)
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
            state.apply(&database, &part, &self.group, lsn, late, &store.counters);
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

    /// Makes sure that every row, field and series of the lines exists, logging what is new, and settles the
    /// kind of every value. Returns whether anything was defined.
    fn define(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        lines: &mut [BatchLine],
    ) -> bool {
        self.note_removals(part);
        let settled =
            |known: &Known, line: &BatchLine| known.row != NONE && known.ensured == line.shape;
        if lines
            .iter()
            .all(|l| settled(&self.keys.known[l.token as usize], l))
        {
            return false;
        }
        let mut index = part.index.write();
        let mut table = part.table.write();
        let before = index.series_count();
        let mut defined = false;
        for line in lines {
            if settled(&self.keys.known[line.token as usize], line) {
                continue;
            }
            let result = self.define_line(state, part, &mut index, &mut table, line, &mut defined);
            if let Err(error) = result {
                // What was defined for it so far stays and is logged; the line itself is left out.
                line.shape = NONE;
                self.left_out.get_or_insert((error, 0)).1 += 1;
            }
        }
        let created = index.series_count() - before;
        part.created.note(self.store.clock.monotonic_ns(), created);
        defined
    }

    /// Series that were known to exist may have been deleted since.
    fn note_removals(&mut self, part: &PartitionState) {
        let seen = &mut self.removals[usize::from(part.partition.0)];
        let now = part.removals.load(Ordering::Relaxed);
        if std::mem::replace(seen, now) != now {
            let of_part = |known: &&mut Known| known.partition() == part.partition;
            for known in self.keys.known.iter_mut().filter(of_part) {
                known.ensured = NONE;
            }
        }
    }

    fn define_line(
        &mut self,
        state: &mut ShardState,
        part: &PartitionState,
        index: &mut PartitionIndex,
        table: &mut SeriesTable,
        line: &mut BatchLine,
        defined: &mut bool,
    ) -> Result<(), RefusedLine> {
        let known = &self.keys.known[line.token as usize];
        let row = if let Some(row) = known.row() {
            index.restore(known.hash(), row);
            row
        } else {
            let (row, new) = define_row(index, state, &mut self.keys, &self.database, line.token)?;
            *defined |= new;
            row
        };
        let measurement = index
            .measurement_of(row)
            .ok_or(IndexError::UnknownRow { row })?;
        let known = &mut self.keys.known[line.token as usize];
        known.measurement = measurement.0;
        let shape = self.shapes.lists[line.shape as usize].clone();
        let mut decided: SmallVec<[(u32, ValueKind); 16]> = SmallVec::new();
        for (i, (name, raw)) in shape.iter().enumerate() {
            let name_text = &self.shapes.names[*name as usize];
            let field = if let Some(field) = index.field(measurement, name_text) {
                field
            } else {
                let field = index.insert_field(measurement, name_text)?;
                let measurement_name = index.measurement_name(measurement).unwrap_or_default();
                state.section.field(measurement_name, field, name_text);
                *defined = true;
                field
            };
            let bits = &mut self.batch.bits[line.values as usize + i];
            let kind = self.store.settle_kind(index, row, field, *raw, bits);
            // A series is defined by its first point in the log; no entry of its own is needed.
            if !index.kinds(row, field).contains(kind) {
                let name = index.measurement_name(measurement).unwrap_or_default();
                let counts = &self.database.series_counts;
                counts.admit(&self.database.name, name)?;
                index.add_series(row, field, kind)?;
                let place = SeriesPlace {
                    partition: part.partition,
                    row,
                    field,
                };
                if table.ensure(place) {
                    self.database.charge(SERIES_BYTES);
                }
            }
            decided.push((*name, kind));
        }
        if *decided == *shape {
            known.ensured = line.shape;
        } else {
            line.shape = self.shapes.shape(&decided, NONE);
        }
        Ok(())
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
        let measurement = self.keys.known[first.token as usize].measurement;
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
            if line.shape != first.shape || known.measurement != measurement || full {
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

impl Drop for Writer {
    fn drop(&mut self) {
        self.store.budget.release(Owner::Index, self.reserved);
    }
}

/// Checks a tag set against what the index can number.
fn check_key(key: &FlatKey) -> Result<(), RefusedLine> {
    if key.longest_bytes() > MAX_NAME_BYTES {
        return Err(RefusedLine::LongName {
            bytes: key.longest_bytes(),
            limit: MAX_NAME_BYTES,
        });
    }
    if key.tag_count() > MAX_TAGS {
        return Err(RefusedLine::ManyTags {
            tags: key.tag_count(),
            limit: MAX_TAGS,
        });
    }
    Ok(())
}

fn define_row(
    index: &mut PartitionIndex,
    state: &mut ShardState,
    keys: &mut RawKeys,
    database: &DatabaseState,
    token: u32,
) -> Result<(Row, bool), RefusedLine> {
    let hash = keys.known[token as usize].hash();
    if let Some(row) = index.lookup(hash) {
        keys.settle(token, row);
        return Ok((row, false));
    }
    let unresolved = keys.unresolved.get(&token);
    let key = &unresolved
        .expect("a key is kept until its row is known")
        .key;
    // A row is for ever: none without room for one series.
    database
        .series_counts
        .room(&database.name, key.measurement())?;
    let row = index.insert_flat(hash, key)?;
    let section = &mut state.section;
    section.row_of_parts(row, key.measurement(), key.tag_count(), key.tags());
    keys.settle(token, row);
    Ok((row, true))
}

impl StoreInner {
    /// The kind a value is stored as: an integer goes into a float series if nothing is lost, any other
    /// stranger opens a sibling. `bits` follows the kind.
    fn settle_kind(
        &self,
        index: &PartitionIndex,
        row: Row,
        field: FieldId,
        raw: ValueKind,
        bits: &mut u64,
    ) -> ValueKind {
        let kinds = index.kinds(row, field);
        let Some(first) = kinds.first() else {
            return raw;
        };
        if first == ValueKind::F64
            && let Some(widened) = widen(raw, *bits)
        {
            *bits = widened.to_bits();
            self.counters.widened.fetch_add(1, Ordering::Relaxed);
            return ValueKind::F64;
        }
        if !kinds.contains(raw) {
            self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        raw
    }
}

/// An integer as a float, if it comes back exactly.
fn widen(kind: ValueKind, bits: u64) -> Option<f64> {
    match kind {
        ValueKind::I64 => {
            let v = bits as i64;
            let f = v as f64;
            (f as i128 == i128::from(v)).then_some(f)
        }
        ValueKind::U64 => {
            let f = bits as f64;
            (f as u128 == u128::from(bits)).then_some(f)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_integers_widen() {
        assert_eq!(widen(ValueKind::I64, 5), Some(5.0));
        assert_eq!(
            widen(ValueKind::I64, (-(1_i64 << 53)) as u64),
            Some(-(2.0_f64.powi(53)))
        );
        assert_eq!(widen(ValueKind::I64, (1 << 53) + 1), None);
        assert_eq!(widen(ValueKind::I64, i64::MAX as u64), None);
        assert_eq!(widen(ValueKind::U64, u64::MAX), None);
        assert_eq!(widen(ValueKind::U64, 1 << 63), Some(2.0_f64.powi(63)));
        assert_eq!(widen(ValueKind::Bool, 1), None);
    }
}
