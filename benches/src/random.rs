//! Numbers that look random and are the same in every run.

/// A linear congruential generator (Knuth's MMIX constants), of which the high 31 bits are used.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, below 2^31.
    pub fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// The next number, below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}
