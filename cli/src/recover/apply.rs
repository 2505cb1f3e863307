//! `coffer recover apply`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use coffer_common::cluster::recovery::{DriveReport, REPORT_FORMAT, Recovery};
use coffer_common::coordination::Coordinator;
use coffer_gateway::s3::bucket_record_of;

use super::{ApplyArgs, show};
use crate::reach::{confirmed, connect};

pub(super) async fn run(args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    let reports = read(&args.files)?;
    let mut recovery = Recovery::plan(&reports, args.accept_half)?;
    for (id, name) in &args.buckets {
        recovery.name_bucket(*id, name, bucket_record_of(*id))?;
    }
    print!("{}", show::as_text(&recovery));
    let prefix = args.etcd.options()?.prefix;
    let coordinator = connect(&args.etcd).await?;
    let done = write(args, &recovery, (&*coordinator, &prefix)).await;
    coordinator.close().await;
    done
}

async fn write(
    args: &ApplyArgs,
    recovery: &Recovery,
    (coordinator, prefix): (&dyn Coordinator, &str),
) -> anyhow::Result<ExitCode> {
    recovery.check_empty(coordinator, prefix).await?;
    if args.dry_run {
        println!("nothing was changed (`--dry-run`)");
        return Ok(ExitCode::SUCCESS);
    }
    if !confirmed("write this into etcd?", args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    recovery.apply(coordinator, prefix).await?;
    println!(
        "cluster {} is back, in generation {}. Nodes and gateways that run go on within seconds; start those that do not. \
         Then look at `coffer status`",
        recovery.record.id, recovery.record.generation
    );
    Ok(ExitCode::SUCCESS)
}

/// The reports in these files, one a line.
fn read(files: &[PathBuf]) -> anyhow::Result<Vec<DriveReport>> {
    let mut reports = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))?;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let place =
                || format!("`{}`, line {number}, is not what `coffer recover export` writes", file.display());
            let report: DriveReport = serde_json::from_str(line).with_context(place)?;
            if report.format > REPORT_FORMAT {
                bail!("`{}` was written by a newer version of Coffer: use that one", file.display());
            }
            reports.push(report);
        }
    }
    Ok(reports)
}
