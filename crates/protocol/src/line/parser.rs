//! From a body to lines: the hot path of ingestion.

use alluvium_types::{MAX_STRING_BYTES, ValueRef};
use memchr::{memchr, memchr_iter, memchr2};

use super::recover::end_of_bad_line;
use super::{LineError, LineErrorKind, Place, Precision, number};

/// What a body may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes, its line end not counted.
    pub line_bytes_max: usize,
    /// Longest measurement and tags, in bytes as sent.
    pub key_bytes_max: usize,
    /// Most fields in a line.
    pub fields_max: usize,
    /// Most tags in a line.
    pub tags_max: usize,
    /// Longest string value in bytes, without the backslashes that escape.
    pub string_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes_max: 1 << 20,
            key_bytes_max: 65_535,
            fields_max: 16_384,
            tags_max: 256,
            string_bytes_max: MAX_STRING_BYTES,
        }
    }
}

/// One line that holds points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a, 's> {
    /// Its number in the body, from 1, counting every line feed.
    pub number: usize,
    /// The whole line without its line end, for error messages.
    pub raw: &'a [u8],
    /// Measurement and tags exactly as sent, up to the first space without a backslash. Not checked yet: see
    /// [`super::decode_key`].
    pub key: &'a [u8],
    /// Nanoseconds; never `i64::MAX`.
    pub time_ns: i64,
    /// The fields in the order sent, at least one. A name may occur twice; the later one wins.
    pub fields: &'s [Field<'a>],
}

/// One field of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'a> {
    /// The name as sent, never empty. Not checked yet: see [`super::decode_name`].
    pub name: &'a [u8],
    /// Whether a backslash occurs in `name`.
    pub name_escaped: bool,
    /// The value.
    pub value: FieldValue<'a>,
}

/// A value as line protocol carries it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldValue<'a> {
    /// A finite float; -0.0 keeps its sign.
    F64(f64),
    /// A signed integer, sent with the suffix `i`.
    I64(i64),
    /// An unsigned integer, sent with the suffix `u`.
    U64(u64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Str {
        /// What stands between the quotes, valid UTF-8.
        raw: &'a [u8],
        /// Whether a backslash occurs: see [`super::decode_string`].
        escaped: bool,
    },
}

impl FieldValue<'_> {
    /// The value itself, unless it is a string that must be unescaped first.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        Some(match *self {
            Self::F64(v) => ValueRef::F64(v),
            Self::I64(v) => ValueRef::I64(v),
            Self::U64(v) => ValueRef::U64(v),
            Self::Bool(v) => ValueRef::Bool(v),
            Self::Str {
                raw,
                escaped: false,
            } => ValueRef::Str(std::str::from_utf8(raw).ok()?),
            Self::Str { .. } => return None,
        })
    }
}

/// Reads a body line by line.
///
/// Cost: about one pass over the bytes, no allocation per line.
///
/// ```
/// use alluvium_protocol::line::{Limits, LineParser, Precision};
///
/// let body = b"cpu,host=a usage=0.5,idle=93i 1700000000\ncpu oops\ncpu usage=1\n";
/// let mut parser = LineParser::new(body, Precision::S, 42_000_000_000, Limits::default());
/// let line = parser.next_line().unwrap().unwrap();
/// assert_eq!((line.key, line.fields.len()), (&b"cpu,host=a"[..], 2));
/// assert_eq!(line.time_ns, 1_700_000_000_000_000_000);
/// let error = parser.next_line().unwrap().unwrap_err();
/// assert_eq!(error.line, 2);
/// assert_eq!(parser.next_line().unwrap().unwrap().time_ns, 42_000_000_000);
/// assert!(parser.next_line().is_none());
/// ```
#[derive(Debug)]
pub struct LineParser<'a> {
    body: &'a [u8],
    at: usize,
    /// Line feeds before `at`, plus one.
    number: usize,
    precision: Precision,
    default_time_ns: i64,
    limits: Limits,
    fields: Vec<Field<'a>>,
    /// Bytes looked through for the end of refused lines whose quotes do not close.
    fruitless: usize,
}

/// So many times the body, and a refused line ends with its first line feed: a body of open quotes must not cost the square of its length.
const FRUITLESS_BODIES_MAX: usize = 4;

/// A line that was read; offsets are into its window.
struct Parsed {
    key_bytes: usize,
    time_ns: i64,
    /// Where its text ends.
    end: usize,
    /// Where the next line begins.
    next: usize,
    /// Line feeds inside quoted strings.
    inner_line_feeds: usize,
}

impl<'a> LineParser<'a> {
    /// A parser at the start of `body`. Lines without a timestamp get `default_time_ns`, cut to a whole unit of
    /// `precision`; every other timestamp is in those units.
    pub fn new(body: &'a [u8], precision: Precision, default_time_ns: i64, limits: Limits) -> Self {
        Self {
            body,
            at: 0,
            number: 1,
            precision,
            default_time_ns: precision.cut(default_time_ns),
            limits,
            fields: Vec::with_capacity(16),
            fruitless: 0,
        }
    }

    /// How many bytes of the body are behind the parser.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next line that holds points; comments and empty lines are skipped. `None` at the end of the body.
    ///
    /// # Errors
    /// If the line is refused. The next call goes on with the line after it.
    pub fn next_line(&mut self) -> Option<Result<Line<'a, '_>, LineError>> {
        let start = self.skip_to_text()?;
        let body = self.body;
        let limit = self.limits.line_bytes_max;
        let rest = body.get(start..)?;
        // Two bytes past the limit, so that a line of exactly the limit shows its end.
        let window = rest.get(..limit.saturating_add(2)).unwrap_or(rest);
        let number = self.number;
        let too_long = LineErrorKind::LineTooLong { limit };
        let parsed = match self.parse(window) {
            Ok(parsed) if parsed.end > limit => Err(too_long),
            other => other,
        };
        match parsed {
            Ok(parsed) => {
                self.at = start + parsed.next;
                self.number += parsed.inner_line_feeds + 1;
                Some(Ok(Line {
                    number,
                    raw: window.get(..parsed.end)?,
                    key: window.get(..parsed.key_bytes)?,
                    time_ns: parsed.time_ns,
                    fields: &self.fields,
                }))
            }
            Err(kind) => Some(Err(self.refuse(start, kind))),
        }
    }

    /// Moves past the line at `start`, which was refused.
    #[cold]
    fn refuse(&mut self, start: usize, kind: LineErrorKind) -> LineError {
        let limit = self.limits.line_bytes_max;
        // Not of a window: quotes that are open at its end may close behind it.
        let rest = self.body.get(start..).unwrap_or_default();
        let most = FRUITLESS_BODIES_MAX.saturating_mul(self.body.len());
        let end = (self.fruitless < most).then(|| end_of_bad_line(rest));
        let end = end.flatten().or_else(|| {
            self.fruitless += rest.len();
            memchr(b'\n', rest)
        });
        let end = end.unwrap_or(rest.len());
        let kind = if end > limit {
            LineErrorKind::LineTooLong { limit }
        } else {
            kind
        };
        let end = start + end;
        let raw = self.body.get(start..end).unwrap_or_default();
        let error = LineError::new(self.number, raw, kind);
        self.number += memchr_iter(b'\n', raw).count() + 1;
        self.at = (end + 1).min(self.body.len());
        error
    }

    /// Skips blank lines and comments; the offset of the next text.
    fn skip_to_text(&mut self) -> Option<usize> {
        loop {
            match *self.body.get(self.at)? {
                b'\n' => {
                    self.number += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | 0 => self.at += 1,
                b'\r' if matches!(self.body.get(self.at + 1), None | Some(b'\n')) => self.at += 1,
                b'#' => {
                    let rest = self.body.get(self.at..)?;
                    self.at += memchr(b'\n', rest)?;
                }
                _ => return Some(self.at),
            }
        }
    }

    /// Reads one line at the start of `window`.
    #[inline]
    fn parse(&mut self, window: &'a [u8]) -> Result<Parsed, LineErrorKind> {
        self.fields.clear();
        let key_bytes = key_end(window)?;
        if key_bytes > self.limits.key_bytes_max {
            return Err(LineErrorKind::KeyTooLong {
                limit: self.limits.key_bytes_max,
            });
        }
        let mut at = skip_blanks(window, key_bytes);
        if line_end(window, at).is_some() {
            return Err(LineErrorKind::MissingFields);
        }
        let mut inner_line_feeds = 0;
        let mut time_fields = 0;
        loop {
            let (name_end, name_escaped) = name_end(window, at)?;
            let name = window.get(at..name_end).unwrap_or_default();
            at = name_end + 1;
            let value;
            match window.get(at) {
                Some(b'0'..=b'9' | b'-' | b'.') => (value, at) = number::number(window, at)?,
                Some(b'"') => {
                    let string = self.string(window, at + 1)?;
                    inner_line_feeds += string.line_feeds;
                    at = string.next;
                    value = string.value;
                }
                Some(b't' | b'T' | b'f' | b'F') => (value, at) = boolean(window, at),
                None | Some(b',' | b' ' | b'\n' | b'\r') => {
                    return Err(LineErrorKind::MissingFieldValue);
                }
                // 1.6.7 calls these numbers, and every other text a boolean.
                Some(b'n' | b'N') => return Err(LineErrorKind::InvalidNumber),
                Some(_) => return Err(LineErrorKind::InvalidBoolean),
            }
            if name == b"time" {
                time_fields += 1;
            } else {
                if self.fields.len() == self.limits.fields_max {
                    return Err(LineErrorKind::TooManyFields {
                        limit: self.limits.fields_max,
                    });
                }
                self.fields.push(Field {
                    name,
                    name_escaped,
                    value,
                });
            }
            match window.get(at) {
                Some(b',') => at += 1,
                Some(b' ') => break,
                _ if line_end(window, at).is_some() => break,
                _ => return Err(bad_value_end(value)),
            }
        }
        if self.fields.is_empty() && time_fields > 0 {
            return Err(LineErrorKind::TimeField);
        }
        at = skip_blanks(window, at);
        let mut time_ns = self.default_time_ns;
        if line_end(window, at).is_none() {
            let (time, end) = number::timestamp(window, at)?;
            time_ns = time
                .and_then(|t| self.precision.to_ns(t))
                .ok_or(LineErrorKind::TimeOutOfRange)?;
            at = end;
            while window.get(at) == Some(&b' ') {
                at += 1;
            }
        }
        match line_end(window, at) {
            Some(next) => Ok(Parsed {
                key_bytes,
                time_ns,
                end: at,
                next,
                inner_line_feeds,
            }),
            None if window.get(at - 1) == Some(&b' ') => Err(LineErrorKind::TrailingText),
            None => Err(LineErrorKind::BadTimestamp),
        }
    }

    /// Reads the string whose text begins at `begin`, behind its opening quote.
    #[inline]
    fn string(&self, window: &'a [u8], begin: usize) -> Result<StringField<'a>, LineErrorKind> {
        let mut at = begin;
        let mut escaped = false;
        // Backslashes that are not of the value: those `decode_string` leaves out.
        let mut escapes = 0;
        loop {
            let rest = window.get(at..).unwrap_or_default();
            at += memchr2(b'"', b'\\', rest).ok_or(LineErrorKind::UnbalancedQuotes)?;
            if window.get(at) == Some(&b'"') {
                break;
            }
            escaped = true;
            escapes += usize::from(matches!(window.get(at + 1), Some(b'"' | b'\\')));
            at += 2;
        }
        let raw = window.get(begin..at).unwrap_or_default();
        if raw.len() - escapes > self.limits.string_bytes_max {
            return Err(LineErrorKind::StringTooLong {
                limit: self.limits.string_bytes_max,
            });
        }
        if std::str::from_utf8(raw).is_err() {
            return Err(LineErrorKind::InvalidUtf8 {
                place: Place::String,
            });
        }
        Ok(StringField {
            value: FieldValue::Str { raw, escaped },
            next: at + 1,
            line_feeds: memchr_iter(b'\n', raw).count(),
        })
    }
}

/// A string value, the offset behind its closing quote, and the line feeds in it.
struct StringField<'a> {
    value: FieldValue<'a>,
    next: usize,
    line_feeds: usize,
}

/// Where the key ends: at the first space without a backslash just before it.
#[inline]
fn key_end(window: &[u8]) -> Result<usize, LineErrorKind> {
    if window.first() == Some(&b',') {
        return Err(LineErrorKind::MissingMeasurement);
    }
    let mut at = 0;
    loop {
        let rest = window.get(at..).unwrap_or_default();
        let Some(found) = memchr2(b' ', b'\n', rest) else {
            return Err(LineErrorKind::MissingFields);
        };
        at += found;
        if window.get(at) == Some(&b'\n') {
            return Err(LineErrorKind::MissingFields);
        }
        if at == 0 || window.get(at - 1) != Some(&b'\\') {
            return Ok(at);
        }
        at += 1;
    }
}

/// Where the field name that begins at `at` ends: at the first `=` without a backslash just before it; and
/// whether a backslash occurs.
#[inline(always)]
fn name_end(window: &[u8], at: usize) -> Result<(usize, bool), LineErrorKind> {
    let mut escaped = false;
    let mut i = at;
    loop {
        match window.get(i) {
            Some(b'=') => break,
            // What follows a backslash belongs to the name, unless it is another backslash or a line feed.
            Some(b'\\') => {
                escaped = true;
                i += 1;
                if matches!(window.get(i), Some(b' ' | b',' | b'=')) {
                    i += 1;
                }
            }
            Some(b' ' | b',' | b'\n') | None => {
                return Err(if i == at {
                    LineErrorKind::MissingFieldKey
                } else {
                    LineErrorKind::MissingFieldValue
                });
            }
            Some(_) => i += 1,
        }
    }
    if i == at {
        return Err(LineErrorKind::MissingFieldKey);
    }
    Ok((i, escaped))
}

#[inline]
fn boolean<'a>(window: &[u8], at: usize) -> (FieldValue<'a>, usize) {
    const SPELLINGS: [(&[u8], bool); 6] = [
        (b"true", true),
        (b"True", true),
        (b"TRUE", true),
        (b"false", false),
        (b"False", false),
        (b"FALSE", false),
    ];
    let rest = window.get(at..).unwrap_or_default();
    for (text, value) in SPELLINGS {
        if rest.starts_with(text) {
            return (FieldValue::Bool(value), at + text.len());
        }
    }
    let value = matches!(rest.first(), Some(b't' | b'T'));
    (FieldValue::Bool(value), at + 1)
}

/// The blanks that 1.6.7 skips between the parts of a line.
#[inline(always)]
fn skip_blanks(window: &[u8], mut at: usize) -> usize {
    while matches!(window.get(at), Some(b' ' | b'\t' | 0)) {
        at += 1;
    }
    at
}

/// If a line ends at `at`, where the next one begins.
#[inline(always)]
fn line_end(window: &[u8], at: usize) -> Option<usize> {
    match window.get(at) {
        None => Some(at),
        Some(b'\n') => Some(at + 1),
        Some(b'\r') => match window.get(at + 1) {
            None => Some(at + 1),
            Some(b'\n') => Some(at + 2),
            Some(_) => None,
        },
        Some(_) => None,
    }
}

/// Why the text behind a value makes it none.
#[cold]
fn bad_value_end(value: FieldValue<'_>) -> LineErrorKind {
    match value {
        FieldValue::Bool(_) => LineErrorKind::InvalidBoolean,
        FieldValue::Str { .. } => LineErrorKind::InvalidFieldFormat,
        _ => LineErrorKind::InvalidNumber,
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
