//! A cluster under load loses a drive, a node's drives and a hundred shards, and has two drives swapped: each comes back
//! whole with no failed read; what it cost is printed beside what had to move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use coffer_tests::harness::cli::expect;
use coffer_tests::harness::daemons::{Daemon, Daemons};
use coffer_tests::harness::{census, http_get, set_aside, shard_paths, wait_for};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::ONE_AT_A_TIME;
use super::steady::{BUCKET, Steady, key, put, reads};

const NODES: usize = 6;
const ROTTEN: usize = 100;
/// How long the load runs before anything is lost.
const HEALTHY: Duration = Duration::from_secs(30);
/// The status may be so old.
const SETTLED: Duration = Duration::from_secs(15);
/// How long a client rests between two requests.
const REST: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(3600);

/// How many objects there are.
#[expect(clippy::disallowed_methods, reason = "a run is configured by its caller's environment")]
fn objects() -> usize {
    std::env::var("COFFER_REPAIR_OBJECTS").ok().and_then(|count| count.parse().ok()).unwrap_or(3000)
}

/// The sum of a counter of all nodes.
async fn sum(nodes: &[Daemon], name: &str) -> u64 {
    let mut sum = 0.0;
    for node in nodes {
        let (_, text) = http_get(&node.admin_url("/metrics")).await.unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    sum as u64
}

/// Bytes of the shard files of a drive.
fn stored(cluster: &Daemons, node: usize, drive: usize) -> u64 {
    let files = shard_paths(&cluster.drive(node, drive));
    files.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
}

/// Health, shards missing, registers owed, partitions that wait; nothing if the gateway does not know all.
async fn state(cluster: &Daemons) -> Option<(bool, u64, u64, u64)> {
    let (_, body) = http_get(&cluster.gateways[0].admin_url("/api/v1/status")).await?;
    let status: serde_json::Value = serde_json::from_str(&body).ok()?;
    let heal = &status["heal"];
    let drives = status["nodes"].as_array()?.iter().filter_map(|node| node["drives"].as_array()).flatten();
    let waiting = drives.filter_map(|drive| drive["join"]["waiting"].as_u64()).sum();
    let healthy = status["health"] == "healthy" && heal["complete"] == true;
    Some((healthy, heal["missing_shards"].as_u64()?, heal["owed_registers"].as_u64()?, waiting))
}

/// Waits until nothing is missing, and prints what it took. Returns when something was missing last.
async fn mended(cluster: &Daemons, what: &str, (floor, began): (u64, Instant)) -> Result<Instant> {
    let before = Instant::now();
    let lacking = Mutex::new(before);
    let whole = || async {
        // Telling the status is work too.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let state = state(cluster).await;
        // The load leaves something owed at any moment.
        let whole = state
            .is_some_and(|(healthy, missing, owed, waiting)| healthy && waiting == 0 && missing + owed <= 20);
        if !whole {
            *lacking.lock() = Instant::now();
        }
        whole && before.elapsed() > SETTLED && lacking.lock().elapsed() > SETTLED
    };
    let waited = wait_for(&format!("{what} to be mended"), PATIENCE, whole).await;
    let state = state(cluster).await;
    waited.with_context(|| format!("{state:?}"))?;
    let moved = sum(&cluster.nodes, "coffer_heal_bytes_total").await;
    let last = *lacking.lock();
    println!(
        "{what}: {:.0} s, {} MB in shard files had to move, {} MB rebuilt by the nodes since their start",
        (last - began).as_secs_f64(),
        floor / 1_000_000,
        moved / 1_000_000
    );
    Ok(last)
}

/// Kills a node, empties these drives, and starts it so that they are replaced.
fn replace(cluster: &mut Daemons, node: usize, drives: &[usize]) -> Result<()> {
    cluster.nodes[node].process().kill();
    let mut arguments = Vec::new();
    for drive in drives {
        cluster.wipe(node, *drive)?;
        arguments.extend(["--replace".to_owned(), cluster.drive(node, *drive).display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cluster.nodes[node].spawn_with(&arguments)
}

/// Flips a bit in the middle of some files of a drive.
fn rot(cluster: &Daemons, node: usize, drive: usize, count: usize) -> Result<(usize, u64)> {
    let (mut rotten, mut bytes) = (0, 0);
    for path in shard_paths(&cluster.drive(node, drive)).iter().take(count) {
        let mut content = std::fs::read(path)?;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(path, &content)?;
        (rotten, bytes) = (rotten + 1, bytes + content.len() as u64);
    }
    Ok((rotten, bytes))
}

/// Flips a bit in a hundred shards, and waits until all of them were found and made anew.
async fn rotten_shards(cluster: &Daemons, load: &Steady) -> Result<()> {
    let (half, began) = (ROTTEN / 2, Instant::now());
    let before = [set_aside(&cluster.drive(3, 1)), set_aside(&cluster.drive(4, 2))];
    ensure!(before == [0, 0], "{before:?} shards were set aside before any was damaged");
    let rotten = [rot(cluster, 3, 1, half)?, rot(cluster, 4, 2, half)?];
    let wanted = rotten.iter().map(|(count, _)| count).sum::<usize>();
    let floor = rotten.iter().map(|(_, bytes)| bytes).sum();
    ensure!(wanted > 0, "no shard lies in a file of its own");
    expect(&cluster.etcd.url(), "scrub start", 0)?;
    // Found by reads or by scrubbing: each file is set aside, and the shard made anew.
    let found = || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        set_aside(&cluster.drive(3, 1)) + set_aside(&cluster.drive(4, 2)) == wanted
    };
    wait_for("all rotten shards to be found", PATIENCE, found).await?;
    let scrubbed = sum(&cluster.nodes, "coffer_scrub_damaged_shards_total").await;
    println!("{wanted} rotten shards found in {:.0?}, {scrubbed} by scrubbing", began.elapsed());
    let whole = mended(cluster, "rotten shards", (floor, began)).await?;
    println!("rotten shards: {}", load.between(began, whole));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_REPAIR_OBJECTS tells how many objects"]
async fn a_drive_a_node_swapped_drives_and_rotten_shards_are_mended_under_load() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = objects();
    let (mut cluster, clients) = written(count).await?;
    let load = Steady::start(&clients, count, REST);
    let began = Instant::now();
    tokio::time::sleep(HEALTHY).await;
    println!("healthy: {}", load.between(began, Instant::now()));

    let (floor, began) = (stored(&cluster, 0, 1), Instant::now());
    replace(&mut cluster, 0, &[1])?;
    let whole = mended(&cluster, "a wiped drive", (floor, began)).await?;
    println!("a wiped drive: {}", load.between(began, whole));

    let (floor, began) = (stored(&cluster, 1, 1) + stored(&cluster, 1, 2), Instant::now());
    replace(&mut cluster, 1, &[1, 2])?;
    let whole = mended(&cluster, "an emptied node", (floor, began)).await?;
    println!("an emptied node: {}", load.between(began, whole));

    let began = Instant::now();
    cluster.nodes[2].process().kill();
    let (one, two, aside) =
        (cluster.drive(2, 1), cluster.drive(2, 2), cluster.drive(2, 1).with_extension("x"));
    std::fs::rename(&one, &aside)?;
    std::fs::rename(&two, &one)?;
    std::fs::rename(&aside, &two)?;
    cluster.nodes[2].restart().await?;
    let whole = mended(&cluster, "two swapped drives", (0, began)).await?;
    println!("two swapped drives: {}", load.between(began, whole));

    rotten_shards(&cluster, &load).await?;
    all_is_there(&cluster, &clients, load, count).await
}

/// Ends the load; no read of it has failed, nothing is missing anywhere, and every object reads as it was written.
async fn all_is_there(cluster: &Daemons, clients: &[Client], load: Steady, count: usize) -> Result<()> {
    let read = load.end().await?;
    println!("{read} reads under all of it, none failed");
    let etcd = ["--etcd".to_owned(), cluster.etcd.url()];
    let whole = || async { census(&etcd).is_ok_and(|census| census.exit_code == Some(0)) };
    wait_for("a clean census", Duration::from_secs(600), whole).await?;
    for number in 0..count {
        ensure!(reads(&clients[0], number).await?, "{} reads otherwise", key(number));
    }
    Ok(())
}

/// Drives with these objects, all of them whole, and their gateways' clients.
async fn written(count: usize) -> Result<(Daemons, Vec<Client>)> {
    let cluster = Daemons::start(NODES, 2, 2).await?;
    let clients: Vec<Client> = cluster.gateways.iter().map(Daemon::client).collect();
    clients[0].create_bucket().bucket(BUCKET).send().await?;
    let began = Instant::now();
    let written = stream::iter(0..count).map(|number| put(&clients[number % 2], number));
    written.buffer_unordered(8).try_collect::<Vec<()>>().await?;
    println!("{count} objects written in {:.0} s", began.elapsed().as_secs_f64());
    mended(&cluster, "the beginning", (0, Instant::now())).await?;
    Ok((cluster, clients))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_REPAIR_OBJECTS tells how many objects"]
async fn what_requests_take_beside_a_healing_drive() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = objects();
    let (mut cluster, clients) = written(count).await?;
    let load = Steady::start(&clients, count, REST);
    let began = Instant::now();
    tokio::time::sleep(HEALTHY).await;
    let healthy = load.between(began, Instant::now());
    println!("healthy: {healthy}");
    let (floor, killed) = (stored(&cluster, 0, 1), Instant::now());
    replace(&mut cluster, 0, &[1])?;
    let ready =
        || async { state(&cluster).await.is_some_and(|(_, missing, _, waiting)| missing + waiting > 0) };
    wait_for("the drive to be back", PATIENCE, ready).await?;
    let back = Instant::now();
    let votes = || async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        state(&cluster).await.is_some_and(|(_, _, _, waiting)| waiting == 0)
    };
    wait_for("all slots to vote", PATIENCE, votes).await?;
    let voting = Instant::now();
    let whole = mended(&cluster, "a wiped drive", (floor, killed)).await?;
    println!("for {:.0?} until all slots voted: {}", voting - back, load.between(back, voting));
    println!("for {:.0?} after that: {}", whole - voting, load.between(voting, whole));
    let healing = load.between(back, whole);
    println!("for {:.0?} beside the healing: {healing}", whole - back);
    let after = Instant::now();
    tokio::time::sleep(HEALTHY).await;
    println!("healthy again: {}", load.between(after, Instant::now()));
    load.end().await?;
    for (what, healthy, healing) in
        [("reads", healthy.reads, healing.reads), ("writes", healthy.writes, healing.writes)]
    {
        ensure!(healing.count > 100, "hardly anything was asked meanwhile");
        let ratio = healing.p99.as_secs_f64() / healthy.p99.as_secs_f64();
        println!("p99 of {what} beside the healing: {ratio:.1} times the healthy one");
    }
    Ok(())
}
