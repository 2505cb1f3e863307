//! A gateway as a process of its own: coordinator, map, gateway. It owns no drive and keeps no state.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Cluster, ClusterOptions, NodeRecord};
use coffer_common::coordination::{Coordinator, EtcdCoordinator, EtcdOptions};
use coffer_common::node::NodeClient;
use coffer_common::rpc::{Caller, NodeSecurity, RemoteNode};
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;

use crate::app::Gateway;
use crate::config::GatewayConfig;

/// How long a start waits for etcd before it asks the nodes.
const ETCD_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for a map: a cluster that is being founded needs its nodes first.
const MAP_PATIENCE: Duration = Duration::from_secs(120);

/// A running gateway process.
pub struct GatewayProcess {
    coordinator: Arc<dyn Coordinator>,
}

impl GatewayProcess {
    /// Connects, waits for the cluster's map and starts the gateway. `seeds` are addresses of storage nodes to ask for
    /// the map while etcd is away.
    ///
    /// # Errors
    /// A message that names what is wrong and the way out.
    pub async fn start(
        config: GatewayConfig,
        etcd: EtcdOptions,
        (security, seeds): (NodeSecurity, Vec<String>),
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::install(shutdown)?;
        let (coordinator, cluster) = join(etcd, (security, seeds), shutdown).await?;
        Gateway::start(config, cluster, metrics, shutdown.clone()).await?;
        Ok(Self { coordinator })
    }

    /// After the shutdown was told and everything has ended: gives locks and leases back.
    pub async fn leave(self) {
        self.coordinator.close().await;
    }
}

/// Connects to etcd and waits for the cluster's map, without serving anything. `seeds` are addresses of storage nodes to
/// ask for the map while etcd is away.
///
/// # Errors
/// A message that names what is wrong and the way out.
pub async fn join(
    etcd: EtcdOptions,
    (security, seeds): (NodeSecurity, Vec<String>),
    shutdown: &Shutdown,
) -> anyhow::Result<(Arc<dyn Coordinator>, Cluster)> {
    security.check_files(None).await?;
    let endpoints = etcd.endpoints.join(", ");
    let coordinator = EtcdCoordinator::connect(etcd)?;
    if let Err(error) = coordinator.ready(ETCD_PATIENCE).await {
        if seeds.is_empty() {
            anyhow::bail!(
                "etcd at {endpoints} does not answer: {error}; is it running, and is `--etcd` right? With `--node` \
                 a gateway can start from what the storage nodes keep"
            );
        }
        tracing::warn!(%error, endpoints, "etcd does not answer; asking the storage nodes");
    }
    let connect = move |address: &str| -> Arc<dyn NodeClient> {
        let caller = Caller { name: "gateway".to_owned(), cluster: None };
        Arc::new(RemoteNode::connect_lazy_as(address, security.clone(), caller))
    };
    let seeds = seeds.iter().map(|address| connect(address)).collect();
    let clients = Arc::new(move |record: &NodeRecord| connect(&record.address));
    let coordinator: Arc<dyn Coordinator> = coordinator;
    let options = ClusterOptions { coordinator: coordinator.clone(), clients, seeds, local: None };
    let cluster = tokio::select! {
        cluster = Cluster::start(options, MAP_PATIENCE) => cluster?,
        () = shutdown.told() => anyhow::bail!("stopped before there was a cluster"),
    };
    Ok((coordinator, cluster))
}
