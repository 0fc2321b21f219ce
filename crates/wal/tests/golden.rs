//! The frame of `docs/format/log.md`, byte for byte.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_io::{AlignedBuf, Completion, Device, Lane, MemoryDevice, Op, OpenMode, Read};
use alluvium_types::{
    DatabaseId, FieldId, Lsn, Partition, Row, SeriesKey, StringColumn, TimeRange, ValueKind,
};
use alluvium_wal::{Among, LogConfig, LogWriter, PointGroup, SectionBuilder, Tombstone};

fn frame() -> Vec<u8> {
    let device = Arc::new(MemoryDevice::new(1));
    let config = LogConfig {
        segment_bytes: 8192,
        ..LogConfig::default()
    };
    let mut log = LogWriter::new(device.clone(), Lane(0), 0x1122_3344_5566_7788, 2, 1, config);
    let mut section = SectionBuilder::default();
    section.begin(DatabaseId(1), Partition(3), Lsn(9));
    section.field("cpu", FieldId(0), "use");
    section.field("cpu", FieldId(1), "up");
    let key = SeriesKey::new("cpu", [("host", "a")]).unwrap();
    section.row(Row(0), &key);
    section.points(&PointGroup {
        fields: vec![(FieldId(0), ValueKind::F64), (FieldId(1), ValueKind::Bool)],
        rows: vec![Row(0), Row(0), Row(0)],
        times: vec![1_000, 2_000, 3_001],
        bits: vec![
            1.5_f64.to_bits(),
            1,
            2.5_f64.to_bits(),
            0,
            (-3.0_f64).to_bits(),
            1,
        ],
        strings: StringColumn::new(),
    });
    let ticket = log.push(section.finish(), 6, true, 5);
    while ticket.result().is_none() {
        log.drive();
    }
    let run = |op| device.submit(Lane(0), op).wait(&*device, Lane(0)).unwrap();
    let path = "wal/00000002-0001.00000001".to_owned();
    let mode = OpenMode::default();
    let Completion::Opened { file, .. } = run(Op::Open { path, mode }) else {
        panic!("nothing was opened")
    };
    let into = AlignedBuf::zeroed(4096);
    let mut reads = [Read {
        file,
        offset: 0,
        into,
    }];
    device.read(&mut reads).unwrap();
    reads[0].into.bytes().to_vec()
}

/// The bytes of an example of the page, counted from 0.
fn example(number: usize) -> Vec<u8> {
    let page = include_str!("../../../docs/format/log.md");
    let hex = page.split("```hex\n").nth(number + 1).unwrap();
    let hex = hex.split("```").next().unwrap();
    hex.lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn the_page_shows_a_real_delete() {
    let of = |rows: &[u32], field: Option<u32>, among, begin, end| Tombstone {
        rows: rows.iter().copied().map(Row).collect(),
        field: field.map(FieldId),
        among,
        range: TimeRange::new(begin, end).unwrap(),
    };
    let mut section = SectionBuilder::default();
    section.begin(DatabaseId(1), Partition(3), Lsn(10));
    section.delete(&[
        of(&[3, 4, 5, 9], None, Among::All, 10, 20),
        of(&[7], Some(1), Among::Numbers, 15, 16),
    ]);
    assert_eq!(
        format!("{:02x?}", section.finish()),
        format!("{:02x?}", example(1))
    );
}

#[test]
fn the_page_shows_a_real_frame() {
    let shown = example(0);
    let (head, padding) = (&frame()[..shown.len()], &frame()[shown.len()..]);
    let text = |bytes: &[u8]| {
        let rows = bytes.chunks(16).map(|row| format!("{row:02x?}\n"));
        rows.collect::<String>()
    };
    assert_eq!(text(head), text(&shown));
    assert!(padding.iter().all(|b| *b == 0));
}
