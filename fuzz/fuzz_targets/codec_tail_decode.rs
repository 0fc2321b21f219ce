//! Any bytes are a tail or an error: nothing panics, and a tail that was read can be read and appended to.
//!
//! The first byte is the kind, the next two how many points the bytes are said to be.
#![no_main]

use alluvium_codec::Tail;
use alluvium_types::{Column, ValueKind, ValueRef};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, low, high, bytes @ ..] = data else {
        return;
    };
    let kind = ValueKind::ALL[usize::from(*kind) % ValueKind::ALL.len()];
    let points = usize::from(u16::from_le_bytes([*low, *high]));
    // What nobody can have written must not reserve memory either.
    let _ = Tail::from_bytes(kind, bytes, usize::MAX);
    let Ok(mut tail) = Tail::from_bytes(kind, bytes, points) else {
        return;
    };
    assert_eq!(tail.bytes(), bytes);
    let mut column = Column::new(kind);
    tail.decode_into(&mut column);
    assert_eq!(column.len(), points);
    assert!(column.times.windows(2).all(|w| w[0] < w[1]));
    if let Some(time) = tail.last_time().unwrap_or(0).checked_add(7) {
        let value = match kind {
            ValueKind::Str => ValueRef::Str("more"),
            ValueKind::Bool => ValueRef::Bool(true),
            _ => ValueRef::from_bits(kind, 0x7ff0_0000_0000_0001),
        };
        tail.push(time, value);
        column.push(time, value);
        let mut back = Column::new(kind);
        tail.decode_into(&mut back);
        assert_eq!(back, column);
    }
});
