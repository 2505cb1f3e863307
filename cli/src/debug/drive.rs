//! `coffer debug drive`: what lies on a drive, read without touching it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use coffer_common::blocking;
use coffer_common::types::PartitionId;
use coffer_storage_node::inspect::{Depth, DriveInspection, Segment, inspect};
use serde_json::json;

use crate::exit::DEGRADED;
use crate::reach::folders;
use crate::table::table;
use crate::units::bytes;

/// Segments that are shown.
const SHOWN: usize = 20;

/// Read drives of this machine, record by record, and show what they hold. Changes nothing; they may be in use.
///
///   coffer debug drive '/data{1...4}'
///
/// Exit code 0 if all is whole, 4 if something that had been durable does not verify. A torn tail is no damage: it is what
/// a crash leaves of a write that nobody was answered.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct DriveArgs {
    /// The folders of the drives.
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<String>,

    /// Leave out the small shards, which are most of the bytes of a journal.
    #[arg(long)]
    quick: bool,

    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: DriveArgs) -> anyhow::Result<ExitCode> {
    let depth = if args.quick { Depth::Records } else { Depth::Whole };
    let (mut unreadable, mut damaged) = (false, false);
    for path in folders(&args.folders)? {
        match blocking::run(move || inspect(&path, depth)).await? {
            Ok(found) => {
                damaged |= !found.damage.is_empty();
                print!("{}", if args.json { as_json(&found) + "\n" } else { as_text(&found) });
            }
            Err(error) => {
                unreadable = true;
                eprintln!("coffer: {error}");
            }
        }
    }
    Ok(match (unreadable, damaged) {
        (true, _) => ExitCode::FAILURE,
        (_, true) => ExitCode::from(DEGRADED),
        _ => ExitCode::SUCCESS,
    })
}

fn as_text(found: &DriveInspection) -> String {
    let DriveInspection { identity, counts, report, segments, .. } = found;
    let mut out = format!("{}\n", report.path);
    let in_use = if report.in_use { ", in use" } else { "" };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<10} {value}");
    };
    line("drive", format!("{}, incarnation {}{in_use}", identity.drive, identity.incarnation.0));
    line("cluster", identity.cluster.to_string());
    line("started", format!("{} times", report.boot_count));
    for copy in &report.copies {
        let kind = format!("{:?}", copy.kind).to_lowercase();
        let (generation, revision) = (copy.generation, copy.revision);
        line("copy", format!("of {kind}: generation {generation}, revision {revision}"));
    }
    let epochs = report.partitions.iter().map(|slot| slot.epoch.0).max().unwrap_or_default();
    line("partitions", format!("{} with a record, up to epoch {epochs}", report.partitions.len()));
    line("registers", format!("{}, of them {} objects", counts.registers, counts.objects));
    line(
        "versions",
        format!("{}, not settled {}, prepared {}", counts.versions, counts.unsettled, counts.prepared),
    );
    let (inline, files) = (counts.inline_shards, counts.shard_files);
    line(
        "shards",
        format!(
            "{} in the journal ({}), {} in files ({}), {} missing",
            inline.0,
            bytes(inline.1),
            files.0,
            bytes(files.1),
            counts.missing_shards
        ),
    );
    let first = segments.first().map_or(0, |segment| segment.first);
    line("journal", format!("{} segments, sequences {first} to {}", segments.len(), report.last_sequence));
    for text in segment_table(segments).lines() {
        line("", text.to_owned());
    }
    if let Some((segment, offset, len)) = found.torn {
        line("torn tail", format!("segment {segment}, offset {offset}, {len} bytes"));
    }
    for damage in &found.damage {
        line("DAMAGED", damage.clone());
    }
    out
}

fn segment_table(segments: &[Segment]) -> String {
    let skipped = segments.len().saturating_sub(SHOWN);
    let rows: Vec<_> = segments
        .iter()
        .skip(skipped)
        .map(|segment| {
            [
                format!("{:016x}", segment.number),
                format!("{} to {}", segment.first, segment.last),
                format!("{} records", segment.records),
                bytes(segment.used_bytes),
                if segment.sealed { "sealed" } else { "open" }.to_owned(),
            ]
        })
        .collect();
    let before = if skipped > 0 { format!("{skipped} earlier segments\n") } else { String::new() };
    before + &table(&rows)
}

fn as_json(found: &DriveInspection) -> String {
    let DriveInspection { identity, counts, report, .. } = found;
    let segments = found.segments.iter().map(|segment| {
        json!({
            "number": segment.number,
            "first_sequence": segment.first,
            "last_sequence": segment.last,
            "records": segment.records,
            "used_bytes": segment.used_bytes,
            "sealed": segment.sealed,
        })
    });
    let copies = report
        .copies
        .iter()
        .map(|copy| json!({ "kind": copy.kind, "generation": copy.generation, "revision": copy.revision }));
    let torn = found
        .torn
        .map(|(segment, offset, bytes)| json!({ "segment": segment, "offset": offset, "bytes": bytes }));
    let partition = |id: PartitionId| id.0;
    let partitions = report.partitions.iter().map(
        |slot| json!({ "partition": partition(slot.partition), "epoch": slot.epoch.0, "role": slot.role }),
    );
    json!({
        "path": report.path,
        "drive": identity.drive,
        "cluster": identity.cluster,
        "incarnation": identity.incarnation.0,
        "in_use": report.in_use,
        "boot_count": report.boot_count,
        "last_sequence": report.last_sequence,
        "registers": counts.registers,
        "objects": counts.objects,
        "versions": counts.versions,
        "unsettled": counts.unsettled,
        "prepared": counts.prepared,
        "missing_shards": counts.missing_shards,
        "inline_shards": { "count": counts.inline_shards.0, "bytes": counts.inline_shards.1 },
        "shard_files": { "count": counts.shard_files.0, "bytes": counts.shard_files.1 },
        "buckets": report.buckets,
        "copies": copies.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
        "segments": segments.collect::<Vec<_>>(),
        "torn_tail": torn,
        "damage": found.damage,
    })
    .to_string()
}
