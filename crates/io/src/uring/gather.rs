//! Buffers that the kernel has mapped once, into which pages are copied to be written in one piece.
#![expect(unsafe_code, reason = "registers memory with the kernel")]

use std::io::IoSlice;
use std::sync::Arc;

use alluvium_types::PAGE_SIZE;
use io_uring::IoUring;

use crate::buffer::{AlignedBuf, PageBuf};

/// Buffers per lane; 1 MiB of locked memory with the next.
const BUFFERS: usize = 4;
/// Bytes of a buffer.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// The buffers of one ring.
#[derive(Debug)]
pub(super) struct Gather {
    buffers: Vec<AlignedBuf>,
    free: Vec<u16>,
    pub(super) registered: bool,
}

impl Gather {
    /// Also a note for people if the buffers could not be registered; they serve unregistered then.
    pub(super) fn new(ring: &IoUring) -> (Self, String) {
        let buffers: Vec<_> = (0..BUFFERS)
            .map(|_| AlignedBuf::zeroed(BUFFER_BYTES))
            .collect();
        let vectors: Vec<IoSlice<'_>> = buffers.iter().map(|b| IoSlice::new(b.bytes())).collect();
        // SAFETY: `IoSlice` has the layout of `iovec` (its documentation promises it), the list is valid for
        // the call, and the buffers live until after the ring: `LaneRing` declares the ring first.
        let registered = unsafe {
            let vectors = std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len());
            ring.submitter().register_buffers(vectors)
        };
        let note = match &registered {
            Ok(()) => " into registered buffers".to_owned(),
            Err(e) => format!(" into buffers that could not be registered: {e}"),
        };
        let free = (0..BUFFERS as u16).collect();
        (
            Self {
                buffers,
                free,
                registered: registered.is_ok(),
            },
            note,
        )
    }

    /// Copies pages into a free buffer, if there is one.
    pub(super) fn fill(&mut self, pages: &[Arc<PageBuf>]) -> Option<u16> {
        let index = self.free.pop()?;
        let into = self.buffers[index as usize].bytes_mut();
        for (page, into) in pages.iter().zip(into.chunks_exact_mut(PAGE_SIZE)) {
            into.copy_from_slice(page.bytes());
        }
        Some(index)
    }

    pub(super) fn bytes(&self, index: u16) -> &[u8] {
        self.buffers[index as usize].bytes()
    }

    pub(super) fn give_back(&mut self, index: u16) {
        self.free.push(index);
    }
}
