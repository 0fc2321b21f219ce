//! The header of a definition part. See `docs/format/definitions.md`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every part.
pub(crate) const MAGIC: [u8; 4] = *b"AlDf";

/// The format this program writes and the only one it reads.
pub(crate) const VERSION: u16 = 1;

/// The kind of a part that continues another.
pub(crate) const CONTINUES: u16 = 0;

/// The kind of a part that needs no other.
pub(crate) const BEGINS_ANEW: u16 = 1;

/// What every part begins with; little-endian.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PartHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U16,
    /// 0: continues the part before. 1: begins anew, with the names that sealed rows use in front.
    pub(crate) kind: U16,
    /// CRC-32C of everything after this word, body included.
    pub(crate) crc: U32,
    /// Rows of the index before this part.
    pub(crate) rows_before: U32,
    /// Fields of all measurements before this part.
    pub(crate) fields_before: U32,
    /// Rows in this part.
    pub(crate) rows: U32,
    /// Fields in this part.
    pub(crate) fields: U32,
    /// Distinct field lists in this part.
    pub(crate) lists: U32,
    /// Runs of rows that got a field list.
    pub(crate) runs: U32,
    /// Rows whose tag sets are in segments: those before the head that the values here are numbered in.
    pub(crate) sealed_rows: U32,
    /// Series before this part.
    pub(crate) series_before: U64,
    /// Series after this part.
    pub(crate) series_after: U64,
    /// Bytes after this header.
    pub(crate) body_bytes: U64,
}

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 64;

/// The header's bytes before and including the checksum.
pub(crate) const CRC_END: usize = 12;

const _: () = assert!(size_of::<PartHeader>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(PartHeader, crc) + 4 == CRC_END);
