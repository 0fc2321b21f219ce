//! A line that was read and can be written reads back as the same point.
#![no_main]

use alluvium_protocol::line::{
    FieldValue, Limits, LineParser, Precision, decode_key, decode_name, decode_string, write_line,
};
use alluvium_types::{SeriesKey, Value};
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Point {
    key: SeriesKey,
    fields: Vec<(String, Value)>,
    time: i64,
}

fn points(body: &[u8]) -> Vec<Point> {
    let mut parser = LineParser::new(body, Precision::Ns, 7, Limits::default());
    let mut out = Vec::new();
    while let Some(line) = parser.next_line() {
        let Ok(line) = line else { continue };
        let Ok(key) = decode_key(line.key) else {
            continue;
        };
        let mut fields = Vec::new();
        for field in line.fields {
            let Ok(name) = decode_name(field.name) else {
                break;
            };
            let value = match field.value {
                FieldValue::F64(v) => Value::F64(v),
                FieldValue::I64(v) => Value::I64(v),
                FieldValue::U64(v) => Value::U64(v),
                FieldValue::Bool(v) => Value::Bool(v),
                FieldValue::Str { raw, escaped } => Value::Str(decode_string(raw, escaped).into()),
            };
            fields.push((name.into_owned(), value));
        }
        if fields.len() == line.fields.len() {
            let time = line.time_ns;
            out.push(Point { key, fields, time });
        }
    }
    out
}

fuzz_target!(|body: &[u8]| {
    for point in points(body) {
        let mut text = Vec::new();
        let fields = point.fields.iter().map(|(n, v)| (n.as_str(), v.as_ref()));
        if write_line(&mut text, &point.key, fields, Some(point.time)).is_err() {
            assert!(text.is_empty());
            continue;
        }
        let back = points(&text);
        assert_eq!(back.len(), 1, "{:?}", String::from_utf8_lossy(&text));
        assert_eq!((&back[0].key, back[0].time), (&point.key, point.time));
        assert_eq!(back[0].fields.len(), point.fields.len());
        for (a, b) in back[0].fields.iter().zip(&point.fields) {
            assert!(
                a.0 == b.0 && a.1.as_ref().same(b.1.as_ref()),
                "{a:?} against {b:?}"
            );
        }
    }
});
