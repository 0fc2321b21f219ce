//! Tags of the sections of a file of definitions: database and partition, and whether it is names or days.

use alluvium_types::{DatabaseId, PARTITION_COUNT, Partition};

/// In the tag of a partition's days, beside its definitions.
pub(crate) const LIVE_TAG: u64 = 0x10;

/// Tag of a partition's days in a file of definitions.
pub(crate) fn live_tag(database: DatabaseId, partition: Partition) -> u64 {
    part_tag(database, partition) | LIVE_TAG
}

/// Tag of a partition's part in a file of definitions.
pub(crate) fn part_tag(database: DatabaseId, partition: Partition) -> u64 {
    u64::from(database.0) << 8 | u64::from(partition.0)
}

/// The database and partition of a tag.
pub(crate) fn split_tag(tag: u64) -> (DatabaseId, Partition) {
    // A partition past the last one is masked: the part itself is checked.
    (DatabaseId((tag >> 8) as u32), Partition(tag as u8 & 15))
}

const _: () = assert!(PARTITION_COUNT <= 16, "part tags mask partitions by 15");
