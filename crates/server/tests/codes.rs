//! The codes that `docs/QUERY.md` promises are those that answers have.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use common::{Server, memory_config};

/// Codes that no request brings about by itself: of the library alone, because the server refuses such a request before, or of
/// a moment that other tests make.
const ELSEWHERE: [&str; 20] = [
    "bad_selector",
    "bad_step",
    "broken_body",
    "busy",
    "cancelled",
    "database_dropped",
    "failed",
    "fill_without_bins",
    "forbidden",
    "internal",
    "memory_budget",
    "no_alignment",
    "no_function",
    "no_metric",
    "recovering",
    "repeated",
    "storage",
    "too_many_rows",
    "unauthorized",
    "unsupported",
];

/// The codes of the table in the documentation.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../../docs/QUERY.md");
    let (_, table) = text.split_once("| code | meaning").unwrap();
    let rows = table.lines().skip(2).take_while(|l| l.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let codes = cells.flat_map(|cell| cell.split(','));
    codes.map(|c| c.trim().trim_matches('`').into()).collect()
}

#[test]
fn every_code_is_documented_and_every_documented_one_is_answered() {
    let mut config = memory_config();
    config.limits.body_idle = Duration::from_millis(200);
    let server = Server::start(config);
    let mut lines = String::from("m,h=a v=1 1\ns,h=a t=\"text\" 1\nwide ");
    for field in 0..1100 {
        write!(lines, "f{field}=1,").unwrap();
    }
    lines.push_str("last=1 1");
    assert_eq!(server.write(lines).status, 204);
    let many = |count: usize| -> Vec<String> { (0..count).map(|i| format!("n{i}")).collect() };
    let looks = serde_json::json!({"select": "*", "where": {"h": many(1100)}});
    let looks = looks
        .to_string()
        .replace("\"*\"", &format!("{:?}", many(1000)));
    let mut reached = BTreeSet::new();
    for (query, status, code) in [
        ("{", 400, "invalid_json"),
        (r#"{"limit": 1, "limit": 2}"#, 400, "invalid_json"),
        (&" ".repeat(2 << 20), 413, "query_too_long"),
        (r#"{"limit": 1}"#, 400, "query_type"),
        (
            r#"{"select": "m_v", "aggregate": {"m_v": "count"}}"#,
            400,
            "query_type",
        ),
        (r#"{"select": "m_v", "wher": {}}"#, 400, "unknown_field"),
        (
            r#"{"aggregate": {"m_v": "median2"}}"#,
            400,
            "unknown_function",
        ),
        (
            r#"{"select": "m_v", "output": {"format": "resp"}}"#,
            400,
            "not_supported",
        ),
        (
            r#"{"select": "m_v", "range": {"from": "noon"}}"#,
            400,
            "invalid_time",
        ),
        (r#"{"select": 5}"#, 400, "invalid_query"),
        (r#"{"select": "m_v", "fill": 0}"#, 400, "invalid_query"),
        (r#"{"select": "m_w"}"#, 404, "unknown_metric"),
        (r#"{"aggregate": {"s_t": "max"}}"#, 400, "string_series"),
        (
            r#"{"select": "m_v", "where": {"h": {"regex": "("}}}"#,
            400,
            "bad_regex",
        ),
        (
            r#"{"group-aggregate": {"metric": "m_v", "step": 9, "func": "max"}, "align": "from"}"#,
            400,
            "invalid_query",
        ),
        (r#"{"select": "*"}"#, 400, "too_many_metrics"),
        (&looks, 400, "too_many_looks"),
    ] {
        let answer = server.post("/api/query?db=test", query);
        let shown: String = query.chars().take(80).collect();
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code)),
            "{shown}: {}",
            answer.text()
        );
        reached.insert(code.to_owned());
    }
    let missing = server.post("/api/query?db=none", r#"{"select": "m_v"}"#);
    assert_eq!(missing.json()["code"], "unknown_database");
    reached.insert("unknown_database".into());
    let mut stream = server.connect();
    std::io::Write::write_all(
        &mut stream,
        b"POST /api/query?db=test HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n{",
    )
    .unwrap();
    assert_eq!(common::read_answer(&mut stream).json()["code"], "idle");
    reached.insert("idle".into());
    server.stop();

    let mut config = memory_config();
    config.limits.query_memory_bytes = 100;
    let server = Server::start(config);
    assert_eq!(server.write("m v=1 1").status, 204);
    let answer = server.post("/api/query?db=test", r#"{"select": "m_v"}"#);
    assert_eq!(answer.json()["code"], "query_memory", "{}", answer.text());
    reached.insert("query_memory".into());
    server.stop();
    let mut config = memory_config();
    config.limits.query_deadline = Duration::ZERO;
    let server = Server::start(config);
    assert_eq!(server.write("m v=1 1").status, 204);
    let answer = server.post("/api/query?db=test", r#"{"select": "m_v"}"#);
    assert_eq!(answer.json()["code"], "deadline_exceeded");
    reached.insert("deadline_exceeded".into());
    server.stop();

    reached.extend(ELSEWHERE.map(String::from));
    assert_eq!(documented(), reached);
}
