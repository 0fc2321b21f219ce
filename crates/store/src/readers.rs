//! Who still reads what was: pages that nothing leads to any more are kept for readers that began before.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Readers that began between two moments.
#[derive(Debug, Default)]
struct Age(());

/// Held by a reader for as long as it may read pages that it has learned of.
#[derive(Debug, Clone)]
pub(crate) struct ReadPin(#[expect(dead_code, reason = "it counts by being held")] Arc<Age>);

/// All readers up to some moment.
#[derive(Debug, Clone)]
pub(crate) struct Readers(Vec<Weak<Age>>);

impl Readers {
    /// Whether none of them reads any more.
    pub(crate) fn are_gone(&self) -> bool {
        self.0.iter().all(|age| age.strong_count() == 0)
    }
}

/// The readers of a store.
#[derive(Debug, Default)]
pub(crate) struct ReaderAges {
    now: Mutex<Arc<Age>>,
    /// Ages that are over and may have readers left.
    over: Mutex<Vec<Weak<Age>>>,
}

impl ReaderAges {
    /// A reader begins: to be taken before it looks at any series. Cost: a lock held for a reference count.
    pub(crate) fn pin(&self) -> ReadPin {
        ReadPin(Arc::clone(&self.now.lock()))
    }

    /// Everyone who has begun so far.
    pub(crate) fn so_far(&self) -> Readers {
        let old = std::mem::take(&mut *self.now.lock());
        let mut over = self.over.lock();
        over.retain(|age| age.strong_count() > 0);
        over.push(Arc::downgrade(&old));
        drop(old);
        Readers(over.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_began_before_are_waited_for_and_no_others() {
        let ages = ReaderAges::default();
        let first = ages.pin();
        let clone = first.clone();
        let before = ages.so_far();
        assert!(!before.are_gone());
        let second = ages.pin();
        let both = ages.so_far();
        drop(first);
        assert!(!before.are_gone());
        drop(clone);
        assert!(before.are_gone() && !both.are_gone());
        drop(second);
        assert!(both.are_gone() && ages.so_far().are_gone());
    }
}
