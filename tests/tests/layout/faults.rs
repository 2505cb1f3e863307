//! Processes that die while slots move.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::harness::cli::{coffer, expect, slots_of};
use coffer_tests::harness::wait_for;

use super::data::Data;
use super::{Arena, ONE_AT_A_TIME};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn nodes_killed_while_slots_move_lose_nothing() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    let client = arena.gateways[1].clone();
    let mut data = Data::write(&client).await?;
    let load = arena.load(8).await?;
    let node = arena.add_node().await?;
    expect(&arena.etcd, &format!("layout add {node}"), 0)?;
    let moving = arena.apply()?;
    for (share, victim) in [(1, 4), (2, 0), (4, 4), (5, 2)] {
        arena.wait_for_moved(moving * share / 8).await?;
        println!("node-{victim} is killed");
        arena.cluster.nodes[victim].process().kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        arena.cluster.nodes[victim].restart().await?;
        data.part(&client).await?;
    }
    arena.wait_until_moved().await?;
    data.check(&client).await?;
    ensure!(slots_of(&arena.etcd, &node)? == Some(moving));
    arena.judge(load).await?;
    Ok(())
}

/// Moves are etcd's to decide: without it they rest, where they are, and requests do not notice. Of each node both drives take
/// part, in the same partitions.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn an_etcd_that_dies_or_hangs_while_slots_move_stops_moves_and_nothing_else() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start_with(4, 2).await?;
    let client = arena.gateways[1].clone();
    let mut data = Data::write(&client).await?;
    let load = arena.load(9).await?;
    let node = arena.add_node().await?;
    expect(&arena.etcd, &format!("layout add {node}"), 0)?;
    let moving = arena.apply()?;

    arena.wait_for_moved(moving / 8).await?;
    println!("etcd is killed");
    arena.cluster.etcd.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    data.part(&client).await?;
    arena.cluster.etcd.launch().await?;

    arena.wait_for_moved(moving * 3 / 8).await?;
    println!("etcd hangs until all leases are over, and a node is killed meanwhile");
    arena.cluster.etcd.pause();
    arena.cluster.nodes[1].process().kill();
    tokio::time::sleep(Duration::from_secs(25)).await;
    data.part(&client).await?;
    arena.cluster.etcd.resume();
    arena.cluster.nodes[1].restart().await?;

    arena.wait_until_moved().await?;
    data.check(&client).await?;
    ensure!(slots_of(&arena.etcd, &node)? == Some(moving));
    arena.judge(load).await?;
    Ok(())
}

/// The slots that were on their way to it are taken over by another one, and nothing needs the dead node any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_for_good_while_slots_move_to_it_is_taken_out() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    let (etcd, client) = (arena.etcd.clone(), arena.gateways[1].clone());
    let mut data = Data::write(&client).await?;
    let first = arena.add_node().await?;
    expect(&etcd, &format!("layout add {first}"), 0)?;
    expect(&etcd, "node drain node-1", 0)?;
    let moving = arena.apply()?;
    arena.wait_for_moved(moving / 8).await?;
    let mut stuck = false;
    for _ in 0..10 {
        arena.cluster.nodes[4].process().kill();
        stuck = arena.moves()?["under_way"].as_u64() > Some(0);
        if stuck {
            break;
        }
        // It died between two batches.
        arena.cluster.nodes[4].restart().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure!(stuck, "no slot was ever on its way");
    let words = "slots are on their way to it";
    let named = || async { expect(&etcd, "layout show", 0).is_ok_and(|shown| shown.out.contains(words)) };
    wait_for("the slots that wait for the dead node to be named", Duration::from_secs(60), named).await?;
    data.part(&client).await?;

    let second = arena.add_node().await?;
    expect(&etcd, &format!("layout add {second}"), 0)?;
    expect(&etcd, &format!("layout remove {first}"), 0)?;
    let moving = arena.apply()?;
    arena.wait_for_moved(moving / 2).await?;
    data.part(&client).await?;
    arena.wait_until_moved().await?;
    data.check(&client).await?;
    ensure!(slots_of(&etcd, &second)? == Some(moving));
    let forget = format!("node forget {first} --yes");
    let forgotten = || async { coffer(&etcd, &forget, "").is_ok_and(|printed| printed.code == Some(0)) };
    wait_for("the dead node to be forgotten", Duration::from_secs(60), forgotten).await
}
