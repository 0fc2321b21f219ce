//! A stream under test: numbered sections, a device to end the world with.
#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;

use alluvium_io::{Device, Lane};
use alluvium_sim::SimDevice;
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::{
    Entry, LogConfig, LogError, LogTicket, LogWriter, SectionBuilder, StreamEnd, list_streams,
    read_section, replay,
};

pub(crate) const SALT: u64 = 0x1122_3344_5566_7788;
pub(crate) const SEGMENT: u64 = 32 << 10;

pub(crate) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT,
        group_bytes_max: 16 << 10,
    }
}

pub(crate) fn writer(device: &Arc<SimDevice>, incarnation: u32) -> LogWriter {
    let device: Arc<dyn Device> = Arc::<SimDevice>::clone(device);
    LogWriter::new(device, Lane(0), SALT, incarnation, 0, config())
}

/// A section that says its number and is so long.
pub(crate) fn section(number: u64, bytes: usize) -> Vec<u8> {
    let mut builder = SectionBuilder::default();
    builder.begin(DatabaseId(1), Partition(3), Lsn(number));
    builder.create_database(DatabaseId(2), "x", number, &vec![number as u8; bytes]);
    builder.finish().to_vec()
}

/// Lets the device and the log move on until the log has nothing to do or the turns are used up.
pub(crate) fn settle(device: &dyn Device, log: &mut LogWriter, turns: usize) {
    for _ in 0..turns {
        let pending = log.drive();
        if device.drive(Lane(0)) == 0 && !pending {
            return;
        }
    }
}

/// Pushes one section and waits for it.
pub(crate) fn put(device: &dyn Device, log: &mut LogWriter, number: u64, bytes: usize, sync: bool) {
    let ticket = log.push(&section(number, bytes), 1, sync, number as i64);
    settle(device, log, 1_000);
    assert!(matches!(ticket.result(), Some(Ok(()))), "push {number}");
}

pub(crate) fn ended_well(ticket: &LogTicket) -> bool {
    matches!(ticket.result(), Some(Ok(())))
}

/// Numbers of the sections of the only stream of a life, from a frame on.
pub(crate) fn numbers(
    device: &dyn Device,
    incarnation: u32,
    from: u64,
) -> Result<(Vec<u64>, StreamEnd), LogError> {
    let mut found = Vec::new();
    let mut end = StreamEnd::default();
    for stream in list_streams(device)? {
        if stream.incarnation != incarnation {
            continue;
        }
        end = replay(device, &stream, SALT, from, &mut |_, bytes| {
            let section = read_section(bytes)?;
            let [Entry::CreateDatabase { seed, settings, .. }] = &section.entries[..] else {
                panic!("another section came back: {section:?}");
            };
            assert!(settings.iter().all(|b| *b == *seed as u8));
            assert_eq!(section.lsn, Lsn(*seed));
            found.push(*seed);
            Ok(())
        })?;
    }
    Ok((found, end))
}
