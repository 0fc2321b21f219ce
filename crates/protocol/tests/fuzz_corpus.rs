//! The kept fuzz corpora, replayed as an ordinary test.

#![expect(
    clippy::unwrap_used,
    reason = "a corpus that cannot be read is a failed test"
)]

use alluvium_protocol::json::Request;
use alluvium_protocol::line::{
    FieldValue, Limits, LineParser, Precision, decode_key, decode_name, decode_string,
};

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let body = std::fs::read(entry.unwrap().path()).unwrap();
        run(&body);
        for cut in 0..body.len() {
            run(&body[..cut]);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "an empty corpus shows nothing");
}

#[test]
fn line_protocol() {
    replay("line_protocol", |body| {
        let mut parser = LineParser::new(body, Precision::Auto, 0, Limits::default());
        let (mut offset, mut number) = (0, 0);
        while let Some(line) = parser.next_line() {
            match line {
                Ok(line) => {
                    assert!(line.number > number && !line.fields.is_empty());
                    number = line.number;
                    let _ = decode_key(line.key);
                    for field in line.fields {
                        let _ = decode_name(field.name);
                        if let FieldValue::Str { raw, escaped } = field.value {
                            assert!(std::str::from_utf8(raw).is_ok());
                            let _ = decode_string(raw, escaped);
                        }
                    }
                }
                Err(error) => {
                    assert!(error.line > number);
                    number = error.line;
                }
            }
            assert!(parser.offset() > offset);
            offset = parser.offset();
        }
    });
}

#[test]
fn json_query() {
    replay("json_query", |body| {
        if let Err(error) = Request::parse(body, 1_700_000_000_000_000_000) {
            assert!(!error.to_string().is_empty());
        }
    });
}
