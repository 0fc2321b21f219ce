//! Many short byte strings, numbered in order, about two bytes of overhead each.

use memchr::memmem::Finder;

/// Strings of one block. A block is sealed, its buffers cut to size, when it is full; only the last one has
/// spare room, so appending never copies more than one block.
const BLOCK: usize = 1024;

/// An append-only list of byte strings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blobs {
    blocks: Vec<Block>,
    count: usize,
}

#[derive(Debug, Clone)]
struct Block {
    bytes: Vec<u8>,
    ends: Ends,
}

/// Where each string ends within its block.
#[derive(Debug, Clone)]
enum Ends {
    Wide(Vec<u32>),
    Narrow(Box<[u16]>),
}

impl Blobs {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Appends a string. The caller bounds its length well below 4 MiB, so that a block stays below 4 GiB.
    pub(crate) fn push(&mut self, blob: &[u8]) {
        debug_assert!(blob.len() < 1 << 22);
        if self.count.is_multiple_of(BLOCK) {
            self.blocks.push(Block {
                bytes: Vec::new(),
                ends: Ends::Wide(Vec::new()),
            });
        }
        self.count += 1;
        let full = self.count.is_multiple_of(BLOCK);
        let block = self.blocks.last_mut().expect("pushed when absent");
        block.bytes.extend_from_slice(blob);
        let end = block.bytes.len() as u32;
        if let Ends::Wide(ends) = &mut block.ends {
            ends.push(end);
        }
        if full {
            block.seal();
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.blocks.get(index / BLOCK)?.get(index % BLOCK)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.blocks
            .iter()
            .flat_map(|block| (0..BLOCK).map_while(|i| block.get(i)))
    }

    /// The numbers of the strings that begin with `prefix` and of which `holds`, ascending.
    pub(crate) fn beginning(&self, prefix: &[u8], holds: impl Fn(&[u8]) -> bool) -> Vec<u32> {
        let mut found = Vec::new();
        let mut first = 0;
        let head = Head::of(prefix);
        for block in &self.blocks {
            let mut begin = 0;
            block.ends.each(|at, end| {
                if head.may_begin(&block.bytes, begin) {
                    let blob = &block.bytes[begin..end];
                    if blob.starts_with(prefix) && holds(blob) {
                        found.push(first + at);
                    }
                }
                begin = end;
            });
            first += BLOCK as u32;
        }
        found
    }

    /// The numbers of the strings in which a text occurs that is not empty, ascending. A block is searched in one go.
    pub(crate) fn containing(&self, text: &Finder<'_>) -> Vec<u32> {
        let len = text.needle().len();
        let mut found = Vec::new();
        let mut first = 0;
        for block in &self.blocks {
            let mut next = text.find(&block.bytes);
            let mut begin = 0;
            block.ends.each(|at, end| {
                if next.is_some_and(|hit| hit < begin) {
                    next = text.find(&block.bytes[begin..]).map(|at| begin + at);
                }
                if next.is_some_and(|hit| hit + len <= end) {
                    found.push(first + at);
                }
                begin = end;
            });
            first += BLOCK as u32;
        }
        found
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let blocks: usize = self
            .blocks
            .iter()
            .map(|block| {
                block.bytes.capacity()
                    + match &block.ends {
                        Ends::Wide(ends) => ends.capacity() * 4,
                        Ends::Narrow(ends) => ends.len() * 2,
                    }
            })
            .sum();
        blocks + self.blocks.capacity() * size_of::<Block>()
    }
}

/// The first eight bytes of a prefix, or as many as it has.
struct Head {
    bytes: u64,
    mask: u64,
}

impl Head {
    fn of(prefix: &[u8]) -> Self {
        let mut bytes = [0; 8];
        let mut mask = [0; 8];
        for ((byte, bits), of) in bytes.iter_mut().zip(&mut mask).zip(prefix) {
            (*byte, *bits) = (*of, 0xff);
        }
        Self {
            bytes: u64::from_le_bytes(bytes),
            mask: u64::from_le_bytes(mask),
        }
    }

    /// Whether what stands at `begin` may begin with the prefix: one look, where there are eight bytes, also of what is behind.
    #[inline]
    fn may_begin(&self, bytes: &[u8], begin: usize) -> bool {
        let word = bytes.get(begin..).and_then(<[u8]>::first_chunk::<8>);
        word.is_none_or(|word| u64::from_le_bytes(*word) & self.mask == self.bytes)
    }
}

impl Ends {
    /// Calls `visit` with the number of each string and where it ends.
    #[inline]
    fn each(&self, mut visit: impl FnMut(u32, usize)) {
        match self {
            Self::Wide(ends) => (0..)
                .zip(ends)
                .for_each(|(at, end)| visit(at, *end as usize)),
            Self::Narrow(ends) => {
                let ends = (0..).zip(ends.iter());
                ends.for_each(|(at, end)| visit(at, usize::from(*end)));
            }
        }
    }
}

impl Block {
    #[inline]
    fn get(&self, i: usize) -> Option<&[u8]> {
        let (begin, end) = match &self.ends {
            Ends::Wide(ends) => (
                if i == 0 {
                    0
                } else {
                    *ends.get(i - 1)? as usize
                },
                *ends.get(i)? as usize,
            ),
            Ends::Narrow(ends) => (
                if i == 0 {
                    0
                } else {
                    usize::from(*ends.get(i - 1)?)
                },
                usize::from(*ends.get(i)?),
            ),
        };
        self.bytes.get(begin..end)
    }

    fn seal(&mut self) {
        self.bytes.shrink_to_fit();
        if let Ends::Wide(ends) = &mut self.ends {
            if u16::try_from(self.bytes.len()).is_ok() {
                self.ends = Ends::Narrow(ends.iter().map(|&e| e as u16).collect());
            } else {
                ends.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_over_block_borders() {
        // The second block passes 64 KiB and keeps wide ends.
        let text = |i: usize| {
            let len = if i / BLOCK == 1 { i % 200 } else { i % 23 };
            vec![i as u8; len]
        };
        let mut blobs = Blobs::default();
        for i in 0..3 * BLOCK + 7 {
            assert_eq!(blobs.get(i), None);
            blobs.push(&text(i));
            assert_eq!(blobs.len(), i + 1);
        }
        for i in 0..blobs.len() {
            assert_eq!(blobs.get(i), Some(text(i).as_slice()));
        }
        assert_eq!(blobs.iter().count(), blobs.len());
        assert!(blobs.iter().enumerate().all(|(i, b)| b == text(i)));
        assert_eq!(blobs.get(usize::MAX), None);
    }

    #[test]
    fn what_begins_with_and_contains_a_text_is_found() {
        let texts = (0..5000_u32).map(|i| match i % 7 {
            0 => String::new(),
            1 => format!("{}99", i % 50),
            2 => "9".repeat(i as usize % 5),
            _ => format!("host_{i}"),
        });
        let texts: Vec<String> = texts.collect();
        let mut blobs = Blobs::default();
        texts.iter().for_each(|text| blobs.push(text.as_bytes()));
        let where_ = |holds: &dyn Fn(&str) -> bool| {
            let numbered = (0..).zip(&texts);
            let found = numbered.filter(|(_, text)| holds(text)).map(|(i, _)| i);
            found.collect::<Vec<u32>>()
        };
        for text in ["9", "99", "999", "host_1", "9h", "_49", "x"] {
            let contains = where_(&|t| t.contains(text));
            assert_eq!(blobs.containing(&Finder::new(text)), contains, "{text}");
            let begins = where_(&|t| t.starts_with(text));
            assert_eq!(blobs.beginning(text.as_bytes(), |_| true), begins);
        }
        let ends = where_(&|t| t.ends_with('9'));
        assert_eq!(blobs.beginning(b"", |t| t.ends_with(b"9")), ends);
    }
}
