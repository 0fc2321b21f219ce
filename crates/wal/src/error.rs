//! What can go wrong with the log.

use alluvium_codec::CodecError;
use alluvium_io::IoError;

/// Why the log could not be written or replayed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Acknowledged data is damaged: a later frame says that this one had been flushed.
    #[error(
        "log frame {seq} of stream {stream} in segment {segment} at byte {offset} is damaged, and a later frame says it was durable; restore from a backup or run salvage"
    )]
    Damaged {
        /// Name of the stream.
        stream: String,
        /// Sequence number of the first frame that does not hold.
        seq: u64,
        /// Its segment.
        segment: u32,
        /// Its place in the segment.
        offset: u64,
    },
    /// A segment is missing from the middle of a stream.
    #[error(
        "log segment {segment} of stream {stream} is missing; put the file back or restore from a backup"
    )]
    MissingSegment {
        /// Name of the stream.
        stream: String,
        /// The segment's number.
        segment: u32,
    },
    /// A section does not parse although its frame's checksum holds.
    #[error("a log section is malformed: {0}")]
    Malformed(#[from] CodecError),
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}
