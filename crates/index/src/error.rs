//! What the index refuses.

use alluvium_types::{FieldId, Row};
use thiserror::Error;

use crate::MeasurementId;

/// A definition that the index cannot take.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Row numbers are used up (2^32 - 1 in a partition; they are never reused).
    #[error("the partition has no free row number: {rows} tag sets were created")]
    PartitionFull {
        /// Rows that exist.
        rows: u32,
    },
    /// The tag set already has a row.
    #[error("the tag set exists as row {}", row.0)]
    RowExists {
        /// Its row.
        row: Row,
    },
    /// No such row.
    #[error("row {} does not exist", row.0)]
    UnknownRow {
        /// The row asked for.
        row: Row,
    },
    /// No such measurement.
    #[error("measurement number {} does not exist", measurement.0)]
    UnknownMeasurement {
        /// The measurement asked for.
        measurement: MeasurementId,
    },
    /// The field number is not one of the row's measurement.
    #[error("field number {} does not exist in the measurement of row {}", field.0, row.0)]
    UnknownField {
        /// The row.
        row: Row,
        /// The field.
        field: FieldId,
    },
    /// A measurement has [`FieldId::LIMIT`] fields.
    #[error(
        "measurement '{measurement}' has {} fields and takes no more",
        FieldId::LIMIT
    )]
    TooManyFields {
        /// The measurement.
        measurement: String,
    },
    /// A name is longer than [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    #[error("a name of {bytes} bytes is longer than {}", crate::MAX_NAME_BYTES)]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A tag set has more than [`MAX_TAGS`](crate::MAX_TAGS) tags.
    #[error("a tag set of {tags} tags has more than {}", crate::MAX_TAGS)]
    TooManyTags {
        /// Their number.
        tags: usize,
    },
    /// A part of the durable form cannot be applied.
    #[error("definition part: {0}")]
    Part(#[from] PartError),
}

/// Why a definition part was refused. Nothing was applied, except for [`PartError::Invalid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PartError {
    /// It does not begin as a part does.
    #[error("not a definition part (bad magic)")]
    Magic,
    /// A version this program does not know.
    #[error("format version {found} is not known")]
    Version {
        /// The version found.
        found: u16,
    },
    /// It is shorter or longer than it says.
    #[error("{found} bytes where {expected} belong")]
    Length {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The bytes changed since they were written.
    #[error("checksum {found:08x} where {expected:08x} is stored")]
    Checksum {
        /// The checksum stored.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// It does not continue where the index is.
    #[error(
        "it continues from row {begins_at_row}, the index has {rows} (or fields or series differ)"
    )]
    NotNext {
        /// The first row of the part.
        begins_at_row: u32,
        /// Rows of the index.
        rows: u32,
    },
    /// The checksum holds but the content makes no sense. The index may hold a piece of it: drop it.
    #[error("bad {what} at byte {at}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// How far into the part.
        at: usize,
    },
}

/// A selector that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The expression is not valid, or too large.
    #[error("regular expression of label '{label}': {source}")]
    Regex {
        /// The label it was for.
        label: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// More expressions than [`MAX_REGEXES`](crate::MAX_REGEXES).
    #[error(
        "a selector has at most {} regular expressions; put some together, or ask for values by name",
        crate::MAX_REGEXES
    )]
    TooManyRegexes,
}

/// A segment that cannot be read.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A checksum does not hold, or behind a good one something makes no sense.
    #[error("damaged {what} at byte {at} of an index segment")]
    Damaged {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// A version this program does not know.
    #[error("format version {found} of an index segment is not known")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The bytes could not be read.
    #[error("an index segment cannot be read")]
    Read {
        /// Why.
        #[source]
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Segments do not fit together or to their index: one is missing, doubled or of another.
    #[error("index segments end at row {found}, {expected} rows are sealed")]
    NotWhole {
        /// Rows that should be sealed.
        expected: u32,
        /// Where the segments end.
        found: u32,
    },
}

/// An index that cannot be opened from its durable form.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Its first part cannot be applied.
    #[error(transparent)]
    Part(#[from] IndexError),
    /// A segment is missing or cannot be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}
