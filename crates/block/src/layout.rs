//! Fixed structures on disk. Little-endian, unaligned, no padding that is not named.

use alluvium_types::{PAGE_HEADER_BYTES, PAGE_SIZE};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the page format; a page of another version is refused.
pub(crate) const PAGE_VERSION: u8 = 3;

/// The first bytes of every page of a volume.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct PageHeader {
    pub crc: U32,
    pub kind: u8,
    pub version: u8,
    pub used: U16,
    pub volume: U32,
    pub page: U32,
    pub generation: U32,
    pub incarnation: U32,
    pub series: U64,
    pub database: U32,
    pub run_ordinal: U32,
    pub leaf_ordinal: U32,
    pub lsn: U64,
    pub items: U16,
    pub level: u8,
    pub flags: u8,
}

const _: () = assert!(size_of::<PageHeader>() == PAGE_HEADER_BYTES);

pub(crate) const VOLUME_MAGIC: [u8; 8] = *b"ALVVOL01";

/// Page 0 of a volume behind its page header: written once per life of the volume.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct VolumeHeader {
    pub magic: [u8; 8],
    pub instance: [u8; 16],
    pub volume: U32,
    pub generation: U32,
    pub database: U32,
    pub role: u8,
    pub reserved: [u8; 3],
    pub pages: U32,
    pub page_bytes: U32,
}

const _: () = assert!(size_of::<VolumeHeader>() == 48);

pub(crate) const SUPERBLOCK_MAGIC: [u8; 8] = *b"ALVSUPER";
/// Version of the directory as a whole.
pub(crate) const FORMAT: u32 = 3;
/// Distance of the two slots in the superblock file.
pub(crate) const SLOT_STRIDE: u64 = 1 << 20;

/// One slot of the superblock.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct SuperblockSlot {
    pub magic: [u8; 8],
    pub format: U32,
    pub clean: u8,
    pub reserved: [u8; 3],
    pub features: U64,
    pub instance: [u8; 16],
    pub seq: U64,
    pub manifest_seq: U64,
    pub manifest_len: U64,
    pub manifest_crc: U32,
    pub incarnation: U32,
    pub wall_ns: I64,
    pub partitions: U32,
    pub zero: [u8; PAGE_SIZE - 88],
    pub crc: U32,
}

const _: () = assert!(size_of::<SuperblockSlot>() == PAGE_SIZE);

pub(crate) const PARITY_MAGIC: [u8; 8] = *b"ALVMEND1";
/// Pages of a file that one head of its parity speaks of.
pub(crate) const STRIPE_PAGES: usize = 256;
/// Groups of a stripe: page `i` is of group `i % STRIPE_GROUPS`.
pub(crate) const STRIPE_GROUPS: usize = 16;

/// In front of the parity of one stripe of a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct StripeHead {
    pub magic: [u8; 8],
    pub version: U32,
    pub pages: U32,
    pub file: U64,
    pub stripe: U64,
    pub page_crcs: [U32; STRIPE_PAGES],
    pub parity_crcs: [U32; STRIPE_GROUPS],
    pub zero: [u8; PAGE_SIZE - 1124],
    pub crc: U32,
}

const _: () = assert!(size_of::<StripeHead>() == PAGE_SIZE);
