//! Whatever stands in the two slots and in the manifest, the root is loaded or refused, and a whole root survives
//! any damage of the other slot.
//!
//! The first byte says which slot is written over and whether its checksum is put right, the second where in
//! the slot; the rest are the bytes.
#![no_main]

use std::sync::Arc;
use std::task::Poll;

use alluvium_block::{Manifest, Root, RootCommit, load_root, manifest_path};
use alluvium_codec::crc32c;
use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, Lane, MemoryDevice, Op, OpenMode, Read, WriteData,
};
use alluvium_types::PAGE_SIZE;
use libfuzzer_sys::fuzz_target;

/// Where the second slot begins.
const SLOT_STRIDE: u64 = 1 << 20;
const LANE: Lane = Lane(0);

fn run(device: &MemoryDevice, op: Op) -> Completion {
    device
        .submit(LANE, op)
        .wait(device, LANE)
        .expect("memory does not fail")
}

fn open(device: &MemoryDevice, path: String) -> FileId {
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    match run(device, Op::Open { path, mode }) {
        Completion::Opened { file, .. } => file,
        Completion::Done => unreachable!("an opening opens"),
    }
}

fn write(device: &MemoryDevice, file: FileId, offset: u64, buffer: AlignedBuf) {
    let data = WriteData::Buffer(Arc::new(buffer));
    let sync = false;
    run(
        device,
        Op::Write {
            file,
            offset,
            data,
            sync,
        },
    );
}

fn root(seq: u64) -> (Root, Manifest) {
    let mut manifest = Manifest::new();
    manifest.set(16, vec![seq as u8; 40]);
    let root = Root {
        instance: [7; 16],
        seq,
        incarnation: 3,
        clean: seq % 2 == 0,
        wall_ns: 5,
    };
    (root, manifest)
}

fuzz_target!(|data: &[u8]| {
    let [how, at, bytes @ ..] = data else { return };
    let device = MemoryDevice::new(1);
    for seq in [1, 2] {
        let (root, manifest) = root(seq);
        let mut commit = RootCommit::start(&device, LANE, root, &manifest);
        loop {
            match commit.poll(&device) {
                Poll::Ready(result) => break result.expect("memory does not fail"),
                Poll::Pending => {
                    device.drive(LANE);
                }
            }
        }
    }
    let slot = u64::from(how & 1);
    if how & 2 == 0 {
        let file = open(&device, "superblock".into());
        let mut reads = [Read {
            file,
            offset: slot * SLOT_STRIDE,
            into: AlignedBuf::zeroed(PAGE_SIZE),
        }];
        device.read(&mut reads).expect("memory does not fail");
        let [read] = reads;
        let mut buffer = read.into;
        let page = buffer.bytes_mut();
        let at = usize::from(*at) * 4;
        let len = bytes.len().min(PAGE_SIZE - at);
        page[at..at + len].copy_from_slice(&bytes[..len]);
        if how & 4 > 0 {
            let crc = crc32c(&page[..PAGE_SIZE - 4]);
            page[PAGE_SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        write(&device, file, slot * SLOT_STRIDE, buffer);
    } else if !bytes.is_empty() {
        let file = open(&device, manifest_path(1 + slot));
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        write(&device, file, 0, buffer);
    }
    let found = load_root(&device);
    // Without a forged checksum the other slot, or this one if nothing was changed, still holds.
    if how & 4 == 0 {
        let (found, manifest) = found
            .expect("one root is whole")
            .expect("the directory is not new");
        assert!(found.seq == 1 || found.seq == 2);
        assert_eq!((found, manifest), root(found.seq));
    }
});
