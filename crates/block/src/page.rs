//! Pages: filled as drafts, sealed with a header and a checksum, checked before anyone reads them.

use std::sync::Arc;

use alluvium_io::PageBuf;
use alluvium_types::{DatabaseId, Lsn, PAGE_HEADER_BYTES, PAGE_SIZE};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Damage;
use crate::layout::{PAGE_VERSION, PageHeader};
use crate::logic_addr::{LogicAddr, PageRef};

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageKind {
    /// Points of one series.
    Leaf = 1,
    /// References to pages of one series, with aggregates.
    Inner = 2,
    /// A part of a long string.
    Overflow = 3,
    /// The header of a volume.
    Volume = 4,
}

impl PageKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Leaf, Self::Inner, Self::Overflow, Self::Volume]
            .into_iter()
            .find(|k| *k as u8 == number)
    }
}

/// What a page says of itself, beside where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageMeta {
    /// What it holds.
    pub kind: PageKind,
    /// Owner.
    pub database: DatabaseId,
    /// `SeriesId::packed`; 0 if none.
    pub series: u64,
    /// The run that wrote it; a merged run refers to pages of others.
    pub run_ordinal: u32,
    /// Serial number of the leaf among those its run wrote; of another page that of the next leaf.
    pub leaf_ordinal: u32,
    /// Of the newest point in or below the page: what salvage orders by.
    pub lsn: Lsn,
    /// Blocks of a leaf, entries of an inner page.
    pub items: u16,
    /// 0 for leaves; distance to the leaves for inner pages.
    pub level: u8,
    /// Meaning belongs to the kind.
    pub flags: u8,
}

/// A page being filled.
#[derive(Debug)]
pub struct PageDraft {
    buffer: PageBuf,
    used: usize,
}

impl Default for PageDraft {
    fn default() -> Self {
        Self::new()
    }
}

impl PageDraft {
    /// Bytes behind the header.
    pub const BODY_BYTES: usize = PAGE_SIZE - PAGE_HEADER_BYTES;

    /// A page of zeros.
    pub fn new() -> Self {
        Self {
            buffer: PageBuf::zeroed(),
            used: 0,
        }
    }

    /// Everything behind the header, to fill; bytes behind the used ones must stay zero.
    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes_mut()[PAGE_HEADER_BYTES..]
    }

    /// Bytes that mean something, the header included.
    pub(crate) fn used_bytes(&self) -> u64 {
        (PAGE_HEADER_BYTES + self.used) as u64
    }

    /// Says how many bytes of the body mean something.
    ///
    /// # Panics
    /// If it is more than [`Self::BODY_BYTES`].
    pub fn set_used(&mut self, body_bytes: usize) {
        assert!(body_bytes <= Self::BODY_BYTES, "a page body overflows");
        self.used = body_bytes;
    }

    /// Writes the header and the checksum, which covers the rest of the page.
    pub(crate) fn seal(
        mut self,
        addr: LogicAddr,
        generation: u32,
        incarnation: u32,
        meta: &PageMeta,
    ) -> (Arc<PageBuf>, PageRef) {
        let mut header = PageHeader {
            crc: 0.into(),
            kind: meta.kind as u8,
            version: PAGE_VERSION,
            used: ((PAGE_HEADER_BYTES + self.used) as u16).into(),
            volume: addr.volume.into(),
            page: addr.page.into(),
            generation: generation.into(),
            incarnation: incarnation.into(),
            series: meta.series.into(),
            database: meta.database.0.into(),
            run_ordinal: meta.run_ordinal.into(),
            leaf_ordinal: meta.leaf_ordinal.into(),
            lsn: meta.lsn.0.into(),
            items: meta.items.into(),
            level: meta.level,
            flags: meta.flags,
        };
        let bytes = self.buffer.bytes_mut();
        bytes[..PAGE_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let crc = crc32c::crc32c(&bytes[4..]);
        header.crc = crc.into();
        bytes[..4].copy_from_slice(header.crc.as_bytes());
        (
            Arc::new(self.buffer),
            PageRef {
                addr,
                generation,
                crc,
            },
        )
    }
}

/// A checked page. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct Page {
    buffer: Arc<PageBuf>,
    header: PageHeader,
    cached: bool,
}

impl std::fmt::Debug for PageHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageHeader({}:{})", self.volume, self.page)
    }
}

impl Page {
    /// Checks everything that the bytes alone can show: checksum, version, lengths.
    pub(crate) fn check(buffer: Arc<PageBuf>, cached: bool) -> Result<Self, Damage> {
        let bytes = buffer.bytes();
        let header =
            PageHeader::read_from_bytes(&bytes[..PAGE_HEADER_BYTES]).map_err(|_| Damage::Header)?;
        // A cached page was checked when it entered the cache.
        if !cached && crc32c::crc32c(&bytes[4..]) != header.crc.get() {
            return Err(Damage::Checksum);
        }
        let used = usize::from(header.used.get());
        let known = header.version == PAGE_VERSION && PageKind::from_number(header.kind).is_some();
        if !known || !(PAGE_HEADER_BYTES..=PAGE_SIZE).contains(&used) {
            return Err(Damage::Header);
        }
        Ok(Self {
            buffer,
            header,
            cached,
        })
    }

    /// Checks a page read on its own, as inspection and salvage do.
    ///
    /// # Errors
    /// What did not hold.
    pub fn from_buffer(buffer: PageBuf) -> Result<Self, Damage> {
        Self::check(Arc::new(buffer), false)
    }

    /// What the page says of itself.
    ///
    /// # Panics
    /// Never: the kind was checked.
    pub fn meta(&self) -> PageMeta {
        let h = &self.header;
        PageMeta {
            kind: PageKind::from_number(h.kind).expect("kind checked when the page was read"),
            database: DatabaseId(h.database.get()),
            series: h.series.get(),
            run_ordinal: h.run_ordinal.get(),
            leaf_ordinal: h.leaf_ordinal.get(),
            lsn: Lsn(h.lsn.get()),
            items: h.items.get(),
            level: h.level,
            flags: h.flags,
        }
    }

    /// Where the page says it is.
    pub fn addr(&self) -> LogicAddr {
        LogicAddr {
            volume: self.header.volume.get(),
            page: self.header.page.get(),
        }
    }

    /// The reference a parent should hold.
    pub fn page_ref(&self) -> PageRef {
        PageRef {
            addr: self.addr(),
            generation: self.header.generation.get(),
            crc: self.header.crc.get(),
        }
    }

    /// The process life that wrote it.
    pub fn incarnation(&self) -> u32 {
        self.header.incarnation.get()
    }

    /// The used bytes behind the header.
    pub fn body(&self) -> &[u8] {
        &self.buffer.bytes()[PAGE_HEADER_BYTES..usize::from(self.header.used.get())]
    }

    /// All 4096 bytes.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        self.buffer.bytes()
    }

    /// Whether it came from memory.
    pub fn was_cached(&self) -> bool {
        self.cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> PageMeta {
        PageMeta {
            kind: PageKind::Leaf,
            database: DatabaseId(3),
            series: 0x0102_0304_0506_0708,
            run_ordinal: 9,
            leaf_ordinal: 10,
            lsn: Lsn(11),
            items: 2,
            level: 0,
            flags: 1,
        }
    }

    fn sealed() -> (Arc<PageBuf>, PageRef) {
        let mut draft = PageDraft::new();
        draft.body_mut()[..3].copy_from_slice(b"abc");
        draft.set_used(3);
        draft.seal(LogicAddr { volume: 7, page: 5 }, 2, 4, &meta())
    }

    #[test]
    fn a_sealed_page_checks_and_tells_its_meta() {
        let (buffer, page_ref) = sealed();
        let page = Page::check(buffer, false).unwrap();
        assert_eq!(page.meta(), meta());
        assert_eq!(page.body(), b"abc");
        assert_eq!(page.page_ref(), page_ref);
        assert_eq!(page.incarnation(), 4);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (buffer, _) = sealed();
        // A checksum takes Miri half a second.
        let (in_page, in_header) = if cfg!(miri) { (5003, 61) } else { (37, 1) };
        for bit in (0..PAGE_SIZE * 8)
            .step_by(in_page)
            .chain((0..PAGE_HEADER_BYTES * 8).step_by(in_header))
        {
            let mut bad = (*buffer).clone();
            bad.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::from_buffer(bad).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn header_bytes_are_as_documented() {
        let (buffer, _) = sealed();
        let hex: Vec<String> = buffer.bytes()[4..PAGE_HEADER_BYTES + 3]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex.join(" "),
            "01 03 3b 00 07 00 00 00 05 00 00 00 02 00 00 00 04 00 00 00 08 07 06 05 04 03 02 01 \
             03 00 00 00 09 00 00 00 0a 00 00 00 0b 00 00 00 00 00 00 00 02 00 00 01 61 62 63"
        );
    }
}
