//! The choice between size and speed.

use std::fmt;
use std::str::FromStr;

/// What an encoder prefers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Bit packing, unless a Huffman code saves at least 15 %: a page decodes two to three times as fast.
    #[default]
    Balanced,
    /// The fewest bytes.
    Small,
}

/// A choice that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression {0:?} is unknown; use balanced or small")]
pub struct CompressionError(pub String);

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "balanced" => Ok(Self::Balanced),
            "small" => Ok(Self::Small),
            _ => Err(CompressionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Balanced => "balanced",
            Self::Small => "small",
        })
    }
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
