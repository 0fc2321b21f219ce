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

/// Bits of `total` things of which there are so many of each sort, in a code as long as their logarithm.
pub(crate) fn bits(total: u32, counts: impl Iterator<Item = u32>) -> f32 {
    let table = &*C_LOG_C;
    let of = |c: u32| table.get(c as usize).copied().unwrap_or_default();
    of(total) - counts.map(of).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_counts_take_their_logarithm() {
        assert!((bits(1024, [256; 4].into_iter()) - 2048.0).abs() < 0.1);
        assert!(bits(7, [7].into_iter()).abs() < 0.1);
        assert!((bits(3, [1, 2].into_iter()) - 2.755).abs() < 0.01);
    }
}
