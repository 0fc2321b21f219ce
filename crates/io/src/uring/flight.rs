//! One write or sync in the kernel, and the memory it holds.
#![expect(unsafe_code, reason = "the kernel reads memory that the flight owns")]

use std::io::IoSlice;
use std::sync::Arc;

use alluvium_types::PAGE_SIZE;

use crate::device::{FileId, Op, WriteData};
use crate::files::{OpenFile, RETRIES_MAX, VECTORS_MAX};
use crate::ticket::Completer;

/// Bytes of one request for a long buffer; the kernel takes at most 2 GiB.
const BUFFER_PART_BYTES: usize = 256 << 20;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EFAULT: i32 = 14;
const ECANCELED: i32 = 125;

/// Where a request's bytes are.
#[derive(Debug)]
pub(super) enum Memory {
    Vectors(Vec<IoSlice<'static>>),
    Slice(&'static [u8]),
    /// Pages of the flight's data, still to be copied if a buffer is free.
    Pages {
        first: usize,
    },
    /// The buffer's index.
    Gathered(u16),
}

/// A piece of a write that one request carries.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) done: usize,
    pub(super) memory: Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncState {
    /// None is asked for, or it is done.
    None,
    /// To be asked for once all parts are written.
    Wanted,
    /// In the kernel.
    Issued,
}

/// An operation whose requests are in the kernel or about to be.
#[derive(Debug)]
pub(super) struct Flight {
    /// Gone if the ring broke and the waiter was told.
    pub(super) completer: Option<Completer>,
    pub(super) file: Arc<OpenFile>,
    pub(super) parts: Vec<Part>,
    /// Parts below this have been issued in this round.
    pub(super) issued: usize,
    /// Requests whose completions are still to come.
    pub(super) outstanding: u32,
    pub(super) sync: SyncState,
    pub(super) error: Option<std::io::Error>,
    /// The kernel may have taken the write without the sync that is linked to it: one more follows.
    pub(super) is_cut: bool,
    retries_left: u32,
    /// Owns the memory that `parts` point to; declared last, so dropped last.
    data: Option<WriteData>,
}

/// What to do with a flight whose requests have all come back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Issue the parts that are not whole, or the sync.
    Issue,
    /// Tell the waiter.
    End,
}

impl Flight {
    pub(super) fn file_id(op: &Op) -> Option<FileId> {
        match op {
            Op::Write { file, .. } | Op::Sync { file } => Some(*file),
            _ => None,
        }
    }

    pub(super) fn new(
        op: Op,
        file: Arc<OpenFile>,
        completer: Completer,
        part_pages: Option<usize>,
    ) -> Self {
        let mut flight = Self {
            completer: Some(completer),
            file,
            parts: Vec::new(),
            issued: 0,
            outstanding: 0,
            sync: SyncState::Wanted,
            error: None,
            is_cut: false,
            retries_left: RETRIES_MAX,
            data: None,
        };
        if let Op::Write {
            offset, data, sync, ..
        } = op
        {
            if !sync {
                flight.sync = SyncState::None;
            }
            flight.parts = parts(&data, offset, part_pages);
            flight.data = Some(data);
        }
        flight
    }

    /// Pages of a part that is still to be gathered.
    pub(super) fn pages(&self, first: usize, len: usize) -> &[Arc<crate::buffer::PageBuf>] {
        match &self.data {
            Some(WriteData::Pages(pages)) => &pages[first..first + len / PAGE_SIZE],
            _ => &[],
        }
    }

    /// Counts a completed write of a part in.
    pub(super) fn wrote(&mut self, index: usize, result: i32) {
        self.outstanding -= 1;
        let Some(part) = self.parts.get_mut(index) else {
            return;
        };
        match result {
            0 => self.fail(std::io::ErrorKind::WriteZero.into()),
            n if n > 0 => part.advance(n as usize),
            e => self.refused(-e),
        }
    }

    /// Counts a completed sync in.
    pub(super) fn synced(&mut self, result: i32) {
        self.outstanding -= 1;
        self.sync = match result {
            // It may have begun before the write had ended.
            0 if std::mem::take(&mut self.is_cut) => SyncState::Wanted,
            0 => SyncState::None,
            // The link broke, and the write says itself that it was short or failed; or the thread that
            // submitted has exited, which the kernel also tells by EFAULT, of a sync that has no memory to
            // be at fault. Either way the sync never began.
            e if matches!(-e, ECANCELED | EFAULT) && self.retries_left > 0 => {
                self.retries_left -= 1;
                SyncState::Wanted
            }
            e => {
                // Never retried: the kernel may have dropped what it could not write.
                self.fail(std::io::Error::from_raw_os_error(-e));
                SyncState::None
            }
        };
    }

    fn refused(&mut self, code: i32) {
        // The kernel cancels what waits for one of its threads when the thread that submitted it exits.
        if matches!(code, EINTR | EAGAIN | EFAULT | ECANCELED) && self.retries_left > 0 {
            self.retries_left -= 1;
        } else {
            self.fail(std::io::Error::from_raw_os_error(code));
        }
    }

    fn fail(&mut self, error: std::io::Error) {
        self.error.get_or_insert(error);
    }

    pub(super) fn next(&mut self) -> Next {
        if self.error.is_some() || (self.is_written() && self.sync == SyncState::None) {
            return Next::End;
        }
        self.issued = 0;
        Next::Issue
    }

    pub(super) fn is_written(&self) -> bool {
        self.parts.iter().all(|part| part.done == part.len)
    }
}

impl Part {
    fn advance(&mut self, count: usize) {
        let count = count.min(self.len - self.done);
        self.done += count;
        if let Memory::Vectors(vectors) = &mut self.memory {
            let mut rest = vectors.as_mut_slice();
            IoSlice::advance_slices(&mut rest, count);
            let left = rest.len();
            vectors.drain(..vectors.len() - left);
        }
    }
}

/// One entry per page. The flight whose parts they become must own the pages.
pub(super) fn vectors(pages: &[Arc<crate::buffer::PageBuf>]) -> Vec<IoSlice<'static>> {
    pages
        .iter()
        .map(|page| IoSlice::new(held(page.bytes())))
        .collect()
}

/// Cuts a write into requests; `part_pages` if pages are to be gathered.
fn parts(data: &WriteData, offset: u64, part_pages: Option<usize>) -> Vec<Part> {
    let part = |skip: usize, len: usize, memory| Part {
        offset: offset + skip as u64,
        len,
        done: 0,
        memory,
    };
    match data {
        WriteData::Buffer(buffer) => {
            let pieces = buffer.bytes().chunks(BUFFER_PART_BYTES).enumerate();
            pieces
                .map(|(i, piece)| {
                    part(
                        i * BUFFER_PART_BYTES,
                        piece.len(),
                        Memory::Slice(held(piece)),
                    )
                })
                .collect()
        }
        WriteData::Pages(pages) => {
            let count = part_pages.unwrap_or(VECTORS_MAX);
            let groups = pages.chunks(count).enumerate();
            let parts = groups.map(|(i, group)| {
                let memory = match group {
                    [page] => Memory::Slice(held(page.bytes())),
                    _ if part_pages.is_some() => Memory::Pages { first: i * count },
                    _ => Memory::Vectors(vectors(group)),
                };
                part(i * count * PAGE_SIZE, group.len() * PAGE_SIZE, memory)
            });
            parts.collect()
        }
    }
}

/// Memory of the flight's data, for as long as the flight lives.
fn held(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: the bytes stand behind an `Arc` that `Flight::data` holds until the kernel has given every
    // request back, so nobody can free them, nor, as it is shared, change them. The reference does not leave
    // the flight.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{AlignedBuf, PageBuf};
    use crate::ticket::Ticket;

    fn flight(pages: usize, sync: bool) -> Flight {
        let data = WriteData::Pages((0..pages).map(|_| Arc::new(PageBuf::zeroed())).collect());
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR,
            rustix::fs::Mode::empty(),
        );
        let file = Arc::new(OpenFile {
            fd: null.expect("/dev/null opens"),
            path: "null".into(),
        });
        let op = Op::Write {
            file: FileId(0),
            offset: 8192,
            data,
            sync,
        };
        Flight::new(op, file, Ticket::new().1, None)
    }

    #[test]
    fn a_sync_that_may_not_have_waited_is_followed_by_another() {
        let mut flight = flight(1, true);
        (flight.outstanding, flight.sync, flight.is_cut) = (2, SyncState::Issued, true);
        flight.synced(0);
        flight.wrote(0, 4096);
        assert_eq!(flight.next(), Next::Issue);
        (flight.outstanding, flight.sync) = (1, SyncState::Issued);
        flight.synced(0);
        assert_eq!(flight.next(), Next::End);
        assert!(flight.error.is_none());
    }

    #[test]
    fn short_linked_write_is_continued_then_synced() {
        let mut flight = flight(3, true);
        (flight.outstanding, flight.sync) = (2, SyncState::Issued);
        flight.wrote(0, 4096 + 512);
        flight.synced(-ECANCELED);
        assert_eq!((flight.outstanding, flight.next()), (0, Next::Issue));
        assert!(!flight.is_written());
        let Memory::Vectors(rest) = &flight.parts[0].memory else {
            panic!("vectors stay")
        };
        assert_eq!(
            rest.iter().map(|v| v.len()).collect::<Vec<_>>(),
            [4096 - 512, 4096]
        );
        flight.outstanding = 1;
        flight.wrote(0, 2 * 4096 - 512);
        assert!(flight.is_written());
        assert_eq!(flight.next(), Next::Issue, "the sync is still to come");
        (flight.outstanding, flight.sync) = (1, SyncState::Issued);
        flight.synced(0);
        assert_eq!(flight.next(), Next::End);
        assert!(flight.error.is_none());
    }

    #[test]
    fn broken_link_reports_the_writes_error() {
        let mut flight = flight(1, true);
        (flight.outstanding, flight.sync) = (2, SyncState::Issued);
        flight.synced(-ECANCELED);
        flight.wrote(0, -28);
        assert_eq!(flight.next(), Next::End);
        assert_eq!(
            flight.error.expect("failed").kind(),
            std::io::ErrorKind::StorageFull
        );
    }

    #[test]
    fn interrupted_write_is_repeated_but_not_for_ever() {
        let mut flight = flight(1, false);
        for _ in 0..RETRIES_MAX {
            flight.outstanding = 1;
            flight.wrote(0, -EAGAIN);
            assert_eq!(flight.next(), Next::Issue);
        }
        flight.outstanding = 1;
        flight.wrote(0, -EAGAIN);
        assert_eq!(flight.next(), Next::End);
    }

    #[test]
    fn long_writes_are_cut_at_the_most_vectors() {
        let flight = flight(VECTORS_MAX + 1, false);
        let cut: Vec<_> = flight
            .parts
            .iter()
            .map(|p| (p.offset, p.len / PAGE_SIZE))
            .collect();
        assert_eq!(
            cut,
            [
                (8192, VECTORS_MAX),
                (8192 + (VECTORS_MAX * PAGE_SIZE) as u64, 1)
            ]
        );
        let buffer = WriteData::Buffer(Arc::new(AlignedBuf::zeroed(4096)));
        assert_eq!(parts(&buffer, 0, None).len(), 1);
    }
}
