//! What a file in memory holds, in blocks that copies of a directory share until one of them writes.

use std::ops::Range;
use std::sync::Arc;

/// Bytes of a block; also what room is counted in.
pub(super) const BLOCK: u64 = 4096;
const BYTES: usize = BLOCK as usize;

type Block = [u8; BYTES];

/// Bytes of a file. Blocks that nobody has written take no memory.
#[derive(Debug, Default, Clone)]
pub(super) struct Content {
    len: usize,
    /// One for every block that begins before the end; `None` is zeros.
    blocks: Vec<Option<Arc<Block>>>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes the file at least so long, by zeros.
    pub(super) fn extend_to(&mut self, len: usize) {
        if self.len < len {
            self.len = len;
            self.blocks.resize(len.div_ceil(BYTES), None);
        }
    }

    /// Writes over what is there and past the end.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.extend_to(offset + bytes.len());
        let mut rest = bytes;
        for (number, part) in parts(offset..offset + bytes.len()) {
            let (bytes, behind) = rest.split_at(part.len());
            rest = behind;
            let block = self.blocks[number].get_or_insert_with(|| Arc::new([0; BYTES]));
            Arc::make_mut(block)[part].copy_from_slice(bytes);
        }
    }

    /// Makes zeros of what is inside the file.
    pub(super) fn clear(&mut self, range: Range<usize>) {
        for (number, part) in parts(range) {
            if part.len() == BYTES {
                self.blocks[number] = None;
            } else if let Some(block) = &mut self.blocks[number] {
                Arc::make_mut(block)[part].fill(0);
            }
        }
    }

    /// Fills `into` with what is there from `offset` on, and zeros past the end.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let end = (offset + into.len()).min(self.len).max(offset);
        let (inside, past) = into.split_at_mut(end - offset);
        past.fill(0);
        let mut rest = inside;
        for (number, part) in parts(offset..end) {
            let (bytes, behind) = rest.split_at_mut(part.len());
            rest = behind;
            match &self.blocks[number] {
                Some(block) => bytes.copy_from_slice(&block[part]),
                None => bytes.fill(0),
            }
        }
    }
}

/// The blocks of a range, and which part of each is in it.
fn parts(range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let inside = at % BYTES;
        let len = (BYTES - inside).min(range.end.saturating_sub(at));
        let part = (at / BYTES, inside..inside + len);
        at += len;
        (len > 0).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xff; content.len() + 100];
        content.read(0, &mut bytes);
        bytes
    }

    proptest! {
        /// Against a vector; a copy made half-way keeps what it had.
        #[test]
        fn holds_what_was_written(
            steps in prop::collection::vec((0..3_u8, 0..20_000_usize, 0..9_000_usize, any::<u8>()), 0..20),
        ) {
            let (mut content, mut model) = (Content::default(), Vec::new());
            let mut copy = None;
            for (i, (what, offset, len, fill)) in steps.iter().enumerate() {
                let end = offset + len;
                match what {
                    0 => {
                        content.write(*offset, &vec![*fill; *len]);
                        model.resize(model.len().max(end), 0);
                        model[*offset..end].fill(*fill);
                    }
                    1 => {
                        content.extend_to(*len);
                        model.resize(model.len().max(*len), 0);
                    }
                    _ => {
                        let range = (*offset).min(model.len())..end.min(model.len());
                        content.clear(range.clone());
                        model[range].fill(0);
                    }
                }
                if i == steps.len() / 2 {
                    copy = Some((content.clone(), model.clone()));
                }
                let mut part = vec![0xff; *len];
                content.read(*offset, &mut part);
                let inside = model.iter().skip(*offset).chain(std::iter::repeat(&0));
                prop_assert!(part.iter().eq(inside.take(*len)));
            }
            for (content, mut model) in copy.into_iter().chain([(content, model)]) {
                model.resize(model.len() + 100, 0);
                prop_assert_eq!(whole(&content), model);
            }
        }
    }
}
