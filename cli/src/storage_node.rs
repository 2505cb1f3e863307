//! `coffer storage-node`: a storage node.

use std::process::ExitCode;

use clap::Args;
use coffer_common::telemetry::Metrics;
use coffer_storage_node::app::App;
use coffer_storage_node::config::NodeArgs;

use crate::listen;

/// Run a storage node, which owns the drives at these folders.
///
/// The first start of a cluster of three nodes:
///   coffer storage-node --etcd http://10.0.0.1:2379 --bootstrap-expect 3 /data{1...4}
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct StorageNodeArgs {
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) async fn run(args: StorageNodeArgs) -> anyhow::Result<ExitCode> {
    listen::refuse_taken(&[
        (args.node.node_address, "nodes and gateways", "--node-address"),
        (args.node.common.node_admin_address, "the node's health and metrics", "--node-admin-address"),
    ])?;
    let start = async |shutdown| {
        let metrics = Metrics::install(&shutdown)?;
        App::start(&args.node, metrics, &shutdown).await
    };
    listen::serve(start, App::leave).await
}
