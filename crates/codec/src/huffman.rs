//! Unsigned numbers as magnitude classes in a canonical Huffman code, each followed by the bits below its class.
//!
//! A class is a number's leading `sub + 1` bits and how many follow them: numbers below `2^(sub+1)` are classes
//! of their own, so that with `sub` 7 the code is one of up to 256 symbols. No code is longer than 11 bits. How
//! numbers follow each other is in `streams.rs`.
//!
//! Layout of a code: 3 bits `sub`, 8 bits the highest class, then the length of each class from 0 on: `0` as the
//! class before, `10` one longer, `110` one shorter, `1110` no such class, `1111` and four bits. Classes that are
//! missing are passed over for "before", which begins at 4. A code of no lengths is of its highest class alone.

use crate::bits::{BitWriter, load, low};
use crate::entropy;
use crate::error::CodecError;
use crate::simd::multiversion;

/// Classes of a code at most.
pub(crate) const CLASSES: usize = 256;

/// Bits of the longest code.
pub(crate) const LENGTH_MAX: u32 = 11;

/// Patterns of as many bits.
pub(crate) const TABLE: usize = 1 << LENGTH_MAX;

/// The `sub` of a code of symbols.
pub(crate) const SYMBOLS: u32 = 7;

/// Lengths of codes, none among them, in a power of two.
const LENGTHS: usize = 16;

/// Length of the class before the first.
const LENGTH_FIRST: u8 = 4;

/// By the next four bits of the lengths of a code: the bits of a field, what it adds to the length before unless
/// it is explicit, and whether the class has a code.
const LENGTH_FIELDS: [(u8, u8, bool); 16] = {
    let mut fields = [(1, 0, true); 16];
    let mut low = 0;
    while low < fields.len() {
        fields[low] = match low.trailing_ones() {
            0 => (1, 0, true),
            1 => (2, 1, true),
            2 => (3, u8::MAX, true),
            3 => (4, 0, false),
            _ => (8, 0, true),
        };
        low += 1;
    }
    fields
};

/// Lengths that are surely within a load of 57 bits.
const LENGTHS_A_LOAD: usize = 7;

/// The class of a number and how many bits follow its code.
#[inline(always)]
pub(crate) fn class_of(z: u64, sub: u32) -> (usize, u32) {
    let log = (z | 1).ilog2();
    let extra = log.saturating_sub(sub);
    (((extra as usize) << sub) + (z >> extra) as usize, extra)
}

/// The leading bits of a class and how many follow them.
pub(crate) fn parts(class: usize, sub: u32) -> (u64, u32) {
    let extra = (class >> sub).saturating_sub(1) as u32;
    ((class - ((extra as usize) << sub)) as u64, extra)
}

/// How often each class occurs.
#[derive(Debug)]
pub(crate) struct Histogram {
    sub: u32,
    counts: [u32; CLASSES],
    /// One past the highest class.
    end: usize,
}

impl Histogram {
    /// `None` if a number has no class.
    fn of(numbers: &[u64], sub: u32) -> Option<Self> {
        let all = numbers.iter().fold(0, |all, z| all | z);
        if class_of(all, sub).0 >= CLASSES {
            return None;
        }
        let mut counts = [0; CLASSES];
        count_classes(numbers, sub, &mut counts);
        Some(Self::from_counts(sub, &counts))
    }

    fn from_counts(sub: u32, counts: &[u32; CLASSES]) -> Self {
        let counts = *counts;
        let end = counts.iter().rposition(|c| *c > 0).map_or(0, |i| i + 1);
        Self { sub, counts, end }
    }

    /// The same numbers in half as many classes.
    fn coarser(&self) -> Self {
        let sub = self.sub - 1;
        let mut counts = [0; CLASSES];
        for (class, count) in self.counts[..self.end].iter().enumerate() {
            // What had a class of its own and still has, else the leading bits without the last.
            let coarser = match class >> self.sub {
                0 => class,
                octave => (octave << sub) + ((class & ((1 << self.sub) - 1)) >> 1) + (1 << sub),
            };
            counts[coarser % CLASSES] += count;
        }
        Self::from_counts(sub, &counts)
    }

    /// About the bits that the numbers and the code take.
    fn bits(&self) -> f32 {
        let counts = &self.counts[..self.end];
        let mut sorts = entropy::Sorts::default();
        let (mut extras, mut used, mut most) = (0, 0, 0);
        for (class, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            sorts.add(*count);
            extras += count * parts(class, self.sub).1;
            used += 1;
            most = most.max(*count);
        }
        let mut bits = sorts.bits() + extras as f32;
        // No code is shorter than a bit: only one class can have less.
        let total: u32 = counts.iter().sum();
        if most * 2 > total {
            let most = most as f32;
            bits += most * (1.0 - (total as f32 / most).log2());
        }
        bits + 11.0 + (used * 2 + self.end) as f32
    }

    /// The cheapest of the histograms from `finest` to `coarsest`.
    pub(crate) fn best(numbers: &[u64]) -> Option<(Self, f32)> {
        let mut best = match Self::of(numbers, 3) {
            Some(histogram) => histogram,
            None => Self::of(numbers, 2)?,
        };
        let mut best_bits = best.bits();
        let mut next = best.coarser();
        loop {
            let bits = next.bits();
            let sub = next.sub;
            let following = (sub > 1).then(|| next.coarser());
            if bits < best_bits {
                (best, best_bits) = (next, bits);
            }
            match following {
                Some(following) => next = following,
                None => return Some((best, best_bits)),
            }
        }
    }

    /// The histogram of symbols below 256.
    pub(crate) fn symbols(numbers: &[u64]) -> Option<(Self, f32)> {
        let histogram = Self::of(numbers, SYMBOLS)?;
        let bits = histogram.bits();
        Some((histogram, bits))
    }
}

multiversion! {
    fn count_classes(numbers: &[u64], sub: u32, sums: &mut [u32; CLASSES]) {
        // Four counters of each class: neighbours that agree do not wait for each other.
        let mut counts = [[0_u16; CLASSES]; 4];
        let (fours, rest) = numbers.as_chunks::<4>();
        for four in fours {
            for (lane, z) in counts.iter_mut().zip(four) {
                lane[class_of(*z, sub).0 % CLASSES] += 1;
            }
        }
        for z in rest {
            counts[0][class_of(*z, sub).0 % CLASSES] += 1;
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = counts.iter().map(|lane| u32::from(lane[i])).sum();
        }
    }
}

/// Code lengths by class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) sub: u32,
    /// Bits of each class's code; 0 if it has none. All 0: the highest class stands alone, in no bits.
    pub(crate) lengths: [u8; CLASSES],
    /// One past the highest class.
    pub(crate) end: usize,
}

impl Code {
    /// A code that is best for the histogram, or nearly where its codes would be too long.
    pub(crate) fn of(histogram: &Histogram) -> Self {
        let mut code = Self {
            sub: histogram.sub,
            lengths: [0; CLASSES],
            end: histogram.end,
        };
        let mut leaves: Vec<(u32, u8)> = Vec::with_capacity(histogram.end);
        for (class, count) in histogram.counts[..histogram.end].iter().enumerate() {
            if *count > 0 {
                leaves.push((*count, class as u8));
            }
        }
        if leaves.len() < 2 {
            return code;
        }
        leaves.sort_unstable();
        let mut depths = depths(&leaves);
        limit(&mut depths);
        for ((_, class), depth) in leaves.iter().zip(&depths) {
            code.lengths[usize::from(*class)] = *depth;
        }
        code
    }

    fn alone(&self) -> Option<usize> {
        self.lengths[..self.end]
            .iter()
            .all(|l| *l == 0)
            .then(|| self.end.saturating_sub(1))
    }

    /// Bits that the numbers of a histogram take; `None` if one has no code.
    pub(crate) fn bits(&self, histogram: &Histogram) -> Option<u64> {
        if histogram.end > self.end || histogram.sub != self.sub {
            return None;
        }
        let alone = self.alone();
        let mut bits = 0;
        for (class, count) in histogram.counts[..histogram.end].iter().enumerate() {
            if *count > 0 {
                let length = self.lengths[class];
                if length == 0 && alone != Some(class) {
                    return None;
                }
                let extra = parts(class, self.sub).1;
                bits += u64::from(*count) * u64::from(u32::from(length) + extra);
            }
        }
        Some(bits)
    }

    /// The histogram of numbers as this code would see them.
    pub(crate) fn histogram(&self, numbers: &[u64]) -> Option<Histogram> {
        Histogram::of(numbers, self.sub)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let mut writer = BitWriter::new(out);
        writer.put(u64::from(self.sub), 3);
        writer.put(self.end.saturating_sub(1) as u64, 8);
        let mut before = LENGTH_FIRST;
        for length in self.lengths[..self.end].iter().copied() {
            if length == 0 {
                writer.put(0b0111, 4);
                continue;
            }
            if length == before {
                writer.put(0, 1);
            } else if length == before + 1 {
                writer.put(0b01, 2);
            } else if length + 1 == before {
                writer.put(0b011, 3);
            } else {
                writer.put(0b1111 | u64::from(length) << 4, 8);
            }
            before = length;
        }
        writer.finish();
    }

    pub(crate) fn get(bytes: &mut &[u8]) -> Result<Self, CodecError> {
        let head = load(bytes, 0);
        let sub = low(head, 3) as u32;
        let end = low(head >> 3, 8) as usize + 1;
        let mut at = 11;
        let mut lengths = [0; CLASSES];
        let mut before = LENGTH_FIRST;
        // Sum of 2^-length in units of the longest.
        let mut used = 0;
        let mut refused = None;
        for lengths in lengths[..end].chunks_mut(LENGTHS_A_LOAD) {
            let mut word = load(bytes, at);
            for length in lengths {
                // Without branches: which field comes is hard to foresee.
                let (bits, more, coded) = LENGTH_FIELDS[word as usize % LENGTH_FIELDS.len()];
                let explicit = (word >> 4) as u8 & 15;
                let next = if bits == 8 {
                    explicit
                } else {
                    before.wrapping_add(more)
                };
                if coded && !(1..=LENGTH_MAX as u8).contains(&next) {
                    refused = Some(next);
                }
                *length = if coded { next } else { 0 };
                before = if coded { next } else { before };
                used += if coded {
                    TABLE >> (next % LENGTHS as u8)
                } else {
                    0
                };
                word >>= bits;
                at += usize::from(bits);
            }
        }
        if let Some(length) = refused {
            return Err(CodecError::Invalid {
                field: "length of a code",
                value: u64::from(length),
            });
        }
        // A single class has no bits; else every pattern of bits must be some class.
        if used != 0 && used != TABLE {
            return Err(CodecError::Invalid {
                field: "sum of a code",
                value: used as u64,
            });
        }
        *bytes = bytes.get(at.div_ceil(8)..).ok_or(CodecError::Truncated)?;
        if parts(end - 1, sub).1 > 63 - sub {
            return Err(CodecError::Invalid {
                field: "highest class",
                value: end as u64 - 1,
            });
        }
        Ok(Self { sub, lengths, end })
    }

    /// The classes that have a code by ascending length and class, as canonical codes ascend.
    pub(crate) fn ascending(&self, classes: &mut [u8; CLASSES]) -> usize {
        let lengths = &self.lengths[..self.end];
        let mut ends = [0_usize; LENGTHS];
        for length in lengths {
            ends[usize::from(*length) % LENGTHS] += 1;
        }
        ends[0] = 0;
        let mut coded = 0;
        for end in &mut ends {
            coded += std::mem::replace(end, coded);
        }
        for (class, length) in lengths.iter().enumerate() {
            if *length > 0 {
                let place = &mut ends[usize::from(*length) % LENGTHS];
                classes[*place % CLASSES] = class as u8;
                *place += 1;
            }
        }
        coded
    }

    /// Each class's code, its bits in the order of the stream.
    pub(crate) fn codes(&self) -> [u16; CLASSES] {
        let (mut classes, mut codes) = ([0; CLASSES], [0; CLASSES]);
        let coded = self.ascending(&mut classes);
        let mut code = 0;
        for class in &classes[..coded] {
            codes[usize::from(*class)] = code as u16;
            code = next_code(code, u32::from(self.lengths[usize::from(*class)]));
        }
        codes
    }
}

/// The canonical code behind one of so many bits, the bits of both in the order of the stream: a one is added at
/// the high end and carried down.
pub(crate) fn next_code(code: usize, length: u32) -> usize {
    let zeros = !code & ((1 << length) - 1);
    // The last code is all ones.
    let highest = 1_usize << zeros.checked_ilog2().unwrap_or(0);
    code & (highest - 1) | highest
}

/// Depths of the leaves of a Huffman tree over counts in ascending order (two queues, van Leeuwen 1976).
fn depths(leaves: &[(u32, u8)]) -> Vec<u8> {
    let n = leaves.len();
    // Nodes: leaves, then joints in the order they are made, which is that of their counts.
    let mut counts: Vec<u32> = leaves.iter().map(|(count, _)| *count).collect();
    let mut parents = vec![0; 2 * n - 1];
    let (mut leaf, mut joint) = (0, n);
    for node in n..2 * n - 1 {
        let mut count = 0;
        for _ in 0..2 {
            let from_leaves = leaf < n && (joint >= node || counts[leaf] <= counts[joint]);
            let least = if from_leaves { &mut leaf } else { &mut joint };
            count += counts[*least];
            parents[*least] = node;
            *least += 1;
        }
        counts.push(count);
    }
    let mut depths = vec![0_u8; 2 * n - 1];
    for node in (0..2 * n - 2).rev() {
        depths[node] = depths[parents[node]].saturating_add(1);
    }
    depths.truncate(n);
    depths
}

/// Makes depths of at most [`LENGTH_MAX`] of depths in descending order: cuts the long ones, then lengthens the
/// rarest of the others until all codes fit.
fn limit(depths: &mut [u8]) {
    let longest = LENGTH_MAX as u8;
    if depths[0] <= longest {
        return;
    }
    let room = |depth: u8| 1_usize << (longest - depth);
    depths.iter_mut().for_each(|d| *d = (*d).min(longest));
    let mut used: usize = depths.iter().map(|d| room(*d)).sum();
    while used > TABLE {
        let Some(depth) = depths.iter_mut().find(|d| **d < longest) else {
            return;
        };
        used -= room(*depth) / 2;
        *depth += 1;
    }
    // What is left over shortens the most frequent that can use it.
    for depth in depths.iter_mut().rev() {
        while used + room(*depth) <= TABLE {
            used += room(*depth);
            *depth -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_dense_and_in_order() {
        for sub in 0..=SYMBOLS {
            let mut last = 0;
            for z in 0..100_000 {
                let (class, extra) = class_of(z, sub);
                assert!(class == last || class == last + 1);
                last = class;
                let (lead, bits) = parts(class, sub);
                assert_eq!((bits, lead), (extra, z >> extra));
            }
        }
    }

    #[test]
    fn coarser_classes_are_those_of_fewer_bits() {
        let numbers: Vec<u64> = (0..1000_u64)
            .map(|i| (i * i * i % 70_000) >> (i % 17))
            .collect();
        let mut fine = Histogram::of(&numbers, 3).expect("every number has a class");
        for sub in (0..3).rev() {
            fine = fine.coarser();
            let of = Histogram::of(&numbers, sub).expect("every number has a class");
            assert_eq!(
                (fine.sub, fine.end, fine.counts),
                (of.sub, of.end, of.counts)
            );
        }
    }
}
