//! `coffer scrub`: how far the drives are with re-reading what they hold; asks for it now, pauses it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use coffer_common::cluster::scrub::ScrubOrder;
use coffer_common::node::DriveScrub;
use coffer_common::time::UnixMillis;
use serde::Serialize;

use crate::reach::{ClusterArgs, on_layout};
use crate::table::table;
use crate::units::bytes;

/// Re-read everything on all drives now, or pause that.
///
/// Each drive does so by itself once in its node's `--scrub-period`, slowly; what is damaged is rebuilt from the others.
/// An order reaches every drive within some seconds.
#[derive(Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum ScrubCommand {
    /// Show how far each drive is, and what was found.
    Show(ScrubArgs),
    /// Have all drives do it now, as fast as requests allow.
    Start(ScrubArgs),
    /// Stop for now; what runs goes on later where it stopped.
    Pause(ScrubArgs),
    /// Take a pause back.
    Resume(ScrubArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ScrubArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) async fn run(command: ScrubCommand) -> anyhow::Result<ExitCode> {
    match command {
        ScrubCommand::Show(args) => show(&args.cluster).await,
        ScrubCommand::Start(args) => order(&args.cluster, ScrubOrder::requested).await,
        ScrubCommand::Pause(args) => order(&args.cluster, |order| ScrubOrder { paused: true, ..order }).await,
        ScrubCommand::Resume(args) => {
            order(&args.cluster, |order| ScrubOrder { paused: false, ..order }).await
        }
    }
}

async fn order(
    args: &ClusterArgs,
    change: impl Fn(ScrubOrder) -> ScrubOrder + Send + Sync,
) -> anyhow::Result<ExitCode> {
    on_layout(args, async |coordinator, _| {
        let order = ScrubOrder::change(coordinator, change).await?;
        match (args.json, order.paused) {
            (true, _) => println!("{}", serde_json::to_string_pretty(&order)?),
            (false, true) => println!("paused: nothing is scrubbed until `coffer scrub resume`"),
            (false, false) => println!("the drives will know within some seconds; see `coffer scrub show`"),
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// A row of the screen.
#[derive(Debug, Serialize)]
struct DriveRow {
    node: String,
    path: String,
    /// Nothing if the node did not answer.
    scrub: Option<DriveScrub>,
}

async fn show(args: &ClusterArgs) -> anyhow::Result<ExitCode> {
    on_layout(args, async |_, state| {
        let told = args.ask_nodes(&state.map).await?;
        let mut rows = Vec::new();
        for node in state.map.nodes.values() {
            let said = told.get(&node.id);
            for drive in &node.drives {
                let known = said.and_then(|info| info.drives.iter().find(|known| known.id == drive.id));
                rows.push(DriveRow {
                    node: node.id.0.clone(),
                    path: drive.path.clone(),
                    scrub: known.map(|drive| drive.scrub),
                });
            }
        }
        match args.json {
            true => println!("{}", serde_json::to_string_pretty(&rows)?),
            false => print!("{}", screen(&rows, UnixMillis::now())),
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn screen(rows: &[DriveRow], now: UnixMillis) -> String {
    let head = ["NODE", "DRIVE", "STATE", "READ", "DAMAGED", "LAST WHOLE PASS"];
    let mut cells = vec![head.map(str::to_owned)];
    for row in rows {
        let Some(scrub) = row.scrub else {
            let unknown = || "?".to_owned();
            let state = "does not answer".to_owned();
            cells.push([row.node.clone(), row.path.clone(), state, unknown(), unknown(), unknown()]);
            continue;
        };
        let read = if scrub.began_ms > 0 { bytes(scrub.bytes) } else { String::new() };
        cells.push([
            row.node.clone(),
            row.path.clone(),
            state(&scrub),
            read,
            damaged(&scrub),
            last(&scrub, now),
        ]);
    }
    table(&cells)
}

fn state(scrub: &DriveScrub) -> String {
    match (scrub.period_seconds, scrub.paused, scrub.began_ms) {
        (0, ..) => "off".to_owned(),
        (_, true, _) => "paused".to_owned(),
        (_, _, 0) => "waits".to_owned(),
        _ => match (scrub.bytes * 100).checked_div(scrub.expected_bytes) {
            Some(percent) => format!("about {} %", percent.min(99)),
            None => "reads".to_owned(),
        },
    }
}

fn damaged(scrub: &DriveScrub) -> String {
    let mut text = format!("{} shards", scrub.damaged_shards);
    if scrub.damaged_segments > 0 {
        text.push_str(&format!(", {} journal segments", scrub.damaged_segments));
    }
    if scrub.unrepaired_segments > 0 {
        text.push_str(&format!(" ({} still there: replace the drive)", scrub.unrepaired_segments));
    }
    text
}

fn last(scrub: &DriveScrub, now: UnixMillis) -> String {
    match scrub.finished_ms {
        0 => "none yet".to_owned(),
        at => match now.0.saturating_sub(at) / 1000 {
            seconds @ 0..120 => format!("{seconds} s ago"),
            seconds @ 120..7200 => format!("{} min ago", seconds / 60),
            seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
            seconds => format!("{} days ago", seconds / 86_400),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_shown_with_what_was_found_and_what_to_do() {
        let running = DriveScrub {
            period_seconds: 3600,
            began_ms: 1,
            bytes: 1 << 20,
            expected_bytes: 4 << 20,
            damaged_shards: 3,
            damaged_segments: 2,
            unrepaired_segments: 1,
            ..DriveScrub::default()
        };
        let rested =
            DriveScrub { period_seconds: 3600, finished_ms: 1, damaged_shards: 0, ..DriveScrub::default() };
        let row = |scrub| DriveRow { node: "n".to_owned(), path: "/d".to_owned(), scrub };
        let paused = DriveScrub { paused: true, ..rested };
        let rows = [running, rested, paused, DriveScrub::default()].map(|scrub| row(Some(scrub)));
        let shown = screen(&rows, UnixMillis(3 * 86_400_000)) + &screen(&[row(None)], UnixMillis(0));
        for wanted in [
            "about 25 %",
            "3 shards, 2 journal segments (1 still there",
            "2 days ago",
            "paused",
            "off",
            "does not answer",
        ] {
            assert!(shown.contains(wanted), "{wanted} is not in\n{shown}");
        }
    }
}
