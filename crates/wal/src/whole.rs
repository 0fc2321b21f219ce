//! The whole frames of a stream, for whoever copies a log that is being written, or saves what is left of one.

use alluvium_io::Device;

use crate::error::LogError;
use crate::layout::{FLAG_FIRST, FrameHeader};
use crate::replay::{
    Identity, SegmentReader, THROUGH_BYTES, first_segment, follows, frame, frame_bytes, frame_len,
    visit_sections,
};
use crate::stream::{StreamInfo, segment_path};

/// Shows the frames of a stream that hold, from the segment on with which a replay from `from_seq` begins, one after the
/// other up to the first that does not follow: number and path of the segment, place in it, the frame's bytes with their padding. What is
/// written behind the last one meanwhile is left out, so that a copy is the stream as a kill would have left it. Waits.
///
/// # Errors
/// If the device fails or a segment is gone, or what `visit` returns.
pub fn copy_frames<E: From<LogError>>(
    device: &dyn Device,
    stream: &StreamInfo,
    salt: u64,
    from_seq: u64,
    visit: &mut dyn FnMut(&str, u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let needed = from_seq.max(1);
    let (begin, _) = first_segment(device, stream, salt, needed)?;
    let mut previous: Option<FrameHeader> = None;
    for (segment, _) in stream.segments.iter().skip(begin) {
        let identity = Identity::of(stream, salt, *segment);
        let path = segment_path(stream.incarnation, stream.shard, *segment);
        let mut reader = SegmentReader::open(device, &path, THROUGH_BYTES)?;
        let mut offset = 0;
        while let Some(header) = frame(&mut reader, offset, identity)?
            .filter(|f| follows(previous.as_ref(), f, needed))
            .filter(|f| (offset == 0) == (f.flags.get() & FLAG_FIRST != 0))
        {
            let len = frame_bytes(&header);
            visit(&path, offset, reader.bytes(offset, len as usize)?)?;
            offset += len;
            previous = Some(header);
        }
        if offset == 0 {
            // Made ready, but nothing is in it.
            break;
        }
    }
    Ok(())
}

/// The frame at `offset`, if one is there that holds as a whole.
fn found_at(
    reader: &mut SegmentReader<'_>,
    offset: u64,
    salt: &mut Option<u64>,
    (stream, segment): (&StreamInfo, u32),
) -> Result<Option<FrameHeader>, LogError> {
    let Some(found) = reader.salt_at(offset)? else {
        return Ok(None);
    };
    let identity = Identity::of(stream, *salt.get_or_insert(found), segment);
    frame(reader, offset, identity)
}

/// What [`salvage_frames`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SavedFrames {
    /// Frames that hold.
    pub frames: u64,
    /// Numbers missing between those that hold.
    pub missing: u64,
    /// Highest number.
    pub last_seq: u64,
}

/// Shows the sections of every frame of a stream whose two checksums hold, whatever is before or behind it, in the order
/// of its segments. The salt of the store need not be known: that of the first frame counts. Waits.
///
/// # Errors
/// If a segment cannot be opened, or what `visit` returns. Blocks that cannot be read hold no frame.
pub fn salvage_frames(
    device: &dyn Device,
    stream: &StreamInfo,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<SavedFrames, LogError> {
    let mut saved = SavedFrames::default();
    let mut salt = None;
    for (segment, _) in &stream.segments {
        let path = segment_path(stream.incarnation, stream.shard, *segment);
        let mut reader = SegmentReader::open(device, &path, THROUGH_BYTES)?;
        let mut offset = 0;
        while offset < reader.len {
            let header = match found_at(&mut reader, offset, &mut salt, (stream, *segment)) {
                Err(_) if !reader.is_narrow() => {
                    // What cannot be read must not hide what is beside it.
                    reader.narrow();
                    continue;
                }
                header => header.ok().flatten(),
            };
            let Some(header) = header.filter(|h| h.seq.get() > saved.last_seq) else {
                offset += crate::writer::FRAME_ALIGN as u64;
                continue;
            };
            let payload = reader.bytes(offset, frame_len(&header))?;
            let payload = payload
                .get(crate::layout::HEADER_BYTES..)
                .unwrap_or_default();
            visit_sections(header.seq.get(), payload, visit)?;
            if saved.frames > 0 {
                saved.missing += header.seq.get() - saved.last_seq - 1;
            }
            saved.frames += 1;
            saved.last_seq = header.seq.get();
            offset += frame_bytes(&header);
        }
    }
    Ok(saved)
}
