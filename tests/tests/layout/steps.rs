//! Nodes come and go one at a time, with uploads that run all the time; what that moves is compared with what it must.

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::harness::cli::expect;
use coffer_tests::harness::{http_get, shard_paths};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::data::Data;
use super::stream::Stream;
use super::{Arena, BUCKET, ONE_AT_A_TIME};

/// Objects whose bytes are counted: so many that each slot has about as much of them as any other.
const BULK: usize = 4096;
const BULK_BYTES: usize = 280_000;
/// More than the least that may be moved, and a drive more than its share.
const MORE: f64 = 1.1;
const UNEVEN: f64 = 1.05;

fn bulk_key(number: usize) -> String {
    format!("bulk/{number:05}")
}

async fn write_bulk(client: &Client) -> Result<()> {
    let puts = stream::iter(0..BULK).map(|number| async move {
        let put = client.put_object().bucket(BUCKET).key(bulk_key(number));
        put.body(ByteStream::from(vec![number as u8; BULK_BYTES])).send().await.context(bulk_key(number))
    });
    puts.buffer_unordered(8).try_for_each(|_| async { Ok(()) }).await
}

async fn read_bulk(client: &Client) -> Result<()> {
    let gets = stream::iter((0..BULK).step_by(7)).map(|number| async move {
        let got = client.get_object().bucket(BUCKET).key(bulk_key(number)).send().await?;
        let body = got.body.collect().await?.into_bytes();
        let right = body.len() == BULK_BYTES && body.iter().all(|byte| *byte == number as u8);
        ensure!(right, "{} reads otherwise", bulk_key(number));
        Ok(())
    });
    gets.buffer_unordered(4).try_collect().await
}

/// Bytes of shards that all nodes have copied or coded since they started.
async fn moved_bytes(arena: &Arena) -> u64 {
    let mut sum = 0.0;
    for node in &arena.cluster.nodes {
        let (_, text) = http_get(&node.admin_url("/metrics")).await.unwrap_or_default();
        for name in ["coffer_move_bytes_total ", "coffer_heal_bytes_total "] {
            sum += text.lines().filter_map(|line| line.strip_prefix(name)?.parse::<f64>().ok()).sum::<f64>();
        }
    }
    sum as u64
}

/// Bytes of the shard files on all drives.
fn stored(arena: &Arena) -> u64 {
    let sizes = |node: usize| {
        let files = shard_paths(&arena.cluster.drive(node, 1));
        files.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum::<u64>()
    };
    (0..arena.cluster.nodes.len()).map(sizes).sum()
}

/// One change of the layout of a cluster with `whole` bytes of shards, with a large upload and one of parts that run from before its first slot moves until its last
/// one has.
async fn step(arena: &Arena, what: &str, stage: &str, whole: u64) -> Result<()> {
    let (client, other) = (arena.gateways[0].clone(), arena.gateways[1].clone());
    expect(&arena.etcd, stage, 0)?;
    let plan = expect(&arena.etcd, "layout plan --json", 0)?.json()?;
    let number = |name: &str| plan[name].as_u64().with_context(|| name.to_owned());
    let (slots, must_move) = (number("slots")?, number("must_move")?);
    let before = moved_bytes(arena).await;
    let stream = Stream::begin(&client, &format!("streamed/{what}")).await?;
    let mut data = Data::write(&other).await?;
    let moving = arena.apply()?;
    for share in 1..=4 {
        arena.wait_for_moved(moving * share / 5).await?;
        data.part(&other).await?;
    }
    let took = arena.wait_until_moved().await?;
    let moved = moved_bytes(arena).await - before;
    stream.finish(&client).await?;
    data.check(&other).await?;
    read_bulk(&other).await?;

    let must = whole as f64 * must_move as f64 / slots as f64;
    let shown = expect(&arena.etcd, "layout show --json", 0)?.json()?;
    let held = shown["drives"].as_array().into_iter().flatten().filter_map(|drive| drive["slots"].as_u64());
    let held: Vec<u64> = held.filter(|held| *held > 0).collect();
    let fair = slots as f64 / held.len() as f64;
    let most = held.iter().copied().max().unwrap_or_default() as f64 / fair;
    let least = held.iter().copied().min().unwrap_or_default() as f64 / fair;
    println!(
        "{what}: {moving} of {slots} slots moved, the least is {must_move}; {} MB of shards, of {} MB that about had to ({:.2}); \
         drives hold {:.3} to {:.3} of their share of the slots; the last fifth took {took:.0?}",
        moved / 1_000_000,
        must as u64 / 1_000_000,
        moved as f64 / must,
        least,
        most
    );
    ensure!(moving as f64 <= must_move as f64 * MORE, "{moving} slots moved, {must_move} had to");
    ensure!(moved as f64 <= must * MORE, "{moved} bytes moved, {must} had to");
    ensure!(most <= UNEVEN && least >= 2.0 - UNEVEN, "{held:?} slots");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and some gigabytes"]
async fn four_nodes_become_six_and_five_again_and_no_request_fails() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start(4).await?;
    write_bulk(&arena.gateways[0]).await?;
    Data::write(&arena.gateways[1]).await?;
    let whole = stored(&arena);
    let load = arena.load(9).await?;
    for what in ["four to five", "five to six"] {
        let node = arena.add_node().await?;
        step(&arena, what, &format!("layout add {node}"), whole).await?;
    }
    step(&arena, "six to five", "layout remove node-1", whole).await?;
    let summary = arena.judge(load).await?;
    let ((met, others), unanswered) = (arena.refused()?, arena.recorder.unanswered());
    println!("{met} mutations met another one of their key, {} were refused otherwise", others.len());
    ensure!(others.is_empty() && unanswered == 0, "{unanswered} reads unanswered; refused: {others:#?}");
    ensure!(summary.unknown <= met, "{} unknown outcomes, {met} met another operation", summary.unknown);
    Ok(())
}
