//! Slots that leave a drive, and that come back to it: what is kept, what is dropped and when, and what votes.

use coffer_common::protocol::message::VersionState;
use coffer_common::protocol::register::Role;

use super::*;

async fn read(bench: &Bench, key: &RegisterKey, counter: u64) -> Result<(), NodeError> {
    let (address, register) = (bench.address(key), key.clone());
    let request = ReadShard { address, register, op: op(counter), first_block: 0, block_count: 1 };
    bench.store().read_shard(request).await.map(drop)
}

#[tokio::test]
async fn what_a_drive_has_left_is_refused_still_read_and_dropped_when_it_is_told() {
    let (key, other, mut bench) = (object("key"), object("other"), Bench::new());
    let partition = bench.address(&key).partition;
    assert_ne!(partition, bench.address(&other).partition);
    bench.put(&key, 1, b"data").await.unwrap();
    bench.put(&other, 2, b"data").await.unwrap();
    assert!(bench.store().used_partitions().await.unwrap().contains(&partition));
    let early = bench.store().drop_registers(partition, None).await;
    assert!(matches!(early, Err(NodeError::Invalid(_))), "it takes part: {early:?}");

    bench.store().leave(partition).await.unwrap();
    bench.reopen();
    let query = bench.call(&key, SlotRequest::Query { inline_data: false }).await;
    assert_eq!(query, Ok(SlotReply::Refused(Refusal::NotVoter)));
    read(&bench, &key, 1).await.unwrap();
    assert_eq!(bench.store().drop_registers(partition, None).await, Ok(1));
    bench.reopen();
    assert!(read(&bench, &key, 1).await.is_err());
    assert!(!bench.store().used_partitions().await.unwrap().contains(&partition));
    assert_eq!(bench.store().info().registers, 1);
    assert_eq!(bench.store().partition(partition).role, Role::Out);
    read(&bench, &other, 2).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_comes_back_has_its_shards_and_none_of_its_promises() {
    let (key, gone, mut bench) = (object("key"), object("key"), Bench::new());
    let address = bench.address(&key);
    bench.put(&key, 1, b"data").await.unwrap();
    let fence = Fence { generation: 1, revision: 9 };
    bench.call(&gone, SlotRequest::Fence { fence, op: op(7) }).await.unwrap();
    assert!(bench.store().begin_to_take((address.partition, address.slot), Epoch(5)).await.unwrap());
    bench.reopen();
    let state = bench.store().partition(address.partition);
    assert_eq!((state.role, state.epoch), (Role::Joining, Epoch(5)));
    let entry = bench.store().index.get(&key.encode()).unwrap().unwrap();
    assert_eq!(entry.register, Register { prepared: vec![op(1)], ..Register::default() });

    // The version that is told anew finds the shard; as another slot nothing would be left.
    let stable = SlotRequest::Stable { version: version(1, 4), tag: tag(1), acknowledged: SlotSet(1) };
    bench.call(&key, stable).await.unwrap();
    let entry = bench.store().index.get(&key.encode()).unwrap().unwrap();
    let held = entry.register.current().unwrap();
    assert_eq!((held.state, held.shard_present), (VersionState::Stable, true));
    read(&bench, &key, 1).await.unwrap();
    assert!(bench.store().begin_to_take((address.partition, SlotIndex(3)), Epoch(6)).await.unwrap());
    assert!(bench.store().index.get(&key.encode()).unwrap().is_none());
}

#[tokio::test]
async fn an_old_map_takes_nothing_from_a_slot_that_was_taken_since() {
    let (key, bench) = (object("key"), Bench::new());
    let (partition, slot) = (bench.address(&key).partition, bench.address(&key).slot);
    let begin =
        async |slot, epoch| bench.store().begin_to_take((partition, slot), Epoch(epoch)).await.unwrap();
    assert!(begin(slot, 5).await);
    bench.put(&key, 1, b"data").await.unwrap();
    let held = || bench.store().index.get(&key.encode()).unwrap().unwrap().register.clone();
    let learned = held();

    assert!(begin(slot, 5).await, "nobody knows whether the record has followed");
    assert!(!begin(SlotIndex(3), 5).await, "what the drive has is of another slot");
    assert!(!begin(slot, 4).await);
    assert_eq!((held(), bench.store().partition(partition).role), (learned.clone(), Role::Joining));
    bench.store().vote(partition, Epoch(5), bench.store().takes(partition)).await.unwrap();
    assert!(!begin(slot, 5).await && !begin(slot, 4).await);
    assert_eq!((held(), bench.store().partition(partition).role), (learned, Role::Voter));
}

#[tokio::test]
async fn what_was_learned_before_a_slot_was_taken_again_does_not_make_it_vote() {
    let (key, bench) = (object("key"), Bench::new());
    let (partition, slot) = (bench.address(&key).partition, bench.address(&key).slot);
    assert!(bench.store().begin_to_take((partition, slot), Epoch(5)).await.unwrap());
    let before = bench.store().takes(partition);
    assert!(bench.store().begin_to_take((partition, slot), Epoch(7)).await.unwrap());
    assert!(bench.store().vote(partition, Epoch(5), before).await.is_err());
    assert_eq!(bench.store().partition(partition).role, Role::Joining);
    bench.store().vote(partition, Epoch(7), bench.store().takes(partition)).await.unwrap();
    assert_eq!(bench.store().partition(partition).role, Role::Voter);
}

/// A drive that has left a partition with eight registers, each with a file.
async fn left() -> (Bench, PartitionId) {
    let bench = Bench::new();
    let partition = bench.address(&object("k0")).partition;
    let all = (0..).map(|number| object(&format!("k{number}")));
    let keys: Vec<_> = all.filter(|key| bench.address(key).partition == partition).take(8).collect();
    for (key, counter) in keys.iter().zip(1..) {
        bench.prepare_file(key, counter, &data(counter, 1000)).await.unwrap();
        bench.commit(key, version(counter, 1000)).await.unwrap();
    }
    bench.store().leave(partition).await.unwrap();
    assert_eq!(bench.shard_files(), 8);
    (bench, partition)
}

#[tokio::test]
async fn registers_that_are_left_are_dropped_with_one_sync_for_many() {
    let (bench, partition) = left().await;
    let before = bench.store().journal_syncs();
    assert_eq!(bench.store().drop_registers(partition, None).await, Ok(8));
    let took = bench.store().journal_syncs() - before;
    // A segment that comes to its end takes one more, or two.
    assert!((1..=3).contains(&took), "{took}");
    assert_eq!((bench.shard_files(), bench.store().info().registers), (0, 0));
}

#[tokio::test]
async fn files_of_registers_that_are_left_stay_until_it_is_durable_that_they_are_dropped() {
    let (mut bench, partition) = left().await;
    bench.drive.inject(Fault::new(Call::Sync, "journal", When::After(0), Effect::Error));
    bench.store().drop_registers(partition, None).await.unwrap_err();
    bench.drive.clear_faults();
    bench.reopen();
    assert_eq!(bench.shard_files(), 8);
}

#[tokio::test]
async fn when_a_slot_was_taken_is_known_after_the_record_of_that_is_compacted() {
    let mut bench = Bench::new();
    let partition = bench.address(&object("key")).partition;
    assert!(bench.store().begin_to_take((partition, SlotIndex(0)), Epoch(5)).await.unwrap());
    bench.store().vote(partition, Epoch(6), bench.store().takes(partition)).await.unwrap();
    for counter in 1..200_u64 {
        bench.put(&object(&format!("k{}", counter % 4)), counter, &data(counter, 5000)).await.unwrap();
    }
    bench.store().apply(true);
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    bench.store().apply(true);
    while bench.store().compact(&mut |_| {}).unwrap() {}
    assert!(bench.segments() <= 3, "the segment of the record is gone");
    let taken = |bench: &Bench| bench.store().slots.read().taken(partition);
    assert_eq!(taken(&bench), Epoch(5));
    bench.reopen();
    assert_eq!(taken(&bench), Epoch(5));
    bench.lose_index();
    bench.reopen();
    assert_eq!((taken(&bench), bench.store().partition(partition).epoch), (Epoch(5), Epoch(6)));
}
