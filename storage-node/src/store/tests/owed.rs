//! What a drive owes to others: all of it is told to whoever asks, whatever others miss.

use std::collections::{BTreeMap, BTreeSet};

use coffer_common::node::{OwedPage, OwedRequest};
use proptest::test_runner::{Config, TestCaseError};

use super::damage::block_on;
use super::*;

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

    /// What a slot is told, from the first page to the last, and whether that is all.
    async fn told(&self, slot: SlotIndex, keys: &[&str]) -> (BTreeSet<String>, bool) {
        let (mut told, mut after) = (BTreeSet::new(), Bytes::new());
        loop {
            let page = self.owed_to(slot, keys, (after, 3)).await;
            told.extend(page.registers.iter().map(|owed| owed.register.key.as_str().to_owned()));
            after = page.next;
            if after.is_empty() {
                return (told, page.complete);
            }
        }
    }
}

/// Each slot is on a drive of its own, the same in all partitions.
fn by_slot(_: PartitionId, slot: SlotIndex) -> DriveId {
    DriveId(u128::from(slot.0))
}

fn keys(page: &OwedPage) -> Vec<RegisterKey> {
    page.registers.iter().map(|owed| owed.register.clone()).collect()
}

#[tokio::test]
async fn what_a_slot_has_not_acknowledged_is_owed_to_it_until_it_has_also_after_a_start() {
    let mut bench = Bench::new();
    let all = ["a", "b", "c", "d"];
    let everything = (Bytes::new(), 100);
    bench.store().expect_slots(4, by_slot);
    bench.acknowledge("a", 1, 0b1111).await;
    bench.acknowledge("b", 2, 0b0111).await;
    bench.acknowledge("c", 3, 0b0011).await;
    bench.acknowledge("d", 4, 0b1011).await;
    for walked in [false, true] {
        if walked {
            bench.reopen();
            assert_eq!(keys(&bench.owed_to(FOURTH, &all, everything.clone()).await), []);
            assert!(!bench.store().misses_owed(), "how many slots there are is not known yet");
            bench.store().expect_slots(4, by_slot);
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
    bench.store().expect_slots(4, by_slot);
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

/// A drive whose set of what it owes is small, and what it should owe.
struct Debtor {
    bench: Bench,
    names: Vec<String>,
    /// By key: the last version's counter, and who has acknowledged it.
    stable: BTreeMap<String, (u64, u16)>,
    counter: u64,
}

impl Debtor {
    fn new(keys: usize, (limit, piece): (usize, usize)) -> Self {
        let names = (0..keys).map(|number| format!("k{number:02}")).collect();
        let debtor = Self { bench: Bench::new(), names, stable: BTreeMap::new(), counter: 0 };
        debtor.bench.store().owed.shrink(limit, piece);
        debtor.bench.store().expect_slots(4, by_slot);
        debtor
    }

    fn keys(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    async fn put(&mut self, key: usize, acknowledged: u16) {
        self.counter += 1;
        let acknowledged = acknowledged | 1;
        self.bench.acknowledge(&self.names[key], self.counter, acknowledged).await;
        self.stable.insert(self.names[key].clone(), (self.counter, acknowledged));
    }

    /// What a slot is told must be owed to it; and if that is said to be all, nothing else may be.
    async fn ask(&self, slot: u8) -> Result<(BTreeSet<String>, bool), String> {
        let (told, complete) = self.bench.told(SlotIndex(slot), &self.keys()).await;
        let owed = self.stable.iter().filter(|(_, (_, acknowledged))| acknowledged >> slot & 1 == 0);
        let owed: BTreeSet<String> = owed.map(|(key, _)| key.clone()).collect();
        if !told.is_subset(&owed) || complete && told != owed {
            return Err(format!("slot {slot} is told {told:?} of {owed:?}, complete: {complete}"));
        }
        Ok((told, complete))
    }

    /// A slot takes over what it is told, once.
    async fn take_over(&mut self, slot: u8) -> Result<bool, String> {
        let (told, complete) = self.ask(slot).await?;
        for key in told {
            let (counter, acknowledged) = self.stable[&key];
            self.bench.acknowledge(&key, counter, 1 << slot).await;
            self.stable.insert(key, (counter, acknowledged | 1 << slot));
        }
        Ok(complete)
    }

    /// A slot asks until it has all, while the others do not.
    async fn catch_up(&mut self, slot: u8) -> Result<(), String> {
        for _ in 0..2 * self.names.len() {
            if self.take_over(slot).await? {
                return Ok(());
            }
            self.bench.walk().await;
        }
        Err(format!("slot {slot} is never told all"))
    }
}

#[tokio::test]
async fn whoever_comes_back_is_told_all_that_it_missed_while_another_stays_away() {
    let mut debtor = Debtor::new(44, (8, 3));
    debtor.bench.walk().await;
    for key in 0..20 {
        debtor.put(key, 0b0111).await;
    }
    let (told, complete) = debtor.ask(3).await.unwrap();
    assert_eq!((told.len(), complete), (4, false), "its share is half of the set");
    // Another one misses less than what there is room for.
    debtor.put(20, 0b0011).await;
    debtor.put(21, 0b0011).await;
    assert_eq!(debtor.ask(2).await, Ok((["k20", "k21"].map(str::to_owned).into(), true)));
    assert!(!debtor.bench.store().info().heal.complete);
    // And more.
    for key in 22..44 {
        debtor.put(key, 0b0011).await;
    }
    let (told, complete) = debtor.ask(2).await.unwrap();
    assert!(!complete && told.len() < 5, "{told:?}");
    assert_eq!(debtor.ask(1).await, Ok((BTreeSet::new(), true)), "it has missed nothing");
    debtor.catch_up(2).await.unwrap();
    assert!(!debtor.ask(3).await.unwrap().1);
    debtor.catch_up(3).await.unwrap();
    let heal = debtor.bench.store().info().heal;
    assert_eq!((heal.owed, heal.complete), (0, true));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A version that these slots acknowledge.
    Put(usize, u16),
    TakeOver(u8),
    Ask(u8),
    Walk,
    Apply,
    Restart,
    /// The slots are on other drives.
    Move(u16),
}

async fn follow(steps: &[Step]) -> Result<(), String> {
    let sizes = (12, 2);
    let mut debtor = Debtor::new(20, sizes);
    for step in steps {
        match *step {
            Step::Put(key, acknowledged) => debtor.put(key, acknowledged).await,
            Step::TakeOver(slot) => {
                debtor.take_over(slot).await?;
            }
            Step::Ask(slot) => drop(debtor.ask(slot).await?),
            Step::Walk => {
                debtor.bench.store().find_owed().await.unwrap();
            }
            Step::Apply => debtor.bench.store().apply(true),
            Step::Restart => {
                debtor.bench.reopen();
                debtor.bench.store().owed.shrink(sizes.0, sizes.1);
                debtor.bench.store().expect_slots(4, by_slot);
            }
            Step::Move(by) => debtor.bench.store().expect_slots(4, |partition, slot| {
                DriveId(u128::from((partition.0 * by + u16::from(slot.0)) % 4))
            }),
        }
    }
    debtor.bench.store().expect_slots(4, by_slot);
    for slot in [1, 2, 3] {
        debtor.catch_up(slot).await?;
    }
    let heal = debtor.bench.store().info().heal;
    if (heal.owed, heal.complete) != (0, true) {
        return Err(format!("{heal:?}"));
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 1..4_u8;
    prop_oneof![
        12 => (0..20_usize, 0..16_u16).prop_map(|(key, acknowledged)| Step::Put(key, acknowledged)),
        2 => slot().prop_map(Step::TakeOver),
        2 => slot().prop_map(Step::Ask),
        4 => Just(Step::Walk),
        1 => Just(Step::Apply),
        1 => Just(Step::Restart),
        1 => (0..4_u16).prop_map(Step::Move),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 200, max_shrink_iters: 500, ..Config::default() })]

    #[test]
    fn a_slot_that_is_told_all_is_owed_nothing_else(steps in proptest::collection::vec(step(), 1..90)) {
        block_on(follow(&steps)).map_err(TestCaseError::fail)?;
    }
}

#[tokio::test]
async fn the_most_data_shards_are_known_when_all_registers_have_been_looked_at() {
    let mut bench = Bench::new();
    bench.store().expect_slots(4, by_slot);
    bench.acknowledge("a", 1, 0b1111).await;
    let k = version(1, 0).k;
    assert_eq!(bench.store().info().most_data_shards, None);
    bench.walk().await;
    assert_eq!(bench.store().info().most_data_shards, Some(k));
    bench.reopen();
    bench.store().expect_slots(4, by_slot);
    assert_eq!(bench.store().info().most_data_shards, None);
    bench.walk().await;
    assert_eq!(bench.store().info().most_data_shards, Some(k));
}
