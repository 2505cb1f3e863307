//! What deletes and dead gateways leave over goes from all slots, and from none while one of them is away.

use std::time::{Duration, Instant};

use coffer_common::limits::READ_GRACE;
use coffer_common::node::{NodeClient, PrepareShard, ShardPiece, SlotAddress, SlotCall, partition_of};
use coffer_common::protocol::message::{Refusal, SlotReply, SlotRequest, Version, VersionKind};
use coffer_common::shard::ShardHeader;
use coffer_common::types::{Epoch, Fence, OpId, RegisterKey, Tag};
use coffer_gateway::object::GetError;
use coffer_storage_node::{heal, purge};

use crate::body::*;
use crate::cluster::Bench;

const PERIOD: Duration = Duration::from_secs(1);

fn start(bench: &Bench) {
    for gate in &bench.gates {
        heal::start(&gate.inner, &bench.cluster, &bench.shutdown);
        purge::start(&gate.inner, &bench.cluster, PERIOD, &bench.shutdown);
    }
}

fn registers(bench: &Bench) -> u64 {
    bench.gates.iter().flat_map(|gate| gate.inner.drive_infos()).map(|drive| drive.registers).sum()
}

async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(90), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_go_when_all_slots_hold_them_alone() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let (data, gone) = (bytes(1000, 1), |number: u32| format!("gone/{number}"));
    for number in 0..20 {
        put(&bench.store, "bucket", &gone(number), &data).await.unwrap();
    }
    put(&bench.store, "bucket", "kept", &data).await.unwrap();
    wait_until("all slots to know", || registers(&bench) == 4 * 21).await;
    bench.down(&[3]);
    for number in 0..20 {
        delete(&bench.store, &gone(number)).await;
    }
    start(&bench);
    tokio::time::sleep(2 * PERIOD).await;
    bench.free(2 * READ_GRACE).await;
    tokio::time::sleep(6 * PERIOD).await;
    assert_eq!(registers(&bench), 4 * 21, "a slot is away: nothing may go");

    bench.down(&[]);
    // The versions below go from the slot that was away once it knows of the deletes.
    let begun = Instant::now();
    while registers(&bench) > 4 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{} registers", registers(&bench));
        bench.free(2 * READ_GRACE).await;
        tokio::time::sleep(PERIOD / 4).await;
    }
    assert_eq!(get(&bench.store, "bucket", "kept").await.unwrap(), data);
    for number in 0..20 {
        let read = get(&bench.store, "bucket", &gone(number)).await;
        assert!(matches!(read, Err(ReadFailure::Get(GetError::NoSuchKey))), "{read:?}");
        let again = bytes(2000, u64::from(number));
        put(&bench.store, "bucket", &gone(number), &again).await.unwrap();
        assert_eq!(get(&bench.store, "bucket", &gone(number)).await.unwrap(), again);
    }
}

/// A gateway died between PREPARE and COMMIT: the shards go, and a COMMIT that is still on its way finds that out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_a_write_that_never_came_to_a_commit_go() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let data = bytes(600_000, 1);
    put(&bench.store, "bucket", "key", &data).await.unwrap();
    let (whole, map) = (bench.census_at_rest().await.0, bench.cluster.map());
    let register = RegisterKey::object(bench.bucket_id("bucket").await, key("key"));
    let partition = partition_of(map.cluster, register.bucket, &register.key);
    let op = OpId { session: 77, counter: 1 };
    let (len_bytes, block_len_bytes) = (300_000, 131_072);
    for target in map.targets(partition) {
        let header = ShardHeader {
            cluster: map.cluster,
            op,
            slot: target.slot,
            k: 2,
            m: 2,
            block_len_bytes,
            len_bytes,
        };
        let shard = header.encode_shard(&bytes(300_000, 2));
        let (sender, pieces) = tokio::sync::mpsc::channel(8);
        sender.send(ShardPiece::Data(shard)).await.unwrap();
        sender.send(ShardPiece::End).await.unwrap();
        let gate = bench.gates.iter().find(|gate| gate.id == target.node).unwrap();
        let (address, register) = (target.address, register.clone());
        let prepared = gate
            .prepare_shard(PrepareShard { address, register, bucket_revision: u64::MAX, op }, pieces)
            .await;
        assert!(matches!(prepared, Ok(SlotReply::View(..))), "{prepared:?}");
    }
    assert_eq!(bench.census().0, whole + 4);
    start(&bench);
    wait_until("the shards to go", || bench.census().0 == whole).await;
    assert_eq!(get(&bench.store, "bucket", "key").await.unwrap(), data);

    let (late, target) = (map.epochs(partition).epoch, map.targets(partition).remove(0));
    let version = Version {
        op,
        kind: VersionKind::Data,
        null_version: true,
        k: 2,
        shard_len_bytes: len_bytes,
        block_len_bytes,
        metadata: bytes::Bytes::new(),
    };
    let tag = Tag { fence: Fence::default(), seq: 1 << 40, writer: op };
    let address = SlotAddress { epoch: late, ..target.address };
    let request = SlotRequest::Commit { version, tag };
    let call = SlotCall { address, register, bucket_revision: u64::MAX, request };
    let gate = bench.gates.iter().find(|gate| gate.id == target.node).unwrap();
    let refused = gate.call(call).await.unwrap();
    assert!(matches!(refused, SlotReply::Refused(Refusal::WrongEpoch(Epoch(1..)))), "{refused:?}");
}
