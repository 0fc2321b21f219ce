//! Many short byte strings, numbered in order, about two bytes of overhead each.

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
}
