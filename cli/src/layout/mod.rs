//! `coffer layout`: which drives hold the cluster's slots, and how that changes while it serves.
//!
//! Owns: the commands, what they ask and what they show. What a change means is decided in `coffer_common::cluster::staged`;
//! the storage nodes carry it out.
//!
//! 1. `add`, `remove` and `set` stage changes: nothing moves.
//! 2. `plan` shows what they would do; `apply --version V` starts exactly that.
//! 3. `show` tells how far the moves are; `revert` drops what is staged, or takes running moves back.

mod plan;
mod room;
mod show;
mod stage;

pub(crate) use room::advice;
pub(crate) use stage::stage;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use coffer_common::node::NodeInfo;
use coffer_common::types::{DriveId, NodeId};

use crate::reach::ClusterArgs;
use crate::units::parse_bytes;

/// Change which drives hold the cluster's data, while it serves.
///
///   coffer storage-node '/data{1...4}' --node-id node-5 …   # a new node registers, and holds nothing yet
///   coffer layout add node-5                                # or a drive: node-5:/data1
///   coffer layout plan                                      # what would move, what may fail afterwards
///   coffer layout apply --version 2
///   coffer layout show                                      # how far it is
///
/// A server on folders (standalone) keeps the drives that it began with; one of them can be replaced (`--replace PATH`).
#[derive(Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum LayoutCommand {
    /// Show the drives and their share of the slots, what is staged, and how far running moves are.
    Show(ShowArgs),
    /// Stage drives that are to hold slots; without names, all that are registered, are there, hold none and were not taken out.
    Add(AddArgs),
    /// Stage drives, or all drives of a node, that are to hold no slots any more.
    Remove(RemoveArgs),
    /// Stage another share of the load, or another zone.
    Set(SetArgs),
    /// Show what the staged changes would do.
    Plan(PlanArgs),
    /// Start what was planned.
    Apply(ApplyArgs),
    /// Drop what is staged; if nothing is, take running moves back.
    Revert(RevertArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// A node, a drive's id, a path that only one node has, or NODE:PATH.
    #[arg(value_name = "DRIVE")]
    drives: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// A node, a drive's id, a path that only one node has, or NODE:PATH.
    #[arg(value_name = "DRIVE", required = true)]
    drives: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// A node, a drive's id, a path that only one node has, or NODE:PATH.
    #[arg(value_name = "DRIVE", required = true)]
    drives: Vec<String>,

    /// The share of the load that each of these drives takes, as the size of a drive, such as `10TB`.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, required_unless_present = "zone")]
    capacity: Option<u64>,

    /// What fails together above their node: rack, room, site.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// What a drive reads or writes in a second while slots move, for the estimate of time.
    #[arg(long, value_name = "SIZE", default_value = "50MB", value_parser = parse_bytes)]
    rate: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The version that `coffer layout plan` showed.
    #[arg(long, value_name = "V")]
    version: u64,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RevertArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    plan: PlanArgs,
}

/// What the drives that answer hold, in bytes.
fn held_bytes(infos: &BTreeMap<NodeId, NodeInfo>) -> BTreeMap<DriveId, u64> {
    let drives = infos.values().flat_map(|info| &info.drives);
    drives
        .filter(|drive| drive.state.serves())
        .map(|drive| (drive.id, drive.capacity_bytes.saturating_sub(drive.free_bytes)))
        .collect()
}

pub(crate) async fn run(command: LayoutCommand) -> anyhow::Result<ExitCode> {
    match command {
        LayoutCommand::Show(args) => show::run(&args).await,
        LayoutCommand::Add(args) => stage::add(args).await,
        LayoutCommand::Remove(args) => stage::remove(args).await,
        LayoutCommand::Set(args) => stage::set(args).await,
        LayoutCommand::Plan(args) => plan::show(&args).await,
        LayoutCommand::Apply(args) => plan::apply(&args).await,
        LayoutCommand::Revert(args) => plan::revert(&args).await,
    }
}
