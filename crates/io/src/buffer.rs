//! Memory that a device may read and write: aligned, and owned by the engine while in flight.

use alluvium_types::PAGE_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Alignment of every buffer, enough for any device (logical blocks are 512 or 4096 bytes).
pub const BUFFER_ALIGN: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; PAGE_SIZE]);

/// One page, aligned, zeroed at birth.
#[derive(Clone)]
pub struct PageBuf(Box<[Block; 1]>);

impl PageBuf {
    /// A page of zeros.
    pub fn zeroed() -> Self {
        Self(Box::new([Block([0; PAGE_SIZE])]))
    }

    /// The page that a buffer of one block is, without a copy; `None` if it is longer or shorter.
    pub fn from_buffer(buffer: AlignedBuf) -> Option<Self> {
        Box::<[Block; 1]>::try_from(buffer.0.into_boxed_slice())
            .ok()
            .map(Self)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        &self.0[0].0
    }

    /// The bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        &mut self.0[0].0
    }
}

impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageBuf")
    }
}

/// A buffer of whole 4 KiB blocks, aligned, zeroed at birth.
#[derive(Clone)]
pub struct AlignedBuf(Vec<Block>);

impl AlignedBuf {
    /// A zeroed buffer of at least `len` bytes, rounded up to whole blocks.
    pub fn zeroed(len: usize) -> Self {
        Self(vec![Block([0; PAGE_SIZE]); len.div_ceil(PAGE_SIZE)])
    }

    /// Makes it at least `len` bytes long, rounded up to whole blocks: further blocks are zeroed, those behind are let go of.
    /// Its memory stays.
    pub fn resize(&mut self, len: usize) {
        self.0
            .resize(len.div_ceil(PAGE_SIZE), Block([0; PAGE_SIZE]));
    }

    /// Bytes that it has memory for.
    pub fn capacity(&self) -> usize {
        self.0.capacity() * PAGE_SIZE
    }

    /// Length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.0.len() * PAGE_SIZE
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    /// The bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len())
    }
}
