use proptest::prelude::*;

use super::*;
use alluvium_block::PageDraft;

fn entry(kind: ValueKind, n: u64) -> SubtreeRef {
    let mut aggregate = Aggregate::empty(kind);
    for i in 0..3 {
        let bits = if kind == ValueKind::F64 {
            ((n * 10 + i) as f64 / 4.0).to_bits()
        } else {
            n * 10 + i
        };
        aggregate.push((n * 100 + i) as i64, bits);
    }
    SubtreeRef {
        page: PageRef {
            addr: LogicAddr {
                volume: 1,
                page: 10 + n as u32,
            },
            generation: 1,
            crc: 0x0100_0000 + n as u32,
        },
        oldest_volume: 1,
        leaves: 1,
        aggregate,
    }
}

fn body(entries: &[SubtreeRef]) -> Vec<u8> {
    let mut out = vec![0; encoded_bytes(entries, None)];
    assert_eq!(encode(entries, &mut out), out.len());
    out
}

fn decoded(body: &[u8], entries: usize) -> Vec<SubtreeRef> {
    let mut out = Vec::new();
    let view = InnerView::new(body, entries).unwrap();
    view.expand_all(&mut out).unwrap();
    out
}

/// The widest values that `level` admits: every column but those bounded by the level is as wide as it can be.
fn widest(level: u32, i: u64, any_volume: bool) -> SubtreeRef {
    let odd = i % 2 == 1;
    let wild = if odd { u64::MAX - i } else { i };
    let leaves_max = 64_u64.pow(level - 1).min(u64::from(u32::MAX));
    let count_max = leaves_max << 19;
    let narrow = |full: u32, spread: u32| {
        if odd {
            if any_volume { full } else { spread }
        } else {
            0
        }
    };
    let sample = |time| alluvium_types::Sample { time, bits: wild };
    SubtreeRef {
        page: PageRef {
            addr: LogicAddr {
                volume: narrow(u32::MAX, 0xff_ffff),
                page: wild as u32,
            },
            generation: narrow(u32::MAX, 0xff),
            crc: wild as u32,
        },
        oldest_volume: narrow(u32::MAX, 0xff_ffff),
        leaves: if odd { leaves_max as u32 } else { 1 },
        aggregate: Aggregate {
            kind: ValueKind::F64,
            count: if odd { count_max } else { 1 },
            nan_count: if odd { count_max - 1 } else { 0 },
            first: sample(if odd { 0 } else { i64::MIN }),
            last: sample(i64::MAX - 1),
            min: sample(if odd { 0 } else { i64::MAX - 1 }),
            max: sample(i64::MAX - 1),
            sum: Sum::Float {
                high: f64::from_bits(wild),
                low: f64::from_bits(wild),
            },
            m2: f64::from_bits(wild),
            increase: f64::from_bits(wild),
        },
    }
}

#[test]
fn thirty_two_of_the_widest_entries_fit() {
    for level in 1..=4 {
        let entries: Vec<SubtreeRef> = (0..32).map(|i| widest(level, i, false)).collect();
        let bytes = encoded_bytes(&entries, None);
        assert!(
            bytes <= PageDraft::BODY_BYTES,
            "level {level} takes {bytes} bytes"
        );
    }
    // Beyond what any store can hold: still 29.
    let entries: Vec<SubtreeRef> = (0..29).map(|i| widest(6, i, true)).collect();
    let bytes = encoded_bytes(&entries, None);
    assert!(bytes <= PageDraft::BODY_BYTES, "{bytes} bytes");
    // The bound is about the widest: these entries do use the full width of the values.
    let view_body = body(&entries);
    let view = InnerView::new(&view_body, 29).unwrap();
    assert!(
        view.widths()[8..].iter().all(|w| *w == 8),
        "{:?}",
        view.widths()
    );
}

#[test]
fn entries_read_back() {
    for kind in ValueKind::ALL {
        let entries: Vec<SubtreeRef> = (0..40).map(|n| entry(kind, n)).collect();
        assert_eq!(decoded(&body(&entries), 40), entries, "{kind}");
    }
}

#[test]
fn only_entries_in_the_range_are_expanded() {
    let entries: Vec<SubtreeRef> = (0..40).map(|n| entry(ValueKind::U64, n)).collect();
    let body = body(&entries);
    let view = InnerView::new(&body, 40).unwrap();
    let mut out = Vec::new();
    view.expand(TimeRange::new(502, 701).unwrap(), &mut out)
        .unwrap();
    assert_eq!(out, entries[5..=7]);
    out.clear();
    view.expand(TimeRange::new(503, 600).unwrap(), &mut out)
        .unwrap();
    assert_eq!(out, []);
}

#[test]
fn bytes_are_as_documented() {
    let entries: Vec<SubtreeRef> = (0..2).map(|n| entry(ValueKind::I64, n)).collect();
    let hex: Vec<String> = body(&entries).iter().map(|b| format!("{b:02x}")).collect();
    let page = include_str!("../../../../docs/format/inner.md");
    let example = page
        .split("```hex")
        .nth(1)
        .and_then(|s| s.split("```").next());
    let mut documented = Vec::new();
    for line in example.expect("the page has a worked example").lines() {
        let bytes = line.split('#').next().unwrap_or_default();
        documented.extend(bytes.split_whitespace().map(str::to_owned));
    }
    assert_eq!(hex.join(" "), documented.join(" "));
}

fn any_entry(kind: ValueKind) -> impl Strategy<Value = SubtreeRef> {
    let page = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let times = (any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>());
    let rest = (
        0_u64..1 << 40,
        any::<[u64; 7]>(),
        any::<bool>(),
        any::<u32>(),
        any::<u16>(),
    );
    (page, times, rest).prop_map(move |(p, t, (count, n, nan, oldest, leaves))| {
        let mut times = [t.0, t.1, t.2, t.3];
        times.sort_unstable();
        let sample = |time: i64, bits| Sample { time, bits };
        let float = kind == ValueKind::F64;
        let nan_count = if float && nan { count / 2 } else { 0 };
        let empty = Aggregate::empty(kind);
        let has_numbers = kind.is_numeric() && count > nan_count;
        let aggregate = Aggregate {
            count,
            nan_count,
            first: sample(times[0], n[0]),
            last: sample(times[3], n[1]),
            min: if has_numbers {
                sample(times[2], n[2])
            } else {
                empty.min
            },
            max: if has_numbers {
                sample(times[1], n[3])
            } else {
                empty.max
            },
            sum: if float {
                Sum::Float {
                    high: n[4] as f64,
                    low: -(n[5] as f64),
                }
            } else {
                Sum::Integer(i128::from(n[4] as i64) * i128::from(n[5] >> 14))
            },
            m2: n[6] as f64,
            increase: n[5] as f64,
            ..empty
        };
        SubtreeRef {
            page: PageRef {
                addr: LogicAddr {
                    volume: p.0,
                    page: p.1,
                },
                generation: p.2,
                crc: p.3,
            },
            oldest_volume: oldest,
            leaves: leaves.into(),
            aggregate,
        }
    })
}

proptest! {
    #[test]
    fn any_entries_read_back(
        entries in prop::sample::select(ValueKind::ALL.to_vec())
            .prop_flat_map(|kind| prop::collection::vec(any_entry(kind), 1..29)),
    ) {
        prop_assert!(encoded_bytes(&entries, None) <= PageDraft::BODY_BYTES);
        prop_assert_eq!(decoded(&body(&entries), entries.len()), entries);
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..600), items in any::<u16>()) {
        let _ = crate::describe_inner(&body, items);
    }

    #[test]
    fn no_body_with_plausible_widths_panics(
        widths in prop::collection::vec(0_u8..=8, COLUMNS),
        rest in prop::collection::vec(any::<u8>(), 0..2000),
        items in 0_u16..20,
        kind in 1_u8..=5,
    ) {
        let body: Vec<u8> = [kind].into_iter().chain(widths).chain(rest).collect();
        let _ = crate::describe_inner(&body, items);
    }
}
