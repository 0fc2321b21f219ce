//! One stream being written: group commit.
//!
//! Sections are collected into a group. A group becomes one frame and one write, flushed if any of its sections
//! asks for it; while it is in flight the next group collects, so the size of groups follows the time of a
//! flush by itself. Nothing waits: `drive` moves on what the device has ended.
//!
//! A block that holds acknowledged bytes is never written again. Every segment begins with a flushed frame, and
//! nothing goes to a new segment before the one before it is flushed, so a flush covers all frames before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use alluvium_io::{
    AlignedBuf, Completer, Completion, Device, FileId, IoError, Lane, Op, Ticket, WriteData,
};
use zerocopy::IntoBytes;

use crate::error::LogError;
use crate::folder::{FolderMark, FolderSync};
use crate::frame_buffer::{FrameBuffer, spare};
use crate::layout::{FLAG_FIRST, FrameHeader, HEADER_BYTES, MAGIC};
use crate::stream::{DIR, free_path, segment_path};

mod opening;

use opening::Opening;

/// Frames begin and end at multiples of this, the largest block of any device.
pub(crate) const FRAME_ALIGN: usize = 4096;

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Size of a segment; a frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// A group that has reached this takes no further section.
    pub group_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            group_bytes_max: 4 << 20,
        }
    }
}

/// Stands for one group: ends when its frame holds what was asked of it. Clones are cheap.
#[derive(Debug, Clone)]
pub struct LogTicket(Ticket);

impl LogTicket {
    /// The outcome, if it is known.
    pub fn result(&self) -> Option<Result<(), LogError>> {
        self.0
            .result()
            .map(|r| r.map(|_| ()).map_err(LogError::from))
    }

    /// The outcome, or a promise to call `waker`.
    ///
    /// # Errors
    /// If the write or flush failed: the section may or may not be there after a restart.
    pub fn poll(&self, waker: &Waker) -> Poll<Result<(), LogError>> {
        self.0
            .poll(waker)
            .map(|r| r.map(|_| ()).map_err(LogError::from))
    }
}

#[derive(Debug)]
struct Group {
    frame: FrameBuffer,
    sections: u32,
    points: u32,
    sync: bool,
    wall_ns: i64,
    ticket: Ticket,
    completer: Completer,
}

impl Group {
    fn new(wall_ns: i64, spare: Option<AlignedBuf>) -> Self {
        let (ticket, completer) = Ticket::new();
        Self {
            frame: FrameBuffer::new(spare),
            sections: 0,
            points: 0,
            sync: false,
            wall_ns,
            ticket,
            completer,
        }
    }

    fn frame_bytes(&self) -> u64 {
        (HEADER_BYTES + self.frame.payload_len()).next_multiple_of(FRAME_ALIGN) as u64
    }
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    sync: bool,
    write: Ticket,
    buffer: Arc<AlignedBuf>,
    ticket: Ticket,
    completer: Completer,
}

/// A segment that has frames or is about to.
#[derive(Debug)]
struct Segment {
    number: u32,
    file: FileId,
    capacity: u64,
    used: u64,
    last_seq: u64,
}

/// A trimmed segment on its way out. One at a time, oldest first, each durable before the next: a power cut
/// never leaves a hole between the segments that are there.
#[derive(Debug)]
enum Trimming {
    Named(Ticket, Option<u32>),
    Synced(FolderMark, Option<u32>),
}

/// Trimmed segments kept for reuse: their blocks are allocated and written, so a flush changes no metadata.
const FREE_SEGMENTS_MAX: usize = 2;

/// Writes one stream. Belongs to a shard and is called under its lock.
#[derive(Debug)]
pub struct LogWriter {
    device: Arc<dyn Device>,
    lane: Lane,
    salt: u64,
    incarnation: u32,
    shard: u16,
    config: LogConfig,
    groups: VecDeque<Group>,
    in_flight: Option<InFlight>,
    /// Memory of a frame that was written.
    spare: Option<AlignedBuf>,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    opening: Option<Opening>,
    /// A sync that the next frame waits for: of the segment before, or where there is no room for the frame.
    closing: Option<Ticket>,
    next_segment: u32,
    pushed_seq: u64,
    /// Newest group that has sections.
    data_seq: u64,
    sent_seq: u64,
    written_seq: u64,
    durable_seq: u64,
    declared_seq: u64,
    previous_crc: u32,
    pins: Vec<u64>,
    trimmed: u64,
    trimming: Option<Trimming>,
    /// Numbers of trimmed segments that wait for reuse.
    free: Vec<u32>,
    /// There was no room for the next segment, and has been none since.
    full: bool,
    /// It may be asked for again.
    tries: bool,
    /// So may a small one in its place.
    tries_small: bool,
    failure: Option<LogError>,
    folder: Arc<FolderSync>,
}

impl LogWriter {
    /// A stream without frames; its first segment is made when it is needed.
    pub fn new(
        device: Arc<dyn Device>,
        lane: Lane,
        salt: u64,
        incarnation: u32,
        shard: u16,
        config: LogConfig,
    ) -> Self {
        Self {
            device,
            lane,
            salt,
            incarnation,
            shard,
            config,
            groups: VecDeque::new(),
            in_flight: None,
            spare: None,
            segments: VecDeque::new(),
            opening: None,
            closing: None,
            next_segment: 1,
            pushed_seq: 0,
            data_seq: 0,
            sent_seq: 0,
            written_seq: 0,
            durable_seq: 0,
            declared_seq: 0,
            previous_crc: 0,
            pins: Vec::new(),
            trimmed: 0,
            trimming: None,
            free: Vec::new(),
            full: false,
            tries: true,
            tries_small: true,
            failure: None,
            folder: Arc::default(),
        }
    }

    /// The same stream, whose folder others write to as well: all of them share this.
    #[must_use]
    pub fn in_folder(self, folder: Arc<FolderSync>) -> Self {
        Self { folder, ..self }
    }

    /// Adds a section to the group being collected. With `sync` the ticket ends when the frame is flushed, else
    /// when it is written (or flushed with others).
    pub fn push(&mut self, section: &[u8], points: u32, sync: bool, wall_ns: i64) -> LogTicket {
        if let Some(error) = &self.failure {
            return LogTicket(Ticket::ended(Err(as_io(error))));
        }
        let limit = self.config.group_bytes_max;
        let closed =
            |g: &Group| g.sections > 0 && g.frame.payload_len() + section.len() + 4 > limit;
        if self.groups.back().is_none_or(closed) {
            let group = Group::new(wall_ns, self.spare.take());
            self.groups.push_back(group);
            self.pushed_seq += 1;
        }
        self.data_seq = self.pushed_seq;
        let group = self
            .groups
            .back_mut()
            .expect("a group was just made sure of");
        group.frame.extend(&(section.len() as u32).to_le_bytes());
        group.frame.extend(section);
        group.sections += 1;
        group.points = group.points.saturating_add(points);
        group.sync |= sync;
        LogTicket(group.ticket.clone())
    }

    /// Makes everything pushed so far durable. Costs nothing if it is.
    pub fn flush(&mut self, wall_ns: i64) -> LogTicket {
        if let Some(error) = &self.failure {
            return LogTicket(Ticket::ended(Err(as_io(error))));
        }
        if let Some(group) = self.groups.back_mut() {
            group.sync = true;
            return LogTicket(group.ticket.clone());
        }
        // Empty frames promise nothing to anybody: only sections have to be flushed.
        if self.durable_seq >= self.data_seq {
            return LogTicket(Ticket::ended(Ok(Completion::Done)));
        }
        match &self.in_flight {
            Some(frame) if frame.sync => LogTicket(frame.ticket.clone()),
            _ => self.empty_frame(true, wall_ns),
        }
    }

    fn empty_frame(&mut self, sync: bool, wall_ns: i64) -> LogTicket {
        let mut group = Group::new(wall_ns, self.spare.take());
        group.sync = sync;
        let ticket = LogTicket(group.ticket.clone());
        self.groups.push_back(group);
        self.pushed_seq += 1;
        ticket
    }

    /// Whether frames were flushed that no later frame declares, so that rot in the last one would look like a
    /// torn end.
    pub fn idle_frame_due(&self) -> bool {
        self.failure.is_none()
            && self.groups.is_empty()
            && self.in_flight.is_none()
            && self.durable_seq > self.declared_seq
    }

    /// Writes an empty frame that carries what is durable.
    pub fn write_idle_frame(&mut self, wall_ns: i64) {
        if self.idle_frame_due() {
            self.empty_frame(false, wall_ns);
        }
    }

    /// Moves on what the device has ended. Never waits. Returns whether anything is pending.
    pub fn drive(&mut self) -> bool {
        loop {
            if self.failure.is_some() {
                self.fail_all();
                return false;
            }
            self.drop_trimmed();
            if !self.collect() {
                return true;
            }
            self.prepare_next();
            if self.failure.is_some() {
                continue;
            }
            if self.groups.is_empty() {
                let opening = self.opening.as_ref();
                let opening = opening.is_some_and(|o| !matches!(o, Opening::Ready(_)));
                return opening || self.trimming.is_some();
            }
            if !self.submit_next() {
                return self.tries || self.tries_small || self.closing.is_some();
            }
        }
    }

    /// Takes in the frame in flight. Returns whether none is left.
    fn collect(&mut self) -> bool {
        let Some(frame) = &self.in_flight else {
            return true;
        };
        let Some(result) = frame.write.result() else {
            return false;
        };
        let Some(frame) = self.in_flight.take() else {
            return true;
        };
        match result {
            Ok(_) => {
                self.written_seq = frame.seq;
                if frame.sync {
                    self.durable_seq = frame.seq;
                }
                frame.completer.complete(Ok(Completion::Done));
                // A device that still has it lets go of it in its own time.
                let written = Arc::try_unwrap(frame.buffer).ok();
                self.spare = written.and_then(spare).or(self.spare.take());
            }
            Err(error) => {
                self.failure = Some(error.clone().into());
                frame.completer.complete(Err(error));
            }
        }
        true
    }

    fn poll_folder(&self, mark: FolderMark) -> Option<Result<(), IoError>> {
        self.folder.poll(self.device.as_ref(), self.lane, mark)
    }

    /// Sends the oldest group if a segment has room for it. Returns whether it did.
    fn submit_next(&mut self) -> bool {
        if self.groups.is_empty() {
            return false;
        }
        if let Some(closing) = &self.closing {
            match closing.result() {
                None => return false,
                Some(Ok(_)) => {
                    self.closing = None;
                    // Nothing is in flight here, so the sync covered all that was sent.
                    self.durable_seq = self.sent_seq;
                }
                Some(Err(error)) => {
                    self.failure = Some(error.into());
                    return true;
                }
            }
        }
        let frame_bytes = self.homeless_bytes();
        if frame_bytes > 0 {
            if self.full && self.groups.iter().any(|g| g.sync) {
                // What waits finds no room, and must not keep what is written from being flushed.
                self.sync_written();
            }
            match self.opening.take() {
                Some(Opening::Ready(segment)) if frame_bytes <= segment.capacity => {
                    return self.enter(segment);
                }
                Some(Opening::Ready(small)) => {
                    // Made before anyone knew of so large a frame: it is opened again, larger.
                    self.close(&small);
                    self.open_next(frame_bytes);
                }
                None => self.open_next(frame_bytes),
                other => self.opening = other,
            }
            self.prepare_next();
            return matches!(self.opening, Some(Opening::Ready(_))) || self.failure.is_some();
        }
        self.send();
        true
    }

    /// Makes a segment the one written to, once the one before is flushed.
    fn enter(&mut self, segment: Segment) -> bool {
        self.sync_written();
        self.next_segment = segment.number + 1;
        self.segments.push_back(segment);
        true
    }

    fn close(&self, segment: &Segment) {
        let close = Op::Close { file: segment.file };
        drop(self.device.submit(self.lane, close));
    }

    /// Flushes the segment written to, unless it is. Nothing is in flight, and nothing is sent until it has ended.
    fn sync_written(&mut self) {
        if let Some(Segment { file, .. }) = self.segments.back()
            && self.durable_seq < self.sent_seq
        {
            let sync = Op::Sync { file: *file };
            self.closing = Some(self.device.submit(self.lane, sync));
            self.device.drive(self.lane);
        }
    }

    fn send(&mut self) {
        let Some(group) = self.groups.pop_front() else {
            return;
        };
        let segment = self
            .segments
            .back_mut()
            .expect("there is room in a segment");
        let first = segment.used == 0;
        let sync = group.sync || first;
        let seq = self.sent_seq + 1;
        let mut header = FrameHeader {
            magic: MAGIC.into(),
            header_crc: 0.into(),
            payload_len: (group.frame.payload_len() as u32).into(),
            payload_crc: alluvium_codec::crc32c(group.frame.payload()).into(),
            salt: self.salt.into(),
            incarnation: self.incarnation.into(),
            shard: self.shard.into(),
            flags: (if first { FLAG_FIRST } else { 0 }).into(),
            segment: segment.number.into(),
            previous_crc: self.previous_crc.into(),
            seq: seq.into(),
            durable_seq: self.durable_seq.into(),
            points: group.points.into(),
            sections: group.sections.into(),
            wall_ns: group.wall_ns.into(),
        };
        let crc = header.checksum();
        header.header_crc = crc.into();
        let frame_bytes = group.frame_bytes();
        let buffer = Arc::new(group.frame.finish(header.as_bytes()));
        let op = Op::Write {
            file: segment.file,
            offset: segment.used,
            sync,
            data: WriteData::Buffer(Arc::clone(&buffer)),
        };
        segment.used += frame_bytes;
        segment.last_seq = seq;
        let write = self.device.submit(self.lane, op);
        self.device.drive(self.lane);
        self.sent_seq = seq;
        self.previous_crc = crc;
        self.declared_seq = self.durable_seq;
        let (ticket, completer) = (group.ticket, group.completer);
        self.in_flight = Some(InFlight {
            seq,
            sync,
            write,
            buffer,
            ticket,
            completer,
        });
    }

    fn fail_all(&mut self) {
        let Some(error) = self.failure.as_ref().map(as_io) else {
            return;
        };
        for group in self.groups.drain(..) {
            group.completer.complete(Err(error.clone()));
        }
        if let Some(frame) = self.in_flight.take() {
            frame.completer.complete(Err(error));
        }
    }

    /// The lowest frame the next section pushed may be in: that of the group being collected, if there is one.
    /// Whoever has captured everything up to now must redo from here. Empty frames before it are left out: nothing
    /// makes them durable, and a needed frame is proof that all before it were.
    pub fn next_section_seq(&self) -> u64 {
        if self.groups.is_empty() {
            self.data_seq + 1
        } else {
            self.pushed_seq
        }
    }

    /// Bytes that one more section may have so that it finds room on a full device, too: in the segment written to or in the
    /// one behind it, behind what waits to be written.
    pub fn room(&self) -> u64 {
        let left = self.segments.back().map_or(0, |s| s.capacity - s.used);
        let next = match &self.opening {
            Some(Opening::Ready(next)) => next.capacity,
            _ => 0,
        };
        let pending = self.pending_bytes() as u64;
        let behind = |room: u64| room.saturating_sub(pending + FRAME_ALIGN as u64);
        behind(left).max(behind(next))
    }

    /// Number of the newest group pushed.
    pub fn last_seq(&self) -> u64 {
        self.pushed_seq
    }

    /// Number of the newest frame written.
    pub fn written_seq(&self) -> u64 {
        self.written_seq
    }

    /// Frames up to here are no longer needed.
    pub fn trimmed_seq(&self) -> u64 {
        self.trimmed
    }

    /// Number of the newest frame flushed.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Bytes in memory that the device does not have.
    pub fn pending_bytes(&self) -> usize {
        self.groups.iter().map(|g| g.frame.payload_len()).sum()
    }

    /// Bytes in memory: those pending, and room kept for the next frame. That of the frame in flight is not among them.
    pub fn heap_bytes(&self) -> usize {
        self.pending_bytes() + self.spare.as_ref().map_or(0, AlignedBuf::capacity)
    }

    /// Whether the next segment could not be allocated, and none could since; [`Self::retry`] tries again.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether something waits that no segment has room for, and the device had none for another.
    pub fn is_stuck(&self) -> bool {
        self.full && self.homeless_bytes() > 0
    }

    /// Tries again after the device was full.
    pub fn retry(&mut self) {
        (self.tries, self.tries_small) = (true, true);
        match self.opening.take() {
            // Whether there is room for a whole one is found out in its place; it can be had again.
            Some(Opening::Ready(small)) if self.is_small(&small) => self.close(&small),
            other => self.opening = other,
        }
    }

    /// The first write or flush that failed. Nothing is acknowledged after it.
    pub fn failure(&self) -> Option<&LogError> {
        self.failure.as_ref()
    }

    /// Bytes of frames in segments that have not been trimmed.
    pub fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.used).sum()
    }

    /// Frames up to `seq` are no longer needed: segments that hold no others are recycled or
    /// removed, unless pinned. Done in [`Self::drive`].
    pub fn trim(&mut self, seq: u64) {
        self.trimmed = self.trimmed.max(seq);
        self.drop_trimmed();
    }

    /// Keeps frames from `seq` on until [`Self::unpin`]: for whoever tails the log.
    pub fn pin(&mut self, seq: u64) {
        self.pins.push(seq);
    }

    /// Gives up a pin.
    pub fn unpin(&mut self, seq: u64) {
        if let Some(at) = self.pins.iter().position(|p| *p == seq) {
            self.pins.swap_remove(at);
        }
        self.drop_trimmed();
    }

    /// Takes the oldest segment out if nobody needs it. Moves on by one step of one segment at a time.
    fn drop_trimmed(&mut self) {
        loop {
            match self.trimming.take() {
                Some(Trimming::Named(ticket, kept)) => {
                    let Some(named) = ticket.result() else {
                        self.trimming = Some(Trimming::Named(ticket, kept));
                        return;
                    };
                    // A file that stays is in nobody's way: it is below every number that is read again.
                    let kept = kept.filter(|_| named.is_ok());
                    self.trimming = Some(Trimming::Synced(self.folder.mark(), kept));
                }
                Some(Trimming::Synced(mark, kept)) => match self.poll_folder(mark) {
                    None => {
                        self.trimming = Some(Trimming::Synced(mark, kept));
                        return;
                    }
                    Some(Ok(())) => self.free.extend(kept),
                    Some(Err(error)) => {
                        self.failure.get_or_insert(error.into());
                        return;
                    }
                },
                None => {
                    if self.failure.is_some() || !self.take_oldest() {
                        return;
                    }
                }
            }
        }
    }

    /// Begins to take out the oldest segment. Returns whether there was one to take.
    fn take_oldest(&mut self) -> bool {
        let kept_from = self.pins.iter().min().copied().unwrap_or(u64::MAX);
        let needless = |s: &Segment| {
            s.last_seq <= self.trimmed
                && s.last_seq < kept_from
                && s.last_seq <= self.durable_seq
                && self.closing.is_none()
        };
        if self.segments.len() < 2 || !self.segments.front().is_some_and(needless) {
            return false;
        }
        let Some(oldest) = self.segments.pop_front() else {
            return false;
        };
        self.close(&oldest);
        let path = segment_path(self.incarnation, self.shard, oldest.number);
        let keep = oldest.capacity == self.capacity(0) && self.free.len() < FREE_SEGMENTS_MAX;
        let op = if keep {
            let to = free_path(self.incarnation, self.shard, oldest.number);
            Op::Rename { from: path, to }
        } else {
            Op::Remove { path }
        };
        let ticket = self.device.submit(self.lane, op);
        self.device.drive(self.lane);
        self.trimming = Some(Trimming::Named(ticket, keep.then_some(oldest.number)));
        true
    }
}

fn as_io(error: &LogError) -> IoError {
    match error {
        LogError::Io(error) => error.clone(),
        other => IoError::new("write", DIR, std::io::Error::other(other.to_string())),
    }
}

#[cfg(all(test, loom))]
#[path = "writer_loom.rs"]
mod loom_tests;
