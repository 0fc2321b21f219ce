//! Any body is unpacked, up to the limit and never past what was granted, or refused.
#![no_main]
#![allow(dead_code, reason = "the server's own file")]

use alluvium_types::{Budget, Owner};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/server/src/unpack.rs"]
mod unpack;

/// Bodies up to here are taken.
const LIMIT: usize = 100_000;

fuzz_target!(|data: &[u8]| {
    let mut granted = 0;
    let grow = |room: usize| {
        granted = granted.max(room);
        Budget::new(u64::MAX).reserve(Owner::Bodies, room as u64)
    };
    if let Ok(body) = unpack::unpack(data, LIMIT, grow) {
        assert!(body.len() <= LIMIT && body.capacity() <= granted);
    }
    // Where nothing is granted nothing is taken.
    let refuse = |room: usize| Budget::new(0).reserve(Owner::Bodies, room as u64);
    assert!(matches!(
        unpack::unpack(data, LIMIT, refuse),
        Err(unpack::UnpackError::Memory(_))
    ));
});
