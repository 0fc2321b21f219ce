//! The segment that a stream goes on in: made before it is needed, and on a full device as small as will do.

use alluvium_io::{Completion, IoErrorKind, Op, OpenMode, Ticket};

use super::{FRAME_ALIGN, Group, LogWriter, Segment};
use crate::folder::FolderMark;
use crate::stream::{free_path, not_opened, segment_path};

/// On a full device a segment has room for what waits and this part of a whole one, or so many bytes if that is more.
const SMALL_PART: u64 = 64;
const SMALL_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(super) enum Opening {
    /// A trimmed segment gets the name of the next one.
    Renamed {
        number: u32,
        ticket: Ticket,
    },
    File {
        number: u32,
        capacity: u64,
        ticket: Ticket,
    },
    Dir {
        segment: Segment,
        mark: FolderMark,
    },
    Ready(Segment),
}

impl LogWriter {
    /// Opens the next segment before it is needed.
    pub(super) fn prepare_next(&mut self) {
        match self.opening.take() {
            None => {
                let filled = self
                    .segments
                    .back()
                    .is_some_and(|s| s.used * 4 >= s.capacity * 3);
                if filled || self.full && self.tries {
                    self.open_next(self.homeless_bytes());
                }
            }
            Some(Opening::Renamed { number, ticket }) => match ticket.result() {
                None => self.opening = Some(Opening::Renamed { number, ticket }),
                // A file that could not be renamed is no loss: a new one is made in its place.
                Some(_) => self.open_file(number, self.capacity(0)),
            },
            Some(Opening::File {
                number,
                capacity,
                ticket,
            }) => match ticket.result() {
                None => {
                    self.opening = Some(Opening::File {
                        number,
                        capacity,
                        ticket,
                    });
                }
                Some(Ok(Completion::Opened { file, .. })) => {
                    let segment = Segment {
                        number,
                        file,
                        capacity,
                        used: 0,
                        last_seq: self.sent_seq,
                    };
                    let mark = self.folder.mark();
                    self.opening = Some(Opening::Dir { segment, mark });
                    self.prepare_next();
                }
                Some(Ok(Completion::Done)) => {
                    let path = segment_path(self.incarnation, self.shard, number);
                    self.failure = Some(not_opened(&path).into());
                }
                Some(Err(error)) if error.kind == IoErrorKind::NoSpace => {
                    if capacity < self.capacity(0) {
                        self.tries_small = false;
                    } else {
                        (self.full, self.tries) = (true, false);
                        self.prepare_next();
                    }
                }
                Some(Err(error)) => self.failure = Some(error.into()),
            },
            Some(Opening::Dir { segment, mark }) => match self.poll_folder(mark) {
                None => self.opening = Some(Opening::Dir { segment, mark }),
                Some(Ok(())) => {
                    self.full &= self.is_small(&segment);
                    self.opening = Some(Opening::Ready(segment));
                }
                Some(Err(error)) => self.failure = Some(error.into()),
            },
            ready @ Some(Opening::Ready(_)) => self.opening = ready,
        }
    }

    /// Size of a segment that must take a frame of so many bytes.
    pub(super) fn capacity(&self, frame_bytes: u64) -> u64 {
        let bytes = self.config.segment_bytes.max(frame_bytes);
        bytes.next_multiple_of(FRAME_ALIGN as u64)
    }

    /// Whether it was made since there was no room for a whole one.
    pub(super) fn is_small(&self, segment: &Segment) -> bool {
        segment.capacity < self.capacity(0)
    }

    /// Opens a segment for a frame of so many bytes: a small one where there was no room for a whole one, so that what waits
    /// keeps neither checkpoints nor deletes from giving room back.
    pub(super) fn open_next(&mut self, frame_bytes: u64) {
        if self.tries {
            self.open_segment(frame_bytes);
            return;
        }
        let whole = self.config.segment_bytes;
        let bytes = frame_bytes + (whole / SMALL_PART).max(SMALL_BYTES.min(whole / 4));
        let capacity = bytes.next_multiple_of(FRAME_ALIGN as u64);
        if self.tries_small && capacity < self.capacity(0) {
            self.open_file(self.next_segment, capacity);
        }
    }

    fn open_segment(&mut self, frame_bytes: u64) {
        // A number is used up only when the segment is: after a full disk the same file is tried again.
        let number = self.next_segment;
        let capacity = self.capacity(frame_bytes);
        if capacity == self.capacity(0)
            && let Some(free) = self.free.pop()
        {
            let op = Op::Rename {
                from: free_path(self.incarnation, self.shard, free),
                to: segment_path(self.incarnation, self.shard, number),
            };
            let ticket = self.device.submit(self.lane, op);
            self.device.drive(self.lane);
            self.opening = Some(Opening::Renamed { number, ticket });
            return;
        }
        self.open_file(number, capacity);
    }

    fn open_file(&mut self, number: u32, capacity: u64) {
        let path = segment_path(self.incarnation, self.shard, number);
        let mode = OpenMode {
            create: true,
            allocate: capacity,
            direct: true,
        };
        let ticket = self.device.submit(self.lane, Op::Open { path, mode });
        self.device.drive(self.lane);
        self.opening = Some(Opening::File {
            number,
            capacity,
            ticket,
        });
    }

    /// Bytes of the oldest frame that waits, if the segment written to has no room for it.
    pub(super) fn homeless_bytes(&self) -> u64 {
        let bytes = self.groups.front().map_or(0, Group::frame_bytes);
        let fits = |s: &Segment| s.used + bytes <= s.capacity;
        if self.segments.back().is_some_and(fits) {
            0
        } else {
            bytes
        }
    }
}
