//! One hard memory budget that every part of a process asks before it grows.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Owner {
    /// Sealed pages kept for reading and pages on their way to the device.
    PageCache,
    /// Open leaves, unfinished inner nodes, late buffers.
    OpenTails,
    /// Log frames being built or in flight.
    Log,
    /// Lines of batches between parsing and commit.
    Staging,
    /// Names, rows, postings.
    Index,
    /// Request bodies.
    Bodies,
    /// Running queries.
    Queries,
    /// The rest of the heap, where the process counts it.
    Other,
}

impl Owner {
    /// Every owner, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::PageCache,
        Self::OpenTails,
        Self::Log,
        Self::Staging,
        Self::Index,
        Self::Bodies,
        Self::Queries,
        Self::Other,
    ];

    /// The name in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PageCache => "page_cache",
            Self::OpenTails => "open_tails",
            Self::Log => "log",
            Self::Staging => "staging",
            Self::Index => "index",
            Self::Bodies => "bodies",
            Self::Queries => "queries",
            Self::Other => "other",
        }
    }
}

/// The budget could not cover a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetExceeded {
    /// Who asked.
    pub owner: Owner,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes in use when it asked.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

impl fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory budget of {} bytes is used up: {} in use, {} more asked for {}",
            self.limit,
            self.used,
            self.asked,
            self.owner.name()
        )
    }
}

impl std::error::Error for BudgetExceeded {}

/// Bytes in use by owner, and their limit. Atomics only: owners reserve before taking any lock, and nobody
/// is ever called back.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    total: AtomicU64,
    by_owner: [AtomicU64; Owner::ALL.len()],
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            total: AtomicU64::new(0),
            by_owner: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes in use by everyone.
    pub fn used(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes in use by one owner.
    pub fn used_by(&self, owner: Owner) -> u64 {
        self.by_owner[owner as usize].load(Ordering::Relaxed)
    }

    /// Takes `bytes` for `owner`.
    ///
    /// # Errors
    /// If the limit would be passed; nothing is taken then.
    pub fn reserve(&self, owner: Owner, bytes: u64) -> Result<(), BudgetExceeded> {
        self.reserve_within(owner, bytes, self.limit)
    }

    /// As [`Self::reserve`] for who may not take the last of it: everyone together stays within `limit`.
    ///
    /// # Errors
    /// If that would be passed; nothing is taken then.
    pub fn reserve_within(
        &self,
        owner: Owner,
        bytes: u64,
        limit: u64,
    ) -> Result<(), BudgetExceeded> {
        let before = self.total.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit {
            self.total.fetch_sub(bytes, Ordering::Relaxed);
            return Err(BudgetExceeded {
                owner,
                asked: bytes,
                used: before,
                limit,
            });
        }
        self.by_owner[owner as usize].fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes `bytes` for `owner` even past the limit, for memory that already exists.
    pub fn force(&self, owner: Owner, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.by_owner[owner as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what is in use by everyone together; what no owner accounts for is [`Owner::Other`]'s from now on. One thread
    /// at a time says it.
    pub fn observe(&self, live: u64) {
        let before = self.used_by(Owner::Other);
        let accounted = self.used().saturating_sub(before);
        let other = live.saturating_sub(accounted);
        self.force(Owner::Other, other);
        self.release(Owner::Other, before);
    }

    /// Gives back what was taken.
    pub fn release(&self, owner: Owner, bytes: u64) {
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        self.by_owner[owner as usize].fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reservation_takes_nothing() {
        let budget = Budget::new(100);
        budget.reserve(Owner::Index, 60).unwrap();
        let err = budget.reserve(Owner::Log, 50).unwrap_err();
        assert_eq!((err.used, err.asked), (60, 50));
        assert_eq!((budget.used(), budget.used_by(Owner::Log)), (60, 0));
        budget.release(Owner::Index, 60);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_nobody_accounts_for_is_others() {
        let budget = Budget::new(100);
        budget.reserve(Owner::Index, 60).unwrap();
        budget.observe(80);
        assert_eq!((budget.used(), budget.used_by(Owner::Other)), (80, 20));
        budget.release(Owner::Index, 30);
        budget.observe(45);
        assert_eq!((budget.used(), budget.used_by(Owner::Other)), (45, 15));
        budget.observe(10);
        assert_eq!((budget.used(), budget.used_by(Owner::Other)), (30, 0));
    }
}
