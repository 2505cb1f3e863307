//! `coffer`: one binary for servers, gateways, storage nodes and their operators.
//!
//! Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found, 4 degraded, 5 denied, 6 no answer ([`exit`]).

mod admin;
mod bucket;
mod debug;
mod distributed;
mod exit;
mod gateway;
mod layout;
mod listen;
mod mirror;
mod node;
mod plan;
mod reach;
mod recover;
mod scrub;
mod server;
mod standalone;
mod status;
mod storage_node;
mod table;
mod units;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coffer_common::config::{LogArgs, install_crypto};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Coffer, an S3-compatible object store with erasure coding.
///
/// Try it on one machine:
///   export COFFER_ACCESS_KEY=coffer COFFER_SECRET_KEY=choose-a-long-secret
///   coffer server /data{1...4}
#[derive(Parser)]
#[command(name = "coffer", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run Coffer: on folders of this machine, or as one node of a cluster given by URLs.
    Server(server::ServerArgs),
    /// Run a stateless S3 gateway in front of a cluster.
    Gateway(gateway::GatewayCommandArgs),
    /// Run a storage node, which owns drives.
    StorageNode(storage_node::StorageNodeArgs),
    /// Show on one screen how the cluster is.
    Status(status::StatusArgs),
    /// Change which drives hold the cluster's data, while it serves.
    #[command(subcommand)]
    Layout(layout::LayoutCommand),
    /// List the storage nodes, and take one out of service.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Re-read everything on all drives now, or pause that.
    #[command(subcommand)]
    Scrub(scrub::ScrubCommand),
    /// Make, list and remove users beside root.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Limit how much buckets may hold.
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    /// Copy objects from another S3 store, such as MinIO, to this one, or the other way round.
    Mirror(mirror::MirrorArgs),
    /// Show what a shape of nodes and drives gives, before it is built.
    Plan(plan::PlanArgs),
    /// Bring back what etcd knew of a cluster, when etcd has lost its data.
    #[command(subcommand)]
    Recover(recover::RecoverCommand),
    /// Look closely at what is stored.
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Show the version of this program and of the protocol between nodes.
    Version,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    install_crypto();
    if let Err(error) = cli.log.init() {
        eprintln!("coffer: {error}");
        return ExitCode::from(exit::USAGE);
    }
    let result = match cli.command {
        Command::Server(args) => server::run(args).await,
        Command::Gateway(args) => gateway::run(args).await,
        Command::StorageNode(args) => storage_node::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Layout(command) => layout::run(command).await,
        Command::Node(command) => node::run(command).await,
        Command::Scrub(command) => scrub::run(command).await,
        Command::User(command) => user::run(command).await,
        Command::Bucket(command) => bucket::run(command).await,
        Command::Mirror(args) => mirror::run(args).await,
        Command::Plan(args) => plan::run(&args),
        Command::Recover(command) => recover::run(command).await,
        Command::Debug(command) => debug::run(command).await,
        Command::Version => {
            let protocol = coffer_common::cluster::PROTOCOL_VERSION;
            println!("coffer {}\nprotocol {protocol}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("coffer: {error:#}");
        ExitCode::from(exit::FAILED)
    })
}
