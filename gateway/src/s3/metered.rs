//! The body of an answer on its way out: counts its bytes, and at its end the request.
//!
//! The place in the admission is held until then: a slow reader is a request in flight.

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

/// A body that is counted.
pub(super) struct Metered {
    inner: ResponseBody,
    operation: &'static str,
    status: StatusCode,
    started: Instant,
    sent: u64,
    ended: bool,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Metered {
    /// Counts `inner` for a request that started then; gives `place` back at the end.
    pub(super) fn new(
        inner: ResponseBody,
        operation: &'static str,
        status: StatusCode,
        started: Instant,
        place: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Self {
        let ended = inner.is_end_stream();
        Self { inner, operation, status, started, sent: 0, ended, _place: place }
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
        if !self.ended {
            metrics::counter!(BROKEN, "operation" => operation).increment(1);
        }
    }
}
