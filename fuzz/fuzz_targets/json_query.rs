//! Any bytes are a query, a delete, a search, a suggestion, or a refusal with a sentence.
#![no_main]

use alluvium_protocol::json::{DeleteRequest, Request, SearchRequest, SuggestRequest};
use libfuzzer_sys::fuzz_target;

const NOW_NS: i64 = 1_700_000_000_000_000_000;

fuzz_target!(|body: &[u8]| {
    let refusals = [
        Request::parse(body, NOW_NS).err(),
        DeleteRequest::parse(body, NOW_NS).err(),
        SearchRequest::parse(body, NOW_NS).err(),
        SuggestRequest::parse(body, NOW_NS).err(),
    ];
    for error in refusals.into_iter().flatten() {
        assert!(!error.to_string().is_empty());
        assert!(!error.code().is_empty());
    }
});
