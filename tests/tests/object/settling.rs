//! What a dead gateway left half done: the slots settle it among themselves, without any reader.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coffer_common::node::{NodeClient, SlotCall, partition_of};
use coffer_common::protocol::message::{SlotReply, SlotRequest, SlotVersion, VersionKind, VersionState};
use coffer_common::types::RegisterKey;
use coffer_gateway::object::{DeleteObject, WriteCondition};

use crate::body::*;
use crate::cluster::{Bench, Gate};

/// What each slot of a key holds as current, asked past the gates.
async fn held(bench: &Bench, k: &str) -> Vec<Option<SlotVersion>> {
    let map = bench.cluster.map();
    let bucket = bench.bucket_id("bucket").await;
    let partition = partition_of(map.cluster, bucket, &key(k));
    let mut slots = Vec::new();
    for target in map.targets(partition) {
        let gate = bench.gates.iter().find(|gate| gate.id == target.node).unwrap();
        let call = SlotCall {
            address: target.address,
            register: RegisterKey::object(bucket, key(k)),
            bucket_revision: u64::MAX,
            request: SlotRequest::Query { inline_data: false },
        };
        match gate.inner.call(call).await.unwrap() {
            SlotReply::View(view, _) => slots.push(view.current),
            other => panic!("{other:?}"),
        }
    }
    slots
}

fn all_stable(slots: &[Option<SlotVersion>]) -> bool {
    let same = |held: &Option<SlotVersion>| {
        held.as_ref().is_some_and(|held| {
            held.state == VersionState::Stable
                && Some(held.version.op) == slots[0].as_ref().map(|first| first.version.op)
        })
    };
    slots.iter().all(same)
}

async fn wait_until_settled(bench: &Bench, k: &str) -> Vec<Option<SlotVersion>> {
    wait_until(bench, k, all_stable).await
}

/// Waits until all slots hold the same version, STABLE, with its shards.
pub(crate) async fn wait_until_held(bench: &Bench, k: &str) {
    let whole = |slots: &[Option<SlotVersion>]| {
        all_stable(slots) && slots.iter().flatten().all(|held| held.shard_present)
    };
    wait_until(bench, k, whole).await;
}

async fn wait_until(
    bench: &Bench,
    k: &str,
    done: impl Fn(&[Option<SlotVersion>]) -> bool,
) -> Vec<Option<SlotVersion>> {
    let begun = Instant::now();
    loop {
        let slots = held(bench, k).await;
        if done(&slots) {
            return slots;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not settled: {slots:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A write of the key `k` whose gateway dies when the only slot that gets its COMMIT has it.
async fn die_after_one_commit(bench: &Bench, data: &Bytes) {
    let ops = async || {
        let slots = held(bench, "k").await;
        slots.into_iter().map(|held| held.map(|held| held.version.op)).collect::<Vec<_>>()
    };
    let (before, begun) = (ops().await, Instant::now());
    let (store, data) = (bench.store.clone(), data.clone());
    let dying = tokio::spawn(async move { put(&store, "bucket", "k", &data).await });
    while ops().await == before {
        assert!(begun.elapsed() < Duration::from_secs(60), "no slot gets the commit");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What all slots were sent before it arrives.
    tokio::time::sleep(Duration::from_millis(300)).await;
    dying.abort();
    assert!(!matches!(dying.await, Ok(Ok(_))), "three of four slots lose the commit");
}

fn set(gates: &[std::sync::Arc<Gate>], lossy: impl Fn(&Gate) -> &std::sync::atomic::AtomicBool, to: bool) {
    gates.iter().for_each(|gate| lossy(gate).store(to, Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_whose_stable_was_lost_becomes_stable_without_a_reader() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    set(&bench.gates, |gate| &gate.loses_stable, true);
    for k in ["a", "b", "c", "d"] {
        // An overwritten version may stay COMMITTED below: it must not be settled for ever.
        put(&bench.store, "bucket", k, &bytes(1_000, 1)).await.unwrap();
        put(&bench.store, "bucket", k, &bytes(2_000, 2)).await.unwrap();
    }
    let delete = DeleteObject {
        bucket: name("bucket"),
        key: key("d"),
        version: None,
        condition: WriteCondition::Always,
        bypass_governance: false,
    };
    bench.store.delete_object(delete).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    for k in ["a", "b", "c", "d"] {
        assert!(!all_stable(&held(&bench, k).await), "the test needs something unsettled");
    }
    assert!(bench.unstable() > 0);
    set(&bench.gates, |gate| &gate.loses_stable, false);
    for k in ["a", "b", "c", "d"] {
        let slots = wait_until_settled(&bench, k).await;
        let kind = slots[0].as_ref().unwrap().version.kind;
        assert_eq!(kind == VersionKind::Tombstone, k == "d");
    }
    assert_eq!(bench.unstable(), 0);
    // Several slots may have settled the same version.
    bench.quiet(0).await;
    let before = bench.calls();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(bench.calls(), before, "what is settled is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_reached_one_slot_is_settled_one_way_for_all() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let (old, new) = (bytes(1_000, 1), bytes(1_000, 2));
    put(&bench.store, "bucket", "k", &old).await.unwrap();
    wait_until_settled(&bench, "k").await;
    for reached in 0..4 {
        let mut others = bench.gates.clone();
        others.remove(reached);
        set(&others, |gate| &gate.loses_commits, true);
        die_after_one_commit(&bench, &new).await;
        set(&others, |gate| &gate.loses_commits, false);
        wait_until_settled(&bench, "k").await;
        let settled = get(&bench.store, "bucket", "k").await.unwrap();
        assert!(settled == new, "what one slot holds COMMITTED is the highest tag of all");
        for down in [[0, 1], [2, 3], [0, 3]] {
            bench.down(&down);
            assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), settled);
            bench.down(&[]);
        }
        put(&bench.store, "bucket", "k", &old).await.unwrap();
        wait_until_settled(&bench, "k").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_settled_and_little_is_tried() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    set(&bench.gates, |gate| &gate.loses_stable, true);
    let data: Bytes = bytes(500, 1);
    for index in 0..40 {
        put(&bench.store, "bucket", &format!("k{index}"), &data).await.unwrap();
    }
    bench.down(&[1, 2, 3]);
    tokio::time::sleep(Duration::from_millis(600)).await;
    set(&bench.gates, |gate| &gate.loses_stable, false);
    let before = bench.gates[0].calls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tried = bench.gates[0].calls.load(Ordering::SeqCst) - before;
    assert!(tried < 40 * 4 * 4, "{tried} calls for 40 registers in 10 s");
    for index in 0..40 {
        let held = held(&bench, &format!("k{index}")).await;
        let stable = held.iter().flatten().filter(|held| held.state == VersionState::Stable).count();
        assert_eq!(stable, 0, "settled by one slot alone");
    }
    bench.down(&[]);
    for index in 0..40 {
        wait_until_settled(&bench, &format!("k{index}")).await;
    }
}

/// One slot committed and was away for a weekend: what it brings back must find its shards, or it would cost the
/// acknowledged version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_comes_back_after_days_finds_its_shards() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let (old, new) = (bytes(1_000, 1), bytes(1_000, 2));
    put(&bench.store, "bucket", "k", &old).await.unwrap();
    wait_until_settled(&bench, "k").await;
    let mut others = bench.gates.clone();
    others.remove(0);
    set(&others, |gate| &gate.loses_commits, true);
    die_after_one_commit(&bench, &new).await;
    bench.down(&[0]);
    set(&others, |gate| &gate.loses_commits, false);
    let day = coffer_common::time::UnixMillis(coffer_common::time::UnixMillis::now().0 + 25 * 3600 * 1000);
    for drive in others.iter().flat_map(|gate| gate.inner.drives()) {
        drive.free_now(day).await.unwrap();
    }
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), old, "readable while the host is away");
    bench.down(&[]);
    wait_until_settled(&bench, "k").await;
    bench.free(Duration::from_secs(20 * 60)).await;
    let read = get(&bench.store, "bucket", "k").await;
    assert!(read.as_ref().is_ok_and(|data| *data == old || *data == new), "{read:?}");
}
