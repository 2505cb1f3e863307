//! Damage to the files of the index, which is a view of the journal: every answer is right or refused, and a start makes
//! all of it right again.

use std::collections::BTreeMap;

use coffer_common::node::ListRequest;
use proptest::test_runner::{Config, TestCaseError};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::crashes::{Step, World};
use super::damage::{block_on, requests};
use super::model::Violation;
use super::*;
use crate::store::list::DriveItem;

const FILES: [&str; 2] = ["index/registers.redb", "index/registers.sums"];
const KEYS: u64 = 400;
const PAGE: usize = 4096;

/// A drive of many registers, and the op that each has as its current one.
struct Drive {
    bench: Bench,
    current: BTreeMap<u64, OpId>,
    random: StdRng,
}

/// What came of reading everything.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    right: usize,
    refused: usize,
}

impl Answers {
    fn count(&mut self, is_right: Option<bool>, what: &str) {
        match is_right {
            None => self.refused += 1,
            Some(is_right) => {
                assert!(is_right, "{what} is answered wrong");
                self.right += 1;
            }
        }
    }
}

fn key(number: u64) -> RegisterKey {
    object(&format!("key-{number:04}"))
}

impl Drive {
    async fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut drive = Self { bench: Bench::seeded(seed), current: BTreeMap::new(), random };
        drive.overwrite(0..KEYS).await;
        drive
    }

    async fn overwrite(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let counter = self.current.get(&number).map_or(number, |op| op.counter) + KEYS;
            self.bench.put(&key(number), counter, b"x").await.unwrap();
            self.current.insert(number, op(counter));
        }
    }

    /// Changes some registers, so that parts of the index are newer than others, and stops in order.
    async fn go_on(&mut self) {
        let some: Vec<u64> = (0..20).map(|_| self.random.random_range(0..KEYS)).collect();
        self.overwrite(some).await;
        self.bench.close();
    }

    /// Whether the index was begun anew by this start.
    fn is_rebuilt(&self) -> bool {
        self.bench.store().index.synced_sequence() == 0
    }

    /// Reads every register, one that never was, and the listing.
    async fn read_all(&self) -> Answers {
        let mut answers = Answers::default();
        for (number, op) in &self.current {
            let shown = self.show(*number).await;
            answers.count(shown.map(|shown| shown == Some(*op)), &format!("register {number}"));
        }
        answers.count(self.show(KEYS).await.map(|shown| shown.is_none()), "a register that never was");
        let everything = ListRequest {
            cluster: CLUSTER,
            bucket: BucketId(1),
            bucket_revision: 0,
            kind: RegisterKind::Object,
            prefix: Bytes::new(),
            after: Bytes::new(),
            delimiter: Bytes::new(),
            limit: 10_000,
            resumes: false,
        };
        let listed = self.bench.store().list(everything.into(), usize::MAX, None).await;
        let listed =
            listed.ok().map(|list| list.items.iter().map(|(_, item)| op_of(item)).collect::<Vec<_>>());
        answers.count(listed.map(|ops| ops.iter().eq(self.current.values())), "the listing");
        answers
    }

    /// The op of a register's current version; `None` if the drive refuses to say.
    async fn show(&self, number: u64) -> Option<Option<OpId>> {
        match self.bench.call(&key(number), SlotRequest::Query { inline_data: false }).await {
            Ok(SlotReply::View(view, _)) => Some(view.current.map(|current| current.version.op)),
            Ok(other) => panic!("{other:?}"),
            Err(NodeError::DriveUnavailable { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn bytes_of(&self, file: &str) -> Vec<u8> {
        let mut copy = Vec::new();
        self.bench.drive.damage(file, |bytes| copy.clone_from(bytes));
        copy
    }
}

fn op_of(item: &DriveItem) -> OpId {
    match item {
        DriveItem::Entry(listed) => listed.current.version.op,
        DriveItem::CommonPrefix(..) => panic!("there is no delimiter"),
    }
}

/// Pages in use.
fn pages(bytes: &[u8]) -> Vec<usize> {
    let used =
        |page: &usize| bytes.chunks(PAGE).nth(*page).is_some_and(|page| page.iter().any(|byte| *byte != 0));
    (0..bytes.len().div_ceil(PAGE)).filter(used).collect()
}

/// Damages a file; `older` is what it was some time ago.
fn damage(bytes: &mut [u8], older: &[u8], random: &mut StdRng) {
    let used = pages(bytes);
    let Some(page) = used.choose(random).copied() else { return };
    let range = page * PAGE..bytes.len().min((page + 1) * PAGE);
    match random.random_range(0..6) {
        0 | 1 => bytes[random.random_range(range)] ^= 1 << random.random_range(0..8),
        2 => bytes[range].fill(0),
        3 => random.fill(&mut bytes[range]),
        4 => {
            let other = used.choose(random).copied().unwrap_or(page);
            bytes.copy_within(range, other * PAGE);
        }
        _ => {
            let changed = |page: &&usize| {
                let (from, to) = (**page * PAGE, bytes.len().min((**page + 1) * PAGE));
                older.get(from..to).is_some_and(|old| *old != bytes[from..to])
            };
            let changed: Vec<usize> = used.iter().filter(changed).copied().collect();
            if let Some(page) = changed.choose(random) {
                let range = page * PAGE..bytes.len().min((page + 1) * PAGE);
                bytes[range.clone()].copy_from_slice(&older[range]);
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_index_answers_nothing_wrong_and_is_built_anew() {
    let mut drive = Drive::new(7).await;
    let (mut found_at_start, mut found_later, mut harmless) = (0, 0, 0);
    drive.bench.close();
    for round in 0..150 {
        let older = FILES.map(|file| drive.bytes_of(file));
        drive.bench.reopen();
        drive.go_on().await;
        let (file, running) = (usize::from(round % 5 == 4), round % 2 == 1);
        if running {
            drive.bench.reopen();
        }
        let random = &mut drive.random;
        drive.bench.drive.damage(FILES[file], |bytes| damage(bytes, &older[file], random));
        if !running {
            drive.bench.try_open().unwrap();
        }
        let begun_anew = drive.is_rebuilt();
        if drive.read_all().await.refused > 0 {
            found_later += 1;
            drive.bench.reopen();
            assert!(drive.is_rebuilt(), "round {round}: what was refused is built anew");
            assert_eq!(drive.read_all().await.refused, 0, "round {round}");
        } else if begun_anew {
            found_at_start += 1;
        } else {
            harmless += 1;
        }
        drive.bench.close();
    }
    println!("found at the start: {found_at_start}, later: {found_later}, harmless: {harmless}");
    assert!(found_at_start > 10 && found_later > 10, "{found_at_start} and {found_later}");
}

#[tokio::test]
async fn an_index_from_before_a_compaction_is_built_anew() {
    let mut drive = Drive::new(8).await;
    drive.bench.close();
    let older = FILES.map(|file| drive.bytes_of(file));
    drive.bench.reopen();
    drive.overwrite(0..KEYS).await;
    let store = drive.bench.store();
    store.apply(true);
    assert!(!store.journal.sealed().is_empty());
    for segment in store.journal.sealed() {
        store.compact_segment(segment, &mut || {}).unwrap();
    }
    drive.bench.close();
    for (file, older) in FILES.iter().zip(older) {
        assert!(drive.bench.drive.damage(file, |bytes| *bytes = older));
    }
    drive.bench.reopen();
    assert!(drive.is_rebuilt());
    assert_eq!(drive.read_all().await.refused, 0);
}

/// One kind of lie about one file of the index, as often as it likes.
fn lie() -> impl Strategy<Value = Fault> {
    let call = prop_oneof![
        prop_oneof![Just(Effect::Flip), Just(Effect::Misdirect), Just(Effect::Lost)]
            .prop_map(|effect| (Call::Write, effect)),
        prop_oneof![Just(Effect::Flip), Just(Effect::Stale), Just(Effect::Short), Just(Effect::Error)]
            .prop_map(|effect| (Call::Read, effect)),
    ];
    let chance = prop_oneof![Just(0.02), Just(0.3)];
    (call, 0..FILES.len(), chance).prop_map(|((call, effect), file, chance)| {
        Fault::new(call, FILES[file], When::Chance(chance), effect)
    })
}

/// The steps, while the drive lies about the index; after each failure it starts again and must be right.
async fn lie_about_the_index(seed: u64, steps: &[Step], lie: Fault) -> Result<(), Violation> {
    let mut world = World::new(seed, &[]);
    world.bench.drive.inject(lie.clone());
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Apply(sync) => world.bench.store().apply(*sync),
            step => drop(world.request(step).await?),
        }
        let restart = number % 8 == 7 || world.bench.is_down();
        if restart || !world.model.check(&world.bench).await? {
            world.bench.drive.restart();
            world.bench.store = None;
            if world.bench.try_open().is_err() {
                world.bench.drive.clear_faults();
                world.bench.try_open()?;
                world.bench.drive.inject(lie.clone());
            }
            world.model.check(&world.bench).await?;
        }
    }
    world.bench.drive.clear_faults();
    world.bench.drive.crash(seed);
    for _ in 0..2 {
        world.bench.store = None;
        world.bench.try_open()?;
        if world.model.check(&world.bench).await? {
            return Ok(());
        }
        world.bench.drive.restart();
    }
    Err("what was refused was not built anew".to_owned())
}

proptest! {
    #![proptest_config(Config { cases: 60, max_shrink_iters: 500, ..Config::default() })]

    #[test]
    fn no_lie_about_the_index_changes_an_answer(
        seed in any::<u64>(), steps in requests(), lie in lie()
    ) {
        block_on(lie_about_the_index(seed, &steps, lie)).map_err(TestCaseError::fail)?;
    }
}
