//! The identity of a tag set.

use alluvium_types::{PARTITION_COUNT, Partition, SeriesKey};

/// Bits at the high end of a hash that choose the partition.
const PARTITION_BITS: u32 = PARTITION_COUNT.trailing_zeros();

const _: () = assert!(PARTITION_COUNT.is_power_of_two());

/// xxh3-128 of a tag set under the seed of its database.
///
/// The four high bits choose the partition, the low 96 bits name the tag set within it. With the seed kept
/// secret, 10^8 tag sets in one partition collide with a chance of about 6e-14, so two equal hashes are taken
/// to be one tag set and the strings are not compared on the way of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u128);

impl KeyHash {
    /// Hashes [`SeriesKey::write_hash_input`]; `scratch` only saves the allocation.
    pub fn of(seed: u64, key: &SeriesKey, scratch: &mut Vec<u8>) -> Self {
        key.write_hash_input(scratch);
        Self::of_input(seed, scratch)
    }

    /// Hashes bytes already in the form of [`SeriesKey::write_hash_input`], for callers that build them
    /// without a [`SeriesKey`].
    pub fn of_input(seed: u64, input: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128_with_seed(input, seed))
    }

    /// The hash with these bits, as [`KeyHash::bits`] gave them.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// All 128 bits.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// Where the tag set lives.
    pub fn partition(self) -> Partition {
        Partition((self.0 >> (u128::BITS - PARTITION_BITS)) as u8)
    }
}

/// Appends one part of the bytes that [`SeriesKey::write_hash_input`] writes: measurement, then key and value of
/// each tag.
pub(crate) fn push_hash_part(part: &str, out: &mut Vec<u8>) {
    push_hash_bytes(part.as_bytes(), out);
}

/// As [`push_hash_part`] of the bytes of a string.
#[inline]
pub(crate) fn push_hash_bytes(part: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(part.len() as u32).to_le_bytes());
    out.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_high_bits_and_all_used() {
        let mut scratch = Vec::new();
        let mut seen = [0_u32; PARTITION_COUNT];
        for i in 0..1000 {
            let key = SeriesKey::new("cpu", [("host", i.to_string())]).unwrap();
            let hash = KeyHash::of(7, &key, &mut scratch);
            assert_eq!(u128::from(hash.partition().0), hash.bits() >> 124);
            assert_ne!(hash, KeyHash::of(8, &key, &mut scratch), "seed counts");
            seen[usize::from(hash.partition().0)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 20), "{seen:?}");
    }

    #[test]
    fn parts_make_the_same_input() {
        let key = SeriesKey::new("cpu", [("host", "é"), ("dc", "")]).unwrap();
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        key.write_hash_input(&mut whole);
        push_hash_part(key.measurement(), &mut parts);
        for (key, value) in key.tags() {
            push_hash_part(key, &mut parts);
            push_hash_part(value, &mut parts);
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn hash_is_the_specified_one() {
        // The hash is on disk through row order and partition: it must never change.
        let key = SeriesKey::new("cpu", [("host", "a")]).unwrap();
        assert_eq!(
            KeyHash::of(1, &key, &mut Vec::new()).bits(),
            xxhash_rust::xxh3::xxh3_128_with_seed(b"\x03\0\0\0cpu\x04\0\0\0host\x01\0\0\0a", 1)
        );
    }
}
