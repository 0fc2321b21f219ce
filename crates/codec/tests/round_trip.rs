//! Everything comes back bit for bit, arbitrary bytes are refused without a panic, nothing grows past raw.

use alluvium_codec::{Encoder, Hint, MAX_BLOCK_POINTS, Tail, decode_block};
use alluvium_types::{Column, ValueKind, ValueRef};
use proptest::prelude::*;

fn times() -> impl Strategy<Value = Vec<i64>> {
    let regular = (
        any::<i32>(),
        1_i64..2_000_000_000,
        1_usize..=MAX_BLOCK_POINTS,
    )
        .prop_map(|(t, step, n)| (0..n as i64).map(|i| i64::from(t) + i * step).collect());
    let jitter = (1_usize..400, any::<u64>()).prop_map(|(n, seed)| {
        let mut x = seed | 1;
        let mut t = 1_700_000_000_000_000_000_i64;
        (0..n)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                t += 1 + (x >> 40) as i64 * 1000;
                t
            })
            .collect()
    });
    let wild = prop::collection::btree_set(i64::MIN..i64::MAX, 1..60)
        .prop_map(|s| s.into_iter().collect());
    prop_oneof![regular, jitter, wild]
}

fn number(kind: ValueKind) -> BoxedStrategy<u64> {
    match kind {
        ValueKind::Bool => (0_u64..2).boxed(),
        ValueKind::F64 => prop_oneof![
            4 => (-100_000_i64..100_000, 0_i32..5).prop_map(|(m, k)| (m as f64 / 10_f64.powi(k)).to_bits()),
            2 => any::<u64>(),
            1 => prop::sample::select(vec![
                0x7ff0_0000_0000_0002, 0x7ff8_0000_0000_0000, 0xfff8_dead_beef_0001, (-0.0_f64).to_bits(), 0,
                f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits(), 1, f64::MAX.to_bits(), f64::MIN_POSITIVE.to_bits(),
            ]),
        ]
        .boxed(),
        _ => prop_oneof![
            4 => (-1000_i64..1000).prop_map(|v| v as u64),
            2 => any::<u64>(),
            1 => prop::sample::select(vec![i64::MIN as u64, i64::MAX as u64, u64::MAX, 0]),
        ]
        .boxed(),
    }
}

fn column() -> impl Strategy<Value = Column> {
    let kinds = prop::sample::select(ValueKind::ALL.to_vec());
    (times(), kinds).prop_flat_map(|(times, kind)| {
        let n = times.len();
        if kind.is_numeric() {
            let runs = (number(kind), number(kind), 1_usize..50).prop_map(move |(a, b, len)| {
                (0..n)
                    .map(|i| if i / len % 2 == 0 { a } else { b })
                    .collect::<Vec<_>>()
            });
            let bits = prop_oneof![prop::collection::vec(number(kind), n), runs];
            (Just(times), bits)
                .prop_map(move |(times, bits)| {
                    let mut c = Column::new(kind);
                    times.iter().zip(bits).for_each(|(t, b)| c.push_bits(*t, b));
                    c
                })
                .boxed()
        } else {
            let words = prop_oneof![
                prop::sample::select(vec!["", "up", "down"]).prop_map(str::to_owned),
                ".{0,20}"
            ];
            (Just(times), prop::collection::vec(words, n))
                .prop_map(move |(times, texts)| {
                    let mut c = Column::new(kind);
                    times
                        .iter()
                        .zip(texts)
                        .for_each(|(t, s)| c.push_str(*t, &s));
                    c
                })
                .boxed()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn blocks_come_back(column in column()) {
        let mut bytes = Vec::new();
        let stats = Encoder::default().encode(&column, 0..column.len(), &mut Hint::default(), &mut bytes);
        prop_assert_eq!(stats.bytes, bytes.len());
        bytes.extend_from_slice(b"what follows is not its own");
        let mut back = Column::new(column.kind());
        prop_assert_eq!(decode_block(&bytes, &mut back), Ok(stats.bytes));
        prop_assert_eq!(&back, &column);
        if column.kind().is_numeric() {
            prop_assert!(stats.bytes <= column.len() * 16 + 16, "{} bytes for {} points", stats.bytes, column.len());
        }
    }

    #[test]
    fn tails_come_back_and_go_on(column in column(), cut in any::<prop::sample::Index>()) {
        let mut tail = Tail::new(column.kind());
        let cut = cut.index(column.len());
        for i in 0..column.len() {
            if i == cut {
                tail = Tail::from_bytes(column.kind(), tail.bytes(), tail.points()).unwrap();
            }
            tail.push(column.times[i], column.value(i).unwrap());
        }
        let mut back = Column::new(column.kind());
        tail.decode_into(&mut back);
        prop_assert_eq!(&back, &column);
        let mut copy = Column::new(column.kind());
        tail.snapshot().decode_into(&mut copy).unwrap();
        prop_assert_eq!(&copy, &column);
        prop_assert_eq!(tail.last_time(), column.times.last().copied());
    }

    #[test]
    fn spoilt_blocks_are_refused_or_read_as_something(column in column(), flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let mut bytes = Vec::new();
        Encoder::default().encode(&column, 0..column.len(), &mut Hint::default(), &mut bytes);
        for flip in flips {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut back = Column::new(column.kind());
        let _ = decode_block(&bytes, &mut back);
        prop_assert!(back.len() <= MAX_BLOCK_POINTS);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 0_usize..500) {
        for kind in ValueKind::ALL {
            let mut out = Column::new(kind);
            let _ = decode_block(&bytes, &mut out);
            let _ = Tail::from_bytes(kind, &bytes, n);
        }
    }
}

#[test]
fn a_block_of_decimals_is_as_documented() {
    let mut column = Column::new(ValueKind::F64);
    for (i, v) in [20.5, 20.25, 20.75, 21.0].into_iter().enumerate() {
        column.push(1_000_000_000 * i as i64, ValueRef::F64(v));
    }
    let mut bytes = Vec::new();
    Encoder::default().encode(&column, 0..4, &mut Hint::default(), &mut bytes);
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex.join(" "),
        "04 00 07 00 01 02 01 00 80 a8 d6 b9 07 0a 02 00 02 84 20 19 02 02 00 23"
    );
}
