//! `coffer gateway`: a stateless S3 gateway.

use std::process::ExitCode;

use clap::Args;
use coffer_common::config::{EtcdArgs, SecurityArgs};
use coffer_gateway::config::GatewayArgs;
use coffer_gateway::process::GatewayProcess;

use crate::listen;

/// Run a stateless S3 gateway; run as many as you like behind a load balancer.
///
///   coffer gateway --etcd http://10.0.0.1:2379 --node 10.0.0.11:9100
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct GatewayCommandArgs {
    /// Storage nodes to ask for the cluster's map when etcd is away at the start, separated by commas.
    #[arg(long, env = "COFFER_NODES", value_name = "HOST:PORT,…", value_delimiter = ',')]
    node: Vec<String>,

    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    security: SecurityArgs,
}

pub(crate) async fn run(args: GatewayCommandArgs) -> anyhow::Result<ExitCode> {
    let config = args.gateway.gateway_config()?;
    let (etcd, security) = (args.etcd.options()?, args.security.security()?);
    listen::refuse_taken(&[
        (config.s3_address, "S3", "--address"),
        (config.admin_address, "the admin API", "--console-address"),
    ])?;
    listen::serve(
        async |shutdown| GatewayProcess::start(config, etcd, (security, args.node), &shutdown).await,
        GatewayProcess::leave,
    )
    .await
}
