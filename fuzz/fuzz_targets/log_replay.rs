//! Any segment file is replayed, torn or damaged: nothing panics, frames come in order, from the one asked for.
#![no_main]

use std::sync::Arc;

use alluvium_io::{AlignedBuf, Completion, Device, Lane, MemoryDevice, Op, OpenMode, WriteData};
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::{LogConfig, LogWriter, SectionBuilder, list_streams, read_section, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [from, block, data @ ..] = data else {
        return;
    };
    let device = Arc::new(MemoryDevice::new(1));
    let config = LogConfig {
        segment_bytes: 16 << 10,
        ..LogConfig::default()
    };
    let mut log = LogWriter::new(device.clone(), Lane(0), 7, 1, 0, config);
    for number in 1..=6 {
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(1), Partition(0), Lsn(number));
        section.mark(number);
        let ticket = log.push(section.finish(), 0, true, 0);
        while ticket.result().is_none() {
            log.drive();
        }
    }
    // Blocks of the first segment are written over.
    let run = |op| {
        device
            .submit(Lane(0), op)
            .wait(&*device, Lane(0))
            .expect("memory does not fail")
    };
    let path = "wal/00000001-0000.00000001".to_owned();
    let Completion::Opened { file, .. } = run(Op::Open {
        path,
        mode: OpenMode::default(),
    }) else {
        return;
    };
    if !data.is_empty() {
        let mut buffer = AlignedBuf::zeroed(data.len());
        buffer.bytes_mut()[..data.len()].copy_from_slice(data);
        let offset = u64::from(block % 4) * 4096;
        run(Op::Write {
            file,
            offset,
            data: WriteData::Buffer(Arc::new(buffer)),
            sync: false,
        });
    }
    for stream in list_streams(&*device).expect("memory does not fail") {
        let mut last = None;
        let from = u64::from(from % 8);
        let _ = replay(&*device, &stream, 7, from, &mut |seq, bytes| {
            assert!(seq >= from && last.is_none_or(|l| seq == l || seq == l + 1));
            last = Some(seq);
            let _ = read_section(bytes);
            Ok(())
        });
    }
});
