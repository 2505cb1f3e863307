//! `coffer recover export`.

use std::process::ExitCode;

use coffer_common::blocking;
use coffer_storage_node::inspect::{Depth, inspect};

use super::ExportArgs;
use crate::exit::DEGRADED;
use crate::reach::folders;

pub(super) async fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let (mut read, mut bad) = (0, 0);
    for path in folders(&args.folders)? {
        // One after the other: a large drive takes much memory while it is read.
        match blocking::run(move || inspect(&path, Depth::Records)).await? {
            Ok(found) => {
                println!("{}", serde_json::to_string(&found.report)?);
                read += 1;
                if let Some(damage) = &found.report.damage {
                    bad += 1;
                    eprintln!("coffer: {} is damaged: {damage}", found.report.path);
                }
            }
            Err(error) => {
                bad += 1;
                eprintln!("coffer: {error}");
            }
        }
    }
    eprintln!("{read} drives were read");
    Ok(match (read, bad) {
        (0, _) => ExitCode::FAILURE,
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::from(DEGRADED),
    })
}
