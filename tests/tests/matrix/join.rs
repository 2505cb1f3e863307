//! Drives that lost their state and are replaced: their slots learn what their partitions have promised, and vote again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_s3::Client;
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::daemons::{Daemon, Daemons};
use coffer_tests::harness::process::Process;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{http_get, wait_for};
use tokio::task::JoinHandle;

use super::ONE_AT_A_TIME;
use super::drive::wait_for_status;
use super::load::Load;

const SIZES: [usize; 3] = [0, 700, 400_000];

/// What a bucket must show, whatever happens to drives.
#[derive(Clone)]
struct Fixed {
    keys: Vec<String>,
}

impl Fixed {
    /// Objects of every kind of size; every third was deleted again, every fourth overwritten.
    async fn write(bucket: &Bucket, count: usize) -> Result<Self> {
        let keys: Vec<String> = (0..count).map(|number| format!("fixed/{number:03}")).collect();
        for (number, key) in keys.iter().enumerate() {
            let put = async |round| bucket.put(key, body(key, round, SIZES[number % 3])).await;
            ensure!(put(1).await == Ok(()), "PUT {key}");
            if number % 4 == 1 {
                ensure!(put(2).await == Ok(()), "PUT {key}");
            }
            if number % 3 == 0 {
                ensure!(bucket.delete(key).await == Ok(()), "DELETE {key}");
            }
        }
        Ok(Self { keys })
    }

    fn wanted(&self, number: usize) -> Result<Vec<u8>, u16> {
        let round = if number % 4 == 1 { 2 } else { 1 };
        if number.is_multiple_of(3) {
            Err(404)
        } else {
            Ok(body(&self.keys[number], round, SIZES[number % 3]))
        }
    }

    async fn assert(&self, bucket: &Bucket) -> Result<()> {
        for (number, key) in self.keys.iter().enumerate() {
            let got = bucket.get(key).await;
            ensure!(got == self.wanted(number), "GET {key}: {:?}", got.map(|bytes| bytes.len()));
        }
        let mut listed = bucket.keys().await.map_err(|status| anyhow::anyhow!("LIST: {status}"))?;
        listed.retain(|key| key.starts_with("fixed/"));
        let there = self.keys.iter().enumerate().filter(|(number, _)| number % 3 != 0);
        ensure!(listed == there.map(|(_, key)| key.clone()).collect::<Vec<_>>(), "LIST: {listed:?}");
        Ok(())
    }
}

/// Reads all the time; the first wrong or failed answer ends it.
struct Reader {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    task: JoinHandle<Result<()>>,
}

impl Reader {
    fn start(bucket: Bucket, fixed: Fixed) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                fixed.assert(&bucket).await?;
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        Self { stop, rounds, task }
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await??;
        ensure!(self.rounds.load(Ordering::SeqCst) > 0, "nothing was read");
        Ok(())
    }
}

async fn start(drives: usize) -> Result<(Daemons, Bucket, Fixed)> {
    let cluster = Daemons::start(4, drives, 2).await?;
    let bucket = Bucket::create(cluster.gateways[0].client(), "join").await?;
    let fixed = Fixed::write(&bucket, 24).await?;
    Ok((cluster, bucket, fixed))
}

/// The last drive of the last node is emptied while its node is down, and begins anew.
fn replace_drive(cluster: &mut Daemons, drive: usize) -> Result<()> {
    cluster.nodes[3].process().kill();
    cluster.wipe(3, drive)?;
    let path = cluster.drive(3, drive);
    cluster.nodes[3].spawn_with(&["--replace", &path.display().to_string()])
}

/// Partitions in which the drives of a node do not vote yet; `None` while it does not answer.
async fn waiting(node: &Daemon) -> Option<u64> {
    let (_, ready) = http_get(&node.admin_url("/health/ready")).await?;
    let told: serde_json::Value = serde_json::from_str(&ready).ok()?;
    told["drives"].as_array()?.iter().map(|drive| drive["join"]["waiting"].as_u64()).sum()
}

/// Waits until a gateway knows that all slots of the replaced drive vote.
pub(crate) async fn wait_until_joined(admin: &str) -> Result<()> {
    let url = format!("{admin}/api/v1/status");
    let joined = || async {
        let told = http_get(&url).await.unwrap_or_default().1;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
        let nodes = told["nodes"].as_array().into_iter().flatten();
        let mut joins =
            nodes.filter_map(|node| node["drives"].as_array()).flatten().map(|drive| &drive["join"]);
        told["health"] == "healthy"
            && joins.any(|join| join["partitions"].as_u64() > Some(0) && join["waiting"] == 0)
    };
    wait_for("all slots to vote", Duration::from_secs(300), joined).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_drive_votes_again_and_no_read_fails_meanwhile() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket, fixed) = start(1).await?;
    let buckets: Vec<_> = cluster.gateways.iter().map(|gateway| bucket.through(gateway.client())).collect();
    let mut load = Load::start(buckets.clone(), 8);
    load.progress(30).await?;
    cluster.nodes[3].process().kill();
    wait_for_status(&cluster.gateways[0].admin_url(""), &["node-3 does not answer"]).await?;
    wait_for_status(&cluster.gateways[1].admin_url(""), &["node-3 does not answer"]).await?;
    let readers: Vec<_> = buckets.iter().map(|bucket| Reader::start(bucket.clone(), fixed.clone())).collect();
    replace_drive(&mut cluster, 1)?;
    wait_until_joined(&cluster.gateways[0].admin_url("")).await?;
    load.progress(30).await?;
    for reader in readers {
        reader.end().await?;
    }
    load.pause().await;
    load.verify(&bucket).await?;
    let refused = load.refused();
    ensure!(refused.keys().all(|status| *status == 503), "{refused:?}");
    // Of the three that are left two decide: the new drive with another.
    cluster.nodes[0].process().kill();
    for bucket in &buckets {
        let ready = || async { bucket.get(&fixed.keys[1]).await.is_ok() };
        wait_for("reads through the new drive", Duration::from_secs(60), ready).await?;
        fixed.assert(bucket).await?;
        load.verify(bucket).await?;
    }
    assert_eq!(bucket.put("after", body("after", 1, 700)).await, Ok(()), "its votes are counted");
    Ok(())
}

/// Creates a key that must not exist.
async fn create(client: &Client, key: &str, winner: &'static str) -> bool {
    let put = client.put_object().bucket("join").key(key).body(winner.as_bytes().to_vec().into());
    put.if_none_match("*").send().await.is_ok()
}

/// Two gateways create the same keys, one after the other, until they are told to stop.
async fn race(clients: [Client; 2], stop: Arc<AtomicBool>) -> Result<usize> {
    let bucket = Bucket::new(clients[0].clone(), "join");
    let mut won = 0;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("race/{number}");
        let created =
            tokio::join!(create(&clients[0], &key, "the first"), create(&clients[1], &key, "the second"));
        let winner = match created {
            (true, true) => bail!("`{key}` was created twice"),
            (true, false) => "the first",
            (false, true) => "the second",
            (false, false) => continue,
        };
        won += 1;
        ensure!(!create(&clients[0], &key, "the third").await, "`{key}` was created again");
        if let Ok(bytes) = bucket.get(&key).await {
            ensure!(bytes == winner.as_bytes(), "`{key}` is not what {winner} wrote");
        }
    }
    Ok(won)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_joins_goes_on_and_each_create_has_one_winner() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket, fixed) = start(1).await?;
    let stop = Arc::<AtomicBool>::default();
    let clients = [cluster.gateways[0].client(), cluster.gateways[1].client()];
    let racing = tokio::spawn(race(clients, stop.clone()));
    replace_drive(&mut cluster, 1)?;
    for _ in 0..2 {
        let partly =
            || async { waiting(&cluster.nodes[3]).await.is_some_and(|left| (1..4096).contains(&left)) };
        wait_for("a part of the slots to vote", Duration::from_secs(180), partly).await?;
        cluster.nodes[3].process().kill();
        cluster.nodes[3].spawn()?;
    }
    wait_until_joined(&cluster.gateways[0].admin_url("")).await?;
    stop.store(true, Ordering::SeqCst);
    ensure!(racing.await?? > 0, "nothing was created");
    cluster.nodes[1].process().kill();
    let ready = || async { bucket.get(&fixed.keys[1]).await.is_ok() };
    wait_for("reads through the new drive", Duration::from_secs(60), ready).await?;
    fixed.assert(&bucket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_drive_waits_while_too_few_others_vote() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket, fixed) = start(1).await?;
    cluster.nodes[0].process().kill();
    cluster.nodes[1].process().kill();
    replace_drive(&mut cluster, 1)?;
    let says = || {
        let log = cluster.nodes[3].process().log();
        async move { log.contains("slots wait until enough others") }
    };
    wait_for("the node to say that it waits", Duration::from_secs(120), says).await?;
    ensure!(waiting(&cluster.nodes[3]).await == Some(4096), "one of the other three is no quorum");
    ensure!(bucket.get(&fixed.keys[0]).await == Err(503), "nor is it with one that has forgotten all");
    cluster.nodes[0].restart().await?;
    let joined = || async { waiting(&cluster.nodes[3]).await == Some(0) };
    wait_for("all slots to vote", Duration::from_secs(180), joined).await?;
    cluster.nodes[1].restart().await?;
    wait_until_joined(&cluster.gateways[0].admin_url("")).await?;
    fixed.assert(&bucket).await
}

/// Starts the server with these arguments besides, and waits until it is ready.
async fn launch_with(server: &Standalone, arguments: &[&str]) -> Result<Process> {
    let mut command = server.command();
    command.args(arguments);
    let process = Process::start("again", &server.drive(1).with_file_name(""), &mut command)?;
    let url = server.admin_url("/health/ready");
    let ready = || async { http_get(&url).await.is_some_and(|(status, _)| status == 200) };
    let waited = wait_for("the server to be ready", Duration::from_secs(90), ready).await;
    waited.with_context(|| process.log_tail())?;
    Ok(process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_folder_of_a_server_votes_again_and_the_old_one_never_does() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::start(4).await?;
    let bucket = Bucket::create(server.client(), "join").await?;
    let fixed = Fixed::write(&bucket, 24).await?;
    server.process_mut().stop(Duration::from_secs(60));
    let (drive, aside) = (server.drive(2), server.drive(2).with_extension("aside"));
    std::fs::rename(&drive, &aside)?;
    std::fs::create_dir(&drive)?;
    let mut process = launch_with(&server, &["--replace", &drive.display().to_string()]).await?;
    fixed.assert(&bucket).await?;
    wait_until_joined(&server.admin_url("")).await?;
    fixed.assert(&bucket).await?;
    process.stop(Duration::from_secs(60));
    // The old one has forgotten what was promised since.
    let new = drive.with_extension("new");
    std::fs::rename(&drive, &new)?;
    std::fs::rename(&aside, &drive)?;
    let mut refused = Process::start("refused", &drive.with_file_name(""), &mut server.command())?;
    let status = refused.wait(Duration::from_secs(90));
    ensure!(status.is_some_and(|status| !status.success()), "{}", refused.log_tail());
    ensure!(refused.log().contains("was replaced"), "{}", refused.log_tail());
    std::fs::remove_dir_all(&drive)?;
    std::fs::rename(&new, &drive)?;
    // Its votes are counted: of the others only two are there.
    std::fs::write(server.drive(3).join("coffer.json"), "{")?;
    server.launch().await?;
    fixed.assert(&bucket).await?;
    assert_eq!(bucket.put("after", body("after", 1, 700)).await, Ok(()));
    Ok(())
}
