//! A tag set in the log, read where it stands: redo meets one for each new series, and needs no strings of its own.

use alluvium_codec::CodecError;
use alluvium_codec::varint::get_bytes;
use alluvium_types::SeriesKey;

use crate::group::count;

/// Measurement and tags of a [row entry](crate::Entry::Row): valid UTF-8, sorted by key, no key twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKey<'a> {
    measurement: &'a str,
    count: usize,
    /// Keys and values, each behind its length.
    tags: &'a [u8],
}

impl<'a> RowKey<'a> {
    /// Takes one off the front.
    pub(crate) fn take(bytes: &mut &'a [u8]) -> Result<Self, CodecError> {
        let measurement = get_bytes(bytes)?;
        let count = count(bytes)?;
        let all = *bytes;
        let (mut before, mut is_ascii): (Option<&[u8]>, _) = (None, measurement.is_ascii());
        for _ in 0..count {
            let (key, value) = (get_bytes(bytes)?, get_bytes(bytes)?);
            if before.is_some_and(|before| before >= key) {
                return Err(CodecError::Invalid {
                    field: "tags",
                    value: count as u64,
                });
            }
            before = Some(key);
            is_ascii &= key.is_ascii() && value.is_ascii();
        }
        let tags = &all[..all.len() - bytes.len()];
        let row = Self {
            measurement: text(measurement)?,
            count,
            tags,
        };
        if !is_ascii {
            for (key, value) in row.tags() {
                text(key)?;
                text(value)?;
            }
        }
        Ok(row)
    }

    /// The measurement.
    pub fn measurement(&self) -> &'a str {
        self.measurement
    }

    /// How many tags it has.
    pub fn tag_count(&self) -> usize {
        self.count
    }

    /// The same in strings of its own.
    pub(crate) fn to_key(self) -> Result<SeriesKey, CodecError> {
        let mut tags = Vec::with_capacity(self.count);
        for (key, value) in self.tags() {
            tags.push((text(key)?, text(value)?));
        }
        SeriesKey::new(self.measurement, tags).map_err(|_| CodecError::Invalid {
            field: "tags",
            value: self.count as u64,
        })
    }

    /// Key and value of each tag, sorted by key.
    pub fn tags(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut rest = self.tags;
        std::iter::from_fn(move || {
            let key = get_bytes(&mut rest).ok()?;
            Some((key, get_bytes(&mut rest).ok()?))
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|e| CodecError::Invalid {
        field: "text",
        value: e.valid_up_to() as u64,
    })
}

#[cfg(test)]
mod tests {
    use alluvium_types::{DatabaseId, Lsn, Partition, Row};

    use crate::{Entry, PointGroup, SectionBuilder, SectionReader};

    fn section(row: u32, measurement: &str, tags: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(1), Partition(2), Lsn(3));
        section.row_of_parts(Row(row), measurement, tags.len(), tags.iter().copied());
        section.mark(7);
        section.finish().to_vec()
    }

    #[test]
    fn a_row_is_what_its_entry_says() {
        for tags in [
            &[][..],
            &[(&b"host"[..], &b"a"[..])],
            &[(b"dc", b""), (b"h\xc3\xb6st", b"\xc3\xa9")],
        ] {
            let bytes = section(9, "cpu", tags);
            let mut reader = SectionReader::new(&bytes).unwrap();
            let (row, found) = reader.next_row().unwrap().unwrap();
            assert_eq!(
                (row, found.measurement(), found.tag_count()),
                (Row(9), "cpu", tags.len())
            );
            assert_eq!(found.tags().collect::<Vec<_>>(), tags);
            assert_eq!(reader.next_row().unwrap(), None, "a mark is no row");
            let mut scratch = PointGroup::default();
            assert_eq!(
                reader.next_entry(&mut scratch).unwrap(),
                Some(Entry::Mark(7))
            );
            assert_eq!(reader.next_row().unwrap(), None, "nor is the end");
            let mut again = SectionReader::new(&bytes).unwrap();
            let key = found.to_key().unwrap();
            assert_eq!(
                again.next_entry(&mut scratch).unwrap(),
                Some(Entry::Row { row, key })
            );
        }
    }

    #[test]
    fn what_no_writer_wrote_is_refused() {
        for tags in [
            &[(&b"b"[..], &b""[..]), (b"a", b"")][..],
            &[(b"a", b"1"), (b"a", b"2")],
            &[(b"a", b"\xff")],
            &[(b"\xff", b"a")],
        ] {
            let bytes = section(0, "cpu", tags);
            let mut reader = SectionReader::new(&bytes).unwrap();
            assert!(reader.next_row().is_err(), "{tags:?}");
            let mut reader = SectionReader::new(&bytes).unwrap();
            assert!(reader.next_entry(&mut PointGroup::default()).is_err());
        }
    }
}
