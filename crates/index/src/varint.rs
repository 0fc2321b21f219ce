//! The codec's variable-length integers, with this crate's narrower ideas of what they may hold.
//!
//! `None` stands for every kind of bad bytes: the caller knows what it was reading.

use alluvium_codec::varint;
pub(crate) use alluvium_codec::varint::put_u64;

/// Takes an integer off the front.
#[inline]
pub(crate) fn get_u64(bytes: &mut &[u8]) -> Option<u64> {
    varint::get_u64(bytes).ok()
}

/// Takes an integer of at most 32 bits off the front.
#[inline]
pub(crate) fn get_u32(bytes: &mut &[u8]) -> Option<u32> {
    // Nearly all are one byte.
    if let [byte, rest @ ..] = *bytes
        && *byte < 0x80
    {
        *bytes = rest;
        return Some(u32::from(*byte));
    }
    u32::try_from(get_u64(bytes)?).ok()
}

/// Appends a string behind its length.
pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    varint::put_bytes(out, text.as_bytes());
}

/// Takes a string off the front; `None` if it is cut short or not UTF-8.
pub(crate) fn get_str<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(varint::get_bytes(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_are_none() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::from(u32::MAX));
        assert_eq!(get_u32(&mut out.as_slice()), Some(u32::MAX));
        out.clear();
        put_u64(&mut out, 1 << 32);
        assert_eq!(get_u32(&mut out.as_slice()), None, "past 32 bits");
        assert_eq!(get_u64(&mut [0xff; 10].as_slice()), None, "past 64 bits");
        assert_eq!(get_str(&mut [9, b'a'].as_slice()), None, "cut short");
        assert_eq!(get_str(&mut [1, 0xff].as_slice()), None, "not UTF-8");
        assert_eq!(get_str(&mut [2, 0xc3, 0xa9].as_slice()), Some("é"));
    }
}
