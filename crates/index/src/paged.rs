//! A vector that grows by chunks instead of by copying.

use std::ops::{Index, IndexMut};

/// Items of one chunk, a power of two. The first chunk grows by doubling, so small lists stay small.
const CHUNK: usize = 8192;

/// A list that is appended to and mutable in place. No call costs more than a chunk.
#[derive(Debug, Clone)]
pub(crate) struct Paged<T> {
    /// All full but the last, which is empty only where it is the only one.
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Paged<T> {
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

    /// Takes the last item away.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let last = self.chunks.last_mut()?;
        let item = last.pop();
        if last.is_empty() && self.chunks.len() > 1 {
            self.chunks.pop();
        }
        item
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_from(0)
    }

    /// The items from one on.
    pub(crate) fn iter_from(&self, begin: usize) -> impl Iterator<Item = &T> {
        let chunks = self.chunks.iter().skip(begin / CHUNK);
        chunks.flatten().skip(begin % CHUNK)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let items: usize = self.chunks.iter().map(Vec::capacity).sum();
        items * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> Index<usize> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
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
        assert_eq!(list.get(CHUNK), Some(&(CHUNK as u32 + 1)));
        assert_eq!(list[CHUNK - 1], CHUNK as u32 - 1);
        assert_eq!(list.get(3 * CHUNK + 5), None);
        assert_eq!(list.slice(CHUNK + 1, 3), Some(&[8193, 8194, 8195][..]));
        assert_eq!(list.slice(CHUNK - 1, 2), None, "never over a border");
        assert_eq!(list.iter().count(), list.len());
        assert_eq!(list.iter_from(2 * CHUNK + 1).next(), Some(&16_385));
        for i in (0..3 * CHUNK + 5).rev() {
            let expected = i as u32 + u32::from(i == CHUNK);
            assert_eq!(list.pop(), Some(expected));
            assert_eq!((list.len(), list.get(i)), (i, None));
        }
        assert_eq!(list.pop(), None);
        list.push(7);
        assert_eq!(list[0], 7);
    }
}
