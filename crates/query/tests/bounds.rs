//! What a query may not do: read more than asked for, hold more than allowed, run on when told to stop.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_protocol::json::Request;
use alluvium_query::{BATCH_ROWS, Execution, Limits, Plan, QueryError, RowBatch, plan};
use alluvium_types::{Budget, Owner, Value};
use common::{Memory, Real, Steps, answer, drain, limits, lines, run, start};

fn lowered(query: &str) -> Plan {
    plan(&Request::parse(query.as_bytes(), 0).expect("a valid query")).expect("a valid plan")
}

/// `count` series of `points` points each; series i begins at time i * 1000.
fn staggered(count: i64, points: i64) -> Memory {
    let mut memory = Memory::new();
    for i in 0..count {
        let points: Vec<(i64, f64)> = (0..points).map(|p| (i * 1000 + p, p as f64)).collect();
        memory.floats("m", &[("host", &format!("{i:05}"))], &points);
    }
    memory
}

#[test]
fn a_limit_leaves_later_series_unread() {
    for (query, scans) in [
        (r#"{"select": "m", "limit": 5}"#, 1),
        (r#"{"select": "m", "limit": 11}"#, 2),
        (r#"{"select": "m", "limit": 5, "order-by": "series"}"#, 1),
        (
            r#"{"select": "m", "limit": 5, "range": {"from": 1000000, "to": 0}}"#,
            1,
        ),
        (r#"{"select": "m", "limit": 0}"#, 0),
    ] {
        let memory = staggered(50, 10);
        run(&memory, lowered(query)).unwrap();
        assert_eq!(memory.scanned.load(Ordering::Relaxed), scans, "{query}");
    }
}

#[test]
fn a_limit_leaves_later_bins_unread() {
    for (rest, series) in [
        (r#""limit": 2"#, 1),
        (r#""limit": 3"#, 2),
        (r#""limit": 3, "range": {"from": 1000000, "to": 0}"#, 2),
        (r#""limit": 3, "order-by": "series""#, 2),
    ] {
        let memory = staggered(50, 10);
        let query = format!(
            r#"{{"group-aggregate": {{"metric": "m", "step": 5, "func": "sum"}}, {rest}}}"#
        );
        assert_eq!(
            run(&memory, lowered(&query)).unwrap().len(),
            if series == 1 { 2 } else { 3 }
        );
        let binned = memory.binned.load(Ordering::Relaxed);
        assert!(binned <= 2 * series, "{binned} reads for {query}");
    }
}

#[test]
fn series_order_opens_one_series_at_a_time() {
    let memory = staggered(50, 10);
    let query = r#"{"group-aggregate": {"metric": "m", "step": 5, "func": "sum"}, "order-by": "series", "limit": 3}"#;
    run(&memory, lowered(query)).unwrap();
    assert_eq!(memory.opened.load(Ordering::Relaxed), 2);
}

#[test]
fn nothing_is_read_before_the_first_batch_is_asked_for() {
    let memory = staggered(50, 10);
    let mut execution = start(&memory, lowered(r#"{"select": "m"}"#), limits()).unwrap();
    assert_eq!(memory.opened.load(Ordering::Relaxed), 0);
    assert_eq!(execution.stats().series, 50);
    let mut batch = RowBatch::new();
    assert!(execution.next_batch(&mut batch).unwrap());
    assert_eq!((batch.len(), batch.width()), (500, 1));
    assert!(!execution.next_batch(&mut batch).unwrap());
    assert!(batch.is_empty());
    assert_eq!(execution.stats().rows, 500);
    assert_eq!(execution.stats().read.points_decoded, 500);
}

#[test]
fn batches_are_of_bounded_size() {
    let memory = staggered(3, 5000);
    let mut execution = start(&memory, lowered(r#"{"select": "m"}"#), limits()).unwrap();
    let (mut batch, mut rows) = (RowBatch::new(), 0);
    while execution.next_batch(&mut batch).unwrap() {
        assert!(batch.len() <= BATCH_ROWS);
        rows += batch.len();
    }
    assert_eq!(rows, 15_000);

    let mut memory = Memory::new();
    let text: Box<str> = "x".repeat(60_000).into();
    let points: Vec<(i64, Value)> = (0..100).map(|t| (t, Value::Str(text.clone()))).collect();
    memory.add("s", &[], "value", &points);
    let mut execution = start(&memory, lowered(r#"{"select": "s"}"#), limits()).unwrap();
    assert!(execution.next_batch(&mut batch).unwrap());
    assert!(
        batch.len() < 20,
        "long texts fill a batch before its rows do: {}",
        batch.len()
    );
    assert_eq!(drain(&mut execution).unwrap().len() + batch.len(), 100);
}

#[track_caller]
fn refused(memory: &Memory, query: &str, limits: Limits) -> QueryError {
    start(memory, lowered(query), limits)
        .and_then(|mut execution| drain(&mut execution))
        .expect_err("the limit is too small")
}

#[test]
fn memory_is_held_to_its_limit_and_given_back() {
    let memory = staggered(200, 10);
    let budget = Arc::new(Budget::new(1 << 30));
    let tight = Limits {
        memory_bytes: 100_000,
        budget: Some(Arc::clone(&budget)),
        ..limits()
    };
    assert_eq!(
        refused(&memory, r#"{"select": "m"}"#, tight.clone()).code(),
        "query_memory"
    );
    assert_eq!(budget.used(), 0, "a refused query gives everything back");

    // One series at a time fits where all at once do not.
    let plan = lowered(r#"{"select": "m", "order-by": "series"}"#);
    let mut execution = start(&memory, plan, tight).unwrap();
    let mut batch = RowBatch::new();
    execution.next_batch(&mut batch).unwrap();
    assert!(budget.used_by(Owner::Queries) > 0);
    drop(execution);
    assert_eq!(budget.used(), 0);

    let small = Limits {
        budget: Some(Arc::new(Budget::new(1000))),
        ..limits()
    };
    let error = refused(&memory, r#"{"select": "m"}"#, small);
    assert_eq!(error.code(), "memory_budget");
    assert!(!error.is_request_error());
}

#[test]
fn rows_that_fill_gaps_are_not_kept() {
    let mut memory = Memory::new();
    memory.floats("m", &[], &[(0, 1.0), (3_000_000, 2.0)]);
    let query = r#"{"group-aggregate": {"metric": "m", "step": 1, "func": "count"}, "fill": "null", "offset": 2999999}"#;
    let before = alluvium_io::resident_bytes();
    assert_eq!(run(&memory, lowered(query)).unwrap().len(), 2);
    let grown = alluvium_io::resident_bytes().saturating_sub(before);
    // A row that is kept takes 50 bytes and more.
    assert!(grown < 32 << 20, "{grown}");
}

#[test]
fn rows_are_held_to_their_limit() {
    let memory = staggered(2, 10);
    let few = Limits {
        rows: 19,
        ..limits()
    };
    assert_eq!(
        refused(&memory, r#"{"select": "m"}"#, few.clone()).code(),
        "too_many_rows"
    );
    let mut enough = start(&memory, lowered(r#"{"select": "m", "limit": 19}"#), few).unwrap();
    assert_eq!(drain(&mut enough).unwrap().len(), 19);
}

#[test]
fn a_deadline_ends_a_query_between_batches() {
    let memory = staggered(2, 100);
    let clock = Arc::new(Steps {
        tick: 1_000_000,
        ..Steps::default()
    });
    let limits = Limits {
        deadline_ms: 20,
        ..Limits::new(clock)
    };
    let error = refused(&memory, r#"{"select": "m"}"#, limits);
    assert_eq!(error.code(), "deadline_exceeded");
    assert!(
        memory.scanned.load(Ordering::Relaxed) > 0,
        "it was under way"
    );
}

#[test]
fn a_deadline_ends_rows_that_are_only_left_out() {
    let memory = staggered(1, 2);
    let clock = Arc::new(Steps {
        tick: 1_000_000,
        ..Steps::default()
    });
    let limits = Limits {
        deadline_ms: 50,
        ..Limits::new(clock)
    };
    let query = r#"{"group-aggregate": {"metric": "m", "step": 1, "func": "sum"}, "fill": 0,
                    "range": {"from": 0, "to": 1000000000000}, "offset": 900000000000}"#;
    assert_eq!(refused(&memory, query, limits).code(), "deadline_exceeded");
}

#[test]
fn stats_are_one_json_object() {
    let memory = staggered(2, 10);
    let mut execution =
        start(&memory, lowered(r#"{"select": "m", "limit": 3}"#), limits()).unwrap();
    drain(&mut execution).unwrap();
    let stats = alluvium_query::Stats {
        memory_bytes_max: 5,
        elapsed_ns: 12_034_567,
        ..*execution.stats()
    };
    assert_eq!(
        stats.json(),
        r#"{"series":2,"groups":2,"rows":3,"leaf_pages":0,"inner_pages":0,"cached_pages":0,"aggregates_used":0,"points_decoded":3,"expired_pages":0,"bad_pages":0,"memory_bytes_max":5,"milliseconds":12.034}"#
    );
}

#[test]
fn cancelling_ends_a_query_for_good() {
    let memory = staggered(3, 1000);
    let cancel = Arc::new(AtomicBool::new(false));
    let plan = lowered(r#"{"select": "m"}"#);
    let mut execution =
        Execution::start(Box::new(memory), plan, limits(), Arc::clone(&cancel)).unwrap();
    let mut batch = RowBatch::new();
    assert!(execution.next_batch(&mut batch).unwrap());
    cancel.store(true, Ordering::Relaxed);
    assert_eq!(
        execution.next_batch(&mut batch).unwrap_err().code(),
        "cancelled"
    );
    assert!(batch.is_empty());
    cancel.store(false, Ordering::Relaxed);
    assert!(
        !execution.next_batch(&mut batch).unwrap(),
        "an ended query stays ended"
    );
}

#[test]
fn a_failing_page_ends_a_query_with_its_cause() {
    let memory = staggered(3, 2000);
    memory.fail_at.store(600, Ordering::Relaxed);
    let mut execution = start(&memory, lowered(r#"{"select": "m"}"#), limits()).unwrap();
    let mut batch = RowBatch::new();
    assert!(
        execution.next_batch(&mut batch).unwrap(),
        "rows before the failure go out"
    );
    let error = loop {
        match execution.next_batch(&mut batch) {
            Ok(more) => assert!(more, "the failure is met"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "storage");
    assert_eq!(error.to_string(), "reading a series failed: page is gone");
}

#[test]
fn string_siblings_stay_out_of_the_way_of_numbers() {
    let mut memory = Memory::new();
    memory.load("m,host=a value=1 1\nm,host=a value=\"x\" 2\nm,host=b value=\"y\" 3\n");
    for (query, expected) in [
        (
            r#"{"select": "m"}"#,
            vec!["m host=a|1|1.0", "m host=b|3|\"y\""],
        ),
        (r#"{"aggregate": {"m": "mean"}}"#, vec!["m host=a|1|1.0"]),
        (
            r#"{"aggregate": {"m": "count"}}"#,
            vec!["m host=a|1|1", "m host=b|3|1"],
        ),
    ] {
        let mut execution = start(&memory, lowered(query), limits()).unwrap();
        assert_eq!(lines(&drain(&mut execution).unwrap()), expected, "{query}");
        assert_eq!(execution.warnings().len(), 1, "{query}");
    }
}

#[test]
fn gaps_of_any_length_cost_nothing() {
    let mut memory = Memory::new();
    memory.floats("m", &[], &[(i64::MIN, 1.0), (0, 2.0), (i64::MAX - 1, 3.0)]);
    let forward = r#"{"group-aggregate": {"metric": "m", "step": 1, "func": "sum"}}"#;
    let min = i64::MIN;
    let newest = i64::MAX - 1;
    let expected = [
        format!("m|{min}|1.0"),
        "m|0|2.0".into(),
        format!("m|{newest}|3.0"),
    ];
    assert_eq!(lines(&run(&memory, lowered(forward)).unwrap()), expected);
    let backward = format!(
        r#"{{"group-aggregate": {{"metric": "m", "step": 1, "func": "sum"}}, "range": {{"from": {newest}, "to": {min}}}}}"#
    );
    // A backward range leaves its far end out.
    let expected = [format!("m|{newest}|3.0"), "m|0|2.0".into()];
    assert_eq!(lines(&run(&memory, lowered(&backward)).unwrap()), expected);
    let raw =
        r#"{"select": "m", "range": {"from": 9223372036854775807, "to": -9223372036854775808}}"#;
    assert_eq!(run(&memory, lowered(raw)).unwrap().len(), 2);
}

#[test]
fn any_byte_in_a_tag_is_selected_and_named() {
    let mut memory = Memory::new();
    for host in ["o'brien", "a b", "=", "\\", "ü\u{1F600}", "\"", "x,y", "*"] {
        memory.floats("m", &[("host", host)], &[(1, 1.0)]);
    }
    for host in [
        "o'brien",
        "a b",
        "=",
        "\\\\",
        "ü\u{1F600}",
        "\\\"",
        "x,y",
        "*",
    ] {
        let query = format!(r#"{{"select": "m", "where": {{"host": "{host}"}}}}"#);
        assert_eq!(run(&memory, lowered(&query)).unwrap().len(), 1, "{host}");
    }
}

#[test]
fn bins_are_filled_from_the_first_instant_to_the_last() {
    let real = Real::new();
    real.load(&format!(
        "m v=1 {}\nm v=2 0\nm v=3 {}\n",
        i64::MIN,
        i64::MAX - 1
    ));
    let rows = |rest: &str| {
        let query = format!(
            r#"{{"group-aggregate": {{"metric": "m_v", "step": "5000w", "func": "sum"}}, {rest}}}"#
        );
        let snapshot = Box::new(real.database.snapshot());
        let (rows, _) = answer(snapshot, lowered(&query)).unwrap();
        let rows = rows
            .into_iter()
            .map(|row| (row.time, row.values[0].clone()));
        rows.collect::<Vec<_>>()
    };
    const STEP: i64 = 5_000 * 7 * 86_400_000_000_000;
    let sum = |v: f64| Some(Value::F64(v));
    let mut expected = vec![
        (i64::MIN, sum(1.0)),
        (-3 * STEP, None),
        (-2 * STEP, None),
        (-STEP, None),
        (0, sum(2.0)),
        (STEP, None),
        (2 * STEP, None),
        (3 * STEP, sum(3.0)),
    ];
    assert_eq!(rows(r#""fill": "null""#), expected);
    let backward = format!(
        r#""fill": "null", "range": {{"from": {}, "to": {}}}"#,
        i64::MAX,
        i64::MIN
    );
    // Its end is left out.
    expected.remove(0);
    expected.reverse();
    assert_eq!(rows(&backward), expected);
}

#[test]
fn many_metrics_with_many_values_are_refused_before_they_are_looked_for() {
    let list = |n: usize| {
        let items: Vec<String> = (0..n).map(|i| format!("\"a{i:05}\"")).collect();
        items.join(",")
    };
    let lowered = |metrics: usize, values: usize| {
        let query = format!(
            r#"{{"select": [{}], "where": {{"h": [{}]}}}}"#,
            list(metrics),
            list(values)
        );
        plan(&Request::parse(query.as_bytes(), 0).expect("a valid query"))
    };
    assert!(lowered(16, 65_536).is_ok());
    let refused = lowered(5_000, 5_000).unwrap_err();
    assert_eq!(refused.code(), "too_many_looks");
    assert!(refused.to_string().contains("5000 metrics"), "{refused}");
    let tags: Vec<String> = (0..65).map(|i| format!(r#""t{i}": "x""#)).collect();
    let query = format!(r#"{{"select": "m", "where": {{{}}}}}"#, tags.join(","));
    let refused = Request::parse(query.as_bytes(), 0).unwrap_err();
    assert!(refused.to_string().contains("more than 64"), "{refused}");
    let tags: Vec<String> = (0..17)
        .map(|i| format!(r#""t{i}": {{"regex": "x+"}}"#))
        .collect();
    let query = format!(r#"{{"select": "m", "where": {{{}}}}}"#, tags.join(","));
    let refused = plan(&Request::parse(query.as_bytes(), 0).expect("a valid query")).unwrap_err();
    assert!(refused.to_string().contains("at most 16"), "{refused}");
}

#[test]
fn many_columns_fill_a_batch_before_its_rows_do() {
    let mut memory = Memory::new();
    let names: Vec<String> = (0..200).map(|i| format!("m{i}")).collect();
    for name in &names {
        for host in 0..400 {
            memory.floats(name, &[("host", &format!("{host}"))], &[(1, 2.0)]);
        }
    }
    let list: Vec<String> = names.iter().map(|n| format!(r#""{n}": "sum""#)).collect();
    let query = format!(r#"{{"aggregate": {{{}}}, "limit": 600}}"#, list.join(","));
    let mut execution = start(&memory, lowered(&query), limits()).unwrap();
    let (mut batch, mut rows) = (RowBatch::new(), 0);
    while execution.next_batch(&mut batch).unwrap() {
        assert!(batch.rows().len() * batch.width() < (1 << 16) + batch.width());
        rows += batch.rows().len();
    }
    assert_eq!(rows, 600);
}

#[test]
fn a_database_dropped_under_a_query_is_an_error() {
    let lines: Vec<String> = (0..3 * BATCH_ROWS)
        .map(|t| format!("m v={t} {t}"))
        .collect();
    for query in [
        r#"{"select": "m_v"}"#,
        r#"{"group-aggregate": {"metric": "m_v", "step": 1, "func": "sum"}}"#,
    ] {
        let real = Real::new();
        real.load(&lines.join("\n"));
        let snapshot = Box::new(real.database.snapshot());
        let cancel = Arc::new(AtomicBool::new(false));
        let mut execution = Execution::start(snapshot, lowered(query), limits(), cancel).unwrap();
        let mut batch = RowBatch::new();
        assert!(execution.next_batch(&mut batch).unwrap());
        real.store.drop_database("db").unwrap().wait().unwrap();
        let error = execution.next_batch(&mut batch).unwrap_err();
        assert_eq!((error.code(), batch.len()), ("database_dropped", 0));
    }
}
