//! What one question about the index may take: how long, and how much memory.
//!
//! Whoever answers it looks at them every few thousand rows, at each segment and at each partition: between two looks nothing
//! waits but for blocks of one segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium_io::Clock;
use alluvium_types::{Budget, BudgetExceeded, Owner};

/// Why a question ended without an answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// Whoever asked is gone.
    #[error("the question was cancelled")]
    Cancelled,
    /// Its time limit.
    #[error(
        "the question ran longer than {limit_ms} ms; ask for less or raise the setting query_deadline_ms"
    )]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// Its own memory limit.
    #[error(
        "the question needs more than its {limit} bytes of memory; ask for less or raise the setting query_memory_bytes"
    )]
    Memory {
        /// The limit.
        limit: u64,
    },
    /// The memory budget of the process.
    #[error("the server is short of memory: {0}; try again later")]
    Budget(#[from] BudgetExceeded),
}

/// Bounds of one question, none by default. Clones share what is held; all of it is given back with the last of them.
#[derive(Debug, Clone, Default)]
pub struct Bounds(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    cancel: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
    until_ns: u64,
    limit_ms: u64,
    budget: Arc<Budget>,
    memory_bytes: u64,
    held: AtomicU64,
}

impl Bounds {
    /// For a question that begins now: until `cancel` is set, for `deadline_ms` milliseconds, with `memory_bytes` at most, asked of
    /// the budget as owner *queries*.
    pub fn new(
        cancel: Arc<AtomicBool>,
        clock: Arc<dyn Clock>,
        deadline_ms: u64,
        budget: Arc<Budget>,
        memory_bytes: u64,
    ) -> Self {
        let until_ns = deadline_ms.saturating_mul(1_000_000);
        Self(Some(Arc::new(Inner {
            cancel,
            until_ns: clock.monotonic_ns().saturating_add(until_ns),
            clock,
            limit_ms: deadline_ms,
            budget,
            memory_bytes,
            held: AtomicU64::new(0),
        })))
    }

    /// Whether to go on. Costs a clock read, tens of nanoseconds.
    ///
    /// # Errors
    /// If whoever asked is gone or the time is over.
    pub fn check(&self) -> Result<(), BoundsError> {
        let Some(inner) = &self.0 else {
            return Ok(());
        };
        if inner.cancel.load(Ordering::Relaxed) {
            return Err(BoundsError::Cancelled);
        }
        if inner.clock.monotonic_ns() >= inner.until_ns {
            let limit_ms = inner.limit_ms;
            return Err(BoundsError::Deadline { limit_ms });
        }
        Ok(())
    }

    /// Takes memory for what the question keeps.
    ///
    /// # Errors
    /// If its limit or that of the process would be passed; nothing is taken then.
    pub fn hold(&self, bytes: u64) -> Result<(), BoundsError> {
        let Some(inner) = &self.0 else {
            return Ok(());
        };
        let before = inner.held.fetch_add(bytes, Ordering::Relaxed);
        let refused = |error| {
            inner.held.fetch_sub(bytes, Ordering::Relaxed);
            Err(error)
        };
        if before.saturating_add(bytes) > inner.memory_bytes {
            let limit = inner.memory_bytes;
            return refused(BoundsError::Memory { limit });
        }
        match inner.budget.reserve(Owner::Queries, bytes) {
            Ok(()) => Ok(()),
            Err(exceeded) => refused(exceeded.into()),
        }
    }

    /// Gives back what is kept no longer: what was held before.
    pub fn release(&self, bytes: u64) {
        if let Some(inner) = &self.0 {
            inner.held.fetch_sub(bytes, Ordering::Relaxed);
            inner.budget.release(Owner::Queries, bytes);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.budget.release(Owner::Queries, *self.held.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use alluvium_io::SystemClock;

    use super::*;

    fn bounds(cancel: &Arc<AtomicBool>, deadline_ms: u64, budget: &Arc<Budget>) -> Bounds {
        let (cancel, budget) = (Arc::clone(cancel), Arc::clone(budget));
        Bounds::new(cancel, Arc::new(SystemClock), deadline_ms, budget, 100)
    }

    #[test]
    fn what_is_held_is_given_back_with_the_last_clone() {
        let budget = Arc::new(Budget::new(150));
        let (one, other) = (
            bounds(&Arc::default(), 1000, &budget),
            bounds(&Arc::default(), 1000, &budget),
        );
        one.hold(60).unwrap();
        let again = one.clone();
        again.hold(40).unwrap();
        assert!(matches!(
            one.hold(1),
            Err(BoundsError::Memory { limit: 100 })
        ));
        assert!(matches!(other.hold(51), Err(BoundsError::Budget(_))));
        other.hold(50).unwrap();
        one.release(60);
        drop(one);
        assert_eq!(budget.used_by(Owner::Queries), 90);
        drop((again, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_question_ends_by_its_time_and_by_who_asked() {
        let budget = Arc::new(Budget::new(150));
        let cancel = Arc::default();
        let bounds = |ms| bounds(&cancel, ms, &budget);
        assert!(matches!(
            bounds(0).check(),
            Err(BoundsError::Deadline { limit_ms: 0 })
        ));
        let long = bounds(u64::MAX);
        long.check().unwrap();
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(long.check(), Err(BoundsError::Cancelled)));
        Bounds::default().check().unwrap();
        Bounds::default().hold(u64::MAX).unwrap();
    }
}
