//! An allocation past the limit is a length that was believed: the process ends, and the input is kept.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;

/// Largest single allocation of any target: inputs are at most a few KiB, pages 4 KiB, volumes and segments of test
/// stores 256 KiB. The largest that is meant is the 8 MiB of a log group's cells.
const ALLOCATION_BYTES_MAX: usize = 64 << 20;

struct Bounded;

fn check(bytes: usize) {
    if bytes > ALLOCATION_BYTES_MAX {
        let place = Backtrace::force_capture();
        eprintln!("an allocation of {bytes} bytes\n{place}");
        std::process::abort();
    }
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        check(bytes);
        unsafe { System.realloc(place, layout, bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;
