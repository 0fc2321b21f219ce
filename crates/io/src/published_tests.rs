//! Tests of published bytes; also run under Miri.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

fn all<H>(view: &View<'_, H>) -> Vec<u8> {
    let mut out = Vec::new();
    view.read(&mut out);
    out
}

#[test]
fn a_reader_sees_what_was_published_last() {
    let mut published = Published::<u32>::default();
    assert!(published.read(|_| ()).is_none());
    published.writer().replace(7, b"", 1);
    let seen = |p: &Published<u32>| p.read(|v| (*v.head(), v.note(), all(&v))).unwrap();
    assert_eq!(seen(&published), (7, 1, vec![]));
    published.writer().append(b"abc", 2);
    published.writer().set_note(3);
    assert_eq!(seen(&published), (7, 3, b"abc".to_vec()));
    let short = [u64::from_le_bytes(*b"de......"), 0, 0];
    published.writer().end().unwrap().append_short(short, 2, 4);
    assert_eq!(seen(&published), (7, 4, b"abcde".to_vec()));
    published.writer().replace(8, b"x", 5);
    assert_eq!(seen(&published), (8, 5, b"x".to_vec()));
    let mut other = Published::default();
    other.writer().replace(9, b"yz", 6);
    published.writer().adopt(other);
    assert_eq!(seen(&published), (9, 6, b"yz".to_vec()));
}

#[test]
fn bytes_span_fragments() {
    let bytes: Vec<u8> = (0..PUBLISHED_BYTES_MAX)
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    let steps: &[usize] = if cfg!(miri) {
        &[24, 700]
    } else {
        &[1, 3, 23, 24, 100, 5000]
    };
    for step in steps.iter().copied() {
        let mut published = Published::<()>::default();
        let mut writer = published.writer();
        writer.replace((), b"", 0);
        let before = writer.view().unwrap().heap_bytes();
        let mut grown = 0;
        for piece in bytes.chunks(step) {
            let mut short = [0xee; SHORT_WORDS * 8];
            if let Some(place) = short.get_mut(..piece.len()) {
                place.copy_from_slice(piece);
                let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| short[8 * i + b]));
                grown +=
                    writer
                        .end()
                        .unwrap()
                        .append_short(std::array::from_fn(word), piece.len(), 1);
            } else {
                grown += writer.append(piece, 1);
            }
        }
        let view = writer.view().unwrap();
        assert!(all(&view) == bytes);
        assert_eq!(view.heap_bytes(), before + grown);
        assert!(view.holds(30, &bytes[30..90]) && view.holds(0, &bytes) && view.holds(5, b""));
        assert!(!view.holds(31, &bytes[30..90]) && !view.holds(bytes.len(), b"x"));
    }
}

#[test]
#[should_panic(expected = "more bytes than may be published")]
fn bytes_are_bounded() {
    let mut published = Published::<()>::default();
    published.writer().replace((), &[0; PUBLISHED_BYTES_MAX], 0);
    published.writer().append(b"x", 0);
}

/// Says when it is dropped.
struct Counted(Arc<AtomicUsize>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn readers_beside_a_writer_see_whole_states() {
    // A state is its number as the head, and as many bytes of that number as the note says.
    let (rounds, appends) = if cfg!(miri) { (8, 20) } else { (2_000, 200) };
    let dropped = Arc::new(AtomicUsize::new(0));
    let guarded = Arc::new(Guarded::<Counted, u64>::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let reader = |guarded: Arc<Guarded<Counted, u64>>, done: Arc<AtomicBool>| {
        move || {
            let (mut last, mut seen) = ((0, 0), 0_u64);
            while !done.load(Ordering::Acquire) || seen == 0 {
                let state = guarded.published().read(|view| {
                    let head = view.head().1;
                    let bytes = all(&view);
                    assert_eq!(bytes.len() as u64, 3 * view.note());
                    assert!(bytes.iter().all(|b| *b == head as u8));
                    (head, view.note())
                });
                if let Some(state) = state {
                    assert!(state >= last, "{state:?} after {last:?}");
                    (last, seen) = (state, seen + 1);
                }
                std::thread::yield_now();
            }
        }
    };
    let readers: Vec<_> = (0..2)
        .map(|_| std::thread::spawn(reader(Arc::clone(&guarded), Arc::clone(&done))))
        .collect();
    for round in 1..=rounds {
        let mut lock = guarded.lock();
        *lock = round;
        let (state, mut writer) = lock.split();
        writer.replace(Counted(Arc::clone(&dropped), *state), &[round as u8; 3], 1);
        for note in 2..=appends {
            let short = [u64::from_le_bytes([round as u8; 8]); SHORT_WORDS];
            writer.end().unwrap().append_short(short, 3, note);
        }
    }
    done.store(true, Ordering::Release);
    readers.into_iter().for_each(|r| r.join().unwrap());
    drop(guarded);
    // Nodes replaced are freed as epochs go by.
    for _ in 0..10_000 {
        if dropped.load(Ordering::Relaxed) as u64 == rounds {
            return;
        }
        epoch::pin().flush();
    }
    panic!(
        "{} of {rounds} heads were dropped",
        dropped.load(Ordering::Relaxed)
    );
}
