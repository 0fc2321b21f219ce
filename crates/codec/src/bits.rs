//! A stream of bits, low ones first: written through a word, read by unaligned loads.

/// Appends fields of up to 64 bits; the last byte is filled with zeros.
#[derive(Debug)]
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    held: u64,
    bits: u32,
}

impl<'a> BitWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            held: 0,
            bits: 0,
        }
    }

    /// Appends the low `count` bits, at most 64, of a value that has no others.
    #[inline(always)]
    pub(crate) fn put(&mut self, value: u64, count: u32) {
        self.held |= value << self.bits;
        let bits = self.bits + count;
        if bits < 64 {
            self.bits = bits;
            return;
        }
        self.out.extend_from_slice(&self.held.to_le_bytes());
        // What did not fit: nothing if the word was empty before.
        self.held = value.checked_shr(64 - self.bits).unwrap_or(0);
        self.bits = bits - 64;
    }

    pub(crate) fn finish(self) {
        let bytes = self.bits.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&self.held.to_le_bytes()[..bytes]);
    }
}

/// At least 57 bits from bit `at` on; zeros past the end.
#[inline(always)]
pub(crate) fn load(bytes: &[u8], at: usize) -> u64 {
    let word = match bytes.get(at / 8..).and_then(|b| b.first_chunk::<8>()) {
        Some(word) => u64::from_le_bytes(*word),
        None => load_end(bytes, at / 8),
    };
    word >> (at % 8)
}

#[cold]
fn load_end(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    for (slot, byte) in word.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
        *slot = *byte;
    }
    u64::from_le_bytes(word)
}

/// The low `count` bits, at most 63, of a word.
#[inline(always)]
pub(crate) fn low(word: u64, count: u32) -> u64 {
    word & ((1 << count) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_widths_come_back() {
        let mut out = Vec::new();
        let mut writer = BitWriter::new(&mut out);
        let value = |width: u32| 0x9e37_79b9_7f4a_7c15_u64 >> (64 - width);
        for width in (1..=56).chain([64, 1, 64]) {
            writer.put(value(width), width);
        }
        writer.finish();
        let mut at = 0;
        for width in 1..=56 {
            assert_eq!(low(load(&out, at), width), value(width));
            at += width as usize;
        }
        assert_eq!(out.len(), (at + 129).div_ceil(8));
        assert_eq!(load(&out, out.len() * 8), 0);
    }
}
