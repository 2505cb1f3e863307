//! Real processes killed, paused and cut off: what was acknowledged is there, what cannot be done is refused.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use aws_sdk_s3::Client;
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{self, http_get, http_status, wait_for};

const SIZES: [usize; 4] = [0, 700, 200_000, 3_000_000];

fn keys() -> Vec<(String, usize)> {
    (0..24).map(|i| (format!("key/{i}"), SIZES[i % SIZES.len()])).collect()
}

async fn put(client: &Client, key: &str, bytes: Vec<u8>) -> Result<(), u16> {
    Bucket::new(client.clone(), "faults").put(key, bytes).await
}

async fn get(client: &Client, key: &str) -> Result<Vec<u8>, u16> {
    Bucket::new(client.clone(), "faults").get(key).await
}

async fn write_round(client: &Client, round: usize) {
    for (key, size) in keys() {
        assert_eq!(put(client, &key, body(&key, round, size)).await, Ok(()), "PUT {key} in round {round}");
    }
}

async fn assert_round(client: &Client, round: usize) {
    for (key, size) in keys() {
        let got = get(client, &key).await;
        assert!(
            got == Ok(body(&key, round, size)),
            "GET {key}: {:?}, wanted round {round}",
            got.map(|b| b.len())
        );
    }
}

/// One cluster at a time: many processes share few cores here, and a slot that is too slow is dropped from a write.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What `coffer status` says at a node.
fn status(cluster: &Distributed, node: usize) -> Result<String> {
    Ok(harness::status(&cluster.nodes()[node].admin_url(""))?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_keeps_what_it_acknowledged_across_kill_9() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::start(4).await?;
    server.client().create_bucket().bucket("faults").send().await?;
    for round in 0..3 {
        write_round(&server.client(), round).await;
        server.process_mut().kill();
        server.launch().await?;
        assert_round(&server.client(), round).await;
    }
    let listed = server.client().list_objects_v2().bucket("faults").send().await?;
    assert_eq!(listed.contents().len(), keys().len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_reads_with_half_of_its_drives_wiped_aside() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::start(4).await?;
    server.client().create_bucket().bucket("faults").send().await?;
    write_round(&server.client(), 0).await;
    server.process_mut().stop(Duration::from_secs(60));
    // An unmounted disk: the known path is suddenly empty. It is refused without --replace, not taken over silently.
    server.wipe(2)?;
    let mut refused = coffer_tests::harness::process::Process::start(
        "refused",
        server.drive(1).parent().expect("a parent"),
        &mut server.command(),
    )?;
    let status = refused.wait(Duration::from_secs(90));
    assert!(
        status.is_some_and(|status| !status.success()),
        "an emptied drive must be refused: {}",
        refused.log_tail()
    );
    assert!(
        refused.log().contains("drive2") && refused.log().contains("--replace"),
        "{}",
        refused.log_tail()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_nodes_may_be_gone_and_nothing_is_stale_when_they_return() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(8, 1).await?;
    let client = cluster.client(0);
    client.create_bucket().bucket("faults").send().await?;
    write_round(&client, 0).await;
    // Only what reached all slots survives the loss of half.
    cluster.wait_until_settled().await?;
    for node in 4..8 {
        cluster.kill(node);
    }
    assert_round(&client, 0).await;
    for (key, size) in keys().into_iter().take(4) {
        assert_eq!(put(&client, &key, body(&key, 1, size)).await, Err(503), "a write without a quorum");
    }
    // A refused write has an unknown outcome at most; the next acknowledged one decides.
    cluster.spawn(4)?;
    cluster.wait_ready(4).await?;
    let writable = || async { put(&client, "probe", vec![1]).await.is_ok() };
    wait_for("writes to succeed again", Duration::from_secs(60), writable).await?;
    write_round(&client, 2).await;
    for node in 5..8 {
        cluster.spawn(node)?;
    }
    for node in 5..8 {
        cluster.wait_ready(node).await?;
    }
    for node in 0..8 {
        assert_round(&cluster.client(node), 2).await;
    }
    // What was written while nodes were away has no shard on them yet, so with other nodes gone it may be unavailable; but
    // whatever is answered is the last round.
    for node in 0..3 {
        cluster.kill(node);
    }
    for (key, size) in keys() {
        match get(&cluster.client(7), &key).await {
            Ok(got) => assert!(got == body(&key, 2, size), "GET {key} is stale"),
            Err(status) => assert_ne!(status, 404, "GET {key}: unavailable is not absent"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_operations_go_on_without_etcd() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(4, 1).await?;
    let client = cluster.client(1);
    client.create_bucket().bucket("faults").send().await?;
    write_round(&client, 0).await;
    cluster.etcd.kill();
    tokio::time::sleep(Duration::from_secs(12)).await;
    write_round(&client, 1).await;
    assert_round(&cluster.client(2), 1).await;
    client.delete_object().bucket("faults").key("key/0").send().await?;
    assert_eq!(get(&client, "key/0").await, Err(404));
    let listed = client.list_objects_v2().bucket("faults").send().await?;
    assert_eq!(listed.contents().len(), keys().len() - 1);
    let made = client.create_bucket().bucket("cannot-be-made").send().await;
    assert_eq!(made.err().and_then(|error| error.raw_response().map(|raw| raw.status().as_u16())), Some(503));
    cluster.etcd.launch().await?;
    let works = || async { client.create_bucket().bucket("made-again").send().await.is_ok() };
    wait_for("bucket operations to work again", Duration::from_secs(90), works).await?;
    write_round(&client, 2).await;
    assert_round(&cluster.client(3), 2).await;
    Ok(())
}

/// Everything that needs no coordinator, through one node.
async fn assert_plain_operations(client: &Client, round: usize) -> Result<()> {
    assert_round(client, round).await;
    write_round(client, round + 1).await;
    assert_round(client, round + 1).await;
    assert_eq!(put(client, "gone", vec![1]).await, Ok(()));
    client.delete_object().bucket("faults").key("gone").send().await?;
    assert_eq!(get(client, "gone").await, Err(404));
    let listed = client.list_objects_v2().bucket("faults").send().await?;
    assert_eq!(listed.contents().len(), keys().len());
    Ok(())
}

/// Waits until every drive has its copy of the bucket's record; a node makes it a moment after the change.
async fn wait_for_copies(cluster: &Distributed) -> Result<()> {
    let copied = || async {
        (0..4).all(|node| {
            let mut export = Command::new(harness::binary());
            let output = export.args(["recover", "export"]).arg(cluster.drive(node, 1)).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("buckets/faults"))
        })
    };
    wait_for("copies of the bucket on every drive", Duration::from_secs(60), copied).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_start_and_serve_without_etcd() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(4, 1).await?;
    cluster.client(0).create_bucket().bucket("faults").send().await?;
    write_round(&cluster.client(0), 0).await;
    wait_for_copies(&cluster).await?;
    // Silent first, then gone.
    cluster.etcd.pause();
    cluster.kill(1);
    cluster.spawn(1)?;
    cluster.wait_ready(1).await?;
    assert_plain_operations(&cluster.client(1), 0).await?;
    assert_plain_operations(&cluster.client(0), 1).await?;
    cluster.etcd.kill();
    for node in 0..4 {
        cluster.kill(node);
    }
    for node in 0..4 {
        cluster.spawn(node)?;
    }
    for node in 0..4 {
        cluster.wait_ready(node).await?;
    }
    assert_plain_operations(&cluster.client(2), 2).await?;
    let made = cluster.client(2).create_bucket().bucket("cannot-be-made").send().await;
    assert_eq!(made.err().and_then(|error| error.raw_response().map(|raw| raw.status().as_u16())), Some(503));
    cluster.etcd.launch().await?;
    let client = cluster.client(3);
    let works = || async { client.create_bucket().bucket("made-again").send().await.is_ok() };
    wait_for("bucket operations to work again", Duration::from_secs(90), works).await?;
    assert_plain_operations(&cluster.client(1), 3).await?;
    let registered = || async {
        let live = ["get", "--prefix", "--keys-only", "coffer/default/live/"];
        cluster.etcd.etcdctl(&live).is_ok_and(|keys| keys.matches("/live/").count() == 4)
    };
    let registered = wait_for("all nodes to register", Duration::from_secs(90), registered).await;
    for node in 0..4 {
        assert!(cluster.is_running(node), "node {node} has stopped: {}", cluster.process(node).log_tail());
    }
    registered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateways_commits_are_settled_by_the_nodes() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::start(4, 1).await?;
    cluster.client(0).create_bucket().bucket("faults").send().await?;
    // Killed within the STABLE delay of some of its writes, in the middle of others.
    let (client, done) = (cluster.client(3), Arc::new(AtomicUsize::new(0)));
    let writes = (0..400).map(|i| {
        let (client, done) = (client.clone(), done.clone());
        tokio::spawn(async move {
            let result = put(&client, &format!("w/{i}"), body("w", i, 500)).await;
            done.fetch_add(1, Ordering::SeqCst);
            (i, result)
        })
    });
    let writes: Vec<_> = writes.collect();
    let begun = || async { done.load(Ordering::SeqCst) >= 20 };
    wait_for("some writes", Duration::from_secs(60), begun).await?;
    cluster.kill(3);
    let mut acknowledged = Vec::new();
    for write in writes {
        if let (i, Ok(())) = write.await? {
            acknowledged.push(i);
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let settled = || async {
        status(&cluster, 0).is_ok_and(|status| status.contains(" 0 versions not yet known to be stable"))
    };
    wait_for("the nodes to settle", Duration::from_secs(90), settled).await?;
    // The gateway was killed before it could tell STABLE of all its writes.
    let by_nodes = || async {
        let mut sum = 0;
        for node in 0..3 {
            let (_, metrics) =
                http_get(&cluster.nodes()[node].admin_url("/metrics")).await.unwrap_or_default();
            let total = metrics.lines().find_map(|line| line.strip_prefix("coffer_settled_versions_total "));
            sum += total.and_then(|total| total.parse::<u64>().ok()).unwrap_or(0);
        }
        sum > 0
    };
    wait_for("the nodes to have settled something", Duration::from_secs(30), by_nodes).await?;
    for i in acknowledged {
        assert!(get(&cluster.client(1), &format!("w/{i}")).await == Ok(body("w", i, 500)), "write {i}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_costs_time_but_no_request() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Distributed::start(4, 1).await?;
    let client = cluster.client(0);
    client.create_bucket().bucket("faults").send().await?;
    write_round(&client, 0).await;
    cluster.process(3).pause();
    write_round(&client, 1).await;
    assert_round(&client, 1).await;
    cluster.process(3).resume();
    let url = cluster.nodes()[3].admin_url("/health/ready");
    wait_for("the resumed node", Duration::from_secs(90), || async { http_status(&url).await == Some(200) })
        .await?;
    assert_round(&cluster.client(3), 1).await;
    Ok(())
}
