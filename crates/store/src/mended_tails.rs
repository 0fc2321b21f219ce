//! A tails file as it was written: pages of it that do not hold, or cannot be read, are made again of its mending file.
//!
//! Who finds that a record or a whole file does not hold reads it once more through this. Where all is well nobody opens a
//! mending file but the scrubber.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use alluvium_block::{
    PARITY_BYTES, PARITY_STRIPE_BYTES, StripeDamage, StripeParity, parity_group, parity_len,
};
use alluvium_io::{AlignedBuf, FileId, IoError};
use alluvium_types::PAGE_SIZE;
use parking_lot::Mutex;

use crate::copying::{Side, read_pages};
use crate::ledger::NamedFile;

/// What readers of an open store met.
#[derive(Debug, Default)]
pub(crate) struct MendedReads {
    /// Pages that were made again, as often as they were.
    pub pages: AtomicU64,
    /// Commits of files that do not hold, for the scrubber to look at next.
    pub suspects: Mutex<BTreeSet<u64>>,
}

/// Reads one.
#[derive(Debug)]
pub(crate) struct MendedTails<'a> {
    side: Side<'a>,
    tails: FileId,
    mending: Option<FileId>,
    named: NamedFile,
    last: Option<(u64, Stripe)>,
    /// Pages that were made again.
    pub mended: BTreeSet<u64>,
}

/// A stripe of one, and what its mending file has of it.
#[derive(Debug)]
pub(crate) struct Stripe {
    /// Whole pages: as they were written, but for those that are lost.
    pub bytes: Vec<u8>,
    pub damage: StripeDamage,
    /// The mending file's part, as it was read.
    pub parity: Vec<u8>,
    /// It holds.
    pub parity_holds: bool,
    /// Pages that could neither be read nor made again, and why.
    unread: Option<(Vec<usize>, IoError)>,
}

impl Stripe {
    /// Why a page could not be read that could not be made again.
    pub(crate) fn error(&self) -> Option<&IoError> {
        self.unread.as_ref().map(|(_, error)| error)
    }
}

impl<'a> MendedTails<'a> {
    /// For an open file; its mending file is opened if it is there. Waits.
    pub(crate) fn new(side: Side<'a>, tails: FileId, named: NamedFile) -> Self {
        let mending = side.open(&named.mending_path(), false);
        Self {
            side,
            tails,
            mending: mending.ok().map(|(file, _)| file),
            named,
            last: None,
            mended: BTreeSet::new(),
        }
    }

    /// Whether there is a mending file.
    pub(crate) fn can_mend(&self) -> bool {
        self.mending.is_some()
    }

    /// How many stripes there are.
    pub(crate) fn stripes(&self) -> u64 {
        self.named.len.div_ceil(PARITY_STRIPE_BYTES as u64)
    }

    /// A stripe, from the device. Waits.
    pub(crate) fn stripe(&mut self, number: u64) -> Stripe {
        let begin = number * PARITY_STRIPE_BYTES as u64;
        let left = self.named.len.saturating_sub(begin);
        let len = left.min(PARITY_STRIPE_BYTES as u64);
        let (mut bytes, mut unread) = read_pages(self.side, self.tails, begin, len as usize);
        let parity = self.mending.map(|file| {
            let begin = number * PARITY_BYTES as u64;
            read_pages(self.side, file, begin, parity_len(len) as usize).0
        });
        let parity = parity.unwrap_or_default();
        let known = StripeParity::read(&parity, self.named.seq, number);
        let known = known.filter(|known| known.stripe_bytes() == bytes.len());
        let parity_holds = known.as_ref().is_some_and(StripeParity::is_whole);
        let mut damage = StripeDamage::default();
        if let Some(known) = known {
            damage = known.mend(&mut bytes);
            if let Some((pages, _)) = &mut unread {
                // Zeros, as which what cannot be read is taken, may be what was there.
                let right = pages.iter().filter(|page| !damage.lost.contains(page));
                damage.mended.extend(right);
                pages.retain(|page| damage.lost.contains(page));
            }
            damage.mended.sort_unstable();
            damage.mended.dedup();
        }
        let first = number * (PARITY_STRIPE_BYTES / PAGE_SIZE) as u64;
        let mended = damage.mended.iter().map(|page| first + *page as u64);
        self.mended.extend(mended);
        Stripe {
            bytes,
            damage,
            parity,
            parity_holds,
            unread: unread.filter(|(pages, _)| !pages.is_empty()),
        }
    }

    /// Bytes of the file; what is lost is as it was found. Waits.
    ///
    /// # Errors
    /// If some of them can neither be read nor made again.
    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<AlignedBuf, IoError> {
        let mut out = AlignedBuf::zeroed(len);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let number = at / PARITY_STRIPE_BYTES as u64;
            let stripe = match self.last.take() {
                Some((last, stripe)) if last == number => stripe,
                _ => self.stripe(number),
            };
            let from = (at % PARITY_STRIPE_BYTES as u64) as usize;
            let to = PARITY_STRIPE_BYTES.min(from + len - done);
            let wanted = from / PAGE_SIZE..to.div_ceil(PAGE_SIZE);
            if let Some((pages, error)) = &stripe.unread
                && pages.iter().any(|page| wanted.contains(page))
            {
                return Err(error.clone());
            }
            let there = stripe.bytes.get(from..to.min(stripe.bytes.len()));
            let there = there.unwrap_or_default();
            // Behind the end are zeros, as in any file.
            if let Some(place) = out.bytes_mut().get_mut(done..done + there.len()) {
                place.copy_from_slice(there);
            }
            done += to - from;
            self.last = Some((number, stripe));
        }
        Ok(out)
    }
}

/// Whether pages of a file can be made again together, if all others and its mending file hold. They ascend.
pub(crate) fn are_mendable(pages: &[u64]) -> bool {
    let mut groups: Vec<(u64, u64)> = pages.iter().map(|page| parity_group(*page)).collect();
    groups.sort_unstable();
    groups.windows(2).all(|two| two[0] != two[1])
}

impl Drop for MendedTails<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.mending {
            drop(
                self.side
                    .device
                    .submit(self.side.lane, alluvium_io::Op::Close { file }),
            );
        }
    }
}
