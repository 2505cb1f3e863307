use std::sync::atomic::AtomicUsize;

use bytes::Bytes;

use super::super::{Kept, KeptLock};
use super::*;

/// Drives that answer or not.
struct Drives {
    images: Mutex<Vec<Option<Snapshot>>>,
    online: Mutex<Vec<bool>>,
    stores: AtomicUsize,
}

impl Drives {
    fn new(count: usize) -> Arc<Self> {
        let (images, online) = (Mutex::new(vec![None; count]), Mutex::new(vec![true; count]));
        Arc::new(Self { images, online, stores: AtomicUsize::new(0) })
    }

    fn set_online(&self, online: &[bool]) {
        *self.online.lock() = online.to_vec();
    }
}

#[async_trait]
impl SnapshotStore for Drives {
    fn copies(&self) -> usize {
        self.images.lock().len()
    }

    async fn load(&self) -> Vec<Option<Snapshot>> {
        let images = self.images.lock().clone();
        let online = self.online.lock().clone();
        images.into_iter().zip(online).filter(|(_, online)| *online).map(|(image, _)| image).collect()
    }

    async fn store(&self, snapshot: Snapshot) -> usize {
        self.stores.fetch_add(1, Ordering::Relaxed);
        let online = self.online.lock().clone();
        let mut images = self.images.lock();
        for (image, _) in images.iter_mut().zip(&online).filter(|(_, online)| **online) {
            if image.as_ref().is_none_or(|old| old.revision < snapshot.revision) {
                *image = Some(snapshot.clone());
            }
        }
        online.into_iter().filter(|online| *online).count()
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
