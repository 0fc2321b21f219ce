//! Time that stands still until a test moves it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use alluvium_io::Clock;

/// A [`Clock`] with a wall that may be set and a monotonic time that may be advanced.
#[derive(Debug, Default)]
pub struct SimClock {
    wall_ns: AtomicI64,
    monotonic_ns: AtomicU64,
}

impl SimClock {
    /// A clock whose wall shows `wall_ns`; monotonic time begins at 0.
    pub fn new(wall_ns: i64) -> Self {
        Self {
            wall_ns: AtomicI64::new(wall_ns),
            monotonic_ns: AtomicU64::new(0),
        }
    }

    /// Moves both times on.
    pub fn advance_ns(&self, ns: u64) {
        self.monotonic_ns.fetch_add(ns, Ordering::SeqCst);
        self.wall_ns.fetch_add(ns as i64, Ordering::SeqCst);
    }

    /// Makes the wall jump, as an administrator would; monotonic time does not notice.
    pub fn set_wall_ns(&self, wall_ns: i64) {
        self.wall_ns.store(wall_ns, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> i64 {
        self.wall_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_jumps_alone_and_advances_together() {
        let clock = SimClock::new(100);
        clock.advance_ns(5);
        assert_eq!((clock.wall_ns(), clock.monotonic_ns()), (105, 5));
        clock.set_wall_ns(-7);
        assert_eq!((clock.wall_ns(), clock.monotonic_ns()), (-7, 5));
    }
}
