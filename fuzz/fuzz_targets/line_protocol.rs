//! Any bytes are lines or refusals: nothing panics, the parser always moves on, a taken line's names decode or say why.
#![no_main]

use alluvium_protocol::line::{
    FieldValue, Limits, LineParser, Precision, decode_key, decode_name, decode_string,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let mut parser = LineParser::new(body, Precision::Auto, 0, Limits::default());
    let (mut offset, mut number) = (0, 0);
    while let Some(line) = parser.next_line() {
        match line {
            Ok(line) => {
                assert!(line.number > number && !line.fields.is_empty());
                assert_ne!(line.time_ns, i64::MAX);
                number = line.number;
                let _ = decode_key(line.key);
                for field in line.fields {
                    let _ = decode_name(field.name);
                    match field.value {
                        FieldValue::F64(v) => assert!(v.is_finite()),
                        FieldValue::Str { raw, escaped } => {
                            assert!(std::str::from_utf8(raw).is_ok());
                            let _ = decode_string(raw, escaped);
                        }
                        _ => {}
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
