//! Numbers in a Huffman code, in four streams of equal count, or in one if they are few, so that a reader can work
//! on four at a time.
//!
//! Layout of the numbers, which take all bytes there are: one stream; or zigzag varint of the first half's bytes
//! less half of all, then in each half one stream from its front and one from its end, whose bytes run backwards.

use std::cell::RefCell;

use crate::bits::low;
use crate::block::MAX_BLOCK_POINTS;
use crate::error::CodecError;
use crate::huffman::{CLASSES, Code, LENGTH_MAX, TABLE, class_of, next_code, parts};
use crate::simd::multiversion;
use crate::varint::{get_i64, put_i64};

/// Numbers from which there are four streams.
const FOUR_MIN: usize = 64;

/// Bytes that the numbers of a column take at most: what they would take as they are.
const BYTES_MAX: usize = 8 * MAX_BLOCK_POINTS;

/// Bytes of two copies of the streams: a power of two, so that a place is cut to it by a mask.
const COPIES: usize = 2 * BYTES_MAX;

/// Codes whose tables are kept: blocks of a page have up to three columns, which mostly share the codes of those
/// before them.
const TABLES: usize = 4;

/// Bytes that a number takes at most: the longest code and 63 bits.
const NUMBER_BYTES_MAX: usize = 10;

/// Appends the numbers, all of which have a code.
pub(crate) fn put(code: &Code, numbers: &[u64], out: &mut Vec<u8>) {
    let mut codes = code.codes();
    for (code, length) in codes.iter_mut().zip(code.lengths) {
        *code |= u16::from(length) << LENGTH_MAX;
    }
    if numbers.len() < FOUR_MIN {
        let begin = out.len();
        out.resize(begin + numbers.len() * NUMBER_BYTES_MAX + 8, 0);
        let bytes = put_stream(&codes, code.sub, numbers, &mut out[begin..]);
        out.truncate(begin + bytes);
        return;
    }
    let quarter = numbers.len().div_ceil(4);
    let mut streams = vec![0; (numbers.len() + 4) * NUMBER_BYTES_MAX];
    let (mut end, mut first_half) = (0, 0);
    for (i, part) in numbers.chunks(quarter).enumerate() {
        let begin = end;
        end += put_stream(&codes, code.sub, part, &mut streams[begin..]);
        if i % 2 == 1 {
            streams[begin..end].reverse();
        }
        if i == 1 {
            first_half = end;
        }
    }
    put_i64(out, first_half as i64 - end as i64 / 2);
    out.extend_from_slice(&streams[..end]);
}

multiversion! {
    /// Writes one stream, with codes below their lengths by class; returns its bytes. `out` has room for the
    /// longest numbers and eight bytes more.
    fn put_stream(codes: &[u16; CLASSES], sub: u32, numbers: &[u64], out: &mut [u8]) -> usize {
        let (mut held, mut bits, mut at) = (0, 0, 0);
        // At most 56 bits at a time, behind at most 7.
        let mut put = |value: u64, count: u32| {
            held |= value << bits;
            bits += count;
            out[at..at + 8].copy_from_slice(&u64::to_le_bytes(held));
            at += bits as usize / 8;
            held >>= bits / 8 * 8;
            bits %= 8;
            at
        };
        for z in numbers {
            let (class, extra) = class_of(*z, sub);
            let entry = codes[class % CLASSES];
            let (code, length) = (u64::from(entry % TABLE as u16), u32::from(entry >> LENGTH_MAX));
            // The leading bits are in the class.
            let below = low(*z, extra);
            if length + extra <= 56 {
                put(code | below << length, length + extra);
            } else {
                put(code | low(below, 28) << length, length + 28);
                put(below >> 28, extra - 28);
            }
        }
        let whole = put(0, 0);
        whole + usize::from(bits > 0)
    }
}

/// Takes a code off the front of `lent`, or else of `bytes`, lets `between` take what stands before the numbers,
/// and takes `n` numbers off all that is left of `bytes`; hands both to `then`, which may change the numbers.
pub(crate) fn get<B, T>(
    lent: Option<&[u8]>,
    bytes: &mut &[u8],
    n: usize,
    between: impl FnOnce(&mut &[u8]) -> Result<B, CodecError>,
    then: impl FnOnce(B, &mut [u64]) -> T,
) -> Result<T, CodecError> {
    thread_local! {
        // Buffers of 64 KiB, which to clear would take as long as to read a block.
        static READER: RefCell<Reader> = RefCell::default();
    }
    READER.with_borrow_mut(|reader| {
        let table = match lent {
            Some(mut lent) => reader.table_of(&mut lent)?,
            None => reader.table_of(bytes)?,
        };
        let between = between(bytes)?;
        let numbers = reader.numbers(table, std::mem::take(bytes), n)?;
        Ok(then(between, numbers))
    })
}

/// Buffers of reading.
struct Reader {
    tables: Vec<Table>,
    /// The table that is built anew next.
    next: usize,
    copy: Box<[u8; COPIES + 8]>,
    numbers: Vec<u64>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            tables: (0..TABLES).map(|_| Table::EMPTY).collect(),
            next: 0,
            copy: vec![0; COPIES + 8]
                .try_into()
                .expect("as many as asked for"),
            numbers: vec![0; MAX_BLOCK_POINTS],
        }
    }
}

impl Reader {
    /// Takes a code off the front; returns its table's index.
    fn table_of(&mut self, bytes: &mut &[u8]) -> Result<usize, CodecError> {
        let known = |t: &Table| !t.key.is_empty() && bytes.starts_with(&t.key);
        if let Some(known) = self.tables.iter().position(known) {
            *bytes = bytes
                .get(self.tables[known].key.len()..)
                .unwrap_or_default();
            return Ok(known);
        }
        let all = *bytes;
        let code = Code::get(bytes)?;
        let index = self.next;
        self.next = (index + 1) % TABLES;
        let table = &mut self.tables[index];
        table.fill(&code);
        let key = all.get(..all.len() - bytes.len()).unwrap_or_default();
        table.key.clear();
        table.key.extend_from_slice(key);
        Ok(index)
    }

    /// Reads `n` numbers that take all of `bytes`.
    fn numbers(
        &mut self,
        table: usize,
        mut bytes: &[u8],
        n: usize,
    ) -> Result<&mut [u64], CodecError> {
        let out = self.numbers.get_mut(..n).ok_or(CodecError::Truncated)?;
        let mut first_half = bytes.len();
        if n >= FOUR_MIN {
            let more = get_i64(&mut bytes)?;
            let half = more.checked_add(bytes.len() as i64 / 2);
            first_half = half
                .and_then(|half| usize::try_from(half).ok())
                .filter(|half| *half <= bytes.len())
                .ok_or(CodecError::Truncated)?;
        }
        let len = bytes.len();
        if len > BYTES_MAX {
            return Err(CodecError::Invalid {
                field: "bytes of codes",
                value: len as u64,
            });
        }
        // The bytes, and again from the last to the first: every stream runs forwards.
        let (forwards, backwards) = self.copy.split_at_mut(len);
        forwards.copy_from_slice(bytes);
        copy_back(bytes, backwards);
        let begins = [0, 2 * len - first_half, first_half, len].map(|begin| begin * 8);
        let mut at = begins;
        let table = &self.tables[table];
        // As many numbers to a load as surely are in it.
        match table.longest {
            0..=11 => read::<5>(table, &self.copy, &mut at, out),
            12..=14 => read::<4>(table, &self.copy, &mut at, out),
            15..=19 => read::<3>(table, &self.copy, &mut at, out),
            20..=28 => read::<2>(table, &self.copy, &mut at, out),
            29..=57 => read::<1>(table, &self.copy, &mut at, out),
            _ => read::<0>(table, &self.copy, &mut at, out),
        }
        // Each half has exactly the bytes that its streams took.
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| (at[i] - begins[i]).div_ceil(8));
        if a + b != first_half || c + d != len - first_half {
            return Err(CodecError::Truncated);
        }
        Ok(out)
    }
}

/// What the next bits of a stream begin with.
struct Table {
    /// The bytes of the code; none of an empty table.
    key: Vec<u8>,
    /// By those bits: from the low byte on bits of the number, bits of its code, class.
    entries: [u32; TABLE],
    /// The least number of each class.
    leads: [u64; CLASSES],
    /// Of the bits of the longest code.
    mask: usize,
    /// Bits of the longest number.
    longest: u32,
}

impl Table {
    const EMPTY: Self = Self {
        key: Vec::new(),
        entries: [0; TABLE],
        leads: [0; CLASSES],
        mask: 0,
        longest: 0,
    };

    fn fill(&mut self, code: &Code) {
        (self.mask, self.longest) = (0, 0);
        let mut classes = [0; CLASSES];
        let coded = code.ascending(&mut classes);
        if coded == 0 {
            self.set(0, code.end.saturating_sub(1), code.sub, 0);
            return;
        }
        let (mut next, mut bits) = (0, 0);
        for class in &classes[..coded] {
            let class = usize::from(*class);
            let length = u32::from(code.lengths[class]);
            // With each bit more the table doubles; what has no code yet is filled by a longer one.
            while bits < length.min(LENGTH_MAX) {
                self.entries.copy_within(..1 << bits, 1 << bits);
                bits += 1;
            }
            self.set(next, class, code.sub, length);
            next = next_code(next, length);
        }
        self.mask = (1 << bits) - 1;
    }

    fn set(&mut self, pattern: usize, class: usize, sub: u32, length: u32) {
        let (lead, extra) = parts(class, sub);
        let bits = length + extra;
        self.entries[pattern % TABLE] = bits | length << 8 | (class as u32) << 16;
        self.leads[class % CLASSES] = lead << extra;
        self.longest = self.longest.max(bits);
    }
}

multiversion! {
    /// Copies bytes from the last to the first.
    fn copy_back(bytes: &[u8], out: &mut [u8]) {
        let (rest, eights) = bytes.as_rchunks::<8>();
        let (places, out) = out.as_chunks_mut::<8>();
        for (eight, place) in eights.iter().rev().zip(&mut *places) {
            *place = u64::from_be_bytes(*eight).to_le_bytes();
        }
        let last = places.as_flattened_mut().iter_mut().skip(eights.len() * 8).chain(out);
        for (byte, place) in rest.iter().rev().zip(last) {
            *place = *byte;
        }
    }
}

multiversion! {
    /// Reads numbers of four streams, or of one if they are few, from where each of them is `at`.
    ///
    /// `K` numbers stand for one load; 0: one that may take several.
    fn read<const K: usize>(
        table: &Table,
        copy: &[u8; COPIES + 8],
        at: &mut [usize; 4],
        out: &mut [u64],
    ) {
        let streams = Streams { copy, table };
        let [mut a, mut b, mut c, mut d] = *at;
        let quarter = if out.len() < FOUR_MIN { out.len() } else { out.len().div_ceil(4) };
        let (out_a, rest) = out.split_at_mut(quarter);
        let (out_b, rest) = rest.split_at_mut(quarter.min(rest.len()));
        let (out_c, out_d) = rest.split_at_mut(quarter.min(rest.len()));
        let step = K.max(1);
        // The last stream may be up to three numbers shorter.
        let together = out_d.len() / step * step;
        let halves = out_a.chunks_exact_mut(step).zip(out_b.chunks_exact_mut(step));
        let others = out_c.chunks_exact_mut(step).zip(out_d.chunks_exact_mut(step));
        for ((for_a, for_b), (for_c, for_d)) in halves.zip(others) {
            streams.some::<K>(&mut a, for_a);
            streams.some::<K>(&mut b, for_b);
            streams.some::<K>(&mut c, for_c);
            streams.some::<K>(&mut d, for_d);
        }
        for (at, out) in [(&mut a, out_a), (&mut b, out_b), (&mut c, out_c), (&mut d, out_d)] {
            for slot in out.iter_mut().skip(together) {
                let slot = std::slice::from_mut(slot);
                if K == 0 {
                    streams.some::<0>(at, slot);
                } else {
                    streams.some::<1>(at, slot);
                }
            }
        }
        *at = [a, b, c, d];
    }
}

/// Streams to read.
struct Streams<'a> {
    copy: &'a [u8; COPIES + 8],
    table: &'a Table,
}

impl Streams<'_> {
    /// At least 57 bits from bit `at` on. Damage may lead outside: then they are of some other place.
    #[inline(always)]
    fn load(&self, at: usize) -> u64 {
        let begin = at / 8 % COPIES;
        let mut word = [0; 8];
        word.copy_from_slice(&self.copy[begin..begin + 8]);
        u64::from_le_bytes(word) >> (at % 8)
    }

    #[inline(always)]
    fn entry(&self, word: u64) -> u32 {
        self.table.entries[word as usize & self.table.mask & (TABLE - 1)]
    }

    #[inline(always)]
    fn lead(&self, entry: u32) -> u64 {
        self.table.leads[(entry >> 16) as usize % CLASSES]
    }

    /// Takes numbers off a stream.
    #[inline(always)]
    fn some<const K: usize>(&self, at: &mut usize, out: &mut [u64]) {
        let mut word = self.load(*at);
        if K == 0 {
            let entry = self.entry(word);
            let (bits, length) = (entry & 0xff, entry >> 8 & 0xff);
            let begin = *at + length as usize;
            let extra = bits - length;
            let half = extra / 2;
            let first = low(self.load(begin), half);
            let rest = low(self.load(begin + half as usize), extra - half);
            *at += bits as usize;
            out[0] = self.lead(entry) + (first | rest << half);
            return;
        }
        for slot in out {
            let entry = self.entry(word);
            let (bits, length) = (entry & 63, entry >> 8 & 63);
            *slot = self.lead(entry).wrapping_add(low(word, bits) >> length);
            word >>= bits;
            *at += bits as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::huffman::Histogram;

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
        put(&code, numbers, &mut bytes);
        let bits = code.bits(&histogram).expect("a code for each class");
        assert!((bytes.len() - header) as u64 * 8 <= bits + 4 * 8 + 8 * 8);
        assert_eq!(Code::get(&mut bytes.as_slice()), Ok(code));
        // The second time the code is known already.
        for _ in 0..2 {
            let mut rest = bytes.as_slice();
            let back = get(
                None,
                &mut rest,
                numbers.len(),
                |_| Ok(()),
                |(), back| back.to_vec(),
            );
            assert_eq!(back.as_deref(), Ok(numbers));
        }
        bytes.len()
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
        for class in 0..14 {
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
            let _ = get(None, &mut bytes.as_slice(), n, |_| Ok(()), |(), _| ());
        }
    }
}
