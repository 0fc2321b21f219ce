//! Sizes that formats and figures share.

use std::fmt;

/// Bytes of a page: the unit of every read and write of a volume.
pub const PAGE_SIZE: usize = 4096;

/// Bytes of the chunks in which buffers that become pages grow.
pub const CHUNK_SIZE: usize = 1024;

/// Bytes of the header at the start of every page.
pub const PAGE_HEADER_BYTES: usize = 56;

/// A number of bytes, kept apart from counts and indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    /// Prints with a binary unit and one decimal, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}
