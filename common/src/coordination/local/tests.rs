use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Kept, KeptLock};
use super::*;
use crate::node::Fit;

/// A drive's copy.
#[derive(Clone, Default)]
struct DriveCopy {
    log: Option<SnapshotLog>,
    /// It cannot be read, and is known not to be here once that was tried.
    rotten: bool,
}

/// Drives that answer or not.
struct Drives {
    copies: Mutex<Vec<DriveCopy>>,
    online: Mutex<Vec<bool>>,
    stores: AtomicUsize,
    /// Bytes of all changes and whole images that they have taken, and the number of the latter.
    bytes: AtomicUsize,
    wholes: AtomicUsize,
    /// The longest image that fits.
    most_bytes: AtomicUsize,
}

impl Drives {
    fn new(count: usize) -> Arc<Self> {
        let (copies, online) = (vec![DriveCopy::default(); count].into(), vec![true; count].into());
        let (stores, bytes, wholes) = Default::default();
        let most_bytes = usize::MAX.into();
        Arc::new(Self { copies, online, stores, bytes, wholes, most_bytes })
    }

    fn set_online(&self, online: &[bool]) {
        *self.online.lock() = online.to_vec();
    }

    fn rot(&self, drive: usize) {
        self.copies.lock()[drive].rotten = true;
    }

    /// Has each drive that is online do something; how many did.
    fn on_each(&self, mut task: impl FnMut(&mut DriveCopy) -> bool) -> usize {
        self.stores.fetch_add(1, Ordering::Relaxed);
        let online = self.online.lock().clone();
        let mut copies = self.copies.lock();
        copies.iter_mut().zip(online).map(|(copy, online)| online && task(copy)).filter(|done| *done).count()
    }

    fn took(&self, data: &Bytes) {
        self.bytes.fetch_add(data.len(), Ordering::Relaxed);
    }

    fn keep(&self, copy: &mut DriveCopy, whole: &Snapshot) -> bool {
        let newer = copy.log.as_ref().is_none_or(|log| log.newest().1 < whole.revision);
        if newer && whole.data.len() > self.most_bytes.load(Ordering::Relaxed) {
            return false;
        }
        if newer {
            *copy = DriveCopy { log: Some(whole.clone().into()), rotten: false };
            self.took(&whole.data);
            self.wholes.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

#[async_trait]
impl SnapshotStore for Drives {
    fn copies(&self) -> usize {
        self.copies.lock().len()
    }

    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        let online = self.online.lock().clone();
        let mut copies = self.copies.lock();
        let mut answers = Vec::new();
        for (copy, _) in copies.iter_mut().zip(online).filter(|(_, online)| *online) {
            if copy.rotten {
                copy.log = None;
            } else {
                answers.push(copy.log.clone());
            }
        }
        answers
    }

    async fn store(&self, whole: Snapshot) -> usize {
        self.on_each(|copy| self.keep(copy, &whole))
    }

    async fn append(&self, change: SnapshotChange, whole: &(dyn Fn() -> Snapshot + Send + Sync)) -> usize {
        let whole = std::cell::LazyCell::new(whole);
        self.on_each(|copy| match change.fit(copy.log.as_ref().map(SnapshotLog::newest)) {
            Fit::Known => true,
            Fit::Next => {
                self.took(&change.data);
                copy.log.as_mut().is_some_and(|log| log.push(change.clone()) == Fit::Next)
            }
            Fit::Gap => self.keep(copy, &whole),
        })
    }
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn local_coordinator_conforms() {
    super::super::conformance::check(LocalCoordinator::start(Drives::new(4)).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_kept_by_one_until_it_goes() {
    let coordinator = LocalCoordinator::start(Drives::new(1)).await.unwrap();
    let (mut one, mut other) = (KeptLock::new("work"), KeptLock::new("work"));
    assert_eq!(one.keep(&*coordinator).await, Kept::Anew);
    assert_eq!((one.keep(&*coordinator).await, other.keep(&*coordinator).await), (Kept::Still, Kept::No));
    assert_eq!(KeptLock::new("other work").keep(&*coordinator).await, Kept::Anew);
    drop(one);
    assert_eq!(other.keep(&*coordinator).await, Kept::Anew);
}

#[tokio::test]
async fn answered_change_survives_the_loss_of_half_of_the_drives() {
    let drives = Drives::new(4);
    let first = LocalCoordinator::start(drives.clone()).await.unwrap();
    drives.set_online(&[true, true, true, false]);
    let revision = first.put("a", value("1"), Expected::Absent, false).await.unwrap();
    let fence = first.lock("x", Duration::ZERO).await.unwrap().fence();
    for online in [[true, true, false, false], [false, false, true, true], [false, true, false, true]] {
        drives.set_online(&online);
        let again = LocalCoordinator::start(drives.clone()).await.unwrap();
        assert_eq!(again.get("a").await.unwrap().unwrap().revision, revision);
        let refused = again.put("b", value("1"), Expected::Any, false).await;
        assert!(matches!(refused, Err(CoordinatorError::Unavailable(_))), "{refused:?}");
    }
    drives.set_online(&[true; 4]);
    let again = LocalCoordinator::start(drives.clone()).await.unwrap();
    let later = again.lock("x", Duration::ZERO).await.unwrap().fence();
    assert!(later > fence, "{later:?} {fence:?}");
    assert!(again.put("b", value("1"), Expected::Any, false).await.unwrap() > later.revision);
}

#[tokio::test]
async fn change_without_quorum_is_not_shown_and_start_needs_half_of_the_drives() {
    let drives = Drives::new(3);
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    drives.set_online(&[true, false, false]);
    assert!(coordinator.put("a", value("1"), Expected::Any, false).await.is_err());
    assert_eq!(coordinator.get("a").await.unwrap(), None);
    assert!(LocalCoordinator::start(drives.clone()).await.is_err());
    drives.set_online(&[true; 3]);
    coordinator.put("b", value("2"), Expected::Absent, false).await.unwrap();
    let again = LocalCoordinator::start(drives).await.unwrap();
    assert_eq!(again.get("a").await.unwrap(), None, "a later change overrules the one without quorum");
    assert!(again.get("b").await.unwrap().is_some());
}

#[tokio::test]
async fn locks_and_leased_keys_do_not_write_to_drives() {
    let drives = Drives::new(1);
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    let before = drives.stores.load(Ordering::Relaxed);
    for _ in 0..100 {
        drop(coordinator.lock("x", Duration::from_secs(1)).await.unwrap());
    }
    coordinator.put("live/a", value("1"), Expected::Any, true).await.unwrap();
    assert_eq!(drives.stores.load(Ordering::Relaxed), before);
    let again = LocalCoordinator::start(drives).await.unwrap();
    assert_eq!(again.get("live/a").await.unwrap(), None, "leased keys end with the process");
}

#[tokio::test]
async fn cluster_generation_is_part_of_the_fence() {
    let coordinator = LocalCoordinator::start(Drives::new(1)).await.unwrap();
    let record = value(r#"{"generation": 7, "id": "x"}"#);
    coordinator.put(CLUSTER_KEY, record, Expected::Absent, false).await.unwrap();
    assert_eq!(coordinator.lock("x", Duration::ZERO).await.unwrap().fence().generation, 7);
}

fn bucket(number: usize) -> String {
    format!("buckets/{number:06}")
}

/// Writes that many buckets; the bytes that a drive took for each.
async fn make_buckets(
    coordinator: &LocalCoordinator,
    drives: &Drives,
    numbers: std::ops::Range<usize>,
) -> Vec<usize> {
    let mut costs = Vec::new();
    for number in numbers {
        let before = drives.bytes.load(Ordering::Relaxed);
        let record = Bytes::from(vec![7; 400]);
        coordinator.put(&bucket(number), record, Expected::Absent, false).await.unwrap();
        costs.push((drives.bytes.load(Ordering::Relaxed) - before) / drives.copies());
    }
    costs
}

#[tokio::test]
async fn a_change_costs_as_much_among_thousands_of_buckets_as_among_ten() {
    let mut typical = Vec::new();
    for buckets in [10, 3000] {
        let drives = Drives::new(4);
        let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
        make_buckets(&coordinator, &drives, 0..buckets).await;
        let more = 3000;
        let mut costs = make_buckets(&coordinator, &drives, buckets..buckets + more).await;
        costs.sort_unstable();
        assert!(costs[0] < 1500, "{} bytes", costs[0]);
        assert!(costs.iter().sum::<usize>() < 5 * more * costs[0], "an image is paid by its changes");
        assert!(costs[more * 98 / 100] < costs[0] + 20, "few changes cost an image");
        typical.push(costs[more / 2]);
    }
    assert!(typical[0].abs_diff(typical[1]) < 20, "{typical:?}");
}

#[tokio::test]
async fn a_drive_that_was_away_is_given_the_image_once_and_the_others_go_on_with_changes() {
    let drives = Drives::new(4);
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    make_buckets(&coordinator, &drives, 0..150).await;
    drives.set_online(&[true, true, true, false]);
    let wholes = || drives.wholes.load(Ordering::Relaxed);
    let before = wholes();
    make_buckets(&coordinator, &drives, 150..160).await;
    assert_eq!(wholes(), before, "a drive that is away costs nothing");
    drives.set_online(&[true; 4]);
    make_buckets(&coordinator, &drives, 160..170).await;
    assert_eq!(wholes(), before + 1);
    drives.set_online(&[false, true, false, true]);
    let again = LocalCoordinator::start(drives).await.unwrap();
    assert_eq!(again.list("buckets/").await.unwrap().entries.len(), 170);
}

#[tokio::test]
async fn a_start_goes_on_with_the_copies_that_are_there() {
    let drives = Drives::new(4);
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    make_buckets(&coordinator, &drives, 0..150).await;
    let before = drives.wholes.load(Ordering::Relaxed);
    for number in 150..160 {
        let again = LocalCoordinator::start(drives.clone()).await.unwrap();
        assert_eq!(again.list("buckets/").await.unwrap().entries.len(), number);
        make_buckets(&again, &drives, number..number + 1).await;
    }
    assert_eq!(drives.wholes.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn changes_go_on_while_the_drives_do_not_take_an_image() {
    let drives = Drives::new(4);
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    make_buckets(&coordinator, &drives, 0..10).await;
    drives.most_bytes.store(100, Ordering::Relaxed);
    let costs = make_buckets(&coordinator, &drives, 10..500).await;
    assert!(costs.iter().all(|cost| *cost < 1500));
    drives.set_online(&[false, true, true, false]);
    let again = LocalCoordinator::start(drives.clone()).await.unwrap();
    assert_eq!(again.list("buckets/").await.unwrap().entries.len(), 500);
    drives.most_bytes.store(usize::MAX, Ordering::Relaxed);
    drives.set_online(&[true; 4]);
    make_buckets(&again, &drives, 500..2000).await;
    assert!(drives.copies.lock().iter().all(|copy| copy.log.as_ref().unwrap().changes().len() < 1500));
}

#[tokio::test]
async fn an_image_of_before_there_were_changes_is_read() {
    let data = br#"{"format":1,"generation":1,"reserved":10001,"keys":[{"key":"a","value":"76","revision":1,"create_revision":1}]}"#;
    let image = Snapshot {
        kind: SnapshotKind::Coordinator,
        generation: 1,
        revision: 1,
        data: Bytes::from_static(data),
    };
    let drives = Drives::new(1);
    drives.store(image).await;
    let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
    let entry = coordinator.get("a").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (value("v"), 1));
    assert!(coordinator.put("b", value("w"), Expected::Absent, false).await.unwrap() > 20_001);
    let again = LocalCoordinator::start(drives).await.unwrap();
    assert_eq!(again.list("").await.unwrap().entries.len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    /// These drives are there from now on.
    Online([bool; 4]),
    /// A drive's copy cannot be read any more.
    Rot(usize),
    Put(u8, u8),
    Lease(u8),
    Delete(u8),
    Lock,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<[bool; 4]>().prop_map(Step::Online),
        2 => Just(Step::Online([true; 4])),
        1 => (0..4_usize).prop_map(Step::Rot),
        8 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => (0..6_u8).prop_map(Step::Lease),
        3 => (0..6_u8).prop_map(Step::Delete),
        1 => Just(Step::Lock),
        2 => Just(Step::Restart),
    ]
}

type Keys = BTreeMap<String, Bytes>;

/// What a coordinator must tell.
struct World {
    drives: Arc<Drives>,
    coordinator: Arc<LocalCoordinator>,
    /// The durable keys as they are now.
    now: Keys,
    leased: std::collections::BTreeSet<String>,
    /// What a start may find: what was answered last, and each change since whose outcome is not known.
    perhaps: Vec<Keys>,
    revision: Revision,
}

impl World {
    async fn new() -> Self {
        let drives = Drives::new(4);
        let coordinator = LocalCoordinator::start(drives.clone()).await.unwrap();
        let perhaps = vec![Keys::new()];
        Self { drives, coordinator, now: Keys::new(), leased: Default::default(), perhaps, revision: 0 }
    }

    fn online(&self) -> usize {
        self.drives.online.lock().iter().filter(|online| **online).count()
    }

    async fn write(&mut self, key: u8, change: Change) {
        let key = format!("k{key}");
        let leased = matches!(change, Change::Put { leased: true, .. });
        let mut next = self.now.clone();
        let was_durable = match &change {
            Change::Put { value, leased: false } => {
                next.insert(key.clone(), value.clone());
                true
            }
            _ => next.remove(&key).is_some(),
        };
        let write = Write { key: key.clone(), expected: Expected::Any, change };
        let done = self.coordinator.transaction(vec![write]).await;
        assert!(done.is_ok() || self.online() < 3, "{done:?}");
        let Ok(revision) = done else {
            self.perhaps.push(next);
            return;
        };
        assert!(!was_durable || self.online() >= 3, "three drives are needed");
        assert!(revision > self.revision);
        self.revision = revision;
        self.leased.remove(&key);
        if leased {
            self.leased.insert(key);
        }
        if was_durable {
            self.perhaps = vec![next.clone()];
            self.now = next;
        }
    }

    /// False if too few drives can tell.
    async fn restart(&mut self) -> bool {
        let Ok(coordinator) = LocalCoordinator::start(self.drives.clone()).await else {
            let rotten = self.drives.copies.lock().iter().filter(|copy| copy.rotten).count();
            assert!(self.online() < 2 + rotten, "two answers are enough");
            return false;
        };
        let entries = coordinator.list("").await.unwrap().entries;
        let found: Keys = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert!(self.perhaps.contains(&found), "{found:?} is none of {:?}", self.perhaps);
        (self.coordinator, self.leased) = (coordinator, Default::default());
        if self.online() >= 3 {
            self.perhaps = vec![found.clone()];
        }
        self.now = found;
        true
    }

    async fn step(&mut self, step: Step) {
        let value = |value: u8| Bytes::from(vec![value; 20]);
        match step {
            Step::Online(online) => self.drives.set_online(&online),
            // No more of them than may be lost.
            Step::Rot(drive) => {
                if self.drives.copies.lock().iter().filter(|copy| copy.rotten).count() < 2 {
                    self.drives.rot(drive);
                }
            }
            Step::Put(key, with) => {
                self.write(key, Change::Put { value: value(with), leased: false }).await;
            }
            Step::Lease(key) => self.write(key, Change::Put { value: value(0), leased: true }).await,
            Step::Delete(key) => self.write(key, Change::Delete).await,
            Step::Lock => {
                if let Ok(guard) = self.coordinator.lock("x", Duration::ZERO).await {
                    assert!(guard.fence().revision > self.revision);
                    self.revision = guard.fence().revision;
                }
            }
            Step::Restart => {
                if !self.restart().await {
                    self.drives.set_online(&[true; 4]);
                    assert!(self.restart().await);
                }
            }
        }
        let entries = self.coordinator.list("").await.unwrap().entries;
        let shown: Keys = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let durable = shown.iter().filter(|(key, _)| !self.leased.contains(*key));
        assert!(durable.eq(&self.now), "{shown:?} instead of {:?}", self.now);
    }
}

proptest! {
    #[test]
    fn a_start_finds_what_was_answered_whatever_drives_missed_and_lost(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
        });
    }
}
