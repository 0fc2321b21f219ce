//! The choice between size and speed.

/// What an encoder prefers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Bit packing, unless a Huffman code saves at least 15 %: a page decodes two to three times as fast.
    #[default]
    Balanced,
    /// The fewest bytes.
    Small,
}

impl Compression {
    /// What a slower encoding must stay under to take the place of one that has so many bytes.
    pub(crate) fn share_of(self, bytes: usize) -> usize {
        match self {
            Self::Balanced => bytes * 85 / 100,
            Self::Small => bytes,
        }
    }
}
