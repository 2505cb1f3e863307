//! Nodes that are killed, stopped, paused, restarted one by one, and that come back with what they had long ago.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_common::coordination::{Coordinator, Entry, EtcdCoordinator, EtcdOptions};
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::daemons::{Daemon, Daemons};
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::process::Process;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::wait_for;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ONE_AT_A_TIME;
use super::join::wait_until_joined;
use super::load::Load;

/// A bucket, and two clients at each gateway.
async fn clients(cluster: &Daemons) -> Result<(Bucket, Vec<Bucket>)> {
    let bucket = Bucket::create(cluster.gateways[0].client(), "matrix").await?;
    let through = cluster.gateways.iter().flat_map(|gateway| [gateway.client(), gateway.client()]);
    Ok((bucket.clone(), through.map(|client| bucket.through(client)).collect()))
}

/// Refusals that a client retries by itself.
fn assert_retryable(load: &Load) {
    let refused = load.refused();
    assert!(refused.keys().all(|status| *status == 503), "{refused:?}");
}

/// SIGTERM: the node ends by itself.
fn tell_to_stop(node: &mut Daemon) -> Result<()> {
    let ended = node.process().stop(Duration::from_secs(60));
    ensure!(ended.is_some_and(|status| status.success()), "{ended:?} {}", node.process().log_tail());
    Ok(())
}

/// Ends a load: all that was told is there, and nobody was refused but retryably.
async fn end(mut load: Load, bucket: &Bucket) -> Result<()> {
    load.pause().await;
    load.verify(bucket).await?;
    assert_retryable(&load);
    Ok(())
}

async fn kill_at_any_moment(kills: u64) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Daemons::start(4, 1, 2).await?;
    let (bucket, buckets) = clients(&cluster).await?;
    let mut random = StdRng::seed_from_u64(kills);
    let mut load = Load::start(buckets.clone(), kills);
    for kill in 0..kills {
        load.progress(random.random_range(5..40)).await?;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        let node = &mut cluster.nodes[random.random_range(0..4)];
        node.process().kill();
        load.progress(20).await?;
        node.restart().await?;
        if kill % 4 == 3 {
            load.pause().await;
            load.verify(&bucket).await?;
            load.go_on(buckets.clone());
        }
    }
    load.pause().await;
    for gateway in &cluster.gateways {
        load.verify(&bucket.through(gateway.client())).await?;
    }
    assert_retryable(&load);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_moment_leaves_whole_versions_only() -> Result<()> {
    kill_at_any_moment(4).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_node_killed_at_a_hundred_moments_leaves_whole_versions_only() -> Result<()> {
    kill_at_any_moment(100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_fails_no_request_but_retryably() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Daemons::start(4, 1, 2).await?;
    let (bucket, buckets) = clients(&cluster).await?;
    let load = Load::start(buckets, 3);
    load.progress(30).await?;
    let node = &mut cluster.nodes[2];
    tell_to_stop(node)?;
    load.progress(30).await?;
    node.restart().await?;
    load.progress(30).await?;
    end(load, &bucket).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn every_node_is_restarted_in_turn_under_load() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Daemons::start(4, 2, 2).await?;
    let (bucket, buckets) = clients(&cluster).await?;
    let load = Load::start(buckets, 6);
    for turn in 0..8 {
        load.progress(30).await?;
        let node = &mut cluster.nodes[turn % 4];
        tell_to_stop(node)?;
        load.progress(30).await?;
        node.restart().await?;
    }
    end(load, &bucket).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_node_that_was_paused_brings_nothing_old_back() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Daemons::start(4, 1, 2).await?;
    let (bucket, buckets) = clients(&cluster).await?;
    let mut load = Load::start(buckets.clone(), 4);
    for (turn, pause) in [1, 5, 30, 1, 5, 30].into_iter().enumerate() {
        load.progress(30).await?;
        let node = turn % 4;
        cluster.nodes[node].process().pause();
        tokio::time::sleep(Duration::from_secs(pause)).await;
        load.progress(10).await?;
        cluster.nodes[node].process().resume();
        load.progress(10).await?;
        load.pause().await;
        // The quorum of these reads needs the one that was paused.
        let other = &mut cluster.nodes[(node + 1) % 4];
        other.process().kill();
        load.verify(&bucket).await?;
        other.restart().await?;
        load.go_on(buckets.clone());
    }
    load.pause().await;
    assert_retryable(&load);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_overwrites_and_deletes_never_shows_what_it_has() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Daemons::start(4, 1, 2).await?;
    let (bucket, _) = clients(&cluster).await?;
    let keys: Vec<String> = (0..12).map(|number| format!("key/{number:02}")).collect();
    let size = |number: usize| [0, 700, 400_000][number % 3];
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(bucket.put(key, body(key, 1, size(number))).await, Ok(()));
    }
    cluster.nodes[3].process().kill();
    for (number, key) in keys.iter().enumerate() {
        match number % 4 {
            0 => assert_eq!(bucket.delete(key).await, Ok(())),
            1 => assert_eq!(bucket.put(key, body(key, 2, size(number))).await, Ok(())),
            _ => {}
        }
    }
    cluster.nodes[3].restart().await?;
    // Two of these three are asked for everything: the one that was away decides with another.
    cluster.nodes[0].process().kill();
    for gateway in &cluster.gateways {
        let bucket = bucket.through(gateway.client());
        let ready = || async { bucket.get(&keys[2]).await.is_ok() };
        wait_for("reads through the node that is back", Duration::from_secs(60), ready).await?;
        for (number, key) in keys.iter().enumerate() {
            let wanted = match number % 4 {
                0 => Err(404),
                1 => Ok(body(key, 2, size(number))),
                _ => Ok(body(key, 1, size(number))),
            };
            assert!(bucket.get(key).await == wanted, "{key}");
        }
        let kept = keys.iter().enumerate().filter(|(number, _)| number % 4 != 0);
        assert_eq!(bucket.keys().await, Ok(kept.map(|(_, key)| key.clone()).collect()));
    }
    Ok(())
}

/// `cp -a`: what a backup or a snapshot of the drive is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status()?;
    ensure!(copied.success(), "cp {} {}", from.display(), to.display());
    Ok(())
}

/// Puts the copy in the place of the drive, which goes aside.
fn put_back(copy: &Path, drive: &Path) -> Result<()> {
    std::fs::rename(drive, drive.with_extension("aside"))?;
    Ok(std::fs::rename(copy, drive)?)
}

/// The drive as it was before [`put_back`].
fn undo(drive: &Path) -> Result<()> {
    std::fs::remove_dir_all(drive)?;
    Ok(std::fs::rename(drive.with_extension("aside"), drive)?)
}

/// Starts and is refused for the drive, and again: a supervisor would not give up either.
fn assert_refused(command: impl Fn() -> Command, folder: &Path, drive: &str) -> Result<()> {
    for attempt in 0..4 {
        let mut refused = Process::start(&format!("refused-{attempt}"), folder, &mut command())?;
        let status = refused.wait(Duration::from_secs(90));
        ensure!(status.is_some_and(|status| !status.success()), "attempt {attempt}: {}", refused.log_tail());
        for word in [drive, "older", "--replace"] {
            ensure!(refused.log().contains(word), "`{word}` is not in: {}", refused.log_tail());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_put_back_from_an_older_copy_is_refused_by_a_server_on_folders() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::start(4).await?;
    let (drive, folder) = (server.drive(2), server.drive(2).with_file_name(""));
    let bucket = Bucket::create(server.client(), "matrix").await?;
    for round in 1..=2 {
        // First a copy of the stopped server's drive, then a snapshot of the running one's.
        let old = folder.join(format!("copy-{round}"));
        assert_eq!(bucket.put("key", body("key", 10 * round, 700)).await, Ok(()));
        if round == 1 {
            server.process_mut().stop(Duration::from_secs(60));
            copy(&drive, &old)?;
            server.launch().await?;
        } else {
            server.process().pause();
            copy(&drive, &old)?;
            server.process().resume();
        }
        let new = body("key", 10 * round + 1, 700);
        assert_eq!(bucket.put("key", new.clone()).await, Ok(()));
        server.process_mut().stop(Duration::from_secs(60));
        put_back(&old, &drive)?;
        assert_refused(|| server.command(), &folder, "drive2")?;
        undo(&drive)?;
        server.launch().await?;
        assert!(bucket.get("key").await == Ok(new));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_put_back_after_a_crash_is_refused_by_any_node_of_a_cluster_until_it_is_replaced()
-> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(4, 1).await?;
    let bucket = Bucket::create(cluster.client(0), "matrix").await?;
    assert_eq!(bucket.put("key", body("key", 1, 700)).await, Ok(()));
    let (drive, old) = (cluster.drive(3, 1), cluster.folder().join("copy"));
    cluster.process(3).pause();
    copy(&drive, &old)?;
    cluster.process(3).resume();
    // Whatever it is told while it was silent, it then has: written to by all from here on.
    cluster.wait_ready(3).await?;
    for round in 2..20 {
        assert_eq!(bucket.put("key", body("key", round, 700)).await, Ok(()));
    }
    let told = progress(&cluster).await?;
    assert_eq!(bucket.put("other", body("other", 1, 700)).await, Ok(()));
    let published = || async { progress(&cluster).await.is_ok_and(|now| now > told) };
    wait_for("the progress of journals to be published", Duration::from_secs(90), published).await?;
    cluster.kill(3);
    put_back(&old, &drive)?;
    assert_refused(|| cluster.command(3), cluster.folder(), "drive1")?;
    // The way out that it names.
    std::fs::remove_dir_all(&drive)?;
    let mut command = cluster.command(3);
    command.arg("--replace").arg(&drive);
    let _replaced = Process::start("replaced", cluster.folder(), &mut command)?;
    cluster.wait_ready(3).await?;
    wait_until_joined(&cluster.nodes()[3].admin_url("")).await?;
    cluster.kill(0);
    let bucket = bucket.through(cluster.client(3));
    let ready = || async { bucket.get("key").await.is_ok() };
    wait_for("reads through the drive that was emptied", Duration::from_secs(60), ready).await?;
    assert!(bucket.get("key").await == Ok(body("key", 19, 700)));
    Ok(())
}

/// The revision at which the cluster was told last how far the fourth node's journal is.
async fn progress(cluster: &Distributed) -> Result<u64> {
    let (endpoints, prefix) = (vec![cluster.etcd.url()], "coffer/default".to_owned());
    let coordinator = EtcdCoordinator::connect(EtcdOptions { endpoints, prefix, user: None, tls: None })?;
    coordinator.ready(Duration::from_secs(30)).await?;
    let listing = coordinator.list("progress/").await?;
    coordinator.close().await;
    let told = |entry: &&Entry| String::from_utf8_lossy(&entry.value).contains("/node3/drive1");
    Ok(listing.entries.iter().find(told).map_or(0, |entry| entry.revision))
}
