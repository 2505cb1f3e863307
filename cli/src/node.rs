//! `coffer node`: the storage nodes of a cluster, and how one goes out of service.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use coffer_common::cluster::ClusterMap;
use coffer_common::cluster::staged::{ForgetRefusal, LayoutEdit, LayoutStateError};
use coffer_common::types::NodeId;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::exit::{NO_ANSWER, NOT_FOUND};
use crate::layout::stage;
use crate::reach::{ClusterArgs, confirmed, on_layout};
use crate::status::get;
use crate::table::table;
use crate::units::bytes;

/// Between two questions whether a node may stop.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a gateway that does not answer is asked again: it may be restarting.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// List the storage nodes.
    List(ListArgs),
    /// Take a node out of service: for a restart, or for good.
    Drain(DrainArgs),
    /// Drop what the cluster knows of a node that is gone for good and holds no slots.
    Forget(ForgetArgs),
    /// Tell whether sets of numbered nodes may shrink: exit code 1 if a node beyond still holds slots, or any is copied from it.
    MayShrink(MayShrinkArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Take a node out of service: for a restart, or for good.
///
/// Ask before each restart of a rolling upgrade; exit code 0 says that it may stop now, 1 that it must not, 3 that no node has
/// this name, 6 that no gateway could be asked:
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

    /// Only ask whether every object can be read and written while the node is down. Changes nothing.
    #[arg(long)]
    for_restart: bool,

    /// Wait until it may stop, for ever; given up only when the gateway has not answered for a minute (exit code 6).
    #[arg(long, requires = "for_restart")]
    wait: bool,

    /// The admin address of any gateway, which is asked about a restart.
    #[arg(long, env = "COFFER_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:9001")]
    endpoint: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Tell whether sets of numbered nodes may shrink, as those of a Kubernetes StatefulSet: nodes `NAME-0`, `NAME-1`, … stay, as many as
/// are said; exit code 1 if one beyond still holds slots, or slots that it has left are still copied from it.
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

/// Drop what the cluster knows of a node that is gone for good: it is no longer shown as away, and alerts on it end.
///
/// Refused while the node runs, or any of its drives holds slots or is to get some. If the node starts all the same, it
/// registers as a new one does, and holds nothing:
///   coffer node drain node-3        # and `coffer layout plan`, `apply`, until `coffer layout show` says that it is done
///   coffer node forget node-3
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ForgetArgs {
    /// The node's id.
    #[arg(value_name = "NODE")]
    node: String,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

async fn forget(args: &ForgetArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |coordinator, state| {
        let node = NodeId(args.node.clone());
        state.may_forget(&node).map_err(LayoutStateError::from)?;
        if args.cluster.ask_nodes(&state.map).await?.contains_key(&node) {
            // Cut off from etcd, and not gone.
            return Err(LayoutStateError::from(ForgetRefusal::Live(node)).into());
        }
        let drives = state.map.nodes.get(&node).map_or(0, |record| record.drives.len());
        if !confirmed(&format!("Forget node {node} with its {drives} drives?"), args.yes)? {
            return Ok(ExitCode::FAILURE);
        }
        match state.forget(&node, coordinator).await {
            Err(LayoutStateError::Coordinator(error)) => {
                bail!("{error}; whether it was done is not known: look with `coffer node list`")
            }
            done => done?,
        }
        if args.cluster.json {
            println!("{}", json!({ "forgotten": node }));
        } else {
            println!("node {node} is forgotten; if it starts again, it registers as a new one");
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
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
        let mut needed = rows(&state.map, &state.live);
        needed.retain(|row| is_beyond(&row.id, &args.sets) && why_needed(row).is_some());
        if args.cluster.json {
            println!("{}", serde_json::to_string_pretty(&needed)?);
        }
        needed.iter().filter_map(why_needed).for_each(|why| eprintln!("coffer: {why}"));
        Ok(if needed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
    .await
}

/// What is lost without a node, and what to do first; `None` if nothing is.
fn why_needed(row: &NodeRow) -> Option<String> {
    let NodeRow { id, slots, copied_from, .. } = row;
    match (slots, copied_from) {
        (0, 0) => None,
        (0, _) => Some(format!(
            "{copied_from} slots that node {id} has left are still copied from it: wait until `coffer layout show` says that all is done"
        )),
        _ => Some(format!(
            "node {id} still holds {slots} slots: `coffer node drain {id}`, `coffer layout plan`, `apply`, and wait"
        )),
    }
}

pub(crate) async fn run(command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::MayShrink(args) => may_shrink(&args).await,
        NodeCommand::Forget(args) => forget(&args).await,
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
    /// Slots that its drives have left and that are still copied from them.
    copied_from: u32,
    version: String,
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        let rows = rows(&state.map, &state.live);
        if args.cluster.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            print!("{}", list_screen(&rows));
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn rows(map: &ClusterMap, live: &BTreeSet<NodeId>) -> Vec<NodeRow> {
    let now = map.present_layout();
    let (loads, copied_from) = (now.loads(), map.copied_from());
    let nodes = map.nodes.values().map(|node| {
        let own =
            || node.drives.iter().filter(|drive| map.locate(drive.id).is_some_and(|(at, _)| *at == node.id));
        let held = now.drives().iter().zip(&loads).filter(|(placed, _)| own().any(|d| d.id == placed.id));
        NodeRow {
            id: node.id.0.clone(),
            address: node.address.clone(),
            zone: node.zone.clone(),
            alive: live.contains(&node.id),
            drives: own().count(),
            capacity_bytes: own().map(|drive| drive.capacity_bytes).sum(),
            slots: held.map(|(_, load)| load).sum(),
            copied_from: own().filter_map(|drive| copied_from.get(&drive.id)).sum(),
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
        let slots = match row.copied_from {
            0 => row.slots.to_string(),
            left => format!("{}, {left} copied from it", row.slots),
        };
        [
            row.id.clone(),
            state.to_owned(),
            row.drives.to_string(),
            bytes(row.capacity_bytes),
            slots,
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
    certain: Option<u64>,
}

/// A drive whose slots do not count where too few others would be left.
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
        let (code, body) = match ask(&url, args.wait).await {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("coffer: whether node {node} may stop is not known: {error:#}");
                return Ok(ExitCode::from(NO_ANSWER));
            }
        };
        match code {
            StatusCode::OK => {
                if args.cluster.json {
                    println!("{}", String::from_utf8_lossy(&body));
                } else {
                    println!("go: every object can be read and written while node {node} is down");
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
            _ => {}
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

/// Asks a gateway. Without an answer, again for a while if that is worth `waiting` for.
async fn ask(url: &str, waiting: bool) -> anyhow::Result<(StatusCode, Bytes)> {
    let begun = Instant::now();
    loop {
        let answer = get(url).await.and_then(|(code, body)| match code {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => Ok((code, body)),
            other => bail!("`{url}` answered {other}"),
        });
        if answer.is_ok() || !waiting || begun.elapsed() >= GATEWAY_PATIENCE {
            return answer;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn obstacles_text(node: &str, answer: &Maintenance) -> String {
    let Partitions { partitions, writable, certain } = answer.quorum;
    let mut out = format!("do not stop node {node} now: ");
    let (unwritable, unsure) =
        (partitions - writable.min(partitions), partitions - certain.unwrap_or(partitions).min(partitions));
    if unwritable > 0 {
        let _ = write!(out, "{unwritable} of {partitions} partitions could not be written while it is down");
    }
    if unsure > 0 {
        let and = if unwritable > 0 { "; " } else { "" };
        let _ = write!(
            out,
            "{and}some objects of {unsure} of {partitions} partitions might not be readable while it is down"
        );
    }
    out.push('\n');
    for obstacle in &answer.obstacles {
        let _ = writeln!(
            out,
            "  node {} drive {} {}: {} of these partitions need it",
            obstacle.node, obstacle.path, obstacle.reason, obstacle.partitions
        );
    }
    if answer.obstacles.is_empty() {
        out.push_str("  all other drives are well: this node alone holds too many slots of them, and waiting changes nothing\n");
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
    use std::sync::Arc;

    use coffer_common::cluster::{
        DriveRecord, LAYOUT_KEY, NodeRecord, PROTOCOL_VERSION, first_layout, node_key,
    };
    use coffer_common::coordination::{CLUSTER_KEY, Entry};
    use coffer_common::layout::SlotRecord;
    use coffer_common::limits::PARTITION_COUNT;
    use coffer_common::types::{ClusterId, DriveId, Incarnation, PartitionId};

    use super::*;

    #[test]
    fn what_is_in_the_way_is_named() {
        let answer = r#"{"quorum": {"partitions": 4096, "writable": 4000}, "obstacles": [
            {"node": "b", "path": "/data1", "reason": "does not answer", "partitions": 96}]}"#;
        let answer: Maintenance = serde_json::from_str(answer).unwrap();
        let text = obstacles_text("a", &answer);
        assert!(text.contains("do not stop node a now: 96 of 4096 partitions"), "{text}");
        assert!(text.contains("node b drive /data1 does not answer: 96"), "{text}");
        let quorum = Partitions { partitions: 4096, writable: 4096, certain: Some(12) };
        let unsure = obstacles_text("a", &Maintenance { quorum, obstacles: vec![] });
        assert!(unsure.contains("now: some objects of 4084 of 4096 partitions might not"), "{unsure}");
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

    /// Four nodes of one drive, and a fifth one that has only registered.
    fn map() -> ClusterMap {
        let node = |number: u128| NodeRecord {
            id: NodeId(format!("store-{number}")),
            address: String::new(),
            zone: String::new(),
            drives: vec![DriveRecord {
                id: DriveId(number),
                incarnation: Incarnation(0),
                path: "/data".to_owned(),
                capacity_bytes: 1 << 40,
                boot_count: 1,
                journal_sequence: 0,
                fresh: false,
                absent: false,
            }],
            version: String::new(),
            protocol: PROTOCOL_VERSION,
            endpoints: Vec::new(),
        };
        let nodes: Vec<NodeRecord> = (0..5).map(node).collect();
        let first = first_layout(&nodes[..4], ClusterId(9)).unwrap();
        let entry = |key: String, value| Entry { key, value, revision: 1, create_revision: 1 };
        let json = |node: &NodeRecord| Bytes::from(serde_json::to_vec(node).unwrap());
        let mut entries: Vec<Entry> =
            nodes.iter().map(|node| entry(node_key(&node.id), json(node))).collect();
        let cluster = serde_json::to_vec(&first.record).unwrap();
        entries.push(entry(CLUSTER_KEY.to_owned(), Bytes::from(cluster)));
        entries.push(entry(LAYOUT_KEY.to_owned(), Bytes::from(first.layout.encode())));
        ClusterMap::from_entries(entries.iter()).unwrap().unwrap()
    }

    #[test]
    fn a_node_is_needed_while_slots_that_it_has_left_are_copied_from_it() {
        let mut map = map();
        let mut take = |source: Option<DriveId>| {
            for partition in (0..PARTITION_COUNT).map(PartitionId) {
                let mut record = map.record(partition);
                let slot = map.layout.slot_on(partition, DriveId(2)).unwrap();
                record.slots[usize::from(slot.0)] =
                    SlotRecord { drive: Some(DriveId(4)), source, ..SlotRecord::default() };
                map.partitions.insert(partition, Arc::new(record));
            }
            let rows = rows(&map, &BTreeSet::new());
            let told = rows.iter().map(|row| (row.slots, row.copied_from)).collect::<Vec<_>>();
            (told, why_needed(&rows[2]), list_screen(&rows))
        };
        let all = u32::from(PARTITION_COUNT);
        let (told, why, screen) = take(Some(DriveId(2)));
        assert_eq!(told, [(all, 0), (all, 0), (0, all), (all, 0), (all, 0)]);
        assert!(why.is_some_and(|why| why.starts_with("4096 slots that node store-2 has left")));
        assert!(screen.contains("0, 4096 copied from it"), "{screen}");
        let (told, why, screen) = take(None);
        assert_eq!((told[2], why), ((0, 0), None));
        assert!(!screen.contains("copied"), "{screen}");
    }

    #[test]
    fn ids_with_ports_fit_into_a_query() {
        assert_eq!(escaped("10.0.0.1:9100"), "10.0.0.1%3A9100");
        assert_eq!(escaped("node_1-a~b"), "node_1-a~b");
    }
}
