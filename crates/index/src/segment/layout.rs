//! The two ends of a segment. See `docs/format/index.md`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every segment, and of its trailer.
pub(crate) const MAGIC: [u8; 4] = *b"AlSg";

/// The format this program writes and the only one it reads.
pub(crate) const VERSION: u16 = 1;

/// What every segment ends with; little-endian.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Trailer {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U16,
    /// Zero.
    pub(crate) reserved: U16,
    /// The first row.
    pub(crate) base: U32,
    /// Number of rows.
    pub(crate) rows: U32,
    /// Where the directory begins.
    pub(crate) directory_at: U64,
    /// Its bytes, without its checksum.
    pub(crate) directory_bytes: U64,
    /// Zero.
    pub(crate) reserved_too: U32,
    /// CRC-32C of everything before it in the trailer.
    pub(crate) crc: U32,
}

/// Bytes of the trailer.
pub(crate) const TRAILER_BYTES: usize = 40;

/// Bytes of the checksum behind every block.
pub(crate) const CRC_BYTES: usize = 4;

/// Bytes of a hash page, its count and its checksum included.
pub(crate) const HASH_PAGE_BYTES: usize = 4096;

/// Bytes of an entry of a hash page: the row, then 96 bits of hash.
pub(crate) const SLOT_BYTES: usize = 16;

/// Entries of a full hash page: count and checksum take the room of one.
pub(crate) const PAGE_SLOTS: usize = (HASH_PAGE_BYTES - 8) / SLOT_BYTES;

/// Rows of a tuple block.
pub(crate) const BLOCK_ROWS: u32 = 1024;

/// Values of a value block.
pub(crate) const BLOCK_VALUES: u32 = 512;

/// Rows of a value up to which they stand in the value's block.
pub(crate) const INLINE_ROWS: usize = 64;

/// Form of a value block: each value has one row, and there is no column of counts.
pub(crate) const ALL_SINGLE: u8 = 1;

/// Form of a value block: lengths are of four bytes instead of one.
pub(crate) const WIDE_LENGTHS: u8 = 2;

const _: () = assert!(size_of::<Trailer>() == TRAILER_BYTES);
