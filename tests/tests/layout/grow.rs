//! A node more.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::harness::cli::{expect, slots_of};
use coffer_tests::harness::{status, wait_for};

use super::data::{Data, read_large};
use super::{Arena, ONE_AT_A_TIME};

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_node_takes_its_share_and_no_request_is_refused() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    let client = arena.gateways[1].clone();
    let mut data = Data::write(&client).await?;
    data.part(&client).await?;
    let load = arena.load(5).await?;
    let node = arena.add_node().await?;
    expect(&arena.etcd, &format!("layout add {node}"), 0)?;
    let moving = arena.apply()?;
    for share in 1..=4 {
        arena.wait_for_moved(moving * share / 5).await?;
        let endpoint = arena.cluster.gateways[0].admin_url("");
        let line = "layout     version 1, on the way to 2";
        let told = || async {
            status(&endpoint).is_ok_and(|(screen, _)| screen.contains(line))
                || arena.moves().is_ok_and(|moves| moves.is_null())
        };
        wait_for("the status to say what is on the way", Duration::from_secs(60), told).await?;
        data.part(&client).await?;
        read_large(&client).await?;
        let bucket = format!("made-and-deleted-{share}");
        client.create_bucket().bucket(&bucket).send().await?;
        client.delete_bucket().bucket(&bucket).send().await?;
    }
    let took = arena.wait_until_moved().await?;
    println!("the last of {moving} slots came after {took:.1?}");
    data.check(&client).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let summary = arena.judge(load).await?;
    let ((met, others), unanswered) = (arena.refused()?, arena.recorder.unanswered());
    ensure!(others.is_empty() && unanswered == 0, "{unanswered} reads unanswered; refused: {others:#?}");
    ensure!(summary.unknown <= met, "{} unknown outcomes, {met} met another operation", summary.unknown);
    let shown = expect(&arena.etcd, "layout show --json", 0)?.json()?;
    ensure!(shown["version"] == 2, "{shown}");
    ensure!(slots_of(&arena.etcd, &node)? == Some(moving), "{shown}");
    Ok(())
}
