//! A list with holes.

/// Items by number, so many in a chunk. What is not there costs little, however high the highest number: a chunk without items
/// takes 16 bytes.
#[derive(Debug, Clone)]
pub(crate) struct Sparse<T, const CHUNK: usize> {
    /// Empty, or of all places of a chunk.
    chunks: Vec<Box<[Option<T>]>>,
}

impl<T, const CHUNK: usize> Default for Sparse<T, CHUNK> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T, const CHUNK: usize> Sparse<T, CHUNK> {
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let at = number as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let at = number as usize;
        let chunk = self.chunks.get_mut(at / CHUNK)?;
        chunk.get_mut(at % CHUNK)?.as_mut()
    }

    /// The item of this number, new if need be.
    #[inline]
    pub(crate) fn get_or_insert_with(&mut self, number: u32, make: impl FnOnce() -> T) -> &mut T {
        let at = number as usize;
        if self
            .chunks
            .get(at / CHUNK)
            .is_none_or(|chunk| chunk.is_empty())
        {
            self.add_chunk(at / CHUNK);
        }
        self.chunks[at / CHUNK][at % CHUNK].get_or_insert_with(make)
    }

    #[cold]
    fn add_chunk(&mut self, at: usize) {
        if self.chunks.len() <= at {
            self.chunks.resize_with(at + 1, Box::default);
        }
        self.chunks[at] = (0..CHUNK).map(|_| None).collect();
    }

    /// What is there, ascending by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let chunks = (0..).step_by(CHUNK).zip(&self.chunks);
        chunks.flat_map(|(first, chunk)| {
            let items = (first..).zip(chunk.iter());
            items.filter_map(|(number, item)| Some((number, item.as_ref()?)))
        })
    }

    /// Without what items have on the heap themselves.
    pub(crate) fn heap_bytes(&self) -> usize {
        let places: usize = self.chunks.iter().map(|chunk| chunk.len()).sum();
        places * size_of::<Option<T>>() + self.chunks.capacity() * size_of::<Box<[Option<T>]>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_the_rest_costs_little() {
        let mut list = Sparse::<u64, 256>::default();
        let numbers = [0_u32, 255, 256, 70_000, 1_000_000];
        for number in numbers.iter().rev() {
            assert_eq!(list.get(*number), None);
            *list.get_or_insert_with(*number, || 0_u64) += u64::from(*number);
        }
        *list.get_mut(256).unwrap() += 1;
        assert_eq!(list.get_mut(257), None);
        let found: Vec<_> = list.iter().map(|(n, item)| (n, *item)).collect();
        let expected = numbers.map(|n| (n, u64::from(n) + u64::from(n == 256)));
        assert_eq!(found, expected);
        assert_eq!(list.get(2_000_000), None);
        assert!(list.heap_bytes() < 100_000, "{}", list.heap_bytes());
    }
}
