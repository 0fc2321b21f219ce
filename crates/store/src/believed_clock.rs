//! A clock that retention may trust: a wall clock that jumps must not erase what it says is old.
//!
//! The superblock keeps a wall time that was believed. From there the clock may run on with monotonic time, and be one
//! day ahead of that; what is further ahead counts as that day, until somebody confirms it. Time the machine was off
//! looks like a jump, too. Behind, the wall clock is simply believed: nothing expires by it.

use alluvium_io::Clock;
use parking_lot::Mutex;

/// How far the wall clock may be ahead of what is known without being confirmed: one day.
pub const CLOCK_JUMP_MAX_NS: i64 = 86_400_000_000_000;

/// What a store makes of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStatus {
    /// The time that retention goes by, nanoseconds.
    pub believed_ns: i64,
    /// By how many nanoseconds the wall clock is ahead of it; 0 unless it jumped and nobody confirmed that.
    pub held_ns: i64,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    wall_ns: i64,
    monotonic_ns: u64,
}

impl Anchor {
    /// What time it must be at least.
    fn run_on(self, monotonic_ns: u64) -> i64 {
        let elapsed = monotonic_ns.saturating_sub(self.monotonic_ns);
        let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX);
        self.wall_ns.saturating_add(elapsed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct BelievedClock(Mutex<Anchor>);

impl BelievedClock {
    /// `known`: the wall time of the last superblock; `None` in a new directory.
    pub(crate) fn new(clock: &dyn Clock, known: Option<i64>) -> Self {
        Self(Mutex::new(Anchor {
            wall_ns: known.unwrap_or_else(|| clock.wall_ns()),
            monotonic_ns: clock.monotonic_ns(),
        }))
    }

    /// The time nothing may be expired beyond.
    pub(crate) fn status(&self, clock: &dyn Clock) -> ClockStatus {
        let wall = clock.wall_ns();
        let known = self.0.lock().run_on(clock.monotonic_ns());
        let believed_ns = wall.min(known.saturating_add(CLOCK_JUMP_MAX_NS));
        ClockStatus {
            believed_ns,
            held_ns: wall.saturating_sub(believed_ns),
        }
    }

    /// The latest time it may be: for refusing what is from the future.
    pub(crate) fn latest(&self, clock: &dyn Clock) -> i64 {
        let known = self.0.lock().run_on(clock.monotonic_ns());
        clock.wall_ns().max(known)
    }

    /// Goes on from now, by the wall clock unless it jumped. Returns what a superblock is to remember.
    pub(crate) fn remember(&self, clock: &dyn Clock) -> i64 {
        let (wall, monotonic_ns) = (clock.wall_ns(), clock.monotonic_ns());
        let mut anchor = self.0.lock();
        let known = anchor.run_on(monotonic_ns);
        let is_plausible = wall <= known.saturating_add(CLOCK_JUMP_MAX_NS);
        let wall_ns = if is_plausible { known.max(wall) } else { known };
        *anchor = Anchor {
            wall_ns,
            monotonic_ns,
        };
        wall_ns
    }

    /// Somebody says that the wall clock is right.
    pub(crate) fn confirm(&self, clock: &dyn Clock) {
        *self.0.lock() = Anchor {
            wall_ns: clock.wall_ns(),
            monotonic_ns: clock.monotonic_ns(),
        };
    }
}

#[cfg(test)]
mod tests {
    use alluvium_sim::SimClock;

    use super::*;

    const DAY: i64 = CLOCK_JUMP_MAX_NS;

    #[test]
    fn a_jump_is_a_day_until_it_is_confirmed() {
        let clock = SimClock::new(1000 * DAY);
        let believed = BelievedClock::new(&clock, Some(1000 * DAY));
        clock.advance_ns(5);
        assert_eq!(believed.status(&clock).believed_ns, 1000 * DAY + 5);
        clock.set_wall_ns(5000 * DAY);
        // However many superblocks come, the day is given once.
        for _ in 0..10 {
            clock.advance_ns(10);
            believed.remember(&clock);
        }
        let status = believed.status(&clock);
        assert_eq!(status.believed_ns, 1001 * DAY + 105);
        assert_eq!(status.held_ns, 5000 * DAY + 100 - (1001 * DAY + 105));
        assert_eq!(believed.remember(&clock), 1000 * DAY + 105);
        assert_eq!(believed.latest(&clock), 5000 * DAY + 100);
        believed.confirm(&clock);
        assert_eq!(
            believed.status(&clock),
            ClockStatus {
                believed_ns: 5000 * DAY + 100,
                held_ns: 0
            }
        );
    }

    #[test]
    fn small_steps_are_followed_and_a_clock_behind_is_no_jump_when_it_is_set() {
        let clock = SimClock::new(1000 * DAY);
        let believed = BelievedClock::new(&clock, Some(1000 * DAY));
        clock.set_wall_ns(1000 * DAY + DAY / 2);
        assert_eq!(believed.remember(&clock), 1000 * DAY + DAY / 2);
        // A machine whose clock begins at 1970 until the network tells it.
        clock.set_wall_ns(0);
        assert_eq!(believed.status(&clock).believed_ns, 0);
        assert_eq!(believed.remember(&clock), 1000 * DAY + DAY / 2);
        assert_eq!(believed.latest(&clock), 1000 * DAY + DAY / 2);
        clock.set_wall_ns(1001 * DAY);
        assert_eq!(believed.status(&clock).believed_ns, 1001 * DAY);
        assert_eq!(believed.status(&clock).held_ns, 0);
    }
}
