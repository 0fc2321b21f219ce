//! The buffer in which a series' late points wait until they fill a run.

use alluvium_nbtree::LatePoints;
use alluvium_types::{Column, Lsn, MAX_STRING_BYTES, SeriesId, TimeRange, ValueKind, ValueRef};

use crate::partition::PartitionState;

/// Bytes of text at which a buffer goes to a run. A checkpoint keeps a buffer as blocks, and a block of text may
/// always unpack to 1 MiB; runs keep long texts beside their blocks.
const TEXT_BYTES_MAX: usize = (1 << 20) - MAX_STRING_BYTES;

/// What late points may take of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LateRules {
    /// Points that a series buffers before they go to a run.
    pub(crate) points_max: usize,
    /// Bytes of newest points that a series keeps open for them.
    pub(crate) window_bytes: usize,
}

/// Points that are put in their places together: one after the other each would move half of the buffer.
const RECENT_MAX: usize = 32;

/// Points in a row, each behind all that wait, that go to a run at once: history that comes in order.
const IN_ORDER_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq)]
enum LateValue {
    Bits(ValueKind, u64),
    Text(Box<str>),
}

impl LateValue {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Str(text) => Self::Text(text.into()),
            number => Self::Bits(number.kind(), number.bits().unwrap_or_default()),
        }
    }

    fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Bits(kind, bits) => ValueRef::from_bits(*kind, *bits),
            Self::Text(text) => ValueRef::Str(text),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Bits(..) => 0,
            Self::Text(text) => text.len(),
        }
    }
}

/// Where a point stands: of one time a number and a text may be there.
fn place(point: &(i64, LateValue)) -> (i64, bool) {
    (point.0, matches!(point.1, LateValue::Text(_)))
}

/// Points of one series by time, at most one numeric and one string value a timestamp; a later write
/// replaces an earlier one. Exists only after a late point.
#[derive(Debug, Clone, Default)]
pub(crate) struct LateBuffer {
    /// By time, then numbers before texts.
    points: Vec<(i64, LateValue)>,
    /// Those that came since, as they came: none is later than the last of `points`, which has room for them.
    recent: Vec<(i64, LateValue)>,
    text_bytes: usize,
    /// How many of the last that came were behind all others.
    in_order: usize,
}

impl LateBuffer {
    /// The points of columns.
    pub(crate) fn of(columns: &[Column]) -> Self {
        let mut late = Self::default();
        for column in columns {
            late.extend(column);
        }
        late
    }

    /// Adds or replaces the points of a column.
    pub(crate) fn extend(&mut self, column: &Column) {
        for (i, time) in column.times.iter().enumerate() {
            if let Some(value) = column.value(i) {
                self.insert(*time, value);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.points.len() + self.recent.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Whether one more of the longest texts could be more than a block of them may unpack to.
    pub(crate) fn is_full_of_text(&self) -> bool {
        self.text_bytes >= TEXT_BYTES_MAX
    }

    /// Whether it is being filled in order: a run takes such points for less.
    pub(crate) fn is_in_order(&self) -> bool {
        self.in_order >= IN_ORDER_MAX
    }

    pub(crate) fn last_time(&self) -> Option<i64> {
        self.points.last().map(|(t, _)| *t)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let slots = self.points.capacity() + self.recent.capacity();
        slots * size_of::<(i64, LateValue)>() + self.text_bytes
    }

    /// Adds or replaces. Cost: a 32nd of a sort of two runs; at the end nothing.
    pub(crate) fn insert(&mut self, time: i64, value: ValueRef<'_>) {
        let late = LateValue::of(value);
        self.text_bytes += late.heap_bytes();
        if self.last_time().is_none_or(|last| last < time) {
            self.points.push((time, late));
            self.in_order += 1;
            return;
        }
        self.in_order = 0;
        self.recent.push((time, late));
        self.points.reserve(self.recent.len());
        if self.recent.len() >= RECENT_MAX {
            self.settle();
        }
    }

    /// Puts what came since in its places. Of one time and class the last stays.
    fn settle(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        self.points.append(&mut self.recent);
        // Stable: what came later stands behind.
        self.points.sort_by_key(place);
        let text_bytes = &mut self.text_bytes;
        self.points.dedup_by(|later, earlier| {
            let replaces = place(later) == place(earlier);
            if replaces {
                std::mem::swap(later, earlier);
                *text_bytes -= later.1.heap_bytes();
            }
            replaces
        });
    }

    /// All points in their places.
    fn settled(&self) -> Vec<&(i64, LateValue)> {
        let mut all: Vec<_> = self.points.iter().chain(&self.recent).collect();
        if !self.recent.is_empty() {
            all.sort_by_key(|point| place(point));
            all.dedup_by(|later, earlier| {
                let replaces = place(later) == place(earlier);
                if replaces {
                    std::mem::swap(later, earlier);
                }
                replaces
            });
        }
        all
    }

    /// Takes out the points inside `range` whose kind `wanted` accepts; whether there were any.
    pub(crate) fn remove(&mut self, range: TimeRange, wanted: impl Fn(ValueKind) -> bool) -> bool {
        self.settle();
        let before = self.points.len();
        let text_bytes = &mut self.text_bytes;
        self.points.retain(|(time, value)| {
            let goes = range.contains(*time) && wanted(value.as_ref().kind());
            if goes {
                *text_bytes -= value.heap_bytes();
            }
            !goes
        });
        self.points.len() != before
    }

    /// The points that a run may take.
    pub(crate) fn of_run<'a>(
        &'a mut self,
        series: SeriesId,
        birth: Lsn,
        part: &'a PartitionState,
    ) -> LateOfRun<'a> {
        LateOfRun {
            buffer: self,
            series,
            birth,
            part,
        }
    }

    /// The kind of each point.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = ValueKind> {
        let points = self.points.iter().chain(&self.recent);
        points.map(|(_, value)| value.as_ref().kind())
    }

    /// Forgets the points before `cut`. Returns whether there were any.
    pub(crate) fn forget_before(&mut self, cut: i64) -> bool {
        self.settle();
        let gone = self.points.partition_point(|(t, _)| *t < cut);
        for (_, value) in self.points.drain(..gone) {
            self.text_bytes -= value.heap_bytes();
        }
        gone > 0
    }

    /// All points by time.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, ValueRef<'_>)> {
        let points = self.settled().into_iter();
        points.map(|(t, v)| (*t, v.as_ref()))
    }

    /// The points inside `range` whose kind `wanted` accepts, as a column per kind in order of time.
    pub(crate) fn columns(
        &self,
        range: TimeRange,
        wanted: impl Fn(ValueKind) -> bool,
    ) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for (time, value) in self.iter().filter(|(t, _)| range.contains(*t)) {
            if !wanted(value.kind()) {
                continue;
            }
            if !columns.iter().any(|c| c.kind() == value.kind()) {
                columns.push(Column::new(value.kind()));
            }
            if let Some(column) = columns.iter_mut().find(|c| c.kind() == value.kind()) {
                column.push(time, value);
            }
        }
        columns
    }
}

/// What a run of numbers may take of a buffer: not what a delete would hide there.
#[derive(Debug)]
pub(crate) struct LateOfRun<'a> {
    buffer: &'a mut LateBuffer,
    series: SeriesId,
    birth: Lsn,
    part: &'a PartitionState,
}

impl LatePoints for LateOfRun<'_> {
    fn take(&mut self, after: Option<i64>, before: i64) -> Column {
        let kind = self.series.kind();
        let hidden = self.part.hidden(self.series.row(), self.series.field());
        let holes = hidden.holes(kind, self.birth);
        self.buffer.settle();
        let points = &mut self.buffer.points;
        let begin = after.map_or(0, |after| points.partition_point(|(t, _)| *t <= after));
        let end = begin + points[begin..].partition_point(|(t, _)| *t < before);
        let mut taken = Column::new(kind);
        let is_taken = |(time, value): &mut (i64, LateValue)| {
            matches!(value, LateValue::Bits(of, _) if *of == kind)
                && !holes.iter().any(|hole| hole.contains(*time))
        };
        for (time, value) in points.extract_if(begin..end, is_taken) {
            taken.push(time, value.as_ref());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_writes_replace_and_siblings_stay() {
        let mut late = LateBuffer::default();
        late.insert(20, ValueRef::F64(1.0));
        late.insert(10, ValueRef::F64(2.0));
        late.insert(10, ValueRef::Str("x"));
        late.insert(10, ValueRef::I64(3));
        late.insert(20, ValueRef::F64(-0.0));
        let got: Vec<_> = late.iter().map(|(t, v)| (t, v.to_owned())).collect();
        assert_eq!(got.len(), 3);
        assert_eq!(got[0], (10, ValueRef::I64(3).to_owned()));
        assert_eq!(got[1], (10, ValueRef::Str("x").to_owned()));
        assert!(got[2].1.as_ref().same(ValueRef::F64(-0.0)));
        assert_eq!(late.text_bytes, 1);
        let columns = late.columns(TimeRange::new(0, 20).unwrap(), ValueKind::is_numeric);
        assert_eq!(columns.len(), 1);
        assert_eq!(columns[0].times, [10]);
        let at_ten = TimeRange::new(10, 11).unwrap();
        assert!(late.remove(at_ten, |kind| !kind.is_numeric()));
        assert!(!late.remove(at_ten, |kind| !kind.is_numeric()));
        assert_eq!((late.len(), late.text_bytes), (2, 0));
        assert!(late.remove(TimeRange::ALL, |_| true));
        assert!(late.is_empty());
    }
}
