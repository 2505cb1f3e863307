//! `coffer node`: the storage nodes of a cluster, and how one goes out of service.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use coffer_common::cluster::staged::{LayoutEdit, LayoutState};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::exit::NOT_FOUND;
use crate::layout::stage;
use crate::reach::{ClusterArgs, on_layout};
use crate::status::get;
use crate::table::table;
use crate::units::bytes;

/// Between two questions whether a node may stop.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// List the storage nodes.
    List(ListArgs),
    /// Take a node out of service: for a restart, or for good.
    Drain(DrainArgs),
    /// Tell whether sets of numbered nodes may shrink: exit code 1 if a node beyond still holds slots.
    MayShrink(MayShrinkArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Take a node out of service: for a restart, or for good.
///
/// Ask before each restart of a rolling upgrade; exit code 0 says that it may stop now, 1 that it must not:
///   coffer node drain node-3 --for-restart --wait && systemctl restart coffer-storage-node
///
/// For good, this stages the removal of all its drives; nothing moves before it is applied:
///   coffer node drain node-3 --etcd http://10.0.0.1:2379
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct DrainArgs {
    /// The node's id.
    #[arg(value_name = "NODE", env = "COFFER_NODE_ID")]
    node: String,

    /// Only ask whether every partition can be written while the node is down. Changes nothing.
    #[arg(long)]
    for_restart: bool,

    /// Wait until it may stop.
    #[arg(long, requires = "for_restart")]
    wait: bool,

    /// The admin address of any gateway, which is asked about a restart.
    #[arg(long, env = "COFFER_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9001")]
    endpoint: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Tell whether sets of numbered nodes may shrink, as those of a Kubernetes StatefulSet: nodes `NAME-0`, `NAME-1`, … stay, as many as
/// are said; exit code 1 if one beyond still holds slots.
///
///   coffer node may-shrink coffer-storage=4 --etcd http://10.0.0.1:2379
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct MayShrinkArgs {
    /// The set's name, and how many of its nodes stay.
    #[arg(value_name = "NAME=NODES", required = true, value_parser = parse_set)]
    sets: Vec<(String, u32)>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

fn parse_set(text: &str) -> Result<(String, u32), String> {
    let parts = text.split_once('=').and_then(|(name, nodes)| Some((name.to_owned(), nodes.parse().ok()?)));
    parts
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}`: write NAME=NODES, such as `coffer-storage=4`"))
}

/// Whether a node is one of the set, beyond those that stay.
fn is_beyond(id: &str, sets: &[(String, u32)]) -> bool {
    let Some((name, number)) = id.rsplit_once('-') else { return false };
    let Ok(number) = number.parse::<u32>() else { return false };
    sets.iter().any(|(set, nodes)| set == name && number >= *nodes)
}

async fn may_shrink(args: &MayShrinkArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        let mut held = rows(&state);
        held.retain(|row| row.slots > 0 && is_beyond(&row.id, &args.sets));
        if args.cluster.json {
            println!("{}", serde_json::to_string_pretty(&held)?);
        }
        for row in &held {
            eprintln!(
                "coffer: node {id} still holds {slots} slots: `coffer node drain {id}`, `coffer layout plan`, `apply`, and wait",
                id = row.id,
                slots = row.slots
            );
        }
        Ok(if held.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
    .await
}

pub(crate) async fn run(command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::MayShrink(args) => may_shrink(&args).await,
        NodeCommand::List(args) => list(&args).await,
        NodeCommand::Drain(args) if args.for_restart => for_restart(&args).await,
        NodeCommand::Drain(args) => stage(&args.cluster, LayoutEdit::Remove(vec![args.node.clone()])).await,
    }
}

/// A row of the list.
#[derive(Debug, Serialize)]
struct NodeRow {
    id: String,
    address: String,
    zone: String,
    alive: bool,
    drives: usize,
    capacity_bytes: u64,
    /// Slots on its drives now.
    slots: u32,
    version: String,
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        let rows = rows(&state);
        if args.cluster.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            print!("{}", list_screen(&rows));
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn rows(state: &LayoutState) -> Vec<NodeRow> {
    let map = &state.map;
    let now = map.present_layout();
    let loads = now.loads();
    let nodes = map.nodes.values().map(|node| {
        let own =
            || node.drives.iter().filter(|drive| map.locate(drive.id).is_some_and(|(at, _)| *at == node.id));
        let held = now.drives().iter().zip(&loads).filter(|(placed, _)| own().any(|d| d.id == placed.id));
        NodeRow {
            id: node.id.0.clone(),
            address: node.address.clone(),
            zone: node.zone.clone(),
            alive: state.live.contains(&node.id),
            drives: own().count(),
            capacity_bytes: own().map(|drive| drive.capacity_bytes).sum(),
            slots: held.map(|(_, load)| load).sum(),
            version: node.version.clone(),
        }
    });
    nodes.collect()
}

fn list_screen(rows: &[NodeRow]) -> String {
    let head = ["NODE", "STATE", "DRIVES", "CAPACITY", "SLOTS", "ZONE", "VERSION", "ADDRESS"];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let state = if row.alive { "up" } else { "away" };
        [
            row.id.clone(),
            state.to_owned(),
            row.drives.to_string(),
            bytes(row.capacity_bytes),
            row.slots.to_string(),
            row.zone.clone(),
            row.version.clone(),
            row.address.clone(),
        ]
    }));
    table(&cells)
}

/// What `/health/cluster?maintenance=` answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Maintenance {
    quorum: Partitions,
    obstacles: Vec<Obstacle>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Partitions {
    partitions: u64,
    writable: u64,
}

/// A drive whose slots are missing where too few would be left.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Obstacle {
    node: String,
    path: String,
    reason: String,
    partitions: u64,
}

async fn for_restart(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let node = &args.node;
    let url = format!("{}/health/cluster?maintenance={}", args.endpoint.trim_end_matches('/'), escaped(node));
    let mut told = String::new();
    loop {
        let (code, body) = get(&url).await?;
        match code {
            StatusCode::OK => {
                if args.cluster.json {
                    println!("{}", String::from_utf8_lossy(&body));
                } else {
                    println!("go: every partition can be written while node {node} is down");
                }
                return Ok(ExitCode::SUCCESS);
            }
            StatusCode::NOT_FOUND => {
                eprintln!(
                    "coffer: no node is called `{node}`, or `{}` is no gateway's admin address",
                    args.endpoint
                );
                return Ok(ExitCode::from(NOT_FOUND));
            }
            StatusCode::PRECONDITION_FAILED => {}
            other => bail!("`{url}` answered {other}"),
        }
        let answer = serde_json::from_slice(&body).with_context(|| format!("`{url}` gave no such answer"))?;
        let reasons = obstacles_text(node, &answer);
        if args.cluster.json && !args.wait {
            println!("{}", String::from_utf8_lossy(&body));
        } else if reasons != told {
            eprint!("{reasons}");
        }
        if !args.wait {
            return Ok(ExitCode::FAILURE);
        }
        told = reasons;
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn obstacles_text(node: &str, answer: &Maintenance) -> String {
    let Partitions { partitions, writable } = answer.quorum;
    let mut out = format!(
        "do not stop node {node} now: {} of {partitions} partitions could not be written while it is down\n",
        partitions.saturating_sub(writable)
    );
    for obstacle in &answer.obstacles {
        let _ = writeln!(
            out,
            "  node {} drive {} {}: {} of these partitions need it",
            obstacle.node, obstacle.path, obstacle.reason, obstacle.partitions
        );
    }
    if answer.obstacles.is_empty() {
        out.push_str("  all other drives are well: this node alone holds too many slots of them\n");
    }
    out
}

/// A node's id in a URL's query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named() {
        let answer = r#"{"quorum": {"partitions": 4096, "writable": 4000}, "obstacles": [
            {"node": "b", "path": "/data1", "reason": "does not answer", "partitions": 96}]}"#;
        let answer: Maintenance = serde_json::from_str(answer).unwrap();
        let text = obstacles_text("a", &answer);
        assert!(text.contains("do not stop node a now: 96 of 4096 partitions"), "{text}");
        assert!(text.contains("node b drive /data1 does not answer: 96"), "{text}");
        let alone = obstacles_text("a", &Maintenance { obstacles: vec![], ..answer });
        assert!(alone.contains("this node alone"), "{alone}");
    }

    #[test]
    fn nodes_beyond_a_set_are_those_of_its_name_with_higher_numbers() {
        let sets = [parse_set("coffer-storage=4").unwrap(), parse_set("coffer-big=0").unwrap()];
        for beyond in ["coffer-storage-4", "coffer-storage-12", "coffer-big-0"] {
            assert!(is_beyond(beyond, &sets), "{beyond}");
        }
        for stays in
            ["coffer-storage-3", "coffer-storage", "other-storage-9", "coffer-storage-x", "coffer-big-0-a"]
        {
            assert!(!is_beyond(stays, &sets), "{stays}");
        }
        for wrong in ["coffer-storage", "=4", "a=b", "a=-1"] {
            assert!(parse_set(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_with_ports_fit_into_a_query() {
        assert_eq!(escaped("10.0.0.1:9100"), "10.0.0.1%3A9100");
        assert_eq!(escaped("node_1-a~b"), "node_1-a~b");
    }
}
