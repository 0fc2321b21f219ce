//! Fixed-width bit packing, low bits first, every run starting on a byte.

use crate::error::CodecError;
use crate::simd::multiversion;

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
    // Loads may reach into what follows: it is masked away.
    let all = *bytes;
    let (packed, rest) = bytes.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *bytes = rest;
    if width == 0 {
        out.fill(0);
        return Ok(());
    }
    unpack_run(all, packed, width as usize, out);
    Ok(())
}

multiversion! {
    /// Values of `width` bits from `packed`, loads from `all`, which goes on behind it.
    fn unpack_run(all: &[u8], packed: &[u8], width: usize, out: &mut [u64]) {
        let mask = mask(width as u32);
        let done = unpack_groups(all, width, out);
        // Eight values take `width` whole bytes.
        let packed = packed.get(done / 8 * width..).unwrap_or_default();
        let mut bit = 0;
        for value in &mut out[done..] {
            let at = bit / 8;
            let mut word = [0_u8; 16];
            let there = packed.get(at..).unwrap_or_default();
            let take = there.len().min(16);
            word[..take].copy_from_slice(&there[..take]);
            *value = (u128::from_le_bytes(word) >> (bit % 8)) as u64 & mask;
            bit += width;
        }
    }
}

/// Eight values at a time, as long as eight spare bytes follow them. Returns how many were unpacked.
///
/// With the width known at compile time every shift and offset is a constant.
#[inline(always)]
fn groups<const W: usize, const N: usize>(packed: &[u8], out: &mut [u64]) -> usize {
    let mask = mask(W as u32);
    let mut done = 0;
    for group in out.chunks_exact_mut(8) {
        let Some(source) = packed
            .get(done / 8 * W..)
            .and_then(|p| p.first_chunk::<N>())
        else {
            break;
        };
        for (place, value) in group.iter_mut().enumerate() {
            let (at, shift) = (place * W / 8, place * W % 8);
            let mut word = [0; 8];
            word.copy_from_slice(&source[at..at + 8]);
            *value = u64::from_le_bytes(word) >> shift & mask;
        }
        done += 8;
    }
    done
}

/// [`groups`] for the width at hand; widths whose values may span nine bytes are left to the slow loop.
#[inline(always)]
fn unpack_groups(packed: &[u8], width: usize, out: &mut [u64]) -> usize {
    macro_rules! by_width {
        ($($w:literal)*) => {
            match width {
                $($w => groups::<$w, { $w + 8 }>(packed, out),)*
                _ => 0,
            }
        };
    }
    by_width!(
        1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37
        38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57
    )
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
