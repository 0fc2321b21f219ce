//! Which hashes are surely not in a segment: a binary fuse filter of 8-bit fingerprints.
//!
//! About 9 bits a key, and one key in 256 that is not there passes. Three places of the table that the key names
//! give its fingerprint when taken together; the table is built by peeling keys that are alone in a place, as in
//! Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters" (2022).

/// Seeds tried. One fails in a thousand at most, so running out means that keys repeat.
const TRIES: u64 = 64;

/// Most places a table may have: what a segment's rows can need.
const PLACES_MAX: u32 = u32::MAX / 2;

/// The filter of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    seed: u64,
    segment_length: u32,
    /// Segments a key's first place may be in.
    segments: u32,
    fingerprints: Box<[u8]>,
}

/// Bytes before the fingerprints in the encoded form.
const HEAD_BYTES: usize = 16;

impl Filter {
    /// The filter of distinct keys; `None` if they are not.
    pub(crate) fn build(keys: &[u64]) -> Option<Self> {
        let (segment_length, segments) = shape(keys.len())?;
        (1..=TRIES).find_map(|seed| {
            let seed = mix(seed);
            let mut filter = Self {
                seed,
                segment_length,
                segments,
                fingerprints: vec![0; places(segment_length, segments) as usize].into(),
            };
            filter.fill(keys).then_some(filter)
        })
    }

    /// Whether the key may be there: always for one that is.
    #[inline]
    pub(crate) fn may_contain(&self, key: u64) -> bool {
        let hash = mix(key ^ self.seed);
        let at = self.places_of(hash);
        let found = at.map(|i| self.fingerprints.get(i as usize).copied().unwrap_or(0));
        fingerprint(hash) == found[0] ^ found[1] ^ found[2]
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.fingerprints.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.segment_length.to_le_bytes());
        out.extend_from_slice(&self.segments.to_le_bytes());
        out.extend_from_slice(&self.fingerprints);
    }

    /// `None` unless the bytes are exactly a filter.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, fingerprints) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let seed = u64::from_le_bytes(head.first_chunk::<8>().copied()?);
        let (segment_length, segments) = (word(8)?, word(12)?);
        let fits = segment_length.is_power_of_two()
            && segments > 0
            && u64::from(segment_length) * (u64::from(segments) + 2) == fingerprints.len() as u64
            && fingerprints.len() as u64 <= u64::from(PLACES_MAX);
        fits.then(|| Self {
            seed,
            segment_length,
            segments,
            fingerprints: fingerprints.into(),
        })
    }

    #[inline]
    fn places_of(&self, hash: u64) -> [u32; 3] {
        let first = u64::from(self.segments) * u64::from(self.segment_length);
        let first = ((u128::from(hash) * u128::from(first)) >> 64) as u32;
        let mask = self.segment_length - 1;
        let second = (first + self.segment_length) ^ ((hash >> 18) as u32 & mask);
        let third = (first + 2 * self.segment_length) ^ (hash as u32 & mask);
        [first, second, third]
    }

    /// Peels the keys and fills the table in reverse; `false` if this seed leaves a knot.
    fn fill(&mut self, keys: &[u64]) -> bool {
        // Of each place: the keys there, and their hashes taken together.
        let mut counts = vec![0_u8; self.fingerprints.len()];
        let mut sums = vec![0_u64; self.fingerprints.len()];
        // In the order of their first places, which is that of the hashes: what is near in time is near in memory, too.
        let mut hashes: Vec<u64> = keys.iter().map(|key| mix(key ^ self.seed)).collect();
        hashes.sort_unstable();
        for hash in hashes {
            for at in self.places_of(hash) {
                let count = &mut counts[at as usize];
                let Some(more) = count.checked_add(1) else {
                    return false;
                };
                *count = more;
                sums[at as usize] ^= hash;
            }
        }
        let mut alone: Vec<u32> = (0..counts.len() as u32)
            .filter(|&at| counts[at as usize] == 1)
            .collect();
        let mut order: Vec<(u64, u32)> = Vec::with_capacity(keys.len());
        while let Some(at) = alone.pop() {
            if counts[at as usize] != 1 {
                continue;
            }
            let hash = sums[at as usize];
            order.push((hash, at));
            for place in self.places_of(hash) {
                counts[place as usize] -= 1;
                sums[place as usize] ^= hash;
                if counts[place as usize] == 1 {
                    alone.push(place);
                }
            }
        }
        if order.len() != keys.len() {
            return false;
        }
        for &(hash, at) in order.iter().rev() {
            // Its own place is still zero.
            let others = self.places_of(hash);
            let others = others.map(|place| self.fingerprints[place as usize]);
            self.fingerprints[at as usize] = fingerprint(hash) ^ others[0] ^ others[1] ^ others[2];
        }
        true
    }
}

/// Length of a segment and number of segments, as in the paper.
fn shape(keys: usize) -> Option<(u32, u32)> {
    let n = (keys.max(2)) as f64;
    let exponent = (n.ln() / 3.33_f64.ln() + 2.25).floor() as u32;
    let length = 1_u32 << exponent.min(18);
    let factor = (0.875 + 0.25 * 1e6_f64.ln() / n.ln()).max(1.125);
    let capacity = (n * factor).round() as u64;
    let segments = capacity
        .div_ceil(u64::from(length))
        .saturating_sub(2)
        .max(1);
    let segments = u32::try_from(segments).ok()?;
    (u64::from(length) * (u64::from(segments) + 2) <= u64::from(PLACES_MAX))
        .then_some((length, segments))
}

fn places(segment_length: u32, segments: u32) -> u32 {
    segment_length * (segments + 2)
}

fn fingerprint(hash: u64) -> u8 {
    (hash ^ hash >> 32) as u8
}

/// The finaliser of MurmurHash3.
#[inline]
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i + 1_000_000)).collect()
    }

    #[test]
    fn every_key_passes_and_few_others_do() {
        for n in [0, 1, 2, 10, 1000, 100_000] {
            let filter = Filter::build(&keys(n)).unwrap();
            assert!(keys(n).iter().all(|&k| filter.may_contain(k)), "{n} keys");
            let strangers = (0..100_000_u64).filter(|&i| filter.may_contain(mix(i << 40)));
            assert!(strangers.count() < 1000, "{n} keys");
        }
        let bits = Filter::build(&keys(100_000)).unwrap().heap_bytes() * 8;
        assert!(bits < 1_000_000, "{bits} bits for 100,000 keys");
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert_eq!(Filter::build(&[5, 6, 5]), None);
    }

    #[test]
    fn bytes_come_back_and_others_are_refused() {
        let filter = Filter::build(&keys(100)).unwrap();
        let mut bytes = Vec::new();
        filter.encode(&mut bytes);
        assert_eq!(Filter::decode(&bytes), Some(filter));
        for cut in 0..bytes.len() {
            assert_eq!(Filter::decode(&bytes[..cut]), None);
        }
        bytes[8] ^= 1;
        assert_eq!(Filter::decode(&bytes), None, "not a power of two");
    }
}
