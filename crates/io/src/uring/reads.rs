//! Rings for batches of reads: each reader has one to itself while it waits.
#![expect(unsafe_code, reason = "the kernel fills memory that the batch owns")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;

use crate::buffer::AlignedBuf;
use crate::device::Read;
use crate::error::IoError;
use crate::files::{Files, OpenFile, read_rest};

/// Rings at most; further readers at once use `pread`.
const RINGS_MAX: usize = 4;
/// Reads in flight of one batch.
const DEPTH: u32 = 64;

/// Rings that nobody uses now, and how many there are in all.
pub(super) struct ReadRings {
    idle: Mutex<Vec<IoUring>>,
    made: AtomicUsize,
}

impl std::fmt::Debug for ReadRings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadRings({} made)", self.made.load(Ordering::Relaxed))
    }
}

impl ReadRings {
    pub(super) fn new() -> Self {
        Self {
            idle: Mutex::default(),
            made: AtomicUsize::new(0),
        }
    }

    /// A batch of one is a plain `pread`, which costs less than a ring's two steps.
    pub(super) fn read(&self, files: &Files, reads: &mut [Read]) -> Result<(), IoError> {
        let ring = if reads.len() > 1 { self.take() } else { None };
        let Some(mut ring) = ring else {
            return reads.iter_mut().try_for_each(|read| files.read(read));
        };
        match batch(&mut ring, files, reads) {
            Err(Broken(error)) => {
                // The kernel may still write through this ring.
                std::mem::forget(ring);
                Err(error)
            }
            Ok(result) => {
                self.idle.lock().push(ring);
                result
            }
        }
    }

    fn take(&self) -> Option<IoUring> {
        if let Some(ring) = self.idle.lock().pop() {
            return Some(ring);
        }
        if self.made.fetch_add(1, Ordering::Relaxed) >= RINGS_MAX {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // Not tried again if refused: `pread` serves.
        super::new_ring(DEPTH, 2 * DEPTH).ok()
    }
}

/// The ring cannot be waited on, so its memory was given up.
struct Broken(IoError);

/// Reads all, many in flight; the first failure is given once nothing is in flight.
fn batch(
    ring: &mut IoUring,
    files: &Files,
    reads: &mut [Read],
) -> Result<Result<(), IoError>, Broken> {
    let mut open: Vec<Arc<OpenFile>> = Vec::with_capacity(reads.len());
    for read in reads.iter() {
        let file = files.get("read", read.file);
        let checked = file.and_then(|file| {
            files.check("read", &file, read.offset, read.into.len())?;
            Ok(file)
        });
        match checked {
            Ok(file) => open.push(file),
            Err(error) => return Ok(Err(error)),
        }
    }
    // The buffers are ours while the kernel fills them, whatever becomes of the caller's list.
    let empty = || AlignedBuf::zeroed(0);
    let mut buffers: Vec<AlignedBuf> = reads
        .iter_mut()
        .map(|read| std::mem::replace(&mut read.into, empty()))
        .collect();
    let mut results: Vec<i32> = vec![0; reads.len()];
    let (mut next, mut in_flight) = (0, 0);
    while next < reads.len() || in_flight > 0 {
        while next < reads.len() && in_flight < DEPTH {
            let fd = types::Fd(open[next].fd.as_raw_fd());
            let into = buffers[next].bytes_mut();
            let len = into.len().min(1 << 30) as u32;
            let entry = opcode::Read::new(fd, into.as_mut_ptr(), len)
                .offset(reads[next].offset)
                .build();
            // SAFETY: the buffer and the open file are owned by this function, which does not return before the
            // completion has come, or else gives the buffers up for ever.
            let pushed = unsafe { ring.submission().push(&entry.user_data(next as u64)) };
            if pushed.is_err() {
                break;
            }
            next += 1;
            in_flight += 1;
        }
        if let Err(e) = ring.submit_and_wait(1)
            && !matches!(e.raw_os_error(), Some(4 | 11 | 16))
        {
            let path = open
                .first()
                .map(|file| file.path.clone())
                .unwrap_or_default();
            std::mem::forget((buffers, open));
            return Err(Broken(IoError::new("read", path, e)));
        }
        for completion in ring.completion() {
            results[completion.user_data() as usize] = completion.result();
            in_flight -= 1;
        }
    }
    let mut first_failure = Ok(());
    for (index, (read, buffer)) in reads.iter_mut().zip(buffers).enumerate() {
        read.into = buffer;
        let ended = match results[index] {
            // The rest of a short read, and what the kernel did not want to do now, by hand.
            n if n >= 0 => read_rest(&open[index], read, n as usize),
            -4 | -11 => read_rest(&open[index], read, 0),
            e => Err(IoError::new(
                "read",
                &open[index].path,
                std::io::Error::from_raw_os_error(-e),
            )),
        };
        if first_failure.is_ok() {
            first_failure = ended;
        }
    }
    Ok(first_failure)
}
