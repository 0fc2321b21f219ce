//! Names: unescaping and checking, once per distinct spelling.
//!
//! A backslash escapes a space, a comma and, outside measurements, an equals sign; before anything else it is
//! itself. In strings it escapes a quote and a backslash.

use std::borrow::Cow;

use alluvium_types::{BorrowedKey, SeriesKey};

use super::{Limits, LineErrorKind, Place};

/// Few tag sets have more: room for them costs one allocation.
const TAGS_LIKELY: usize = 12;

/// Reads [`super::Line::key`] with the default limit of tags.
///
/// # Errors
/// See [`decode_key_limited`].
pub fn decode_key(raw: &[u8]) -> Result<SeriesKey, LineErrorKind> {
    decode_key_limited(raw, Limits::default().tags_max)
}

/// Reads [`super::Line::key`]. Cost: one allocation a name; remember the answer under the raw bytes.
///
/// # Errors
/// See [`borrow_key`].
pub fn decode_key_limited(raw: &[u8], tags_max: usize) -> Result<SeriesKey, LineErrorKind> {
    borrow_key(raw, tags_max).map(SeriesKey::from)
}

/// Reads [`super::Line::key`]: unescapes every name, sorts the tags. Cost: one allocation, and one for each name that is
/// escaped.
///
/// # Errors
/// If a name is empty, holds a control character or is not UTF-8, a tag has no value, a tag key occurs twice or
/// is `time`, or there are more than `tags_max` tags.
pub fn borrow_key(raw: &[u8], tags_max: usize) -> Result<BorrowedKey<'_>, LineErrorKind> {
    plain_key(raw, tags_max).map_or_else(|| any_key(raw, tags_max), Ok)
}

/// A key in which nothing is escaped and nothing is wrong; `None` of any other, and of what is not looked into.
fn plain_key(raw: &[u8], tags_max: usize) -> Option<BorrowedKey<'_>> {
    // Without a way out of the loop, so that it takes many bytes at a time.
    let odd = |byte: &u8| u8::from(byte.is_ascii_control()) | u8::from(*byte == b'\\');
    if raw.iter().fold(0, |any, byte| any | odd(byte)) != 0 {
        return None;
    }
    let text = std::str::from_utf8(raw).ok()?;
    let mut marks = memchr::memchr2_iter(b',', b'=', raw);
    let mut tags = Vec::with_capacity(TAGS_LIKELY);
    let mut comma = marks.find(|at| raw[*at] == b',');
    let measurement = text.get(..comma.unwrap_or(raw.len()))?;
    while let Some(begin) = comma {
        let equals = marks.next().filter(|at| raw[*at] == b'=')?;
        comma = marks.next();
        if comma.is_some_and(|at| raw[at] != b',') {
            return None;
        }
        let key = text.get(begin + 1..equals)?;
        let value = text.get(equals + 1..comma.unwrap_or(raw.len()))?;
        if key.is_empty() || value.is_empty() || key == "time" || tags.len() == tags_max {
            return None;
        }
        tags.push((key.into(), value.into()));
    }
    if measurement.is_empty() {
        return None;
    }
    BorrowedKey::new(measurement.into(), tags).ok()
}

fn any_key(raw: &[u8], tags_max: usize) -> Result<BorrowedKey<'_>, LineErrorKind> {
    let (measurement, mut rest) = until(raw, b',');
    let measurement = decode(measurement, Place::Measurement)?;
    if measurement.is_empty() {
        return Err(LineErrorKind::MissingMeasurement);
    }
    let mut tags = Vec::with_capacity(TAGS_LIKELY);
    while let Some(text) = rest {
        if tags.len() == tags_max {
            return Err(LineErrorKind::TooManyTags { limit: tags_max });
        }
        let (tag, behind) = until(text, b',');
        let (key, value) = until(tag, b'=');
        if key.is_empty() {
            return Err(LineErrorKind::MissingTagKey);
        }
        let value = value
            .filter(|v| !v.is_empty())
            .ok_or(LineErrorKind::MissingTagValue)?;
        if until(value, b'=').1.is_some() {
            return Err(LineErrorKind::InvalidTagFormat);
        }
        let key = decode(key, Place::TagKey)?;
        if key == "time" {
            return Err(LineErrorKind::TimeTag);
        }
        tags.push((key, decode(value, Place::TagValue)?));
        rest = behind;
    }
    BorrowedKey::new(measurement, tags).map_err(|key| LineErrorKind::DuplicateTag {
        key: key.chars().take(64).collect(),
    })
}

/// Reads the name of a field.
///
/// # Errors
/// If it is empty, holds a control character or is not UTF-8.
pub fn decode_name(raw: &[u8]) -> Result<Cow<'_, str>, LineErrorKind> {
    if raw.is_empty() {
        return Err(LineErrorKind::MissingFieldKey);
    }
    decode(raw, Place::FieldKey)
}

/// Reads the text of a string value; `escaped` says whether a backslash occurs. The parser has checked that the
/// text is UTF-8; bytes that are not are replaced.
pub fn decode_string(raw: &[u8], escaped: bool) -> Cow<'_, str> {
    if !escaped {
        return String::from_utf8_lossy(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        let next = raw.get(at + 1).filter(|n| matches!(n, b'"' | b'\\'));
        if let (b'\\', Some(next)) = (byte, next) {
            out.push(*next);
            at += 2;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Cow::Owned(match String::from_utf8(out) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Splits at the first `separator` without a backslash just before it.
fn until(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut previous = 0;
    for (i, byte) in text.iter().enumerate() {
        if *byte == separator && previous != b'\\' {
            return (
                text.get(..i).unwrap_or_default(),
                Some(text.get(i + 1..).unwrap_or_default()),
            );
        }
        previous = *byte;
    }
    (text, None)
}

fn decode(raw: &[u8], place: Place) -> Result<Cow<'_, str>, LineErrorKind> {
    if let Some(byte) = raw.iter().find(|b| b.is_ascii_control()) {
        return Err(LineErrorKind::ControlCharacter { byte: *byte, place });
    }
    let text = std::str::from_utf8(raw).map_err(|_| LineErrorKind::InvalidUtf8 { place })?;
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' {
            chars.next_if(|n| match n {
                ' ' | ',' => true,
                '=' => place != Place::Measurement,
                _ => false,
            })
        } else {
            None
        };
        out.push(escaped.unwrap_or(c));
    }
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, LineErrorKind>) {
        let got = decode_key(raw.as_bytes()).map(|k| k.to_string());
        assert_eq!(got, expected.map(String::from), "{raw}");
    }

    #[test]
    fn a_plain_key_is_read_as_any_other() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut plain = 0;
        for _ in 0..200_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let mut bits = seed;
            let mut raw = b"m,".to_vec();
            for _ in 0..2 + seed % 10 {
                let texts = ["a", ",b", "=", "=v,", ",c=", "time", "\\", "é"];
                let text = texts[(bits % 8) as usize].as_bytes();
                bits >>= 3;
                raw.extend_from_slice(text);
            }
            let any = any_key(&raw, 3);
            let got = plain_key(&raw, 3);
            assert_eq!(borrow_key(&raw, 3), any);
            plain += usize::from(got.is_some());
            assert!(got.is_none_or(|got| Ok(got) == any));
        }
        assert!(plain > 500, "{plain} plain ones");
    }

    #[test]
    fn keys_are_unescaped_sorted_and_checked() {
        check("cpu,host=a,dc=x", Ok("cpu dc=x host=a"));
        check("a\\,b,t\\=1=v\\ w", Ok("a,b t\\=1=v\\ w"));
        check("cpu,h=o'brien", Ok("cpu h=o'brien"));
        check("m,a=x\\y", Ok("m a=x\\\\y"));
        check("m=1,a=b", Ok("m\\=1 a=b"));
        check("m,", Err(LineErrorKind::MissingTagKey));
        check("m,=x", Err(LineErrorKind::MissingTagKey));
        check("m,a", Err(LineErrorKind::MissingTagValue));
        check("m,a=", Err(LineErrorKind::MissingTagValue));
        check("m,a=,b=1", Err(LineErrorKind::MissingTagValue));
        check("m,a=b=c", Err(LineErrorKind::InvalidTagFormat));
        check("m,time=1", Err(LineErrorKind::TimeTag));
        check("", Err(LineErrorKind::MissingMeasurement));
        check(
            "m,a=1,a=2",
            Err(LineErrorKind::DuplicateTag { key: "a".into() }),
        );
        check(
            "m,a=\u{1}",
            Err(LineErrorKind::ControlCharacter {
                byte: 1,
                place: Place::TagValue,
            }),
        );
        assert_eq!(
            decode_key(b"m,\xff=1"),
            Err(LineErrorKind::InvalidUtf8 {
                place: Place::TagKey
            })
        );
        assert_eq!(
            decode_key_limited(b"m,a=1,b=2", 1),
            Err(LineErrorKind::TooManyTags { limit: 1 })
        );
    }

    #[test]
    fn strings_unescape_quotes_and_backslashes_only() {
        assert_eq!(decode_string(b"a\\\"b\\\\c\\nd\\", true), "a\"b\\c\\nd\\");
        assert_eq!(decode_string(b"plain", false), "plain");
    }
}
