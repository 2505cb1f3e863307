//! The node's end of a control stream.
//!
//! 1. Frames are read while there is room among the running calls; otherwise they wait in HTTP/2's window.
//! 2. Every call runs in a task of its own, so that one hung drive delays no call to another. A call whose deadline has
//!    passed is not begun, and one that passes it while it runs is let go with its outcome unknown.
//! 3. Replies that wait when the connection can take bytes leave as one frame, in the order they were made.
//! 4. When the caller ends the stream, or the node stops, no more frames are read; the stream ends after the last
//!    running call.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use coffer_common::node::{NodeClient, NodeError, SlotCall};
use coffer_common::proto::storage_v1 as wire;
use coffer_common::rpc::settings::{CONTROL_FRAME_BYTES, CONTROL_FRAME_CALLS, MAX_CALLS_IN_FLIGHT};
use coffer_common::shutdown::Shutdown;
use futures_util::Stream;
use futures_util::stream::poll_fn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use wire::control_reply::Outcome;

/// Replies that wait to leave; running calls wait for room here.
const REPLIES_WAITING: usize = 256;

/// What the trait wants of a reply stream.
pub(super) type Replies = std::pin::Pin<Box<dyn Stream<Item = Result<wire::ControlResponse, Status>> + Send>>;

/// Starts to serve a stream.
pub(super) fn serve(
    node: Arc<dyn NodeClient>,
    inbound: Streaming<wire::ControlRequest>,
    shutdown: Shutdown,
) -> Replies {
    let (replies, waiting) = mpsc::channel(REPLIES_WAITING);
    tokio::spawn(read(node, inbound, replies, shutdown));
    Box::pin(frames(waiting))
}

async fn read(
    node: Arc<dyn NodeClient>,
    mut inbound: Streaming<wire::ControlRequest>,
    replies: mpsc::Sender<wire::ControlReply>,
    shutdown: Shutdown,
) {
    let room = Arc::new(Semaphore::new(MAX_CALLS_IN_FLIGHT));
    loop {
        let frame = tokio::select! {
            () = shutdown.told() => return,
            () = replies.closed() => return,
            frame = inbound.message() => frame,
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "control stream broke");
                return;
            }
        };
        let arrived = Instant::now();
        for call in frame.calls {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            tokio::spawn(run(node.clone(), call, arrived, replies.clone(), permit));
        }
    }
}

async fn run(
    node: Arc<dyn NodeClient>,
    call: wire::ControlCall,
    arrived: Instant,
    replies: mpsc::Sender<wire::ControlReply>,
    _running: OwnedSemaphorePermit,
) {
    let wire::ControlCall { id, deadline_ms, call } = call;
    let deadline = arrived + Duration::from_millis(deadline_ms.into());
    let outcome = match decode(call) {
        Ok(call) if Instant::now() < deadline => {
            match tokio::time::timeout_at(deadline, node.call(call)).await {
                Ok(answer) => answer,
                Err(_) => Err(late()),
            }
        }
        Ok(_) => Err(late()),
        Err(error) => Err(error),
    };
    let outcome = match outcome {
        Ok(reply) => Outcome::Reply(reply.into()),
        Err(error) => Outcome::Error(error.into()),
    };
    // Without a stream there is nobody left to tell.
    let _ = replies.send(wire::ControlReply { id, outcome: Some(outcome) }).await;
}

fn decode(call: Option<wire::SlotCall>) -> Result<SlotCall, NodeError> {
    let call = call.ok_or_else(|| NodeError::Invalid("a call is empty".to_owned()))?;
    Ok(SlotCall::try_from(call)?)
}

fn late() -> NodeError {
    NodeError::Timeout { node: "the node itself".to_owned() }
}

fn frames(
    mut waiting: mpsc::Receiver<wire::ControlReply>,
) -> impl Stream<Item = Result<wire::ControlResponse, Status>> + Send {
    poll_fn(move |cx| {
        let mut replies = Vec::new();
        let mut len_bytes = 0;
        while replies.len() < CONTROL_FRAME_CALLS && len_bytes < CONTROL_FRAME_BYTES {
            match waiting.poll_recv(cx) {
                Poll::Ready(Some(reply)) => {
                    len_bytes += prost::Message::encoded_len(&reply);
                    replies.push(reply);
                }
                Poll::Ready(None) if replies.is_empty() => return Poll::Ready(None),
                Poll::Pending if replies.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(wire::ControlResponse { replies })))
    })
}
