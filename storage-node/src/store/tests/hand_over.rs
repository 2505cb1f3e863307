use coffer_common::node::{HandOverPage, HandOverRequest};
use coffer_common::protocol::message::{RegisterView, VersionState};
use coffer_common::types::Incarnation;

use super::*;

/// A drive in the place of one that lost its state.
fn lost() -> Bench {
    Bench::on(SimulatedDrive::format_again(CLUSTER, (DriveId(0xE), Incarnation(1)), SEGMENT, 0))
}

/// What the voter tells of the key's partition after a position, having adopted the epoch.
async fn told(voter: &Bench, key: &RegisterKey, epoch: u64, after: u64) -> Result<HandOverPage, NodeError> {
    let address = SlotAddress { epoch: Epoch(epoch), ..voter.address(key) };
    voter.store().hand_over(HandOverRequest { address, after, buckets_after: after }).await
}

async fn view(bench: &Bench, key: &RegisterKey) -> RegisterView {
    match bench.call(key, SlotRequest::Query { inline_data: false }).await.unwrap() {
        SlotReply::View(view, _) => view,
        other => panic!("{other:?}"),
    }
}

fn refused() -> Result<SlotReply, NodeError> {
    Ok(SlotReply::Refused(Refusal::NotVoter))
}

#[tokio::test]
async fn a_slot_that_lost_its_state_has_no_vote_before_it_was_told() {
    let (key, mut bench) = (object("key"), lost());
    let partition = bench.address(&key).partition;
    let query = || SlotRequest::Query { inline_data: false };
    let commit = || SlotRequest::Commit { version: version(1, 0), tag: tag(1) };
    // Nothing of the time before its loss gets in.
    assert_eq!(bench.call(&key, query()).await, refused());
    assert_eq!(bench.call(&key, commit()).await, refused());
    assert_eq!(bench.store().not_voting().len(), 4096);
    assert_eq!(bench.store().info().join.waiting, 4096);
    bench.store().begin_to_join(partition, Epoch(1)).await.unwrap();
    bench.reopen();
    let address = SlotAddress { epoch: Epoch(0), ..bench.address(&key) };
    let old = SlotCall { address, register: key.clone(), bucket_revision: 0, request: commit() };
    assert_eq!(bench.store().call(old).await, Ok(SlotReply::Refused(Refusal::WrongEpoch(Epoch(1)))));
    assert_eq!(bench.call(&key, commit()).await, refused(), "recorded, and not counted");
    assert!(told(&bench, &key, 1, 0).await.is_err(), "it has nothing to tell");
    bench.store().vote(partition, Epoch(2), 0).await.unwrap();
    bench.reopen();
    assert_eq!(bench.store().info().join.waiting, 4095);
    assert_eq!(bench.store().partition(partition).epoch, Epoch(2));
    let current = view(&bench, &key).await.current.unwrap();
    assert_eq!((current.version.op, current.state), (op(1), VersionState::Learned));
}

#[tokio::test]
async fn promises_versions_and_bucket_revisions_are_handed_over() {
    let (key, locked, voter, joiner) = (object("key"), object("key"), Bench::new(), lost());
    let partition = voter.address(&key).partition;
    voter.put(&key, 1, b"data").await.unwrap();
    let fence = Fence { generation: 1, revision: 9 };
    voter.call(&locked, SlotRequest::Fence { fence, op: op(7) }).await.unwrap();
    voter.store().adopt_bucket(BUCKET, 5).await.unwrap();
    joiner.store().begin_to_join(partition, Epoch(1)).await.unwrap();

    let page = told(&voter, &key, 1, 0).await.unwrap();
    assert!(page.complete && page.epoch == Epoch(1) && page.buckets == [(BUCKET, 5)], "{page:?}");
    let old = SlotCall {
        address: SlotAddress { epoch: Epoch(0), ..voter.address(&key) },
        register: key.clone(),
        bucket_revision: 0,
        request: SlotRequest::Query { inline_data: false },
    };
    let refused = voter.store().call(old).await;
    assert_eq!(refused, Ok(SlotReply::Refused(Refusal::WrongEpoch(Epoch(1)))), "it has adopted the epoch");
    joiner.store().take_over(&joiner.address(&key), &page).await.unwrap();

    // The second time only what has changed since.
    let (position, buckets) = (page.position, page.buckets_position);
    assert_eq!(told(&voter, &key, 1, position).await.unwrap().registers, []);
    let tombstone = Tag { fence, seq: 2, writer: op(7) };
    voter.call(&key, SlotRequest::Commit { version: version(7, 0), tag: tombstone }).await.unwrap();
    let page = told(&voter, &key, 2, position.max(buckets)).await.unwrap();
    assert_eq!((page.registers.len(), page.buckets.len(), page.epoch), (1, 0, Epoch(2)));
    joiner.store().take_over(&joiner.address(&key), &page).await.unwrap();
    joiner.store().vote(partition, Epoch(2), 0).await.unwrap();

    let view = view(&joiner, &key).await;
    let current = view.current.unwrap();
    assert_eq!(view.fence, fence);
    assert_eq!((current.version.op, current.tag, current.state), (op(7), tombstone, VersionState::Learned));
    let late = joiner.store().take_over(&joiner.address(&key), &page).await;
    assert!(matches!(late, Err(NodeError::Invalid(_))), "a voter is told nothing: {late:?}");
    let entry = joiner.store().index.get(&key.encode()).unwrap().unwrap();
    let first = entry.register.versions.iter().find(|held| held.version.op == op(1)).unwrap();
    assert_eq!((first.state, first.shard_present), (VersionState::Stable, false));
}

#[tokio::test]
async fn a_large_partition_is_handed_over_in_pages_that_miss_nothing_which_changes_meanwhile() {
    let (voter, joiner) = (Bench::new(), lost());
    let partition = voter.address(&object("0")).partition;
    let here = |number: &usize| voter.address(&object(&number.to_string())).partition == partition;
    let keys: Vec<RegisterKey> =
        (0..).filter(here).take(3).map(|number: usize| object(&number.to_string())).collect();
    for (number, key) in keys.iter().enumerate() {
        voter.put(key, number as u64 + 1, b"data").await.unwrap();
    }
    joiner.store().begin_to_join(partition, Epoch(1)).await.unwrap();
    let first = told(&voter, &keys[0], 1, 0).await.unwrap();
    assert_eq!(first.registers.len(), 3);
    // One that was passed and one that was not change; both come (again).
    let middle = first.position - 1;
    voter.put(&keys[2], 10, b"new").await.unwrap();
    voter.put(&keys[0], 11, b"new").await.unwrap();
    let rest = told(&voter, &keys[0], 1, middle).await.unwrap();
    let mut told: Vec<_> = rest.registers.iter().map(|(key, _)| key.clone()).collect();
    told.sort();
    assert_eq!(told, [keys[0].clone(), keys[2].clone()]);
}
