//! How an operator's command reaches a cluster: its etcd, and the storage nodes that are registered there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use coffer_common::cluster::ClusterMap;
use coffer_common::cluster::staged::{EditError, ForgetRefusal, LayoutState, LayoutStateError};
use coffer_common::config::{EtcdArgs, SecurityArgs};
use coffer_common::coordination::{Coordinator, CoordinatorError, EtcdCoordinator};
use coffer_common::endpoints::Endpoints;
use coffer_common::node::{NodeClient, NodeInfo};
use coffer_common::rpc::{Caller, RemoteNode};
use coffer_common::types::NodeId;
use futures_util::future::join_all;

use crate::exit::{DENIED, FAILED, NOT_FOUND, USAGE};

const ETCD_PATIENCE: Duration = Duration::from_secs(10);
const NODE_PATIENCE: Duration = Duration::from_secs(5);

/// Which cluster, and how its answers are shown.
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    security: SecurityArgs,
}

impl ClusterArgs {
    /// The cluster's etcd.
    pub(crate) async fn connect(&self) -> anyhow::Result<Arc<EtcdCoordinator>> {
        if self.etcd.etcd.is_empty() {
            bail!(
                "which cluster? Give `--etcd http://HOST:2379`. A server on folders (standalone) has no etcd and no layout \
                 to change: it keeps the drives that it began with, and one of them can be replaced (`--replace PATH`)"
            );
        }
        connect(&self.etcd).await
    }

    /// What each node says of itself; those that do not answer are left out.
    pub(crate) async fn ask_nodes(&self, map: &ClusterMap) -> anyhow::Result<BTreeMap<NodeId, NodeInfo>> {
        let security = self.security.security()?;
        security.check_files(None).await?;
        let answers = map.nodes.values().map(|node| {
            let caller = Caller { name: "operator".to_owned(), cluster: Some(map.cluster) };
            let client = RemoteNode::connect_lazy_as(node.address.clone(), security.clone(), caller);
            async move {
                let answer = tokio::time::timeout(NODE_PATIENCE, client.info()).await.ok()?;
                let info = answer.inspect_err(|error| tracing::debug!(%error, node = %node.id)).ok()?;
                (info.cluster == Some(map.cluster)).then(|| (node.id.clone(), info))
            }
        });
        Ok(join_all(answers).await.into_iter().flatten().collect())
    }
}

/// An etcd that answers.
pub(crate) async fn connect(etcd: &EtcdArgs) -> anyhow::Result<Arc<EtcdCoordinator>> {
    let options = etcd.options()?;
    let endpoints = options.endpoints.join(", ");
    let coordinator = EtcdCoordinator::connect(options)?;
    if let Err(error) = coordinator.ready(ETCD_PATIENCE).await {
        bail!("etcd at {endpoints} does not answer: {error}; is it running, and is `--etcd` right?");
    }
    Ok(coordinator)
}

/// Folders of this machine, `{1...n}` expanded.
pub(crate) fn folders(arguments: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    match Endpoints::parse(arguments)? {
        Endpoints::Standalone(drives) => Ok(drives),
        Endpoints::Distributed(_) => {
            bail!("these are URLs of nodes: name folders of this machine, or a cluster by `--etcd`")
        }
    }
}

/// Runs a command on the layout's state; refusals that have an exit code of their own are told with it.
pub(crate) async fn on_layout(
    args: &ClusterArgs,
    command: impl AsyncFnOnce(&dyn Coordinator, LayoutState) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let coordinator = args.connect().await?;
    let done = match LayoutState::read(&*coordinator).await {
        Ok(state) => command(&*coordinator, state).await,
        Err(error) => Err(error.into()),
    };
    coordinator.close().await;
    done.or_else(|error| {
        let code = exit_code(error.downcast_ref::<LayoutStateError>());
        eprintln!("coffer: {error:#}");
        Ok(ExitCode::from(code))
    })
}

fn exit_code(error: Option<&LayoutStateError>) -> u8 {
    match error {
        Some(
            LayoutStateError::NoCluster
            | LayoutStateError::Edit(EditError::NotFound(_))
            | LayoutStateError::Forget(ForgetRefusal::Unknown(_)),
        ) => NOT_FOUND,
        Some(LayoutStateError::Edit(EditError::Ambiguous { .. })) => USAGE,
        Some(LayoutStateError::Coordinator(CoordinatorError::Refused(_))) => DENIED,
        _ => FAILED,
    }
}

/// Asks a question on the terminal; anything but yes is no.
pub(crate) fn confirmed(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let agreed = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !agreed {
        eprintln!("nothing was changed (in scripts: `--yes`)");
    }
    Ok(agreed)
}
