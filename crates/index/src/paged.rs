//! A vector of fixed-size items that grows by chunks instead of by copying.

/// Items of one chunk, a power of two. The first chunk grows by doubling, so small lists stay small.
const CHUNK: usize = 8192;

/// An append-only list of copies, mutable in place.
#[derive(Debug, Clone)]
pub(crate) struct Paged<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T: Copy> Paged<T> {
    pub(crate) fn len(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.len(),
            None => 0,
        }
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(item),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(item);
                self.chunks.push(chunk);
            }
            None => self.chunks.push(vec![item]),
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK).copied()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// A run of items that lies within one chunk.
    pub(crate) fn slice(&self, begin: usize, len: usize) -> Option<&[T]> {
        let start = begin % CHUNK;
        self.chunks.get(begin / CHUNK)?.get(start..start + len)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let items: usize = self.chunks.iter().map(Vec::capacity).sum();
        items * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_items_over_chunk_borders() {
        let mut list = Paged::default();
        for i in 0..3 * CHUNK + 5 {
            assert_eq!(list.len(), i);
            list.push(i as u32);
        }
        *list.get_mut(CHUNK).unwrap() += 1;
        assert_eq!(list.get(CHUNK), Some(CHUNK as u32 + 1));
        assert_eq!(list.get(CHUNK - 1), Some(CHUNK as u32 - 1));
        assert_eq!(list.get(3 * CHUNK + 5), None);
        assert_eq!(list.slice(CHUNK + 1, 3), Some(&[8193, 8194, 8195][..]));
        assert_eq!(list.slice(CHUNK - 1, 2), None, "never over a border");
    }
}
