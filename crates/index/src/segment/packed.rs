//! Numbers in as few bits as the largest of them needs.

/// Bits that a number takes.
pub(crate) fn bits_of(value: u32) -> u32 {
    u32::BITS - value.leading_zeros()
}

/// Bytes of `count` numbers of `width` bits.
pub(crate) fn packed_bytes(count: u32, width: u32) -> usize {
    (u64::from(count) * u64::from(width)).div_ceil(8) as usize
}

/// Appends numbers of `width` bits, low bits first.
pub(crate) fn pack(numbers: impl Iterator<Item = u32>, width: u32, out: &mut Vec<u8>) {
    let (mut word, mut used) = (0_u64, 0);
    for number in numbers {
        word |= u64::from(number) << used;
        used += width;
        while used >= 8 {
            out.push(word as u8);
            word >>= 8;
            used -= 8;
        }
    }
    if used > 0 {
        out.push(word as u8);
    }
}

/// The number at a place; `None` if it is past the end. `width` is at most 32.
#[inline]
pub(crate) fn unpack(bytes: &[u8], at: u32, width: u32) -> Option<u32> {
    if width == 0 {
        return Some(0);
    }
    let bit = u64::from(at) * u64::from(width);
    let begin = (bit / 8) as usize;
    let word = if let Some(eight) = bytes.get(begin..begin + 8) {
        u64::from_le_bytes(eight.try_into().ok()?)
    } else {
        let tail = bytes.get(begin..)?;
        if (tail.len() * 8) < (bit % 8 + u64::from(width)) as usize {
            return None;
        }
        tail.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b))
    };
    Some((word >> (bit % 8) & (u64::MAX >> (64 - width))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_at_every_width() {
        for width in 0..=32 {
            let numbers: Vec<u32> = (0..99_u32)
                .map(|i| (u64::from(i.wrapping_mul(0x9e37_79b9)) & ((1 << width) - 1)) as u32)
                .collect();
            let mut bytes = Vec::new();
            pack(numbers.iter().copied(), width, &mut bytes);
            assert_eq!(bytes.len(), packed_bytes(99, width));
            for (at, number) in (0..).zip(&numbers) {
                assert_eq!(unpack(&bytes, at, width), Some(*number));
            }
            assert_eq!(unpack(&bytes, 200, width), (width == 0).then_some(0));
        }
    }
}
