//! A list with holes.

/// Items of one chunk.
const CHUNK: usize = 256;

/// Items by number. What is not there costs little, however high the highest number: a chunk without items takes 16 bytes.
#[derive(Debug, Clone)]
pub(crate) struct Sparse<T> {
    /// Empty, or of [`CHUNK`] places.
    chunks: Vec<Box<[Option<T>]>>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Sparse<T> {
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
    pub(crate) fn get_or_insert_with(&mut self, number: u32, make: impl FnOnce() -> T) -> &mut T {
        let at = number as usize;
        if self.chunks.len() <= at / CHUNK {
            self.chunks.resize_with(at / CHUNK + 1, Box::default);
        }
        let chunk = &mut self.chunks[at / CHUNK];
        if chunk.is_empty() {
            *chunk = (0..CHUNK).map(|_| None).collect();
        }
        chunk[at % CHUNK].get_or_insert_with(make)
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
        let mut list = Sparse::default();
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
