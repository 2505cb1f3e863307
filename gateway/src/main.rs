//! `coffer-gateway`: a gateway on its own, on a cluster that etcd knows.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use coffer_common::config::{EtcdArgs, LogArgs, SecurityArgs, install_crypto};
use coffer_common::shutdown::Shutdown;
use coffer_gateway::config::GatewayArgs;
use coffer_gateway::process::GatewayProcess;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long running requests may take to end after the stop was asked for.
const DRAIN: Duration = Duration::from_secs(30);

/// A Coffer gateway: serves S3 from a cluster of storage nodes. It keeps no state of its own.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Storage nodes to ask for the cluster's map when etcd is away at the start, separated by commas.
    #[arg(long, env = "COFFER_NODES", value_name = "HOST:PORT,…", value_delimiter = ',')]
    node: Vec<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    install_crypto();
    cli.log.init()?;
    let config = cli.gateway.gateway_config()?;
    let (etcd, security) = (cli.etcd.options()?, cli.security.security()?);
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let process = GatewayProcess::start(config, etcd, (security, cli.node), &shutdown).await?;
    shutdown.wait(DRAIN).await?;
    process.leave().await;
    Ok(())
}
