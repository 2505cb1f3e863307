//! F-51, F-53, F-59: writers of one key through two gateways, and a slow reader among them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use coffer_common::linearizability::{Call, Return};
use coffer_tests::chaos::body::value_of;
use coffer_tests::chaos::verdict::{check_listings, judge};
use tokio::task::JoinSet;

use super::{Arena, ONE_AT_A_TIME};

const MIB: usize = 1 << 20;

/// Both gateways write the key at once; afterwards they agree on one whole body, its ETag and its length.
async fn two_gateways_put_the_same_key(rounds: usize) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let arena = Arena::start().await?;
    let (recorder, gateways) = (&arena.recorder, &arena.gateways);
    for round in 0..rounds {
        let key = format!("key/{}", round % 4);
        let sizes = [(1 + round % 8) * MIB, (8 - round % 8) * MIB + round];
        let (one, other) = tokio::join!(
            recorder.put(&gateways[0], &key, sizes[0]),
            recorder.put(&gateways[1], &key, sizes[1]),
        );
        ensure!((one.0, other.0) == (Return::Ok, Return::Ok), "round {round}: {one:?}, {other:?}");
        let mut lengths = Vec::new();
        for gateway in gateways {
            let value = recorder.get(gateway, &key).await.context("an answer")?;
            ensure!(recorder.head(gateway, &key).await == Some(value), "round {round}: HEAD and GET differ");
            ensure!([one.1, other.1].contains(&value), "round {round}: value {value}");
            let listed = gateway.list_objects_v2().bucket("chaos").prefix(&key).send().await?;
            let listed = listed.contents().first().context("a listed key")?;
            ensure!(listed.e_tag() == recorder.etag(value).as_deref(), "round {round}: {listed:?}");
            lengths.push((value, listed.size()));
        }
        ensure!(lengths[0] == lengths[1], "round {round}: the gateways disagree: {lengths:?}");
    }
    check_listings(recorder, gateways, "key/").await?;
    println!("{:?}", judge(recorder)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_large_puts_through_two_gateways_one_wins_whole() -> Result<()> {
    two_gateways_put_the_same_key(8).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn of_two_large_puts_through_two_gateways_one_wins_whole_in_100_rounds() -> Result<()> {
    two_gateways_put_the_same_key(100).await
}

/// Each client reads the key and replaces what it read; the value stands for a count.
async fn increments(clients: usize, each: usize) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let arena = Arena::start().await?;
    let (recorder, key) = (&arena.recorder, "counter");
    let (begun, first) = recorder.create(&arena.gateways[0], key, 100).await;
    ensure!(begun == Return::Ok, "{begun:?}");
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let (recorder, gateway) = (recorder.clone(), arena.gateways[number % 2].clone());
        tasks.spawn(async move {
            let mut done = 0;
            while done < each {
                let Some(old) = recorder.get(&gateway, key).await else { continue };
                done += usize::from(recorder.replace(&gateway, key, old, 100).await.0 == Return::Ok);
            }
        });
    }
    tasks.join_all().await;
    let last = recorder.get(&arena.gateways[1], key).await.context("an answer")?;
    println!("{:?}", judge(recorder)?);
    let replaced: BTreeMap<_, _> = recorder.histories()[key]
        .iter()
        .filter_map(|o| match (o.call, o.returned) {
            (Call::Replace(old, new), Return::Ok | Return::Unknown) if old > 0 => {
                Some((new, (old, o.returned)))
            }
            _ => None,
        })
        .collect();
    let (mut value, mut acknowledged) = (last, 0);
    while value != first {
        let (old, returned) =
            replaced.get(&value).with_context(|| format!("value {value} comes from nowhere"))?;
        acknowledged += usize::from(*returned == Return::Ok);
        value = *old;
    }
    ensure!(
        acknowledged == clients * each,
        "{acknowledged} of {} acknowledged increments count",
        clients * each
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_increment_is_lost() -> Result<()> {
    increments(8, 6).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn no_acknowledged_increment_of_800_is_lost() -> Result<()> {
    increments(8, 100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_get_reads_the_old_bytes_to_the_end_while_its_object_is_replaced_and_deleted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let arena = Arena::start().await?;
    let (recorder, gateways) = (&arena.recorder, &arena.gateways);
    let (put, old) = recorder.put(&gateways[0], "slow", 48 * MIB).await;
    ensure!(put == Return::Ok, "{put:?}");
    let get = gateways[0].get_object().bucket("chaos").key("slow");
    let readers = [get.clone().send().await?, get.clone().send().await?];
    let [mut over_put, mut over_delete] = readers.map(|got| got.body);
    let mut bytes = [over_put.next().await.context("a piece")??.to_vec(), Vec::new()];
    ensure!(recorder.put(&gateways[1], "slow", 40 * MIB).await.0 == Return::Ok);
    bytes[1].extend_from_slice(&over_delete.next().await.context("a piece")??);
    ensure!(recorder.delete(&gateways[1], "slow").await == Return::Ok);
    for (mut body, mut bytes) in [over_put, over_delete].into_iter().zip(bytes) {
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(
                &piece.context("a stream that broke off: allowed, but not without a fault")?,
            );
        }
        ensure!(value_of(&bytes)? == old, "bytes of another version");
    }
    ensure!(recorder.get(&gateways[0], "slow").await == Some(0));
    Ok(())
}
