//! What the blocks of a segment hold: values with their rows, and tuples in columns.
//!
//! Readers get bytes whose checksum held; they still return `None` on anything that makes no sense.

use crate::automaton::{Automaton, State};
use crate::segment::layout::{BLOCK_ROWS, BLOCK_VALUES, INLINE_ROWS};
use crate::varint::{get_u32, get_u64, put_u64};

/// Where the rows of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueRows<'a> {
    /// Gaps as varints, the first counted from the segment's first row; the number of rows.
    Inline(&'a [u8], u32),
    /// A serialised bitmap elsewhere in the file: offset, bytes.
    Bitmap(u64, u32),
}

/// Gathers values in ascending order.
#[derive(Debug, Default)]
pub(crate) struct ValueBlockBuilder {
    strings: Vec<u8>,
    rows: Vec<u8>,
    last: String,
    pub(crate) count: u32,
}

impl ValueBlockBuilder {
    pub(crate) fn is_full(&self) -> bool {
        self.count == BLOCK_VALUES
    }

    /// Adds a value whose rows, counted from the segment's first, are these few.
    pub(crate) fn push_inline(&mut self, value: &str, rows: impl ExactSizeIterator<Item = u32>) {
        self.push_string(value);
        debug_assert!((1..=INLINE_ROWS).contains(&rows.len()));
        put_u64(&mut self.rows, rows.len() as u64);
        let mut next = 0;
        for row in rows {
            put_u64(&mut self.rows, u64::from(row - next));
            next = row + 1;
        }
    }

    /// Adds a value whose bitmap is elsewhere.
    pub(crate) fn push_bitmap(&mut self, value: &str, offset: u64, bytes: u32) {
        self.push_string(value);
        put_u64(&mut self.rows, 0);
        put_u64(&mut self.rows, offset);
        put_u64(&mut self.rows, bytes.into());
    }

    fn push_string(&mut self, value: &str) {
        let pairs = self.last.as_bytes().iter().zip(value.as_bytes());
        let shared = pairs.take_while(|(a, b)| a == b).count();
        put_u64(&mut self.strings, shared as u64);
        put_u64(&mut self.strings, (value.len() - shared) as u64);
        self.strings.extend_from_slice(&value.as_bytes()[shared..]);
        self.last.clear();
        self.last.push_str(value);
        self.count += 1;
    }

    /// The block, and an empty builder again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.strings.len() + self.rows.len() + 8);
        put_u64(&mut out, self.count.into());
        put_u64(&mut out, self.strings.len() as u64);
        out.append(&mut self.strings);
        out.append(&mut self.rows);
        self.last.clear();
        self.count = 0;
        out
    }
}

/// A value block as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueBlock<'a> {
    pub(crate) count: u32,
    strings: &'a [u8],
    rows: &'a [u8],
}

impl<'a> ValueBlock<'a> {
    pub(crate) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let count = get_u32(&mut bytes).filter(|n| *n <= BLOCK_VALUES)?;
        let strings = usize::try_from(get_u64(&mut bytes)?).ok()?;
        let (strings, rows) = bytes.split_at_checked(strings)?;
        Some(Self {
            count,
            strings,
            rows,
        })
    }

    /// Calls `visit` with each value and its place in the block, until it answers `false`.
    pub(crate) fn values(&self, mut visit: impl FnMut(u32, &str) -> bool) -> Option<()> {
        let mut rest = self.strings;
        let mut value: Vec<u8> = Vec::with_capacity(64);
        for i in 0..self.count {
            let shared = get_u32(&mut rest)? as usize;
            let suffix = get_u32(&mut rest)? as usize;
            let (suffix, after) = rest.split_at_checked(suffix)?;
            rest = after;
            if shared > value.len() {
                return None;
            }
            value.truncate(shared);
            value.extend_from_slice(suffix);
            if !visit(i, std::str::from_utf8(&value).ok()?) {
                break;
            }
        }
        Some(())
    }

    /// Calls `visit` with each value's place in the block, and whether an expression matches it. What a value shares
    /// with the one before it was decided there: only bytes that differ cost a step. `states` saves an allocation.
    pub(crate) fn matches(
        &self,
        automaton: &Automaton,
        states: &mut Vec<State>,
        mut visit: impl FnMut(u32, bool),
    ) -> Option<()> {
        let mut rest = self.strings;
        // Behind each byte of the value before.
        states.clear();
        states.push(automaton.begin());
        for i in 0..self.count {
            let shared = get_u32(&mut rest)? as usize;
            let suffix = get_u32(&mut rest)? as usize;
            let (suffix, after) = rest.split_at_checked(suffix)?;
            rest = after;
            let mut state = *states.get(shared)?;
            states.truncate(shared + 1);
            for byte in suffix {
                state = automaton.step(state, *byte);
                states.push(state);
            }
            visit(i, automaton.accepts(state));
        }
        Some(())
    }

    /// Calls `visit` with where the rows of each value are, until it answers `None`.
    pub(crate) fn rows(
        &self,
        mut visit: impl FnMut(u32, ValueRows<'a>) -> Option<()>,
    ) -> Option<()> {
        let mut rest = self.rows;
        for i in 0..self.count {
            let count = get_u32(&mut rest)?;
            let rows = if count == 0 {
                let offset = get_u64(&mut rest)?;
                ValueRows::Bitmap(offset, get_u32(&mut rest)?)
            } else if count as usize > INLINE_ROWS {
                return None;
            } else {
                let begin = rest;
                for _ in 0..count {
                    get_u32(&mut rest)?;
                }
                ValueRows::Inline(begin.get(..begin.len() - rest.len())?, count)
            };
            visit(i, rows)?;
        }
        Some(())
    }
}

/// Calls `push` with the rows of an inline list, all below `limit` and counted from the segment's first.
pub(crate) fn inline_rows(mut bytes: &[u8], limit: u32, mut push: impl FnMut(u32)) -> Option<()> {
    let mut next = 0_u32;
    while !bytes.is_empty() {
        let row = next.checked_add(get_u32(&mut bytes)?)?;
        if row >= limit {
            return None;
        }
        push(row);
        next = row + 1;
    }
    Some(())
}

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

fn bits_of(value: u32) -> u32 {
    u32::BITS - value.leading_zeros()
}

fn packed_bytes(count: u32, width: u32) -> usize {
    (u64::from(count) * u64::from(width)).div_ceil(8) as usize
}

/// Appends numbers of `width` bits, low bits first.
fn pack(numbers: impl Iterator<Item = u32>, width: u32, out: &mut Vec<u8>) {
    let (mut word, mut used) = (0_u64, 0);
    for number in numbers {
        word |= u64::from(number) << used;
        used += width;
        while used >= 8 {
            out.push(word as u8);
            word >>= 8;
            used -= 8;
        }
    }
    if used > 0 {
        out.push(word as u8);
    }
}

#[inline]
fn unpack(bytes: &[u8], at: u32, width: u32) -> Option<u32> {
    if width == 0 {
        return Some(0);
    }
    let bit = u64::from(at) * u64::from(width);
    let begin = (bit / 8) as usize;
    let word = if let Some(eight) = bytes.get(begin..begin + 8) {
        u64::from_le_bytes(eight.try_into().ok()?)
    } else {
        let tail = bytes.get(begin..)?;
        if (tail.len() * 8) < (bit % 8 + u64::from(width)) as usize {
            return None;
        }
        tail.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b))
    };
    Some((word >> (bit % 8) & (u64::MAX >> (64 - width))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Label, Matcher, Selector, Test};

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

    #[test]
    fn an_automaton_decides_as_the_matcher_does() {
        let mut values: Vec<String> = (0..300).map(|n| format!("host_{n}")).collect();
        let others = [
            "",
            "a\nb",
            "é",
            "éé-99",
            "HOST_7",
            "x y",
            "web-1.eu",
            "web-11.eu",
        ];
        values.extend(others.map(str::to_owned));
        values.sort_unstable();
        let mut builder = ValueBlockBuilder::default();
        for value in &values {
            builder.push_inline(value, std::iter::once(1));
        }
        let bytes = builder.finish();
        let block = ValueBlock::read(&bytes).unwrap();
        for pattern in [
            ".*99.*",
            ".*9",
            "host_1.*",
            "host_[12]+",
            "h.*|w.*",
            "(?i)host_7",
            ".*",
            ".+b",
            "a.b",
            "[^h].*",
            r"web-\d\.eu",
            r"\w+",
            ".*é.*",
            "",
            "(?-s).*b",
            "^host_7$",
            ".*(a|b|9)$",
            "host_1?.?",
            "x\\sy",
            "..",
        ] {
            let matchers = vec![Matcher::new(
                Label::Tag("t".into()),
                Test::Regex(pattern.into()),
            )];
            let selector = Selector { matchers }.compile().unwrap();
            let matcher = &selector.matchers[0];
            let Some(automaton) = matcher.automaton() else {
                assert!(pattern.is_empty(), "{pattern} has no table");
                continue;
            };
            let mut found = Vec::new();
            block.matches(automaton, &mut Vec::new(), |i, is_match| {
                found.push((i as usize, is_match));
            });
            let expected = values.iter().map(|value| matcher.matches(value));
            let expected: Vec<_> = expected.enumerate().collect();
            assert_eq!(found, expected, "{pattern}");
        }
        // What looks around has none, and what is too large.
        assert!(Automaton::new(r"\bhost\b").is_none());
        assert!(Automaton::new(r"(\w{40}){20}").is_none());
    }

    #[test]
    fn values_come_back_with_their_rows() {
        let values = ["", "a", "ab", "abc", "b", "é", "éa"];
        let mut builder = ValueBlockBuilder::default();
        for (i, value) in (0..).zip(values) {
            if i % 3 == 2 {
                builder.push_bitmap(value, i * 1000, 77);
            } else {
                builder.push_inline(value, [i as u32, 10 + i as u32].into_iter());
            }
        }
        let bytes = builder.finish();
        assert_eq!(builder.count, 0);
        let block = ValueBlock::read(&bytes).unwrap();
        let mut found = Vec::new();
        block.values(|i, v| {
            found.push((i as usize, v.to_owned()));
            true
        });
        let expected: Vec<_> = values.iter().map(|v| (*v).to_owned()).enumerate().collect();
        assert_eq!(found, expected);
        block
            .rows(|i, rows| {
                match rows {
                    ValueRows::Bitmap(at, 77) => assert_eq!(at, u64::from(i) * 1000),
                    ValueRows::Inline(bytes, 2) => {
                        let mut rows = Vec::new();
                        inline_rows(bytes, 100, |r| rows.push(r)).unwrap();
                        assert_eq!(rows, [i, 10 + i]);
                        assert_eq!(inline_rows(bytes, 10 + i, |_| ()), None, "past the end");
                    }
                    other => panic!("{other:?}"),
                }
                Some(())
            })
            .unwrap();
    }
}
