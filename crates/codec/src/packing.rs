//! Fixed-width bit packing, low bits first, every run starting on a byte.

use crate::error::CodecError;

/// Bytes that `count` values of `width` bits take.
pub(crate) fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Appends the low `width` bits of each value.
pub(crate) fn pack(out: &mut Vec<u8>, values: &[u64], width: u32) {
    if width == 0 {
        return;
    }
    let mask = mask(width);
    let (mut held, mut bits) = (0_u128, 0);
    for value in values {
        held |= u128::from(value & mask) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(held as u64).to_le_bytes());
            held >>= 64;
            bits -= 64;
        }
    }
    out.extend_from_slice(&held.to_le_bytes()[..(bits as usize).div_ceil(8)]);
}

/// Takes `out.len()` values of `width` bits off the front.
pub(crate) fn unpack(bytes: &mut &[u8], width: u32, out: &mut [u64]) -> Result<(), CodecError> {
    let len = packed_bytes(out.len(), width);
    let (mut packed, rest) = bytes.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *bytes = rest;
    if width == 0 {
        out.fill(0);
        return Ok(());
    }
    let mask = mask(width);
    let width = width as usize;
    // Values whose eight bytes are all there go by one unaligned load each.
    let whole = if width <= 57 && len >= 8 {
        ((len - 8) * 8 / width + 1).min(out.len())
    } else {
        0
    };
    let (fast, slow) = out.split_at_mut(whole);
    let mut bit = 0;
    for value in fast {
        let at = bit / 8;
        let word = packed
            .get(at..at + 8)
            .and_then(|b| b.first_chunk::<8>())
            .ok_or(CodecError::Truncated)?;
        *value = u64::from_le_bytes(*word) >> (bit % 8) & mask;
        bit += width;
    }
    packed = packed.get(bit / 8..).unwrap_or_default();
    bit %= 8;
    for value in slow {
        let at = bit / 8;
        let mut word = [0_u8; 16];
        let there = packed.get(at..).unwrap_or_default();
        let take = there.len().min(16);
        word[..take].copy_from_slice(&there[..take]);
        *value = (u128::from_le_bytes(word) >> (bit % 8)) as u64 & mask;
        bit += width;
    }
    Ok(())
}

fn mask(width: u32) -> u64 {
    if width >= 64 {
        u64::MAX
    } else {
        (1 << width) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_count_comes_back() {
        for width in 0..=64 {
            for count in [0, 1, 7, 8, 9, 64, 127, 128] {
                let values: Vec<u64> = (0..count as u64)
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask(width))
                    .collect();
                let mut bytes = Vec::new();
                pack(&mut bytes, &values, width);
                assert_eq!(bytes.len(), packed_bytes(count, width));
                let mut got = vec![0; count];
                unpack(&mut bytes.as_slice(), width, &mut got).unwrap();
                assert_eq!(got, if width == 0 { vec![0; count] } else { values });
            }
        }
    }
}
