//! Whatever stands in the two slots and in the manifest, the root is loaded or refused, and a whole root survives
//! any damage of the other slot.
//!
//! The first byte says which slot is written over and whether its checksum is put right, the second where in
//! the slot; the rest are the bytes.
#![no_main]

use std::cell::RefCell;
use std::task::Poll;

use alluvium_block::{Manifest, Root, RootCommit, load_root, manifest_path};
use alluvium_codec::crc32c;
use alluvium_fuzz::{overwrite, read_file};
use alluvium_io::{Device, Lane, MemoryDevice};
use alluvium_types::PAGE_SIZE;
use libfuzzer_sys::fuzz_target;

/// Where the second slot begins.
const SLOT_STRIDE: u64 = 1 << 20;
const LANE: Lane = Lane(0);
/// Inputs of one device, which remembers every file that was ever opened.
const USES_MAX: u32 = 10_000;

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

/// A directory with two roots, what their slots hold, and their manifests.
struct Roots {
    device: MemoryDevice,
    slots: [Vec<u8>; 2],
    manifests: [Vec<u8>; 2],
    used: u32,
}

thread_local! {
    /// Mended for every input: the second slot lies a mebibyte behind the first.
    static ROOTS: RefCell<Roots> = RefCell::new(build());
}

fn build() -> Roots {
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
    let superblock = read_file(&device, "superblock");
    let slot = |at: usize| superblock[at..at + PAGE_SIZE].to_vec();
    Roots {
        slots: [slot(0), slot(SLOT_STRIDE as usize)],
        manifests: [1, 2].map(|seq| read_file(&device, &manifest_path(seq))),
        device,
        used: 0,
    }
}

fuzz_target!(|data: &[u8]| {
    let [how, at, bytes @ ..] = data else { return };
    ROOTS.with_borrow_mut(|roots| {
        if roots.used == USES_MAX {
            *roots = build();
        }
        roots.used += 1;
        let device = &roots.device;
        let number = usize::from(how & 1);
        for (i, slot) in roots.slots.iter().enumerate() {
            let mut page = slot.clone();
            if how & 2 == 0 && i == number {
                let at = usize::from(*at) * 4;
                let len = bytes.len().min(PAGE_SIZE - at);
                page[at..at + len].copy_from_slice(&bytes[..len]);
                if how & 4 > 0 {
                    let crc = crc32c(&page[..PAGE_SIZE - 4]);
                    page[PAGE_SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
                }
            }
            overwrite(device, "superblock", i as u64 * SLOT_STRIDE, &page);
        }
        for (i, manifest) in roots.manifests.iter().enumerate() {
            let damaged = how & 2 != 0 && i == number && !bytes.is_empty();
            let mut file = manifest.clone();
            if damaged {
                let len = bytes.len().min(file.len());
                file[..len].copy_from_slice(&bytes[..len]);
            }
            overwrite(device, &manifest_path(1 + i as u64), 0, &file);
        }
        let found = load_root(device);
        // Without a forged checksum the other slot, or this one if nothing was changed, still holds.
        if how & 4 == 0 {
            let (found, manifest) = found
                .expect("one root is whole")
                .expect("the directory is not new");
            assert!(found.seq == 1 || found.seq == 2);
            assert_eq!((found, manifest), root(found.seq));
        }
    });
});
