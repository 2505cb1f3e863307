use coffer_common::node::{PurgeRequest, PurgeStep};
use coffer_common::protocol::purge::{Candidate, Evidence, Held};
use coffer_common::protocol::register::Role;

use super::*;

async fn step(
    bench: &Bench,
    step: PurgeStep,
    (key, candidate): (&RegisterKey, Candidate),
    epoch: u64,
) -> Vec<Evidence> {
    let address = SlotAddress { epoch: Epoch(epoch), ..bench.address(key) };
    let request = PurgeRequest { address, step, candidates: vec![(key.clone(), candidate)], grace_ms: 0 };
    bench.store().purge(request).await.unwrap()
}

fn held(evidence: &[Evidence]) -> Held {
    evidence[0].held
}

fn register(bench: &Bench, key: &RegisterKey) -> Register {
    let entry = bench.store().index.get(&key.encode()).unwrap();
    entry.map(|entry| entry.register.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_tombstone_goes_by_its_steps_and_leaves_its_tag_as_the_floor() {
    let (key, mut bench) = (object("key"), Bench::new());
    let partition = bench.address(&key).partition;
    bench.put(&key, 1, b"data").await.unwrap();
    bench.put(&key, 2, b"").await.unwrap();
    let candidate = Candidate::Tombstone(tag(2));
    assert!(
        bench.store().purgeable(partition, 0).await.unwrap().is_empty(),
        "the version below is still read"
    );
    assert_eq!(held(&step(&bench, PurgeStep::Look, (&key, candidate), 0).await), Held::Other);
    let later = UnixMillis(UnixMillis::now().0 + 3_600_000);
    bench.store().free_now(later).await.unwrap();
    assert_eq!(bench.store().purgeable(partition, 0).await.unwrap(), vec![(key.clone(), candidate)]);
    assert_eq!(held(&step(&bench, PurgeStep::Look, (&key, candidate), 0).await), Held::Alone);

    // Without the epoch nothing goes.
    assert!(step(&bench, PurgeStep::Drop, (&key, candidate), 1).await.is_empty());
    assert_eq!(register(&bench, &key).versions.len(), 1);
    let told = step(&bench, PurgeStep::Adopt, (&key, candidate), 1).await;
    let (epoch, purge_epoch) = (Epoch(1), Epoch(1));
    assert_eq!(told, vec![Evidence { role: Role::Voter, epoch, purge_epoch, held: Held::Alone }]);
    bench.reopen();
    assert_eq!(bench.store().partition(partition).purge_epoch, Epoch(1), "adopted durably");
    step(&bench, PurgeStep::Drop, (&key, candidate), 1).await;
    for _ in 0..2 {
        assert_eq!(register(&bench, &key), Register::default());
        assert_eq!(bench.store().info().registers, 0);
        assert_eq!(bench.store().partition(partition).floor, tag(2));
        bench.reopen();
    }
    // Whoever writes next learns what the key has been at most.
    let view = bench.call(&key, SlotRequest::Query { inline_data: false }).await.unwrap();
    assert!(matches!(view, SlotReply::View(view, _) if view.learn == tag(2) && view.current.is_none()));
}

#[tokio::test]
async fn an_orphan_goes_with_its_file_unless_it_has_become_a_version() {
    let (key, other, mut bench) = (object("key"), object("other"), Bench::new());
    let data = vec![7; 300_000];
    bench.prepare_file(&key, 1, &data).await.unwrap();
    bench.prepare_file(&other, 2, &data).await.unwrap();
    assert_eq!(bench.shard_files(), 2);
    let orphan = Candidate::Orphan(op(1));
    let waiting = bench.store().purgeable(bench.address(&key).partition, 3_600_000).await.unwrap();
    assert!(waiting.is_empty(), "it may be on its way");
    let found = bench.store().purgeable(bench.address(&key).partition, 0).await.unwrap();
    assert_eq!(found, vec![(key.clone(), orphan)]);
    assert_eq!(held(&step(&bench, PurgeStep::Look, (&key, orphan), 0).await), Held::Waited);
    step(&bench, PurgeStep::Adopt, (&key, orphan), 1).await;
    bench.reopen();
    step(&bench, PurgeStep::Drop, (&key, orphan), 1).await;
    assert_eq!((register(&bench, &key), bench.shard_files()), (Register::default(), 1));

    let orphan = Candidate::Orphan(op(2));
    step(&bench, PurgeStep::Adopt, (&other, orphan), 1).await;
    let commit = SlotRequest::Commit { version: version(2, data.len()), tag: tag(2) };
    bench.call(&other, commit).await.unwrap();
    assert_eq!(held(&step(&bench, PurgeStep::Look, (&other, orphan), 1).await), Held::Other);
    step(&bench, PurgeStep::Drop, (&other, orphan), 1).await;
    assert_eq!((register(&bench, &other).versions.len(), bench.shard_files()), (1, 1));
    bench.read_shard(&other, op(2)).await.unwrap();
}

#[tokio::test]
async fn what_is_late_meets_the_epoch_of_the_purge() {
    let (key, bench) = (object("key"), Bench::new());
    bench.prepare_file(&key, 1, &vec![7; 300_000]).await.unwrap();
    let (late, orphan) = (bench.address(&key), Candidate::Orphan(op(1)));
    step(&bench, PurgeStep::Adopt, (&key, orphan), 1).await;
    step(&bench, PurgeStep::Drop, (&key, orphan), 1).await;
    let request = SlotRequest::Commit { version: version(1, 300_000), tag: tag(1) };
    let call = SlotCall { address: late, register: key.clone(), bucket_revision: 0, request };
    let refused = SlotReply::Refused(Refusal::WrongEpoch(Epoch(1)));
    assert_eq!(bench.store().call(call).await, Ok(refused));

    // A newer epoch ends the purge, an older one cannot come back.
    bench.prepare_file(&key, 2, &vec![7; 300_000]).await.unwrap();
    let orphan = Candidate::Orphan(op(2));
    step(&bench, PurgeStep::Adopt, (&key, orphan), 2).await;
    step(&bench, PurgeStep::Adopt, (&key, orphan), 3).await;
    step(&bench, PurgeStep::Drop, (&key, orphan), 2).await;
    assert_eq!(register(&bench, &key).prepared, vec![op(2)]);
    bench.store().leave(bench.address(&key).partition).await.unwrap();
    step(&bench, PurgeStep::Drop, (&key, orphan), 3).await;
    assert_eq!(register(&bench, &key).prepared, vec![op(2)], "it is no voter");
    let elsewhere = RegisterKey::object(BucketId(1), ObjectKey::new("elsewhere").unwrap());
    let request = PurgeRequest {
        address: bench.address(&key),
        step: PurgeStep::Look,
        candidates: vec![(elsewhere, orphan)],
        grace_ms: 0,
    };
    assert!(matches!(bench.store().purge(request).await, Err(NodeError::Invalid(_))));
}
