//! Every order of whoever ends an operation and those who wait for it: `cargo xtask loom`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use loom::thread;

use super::*;

/// No part of the model.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn check(end: impl Fn(Completer) + Send + Sync + Copy + 'static) {
    loom::model(move || {
        let (ticket, completer) = Ticket::new();
        let wait = |ticket: Ticket| {
            thread::spawn(move || {
                let woken = Arc::new(Woken::default());
                let waker = Waker::from(Arc::clone(&woken));
                let pending = ticket.poll(&waker).is_pending();
                (ticket, woken, pending)
            })
        };
        let waiters = [wait(ticket.clone()), wait(ticket)];
        end(completer);
        for waiter in waiters {
            let (ticket, woken, pending) = waiter.join().unwrap();
            assert!(ticket.is_ended());
            // Who was told to wait is woken once, and nobody else.
            assert_eq!(woken.0.load(Ordering::Relaxed), usize::from(pending));
        }
    });
}

#[test]
fn nobody_waits_for_an_operation_that_has_ended() {
    check(|completer| completer.complete(Ok(Completion::Done)));
}

#[test]
fn nobody_waits_for_a_device_that_is_gone() {
    check(std::mem::drop::<Completer>);
}
