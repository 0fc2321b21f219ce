//! From points to line protocol: for loaders, demos and exports.

use alluvium_types::{MAX_STRING_BYTES, SeriesKey, ValueRef};

use super::Limits;

/// Why a point cannot be written as line protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteLineError {
    /// Line protocol has no text for NaN and the infinities.
    #[error("line protocol cannot carry a float that is not finite")]
    NotFinite,
    /// A name is empty, has a control character, ends in a backslash, or is one that the protocol reserves.
    #[error("line protocol cannot carry this name")]
    Name,
    /// Measurement and tags are longer, as sent, than readers take.
    #[error("measurement and tags longer than {} bytes", Limits::default().key_bytes_max)]
    KeyTooLong,
    /// A string is longer than a value may be.
    #[error("string longer than {MAX_STRING_BYTES} bytes")]
    StringTooLong,
    /// A line needs a field.
    #[error("a line needs at least one field")]
    NoFields,
}

/// Appends one line with its line feed to `out`; without `time_ns` the receiver's clock decides. On error `out`
/// is as before.
///
/// # Errors
/// If line protocol cannot carry the point so that it reads back the same.
///
/// ```
/// use alluvium_protocol::line::write_line;
/// use alluvium_types::{SeriesKey, ValueRef};
///
/// let key = SeriesKey::new("cpu load", [("host", "a")]).unwrap();
/// let mut out = Vec::new();
/// write_line(&mut out, &key, [("idle", ValueRef::F64(0.5))], Some(7)).unwrap();
/// assert_eq!(out, b"cpu\\ load,host=a idle=0.5 7\n");
/// ```
pub fn write_line<'v>(
    out: &mut Vec<u8>,
    key: &SeriesKey,
    fields: impl IntoIterator<Item = (&'v str, ValueRef<'v>)>,
    time_ns: Option<i64>,
) -> Result<(), WriteLineError> {
    let begin = out.len();
    let result = append(out, key, fields, time_ns);
    if result.is_err() {
        out.truncate(begin);
    }
    result
}

fn append<'v>(
    out: &mut Vec<u8>,
    key: &SeriesKey,
    fields: impl IntoIterator<Item = (&'v str, ValueRef<'v>)>,
    time_ns: Option<i64>,
) -> Result<(), WriteLineError> {
    let begin = out.len();
    // A line that begins with a hash sign is a comment.
    if key.measurement().starts_with('#') {
        return Err(WriteLineError::Name);
    }
    // In a measurement an equals sign needs no backslash, and a backslash before one stays.
    name(out, key.measurement(), b" ,")?;
    for (tag, value) in key.tags() {
        if tag == "time" {
            return Err(WriteLineError::Name);
        }
        out.push(b',');
        name(out, tag, b" ,=")?;
        out.push(b'=');
        name(out, value, b" ,=")?;
    }
    if out.len() - begin > Limits::default().key_bytes_max {
        return Err(WriteLineError::KeyTooLong);
    }
    let mut separator = b' ';
    for (field, value) in fields {
        if field == "time" {
            return Err(WriteLineError::Name);
        }
        out.push(separator);
        separator = b',';
        name(out, field, b" ,=")?;
        out.push(b'=');
        put_value(out, value)?;
    }
    if separator == b' ' {
        return Err(WriteLineError::NoFields);
    }
    if let Some(time) = time_ns {
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(time).as_bytes());
    }
    out.push(b'\n');
    Ok(())
}

fn name(out: &mut Vec<u8>, text: &str, escaped: &[u8]) -> Result<(), WriteLineError> {
    if text.is_empty() || text.ends_with('\\') || text.bytes().any(|b| b.is_ascii_control()) {
        return Err(WriteLineError::Name);
    }
    for byte in text.bytes() {
        if escaped.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>) -> Result<(), WriteLineError> {
    match value {
        ValueRef::F64(v) if !v.is_finite() => return Err(WriteLineError::NotFinite),
        ValueRef::F64(v) => {
            out.extend_from_slice(ryu::Buffer::new().format_finite(v).as_bytes());
        }
        ValueRef::I64(v) => {
            out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
            out.push(b'i');
        }
        ValueRef::U64(v) => {
            out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
            out.push(b'u');
        }
        ValueRef::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
        ValueRef::Str(v) => {
            if v.len() > MAX_STRING_BYTES {
                return Err(WriteLineError::StringTooLong);
            }
            out.push(b'"');
            for byte in v.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
    }
    Ok(())
}
