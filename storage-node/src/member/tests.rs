use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coffer_common::cluster::{LAYOUT_KEY, live_key, node_key};
use coffer_common::coordination::{
    CLUSTER_KEY, Change, Coordinator, CoordinatorError, Entry, Expected as Condition, Listing,
    LocalCoordinator, LockGuard, Revision, SnapshotStore, WatchEvent, Write,
};
use coffer_common::layout::Layout;
use coffer_common::node::{DriveInfo, Snapshot, SnapshotLog};
use coffer_common::rpc::NodeSecurity;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::drive::SimulatedDrive;

const LOST: CoordinatorError = CoordinatorError::Timeout(Duration::from_secs(3));

/// What becomes of a change.
enum Fault {
    /// It is made, as are these of somebody else afterwards; its answer is lost.
    AnswerLost(Vec<Write>),
    /// It is made unless it leases something: there is no session. Those before it that lease nothing are made.
    NoSession,
    /// None.
    Nothing,
}

/// A coordinator that fails now and then.
struct Faulty {
    inner: Arc<LocalCoordinator>,
    /// Of the next changes.
    faults: Mutex<VecDeque<Fault>>,
    /// So many of the next reads are not answered.
    deaf: AtomicU32,
}

impl Faulty {
    async fn start(faults: impl IntoIterator<Item = Fault>) -> Self {
        let inner = LocalCoordinator::start(Arc::new(Nowhere)).await.unwrap();
        Self { inner, faults: Mutex::new(faults.into_iter().collect()), deaf: AtomicU32::new(0) }
    }

    fn hears(&self) -> Result<(), CoordinatorError> {
        let one_less = |left: u32| left.checked_sub(1);
        match self.deaf.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => Err(LOST),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Coordinator for Faulty {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError> {
        self.hears()?;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        self.hears()?;
        self.inner.list(prefix).await
    }

    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError> {
        let leases = writes.iter().any(|write| matches!(write.change, Change::Put { leased: true, .. }));
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(Fault::NoSession) if leases => return Err(CoordinatorError::SessionLost),
            Some(Fault::NoSession) => self.faults.lock().push_front(Fault::NoSession),
            Some(Fault::AnswerLost(others)) => {
                self.inner.transaction(writes).await?;
                self.inner.transaction(others).await?;
                return Err(LOST);
            }
            Some(Fault::Nothing) | None => {}
        }
        self.inner.transaction(writes).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.inner.watch(prefix)
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        self.inner.lock(name, wait).await
    }

    fn session_alive(&self) -> bool {
        self.inner.session_alive()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Keeps nothing.
pub(crate) struct Nowhere;

#[async_trait]
impl SnapshotStore for Nowhere {
    fn copies(&self) -> usize {
        1
    }

    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        vec![None]
    }

    async fn store(&self, _: Snapshot) -> usize {
        1
    }
}

fn settings(drives: Vec<std::path::PathBuf>) -> MemberSettings {
    MemberSettings {
        id: NodeId("n1".to_owned()),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: "n1:9100".to_owned(),
        zone: String::new(),
        drives,
        replace: Vec::new(),
        endpoints: Vec::new(),
        expected: Expected::Nodes(1),
        scrub_period: Duration::ZERO,
        purge_period: Duration::ZERO,
        background_slowdown: "off".parse().unwrap(),
        security: NodeSecurity::Insecure,
        etcd: Vec::new(),
    }
}

/// What is known of a drive, as another node tells it.
fn known(drive: &DriveInfo, boot_count: u64) -> Write {
    let records = [DriveRecord { boot_count, ..DriveRecord::from(drive) }];
    let change = Change::Put { value: serde_json::to_vec(&records).unwrap().into(), leased: false };
    Write { key: "progress/other".to_owned(), expected: Condition::Any, change }
}

/// Whether a node that has started without the coordinator registers, and whether it stops.
async fn register(coordinator: &Faulty, node: &Arc<StorageNode>, opened: &DriveInfo) -> (bool, bool) {
    let shutdown = Shutdown::new();
    let opened = vec![opened.clone()];
    let settings = settings(Vec::new());
    let registered = register::keep_registered(&settings, node, opened, coordinator, &shutdown).await;
    (registered, shutdown.has_failed())
}

/// A node with one drive, as it was found and counted after the start.
async fn started() -> (Arc<StorageNode>, DriveInfo) {
    let drive = SimulatedDrive::format(ClusterId(1), DriveId(7), 1 << 20, 0);
    let node = StorageNode::open_simulated(NodeId("n1".to_owned()), &[drive]).unwrap();
    let opened = node.drive_infos().remove(0);
    node.record_start().await;
    assert!(node.drive_infos()[0].boot_count > opened.boot_count);
    (node, opened)
}

#[tokio::test]
async fn a_registration_that_fails_half_way_or_unheard_is_no_older_copy_to_the_next() {
    for fault in [Fault::NoSession, Fault::AnswerLost(Vec::new())] {
        let (node, opened) = started().await;
        let coordinator = Faulty::start([fault]).await;
        assert_eq!(register(&coordinator, &node, &opened).await, (true, false));
        assert!(coordinator.faults.lock().is_empty());
        let record = coordinator.get(&node_key(node.id())).await.unwrap().unwrap();
        let record: NodeRecord = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(record.drives[0].boot_count, opened.boot_count + 1);
        assert!(coordinator.get(&live_key(node.id())).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_older_copy_does_not_register_whatever_became_of_an_attempt() {
    let (node, opened) = started().await;
    let coordinator = Faulty::start([]).await;
    coordinator.transaction(vec![known(&opened, opened.boot_count + 1)]).await.unwrap();
    assert_eq!(register(&coordinator, &node, &opened).await, (false, true));
    assert!(coordinator.get(&node_key(node.id())).await.unwrap().is_none());

    // The drive of which this one is a copy is started elsewhere while an answer is lost.
    let coordinator = Faulty::start([Fault::AnswerLost(vec![known(&opened, opened.boot_count + 2)])]).await;
    assert_eq!(register(&coordinator, &node, &opened).await, (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_founded_though_answers_are_lost_and_its_drives_get_their_ids() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(vec![folder.path().join("d1")]);
    for fault in [Fault::NoSession, Fault::AnswerLost(Vec::new())] {
        // Of two tries to register, and of the layout.
        let faults = [fault, Fault::Nothing, Fault::AnswerLost(Vec::new())];
        let coordinator = Faulty::start(faults).await;
        coordinator.deaf.store(2, Ordering::SeqCst);
        let cluster = first::found(&settings, &coordinator, &Shutdown::new()).await.unwrap();
        assert!(coordinator.faults.lock().is_empty());
        let record = coordinator.get(CLUSTER_KEY).await.unwrap().unwrap();
        let record: coffer_common::cluster::ClusterRecord = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(record.id, cluster);

        coordinator.deaf.store(3, Ordering::SeqCst);
        let planned = first::planned_drives(&settings, &coordinator).await.unwrap();
        let layout = Layout::decode(&coordinator.get(LAYOUT_KEY).await.unwrap().unwrap().value).unwrap();
        let path = settings.drives[0].display().to_string();
        assert_eq!(planned, [(path, layout.drives()[0].id)]);
        coordinator.deaf.store(u32::MAX, Ordering::SeqCst);
        assert!(first::planned_drives(&settings, &coordinator).await.is_err());
    }
}

#[test]
fn a_drive_that_another_node_started_later_is_not_missing_here() {
    let drive = |id: u128, incarnation: u32, boot_count: u64, fresh: bool| DriveRecord {
        id: DriveId(id),
        incarnation: Incarnation(incarnation),
        path: String::new(),
        capacity_bytes: 1,
        boot_count,
        journal_sequence: 0,
        fresh,
        absent: false,
    };
    let node = |id: &str, drives: &[DriveRecord]| NodeRecord {
        id: NodeId(id.to_owned()),
        address: String::new(),
        zone: String::new(),
        drives: drives.to_vec(),
        version: String::new(),
        protocol: 1,
        endpoints: Vec::new(),
    };
    let here = [drive(1, 0, 5, false), drive(2, 0, 5, false), drive(3, 1, 1, false), drive(4, 0, 0, true)];
    let there = [drive(1, 0, 6, false), drive(2, 0, 4, false), drive(3, 0, 9, false)];
    let nodes = [node("a", &here), node("b", &there)];
    let own = |id: &str| {
        let id = NodeId(id.to_owned());
        own_drives(&nodes, &id).map(|drive| drive.id.0).collect::<Vec<_>>()
    };
    assert_eq!((own("a"), own("b")), (vec![2, 3], vec![1]));
}
