//! `coffer-storage-node`: a storage node on its own.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use coffer_common::config::LogArgs;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use coffer_storage_node::app::App;
use coffer_storage_node::config::NodeArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a stop may take.
const DRAIN: Duration = Duration::from_secs(30);

/// A Coffer storage node: owns drives and keeps shards and their registers on them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    coffer_common::config::install_crypto();
    cli.log.init()?;
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let metrics = Metrics::install(&shutdown)?;
    let app = App::start(&cli.node, metrics, &shutdown).await?;
    shutdown.wait(DRAIN).await?;
    app.leave().await;
    Ok(())
}
