//! From a head to a segment, a slice at a time.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use crate::PartitionIndex;
use crate::head::Head;
use crate::segment::write::{SegmentWriter, ShapeEntry};
use crate::varint::get_u32;

/// Values, rows or slots of one step: one or two milliseconds.
const SLICE: usize = 4096;

/// Makes a segment of the oldest rows in memory; holds no lock on the index between steps.
#[derive(Debug)]
pub struct SealJob {
    head: Arc<Head>,
    /// By key number: its name, where it has values.
    keys: Vec<Option<Box<str>>>,
    /// The shapes with rows; their keys are those of the index until the rows are written.
    shapes: Vec<ShapeEntry>,
    /// By key: the rank of each of its values.
    ranks: Vec<Vec<u32>>,
    writer: SegmentWriter,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Sorting the values of a key, of which so many are in sorted runs.
    Sort {
        key: usize,
        values: Vec<u32>,
        sorted: usize,
    },
    /// Writing the sorted values of a key, of which so many are written.
    Values {
        key: usize,
        values: Vec<u32>,
        written: usize,
    },
    /// Writing rows: by row its shape, and how many are written.
    Rows {
        shapes: Vec<u32>,
        written: usize,
    },
    /// Gathering hashes, ascending, from this leading half of theirs on.
    Hashes {
        from: u64,
        slots: Vec<u128>,
    },
    /// The filter.
    Filter {
        slots: Vec<u128>,
    },
    /// The directory.
    End,
    Done,
}

impl SealJob {
    pub(crate) fn new(
        head: &Arc<Head>,
        keys: Vec<Option<Box<str>>>,
        shapes: Vec<ShapeEntry>,
    ) -> Self {
        let mut job = Self {
            head: Arc::clone(head),
            ranks: vec![Vec::new(); keys.len()],
            keys,
            shapes,
            writer: SegmentWriter::new(head.base),
            state: State::Done,
        };
        job.state = job.begin_key(0);
        job
    }

    /// Makes the segment's bytes at once. Costs about a microsecond a row.
    pub fn build(mut self, index: &PartitionIndex) -> Vec<u8> {
        loop {
            if let Some(bytes) = self.step(|| index) {
                return bytes;
            }
        }
    }

    /// Goes on for a millisecond or two, of a head of up to 65,536 rows; longer ones make a few steps longer. Returns the
    /// segment's bytes at the last step, which must be the last. `index` gives the one the job is of, with all frozen rows
    /// still in its table; only steps that gather hashes ask for it, a part of a millisecond each.
    pub fn step<I: Deref<Target = PartitionIndex>>(
        &mut self,
        index: impl FnOnce() -> I,
    ) -> Option<Vec<u8>> {
        let head = Arc::clone(&self.head);
        self.state = match mem::replace(&mut self.state, State::Done) {
            State::Sort {
                key,
                mut values,
                sorted,
            } => {
                if sorted < values.len() {
                    let end = values.len().min(sorted + SLICE);
                    sort_by_name(&head, key, &mut values[sorted..end]);
                    let sorted = end;
                    State::Sort {
                        key,
                        values,
                        sorted,
                    }
                } else {
                    // The sort finds the runs and merges them.
                    sort_by_name(&head, key, &mut values);
                    self.ranks[key].resize(values.len(), 0);
                    let written = 0;
                    State::Values {
                        key,
                        values,
                        written,
                    }
                }
            }
            State::Values {
                key,
                values,
                written,
            } => self.write_values(&head, key, values, written),
            State::Rows { shapes, written } => self.write_rows(&head, shapes, written),
            State::Hashes {
                mut from,
                mut slots,
            } => {
                let enough = slots.len() + SLICE;
                let rows = head.base..head.end();
                let index = index();
                // Rows all over the table: a look at each of its slots.
                let mut seen = 0;
                while from < 1 << 32 && slots.len() < enough && seen < 16 * SLICE {
                    from = index.table.slots_from(from, |slot| {
                        seen += 1;
                        if rows.contains(&(slot as u32)) {
                            slots.push(slot);
                        }
                    });
                }
                if from < 1 << 32 {
                    State::Hashes { from, slots }
                } else {
                    drop(index);
                    self.writer.hashes(&slots);
                    State::Filter { slots }
                }
            }
            State::Filter { slots } => {
                self.writer.filter(&slots);
                State::End
            }
            State::End => {
                let writer = mem::replace(&mut self.writer, SegmentWriter::new(head.base));
                return Some(writer.finish(&self.shapes));
            }
            State::Done => State::Done,
        };
        None
    }

    /// The first key with values from this one on, or the rows.
    fn begin_key(&mut self, from: usize) -> State {
        let mut keys = self.keys.iter().enumerate().skip(from);
        let used = keys.find_map(|(key, name)| {
            name.as_ref()?;
            Some((key, self.head.key(key as u32)?.values.len()))
        });
        if let Some((key, values)) = used {
            return State::Sort {
                key,
                values: (0..values).collect(),
                sorted: 0,
            };
        }
        let mut shapes = vec![0_u32; self.head.len() as usize];
        for (number, shape) in (0..).zip(&self.shapes) {
            for row in &shape.rows {
                shapes[(row - self.head.base) as usize] = number;
            }
        }
        State::Rows { shapes, written: 0 }
    }

    fn write_values(&mut self, head: &Head, key: usize, values: Vec<u32>, written: usize) -> State {
        let id = key as u32;
        let names = head.key(id).map(|key| &key.values);
        let end = values.len().min(written + SLICE);
        for (rank, value) in (written as u32..).zip(&values[written..end]) {
            self.ranks[key][*value as usize] = rank;
            let name = names.and_then(|names| names.name(*value));
            let rows = head.value_rows(id, *value);
            self.writer.value(
                name.expect("a value of the dictionary"),
                rows.expect("every value has a row"),
            );
        }
        if end < values.len() {
            let written = end;
            return State::Values {
                key,
                values,
                written,
            };
        }
        self.writer
            .end_key(id, self.keys[key].as_deref().unwrap_or_default());
        self.begin_key(key + 1)
    }

    fn write_rows(&mut self, head: &Head, shapes: Vec<u32>, written: usize) -> State {
        let end = shapes.len().min(written + SLICE);
        let mut tuple = Vec::new();
        for (shape, row) in shapes[written..end]
            .iter()
            .zip(head.base + written as u32..)
        {
            tuple.clear();
            let mut values = head.tuple(row).unwrap_or_default();
            for key in &self.shapes[*shape as usize].keys {
                let value = get_u32(&mut values).expect("a value for each key");
                tuple.push(self.ranks[*key as usize][value as usize]);
            }
            self.writer.row(*shape, &tuple);
        }
        if end < shapes.len() {
            let written = end;
            return State::Rows { shapes, written };
        }
        self.number_keys();
        State::Hashes {
            from: 0,
            slots: Vec::with_capacity(head.len() as usize),
        }
    }

    /// From here on the keys of shapes are those of the segment, which has only the ones with values.
    fn number_keys(&mut self) {
        let mut next = 0;
        let used = self.keys.iter().map(|name| {
            let number = next;
            next += u32::from(name.is_some());
            number
        });
        let numbers: Vec<u32> = used.collect();
        for key in self.shapes.iter_mut().flat_map(|shape| &mut shape.keys) {
            *key = numbers[*key as usize];
        }
    }
}

fn sort_by_name(head: &Head, key: usize, values: &mut [u32]) {
    let Some(key) = head.key(key as u32) else {
        return;
    };
    let names = values
        .iter()
        .map(|value| (key.values.bytes(*value), *value));
    let mut named: Vec<_> = names.collect();
    named.sort_by_key(|(name, _)| *name);
    for (place, (_, value)) in values.iter_mut().zip(named) {
        *place = value;
    }
}
