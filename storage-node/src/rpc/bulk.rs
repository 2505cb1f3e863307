//! Shards in and out.
//!
//! In: pieces go to the node through a short channel; while it is full nothing is read, and HTTP/2 holds the sender
//! back. The prepare runs in a task of its own: when the caller breaks off it is not dropped half way, it sees the
//! channel close without [`ShardPiece::End`] and cleans up.
//!
//! Out: blocks that wait are put into one message up to about 512 KiB. When the caller leaves, the node's channel closes.

use std::sync::Arc;
use std::task::Poll;

use coffer_common::node::{NodeClient, NodeError, PrepareShard, ShardBlocks, ShardPiece};
use coffer_common::proto::storage_v1 as wire;
use coffer_common::protocol::message::SlotReply;
use coffer_common::rpc::error_to_status;
use coffer_common::rpc::settings::BULK_MESSAGE_BYTES;
use futures_util::Stream;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::write_shard_request::Part;

/// Pieces on their way from the wire to the drive.
const PIECES_WAITING: usize = 1;

/// What the trait wants of a block stream.
pub(super) type Blocks =
    std::pin::Pin<Box<dyn Stream<Item = Result<wire::ReadShardResponse, Status>> + Send>>;

/// Receives a shard.
pub(super) async fn write(
    node: Arc<dyn NodeClient>,
    mut inbound: Streaming<wire::WriteShardRequest>,
) -> Result<SlotReply, NodeError> {
    let header = match next(&mut inbound).await? {
        Some(Part::Header(header)) => PrepareShard::try_from(header)?,
        Some(Part::Data(_) | Part::End(_)) | None => {
            return Err(NodeError::Invalid("a shard stream begins with its header".to_owned()));
        }
    };
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
    let prepare = tokio::spawn(async move { node.prepare_shard(header, receiver).await });
    let passed = pass_on(&mut inbound, pieces).await;
    let prepared =
        prepare.await.unwrap_or_else(|error| Err(NodeError::Invalid(format!("the prepare broke: {error}"))));
    match passed {
        Ok(()) => prepared,
        // What the node says is more than that the stream broke off; that it succeeded is not possible.
        Err(error) => prepared.and(Err(error)),
    }
}

/// Passes pieces on until the end. A node that stops listening has its reason in its reply.
async fn pass_on(
    inbound: &mut Streaming<wire::WriteShardRequest>,
    pieces: mpsc::Sender<ShardPiece>,
) -> Result<(), NodeError> {
    loop {
        let piece = match next(inbound).await? {
            Some(Part::Data(data)) => ShardPiece::Data(data),
            Some(Part::End(_)) => ShardPiece::End,
            Some(Part::Header(_)) => {
                return Err(NodeError::Invalid("a shard stream has one header".to_owned()));
            }
            None => {
                return Err(NodeError::Invalid("the shard stream ended before the shard did".to_owned()));
            }
        };
        let last = piece == ShardPiece::End;
        if pieces.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn next(inbound: &mut Streaming<wire::WriteShardRequest>) -> Result<Option<Part>, NodeError> {
    match inbound.message().await {
        Ok(Some(message)) => {
            message.part.map(Some).ok_or_else(|| NodeError::Invalid("a shard message is empty".to_owned()))
        }
        Ok(None) => Ok(None),
        Err(status) => Err(NodeError::Invalid(format!("the shard stream broke off: {status}"))),
    }
}

/// Sends blocks.
pub(super) fn read(mut blocks: ShardBlocks) -> Blocks {
    let mut ended = false;
    let mut failed = None;
    Box::pin(poll_fn(move |cx| {
        if let Some(error) = failed.take() {
            ended = true;
            return Poll::Ready(Some(Err(error_to_status(error))));
        }
        if ended {
            return Poll::Ready(None);
        }
        let mut message = wire::ReadShardResponse::default();
        let mut len_bytes = 0;
        while len_bytes < BULK_MESSAGE_BYTES {
            match blocks.poll_recv(cx) {
                Poll::Ready(Some(Ok(block))) => {
                    len_bytes += block.data.len();
                    message.blocks.push(block.into());
                }
                Poll::Ready(Some(Err(error))) if message.blocks.is_empty() => {
                    ended = true;
                    return Poll::Ready(Some(Err(error_to_status(error))));
                }
                Poll::Ready(Some(Err(error))) => {
                    failed = Some(error);
                    break;
                }
                Poll::Ready(None) => {
                    ended = true;
                    break;
                }
                Poll::Pending if message.blocks.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if message.blocks.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(message))) }
    }))
}
