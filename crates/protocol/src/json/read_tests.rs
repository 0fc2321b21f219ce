use proptest::prelude::*;

use super::*;
use crate::json::Direction;

const NOW: i64 = 1_700_000_000_000_000_000;

fn parse(text: &str) -> Request {
    Request::parse(text.as_bytes(), NOW).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[track_caller]
fn refused(text: &str, sentence: &str) {
    let error = Request::parse(text.as_bytes(), NOW).unwrap_err();
    assert_eq!(error.to_string(), sentence, "{text}");
}

#[test]
fn a_request_with_everything() {
    let request = parse(
        r#"{"group-aggregate": {"metric": ["cpu_user", "cpu_idle"], "step": "5min", "func": "mean"},
            "range": {"from": "2023-11-14T00:00:00Z", "to": "now-1h"},
            "where": {"host": ["a", "b"], "dc": "x", "rack": {"regex": "^r"}, "os": {"not": ["w"]},
                      "gpu": {"exists": false}},
            "pivot-by-tag": ["host"], "order-by": "series", "limit": 10, "offset": 2, "fill": "previous",
            "align": "from", "output": {"format": "csv", "timestamp": "iso", "header": true},
            "explain": true, "stats": true}"#,
    );
    assert_eq!(
        request.query,
        Query::GroupAggregate {
            metrics: vec!["cpu_user".into(), "cpu_idle".into()],
            step_ns: 300_000_000_000,
            functions: vec![Function::Mean],
        }
    );
    assert_eq!(
        request.range,
        Span::new(1_699_920_000_000_000_000, NOW - 3_600_000_000_000)
    );
    let matched = |tag: &str, pattern| TagMatch {
        tag: tag.into(),
        pattern,
    };
    assert_eq!(
        request.filter,
        Filter::Tags(vec![
            matched("host", Pattern::OneOf(vec!["a".into(), "b".into()])),
            matched("dc", Pattern::OneOf(vec!["x".into()])),
            matched("rack", Pattern::Regex("^r".into())),
            matched(
                "os",
                Pattern::Not(Box::new(Pattern::OneOf(vec!["w".into()])))
            ),
            matched("gpu", Pattern::Not(Box::new(Pattern::Exists))),
        ])
    );
    assert_eq!(request.grouping, Grouping::Keep(vec!["host".into()]));
    assert_eq!((request.limit, request.offset), (Some(10), 2));
    assert_eq!(
        (request.order_by, request.fill, request.align),
        (OrderBy::Series, Fill::Previous, Align::From)
    );
    assert_eq!(
        request.output,
        Output {
            format: Format::Csv,
            timestamp: TimeFormat::Iso,
            header: true,
            shape: Shape::Rows
        }
    );
    assert!(request.explain && request.stats);
}

#[test]
fn defaults() {
    let request = parse(r#"{"select": "cpu"}"#);
    assert_eq!(request.range, Span::ALL);
    assert_eq!((request.limit, request.offset), (None, 0));
    assert_eq!(request.output, Output::default());
    assert_eq!(
        parse(r#"{"aggregate": {"m": ["min", "max"], "n": "last"}}"#).query,
        Query::Aggregate {
            metrics: vec![
                ("m".into(), vec![Function::Min, Function::Max]),
                ("n".into(), vec![Function::Last])
            ]
        }
    );
    assert_eq!(
        parse(r#"{"select": "cpu", "where": [{"b": "2", "a": "1"}, {}]}"#).filter,
        Filter::Sets(vec![
            vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            vec![]
        ])
    );
}

#[test]
fn ranges_run_both_ways() {
    let range = |text: &str| parse(&format!(r#"{{"select": "m", "range": {text}}}"#)).range;
    let forward = range(r#"{"from": 10, "to": "20"}"#);
    assert_eq!(
        (
            forward.range.begin(),
            forward.range.end(),
            forward.direction
        ),
        (10, 20, Direction::Forward)
    );
    let backward = range(r#"{"from": 20, "to": 10}"#);
    assert_eq!((backward.range.begin(), backward.range.end()), (11, 21));
    assert_eq!(
        (backward.direction, backward.from),
        (Direction::Backward, 20)
    );
    assert!(range(r#"{"from": 5, "to": 5}"#).range.is_empty());
    assert_eq!(range(r#"{"to": "now"}"#).range.begin(), i64::MIN);
    assert_eq!(
        range(r#"{"from": 9223372036854775807, "to": 0}"#)
            .range
            .end(),
        i64::MAX
    );
    assert_eq!(
        range(r#"{"from": 0, "to": -9223372036854775808}"#)
            .range
            .begin(),
        i64::MIN + 1
    );
}

#[test]
fn refusals_name_the_field() {
    refused(
        "{}",
        "a query needs exactly one of select, aggregate, group-aggregate; this one has none",
    );
    refused(
        r#"{"select": "m", "aggregate": {"m": "min"}}"#,
        "a query needs exactly one of select, aggregate, group-aggregate; this one has select, aggregate",
    );
    refused(
        r#"{"select": "m", "rnge": {}}"#,
        "unknown field \"rnge\" in the query (allowed: select, aggregate, group-aggregate, range, where, \
         group-by-tag, pivot-by-tag, group-by, order-by, limit, offset, fill, align, output, explain, stats)",
    );
    refused(
        r#"{"select": "m", "limit": 1, "limit": 2}"#,
        "query is not valid JSON: field \"limit\" occurs twice at line 1 column 39",
    );
    refused(
        r#"{"select": "m", "apply": []}"#,
        "field \"apply\" is not supported yet",
    );
    refused(
        r#"{"select": "meta:names"}"#,
        "\"meta:names\" is not supported yet",
    );
    refused(
        r#"{"select": "m", "output": {"format": "resp"}}"#,
        "output format \"resp\" is not supported yet",
    );
    refused(
        r#"{"select": "m", "limit": -1}"#,
        "field \"limit\" must be an integer of at least 0",
    );
    refused(r#"{"select": ["m", "m"]}"#, "metric \"m\" is listed twice");
    refused(
        r#"{"select": []}"#,
        "field \"select\" must be a list of at least one item",
    );
    refused(
        r#"{"aggregate": {"m": "avg"}}"#,
        "unknown function \"avg\" (allowed: count, sum, min, max, mean, first, last, min_timestamp, \
         max_timestamp, first_timestamp, last_timestamp, stddev, variance, rate, increase, spread)",
    );
    refused(
        r#"{"group-aggregate": {"metric": "m", "func": "min"}}"#,
        "field \"step\" must be given in \"group-aggregate\"",
    );
    refused(
        r#"{"group-aggregate": {"metric": "m", "func": "min", "step": 0}}"#,
        "field \"step\" must be a duration above 0",
    );
    refused(
        r#"{"group-aggregate": {"metric": "m", "func": "min", "step": "1mo"}}"#,
        "field \"step\": calendar duration \"1mo\" is not supported yet (use d or w)",
    );
    refused(
        r#"{"aggregate": {"m": "min"}, "order-by": "time"}"#,
        "field \"order-by\" cannot be used with \"aggregate\"",
    );
    refused(
        r#"{"select": "m", "fill": "none"}"#,
        "field \"fill\" cannot be used with \"select\"",
    );
    refused(
        r#"{"select": "m", "group-by-tag": "a", "pivot-by-tag": "b"}"#,
        "field \"group-by-tag\" cannot be used with \"pivot-by-tag\"",
    );
    refused(
        r#"{"select": "m", "order-by": "name"}"#,
        "unknown order-by \"name\" (allowed: time, series)",
    );
    refused("[]", "field \"query\" must be an object");
    refused(
        r#"{"select": "m", "where": {"a": {"regex": "x", "not": "y"}}}"#,
        "field \"a\" must be a text, a list of texts, or one of {\"regex\": ...}, {\"not\": ...}, {\"exists\": true}",
    );
    assert!(Request::parse(b"{\"select\": \"m\"} x", NOW).is_err());
}

#[test]
fn size_and_depth_are_bounded() {
    let long = format!(r#"{{"select": "{}"}}"#, "m".repeat(BODY_BYTES_MAX));
    assert!(matches!(
        Request::parse(long.as_bytes(), NOW),
        Err(RequestError::TooLong { .. })
    ));
    let mut deep = String::from(r#"{"select": "m", "where": {"a": "#);
    deep.push_str(&r#"{"not":"#.repeat(100_000));
    let error = Request::parse(deep.as_bytes(), NOW)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "query is not valid JSON: nested too deeply at line 1 column 242"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_is_answered(text in "(\\{|\\}|\\[|\\]|:|,|\"select\"|\"range\"|\"where\"|\"a\"|1|null|\"not\"){0,40}") {
        let _ = Request::parse(text.as_bytes(), NOW);
    }
}
