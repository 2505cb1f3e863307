//! A node less, and the way back.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::harness::cli::{expect, slots_of};
use coffer_tests::harness::{http_get, shard_paths, wait_for};

use super::data::{Data, read_large};
use super::{Arena, ONE_AT_A_TIME};

/// Nobody needs what a drive has left for longer than this.
const DROPPED: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn moves_that_are_taken_back_half_way_leave_everything_where_it_was() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    let client = arena.gateways[1].clone();
    let mut data = Data::write(&client).await?;
    let load = arena.load(7).await?;
    let node = arena.add_node().await?;
    expect(&arena.etcd, &format!("layout add {node}"), 0)?;
    let moving = arena.apply()?;
    arena.wait_for_moved(moving / 8).await?;
    data.part(&client).await?;
    expect(&arena.etcd, "layout revert --yes", 0)?;
    arena.wait_until_moved().await?;
    data.part(&client).await?;
    data.check(&client).await?;
    ensure!(slots_of(&arena.etcd, &node)? == Some(0));
    arena.judge(load).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_drained_node_holds_nothing_and_may_go_for_good() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    let client = arena.gateways[1].clone();
    let mut data = Data::write(&client).await?;
    let load = arena.load(6).await?;
    let node = arena.add_node().await?;
    expect(&arena.etcd, &format!("layout add {node}"), 0)?;
    expect(&arena.etcd, "node drain node-1", 0)?;
    let moving = arena.apply()?;
    ensure!(moving == 4096, "the new drive takes what the old one held, not {moving}");
    arena.wait_for_moved(moving / 2).await?;
    data.part(&client).await?;
    let took = arena.wait_until_moved().await?;
    println!("the second half came after {took:.1?}");
    ensure!(slots_of(&arena.etcd, "node-1")? == Some(0));
    let drive = arena.cluster.drive(1, 1);
    let metrics = arena.cluster.nodes[1].admin_url("/metrics");
    let empty = || async {
        let text = http_get(&metrics).await.map(|(_, text)| text).unwrap_or_default();
        let registers = text.lines().find(|line| line.starts_with("coffer_drive_registers"));
        shard_paths(&drive).is_empty() && registers.is_some_and(|line| line.ends_with(" 0"))
    };
    wait_for("the old drive to be empty", DROPPED, empty).await?;
    arena.cluster.nodes[1].process().kill();
    data.check(&client).await?;
    arena.judge(load).await?;
    read_large(&client).await
}
