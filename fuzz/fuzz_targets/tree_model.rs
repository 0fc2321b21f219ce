//! A tree answers as the vector of the points pushed into it, also after its state was saved and restored.
//!
//! The input is the kind, then three bytes a run of points: how many, their step, how their values move.
#![no_main]

use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_codec::Encoder;
use alluvium_io::{Lane, MemoryDevice};
use alluvium_nbtree::{Direction, PageWriter, ReadStats, Tree};
use alluvium_types::{
    Column, DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange, ValueKind,
};
use libfuzzer_sys::fuzz_target;

/// Points of one input: of most, a block or two; of one in eight more, of one in 32 some leaves, where values hardly
/// shrink an inner page's worth of blocks.
const POINTS_MAX: u64 = 80;
const MORE_POINTS_MAX: u64 = 300;
const MANY_POINTS_MAX: u64 = 2_000;
/// Runs of one input; the state is saved behind each.
const RUNS_MAX: usize = 8;

const KINDS: [ValueKind; 4] = [
    ValueKind::F64,
    ValueKind::I64,
    ValueKind::U64,
    ValueKind::Bool,
];

fuzz_target!(|data: &[u8]| {
    alluvium_fuzz::compares::link();
    let [kind, runs @ ..] = data else { return };
    let points_max = match alluvium_fuzz::share(data) {
        0 => MANY_POINTS_MAX,
        1..=3 => MORE_POINTS_MAX,
        _ => POINTS_MAX,
    };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
    let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
    let series = SeriesId::new(Partition(0), Row(0), FieldId(0), kind);
    let mut tree = Tree::new(series, 0, Lsn(1));
    let (mut times, mut values) = (Vec::new(), Vec::new());
    let (mut time, mut bits) = (-1_000_000_i64, 1_u64);
    for run in runs.chunks_exact(3).take(RUNS_MAX) {
        let points = (u64::from(run[0]) * 4).min(points_max - times.len() as u64);
        for i in 0..points {
            time += 1 + i64::from(run[1]) * 1_000;
            bits = match run[2] % 4 {
                0 => bits,
                1 => bits.wrapping_add(u64::from(run[2])),
                2 => bits.rotate_left(7) ^ i,
                _ => (f64::from(run[2]) + i as f64 / 100.0).to_bits(),
            };
            let value = if kind == ValueKind::Bool {
                bits & 1
            } else {
                bits
            };
            let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(i));
            tree.push_bits(&mut out, time, value);
            times.push(time);
            values.push(value);
        }
        let mut state = Vec::new();
        tree.snapshot().encode_state(&mut encoder, &mut state);
        let (restored, used) = Tree::decode_state(&state).expect("a state reads back");
        assert_eq!(used, state.len());
        tree = restored;
    }
    let snapshot = tree.snapshot();
    let mut stats = ReadStats::default();
    let (begin, end) = (times.len() / 3, times.len() - times.len() / 4);
    for (begin, end) in [(0, times.len()), (begin, end)] {
        let range = match (times.get(begin), times.get(end)) {
            (Some(a), Some(b)) => TimeRange::new(*a, *b).expect("times ascend"),
            _ => TimeRange::ALL,
        };
        let begin = if range == TimeRange::ALL { 0 } else { begin };
        let end = if range == TimeRange::ALL {
            times.len()
        } else {
            end
        };
        let all = snapshot
            .aggregate(&store, range, &mut stats)
            .expect("pages are whole");
        assert_eq!(all.count as usize, end - begin);
        let (mut seen, mut batch) = (Column::new(kind), Column::new(kind));
        let mut cursor = snapshot.scan(range, Direction::Forward);
        while cursor
            .next_batch(&store, &mut stats, &mut batch)
            .expect("pages are whole")
        {
            seen.extend_from(&batch, 0, batch.len());
        }
        assert_eq!(
            (seen.times.as_slice(), seen.bits()),
            (&times[begin..end], &values[begin..end])
        );
    }
});
