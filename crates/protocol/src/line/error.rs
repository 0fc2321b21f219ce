//! Why a line was refused.

use std::fmt;

/// Bytes of a refused line that its error repeats.
const EXCERPT_BYTES_MAX: usize = 128;

/// Why one line, or one name in it, was refused. The texts of the classic reasons are InfluxDB's own, because
/// clients look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineErrorKind {
    /// The line begins with a comma or has no name at all.
    #[error("missing measurement")]
    MissingMeasurement,
    /// Nothing follows the measurement and its tags.
    #[error("missing fields")]
    MissingFields,
    /// Nothing before the `=` of a tag.
    #[error("missing tag key")]
    MissingTagKey,
    /// No `=` in a tag, or nothing behind it.
    #[error("missing tag value")]
    MissingTagValue,
    /// An `=` inside a tag value has no backslash before it.
    #[error("invalid tag format: '=' in a tag value needs a backslash")]
    InvalidTagFormat,
    /// Two tags have the same key.
    #[error("duplicate tag key {key:?}")]
    DuplicateTag {
        /// The key, cut to 64 characters.
        key: String,
    },
    /// A tag is called `time`, which is the name of the timestamp.
    #[error("invalid tag key: \"time\" is the name of the timestamp")]
    TimeTag,
    /// Nothing before the `=` of a field.
    #[error("missing field key")]
    MissingFieldKey,
    /// No `=` in a field, or nothing behind it.
    #[error("missing field value")]
    MissingFieldValue,
    /// The only field is called `time`, which is the name of the timestamp.
    #[error("invalid field name: input field \"time\" is invalid")]
    TimeField,
    /// A value that begins like a number is none.
    #[error("invalid number")]
    InvalidNumber,
    /// An integer does not fit into 64 bits.
    #[error("invalid number: integer out of range")]
    IntegerOutOfRange,
    /// A float is too large to be finite.
    #[error("invalid number: float out of range")]
    FloatOutOfRange,
    /// A value is neither a number, nor a quoted string, nor one of the spellings of true and false.
    #[error("invalid boolean")]
    InvalidBoolean,
    /// A quoted string never ends.
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    /// Something else than a separator follows a value.
    #[error("invalid field format")]
    InvalidFieldFormat,
    /// The timestamp is not an integer.
    #[error("bad timestamp")]
    BadTimestamp,
    /// The timestamp does not fit, in nanoseconds, into 64 bits, or is the reserved last instant.
    #[error("time outside range -9223372036854775808 - 9223372036854775806")]
    TimeOutOfRange,
    /// Something follows the timestamp.
    #[error("invalid point: text after the timestamp")]
    TrailingText,
    /// A name or a string is not UTF-8.
    #[error("invalid UTF-8 in a {place}")]
    InvalidUtf8 {
        /// Which part of the line.
        place: Place,
    },
    /// A name holds a control character.
    #[error("control character 0x{byte:02x} in a {place}")]
    ControlCharacter {
        /// The character.
        byte: u8,
        /// Which part of the line.
        place: Place,
    },
    /// The line is longer than allowed.
    #[error("line longer than {limit} bytes")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Measurement and tags together are longer than allowed.
    #[error("measurement and tags longer than {limit} bytes")]
    KeyTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A string value is longer than allowed.
    #[error("string longer than {limit} bytes")]
    StringTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The line has more fields than allowed.
    #[error("more than {limit} fields")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// The line has more tags than allowed.
    #[error("more than {limit} tags")]
    TooManyTags {
        /// The limit.
        limit: usize,
    },
}

/// Part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The measurement.
    Measurement,
    /// A tag's key.
    TagKey,
    /// A tag's value.
    TagValue,
    /// A field's name.
    FieldKey,
    /// A string value.
    String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measurement => "measurement",
            Self::TagKey => "tag key",
            Self::TagValue => "tag value",
            Self::FieldKey => "field key",
            Self::String => "string value",
        })
    }
}

/// A refused line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse '{excerpt}': {kind}")]
pub struct LineError {
    /// The line's number in its body, from 1, counting every line feed.
    pub line: usize,
    /// The beginning of the line, for people; bytes that are not UTF-8 are replaced.
    pub excerpt: Box<str>,
    /// Why.
    pub kind: LineErrorKind,
}

impl LineError {
    /// The error of line number `line` whose bytes are `raw`.
    pub fn new(line: usize, raw: &[u8], kind: LineErrorKind) -> Self {
        let cut = raw.get(..EXCERPT_BYTES_MAX).unwrap_or(raw);
        let mut excerpt = String::from_utf8_lossy(cut).into_owned();
        if cut.len() < raw.len() {
            // The cut may have halved a character.
            while excerpt.ends_with('\u{fffd}') {
                excerpt.pop();
            }
            excerpt.push('…');
        }
        Self {
            line,
            excerpt: excerpt.into(),
            kind,
        }
    }
}
