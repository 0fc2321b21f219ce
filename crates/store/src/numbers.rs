//! Lists of numbers as little-endian bytes, for the store's few sections of the manifest.

/// The bytes.
pub(crate) fn to_bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Reads numbers one after the other; `None` past the end.
#[derive(Debug)]
pub(crate) struct Numbers<'a>(pub &'a [u8]);

impl Numbers<'_> {
    pub(crate) fn next(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    /// A list behind its length. A length past the bytes that are there is refused before anything is
    /// allocated for it.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.next()?;
        if count > self.0.len() as u64 / 8 {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }
}
