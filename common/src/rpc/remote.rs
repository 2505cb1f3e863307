//! A storage node behind a network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tonic::{Response, Status};

use super::bulk::Bulk;
use super::connection::Connection;
use super::control::Control;
use super::convert::{Malformed, snapshot_kind_to_wire};
use super::link::{Link, Target};
use super::security::NodeSecurity;
use super::settings::{CALL_TIMEOUT, MAX_MESSAGE_BYTES, PAGE_TIMEOUT};
use super::status::status_to_error;
use crate::node::{
    HandOverAnswers, HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo,
    OwedPage, OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall,
    Snapshot, SnapshotKind,
};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotReply;
use crate::protocol::purge::Evidence;
use crate::types::{BucketId, ClusterId, DriveId};
use wire::storage_node_client::StorageNodeClient;

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name, for the node's messages and logs.
    pub name: String,
    /// Its cluster, if it knows one: a node of another cluster is refused, and refuses.
    pub cluster: Option<ClusterId>,
}

impl Default for Caller {
    /// The process, by its id; of no cluster yet.
    fn default() -> Self {
        Self { name: format!("process {}", std::process::id()), cluster: None }
    }
}

/// A node reached over the network: see the folder's head for its connections.
pub struct RemoteNode {
    control: Control,
    bulk: Bulk,
}

impl RemoteNode {
    /// A node at `host:port`. Nothing is connected until the first call, and the name is resolved for every connection.
    pub fn connect_lazy(address: impl Into<String>, security: NodeSecurity) -> Self {
        Self::connect_lazy_as(address, security, Caller::default())
    }

    /// [`Self::connect_lazy`] under a name and as a member of a cluster.
    pub fn connect_lazy_as(address: impl Into<String>, security: NodeSecurity, caller: Caller) -> Self {
        let target = Arc::new(Target::new(address.into(), security, caller));
        Self { control: Control::new(target.clone()), bulk: Bulk::new(&target) }
    }
}

type Client = StorageNodeClient<Connection>;

/// One unary call on a link, within a limit.
async fn unary<W, D, F>(link: &Link, limit: Duration, call: impl FnOnce(Client) -> F) -> Result<D, NodeError>
where
    D: TryFrom<W, Error = Malformed>,
    F: Future<Output = Result<Response<W>, Status>>,
{
    let answered = async {
        let connection = link.get().await?;
        let origin = connection.origin();
        let client = Client::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let reply = call(client).await.map_err(|status| status_to_error(link.address(), &status))?;
        Ok(D::try_from(reply.into_inner())?)
    };
    let limited = tokio::time::timeout(limit, answered).await;
    limited.unwrap_or_else(|_| Err(NodeError::Timeout { node: link.address().to_owned() }))
}

#[async_trait]
impl NodeClient for RemoteNode {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        self.control.call(call).await
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        self.bulk.prepare_shard(header, pieces).await
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        self.bulk.read_shard(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        let request = wire::ListRequest::from(request);
        unary(self.bulk.link(), PAGE_TIMEOUT, |mut client| async move { client.list(request).await }).await
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        let request = wire::InfoRequest {};
        unary(self.control.link(), CALL_TIMEOUT, |mut client| async move { client.info(request).await }).await
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        let request = wire::GetSnapshotRequest { kind: snapshot_kind_to_wire(kind) };
        unary(self.bulk.link(), PAGE_TIMEOUT, |mut client| async move { client.get_snapshot(request).await })
            .await
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        let request = wire::StoreSnapshotRequest { snapshot: Some(snapshot.into()) };
        unary(
            self.bulk.link(),
            PAGE_TIMEOUT,
            |mut client| async move { client.store_snapshot(request).await },
        )
        .await
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        let request = wire::AdoptBucketRequest { bucket: Some(bucket.into()), revision };
        unary(
            self.control.link(),
            CALL_TIMEOUT,
            |mut client| async move { client.adopt_bucket(request).await },
        )
        .await
    }

    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        let request = wire::HandOverRequest::from(request);
        unary(self.bulk.link(), PAGE_TIMEOUT, |mut client| async move { client.hand_over(request).await })
            .await
    }

    async fn hand_over_all(&self, requests: Vec<HandOverRequest>) -> Result<HandOverAnswers, NodeError> {
        let count = requests.len();
        let all = wire::HandOverAllRequest { requests: requests.iter().cloned().map(Into::into).collect() };
        let asked =
            unary(
                self.bulk.link(),
                PAGE_TIMEOUT,
                |mut client| async move { client.hand_over_all(all).await },
            );
        let answers: HandOverAnswers = match asked.await {
            // A node of the version before tells one at a time.
            Err(NodeError::Invalid(_)) => {
                return Ok(join_all(requests.into_iter().map(|request| self.hand_over(request))).await);
            }
            answers => answers?,
        };
        if answers.len() == count { Ok(answers) } else { Err(Malformed("hand-over.answers").into()) }
    }

    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError> {
        let request = wire::OwedRequest::from(request);
        unary(self.bulk.link(), PAGE_TIMEOUT, |mut client| async move { client.owed(request).await }).await
    }

    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        let request = wire::PurgeRequest::from(request);
        unary(self.bulk.link(), PAGE_TIMEOUT, |mut client| async move { client.purge(request).await }).await
    }
}
