//! The body of an answer on its way out: counts its bytes, and at its end the request.
//!
//! The place in the admission is held until then: a slow reader is a request in flight, and one that takes nothing any more is given
//! up by [`super::server`], which drops the body. Only a small answer gives it back as
//! soon as all of it is handed over: nothing is worked on any more, and what waits for the client is no more than its stream
//! costs. Else whoever takes no answers, and needs no rights for that, would hold all places with errors.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::response::{BoxError, ResponseBody};

/// Requests answered, by operation and status.
const REQUESTS: &str = "coffer_s3_requests_total";
/// From the head of a request to the last byte of its answer, by operation.
const DURATION: &str = "coffer_s3_request_duration_seconds";
/// Bytes of answers' bodies, by operation.
const BYTES_SENT: &str = "coffer_s3_sent_bytes_total";
/// Answers broken off: the client went, or the object's bytes stopped early.
const BROKEN: &str = "coffer_s3_broken_responses_total";

/// An answer up to this does not count as in flight once the connection has it: an error has a few hundred bytes, and at most
/// some thousand of the request's path.
const SMALL_BYTES: u64 = 8 * 1024;

/// A body that is counted.
pub(super) struct Metered {
    inner: ResponseBody,
    operation: &'static str,
    status: StatusCode,
    /// How long it is, if its head says so.
    length: Option<u64>,
    started: Instant,
    sent: u64,
    ended: bool,
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Metered {
    /// Counts `inner` for a request that started then; gives `place` back as the module says.
    pub(super) fn new(
        inner: ResponseBody,
        operation: &'static str,
        (status, length): (StatusCode, Option<u64>),
        started: Instant,
        place: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Self {
        let ended = inner.is_end_stream();
        Self { inner, operation, status, length, started, sent: 0, ended, place }
    }

    /// Whether the connection has all of it: one that knows the length does not ask whether more would come.
    fn is_whole(&self) -> bool {
        self.ended || self.length.is_some_and(|length| self.sent >= length)
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        if self.inner.is_end_stream() {
            self.ended = true;
        }
        if self.is_whole() && self.sent <= SMALL_BYTES {
            drop(self.place.take());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let operation = self.operation;
        let status = self.status.as_u16().to_string();
        metrics::counter!(REQUESTS, "operation" => operation, "status" => status).increment(1);
        metrics::histogram!(DURATION, "operation" => operation).record(self.started.elapsed().as_secs_f64());
        metrics::counter!(BYTES_SENT, "operation" => operation).increment(self.sent);
        if !self.is_whole() {
            metrics::counter!(BROKEN, "operation" => operation).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::sync::Semaphore;

    use super::*;

    fn whole(bytes: u64) -> ResponseBody {
        Full::new(Bytes::from(vec![b'a'; bytes as usize])).map_err(|never| match never {}).boxed_unsync()
    }

    fn in_pieces() -> ResponseBody {
        let pieces =
            ["a", "b"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        StreamBody::new(stream::iter(pieces)).boxed_unsync()
    }

    /// Whether the place is free after each time that the connection has asked for a frame.
    async fn freed(body: ResponseBody, length: Option<u64>, asked: usize) -> Vec<bool> {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::new(Arc::clone(&places).try_acquire_owned().unwrap());
        let mut body = Metered::new(body, "GetObject", (StatusCode::OK, length), Instant::now(), Some(place));
        let mut freed = Vec::new();
        for _ in 0..asked {
            let _ = body.frame().await;
            freed.push(places.available_permits() == 1);
        }
        drop(body);
        assert_eq!(places.available_permits(), 1);
        freed
    }

    #[tokio::test]
    async fn a_small_answer_that_is_handed_over_holds_no_place_though_nobody_takes_it() {
        assert_eq!(freed(whole(300), None, 1).await, [true]);
        assert_eq!(freed(in_pieces(), Some(2), 2).await, [false, true]);
        assert_eq!(freed(in_pieces(), None, 3).await, [false, false, true], "it may go on");
        assert_eq!(freed(whole(SMALL_BYTES), None, 1).await, [true]);
        assert_eq!(
            freed(whole(SMALL_BYTES + 1), None, 2).await,
            [false, false],
            "its bytes are still in memory"
        );
    }

    #[tokio::test]
    async fn an_answer_is_whole_with_its_last_byte_or_its_end() {
        for (length, expected) in [(Some(2), [false, true, true]), (None, [false, false, true])] {
            let about = (StatusCode::OK, length);
            let mut body = Metered::new(in_pieces(), "GetObject", about, Instant::now(), None);
            let mut whole = Vec::new();
            for _ in 0..expected.len() {
                let _ = body.frame().await;
                whole.push(body.is_whole());
            }
            assert_eq!(whole, expected);
        }
    }
}
