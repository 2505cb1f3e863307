//! What a drive owes to others, what it lacks itself, and how both end.

use coffer_common::node::{OwedPage, OwedRegister, OwedRequest};
use coffer_common::protocol::message::{SlotVersion, VersionState};

use super::*;

const LEN: usize = 300_000;
const FOURTH: SlotIndex = SlotIndex(3);

impl Bench {
    /// Makes a version STABLE that these slots have acknowledged; this drive is slot 0.
    async fn acknowledge(&self, key: &str, counter: u64, acknowledged: u16) {
        let (version, tag) = (version(counter, 0), tag(counter));
        let request = SlotRequest::Stable { version, tag, acknowledged: SlotSet(acknowledged) };
        assert_eq!(self.call(&object(key), request).await, Ok(SlotReply::Done));
    }

    async fn owed_to(&self, slot: SlotIndex, keys: &[&str], (after, limit): (Bytes, u32)) -> OwedPage {
        let partition = |key: &&str| self.address(&object(key)).partition;
        let mut slots: Vec<_> = keys.iter().map(|key| (partition(key), slot)).collect();
        slots.sort_unstable_by_key(|(partition, _)| *partition);
        let request = OwedRequest { cluster: CLUSTER, slots, after, limit };
        self.store().owed_page(Arc::new(request)).await.unwrap()
    }

    async fn walk(&self) {
        while !self.store().find_owed().await.unwrap() {}
    }
}

fn keys(page: &OwedPage) -> Vec<RegisterKey> {
    page.registers.iter().map(|owed| owed.register.clone()).collect()
}

#[tokio::test]
async fn what_a_slot_has_not_acknowledged_is_owed_to_it_until_it_has_also_after_a_start() {
    let mut bench = Bench::new();
    let all = ["a", "b", "c", "d"];
    let everything = (Bytes::new(), 100);
    bench.store().expect_slots(4);
    bench.acknowledge("a", 1, 0b1111).await;
    bench.acknowledge("b", 2, 0b0111).await;
    bench.acknowledge("c", 3, 0b0011).await;
    bench.acknowledge("d", 4, 0b1011).await;
    for walked in [false, true] {
        if walked {
            bench.reopen();
            assert_eq!(keys(&bench.owed_to(FOURTH, &all, everything.clone()).await), []);
            assert!(!bench.store().misses_owed(), "how many slots there are is not known yet");
            bench.store().expect_slots(4);
            assert!(bench.store().misses_owed());
            bench.walk().await;
        }
        let page = bench.owed_to(FOURTH, &all, everything.clone()).await;
        assert_eq!((keys(&page), page.complete), (vec![object("b"), object("c")], walked));
        assert_eq!(page.registers[0].versions.iter().map(|held| held.tag).collect::<Vec<_>>(), [tag(2)]);
        assert_eq!(
            keys(&bench.owed_to(SlotIndex(2), &all, everything.clone()).await),
            [object("c"), object("d")]
        );
        assert_eq!(keys(&bench.owed_to(FOURTH, &["a", "c"], everything.clone()).await), [object("c")]);
    }
    assert_eq!(bench.store().info().heal.owed, 3);
    bench.acknowledge("b", 2, 0b1000).await;
    bench.acknowledge("c", 5, 0b1111).await;
    assert_eq!(keys(&bench.owed_to(FOURTH, &all, everything).await), [], "told, and superseded");
    assert_eq!(bench.store().info().heal.owed, 1);
}

#[tokio::test]
async fn what_is_owed_comes_in_pages() {
    let bench = Bench::new();
    bench.store().expect_slots(4);
    let names: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, counter) in names.iter().zip(1..) {
        bench.acknowledge(name, counter, 0b0111).await;
    }
    let (mut after, mut found, mut pages) = (Bytes::new(), Vec::new(), 0);
    loop {
        let page = bench.owed_to(FOURTH, &names, (after, 4)).await;
        found.extend(keys(&page));
        (after, pages) = (page.next, pages + 1);
        if after.is_empty() {
            break;
        }
    }
    assert_eq!((found, pages), (names.iter().map(|name| object(name)).collect(), 3));
}

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

#[tokio::test]
async fn a_damaged_file_stays_until_a_whole_one_is_in_its_place_and_is_then_set_aside() {
    let bench = Bench::new();
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

    bench.install(&key, &install, shard).await.unwrap();
    assert_eq!(bench.read_shard(&key, version.op).await, Ok(data(1, LEN)));
    assert!(bench.drive.paths().contains(&format!("{path}.damaged")));
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!(bench.shard_files(), 2, "of an op in use both stay");
}
