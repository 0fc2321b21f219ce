//! Bodies that others collected and answers that InfluxDB 1.6.7 gave, from `../shared/conformance`.

#![expect(
    clippy::unwrap_used,
    reason = "a case that is not shaped as expected is a failed test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use alluvium_protocol::line::{
    FieldValue, Limits, LineParser, Precision, decode_key, decode_name, decode_string,
};
use serde_json::Value as Json;

fn shared(path: &str) -> Option<String> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("NOT SHOWN: no conformance data at ../shared");
    }
    text
}

/// One point as comparable text; floats by their bits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    time: i64,
    name: Vec<u8>,
    tags: Vec<(Vec<u8>, Vec<u8>)>,
    fields: Vec<(Vec<u8>, String)>,
}

/// Reads a body whole: its points, and its refusals.
fn read(body: &[u8], precision: Precision, default_time: i64) -> (Vec<Point>, Vec<String>) {
    let (mut points, mut errors) = (Vec::new(), Vec::new());
    let mut parser = LineParser::new(body, precision, default_time, Limits::default());
    while let Some(line) = parser.next_line() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                errors.push(format!("line {}: {}", error.line, error.kind));
                continue;
            }
        };
        let point = decode_key(line.key).and_then(|key| {
            let fields = line
                .fields
                .iter()
                .map(|f| {
                    let value = match f.value {
                        FieldValue::F64(v) => format!("f{:016x}", v.to_bits()),
                        FieldValue::I64(v) => format!("i{v}"),
                        FieldValue::U64(v) => format!("u{v}"),
                        FieldValue::Bool(v) => format!("b{v}"),
                        FieldValue::Str { raw, escaped } => {
                            format!("s{}", decode_string(raw, escaped))
                        }
                    };
                    Ok((decode_name(f.name)?.as_bytes().to_vec(), value))
                })
                .collect::<Result<_, _>>()?;
            Ok(Point {
                time: line.time_ns,
                name: key.measurement().as_bytes().to_vec(),
                tags: key
                    .tags()
                    .iter()
                    .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
                    .collect(),
                fields,
            })
        });
        match point {
            Ok(point) => points.push(point),
            Err(kind) => errors.push(format!("line {}: {kind}", line.number)),
        }
    }
    (points, errors)
}

/// A text of the set: a string, or base64 bytes behind `binary`.
fn bytes(node: &Json) -> Vec<u8> {
    match node {
        Json::String(text) => text.as_bytes().to_vec(),
        Json::Object(map) => base64(map["binary"].as_str().unwrap()),
        other => panic!("neither text nor bytes: {other}"),
    }
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|b| *b != b'=') {
        let six = ALPHABET.iter().position(|a| *a == byte).unwrap();
        bits = bits << 6 | six as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn expected_point(node: &Json) -> Point {
    let mut tags: Vec<(Vec<u8>, Vec<u8>)> = node["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (bytes(&t["key"]), bytes(&t["value"])))
        .collect();
    tags.sort();
    let fields = node["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            let (kind, value) = f["value"].as_object().unwrap().iter().next().unwrap();
            let text = match kind.as_str() {
                "float" => format!("f{:016x}", value.as_f64().unwrap().to_bits()),
                "int" => format!("i{value}"),
                "uint" => format!("u{value}"),
                "bool" => format!("b{value}"),
                "string" => format!("s{}", String::from_utf8(bytes(value)).unwrap()),
                other => panic!("unknown kind {other}"),
            };
            (bytes(&f["key"]), text)
        })
        .collect();
    Point {
        time: node["time"].as_i64().unwrap(),
        name: bytes(&node["name"]),
        tags,
        fields,
    }
}

/// Cases where this parser departs from the set, each with the reason.
const WAIVERS: &[(&str, &str)] = &[
    ("0d72bd69a58fa1a3399cf61fc9fdc67c", BACKSLASH_LETTER),
    ("909116df4d304c2e9ad8a57300bc08d7", BACKSLASH_LETTER),
    ("16f42a27b1032ab9ffa616e9de6edf2f", NEGATIVE_ZERO),
    ("579631bbe7f2e5bdbd98a380d381dd0c", NEGATIVE_ZERO),
    ("2a6fa6f9c4bd199a093f88e94b542430", TIME_TAG),
    ("5f10c11304f37e8f65e1d9fc36c6fde3", TIME_TAG),
    ("2be024ca70163a7068b08f5e8ef57ffa", LEADING_TAB),
    ("a02aab4c616a523b89c419dc100e70fd", LEADING_TAB),
    ("c0ce359f018a4255f4152ca2bc156ca7", LEADING_TAB),
];
const BACKSLASH_LETTER: &str = "1.6.7 keeps a backslash before a letter in a string, and so do we";
const NEGATIVE_ZERO: &str = "the set lost the sign of zero; we keep it";
const TIME_TAG: &str =
    "1.6.7 refuses the tag key time, which no query could tell from the timestamp";
const LEADING_TAB: &str = "1.6.7 skips a tab at the start of a line";

#[test]
fn the_line_protocol_set_of_influxdata() {
    let Some(text) = shared("conformance/influx_line_protocol/decode.json") else {
        return;
    };
    let set: Json = serde_json::from_str(&text).unwrap();
    let waivers: BTreeMap<&str, &str> = WAIVERS.iter().copied().collect();
    let (mut agreed, mut waived, mut wrong) = (0, 0, Vec::new());
    for (name, case) in set["decode"].as_object().unwrap() {
        let input = &case["input"];
        let precision = match input["precision"].as_str().unwrap() {
            "1ns" => Precision::Ns,
            "1us" => Precision::Us,
            "1ms" => Precision::Ms,
            "1s" => Precision::S,
            other => panic!("unknown precision {other}"),
        };
        let body = bytes(&input["text"]);
        let (points, errors) = read(&body, precision, input["defaultTime"].as_i64().unwrap());
        let complaint = match case["output"]["result"].as_array() {
            Some(expected) => {
                let expected: Vec<Point> = expected.iter().map(expected_point).collect();
                if !errors.is_empty() {
                    Some(format!("refused: {}", errors.join("; ")))
                } else if points != expected {
                    Some(format!("{points:?} is not {expected:?}"))
                } else {
                    None
                }
            }
            None if errors.is_empty() => {
                Some(format!("taken; should be: {}", case["output"]["error"]))
            }
            None => None,
        };
        match (complaint, waivers.get(name.as_str())) {
            (None, None) => agreed += 1,
            (Some(_), Some(_)) => waived += 1,
            (Some(complaint), None) => wrong.push(format!(
                "{name} {:?}: {complaint}",
                String::from_utf8_lossy(&body)
            )),
            (None, Some(reason)) => wrong.push(format!("{name} needs no waiver ({reason})")),
        }
    }
    println!("agreed {agreed}, waived {waived}, wrong {}", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(agreed + waived, 3307);
}

/// Bodies that 1.6.7 refused and that are to be taken, with the value stored.
const TAKEN_BESIDES: &[(&str, &[&str])] = &[
    ("m v=1u 6", &["u1"]),
    (
        "m v=1 17\r\nm v=2 18\r\n",
        &["f3ff0000000000000", "f4000000000000000"],
    ),
];

#[test]
fn the_writes_that_influxdb_answered() {
    let Some(text) = shared("conformance/influxql/writes.jsonl") else {
        return;
    };
    let mut cases = 0;
    for case in text.lines() {
        let case: Json = serde_json::from_str(case).unwrap();
        let body = case["lp"].as_str().unwrap();
        let precision = case["precision"].as_str().unwrap().parse().unwrap();
        let (points, errors) = read(body.as_bytes(), precision, 0);
        cases += 1;
        if let Some((_, values)) = TAKEN_BESIDES.iter().find(|t| t.0 == body) {
            let got: Vec<&str> = points.iter().map(|p| p.fields[0].1.as_str()).collect();
            assert_eq!(&got, values, "{body}");
            continue;
        }
        assert_eq!(
            errors.is_empty(),
            case["status"] == 204,
            "{body}: {errors:?}"
        );
        let Some(series) = case["after"]["results"][0]["series"].get(0) else {
            assert!(points.is_empty(), "{body}: {points:?}");
            continue;
        };
        let [point] = points.as_slice() else {
            panic!("{body}: {points:?}");
        };
        assert_eq!(point.name, series["name"].as_str().unwrap().as_bytes());
        for (tag, value) in &point.tags {
            let tag = std::str::from_utf8(tag).unwrap();
            assert_eq!(series["tags"][tag].as_str().unwrap().as_bytes(), value);
        }
        let columns = series["columns"].as_array().unwrap();
        let row = series["values"][0].as_array().unwrap();
        assert_eq!(row[0].as_i64(), Some(point.time), "{body}");
        for (column, value) in columns.iter().zip(row).skip(1) {
            let column = column.as_str().unwrap().as_bytes();
            // The last of several equal names wins.
            let stored = &point.fields.iter().rev().find(|f| f.0 == column).unwrap().1;
            let expected = match value {
                Json::Bool(v) => format!("b{v}"),
                Json::String(v) => format!("s{v}"),
                v if stored.starts_with('i') => format!("i{v}"),
                v => format!("f{:016x}", v.as_f64().unwrap().to_bits()),
            };
            assert_eq!(*stored, expected, "{body}");
        }
    }
    assert_eq!(cases, 26);
}
