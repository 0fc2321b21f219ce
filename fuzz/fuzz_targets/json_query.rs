//! Any bytes are a query or a refusal with a sentence.
#![no_main]

use alluvium_protocol::json::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Err(error) = Request::parse(body, 1_700_000_000_000_000_000) {
        assert!(!error.to_string().is_empty());
        assert!(!error.code().is_empty());
    }
});
