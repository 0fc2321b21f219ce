//! The header of a log frame.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"ALVF");

/// The first frame of its segment.
pub(crate) const FLAG_FIRST: u16 = 1;

/// A frame: this header, then its sections, padded to 4 KiB.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct FrameHeader {
    pub magic: U32,
    /// CRC-32C of the header behind this field.
    pub header_crc: U32,
    pub payload_len: U32,
    pub payload_crc: U32,
    /// Low half of the instance.
    pub salt: U64,
    pub incarnation: U32,
    pub shard: U16,
    pub flags: U16,
    pub segment: U32,
    /// Header checksum of the frame before, 0 for the first of a stream.
    pub previous_crc: U32,
    pub seq: U64,
    /// Highest frame known to be flushed when this one was built.
    pub durable_seq: U64,
    pub points: U32,
    pub sections: U32,
    pub wall_ns: I64,
}

pub(crate) const HEADER_BYTES: usize = size_of::<FrameHeader>();

const _: () = assert!(HEADER_BYTES == 72);

/// Where the header's checksum begins.
const CRC_FROM: usize = 8;

impl FrameHeader {
    pub(crate) fn checksum(&self) -> u32 {
        alluvium_codec::crc32c(&self.as_bytes()[CRC_FROM..])
    }
}
