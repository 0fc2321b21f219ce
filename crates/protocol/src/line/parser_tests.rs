use proptest::prelude::*;

use super::super::{WriteLineError, decode_key, decode_name, decode_string, write_line};
use super::*;
use alluvium_types::{SeriesKey, Value};

/// Every line as text: `number key fields time`, or `number error`.
fn read(body: &[u8], limits: Limits) -> Vec<String> {
    let mut parser = LineParser::new(body, Precision::Ns, 99, limits);
    let mut out = Vec::new();
    while let Some(line) = parser.next_line() {
        out.push(match line {
            Ok(line) => {
                let fields: Vec<String> = line
                    .fields
                    .iter()
                    .map(|f| {
                        let value = match f.value {
                            FieldValue::Str { raw, escaped } => {
                                format!("{:?}", decode_string(raw, escaped))
                            }
                            FieldValue::F64(v) => format!("{v:?}"),
                            FieldValue::I64(v) => format!("{v}i"),
                            FieldValue::U64(v) => format!("{v}u"),
                            FieldValue::Bool(v) => format!("{v}"),
                        };
                        format!("{}={value}", String::from_utf8_lossy(f.name))
                    })
                    .collect();
                format!(
                    "{} {} {} {}",
                    line.number,
                    String::from_utf8_lossy(line.key),
                    fields.join(","),
                    line.time_ns
                )
            }
            Err(error) => format!("{} {}", error.line, error.kind),
        });
    }
    out
}

#[track_caller]
fn check(body: &str, expected: &[&str]) {
    assert_eq!(read(body.as_bytes(), Limits::default()), expected, "{body}");
}

#[test]
fn lines_are_read() {
    check("m v=1 1", &["1 m v=1.0 1"]);
    check("m  v=1  1  ", &["1 m v=1.0 1"]);
    check("  m v=1", &["1 m v=1.0 99"]);
    check("m v=1 -5\r\nm v=2i 6\r\n", &["1 m v=1.0 -5", "2 m v=2i 6"]);
    check("\n# c\n\n \r\nm v=t", &["5 m v=true 99"]);
    check("m a=T,b=False,c=FALSE", &["1 m a=true,b=false,c=false 99"]);
    check("m v=-0,v=1u 3", &["1 m v=-0.0,v=1u 3"]);
    check("m,a=b\\ c q\\ k=1 2", &["1 m,a=b\\ c q\\ k=1.0 2"]);
    check("m time=1,v=2 3", &["1 m v=2.0 3"]);
    check(
        "m v=\"a\nb\" 4\nm v=1 5",
        &["1 m v=\"a\\nb\" 4", "3 m v=1.0 5"],
    );
    check("m v=\"a\\\\\" 28", &["1 m v=\"a\\\\\" 28"]);
    check("m v=\"\\\"\"", &["1 m v=\"\\\"\" 99"]);
    check(
        "m v=1 -9223372036854775808",
        &["1 m v=1.0 -9223372036854775808"],
    );
    check("", &[]);
    check("#", &[]);
    check("\r", &[]);
}

#[test]
fn bad_lines_are_refused_by_number_and_the_others_kept() {
    check(
        "bad\nm v=1 1\nm\nm v=2 2",
        &[
            "1 missing fields",
            "2 m v=1.0 1",
            "3 missing fields",
            "4 m v=2.0 2",
        ],
    );
    check(",a=b v=1", &["1 missing measurement"]);
    check(
        "m v=\nm =1\nm v\nm v=1,",
        &[
            "1 missing field value",
            "2 missing field key",
            "3 missing field value",
            "4 missing field key",
        ],
    );
    check("m v=1,,w=2", &["1 missing field key"]);
    check(
        "m v=1 x\nm v=1 1x\nm v=1 1 x",
        &[
            "1 bad timestamp",
            "2 bad timestamp",
            "3 invalid point: text after the timestamp",
        ],
    );
    check(
        "m v=NaN\nm v=Inf\nm v=+1\nm v=--1\nm v=0x1\nm v=1e400",
        &[
            "1 invalid number",
            "2 invalid boolean",
            "3 invalid boolean",
            "4 invalid number",
            "5 invalid number",
            "6 invalid number: float out of range",
        ],
    );
    check(
        "m v=truex\nm v=\"a\"b",
        &["1 invalid boolean", "2 invalid field format"],
    );
    check(
        "m time=1",
        &["1 invalid field name: input field \"time\" is invalid"],
    );
    check(
        "m v=1 9223372036854775807\nm v=1 99999999999999999999",
        &[
            "1 time outside range -9223372036854775808 - 9223372036854775806",
            "2 time outside range -9223372036854775808 - 9223372036854775806",
        ],
    );
    check("m v=1\rm v=2", &["1 invalid number"]);
}

#[test]
fn quotes_that_never_close_cost_one_line() {
    check(
        "m v=\"abc\nm v=1 1\n",
        &["1 unbalanced quotes", "2 m v=1.0 1"],
    );
    check(
        "m a=x,v=\"1\nm v=9 9\" 3\nm v=1 1",
        &["1 invalid boolean", "3 m v=1.0 1"],
    );
}

#[test]
fn the_value_equals_after_two_backslashes_is_no_trap() {
    check(
        "m k\\\\=\"=\" 1\nm v=1 2",
        &["1 unbalanced quotes", "2 m v=1.0 2"],
    );
}

#[test]
fn strings_are_valid_utf8() {
    assert_eq!(
        read(b"m v=\"\xff\" 1\nm v=\"\xc3\xa9\" 2", Limits::default()),
        ["1 invalid UTF-8 in a string value", "2 m v=\"é\" 2"]
    );
}

#[test]
fn limits_have_names_and_end_where_they_say() {
    let limits = Limits {
        line_bytes_max: 10,
        fields_max: 2,
        string_bytes_max: 2,
        key_bytes_max: 4,
        ..Limits::default()
    };
    let check = |body: &str, expected: &[&str]| {
        assert_eq!(read(body.as_bytes(), limits), expected, "{body}");
    };
    check("m v=1 1234", &["1 m v=1.0 1234"]);
    check("m v=1 1234\r\nm v=1", &["1 m v=1.0 1234", "2 m v=1.0 99"]);
    check(
        "m v=1 12345\nm v=1",
        &["1 line longer than 10 bytes", "2 m v=1.0 99"],
    );
    check("m v=1 12345", &["1 line longer than 10 bytes"]);
    check("m a=1,b=2", &["1 m a=1.0,b=2.0 99"]);
    check("m a=1,b=,,", &["1 missing field value"]);
    check("m v=\"abc\"", &["1 string longer than 2 bytes"]);
    check("m2345 v=1", &["1 measurement and tags longer than 4 bytes"]);
    let wide = Limits {
        line_bytes_max: 100,
        ..limits
    };
    assert_eq!(read(b"m a=1,b=2,c=3", wide), ["1 more than 2 fields"]);
}

/// Backslashes of the wire are not of the value.
#[test]
fn a_string_may_be_as_long_as_a_value_may_be() {
    let key = SeriesKey::new("m", [("t", "a")]).unwrap();
    for text in ["\"", "\\", "é", "x"] {
        let longest = text.repeat(MAX_STRING_BYTES / text.len());
        let mut body = Vec::new();
        write_line(&mut body, &key, [("v", ValueRef::Str(&longest))], Some(1)).unwrap();
        let expected = format!("1 m,t=a v={longest:?} 1");
        assert!(read(&body, Limits::default()) == [expected], "{text}");
        let raw = if longest.len() == body.len() - 12 {
            text.to_owned()
        } else {
            format!("\\{text}")
        };
        let body = format!(
            "m v=\"{}\" 1",
            raw.repeat(MAX_STRING_BYTES / text.len() + 1)
        );
        assert_eq!(
            read(body.as_bytes(), Limits::default()),
            [format!("1 string longer than {MAX_STRING_BYTES} bytes")]
        );
    }
    // What a backslash stands before is its own, unless it is a quote or another one.
    let body = format!("m v=\"{}\" 1", "\\n".repeat(MAX_STRING_BYTES / 2 + 1));
    assert_eq!(read(body.as_bytes(), Limits::default()).len(), 1);
    assert!(read(body.as_bytes(), Limits::default())[0].starts_with("1 string longer"));
}

/// What is written can be read: a key as long as one may be as sent, and no longer.
#[test]
fn no_key_is_written_that_would_be_refused() {
    let limit = Limits::default().key_bytes_max;
    for (text, bytes) in [("x", 1), (" ", 2), ("=", 2)] {
        let mut body = Vec::new();
        let mut write = |times: usize| {
            let value = text.repeat(times) + "x";
            let key = SeriesKey::new("m", [("t", &*value)]).unwrap();
            write_line(&mut body, &key, [("v", ValueRef::I64(1))], Some(1))
        };
        let longest = (limit - "m,t=x".len()) / bytes;
        assert_eq!(write(longest), Ok(()), "{text}");
        assert_eq!(write(longest + 1), Err(WriteLineError::KeyTooLong));
        let read = read(&body, Limits::default());
        assert!(read.len() == 1 && read[0].ends_with(" v=1i 1"), "{text}");
    }
}

#[test]
fn text_in_quotes_that_cross_the_limit_becomes_no_point() {
    let limits = Limits {
        line_bytes_max: 20,
        ..Limits::default()
    };
    let text = "aaaaaaaaaa\nm v=7 1\nbbbbbbbbbbbbbbbbbbb";
    let body = format!("log text=\"{text}\" 1\nm v=1 2\nlog text=\"{text}\"\nm v=3 4");
    assert_eq!(
        read(body.as_bytes(), limits),
        [
            "1 line longer than 20 bytes",
            "4 m v=1.0 2",
            "5 line longer than 20 bytes",
            "8 m v=3.0 4"
        ]
    );
}

#[test]
fn a_line_of_64_mib_is_refused_in_one_pass() {
    for fill in [b'x', b'"', b'=', b',', b'\\', b'1'] {
        let mut body = vec![fill; 64 << 20];
        body.extend_from_slice(b"\nm v=1 1\n");
        let got = read(&body, Limits::default());
        assert_eq!(got.last().unwrap(), "2 m v=1.0 1");
        assert_eq!(got.len(), 2);
    }
}

/// Reads whatever it is given to the end, decoding all names.
fn exhaust(body: &[u8]) -> usize {
    let mut parser = LineParser::new(body, Precision::Ns, 0, Limits::default());
    let mut lines = 0;
    while let Some(line) = parser.next_line() {
        lines += 1;
        if let Ok(line) = line {
            let _ = decode_key(line.key);
            for field in line.fields {
                let _ = decode_name(field.name);
                if let FieldValue::Str { raw, escaped } = field.value {
                    let _ = decode_string(raw, escaped);
                }
            }
        }
    }
    lines
}

fn name() -> impl Strategy<Value = String> {
    "[a-z ,=\"\\\\é#]{0,6}[a-z,=é]".prop_filter("reserved", |n| n != "time")
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>()
            .prop_filter("finite", |v| v.is_finite())
            .prop_map(Value::F64),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        any::<bool>().prop_map(Value::Bool),
        "(?s).{0,8}[\"\\\\\n]?.{0,4}".prop_map(|s| Value::Str(s.into())),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        measurement in name().prop_filter("comment", |n| !n.starts_with('#')),
        tags in proptest::collection::btree_map(name(), name(), 0..4),
        fields in proptest::collection::vec((name(), value()), 1..6),
        time in (i64::MIN..i64::MAX),
    ) {
        let key = SeriesKey::new(measurement, tags).unwrap();
        let mut body = Vec::new();
        let refs = fields.iter().map(|(n, v)| (n.as_str(), v.as_ref()));
        write_line(&mut body, &key, refs, Some(time)).unwrap();
        body.extend_from_slice(b"m v=1 1\n");
        let mut parser = LineParser::new(&body, Precision::Ns, 0, Limits::default());
        let line = parser.next_line().unwrap().unwrap();
        prop_assert_eq!(decode_key(line.key).unwrap(), key);
        prop_assert_eq!(line.time_ns, time);
        prop_assert_eq!(line.fields.len(), fields.len());
        for (got, (name, value)) in line.fields.iter().zip(&fields) {
            prop_assert_eq!(&decode_name(got.name).unwrap(), name);
            prop_assert_eq!(got.name_escaped, got.name.contains(&b'\\'));
            let text;
            let got = match got.value {
                FieldValue::Str { raw, escaped } => {
                    text = decode_string(raw, escaped);
                    ValueRef::Str(&text)
                }
FieldValue::F64(v) => ValueRef::F64(v),
                FieldValue::I64(v) => ValueRef::I64(v),
                FieldValue::U64(v) => ValueRef::U64(v),
                FieldValue::Bool(v) => ValueRef::Bool(v),
            };
            prop_assert!(got.same(value.as_ref()), "{:?} is not {:?}", got, value);
        }
        let number = memchr_iter(b'\n', &body).count();
        let last = parser.next_line().unwrap().unwrap();
        prop_assert_eq!(last.number, number);
        prop_assert!(parser.next_line().is_none());
    }

    #[test]
    fn arbitrary_bytes_end(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        exhaust(&body);
    }

    #[test]
    fn bytes_that_look_like_lines_end(body in "([m, =\"\\\\\n\r#1.eit-]|v=|time|m v=1){0,60}") {
        exhaust(body.as_bytes());
        for cut in 0..body.len() {
            exhaust(&body.as_bytes()[..cut]);
        }
    }

    #[test]
    fn good_lines_around_garbage_are_kept(garbage in "[m, =1it\\\\]{0,30}") {
        // No quotes: one may open a string that a quote of a later line closes.
        let body = format!("m v=1 1\n{garbage}\nm v=2 2\n");
        let got = read(body.as_bytes(), Limits::default());
        prop_assert_eq!(got.first().unwrap(), "1 m v=1.0 1");
        prop_assert_eq!(got.last().unwrap(), "3 m v=2.0 2");
    }
}

/// Each line opens a quote that the next one closes and opens again: none of them ends before the window does. To look for that
/// end for each of them would take an hour.
#[test]
fn a_body_of_open_quotes_is_read_in_time_that_grows_with_its_bytes() {
    let body = b"\"m v=\"\n".repeat(2 << 20);
    let mut parser = LineParser::new(&body, Precision::Ns, 99, Limits::default());
    let mut refused = 0;
    while let Some(line) = parser.next_line() {
        refused += usize::from(line.is_err());
    }
    assert!(refused > 1 << 20, "{refused}");
    assert_eq!(parser.offset(), body.len());
}
