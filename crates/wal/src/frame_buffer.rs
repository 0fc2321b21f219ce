//! A frame while its sections are gathered, in the memory from which the device will write it.

use alluvium_io::AlignedBuf;

use crate::layout::HEADER_BYTES;

/// Memory of a frame that is written and kept for the next one, at most.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Room for a header, and sections behind it.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    buffer: AlignedBuf,
    len: usize,
}

impl FrameBuffer {
    /// Without sections, in the memory of one that was written.
    pub(crate) fn new(spare: Option<AlignedBuf>) -> Self {
        let mut buffer = spare.unwrap_or_else(|| AlignedBuf::zeroed(0));
        // Bytes of another frame must not be behind those of this one.
        buffer.resize(0);
        buffer.resize(HEADER_BYTES);
        Self {
            buffer,
            len: HEADER_BYTES,
        }
    }

    /// Bytes of the sections with their lengths.
    pub(crate) fn payload_len(&self) -> usize {
        self.len - HEADER_BYTES
    }

    /// The sections with their lengths.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer.bytes()[HEADER_BYTES..self.len]
    }

    /// Adds bytes to the payload.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end > self.buffer.len() {
            self.buffer.resize(end);
        }
        self.buffer.bytes_mut()[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// The whole frame, zeroed behind its last section.
    pub(crate) fn finish(mut self, header: &[u8]) -> AlignedBuf {
        self.buffer.bytes_mut()[..HEADER_BYTES].copy_from_slice(header);
        self.buffer
    }
}

/// The memory of a frame that was written, unless it is too much to be kept.
pub(crate) fn spare(written: AlignedBuf) -> Option<AlignedBuf> {
    (written.capacity() <= SPARE_BYTES_MAX).then_some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_used_memory_is_as_in_new() {
        let frame = |spare, sections: &[&[u8]]| {
            let mut frame = FrameBuffer::new(spare);
            sections.iter().for_each(|section| frame.extend(section));
            assert_eq!(frame.payload(), sections.concat());
            assert_eq!(frame.payload_len(), frame.payload().len());
            frame.finish(&[7; HEADER_BYTES])
        };
        let long = vec![0xab; 30_000];
        let first = frame(None, &[b"one", &long]);
        assert!(
            first
                .bytes()
                .ends_with(&[0; 4096 - (HEADER_BYTES + 30_003) % 4096])
        );
        let second = frame(spare(first), &[b"two", &long[..5000]]);
        let again = frame(None, &[b"two", &long[..5000]]);
        assert!(
            second.bytes() == again.bytes(),
            "nothing of the first is in it"
        );
        assert!(
            second.capacity() > again.capacity(),
            "the memory is the same"
        );
        assert!(spare(AlignedBuf::zeroed(SPARE_BYTES_MAX + 1)).is_none());
    }
}
