//! `100 Continue` where hyper sends none: before the answer to a request that waits for it and has an empty body.
//!
//! The standard lets a server leave it out there. But botocore, given its final answer where it waited for the interim one,
//! misreads the next answer on that connection, and behind a load balancer we cannot make it close the connection.
//!
//! Owns: the bytes of the interim answer, and whether the connection is between two answers. Never: looks at a request.
//!
//! 1. The service calls [`Interim::send`] before it answers such a request.
//! 2. [`Wire`] puts the interim answer in front of the next bytes that hyper writes: those are the final answer's, because
//!    hyper writes answers in order and everything before was flushed.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The service's handle on a connection, in each request's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interim(Arc<State>);

#[derive(Debug, Default)]
struct State {
    wanted: AtomicBool,
    /// Bytes may wait to be flushed: an earlier answer's, if the client does not wait for one before it asks again.
    unflushed: AtomicBool,
}

impl Interim {
    /// Has the interim answer sent before the next one; says whether it will be.
    pub(crate) fn send(&self) -> bool {
        let between = !self.0.unflushed.load(Ordering::Acquire);
        if between {
            self.0.wanted.store(true, Ordering::Release);
        }
        between
    }
}

/// A connection that can send interim answers.
pub(super) struct Wire<S> {
    stream: S,
    interim: Interim,
    /// What is left to send of an interim answer.
    front: &'static [u8],
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Around a fresh connection.
    pub(super) fn new(stream: S, interim: Interim) -> Self {
        Self { stream, interim, front: &[] }
    }

    /// Sends what must go before hyper's next bytes.
    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.interim.0.unflushed.store(true, Ordering::Release);
        if self.interim.0.wanted.swap(false, Ordering::AcqRel) {
            self.front = CONTINUE;
        }
        while !self.front.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.front))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.front = &self.front[written..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_front(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        ready!(self.poll_front(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.interim.0.unflushed.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_interim_answer_goes_before_the_next_bytes_once_and_not_into_an_answer() {
        // Room for 8 bytes: every write is cut.
        let (near, mut far) = tokio::io::duplex(8);
        let interim = Interim::default();
        let mut wire = Wire::new(near, interim.clone());
        let writing = tokio::spawn(async move {
            assert!(interim.send());
            wire.write_all(b"first ").await.unwrap();
            assert!(!interim.send(), "the first answer is not flushed");
            wire.write_all(b"answer, ").await.unwrap();
            wire.flush().await.unwrap();
            wire.write_all(b"second answer").await.unwrap();
        });
        let mut received = String::new();
        far.read_to_string(&mut received).await.unwrap();
        writing.await.unwrap();
        assert_eq!(received, "HTTP/1.1 100 Continue\r\n\r\nfirst answer, second answer");
    }
}
