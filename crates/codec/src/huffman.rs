//! Unsigned numbers as magnitude classes in a canonical Huffman code, each followed by the bits below its class.
//!
//! A class is a number's leading `sub + 1` bits and how many follow them: numbers below `2^(sub+1)` are classes
//! of their own, so that with `sub` 7 the code is one of up to 256 symbols. No code is longer than 11 bits.
//! Numbers stand in four streams of equal count, or in one if they are few, so that a decoder can work on four
//! at a time.
//!
//! Layout of a code: 3 bits `sub`, 8 bits the highest class, then the length of each class from 0 on: `0` as the
//! class before, `10` one longer, `110` one shorter, `1110` no such class, `1111` and four bits. Classes that are
//! missing are passed over for "before", which begins at 4. A code of no lengths is of its highest class alone.
//! Layout of the numbers, which take all bytes there are: one stream; or zigzag varint of the first half's bytes
//! less half of all, then in each half one stream from its front and one from its end, whose bytes run backwards.

use crate::bits::{BitWriter, load, load_back, low};
use crate::error::CodecError;
use crate::simd::multiversion;
use crate::varint::{get_i64, put_i64};

/// Classes of a code at most.
const CLASSES: usize = 256;

/// Bits of the longest code.
const LENGTH_MAX: u32 = 11;

const TABLE: usize = 1 << LENGTH_MAX;

/// Numbers from which there are four streams.
const FOUR_MIN: usize = 64;

/// The `sub` of a code of symbols.
pub(crate) const SYMBOLS: u32 = 7;

/// Length of the class before the first.
const LENGTH_FIRST: u8 = 4;

/// The class of a number and how many bits follow its code.
#[inline(always)]
fn class_of(z: u64, sub: u32) -> (usize, u32) {
    let log = (z | 1).ilog2();
    let extra = log.saturating_sub(sub);
    (((extra as usize) << sub) + (z >> extra) as usize, extra)
}

/// The leading bits of a class and how many follow them.
fn parts(class: usize, sub: u32) -> (u64, u32) {
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
        // Four counters of each class: neighbours that agree do not wait for each other.
        let mut counts = [[0_u32; CLASSES]; 4];
        let mut fours = numbers.chunks_exact(4);
        for four in &mut fours {
            for (lane, z) in counts.iter_mut().zip(four) {
                lane[class_of(*z, sub).0 % CLASSES] += 1;
            }
        }
        for z in fours.remainder() {
            counts[0][class_of(*z, sub).0 % CLASSES] += 1;
        }
        let [mut sums, second, third, fourth] = counts;
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += second[i] + third[i] + fourth[i];
        }
        Some(Self::from_counts(sub, &sums))
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
            let (lead, extra) = parts(class, self.sub);
            counts[class_of(lead << extra, sub).0] += count;
        }
        Self::from_counts(sub, &counts)
    }

    /// About the bits that the numbers and the code take.
    fn bits(&self) -> f32 {
        let total: u32 = self.counts[..self.end].iter().sum();
        let whole = (total as f32).log2();
        let (mut bits, mut used) = (0.0, 0);
        for (class, count) in self.counts[..self.end].iter().enumerate() {
            if *count > 0 {
                let c = *count as f32;
                // No code is shorter than a bit.
                let length = (whole - c.log2()).max(1.0);
                bits += c * (parts(class, self.sub).1 as f32 + length);
                used += 1;
            }
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

/// Code lengths by class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    sub: u32,
    /// Bits of each class's code; 0 if it has none. All 0: the highest class stands alone, in no bits.
    lengths: [u8; CLASSES],
    /// One past the highest class.
    end: usize,
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
        let field = |at: usize, count: u32| low(load(bytes, at), count);
        let sub = field(0, 3) as u32;
        let end = field(3, 8) as usize + 1;
        let mut at = 11;
        let mut lengths = [0; CLASSES];
        let mut before = LENGTH_FIRST;
        // Sum of 2^-length in units of the longest.
        let mut used = 0;
        for length in &mut lengths[..end] {
            let ones = field(at, 4).trailing_ones();
            let (next, bits) = match ones {
                0 => (before, 1),
                1 => (before + 1, 2),
                2 => (before - 1, 3),
                3 => (0, 4),
                _ => (field(at + 4, 4) as u8, 8),
            };
            at += bits;
            if next == 0 && ones == 3 {
                continue;
            }
            if next == 0 || u32::from(next) > LENGTH_MAX {
                return Err(CodecError::Invalid {
                    field: "length of a code",
                    value: u64::from(next),
                });
            }
            used += 1 << (LENGTH_MAX - u32::from(next));
            *length = next;
            before = next;
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

    /// Each class's code, its bits in the order of the stream.
    fn codes(&self) -> [u16; CLASSES] {
        let mut next = self.first_codes();
        let mut codes = [0; CLASSES];
        for (code, length) in codes.iter_mut().zip(&self.lengths[..self.end]) {
            if *length > 0 {
                let slot = &mut next[usize::from(*length)];
                *code = (*slot << (16 - u32::from(*length))).reverse_bits();
                *slot += 1;
            }
        }
        codes
    }

    /// The first code of each length.
    fn first_codes(&self) -> [u16; LENGTH_MAX as usize + 1] {
        let mut counts = [0_u16; LENGTH_MAX as usize + 1];
        for length in &self.lengths[..self.end] {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        let mut first = [0_u16; LENGTH_MAX as usize + 1];
        for length in 1..first.len() {
            first[length] = (first[length - 1] + counts[length - 1]) << 1;
        }
        first
    }

    /// Appends the numbers, all of which have a code.
    pub(crate) fn put_numbers(&self, numbers: &[u64], out: &mut Vec<u8>) {
        let codes = self.codes();
        let stream = |part: &[u64], bytes: &mut Vec<u8>| {
            let mut writer = BitWriter::new(bytes);
            for z in part {
                let (class, extra) = class_of(*z, self.sub);
                let length = u32::from(self.lengths[class]);
                // The leading bits are in the class.
                let below = z & !(u64::MAX << extra);
                if length + extra <= 64 {
                    writer.put(u64::from(codes[class]) | below << length, length + extra);
                } else {
                    writer.put(u64::from(codes[class]), length);
                    writer.put(below, extra);
                }
            }
            writer.finish();
        };
        if numbers.len() < FOUR_MIN {
            stream(numbers, out);
            return;
        }
        let mut streams = Vec::with_capacity(numbers.len() * 2);
        let mut first_half = 0;
        for (i, part) in numbers.chunks(numbers.len().div_ceil(4)).enumerate() {
            let begin = streams.len();
            stream(part, &mut streams);
            if i % 2 == 1 {
                streams[begin..].reverse();
            }
            if i == 1 {
                first_half = streams.len();
            }
        }
        put_i64(out, first_half as i64 - streams.len() as i64 / 2);
        out.extend_from_slice(&streams);
    }

    /// Entries by the next bits of a stream: as many as the longest code has.
    fn table(&self, table: &mut [u32; TABLE]) -> u32 {
        if let Some(class) = self.alone() {
            table[0] = entry(class, self.sub, 0);
            return 0;
        }
        let codes = self.codes();
        let longest = self.lengths[..self.end].iter().copied().max().unwrap_or(0);
        let mut by_length = [const { Vec::new() }; LENGTH_MAX as usize + 1];
        for (class, length) in self.lengths[..self.end].iter().enumerate() {
            by_length[usize::from(*length)].push(class as u8);
        }
        // With each bit more the table doubles; what has no code yet is filled by a longer one.
        for (length, classes) in by_length.iter().enumerate().skip(1) {
            if length > usize::from(longest) {
                break;
            }
            let half = 1 << (length - 1);
            table.copy_within(..half, half);
            for class in classes {
                let class = usize::from(*class);
                table[usize::from(codes[class]) % TABLE] = entry(class, self.sub, length as u32);
            }
        }
        u32::from(longest)
    }

    /// Bits of the longest number.
    fn longest(&self) -> u32 {
        let bits = |(class, length): (usize, &u8)| match length {
            0 => 0,
            _ => u32::from(*length) + parts(class, self.sub).1,
        };
        let coded = self.lengths[..self.end].iter().enumerate().map(bits).max();
        coded.unwrap_or(0).max(match self.alone() {
            Some(class) => parts(class, self.sub).1,
            None => 0,
        })
    }

    /// Reads `out.len()` numbers that take all of `bytes`.
    pub(crate) fn get_numbers(&self, mut bytes: &[u8], out: &mut [u64]) -> Result<(), CodecError> {
        let mut first_half = bytes.len();
        if out.len() >= FOUR_MIN {
            let more = get_i64(&mut bytes)?;
            let half = more.checked_add(bytes.len() as i64 / 2);
            first_half = half
                .and_then(|half| usize::try_from(half).ok())
                .filter(|half| *half <= bytes.len())
                .ok_or(CodecError::Truncated)?;
        }
        let mut table = [0; TABLE];
        let bits = self.table(&mut table);
        let streams = Streams {
            halves: bytes.split_at(first_half),
            table: &table,
            mask: (1 << bits) - 1,
        };
        let taken = match self.longest() {
            0..=14 => decode_by_four(&streams, out),
            15..=28 => decode_by_two(&streams, out),
            29..=57 => decode_by_one(&streams, out),
            _ => streams.decode::<0>(out),
        };
        // Each half has exactly the bytes that its streams took.
        let whole = |a: usize, b: usize| a.div_ceil(8) + b.div_ceil(8);
        let [a, b, c, d] = taken;
        if whole(a, b) != first_half || whole(c, d) != bytes.len() - first_half {
            return Err(CodecError::Truncated);
        }
        Ok(())
    }
}

multiversion! {
    /// Codes of at most 14 bits.
    fn decode_by_four(streams: &Streams<'_>, out: &mut [u64]) -> [usize; 4] {
        streams.decode::<4>(out)
    }
}

multiversion! {
    /// Codes of at most 28 bits.
    fn decode_by_two(streams: &Streams<'_>, out: &mut [u64]) -> [usize; 4] {
        streams.decode::<2>(out)
    }
}

multiversion! {
    /// Codes of at most 57 bits.
    fn decode_by_one(streams: &Streams<'_>, out: &mut [u64]) -> [usize; 4] {
        streams.decode::<1>(out)
    }
}

/// Code length in 4 bits, extra bits in 6, leading bits above.
fn entry(class: usize, sub: u32, length: u32) -> u32 {
    let (lead, extra) = parts(class, sub);
    length | extra << 4 | (lead as u32) << 10
}

/// Streams to decode.
struct Streams<'a> {
    halves: (&'a [u8], &'a [u8]),
    table: &'a [u32; TABLE],
    mask: usize,
}

impl Streams<'_> {
    /// Takes a number off a word.
    #[inline(always)]
    fn one(&self, word: &mut u64, at: &mut usize) -> u64 {
        let entry = self.table[*word as usize & self.mask & (TABLE - 1)];
        let (length, extra, lead) = (entry & 15, entry >> 4 & 63, u64::from(entry >> 10));
        let below = low(*word >> length, extra);
        *word = *word >> length >> extra;
        *at += (length + extra) as usize;
        (lead << extra) + below
    }

    /// Takes `K` numbers off a stream, one load for all; 0 stands for one of any length.
    #[inline(always)]
    fn some<const K: usize, const BACK: bool>(
        &self,
        bytes: &[u8],
        at: &mut usize,
        out: &mut [u64],
    ) {
        let mut word = load_either::<BACK>(bytes, *at);
        if K == 0 {
            let entry = self.table[word as usize & self.mask & (TABLE - 1)];
            let (length, extra, lead) = (entry & 15, entry >> 4 & 63, u64::from(entry >> 10));
            let begin = *at + length as usize;
            let half = extra / 2;
            let first = low(load_either::<BACK>(bytes, begin), half);
            let rest = low(
                load_either::<BACK>(bytes, begin + half as usize),
                extra - half,
            );
            *at = begin + extra as usize;
            out[0] = (lead << extra) + (first | rest << half);
            return;
        }
        for slot in out {
            *slot = self.one(&mut word, at);
        }
    }

    /// Returns the bits taken from each stream.
    #[inline(always)]
    fn decode<const K: usize>(&self, out: &mut [u64]) -> [usize; 4] {
        let (first, second) = self.halves;
        let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
        if out.len() < FOUR_MIN {
            for slot in out.chunks_mut(1) {
                // A single number of the longest kind has a load of its own.
                if K == 0 {
                    self.some::<0, false>(first, &mut a, slot);
                } else {
                    self.some::<1, false>(first, &mut a, slot);
                }
            }
            return [a, 0, 0, 0];
        }
        let quarter = out.len().div_ceil(4);
        let (out_a, rest) = out.split_at_mut(quarter);
        let (out_b, rest) = rest.split_at_mut(quarter);
        let (out_c, out_d) = rest.split_at_mut(quarter);
        // The last stream may be up to three numbers shorter.
        let step = K.max(1);
        let together = out_d.len() / step * step;
        let mut i = 0;
        while i < together {
            self.some::<K, false>(first, &mut a, &mut out_a[i..i + step]);
            self.some::<K, true>(first, &mut b, &mut out_b[i..i + step]);
            self.some::<K, false>(second, &mut c, &mut out_c[i..i + step]);
            self.some::<K, true>(second, &mut d, &mut out_d[i..i + step]);
            i += step;
        }
        for i in together..quarter {
            let one = i..i + 1;
            self.some_one::<K, false>(first, &mut a, &mut out_a[one.clone()]);
            self.some_one::<K, true>(first, &mut b, &mut out_b[one.clone()]);
            self.some_one::<K, false>(second, &mut c, &mut out_c[one.clone()]);
            if let Some(slot) = out_d.get_mut(one) {
                self.some_one::<K, true>(second, &mut d, slot);
            }
        }
        [a, b, c, d]
    }

    #[inline(always)]
    fn some_one<const K: usize, const BACK: bool>(
        &self,
        bytes: &[u8],
        at: &mut usize,
        out: &mut [u64],
    ) {
        if K == 0 {
            self.some::<0, BACK>(bytes, at, out);
        } else {
            self.some::<1, BACK>(bytes, at, out);
        }
    }
}

/// At least 57 bits from bit `at` on, of bytes in order or backwards.
#[inline(always)]
fn load_either<const BACK: bool>(bytes: &[u8], at: usize) -> u64 {
    if BACK {
        load_back(bytes, at)
    } else {
        load(bytes, at)
    }
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
    use proptest::prelude::*;

    use super::*;

    fn check(numbers: &[u64], symbols: bool) -> usize {
        let found = if symbols {
            Histogram::symbols(numbers)
        } else {
            Histogram::best(numbers)
        };
        let (histogram, _) = found.expect("every number has a class");
        let code = Code::of(&histogram);
        let mut bytes = Vec::new();
        code.put(&mut bytes);
        let header = bytes.len();
        code.put_numbers(numbers, &mut bytes);
        let bits = code.bits(&histogram).expect("a code for each class");
        assert!((bytes.len() - header) as u64 * 8 <= bits + 4 * 8 + 8 * 8);
        let mut rest = bytes.as_slice();
        let read = Code::get(&mut rest).expect("a code");
        assert!(read == code);
        let mut back = vec![0; numbers.len()];
        read.get_numbers(rest, &mut back).expect("numbers");
        assert_eq!(back, numbers);
        bytes.len()
    }

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
    fn skewed_numbers_take_about_their_entropy() {
        // Geometric with ratio one half: two bits each.
        let numbers: Vec<u64> = (1..=1024_u64)
            .map(|i| u64::from(i.trailing_zeros()))
            .collect();
        assert!(check(&numbers, false) < 256 + 20);
        check(&[5; 100], false);
        check(&[u64::MAX; 3], false);
        check(&[0, u64::MAX, 1 << 63, 77], false);
        check(&(0..256).collect::<Vec<_>>(), true);
        // Fibonacci counts make the deepest tree.
        let (mut numbers, mut pair) = (Vec::new(), (1, 1));
        for class in 0..16 {
            numbers.extend(std::iter::repeat_n(class, pair.0));
            pair = (pair.1, pair.0 + pair.1);
        }
        check(&numbers, true);
    }

    proptest! {
        #[test]
        fn numbers_come_back(
            mut numbers in prop::collection::vec((any::<u64>(), 0_u32..64), 1..300),
        ) {
            let numbers: Vec<u64> = numbers.drain(..).map(|(z, shift)| z >> shift).collect();
            check(&numbers, false);
            let symbols: Vec<u64> = numbers.iter().map(|z| z % 256).collect();
            check(&symbols, true);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), n in 1_usize..300) {
            let mut rest = bytes.as_slice();
            if let Ok(code) = Code::get(&mut rest) {
                let _ = code.get_numbers(rest, &mut vec![0; n]);
            }
        }
    }
}
