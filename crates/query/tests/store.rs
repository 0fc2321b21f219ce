//! The engine over a real store answers what it answers over points in a list: runs, late points, rewrites,
//! pages, checkpoints and all.

mod common;

use std::fmt::Write;

use alluvium_protocol::json::Request;
use alluvium_query::plan;
use alluvium_types::Value;
use common::{Memory, OwnedRow, Real, answer};

/// A small xorshift: the seed is the test's.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

/// Lines around `now`: mostly in order, some late, some rewrites.
fn lines(dice: &mut Dice, now: &mut u64, count: u64) -> String {
    let mut text = String::new();
    for _ in 0..count {
        let time = match dice.below(12) {
            0 => now.saturating_sub(dice.below(20_000)),
            1 => *now,
            _ => {
                *now += 1 + dice.below(10);
                *now
            }
        };
        let (host, dc) = (dice.below(3), dice.below(2));
        let float = dice.below(100_000) as f64 / 100.0;
        let integer = dice.below(1000);
        writeln!(
            text,
            "cpu,host=h{host},dc=d{dc} idle={float},user={integer}i,on={} {time}",
            integer.is_multiple_of(2)
        )
        .expect("strings take everything");
        if dice.below(5) == 0 {
            writeln!(text, "log,host=h{host} text=\"entry {integer}\" {time}")
                .expect("strings take everything");
        }
    }
    text
}

const QUERIES: [&str; 13] = [
    r#"{"select": "cpu_idle"}"#,
    r#"{"select": ["cpu_user", "cpu_on"], "order-by": "series"}"#,
    r#"{"select": "log_text", "group-by-tag": "host"}"#,
    r#"{"aggregate": {"cpu_idle": ["count", "sum", "min", "max", "mean", "first", "last", "stddev", "increase", "rate", "min_timestamp", "last_timestamp"]}}"#,
    r#"{"aggregate": {"cpu_user": ["sum", "spread", "max_timestamp"], "cpu_on": ["sum", "last"]}, "pivot-by-tag": "host"}"#,
    r#"{"aggregate": {"log_text": ["count", "first", "last"]}}"#,
    r#"{"group-aggregate": {"metric": "cpu_idle", "step": 37, "func": ["min", "max", "mean", "count"]}}"#,
    r#"{"group-aggregate": {"metric": ["cpu_idle", "cpu_user"], "step": 5000, "func": ["last", "sum"]}, "group-by-tag": "dc"}"#,
    r#"{"group-aggregate": {"metric": "log_text", "step": 1000, "func": ["first", "last", "count"]}}"#,
    r#"{"group-aggregate": {"metric": "cpu_idle", "step": 500, "func": "mean"}, "fill": "linear", "where": {"host": "h1"}}"#,
    r#"{"select": "cpu_idle", "where": {"host": {"not": "h0"}, "dc": {"regex": "1$"}}, "limit": 700}"#,
    r#"{"select": "cpu_idle", "where": [{"host": "h0", "dc": "d1"}, {"dc": "d0", "host": "h2"}]}"#,
    r#"{"group-aggregate": {"metric": "cpu_idle", "step": 100, "func": "max"}, "order-by": "series", "offset": 10, "limit": 50}"#,
];

fn same(a: &OwnedRow, b: &OwnedRow) -> bool {
    // Sums over inner nodes round in another order than sums over points.
    let close = |x: f64, y: f64| x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs());
    a.series == b.series
        && a.time == b.time
        && a.values.len() == b.values.len()
        && a.values.iter().zip(&b.values).all(|pair| match pair {
            (Some(Value::F64(x)), Some(Value::F64(y))) => close(*x, *y),
            (x, y) => x == y,
        })
}

#[test]
fn a_store_answers_what_its_points_answer() {
    for seed in [1, 2] {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let (mut memory, real, mut now) = (Memory::new(), Real::new(), 1_000_000);
        memory.batch = 1000;
        for round in 0..12 {
            let count = 1 + dice.below(3000);
            let text = lines(&mut dice, &mut now, count);
            memory.load(&text);
            real.load(&text);
            if round % 4 == 2 {
                real.store
                    .checkpoint()
                    .wait()
                    .expect("memory takes everything");
            }
        }
        for query in QUERIES {
            for range in [
                String::new(),
                format!(
                    r#", "range": {{"from": {}, "to": {}}}"#,
                    1_000_000 + dice.below(9000),
                    now - dice.below(9000)
                ),
                format!(
                    r#", "range": {{"from": {}, "to": {}}}"#,
                    now - dice.below(9000),
                    1_000_000 + dice.below(9000)
                ),
            ] {
                let body = format!(
                    "{}{range}}}",
                    query.trim_end_matches('}').to_owned()
                        + &"}".repeat(query.len() - query.trim_end_matches('}').len() - 1,)
                );
                let request = Request::parse(body.as_bytes(), 0).expect("a valid query");
                let plan = plan(&request).expect("a valid plan");
                let (expected, _) =
                    answer(Box::new(memory.clone()), plan.clone()).expect("an answer");
                let (got, _) = answer(Box::new(real.database.snapshot()), plan).expect("an answer");
                assert!(!expected.is_empty(), "{body} finds nothing");
                assert_eq!(got.len(), expected.len(), "seed {seed}, {body}");
                for (g, e) in got.iter().zip(&expected) {
                    assert!(same(g, e), "seed {seed}, {body}:\n{g:?}\n{e:?}");
                }
            }
        }
    }
}

#[test]
fn siblings_read_as_the_docs_say() {
    let real = Real::new();
    real.load(
        "m,host=a value=1i 1\nm,host=a value=2.5 2\nm,host=a value=\"x\" 3\nm,host=a value=7i 2\n",
    );
    let lowered = |query: &str| {
        plan(&Request::parse(query.as_bytes(), 0).expect("a valid query")).expect("a valid plan")
    };
    let snapshot = || Box::new(real.database.snapshot());
    // Numbers of two kinds are floats, of equal times the later write; the text stays out, with a warning.
    let (rows, warnings) = answer(snapshot(), lowered(r#"{"select": "m"}"#)).expect("an answer");
    assert_eq!(common::lines(&rows), ["m host=a|1|1.0", "m host=a|2|7.0"]);
    assert_eq!(warnings.len(), 1);
    let (rows, _) = answer(
        snapshot(),
        lowered(r#"{"aggregate": {"m": ["sum", "last"]}}"#),
    )
    .expect("an answer");
    assert_eq!(common::lines(&rows), ["m host=a|1|8.0|7.0"]);
}

#[test]
fn an_invalid_selector_of_a_plan_is_refused() {
    let real = Real::new();
    real.load("m,host=a value=1i 1\n");
    let mut plan = plan(&Request::parse(br#"{"select": "m"}"#, 0).expect("a valid query"))
        .expect("a valid plan");
    plan.selections[0].alternatives[0]
        .selector
        .matchers
        .push(alluvium_query::Matcher::new(
            alluvium_query::Label::Tag("host".into()),
            alluvium_query::Test::Regex("(".into()),
        ));
    let error =
        answer(Box::new(real.database.snapshot()), plan).expect_err("the expression is open");
    assert_eq!(error.code(), "bad_selector");
    assert!(error.to_string().contains("host"), "{error}");
}
