//! Variable-length integers and strings: seven bits a byte, low bits first, high bit set on all but the last.

/// Appends an integer, 1 to 10 bytes.
pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an integer off the front; `None` if it is cut short or longer than 64 bits.
#[inline]
pub(crate) fn get_u64(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        value |= low << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Takes an integer of at most 32 bits off the front.
#[inline]
pub(crate) fn get_u32(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(get_u64(bytes)?).ok()
}

/// Appends a string behind its length.
pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Takes a string off the front; `None` if it is cut short or not UTF-8.
pub(crate) fn get_str<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(get_u64(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip_and_bad_ones_are_refused() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            let mut rest = out.as_slice();
            assert_eq!(get_u64(&mut rest), Some(value));
            assert!(rest.is_empty());
            assert_eq!(get_u64(&mut &out[..out.len() - 1]), None, "cut short");
        }
        assert_eq!(get_u64(&mut [0xff; 10].as_slice()), None, "past 64 bits");
        assert_eq!(get_str(&mut [9, b'a'].as_slice()), None);
        assert_eq!(get_str(&mut [1, 0xff].as_slice()), None);
    }
}
