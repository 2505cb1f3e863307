//! What a slot missed, or lost, comes back by itself, and what was deleted does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use coffer_tests::harness::cli::{Printed, coffer};
use coffer_tests::harness::daemons::{Daemon, Daemons};
use coffer_tests::harness::{census, http_get, set_aside, shard_paths, status, wait_for};
use coffer_tests::proxy::Link;

const BUCKET: &str = "heal";
const INLINE: usize = 3_000;
const FILE: usize = 2_500_000;
const PART: usize = 5 << 20;
/// However slow the machine is, all must be healed by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// The objects that must be there, by key, as the byte they are filled with and their size.
#[derive(Default)]
struct Objects(BTreeMap<String, (u8, usize)>);

impl Objects {
    async fn put(&mut self, client: &Client, key: &str, fill: u8, size: usize) -> Result<()> {
        let body = ByteStream::from(vec![fill; size]);
        client.put_object().bucket(BUCKET).key(key).body(body).send().await?;
        self.0.insert(key.to_owned(), (fill, size));
        Ok(())
    }

    async fn put_parts(&mut self, client: &Client, key: &str, fill: u8, last: usize) -> Result<()> {
        let upload = client.create_multipart_upload().bucket(BUCKET).key(key).send().await?;
        let id = upload.upload_id().context("an upload id")?;
        let mut parts = Vec::new();
        for (number, size) in [(1, PART), (2, last)] {
            let part = client.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
            let done = part.body(ByteStream::from(vec![fill; size])).send().await?;
            let part = CompletedPart::builder().part_number(number);
            parts.push(part.set_e_tag(done.e_tag().map(str::to_owned)).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
        complete.multipart_upload(parts).send().await?;
        self.0.insert(key.to_owned(), (fill, PART + last));
        Ok(())
    }

    async fn delete(&mut self, client: &Client, key: &str) -> Result<()> {
        client.delete_object().bucket(BUCKET).key(key).send().await?;
        self.0.remove(key);
        Ok(())
    }

    /// The listing shows exactly these, and each reads as it was written.
    async fn check(&self, client: &Client) -> Result<()> {
        let listed = client.list_objects_v2().bucket(BUCKET).send().await?;
        let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
        ensure!(keys == self.0.keys().map(String::as_str).collect::<Vec<_>>(), "listed: {keys:?}");
        for (key, (fill, size)) in &self.0 {
            let read = client.get_object().bucket(BUCKET).key(key).send().await.context(key.clone())?;
            let body = read.body.collect().await.context(key.clone())?.into_bytes();
            ensure!(body.len() == *size && body.iter().all(|byte| byte == fill), "`{key}` reads otherwise");
        }
        Ok(())
    }
}

/// Writes some of everything under a name.
async fn write_all(objects: &mut Objects, client: &Client, name: &str, fill: u8) -> Result<()> {
    for number in 0..20 {
        objects.put(client, &format!("{name}/inline-{number}"), fill, INLINE).await?;
    }
    objects.put(client, &format!("{name}/file"), fill, FILE).await?;
    objects.put(client, &format!("{name}/empty"), fill, 0).await?;
    objects.put_parts(client, &format!("{name}/parts"), fill, INLINE).await
}

async fn wait_until_whole(cluster: &Daemons) -> Result<()> {
    let etcd = ["--etcd".to_owned(), cluster.etcd.url()];
    let whole = || async { census(&etcd).is_ok_and(|census| census.exit_code == Some(0)) };
    let waited = wait_for("every shard to be there", PATIENCE, whole).await;
    waited.with_context(|| format!("{:#?}", census(&etcd).map(|census| census.sum)))
}

/// What `coffer status --json` says of healing.
async fn backlog(cluster: &Daemons) -> Option<(u64, u64, bool)> {
    let (_, body) = http_get(&cluster.gateways[0].admin_url("/api/v1/status")).await?;
    let status: serde_json::Value = serde_json::from_str(&body).ok()?;
    let heal = &status["heal"];
    let count = |name: &str| heal[name].as_u64();
    Some((count("missing_shards")?, count("owed_registers")?, heal["complete"].as_bool()?))
}

async fn wait_for_backlog(cluster: &Daemons, what: &str, test: fn((u64, u64, bool)) -> bool) -> Result<()> {
    wait_for(what, PATIENCE, || async { backlog(cluster).await.is_some_and(test) }).await
}

async fn start(nodes: usize) -> Result<(Daemons, Client)> {
    let cluster = Daemons::start(nodes, 1, 1).await?;
    let client = cluster.gateways[0].client();
    client.create_bucket().bucket(BUCKET).send().await?;
    Ok((cluster, client))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_gets_all_it_missed_and_nothing_that_was_deleted() -> Result<()> {
    let (mut cluster, client) = start(4).await?;
    let mut objects = Objects::default();
    write_all(&mut objects, &client, "before", 1).await?;
    for key in ["deleted-inline", "deleted-file", "deleted-parts"] {
        match key {
            "deleted-parts" => objects.put_parts(&client, key, 1, INLINE).await?,
            "deleted-file" => objects.put(&client, key, 1, FILE).await?,
            _ => objects.put(&client, key, 1, INLINE).await?,
        }
    }
    wait_until_whole(&cluster).await?;

    cluster.nodes[3].process().kill();
    write_all(&mut objects, &client, "during", 2).await?;
    objects.put(&client, "before/inline-0", 3, FILE).await?;
    objects.put(&client, "before/file", 3, INLINE).await?;
    for key in ["deleted-inline", "deleted-file", "deleted-parts"] {
        objects.delete(&client, key).await?;
    }
    wait_for_backlog(&cluster, "the status to tell what is owed", |(_, owed, _)| owed > 0).await?;

    cluster.nodes[3].restart().await?;
    wait_until_whole(&cluster).await?;
    wait_for_backlog(&cluster, "nothing to be unfinished", |known| known == (0, 0, true)).await?;
    let endpoint = cluster.gateways[0].admin_url("");
    let words = "0 shards known to be missing";
    let well =
        || async { status(&endpoint).is_ok_and(|(screen, code)| screen.contains(words) && code == Some(0)) };
    let waited = wait_for("the status to say that all is well", PATIENCE, well).await;
    waited.with_context(|| format!("{:?}", status(&endpoint)))?;

    // Half of the slots are enough for what is at rest; the node that was away is one of them.
    for node in [0, 1] {
        cluster.nodes[node].process().kill();
    }
    wait_for("reads on the other half", PATIENCE, || async { objects.check(&client).await.is_ok() }).await?;
    objects.check(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_took_no_part_in_writes_gets_its_shards_although_its_node_never_left() -> Result<()> {
    let cluster = Daemons::start_behind_proxies(4, 1, 1).await?;
    let client = cluster.gateways[0].client();
    client.create_bucket().bucket(BUCKET).send().await?;
    let mut objects = Objects::default();
    write_all(&mut objects, &client, "before", 1).await?;
    cluster.proxies[2].set(Link::RESET);
    write_all(&mut objects, &client, "during", 2).await?;
    objects.delete(&client, "before/inline-1").await?;
    cluster.proxies[2].set(Link::OPEN);
    wait_until_whole(&cluster).await?;
    wait_for_backlog(&cluster, "nothing to be unfinished", |known| known == (0, 0, true)).await?;
    objects.check(&client).await
}

/// What the gateway tells of the cluster.
async fn told(cluster: &Daemons) -> Option<serde_json::Value> {
    let (_, body) = http_get(&cluster.gateways[0].admin_url("/api/v1/status")).await?;
    serde_json::from_str(&body).ok()
}

fn may_stop(cluster: &Daemons, node: &str) -> Result<Printed> {
    let endpoint = cluster.gateways[0].admin_url("");
    coffer("", &format!("node drain --for-restart --endpoint {endpoint} {node}"), "")
}

async fn wait_until_all_is_well(cluster: &Daemons) -> Result<()> {
    let endpoint = cluster.gateways[0].admin_url("");
    let well = || async {
        let healthy =
            status(&endpoint).is_ok_and(|(screen, code)| screen.starts_with("HEALTHY") && code == Some(0));
        healthy && may_stop(cluster, "node-0").is_ok_and(|printed| printed.code == Some(0))
    };
    let waited = wait_for("the status to be healthy, and a node to be free to stop", PATIENCE, well).await;
    waited.with_context(|| format!("{:?} {:?}", status(&endpoint), may_stop(cluster, "node-0")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_that_all_is_well_while_a_drive_that_votes_still_lacks_its_shards() -> Result<()> {
    // Of four slots three have data: what one lost can only be made from all others.
    let mut cluster = Daemons::start_behind_proxies(4, 1, 1).await?;
    let client = cluster.gateways[0].client();
    client.create_bucket().bucket(BUCKET).send().await?;
    let mut objects = Objects::default();
    for number in 0..40 {
        let (key, body) = (format!("reduced-{number}"), ByteStream::from(vec![number; INLINE]));
        let put = client.put_object().bucket(BUCKET).key(&key).body(body);
        put.storage_class(StorageClass::ReducedRedundancy).send().await?;
        objects.0.insert(key, (number, INLINE));
    }
    wait_until_whole(&cluster).await?;
    wait_until_all_is_well(&cluster).await?;

    // The new drive's slots can have votes with two others, and no shards without the first.
    cluster.nodes[3].process().kill();
    cluster.wipe(3, 1)?;
    let path = cluster.drive(3, 1).display().to_string();
    cluster.nodes[3].spawn_with(&["--replace", &path])?;
    let process = cluster.nodes[3].process().id();
    cluster.proxies[0].set_for(process, Link::RESET);
    let known = || async {
        let Some(told) = told(&cluster).await else { return false };
        let drive = &told["nodes"][3]["drives"][0];
        let votes = drive["join"]["partitions"] == 4096 && drive["join"]["waiting"] == 0;
        votes && told["quorum"]["complete"] == 4096 && drive["lacking_partitions"].as_u64() > Some(0)
    };
    let waited = wait_for("the new drive to vote, and to know what it lacks", PATIENCE, known).await;
    waited.with_context(|| cluster.nodes[3].process().log_tail())?;
    let now = told(&cluster).await.context("a status")?;
    let (heal, quorum) = (&now["heal"], &now["quorum"]);
    ensure!(now["health"] == "degraded" && now["data_shards"] == 3, "{now}");
    ensure!(heal["missing_shards"] == 40 && heal["eta_seconds"].is_null(), "{now}");
    ensure!(quorum["certain"] == 4096 && quorum["spare_for_reads"] == 0, "{now}");
    let (screen, code) = status(&cluster.gateways[0].admin_url(""))?;
    let words = "DEGRADED: 40 shards are missing; every object can be read and written";
    ensure!(code == Some(4) && screen.starts_with(words), "{screen}");
    let refused = may_stop(&cluster, "node-1")?;
    ensure!(refused.code == Some(1) && refused.err.contains("node node-3 drive"), "{refused:?}");
    ensure!(refused.err.contains("still lacks 40 shards"), "{refused:?}");
    let itself = may_stop(&cluster, "node-3")?;
    ensure!(itself.code == Some(0), "the other three have all: {itself:?}");

    cluster.proxies[0].set(Link::OPEN);
    wait_until_whole(&cluster).await?;
    wait_until_all_is_well(&cluster).await?;
    objects.check(&client).await
}

/// The value of a counter or gauge of a process; all its labels together, 0 if it is not there yet.
async fn metric(daemon: &Daemon, name: &str) -> Result<u64> {
    let (_, text) = http_get(&daemon.admin_url("/metrics")).await.context("no metrics")?;
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}

/// The sum of a metric of all these.
async fn sum(daemons: &[Daemon], name: &str) -> Result<u64> {
    let mut sum = 0;
    for daemon in daemons {
        sum += metric(daemon, name).await?;
    }
    Ok(sum)
}

/// Registers that the nodes have walked over to find what they owe.
async fn walked(nodes: &[Daemon]) -> Result<u64> {
    sum(nodes, "coffer_heal_walked_registers_total").await
}

/// Writes small objects until it is told to stop; gives their number.
async fn load(client: Client, name: String, stop: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let put = client.put_object().bucket(BUCKET).key(format!("{name}/{written}"));
        if put.body(ByteStream::from(vec![7; INLINE])).send().await.is_ok() {
            written += 1;
        }
    }
    written
}

/// A node is away for a while under load, and has caught up, under load, as soon after its return.
async fn catches_up_under_load(away: Duration, limit: Duration) -> Result<()> {
    let (mut cluster, client) = start(4).await?;
    let stop = Arc::<AtomicBool>::default();
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(load(client.clone(), format!("w{writer}"), Arc::clone(&stop))))
        .collect();
    wait_for_backlog(&cluster, "the first walks", |(.., complete)| complete).await?;
    let walked_before = walked(&cluster.nodes[..3]).await?;
    cluster.nodes[3].process().kill();
    tokio::time::sleep(away).await;
    // What the gateway knows of it is some seconds old.
    wait_for_backlog(&cluster, "the status to tell what is owed", |(_, owed, _)| owed > 0).await?;
    let (_, owed, _) = backlog(&cluster).await.context("a status")?;
    cluster.nodes[3].restart().await?;
    let returned = Instant::now();
    // What is under way at any moment is not behind.
    let in_sync = || async {
        let lacks = metric(&cluster.nodes[3], "coffer_heal_missing_shards").await.unwrap_or(u64::MAX / 2);
        let left = metric(&cluster.nodes[0], "coffer_heal_owed_registers").await.unwrap_or(u64::MAX / 2);
        let rebuilt = metric(&cluster.nodes[3], "coffer_heal_shards_total").await.unwrap_or_default();
        lacks + left <= 20 && rebuilt >= owed
    };
    wait_for("the node to catch up under load", limit, in_sync).await?;
    let took = returned.elapsed();
    let rebuilt = metric(&cluster.nodes[3], "coffer_heal_shards_total").await?;
    ensure!(walked(&cluster.nodes[..3]).await? == walked_before, "the peers have scanned their registers");
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await?;
    }
    println!(
        "{written} objects; {owed} owed after {away:?}; {rebuilt} shards rebuilt, in sync after {took:?}"
    );
    ensure!(owed > 0 && rebuilt >= owed, "the load did not miss the node");
    wait_until_whole(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_some_seconds_under_load_catches_up_without_a_scan() -> Result<()> {
    catches_up_under_load(Duration::from_secs(5), PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "on demand: a minute away, in sync a minute after its return; prints figures"]
async fn a_node_that_was_away_for_a_minute_under_load_is_in_sync_within_a_minute() -> Result<()> {
    catches_up_under_load(Duration::from_secs(60), Duration::from_secs(60)).await
}

/// Flips a bit in the middle of a file.
fn damage(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(file, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_shard_that_a_read_finds_is_set_aside_and_made_anew() -> Result<()> {
    let (cluster, client) = start(4).await?;
    let mut objects = Objects::default();
    for number in 0..8 {
        objects.put(&client, &format!("file-{number}"), number, FILE).await?;
    }
    wait_until_whole(&cluster).await?;
    let drive = cluster.drive(1, 1);
    let files = shard_paths(&drive);
    ensure!(files.len() == 8, "{files:?}");
    for file in &files {
        damage(file)?;
    }
    // Reads want data shards, so they find those that are data; the census reads every shard.
    objects.check(&client).await?;
    wait_for("a read to find rot", PATIENCE, || async { set_aside(&drive) > 0 }).await?;
    wait_until_whole(&cluster).await?;
    ensure!(set_aside(&drive) == 8, "{:?}", shard_paths(&drive));
    wait_for_backlog(&cluster, "nothing to be unfinished", |known| known == (0, 0, true)).await?;
    objects.check(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_that_nobody_reads_is_found_by_scrubbing_and_made_anew() -> Result<()> {
    let (cluster, client) = start(4).await?;
    let mut objects = Objects::default();
    for number in 0..8 {
        objects.put(&client, &format!("file-{number}"), number, FILE).await?;
    }
    write_all(&mut objects, &client, "others", 9).await?;
    wait_until_whole(&cluster).await?;
    let etcd = cluster.etcd.url();
    let scrub = |command: &str| -> Result<()> {
        let printed = coffer(&etcd, &format!("scrub {command} --json"), "")?;
        ensure!(printed.code == Some(0), "{printed:?}");
        Ok(())
    };
    // A pass that finds nothing.
    scrub("start")?;
    let passed = |times: u64| {
        let nodes = &cluster.nodes;
        async move {
            for node in nodes {
                if metric(node, "coffer_scrub_passes_total").await.unwrap_or_default() < times {
                    return false;
                }
            }
            true
        }
    };
    wait_for("a pass of all drives", PATIENCE, || passed(1)).await?;
    for node in &cluster.nodes {
        ensure!(metric(node, "coffer_scrub_damaged_shards_total").await? == 0);
        ensure!(metric(node, "coffer_scrub_shards_total").await? > 8);
    }
    let drive = cluster.drive(1, 1);
    let files = shard_paths(&drive);
    ensure!(files.len() >= 8, "{files:?}");
    for file in &files {
        damage(file)?;
    }
    scrub("start")?;
    wait_for("the rot to be found", PATIENCE, || async {
        sum(&cluster.nodes, "coffer_scrub_damaged_shards_total").await.ok() == Some(files.len() as u64)
    })
    .await?;
    wait_for("all to be made anew", PATIENCE, || async { set_aside(&drive) == files.len() }).await?;
    wait_for_backlog(&cluster, "nothing to be unfinished", |known| known == (0, 0, true)).await?;
    let endpoint = cluster.gateways[0].admin_url("");
    let words = format!("{} damaged shards found", files.len());
    let told = || async { status(&endpoint).is_ok_and(|(screen, _)| screen.contains(&words)) };
    wait_for("the status to say what was found", PATIENCE, told).await?;
    wait_until_whole(&cluster).await?;
    objects.check(&client).await
}
