//! Rows on their way out.

use std::sync::Arc;

use alluvium_types::{Value, ValueRef};

use crate::output_series::OutputSeries;

/// Rows a batch holds at most.
pub const BATCH_ROWS: usize = 1024;

/// A value in 16 bytes; texts lie in the batch.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Missing,
    F64(f64),
    I64(i64),
    U64(u64),
    Bool(bool),
    Str { begin: u32, end: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Row {
    series: u32,
    number: u32,
    time: i64,
}

/// About a thousand rows, all of one width. Reused from batch to batch, it keeps its buffers.
#[derive(Debug, Default)]
pub struct RowBatch {
    width: usize,
    series: Vec<Arc<OutputSeries>>,
    rows: Vec<Row>,
    cells: Vec<Cell>,
    text: String,
    /// The number of the series that came last: rows often come in runs.
    last_key: Option<(u32, u32)>,
}

/// One row: a series, a time, and a value or none for each column.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    batch: &'a RowBatch,
    row: usize,
}

impl RowBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Columns behind series and time.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows, in the order of the answer.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = RowRef<'_>> {
        (0..self.rows.len()).map(|row| RowRef { batch: self, row })
    }

    pub(crate) fn reset(&mut self, width: usize) {
        self.width = width;
        self.series.clear();
        self.rows.clear();
        self.cells.clear();
        self.text.clear();
        self.last_key = None;
    }

    /// Whether the batch should go out. Long texts and many columns fill it before its rows do.
    pub(crate) fn is_full(&self) -> bool {
        const TEXT_BYTES: usize = 1 << 20;
        const CELLS: usize = 1 << 16;
        self.rows.len() >= BATCH_ROWS || self.text.len() >= TEXT_BYTES || self.cells.len() >= CELLS
    }

    /// Begins a row; its values follow by [`Self::push`]. `key` tells series apart within one execution.
    pub(crate) fn begin(&mut self, key: u32, series: &Arc<OutputSeries>, time: i64) {
        let index = match self.last_key {
            Some((last, index)) if last == key => index,
            _ => {
                self.series.push(Arc::clone(series));
                let index = (self.series.len() - 1) as u32;
                self.last_key = Some((key, index));
                index
            }
        };
        self.rows.push(Row {
            series: index,
            number: key,
            time,
        });
    }

    /// Appends the next value of the row begun last.
    pub(crate) fn push(&mut self, value: Option<ValueRef<'_>>) {
        let cell = match value {
            None => Cell::Missing,
            Some(ValueRef::F64(v)) => Cell::F64(v),
            Some(ValueRef::I64(v)) => Cell::I64(v),
            Some(ValueRef::U64(v)) => Cell::U64(v),
            Some(ValueRef::Bool(v)) => Cell::Bool(v),
            Some(ValueRef::Str(v)) => {
                // A batch ends at 1 MiB of text and a value has at most 64 KiB.
                let begin = self.text.len() as u32;
                self.text.push_str(v);
                Cell::Str {
                    begin,
                    end: self.text.len() as u32,
                }
            }
        };
        self.cells.push(cell);
    }

    pub(crate) fn push_all(&mut self, values: &[Option<Value>]) {
        for value in values {
            self.push(value.as_ref().map(Value::as_ref));
        }
    }
}

impl<'a> RowRef<'a> {
    /// What the row is named by.
    pub fn series(self) -> &'a Arc<OutputSeries> {
        &self.batch.series[self.batch.rows[self.row].series as usize]
    }

    /// The number of the series within its execution, counted from 0 in the order of series. So that whoever
    /// writes the rows can keep what it made of a series' name.
    pub fn series_number(self) -> usize {
        self.batch.rows[self.row].number as usize
    }

    /// Nanoseconds.
    pub fn time(self) -> i64 {
        self.batch.rows[self.row].time
    }

    /// The value of a column, `None` when it is missing or there is no such column.
    pub fn value(self, column: usize) -> Option<ValueRef<'a>> {
        if column >= self.batch.width {
            return None;
        }
        match *self.batch.cells.get(self.row * self.batch.width + column)? {
            Cell::Missing => None,
            Cell::F64(v) => Some(ValueRef::F64(v)),
            Cell::I64(v) => Some(ValueRef::I64(v)),
            Cell::U64(v) => Some(ValueRef::U64(v)),
            Cell::Bool(v) => Some(ValueRef::Bool(v)),
            Cell::Str { begin, end } => self
                .batch
                .text
                .get(begin as usize..end as usize)
                .map(ValueRef::Str),
        }
    }

    /// The values in the order of the columns.
    pub fn values(self) -> impl ExactSizeIterator<Item = Option<ValueRef<'a>>> {
        (0..self.batch.width).map(move |column| self.value(column))
    }
}
