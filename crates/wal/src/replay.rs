//! Reading a stream back, and telling a torn end from damage.
//!
//! A stream ends where a frame does not hold. That is the plain end of a segment if the next one continues from
//! there. It is damage if any valid later frame says that the missing one was flushed: then nothing may be
//! believed to have been lost by a crash alone. Otherwise it is the torn end of a write nobody was told of.

use alluvium_io::{AlignedBuf, Completion, Device, FileId, Lane, Op, OpenMode, Read};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::LogError;
use crate::layout::{FLAG_FIRST, FrameHeader, HEADER_BYTES, MAGIC};
use crate::stream::{StreamInfo, not_opened, segment_path};
use crate::writer::FRAME_ALIGN;

/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Reads of one batch.
const READS: usize = 4;

/// Where a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamEnd {
    /// One more than the last frame that holds.
    pub next_seq: u64,
    /// Segment and byte of a torn frame, if the stream does not end cleanly.
    pub torn_at: Option<(u32, u64)>,
    /// Highest frame any frame declared flushed.
    pub durable_seq: u64,
    /// Bytes of frames read.
    pub bytes: u64,
}

/// A segment read front to back through a window.
struct SegmentReader<'a> {
    device: &'a dyn Device,
    file: FileId,
    len: u64,
    window: Vec<u8>,
    base: u64,
}

impl<'a> SegmentReader<'a> {
    fn open(device: &'a dyn Device, path: &str) -> Result<Self, LogError> {
        let op = Op::Open {
            path: path.to_owned(),
            mode: OpenMode::default(),
        };
        match device.submit(Lane(0), op).wait(device, Lane(0))? {
            Completion::Opened { file, len } => Ok(Self {
                device,
                file,
                len,
                window: Vec::new(),
                base: 0,
            }),
            Completion::Done => Err(not_opened(path).into()),
        }
    }

    fn close(self) -> Result<(), LogError> {
        self.device
            .submit(Lane(0), Op::Close { file: self.file })
            .wait(self.device, Lane(0))?;
        Ok(())
    }

    /// The bytes from `offset` on, at least `len` of them unless the segment ends.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], LogError> {
        let wanted = len.min(self.len.saturating_sub(offset) as usize);
        let at = offset
            .checked_sub(self.base)
            .map(|a| a as usize)
            .filter(|a| *a <= self.window.len());
        if at.is_none_or(|a| self.window.len() - a < wanted) {
            // Keep what is still ahead, then read on behind it.
            match at {
                Some(at) => drop(self.window.drain(..at)),
                None => self.window.clear(),
            }
            self.base = offset;
            while self.window.len() < wanted {
                let from = self.base + self.window.len() as u64;
                let mut reads: Vec<Read> = (0..READS as u64)
                    .map(|i| from + i * READ_BYTES as u64)
                    .take_while(|offset| *offset < self.len)
                    .map(|offset| {
                        let len = (self.len - offset).min(READ_BYTES as u64) as usize;
                        Read {
                            file: self.file,
                            offset,
                            into: AlignedBuf::zeroed(len),
                        }
                    })
                    .collect();
                if reads.is_empty() {
                    break;
                }
                self.device.read(&mut reads)?;
                for read in &reads {
                    self.window.extend_from_slice(read.into.bytes());
                }
            }
        }
        let at = (offset - self.base) as usize;
        let end = (at + wanted).min(self.window.len());
        Ok(self.window.get(at..end).unwrap_or_default())
    }
}

/// What identifies the frames of one segment.
#[derive(Clone, Copy)]
struct Identity {
    salt: u64,
    incarnation: u32,
    shard: u16,
    segment: u32,
}

/// The frame at `offset` if it is whole and of this segment.
fn frame(
    reader: &mut SegmentReader<'_>,
    offset: u64,
    identity: Identity,
) -> Result<Option<FrameHeader>, LogError> {
    let bytes = reader.bytes(offset, HEADER_BYTES)?;
    let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else {
        return Ok(None);
    };
    let ours = header.magic.get() == MAGIC
        && header.salt.get() == identity.salt
        && header.incarnation.get() == identity.incarnation
        && header.shard.get() == identity.shard
        && header.segment.get() == identity.segment
        && header.checksum() == header.header_crc.get();
    if !ours {
        return Ok(None);
    }
    let len = header.payload_len.get() as usize;
    if offset + (HEADER_BYTES + len) as u64 > reader.len {
        return Ok(None);
    }
    let bytes = reader.bytes(offset, HEADER_BYTES + len)?;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + len);
    Ok(payload
        .filter(|p| alluvium_codec::crc32c(p) == header.payload_crc.get())
        .map(|_| header))
}

fn frame_bytes(header: &FrameHeader) -> u64 {
    (HEADER_BYTES + header.payload_len.get() as usize).next_multiple_of(FRAME_ALIGN) as u64
}

/// Reads a stream from frame `from_seq` on (0: from its first), calling `visit` with the number of the frame and
/// the bytes of each of its sections, in order. Waits.
///
/// # Errors
/// [`LogError::Damaged`] if acknowledged data does not hold, [`LogError::MissingSegment`] if a segment is gone,
/// or what `visit` returns.
pub fn replay(
    device: &dyn Device,
    stream: &StreamInfo,
    salt: u64,
    from_seq: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<StreamEnd, LogError> {
    let mut end = StreamEnd {
        next_seq: from_seq.max(1),
        ..StreamEnd::default()
    };
    let mut previous: Option<FrameHeader> = None;
    let mut bad: Option<(u32, u64)> = None;
    for (i, (segment, _)) in stream.segments.iter().enumerate() {
        let identity = Identity {
            salt,
            incarnation: stream.incarnation,
            shard: stream.shard,
            segment: *segment,
        };
        let mut reader = SegmentReader::open(
            device,
            &segment_path(stream.incarnation, stream.shard, *segment),
        )?;
        if let Some((bad_segment, bad_offset)) = bad {
            // The stream ended in an earlier segment: does this one continue from there, or tell of a loss?
            let first = frame(&mut reader, 0, identity)?;
            let continues = first.is_some_and(|f| {
                follows(previous.as_ref(), &f, end.next_seq) && f.flags.get() & FLAG_FIRST != 0
            });
            if !continues {
                find_damage(
                    &mut reader,
                    0,
                    identity,
                    stream,
                    end.next_seq,
                    (bad_segment, bad_offset),
                )?;
                reader.close()?;
                continue;
            }
            bad = None;
        }
        let mut offset = 0;
        loop {
            let found = frame(&mut reader, offset, identity)?;
            let Some(header) = found.filter(|f| match &previous {
                Some(_) => follows(previous.as_ref(), f, end.next_seq),
                // The first frame read may be any up to the one asked for.
                None => f.seq.get() <= end.next_seq,
            }) else {
                break;
            };
            let seq = header.seq.get();
            if seq >= from_seq {
                let len = HEADER_BYTES + header.payload_len.get() as usize;
                let payload = reader
                    .bytes(offset, len)?
                    .get(HEADER_BYTES..len)
                    .unwrap_or_default();
                visit_sections(seq, payload, visit)?;
                end.next_seq = seq + 1;
            } else if previous.is_some() || seq < end.next_seq {
                end.next_seq = end.next_seq.max(seq + 1).min(from_seq.max(1));
            }
            end.durable_seq = end.durable_seq.max(header.durable_seq.get());
            end.bytes += frame_bytes(&header);
            offset += frame_bytes(&header);
            previous = Some(header);
            if seq + 1 < from_seq {
                end.next_seq = seq + 1;
            }
        }
        let rest = offset;
        bad = Some((*segment, offset));
        find_damage(
            &mut reader,
            rest,
            identity,
            stream,
            next_of(previous.as_ref(), &end),
            (*segment, rest),
        )?;
        reader.close()?;
        if let Some(previous) = &previous {
            end.next_seq = previous.seq.get() + 1;
        }
        if let Some((next, _)) = stream.segments.get(i + 1)
            && *next != segment + 1
        {
            return Err(LogError::MissingSegment {
                stream: stream.name(),
                segment: segment + 1,
            });
        }
    }
    // A last segment whose frames all hold ends in untouched or stale blocks: that is no torn frame.
    end.torn_at = match bad {
        Some((segment, offset)) => {
            torn(device, stream, segment, offset)?.then_some((segment, offset))
        }
        None => None,
    };
    Ok(end)
}

fn next_of(previous: Option<&FrameHeader>, end: &StreamEnd) -> u64 {
    previous.map_or(end.next_seq, |p| p.seq.get() + 1)
}

/// Whether a frame is the one that must come next.
fn follows(previous: Option<&FrameHeader>, frame: &FrameHeader, _next: u64) -> bool {
    previous.is_some_and(|p| {
        frame.seq.get() == p.seq.get() + 1 && frame.previous_crc.get() == p.header_crc.get()
    })
}

/// Looks through the rest of a segment for a frame that says frame `missing` was flushed.
fn find_damage(
    reader: &mut SegmentReader<'_>,
    from: u64,
    identity: Identity,
    stream: &StreamInfo,
    missing: u64,
    at: (u32, u64),
) -> Result<(), LogError> {
    let mut offset = from;
    while offset < reader.len {
        if let Some(header) = frame(reader, offset, identity)?
            && header.durable_seq.get() >= missing
        {
            let (segment, offset) = at;
            return Err(LogError::Damaged {
                stream: stream.name(),
                seq: missing,
                segment,
                offset,
            });
        }
        offset += FRAME_ALIGN as u64;
    }
    Ok(())
}

/// Whether something was being written where the stream ends.
fn torn(
    device: &dyn Device,
    stream: &StreamInfo,
    segment: u32,
    offset: u64,
) -> Result<bool, LogError> {
    let mut reader = SegmentReader::open(
        device,
        &segment_path(stream.incarnation, stream.shard, segment),
    )?;
    let torn = reader.bytes(offset, HEADER_BYTES)?.iter().any(|b| *b != 0);
    reader.close()?;
    Ok(torn)
}

fn visit_sections(
    seq: u64,
    mut payload: &[u8],
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<(), LogError> {
    while let Some((len, rest)) = payload.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let (section, rest) = rest
            .split_at_checked(len)
            .ok_or(alluvium_codec::CodecError::Truncated)?;
        visit(seq, section)?;
        payload = rest;
    }
    Ok(())
}

// Kept beside the reader: a header is written and read by the same structure.
const _: fn(&FrameHeader) -> &[u8] = |h| h.as_bytes();
