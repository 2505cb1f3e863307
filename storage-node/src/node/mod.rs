//! The storage node: its drives behind one [`NodeClient`], called directly by a gateway in the same process and by the
//! gRPC service.
//!
//! Owns: opening all drives of a node, finding the one that a call means, and merging what concerns them all (listings,
//! snapshots, adopted buckets). Never touches a register itself.

mod list;
mod open;
mod owed;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use coffer_common::blocking;
use coffer_common::limits::PROTOCOL_VERSION;
use coffer_common::node::{
    DriveInfo, HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo,
    OwedPage, OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall,
    Snapshot, SnapshotKind,
};
use coffer_common::protocol::message::{SlotReply, SlotRequest};
use coffer_common::protocol::purge::Evidence;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, ClusterId, DriveId, NodeId};
use futures_util::future::join_all;

pub use open::NodeOpenError;

use crate::pace::{Kind, Pace};
use crate::store::{Background, DriveStore};

/// Settings of a storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's id.
    pub node: NodeId,
    /// Where its drives are.
    pub drives: Vec<PathBuf>,
    /// The cluster they must belong to, if it is known; else all must belong to the same one.
    pub cluster: Option<ClusterId>,
    /// Paths whose drive is gone for good: an empty folder there is no reason to refuse.
    pub replace: Vec<PathBuf>,
}

/// An open storage node. Its drives stay locked while it lives.
pub struct StorageNode {
    id: NodeId,
    cluster: ClusterId,
    stores: HashMap<DriveId, Arc<DriveStore>>,
    /// In the order of the configuration.
    order: Vec<DriveId>,
    /// How background work gives way to what is asked here.
    pace: Pace,
    /// Drives that could not be opened.
    broken: Vec<DriveInfo>,
    /// Their loops; dropped with the node.
    #[cfg_attr(not(any(test, feature = "simulation")), expect(dead_code, reason = "they run by themselves"))]
    background: Vec<Background>,
}

impl StorageNode {
    /// The node's id.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its open drives, in the order of the configuration.
    pub fn drives(&self) -> impl Iterator<Item = &Arc<DriveStore>> {
        self.order.iter().filter_map(|id| self.stores.get(id))
    }

    /// The turns of its background work.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// One of its drives.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if it is not open here.
    pub fn drive(&self, id: DriveId) -> Result<&Arc<DriveStore>, NodeError> {
        self.stores.get(&id).ok_or_else(|| NodeError::DriveUnavailable {
            drive: id,
            reason: format!("it is not open on node `{}`", self.id),
        })
    }

    /// Counts this start on every drive. Nothing of the node may be served before: a start that is refused, as with a drive
    /// that was put back from an older copy, leaves no trace that the next one would take for progress.
    pub async fn record_start(&self) {
        for drive in self.drives() {
            let store = Arc::clone(drive);
            if let Ok(Err(error)) = blocking::run(move || store.record_boot()).await {
                tracing::error!(%error, drive = %drive.id(), "this start was not recorded");
            }
        }
    }

    /// What it says of its drives, those that could not be opened included.
    pub fn drive_infos(&self) -> Vec<DriveInfo> {
        self.drives().map(|store| store.info()).chain(self.broken.iter().cloned()).collect()
    }
}

#[async_trait]
impl NodeClient for StorageNode {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        let drive = self.drive(call.address.drive)?;
        let kind = match &call.request {
            SlotRequest::Query { .. } => Kind::Read,
            SlotRequest::Prepare { .. } | SlotRequest::Commit { .. } => Kind::Write,
            // Nobody waits for these, or few do.
            _ => return drive.call(call).await,
        };
        self.pace.timed(kind, drive.call(call)).await
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        self.drive(header.address.drive)?.prepare_shard(header, pieces).await
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        let drive = self.drive(request.address.drive)?;
        self.pace.timed(Kind::Read, drive.read_shard(request)).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        self.pace.timed(Kind::List, self.list_merged(request)).await
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Ok(NodeInfo {
            id: self.id.clone(),
            cluster: Some(self.cluster),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            clock_ms: UnixMillis::now().0,
            drives: self.drive_infos(),
        })
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        let found = join_all(self.drives().map(|store| store.snapshot(kind))).await;
        let mut highest: Option<Snapshot> = None;
        let mut answered = false;
        let mut last_error = None;
        for result in found {
            match result {
                Ok(snapshot) => {
                    answered = true;
                    highest = highest.into_iter().chain(snapshot).max_by_key(|s| (s.generation, s.revision));
                }
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if !answered => Err(error),
            _ => Ok(highest),
        }
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        let stored = join_all(self.drives().map(|store| store.store_snapshot(&snapshot))).await;
        let any = stored.iter().any(Result::is_ok);
        match stored.into_iter().find_map(Result::err) {
            Some(error) if !any => Err(error),
            Some(error) => {
                tracing::warn!(%error, "a drive did not store a snapshot");
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        let adopted = join_all(
            self.drives()
                .map(|store| async move { (store.id(), store.adopt_bucket(bucket, revision).await) }),
        )
        .await;
        Ok(adopted.into_iter().filter(|(_, result)| result.is_ok()).map(|(id, _)| id).collect())
    }

    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        self.drive(request.address.drive)?.hand_over(request).await
    }

    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError> {
        self.owed_merged(request).await
    }

    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        self.drive(request.address.drive)?.purge(request).await
    }
}
