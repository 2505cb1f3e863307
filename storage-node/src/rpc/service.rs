//! The calls of the node's port, each handed on in domain types.

use std::sync::Arc;

use coffer_common::node::{
    HandOverRequest, ListRequest, NodeClient, NodeError, OwedRequest, PurgeRequest, ReadShard, Snapshot,
};
use coffer_common::proto::storage_v1 as wire;
use coffer_common::rpc::convert::{
    Malformed, hand_over_answers, hand_over_requests, snapshot_kind_from_wire,
};
use coffer_common::rpc::error_to_status;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::BucketId;
use tonic::{Request, Response, Status, Streaming};

use super::{bulk, control};

/// The service.
pub(super) struct Service {
    node: Arc<dyn NodeClient>,
    shutdown: Shutdown,
}

impl Service {
    pub(super) fn new(node: Arc<dyn NodeClient>, shutdown: Shutdown) -> Self {
        Self { node, shutdown }
    }
}

fn malformed(malformed: Malformed) -> Status {
    error_to_status(NodeError::from(malformed))
}

#[tonic::async_trait]
impl wire::storage_node_server::StorageNode for Service {
    type ControlStream = control::Replies;
    type ReadShardStream = bulk::Blocks;

    async fn control(
        &self,
        request: Request<Streaming<wire::ControlRequest>>,
    ) -> Result<Response<control::Replies>, Status> {
        let replies = control::serve(self.node.clone(), request.into_inner(), self.shutdown.clone());
        Ok(Response::new(replies))
    }

    async fn write_shard(
        &self,
        request: Request<Streaming<wire::WriteShardRequest>>,
    ) -> Result<Response<wire::WriteShardResponse>, Status> {
        let reply = bulk::write(self.node.clone(), request.into_inner()).await.map_err(error_to_status)?;
        Ok(Response::new(wire::WriteShardResponse { reply: Some(reply.into()) }))
    }

    async fn read_shard(
        &self,
        request: Request<wire::ReadShardRequest>,
    ) -> Result<Response<bulk::Blocks>, Status> {
        let request = ReadShard::try_from(request.into_inner()).map_err(malformed)?;
        let blocks = self.node.read_shard(request).await.map_err(error_to_status)?;
        Ok(Response::new(bulk::read(blocks)))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let request = ListRequest::try_from(request.into_inner()).map_err(malformed)?;
        let page = self.node.list(request).await.map_err(error_to_status)?;
        Ok(Response::new(page.into()))
    }

    async fn info(&self, _: Request<wire::InfoRequest>) -> Result<Response<wire::InfoResponse>, Status> {
        let info = self.node.info().await.map_err(error_to_status)?;
        Ok(Response::new(info.into()))
    }

    async fn get_snapshot(
        &self,
        request: Request<wire::GetSnapshotRequest>,
    ) -> Result<Response<wire::GetSnapshotResponse>, Status> {
        let kind = snapshot_kind_from_wire(request.into_inner().kind).map_err(malformed)?;
        let snapshot = self.node.snapshot(kind).await.map_err(error_to_status)?;
        Ok(Response::new(wire::GetSnapshotResponse { snapshot: snapshot.map(Into::into) }))
    }

    async fn store_snapshot(
        &self,
        request: Request<wire::StoreSnapshotRequest>,
    ) -> Result<Response<wire::StoreSnapshotResponse>, Status> {
        let snapshot = request.into_inner().snapshot.ok_or(Malformed("snapshot")).map_err(malformed)?;
        let snapshot = Snapshot::try_from(snapshot).map_err(malformed)?;
        self.node.store_snapshot(snapshot).await.map_err(error_to_status)?;
        Ok(Response::new(wire::StoreSnapshotResponse {}))
    }

    async fn adopt_bucket(
        &self,
        request: Request<wire::AdoptBucketRequest>,
    ) -> Result<Response<wire::AdoptBucketResponse>, Status> {
        let wire::AdoptBucketRequest { bucket, revision } = request.into_inner();
        let bucket = bucket.ok_or(Malformed("bucket")).and_then(BucketId::try_from).map_err(malformed)?;
        let drives = self.node.adopt_bucket(bucket, revision).await.map_err(error_to_status)?;
        Ok(Response::new(wire::AdoptBucketResponse { drives: drives.into_iter().map(Into::into).collect() }))
    }

    async fn hand_over(
        &self,
        request: Request<wire::HandOverRequest>,
    ) -> Result<Response<wire::HandOverResponse>, Status> {
        let request = HandOverRequest::try_from(request.into_inner()).map_err(malformed)?;
        let page = self.node.hand_over(request).await.map_err(error_to_status)?;
        Ok(Response::new(page.into()))
    }

    async fn hand_over_all(
        &self,
        request: Request<wire::HandOverAllRequest>,
    ) -> Result<Response<wire::HandOverAllResponse>, Status> {
        let requests = hand_over_requests(request.into_inner()).map_err(malformed)?;
        let answers = self.node.hand_over_all(requests.clone()).await.map_err(error_to_status)?;
        Ok(Response::new(hand_over_answers(&requests, answers)))
    }

    async fn owed(
        &self,
        request: Request<wire::OwedRequest>,
    ) -> Result<Response<wire::OwedResponse>, Status> {
        let request = OwedRequest::try_from(request.into_inner()).map_err(malformed)?;
        let page = self.node.owed(request).await.map_err(error_to_status)?;
        Ok(Response::new(page.into()))
    }

    async fn purge(
        &self,
        request: Request<wire::PurgeRequest>,
    ) -> Result<Response<wire::PurgeResponse>, Status> {
        let request = PurgeRequest::try_from(request.into_inner()).map_err(malformed)?;
        let told = self.node.purge(request).await.map_err(error_to_status)?;
        Ok(Response::new(told.into()))
    }
}
