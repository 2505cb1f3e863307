//! Builds a storage node process once, and takes it down in order.
//!
//! 1. Open the drives. 2. Bind the admin port. 3. Serve until the shutdown is told. 4. Drop the node: every drive
//!    applies what it has in memory and syncs its index, so that the next start is quick.

use std::sync::Arc;

use anyhow::Context;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use tokio::net::TcpListener;

use crate::config::NodeArgs;
use crate::node::StorageNode;

/// A running storage node.
pub struct App {
    /// The node, for the gRPC service and for a gateway in the same process.
    pub node: Arc<StorageNode>,
}

impl App {
    /// Opens the node and serves its admin port.
    ///
    /// # Errors
    /// A refused drive, or a port that is in use, by name.
    pub async fn start(args: &NodeArgs, metrics: Metrics, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let node = StorageNode::open(args.node_config()).await?;
        let listener = TcpListener::bind(args.admin_listen)
            .await
            .with_context(|| format!("cannot listen on {} for health and metrics", args.admin_listen))?;
        let served = crate::admin::serve(listener, Arc::clone(&node), metrics, shutdown.clone());
        shutdown.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the admin server failed");
            }
        });
        for drive in node.drive_infos() {
            tracing::info!(drive = %drive.id, path = drive.path, state = ?drive.state, "drive");
        }
        Ok(Self { node })
    }
}
