//! Nodes that must not join: other endpoint lists, wrong clocks, protocol versions too far apart, a node id in use. The
//! others are nodes made here, with a record in etcd and a gRPC port that tells what the test wants.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use coffer_common::cluster::{LiveRecord, NodeRecord, PROTOCOL_VERSION, live_key, node_key};
use coffer_common::coordination::{Coordinator, EtcdCoordinator, EtcdOptions, Expected};
use coffer_common::node::{
    HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo, OwedPage,
    OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall, Snapshot,
    SnapshotKind,
};
use coffer_common::protocol::message::SlotReply;
use coffer_common::protocol::purge::Evidence;
use coffer_common::rpc::{ClusterSecret, NodeSecurity};
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, DriveId, NodeId};
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::etcd::Etcd;
use coffer_tests::harness::ports::free_port;
use coffer_tests::harness::process::Process;
use coffer_tests::harness::wait_for;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{PATIENCE, refusal};

const SECRET: &str = "some secret of the tests";

/// A node that tells its name and a clock.
struct Teller {
    id: NodeId,
    ahead_ms: u64,
}

#[async_trait]
impl NodeClient for Teller {
    async fn call(&self, _: SlotCall) -> Result<SlotReply, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn prepare_shard(&self, _: PrepareShard, _: ShardPieces) -> Result<SlotReply, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn read_shard(&self, _: ReadShard) -> Result<ShardBlocks, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn list(&self, _: ListRequest) -> Result<ListPage, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Ok(NodeInfo {
            id: self.id.clone(),
            cluster: None,
            version: "0.0.9".to_owned(),
            protocol: PROTOCOL_VERSION,
            clock_ms: UnixMillis::now().0 + self.ahead_ms,
            drives: Vec::new(),
        })
    }

    async fn snapshot(&self, _: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        Ok(None)
    }

    async fn store_snapshot(&self, _: Snapshot) -> Result<(), NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn adopt_bucket(&self, _: BucketId, _: u64) -> Result<Vec<DriveId>, NodeError> {
        Ok(Vec::new())
    }

    async fn hand_over(&self, _: HandOverRequest) -> Result<HandOverPage, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn owed(&self, _: OwedRequest) -> Result<OwedPage, NodeError> {
        Ok(OwedPage::default())
    }

    async fn purge(&self, _: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        Err(NodeError::Overloaded)
    }
}

fn coordinator(etcd: &Etcd, cluster: &str) -> Result<Arc<EtcdCoordinator>> {
    let (endpoints, prefix) = (vec![etcd.url()], format!("coffer/{cluster}"));
    Ok(EtcdCoordinator::connect(EtcdOptions { endpoints, prefix, user: None, tls: None })?)
}

/// A running member of the cluster `cluster`, named `elder`; it lives as long as what is returned.
async fn elder(
    etcd: &Etcd,
    cluster: &str,
    ahead_ms: u64,
    protocol: u32,
) -> Result<(Arc<EtcdCoordinator>, Shutdown)> {
    let id = NodeId("elder".to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let record = NodeRecord {
        id: id.clone(),
        address: listener.local_addr()?.to_string(),
        zone: String::new(),
        drives: Vec::new(),
        version: "0.0.9".to_owned(),
        protocol,
        endpoints: Vec::new(),
    };
    let node = Arc::new(Teller { id: id.clone(), ahead_ms });
    let (security, stop) = (NodeSecurity::ClusterSecret(ClusterSecret::new(SECRET)?), Shutdown::new());
    tokio::spawn(coffer_storage_node::rpc::serve(node, listener, security, stop.clone()));
    let coordinator = coordinator(etcd, cluster)?;
    coordinator.ready(PATIENCE).await?;
    let live = LiveRecord { since_ms: UnixMillis::now().0, process: 1 };
    let (record, live) = (serde_json::to_vec(&record)?, serde_json::to_vec(&live)?);
    coordinator.put(&node_key(&id), record.into(), Expected::Any, false).await?;
    coordinator.put(&live_key(&id), live.into(), Expected::Any, true).await?;
    Ok((coordinator, stop))
}

/// What a node named `id` says when it joins the cluster `cluster`.
async fn join(etcd: &Etcd, cluster: &'static str, id: &'static str) -> Result<String> {
    let (url, ports) = (etcd.url(), [free_port(), free_port()]);
    let joining = coffer_common::blocking::run(move || {
        let folder = TempDir::new().expect("a temporary folder");
        let drive = folder.path().join("d1").display().to_string();
        let [node, admin] = ports.map(|port| format!("127.0.0.1:{port}"));
        let arguments = [
            ["storage-node", drive.as_str()],
            ["--etcd", &url],
            ["--cluster-name", cluster],
            ["--node-id", id],
            ["--bootstrap-expect", "9"],
            ["--node-address", &node],
            ["--node-admin-address", &admin],
        ];
        let log = refusal(folder.path(), arguments.as_flattened(), &[("COFFER_CLUSTER_SECRET", SECRET)]);
        assert!(!folder.path().join("d1").exists(), "a refused start formats nothing");
        log
    });
    Ok(joining.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clocks_far_protocols_and_taken_ids_do_not_join() -> Result<()> {
    let etcd = Etcd::start().await?;
    let _clock = elder(&etcd, "clock", 61_000, PROTOCOL_VERSION).await?;
    let _protocol = elder(&etcd, "protocol", 0, PROTOCOL_VERSION + 2).await?;
    let _taken = elder(&etcd, "taken", 0, PROTOCOL_VERSION).await?;
    let (clock, protocol, taken) = tokio::try_join!(
        join(&etcd, "clock", "late"),
        join(&etcd, "protocol", "old"),
        join(&etcd, "taken", "elder")
    )?;
    for (log, wanted) in [
        (clock, ["s behind", "elder", "NTP"]),
        (protocol, ["speaks protocol", "elder", "upgrade step by step"]),
        (taken, ["in use", "elder", "--node-id"]),
    ] {
        for word in wanted {
            assert!(log.contains(word), "`{word}` is not in: {log}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_lists_that_differ_are_shown_side_by_side() -> Result<()> {
    let mut cluster = Distributed::prepare(2, 1).await?;
    cluster.spawn(0)?;
    let coordinator = coordinator(&cluster.etcd, "default")?;
    coordinator.ready(PATIENCE).await?;
    let registered =
        || async { coordinator.list("live/").await.is_ok_and(|listing| !listing.entries.is_empty()) };
    wait_for("the first node to register", PATIENCE, registered).await?;
    let other = format!("http://127.0.0.1:{}/elsewhere", free_port());
    let mut command = cluster.command(1);
    command.arg(&other);
    let mut refused = Process::start("other-list", cluster.folder(), &mut command)?;
    let status = refused.wait(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()), "{}", refused.log_tail());
    for word in ["here:", "on 127.0.0.1:", &other, "must be the same"] {
        assert!(refused.log().contains(word), "`{word}` is not in: {}", refused.log_tail());
    }
    // With the right list it joins, and the cluster begins.
    cluster.spawn(1)?;
    cluster.wait_ready(0).await?;
    cluster.wait_ready(1).await
}
