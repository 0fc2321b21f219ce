//! Bytes of a file, kept by page so that copies of a whole disk share what did not change.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use alluvium_types::PAGE_SIZE;

/// Length and pages; a page that was never written is zero and costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pages: BTreeMap<u64, Arc<[u8; PAGE_SIZE]>>,
    len: u64,
    /// Blocks below this are reserved.
    reserved: u64,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reserves blocks and makes the file at least as long.
    pub(crate) fn allocate(&mut self, len: u64) {
        self.len = self.len.max(len);
        self.reserved = self.reserved.max(len.next_multiple_of(PAGE_SIZE as u64));
    }

    /// Bytes of blocks, reserved or written.
    pub(crate) fn footprint(&self) -> u64 {
        let first_beyond = self.reserved / PAGE_SIZE as u64;
        self.reserved + self.pages.range(first_beyond..).count() as u64 * PAGE_SIZE as u64
    }

    pub(crate) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len() as u64);
        let mut at = offset;
        while !bytes.is_empty() {
            let within = (at % PAGE_SIZE as u64) as usize;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - within));
            let page = self
                .pages
                .entry(at / PAGE_SIZE as u64)
                .or_insert_with(|| Arc::new([0; PAGE_SIZE]));
            Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            bytes = rest;
        }
    }

    /// Gives back the blocks that lie wholly in a range; the rest of it becomes zeros. Reserved ones stay reserved.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len);
        let mut at = offset;
        while at < end {
            let (number, within) = (at / PAGE_SIZE as u64, at % PAGE_SIZE as u64);
            let count = (PAGE_SIZE as u64 - within).min(end - at);
            if count == PAGE_SIZE as u64 {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                let within = within as usize;
                Arc::make_mut(page)[within..within + count as usize].fill(0);
            }
            at += count;
        }
    }

    /// Fills `into` with what stands at `offset`; zeros where nothing does.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let mut at = offset;
        let mut into = into;
        while !into.is_empty() {
            let within = (at % PAGE_SIZE as u64) as usize;
            let count = into.len().min(PAGE_SIZE - within);
            let (now, rest) = into.split_at_mut(count);
            match self.pages.get(&(at / PAGE_SIZE as u64)) {
                Some(page) => now.copy_from_slice(&page[within..within + count]),
                None => now.fill(0),
            }
            at += count as u64;
            into = rest;
        }
    }

    /// Turns one bit over; false if nothing was written there.
    pub(crate) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let page = self.pages.get_mut(&(offset / PAGE_SIZE as u64));
        page.is_some_and(|page| {
            Arc::make_mut(page)[(offset % PAGE_SIZE as u64) as usize] ^= 1 << (bit % 8);
            true
        })
    }
}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.len, self.reserved).hash(state);
        for (number, page) in &self.pages {
            number.hash(state);
            page.hash(state);
        }
    }
}
