//! The ring of one lane.
#![expect(unsafe_code, reason = "hands memory to the kernel")]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use alluvium_types::PAGE_SIZE;
use io_uring::{IoUring, opcode, squeue, types};

use crate::device::{Completion, Op};
use crate::error::IoError;
use crate::files::Files;
use crate::open::PageWriteMode;
use crate::sync_engine::Job;

use super::Ended;
use super::flight::{Flight, Memory, Next, SyncState, vectors};
use super::gather::{BUFFER_BYTES, Gather};

/// The part number that marks a sync in `user_data`, whose upper half is the flight.
const SYNC_PART: u32 = u32::MAX;

/// One ring, the operations in it and those that wait for it. Used under the lane's lock only.
pub(super) struct LaneRing {
    ring: IoUring,
    /// By slot; a slot is free again only after all completions of its flight came.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Not begun.
    queued: VecDeque<Job>,
    /// Flights with requests to issue.
    ready: VecDeque<u32>,
    /// Requests in the kernel or in the submission queue.
    outstanding: u32,
    /// The ring refuses service; what is in it stays owned for ever.
    broken: Option<i32>,
    gather: Option<Gather>,
    files: Arc<Files>,
    /// Registered with the ring, so it has to live as long.
    _signal: Arc<OwnedFd>,
}

impl std::fmt::Debug for LaneRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LaneRing({} queued, {} in the kernel)",
            self.queued.len(),
            self.outstanding
        )
    }
}

impl LaneRing {
    /// Also how gathering goes, for people, if it was asked for.
    pub(super) fn new(
        ring: IoUring,
        files: Arc<Files>,
        signal: Arc<OwnedFd>,
        page_writes: PageWriteMode,
    ) -> std::io::Result<(Self, Option<String>)> {
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        let (gather, note) = match page_writes {
            PageWriteMode::Vectored => (None, None),
            PageWriteMode::Gathered => {
                let (gather, note) = Gather::new(&ring);
                (Some(gather), Some(note))
            }
        };
        let ring = Self {
            ring,
            flights: Vec::new(),
            free: Vec::new(),
            queued: VecDeque::new(),
            ready: VecDeque::new(),
            outstanding: 0,
            broken: None,
            gather,
            files,
            _signal: signal,
        };
        Ok((ring, note))
    }

    /// Keeps an operation for the next drive.
    pub(super) fn queue(&mut self, job: Job) {
        self.queued.push_back(job);
    }

    /// Begins what is queued and ends what came back: one system call if there is something to hand over.
    pub(super) fn drive(&mut self, ended: &mut Ended) {
        self.reap_completions(ended);
        while let Some(job) = self.queued.pop_front() {
            self.begin(job, ended);
        }
        self.issue(ended);
        self.reap_completions(ended);
    }

    /// Ends what came back, and goes on with what came back short.
    pub(super) fn reap(&mut self, ended: &mut Ended) {
        self.reap_completions(ended);
        if !self.ready.is_empty() {
            self.issue(ended);
        }
    }

    fn begin(&mut self, job: Job, ended: &mut Ended) {
        let Job { op, completer } = job;
        let file = match self.admit(&op) {
            Ok(file) => file,
            Err(error) => return ended.push((completer, Err(error))),
        };
        let part_pages = self.gather.as_ref().map(|_| BUFFER_BYTES / PAGE_SIZE);
        let mut flight = Flight::new(op, file, completer, part_pages);
        if flight.next() == Next::End {
            // A write of nothing.
            ended.extend(
                flight
                    .completer
                    .map(|completer| (completer, Ok(Completion::Done))),
            );
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() as u32 - 1
        });
        self.flights[slot as usize] = Some(flight);
        self.ready.push_back(slot);
    }

    fn admit(&self, op: &Op) -> Result<Arc<crate::files::OpenFile>, IoError> {
        let (attempt, id) = match (op, Flight::file_id(op)) {
            (Op::Write { file, .. }, _) => ("write", *file),
            (_, Some(file)) => ("sync", file),
            _ => unreachable!("operations on names go to the worker"),
        };
        let file = self.files.get(attempt, id)?;
        if let Op::Write { offset, data, .. } = op {
            self.files.check(attempt, &file, *offset, data.len())?;
        }
        match self.broken {
            None => Ok(file),
            Some(code) => Err(IoError::new(
                attempt,
                &file.path,
                std::io::Error::from_raw_os_error(code),
            )),
        }
    }

    /// Puts requests of ready flights into the submission queue and hands it to the kernel.
    fn issue(&mut self, ended: &mut Ended) {
        while let Some(&slot) = self.ready.front() {
            if self.broken.is_some() {
                return;
            }
            // A link must not be cut by the end of the queue.
            let room = {
                let queue = self.ring.submission();
                queue.capacity() - queue.len()
            };
            if room < 2 && !self.enter(ended) {
                return;
            }
            if self.outstanding + 2 > self.ring.params().cq_entries() {
                break;
            }
            if self.issue_one(slot) {
                self.ready.pop_front();
            }
        }
        self.enter(ended);
    }

    /// Issues the next request of a flight, with its sync linked if it is the only one. True if there are no
    /// more for now.
    fn issue_one(&mut self, slot: u32) -> bool {
        let Self {
            ring,
            flights,
            gather,
            ..
        } = self;
        let Some(flight) = flights.get_mut(slot as usize).and_then(Option::as_mut) else {
            return true;
        };
        let fd = types::Fd(flight.file.fd.as_raw_fd());
        let unwritten = |flight: &Flight| {
            let after = flight.parts.iter().enumerate().skip(flight.issued);
            after
                .filter(|(_, part)| part.done < part.len)
                .map(|(index, _)| index)
                .next()
        };
        let sync = opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build()
            .user_data(data(slot, SYNC_PART));
        let mut entries: [squeue::Entry; 2] = [sync.clone(), sync];
        let count;
        if let Some(index) = unwritten(flight) {
            let mut write =
                write_entry(flight, index, fd, gather.as_mut()).user_data(data(slot, index as u32));
            flight.issued = index + 1;
            let linked = flight.sync == SyncState::Wanted && flight.parts.len() == 1;
            if linked {
                write = write.flags(squeue::Flags::IO_LINK);
                flight.sync = SyncState::Issued;
            }
            entries[0] = write;
            count = if linked { 2 } else { 1 };
        } else {
            flight.sync = SyncState::Issued;
            count = 1;
        }
        // SAFETY: the entries point to memory that the flight (or the gathering buffers of this ring) owns, and
        // to a file that the flight keeps open. Both stay in their slots, at addresses on the heap that do not
        // change, until the completions have come; on a broken ring, for ever.
        let pushed = unsafe { ring.submission().push_multiple(&entries[..count]) };
        assert!(pushed.is_ok(), "room for two entries was made before");
        flight.outstanding += count as u32;
        self.outstanding += count as u32;
        if flight.sync == SyncState::Issued {
            return true;
        }
        unwritten(flight).is_none()
    }

    /// Hands the submission queue over. False if the kernel took nothing, to be tried again later.
    fn enter(&mut self, ended: &mut Ended) -> bool {
        loop {
            let (empty, taskrun) = {
                let queue = self.ring.submission();
                (queue.is_empty(), queue.taskrun() || queue.cq_overflow())
            };
            if empty {
                if taskrun {
                    self.run_kernel_tasks();
                }
                return true;
            }
            let queued = self.ring.submission().len();
            match self.ring.submit() {
                Ok(count) => {
                    if count < queued {
                        self.distrust_links();
                    }
                    return count > 0;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // Out of memory for requests, or completions overflow: reap first.
                Err(e) if matches!(e.raw_os_error(), Some(11 | 16)) => return false,
                Err(e) => {
                    self.give_up(e.raw_os_error().unwrap_or(5), ended);
                    return false;
                }
            }
        }
    }

    /// The kernel took a part of what was queued, for want of memory, and begins a link that it has half of without the rest.
    fn distrust_links(&mut self) {
        for flight in self.flights.iter_mut().flatten() {
            flight.is_cut |= flight.sync == SyncState::Issued && !flight.is_written();
        }
    }

    /// Lets the kernel post completions that it keeps for a thread that enters.
    fn run_kernel_tasks(&self) {
        const GETEVENTS: u32 = 1;
        // SAFETY: submits nothing and waits for nothing; there is no argument.
        let _ = unsafe { self.ring.submitter().enter::<()>(0, 0, GETEVENTS, None) };
    }

    /// Tells all waiters; what the kernel may still hold stays owned.
    fn give_up(&mut self, code: i32, ended: &mut Ended) {
        self.broken = Some(code);
        self.ready.clear();
        for flight in self.flights.iter_mut().flatten() {
            let error = IoError::new(
                "write",
                &flight.file.path,
                std::io::Error::from_raw_os_error(code),
            );
            ended.extend(
                flight
                    .completer
                    .take()
                    .map(|completer| (completer, Err(error))),
            );
        }
    }

    fn reap_completions(&mut self, ended: &mut Ended) {
        let Self {
            ring,
            flights,
            free,
            ready,
            outstanding,
            gather,
            ..
        } = self;
        for completion in ring.completion() {
            *outstanding -= 1;
            let (slot, part) = (
                (completion.user_data() >> 32) as u32,
                completion.user_data() as u32,
            );
            let place = &mut flights[slot as usize];
            let Some(flight) = place.as_mut() else {
                continue;
            };
            if part == SYNC_PART {
                flight.synced(completion.result());
            } else {
                flight.wrote(part as usize, completion.result());
            }
            // What is still in the ready queue has more requests to come.
            if flight.outstanding > 0 || ready.contains(&slot) {
                continue;
            }
            if flight.next() == Next::Issue {
                ready.push_back(slot);
                continue;
            }
            let Some(flight) = place.take() else { continue };
            free.push(slot);
            if let Some(gather) = gather {
                for part in &flight.parts {
                    if let Memory::Gathered(index) = part.memory {
                        gather.give_back(index);
                    }
                }
            }
            let attempt = if flight.is_written() { "sync" } else { "write" };
            let result = match flight.error {
                None => Ok(Completion::Done),
                Some(error) => Err(IoError::new(attempt, &flight.file.path, error)),
            };
            ended.extend(flight.completer.map(|completer| (completer, result)));
        }
    }
}

fn data(slot: u32, part: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(part)
}

/// The request for the rest of a part; pages to be gathered are copied now, or vectored if no buffer is free.
fn write_entry(
    flight: &mut Flight,
    index: usize,
    fd: types::Fd,
    mut gather: Option<&mut Gather>,
) -> squeue::Entry {
    if let Memory::Pages { first } = flight.parts[index].memory {
        let pages = flight.pages(first, flight.parts[index].len);
        flight.parts[index].memory = match gather.as_mut().and_then(|gather| gather.fill(pages)) {
            Some(buffer) => Memory::Gathered(buffer),
            None => Memory::Vectors(vectors(pages)),
        };
    }
    let part = &flight.parts[index];
    let offset = part.offset + part.done as u64;
    let len = (part.len - part.done) as u32;
    match (&part.memory, gather) {
        (Memory::Vectors(vectors), _) => {
            opcode::Writev::new(fd, vectors.as_ptr().cast(), vectors.len() as u32)
                .offset(offset)
                .build()
        }
        (Memory::Slice(bytes), _) => opcode::Write::new(fd, bytes[part.done..].as_ptr(), len)
            .offset(offset)
            .build(),
        (Memory::Gathered(buffer), Some(gather)) => {
            let address = gather.bytes(*buffer)[part.done..].as_ptr();
            if gather.registered {
                opcode::WriteFixed::new(fd, address, len, *buffer)
                    .offset(offset)
                    .build()
            } else {
                opcode::Write::new(fd, address, len).offset(offset).build()
            }
        }
        (Memory::Gathered(_) | Memory::Pages { .. }, _) => {
            unreachable!("only a ring with buffers gathers")
        }
    }
}

impl Drop for LaneRing {
    /// Waits for what the kernel holds; what never began is failed by the drop of its completer.
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.outstanding > 0 || !self.ready.is_empty() {
            self.issue(&mut ended);
            if self.broken.is_none() {
                match self.ring.submit_and_wait(1) {
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(4 | 11 | 16)) => {}
                    Err(e) => self.give_up(e.raw_os_error().unwrap_or(5), &mut ended),
                }
            }
            self.reap_completions(&mut ended);
            if self.broken.is_some() {
                // The kernel may still read this memory, so it is given up for ever.
                std::mem::forget(std::mem::take(&mut self.flights));
                std::mem::forget(self.gather.take());
                break;
            }
        }
        for (completer, result) in ended {
            completer.complete(result);
        }
    }
}
