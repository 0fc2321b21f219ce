//! A look through the frames of a stream that are durable, a piece at a time, while others are written behind them.

use alluvium_io::Device;

use crate::error::LogError;
use crate::layout::{FLAG_FIRST, FrameHeader, HEADER_BYTES};
use crate::replay::{
    Identity, SegmentReader, first_segment, follows, frame, frame_bytes, visit_sections,
};
use crate::stream::{StreamInfo, list_streams, segment_path};

/// Bytes of one read.
const READ_BYTES: u64 = 1 << 20;

/// Where a check of a stream is.
///
/// Nothing is pinned: a segment that is trimmed meanwhile may be gone, or belong to later frames, when it is read. So what
/// does not hold counts only if the stream still needs it: who is told an error and finds that more has been trimmed than
/// when the check began goes on with [`Self::restart`].
pub struct StreamCheck {
    incarnation: u32,
    shard: u16,
    salt: u64,
    needed: u64,
    until: u64,
    at: Option<(u32, u64)>,
    previous: Option<FrameHeader>,
    /// Frames that hold so far.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl std::fmt::Debug for StreamCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamCheck")
            .field("stream", &self.name())
            .field("needed", &self.needed)
            .field("until", &self.until)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl StreamCheck {
    /// A check of the frames with which a replay from `needed` would begin, up to `durable`, the newest that is flushed.
    pub fn new((incarnation, shard): (u32, u16), salt: u64, needed: u64, durable: u64) -> Self {
        Self {
            incarnation,
            shard,
            salt,
            needed: needed.max(1),
            until: durable,
            at: None,
            previous: None,
            frames: 0,
            bytes: 0,
        }
    }

    /// The shard whose stream it is.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// The name of the stream.
    pub fn name(&self) -> String {
        self.stream().name()
    }

    /// The frame it was to begin with.
    pub fn needed(&self) -> u64 {
        self.needed
    }

    /// Begins anew with a later frame: what is before it has been trimmed.
    pub fn restart(&mut self, needed: u64) {
        self.needed = needed.max(1);
        self.at = None;
        self.previous = None;
    }

    /// Reads frames from the device for about `bytes_max`. Returns whether there is more. Waits.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if a frame does not hold, [`LogError::MissingSegment`] if a segment is not there, a
    /// malformed section, or what the device says. Another call without [`Self::restart`] says the same.
    pub fn step(&mut self, device: &dyn Device, bytes_max: u64) -> Result<bool, LogError> {
        if self.next_seq() > self.until || self.needed > self.until {
            return Ok(false);
        }
        let (mut segment, mut offset) = match self.at {
            Some(at) => at,
            None => (self.first_segment(device)?, 0),
        };
        let end = self.bytes + bytes_max;
        loop {
            let identity = Identity::of(&self.stream(), self.salt, segment);
            let path = segment_path(self.incarnation, self.shard, segment);
            let mut reader = SegmentReader::open_direct(device, &path, READ_BYTES)?;
            while let Some(header) = frame(&mut reader, offset, identity)?
                .filter(|f| follows(self.previous.as_ref(), f, self.needed))
                .filter(|f| (offset == 0) == (f.flags.get() & FLAG_FIRST != 0))
            {
                let len = HEADER_BYTES + header.payload_len.get() as usize;
                let payload = reader.bytes(offset, len)?.get(HEADER_BYTES..len);
                let mut whole = |_: u64, section: &[u8]| crate::read_section(section).map(drop);
                visit_sections(header.seq.get(), payload.unwrap_or_default(), &mut whole)?;
                offset += frame_bytes(&header);
                self.frames += 1;
                self.bytes += frame_bytes(&header);
                self.previous = Some(header);
                self.at = Some((segment, offset));
                if self.next_seq() > self.until {
                    return Ok(false);
                }
                if self.bytes >= end {
                    return Ok(true);
                }
            }
            if offset == 0 {
                return Err(self.damaged());
            }
            // Its end, if the next segment goes on.
            (segment, offset) = (segment.wrapping_add(1), 0);
            if !self.has_segment(device, segment)? {
                return Err(self.damaged());
            }
        }
    }

    /// The number that comes next; 0 if none is known.
    fn next_seq(&self) -> u64 {
        let next = |previous: &FrameHeader| previous.seq.get().saturating_add(1);
        self.previous.as_ref().map_or(0, next)
    }

    fn damaged(&self) -> LogError {
        let (segment, offset) = self.at.unwrap_or_default();
        LogError::Damaged {
            stream: self.stream().name(),
            seq: self.next_seq(),
            segment,
            offset,
        }
    }

    fn stream(&self) -> StreamInfo {
        StreamInfo {
            incarnation: self.incarnation,
            shard: self.shard,
            segments: Vec::new(),
            free: Vec::new(),
        }
    }

    fn listed(&self, device: &dyn Device) -> Result<StreamInfo, LogError> {
        let ours = |s: &StreamInfo| s.incarnation == self.incarnation && s.shard == self.shard;
        let mut streams = list_streams(device)?.into_iter();
        Ok(streams.find(ours).unwrap_or_else(|| self.stream()))
    }

    fn has_segment(&self, device: &dyn Device, segment: u32) -> Result<bool, LogError> {
        let listed = self.listed(device)?;
        Ok(listed.segments.iter().any(|(number, _)| *number == segment))
    }

    fn first_segment(&mut self, device: &dyn Device) -> Result<u32, LogError> {
        let stream = self.listed(device)?;
        let (begin, _) = first_segment(device, &stream, self.salt, self.needed)?;
        let first = stream.segments.get(begin).map(|(number, _)| *number);
        let first = first.ok_or_else(|| LogError::MissingSegment {
            stream: stream.name(),
            segment: 0,
        })?;
        self.at = Some((first, 0));
        Ok(first)
    }
}
