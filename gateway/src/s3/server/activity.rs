//! What a connection is doing, and how long it may do nothing.
//!
//! Owns: when a connection was last of use, when the head of its next request began, and ending it when that is too long ago.
//! Never: looks at bytes.
//!
//! A connection that is kept alive may be idle for longer than the pools of load balancers keep theirs (60 s is common): else a
//! balancer sends a request on a connection that is being closed, and cannot know whether it was carried out. A head, once begun,
//! has less time: who sends it byte by byte holds a place without a request.
//!
//! 1. [`Watched`] tells of bytes of HTTP/1.1: those that come while nothing runs begin a head, those that leave put off the end.
//!    Of HTTP/2 it tells nothing: its frames come and go without requests.
//! 2. [`Running`] is a request from its head to the last byte of its answer, or to the end of its stream.
//! 3. [`drive`] looks every few seconds. Who is idle for too long is asked to end (HTTP/1.1 closes, HTTP/2 sends GOAWAY), and
//!    cut off if that takes too long, too; who does not end a head is cut off.
//! 4. A stop asks connections of HTTP/2 at once. One of HTTP/1.1 has no word for it but in an answer, and a balancer sends on an
//!    idle one until its checks have failed: it is served for [`STOP_GRACE`] more ([`stop_is_over`]).

use std::future::Future;
use std::io::{IoSlice, Result};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use coffer_common::shutdown::Shutdown;
use http_body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection without requests is closed after this time.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// A request's head must be complete this long after it has begun.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Connections of HTTP/1.1 that may be idle take requests for this long after the stop was told: longer than load balancers take to
/// see it, which ask every second or so and want two failures.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(3);
/// From one look to the next: limits are kept as exactly as this.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// One connection's; cheap to clone.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    running: usize,
    /// When it was last of use.
    used: Instant,
    /// When the head of the next request began.
    head: Option<Instant>,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Idle,
    Head,
}

/// A request.
pub(super) struct Running(Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State::new(Instant::now()))))
    }

    /// A request's head is complete.
    pub(super) fn begin(&self) -> Running {
        self.0.lock().begin();
        Running(self.clone())
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        self.0.lock().received(Instant::now());
    }

    fn sent(&self) {
        self.0.lock().used = Instant::now();
    }

    fn is_late(&self) -> Option<Late> {
        self.0.lock().is_late(Instant::now())
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { running: 0, used: now, head: None }
    }

    fn begin(&mut self) {
        self.running += 1;
        self.head = None;
    }

    fn end(&mut self, now: Instant) {
        self.running -= 1;
        self.used = now;
    }

    fn received(&mut self, now: Instant) {
        if self.running == 0 && self.head.is_none() {
            self.head = Some(now);
        }
    }

    fn is_late(&self, now: Instant) -> Option<Late> {
        match self.head {
            _ if self.running > 0 => None,
            Some(begun) => (now - begun >= HEAD_LIMIT).then_some(Late::Head),
            None => (now - self.used >= IDLE_LIMIT).then_some(Late::Idle),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().end(Instant::now());
    }
}

/// Completes when the stop was told so long ago that nobody should still send a request.
pub(super) async fn stop_is_over(stop: &Shutdown) {
    stop.told().await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// Serves a connection to its end: that which it takes, or that of its time, or `end`, when it is asked to end.
pub(super) async fn drive<C: GracefulConnection>(
    connection: C,
    activity: &Activity,
    end: impl Future<Output = ()>,
) -> std::result::Result<(), C::Error> {
    let (mut connection, mut end) = (pin!(connection), pin!(end));
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            // What has come is read before anything else: else a request could be there, and be closed upon.
            biased;
            ended = connection.as_mut() => return ended,
            () = end.as_mut(), if asked.is_none() => {}
            () = tokio::time::sleep(LOOK) => match activity.is_late() {
                None => continue,
                Some(Late::Head) => return Ok(()),
                // It was asked, and has had time enough.
                Some(Late::Idle) if asked.is_some_and(|asked| asked.elapsed() >= HEAD_LIMIT) => return Ok(()),
                Some(Late::Idle) if asked.is_some() => continue,
                Some(Late::Idle) => {}
            },
        }
        asked = Some(Instant::now());
        connection.as_mut().graceful_shutdown();
    }
}

/// The body of an answer, during which its request runs.
pub(super) struct Counted<B> {
    body: B,
    _running: Running,
}

impl<B> Counted<B> {
    pub(super) fn new(body: B, running: Running) -> Self {
        Self { body, _running: running }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells of its bytes, and begins with some that were read already.
pub(super) struct Watched<S> {
    stream: S,
    first: Bytes,
    activity: Option<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, first: &[u8], activity: Option<Activity>) -> Self {
        Self { stream, first: Bytes::copy_from_slice(first), activity }
    }

    fn sent(&self, written: Result<usize>) -> Poll<Result<usize>> {
        if let (Some(activity), Ok(_)) = (&self.activity, &written) {
            activity.sent();
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(activity) = self.activity.as_ref().filter(|_| buffer.filled().len() > before) {
            activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn idle_connections_have_longer_than_heads_and_requests_have_both() {
        let (mut now, second) = (Instant::now(), Duration::from_secs(1));
        let mut state = State::new(now);
        now += IDLE_LIMIT - second;
        assert_eq!(state.is_late(now), None);
        state.received(now);
        now += HEAD_LIMIT - second;
        assert_eq!(state.is_late(now), None, "the head has its own time");
        state.received(now);
        now += second;
        assert_eq!(state.is_late(now), Some(Late::Head), "more bytes give no more time");
        state.begin();
        now += IDLE_LIMIT * 3;
        state.received(now);
        assert_eq!(state.is_late(now), None);
        state.end(now);
        assert_eq!(state.is_late(now + IDLE_LIMIT - second), None);
        assert_eq!(state.is_late(now + IDLE_LIMIT), Some(Late::Idle));
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let stream = std::io::Cursor::new(b" second".to_vec());
        let mut watched = Watched::new(stream, b"first", Some(Activity::new()));
        let mut text = String::new();
        watched.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first second");
    }
}
