//! Handles to operations in flight; they never own a buffer.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::device::{Completion, Device, Lane};
use crate::error::IoError;
use crate::shim::Mutex;

/// The result of one operation.
pub type IoResult = Result<Completion, IoError>;

#[derive(Debug)]
enum State {
    Pending(Vec<Waker>),
    Ended(IoResult),
}

/// A handle to one submitted operation. Clones speak of the same operation.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Mutex<State>>);

/// The other end of a [`Ticket`], held by the device.
#[derive(Debug)]
pub struct Completer(Arc<Mutex<State>>);

impl Ticket {
    /// A pending ticket and its other end.
    pub fn new() -> (Self, Completer) {
        let state = Arc::new(Mutex::new(State::Pending(Vec::new())));
        (Self(Arc::clone(&state)), Completer(state))
    }

    /// A ticket that has ended already.
    pub fn ended(result: IoResult) -> Self {
        Self(Arc::new(Mutex::new(State::Ended(result))))
    }

    /// The result, if the operation has ended.
    pub fn result(&self) -> Option<IoResult> {
        match &*self.0.lock() {
            State::Pending(_) => None,
            State::Ended(result) => Some(result.clone()),
        }
    }

    /// Whether the operation has ended.
    pub fn is_ended(&self) -> bool {
        matches!(&*self.0.lock(), State::Ended(_))
    }

    /// The result, or a promise to call `waker` once.
    pub fn poll(&self, waker: &Waker) -> Poll<IoResult> {
        match &mut *self.0.lock() {
            State::Ended(result) => Poll::Ready(result.clone()),
            State::Pending(wakers) => {
                if !wakers.iter().any(|w| w.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// Drives the lane until the operation has ended. For opening, closing and tests; write paths poll.
    ///
    /// # Errors
    /// The operation's own.
    pub fn wait(&self, device: &dyn Device, lane: Lane) -> IoResult {
        loop {
            if let Some(result) = self.result() {
                return result;
            }
            if device.drive(lane) == 0 && !self.is_ended() {
                device.wait(std::time::Duration::from_millis(10));
            }
        }
    }
}

impl Completer {
    /// Ends the operation and wakes whoever polled.
    pub fn complete(self, result: IoResult) {
        self.end(result);
    }

    fn end(&self, result: IoResult) {
        let before = std::mem::replace(&mut *self.0.lock(), State::Ended(result));
        if let State::Pending(wakers) = before {
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Completer {
    /// A device that goes away fails what it never began, so that nobody waits for ever.
    fn drop(&mut self) {
        if matches!(&*self.0.lock(), State::Pending(_)) {
            let cause = std::io::Error::other("the device was closed before the operation began");
            self.end(Err(IoError::new("use", "the device", cause)));
        }
    }
}

#[cfg(all(test, loom))]
#[path = "ticket_loom.rs"]
mod loom_tests;
