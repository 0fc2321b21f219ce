//! Rows for bins without points.

use std::ops::Range;

use alluvium_types::{Number, TimeRange, Value};

use crate::Direction;
use crate::buckets::Bins;
use crate::plan::Fill;

/// A row of one group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupRow {
    /// Begin of its bin.
    pub begin: i64,
    pub values: Vec<Option<Value>>,
}

/// Turns the rows of one group, in the order of the answer, into a row for every bin. It holds one row behind
/// and one ahead.
#[derive(Debug)]
pub(crate) struct Filler {
    fill: Fill,
    bins: Bins,
    /// The bin of the next row, once known.
    cursor: Option<i128>,
    /// The last bin, if the range has an end in the direction of rows.
    last: Option<i128>,
    behind: Option<GroupRow>,
    ahead: Option<GroupRow>,
    /// Columns that hold times.
    times: Vec<bool>,
    /// The columns of the group's metric; the others stay empty.
    own: Range<usize>,
    /// Whether the group has a point at all.
    any: bool,
}

impl Filler {
    pub(crate) fn new(
        fill: Fill,
        bins: Bins,
        range: TimeRange,
        times: Vec<bool>,
        own: Range<usize>,
    ) -> Self {
        let oldest = (range.begin() != i64::MIN).then(|| bins.begin_of(range.begin()));
        let newest =
            (range.end() != i64::MAX && !range.is_empty()).then(|| bins.begin_of(range.end() - 1));
        let (cursor, last) = match bins.direction {
            Direction::Forward => (oldest, newest),
            Direction::Backward => (newest, oldest),
        };
        Self {
            fill,
            bins,
            cursor,
            last,
            behind: None,
            ahead: None,
            times,
            own,
            any: false,
        }
    }

    /// Whether [`Self::next`] must look one row further.
    pub(crate) fn needs_row(&self) -> bool {
        self.ahead.is_none()
    }

    pub(crate) fn give(&mut self, row: GroupRow) {
        self.any = true;
        self.ahead = Some(row);
    }

    /// The next row; `ended` says that no row can be given any more.
    pub(crate) fn next(&mut self, ended: bool) -> Option<GroupRow> {
        debug_assert!(self.ahead.is_some() || ended, "a row ahead is needed");
        if !self.any {
            return None;
        }
        // The begin of the first bin of all may be cut to the first instant.
        let ahead = self.ahead.as_ref().map(|r| self.bins.begin_of(r.begin));
        let step = i128::from(self.bins.step);
        loop {
            let bin = self.cursor.or(ahead)?;
            let (next, past_last) = match self.bins.direction {
                Direction::Forward => (bin + step, self.last.is_some_and(|last| bin > last)),
                Direction::Backward => (bin - step, self.last.is_some_and(|last| bin < last)),
            };
            if ahead == Some(bin) {
                self.cursor = Some(next);
                let row = self.ahead.take()?;
                self.behind = Some(row.clone());
                return Some(row);
            }
            if past_last || bin > i64::MAX.into() || ahead.is_none() && self.last.is_none() {
                return None;
            }
            self.cursor = Some(next);
            // A bin that begins before the first instant has no point here and no time to show.
            if let Ok(begin) = i64::try_from(bin) {
                return Some(GroupRow {
                    begin,
                    values: self.filled(bin),
                });
            }
        }
    }

    fn filled(&self, bin: i128) -> Vec<Option<Value>> {
        let (older, newer) = match self.bins.direction {
            Direction::Forward => (&self.behind, &self.ahead),
            Direction::Backward => (&self.ahead, &self.behind),
        };
        let cell =
            |row: &Option<GroupRow>, i: usize| row.as_ref().and_then(|r| r.values[i].clone());
        let model = newer.as_ref().or(older.as_ref());
        (0..self.times.len())
            .map(|i| match self.fill {
                Fill::None | Fill::Null => None,
                Fill::Previous => cell(older, i),
                Fill::Value(_) if !self.own.contains(&i) => None,
                Fill::Value(v) => Some(like(v, model.and_then(|m| m.values[i].as_ref()))),
                Fill::Linear if self.times[i] => None,
                Fill::Linear => {
                    let (a, b) = (older.as_ref()?, newer.as_ref()?);
                    let (x, y) = (number(&cell(older, i)?)?, number(&cell(newer, i)?)?);
                    let part = (bin - i128::from(a.begin)) as f64
                        / (i128::from(b.begin) - i128::from(a.begin)) as f64;
                    Some(Value::F64(x + (y - x) * part))
                }
            })
            .collect()
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::F64(v) => Some(*v),
        Value::I64(v) => Some(*v as f64),
        Value::U64(v) => Some(*v as f64),
        Value::Bool(v) => Some(f64::from(u8::from(*v))),
        Value::Str(_) => None,
    }
}

/// The constant in the kind of its column where that is exact; among integers an integer is one, of whichever kind.
fn like(constant: Number, model: Option<&Value>) -> Value {
    let (whole, rounded) = match constant {
        Number::Integer(v) => (v, v as f64),
        // Far wider than a column: nothing that one takes is cut off here.
        Number::Float(v) => (v as i128, v),
    };
    let signed = i64::try_from(whole).ok().map(Value::I64);
    let unsigned = u64::try_from(whole).ok().map(Value::U64);
    let (own, other) = match model {
        Some(Value::I64(_)) => (signed, unsigned),
        Some(Value::U64(_)) => (unsigned, signed),
        _ => return Value::F64(rounded),
    };
    let exact = match constant {
        Number::Integer(_) => own.or(other),
        Number::Float(v) => own.filter(|_| whole as f64 == v),
    };
    exact.unwrap_or(Value::F64(rounded))
}
