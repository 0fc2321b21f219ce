//! What the process has on its heap, as the system's allocator counts it.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator is asked through C")
)]

/// Bytes on the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapUse {
    /// Allocated and not freed, with what the allocator adds to each.
    pub live: u64,
    /// Freed and kept by the allocator.
    pub free: u64,
}

/// The heap of this process; `None` where the allocator does not tell. Costs a look at every free block: from microseconds
/// to milliseconds.
pub fn heap_use() -> Option<HeapUse> {
    #[cfg(all(target_env = "gnu", not(miri)))]
    {
        // SAFETY: no arguments, and the answer is a plain struct.
        let info = unsafe { libc::mallinfo2() };
        Some(HeapUse {
            live: (info.uordblks + info.hblkhd) as u64,
            free: info.fordblks as u64,
        })
    }
    #[cfg(not(all(target_env = "gnu", not(miri))))]
    None
}

/// Large buffers come from the system and go back to it, from this size on. The allocator raises its own bound to the
/// largest one ever freed, after which growing tables leave holes behind: an opening took twice its memory.
const MAPPED_BYTES: i32 = 512 << 10;

/// Keeps large buffers out of the heap. To be called once, before there are threads.
pub fn tune_heap() {
    #[cfg(all(target_env = "gnu", not(miri)))]
    {
        // SAFETY: two settings of the allocator, whatever it answers.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 4 * MAPPED_BYTES);
        }
    }
}

/// Gives whole free pages of the heap back to the system. Costs as much as [`heap_use`], and a system call for each stretch.
pub fn trim_heap() {
    #[cfg(all(target_env = "gnu", not(miri)))]
    {
        // SAFETY: it touches nothing that is allocated.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        let Some(before) = heap_use() else { return };
        let large = vec![1_u8; 64 << 20];
        let with = heap_use().unwrap();
        // Other tests of this process come and go meanwhile.
        assert!(with.live > before.live + (32 << 20), "{before:?} {with:?}");
        assert_eq!(large[large.len() - 1], 1);
        drop(large);
        trim_heap();
        assert!(heap_use().unwrap().live < with.live - (32 << 20));
    }
}
