//! Where a page is, and what a parent keeps of it.

use std::fmt;

/// A page of a volume. Unordered: volumes are numbered by creation, not by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogicAddr {
    /// Volume number, never reused within a store.
    pub volume: u32,
    /// Page within the volume; page 0 is the volume's own header.
    pub page: u32,
}

impl LogicAddr {
    pub(crate) fn packed(self) -> u64 {
        u64::from(self.volume) << 32 | u64::from(self.page)
    }
}

impl fmt::Display for LogicAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, self.page)
    }
}

/// What a parent keeps of a child: its address, the generation of the volume it was written to, and the
/// CRC-32C of the page, which is what finds a lost write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// Where it is.
    pub addr: LogicAddr,
    /// The life of the volume it belongs to.
    pub generation: u32,
    /// The first four bytes of the page.
    pub crc: u32,
}
