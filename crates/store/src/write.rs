//! The way in: lines are collected per partition, then defined, logged and applied shard by shard.

mod committing;
mod define;
mod room;
mod shapes;
mod staging;
mod whole;

use std::sync::Arc;

use alluvium_index::{FlatKey, KeyHash, MAX_NAME_BYTES, MAX_TAGS};
use alluvium_types::{
    BorrowedKey, FieldId, MAX_STRING_BYTES, Owner, PARTITION_COUNT, Row, SeriesKey, StringColumn,
    ValueKind, ValueRef,
};
use alluvium_wal::PointGroup;
use hashbrown::HashMap;

use self::room::New;
use self::shapes::Shapes;
use self::staging::Staging;
use self::whole::Granted;
use crate::commit::{Commit, LeftOutLines};
use crate::config::Durability;
use crate::databases::DatabaseState;
use crate::error::{RefusedLine, WriteError};
use crate::open::StoreInner;
use crate::raw_keys::{NONE, RawKeys};

/// Bytes of a plan of a few fields.
const PLAN_BYTES: usize = 64;

/// Names or shapes after which a writer forgets what it has met.
const SHAPES_MAX: usize = 16_384;

/// One writer remembers at most this part of the memory budget, whatever the setting says.
const WRITER_CACHE_SHARE: u64 = 16;

/// No time was asked for yet.
const NO_TIMES: (i64, i64) = (i64::MAX, i64::MIN);

/// A tag set this writer has met. Valid until the next commit or clearing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowToken(u32);

#[derive(Debug, Clone, Copy)]
struct BatchLine {
    token: u32,
    shape: u32,
    time: i64,
    /// First value in `bits`; the shape tells how many.
    values: u32,
    /// What its sender calls it.
    number: u32,
}

const _: () = assert!(size_of::<BatchLine>() == 24);

/// Lines of one batch.
#[derive(Debug, Default)]
struct Batch {
    lines: [Vec<BatchLine>; PARTITION_COUNT],
    /// Raw bits, or an index into `strings`.
    bits: Vec<u64>,
    strings: StringColumn,
    line_count: usize,
    /// Values of lines whose series this writer did not know when they were ended.
    unsettled: u64,
}

impl Batch {
    fn clear(&mut self) {
        self.lines.iter_mut().for_each(Vec::clear);
        self.bits.clear();
        self.strings.clear();
        self.line_count = 0;
        self.unsettled = 0;
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
    /// What its sender calls it.
    number: u32,
    fields: Vec<(u32, ValueKind)>,
    last_names: Vec<u32>,
    last_shape: u32,
    left_out: Option<Box<LeftOutLines>>,
    /// While a batch is committed of which all is taken or nothing: the series it has room for.
    granted: Option<Granted>,
    /// What this batch has made so far.
    made: New,
    /// By partition: deletes of series up to here are known.
    removals: [u64; PARTITION_COUNT],
    /// By partition: rows that had left the name table by then were looked for.
    silences: [u64; PARTITION_COUNT],
    /// Rows found in segments, which the partition being written does not have in its name table yet.
    come_back: Vec<(KeyHash, Row)>,
    /// By partition: series that had left memory by then were brought back.
    spills: [u64; PARTITION_COUNT],
    hash_scratch: Vec<u8>,
    reserved: u64,
    staging: Staging,
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
            number: 0,
            fields: Vec::new(),
            last_names: Vec::new(),
            last_shape: NONE,
            left_out: None,
            granted: None,
            made: New::default(),
            removals: [0; PARTITION_COUNT],
            silences: [0; PARTITION_COUNT],
            come_back: Vec::new(),
            spills: [0; PARTITION_COUNT],
            hash_scratch: Vec::new(),
            reserved: 0,
            staging: Staging::default(),
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
        RowToken(add_key(&mut self.keys, self.database.seed, raw_key, key))
    }

    /// As [`Self::resolve`], without an owned key.
    pub fn resolve_borrowed(&mut self, raw_key: &[u8], key: &BorrowedKey<'_>) -> RowToken {
        let key = FlatKey::of_borrowed(key, &mut self.hash_scratch);
        RowToken(add_key(&mut self.keys, self.database.seed, raw_key, key))
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
        if self.keys.known[row.0 as usize].row == NONE
            && let Some(refusal) = self.keys.refusal(row.0)
        {
            return Err(refusal.clone());
        }
        self.line += 1;
        self.open = Some((row, time_ns));
        Ok(())
    }

    /// Says what the sender calls the lines that are begun from here on: [`Commit::left_out`] names the first by it.
    pub fn number_lines(&mut self, number: u32) {
        self.number = number;
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
        let known = &self.keys.known[token.0 as usize];
        let partition = known.partition();
        if !known.is_settled(shape) {
            self.batch.unsettled += self.fields.len() as u64;
        }
        let line = BatchLine {
            token: token.0,
            shape,
            time,
            values,
            number: self.number,
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

    /// Forgets every line since the last commit. Rows looked up before may not be used any more.
    pub fn clear(&mut self) {
        self.cancel_line();
        self.times = NO_TIMES;
        self.batch.clear();
        // Lines that were all refused are never committed, and their keys are met all the same.
        self.bound_keys();
        self.settle_staging();
    }

    /// Defines, logs and applies the lines since the last commit, and forgets them. Lines that only the index can refuse are
    /// left out, see [`Commit::left_out`]. Never waits, but for a page of the
    /// index where a tag set comes that was silent for days, and for what series held that have left memory; no lock is
    /// held then. Queries see
    /// the points at once, before they are durable. `durability` may name another level than the database's.
    ///
    /// # Errors
    /// See [`WriteError`]; the lines are forgotten also then. Where series left memory while the batch was being written and could not be
    /// brought back, some partitions have their lines: sent again, they are the same points.
    pub fn commit(&mut self, durability: Option<Durability>) -> Result<Commit, WriteError> {
        self.commit_with(durability, Self::commit_batch)
    }

    fn commit_with(
        &mut self,
        durability: Option<Durability>,
        commit: impl FnOnce(&mut Self, Durability) -> Result<Commit, WriteError>,
    ) -> Result<Commit, WriteError> {
        self.cancel_line();
        let level = durability.unwrap_or(self.database.settings.durability);
        let admitted = self.admit_growth();
        let result = admitted.and_then(|()| commit(self, level));
        self.times = NO_TIMES;
        self.batch.clear();
        self.bound_keys();
        self.settle_staging();
        let left_out = self.left_out.take();
        result.map(|commit| commit.with_left_out(left_out))
    }

    /// Forgets what it has met if that is too much, and tells the budget what is left.
    fn bound_keys(&mut self) {
        let share = self.store.budget.limit() / WRITER_CACHE_SHARE;
        let keys_max = self.store.config.writer_cache_bytes_max.min(share as usize);
        if self.met_bytes() > keys_max
            || self.shapes.lists.len() > SHAPES_MAX
            || self.shapes.names.len() > SHAPES_MAX
        {
            self.forget();
        }
        let bytes = self.met_bytes() as u64;
        let budget = &self.store.budget;
        budget.force(Owner::Index, bytes);
        budget.release(Owner::Index, self.reserved);
        self.reserved = bytes;
    }

    /// Bytes of the keys, names and shapes it has met.
    fn met_bytes(&self) -> usize {
        self.keys.bytes() + self.shapes.bytes() + self.plans.len() * PLAN_BYTES
    }

    /// Of them, what the budget was not told behind the batch before.
    #[inline]
    fn met_since(&self) -> usize {
        self.met_bytes().saturating_sub(self.reserved as usize)
    }

    /// Forgets every key, name and shape it has met.
    fn forget(&mut self) {
        self.keys.clear();
        self.shapes = Shapes::default();
        self.plans.clear();
        self.last_names.clear();
        self.last_shape = NONE;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.release_staging();
        self.store.budget.release(Owner::Index, self.reserved);
    }
}

fn add_key(keys: &mut RawKeys, seed: u64, raw_key: &[u8], key: FlatKey<'_>) -> u32 {
    let hash = KeyHash::of_input(seed, key.bytes());
    keys.add(raw_key, key, hash, check_key(key).err())
}

/// Checks a tag set against what the index can number.
fn check_key(key: FlatKey<'_>) -> Result<(), RefusedLine> {
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
