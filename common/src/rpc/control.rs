//! The control stream: small calls of one caller to one node, coalesced on one long-lived stream.
//!
//! 1. A call takes a share of the bounds (number and bytes in flight), or waits for it.
//! 2. It goes into the queue of the open stream under an id of its own; the stream is opened if there is none.
//! 3. Whenever the connection can take bytes, everything that waits in the queue leaves as one frame.
//! 4. Replies come in any order; each wakes its caller. A caller that has waited its deadline leaves.
//! 5. When the stream breaks, every call on it fails as unreachable: whether it was done is unknown. Nothing is sent twice.
//!
//! Cancellation: dropping a call forgets it here; the node may do it all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::poll_fn;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tonic::Streaming;

use super::link::{Link, Target};
use super::settings::{
    CALL_TIMEOUT, CONTROL_FRAME_BYTES, CONTROL_FRAME_CALLS, MAX_CALL_BYTES_IN_FLIGHT, MAX_CALLS_IN_FLIGHT,
    MAX_MESSAGE_BYTES,
};
use super::status::status_to_error;
use crate::node::{NodeError, SlotCall};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotReply;
use wire::control_reply::Outcome;
use wire::storage_node_client::StorageNodeClient;

/// Bytes of calls in flight are counted in units of this size.
const SHARE_BYTES: usize = MAX_CALL_BYTES_IN_FLIGHT / MAX_CALLS_IN_FLIGHT;

type Answer = Result<SlotReply, NodeError>;

/// The control side of a remote node.
pub(super) struct Control {
    link: Link,
    open: Mutex<Option<Arc<OpenStream>>>,
    opening: tokio::sync::Mutex<()>,
    shares: Semaphore,
}

struct OpenStream {
    queue: mpsc::Sender<Queued>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
}

struct Queued {
    call: wire::ControlCall,
    len_bytes: usize,
}

/// Calls that wait for a reply, until the stream ends.
#[derive(Default)]
struct Pending(Mutex<PendingCalls>);

#[derive(Default)]
struct PendingCalls {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    ended: Option<NodeError>,
}

impl Control {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            link: Link::new(target),
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            shares: Semaphore::new(MAX_CALLS_IN_FLIGHT),
        }
    }

    /// The connection of the control stream, for small unary calls beside it.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Sends a call and waits for its reply.
    pub(super) async fn call(&self, call: SlotCall) -> Answer {
        let deadline = Instant::now() + CALL_TIMEOUT;
        match tokio::time::timeout_at(deadline, self.call_until(call, deadline)).await {
            Ok(answer) => answer,
            Err(_) => Err(NodeError::Timeout { node: self.link.address().to_owned() }),
        }
    }

    async fn call_until(&self, call: SlotCall, deadline: Instant) -> Answer {
        let call = wire::SlotCall::from(call);
        let len_bytes = call.encoded_len();
        let shares = len_bytes.div_ceil(SHARE_BYTES).clamp(1, MAX_CALLS_IN_FLIGHT);
        let shares = u32::try_from(shares).unwrap_or(u32::MAX);
        let _share = self.shares.acquire_many(shares).await.map_err(|_| NodeError::Overloaded)?;

        let stream = self.stream().await?;
        let id = stream.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let _forget = stream.pending.insert(id, answer)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let call = wire::ControlCall { id, deadline_ms: millis(left), call: Some(call) };
        if stream.queue.send(Queued { call, len_bytes }).await.is_err() {
            return Err(self.broken("the stream ended"));
        }
        answered.await.unwrap_or_else(|_| Err(self.broken("the stream ended")))
    }

    async fn stream(&self) -> Result<Arc<OpenStream>, NodeError> {
        if let Some(stream) = self.live() {
            return Ok(stream);
        }
        let _opening = self.opening.lock().await;
        if let Some(stream) = self.live() {
            return Ok(stream);
        }
        let stream = Arc::new(self.open_stream().await?);
        *self.open.lock() = Some(stream.clone());
        Ok(stream)
    }

    fn live(&self) -> Option<Arc<OpenStream>> {
        self.open.lock().as_ref().filter(|stream| !stream.pending.has_ended()).cloned()
    }

    async fn open_stream(&self) -> Result<OpenStream, NodeError> {
        let connection = self.link.get().await?;
        let (queue, queued) = mpsc::channel(MAX_CALLS_IN_FLIGHT);
        let origin = connection.origin();
        let inbound = StorageNodeClient::with_origin(connection, origin)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .control(frames(queued))
            .await
            .map_err(|status| status_to_error(self.link.address(), &status))?
            .into_inner();
        let pending = Arc::new(Pending::default());
        let node = self.link.address().to_owned();
        tokio::spawn(receive(inbound, pending.clone(), node));
        Ok(OpenStream { queue, pending, next_id: AtomicU64::new(1) })
    }

    fn broken(&self, reason: &str) -> NodeError {
        NodeError::Unreachable { node: self.link.address().to_owned(), reason: reason.to_owned() }
    }
}

/// Frames of what is queued, as large as the queue is long within bounds.
fn frames(mut queued: mpsc::Receiver<Queued>) -> impl Stream<Item = wire::ControlRequest> + Send {
    poll_fn(move |cx| {
        let mut calls = Vec::new();
        let mut len_bytes = 0;
        while calls.len() < CONTROL_FRAME_CALLS && len_bytes < CONTROL_FRAME_BYTES {
            match queued.poll_recv(cx) {
                Poll::Ready(Some(next)) => {
                    len_bytes += next.len_bytes;
                    calls.push(next.call);
                }
                Poll::Ready(None) if calls.is_empty() => return Poll::Ready(None),
                Poll::Pending if calls.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(wire::ControlRequest { calls }))
    })
}

async fn receive(mut inbound: Streaming<wire::ControlResponse>, pending: Arc<Pending>, node: String) {
    let ended = loop {
        match inbound.message().await {
            Ok(Some(frame)) => frame.replies.into_iter().for_each(|reply| pending.answer(reply)),
            Ok(None) => {
                break NodeError::Unreachable { node, reason: "the node ended the stream".to_owned() };
            }
            Err(status) => break status_to_error(&node, &status),
        }
    };
    pending.end(ended);
}

impl Pending {
    fn insert(&self, id: u64, answer: oneshot::Sender<Answer>) -> Result<Forget<'_>, NodeError> {
        let mut calls = self.0.lock();
        if let Some(error) = &calls.ended {
            return Err(error.clone());
        }
        calls.waiting.insert(id, answer);
        Ok(Forget { pending: self, id })
    }

    fn answer(&self, reply: wire::ControlReply) {
        let answer = match reply.outcome {
            Some(Outcome::Reply(reply)) => SlotReply::try_from(reply).map_err(NodeError::from),
            Some(Outcome::Error(error)) => match NodeError::try_from(error) {
                Ok(error) => Err(error),
                Err(malformed) => Err(malformed.into()),
            },
            None => Err(NodeError::Invalid("the reply to a call is empty".to_owned())),
        };
        // A caller that has left is no error: its deadline passed or it was dropped.
        if let Some(waiting) = self.0.lock().waiting.remove(&reply.id) {
            let _ = waiting.send(answer);
        }
    }

    fn end(&self, error: NodeError) {
        let waiting = {
            let mut calls = self.0.lock();
            calls.ended = Some(error.clone());
            std::mem::take(&mut calls.waiting)
        };
        for answer in waiting.into_values() {
            let _ = answer.send(Err(error.clone()));
        }
    }

    fn has_ended(&self) -> bool {
        self.0.lock().ended.is_some()
    }
}

/// Takes a call out of the waiting ones, however its future ends.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pending.0.lock().waiting.remove(&self.id);
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
