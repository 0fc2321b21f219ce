//! Sets of rows in the portable Roaring format, used where they stand instead of being copied into a bitmap.
//!
//! The format is that of <https://github.com/RoaringBitmap/RoaringFormatSpec>. Readers get bytes whose checksum held; what
//! makes no sense is still refused before any of it is used.

use std::io::Read as _;

use roaring::RoaringBitmap;

/// Bytes of a container of bits.
pub(crate) const CONTAINER_BYTES: usize = 8192;

/// Rows up to which a container lists them.
const ARRAY_MAX: usize = 4096;

/// Rows that are listed in one step.
const FOUR: usize = 4;

/// Words that are passed over in one step where no row is set.
const EIGHT: usize = 8;

/// First number of a set with containers of runs; the number of containers, less one, is above it.
const COOKIE_RUNS: u16 = 12347;

/// First number of a set without.
const COOKIE: u32 = 12346;

/// Containers from which a set with runs says where each is.
const OFFSETS_MIN: usize = 4;

/// The rows of one container, of 65,536.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Container<'a> {
    /// Ascending.
    Array(&'a [[u8; 2]]),
    Bits(&'a [u8; CONTAINER_BYTES]),
    /// First row and number of further ones.
    Runs(&'a [[u8; 4]]),
}

/// Calls `visit` with each container and its number, the high half of its rows; they ascend. `None` if the bytes are not
/// one whole set, or as soon as `visit` answers that.
pub(crate) fn containers<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(u16, Container<'a>) -> Option<()>,
) -> Option<()> {
    let (cookie, rest) = bytes.split_first_chunk::<4>()?;
    let cookie = u32::from_le_bytes(*cookie);
    let (count, run_flags, rest) = if cookie as u16 == COOKIE_RUNS {
        let count = (cookie >> 16) as usize + 1;
        let (flags, rest) = rest.split_at_checked(count.div_ceil(8))?;
        (count, flags, rest)
    } else if cookie == COOKIE {
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let no_flags: &[u8] = &[];
        (u32::from_le_bytes(*count) as usize, no_flags, rest)
    } else {
        return None;
    };
    if count > 1 << 16 {
        return None;
    }
    let (heads, mut rest) = rest.split_at_checked(count * 4)?;
    if run_flags.is_empty() || count >= OFFSETS_MIN {
        (_, rest) = rest.split_at_checked(count * 4)?;
    }
    let mut last = None;
    for (i, [a, b, c, d]) in heads.as_chunks().0.iter().enumerate() {
        let (number, rows) = (
            u16::from_le_bytes([*a, *b]),
            usize::from(u16::from_le_bytes([*c, *d])) + 1,
        );
        if last.is_some_and(|last| last >= number) {
            return None;
        }
        last = Some(number);
        let is_runs = run_flags.get(i / 8).is_some_and(|f| f >> (i % 8) & 1 == 1);
        let container;
        if is_runs {
            let (count, after) = rest.split_first_chunk::<2>()?;
            let bytes = usize::from(u16::from_le_bytes(*count)) * 4;
            let (runs, after) = after.split_at_checked(bytes)?;
            (container, rest) = (Container::Runs(runs.as_chunks().0), after);
        } else if rows <= ARRAY_MAX {
            let (array, after) = rest.split_at_checked(rows * 2)?;
            (container, rest) = (Container::Array(array.as_chunks().0), after);
        } else {
            let (bits, after) = rest.split_first_chunk()?;
            (container, rest) = (Container::Bits(bits), after);
        }
        visit(number, container)?;
    }
    rest.is_empty().then_some(())
}

impl Container<'_> {
    /// Adds its rows to plain bits, the lowest first.
    pub(crate) fn add_to(self, bits: &mut [u8; CONTAINER_BYTES]) {
        match self {
            Self::Bits(these) => bits.iter_mut().zip(these).for_each(|(a, b)| *a |= b),
            Self::Array(rows) => {
                for row in rows {
                    let row = usize::from(u16::from_le_bytes(*row));
                    bits[row / 8] |= 1 << (row % 8);
                }
            }
            Self::Runs(runs) => {
                for [a, b, c, d] in runs {
                    let first = usize::from(u16::from_le_bytes([*a, *b]));
                    let last = first + usize::from(u16::from_le_bytes([*c, *d]));
                    add_run(bits, first, last.min(CONTAINER_BYTES * 8 - 1));
                }
            }
        }
    }

    /// Makes plain bits of its rows.
    pub(crate) fn copy_to(self, bits: &mut [u8; CONTAINER_BYTES]) {
        if let Self::Bits(these) = self {
            *bits = *these;
        } else {
            bits.fill(0);
            self.add_to(bits);
        }
    }

    /// Takes all but its rows out of plain bits.
    pub(crate) fn keep_in(self, bits: &mut [u8; CONTAINER_BYTES]) {
        if let Self::Bits(these) = self {
            bits.iter_mut().zip(these).for_each(|(a, b)| *a &= b);
            return;
        }
        let mut these = [0; CONTAINER_BYTES];
        self.add_to(&mut these);
        Container::Bits(&these).keep_in(bits);
    }

    /// Takes its rows out of plain bits.
    pub(crate) fn take_from(self, bits: &mut [u8; CONTAINER_BYTES]) {
        if let Self::Bits(these) = self {
            bits.iter_mut().zip(these).for_each(|(a, b)| *a &= !b);
            return;
        }
        let mut these = [0; CONTAINER_BYTES];
        self.add_to(&mut these);
        Container::Bits(&these).take_from(bits);
    }
}

/// Sets the bits from `first` to `last`, both included.
fn add_run(bits: &mut [u8; CONTAINER_BYTES], first: usize, last: usize) {
    let (begin, end) = (first / 8, last / 8);
    let head = 0xff << (first % 8);
    let tail = 0xff >> (7 - last % 8);
    if begin == end {
        bits[begin] |= head & tail;
        return;
    }
    bits[begin] |= head;
    bits[begin + 1..end].fill(0xff);
    bits[end] |= tail;
}

/// The bitmap whose containers from number `first` on have these bits; `scratch` keeps its room for the next.
///
/// The library's own way takes 3.7 ns for each row of a container that becomes a list, most of it for branches that nobody can
/// foretell. Here they are written as the library stores them, lists four rows at a time, and read back.
pub(crate) fn bitmap_of(
    first: u32,
    containers: &[[u8; CONTAINER_BYTES]],
    scratch: &mut Vec<u8>,
) -> RoaringBitmap {
    let mut heads = Vec::with_capacity(containers.len() * 4);
    let mut list = [0; ARRAY_MAX + FOUR];
    scratch.clear();
    for (number, bits) in (first..).zip(containers) {
        let words: &[[u8; 8]] = bits.as_chunks().0;
        let mut counts = [0; CONTAINER_BYTES / 8];
        let mut count = 0;
        let groups = words.as_chunks::<EIGHT>().0;
        for (group, counts) in groups.iter().zip(counts.as_chunks_mut::<EIGHT>().0) {
            // Where few rows are set, most of the words are empty.
            if *group.as_flattened() == [0; EIGHT * 8] {
                continue;
            }
            for (word, of_word) in group.iter().zip(counts) {
                *of_word = u64::from_le_bytes(*word).count_ones() as u8;
                count += usize::from(*of_word);
            }
        }
        if count == 0 {
            continue;
        }
        heads.extend((number as u16).to_le_bytes());
        heads.extend((count as u16).wrapping_sub(1).to_le_bytes());
        if count > ARRAY_MAX {
            scratch.extend_from_slice(bits);
            continue;
        }
        list_rows(words, &counts, &mut list);
        let rows = list.iter().take(count);
        scratch.extend(rows.flat_map(|row| row.to_le_bytes()));
    }
    let count = (heads.len() / 4) as u32;
    let mut stored = [COOKIE.to_le_bytes(), count.to_le_bytes()].concat();
    stored.append(&mut heads);
    // Where each is: for those who read single ones.
    stored.resize(stored.len() + count as usize * 4, 0);
    let stored = stored.chain(scratch.as_slice());
    RoaringBitmap::deserialize_unchecked_from(stored).expect("just written")
}

/// Lists the bits that are set, of which `counts` has how many there are in each word, at most [`ARRAY_MAX`] in all.
fn list_rows(words: &[[u8; 8]], counts: &[u8], list: &mut [u16; ARRAY_MAX + FOUR]) {
    let mut len = 0;
    let groups = words.chunks(EIGHT).zip(counts.as_chunks::<EIGHT>().0);
    for ((words, counts), base) in groups.zip((0..).step_by(64 * EIGHT)) {
        if u64::from_ne_bytes(*counts) == 0 {
            continue;
        }
        for ((word, count), base) in words.iter().zip(counts).zip((base..).step_by(64)) {
            let mut word = u64::from_le_bytes(*word);
            // Four at once, there or not: how many there are is what a processor cannot foretell.
            for done in (0..usize::from(*count).max(1)).step_by(FOUR) {
                let Some(slots) = list.get_mut(len + done..).and_then(|l| l.first_chunk_mut())
                else {
                    return;
                };
                let slots: &mut [u16; FOUR] = slots;
                for slot in slots {
                    *slot = base + (word | 1 << 63).trailing_zeros() as u16;
                    word &= word.wrapping_sub(1);
                }
            }
            len += usize::from(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<RoaringBitmap> {
        let mut rows = RoaringBitmap::new();
        containers(bytes, |number, container| {
            let mut bits = [0; CONTAINER_BYTES];
            container.add_to(&mut bits);
            rows |= RoaringBitmap::from_lsb0_bytes(u32::from(number) << 16, &bits);
            Some(())
        })?;
        Some(rows)
    }

    fn samples() -> Vec<RoaringBitmap> {
        let mut runs: RoaringBitmap = (70_000..140_003).collect();
        runs.extend([3, 4, 5, 6, 9, 1 << 20, u32::MAX]);
        runs.extend(400_000..465_537);
        vec![
            RoaringBitmap::new(),
            (0..10).collect(),
            (0..1_000_000).step_by(3).collect(),
            (5..900_000).step_by(977).collect(),
            (0..65_536).collect(),
            runs,
        ]
    }

    #[test]
    fn sets_are_read_as_they_were_written() {
        for rows in samples() {
            for optimized in [false, true] {
                let mut rows = rows.clone();
                if optimized {
                    rows.optimize();
                } else {
                    rows.remove_run_compression();
                }
                let mut bytes = Vec::new();
                rows.serialize_into(&mut bytes).unwrap();
                assert_eq!(read(&bytes), Some(rows));
                for cut in (0..bytes.len()).rev().step_by(bytes.len() / 99 + 1) {
                    assert_eq!(read(&bytes[..cut]), None);
                }
                bytes.push(0);
                assert_eq!(read(&bytes), None, "more than one set");
            }
        }
    }

    #[test]
    fn bits_become_the_bitmap_they_are() {
        let mut samples = samples();
        let dense = (0..4096).chain([65_535]);
        samples.push(dense.clone().collect());
        samples.push(dense.skip(1).collect());
        samples.push((0..65_536).filter(|row| row % 512 < 31).collect());
        samples.push((0..65_536).filter(|row| row % 512 < 32).collect());
        for rows in samples {
            let mut chunks = vec![[0; CONTAINER_BYTES]; 9];
            for row in rows.range(3 << 16..12 << 16).map(|row| row - (3 << 16)) {
                chunks[row as usize >> 16][row as usize % 65_536 / 8] |= 1 << (row % 8);
            }
            let these = rows.range(3 << 16..12 << 16).collect::<RoaringBitmap>();
            assert_eq!(bitmap_of(3, &chunks, &mut Vec::new()), these);
            let first: RoaringBitmap = rows.range(..1 << 16).collect();
            let mut bits = [0; CONTAINER_BYTES];
            first
                .iter()
                .for_each(|row| bits[row as usize / 8] |= 1 << (row % 8));
            assert_eq!(bitmap_of(0, &[bits], &mut vec![9; 9]), first);
        }
    }

    #[test]
    fn containers_keep_and_take() {
        let all: Vec<u16> = (0..65_535).step_by(7).collect();
        for rows in samples() {
            let mut rows = rows;
            rows.optimize();
            let mut bytes = Vec::new();
            rows.serialize_into(&mut bytes).unwrap();
            containers(&bytes, |number, container| {
                let mut start = [0; CONTAINER_BYTES];
                for row in &all {
                    start[usize::from(row / 8)] |= 1 << (row % 8);
                }
                let (mut kept, mut left) = (start, start);
                container.keep_in(&mut kept);
                container.take_from(&mut left);
                for row in 0..=u16::MAX {
                    let bit = |bits: &[u8; CONTAINER_BYTES]| {
                        bits[usize::from(row / 8)] >> (row % 8) & 1 == 1
                    };
                    let there = rows.contains(u32::from(number) << 16 | u32::from(row));
                    assert_eq!(bit(&kept), bit(&start) && there);
                    assert_eq!(bit(&left), bit(&start) && !there);
                }
                Some(())
            })
            .unwrap();
        }
    }
}
