//! Builds a storage node process once, and takes it down in order.
//!
//! 1. Bind the admin port. 2. Join the cluster: drives, gRPC port, registration ([`Member`]). 3. Follow the cluster's map,
//!    whose copies the drives keep, settle on it what dead gateways left, catch up, scrub, purge, and move slots. 4. Serve until the shutdown is told. 5. Give the session back and drop the node:
//!    every drive applies what it has in memory and syncs its index, so that the next start is quick.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coffer_common::cluster::{Cluster, ClusterOptions, NodeRecord};
use coffer_common::coordination::{Coordinator, EtcdCoordinator, EtcdOptions};
use coffer_common::node::NodeClient;
use coffer_common::rpc::{Caller, RemoteNode};
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use tokio::net::TcpListener;

use crate::config::NodeArgs;
use crate::member::{Member, MemberSettings};
use crate::node::StorageNode;

/// How long a start waits for a map.
const MAP_PATIENCE: Duration = Duration::from_secs(60);

/// A running storage node.
pub struct App {
    /// The node, for a gateway in the same process.
    pub node: Arc<StorageNode>,
    /// The cluster as the node sees it.
    pub cluster: Cluster,
    coordinator: Arc<dyn Coordinator>,
}

impl App {
    /// Starts a node from its arguments.
    ///
    /// # Errors
    /// A message that names what is wrong and the way out.
    pub async fn start(args: &NodeArgs, metrics: Metrics, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let settings = args.member_settings()?;
        let etcd = args.etcd.options()?;
        Self::join(settings, etcd, (args.common.node_admin_address, metrics), shutdown).await
    }

    /// Starts a node from its settings.
    ///
    /// # Errors
    /// A message that names what is wrong and the way out.
    pub async fn join(
        settings: MemberSettings,
        etcd: EtcdOptions,
        (admin_address, metrics): (SocketAddr, Metrics),
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        settings.security.check_listen(settings.listen)?;
        settings.security.check_files(Some(&settings.advertise)).await?;
        let listener = TcpListener::bind(admin_address).await.with_context(|| {
            format!(
                "cannot listen on `{admin_address}` for the node's health and metrics; choose another with \
                 `--node-admin-address`"
            )
        })?;
        let (id, security) = (settings.id.clone(), settings.security.clone());
        let (scrub_period, purge_period) = (settings.scrub_period, settings.purge_period);
        let slowdown = settings.background_slowdown;
        let coordinator = EtcdCoordinator::connect(etcd)?;
        let member = Member::start(settings, coordinator.clone(), shutdown).await?;
        let node = member.node;
        let served = crate::admin::serve(listener, Arc::clone(&node), metrics, shutdown.clone());
        shutdown.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the admin server failed");
            }
        });
        for drive in node.drive_infos() {
            tracing::info!(drive = %drive.id, path = drive.path, state = ?drive.state, "drive");
        }
        let caller = Caller { name: id.0.clone(), cluster: Some(member.cluster) };
        let local: Arc<dyn NodeClient> = node.clone();
        let direct = local.clone();
        let clients = Arc::new(move |record: &NodeRecord| -> Arc<dyn NodeClient> {
            if record.id == id {
                return direct.clone();
            }
            Arc::new(RemoteNode::connect_lazy_as(record.address.clone(), security.clone(), caller.clone()))
        });
        let coordinator: Arc<dyn Coordinator> = coordinator;
        let options = ClusterOptions {
            coordinator: coordinator.clone(),
            clients,
            seeds: vec![local.clone()],
            local: Some(local),
        };
        let cluster = Cluster::start(options, MAP_PATIENCE).await?;
        crate::pace::start(&node, slowdown, shutdown);
        crate::join::start(&node, &cluster, shutdown);
        crate::moves::start(&node, &cluster, shutdown);
        crate::settle::start(&node, &cluster, shutdown);
        crate::heal::start(&node, &cluster, shutdown);
        crate::scrub::start(&node, &cluster, scrub_period, shutdown);
        crate::purge::start(&node, &cluster, purge_period, shutdown);
        Ok(Self { node, cluster, coordinator })
    }

    /// After the shutdown was told and everything has ended: tells the cluster that this node is gone.
    pub async fn leave(self) {
        self.coordinator.close().await;
    }
}
