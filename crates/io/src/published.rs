//! Bytes that one writer appends and any thread reads at the same time, without a lock on either side.
//!
//! A *head* of the caller's and the bytes behind it are one node; a reader sees a head with a prefix of its bytes, all of
//! it as it was at one moment. Bytes once published never change. The writer publishes a longer prefix by one store of
//! a word (length and a note of the caller's), and another head by one store of the node's address; nodes replaced are
//! freed when no reader can hold them any more, by epochs (Fraser, Practical lock-freedom, 2004).
//!
//! The first bytes stand in the node, further ones in fragments of growing size, chained from the newest back to the
//! oldest, so that the writer finds where it stopped and nothing is ever copied. Sizes are such that a node of 24 bytes
//! and its fragments fill whole classes of the usual allocators.
#![expect(unsafe_code, reason = "readers read what a writer writes behind")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use crate::shim::epoch::{self, Atomic, Owned, Shared};
use crate::shim::{self, AtomicPtr, AtomicU64, Byte, Link, Mutex, MutexGuard};

/// Bytes in the node itself, then in each fragment.
const SIZES: [usize; 16] = [
    32, 48, 112, 208, 496, 1008, 1008, 1008, 1008, 1008, 1008, 1008, 1008, 1008, 1008, 1008,
];
/// Where each begins.
const BEGINS: [usize; 17] = {
    let mut begins = [0; 17];
    let mut i = 0;
    while i < 16 {
        begins[i + 1] = begins[i] + SIZES[i];
        i += 1;
    }
    begins
};
/// Most bytes behind one head.
pub const PUBLISHED_BYTES_MAX: usize = BEGINS[16];
/// Words of a short append: the room its caller gives, used or not.
pub const SHORT_WORDS: usize = 3;

const LEN_BITS: u32 = 16;
const _: () = assert!(PUBLISHED_BYTES_MAX < 1 << LEN_BITS);
/// Bits of the note beside the length.
pub const NOTE_BITS: u32 = 64 - LEN_BITS;

/// What stands before a fragment's bytes.
pub(crate) const FRAGMENT_HEAD: usize = size_of::<Link>();
/// The low bits of a fragment's address are free for its number.
const FRAGMENT_ALIGN: usize = 16;
const _: () = assert!(SIZES.len() <= FRAGMENT_ALIGN);

fn fragment_layout(number: usize) -> Layout {
    let bytes = SIZES[number] * size_of::<Byte>();
    Layout::from_size_align(FRAGMENT_HEAD + bytes, FRAGMENT_ALIGN).expect("a fragment is small")
}

struct Node<H> {
    word: AtomicU64,
    /// The newest fragment, its number in the low bits; null while the bytes fit in here.
    newest: AtomicPtr<u8>,
    head: H,
    bytes: UnsafeCell<[Byte; SIZES[0]]>,
}

fn split(tagged: *mut u8) -> (*mut u8, usize) {
    let number = tagged.addr() & (FRAGMENT_ALIGN - 1);
    (tagged.map_addr(|a| a & !(FRAGMENT_ALIGN - 1)), number)
}

impl<H> Node<H> {
    fn new(head: H) -> Self {
        Self {
            word: AtomicU64::new(0),
            newest: AtomicPtr::new(ptr::null_mut()),
            head,
            bytes: UnsafeCell::new(std::array::from_fn(|_| shim::blank())),
        }
    }

    /// Where the bytes of the newest fragment stand, and its number.
    fn newest_bytes(&self, order: Ordering) -> (*mut Byte, usize) {
        let (fragment, number) = split(self.newest.load(order));
        if number == 0 {
            return (self.bytes.get().cast(), 0);
        }
        // SAFETY: a fragment is FRAGMENT_HEAD bytes longer than its content.
        (unsafe { fragment.add(FRAGMENT_HEAD) }.cast(), number)
    }

    /// Where the bytes of each fragment stand, up to the one that is newest now; returns their number.
    fn chain(&self, places: &mut [*const Byte; SIZES.len()]) -> usize {
        let (mut bytes, last) = self.newest_bytes(Ordering::Acquire);
        for place in places[1..=last].iter_mut().rev() {
            *place = bytes;
            // SAFETY: before the bytes of a fragment stands the address of the one before it, written before the
            // fragment was linked and never again; the first has none before it and is not read.
            unsafe {
                let earlier = shim::linked(bytes.cast::<u8>().sub(FRAGMENT_HEAD));
                if !earlier.is_null() {
                    bytes = earlier.cast::<u8>().add(FRAGMENT_HEAD).cast();
                }
            }
        }
        places[0] = self.bytes.get().cast();
        last + 1
    }

    /// Gives `visit` the published bytes from `begin` to `end` piece by piece.
    fn pieces(&self, begin: usize, end: usize, mut visit: impl FnMut(&[u8])) {
        let mut places = [ptr::null(); SIZES.len()];
        let fragments = self.chain(&mut places);
        for number in 0..fragments {
            let from = begin.max(BEGINS[number]);
            let to = end.min(BEGINS[number + 1]);
            if from < to {
                let at = from - BEGINS[number];
                // SAFETY: bytes before the published length are written and never change; the caller asks for
                // no others, and fragments live as long as their node.
                unsafe { shim::see(places[number].add(at), to - from, &mut visit) };
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        let number = split(self.newest.load(Ordering::Relaxed)).1;
        size_of::<Self>() + 8 + (1..=number).map(fragment_bytes).sum::<usize>()
    }
}

/// What a fragment takes of the heap, with what the allocator keeps for itself.
fn fragment_bytes(number: usize) -> usize {
    FRAGMENT_HEAD + SIZES[number] + 8
}

impl<H> Drop for Node<H> {
    fn drop(&mut self) {
        let (mut fragment, mut number) = split(self.newest.load(Ordering::Relaxed));
        while number > 0 {
            // SAFETY: fragment `number` was allocated with this layout and is linked from nowhere else.
            let earlier = unsafe {
                let earlier = shim::linked(fragment);
                dealloc(fragment, fragment_layout(number));
                earlier.cast()
            };
            fragment = earlier;
            number -= 1;
        }
    }
}

/// A head and the bytes behind it. The writer is whoever has it exclusively, or the lock of [`Guarded`].
pub struct Published<H> {
    node: Atomic<Node<H>>,
}

// SAFETY: the node is reached by shared references only but for its bytes, which are written beyond the published
// length by one writer and read below it; heads are shared with and dropped by other threads.
unsafe impl<H: Send + Sync> Send for Published<H> {}
// SAFETY: as above.
unsafe impl<H: Send + Sync> Sync for Published<H> {}

impl<H> fmt::Debug for Published<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

impl<H> Default for Published<H> {
    fn default() -> Self {
        Self {
            node: Atomic::null(),
        }
    }
}

impl<H> Drop for Published<H> {
    fn drop(&mut self) {
        let node = std::mem::replace(&mut self.node, Atomic::null());
        // SAFETY: nobody else has `self`, so no reader is in the node and none can come.
        drop(unsafe { node.try_into_owned() });
    }
}

/// What a reader sees: one head and a prefix of its bytes.
#[derive(Debug)]
pub struct View<'a, H> {
    node: &'a Node<H>,
    word: u64,
}

impl<H> fmt::Debug for Node<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

impl<'a, H> View<'a, H> {
    /// The head.
    pub fn head(&self) -> &'a H {
        &self.node.head
    }

    /// What the writer noted with the last bytes.
    pub fn note(&self) -> u64 {
        self.word >> LEN_BITS
    }

    /// How many bytes there are.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length of bytes, not a collection"
    )]
    pub fn len(&self) -> usize {
        (self.word & ((1 << LEN_BITS) - 1)) as usize
    }

    /// Appends the bytes to `out`.
    pub fn read(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        self.node
            .pieces(0, self.len(), |piece| out.extend_from_slice(piece));
    }

    /// Whether the bytes from `begin` on are these.
    pub fn holds(&self, begin: usize, bytes: &[u8]) -> bool {
        let end = begin + bytes.len();
        if end > self.len() {
            return false;
        }
        let mut rest = bytes;
        let mut same = true;
        self.node.pieces(begin, end, |piece| {
            let (front, behind) = rest.split_at(piece.len());
            same &= front == piece;
            rest = behind;
        });
        same
    }

    /// Bytes of the heap, what allocators keep for themselves included; of the head only its place.
    pub fn heap_bytes(&self) -> usize {
        self.node.heap_bytes()
    }
}

impl<H> Published<H> {
    /// Gives `see` what is published at this moment; `None` if nothing ever was. Wait-free.
    ///
    /// `see` should be short: while it runs, nodes that were replaced are not freed.
    pub fn read<R>(&self, see: impl FnOnce(View<'_, H>) -> R) -> Option<R> {
        let guard = epoch::pin();
        // SAFETY: a node is freed only after every guard that could have met it is gone.
        let node = unsafe { self.node.load(Ordering::Acquire, &guard).as_ref() }?;
        let word = node.word.load(Ordering::Acquire);
        Some(see(View { node, word }))
    }

    /// The writer, who has this exclusively.
    pub fn writer(&mut self) -> PublishedWriter<'_, H> {
        PublishedWriter {
            shared: self,
            exclusive: PhantomData,
        }
    }

    /// Asks the cache for the node.
    #[inline]
    pub fn prefetch(&self) {
        // SAFETY: the node is not looked into; its address alone is taken.
        let node = unsafe { self.node.load(Ordering::Relaxed, epoch::unprotected()) };
        prefetch(node.as_raw().cast());
    }

    /// Asks the cache for where the next bytes will go; the node itself should be there already.
    #[inline]
    pub fn prefetch_end(&self, pin: &Pin) {
        // SAFETY: the pin keeps nodes from being freed.
        if let Some(node) = unsafe { self.node.load(Ordering::Acquire, &pin.0).as_ref() } {
            let len = node.word.load(Ordering::Relaxed) as usize & ((1 << LEN_BITS) - 1);
            let (begin, number) = node.newest_bytes(Ordering::Acquire);
            if number > 0 {
                // The word may be of a moment before.
                prefetch(
                    begin
                        .wrapping_add(len.saturating_sub(BEGINS[number]))
                        .cast(),
                );
            }
        }
    }
}

/// While it lives, nothing that was published and replaced is freed: for many [prefetches](Published::prefetch_end).
#[derive(Debug)]
pub struct Pin(epoch::Guard);

impl Pin {
    /// Cost: some ten nanoseconds.
    pub fn new() -> Self {
        Self(epoch::pin())
    }
}

impl Default for Pin {
    fn default() -> Self {
        Self::new()
    }
}

/// Asks the cache for the line at `address`, which need not be valid.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing; any address will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The one writer of a [`Published`].
pub struct PublishedWriter<'a, H> {
    shared: &'a Published<H>,
    /// No second writer may be made while this one lives, and this one may not be shared.
    exclusive: PhantomData<&'a mut H>,
}

impl<H> fmt::Debug for PublishedWriter<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedWriter").finish_non_exhaustive()
    }
}

impl<H: Send + Sync + 'static> PublishedWriter<'_, H> {
    #[inline]
    fn node(&self) -> Option<&Node<H>> {
        // SAFETY: only a writer replaces the node, and this one is borrowed.
        unsafe {
            let guard = epoch::unprotected();
            self.shared.node.load(Ordering::Relaxed, guard).as_ref()
        }
    }

    /// What is published; `None` before the first head.
    #[inline]
    pub fn view(&self) -> Option<View<'_, H>> {
        let node = self.node()?;
        let word = node.word.load(Ordering::Relaxed);
        Some(View { node, word })
    }

    /// Publishes another head with these bytes behind it.
    ///
    /// # Panics
    /// If the bytes are more than [`PUBLISHED_BYTES_MAX`] or the note more than [`NOTE_BITS`] bits.
    pub fn replace(&mut self, head: H, bytes: &[u8], note: u64) {
        let mut fresh = Published {
            node: Atomic::new(Node::new(head)),
        };
        fresh.writer().append(bytes, note);
        self.adopt(fresh);
    }

    /// Publishes what `other` published, in place of what was here.
    pub fn adopt(&mut self, mut other: Published<H>) {
        let guard = epoch::pin();
        let node = std::mem::replace(&mut other.node, Atomic::null());
        // SAFETY: `other` was owned here, so its node is reached from nowhere else.
        let node = match unsafe { node.try_into_owned() } {
            Some(owned) => Owned::into_shared(owned, &guard),
            None => Shared::null(),
        };
        let old = self.shared.node.swap(node, Ordering::AcqRel, &guard);
        if !old.is_null() {
            // SAFETY: no new reader can meet the old node; those that did hold guards.
            unsafe { guard.defer_destroy(old) };
        }
    }

    /// Appends bytes and publishes them. Returns how much of the heap was taken for them.
    ///
    /// # Panics
    /// If there is no head yet, the bytes are more than [`PUBLISHED_BYTES_MAX`] in all, or the note is more than
    /// [`NOTE_BITS`] bits.
    pub fn append(&mut self, bytes: &[u8], note: u64) -> usize {
        let end = self.end().expect("bytes are appended behind a head");
        end.append(bytes, note)
    }

    /// Where the next bytes go, looked up once for a short append; `None` before the first head.
    #[inline]
    pub fn end(&mut self) -> Option<PublishedEnd<'_, H>> {
        // SAFETY: only a writer replaces the node, and this one is borrowed.
        let node = unsafe {
            let guard = epoch::unprotected();
            self.shared.node.load(Ordering::Relaxed, guard).as_ref()
        }?;
        let word = node.word.load(Ordering::Relaxed);
        Some(PublishedEnd { node, word })
    }

    /// Publishes another note with the same bytes.
    ///
    /// # Panics
    /// As [`Self::append`].
    pub fn set_note(&mut self, note: u64) {
        self.append(&[], note);
    }
}

/// Where the one writer of a [`Published`] goes on.
#[derive(Debug)]
pub struct PublishedEnd<'a, H> {
    node: &'a Node<H>,
    word: u64,
}

impl<H> PublishedEnd<'_, H> {
    /// What is published with the last bytes.
    #[inline]
    pub fn note(&self) -> u64 {
        self.word >> LEN_BITS
    }

    /// How many bytes there are.
    #[inline]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length of bytes, not a collection"
    )]
    pub fn len(&self) -> usize {
        (self.word & ((1 << LEN_BITS) - 1)) as usize
    }

    /// The head.
    pub fn head(&self) -> &H {
        &self.node.head
    }

    /// Appends bytes and publishes them. Returns how much of the heap was taken for them.
    ///
    /// # Panics
    /// If the bytes are more than [`PUBLISHED_BYTES_MAX`] in all, or the note is more than [`NOTE_BITS`] bits.
    pub fn append(self, bytes: &[u8], note: u64) -> usize {
        let node = self.node;
        assert!(note >> NOTE_BITS == 0, "a note of too many bits");
        let mut len = self.len();
        assert!(
            len + bytes.len() <= PUBLISHED_BYTES_MAX,
            "more bytes than may be published behind one head"
        );
        let mut rest = bytes;
        let mut grown = 0;
        while !rest.is_empty() {
            let (begin, number) = node.newest_bytes(Ordering::Relaxed);
            let room = BEGINS[number + 1] - len;
            let (front, behind) = rest.split_at(room.min(rest.len()));
            // SAFETY: the fragment has this room behind `len`, which no reader reads before it is published and no
            // other writer writes.
            unsafe {
                let at = begin.add(len - BEGINS[number]);
                shim::write(at, front);
            }
            len += front.len();
            rest = behind;
            if !rest.is_empty() {
                grown += grow(node);
            }
        }
        node.word
            .store(note << LEN_BITS | len as u64, Ordering::Release);
        grown
    }

    /// Appends the first `count` bytes of these words, low bytes first, as [`Self::append`] does. Cost: two or three
    /// nanoseconds in cache.
    ///
    /// # Panics
    /// As [`Self::append`], or if `count` is more than there are.
    #[inline]
    pub fn append_short(self, words: [u64; SHORT_WORDS], count: usize, note: u64) -> usize {
        const BYTES: usize = SHORT_WORDS * 8;
        let len = self.len();
        let (begin, number) = self.node.newest_bytes(Ordering::Relaxed);
        let within = len - BEGINS[number];
        if count > BYTES || note >> NOTE_BITS != 0 || within + BYTES > SIZES[number] {
            return self.append_words(words, count, note);
        }
        // SAFETY: as in `append`; all of them fit, so that their number need not be looked at.
        unsafe {
            shim::write_words(begin.add(within), words);
        }
        let word = note << LEN_BITS | (len + count) as u64;
        self.node.word.store(word, Ordering::Release);
        0
    }

    #[cold]
    #[inline(never)]
    fn append_words(self, words: [u64; SHORT_WORDS], count: usize, note: u64) -> usize {
        let mut bytes = [0; SHORT_WORDS * 8];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.append(&bytes[..count], note)
    }
}

/// Links one more fragment. Returns what it takes of the heap.
#[cold]
#[inline(never)]
fn grow<H>(node: &Node<H>) -> usize {
    let newest = node.newest.load(Ordering::Relaxed);
    let (earlier, number) = split(newest);
    let layout = fragment_layout(number + 1);
    // SAFETY: the layout has a size; the first word is within it and aligned.
    let fragment = unsafe {
        let Some(fragment) = NonNull::new(alloc(layout)) else {
            handle_alloc_error(layout)
        };
        shim::link(fragment.as_ptr(), earlier.cast(), SIZES[number + 1]);
        fragment.as_ptr()
    };
    let tagged = fragment.map_addr(|a| a | (number + 1));
    node.newest.store(tagged, Ordering::Release);
    fragment_bytes(number + 1)
}

/// A [`Published`] beside the state of its writers, who take turns.
#[derive(Debug)]
pub struct Guarded<H, W> {
    published: Published<H>,
    state: Mutex<W>,
}

impl<H, W> Guarded<H, W> {
    /// Nothing published yet.
    pub fn new(state: W) -> Self {
        Self {
            published: Published::default(),
            state: Mutex::new(state),
        }
    }

    /// What readers see. They never wait for the lock.
    pub fn published(&self) -> &Published<H> {
        &self.published
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> GuardedLock<'_, H, W> {
        GuardedLock {
            published: &self.published,
            state: self.state.lock(),
        }
    }
}

/// The lock of a [`Guarded`].
#[derive(Debug)]
pub struct GuardedLock<'a, H, W> {
    published: &'a Published<H>,
    state: MutexGuard<'a, W>,
}

impl<H, W> GuardedLock<'_, H, W> {
    /// The state, and the writer that belongs to it.
    #[inline]
    pub fn split(&mut self) -> (&mut W, PublishedWriter<'_, H>) {
        let writer = PublishedWriter {
            shared: self.published,
            exclusive: PhantomData,
        };
        (&mut self.state, writer)
    }
}

impl<H, W> std::ops::Deref for GuardedLock<'_, H, W> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.state
    }
}

impl<H, W> std::ops::DerefMut for GuardedLock<'_, H, W> {
    fn deref_mut(&mut self) -> &mut W {
        &mut self.state
    }
}

#[cfg(all(test, not(loom)))]
#[path = "published_tests.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "published_loom.rs"]
mod loom_tests;
