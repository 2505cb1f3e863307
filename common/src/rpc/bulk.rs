//! Large shards, listings and snapshots: a few connections per node, taken in turn.
//!
//! Backpressure is HTTP/2's: a slow node lets the window fill, the body is not polled, the pieces' channel fills, its
//! sender waits. A slow reader lets its channel fill, and the node's stream waits the same way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::Either;
use tokio::sync::mpsc;
use tonic::codec::{Codec, Streaming};
use tonic::{Status, body};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt};

use super::connection::Connection;
use super::link::{Link, Target};
use super::settings::{BULK_CONNECTIONS, BULK_STALL, MAX_MESSAGE_BYTES, SHARD_SYNC_TIMEOUT};
use super::shard_body::ShardBody;
use super::status::status_to_error;
use crate::node::{NodeError, PrepareShard, ReadShard, ShardBlock, ShardBlocks, ShardPieces};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotReply;
use wire::storage_node_client::StorageNodeClient;

const WRITE_SHARD_PATH: &str = "/coffer.storage.v1.StorageNode/WriteShard";

/// Blocks that wait for their reader.
const READ_AHEAD_BLOCKS: usize = 4;

/// The bulk side of a remote node.
pub(super) struct Bulk {
    links: Vec<Link>,
    turn: AtomicUsize,
}

impl Bulk {
    pub(super) fn new(target: &Arc<Target>) -> Self {
        let links = (0..BULK_CONNECTIONS).map(|_| Link::new(target.clone())).collect();
        Self { links, turn: AtomicUsize::new(0) }
    }

    /// The link whose turn it is.
    pub(super) fn link(&self) -> &Link {
        &self.links[self.turn.fetch_add(1, Ordering::Relaxed) % self.links.len()]
    }

    pub(super) async fn prepare_shard(
        &self,
        header: PrepareShard,
        pieces: ShardPieces,
    ) -> Result<SlotReply, NodeError> {
        let link = self.link();
        let connection = link.get().await?;
        let (shard, sent) = ShardBody::new(header, pieces);
        let mut write = std::pin::pin!(write(connection, shard));
        let reply = match futures_util::future::select(&mut write, sent).await {
            Either::Left((reply, _)) => reply,
            // From the last byte on, the node alone is waited for.
            Either::Right((_, _)) => tokio::time::timeout(SHARD_SYNC_TIMEOUT, write)
                .await
                .map_err(|_| NodeError::Timeout { node: link.address().to_owned() })?,
        };
        let reply = reply.map_err(|status| status_to_error(link.address(), &status))?;
        Ok(reply
            .reply
            .ok_or_else(|| NodeError::Invalid("the reply to a shard is empty".to_owned()))?
            .try_into()?)
    }

    pub(super) async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        let link = self.link();
        let connection = link.get().await?;
        let node = link.address().to_owned();
        let origin = connection.origin();
        let mut client =
            StorageNodeClient::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let inbound =
            tokio::time::timeout(BULK_STALL, client.read_shard(wire::ReadShardRequest::from(request)))
                .await
                .map_err(|_| NodeError::Timeout { node: node.clone() })?
                .map_err(|status| status_to_error(&node, &status))?
                .into_inner();
        let (blocks, receiver) = mpsc::channel(READ_AHEAD_BLOCKS);
        tokio::spawn(receive(inbound, blocks, node));
        Ok(receiver)
    }
}

/// Passes blocks on until the stream or the reader ends. A stream that breaks ends in an error, never silently.
async fn receive(
    mut inbound: Streaming<wire::ReadShardResponse>,
    blocks: mpsc::Sender<Result<ShardBlock, NodeError>>,
    node: String,
) {
    loop {
        let next = tokio::select! {
            () = blocks.closed() => return,
            next = tokio::time::timeout(BULK_STALL, inbound.message()) => next,
        };
        let message = match next {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return,
            Ok(Err(status)) => {
                let _ = blocks.send(Err(status_to_error(&node, &status))).await;
                return;
            }
            Err(_) => {
                let _ = blocks.send(Err(NodeError::Timeout { node })).await;
                return;
            }
        };
        for block in message.blocks {
            let block = ShardBlock::try_from(block).map_err(NodeError::from);
            if blocks.send(block).await.is_err() {
                return;
            }
        }
    }
}

async fn write(mut connection: Connection, shard: ShardBody) -> Result<wire::WriteShardResponse, Status> {
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(connection.origin().authority().map_or("node", |authority| authority.as_str()))
        .path_and_query(WRITE_SHARD_PATH)
        .build()
        .map_err(|e| Status::internal(e.to_string()))?;
    let request = http::Request::post(uri)
        .version(http::Version::HTTP_2)
        .header(http::header::TE, "trailers")
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .body(body::Body::new(shard))
        .map_err(|e| Status::internal(e.to_string()))?;
    let unavailable = |error: hyper::Error| Status::from_error(Box::new(error));
    let response = connection.ready().await.map_err(unavailable)?.call(request).await.map_err(unavailable)?;
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers).filter(|s| s.code() != tonic::Code::Ok) {
        return Err(status);
    }
    let decoder = ProstCodec::<wire::WriteShardRequest, wire::WriteShardResponse>::default().decoder();
    let mut messages = Streaming::new_response(decoder, body, head.status, None, Some(MAX_MESSAGE_BYTES));
    let reply = messages.message().await?;
    reply.ok_or_else(|| Status::unavailable("the node ended the stream without a reply"))
}
