//! A disk that forgets: what was written since the last flush is gone when the power goes, or some of it is.
//!
//! Writes go to the image at once and what they replaced is remembered until the next flush, so reads cost nothing. When
//! the power comes back everything remembered is undone in reverse order, and then the writes that the mode and the seed
//! choose are done again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// What a write may tear at.
const SECTOR_BYTES: usize = 512;

/// The first page is never torn: in it is the superblock of ext4, 1 KiB in two sectors with one checksum, which ext4
/// rewrites in place and without which it does not mount.
const WHOLE_BYTES: u64 = 4096;

/// Most that is remembered, old and new bytes together; before more is taken the oldest writes reach the medium
/// without a flush, as they do in a drive whose cache is full.
const UNSYNCED_BYTES_MAX: usize = 256 << 20;

/// What a power cut leaves of the writes since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// None.
    None,
    /// The first so many, in the order in which they came.
    Prefix,
    /// Any of them.
    Subset,
    /// Any of them, and of some a part of the sectors.
    Torn,
}

impl Mode {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Prefix, Self::Subset, Self::Torn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Prefix => "prefix",
            Self::Subset => "subset",
            Self::Torn => "torn",
        }
    }
}

/// What answers EIO though the power is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    Nothing,
    Writes,
    Syncs,
}

/// A write since the last flush.
#[derive(Debug)]
struct Unsynced {
    offset: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

#[derive(Debug)]
struct State {
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: usize,
    /// Writes and flushes until the power goes.
    operations_left: Option<u64>,
    /// When the power went.
    cut_at: Option<Instant>,
    failing: Failing,
}

/// What a cut took.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Forgotten {
    /// Writes since the last flush.
    pub(crate) unsynced: u64,
    /// Those of them that are gone or torn.
    pub(crate) lost: u64,
}

/// The disk; its image is a sparse file.
#[derive(Debug)]
pub(crate) struct Disk {
    image: File,
    bytes: u64,
    state: Mutex<State>,
    power: Condvar,
}

impl Disk {
    /// A disk of the whole image file, which is there.
    pub(crate) fn open(image: &Path) -> Result<Self, Error> {
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        let bytes = image.metadata()?.len();
        let state = State {
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            operations_left: None,
            cut_at: None,
            failing: Failing::Nothing,
        };
        Ok(Self {
            image,
            bytes,
            state: Mutex::new(state),
            power: Condvar::new(),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not keep the disk from answering, or unmounting would hang.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn cut_now(&self, state: &mut State) {
        state.operations_left = None;
        state.cut_at.get_or_insert_with(Instant::now);
        self.power.notify_all();
    }

    /// Counts a write or flush; whether the power went with it.
    fn goes_dark(&self, state: &mut State) -> bool {
        match &mut state.operations_left {
            Some(0) => self.cut_now(state),
            Some(left) => *left -= 1,
            None => {}
        }
        state.cut_at.is_some()
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let state = self.state();
        if state.cut_at.is_some() {
            return Err(io_error());
        }
        self.image.read_exact_at(into, offset)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if offset + bytes.len() as u64 > self.bytes {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut state = self.state();
        if state.cut_at.is_some() || state.failing == Failing::Writes {
            return Err(io_error());
        }
        // The write at which the power goes may be among those that survive, but nobody is told so.
        let dark = self.goes_dark(&mut state);
        let mut old = vec![0; bytes.len()];
        self.image.read_exact_at(&mut old, offset)?;
        self.image.write_all_at(bytes, offset)?;
        state.unsynced_bytes += 2 * bytes.len();
        state.unsynced.push_back(Unsynced {
            offset,
            old,
            new: bytes.to_vec(),
        });
        while state.unsynced_bytes > UNSYNCED_BYTES_MAX {
            let Some(oldest) = state.unsynced.pop_front() else {
                break;
            };
            state.unsynced_bytes -= 2 * oldest.new.len();
        }
        if dark { Err(io_error()) } else { Ok(()) }
    }

    /// A flush: everything that was answered before it is kept from now on.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.cut_at.is_some() || state.failing == Failing::Syncs || self.goes_dark(&mut state) {
            return Err(io_error());
        }
        state.unsynced.clear();
        state.unsynced_bytes = 0;
        Ok(())
    }

    pub(crate) fn fail(&self, failing: Failing) {
        self.state().failing = failing;
    }

    /// From now on everything fails.
    pub(crate) fn cut(&self) {
        self.cut_now(&mut self.state());
    }

    /// The power goes with the write or flush behind so many more.
    pub(crate) fn cut_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// When the power went, if it did.
    pub(crate) fn cut_at(&self) -> Option<Instant> {
        self.state().cut_at
    }

    /// Waits at most so long until the power goes.
    pub(crate) fn wait_cut(&self, limit: Duration) -> bool {
        let begin = Instant::now();
        let mut state = self.state();
        while state.cut_at.is_none() {
            let Some(left) = limit.checked_sub(begin.elapsed()) else {
                return false;
            };
            state = match self.power.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Forgets by mode, and serves again.
    pub(crate) fn power_on(&self, mode: Mode, rng: &mut Rng) -> Result<Forgotten, Error> {
        let mut state = self.state();
        for write in state.unsynced.iter().rev() {
            self.image.write_all_at(&write.old, write.offset)?;
        }
        let count = state.unsynced.len() as u64;
        let mut forgotten = Forgotten {
            unsynced: count,
            lost: 0,
        };
        let prefix = rng.below(count + 1);
        let share = rng.unit();
        for (number, write) in state.unsynced.iter().enumerate() {
            let survives = match mode {
                Mode::None => false,
                Mode::Prefix => (number as u64) < prefix,
                Mode::Subset | Mode::Torn => rng.unit() < share,
            };
            let sectors = write.new.len() / SECTOR_BYTES;
            let may_tear = mode == Mode::Torn && sectors > 1 && write.offset >= WHOLE_BYTES;
            let tears = may_tear && survives && rng.below(2) == 0;
            let (from, to) = if tears {
                let from = rng.below(sectors as u64) as usize;
                let to = from + rng.below((sectors - from) as u64 + 1) as usize;
                (from * SECTOR_BYTES, to * SECTOR_BYTES)
            } else if survives {
                (0, write.new.len())
            } else {
                (0, 0)
            };
            let kept = write.new.get(from..to).unwrap_or_default();
            self.image.write_all_at(kept, write.offset + from as u64)?;
            forgotten.lost += u64::from(kept.len() < write.new.len());
        }
        state.unsynced.clear();
        state.unsynced_bytes = 0;
        state.cut_at = None;
        state.operations_left = None;
        Ok(forgotten)
    }
}

fn io_error() -> Error {
    Error::other("the disk has no power")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn disk() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let disk = Disk::open(&path).unwrap();
        (directory, disk)
    }

    fn first_bytes(disk: &Disk, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        disk.read(page * PAGE as u64, &mut bytes).unwrap();
        bytes.iter().step_by(SECTOR_BYTES).copied().collect()
    }

    /// Flushed ones, then four pages of 2, the last of them twice, and no power.
    fn cut_disk() -> (tempfile::TempDir, Disk) {
        let (directory, disk) = disk();
        for page in 0..4 {
            disk.write(page * PAGE as u64, &[1; PAGE]).unwrap();
        }
        disk.sync().unwrap();
        for page in [0, 1, 2, 3, 3] {
            disk.write(page * PAGE as u64, &[2; PAGE]).unwrap();
        }
        disk.cut();
        assert!(disk.read(0, &mut [0; 8]).is_err());
        assert!(disk.write(0, &[3; 512]).is_err());
        assert!(disk.sync().is_err());
        (directory, disk)
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_goes_by_mode() {
        let (_directory, disk) = cut_disk();
        let forgotten = disk.power_on(Mode::None, &mut Rng::new(1)).unwrap();
        assert_eq!((forgotten.unsynced, forgotten.lost), (5, 5));
        for page in 0..4 {
            assert_eq!(first_bytes(&disk, page), [1; 8]);
        }
        let mut whole_prefixes = [false; 5];
        let (mut holes, mut tears) = (0, 0);
        for seed in 0..100 {
            let (_directory, disk) = cut_disk();
            disk.power_on(Mode::Prefix, &mut Rng::new(seed)).unwrap();
            let pages: Vec<u8> = (0..4).map(|p| first_bytes(&disk, p)[0]).collect();
            assert!(pages.is_sorted_by(|a, b| a >= b), "{pages:?}");
            whole_prefixes[pages.partition_point(|page| *page == 2)] = true;
            let (_directory, disk) = cut_disk();
            disk.power_on(Mode::Subset, &mut Rng::new(seed)).unwrap();
            let pages: Vec<Vec<u8>> = (0..4).map(|p| first_bytes(&disk, p)).collect();
            assert!(pages.iter().all(|p| *p == [1; 8] || *p == [2; 8]));
            holes += u32::from(!pages.is_sorted_by(|a, b| a >= b));
            let (_directory, disk) = cut_disk();
            disk.power_on(Mode::Torn, &mut Rng::new(seed)).unwrap();
            tears += u32::from((0..4).any(|p| {
                let page = first_bytes(&disk, p);
                page != [1; 8] && page != [2; 8]
            }));
        }
        assert_eq!(whole_prefixes, [true; 5]);
        assert!(holes > 10 && tears > 10, "{holes} {tears}");
    }

    #[test]
    fn the_power_goes_with_an_operation() {
        let (_directory, disk) = disk();
        disk.cut_after(2);
        disk.write(0, &[1; PAGE]).unwrap();
        disk.sync().unwrap();
        assert!(disk.write(0, &[2; PAGE]).is_err());
        assert!(disk.wait_cut(Duration::ZERO) && disk.cut_at().is_some());
        disk.power_on(Mode::None, &mut Rng::new(1)).unwrap();
        assert_eq!(first_bytes(&disk, 0), [1; 8]);
        assert!(!disk.wait_cut(Duration::ZERO));
    }
}
