//! `coffer status`: the cluster on one screen, by a gateway's admin API.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use coffer_common::cluster::staged::NearlyFull;
use coffer_common::node::{DriveHeal, DriveScrub};
use http_body_util::{BodyExt, Empty};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use crate::admin::TIMEOUT;
use crate::exit::{DEGRADED, DENIED, NOT_FOUND};
use crate::layout::advice;
use crate::table::table;
use crate::units::{bytes, duration};

const CLOCK_WORTH_A_WORD_MS: u64 = 1000;
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Show on one screen how the cluster is. Exit code 0 if it is healthy, 4 if not: slots are away, or shards are missing.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The admin address of any gateway.
    #[arg(long, env = "COFFER_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9001")]
    endpoint: String,

    /// Print the gateway's JSON as it is.
    #[arg(long)]
    json: bool,

    /// Ask again until the cluster is healthy, at most for so long. After a start drives need some seconds to know what they lack.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

/// What this screen needs of `GET /api/v1/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    health: String,
    reason: String,
    cluster: String,
    slots: u32,
    quorum: Quorum,
    tolerance: Tolerance,
    capacity_bytes: u64,
    free_bytes: u64,
    heal: Heal,
    layout: u64,
    moves: Option<Moves>,
    unstable_versions: u64,
    nearly_full: Vec<NearlyFull>,
    nodes: Vec<Node>,
    version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Quorum {
    spare_for_writes: u64,
    spare_for_reads: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tolerance {
    nodes_for_writes: u64,
    nodes_for_reads: u64,
    warnings: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Heal {
    missing_shards: u64,
    lacking_drives: u64,
    owed_registers: u64,
    complete: bool,
    shards_per_minute: u64,
    eta_seconds: Option<u64>,
}

/// Slots on their way to another layout.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Moves {
    version: u64,
    total: u64,
    moved: u64,
    under_way: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    id: String,
    address: String,
    zone: String,
    alive: bool,
    version: String,
    clock_ahead_ms: i64,
    /// Older gateways do not tell.
    slots: Option<u32>,
    /// Slots that its drives have left and that are still copied from them.
    copied_from: u32,
    file_systems: Vec<FileSystem>,
    drives: Vec<Drive>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileSystem {
    /// The drives that are on it.
    drives: Vec<String>,
    capacity_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Drive {
    path: String,
    state: String,
    reason: String,
    capacity_bytes: u64,
    free_bytes: u64,
    join: Join,
    heal: DriveHeal,
    /// In how many partitions it lacks shards; `None` if it does not know.
    lacking_partitions: Option<u64>,
    scrub: DriveScrub,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Join {
    partitions: u32,
    waiting: u32,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let url = format!("{}/api/v1/status", args.endpoint.trim_end_matches('/'));
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let healthy =
        |body: &Bytes| serde_json::from_slice(body).is_ok_and(|told: Status| told.health == "healthy");
    let (code, body) = loop {
        let answer = get(&url).await;
        if answer.as_ref().is_ok_and(|(_, body)| healthy(body)) || Instant::now() >= deadline {
            break answer?;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    match code {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            eprintln!("coffer: `{url}` is not there: is `{}` a gateway's admin address?", args.endpoint);
            return Ok(ExitCode::from(NOT_FOUND));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            eprintln!("coffer: `{url}` refuses: {code}");
            return Ok(ExitCode::from(DENIED));
        }
        other => bail!("`{url}` answered {other}"),
    }
    let status: Status = serde_json::from_slice(&body).with_context(|| format!("`{url}` gave no status"))?;
    if args.json {
        println!("{}", String::from_utf8_lossy(&body));
    } else {
        print!("{}", screen(&status));
    }
    let healthy = status.health == "healthy";
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

pub(crate) async fn get(url: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let asked = async {
        let answer = client.get(uri).await?;
        let code = answer.status();
        anyhow::Ok((code, answer.into_body().collect().await?.to_bytes()))
    };
    let hint = || format!("no gateway answers at `{url}`: give its admin address with `--endpoint`");
    tokio::time::timeout(TIMEOUT, asked).await.with_context(hint)?.with_context(hint)
}

fn screen(status: &Status) -> String {
    let mut out = String::new();
    let quorum = &status.quorum;
    let _ = writeln!(out, "{}: {}\n", status.health.to_uppercase(), status.reason);
    let _ =
        writeln!(out, "cluster    {}, {} slots, version {}", status.cluster, status.slots, status.version);
    let _ = writeln!(
        out,
        "can lose   {} more drives for writes, {} for reads; with all up and whole {} nodes for writes, {} for reads",
        quorum.spare_for_writes,
        quorum.spare_for_reads,
        status.tolerance.nodes_for_writes,
        status.tolerance.nodes_for_reads
    );
    let used = status.capacity_bytes.saturating_sub(status.free_bytes);
    let _ = writeln!(
        out,
        "capacity   {} used of {} ({} free)",
        bytes(used),
        bytes(status.capacity_bytes),
        bytes(status.free_bytes)
    );
    let _ = writeln!(out, "repair     {}", repair(status));
    let _ = writeln!(out, "layout     {}", layout(status));
    let _ = writeln!(out, "scrub      {}\n", scrub(status));
    out.push_str(&nodes_table(&status.nodes));
    let next = next_steps(status);
    if !next.is_empty() {
        out.push('\n');
        next.iter().for_each(|step| {
            let _ = writeln!(out, "  {step}");
        });
    }
    out
}

/// What is known to be unfinished, and how long it takes.
fn repair(status: &Status) -> String {
    let heal = &status.heal;
    let mut line = format!(
        "{} shards known to be missing, {} versions not yet known to be stable, about {} registers owed to slots \
         that were away",
        heal.missing_shards, status.unstable_versions, heal.owed_registers
    );
    if heal.lacking_drives > 0 {
        let eta = heal.eta_seconds.map_or_else(
            || "time unknown".to_owned(),
            |seconds| format!("some {} to go", seconds_in_words(seconds)),
        );
        let _ = write!(line, "; {} shards a minute, {eta}", heal.shards_per_minute);
        if status.moves.is_some() {
            line.push_str(" for the slots that have begun to move");
        }
    }
    if !heal.complete {
        line.push_str("; still looking for more");
    }
    line
}

/// The layout in force, and how far its slots are on their way to another one.
fn layout(status: &Status) -> String {
    match &status.moves {
        None => format!("version {}", status.layout),
        Some(moves) => format!(
            "version {}, on the way to {}: {} of {} slots have moved, {} are under way; `coffer layout show` tells how long it takes",
            status.layout, moves.version, moves.moved, moves.total, moves.under_way
        ),
    }
}

/// What was found by re-reading, and how old the oldest such knowledge is.
fn scrub(status: &Status) -> String {
    let drives = || status.nodes.iter().flat_map(|node| &node.drives).map(|drive| &drive.scrub);
    let count = |is: fn(&DriveScrub) -> bool| drives().filter(|scrub| is(scrub)).count();
    let all = drives().count();
    let damaged: u64 = drives().map(|scrub| scrub.damaged_shards).sum();
    let segments: u64 = drives().map(|scrub| scrub.damaged_segments).sum();
    let mut line = format!("{damaged} damaged shards found");
    if segments > 0 {
        let _ = write!(line, ", {segments} damaged journal segments");
    }
    let states = [
        (count(|scrub| scrub.began_ms > 0), "are being read"),
        (count(|scrub| scrub.finished_ms == 0), "were never read whole"),
        (count(|scrub| scrub.paused), "are paused"),
        (count(|scrub| scrub.period_seconds == 0), "are not scrubbed"),
    ];
    for (number, words) in states.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(line, "; {number} of {all} drives {words}");
    }
    line
}

fn nodes_table(nodes: &[Node]) -> String {
    const HEAD: [&str; 8] = ["NODE", "STATE", "DRIVES", "MISSING", "FREE", "ZONE", "VERSION", "ADDRESS"];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for node in nodes {
        let up = node.drives.iter().filter(|drive| serves(drive)).count();
        let found = node.file_systems.iter().map(|found| (found.free_bytes, found.capacity_bytes));
        // Older gateways do not tell of file systems.
        let drives = node.drives.iter().filter(|_| node.file_systems.is_empty());
        let told = found.chain(drives.map(|drive| (drive.free_bytes, drive.capacity_bytes)));
        let (free, size) = told.fold((0, 0), |sum, told| (sum.0 + told.0, sum.1 + told.1));
        rows.push([
            node.id.clone(),
            if node.alive { "up".to_owned() } else { "away".to_owned() },
            format!("{up}/{}", node.drives.len()),
            missing(node),
            format!("{} of {}", bytes(free), bytes(size)),
            node.zone.clone(),
            node.version.clone(),
            node.address.clone(),
        ]);
    }
    table(&rows)
}

/// Shards that are missing on a node's drives, as far as they know: `12`, `12?`, `-` if it does not answer.
fn missing(node: &Node) -> String {
    let missing: u64 = node.drives.iter().map(|drive| drive.heal.missing).sum();
    match node.drives.iter().all(|drive| drive.lacking_partitions.is_some()) {
        _ if !node.alive => "-".to_owned(),
        true => missing.to_string(),
        false => format!("{missing}?"),
    }
}

fn seconds_in_words(seconds: u64) -> String {
    duration(seconds as f64 / 3600.0)
}

fn serves(drive: &Drive) -> bool {
    !matches!(drive.state.as_str(), "failed" | "offline")
}

/// What to do next.
fn next_steps(status: &Status) -> Vec<String> {
    let mut next = Vec::new();
    for node in &status.nodes {
        if !node.alive {
            let Node { id, address, copied_from, .. } = node;
            next.push(match node.slots {
                Some(0) if *copied_from > 0 => format!(
                    "node {id} does not answer at {address}, and {copied_from} slots that it has left are still copied from it: \
                     start it, or look at its log"
                ),
                Some(0) => format!(
                    "node {id} does not answer at {address} and holds no slots: start it, or, if it is gone for good, \
                     `coffer node forget {id}`"
                ),
                _ => format!("node {id} does not answer at {address}: start it, or look at its log"),
            });
        }
        if node.clock_ahead_ms.unsigned_abs() > CLOCK_WORTH_A_WORD_MS {
            next.push(format!("node {}'s clock is {} ms off: set it by NTP", node.id, node.clock_ahead_ms));
        }
        if node.alive && node.version != status.version && !node.version.is_empty() {
            next.push(format!(
                "node {} runs {}: finish the upgrade to {}",
                node.id, node.version, status.version
            ));
        }
        for FileSystem { drives, .. } in node.file_systems.iter().filter(|found| found.drives.len() > 1) {
            next.push(format!(
                "node {}'s drives {} are on one file system: they fail together, and `can lose` takes them for separate disks",
                node.id,
                drives.join(", ")
            ));
        }
        for drive in node.drives.iter().filter(|drive| drive.state != "online") {
            next.push(format!("node {} drive {} is {}: {}", node.id, drive.path, drive.state, drive.reason));
            if drive.state == "read-only" && drive.heal.missing > 0 {
                next.push(format!(
                    "node {} drive {}: healing waits for room for {} missing shards, and goes on by itself when there is some",
                    node.id, drive.path, drive.heal.missing
                ));
            }
        }
        for drive in node.drives.iter().filter(|drive| drive.scrub.unrepaired_segments > 0) {
            next.push(format!(
                "node {} drive {} has {} damaged journal segments: replace it",
                node.id, drive.path, drive.scrub.unrepaired_segments
            ));
        }
        for drive in node.drives.iter().filter(|drive| drive.join.waiting > 0) {
            let Join { partitions, waiting } = drive.join;
            next.push(format!(
                "node {} drive {} lost its state and joins again: it votes in {} of {partitions} partitions",
                node.id,
                drive.path,
                partitions - waiting
            ));
        }
    }
    next.extend(status.nearly_full.iter().map(advice));
    next.extend(status.tolerance.warnings.iter().cloned());
    next
}

#[cfg(test)]
mod tests {
    use coffer_common::types::{DriveId, NodeId};

    use super::*;

    #[test]
    fn screen_begins_with_the_health_word_and_names_what_to_do() {
        let drive = |state: &str| Drive {
            path: "/data1".to_owned(),
            state: state.to_owned(),
            reason: "i/o error".to_owned(),
            capacity_bytes: 2 << 40,
            free_bytes: 1 << 40,
            join: Join { partitions: 4096, waiting: 96 },
            heal: DriveHeal { missing: 11, ..DriveHeal::default() },
            lacking_partitions: (state == "read-only").then_some(4),
            scrub: DriveScrub { damaged_shards: 7, unrepaired_segments: 1, ..DriveScrub::default() },
        };
        let node = |id: &str, alive: bool, state: &str| Node {
            id: id.to_owned(),
            address: format!("{id}:9100"),
            alive,
            file_systems: vec![FileSystem {
                drives: vec!["/data1".to_owned(), "/data2".to_owned()],
                capacity_bytes: 2 << 40,
                free_bytes: 1 << 40,
            }],
            drives: vec![drive(state)],
            ..Node::default()
        };
        let status = Status {
            health: "degraded".to_owned(),
            reason: "11 shards are missing; every object can be read and written".to_owned(),
            quorum: Quorum { spare_for_writes: 1, spare_for_reads: 2 },
            heal: Heal { missing_shards: 11, lacking_drives: 1, ..Heal::default() },
            nearly_full: vec![NearlyFull {
                id: DriveId(3),
                node: NodeId("c".to_owned()),
                path: "/data1".to_owned(),
                used_percent: 96,
                share_bytes: Some(7_210_000_000_000),
            }],
            nodes: vec![
                node("a", true, "failed"),
                node("bb", false, "online"),
                node("c", true, "read-only"),
                Node { slots: Some(0), drives: Vec::new(), ..node("d", false, "online") },
                Node { slots: Some(0), copied_from: 9, drives: Vec::new(), ..node("e", false, "online") },
            ],
            layout: 2,
            moves: Some(Moves { version: 3, total: 900, moved: 100, under_way: 16 }),
            ..Status::default()
        };
        let screen = screen(&status);
        assert!(screen.starts_with("DEGRADED: 11 shards are missing; every"), "{screen}");
        for wanted in [
            "can lose   1 more drives for writes, 2 for reads",
            "0 shards a minute, time unknown for the slots that have begun to move",
            "c     up     1/1     11       1.0 TiB",
            "1.0 TiB of 2.0 TiB",
            "node c drive /data1: healing waits for room for 11 missing shards",
            "drive c:/data1 is 96 % full: `coffer layout set c:/data1 --capacity 7.21TB`",
            "node bb does not answer at bb:9100: start it, or look at its log",
            "node d does not answer at d:9100 and holds no slots: start it, or, if it is gone for good, `coffer node forget d`",
            "node e does not answer at e:9100, and 9 slots that it has left are still copied from it: start it",
            "drive /data1 is failed",
            "node a's drives /data1, /data2 are on one file system: they fail together",
            "votes in 4000 of 4096",
            "version 2, on the way to 3: 100 of 900 slots have moved, 16 are under way",
            "21 damaged shards found; 3 of 3 drives were never read whole",
            "1 damaged journal segments: replace it",
        ] {
            assert!(screen.contains(wanted), "{wanted} is not in\n{screen}");
        }
    }
    #[test]
    fn how_long_it_takes_is_told_in_words_by_the_slowest_and_not_at_all_if_nobody_knows() {
        let told = |missing_shards, lacking_drives, eta_seconds| {
            let heal = Heal {
                missing_shards,
                lacking_drives,
                shards_per_minute: 6000,
                eta_seconds,
                ..Heal::default()
            };
            repair(&Status { heal, ..Status::default() })
        };
        let told_of_many = told(2_000_000, 1, Some(19_920));
        assert!(told_of_many.contains("6000 shards a minute, some 5 h 32 min to go"), "{told_of_many}");
        assert!(told(2_000_000, 1, None).contains("a minute, time unknown"));
        assert!(!told(3, 0, None).contains("a minute"), "a write has left these a moment ago");
    }
}
