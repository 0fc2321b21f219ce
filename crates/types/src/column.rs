//! Columns of points of one series: the unit that codecs, trees and queries pass around.

use crate::{ValueKind, ValueRef};

/// Strings end to end in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StringColumn {
    text: String,
    ends: Vec<u32>,
}

impl StringColumn {
    /// An empty column.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// Appends one string.
    ///
    /// # Panics
    /// If the column would pass 4 GiB of text.
    pub fn push(&mut self, value: &str) {
        self.text.push_str(value);
        self.ends
            .push(u32::try_from(self.text.len()).expect("a string column is bounded by 4 GiB"));
    }

    /// Appends strings that stand one behind the other in `text`, given the length of each in bytes: cheaper than
    /// one by one where they are short. Lengths that cut a character make strings that read as none.
    ///
    /// # Panics
    /// If the lengths are not those of the whole text, or the column would pass 4 GiB of text.
    pub fn extend(&mut self, text: &str, lengths: impl Iterator<Item = u32>) {
        let mut end = self.text.len() as u64;
        self.text.push_str(text);
        let all = u32::try_from(self.text.len()).expect("a string column is bounded by 4 GiB");
        self.ends.extend(lengths.map(|length| {
            end += u64::from(length);
            end as u32
        }));
        assert_eq!(end, u64::from(all), "lengths of other strings");
    }

    /// The string at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let begin = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        self.text.get(begin..end)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }

    /// Drops everything, keeping the buffers.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}

impl<'a> FromIterator<&'a str> for StringColumn {
    fn from_iter<I: IntoIterator<Item = &'a str>>(iter: I) -> Self {
        let mut column = Self::new();
        for value in iter {
            column.push(value);
        }
        column
    }
}

/// Values of a column: raw bits for numeric kinds, text for strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// 64 raw bits each; their meaning is the column's kind.
    Numeric(Vec<u64>),
    /// Text.
    Strings(StringColumn),
}

/// Points of one series of one kind, oldest first unless a function says otherwise; `times` and `values`
/// have the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    kind: ValueKind,
    /// Nanoseconds.
    pub times: Vec<i64>,
    /// The values, of the same length.
    pub values: Values,
}

impl Column {
    /// An empty column.
    pub fn new(kind: ValueKind) -> Self {
        let values = if kind.is_numeric() {
            Values::Numeric(Vec::new())
        } else {
            Values::Strings(StringColumn::new())
        };
        Self {
            kind,
            times: Vec::new(),
            values,
        }
    }

    /// The kind of every value.
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// How many points.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Appends one numeric point.
    ///
    /// # Panics
    /// If the column holds strings.
    pub fn push_bits(&mut self, time: i64, bits: u64) {
        match &mut self.values {
            Values::Numeric(v) => v.push(bits),
            Values::Strings(_) => panic!("raw bits pushed into a string column"),
        }
        self.times.push(time);
    }

    /// Appends one string point.
    ///
    /// # Panics
    /// If the column is numeric.
    pub fn push_str(&mut self, time: i64, value: &str) {
        match &mut self.values {
            Values::Strings(v) => v.push(value),
            Values::Numeric(_) => panic!("a string pushed into a numeric column"),
        }
        self.times.push(time);
    }

    /// Appends one point.
    ///
    /// # Panics
    /// If the value's kind is not the column's.
    pub fn push(&mut self, time: i64, value: ValueRef<'_>) {
        assert_eq!(
            value.kind(),
            self.kind,
            "a value of another kind pushed into a column"
        );
        match value {
            ValueRef::Str(s) => self.push_str(time, s),
            other => self.push_bits(time, other.bits().unwrap_or_default()),
        }
    }

    /// The value at `index`, if there is one.
    pub fn value(&self, index: usize) -> Option<ValueRef<'_>> {
        match &self.values {
            Values::Numeric(v) => v.get(index).map(|b| ValueRef::from_bits(self.kind, *b)),
            Values::Strings(v) => v.get(index).map(ValueRef::Str),
        }
    }

    /// The raw bits; empty for strings.
    pub fn bits(&self) -> &[u64] {
        match &self.values {
            Values::Numeric(v) => v,
            Values::Strings(_) => &[],
        }
    }

    /// Drops every point, keeping the buffers.
    pub fn clear(&mut self) {
        self.times.clear();
        match &mut self.values {
            Values::Numeric(v) => v.clear(),
            Values::Strings(v) => v.clear(),
        }
    }

    /// Keeps the points from `begin` up to `end` (indexes, half-open), dropping the others.
    ///
    /// # Panics
    /// If the indexes are out of order or past the end.
    pub fn keep(&mut self, begin: usize, end: usize) {
        assert!(
            begin <= end && end <= self.len(),
            "kept points are outside the column"
        );
        if begin == 0 && end == self.len() {
            return;
        }
        match &mut self.values {
            Values::Numeric(v) => {
                v.truncate(end);
                v.drain(..begin);
            }
            Values::Strings(v) => *v = (begin..end).filter_map(|i| v.get(i)).collect(),
        }
        self.times.truncate(end);
        self.times.drain(..begin);
    }

    /// Reverses the order of the points.
    pub fn reverse(&mut self) {
        self.times.reverse();
        match &mut self.values {
            Values::Numeric(v) => v.reverse(),
            Values::Strings(v) => *v = v.iter().rev().collect(),
        }
    }

    /// Appends points `begin..end` (indexes, half-open) of `other`.
    ///
    /// # Panics
    /// If the kinds differ or the indexes are out of range.
    pub fn extend_from(&mut self, other: &Self, begin: usize, end: usize) {
        assert_eq!(self.kind, other.kind, "columns of different kinds joined");
        self.times.extend_from_slice(&other.times[begin..end]);
        match (&mut self.values, &other.values) {
            (Values::Numeric(a), Values::Numeric(b)) => a.extend_from_slice(&b[begin..end]),
            (Values::Strings(a), Values::Strings(b)) => {
                (begin..end)
                    .filter_map(|i| b.get(i))
                    .for_each(|s| a.push(s));
            }
            _ => unreachable!("equal kinds hold equal values"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_reverse_and_extend() {
        let mut c = Column::new(ValueKind::Str);
        for (t, s) in [(1, "a"), (2, ""), (3, "cc"), (4, "d")] {
            c.push_str(t, s);
        }
        let mut joined = Column::new(ValueKind::Str);
        joined.extend_from(&c, 1, 3);
        c.keep(1, 3);
        assert_eq!(c, joined);
        c.reverse();
        assert_eq!(c.times, [3, 2]);
        assert_eq!(c.value(0), Some(ValueRef::Str("cc")));
        assert_eq!(c.value(1), Some(ValueRef::Str("")));
        assert_eq!(c.value(2), None);
    }
}
