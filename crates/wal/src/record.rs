//! Sections: what one batch did to one partition.
//!
//! Varint database, byte partition, varint position, then entries, each behind a tag byte.

use alluvium_codec::CodecError;
use alluvium_codec::varint::{get_bytes, get_u64, put_bytes, put_u64};
use alluvium_types::{DatabaseId, FieldId, Lsn, PARTITION_COUNT, Partition, Row, SeriesKey};

use crate::error::LogError;
use crate::group::{PointGroup, count, get_group, put_group, take};
use crate::row_key::RowKey;
use crate::tombstone::{Tombstone, get_tombstone, put_tombstone};

const CREATE_DATABASE: u8 = 1;
const DROP_DATABASE: u8 = 2;
const ROW: u8 = 3;
const FIELD: u8 = 4;
const POINTS: u8 = 5;
const MARK: u8 = 6;
const DELETE: u8 = 7;
const SETTINGS: u8 = 10;
const CUT: u8 = 11;

/// One thing a batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A database came to be.
    CreateDatabase {
        /// Its number, never reused.
        id: DatabaseId,
        /// Its name.
        name: String,
        /// Of the hash that names its rows.
        seed: u64,
        /// Opaque to the log.
        settings: Vec<u8>,
    },
    /// A database went.
    DropDatabase {
        /// Its number.
        id: DatabaseId,
    },
    /// A database got other settings.
    Settings {
        /// Its number.
        id: DatabaseId,
        /// Opaque to the log.
        settings: Vec<u8>,
    },
    /// Retention went on.
    Cut {
        /// Of which database.
        id: DatabaseId,
        /// Opaque to the log.
        cut: Vec<u8>,
    },
    /// A tag set got its number.
    Row {
        /// The number.
        row: Row,
        /// The tag set.
        key: SeriesKey,
    },
    /// A field of a measurement got its number.
    Field {
        /// The measurement.
        measurement: String,
        /// The number.
        field: FieldId,
        /// The name.
        name: String,
    },
    /// Points.
    Points(PointGroup),
    /// The position of another log that a view has applied.
    Mark(u64),
    /// Points were deleted: what each tombstone says, as of the section's position.
    Delete(Vec<Tombstone>),
}

/// What one batch did to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Whose.
    pub database: DatabaseId,
    /// Which part.
    pub partition: Partition,
    /// The batch's position in it.
    pub lsn: Lsn,
    /// In order.
    pub entries: Vec<Entry>,
}

/// Encodes sections into one reused buffer.
#[derive(Debug, Default)]
pub struct SectionBuilder {
    out: Vec<u8>,
}

impl SectionBuilder {
    /// Begins a section, forgetting what was not finished.
    pub fn begin(&mut self, database: DatabaseId, partition: Partition, lsn: Lsn) {
        self.out.clear();
        put_u64(&mut self.out, u64::from(database.0));
        self.out.push(partition.0);
        put_u64(&mut self.out, lsn.0);
    }

    /// Adds [`Entry::CreateDatabase`].
    pub fn create_database(&mut self, id: DatabaseId, name: &str, seed: u64, settings: &[u8]) {
        self.out.push(CREATE_DATABASE);
        put_u64(&mut self.out, u64::from(id.0));
        put_bytes(&mut self.out, name.as_bytes());
        put_u64(&mut self.out, seed);
        put_bytes(&mut self.out, settings);
    }

    /// Adds [`Entry::DropDatabase`].
    pub fn drop_database(&mut self, id: DatabaseId) {
        self.out.push(DROP_DATABASE);
        put_u64(&mut self.out, u64::from(id.0));
    }

    /// Adds [`Entry::Settings`].
    pub fn settings(&mut self, id: DatabaseId, settings: &[u8]) {
        self.out.push(SETTINGS);
        put_u64(&mut self.out, u64::from(id.0));
        put_bytes(&mut self.out, settings);
    }

    /// Adds [`Entry::Cut`].
    pub fn cut(&mut self, id: DatabaseId, cut: &[u8]) {
        self.out.push(CUT);
        put_u64(&mut self.out, u64::from(id.0));
        put_bytes(&mut self.out, cut);
    }

    /// Adds [`Entry::Row`].
    pub fn row(&mut self, row: Row, key: &SeriesKey) {
        let tags = key.tags().iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()));
        self.row_of_parts(row, key.measurement(), key.tags().len(), tags);
    }

    /// As [`Self::row`], of a key that is not in one piece: `count` tags sorted by key, all of them UTF-8.
    pub fn row_of_parts<'a>(
        &mut self,
        row: Row,
        measurement: &str,
        count: usize,
        tags: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) {
        self.out.push(ROW);
        put_u64(&mut self.out, u64::from(row.0));
        put_bytes(&mut self.out, measurement.as_bytes());
        put_u64(&mut self.out, count as u64);
        for (k, v) in tags {
            put_bytes(&mut self.out, k);
            put_bytes(&mut self.out, v);
        }
    }

    /// Adds [`Entry::Field`].
    pub fn field(&mut self, measurement: &str, field: FieldId, name: &str) {
        self.out.push(FIELD);
        put_bytes(&mut self.out, measurement.as_bytes());
        put_u64(&mut self.out, u64::from(field.0));
        put_bytes(&mut self.out, name.as_bytes());
    }

    /// Adds [`Entry::Points`].
    pub fn points(&mut self, group: &PointGroup) {
        self.out.push(POINTS);
        put_group(group, &mut self.out);
    }

    /// Adds [`Entry::Mark`].
    pub fn mark(&mut self, mark: u64) {
        self.out.push(MARK);
        put_u64(&mut self.out, mark);
    }

    /// Adds [`Entry::Delete`].
    pub fn delete(&mut self, tombstones: &[Tombstone]) {
        self.out.push(DELETE);
        put_u64(&mut self.out, tombstones.len() as u64);
        for tombstone in tombstones {
            put_tombstone(tombstone, &mut self.out);
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was begun.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The section's bytes.
    pub fn finish(&self) -> &[u8] {
        &self.out
    }
}

fn text(bytes: &mut &[u8]) -> Result<String, CodecError> {
    let text = std::str::from_utf8(get_bytes(bytes)?);
    let bad = |e: std::str::Utf8Error| CodecError::Invalid {
        field: "text",
        value: e.valid_up_to() as u64,
    };
    text.map(str::to_owned).map_err(bad)
}

fn number(bytes: &mut &[u8]) -> Result<u32, CodecError> {
    let value = get_u64(bytes)?;
    u32::try_from(value).map_err(|_| CodecError::Invalid {
        field: "number",
        value,
    })
}

fn head(bytes: &mut &[u8]) -> Result<(DatabaseId, Partition, Lsn), CodecError> {
    let database = DatabaseId(number(bytes)?);
    let partition = take(bytes, 1)?[0];
    if usize::from(partition) >= PARTITION_COUNT {
        return Err(CodecError::Invalid {
            field: "partition",
            value: u64::from(partition),
        });
    }
    let value = get_u64(bytes)?;
    let lsn = Lsn::checked(value).ok_or(CodecError::Invalid {
        field: "lsn",
        value,
    })?;
    Ok((database, Partition(partition), lsn))
}

/// Whose section it is and its position, without its entries.
///
/// # Errors
/// If the bytes are no section.
pub fn section_head(mut bytes: &[u8]) -> Result<(DatabaseId, Partition, Lsn), LogError> {
    Ok(head(&mut bytes)?)
}

/// Reads a section.
///
/// # Errors
/// If the bytes are no section.
pub fn read_section(bytes: &[u8]) -> Result<Section, LogError> {
    let mut reader = SectionReader::new(bytes)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry(&mut PointGroup::default())? {
        entries.push(entry);
    }
    Ok(Section {
        database: reader.database,
        partition: reader.partition,
        lsn: reader.lsn,
        entries,
    })
}

/// Reads a section entry by entry, for redo: points come in buffers of the caller.
#[derive(Debug, Clone)]
pub struct SectionReader<'a> {
    /// Whose.
    pub database: DatabaseId,
    /// Which part.
    pub partition: Partition,
    /// The batch's position in it.
    pub lsn: Lsn,
    rest: &'a [u8],
}

impl<'a> SectionReader<'a> {
    /// Reads whose section it is.
    ///
    /// # Errors
    /// If the bytes are no section.
    pub fn new(mut bytes: &'a [u8]) -> Result<Self, LogError> {
        let (database, partition, lsn) = head(&mut bytes)?;
        Ok(Self {
            database,
            partition,
            lsn,
            rest: bytes,
        })
    }

    /// The tag set of the next entry, if that is one: as [`Self::next_entry`] without a copy.
    ///
    /// # Errors
    /// As [`Self::next_entry`].
    pub fn next_row(&mut self) -> Result<Option<(Row, RowKey<'a>)>, LogError> {
        let Some((&ROW, mut rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        let row = Row(number(&mut rest)?);
        let key = RowKey::take(&mut rest)?;
        self.rest = rest;
        Ok(Some((row, key)))
    }

    /// The next entry; `None` behind the last. [`Entry::Points`] takes the buffers of `scratch`: put the group
    /// back there when it was used, and the next one costs no allocation.
    ///
    /// # Errors
    /// If the bytes are no entry. What follows cannot be read then.
    pub fn next_entry(&mut self, scratch: &mut PointGroup) -> Result<Option<Entry>, LogError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(entry(&mut self.rest, scratch)?))
    }
}

fn entry(r: &mut &[u8], scratch: &mut PointGroup) -> Result<Entry, CodecError> {
    Ok(match take(r, 1)?[0] {
        CREATE_DATABASE => Entry::CreateDatabase {
            id: DatabaseId(number(r)?),
            name: text(r)?,
            seed: get_u64(r)?,
            settings: get_bytes(r)?.to_vec(),
        },
        DROP_DATABASE => Entry::DropDatabase {
            id: DatabaseId(number(r)?),
        },
        ROW => {
            let row = Row(number(r)?);
            let key = RowKey::take(r)?.to_key()?;
            Entry::Row { row, key }
        }
        FIELD => Entry::Field {
            measurement: text(r)?,
            field: FieldId(number(r)?),
            name: text(r)?,
        },
        POINTS => {
            get_group(r, scratch)?;
            Entry::Points(std::mem::take(scratch))
        }
        MARK => Entry::Mark(get_u64(r)?),
        DELETE => {
            let mut tombstones = Vec::new();
            for _ in 0..count(r)? {
                tombstones.push(get_tombstone(r)?);
            }
            Entry::Delete(tombstones)
        }
        SETTINGS => Entry::Settings {
            id: DatabaseId(number(r)?),
            settings: get_bytes(r)?.to_vec(),
        },
        CUT => Entry::Cut {
            id: DatabaseId(number(r)?),
            cut: get_bytes(r)?.to_vec(),
        },
        other => {
            return Err(CodecError::Invalid {
                field: "entry",
                value: u64::from(other),
            });
        }
    })
}
