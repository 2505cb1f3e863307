//! `coffer debug`: commands that look at what is stored, not at what is said about it. None of them repairs anything.

mod census;
mod drive;
mod object;
mod store;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum DebugCommand {
    /// Read every shard of every object, and show which slots hold one that verifies.
    Census(census::CensusArgs),
    /// Show what each slot says of one object, and which hold a shard of it that verifies.
    Object(object::ObjectArgs),
    /// Read drives of this machine, and show what they hold and what is damaged.
    Drive(drive::DriveArgs),
}

pub(crate) async fn run(command: DebugCommand) -> anyhow::Result<ExitCode> {
    match command {
        DebugCommand::Census(args) => census::run(args).await,
        DebugCommand::Object(args) => object::run(args).await,
        DebugCommand::Drive(args) => drive::run(args).await,
    }
}
