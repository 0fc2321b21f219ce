//! Any 4 KiB are a page or damaged: nothing panics, what passes has a body inside the page, and that body is
//! described or refused.
//!
//! The first byte says whether the checksum is put right; the rest is the page, zeros behind it.
#![no_main]

use alluvium_block::{Page, PageKind};
use alluvium_codec::crc32c;
use alluvium_io::PageBuf;
use alluvium_nbtree::{describe_inner, describe_leaf};
use alluvium_types::{PAGE_HEADER_BYTES, PAGE_SIZE, SeriesId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [seal, data @ ..] = data else { return };
    let mut buffer = PageBuf::zeroed();
    let bytes = buffer.bytes_mut();
    let len = data.len().min(PAGE_SIZE);
    bytes[..len].copy_from_slice(&data[..len]);
    if seal % 4 > 0 {
        let crc = crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }
    let right = crc32c(&bytes[4..]).to_le_bytes() == bytes[..4];
    let Ok(page) = Page::from_buffer(buffer) else {
        return;
    };
    assert!(right, "a page with a wrong checksum was taken");
    assert!(page.body().len() <= PAGE_SIZE - PAGE_HEADER_BYTES);
    assert_eq!(page.page_ref().addr, page.addr());
    let meta = page.meta();
    match meta.kind {
        PageKind::Leaf => {
            if let Some(series) = SeriesId::from_packed(meta.series) {
                let _ = describe_leaf(series.kind(), page.body(), meta.items);
            }
        }
        PageKind::Inner => {
            let _ = describe_inner(page.body(), meta.items);
        }
        _ => {}
    }
});
