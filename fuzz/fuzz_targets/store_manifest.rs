//! A directory whose manifest says anything at all opens or is refused: nothing panics.
//!
//! The first byte says which section of a whole manifest is written over, the second from where; the rest are the
//! bytes. The superblock names what comes out, with the right checksum. This is the way to the decoders of the
//! catalogue and the ledger, which are private to the store.
#![no_main]

use std::task::Poll;

use alluvium_block::{Manifest, Root, RootCommit, load_root};
use alluvium_fuzz::store;
use alluvium_io::{Device, Lane};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    alluvium_fuzz::compares::link();
    let [which, at, bytes @ ..] = data else {
        return;
    };
    let device = store::directory().copy(2);
    let (root, manifest) = load_root(&*device)
        .expect("it is whole")
        .expect("it is not new");
    let sections = manifest.iter().count().max(1);
    let mut forged = Manifest::new();
    for (i, (tag, section)) in manifest.iter().enumerate() {
        let mut section = section.to_vec();
        if i == usize::from(*which) % sections {
            let at = usize::from(*at).min(section.len());
            if which & 0x80 == 0 {
                section.truncate(at);
                section.extend_from_slice(bytes);
            } else {
                section
                    .iter_mut()
                    .skip(at)
                    .zip(bytes)
                    .for_each(|(s, b)| *s ^= b);
            }
        }
        forged.set(tag, section);
    }
    let root = Root {
        seq: root.seq + 1,
        clean: which & 0x40 == 0,
        ..root
    };
    let mut commit = RootCommit::start(&*device, Lane(0), root, &forged);
    while let Poll::Pending = commit.poll(&*device) {
        device.drive(Lane(0));
    }
    if let Some(store) = store::open(&device) {
        store::read_all(&store);
        let _ = store
            .create_database("another")
            .map(|(_, created)| created.wait());
        let _ = store.close();
    }
});
