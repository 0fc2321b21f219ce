//! Which line of a store's history a commit belongs to: every restore begins another, which goes on from an earlier commit.
//!
//! Commits of two lines may have the same number, and so may their files; they are told apart by where their lines parted.

use alluvium_block::Manifest;

use crate::error::OpenError;
use crate::numbers::{Numbers, to_bytes};

const TAG_LINEAGE: u64 = 20;

/// Restores that are remembered. Of a store that came through more, backups from before the oldest of them are no bases.
const FORKS_MAX: usize = 1024;

/// Where a line began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fork {
    /// Nobody else's number.
    line: u64,
    /// The commit that was restored.
    seq: u64,
}

/// The restores that a store came through, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage(Vec<Fork>);

impl Lineage {
    /// Begins a line of its own, behind a commit.
    pub(crate) fn fork(&mut self, seq: u64) {
        let line = crate::open::random_number();
        self.0.push(Fork { line, seq });
        let many = self.0.len().saturating_sub(FORKS_MAX);
        self.0.drain(..many);
    }

    /// Whether a commit of `earlier` is one that this line went through.
    pub(crate) fn went_through(&self, earlier: &Self, seq: u64) -> bool {
        let Some(since) = self.0.strip_prefix(earlier.0.as_slice()) else {
            return false;
        };
        since.first().is_none_or(|fork| seq <= fork.seq)
    }

    /// Into the manifest of a commit.
    pub(crate) fn save(&self, manifest: &mut Manifest) {
        let count = [self.0.len() as u64].into_iter();
        let forks = self.0.iter().flat_map(|fork| [fork.line, fork.seq]);
        manifest.set(TAG_LINEAGE, to_bytes(count.chain(forks)));
    }

    /// From the manifest of a commit; one that says nothing is of a store that was never restored.
    pub(crate) fn load(manifest: &Manifest) -> Result<Self, OpenError> {
        let Some(bytes) = manifest.get(TAG_LINEAGE) else {
            return Ok(Self::default());
        };
        let fork = |n: &mut Numbers<'_>| {
            let (line, seq) = (n.next()?, n.next()?);
            Some(Fork { line, seq })
        };
        let forks = Numbers(bytes).list(fork);
        forks.map(Self).ok_or(OpenError::Manifest {
            section: "its lineage",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_went_through_what_came_before_it_parted() {
        let first = Lineage::default();
        let (mut left, mut right) = (first.clone(), first.clone());
        left.fork(10);
        right.fork(10);
        for line in [&left, &right] {
            assert!(line.went_through(&first, 10) && !line.went_through(&first, 11));
            assert!(line.went_through(line, 99));
            assert!(!first.went_through(line, 5));
        }
        assert!(!left.went_through(&right, 5));
        let mut second = left.clone();
        second.fork(20);
        assert!(second.went_through(&left, 20) && !second.went_through(&left, 21));
        assert!(second.went_through(&first, 10) && !second.went_through(&first, 11));
    }

    #[test]
    fn a_lineage_comes_back_and_a_cut_one_is_refused() {
        let mut lineage = Lineage::default();
        (0..2000).for_each(|seq| lineage.fork(seq));
        assert_eq!(lineage.0.len(), FORKS_MAX);
        let mut manifest = Manifest::new();
        assert_eq!(Lineage::load(&manifest).unwrap(), Lineage::default());
        lineage.save(&mut manifest);
        assert_eq!(Lineage::load(&manifest).unwrap(), lineage);
        let whole = manifest.get(TAG_LINEAGE).unwrap().to_vec();
        for cut in [0, 7, 8, 100, whole.len() - 1] {
            manifest.set(TAG_LINEAGE, whole[..cut].to_vec());
            assert!(Lineage::load(&manifest).is_err(), "cut at {cut}");
        }
    }
}
