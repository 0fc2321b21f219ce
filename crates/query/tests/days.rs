//! Series without a point on the days of a query never reach the scan.

mod common;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_protocol::json::Request;
use alluvium_query::{QueryError, Selector, SeriesInfo, SeriesReader, Source, plan};
use alluvium_store::Snapshot;
use alluvium_types::TimeRange;
use common::{Memory, Real, answer, lines};

const DAY: i64 = 86_400_000_000_000;

/// The store's snapshot, counting the series it hands out.
struct Counting {
    snapshot: Snapshot,
    selected: Arc<AtomicU64>,
}

impl Source for Counting {
    fn select(
        &self,
        selector: &Selector,
        range: TimeRange,
        bytes_max: u64,
    ) -> Result<Vec<SeriesInfo>, QueryError> {
        let found = Source::select(&self.snapshot, selector, range, bytes_max)?;
        self.selected
            .fetch_add(found.len() as u64, Ordering::Relaxed);
        Ok(found)
    }

    fn knows(&self, selector: &Selector) -> Result<bool, QueryError> {
        Source::knows(&self.snapshot, selector)
    }

    fn open(&self, series: &SeriesInfo) -> Result<Box<dyn SeriesReader>, QueryError> {
        Source::open(&self.snapshot, series)
    }
}

/// Nine hosts that live three days each, one after the other, with a gap between; their text on the middle day.
fn text() -> String {
    let mut text = String::new();
    for host in 0..9_i64 {
        for day in 0..3 {
            for part in 0..4 {
                let time = (host * 5 + day) * DAY + part * DAY / 4;
                writeln!(text, "cpu,host=h{host} idle={part} {time}").expect("a string takes it");
            }
        }
        let time = (host * 5 + 1) * DAY + 17;
        writeln!(text, "log,host=h{host} text=\"born {host}\" {time}").expect("a string takes it");
    }
    text
}

#[test]
fn dead_series_never_reach_the_scan() {
    let (mut memory, real) = (Memory::new(), Real::new());
    memory.load(&text());
    real.load(&text());
    let all = (i64::MIN, i64::MAX);
    for ((from, to), alive) in [
        (all, 9),
        ((0, DAY), 1),
        ((5 * DAY, 6 * DAY), 1),
        // A day of nobody, and an instant before somebody's first.
        ((3 * DAY, 5 * DAY), 0),
        ((3 * DAY, 5 * DAY + 1), 1),
        ((2 * DAY, 5 * DAY + 1), 2),
        ((2 * DAY + 1, 10 * DAY), 2),
        ((-5 * DAY, 0), 0),
        ((41 * DAY, 99 * DAY), 1),
    ] {
        for query in [
            r#""select": "cpu_idle""#,
            r#""aggregate": {"cpu_idle": ["count", "sum", "last"]}"#,
            r#""group-aggregate": {"metric": "cpu_idle", "step": "7h", "func": "mean"}, "fill": "previous""#,
            r#""group-aggregate": {"metric": "cpu_idle", "step": "1d", "func": "max"}, "group-by-tag": "host""#,
            r#""select": "log_text""#,
        ] {
            let range = match (from, to) {
                ends if ends == all => String::new(),
                _ => format!(r#", "range": {{"from": {from}, "to": {to}}}"#),
            };
            let body = format!("{{{query}{range}}}");
            let request = Request::parse(body.as_bytes(), 0).expect("a valid query");
            let plan = plan(&request).expect("a valid plan");
            let selected = Arc::new(AtomicU64::new(0));
            let source = Counting {
                snapshot: real.database.snapshot(),
                selected: Arc::clone(&selected),
            };
            let (expected, _) = answer(Box::new(memory.clone()), plan.clone()).expect("an answer");
            let (got, _) = answer(Box::new(source), plan).expect("an answer");
            assert_eq!(lines(&got), lines(&expected), "{body}");
            let selected = selected.load(Ordering::Relaxed);
            if query.contains("cpu") {
                assert_eq!(selected, alive, "{body}");
            } else {
                assert!(selected <= alive, "{body}");
            }
        }
    }
}

#[test]
fn a_name_is_known_however_old_its_points_are() {
    let real = Real::new();
    real.load(&text());
    let ask = |metric: &str| {
        let body = format!(
            r#"{{"select": "{metric}", "range": {{"from": {}, "to": {}}}}}"#,
            90 * DAY,
            91 * DAY
        );
        let request = Request::parse(body.as_bytes(), 0).expect("a valid query");
        answer(
            Box::new(real.database.snapshot()),
            plan(&request).expect("a valid plan"),
        )
    };
    assert!(ask("cpu_idle").expect("an answer").0.is_empty());
    assert_eq!(
        ask("cpu_busy").expect_err("unknown").code(),
        "unknown_metric"
    );
}
