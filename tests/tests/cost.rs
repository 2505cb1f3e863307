//! What a plain small PUT costs: two rounds, two grouped syncs a drive, and nothing of the coordinator's time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::process::Process;
use coffer_tests::harness::{http_get, wait_for};

const NODES: usize = 4;
/// The node whose gateway is traced.
const TRACED: usize = NODES - 1;
const PUTS: u64 = 200;

async fn put(client: &Client, key: &str) -> Result<()> {
    let body = ByteStream::from(vec![7; 4096]);
    client.put_object().bucket("cost").key(key).body(body).send().await?;
    Ok(())
}

/// The values of a Prometheus page whose name and labels begin with `prefix`, by name and labels.
async fn metrics(url: &str, prefix: &str) -> Result<BTreeMap<String, u64>> {
    let (_, page) = http_get(url).await.with_context(|| format!("{url} does not answer"))?;
    let values =
        page.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(name, value)| Ok((name.to_owned(), value.parse::<f64>()? as u64))).collect()
}

/// How often each drive has synced its journal, over all nodes.
async fn syncs(cluster: &Distributed) -> Result<Vec<u64>> {
    let mut syncs = Vec::new();
    for node in cluster.nodes() {
        let found = metrics(&node.node_admin_url("/metrics"), "coffer_drive_journal_syncs_total{").await?;
        syncs.extend(found.into_values());
    }
    Ok(syncs)
}

/// Requests that etcd has answered, by method; streams that stay open (watches, the lease's renewal) are none.
async fn etcd_requests(cluster: &Distributed) -> Result<BTreeMap<String, u64>> {
    let handled = metrics(&format!("{}/metrics", cluster.etcd.url()), "grpc_server_handled_total{").await?;
    let mut by_method = BTreeMap::new();
    for (name, count) in handled {
        let method = name.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
        *by_method.entry(method.unwrap_or("?").to_owned()).or_default() += count;
    }
    Ok(by_method)
}

/// A cluster whose last gateway writes a trace of its driver.
async fn start() -> Result<(Distributed, Process)> {
    let mut cluster = Distributed::prepare(NODES, 1).await?;
    for index in 0..TRACED {
        cluster.spawn(index)?;
    }
    let mut command = cluster.command(TRACED);
    command.env("COFFER_LOG", "info,coffer_common::driver=trace");
    let traced = Process::start("traced", cluster.folder(), &mut command)?;
    for index in 0..TRACED {
        cluster.wait_ready(index).await?;
    }
    let ready = cluster.nodes()[TRACED].admin_url("/health/ready");
    let answers = || async { http_get(&ready).await.is_some_and(|(status, _)| status == 200) };
    wait_for("the traced node", Duration::from_secs(90), answers).await?;
    Ok((cluster, traced))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_put_takes_two_rounds_and_two_syncs_and_no_request_to_etcd() -> Result<()> {
    let (cluster, traced) = start().await?;
    let client = cluster.client(TRACED);
    client.create_bucket().bucket("cost").send().await?;
    put(&client, "warm").await?;

    let (syncs_before, etcd_before) = (syncs(&cluster).await?, etcd_requests(&cluster).await?);
    assert_eq!(syncs_before.len(), NODES, "one drive a node");
    let began = std::time::Instant::now();
    for number in 0..PUTS {
        put(&client, &format!("key/{number}")).await?;
    }
    let took = began.elapsed();
    let batches_of_stable = took.as_millis() as u64 / 200 + 1;
    let (syncs_after, etcd_after) = (syncs(&cluster).await?, etcd_requests(&cluster).await?);

    for (before, after) in syncs_before.iter().zip(&syncs_after) {
        // Notices are told in batches, 32 at a time, and share their syncs: the quicker drives sync, the fewer share one. Where a PUT
        // takes longer than a batch, each has its own.
        let for_stable = (8 * batches_of_stable).clamp(PUTS / 2, PUTS);
        let most = 2 * PUTS + for_stable;
        assert!(
            after - before <= most,
            "{} syncs for {PUTS} PUTs, {batches_of_stable} x STABLE",
            after - before
        );
    }
    for (method, count) in &etcd_after {
        let more = count - etcd_before.get(method).unwrap_or(&0);
        // Maps are read again and drives' progress is told from time to time, whatever is written: the longer it takes, the
        // more often, but never as often as there are PUTs.
        let most = (PUTS / 4 + 2 * took.as_secs()).min(PUTS - 1);
        assert!(more <= most, "{more} x {method} at etcd for {PUTS} PUTs in {took:?}");
    }

    let told = || async { trace_of(&traced, "key/7").iter().any(|line| line.contains("STABLE")) };
    wait_for("STABLE", Duration::from_secs(60), told).await?;
    let trace = trace_of(&traced, "key/7");
    let at = |what: &str| trace.iter().position(|line| line.contains(what));
    let sent = trace.iter().filter(|line| line.contains("sent")).count();
    assert_eq!(sent, 3, "PREPARE, COMMIT and STABLE:\n{}", trace.join("\n"));
    let order = [at("PREPARE"), at("COMMIT"), at("done"), at("STABLE")];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}:\n{}", trace.join("\n"));
    println!("{}", trace.join("\n"));
    println!("syncs: {syncs_before:?} -> {syncs_after:?}; etcd: {etcd_before:?} -> {etcd_after:?}");
    Ok(())
}

/// The trace of one key's machines.
fn trace_of(process: &Process, key: &str) -> Vec<String> {
    let names =
        |line: &&str| line.contains(&format!("key={key} ")) || line.contains(&format!("\"key\":\"{key}\""));
    process.log().lines().filter(names).map(str::to_owned).collect()
}
