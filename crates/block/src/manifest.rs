//! Sections: numbered byte strings in one file, as the manifest and the files it names are made of.
//!
//! Magic, count; then each section's tag, length and bytes. Whoever names the file keeps its length and CRC.

use alluvium_codec::{CodecError, varint};

use crate::error::RootError;

const MAGIC: [u8; 8] = *b"ALVSECT1";

/// The section of a manifest that is this crate's own; the caller's tags begin at 16.
pub(crate) const TAG_VOLUMES: u64 = 1;

/// Sections by tag, in order of insertion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections {
    sections: Vec<(u64, Vec<u8>)>,
}

/// What a superblock names: the state of everything at one commit.
pub type Manifest = Sections;

impl Sections {
    /// No sections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a section, replacing one with the same tag.
    pub fn set(&mut self, tag: u64, bytes: Vec<u8>) {
        self.sections.retain(|(t, _)| *t != tag);
        self.sections.push((tag, bytes));
    }

    /// Adds a section of a tag that none has yet, however many there are.
    pub fn push(&mut self, tag: u64, bytes: Vec<u8>) {
        self.sections.push((tag, bytes));
    }

    /// The bytes of a section.
    pub fn get(&self, tag: u64) -> Option<&[u8]> {
        self.sections
            .iter()
            .find(|(t, _)| *t == tag)
            .map(|(_, b)| b.as_slice())
    }

    /// Every section in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.sections
            .iter()
            .map(|(tag, bytes)| (*tag, bytes.as_slice()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        varint::put_u64(&mut out, self.sections.len() as u64);
        for (tag, bytes) in &self.sections {
            varint::put_u64(&mut out, *tag);
            varint::put_bytes(&mut out, bytes);
        }
        out
    }

    /// Reads the bytes of the file, whose checksum the caller has compared.
    ///
    /// # Errors
    /// If they are no manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, RootError> {
        Self::parse(bytes).map_err(|_| RootError::Manifest {
            section: "its frame",
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut rest = bytes.strip_prefix(&MAGIC).unwrap_or_default();
        let count = varint::get_u64(&mut rest)?;
        let mut sections = Vec::new();
        for _ in 0..count {
            let tag = varint::get_u64(&mut rest)?;
            sections.push((tag, varint::get_bytes(&mut rest)?.to_vec()));
        }
        Ok(Self { sections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back() {
        let mut m = Manifest::new();
        m.set(1, vec![1, 2, 3]);
        m.set(300, Vec::new());
        m.set(1, vec![9; 1000]);
        let bytes = m.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), m);
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
