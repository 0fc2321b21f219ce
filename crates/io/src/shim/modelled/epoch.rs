//! Epochs for models: what was retired is dead once every guard that lived then is gone, and nobody may meet it then.
//!
//! As with the real ones a guard made after an object died knows of its retirement; no other order between threads comes
//! from here, so that none that the protocol lacks is hidden. The state is no part of the model: loom runs all of a model's
//! threads on one thread of the system. Dead objects are freed by [`collect`], at the end of an execution.
#![expect(unsafe_code, reason = "a stand-in for owned and shared pointers")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicPtr, AtomicUsize};

struct Retired {
    address: usize,
    waiting: BTreeSet<u64>,
    destroy: Box<dyn FnOnce()>,
}

impl Retired {
    fn is_dead(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[derive(Default)]
struct State {
    next: u64,
    live: BTreeSet<u64>,
    retired: Vec<Retired>,
}

loom::lazy_static! {
    /// Counts retirements, for the order of those that are dead before guards to come.
    static ref RETIREMENTS: AtomicUsize = AtomicUsize::new(0);
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Frees everything retired. Called when an execution ends.
///
/// # Panics
/// If a guard is still there.
pub(crate) fn collect() -> usize {
    let state = STATE.with(RefCell::take);
    assert!(state.live.is_empty(), "a guard outlived its threads");
    let count = state.retired.len();
    state.retired.into_iter().for_each(|r| (r.destroy)());
    count
}

#[derive(Debug)]
pub(crate) struct Guard {
    id: Option<u64>,
}

pub(crate) fn pin() -> Guard {
    let deaths = || STATE.with_borrow(|s| s.retired.iter().filter(|r| r.is_dead()).count());
    let mut known = 0;
    while known < deaths() {
        known = deaths();
        RETIREMENTS.fetch_add(0, Ordering::Acquire);
    }
    STATE.with_borrow_mut(|s| {
        s.next += 1;
        let id = s.next;
        s.live.insert(id);
        // It may still meet what was retired before it, as far as it knows.
        for dying in s.retired.iter_mut().filter(|r| !r.is_dead()) {
            dying.waiting.insert(id);
        }
        Guard { id: Some(id) }
    })
}

/// # Safety
/// As of the real one.
pub(crate) unsafe fn unprotected() -> &'static Guard {
    static NONE: Guard = Guard { id: None };
    &NONE
}

impl Guard {
    /// # Safety
    /// As of the real one.
    pub(crate) unsafe fn defer_destroy<T: 'static>(&self, old: Shared<'_, T>) {
        let raw = old.raw;
        RETIREMENTS.fetch_add(1, Ordering::Release);
        STATE.with_borrow_mut(|s| {
            s.retired.push(Retired {
                address: raw.addr(),
                waiting: s.live.clone(),
                // SAFETY: the caller's promise; called once.
                destroy: Box::new(move || drop(unsafe { Box::from_raw(raw) })),
            });
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        STATE.with_borrow_mut(|s| {
            s.live.remove(&id);
            for retired in &mut s.retired {
                retired.waiting.remove(&id);
            }
        });
    }
}

pub(crate) struct Owned<T>(Box<T>);

impl<T> Owned<T> {
    pub(crate) fn into_shared(self, _: &Guard) -> Shared<'_, T> {
        Shared {
            raw: Box::into_raw(self.0),
            life: PhantomData,
        }
    }
}

pub(crate) struct Shared<'g, T> {
    raw: *mut T,
    life: PhantomData<&'g T>,
}

impl<'g, T> Shared<'g, T> {
    pub(crate) fn null() -> Self {
        Self {
            raw: ptr::null_mut(),
            life: PhantomData,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.raw.is_null()
    }

    pub(crate) fn as_raw(&self) -> *const T {
        self.raw
    }

    /// # Safety
    /// As of the real one.
    pub(crate) unsafe fn as_ref(&self) -> Option<&'g T> {
        let address = self.raw.addr();
        let is_dead = |s: &State| {
            let mut retired = s.retired.iter();
            retired.any(|r| r.address == address && r.is_dead())
        };
        assert!(!STATE.with_borrow(is_dead), "a reader met what was freed");
        // SAFETY: the caller's promise.
        unsafe { self.raw.as_ref() }
    }
}

pub(crate) struct Atomic<T>(AtomicPtr<T>);

impl<T> Atomic<T> {
    pub(crate) fn null() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn new(value: T) -> Self {
        Self(AtomicPtr::new(Box::into_raw(Box::new(value))))
    }

    pub(crate) fn load<'g>(&self, order: Ordering, _: &'g Guard) -> Shared<'g, T> {
        Shared {
            raw: self.0.load(order),
            life: PhantomData,
        }
    }

    pub(crate) fn swap<'g>(
        &self,
        new: Shared<'_, T>,
        order: Ordering,
        _: &'g Guard,
    ) -> Shared<'g, T> {
        Shared {
            raw: self.0.swap(new.raw, order),
            life: PhantomData,
        }
    }

    /// # Safety
    /// As of the real one.
    pub(crate) unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        let raw = self.0.load(Ordering::Relaxed);
        // SAFETY: the caller's promise.
        (!raw.is_null()).then(|| Owned(unsafe { Box::from_raw(raw) }))
    }
}
