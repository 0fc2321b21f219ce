//! A promise that a write is as durable as asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use alluvium_types::Position;
use alluvium_wal::LogTicket;
use smallvec::SmallVec;

use crate::error::{RefusedLine, StoreError};
use crate::open::StoreInner;

/// Reasons that are kept apart for one batch; lines left out for others are only counted.
pub const LEFT_OUT_REASONS_MAX: usize = 8;

/// Lines of a batch that only the index could refuse, for one reason.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// Why they were.
    pub why: RefusedLine,
    /// What the sender calls the first of them, see [`Writer::number_lines`](crate::Writer::number_lines).
    pub number: u32,
    /// How many.
    pub lines: u64,
}

/// Lines of a batch that only the index could refuse, by reason.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LeftOutLines {
    reasons: Vec<LeftOut>,
    lines: u64,
}

impl LeftOutLines {
    /// The first [`LEFT_OUT_REASONS_MAX`] reasons, in the order in which they were met.
    pub fn reasons(&self) -> &[LeftOut] {
        &self.reasons
    }

    /// All lines left out, whatever the reason.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn push(&mut self, why: RefusedLine, number: u32) {
        self.lines += 1;
        if let Some(same) = self.reasons.iter_mut().find(|r| r.why == why) {
            same.lines += 1;
            // Partition by partition, so that a later one may hold an earlier line.
            same.number = same.number.min(number);
        } else if self.reasons.len() < LEFT_OUT_REASONS_MAX {
            let lines = 1;
            self.reasons.push(LeftOut { why, number, lines });
        }
    }
}

impl std::fmt::Display for LeftOutLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines are refused", self.lines)?;
        match self.reasons.first() {
            Some(first) => write!(f, ", line {} because {}", first.number, first.why),
            None => Ok(()),
        }
    }
}

/// Ends when everything it stands for holds its durability level. Dropping it gives up waiting, not the write.
#[derive(Debug)]
pub struct Commit {
    store: Arc<StoreInner>,
    tickets: SmallVec<[LogTicket; 2]>,
    checkpoint: Option<u64>,
    position: Position,
    left_out: Option<Box<LeftOutLines>>,
}

impl Commit {
    pub(crate) fn new(
        store: Arc<StoreInner>,
        tickets: SmallVec<[LogTicket; 2]>,
        position: Position,
    ) -> Self {
        Self {
            store,
            tickets,
            checkpoint: None,
            position,
            left_out: None,
        }
    }

    pub(crate) fn of_checkpoint(store: Arc<StoreInner>, number: u64) -> Self {
        Self {
            store,
            tickets: SmallVec::new(),
            checkpoint: Some(number),
            position: Position::default(),
            left_out: None,
        }
    }

    pub(crate) fn with_left_out(mut self, left_out: Option<Box<LeftOutLines>>) -> Self {
        self.left_out = left_out;
        self
    }

    /// Lines of the batch that were left out.
    pub fn left_out(&self) -> Option<&LeftOutLines> {
        self.left_out.as_deref()
    }

    /// Positions the batch got, valid once it has ended.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The outcome, or a promise to call `waker`.
    ///
    /// # Errors
    /// If the store stopped acknowledging: what was written may or may not be there after a restart.
    pub fn poll(&mut self, waker: &Waker) -> Poll<Result<Position, StoreError>> {
        while let Some(ticket) = self.tickets.last() {
            match ticket.poll(waker) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    let error = StoreError::from(error);
                    // Whoever hears of it may ask for the status before the pump comes by.
                    self.store.fail(error.clone());
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(())) => {
                    self.tickets.pop();
                }
            }
        }
        if let Some(number) = self.checkpoint {
            match self.store.poll_checkpoint(number, waker) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => self.checkpoint = None,
            }
        }
        Poll::Ready(Ok(std::mem::take(&mut self.position)))
    }

    /// Drives the store until the outcome is known: for embedders without a pump, and tests.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub fn wait(mut self) -> Result<Position, StoreError> {
        loop {
            if let Poll::Ready(result) = self.poll(Waker::noop()) {
                return result;
            }
            if !self.store.drive() {
                self.store.device.wait(std::time::Duration::from_millis(1));
            }
        }
    }
}

impl Future for Commit {
    type Output = Result<Position, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Commit::poll(&mut self, context.waker())
    }
}
