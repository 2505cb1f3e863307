//! Drives whose system calls fail, wait or hang, and drives that were swapped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::strace::Injection;
use coffer_tests::harness::{status, wait_for};

use super::ONE_AT_A_TIME;

pub(crate) const SIZES: [usize; 4] = [0, 700, 90_000, 2_500_000];

pub(crate) async fn write_all(bucket: &Bucket, round: usize) {
    for size in SIZES {
        let key = format!("key/{size}");
        assert_eq!(bucket.put(&key, body(&key, round, size)).await, Ok(()), "PUT {key}");
    }
}

pub(crate) async fn assert_all(bucket: &Bucket, round: usize) {
    for size in SIZES {
        let key = format!("key/{size}");
        let got = bucket.get(&key).await;
        assert!(got == Ok(body(&key, round, size)), "GET {key}: {:?}", got.map(|bytes| bytes.len()));
    }
    assert_eq!(bucket.get("never-written").await, Err(404));
    assert_eq!(bucket.keys().await.map(|keys| keys.len()), Ok(SIZES.len()));
}

/// Waits until `coffer status` says all of this.
pub(crate) async fn wait_for_status(endpoint: &str, words: &[&str]) -> Result<()> {
    let told =
        || async { status(endpoint).is_ok_and(|(screen, _)| words.iter().all(|word| screen.contains(word))) };
    let waited = wait_for(&format!("the status to say {words:?}"), Duration::from_secs(120), told).await;
    waited.map_err(|error| error.context(status(endpoint).map(|(screen, _)| screen).unwrap_or_default()))
}

async fn start() -> Result<(Daemons, Bucket)> {
    let cluster = Daemons::start(4, 1, 1).await?;
    let bucket = Bucket::create(cluster.gateways[0].client(), "matrix").await?;
    write_all(&bucket, 1).await;
    Ok((cluster, bucket))
}

/// Faults of every file of a node.
async fn inject(cluster: &mut Daemons, node: usize, calls: &str, fault: &str) -> Result<Option<Injection>> {
    let folder = cluster.drive(node, 1).with_file_name("");
    let process = cluster.nodes[node].process().id();
    Injection::attach(process, calls, fault, &[], &folder).await
}

/// A drive that fails in the middle of writes is failed until its node starts again, and then has what it should.
async fn failing_drive(calls: &str, fault: &str) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket) = start().await?;
    let endpoint = cluster.gateways[0].admin_url("");
    let Some(injection) = inject(&mut cluster, 3, calls, fault).await? else { return Ok(()) };
    for round in 2..5 {
        write_all(&bucket, round).await;
        assert_all(&bucket, round).await;
    }
    wait_for_status(&endpoint, &["DEGRADED", "node-3 drive", "is failed"]).await?;
    injection.end().await?;
    // Nobody knows what was dropped: it is not used again by itself.
    write_all(&bucket, 5).await;
    assert_all(&bucket, 5).await;
    wait_for_status(&endpoint, &["DEGRADED", "is failed"]).await?;
    cluster.nodes[3].process().stop(Duration::from_secs(60));
    cluster.nodes[3].restart().await?;
    wait_for_status(&endpoint, &["HEALTHY"]).await?;
    // It votes, and what it missed it does not pretend to have.
    cluster.nodes[0].process().kill();
    let readable = || async { bucket.get("key/0").await.is_ok() };
    wait_for("reads", Duration::from_secs(60), readable).await?;
    assert_all(&bucket, 5).await;
    write_all(&bucket, 6).await;
    assert_all(&bucket, 6).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_once_fails_the_drive_until_its_node_starts_again() -> Result<()> {
    failing_drive("fdatasync", "error=EIO:when=1").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "traces a process"]
async fn a_drive_whose_writes_fail_costs_no_request_and_no_byte() -> Result<()> {
    failing_drive("pwrite64", "error=EIO").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "traces processes"]
async fn reads_that_fail_are_no_answer_about_what_is_there() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket) = start().await?;
    let endpoint = cluster.gateways[0].admin_url("");
    wait_for_status(&endpoint, &["HEALTHY", " 0 shards known to be missing, 0 versions"]).await?;
    // With nothing in memory, every answer needs the drive.
    for node in &mut cluster.nodes {
        node.process().stop(Duration::from_secs(60));
        node.restart().await?;
    }
    wait_for_status(&endpoint, &["HEALTHY"]).await?;
    let Some(first) = inject(&mut cluster, 3, "pread64", "error=EIO").await? else { return Ok(()) };
    assert_all(&bucket, 1).await;
    let mut injections = vec![first];
    for node in [1, 2] {
        injections.extend(inject(&mut cluster, node, "pread64", "error=EIO").await?);
    }
    for size in SIZES {
        let got = bucket.get(&format!("key/{size}")).await.map(|bytes| bytes.len());
        // What fits into memory may still be known.
        ensure!(matches!(got, Err(503 | 0)) || got == Ok(body("key", 1, size).len()), "{size}: {got:?}");
        ensure!(size < 100_000 || got.is_err(), "the shards cannot be read");
    }
    for injection in injections {
        injection.end().await?;
    }
    let readable = || async { bucket.get("key/2500000").await.is_ok() };
    wait_for("reads", Duration::from_secs(60), readable).await?;
    assert_all(&bucket, 1).await;
    Ok(())
}

/// The longest PUT and GET of some.
async fn slowest(bucket: &Bucket, round: usize) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for turn in 0..5 {
        let start = Instant::now();
        write_all(bucket, 10 * round + turn).await;
        assert_all(bucket, 10 * round + turn).await;
        slowest = slowest.max(start.elapsed());
    }
    Ok(slowest)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "traces a process"]
async fn a_slow_drive_costs_little_time_and_no_request() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, bucket) = start().await?;
    let healthy = slowest(&bucket, 1).await?;
    let slow = "delay_enter=500000";
    let Some(injection) = inject(&mut cluster, 3, "pread64,pwrite64,fdatasync", slow).await? else {
        return Ok(());
    };
    let with_slow = slowest(&bucket, 2).await?;
    println!("four PUTs and five GETs: {healthy:?} healthy, {with_slow:?} with a drive of 500 ms a call");
    ensure!(with_slow < Duration::from_secs(30), "{with_slow:?}");
    injection.end().await?;
    wait_for_status(&cluster.gateways[0].admin_url(""), &["HEALTHY", ", 0 versions"]).await?;
    assert_all(&bucket, 24).await;
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "traces a process"]
async fn a_hanging_drive_holds_up_neither_the_others_nor_the_status() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = Standalone::start(4).await?;
    let bucket = Bucket::create(server.client(), "matrix").await?;
    write_all(&bucket, 1).await;
    let (calls, hang) = ("pread64,pwrite64,fdatasync", "delay_enter=600000000");
    let (process, drive) = (server.process().id(), server.drive(1));
    let folder = drive.with_file_name("");
    let Some(injection) = Injection::attach(process, calls, hang, &files(&drive), &folder).await? else {
        return Ok(());
    };
    let took = slowest(&bucket, 1).await?;
    println!("four PUTs and five GETs beside a hanging drive: {took:?}");
    ensure!(took < Duration::from_secs(60), "{took:?}");
    let asked = Instant::now();
    wait_for_status(&server.admin_url(""), &["drive1 is suspect"]).await?;
    println!("the status said so after {:?}", asked.elapsed());
    wait_for_status(&server.admin_url(""), &["drive1 is failed: a call has been hanging"]).await?;
    write_all(&bucket, 30).await;
    assert_all(&bucket, 30).await;
    injection.end().await?;
    wait_for_status(&server.admin_url(""), &["HEALTHY"]).await?;
    write_all(&bucket, 31).await;
    assert_all(&bucket, 31).await;
    Ok(())
}

fn swap(one: &Path, other: &Path) -> Result<()> {
    let aside = one.with_extension("aside");
    std::fs::rename(one, &aside)?;
    std::fs::rename(other, one)?;
    Ok(std::fs::rename(aside, other)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_that_were_swapped_are_known_by_their_ids() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::start(4).await?;
    let bucket = Bucket::create(server.client(), "matrix").await?;
    write_all(&bucket, 1).await;
    server.process_mut().stop(Duration::from_secs(60));
    swap(&server.drive(1), &server.drive(3))?;
    server.launch().await?;
    assert_all(&bucket, 1).await;
    write_all(&bucket, 2).await;
    assert_all(&bucket, 2).await;
    wait_for_status(&server.admin_url(""), &["HEALTHY"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_that_were_swapped_between_nodes_are_found_where_they_are() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(4, 1).await?;
    let bucket = Bucket::create(cluster.client(0), "matrix").await?;
    write_all(&bucket, 1).await;
    cluster.kill(1);
    cluster.kill(2);
    swap(&cluster.drive(1, 1), &cluster.drive(2, 1))?;
    for node in [1, 2] {
        cluster.spawn(node)?;
    }
    for node in [1, 2] {
        cluster.wait_ready(node).await?;
    }
    wait_for_status(&cluster.nodes()[0].admin_url(""), &["HEALTHY"]).await?;
    assert_all(&bucket, 1).await;
    write_all(&bucket, 2).await;
    // Each of the two is needed now.
    cluster.kill(3);
    let readable = || async { bucket.get("key/0").await.is_ok() };
    wait_for("reads", Duration::from_secs(60), readable).await?;
    assert_all(&bucket, 2).await;
    write_all(&bucket, 3).await;
    assert_all(&bucket, 3).await;
    Ok(())
}
