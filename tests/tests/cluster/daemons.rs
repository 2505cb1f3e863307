//! `coffer storage-node` and `coffer gateway`: through any gateway, with a gateway or node gone, and what a client sees
//! when nodes die in the middle of its GET.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::{http_status, status, wait_for};

use super::{bytes, get, put};

const LARGE: usize = 64 << 20;

async fn keys(client: &Client) -> Result<Vec<String>> {
    let page = client.list_objects_v2().bucket("cluster").send().await?;
    Ok(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
}

/// Begins a GET and waits for its first bytes.
async fn begin(client: &Client, key: &str) -> Result<(Vec<u8>, ByteStream)> {
    let mut body = client.get_object().bucket("cluster").key(key).send().await?.body;
    let first = body.next().await.context("a first piece")??;
    Ok((first.to_vec(), body))
}

/// The rest of a GET: all bytes, or how many came before it broke.
async fn rest(mut have: Vec<u8>, mut body: ByteStream) -> (Vec<u8>, bool) {
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => have.extend_from_slice(&piece),
            Err(_) => return (have, false),
        }
    }
    (have, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_gateways_and_nodes_serve_together_and_outlive_each_other() -> Result<()> {
    let mut cluster = Daemons::start(4, 2, 2).await?;
    let (one, other) = (cluster.gateways[0].client(), cluster.gateways[1].client());
    one.create_bucket().bucket("cluster").send().await?;
    for (key, size) in [("empty", 0), ("small", 700), ("medium", 300_000), ("gone", 700)] {
        assert_eq!(put(&one, key, bytes(size, 1)).await, Ok(()), "{key}");
        assert!(get(&other, key).await == Ok(bytes(size, 1)), "{key} through the other gateway");
    }
    other.delete_object().bucket("cluster").key("gone").send().await?;
    assert_eq!(get(&one, "gone").await, Err(404));
    assert_eq!(keys(&one).await?, ["empty", "medium", "small"]);
    assert_eq!(keys(&other).await?, ["empty", "medium", "small"]);
    assert_eq!(put(&other, "large", bytes(LARGE, 3)).await, Ok(()));
    cluster.wait_until_settled().await?;
    let endpoint = cluster.gateways[1].admin_url("");
    let whole = || async {
        status(&endpoint).is_ok_and(|(screen, code)| {
            code == Some(0) && screen.contains(" 0 shards known to be missing, 0 versions")
        })
    };
    wait_for("the status to say that all is there", Duration::from_secs(60), whole).await?;

    cluster.gateways[0].process().kill();
    assert_eq!(put(&other, "small", bytes(900, 2)).await, Ok(()));
    cluster.nodes[3].process().kill();
    assert_eq!(put(&other, "medium", bytes(400_000, 2)).await, Ok(()), "one of four nodes is gone");
    assert!(get(&other, "small").await == Ok(bytes(900, 2)));
    assert!(get(&other, "medium").await == Ok(bytes(400_000, 2)));
    assert_eq!(keys(&other).await?, ["empty", "large", "medium", "small"]);

    // A second node dies in the middle of a GET: half of the drives is enough for the rest.
    let (first, body) = begin(&other, "large").await?;
    cluster.nodes[2].process().kill();
    let (got, ended) = rest(first, body).await;
    assert!(!ended || got == bytes(LARGE, 3), "{} bytes with a clean end", got.len());
    assert!(bytes(LARGE, 3).starts_with(&got), "bytes that are not the object's");
    assert!(get(&other, "large").await == Ok(bytes(LARGE, 3)), "the next GET");

    // A third one: what is left is too few.
    let (first, body) = begin(&other, "large").await?;
    cluster.nodes[1].process().kill();
    let (got, ended) = rest(first, body).await;
    assert!(!ended || got.len() == LARGE, "{} bytes with a clean end", got.len());
    assert!(bytes(LARGE, 3).starts_with(&got), "bytes that are not the object's");
    assert_eq!(get(&other, "large").await, Err(503), "unavailable is not absent");
    assert_eq!(get(&other, "never-written").await, Err(503));
    assert!(keys(&other).await.is_err(), "no listing without a quorum");
    let health = cluster.gateways[1].admin_url("/health/cluster");
    let told = || async { http_status(&health).await == Some(503) };
    wait_for("/health/cluster to say it", Duration::from_secs(60), told).await?;
    let gateway = cluster.gateways[1].process();
    let ended = gateway.stop(Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{}", gateway.log_tail());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log_tail());
    Ok(())
}
