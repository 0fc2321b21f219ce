//! What one query may use, and the guard that holds it to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_io::Clock;
use alluvium_types::{Budget, Owner};

use crate::error::QueryError;

/// What one query may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes held at once: series found, open cursors and their batches. Default 256 MiB.
    pub memory_bytes: u64,
    /// Rows answered. Default: no limit.
    pub rows: u64,
    /// Milliseconds from start to last row. Default 60,000.
    pub deadline_ms: u64,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// The budget of the process, asked as owner *queries* for everything the query holds.
    pub budget: Option<Arc<Budget>>,
}

impl Limits {
    /// The defaults.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            memory_bytes: 256 << 20,
            rows: u64::MAX,
            deadline_ms: 60_000,
            clock,
            budget: None,
        }
    }
}

/// Counts what a query holds and says when it must end. Gives everything back when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    pub limits: Limits,
    cancel: Arc<AtomicBool>,
    started_ns: u64,
    used: u64,
}

impl Guard {
    pub(crate) fn new(limits: Limits, cancel: Arc<AtomicBool>) -> Self {
        let started_ns = limits.clock.monotonic_ns();
        Self {
            limits,
            cancel,
            started_ns,
            used: 0,
        }
    }

    /// Nanoseconds since the start.
    pub(crate) fn elapsed_ns(&self) -> u64 {
        self.limits
            .clock
            .monotonic_ns()
            .saturating_sub(self.started_ns)
    }

    /// Called once a batch of anything that reads: a clock read of tens of nanoseconds.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(QueryError::Cancelled);
        }
        if self.elapsed_ns() / 1_000_000 >= self.limits.deadline_ms {
            return Err(QueryError::Deadline {
                limit_ms: self.limits.deadline_ms,
            });
        }
        Ok(())
    }

    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), QueryError> {
        if self.used.saturating_add(bytes) > self.limits.memory_bytes {
            return Err(QueryError::Memory {
                asked: bytes,
                used: self.used,
                limit: self.limits.memory_bytes,
            });
        }
        if let Some(budget) = &self.limits.budget {
            budget
                .reserve(Owner::Queries, bytes)
                .map_err(QueryError::Budget)?;
        }
        self.used += bytes;
        Ok(())
    }

    /// Bytes that may still be reserved.
    pub(crate) fn left(&self) -> u64 {
        let own = self.limits.memory_bytes.saturating_sub(self.used);
        let budget = self.limits.budget.as_ref();
        budget.map_or(own, |b| own.min(b.limit().saturating_sub(b.used())))
    }

    pub(crate) fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.used);
        self.used -= bytes;
        if let Some(budget) = &self.limits.budget {
            budget.release(Owner::Queries, bytes);
        }
    }

    /// Changes a reservation from `held` to `wanted` bytes.
    pub(crate) fn resize(&mut self, held: &mut u64, wanted: u64) -> Result<(), QueryError> {
        if wanted > *held {
            self.reserve(wanted - *held)?;
        } else {
            self.release(*held - wanted);
        }
        *held = wanted;
        Ok(())
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.release(self.used);
    }
}
