//! A connection that is closed where the other end takes nothing of what it is sent.
//!
//! A reader that has gone to sleep would keep its connection, and one of the permits for those, for ever: as long as the
//! other machine answers for it, TCP waits.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Ends writes that get nowhere for some time.
#[derive(Debug)]
pub(crate) struct Attended<T> {
    io: T,
    idle: Duration,
    /// Set while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> Attended<T> {
    pub(crate) fn new(io: T, idle: Duration) -> Self {
        Self {
            io,
            idle,
            waiting: None,
        }
    }

    /// What became of a write, or an error where it has waited for too long.
    fn attend<V>(&mut self, cx: &mut Context<'_>, wrote: Poll<Result<V>>) -> Poll<Result<V>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let idle = self.idle;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(waiting.as_mut().poll(cx));
        let why = format!("nothing of an answer was taken for {idle:?}");
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, why)))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Attended<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Attended<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.attend(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.attend(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.attend(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.attend(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_gets_nowhere_ends() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut near = Attended::new(near, Duration::from_secs(20));
        let begun = tokio::time::Instant::now();
        let reader = tokio::spawn(async move {
            // Slow, but it goes on.
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(15)).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
            tokio::time::sleep(Duration::from_hours(9)).await;
            drop(far);
        });
        near.write_all(&[1; 40]).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 45);
        let error = near.write_all(&[1; 40]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert_eq!(begun.elapsed().as_secs(), 65);
        reader.abort();
    }
}
