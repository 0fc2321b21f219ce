//! Frame-of-reference columns of whole bytes: each value is a base plus an offset of 0 to 8 bytes, so that
//! value `i` is one load away.

/// Bytes that `value` needs.
fn width_of(value: u64) -> u8 {
    (u64::BITS - value.leading_zeros()).div_ceil(8) as u8
}

/// Greatest common divisor; of 0 and a number the number.
pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Frame of one column while it is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// Smallest value; 0 if the column is stored at its full width.
    pub(crate) base: u64,
    /// Bytes an offset takes, 0 to 8.
    pub(crate) width: u8,
}

impl Frame {
    /// The frame of values from `min` to `max` of a column whose values fit `full` bytes.
    pub(crate) fn new(min: u64, max: u64, full: u8) -> Self {
        let width = width_of(max - min);
        if width >= full {
            Self {
                base: 0,
                width: full,
            }
        } else {
            Self { base: min, width }
        }
    }

    /// Bytes of the base: none for a column stored at its full width.
    pub(crate) fn base_bytes(self, full: u8) -> usize {
        if self.width >= full {
            0
        } else {
            usize::from(full)
        }
    }
}

/// Writes the low `width` bytes of `value` at `at`.
pub(crate) fn store(out: &mut [u8], at: usize, value: u64, width: u8) {
    let width = usize::from(width);
    out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// The low `width` (0 to 8) bytes at `at`; bytes behind the end read as 0.
#[inline]
pub(crate) fn load(bytes: &[u8], at: usize, width: u8) -> u64 {
    let mask = match width {
        0 => return 0,
        8.. => u64::MAX,
        w => (1 << (8 * u32::from(w))) - 1,
    };
    if let Some(eight) = bytes.get(at..).and_then(|b| b.first_chunk::<8>()) {
        return u64::from_le_bytes(*eight) & mask;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let mut eight = [0; 8];
    let len = rest.len().min(8);
    eight[..len].copy_from_slice(&rest[..len]);
    u64::from_le_bytes(eight) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_the_fewest_bytes() {
        for (value, width) in [
            (0, 0),
            (1, 1),
            (255, 1),
            (256, 2),
            (u64::MAX, 8),
            (1 << 56, 8),
        ] {
            assert_eq!(width_of(value), width, "{value}");
        }
        let full = Frame::new(5, u64::MAX, 8);
        assert_eq!((full.base, full.width, full.base_bytes(8)), (0, 8, 0));
        let narrow = Frame::new(1000, 1010, 4);
        assert_eq!(
            (narrow.base, narrow.width, narrow.base_bytes(4)),
            (1000, 1, 4)
        );
    }

    #[test]
    fn loads_what_was_stored_up_to_the_last_byte() {
        let mut out = vec![0xff; 16];
        for width in 0..=8_u8 {
            let value =
                0x0102_0304_0506_0708_u64 & (u64::MAX >> (64 - 8 * u32::from(width.max(1))));
            let value = if width == 0 { 0 } else { value };
            let at = 16 - usize::from(width);
            store(&mut out, at, value, width);
            assert_eq!(load(&out, at, width), value, "width {width}");
        }
        assert_eq!(load(&[1, 2], 1, 8), 2);
        assert_eq!(load(&[1, 2], 9, 8), 0);
    }
}
