//! Variable-length integers: seven bits a byte, low ones first, the high bit says that more follow (LEB128).

use crate::error::CodecError;

/// Appends a number in 1 to 10 bytes.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front.
///
/// # Errors
/// If the bytes end too early or the number passes 64 bits.
#[inline]
pub fn get_u64(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    // Most are one byte.
    if let [byte, rest @ ..] = *bytes
        && *byte < 0x80
    {
        *bytes = rest;
        return Ok(u64::from(*byte));
    }
    get_long(bytes)
}

fn get_long(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut value = 0_u64;
    let mut shift = 0;
    loop {
        let (byte, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        if shift == 63 && *byte > 1 {
            return Err(CodecError::Overlong);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
    }
}

/// Maps small negative and positive numbers to small unsigned ones.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Appends a signed number.
#[inline]
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

/// Takes a signed number off the front.
///
/// # Errors
/// As [`get_u64`].
#[inline]
pub fn get_i64(bytes: &mut &[u8]) -> Result<i64, CodecError> {
    get_u64(bytes).map(unzigzag)
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes behind their length off the front.
///
/// # Errors
/// If the input is shorter than the length says.
pub fn get_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let len = get_u64(bytes)?;
    let len = usize::try_from(len).map_err(|_| CodecError::Truncated)?;
    let (head, rest) = bytes.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *bytes = rest;
    Ok(head)
}
