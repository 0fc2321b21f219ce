//! Any tails file is read or refused: nothing panics; what was read is written and read again as the same, its
//! trees answer or fail, and take points. The input is what a record has behind its checksum.
#![no_main]

use std::sync::Arc;

use alluvium_block::BlockStore;
use alluvium_codec::{Encoder, crc32c_append, varint};
use alluvium_io::{Lane, MemoryDevice};
use alluvium_nbtree::{
    Direction, PageWriter, ReadStats, TailRecord, Tree, TreeError, TreeSnapshot, put_tail_record,
    tail_records,
};
use alluvium_types::{Column, DatabaseId, Lsn, TimeRange, ValueKind, ValueRef};
use libfuzzer_sys::fuzz_target;

/// Damaged counts must not make one input slow.
const POINTS_MAX: usize = 100_000;

fn read(bytes: &[u8]) -> Result<Vec<TailRecord>, TreeError> {
    tail_records(bytes).collect()
}

fn framed(data: &[u8]) -> Vec<u8> {
    let mut body = crc32c_append(0, data).to_le_bytes().to_vec();
    body.extend_from_slice(data);
    let mut record = Vec::new();
    varint::put_bytes(&mut record, &body);
    record
}

fn seen(runs: &[Tree]) -> Vec<TreeSnapshot> {
    runs.iter().map(Tree::snapshot).collect()
}

fuzz_target!(|data: &[u8]| {
    let _ = read(data);
    let Ok(records) = read(&framed(data)) else {
        return;
    };
    let mut encoder = Encoder::default();
    let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
    let mut appender = store.appender(Lane(0));
    for mut record in records {
        let ordered = |c: &Column| c.times.windows(2).all(|w| w[0] < w[1]);
        if record.late.iter().all(ordered) {
            let mut bytes = Vec::new();
            put_tail_record(
                &mut bytes,
                &mut encoder,
                &record.key,
                &seen(&record.runs),
                &record.late,
            );
            let again = read(&bytes).expect("its own bytes");
            assert_eq!(again.len(), 1);
            assert_eq!((again[0].key, &again[0].late), (record.key, &record.late));
            let mut twice = Vec::new();
            put_tail_record(
                &mut twice,
                &mut encoder,
                &again[0].key,
                &seen(&again[0].runs),
                &again[0].late,
            );
            assert_eq!(twice, bytes);
        }
        for tree in &mut record.runs {
            let snapshot = tree.snapshot();
            let mut stats = ReadStats::default();
            let _ = snapshot.aggregate(&store, TimeRange::ALL, &mut stats);
            let mut cursor = snapshot.scan(TimeRange::ALL, Direction::Backward);
            let (mut batch, mut seen) = (Column::new(tree.kind()), 0);
            while seen < POINTS_MAX
                && cursor
                    .next_batch(&store, &mut stats, &mut batch)
                    .is_ok_and(|more| more)
            {
                seen += batch.len().max(1);
            }
            let Some(time) = tree.last_time().unwrap_or(0).checked_add(1) else {
                continue;
            };
            let (database, lsn) = (DatabaseId(1), Lsn(u64::MAX));
            let mut out = PageWriter::new(&mut appender, &mut encoder, database, lsn);
            let value = match tree.kind() {
                ValueKind::Str => ValueRef::Str("more"),
                kind => ValueRef::from_bits(kind, 1),
            };
            tree.push(&mut out, time, value);
        }
    }
});
