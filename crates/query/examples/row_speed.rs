//! How fast rows pass, over a source that costs next to nothing: `cargo run --release -p alluvium-query
//! --example row_speed`.

use std::ops::ControlFlow;
use std::sync::Arc;

use alluvium_io::{Clock, SystemClock};
use alluvium_protocol::json::Request;
use alluvium_query::{
    Direction, Execution, Limits, QueryError, ReadStats, RowBatch, Selector, SeriesInfo,
    SeriesReader, SeriesScan, Source, plan,
};
use alluvium_types::{
    Aggregate, Column, FieldId, Partition, Row, SeriesId, SeriesKey, TimeRange, ValueKind,
};

/// Series of points at 0, step, 2 * step and so on.
#[derive(Clone, Copy)]
struct Regular {
    series: u32,
    points: i64,
    step: i64,
}

impl Source for Regular {
    fn select(&self, _: &Selector, _: TimeRange, _: u64) -> Result<Vec<SeriesInfo>, QueryError> {
        let info = |n: u32| {
            let tags = [
                ("host", format!("host_{n:06}")),
                ("dc", "eu-central-1".to_owned()),
            ];
            SeriesInfo {
                id: SeriesId::new(Partition(0), Row(n), FieldId(0), ValueKind::F64),
                key: Arc::new(SeriesKey::new("cpu", tags).unwrap_or_default()),
                field: "idle".into(),
            }
        };
        Ok((0..self.series).map(info).collect())
    }

    fn open(&self, _: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
        Ok(Box::new(*self))
    }
}

impl SeriesReader for Regular {
    fn bounds(&self) -> Option<(i64, i64)> {
        Some((0, (self.points - 1) * self.step))
    }

    fn aggregate(&self, _: TimeRange, _: &mut ReadStats) -> Result<Aggregate, QueryError> {
        Ok(Aggregate::of(ValueKind::F64, &[0, 1], &[0, 1]))
    }

    fn buckets(
        &self,
        range: TimeRange,
        step_ns: i64,
        _: i64,
        _: &mut ReadStats,
        emit: &mut dyn FnMut(i64, &Aggregate) -> ControlFlow<()>,
    ) -> Result<(), QueryError> {
        let mut aggregate = Aggregate::of(ValueKind::F64, &[0, 1], &[0, 1]);
        let mut begin = range.begin().div_euclid(step_ns) * step_ns;
        while begin < range.end() {
            (aggregate.first.time, aggregate.last.time) = (begin, begin + step_ns - 1);
            if emit(begin, &aggregate).is_break() {
                break;
            }
            begin += step_ns;
        }
        Ok(())
    }

    fn scan(&self, range: TimeRange, _: Direction) -> Box<dyn SeriesScan> {
        Box::new(Scan {
            next: range.begin(),
            end: range.end(),
            step: self.step,
        })
    }
}

struct Scan {
    next: i64,
    end: i64,
    step: i64,
}

impl SeriesScan for Scan {
    fn next_batch(&mut self, _: &mut ReadStats, out: &mut Column) -> Result<bool, QueryError> {
        out.clear();
        while self.next < self.end && out.len() < 1024 {
            out.push_bits(self.next, (self.next as f64).to_bits());
            self.next += self.step;
        }
        Ok(!out.is_empty())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let points = 4_000_000;
    for (what, series, query) in [
        ("scan, one series", 1, r#"{"select": "cpu_idle"}"#),
        (
            "scan by series, 1,000 series",
            1000,
            r#"{"select": "cpu_idle", "order-by": "series"}"#,
        ),
        (
            "scan by time, 1,000 series in step",
            1000,
            r#"{"select": "cpu_idle"}"#,
        ),
        (
            "bins of 4 functions, 1,000 series",
            1000,
            r#"{"group-aggregate": {"metric": "cpu_idle", "step": 10, "func": ["min", "max", "mean", "count"]}}"#,
        ),
        (
            "bins of 1,000 series to one",
            1000,
            r#"{"group-aggregate": {"metric": "cpu_idle", "step": 10, "func": "mean"}, "pivot-by-tag": "dc"}"#,
        ),
        (
            "whole range, 100,000 series",
            100_000,
            r#"{"aggregate": {"cpu_idle": ["min", "max", "mean", "count"]}}"#,
        ),
    ] {
        let source = Regular {
            series,
            points: points / i64::from(series),
            step: 10,
        };
        let started = SystemClock.monotonic_ns();
        let plan = plan(&Request::parse(query.as_bytes(), 0)?)?;
        let limits = Limits::new(Arc::new(SystemClock));
        let mut execution = Execution::start(Box::new(source), plan, limits, Arc::default())?;
        let selected = SystemClock.monotonic_ns();
        let mut batch = RowBatch::new();
        while execution.next_batch(&mut batch)? {}
        let ended = SystemClock.monotonic_ns();
        let stats = execution.stats();
        // In step 10 each point is a bin of its own; joined bins count as the inputs they were.
        let items = if query.contains("aggregate\": {\"cpu") {
            u64::from(series)
        } else {
            points as u64
        };
        println!(
            "{what}: {:.1} M items a second ({:.0} ns each), {} rows, selection {:.2} ms, {:.1} MiB held",
            items as f64 * 1e3 / (ended - selected) as f64,
            (ended - selected) as f64 / items as f64,
            stats.rows,
            (selected - started) as f64 / 1e6,
            stats.memory_bytes_max as f64 / 1_048_576.0,
        );
    }
    Ok(())
}
