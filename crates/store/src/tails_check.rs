//! A tails file and its mending file, looked at together, and each made whole again of the other.

use std::fmt::Write as _;

use alluvium_block::{PARITY_BYTES, PARITY_STRIPE_BYTES, ParityWriter};
use alluvium_io::{Device, IoError, Lane, Op};
use alluvium_types::PAGE_SIZE;

use crate::copying::Side;
use crate::ledger::{Ledger, NamedFile};
use crate::mended_tails::{MendedTails, Stripe};

/// Runs of pages that a finding names.
const RUNS_NAMED_MAX: usize = 8;

/// What was found of the two.
#[derive(Debug)]
pub(crate) struct TailsCheck {
    file: NamedFile,
    /// Pages of the tails file that were made again.
    mended: Vec<u64>,
    /// Those that could not be.
    lost: Vec<u64>,
    /// What else keeps the tails file from being what the ledger names, pages made again counted as whole.
    broken: Option<String>,
    /// Stripes whose part of the mending file does not hold.
    stale: Vec<u64>,
    is_mending_missing: bool,
}

impl TailsCheck {
    /// Reads both, and shows each stripe as it was written to `visit`. Waits.
    pub(crate) fn of(device: &dyn Device, file: NamedFile, mut visit: impl FnMut(&[u8])) -> Self {
        let side = Side {
            device,
            lane: Lane(0),
        };
        let mut check = Self {
            file,
            mended: Vec::new(),
            lost: Vec::new(),
            broken: None,
            stale: Vec::new(),
            is_mending_missing: false,
        };
        // Past the page cache of the system, which would hide what has become of it.
        let (tails, _) = match side.open(&file.tails_path(), false) {
            Ok(opened) => opened,
            Err(error) => {
                check.broken = Some(error.to_string());
                return check;
            }
        };
        let mut both = MendedTails::new(side, tails, file);
        check.is_mending_missing = !both.can_mend();
        let (mut crc, mut unread, mut differ) = (0, None, Vec::new());
        for number in 0..both.stripes() {
            let stripe = both.stripe(number);
            let begin = number * PARITY_STRIPE_BYTES as u64;
            let left = usize::try_from(file.len - begin).unwrap_or(usize::MAX);
            let bytes = stripe.bytes.get(..left.min(stripe.bytes.len()));
            let bytes = bytes.unwrap_or_default();
            crc = alluvium_block::crc32c_append(crc, bytes);
            visit(bytes);
            let first = number * (PARITY_STRIPE_BYTES / PAGE_SIZE) as u64;
            let pages = |pages: &[usize]| {
                let pages = pages.iter().map(|page| first + *page as u64);
                pages.collect::<Vec<u64>>()
            };
            check.mended.extend(pages(&stripe.damage.mended));
            check.lost.extend(pages(&stripe.damage.lost));
            unread = unread.or_else(|| stripe.error().map(ToString::to_string));
            if !stripe.parity_holds {
                check.stale.push(number);
            } else if stripe.parity != parity_of(file.seq, number, &stripe) {
                differ.push(number);
            }
        }
        check.broken = unread.or_else(|| {
            let says = "a file it names: length or checksum differs";
            (crc != file.crc).then(|| says.to_owned())
        });
        if check.is_sound() {
            // Of another file of this name: this one is the one that the ledger names.
            check.stale.extend(differ);
            check.stale.sort_unstable();
        }
        drop(both);
        // What is not closed here is by the end of the device.
        drop(side.close(tails));
        check
    }

    /// Whether the tails file is what the ledger names, or can be made so.
    pub(crate) fn is_sound(&self) -> bool {
        self.broken.is_none()
    }

    /// What is wrong: the file, and what did not hold.
    pub(crate) fn findings(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if let Some(broken) = &self.broken {
            let mut what = broken.clone();
            if !self.lost.is_empty() {
                let lost = named_pages(&self.lost);
                let _ = write!(what, "; {lost}, and the mending file does not give back");
            }
            found.push((self.file.tails_path(), what));
        } else if !self.mended.is_empty() {
            let mended = named_pages(&self.mended);
            let what = format!("{mended}; the mending file gives back what was there");
            found.push((self.file.tails_path(), what));
        }
        if self.is_mending_missing && self.file.len > 0 {
            found.push((self.file.mending_path(), "it is missing".to_owned()));
        } else if let Some(first) = self.stale.first() {
            let many = self.stale.len();
            let what = format!("{many} of its stripes do not hold, the first is {first}");
            found.push((self.file.mending_path(), what));
        }
        found
    }

    /// Writes pages of the tails file anew that the mending file gives back, then the mending file where it does not hold. Waits.
    /// Nothing is written of a tails file that is not whole then.
    ///
    /// # Errors
    /// If it cannot be written: nothing is worse than before.
    pub(crate) fn repair(&self, device: &dyn Device) -> Result<(), IoError> {
        if !self.is_sound() || self.mended.is_empty() && self.stale.is_empty() {
            return Ok(());
        }
        let side = Side {
            device,
            lane: Lane(0),
        };
        let (tails, _) = side.open(&self.file.tails_path(), false)?;
        let mut both = MendedTails::new(side, tails, self.file);
        let mut written = || {
            for stripe in self.mended.chunk_by(|a, b| stripe_of(*a) == stripe_of(*b)) {
                let number = stripe.first().map_or(0, |page| stripe_of(*page));
                let stripe = both.stripe(number);
                for page in &stripe.damage.mended {
                    let (begin, end) = (page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
                    let at = number * PARITY_STRIPE_BYTES as u64 + begin as u64;
                    let bytes = stripe.bytes.get(begin..end).unwrap_or_default();
                    side.write(tails, at, bytes)?;
                }
            }
            // Before anything that gives them back is touched.
            side.run(Op::Sync { file: tails })?;
            self.rewrite_mending(side, &mut both)
        };
        let written = written();
        drop(both);
        let closed = side.close(tails);
        written.and(closed)
    }

    fn rewrite_mending(&self, side: Side<'_>, both: &mut MendedTails<'_>) -> Result<(), IoError> {
        if self.stale.is_empty() {
            return Ok(());
        }
        let (mending, _) = side.open(&self.file.mending_path(), self.is_mending_missing)?;
        let write = |number: &u64| {
            let stripe = both.stripe(*number);
            let parity = parity_of(self.file.seq, *number, &stripe);
            side.write(mending, number * PARITY_BYTES as u64, &parity)
        };
        let written = self.stale.iter().try_for_each(write);
        let written = written.and_then(|()| side.run(Op::Sync { file: mending }).map(drop));
        let closed = side.close(mending);
        written.and(closed)?;
        if self.is_mending_missing {
            side.sync_dir("")?;
        }
        Ok(())
    }
}

/// All tails files that a ledger names, one after the other.
pub(crate) fn tails_of(device: &dyn Device, ledger: &Ledger) -> impl Iterator<Item = TailsCheck> {
    let files = ledger.tails.iter();
    files.map(move |file| TailsCheck::of(device, *file, |_| {}))
}

fn stripe_of(page: u64) -> u64 {
    page / (PARITY_STRIPE_BYTES / PAGE_SIZE) as u64
}

/// What the mending file should have of a stripe.
fn parity_of(file: u64, number: u64, stripe: &Stripe) -> Vec<u8> {
    let mut parity = Vec::new();
    let mut writer = ParityWriter::from_stripe(file, number);
    writer.push(&stripe.bytes, &mut parity);
    writer.finish(&mut parity);
    parity
}

/// Pages that do not hold, in words.
fn named_pages(pages: &[u64]) -> String {
    let mut out = String::from("pages");
    let runs = pages.chunk_by(|a, b| a + 1 == *b);
    for (i, run) in runs.clone().enumerate().take(RUNS_NAMED_MAX) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        let _ = write!(out, "{} {first}", if i > 0 { "," } else { "" });
        if last > first {
            let _ = write!(out, "-{last}");
        }
    }
    if runs.count() > RUNS_NAMED_MAX {
        out.push_str(" and more");
    }
    out.push_str(" of it do not hold");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_in_runs() {
        assert_eq!(named_pages(&[3]), "pages 3 of it do not hold");
        assert_eq!(named_pages(&[3, 4, 5, 9]), "pages 3-5, 9 of it do not hold");
        let many: Vec<u64> = (0..10).map(|i| i * 2).collect();
        assert!(named_pages(&many).ends_with("12, 14 and more of it do not hold"));
    }
}
