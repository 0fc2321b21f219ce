//! Parity beside a file of pages: what of the file rots or cannot be read is made again, at a sixteenth of its bytes.
//!
//! Pages of the file in stripes of [`PARITY_STRIPE_BYTES`]; in a stripe page `i` is of group `i mod 16`. The parity file has
//! for each stripe a head, with the CRC-32C of each page and of each page of parity, and behind it the exclusive or of
//! each group. So one page of each group may be lost: pages far apart, or any sixteen that follow each other. Each stripe
//! stands by itself, so rot in the parity file is known, and costs a stripe its mending at most.

use alluvium_types::PAGE_SIZE;
use crc32c::crc32c;
use zerocopy::{FromBytes, IntoBytes};

use crate::layout::{PARITY_MAGIC, STRIPE_GROUPS, STRIPE_PAGES, StripeHead};

/// Bytes of a file that one head of its parity speaks of.
pub const PARITY_STRIPE_BYTES: usize = STRIPE_PAGES * PAGE_SIZE;
/// What the parity file has of a whole stripe.
pub const PARITY_BYTES: usize = (1 + STRIPE_GROUPS) * PAGE_SIZE;

const VERSION: u32 = 1;

/// Length of the parity file of a file of so many bytes.
pub fn parity_len(bytes: u64) -> u64 {
    let stripe = PARITY_STRIPE_BYTES as u64;
    let last = (bytes % stripe).div_ceil(PAGE_SIZE as u64);
    let last = if last == 0 {
        0
    } else {
        1 + last.min(STRIPE_GROUPS as u64)
    };
    bytes / stripe * PARITY_BYTES as u64 + last * PAGE_SIZE as u64
}

/// The stripe of a page of a file, and the group in it: of each one page can be made again.
pub fn parity_group(page: u64) -> (u64, u64) {
    let (stripe, groups) = (STRIPE_PAGES as u64, STRIPE_GROUPS as u64);
    (page / stripe, page % groups)
}

/// Makes the parity of a file while that is written.
#[derive(Debug)]
pub struct ParityWriter {
    file: u64,
    stripe: u64,
    page_crcs: Vec<u32>,
    /// One page for each group that has one.
    parity: Vec<u8>,
}

impl ParityWriter {
    /// For the file of this number, which a reader must know again.
    pub fn new(file: u64) -> Self {
        Self::from_stripe(file, 0)
    }

    /// From a later stripe on.
    pub fn from_stripe(file: u64, stripe: u64) -> Self {
        Self {
            file,
            stripe,
            page_crcs: Vec::new(),
            parity: Vec::new(),
        }
    }

    /// Takes in the next pages, the last one of them filled up with zeros, and appends to `out` what is ready of the parity
    /// file. Cost: a checksum and an exclusive or a byte.
    pub fn push(&mut self, pages: &[u8], out: &mut Vec<u8>) {
        for page in pages.chunks(PAGE_SIZE) {
            debug_assert_eq!(page.len(), PAGE_SIZE, "a page that is not whole");
            let begin = self.page_crcs.len() % STRIPE_GROUPS * PAGE_SIZE;
            match self.parity.get_mut(begin..begin + PAGE_SIZE) {
                Some(parity) => xor(parity, page),
                None => self.parity.extend_from_slice(page),
            }
            self.page_crcs.push(crc32c(page));
            if self.page_crcs.len() == STRIPE_PAGES {
                self.finish(out);
            }
        }
    }

    /// Appends to `out` what is left.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.page_crcs.is_empty() {
            return;
        }
        let mut head = StripeHead {
            magic: PARITY_MAGIC,
            version: VERSION.into(),
            pages: (self.page_crcs.len() as u32).into(),
            file: self.file.into(),
            stripe: self.stripe.into(),
            page_crcs: [0.into(); STRIPE_PAGES],
            parity_crcs: [0.into(); STRIPE_GROUPS],
            zero: [0; PAGE_SIZE - 1124],
            crc: 0.into(),
        };
        for (to, crc) in head.page_crcs.iter_mut().zip(self.page_crcs.drain(..)) {
            *to = crc.into();
        }
        let parity = self.parity.chunks(PAGE_SIZE);
        for (to, page) in head.parity_crcs.iter_mut().zip(parity) {
            *to = crc32c(page).into();
        }
        head.crc = head_crc(&head).into();
        out.extend_from_slice(head.as_bytes());
        out.append(&mut self.parity);
        self.stripe += 1;
    }
}

fn head_crc(head: &StripeHead) -> u32 {
    crc32c(head.as_bytes().split_at(PAGE_SIZE - 4).0)
}

fn xor(into: &mut [u8], with: &[u8]) {
    for (a, b) in into.iter_mut().zip(with) {
        *a ^= b;
    }
}

/// What the parity file says of one stripe.
pub struct StripeParity<'a> {
    head: &'a StripeHead,
    /// By group, as far as it is there and holds.
    parity: Vec<Option<&'a [u8]>>,
}

impl std::fmt::Debug for StripeParity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeParity").finish_non_exhaustive()
    }
}

/// Pages of a stripe, by number in it, that did not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StripeDamage {
    /// They are as they were written again.
    pub mended: Vec<usize>,
    /// They are as they were found: more than one of their group did not hold, or its parity did not.
    pub lost: Vec<usize>,
}

impl<'a> StripeParity<'a> {
    /// Reads the part of the parity file that is of stripe `stripe` of file `file`; `None` if its head does not hold, or is of
    /// another.
    pub fn read(bytes: &'a [u8], file: u64, stripe: u64) -> Option<Self> {
        let (head, rest) = StripeHead::ref_from_prefix(bytes).ok()?;
        let is_it = head.magic == PARITY_MAGIC
            && head.version == VERSION
            && (head.file, head.stripe) == (file.into(), stripe.into())
            && (1..=STRIPE_PAGES as u32).contains(&head.pages.get())
            && head.crc == head_crc(head);
        if !is_it {
            return None;
        }
        let groups = STRIPE_GROUPS.min(head.pages.get() as usize);
        let crcs = head.parity_crcs.iter().take(groups);
        let parity = crcs.enumerate().map(|(i, crc)| {
            let page = rest.get(i * PAGE_SIZE..(i + 1) * PAGE_SIZE)?;
            (crc32c(page) == crc.get()).then_some(page)
        });
        Some(Self {
            head,
            parity: parity.collect(),
        })
    }

    /// Whether all of it holds.
    pub fn is_whole(&self) -> bool {
        self.parity.iter().all(Option::is_some)
    }

    /// Bytes of the stripe.
    pub fn stripe_bytes(&self) -> usize {
        self.head.pages.get() as usize * PAGE_SIZE
    }

    /// Makes pages of the stripe that do not hold again, where that can be. `stripe` is all of it as it was read, in whole pages;
    /// what is not there, or could not be read, in zeros. Cost: a checksum a byte, and of a group that needs it sixteen pages.
    pub fn mend(&self, stripe: &mut [u8]) -> StripeDamage {
        let crcs = self.head.page_crcs.iter();
        let crcs = crcs.take(self.head.pages.get() as usize);
        let pages = stripe.chunks(PAGE_SIZE).zip(crcs).enumerate();
        let bad = pages.filter(|(_, (page, crc))| crc32c(page) != crc.get());
        let bad: Vec<usize> = bad.map(|(i, _)| i).collect();
        let mut damage = StripeDamage::default();
        for i in &bad {
            let group = i % STRIPE_GROUPS;
            let is_only = bad.iter().filter(|j| **j % STRIPE_GROUPS == group).count() == 1;
            let parity = self.parity.get(group).copied().flatten();
            let parity = parity.filter(|_| is_only);
            let mended = parity.and_then(|parity| self.made_again(*i, stripe, parity));
            let place = stripe.get_mut(i * PAGE_SIZE..(i + 1) * PAGE_SIZE);
            if let (Some(place), Some(mended)) = (place, mended) {
                place.copy_from_slice(&mended);
                damage.mended.push(*i);
            } else {
                damage.lost.push(*i);
            }
        }
        damage
    }

    /// A page of the others of its group and their parity, if that gives what it was.
    fn made_again(&self, page: usize, stripe: &[u8], parity: &[u8]) -> Option<Vec<u8>> {
        let mut made = parity.to_vec();
        let pages = stripe.chunks(PAGE_SIZE).enumerate();
        let group = pages.skip(page % STRIPE_GROUPS).step_by(STRIPE_GROUPS);
        for (_, other) in group.filter(|(i, _)| *i != page) {
            xor(&mut made, other);
        }
        let crc = self.head.page_crcs.get(page)?;
        (crc32c(&made) == crc.get()).then_some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 7;

    fn file(pages: usize) -> Vec<u8> {
        let bytes = (0..pages * PAGE_SIZE).map(|i| ((i * i) >> 7) as u8 ^ (i >> 12) as u8);
        bytes.collect()
    }

    fn parity(file: &[u8], piece: usize) -> Vec<u8> {
        let (mut writer, mut out) = (ParityWriter::new(FILE), Vec::new());
        for piece in file.chunks(piece * PAGE_SIZE) {
            writer.push(piece, &mut out);
        }
        writer.finish(&mut out);
        out
    }

    fn rot(bytes: &mut [u8], page: usize) {
        bytes[page * PAGE_SIZE + page % 100] ^= 1 << (page % 8);
    }

    #[test]
    fn the_length_is_known_before_and_pieces_do_not_matter() {
        for pages in [0, 1, 2, 15, 16, 17, 255, 256, 257, 300, 512, 700] {
            let file = file(pages);
            let out = parity(&file, 256);
            assert_eq!(out.len() as u64, parity_len(file.len() as u64), "{pages}");
            assert_eq!(parity(&file, 7), out, "{pages}");
            if pages > 0 {
                let short = file.len() as u64 - 4000;
                assert_eq!(out.len() as u64, parity_len(short), "{pages}");
            }
        }
    }

    #[test]
    fn one_page_of_each_group_comes_back_and_two_do_not() {
        for pages in [1, 2, 16, 17, 200, 256] {
            let whole = file(pages);
            let out = parity(&whole, 256);
            let read = StripeParity::read(&out, FILE, 0).unwrap();
            assert!(read.is_whole());
            assert_eq!(read.stripe_bytes(), whole.len());
            assert_eq!(read.mend(&mut whole.clone()), StripeDamage::default());
            for page in 0..pages {
                let mut rotten = whole.clone();
                rot(&mut rotten, page);
                assert_eq!(read.mend(&mut rotten).mended, [page]);
                assert_eq!(rotten, whole);
                // Sixteen one behind the other, one of them zeros.
                let burst = page..pages.min(page + STRIPE_GROUPS);
                burst.clone().for_each(|page| rot(&mut rotten, page));
                rotten[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].fill(0);
                let damage = read.mend(&mut rotten);
                assert_eq!(damage.mended, burst.collect::<Vec<_>>());
                assert_eq!(rotten, whole);
                if page + STRIPE_GROUPS < pages {
                    let two = [page, page + STRIPE_GROUPS];
                    two.iter().for_each(|page| rot(&mut rotten, *page));
                    assert_eq!(read.mend(&mut rotten).lost, two);
                    two.iter().for_each(|page| rot(&mut rotten, *page));
                    assert_eq!(rotten, whole, "nothing was made of what is not known");
                }
            }
        }
    }

    #[test]
    fn rot_in_the_parity_is_known() {
        let whole = file(256 + 40);
        let out = parity(&whole, 256);
        let (first, second) = whole.split_at(PARITY_STRIPE_BYTES);
        for page in 0..out.len() / PAGE_SIZE {
            let mut rotten = out.clone();
            rot(&mut rotten, page);
            let (head, rest) = rotten.split_at(PARITY_BYTES);
            for (stripe, bytes, part) in [(0, first, head), (1, second, rest)] {
                let begin = stripe as usize * (1 + STRIPE_GROUPS);
                let is_of = (begin..begin + 1 + STRIPE_GROUPS).contains(&page);
                let Some(read) = StripeParity::read(part, FILE, stripe) else {
                    assert_eq!(page, begin, "a head");
                    continue;
                };
                assert_eq!(read.is_whole(), !is_of);
                for group in 0..STRIPE_GROUPS {
                    let mut bytes = bytes.to_vec();
                    rot(&mut bytes, group);
                    let held = !is_of || page != begin + 1 + group;
                    assert_eq!(read.mend(&mut bytes).mended.is_empty(), !held);
                }
            }
        }
        let (head, rest) = out.split_at(PARITY_BYTES);
        assert!(StripeParity::read(head, FILE + 1, 0).is_none());
        assert!(StripeParity::read(rest, FILE, 0).is_none());
        for cut in 0..head.len() / PAGE_SIZE {
            let read = StripeParity::read(&head[..cut * PAGE_SIZE], FILE, 0);
            assert!(read.is_none_or(|read| !read.is_whole()));
        }
    }

    /// The page of the format shows these very bytes.
    #[test]
    fn the_bytes_are_those_of_the_page() {
        let page = include_str!("../../../docs/format/mend.md");
        let out = parity(&[[0xa5; PAGE_SIZE], [0x5a; PAGE_SIZE]].concat(), 2);
        assert_eq!(out.len(), 3 * PAGE_SIZE);
        for offset in [0, 16, 32, 1056, 4080, 4096, 8192] {
            let bytes = out[offset..offset + 16].iter();
            let hex: Vec<String> = bytes.map(|byte| format!(" {byte:02x}")).collect();
            let row = format!("{offset:<4} {}", hex.concat());
            assert!(page.contains(&row), "{row}");
        }
    }
}
