//! Everything comes back bit for bit, arbitrary bytes are refused without a panic, nothing grows past raw.

use alluvium_codec::{
    Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, Tail, decode_block, tail_first_time,
};
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

/// Numbers whose distances pass every range.
fn edge(kind: ValueKind) -> BoxedStrategy<u64> {
    let large = prop::sample::select(vec![
        i64::MAX,
        -i64::MAX,
        i64::MIN,
        6_000_000_000_000_000_000,
        -6_000_000_000_000_000_000,
        0,
    ]);
    match kind {
        ValueKind::Bool => (0_u64..2).boxed(),
        ValueKind::F64 => prop::sample::select(vec![6e18, -6e18, 0.0, 1e300, -1e300, 9e15])
            .prop_map(f64::to_bits)
            .boxed(),
        _ => large.prop_map(|v: i64| v as u64).boxed(),
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
            let cycle = prop::collection::vec(prop_oneof![number(kind), edge(kind)], 2..9);
            let cycles =
                cycle.prop_map(move |cycle| (0..n).map(|i| cycle[i % cycle.len()]).collect());
            let bits = prop_oneof![prop::collection::vec(number(kind), n), runs, cycles];
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

/// Three values in turn, two of which lie more than 2^63 apart: the greatest divisor of their distances from the first is none
/// of what wraps between neighbours.
#[test]
fn cycles_over_the_whole_range_come_back() {
    for cycle in [
        [0, i64::MAX, -i64::MAX],
        [0, 6_000_000_000_000_000_000, -6_000_000_000_000_000_000],
        [i64::MIN, 0, i64::MAX],
    ] {
        for (kind, n) in [
            (ValueKind::I64, 15),
            (ValueKind::U64, 100),
            (ValueKind::F64, 1000),
        ] {
            let mut column = Column::new(kind);
            for (time, value) in (0..n).zip(cycle.into_iter().cycle()) {
                column.push_bits(time, value as u64);
            }
            let (mut bytes, mut hint) = (Vec::new(), Hint::default());
            Encoder::new(Compression::Balanced).encode(
                &column,
                0..n as usize,
                &mut hint,
                Models::default(),
                &mut bytes,
            );
            let mut back = Column::new(kind);
            decode_block(&bytes, n as usize, 0, Models::default(), &mut back).unwrap();
            assert_eq!(back.bits(), column.bits(), "{cycle:?} as {kind:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn blocks_come_back(column in column(), small in any::<bool>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let mut ends: Vec<usize> = cuts.iter().map(|c| c.index(column.len())).chain([column.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut encoder = Encoder::new(if small { Compression::Small } else { Compression::Balanced });
        let (mut hint, mut begin, mut blocks) = (Hint::default(), 0, Vec::<Vec<u8>>::new());
        let mut back = Column::new(column.kind());
        for end in ends.into_iter().filter(|end| *end > 0) {
            // Later blocks borrow from earlier ones, as in a page.
            let models = blocks.iter().fold(Models::default(), |m, b| m.after(b).unwrap());
            let mut bytes = Vec::new();
            let stats = encoder.encode(&column, begin..end, &mut hint, models, &mut bytes);
            prop_assert_eq!((stats.bytes, stats.points), (bytes.len(), end - begin));
            if column.kind().is_numeric() {
                prop_assert!(bytes.len() <= (end - begin) * 16 + 16, "{} bytes for {} points", bytes.len(), end - begin);
            }
            decode_block(&bytes, end - begin, column.times[begin], models, &mut back).unwrap();
            blocks.push(bytes);
            begin = end;
        }
        prop_assert_eq!(&back, &column);
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
        prop_assert_eq!(tail.last_time(), column.times.last().copied());
        prop_assert_eq!(tail_first_time(tail.bytes()), column.times.first().copied());
    }

    #[test]
    fn spoilt_blocks_are_refused_or_read_as_something(column in column(), flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let mut bytes = Vec::new();
        Encoder::new(Compression::Small).encode(&column, 0..column.len(), &mut Hint::default(), Models::default(), &mut bytes);
        for flip in flips {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut back = Column::new(column.kind());
        let _ = decode_block(&bytes, column.len(), column.times[0], Models::default(), &mut back);
        prop_assert!(back.len() <= MAX_BLOCK_POINTS);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 0_usize..500) {
        let models = Models::default().after(&bytes).unwrap_or_default();
        for kind in ValueKind::ALL {
            let mut out = Column::new(kind);
            let _ = decode_block(&bytes, n, 0, models, &mut out);
            let _ = Tail::from_bytes(kind, &bytes, n);
            let _ = tail_first_time(&bytes);
        }
    }
}

/// What `docs/format/block.md` shows is what is written.
fn documented(column: &Column) {
    let mut bytes = Vec::new();
    let range = 0..column.len();
    Encoder::new(Compression::Balanced).encode(
        column,
        range,
        &mut Hint::default(),
        Models::default(),
        &mut bytes,
    );
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let page = include_str!("../../../docs/format/block.md");
    assert!(
        page.contains(&hex.join(" ")),
        "docs/format/block.md lacks {}",
        hex.join(" ")
    );
}

#[test]
fn blocks_are_as_documented() {
    let mut decimals = Column::new(ValueKind::F64);
    for (i, v) in [20.5, 20.25, 20.75, 21.0].into_iter().enumerate() {
        decimals.push(1_000_000_000 * i as i64, ValueRef::F64(v));
    }
    documented(&decimals);
    let mut skewed = Column::new(ValueKind::I64);
    for i in 0..100_i64 {
        skewed.push(i * 60, ValueRef::I64(i64::from((i * 37).trailing_zeros())));
    }
    documented(&skewed);
    let mut states = Column::new(ValueKind::Str);
    for i in 0..12 {
        states.push_str(i * 60, if i % 5 == 0 { "down" } else { "up" });
    }
    documented(&states);
}

#[test]
fn a_tail_is_as_documented() {
    let mut tail = Tail::new(ValueKind::F64);
    for (i, v) in [20.5, 20.25, 20.75].into_iter().enumerate() {
        tail.push(10_000_000_000 * i as i64, ValueRef::F64(v));
    }
    let hex: Vec<String> = tail.bytes().iter().map(|b| format!("{b:02x}")).collect();
    let page = include_str!("../../../docs/format/block.md");
    assert!(
        page.contains(&hex.join(" ")),
        "docs/format/block.md lacks {}",
        hex.join(" ")
    );
}
