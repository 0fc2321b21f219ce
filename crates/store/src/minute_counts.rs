//! How often something happened in each of the last minutes. Atomics only: whoever counts never waits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Minutes that are remembered, the present one not counted.
pub(crate) const MINUTES: u64 = 60;

/// Slots: one more than are asked for, so that the present minute overwrites none of them.
const SLOTS: usize = 64;

const MINUTE_NS: u64 = 60_000_000_000;

/// By minute, modulo the slots: the minute in the high half, the count in the low half.
#[derive(Debug)]
pub(crate) struct MinuteCounts([AtomicU64; SLOTS]);

impl Default for MinuteCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The minute of an instant, nanoseconds since the clock began.
pub(crate) fn minute_of(now_ns: u64) -> u64 {
    now_ns / MINUTE_NS
}

impl MinuteCounts {
    /// Counts `count` more now, nanoseconds of the monotonic clock.
    pub(crate) fn note(&self, now_ns: u64, count: u64) {
        if count == 0 {
            return;
        }
        let minute = minute_of(now_ns) as u32;
        let Some(slot) = self.0.get(minute as usize % SLOTS) else {
            return;
        };
        let add = |before: u64| {
            let known = (before >> 32) as u32;
            let so_far = if known == minute { before as u32 } else { 0 };
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Some(u64::from(minute) << 32 | u64::from(so_far.saturating_add(count)))
        };
        // The closure never refuses.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What was counted in one minute; 0 if it is not remembered.
    pub(crate) fn of(&self, minute: u64) -> u64 {
        let slot = self.0.get(minute as usize % SLOTS);
        let word = slot.map_or(0, |slot| slot.load(Ordering::Relaxed));
        if word >> 32 == minute {
            u64::from(word as u32)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_counted_apart_and_forgotten() {
        let counts = MinuteCounts::default();
        assert_eq!(counts.of(0), 0);
        counts.note(0, 7);
        counts.note(MINUTE_NS - 1, 3);
        counts.note(MINUTE_NS, 5);
        assert_eq!([counts.of(0), counts.of(1), counts.of(2)], [10, 5, 0]);
        counts.note(64 * MINUTE_NS, 1);
        assert_eq!([counts.of(0), counts.of(1), counts.of(64)], [0, 5, 1]);
        counts.note(64 * MINUTE_NS, u64::MAX);
        assert_eq!(counts.of(64), u64::from(u32::MAX));
    }
}
