//! What a drive lacks, and how that ends.

use coffer_common::node::{Lacking, OwedRegister};
use coffer_common::protocol::message::{SlotVersion, VersionState};

use super::*;

const LEN: usize = 300_000;

#[tokio::test]
async fn what_a_peer_told_is_recorded_and_its_shard_is_missing_until_it_is_installed() {
    let bench = Bench::new();
    let (key, told) = (object("told"), version(1, LEN));
    let held = SlotVersion {
        version: told.clone(),
        tag: tag(1),
        state: VersionState::Stable,
        shard_present: true,
        acknowledged: SlotSet(0b1110),
    };
    let SlotAddress { partition, slot, epoch, .. } = bench.address(&key);
    let owed = OwedRegister { register: key.clone(), partition, epoch, versions: vec![held.clone()] };
    assert_eq!(bench.store().learn(slot, &owed).await.unwrap(), [held]);
    let store = bench.store();
    assert_eq!((store.info().heal.missing, store.due(Task::Heal, 9).await.unwrap()), (1, vec![]));
    tokio::time::sleep(SETTLE_AFTER + Duration::from_millis(50)).await;
    let due = store.due(Task::Heal, 9).await.unwrap();
    assert_eq!(due.iter().map(|due| (&due.register, due.op)).collect::<Vec<_>>(), [(&key, told.op)]);
    assert_eq!(store.lacking(&due[0]).await.unwrap().map(|held| held.tag), Some(tag(1)));

    let install = Install { version: told.clone(), tag: tag(1), source_stable: true };
    let broken = bench.install(&key, &install, encode(&told, &data(2, LEN)).slice(..LEN)).await;
    assert!(matches!(broken, Err(NodeError::Invalid(_))), "{broken:?}");
    assert_eq!((bench.shard_files(), store.info().heal.missing), (0, 1));
    let shard = encode(&told, &data(1, LEN));
    assert_eq!(bench.install(&key, &install, shard).await, Ok(SlotReply::Done));
    assert_eq!(bench.read_shard(&key, told.op).await, Ok(data(1, LEN)));
    let heal = store.info().heal;
    assert_eq!((heal.missing, heal.rebuilt_shards, heal.rebuilt_bytes), (0, 1, LEN as u64));
    assert!(!store.is_unfinished(Task::Heal, &due[0]));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_finished_keeps_nothing_from_those_behind_it() {
    let bench = Bench::new();
    for counter in 1..=9 {
        let commit = SlotRequest::Commit { version: version(counter, LEN), tag: tag(counter) };
        bench.call(&object(&format!("k{counter}")), commit).await.unwrap();
    }
    for task in [Task::Settle, Task::Heal] {
        let mut taken = Vec::new();
        // The first ones are due again before the last ones are taken.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            for due in bench.store().due(task, 3).await.unwrap() {
                bench.store().postpone(task, &due);
                taken.push(due.op.counter);
            }
        }
        assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]);
    }
}

#[tokio::test]
async fn what_is_missing_is_told_where_it_is_known_and_never_told_to_be_nothing_where_it_is_not() {
    let mut bench = Bench::new();
    let (key, version) = (object("missed"), version(1, LEN));
    let partition = bench.address(&key).partition;
    let told = |bench: &Bench| {
        let info = bench.store().info();
        (info.heal.missing, info.lacking)
    };
    let here = || Lacking::In([partition].into_iter().collect());
    assert_eq!(told(&bench), (0, Lacking::Unknown), "others have not told what they owe");
    bench.store().set_in_step(true);
    assert_eq!(told(&bench), (0, Lacking::nothing()));
    // Its shard may be on its way.
    bench.call(&key, SlotRequest::Commit { version: version.clone(), tag: tag(1) }).await.unwrap();
    bench.store().find_unfinished(Task::Heal).await.unwrap();
    assert_eq!(told(&bench), (1, Lacking::nothing()));
    bench.reopen();
    assert_eq!(told(&bench), (1, Lacking::Unknown));
    bench.store().set_in_step(true);
    assert_eq!(told(&bench), (1, Lacking::Unknown), "the list is empty, but the drive has counted");
    assert!(!bench.store().info().heal.complete);
    bench.store().find_unfinished(Task::Heal).await.unwrap();
    assert_eq!(told(&bench), (1, here()));
    let install = Install { version: version.clone(), tag: tag(1), source_stable: true };
    bench.install(&key, &install, encode(&version, &data(1, LEN))).await.unwrap();
    assert_eq!(told(&bench), (0, Lacking::nothing()));
    bench.store().set_in_step(false);
    assert_eq!(told(&bench), (0, Lacking::Unknown), "it was cut off, and may have missed something");
}

#[tokio::test]
async fn a_damaged_file_stays_until_a_whole_one_is_in_its_place_and_is_then_set_aside() {
    let mut bench = Bench::new();
    let (key, version) = (object("rotten"), version(1, LEN));
    bench.prepare_file(&key, 1, &data(1, LEN)).await.unwrap();
    let commit = SlotRequest::Stable { version: version.clone(), tag: tag(1), acknowledged: SlotSet(1) };
    bench.call(&key, commit).await.unwrap();
    let path = bench.drive.paths().into_iter().find(|path| path.starts_with("shards/") && path.contains('-'));
    let path = path.unwrap();
    assert!(bench.drive.damage(&path, |bytes| bytes[LEN - 1000] ^= 1));
    bench.read_shard(&key, version.op).await.unwrap_err();
    assert_eq!(bench.store().info().heal.missing, 1);

    let install = Install { version: version.clone(), tag: tag(1), source_stable: true };
    let shard = encode(&version, &data(1, LEN));
    bench.install(&key, &install, shard.slice(..LEN / 2)).await.unwrap_err();
    let first = ReadShard {
        address: bench.address(&key),
        register: key.clone(),
        op: version.op,
        first_block: 0,
        block_count: 1,
    };
    let mut blocks = bench.store().read_shard(first).await.unwrap();
    assert!(blocks.recv().await.unwrap().is_ok(), "its other blocks may be all that is left");

    assert_eq!(bench.store().quarantined_shards(), None, "nobody has looked");
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!(bench.store().quarantined_shards(), Some(0), "it was put back");
    bench.install(&key, &install, shard).await.unwrap();
    assert_eq!(bench.read_shard(&key, version.op).await, Ok(data(1, LEN)));
    assert!(bench.drive.paths().contains(&format!("{path}.damaged")));
    assert_eq!(bench.store().quarantined_shards(), Some(1));
    bench.reopen();
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!((bench.shard_files(), bench.store().quarantined_shards()), (2, Some(1)), "both are in use");
    bench.put(&key, 2, &[]).await.unwrap();
    bench.store().apply(true);
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!((bench.shard_files(), bench.store().quarantined_shards()), (0, Some(0)));
}
