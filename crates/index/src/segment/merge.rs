//! From several segments to one, a slice at a time.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::SegmentError;
use crate::postings::RowsRef;
use crate::segment::layout::BLOCK_VALUES;
use crate::segment::read::{Segment, damaged};
use crate::segment::seal::sort_runs;
use crate::segment::write::{SegmentWriter, ShapeEntry};

/// Values or rows of one step: some milliseconds, and as many blocks read as they are in.
const SLICE: usize = 2048;

/// Bitmaps of values read in one step.
const SLICE_BITMAPS: usize = 64;

/// Hash pages read in one step.
const SLICE_PAGES: usize = 16;

/// Makes one segment of the rows of several, which follow each other; holds the result in memory.
#[derive(Debug)]
pub struct MergeJob {
    segments: Vec<Arc<Segment>>,
    /// Number and name of each key.
    keys: Vec<(u32, Box<str>)>,
    shapes: Vec<ShapeEntry>,
    /// By segment and shape of it: the number among `shapes`.
    shape_numbers: Vec<Vec<u32>>,
    /// By segment and key of it: the new rank of each old one.
    ranks: Vec<Vec<Vec<u32>>>,
    writer: SegmentWriter,
    state: State,
    /// What hashes are made with, if lists of rows and pages of hashes that do not hold are made of tuples.
    mends: Option<u64>,
}

#[derive(Debug)]
enum State {
    /// Writing the values of a key, by its place in `keys`; the next of each segment that has it.
    Values {
        key: usize,
        cursors: Vec<Cursor>,
        rank: u32,
    },
    /// Copying tuples from this block of a segment on.
    Rows {
        segment: usize,
        block: u32,
    },
    /// Gathering hashes from this page of a segment on.
    Hashes {
        segment: usize,
        page: usize,
        slots: Vec<u128>,
    },
    /// The name table, of sorted slots.
    NameTable {
        slots: Vec<u128>,
    },
    Filter {
        slots: Vec<u128>,
    },
    /// The directory.
    End,
    Done,
}

/// Where the values of a key of one segment have been read to.
#[derive(Debug)]
struct Cursor {
    segment: usize,
    /// The key's number in it.
    key: usize,
    /// The first rank that is not read.
    next: u32,
    /// Values with their ranks and lists of rows; the latter are read with them.
    read: VecDeque<(String, u32, Rows)>,
}

/// The rows of a value while segments are merged.
#[derive(Debug)]
enum Rows {
    Few(Vec<u32>),
    Many(RoaringBitmap),
}

/// One segment of the rows of several, at once; see [`MergeJob`].
///
/// # Errors
/// If one cannot be read, is damaged, or does not follow the one before.
pub fn merge_segments(segments: &[Arc<Segment>]) -> Result<Vec<u8>, SegmentError> {
    let mut job = MergeJob::new(segments.to_vec())?;
    loop {
        if let Some(bytes) = job.step()? {
            return Ok(bytes);
        }
    }
}

impl MergeJob {
    /// Reads nothing yet.
    ///
    /// # Errors
    /// If there are none, or one does not follow the one before.
    pub fn new(segments: Vec<Arc<Segment>>) -> Result<Self, SegmentError> {
        let Some(first) = segments.first() else {
            return Err(damaged("list of segments", 0));
        };
        for pair in segments.windows(2) {
            if let [before, after] = pair
                && before.rows().end != after.rows().start
            {
                return Err(SegmentError::NotWhole {
                    expected: before.rows().end,
                    found: after.rows().start,
                });
            }
        }
        let all = segments.iter().flat_map(|s| &s.keys);
        let mut keys: Vec<(u32, Box<str>)> = all.map(|k| (k.id, k.name.clone())).collect();
        keys.sort_unstable();
        keys.dedup_by_key(|(id, _)| *id);
        let ranks = segments.iter().map(|s| vec![Vec::new(); s.keys.len()]);
        let (shapes, shape_numbers) = shapes_of(&segments, &keys);
        let mut job = Self {
            writer: SegmentWriter::new(first.rows().start),
            mends: None,
            ranks: ranks.collect(),
            segments,
            keys,
            shapes,
            shape_numbers,
            state: State::Done,
        };
        job.state = job.begin_key(0);
        Ok(job)
    }

    /// One segment anew, of which blocks do not hold: what is made of tuples and values is made of them again, under the seed of
    /// the database. A step that meets such a block looks at every tuple of the segment.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn mending(segment: Arc<Segment>, seed: u64) -> Result<Self, SegmentError> {
        Ok(Self {
            mends: Some(seed),
            ..Self::new(vec![segment])?
        })
    }

    /// Goes on for some milliseconds; reads a bounded number of blocks, and may wait for them. Returns the segment's bytes
    /// at the last step, which must be the last, as must one that fails.
    ///
    /// # Errors
    /// If a segment cannot be read or is damaged.
    pub fn step(&mut self) -> Result<Option<Vec<u8>>, SegmentError> {
        self.state = match mem::replace(&mut self.state, State::Done) {
            State::Values { key, cursors, rank } => self.merge_values(key, cursors, rank)?,
            State::Rows { segment, block } => self.copy_rows(segment, block)?,
            State::Hashes {
                segment,
                page,
                mut slots,
            } => {
                let Some(of) = self.segments.get(segment) else {
                    return self.end_hashes(slots);
                };
                let end = of.hash_pages().min(page + SLICE_PAGES);
                for page in page..end {
                    let before = slots.len();
                    match of.hash_page(page, |slot| slots.push(slot)) {
                        Err(_) if self.mends.is_some() => slots.truncate(before),
                        read => read?,
                    }
                }
                let (segment, page) = if end < of.hash_pages() {
                    (segment, end)
                } else {
                    (segment + 1, 0)
                };
                State::Hashes {
                    segment,
                    page,
                    slots,
                }
            }
            State::NameTable { slots } => {
                self.writer.hashes(&slots);
                State::Filter { slots }
            }
            State::Filter { slots } => {
                self.writer.filter(&slots);
                State::End
            }
            State::End => {
                let writer = mem::replace(&mut self.writer, SegmentWriter::new(0));
                return Ok(Some(writer.finish(&self.shapes)));
            }
            State::Done => State::Done,
        };
        Ok(None)
    }

    fn begin_key(&mut self, key: usize) -> State {
        let Some((id, _)) = self.keys.get(key) else {
            return State::Rows {
                segment: 0,
                block: 0,
            };
        };
        let mut cursors = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            if let Some(at) = segment.keys.iter().position(|k| k.id == *id) {
                let ranks = self.ranks.get_mut(number).and_then(|r| r.get_mut(at));
                if let (Some(ranks), Some(of)) = (ranks, segment.keys.get(at)) {
                    ranks.resize(of.values as usize, 0);
                }
                cursors.push(Cursor {
                    segment: number,
                    key: at,
                    next: 0,
                    read: VecDeque::new(),
                });
            }
        }
        State::Values {
            key,
            cursors,
            rank: 0,
        }
    }

    /// Writes the next values of a key, each with its rows of all segments.
    fn merge_values(
        &mut self,
        key: usize,
        mut cursors: Vec<Cursor>,
        mut rank: u32,
    ) -> Result<State, SegmentError> {
        let (mut values, mut bitmaps) = (0, 0);
        while values < SLICE && bitmaps < SLICE_BITMAPS {
            for cursor in &mut cursors {
                if cursor.read.is_empty() {
                    values += BLOCK_VALUES as usize / 4;
                    bitmaps += cursor.read_block(&self.segments, self.mends.is_some())?;
                }
            }
            let heads = cursors.iter().filter_map(|c| c.read.front());
            let Some(value) = heads.map(|(value, ..)| value).min().cloned() else {
                let (id, name) = &self.keys[key];
                self.writer.end_key(*id, name);
                return Ok(self.begin_key(key + 1));
            };
            let (mut few, mut many) = (Vec::new(), RoaringBitmap::new());
            for cursor in &mut cursors {
                let Some((_, old, rows)) = cursor.read.pop_front_if(|(v, ..)| *v == value) else {
                    continue;
                };
                let ranks = self.ranks.get_mut(cursor.segment);
                let ranks = ranks.and_then(|of_segment| of_segment.get_mut(cursor.key));
                if let Some(place) = ranks.and_then(|of_key| of_key.get_mut(old as usize)) {
                    *place = rank;
                }
                match rows {
                    Rows::Few(mut list) => few.append(&mut list),
                    Rows::Many(bitmap) => many |= bitmap,
                }
            }
            if many.is_empty() {
                // They ascend unless a segment is damaged behind good checksums.
                few.sort_unstable();
                few.dedup();
                if few.is_empty() {
                    return Err(damaged("value without rows", 0));
                }
                self.writer.value(&value, RowsRef::List(&few));
            } else {
                many.extend(few);
                self.writer.value(&value, RowsRef::Bitmap(&many, &[]));
            }
            values += 1;
            rank += 1;
        }
        Ok(State::Values { key, cursors, rank })
    }

    fn copy_rows(&mut self, segment: usize, block: u32) -> Result<State, SegmentError> {
        let of = (self.segments.get(segment)).zip(self.ranks.get(segment));
        let Some(((of, ranks), numbers)) = of.zip(self.shape_numbers.get(segment)) else {
            let rows: usize = self.segments.iter().map(|s| s.rows().len()).sum();
            return Ok(State::Hashes {
                segment: 0,
                page: 0,
                slots: Vec::with_capacity(rows),
            });
        };
        let writer = &mut self.writer;
        let mut tuple = Vec::new();
        of.tuple_block(block, |read| {
            read.rows(|shape, values| {
                tuple.clear();
                let keys = &of.shapes.get(shape as usize)?.keys;
                for (key, value) in keys.iter().zip(values) {
                    tuple.push(*ranks.get(*key as usize)?.get(*value as usize)?);
                }
                writer.row(*numbers.get(shape as usize)?, &tuple);
                Some(())
            })
        })?;
        let (segment, block) = if block + 1 < of.tuple_blocks() {
            (segment, block + 1)
        } else {
            (segment + 1, 0)
        };
        Ok(State::Rows { segment, block })
    }

    fn end_hashes(&mut self, mut slots: Vec<u128>) -> Result<Option<Vec<u8>>, SegmentError> {
        let rows: usize = self.segments.iter().map(|s| s.rows().len()).sum();
        if let Some(seed) = self.mends
            && slots.len() < rows
        {
            let told: RoaringBitmap = slots.iter().map(|slot| *slot as u32).collect();
            for segment in &self.segments {
                segment.slots_of_others(seed, &told, |slot| slots.push(slot))?;
            }
        }
        sort_runs(&mut slots);
        if slots.len() != rows {
            return Err(damaged("number of hashes", 0));
        }
        self.state = State::NameTable { slots };
        Ok(None)
    }
}

impl Cursor {
    /// Reads the next block of values, if there is one; returns the number of bitmaps read.
    fn read_block(
        &mut self,
        segments: &[Arc<Segment>],
        mends: bool,
    ) -> Result<usize, SegmentError> {
        let segment = segments.get(self.segment);
        let Some((segment, key)) = segment.and_then(|s| Some((s, s.keys.get(self.key)?))) else {
            return Ok(0);
        };
        let ranks = self.next..key.values.min(self.next.saturating_add(BLOCK_VALUES));
        if ranks.is_empty() {
            return Ok(0);
        }
        let all: Vec<u32> = ranks.clone().collect();
        let first = self.next;
        self.next = ranks.end;
        for (rank, value) in ranks.clone().zip(segment.values_at(key, &all)?) {
            self.read.push_back((value, rank, Rows::Few(Vec::new())));
        }
        let mut bitmaps = Vec::new();
        let lists = &mut self.read;
        let mut push = |rank: u32, row| {
            if let Some((.., Rows::Few(list))) = lists.get_mut((rank - first) as usize) {
                list.push(row);
            }
        };
        let read = segment.rows_of_values(
            key,
            std::slice::from_ref(&ranks),
            &mut push,
            |rank, bitmap| bitmaps.push((rank, bitmap)),
        );
        match read {
            Err(_) if mends => {
                // Some may be in their lists already.
                bitmaps.clear();
                segment.rows_by_tuples(self.key, ranks, push)?;
            }
            read => read?,
        }
        let count = bitmaps.len();
        for (rank, bitmap) in bitmaps {
            if let Some((.., rows)) = self.read.get_mut((rank - first) as usize) {
                *rows = Rows::Many(bitmap);
            }
        }
        Ok(count)
    }
}

/// The shapes of all segments, and by segment and shape of it the number among them.
fn shapes_of(
    segments: &[Arc<Segment>],
    keys: &[(u32, Box<str>)],
) -> (Vec<ShapeEntry>, Vec<Vec<u32>>) {
    let mut entries: Vec<ShapeEntry> = Vec::new();
    let mut numbers: Vec<Vec<u32>> = Vec::new();
    for segment in segments {
        let mut of_segment = Vec::new();
        for shape in &segment.shapes {
            let found = entries.iter().position(|e| e.schema == shape.schema);
            let at = found.unwrap_or_else(|| {
                let key = |k: &u32| {
                    let id = segment.keys.get(*k as usize).map(|k| k.id);
                    keys.iter().position(|(i, _)| Some(*i) == id).unwrap_or(0) as u32
                };
                entries.push(ShapeEntry {
                    schema: shape.schema,
                    measurement: shape.measurement,
                    measurement_name: shape.measurement_name.clone(),
                    keys: shape.keys.iter().map(key).collect(),
                    rows: RoaringBitmap::new(),
                });
                entries.len() - 1
            });
            entries[at].rows |= &shape.rows;
            of_segment.push(at as u32);
        }
        numbers.push(of_segment);
    }
    (entries, numbers)
}
