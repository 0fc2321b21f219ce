//! Reading a stream back, and telling a torn end from damage.
//!
//! A stream ends where a frame does not hold. That is the plain end of a segment if the next one continues from
//! there. It is damage if any valid later frame says that the missing one was flushed, or if reading was to begin
//! behind it, and something is there: then nothing may be believed to have been lost by a crash alone. Otherwise
//! it is the torn end of a write nobody was told of.
//!
//! A frame holds if its two checksums do, it names this instance, stream and segment, its number is one more
//! than that of the frame before, and it repeats the header checksum of that frame: what a recycled file held
//! before never does.

use alluvium_io::{AlignedBuf, Completion, Device, FileId, Lane, Op, OpenMode, Read};
use zerocopy::FromBytes;

use crate::error::LogError;
use crate::layout::{FLAG_FIRST, FrameHeader, HEADER_BYTES, MAGIC};
use crate::stream::{StreamInfo, not_opened, segment_path};
use crate::writer::FRAME_ALIGN;

/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Bytes read at once, at the most, when a segment is read through.
pub(crate) const THROUGH_BYTES: u64 = 4 * READ_BYTES as u64;
/// Bytes of the first read of a segment; each one behind it is twice as long. Many segments hold less than a megabyte: the last
/// one of every stream, and all of a small database.
const FIRST_BYTES: u64 = 64 << 10;
/// Bytes read at once when one header is wanted.
const PEEK_BYTES: u64 = FRAME_ALIGN as u64;
/// Read at once where the device refuses some of a segment.
const NARROW_BYTES: u64 = FRAME_ALIGN as u64;

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
pub(crate) struct SegmentReader<'a> {
    device: &'a dyn Device,
    file: FileId,
    pub(crate) len: u64,
    /// How much to read at once, at the most.
    batch_bytes: u64,
    /// How much to read next.
    next_bytes: u64,
    window: Vec<u8>,
    base: u64,
    /// Buffers of reads before.
    spare: Vec<AlignedBuf>,
}

impl<'a> SegmentReader<'a> {
    pub(crate) fn open(
        device: &'a dyn Device,
        path: &str,
        batch_bytes: u64,
    ) -> Result<Self, LogError> {
        Self::open_as(device, path, batch_bytes, OpenMode::default())
    }

    /// As [`Self::open`], past the memory of the operating system: `batch_bytes` is a multiple of a page, and so is the file.
    pub(crate) fn open_direct(
        device: &'a dyn Device,
        path: &str,
        batch_bytes: u64,
    ) -> Result<Self, LogError> {
        let mode = OpenMode {
            direct: true,
            ..OpenMode::default()
        };
        Self::open_as(device, path, batch_bytes, mode)
    }

    fn open_as(
        device: &'a dyn Device,
        path: &str,
        batch_bytes: u64,
        mode: OpenMode,
    ) -> Result<Self, LogError> {
        let path = path.to_owned();
        let op = Op::Open {
            path: path.clone(),
            mode,
        };
        match device.submit(Lane(0), op).wait(device, Lane(0))? {
            Completion::Opened { file, len } => Ok(Self {
                device,
                file,
                len,
                batch_bytes,
                next_bytes: batch_bytes.min(FIRST_BYTES),
                window: Vec::new(),
                base: 0,
                spare: Vec::new(),
            }),
            Completion::Done => Err(not_opened(&path).into()),
        }
    }

    /// From now on no more is read than is asked for.
    pub(crate) fn narrow(&mut self) {
        (self.batch_bytes, self.next_bytes) = (NARROW_BYTES, NARROW_BYTES);
        self.window.clear();
    }

    pub(crate) fn is_narrow(&self) -> bool {
        self.batch_bytes == NARROW_BYTES
    }

    /// The salt of what may be a frame at `offset`: its header holds.
    pub(crate) fn salt_at(&mut self, offset: u64) -> Result<Option<u64>, LogError> {
        let bytes = self.bytes(offset, HEADER_BYTES)?;
        let header = FrameHeader::read_from_prefix(bytes).ok().map(|(h, _)| h);
        let whole = |h: &FrameHeader| h.magic.get() == MAGIC && h.checksum() == h.header_crc.get();
        Ok(header.filter(whole).map(|h| h.salt.get()))
    }

    /// The bytes from `offset` on, at least `len` of them unless the segment ends.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], LogError> {
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
                let to = self.len.min(from + self.next_bytes);
                self.next_bytes = self.batch_bytes.min(2 * self.next_bytes);
                let mut reads: Vec<Read> = (from..to)
                    .step_by(READ_BYTES)
                    .map(|offset| {
                        let len = (to - offset).min(READ_BYTES as u64) as usize;
                        let spare = self.spare.pop().filter(|buffer| buffer.len() == len);
                        Read {
                            file: self.file,
                            offset,
                            into: spare.unwrap_or_else(|| AlignedBuf::zeroed(len)),
                        }
                    })
                    .collect();
                if reads.is_empty() {
                    break;
                }
                self.device.read(&mut reads)?;
                for read in reads {
                    self.window.extend_from_slice(read.into.bytes());
                    self.spare.push(read.into);
                }
            }
        }
        let at = (offset - self.base) as usize;
        let end = (at + wanted).min(self.window.len());
        Ok(self.window.get(at..end).unwrap_or_default())
    }
}

impl Drop for SegmentReader<'_> {
    fn drop(&mut self) {
        let op = Op::Close { file: self.file };
        drop(self.device.submit(Lane(0), op));
        self.device.drive(Lane(0));
    }
}

/// What identifies the frames of one segment.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    salt: u64,
    incarnation: u32,
    shard: u16,
    segment: u32,
}

impl Identity {
    pub(crate) fn of(stream: &StreamInfo, salt: u64, segment: u32) -> Self {
        Self {
            salt,
            incarnation: stream.incarnation,
            shard: stream.shard,
            segment,
        }
    }

    fn path(self) -> String {
        segment_path(self.incarnation, self.shard, self.segment)
    }

    fn owns(self, header: &FrameHeader) -> bool {
        header.salt.get() == self.salt
            && header.incarnation.get() == self.incarnation
            && header.shard.get() == self.shard
            && header.segment.get() == self.segment
    }
}

/// The header at `offset` if it holds and is of this segment.
fn header(
    reader: &mut SegmentReader<'_>,
    offset: u64,
    identity: Identity,
) -> Result<Option<FrameHeader>, LogError> {
    let bytes = reader.bytes(offset, HEADER_BYTES)?;
    let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else {
        return Ok(None);
    };
    let ours = header.magic.get() == MAGIC
        && identity.owns(&header)
        && header.checksum() == header.header_crc.get();
    Ok(ours.then_some(header))
}

/// The frame at `offset` if it is whole and of this segment.
pub(crate) fn frame(
    reader: &mut SegmentReader<'_>,
    offset: u64,
    identity: Identity,
) -> Result<Option<FrameHeader>, LogError> {
    let Some(header) = header(reader, offset, identity)? else {
        return Ok(None);
    };
    let len = HEADER_BYTES + header.payload_len.get() as usize;
    // Checked before reading: a length must not cost memory that the segment does not have.
    if offset + len as u64 > reader.len {
        return Ok(None);
    }
    let payload = reader.bytes(offset, len)?.get(HEADER_BYTES..len);
    Ok(payload
        .filter(|p| alluvium_codec::crc32c(p) == header.payload_crc.get())
        .map(|_| header))
}

/// Bytes of a frame without its padding.
pub(crate) fn frame_len(header: &FrameHeader) -> usize {
    HEADER_BYTES + header.payload_len.get() as usize
}

/// Bytes of a frame with its padding.
pub(crate) fn frame_bytes(header: &FrameHeader) -> u64 {
    frame_len(header).next_multiple_of(FRAME_ALIGN) as u64
}

/// Whether a frame is the one that must come next; without one before, whether reading may begin with it.
pub(crate) fn follows(previous: Option<&FrameHeader>, frame: &FrameHeader, needed: u64) -> bool {
    let seq = frame.seq.get();
    match previous {
        Some(p) => {
            p.seq.get().checked_add(1) == Some(seq)
                && frame.previous_crc.get() == p.header_crc.get()
        }
        None => (1..=needed).contains(&seq) && (seq > 1 || frame.previous_crc.get() == 0),
    }
}

/// Reads a stream from frame `from_seq` on (0: all of it), calling `visit` with the number of the frame and
/// the bytes of each of its sections, in order. Segments below `from_seq` need not be there. Waits.
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
    read_through(device, stream, salt, from_seq, true, visit)
}

/// As [`replay`], but does not look behind the end of the stream for proof that it was damaged there: for a look ahead of
/// the replay, which will. Costs no read of what the last segment has not been filled with yet.
///
/// # Errors
/// As [`replay`], without [`LogError::Damaged`].
pub fn skim(
    device: &dyn Device,
    stream: &StreamInfo,
    salt: u64,
    from_seq: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<StreamEnd, LogError> {
    read_through(device, stream, salt, from_seq, false, visit)
}

fn read_through(
    device: &dyn Device,
    stream: &StreamInfo,
    salt: u64,
    from_seq: u64,
    seek_proof: bool,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<StreamEnd, LogError> {
    let needed = from_seq.max(1);
    let mut end = StreamEnd {
        next_seq: needed,
        ..StreamEnd::default()
    };
    let (begin, first) = first_segment(device, stream, salt, needed)?;
    // The next frame; 0 if not even the first header can be read.
    let mut missing = first.unwrap_or(0);
    let mut previous: Option<FrameHeader> = None;
    let mut stop: Option<(u32, u64)> = None;
    let mut number_before: Option<u32> = None;
    for (segment, _) in stream.segments.iter().skip(begin) {
        if let Some(expected) = number_before.map(|n| n.wrapping_add(1))
            && expected != *segment
        {
            return Err(LogError::MissingSegment {
                stream: stream.name(),
                segment: expected,
            });
        }
        number_before = Some(*segment);
        let identity = Identity::of(stream, salt, *segment);
        let mut reader = SegmentReader::open(device, &identity.path(), THROUGH_BYTES)?;
        let mut offset = 0;
        while let Some(header) = frame(&mut reader, offset, identity)?
            .filter(|f| follows(previous.as_ref(), f, needed))
            .filter(|f| (offset == 0) == (f.flags.get() & FLAG_FIRST != 0))
        {
            let seq = header.seq.get();
            if seq >= from_seq {
                let len = HEADER_BYTES + header.payload_len.get() as usize;
                let payload = reader.bytes(offset, len)?.get(HEADER_BYTES..len);
                visit_sections(seq, payload.unwrap_or_default(), visit)?;
            }
            missing = seq.saturating_add(1);
            end.next_seq = missing;
            end.durable_seq = end.durable_seq.max(header.durable_seq.get());
            end.bytes += frame_bytes(&header);
            offset += frame_bytes(&header);
            previous = Some(header);
        }
        // A segment that does not go on where the stream stopped leaves the end where it was.
        if offset > 0 || stop.is_none() {
            stop = Some((*segment, offset));
        }
        if let Some(at) = stop
            && seek_proof
            && (offset < reader.len)
            && has_proof(&mut reader, offset, identity, missing, needed)?
        {
            let (segment, offset) = at;
            return Err(LogError::Damaged {
                stream: stream.name(),
                seq: if missing == 0 { needed } else { missing },
                segment,
                offset,
            });
        }
    }
    if let Some((segment, offset)) = stop {
        let identity = Identity::of(stream, salt, segment);
        end.torn_at = torn(device, identity, offset)?.then_some((segment, offset));
    }
    Ok(end)
}

/// Index and first frame of the newest segment that begins at or before frame `needed`; what is older was
/// trimmed, or is about to be. The first if none is known to.
pub(crate) fn first_segment(
    device: &dyn Device,
    stream: &StreamInfo,
    salt: u64,
    needed: u64,
) -> Result<(usize, Option<u64>), LogError> {
    for (i, (segment, _)) in stream.segments.iter().enumerate().rev() {
        let identity = Identity::of(stream, salt, *segment);
        let mut reader = SegmentReader::open(device, &identity.path(), PEEK_BYTES)?;
        let Some(header) = header(&mut reader, 0, identity)? else {
            continue;
        };
        if header.seq.get() <= needed {
            return Ok((i, Some(header.seq.get())));
        }
        if i == 0 {
            // Nothing is written to a segment before the one in front of it is flushed: it was there.
            return Err(LogError::MissingSegment {
                stream: stream.name(),
                segment: segment.saturating_sub(1),
            });
        }
    }
    Ok((0, None))
}

/// Looks through the rest of a segment for proof that frame `missing` had been flushed: a frame that says so.
/// What came before a needed frame had been when the need was written down, so there any needed frame is proof.
/// A header is enough, whatever became of its payload.
fn has_proof(
    reader: &mut SegmentReader<'_>,
    from: u64,
    identity: Identity,
    missing: u64,
    needed: u64,
) -> Result<bool, LogError> {
    for offset in (from..reader.len).step_by(FRAME_ALIGN) {
        let proves = |header: FrameHeader| {
            if missing < needed {
                header.seq.get() >= needed
            } else {
                header.durable_seq.get() >= missing
            }
        };
        if header(reader, offset, identity)?.is_some_and(proves) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a frame of this segment was begun where the stream ends: zeros and whole frames of an earlier use of
/// the file are a clean end.
fn torn(device: &dyn Device, identity: Identity, offset: u64) -> Result<bool, LogError> {
    let mut reader = SegmentReader::open(device, &identity.path(), PEEK_BYTES)?;
    let bytes = reader.bytes(offset, HEADER_BYTES)?;
    let Ok((found, _)) = FrameHeader::read_from_prefix(bytes) else {
        return Ok(false);
    };
    let whole = found.checksum() == found.header_crc.get();
    Ok(found.magic.get() == MAGIC && (!whole || identity.owns(&found)))
}

pub(crate) fn visit_sections(
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
