//! What must hold once everything runs and nothing is lost any more.
//!
//! 1. Every key can be read through every gateway and listed; the reads go into the history.
//! 2. Every slot of every key holds the same version, STABLE: who missed it has caught up.
//! 3. A census finds a shard that verifies on every slot, of every object and part; rot that only it finds is healed.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::driver::Peers;
use coffer_common::node::{NodeClient, SlotAddress, SlotCall, partition_of};
use coffer_common::protocol::message::{SlotReply, SlotRequest, SlotVersion, VersionState};
use coffer_common::types::{BucketId, RegisterKey};

use crate::body;
use crate::client::{Read, list, read, value_of};
use crate::gateway::Gateway;
use crate::keeper;
use crate::trace::note;
use crate::world::{BUCKET, World};

/// A damaged shard is due by then.
const HEAL: Duration = Duration::from_secs(5);

/// Everything that is wrong with the cluster itself.
pub(crate) async fn after_quiet(world: &Arc<World>) -> Vec<String> {
    let gateways = world.gateways.lock().clone();
    let mut wrong = Vec::new();
    for gateway in &gateways {
        wrong.extend(read_all(world, gateway).await);
    }
    let gateway = &gateways[0];
    let entry = gateway.cluster.coordinator().get(&format!("buckets/{BUCKET}")).await;
    let Ok(Some(entry)) = entry else { return vec![format!("no bucket record: {entry:?}")] };
    let record: serde_json::Value = serde_json::from_slice(&entry.value).expect("a record is JSON");
    let bucket: BucketId = serde_json::from_value(record["id"].clone()).expect("a record has an id");
    wrong.extend(keeper::check(world, &gateways).await);
    wrong.extend(healed(world, gateway).await);
    for key in world.history.keys() {
        wrong.extend(look_at(world, gateway, bucket, &key).await.err());
    }
    wrong
}

async fn read_all(world: &Arc<World>, gateway: &Gateway) -> Vec<String> {
    let mut wrong = Vec::new();
    for key in world.history.keys() {
        let (begin, wanted) = (world.history.now(), key.clone());
        let answer = gateway.serve(|store| async move { read(&store, BUCKET, &wanted).await }).await;
        note!(world.trace, "in the end {key}: {answer:?}");
        match answer {
            Some(Read::Found(info, bytes)) => {
                world.history.record_read(&key, value_of(&info), Some(&bytes), begin);
            }
            Some(Read::Missing) => world.history.record_read(&key, 0, None, begin),
            Some(Read::Failed(_)) | None => wrong.push(format!("`{key}` cannot be read: {answer:?}")),
        }
    }
    let begin = world.history.now();
    match gateway.serve(|store| async move { list(&store, 1_000).await }).await.flatten() {
        Some(listed) => {
            for key in world.history.keys() {
                world.history.record_read(&key, listed.get(&key).copied().unwrap_or(0), None, begin);
            }
        }
        None => wrong.push("the bucket cannot be listed".to_owned()),
    }
    wrong
}

/// The first census finds what nobody has read yet; after it is healed the second must find nothing.
async fn healed(world: &World, gateway: &Gateway) -> Vec<String> {
    let wrong = census(gateway).await;
    if wrong.is_empty() {
        return wrong;
    }
    tokio::time::sleep(HEAL).await;
    world.wait_until_finished().await;
    census(gateway).await
}

async fn census(gateway: &Gateway) -> Vec<String> {
    let mut wrong = Vec::new();
    let walked = gateway.serve(|store| async move {
        let mut found = Vec::new();
        let walked = store.census(&mut |holding| found.push(holding)).await;
        walked.map(|_| found).map_err(|error| error.to_string())
    });
    match walked.await {
        Some(Ok(found)) => {
            for holding in found.iter().filter(|holding| !holding.is_complete()) {
                wrong.push(format!("not every slot has a shard that verifies: {holding:?}"));
            }
        }
        other => wrong.push(format!("the census was not finished: {:?}", other.map(|found| found.err()))),
    }
    wrong
}

/// Asks the nodes themselves for a key's slots.
async fn look_at(world: &World, gateway: &Gateway, bucket: BucketId, key: &str) -> Result<(), String> {
    let register = RegisterKey::object(bucket, body::key(key));
    let map = gateway.cluster.map();
    let partition = partition_of(map.cluster, bucket, &body::key(key));
    let peers = Peers::of(&gateway.cluster, partition);
    let mut current: Vec<Option<SlotVersion>> = Vec::new();
    for (slot, peer) in peers.slots.iter().enumerate() {
        let host = world.nodes.iter().map(|node| &node.host).find(|host| *host.id() == peer.node);
        let host = host.expect("every slot is on a node");
        let address = SlotAddress { epoch: peers.epochs.epoch, ..peer.address };
        let call = SlotCall {
            address,
            register: register.clone(),
            bucket_revision: u64::MAX,
            request: SlotRequest::Query { inline_data: false },
        };
        match host.call(call).await {
            Ok(SlotReply::View(view, _)) => current.push(view.current),
            other => return Err(format!("`{key}` slot {slot} on {}: {other:?}", host.id())),
        }
    }
    let Some(top) = current.iter().flatten().max_by_key(|held| held.tag) else { return Ok(()) };
    let same = |held: &SlotVersion| {
        (held.version.op, held.tag, held.state) == (top.version.op, top.tag, VersionState::Stable)
    };
    if current.iter().all(|held| held.as_ref().is_some_and(same)) {
        return Ok(());
    }
    let told: Vec<_> = current
        .iter()
        .map(|held| held.as_ref().map(|held| (held.tag, held.state, held.shard_present)))
        .collect();
    Err(format!("the slots of `{key}` do not all hold the newest version: {told:?}"))
}
