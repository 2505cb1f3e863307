//! `coffer recover`: what etcd knew of a cluster, brought back from its drives.
//!
//! Owns: the two commands, what they ask and what they show. What follows from the drives, and how it is written, is decided
//! in `coffer_common::cluster::recovery`; how a drive is read, in `coffer_storage_node::inspect`.
//!
//! 1. `export` runs on every node, with its node running or not, and writes one JSON object a drive.
//! 2. `apply` takes what all nodes exported, shows what it found, asks, and writes it into an empty etcd.

mod apply;
mod export;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use coffer_common::config::EtcdArgs;
use coffer_common::types::{BucketId, BucketName, ParseIdError};

/// Bring back what etcd knew of a cluster (layout, nodes, buckets), when etcd has lost its data.
///
/// No object is lost with etcd: nodes that run go on serving. Leave them running, or stopped, as they are; make etcd work
/// again, empty, at the addresses that nodes and gateways have in `--etcd`. Then, on every node:
///   coffer recover export '/data{1...4}' > node-3.jsonl
///
/// and with the output of all nodes, anywhere:
///   coffer recover apply --etcd http://10.0.0.1:2379 node-*.jsonl
///
/// What ran goes on within seconds, without a restart; what was stopped can be started.
#[derive(Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum RecoverCommand {
    /// Read what drives of this machine remember of the cluster; they may be in use. Changes nothing. The output is as confidential
    /// as a backup of etcd.
    Export(ExportArgs),
    /// Write what was exported on all nodes into an etcd that is empty.
    Apply(ApplyArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The folders of the drives.
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// What `coffer recover export` wrote on every node.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Only show what was found, and what would be written.
    #[arg(long)]
    dry_run: bool,

    /// Be content with half of the slots of a partition, when more drives than that are gone for good. A change of the layout in
    /// the last seconds before the loss may then be taken up late. A slot that such a drive may have taken in those seconds stays
    /// with the drive before, which may lack what was written last; if that one has another slot of the partition by now, the slot
    /// has no vote until the drive is back or replaced. Each of these is shown.
    #[arg(long)]
    accept_half: bool,

    /// Bring a bucket back that was made right before the loss, and of which only the id is known, under this name; may be
    /// given several times.
    #[arg(long = "bucket", value_name = "ID=NAME", value_parser = named)]
    buckets: Vec<(BucketId, BucketName)>,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    etcd: EtcdArgs,
}

fn named(text: &str) -> Result<(BucketId, BucketName), String> {
    let (id, name) = text.split_once('=').ok_or("an id and a name are expected, as in `0123…=photos`")?;
    let id = id.parse().map_err(|error: ParseIdError| error.to_string())?;
    Ok((id, BucketName::new(name).map_err(|error| error.to_string())?))
}

pub(crate) async fn run(command: RecoverCommand) -> anyhow::Result<ExitCode> {
    match command {
        RecoverCommand::Export(args) => export::run(&args).await,
        RecoverCommand::Apply(args) => apply::run(&args).await,
    }
}
