//! A tag set in one piece of memory, whoever's that is.

use alluvium_types::{BorrowedKey, SeriesKey};

use crate::hash::{push_hash_bytes, push_hash_part};

/// A measurement and its tags in the form of [`SeriesKey::write_hash_input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlatKey<'a> {
    bytes: &'a [u8],
    tags: u32,
    longest: u32,
}

/// What a [`FlatKey`] is without its bytes, for who keeps them elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct FlatKeyParts {
    bytes: usize,
    tags: u32,
    longest: u32,
}

impl FlatKeyParts {
    /// Bytes of the key.
    #[expect(clippy::len_without_is_empty, reason = "no key is empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The key whose bytes are the first of these; `None` if they are too few.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> Option<FlatKey<'a>> {
        Some(FlatKey {
            bytes: bytes.get(..self.bytes)?,
            tags: self.tags,
            longest: self.longest,
        })
    }
}

impl<'a> FlatKey<'a> {
    /// The flat form of a key, written to `scratch`.
    pub fn new(key: &SeriesKey, scratch: &'a mut Vec<u8>) -> Self {
        key.write_hash_input(scratch);
        let names = key.tags().iter().flat_map(|(k, v)| [k.len(), v.len()]);
        let longest = names.chain([key.measurement().len()]).max().unwrap_or(0);
        Self {
            bytes: scratch,
            tags: u32::try_from(key.tags().len()).unwrap_or(u32::MAX),
            longest: u32::try_from(longest).unwrap_or(u32::MAX),
        }
    }

    /// As [`Self::new`] of a key of somebody else's texts.
    pub fn of_borrowed(key: &BorrowedKey<'_>, scratch: &'a mut Vec<u8>) -> Self {
        let tags = key.tags().map(|(k, v)| (k.as_bytes(), v.as_bytes()));
        Self::of_parts(key.measurement(), tags, scratch)
    }

    /// As [`Self::new`] of a key in pieces: tags sorted by key, no key twice, all of them UTF-8.
    pub fn of_parts<'b>(
        measurement: &str,
        tags: impl Iterator<Item = (&'b [u8], &'b [u8])>,
        scratch: &'a mut Vec<u8>,
    ) -> Self {
        scratch.clear();
        push_hash_part(measurement, scratch);
        let (mut count, mut longest) = (0, measurement.len());
        for (key, value) in tags {
            push_hash_bytes(key, scratch);
            push_hash_bytes(value, scratch);
            count += 1;
            longest = longest.max(key.len()).max(value.len());
        }
        Self {
            bytes: scratch,
            tags: count,
            longest: u32::try_from(longest).unwrap_or(u32::MAX),
        }
    }

    /// The key without its bytes.
    pub fn parts(&self) -> FlatKeyParts {
        FlatKeyParts {
            bytes: self.bytes.len(),
            tags: self.tags,
            longest: self.longest,
        }
    }

    /// What is hashed of it: see [`crate::KeyHash::of_input`].
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The measurement.
    pub fn measurement(&self) -> &'a str {
        let name = Parts(self.bytes).next().unwrap_or_default();
        // Only whole strings were written.
        std::str::from_utf8(name).unwrap_or_default()
    }

    /// How many tags it has.
    pub fn tag_count(&self) -> usize {
        self.tags as usize
    }

    /// Whether both have the same measurement and keys of tags.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        let measurement = |key: &Self| Parts(key.bytes).next();
        self.tags == other.tags
            && measurement(self) == measurement(other)
            && self.tags().zip(other.tags()).all(|(a, b)| a.0 == b.0)
    }

    /// Bytes of the longest of its names and values.
    pub fn longest_bytes(&self) -> usize {
        self.longest as usize
    }

    /// Key and value of each tag, sorted by key; valid UTF-8.
    pub fn tags(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a> {
        let mut parts = Parts(self.bytes);
        parts.next();
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

#[derive(Debug, Clone)]
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_key_has_the_parts_of_the_key() {
        let mut scratch = Vec::new();
        for tags in [
            vec![],
            vec![("host", "é"), ("dc", ""), ("a_long_name", "v")],
        ] {
            let key = SeriesKey::new("cpu", tags).unwrap();
            let flat = FlatKey::new(&key, &mut scratch);
            assert_eq!(flat.measurement(), key.measurement());
            let tags: Vec<_> = key
                .tags()
                .iter()
                .map(|(k, v)| (k.as_bytes(), v.as_bytes()))
                .collect();
            assert_eq!(flat.tags().collect::<Vec<_>>(), tags);
            assert_eq!(flat.tag_count(), tags.len());
            let longest = if tags.is_empty() { 3 } else { 11 };
            assert_eq!(flat.longest_bytes(), longest);
            let mut turned: Vec<_> = key.tags().iter().collect();
            turned.reverse();
            let turned = turned
                .iter()
                .map(|(k, v)| (k.as_str().into(), v.as_str().into()));
            let borrowed = BorrowedKey::new("cpu".into(), turned.collect()).unwrap();
            let mut of_borrowed = Vec::new();
            assert_eq!(FlatKey::of_borrowed(&borrowed, &mut of_borrowed), flat);
            assert_eq!(SeriesKey::from(borrowed), key);
            let mut of_parts = Vec::new();
            let parts = FlatKey::of_parts("cpu", tags.into_iter(), &mut of_parts);
            assert_eq!(parts, flat);
            let copied = [flat.bytes(), b"and more"].concat();
            assert_eq!(flat.parts().of(&copied), Some(flat));
            assert_eq!(flat.parts().len(), flat.bytes().len());
            assert_eq!(flat.parts().of(&flat.bytes()[1..]), None);
            let mut hashed = Vec::new();
            key.write_hash_input(&mut hashed);
            assert_eq!(flat.bytes(), hashed);
        }
    }
}
