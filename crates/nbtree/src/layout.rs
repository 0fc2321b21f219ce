//! Fixed structures on disk. Little-endian, unaligned, no padding. The directory of leaves and the
//! columns of inner pages are of no fixed size; they are in `leaf.rs` and `inner.rs`.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A page reference in the body of an overflow page, and the first part of a reference to a text.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PagePointer {
    pub volume: U32,
    pub generation: U32,
    pub page: U32,
    pub crc: U32,
}

const _: () = assert!(size_of::<PagePointer>() == 16);

/// What stands in a leaf for a long text, before it is written as hexadecimal digits.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TextReference {
    pub head: PagePointer,
    /// Bytes of the text.
    pub len: U32,
    /// CRC-32C of the text.
    pub crc: U32,
    /// Oldest volume that holds a part of it.
    pub oldest_volume: U32,
}

const _: () = assert!(size_of::<TextReference>() == 28);
