//! `coffer-storage-node`: a storage node on its own.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::{LogFormat, Metrics, init_logs};
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

    /// What to log, such as `info,coffer_storage_node=debug`.
    #[arg(long, env = "COFFER_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    init_logs(cli.log.as_deref(), LogFormat::Auto)?;
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let metrics = Metrics::install(&shutdown)?;
    let app = App::start(&cli.node, metrics, &shutdown).await?;
    shutdown.wait(DRAIN).await?;
    drop(app);
    Ok(())
}
