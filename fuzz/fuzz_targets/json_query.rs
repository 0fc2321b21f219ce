//! Any bytes are a query, a delete, or a refusal with a sentence.
#![no_main]

use alluvium_protocol::json::{DeleteRequest, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let query = Request::parse(body, 1_700_000_000_000_000_000).err();
    let delete = DeleteRequest::parse(body, 1_700_000_000_000_000_000).err();
    for error in query.into_iter().chain(delete) {
        assert!(!error.to_string().is_empty());
        assert!(!error.code().is_empty());
    }
});
