//! Any segment file is replayed, torn or damaged: nothing panics, frames come in order, from the one asked for, and
//! copying and salvaging see the same frames.
//!
//! The first byte says where replay begins and the second, in its low bits, which block of the first of two segments is
//! written over; by its highest bits the checksums of what stands there are put right, and it takes its place in the chain.
#![no_main]

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use alluvium_codec::crc32c;
use alluvium_fuzz::{overwrite, read_file};
use alluvium_io::{Lane, MemoryDevice};
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::{
    LogConfig, LogError, LogWriter, SectionBuilder, copy_frames, list_streams, read_section,
    replay, salvage_frames,
};
use libfuzzer_sys::fuzz_target;

const SALT: u64 = 7;
const PATH: &str = "wal/00000001-0000.00000001";
const BLOCK: usize = 4096;
const HEADER_BYTES: usize = 72;
/// Inputs of one device, which remembers every file that was ever opened.
const USES_MAX: u32 = 10_000;

struct Stream {
    device: Arc<MemoryDevice>,
    first: Vec<u8>,
    /// What the input before this one wrote over.
    changed: Range<usize>,
    used: u32,
}

thread_local! {
    /// The first segment is mended for every input; the device stays.
    static STREAM: RefCell<Stream> = RefCell::new(build());
}

fn build() -> Stream {
    let device = Arc::new(MemoryDevice::new(1));
    let config = LogConfig {
        segment_bytes: 4 * BLOCK as u64,
        ..LogConfig::default()
    };
    let mut log = LogWriter::new(device.clone(), Lane(0), SALT, 1, 0, config);
    for number in 1..=6 {
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(1), Partition(0), Lsn(number));
        section.mark(number);
        let ticket = log.push(section.finish(), 0, true, 0);
        while ticket.result().is_none() {
            log.drive();
        }
    }
    let first = read_file(&device, PATH);
    Stream {
        device,
        first,
        changed: 0..0,
        used: 0,
    }
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// Makes a whole frame of what begins at `at`: `how` says how much of it is put right.
fn seal(segment: &mut [u8], at: usize, how: u8) {
    let room = segment.len() - at - HEADER_BYTES;
    let previous = at.checked_sub(BLOCK);
    let previous: [u8; 4] = previous.map_or([0; 4], |p| segment[p + 4..p + 8].try_into().unwrap());
    let frame = &mut segment[at..];
    put(frame, 0, b"ALVF");
    if how & 1 == 0 {
        // A length that the segment has room for.
        let len = u16::from_le_bytes([frame[8], frame[9]]);
        put(frame, 8, &(u32::from(len) % room as u32).to_le_bytes());
        put(frame, 16, &SALT.to_le_bytes());
        put(frame, 24, &[1, 0, 0, 0, 0, 0, u8::from(at == 0), 0]);
        put(frame, 32, &1_u32.to_le_bytes());
        put(frame, 36, &previous);
        put(frame, 40, &((at / BLOCK) as u64 + 1).to_le_bytes());
    }
    let len = u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize;
    if let Some(payload) = frame[HEADER_BYTES..].get(..len) {
        let crc = crc32c(payload).to_le_bytes();
        put(frame, 12, &crc);
    }
    let crc = crc32c(&frame[8..HEADER_BYTES]).to_le_bytes();
    put(frame, 4, &crc);
}

fn look(device: &MemoryDevice, from: u64) {
    for stream in list_streams(device).expect("memory does not fail") {
        let mut last = None;
        let mut sections = 0;
        let replayed = replay(device, &stream, SALT, from, &mut |seq, bytes| {
            assert!(seq >= from && last.is_none_or(|l| seq == l || seq == l + 1));
            (last, sections) = (Some(seq), sections + 1);
            let _ = read_section(bytes);
            Ok(())
        });
        let mut frames = 0;
        let copied: Result<(), LogError> =
            copy_frames(device, &stream, SALT, from, &mut |_, _, frame| {
                assert!(frame.len() % BLOCK == 0);
                frames += 1;
                Ok(())
            });
        if replayed.is_ok() {
            copied.expect("what can be replayed can be copied");
        }
        let saved = salvage_frames(device, &stream, &mut |_, bytes| {
            let _ = read_section(bytes);
            Ok(())
        });
        // Nothing that is replayed is missing from what is salvaged, unless foreign frames decide the salt.
        if let (Ok(saved), Ok(end)) = (saved, replayed) {
            assert!(saved.frames <= 16, "{saved:?} against {end:?}");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    alluvium_fuzz::compares::link();
    let [from, block, data @ ..] = data else {
        return;
    };
    STREAM.with_borrow_mut(|stream| {
        if stream.used == USES_MAX {
            *stream = build();
        }
        stream.used += 1;
        let mut segment = stream.first.clone();
        let at = usize::from(block % 4) * BLOCK;
        let len = data.len().min(segment.len() - at);
        segment[at..at + len].copy_from_slice(&data[..len]);
        if block & 0x80 != 0 {
            seal(&mut segment, at, block >> 6 & 1);
        }
        // A frame's header is put right though the input has less.
        let end = (at + len.max(HEADER_BYTES)).next_multiple_of(BLOCK);
        let before = std::mem::replace(&mut stream.changed, at..end);
        for changed in [before, at..end] {
            let bytes = &segment[changed.clone()];
            overwrite(&stream.device, PATH, changed.start as u64, bytes);
        }
        look(&stream.device, u64::from(from % 8));
    });
});
