//! `coffer server`: what its endpoints are decides its shape.

use std::process::ExitCode;

use clap::Args;
use coffer_common::config::{EtcdArgs, SecurityArgs};
use coffer_common::endpoints::Endpoints;
use coffer_gateway::config::GatewayArgs;
use coffer_storage_node::config::CommonNodeArgs;

use crate::{distributed, standalone};

/// Run Coffer.
///
/// On folders, this machine is a store of its own:
///   coffer server /data{1...4}
///
/// With URLs, this machine is one node of a cluster; the same command runs on every node:
///   coffer server --etcd http://10.0.0.1:2379 http://10.0.0.1{1...8}:9100/data
///
/// {1...4} (three dots) is expanded by Coffer. Credentials come from the environment: COFFER_ACCESS_KEY and
/// COFFER_SECRET_KEY, or COFFER_ACCESS_KEY_FILE and COFFER_SECRET_KEY_FILE.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ServerArgs {
    /// Folders, or URLs of the form http://HOST:PORT/FOLDER (port 9100 if left out).
    #[arg(required = true, value_name = "ENDPOINT")]
    pub(crate) endpoints: Vec<String>,

    /// Which of the URLs' host:port is this node, where several could be; default port 9100.
    #[arg(long, env = "COFFER_NODE_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) node_address: Option<String>,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    #[command(flatten)]
    pub(crate) node: CommonNodeArgs,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    match Endpoints::parse(&args.endpoints)? {
        Endpoints::Standalone(drives) => standalone::run(&args, drives).await,
        endpoints @ Endpoints::Distributed(_) => distributed::run(&args, endpoints).await,
    }
}
