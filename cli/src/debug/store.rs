//! What is looked at: a cluster through its etcd, or a stopped store's folders.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use coffer_common::config::{EtcdArgs, SecurityArgs};
use coffer_common::coordination::Coordinator;
use coffer_common::shutdown::Shutdown;
use coffer_gateway::object::{ObjectStore, StoreSettings};
use coffer_gateway::process;

use crate::reach::folders as folders_of;
use crate::standalone;

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Storage nodes to ask for the cluster's map when etcd is away, separated by commas.
    #[arg(long, env = "COFFER_NODES", value_name = "HOST:PORT,…", value_delimiter = ',')]
    node: Vec<String>,

    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    security: SecurityArgs,
}

/// An object layer of this process's own.
pub(super) struct Opened {
    pub(super) store: ObjectStore,
    coordinator: Arc<dyn Coordinator>,
    shutdown: Shutdown,
}

impl StoreArgs {
    /// Opens the store on these folders, or the cluster if there are none.
    pub(super) async fn open(&self, folders: &[String]) -> anyhow::Result<Opened> {
        let shutdown = Shutdown::new();
        let (coordinator, cluster): (Arc<dyn Coordinator>, _) = match (folders, &self.etcd.etcd[..]) {
            ([], []) => {
                bail!("look at what? Give `--etcd http://HOST:2379`, or the folders of a standalone store")
            }
            ([], _) => {
                let (etcd, security) = (self.etcd.options()?, self.security.security()?);
                process::join(etcd, (security, self.node.clone()), &shutdown).await?
            }
            (folders, []) => {
                let (coordinator, cluster) = standalone::open_existing(&folders_of(folders)?).await?;
                (coordinator, cluster)
            }
            _ => bail!("a standalone store has no etcd: give either folders or `--etcd`"),
        };
        let store = ObjectStore::start(cluster, StoreSettings::default(), shutdown.clone()).await;
        Ok(Opened { store, coordinator, shutdown })
    }
}

impl Opened {
    /// Ends it. Who only looks has nothing to finish.
    pub(super) async fn close(self) {
        self.shutdown.tell();
        drop(self.store);
        let _ = self.shutdown.wait(DRAIN).await;
        self.coordinator.close().await;
    }
}
