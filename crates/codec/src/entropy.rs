//! What counts of things come to in bits, without a logarithm for each.

use std::sync::LazyLock;

use crate::block::MAX_BLOCK_POINTS;

/// Of each count c that a block can have: c log2 c.
static C_LOG_C: LazyLock<[f32; MAX_BLOCK_POINTS + 1]> = LazyLock::new(|| {
    let mut table = [0.0; MAX_BLOCK_POINTS + 1];
    for (c, slot) in table.iter_mut().enumerate().skip(1) {
        *slot = c as f32 * (c as f32).log2();
    }
    table
});

/// Things of several sorts.
pub(crate) struct Sorts {
    table: &'static [f32; MAX_BLOCK_POINTS + 1],
    total: u32,
    sum: f32,
}

impl Default for Sorts {
    fn default() -> Self {
        let table = &*C_LOG_C;
        Self {
            table,
            total: 0,
            sum: 0.0,
        }
    }
}

impl Sorts {
    /// Adds so many things of one sort.
    #[inline]
    pub(crate) fn add(&mut self, count: u32) {
        self.total += count;
        self.sum += self.of(count);
    }

    #[inline]
    fn of(&self, count: u32) -> f32 {
        self.table.get(count as usize).copied().unwrap_or_default()
    }

    /// Bits of all things if each takes the logarithm of its sort's share.
    pub(crate) fn bits(&self) -> f32 {
        self.of(self.total) - self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(counts: &[u32]) -> f32 {
        let mut sorts = Sorts::default();
        counts.iter().for_each(|count| sorts.add(*count));
        sorts.bits()
    }

    #[test]
    fn equal_counts_take_their_logarithm() {
        assert!((bits(&[256; 4]) - 2048.0).abs() < 0.1);
        assert!(bits(&[7]).abs() < 0.1);
        assert!((bits(&[1, 2]) - 2.755).abs() < 0.01);
    }
}
