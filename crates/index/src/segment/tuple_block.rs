//! Blocks of tuples: which value each row has under each of its keys, in columns.
//!
//! Readers get bytes whose checksum held; they still return `None` on anything that makes no sense.

use crate::segment::layout::BLOCK_ROWS;
use crate::segment::packed::{bits_of, pack, packed_bytes, unpack};
use crate::varint::{get_u32, put_u64};

/// Gathers the tuples of up to [`BLOCK_ROWS`] rows.
#[derive(Debug, Default)]
pub(crate) struct TupleBlockBuilder {
    /// The shapes met, by number within the segment, with the columns of each: one list a key.
    shapes: Vec<(u32, Vec<Vec<u32>>)>,
    /// By row: which of `shapes`.
    rows: Vec<u32>,
}

impl TupleBlockBuilder {
    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() == BLOCK_ROWS as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row: its shape's number within the segment, and the rank of its value under each key.
    pub(crate) fn push(&mut self, shape: u32, values: &[u32]) {
        let found = self.shapes.iter().rposition(|(s, _)| *s == shape);
        let at = found.unwrap_or_else(|| {
            self.shapes.push((shape, vec![Vec::new(); values.len()]));
            self.shapes.len() - 1
        });
        self.rows.push(at as u32);
        for (column, value) in self.shapes[at].1.iter_mut().zip(values) {
            column.push(*value);
        }
    }

    /// The block, and an empty builder again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, self.rows.len() as u64);
        put_u64(&mut out, self.shapes.len() as u64);
        let mut columns = Vec::new();
        for (shape, lists) in &self.shapes {
            put_u64(&mut out, u64::from(*shape));
            put_u64(&mut out, lists.len() as u64);
            for list in lists {
                let low = list.iter().copied().min().unwrap_or(0);
                let width = list.iter().map(|v| bits_of(v - low)).max().unwrap_or(0);
                put_u64(&mut out, u64::from(low));
                out.push(width as u8);
                pack(list.iter().map(|v| v - low), width, &mut columns);
            }
        }
        let width = bits_of(self.shapes.len() as u32 - 1);
        pack(self.rows.iter().copied(), width, &mut out);
        out.append(&mut columns);
        self.shapes.clear();
        self.rows.clear();
        out
    }
}

/// One column of a tuple block: the values of one key in the rows of one shape.
#[derive(Debug, Clone, Copy)]
struct Column<'a> {
    low: u32,
    width: u32,
    bytes: &'a [u8],
}

/// A tuple block as it was read.
#[derive(Debug)]
pub(crate) struct TupleBlock<'a> {
    count: u32,
    /// Shape numbers with the place of their first column and their number of keys.
    shapes: Vec<(u32, usize, usize)>,
    columns: Vec<Column<'a>>,
    row_shapes: &'a [u8],
    shape_width: u32,
}

impl<'a> TupleBlock<'a> {
    /// `keys` tells how many keys a shape of the segment has.
    pub(crate) fn read(mut bytes: &'a [u8], keys: impl Fn(u32) -> Option<usize>) -> Option<Self> {
        let count = get_u32(&mut bytes).filter(|n| (1..=BLOCK_ROWS).contains(n))?;
        let shape_count = get_u32(&mut bytes).filter(|n| (1..=count).contains(n))?;
        let mut shapes = Vec::new();
        let mut columns: Vec<Column<'a>> = Vec::new();
        for _ in 0..shape_count {
            let shape = get_u32(&mut bytes)?;
            let width = get_u32(&mut bytes)? as usize;
            if keys(shape)? != width {
                return None;
            }
            shapes.push((shape, columns.len(), width));
            for _ in 0..width {
                let low = get_u32(&mut bytes)?;
                let (&width, rest) = bytes.split_first()?;
                bytes = rest;
                if width > 32 {
                    return None;
                }
                columns.push(Column {
                    low,
                    width: width.into(),
                    bytes: &[],
                });
            }
        }
        let shape_width = bits_of(shape_count - 1);
        let (row_shapes, mut rest) = bytes.split_at_checked(packed_bytes(count, shape_width))?;
        let mut block = Self {
            count,
            shapes,
            columns,
            row_shapes,
            shape_width,
        };
        let mut of_shape = vec![0_u32; block.shapes.len()];
        for row in 0..count {
            *of_shape.get_mut(block.place(row)? as usize)? += 1;
        }
        for ((_, first, width), rows) in block.shapes.iter().zip(of_shape) {
            for column in block.columns.get_mut(*first..first + width)? {
                let (bytes, after) = rest.split_at_checked(packed_bytes(rows, column.width))?;
                column.bytes = bytes;
                rest = after;
            }
        }
        rest.is_empty().then_some(block)
    }

    fn place(&self, row: u32) -> Option<u32> {
        unpack(self.row_shapes, row, self.shape_width)
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// A row's shape, and the ranks of its values in the order of the shape's keys.
    pub(crate) fn row(&self, row: u32) -> Option<(u32, impl Iterator<Item = Option<u32>> + '_)> {
        if row >= self.count {
            return None;
        }
        let place = self.place(row)?;
        let (shape, first, width) = *self.shapes.get(place as usize)?;
        let before = if self.shape_width == 0 {
            row
        } else {
            (0..row).filter(|r| self.place(*r) == Some(place)).count() as u32
        };
        let columns = self.columns.get(first..first + width)?;
        Some((shape, columns.iter().map(move |c| c.value(before))))
    }

    /// The rank of one value of a row: that of the shape's key at `at`.
    pub(crate) fn value(&self, row: u32, at: impl Fn(u32) -> Option<usize>) -> Option<u32> {
        let (shape, mut values) = self.row(row)?;
        values.nth(at(shape)?)?
    }

    /// Calls `visit` with every row's shape and values.
    pub(crate) fn rows(&self, mut visit: impl FnMut(u32, &[u32]) -> Option<()>) -> Option<()> {
        let mut done = vec![0_u32; self.shapes.len()];
        let mut values = Vec::new();
        for row in 0..self.count {
            let place = self.place(row)? as usize;
            let (shape, first, width) = *self.shapes.get(place)?;
            let at = done.get_mut(place)?;
            values.clear();
            for column in self.columns.get(first..first + width)? {
                values.push(column.value(*at)?);
            }
            *at += 1;
            visit(shape, &values)?;
        }
        Some(())
    }
}

impl Column<'_> {
    fn value(&self, at: u32) -> Option<u32> {
        self.low.checked_add(unpack(self.bytes, at, self.width)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_come_back() {
        for shapes in [1_u32, 2, 9] {
            for count in [1, 7, BLOCK_ROWS] {
                let mut builder = TupleBlockBuilder::default();
                let expected: Vec<(u32, Vec<u32>)> = (0..count)
                    .map(|row| {
                        let shape = row * 7 % shapes;
                        let values = (0..shape + 2).map(|k| (row * 77 + k) << (k * 7 % 20));
                        (shape, values.collect())
                    })
                    .collect();
                for (shape, values) in &expected {
                    builder.push(*shape, values);
                }
                let bytes = builder.finish();
                let keys = |shape: u32| (shape < shapes).then_some(shape as usize + 2);
                let block = TupleBlock::read(&bytes, keys).unwrap();
                let mut all = Vec::new();
                block
                    .rows(|shape, values| {
                        all.push((shape, values.to_vec()));
                        Some(())
                    })
                    .unwrap();
                assert_eq!(all, expected);
                for (row, (shape, values)) in (0..).zip(&expected) {
                    let (found, list) = block.row(row).unwrap();
                    assert_eq!(
                        (found, list.collect::<Option<Vec<_>>>()),
                        (*shape, Some(values.clone()))
                    );
                    assert_eq!(block.value(row, |_| Some(1)), Some(values[1]));
                }
                assert!(block.row(count).is_none());
                for cut in 0..bytes.len() {
                    assert!(
                        TupleBlock::read(&bytes[..cut], keys).is_none(),
                        "cut at {cut}"
                    );
                }
            }
        }
    }
}
