//! Answers on connections of HTTP/2, and the end of those whose client stops taking them.
//!
//! Owns: what an answer is made of, and how long it may wait for its client. Never: looks at frames or sockets.
//!
//! A client of HTTP/2 says for each answer how much of it it takes. One that takes nothing of an answer, and goes on with the
//! rest of its connection, is late for no limit of the connection or of TCP, and would keep what the answer holds, its place in
//! the admission and what nodes have read for it, for as long as it likes. HTTP/1.1 needs nothing of the kind: there only the
//! socket makes an answer wait, and the kernel ends one whose peer takes nothing ([`super::tune`]).
//!
//! 1. [`Answers::keep`] takes a body, and gives the connection an [`Answer`] that hands it over in pieces. The connection asks for
//!    another one only when the client takes some of the last, so each one is a step of the client, and a short one: who is slow
//!    makes it in time (with 256 answers at a time, from some 2 Mbit/s on).
//! 2. While the body has no piece yet the gateway is waited for, and no time counts.
//! 3. [`Answers::watch`] looks every few seconds. An answer whose last piece is older than [`STALL_LIMIT`] is broken off: its body
//!    is dropped, with all that it holds, and its request has ended. Other answers of the connection go on.
//! 4. A client that comes back is told: where the body would go on, the stream is reset by an error (sooner it cannot be, for
//!    nobody asks the answer for anything). If it never comes back, and nothing else goes on, its connection is idle, and ends
//!    as such.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::activity::LOOK;
use super::{BoxError, MAX_STREAMS, STALL_LIMIT};

/// What a client must take within [`STALL_LIMIT`], in bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// From so many on, answers that are over are forgotten: more than a connection has at a time, so that it is seldom.
const MOST_KEPT: usize = 2 * MAX_STREAMS as usize;

/// Answers that were broken off because their client took nothing of them.
const STALLED: &str = "coffer_s3_stalled_responses_total";

/// The answers of one connection; cheap to clone.
pub(super) struct Answers<B>(Arc<Mutex<Vec<Weak<Held<B>>>>>);

/// The body of an answer, as its connection has it.
pub(super) struct Answer<B>(Arc<Held<B>>);

type Held<B> = Mutex<State<B>>;

struct State<B> {
    /// `None` once it is broken off.
    body: Option<B>,
    /// What the body has given and the connection does not have yet.
    left: Bytes,
    /// When the connection got its last piece; `None` while it waits for one.
    handed: Option<Instant>,
}

impl<B> Clone for Answers<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Answers<B> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    /// Keeps a body until its connection drops the answer, or it is broken off.
    pub(super) fn keep(&self, body: B) -> Answer<B> {
        let held = Arc::new(Mutex::new(State { body: Some(body), left: Bytes::new(), handed: None }));
        let mut kept = self.0.lock();
        if kept.len() >= MOST_KEPT {
            kept.retain(|held| held.strong_count() > 0);
        }
        kept.push(Arc::downgrade(&held));
        Answer(held)
    }

    /// Looks after the answers; never ends.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }

    fn look(&self) {
        let kept: Vec<Arc<Held<B>>> = {
            let mut kept = self.0.lock();
            kept.retain(|held| held.strong_count() > 0);
            kept.iter().filter_map(Weak::upgrade).collect()
        };
        for held in kept {
            // Dropped when nothing is locked: it may hold anything.
            let broken = held.lock().break_off();
            if broken.is_some() {
                metrics::counter!(STALLED).increment(1);
                tracing::debug!("an answer is broken off: its client takes nothing of it");
            }
        }
    }
}

impl<B> State<B> {
    /// Gives away what it holds, if its client is late.
    fn break_off(&mut self) -> Option<B> {
        if self.handed?.elapsed() < STALL_LIMIT {
            return None;
        }
        self.handed = None;
        self.left = Bytes::new();
        self.body.take()
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left.is_empty() {
            self.handed = None;
            let Some(body) = &mut self.body else {
                let error = "the client took nothing of the answer for too long";
                return Poll::Ready(Some(Err(BoxError::from(error))));
            };
            let frame = match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => self.left = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.handed = Some(Instant::now());
        let length = self.left.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.as_ref().map(Body::size_hint).unwrap_or_default();
        SizeHint::with_exact(self.left.len() as u64) + rest
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.lock().poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.left.is_empty() && state.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

#[cfg(test)]
mod tests;
