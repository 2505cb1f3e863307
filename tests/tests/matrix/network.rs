//! Networks between gateways and nodes that are cut, one-way, silent, slow and late. The nodes stand behind proxies, and
//! everybody reaches them there, the other nodes too.
//!
//! Four slots, two of which hold enough of an object: a write needs three, a read two.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::{status, wait_for};
use coffer_tests::proxy::{Lane, Link};

use super::ONE_AT_A_TIME;
use super::drive::{SIZES, assert_all, wait_for_status, write_all};
use super::load::Load;

async fn start() -> Result<(Daemons, Bucket)> {
    let cluster = Daemons::start_behind_proxies(4, 1, 2).await?;
    let bucket = Bucket::create(cluster.gateways[0].client(), "matrix").await?;
    Ok((cluster, bucket))
}

fn set(cluster: &Daemons, nodes: &[usize], link: Link) {
    nodes.iter().for_each(|node| cluster.proxies[*node].set(link));
}

async fn wait_until_writable(bucket: &Bucket) -> Result<()> {
    let writable = || async { bucket.put("probe", Vec::new()).await.is_ok() };
    wait_for("writes to succeed", Duration::from_secs(60), writable).await?;
    assert_eq!(bucket.delete("probe").await, Ok(()));
    Ok(())
}

async fn cut_off(link: Link) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, bucket) = start().await?;
    write_all(&bucket, 1).await;
    cluster.wait_until_settled().await?;
    set(&cluster, &[3], link);
    assert_all(&bucket, 1).await;
    write_all(&bucket, 2).await;
    assert_all(&bucket, 2).await;
    set(&cluster, &[3], Link::OPEN);
    wait_until_writable(&bucket).await?;
    wait_for_status(&cluster.gateways[0].admin_url(""), &["HEALTHY"]).await?;
    write_all(&bucket, 3).await;
    // What the two that will be left were too slow for, nobody could give them afterwards.
    cluster.wait_until_settled().await?;

    set(&cluster, &[2, 3], link);
    let largest = body("key/2500000", 3, 2_500_000);
    let readable = || async { bucket.get("key/2500000").await.is_ok_and(|bytes| bytes == largest) };
    wait_for("reads", Duration::from_secs(60), readable).await?;
    assert_all(&bucket, 3).await;
    for size in SIZES {
        assert_eq!(bucket.put("refused", body("refused", 1, size)).await, Err(503), "{size} bytes");
    }
    assert_eq!(bucket.delete("key/700").await, Err(503));

    set(&cluster, &[1, 2, 3], link);
    for key in ["key/0", "key/2500000", "never-written"] {
        assert_eq!(
            bucket.get(key).await.map(|bytes| bytes.len()),
            Err(503),
            "{key}: unavailable is not absent"
        );
    }
    assert_eq!(bucket.keys().await, Err(503), "no listing without a quorum");

    set(&cluster, &[0, 1, 2, 3], Link::OPEN);
    wait_until_writable(&bucket).await?;
    write_all(&bucket, 4).await;
    assert_all(&bucket.through(cluster.gateways[1].client()), 4).await;
    Ok(())
}

// What was refused has an unknown outcome at most, and is written again in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_from_slots_serves_what_its_quorums_allow() -> Result<()> {
    cut_off(Link::RESET).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute of timeouts"]
async fn a_gateway_whose_slots_are_silent_serves_what_its_quorums_allow() -> Result<()> {
    cut_off(Link::SILENT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_gateways_that_see_different_nodes_at_most_one_writes() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut cluster, one) = start().await?;
    let other = one.through(cluster.gateways[1].client());
    let gateways: Vec<u32> = cluster.gateways.iter_mut().map(|gateway| gateway.process().id()).collect();
    let see = |cluster: &Daemons, first: &[usize]| {
        for (node, proxy) in cluster.proxies.iter().enumerate() {
            proxy.set(Link::OPEN);
            proxy.set_for(gateways[usize::from(first.contains(&node))], Link::RESET);
        }
    };
    write_all(&one, 1).await;
    cluster.wait_until_settled().await?;
    see(&cluster, &[0, 1]);
    for bucket in [&one, &other] {
        assert_all(bucket, 1).await;
        assert_eq!(bucket.put("split", body("split", 1, 700)).await, Err(503));
    }
    see(&cluster, &[0, 1, 2]);
    let writable = || async { one.put("key/700", body("key/700", 2, 700)).await.is_ok() };
    wait_for("the side with three to write", Duration::from_secs(60), writable).await?;
    assert_eq!(other.put("key/700", body("key/700", 3, 700)).await, Err(503));
    assert_eq!(other.get("key/700").await, Err(503));
    set(&cluster, &[0, 1, 2, 3], Link::OPEN);
    wait_until_writable(&other).await?;
    for bucket in [&one, &other] {
        assert!(bucket.get("key/700").await == Ok(body("key/700", 2, 700)));
    }
    Ok(())
}

/// What two of four nodes were asked and did not answer, or were not asked: the outcome is unknown, and is one.
async fn one_way(link: Link) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, bucket) = start().await?;
    let other = bucket.through(cluster.gateways[1].client());
    for size in [700, 400_000] {
        let key = format!("key/{size}");
        let (old, new) = (body(&key, 1, size), body(&key, 2, size));
        assert_eq!(bucket.put(&key, old.clone()).await, Ok(()));
        set(&cluster, &[2, 3], link);
        assert_eq!(bucket.put(&key, new.clone()).await, Err(503));
        set(&cluster, &[2, 3], Link::OPEN);
        for reader in [&bucket, &other] {
            let readable = || async { reader.get(&key).await.is_ok() };
            wait_for("reads", Duration::from_secs(60), readable).await?;
        }
        // It may appear late, once; what was seen stays.
        let mut seen = false;
        for _ in 0..20 {
            for reader in [&bucket, &other] {
                let got = reader.get(&key).await;
                ensure!(
                    got == Ok(new.clone()) || (!seen && got == Ok(old.clone())),
                    "seen {seen}, then {got:?}"
                );
                seen |= got == Ok(new.clone());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for writer in [&bucket, &other] {
            wait_until_writable(writer).await?;
        }
        let last = body(&key, 3, size);
        assert_eq!(other.put(&key, last.clone()).await, Ok(()));
        assert!(bucket.get(&key).await == Ok(last));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_replies_are_lost_happens_once_or_not_at_all() -> Result<()> {
    one_way(Link::NO_REPLIES).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute of timeouts"]
async fn a_write_whose_requests_are_lost_happens_once_or_not_at_all() -> Result<()> {
    one_way(Link::NO_REQUESTS).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn one_node_that_is_silent_slow_or_cut_costs_time_and_no_request() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, bucket) = start().await?;
    let cut = Link { to_node: Lane::CutAfter(100_000), to_caller: Lane::Open, reset: false };
    let links = [
        ("open", Link::OPEN),
        ("silent", Link::SILENT),
        ("reset", Link::RESET),
        ("one byte a second", Link::both(Lane::Slow(1))),
        ("requests at one byte a second", Link { to_node: Lane::Slow(1), ..Link::OPEN }),
        ("cut after 100,000 bytes", cut),
    ];
    for (round, (what, link)) in links.into_iter().enumerate() {
        set(&cluster, &[round % 4], link);
        let mut slowest = Duration::ZERO;
        for turn in 0..12 {
            let key = format!("key/{}", SIZES[turn % 4]);
            let new = body(&key, 100 * round + turn, SIZES[turn % 4]);
            let start = Instant::now();
            assert_eq!(bucket.put(&key, new.clone()).await, Ok(()), "{what}: PUT {key}");
            assert!(bucket.get(&key).await == Ok(new), "{what}: GET {key}");
            slowest = slowest.max(start.elapsed());
        }
        println!("{what}: the slowest PUT and GET took {slowest:?}");
        ensure!(slowest < Duration::from_secs(30), "{what}: {slowest:?}");
        set(&cluster, &[round % 4], Link::OPEN);
        wait_for_status(&cluster.gateways[0].admin_url(""), &["HEALTHY"]).await?;
    }
    // No stream and no permit is lost: as many requests at a time as before.
    let clients = vec![bucket.clone(); 16];
    let mut load = Load::start(clients, 34);
    load.progress(600).await?;
    load.pause().await;
    load.verify(&bucket).await?;
    ensure!(load.refused().is_empty(), "{:?}", load.refused());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_network_with_jitter_and_pauses_is_slower_and_right() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, bucket) = start().await?;
    let buckets: Vec<_> =
        cluster.gateways.iter().flat_map(|gateway| vec![bucket.through(gateway.client()); 3]).collect();
    let mut load = Load::start(buckets, 35);
    let millis = Duration::from_millis;
    for (by, jitter) in [(5, 0), (0, 200), (50, 400)] {
        set(&cluster, &[0, 1, 2, 3], Link::both(Lane::Late(millis(by), millis(jitter))));
        load.progress(40).await?;
        // What a lost packet is to a stream: nothing for the time of a retransmission.
        for node in [0, 1, 2, 3, 2, 1] {
            set(&cluster, &[node], Link::SILENT);
            tokio::time::sleep(millis(250)).await;
            set(&cluster, &[node], Link::both(Lane::Late(millis(by), millis(jitter))));
        }
        load.progress(20).await?;
    }
    load.pause().await;
    println!("refused: {:?}", load.refused());
    set(&cluster, &[0, 1, 2, 3], Link::OPEN);
    load.verify(&bucket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_come_late_change_nothing_that_is_newer() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, bucket) = start().await?;
    write_all(&bucket, 1).await;
    // Everything for the fourth node is under way for as long as two rounds of writes take, and then comes.
    set(&cluster, &[3], Link::NO_REQUESTS);
    write_all(&bucket, 2).await;
    write_all(&bucket, 3).await;
    assert_eq!(bucket.delete("key/90000").await, Ok(()));
    set(&cluster, &[3], Link::OPEN);
    wait_for_status(&cluster.gateways[0].admin_url(""), &["HEALTHY"]).await?;
    // Now it decides with another one.
    set(&cluster, &[0], Link::RESET);
    for gateway in &cluster.gateways {
        let bucket = bucket.through(gateway.client());
        let readable = || async { bucket.get("key/700").await.is_ok() };
        wait_for("reads", Duration::from_secs(60), readable).await?;
        for size in SIZES {
            let key = format!("key/{size}");
            let wanted = if size == 90_000 { Err(404) } else { Ok(body(&key, 3, size)) };
            assert!(bucket.get(&key).await == wanted, "{key}");
        }
        assert_eq!(bucket.keys().await.map(|keys| keys.len()), Ok(SIZES.len() - 1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_at_the_same_address_is_not_asked() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    // The same node ids and the same secret: nothing but the cluster tells them apart.
    let (ours, bucket) = start().await?;
    let theirs = Daemons::start(4, 1, 1).await?;
    let their_bucket = Bucket::create(theirs.gateways[0].client(), "matrix").await?;
    write_all(&bucket, 1).await;
    assert_eq!(their_bucket.put("key/700", body("key/700", 9, 700)).await, Ok(()));
    ours.proxies[3].aim(theirs.nodes[3].port);
    write_all(&bucket, 2).await;
    assert_all(&bucket, 2).await;
    let endpoint = ours.gateways[0].admin_url("");
    let away = || async {
        status(&endpoint).is_ok_and(|(screen, code)| code == Some(4) && screen.contains("node-3"))
    };
    wait_for("the stranger to be called away", Duration::from_secs(60), away).await?;
    set(&ours, &[2], Link::RESET);
    assert_eq!(bucket.put("refused", Vec::new()).await, Err(503), "the stranger is in no quorum");
    set(&ours, &[2], Link::OPEN);
    assert!(their_bucket.get("key/700").await == Ok(body("key/700", 9, 700)));
    assert_eq!(their_bucket.keys().await, Ok(vec!["key/700".to_owned()]));
    ours.proxies[3].aim(ours.nodes[3].port);
    let well = || async { status(&endpoint).is_ok_and(|(_, code)| code == Some(0)) };
    wait_for("our own node to be back", Duration::from_secs(60), well).await?;
    write_all(&bucket, 3).await;
    assert_all(&bucket, 3).await;
    Ok(())
}
