//! `coffer debug`: commands that look at what is stored, not at what is said about it. None of them repairs anything.

mod census;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum DebugCommand {
    /// Read every shard of every object, and show which slots hold one that verifies.
    Census(census::CensusArgs),
}

pub(crate) async fn run(command: DebugCommand) -> anyhow::Result<ExitCode> {
    match command {
        DebugCommand::Census(args) => census::run(args).await,
    }
}
