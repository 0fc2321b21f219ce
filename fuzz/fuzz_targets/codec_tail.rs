//! A tail holds what was pushed, as it is and read back from its bytes, and goes on from there.
//!
//! The first byte is the kind; a point is then a byte that says how many bytes of gap and value follow.
#![no_main]

use alluvium_codec::{Tail, tail_first_time};
use alluvium_types::{Column, ValueKind, ValueRef};
use libfuzzer_sys::fuzz_target;

const WORDS: [&str; 5] = ["", "a", "open", "closed", "ünïcode"];

fn number(data: &mut &[u8], len: usize) -> u64 {
    let mut word = [0; 8];
    let len = len.min(8).min(data.len());
    let (head, rest) = data.split_at(len);
    word[..len].copy_from_slice(head);
    *data = rest;
    u64::from_le_bytes(word)
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let kind = ValueKind::ALL[usize::from(*kind) % ValueKind::ALL.len()];
    let mut data = rest;
    let mut tail = Tail::new(kind);
    let mut column = Column::new(kind);
    while let [control, rest @ ..] = data {
        data = rest;
        let gap = number(&mut data, usize::from(control & 0xf));
        let bits = number(&mut data, usize::from(control >> 4));
        let time = match column.times.last() {
            None => gap as i64,
            Some(last) => match i64::try_from(i128::from(*last) + i128::from(gap.max(1))) {
                Ok(time) => time,
                Err(_) => break,
            },
        };
        let value = match kind {
            ValueKind::Str => ValueRef::Str(WORDS[(bits % WORDS.len() as u64) as usize]),
            ValueKind::Bool => ValueRef::Bool(bits & 1 == 1),
            _ => ValueRef::from_bits(kind, bits),
        };
        tail.push(time, value);
        column.push(time, value);
        if control & 0x3f == 0x3f {
            tail = Tail::from_bytes(kind, tail.bytes(), tail.points()).expect("its own bytes");
        }
    }
    assert_eq!(tail.points(), column.len());
    assert_eq!(tail_first_time(tail.bytes()), column.times.first().copied());
    assert_eq!(tail.last_time(), column.times.last().copied());
    let mut back = Column::new(kind);
    tail.decode_into(&mut back);
    assert_eq!(back, column);
    let again = Tail::from_bytes(kind, tail.bytes(), tail.points()).expect("its own bytes");
    assert_eq!(again.bytes(), tail.bytes());
});
