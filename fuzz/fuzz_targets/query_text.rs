//! Any text is a statement, a time, a duration, a durability level or a selector, or a refusal with a sentence.
#![no_main]

use alluvium_protocol::influxql;
use alluvium_protocol::time::{parse_duration, parse_time};
use alluvium_query::parse_selector;
use alluvium_store::{Durability, Label, Matcher, Selector, Test};
use libfuzzer_sys::fuzz_target;

const EXPRESSION_BYTES_MAX: usize = 16;

const NOW: i64 = 1_700_000_000_000_000_000;

fuzz_target!(|text: &str| {
    match influxql::parse(text, 0) {
        Ok(statements) => assert!(!statements.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Err(error) = parse_time(text, NOW) {
        assert!(!error.to_string().is_empty());
    }
    match parse_duration(text) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(level) = text.parse::<Durability>() {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    if let Err(error) = parse_selector(text) {
        assert!(!error.to_string().is_empty());
    }
    // To compile an expression takes longer than everything else here: only short ones are, and of these one of eight.
    let is_short = |text: &&str| text.len() <= EXPRESSION_BYTES_MAX && text.len().is_multiple_of(8);
    let Some(expression) = text.strip_prefix('~').filter(is_short) else {
        return;
    };
    let selector = Selector {
        matchers: vec![Matcher::new(
            Label::Tag("host".into()),
            Test::Regex(expression.into()),
        )],
    };
    if let Err(error) = selector.compile() {
        assert!(!error.to_string().is_empty());
    }
});
