//! Whatever stands in a mending file, and in the file beside it: nothing panics, and what is said to be made again is what was
//! there, unless a checksum was forged.
//!
//! The first byte says how many pages there are, the second what is written over and whether the head's checksum is put right, the
//! third where; the rest are the bytes.
#![no_main]

use std::sync::OnceLock;

use alluvium_block::{PARITY_STRIPE_BYTES, ParityWriter, StripeParity};
use alluvium_codec::crc32c;
use alluvium_types::PAGE_SIZE;
use libfuzzer_sys::fuzz_target;

const FILE: u64 = 7;

/// Two of some groups.
const PAGES_MAX: usize = 40;

/// A stripe of so many pages and what mends it, made once.
fn whole(pages: usize) -> &'static (Vec<u8>, Vec<u8>) {
    static MADE: [OnceLock<(Vec<u8>, Vec<u8>)>; PAGES_MAX + 1] =
        [const { OnceLock::new() }; PAGES_MAX + 1];
    MADE[pages].get_or_init(|| {
        let len = pages * PAGE_SIZE;
        assert!(len <= PARITY_STRIPE_BYTES);
        let whole: Vec<u8> = (0..len).map(|i| ((i * i) >> 9) as u8).collect();
        let (mut writer, mut parity) = (ParityWriter::new(FILE), Vec::new());
        writer.push(&whole, &mut parity);
        writer.finish(&mut parity);
        (whole, parity)
    })
}

fuzz_target!(|data: &[u8]| {
    let [pages, how, at, bytes @ ..] = data else {
        return;
    };
    // Two of some groups, or fewer pages than groups.
    let (whole, parity) = whole(usize::from(*pages) % PAGES_MAX + 1);
    let mut parity = parity.clone();
    let mut stripe = whole.clone();
    // All over the head, or over the first pages.
    let to = if how & 1 == 0 {
        &mut parity
    } else {
        &mut stripe
    };
    let place = usize::from(*at) * if how & 2 == 0 { 16 } else { PAGE_SIZE } % to.len();
    for (to, from) in to[place..].iter_mut().zip(bytes) {
        *to = *from;
    }
    if how & 4 > 0 {
        // A page of a group beside, and another of the same.
        stripe[..PAGE_SIZE].fill(0);
    }
    let forged = how & 8 > 0;
    if forged {
        let crc = crc32c(&parity[..PAGE_SIZE - 4]);
        parity[PAGE_SIZE - 4..PAGE_SIZE].copy_from_slice(&crc.to_le_bytes());
    }
    if how & 16 > 0 {
        parity.truncate(place);
    }
    let (file, number) = (FILE + u64::from(how >> 7), u64::from(how >> 6 & 1));
    let Some(known) = StripeParity::read(&parity, file, number) else {
        return;
    };
    let found = stripe.clone();
    let damage = known.mend(&mut stripe);
    if forged {
        return;
    }
    assert_eq!((file, number, known.stripe_bytes()), (FILE, 0, whole.len()));
    let pages = stripe.chunks(PAGE_SIZE).zip(whole.chunks(PAGE_SIZE));
    for (i, ((now, was), found)) in pages.zip(found.chunks(PAGE_SIZE)).enumerate() {
        if damage.lost.contains(&i) {
            assert_eq!(now, found, "what is lost is left as it was found");
        } else {
            assert_eq!(now, was);
        }
        assert_eq!(damage.mended.contains(&i), now == was && found != was);
    }
});
