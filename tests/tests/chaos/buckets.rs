//! PROTOCOL §9: a gateway that slept while a bucket was deleted and made again, or while its record changed, writes
//! nothing into the wrong bucket and loses nothing that it acknowledges.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use coffer_common::linearizability::Return;
use coffer_tests::chaos::body::body;
use coffer_tests::client::{refusal, refused};
use coffer_tests::harness::wait_for;

use super::slow::SlowPut;
use super::{Arena, ONE_AT_A_TIME, PAST_THE_LEASE};

/// Puts that are half way when the gateway is paused, by key: plain and conditional, small and large.
const HALF_WAY: [(&str, bool, usize); 4] = [
    ("plain", false, 900),
    ("plain-large", false, 700_000),
    ("create", true, 900),
    ("create-large", true, 700_000),
];

/// A PUT that is half way.
struct HalfWay {
    key: &'static str,
    value: u32,
    put: SlowPut,
}

impl Arena {
    /// Begins the puts through the first gateway, and pauses it.
    async fn pause_half_way(&mut self) -> Result<Vec<HalfWay>> {
        let mut puts = Vec::new();
        for (key, if_absent, size) in HALF_WAY {
            let value = self.recorder.fresh();
            let put = SlowPut::begin(&self.gateways[0], key, if_absent, body(value, size)).await?;
            puts.push(HalfWay { key, value, put });
        }
        self.cluster.gateways[0].process().pause();
        Ok(puts)
    }

    /// Ends the pause once every lease of the gateway is over.
    async fn resume_late(&mut self) {
        tokio::time::sleep(PAST_THE_LEASE).await;
        self.cluster.gateways[0].process().resume();
    }

    /// The gateway that slept writes keys, and the other one reads them.
    async fn assert_writes_arrive(&self, count: usize) -> Result<()> {
        for number in 0..count {
            let key = format!("new/{number}");
            let written = || async { self.recorder.put(&self.gateways[0], &key, 700).await.0 == Return::Ok };
            wait_for("the gateway that slept to write", Duration::from_secs(60), written).await?;
            ensure!(self.recorder.get(&self.gateways[1], &key).await > Some(0), "{key} is lost");
        }
        Ok(())
    }
}

async fn keys(client: &Client) -> Result<Vec<String>> {
    let listed = client.list_objects_v2().bucket("chaos").send().await?;
    Ok(listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sleeps past a lease"]
async fn a_gateway_that_slept_while_a_bucket_was_made_again_writes_nothing_into_the_wrong_one() -> Result<()>
{
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let (slept, other) = (arena.gateways[0].clone(), arena.gateways[1].clone());
    arena.recorder.put(&slept, "first", 500).await;
    let puts = arena.pause_half_way().await?;
    arena.recorder.delete(&other, "first").await;
    let deleted = || async { other.delete_bucket().bucket("chaos").send().await.is_ok() };
    wait_for("the bucket to be deleted", Duration::from_secs(60), deleted).await?;
    other.create_bucket().bucket("chaos").send().await.context("the new bucket")?;
    arena.resume_late().await;
    let mut acknowledged = Vec::new();
    for HalfWay { key, put, .. } in puts {
        let status = put.finish().await?;
        println!("PUT {key}, half way before: {status}");
        ensure!(status == 200 || status == 404 || status >= 500, "PUT {key}: {status}");
        acknowledged.extend((status == 200).then(|| key.to_owned()));
    }
    acknowledged.sort();
    for client in [&other, &slept] {
        let agrees = || async { keys(client).await.is_ok_and(|keys| keys == acknowledged) };
        wait_for(&format!("LIST to show {acknowledged:?} alone"), Duration::from_secs(60), agrees).await?;
    }
    arena.assert_writes_arrive(10).await?;
    ensure!(keys(&other).await?.len() == acknowledged.len() + 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sleeps past a lease"]
async fn a_gateway_that_slept_while_a_bucket_changed_loses_nothing() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let other = arena.gateways[1].clone();
    arena.recorder.put(&other, "first", 500).await;
    let puts = arena.pause_half_way().await?;
    // A delete that is refused closes the bucket and opens it again: two new revisions of its record.
    for _ in 0..2 {
        let deleted = other.delete_bucket().bucket("chaos").send().await;
        ensure!(refusal(deleted) == refused("BucketNotEmpty", 409));
    }
    arena.resume_late().await;
    for HalfWay { key, value, put } in puts {
        let status = put.finish().await?;
        println!("PUT {key}, half way before: {status}");
        ensure!(status == 200 || status >= 500, "PUT {key}: {status}");
        for client in &arena.gateways {
            let found = arena.recorder.get(client, key).await;
            let right = found == Some(value) || (status != 200 && found == Some(0));
            ensure!(right, "{key} reads {found:?} after {status}");
        }
    }
    arena.assert_writes_arrive(10).await
}
