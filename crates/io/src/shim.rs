//! What the two protocols between threads are made of, the bytes that are published and the tickets: the real things,
//! and under `--cfg loom` those of loom, which tries every order (`cargo xtask loom`).
//!
//! Under loom each byte is a cell of its own, so that a byte read while it may be written is found, and epochs are a
//! stand-in that orders nothing between threads: whatever needs an order must get it from the protocol itself.

#[cfg(loom)]
pub(crate) use modelled::{AtomicPtr, AtomicU64, Byte, Link, Mutex, MutexGuard, epoch};
#[cfg(not(loom))]
pub(crate) use real::{AtomicPtr, AtomicU64, Byte, Link, Mutex, MutexGuard, epoch};

pub(crate) use bytes::{blank, link, linked, see, write, write_words};

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64};

    pub(crate) use crossbeam::epoch;
    pub(crate) use parking_lot::{Mutex, MutexGuard};

    /// A byte that is written once while others are read.
    pub(crate) type Byte = u8;
    /// The address of the fragment before, in front of a fragment's bytes.
    pub(crate) type Link = *mut Byte;
}

#[cfg(not(loom))]
mod bytes {
    #![expect(unsafe_code, reason = "names for single operations on published bytes")]
    #![expect(
        clippy::cast_ptr_alignment,
        reason = "fragments are aligned to 16 bytes, and words are written unaligned"
    )]

    use std::ptr;

    use super::{Byte, Link};

    /// So many words of a short append.
    pub(crate) type Words = [u64; crate::published::SHORT_WORDS];

    /// A byte that nobody has written.
    pub(crate) fn blank() -> Byte {
        0
    }

    /// # Safety
    /// The bytes from `at` on are the caller's to write, and nobody reads them.
    #[inline(always)]
    pub(crate) unsafe fn write(at: *mut Byte, bytes: &[u8]) {
        // SAFETY: the caller's promise; `bytes` are elsewhere, since nobody else may read these.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) }
    }

    /// # Safety
    /// As [`write`], for all bytes of the words.
    #[inline(always)]
    pub(crate) unsafe fn write_words(at: *mut Byte, words: Words) {
        let at = at.cast::<u64>();
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { at.add(i).write_unaligned(word.to_le()) };
        }
    }

    /// # Safety
    /// The bytes are written, and nobody writes them while `visit` runs.
    #[inline(always)]
    pub(crate) unsafe fn see(at: *const Byte, len: usize, visit: &mut impl FnMut(&[u8])) {
        // SAFETY: the caller's promise.
        visit(unsafe { std::slice::from_raw_parts(at, len) });
    }

    /// # Safety
    /// `fragment` is the beginning of one, which is the caller's alone; `bytes` is how many it has.
    #[inline(always)]
    pub(crate) unsafe fn link(fragment: *mut u8, earlier: *mut Byte, _bytes: usize) {
        // SAFETY: the caller's promise; a fragment begins with its link.
        unsafe { fragment.cast::<Link>().write(earlier) };
    }

    /// # Safety
    /// `fragment` is the beginning of one that was linked.
    #[inline(always)]
    pub(crate) unsafe fn linked(fragment: *const u8) -> *mut Byte {
        // SAFETY: the caller's promise; a link is never written again.
        unsafe { *fragment.cast::<Link>() }
    }
}

#[cfg(loom)]
mod bytes {
    #![expect(unsafe_code, reason = "the same operations, of which loom is told")]

    use super::{Byte, Link};

    pub(crate) type Words = [u64; crate::published::SHORT_WORDS];

    pub(crate) fn blank() -> Byte {
        Byte::new(0)
    }

    pub(crate) unsafe fn write(at: *mut Byte, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: as of the real one, which loom checks.
            unsafe { (*at.add(i)).with_mut(|b| *b = *byte) };
        }
    }

    pub(crate) unsafe fn write_words(at: *mut Byte, words: Words) {
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as of the real one, which loom checks.
            unsafe { write(at.add(8 * i), &word.to_le_bytes()) };
        }
    }

    pub(crate) unsafe fn see(at: *const Byte, len: usize, visit: &mut impl FnMut(&[u8])) {
        // SAFETY: as of the real one, which loom checks.
        let bytes: Vec<u8> = (0..len)
            .map(|i| unsafe { (*at.add(i)).with(|b| *b) })
            .collect();
        visit(&bytes);
    }

    pub(crate) unsafe fn link(fragment: *mut u8, earlier: *mut Byte, bytes: usize) {
        let content = fragment.cast::<Link>();
        // SAFETY: the caller's promise; what loom knows of a cell begins with its making.
        unsafe {
            content.write(Link::new(earlier));
            let first = fragment.add(crate::published::FRAGMENT_HEAD).cast::<Byte>();
            (0..bytes).for_each(|i| first.add(i).write(blank()));
        }
    }

    pub(crate) unsafe fn linked(fragment: *const u8) -> *mut Byte {
        // SAFETY: as of the real one, which loom checks.
        unsafe { (*fragment.cast::<Link>()).with(|l| *l) }
    }
}

#[cfg(loom)]
mod modelled {
    pub(crate) use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64};

    pub(crate) type Byte = loom::cell::UnsafeCell<u8>;
    pub(crate) type Link = loom::cell::UnsafeCell<*mut Byte>;

    /// A lock with the face of the real one.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no thread of a model panics")
        }
    }

    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "models collect what is retired")
    )]
    pub(crate) mod epoch;
}
