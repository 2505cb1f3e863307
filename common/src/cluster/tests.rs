use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::coordination::{CLUSTER_KEY, Entry, Expected, LocalCoordinator, SnapshotStore};
use crate::layout::{PartitionRecord, SlotRole};
use crate::node::{
    DriveInfo, DriveState, HandOverPage, HandOverRequest, ListPage, ListRequest, OwedPage, OwedRequest,
    PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall, Snapshot, SnapshotKind,
    SnapshotLog,
};
use crate::protocol::message::SlotReply;
use crate::protocol::purge::Evidence;
use crate::time::UnixMillis;
use crate::types::{BucketId, ClusterId, Epoch, Incarnation, PartitionId, SlotIndex};

/// However slow the machine is, what is there is known by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that says who it is and keeps snapshots.
struct Node {
    record: NodeRecord,
    online: Mutex<bool>,
    snapshots: Mutex<HashMap<SnapshotKind, Snapshot>>,
}

impl Node {
    fn lost(&self) -> NodeError {
        NodeError::Unreachable { node: self.record.id.0.clone(), reason: "off".to_owned() }
    }
}

#[async_trait]
impl NodeClient for Node {
    async fn call(&self, _: SlotCall) -> Result<SlotReply, NodeError> {
        Err(self.lost())
    }
    async fn prepare_shard(&self, _: PrepareShard, _: ShardPieces) -> Result<SlotReply, NodeError> {
        Err(self.lost())
    }
    async fn read_shard(&self, _: ReadShard) -> Result<ShardBlocks, NodeError> {
        Err(self.lost())
    }
    async fn list(&self, _: ListRequest) -> Result<ListPage, NodeError> {
        Err(self.lost())
    }
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        if !*self.online.lock() {
            return Err(self.lost());
        }
        let drives = self.record.drives.iter().map(|drive| DriveInfo {
            capacity_bytes: drive.capacity_bytes,
            boot_count: 1,
            ..DriveInfo::unknown(drive.id, drive.incarnation, drive.path.clone(), DriveState::Online)
        });
        Ok(NodeInfo {
            id: self.record.id.clone(),
            cluster: None,
            version: String::new(),
            protocol: PROTOCOL_VERSION,
            clock_ms: crate::time::UnixMillis::now().0,
            drives: drives.collect(),
        })
    }
    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        if *self.online.lock() { Ok(self.snapshots.lock().get(&kind).cloned()) } else { Err(self.lost()) }
    }
    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        self.snapshots.lock().insert(snapshot.kind, snapshot);
        Ok(())
    }
    async fn adopt_bucket(&self, _: BucketId, _: u64) -> Result<Vec<DriveId>, NodeError> {
        Err(self.lost())
    }
    async fn hand_over(&self, _: HandOverRequest) -> Result<HandOverPage, NodeError> {
        Err(self.lost())
    }
    async fn owed(&self, _: OwedRequest) -> Result<OwedPage, NodeError> {
        Err(self.lost())
    }
    async fn purge(&self, _: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        Err(self.lost())
    }
}

/// A coordinator's drive that never fails.
#[derive(Default)]
pub(super) struct OneCopy(Mutex<Option<Snapshot>>);

#[async_trait]
impl SnapshotStore for OneCopy {
    fn copies(&self) -> usize {
        1
    }
    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        vec![self.0.lock().clone().map(SnapshotLog::from)]
    }
    async fn store(&self, snapshot: Snapshot) -> usize {
        *self.0.lock() = Some(snapshot);
        1
    }
}

fn record(index: u32) -> NodeRecord {
    let drive = DriveRecord {
        id: DriveId(u128::from(index) + 100),
        incarnation: Incarnation(index),
        path: "/data".to_owned(),
        capacity_bytes: 1 << 40,
        boot_count: 1,
        journal_sequence: 0,
        fresh: false,
        absent: false,
    };
    NodeRecord {
        id: NodeId(format!("n{index}")),
        address: format!("10.0.0.{index}:9100"),
        zone: String::new(),
        drives: vec![drive],
        version: String::new(),
        protocol: PROTOCOL_VERSION,
        endpoints: Vec::new(),
    }
}

fn node(index: u32) -> Arc<Node> {
    Arc::new(Node { record: record(index), online: Mutex::new(true), snapshots: Mutex::default() })
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2_400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not in time: {what}");
}

async fn coordinator_with(nodes: &[Arc<Node>]) -> Arc<LocalCoordinator> {
    let coordinator = LocalCoordinator::start(Arc::new(OneCopy(Mutex::new(None)))).await.unwrap();
    let records: Vec<_> = nodes.iter().map(|node| node.record.clone()).collect();
    for record in &records {
        let value = serde_json::to_vec(record).unwrap().into();
        coordinator.put(&node_key(&record.id), value, Expected::Absent, false).await.unwrap();
        coordinator.put(&live_key(&record.id), Bytes::new(), Expected::Any, true).await.unwrap();
    }
    let first = first_layout(&records, ClusterId(7)).unwrap();
    assert!(first.apply(&*coordinator).await.unwrap());
    let second = first_layout(&records, ClusterId(8)).unwrap();
    assert!(!second.apply(&*coordinator).await.unwrap(), "the first transaction decides");
    coordinator
}

fn options(coordinator: Arc<dyn Coordinator>, nodes: &[Arc<Node>]) -> ClusterOptions {
    let by_id: HashMap<_, _> = nodes.iter().map(|node| (node.record.id.clone(), node.clone())).collect();
    ClusterOptions {
        coordinator,
        clients: Arc::new(move |record| by_id[&record.id].clone()),
        seeds: nodes.iter().map(|node| node.clone() as Arc<dyn NodeClient>).collect(),
        local: Some(nodes[0].clone()),
    }
}

#[tokio::test]
async fn map_follows_the_coordinator_and_names_slots_completely() {
    let nodes: Vec<_> = (0..4).map(node).collect();
    let coordinator = coordinator_with(&nodes).await;
    let cluster = Cluster::start(options(coordinator.clone(), &nodes), PATIENCE).await.unwrap();
    let map = cluster.map();
    assert_eq!((map.cluster, map.generation, map.layout.n()), (ClusterId(7), 1, 4));
    let targets = map.targets(PartitionId(9));
    for (index, target) in targets.iter().enumerate() {
        let node = nodes.iter().find(|node| node.record.id == target.node).unwrap();
        assert_eq!(usize::from(target.slot.0), index);
        assert_eq!(target.address.drive, node.record.drives[0].id);
        assert_eq!(target.address.incarnation, node.record.drives[0].incarnation);
        assert!(target.voter && cluster.client(&target.node).is_some());
    }

    let mut moved = PartitionRecord::new(4);
    moved.epoch = Epoch(3);
    moved.slots[2].role = SlotRole::Joining;
    let key = partition_key(PartitionId(9));
    coordinator.put(&key, moved.encode().into(), Expected::Any, false).await.unwrap();
    eventually("the new epoch", || cluster.map().epochs(PartitionId(9)).epoch == Epoch(3)).await;
    let targets = cluster.map().targets(PartitionId(9));
    assert!(targets[1].voter && !targets[2].voter && targets[2].address.epoch == Epoch(3));

    let id = &nodes[1].record.id;
    eventually("the first probe", || cluster.alive(id, &nodes[1].record.drives[0].id)).await;
    *nodes[1].online.lock() = false;
    eventually("a lost node", || !cluster.node_alive(id)).await;
    assert!(cluster.node_alive(&nodes[2].record.id));
    *nodes[1].online.lock() = true;
    eventually("a returned node", || cluster.node_alive(id)).await;
    assert!(!cluster.alive(id, &DriveId(1)), "a drive that its node does not name serves nothing");
}

#[tokio::test]
async fn cluster_starts_from_the_nodes_copies_while_the_coordinator_is_away() {
    let nodes: Vec<_> = (0..4).map(node).collect();
    let coordinator = coordinator_with(&nodes).await;
    let bucket = Bytes::from_static(b"{}");
    coordinator.put("buckets/photos", bucket, Expected::Absent, false).await.unwrap();
    let running = Cluster::start(options(coordinator.clone(), &nodes), PATIENCE).await.unwrap();
    let stored = || nodes[0].snapshots.lock().len() == 3;
    eventually("copies on the node's drives", stored).await;
    *nodes[3].snapshots.lock() = nodes[0].snapshots.lock().clone();

    let away = Arc::new(Away);
    for (online, starts) in [([true, false, false, false], false), ([true, false, true, false], true)] {
        nodes.iter().zip(online).for_each(|(node, online)| *node.online.lock() = online);
        let patience = if starts { PATIENCE } else { Duration::from_millis(300) };
        let started = Cluster::start(options(away.clone(), &nodes), patience).await;
        assert_eq!(started.is_ok(), starts, "{online:?}");
        if let Ok(started) = started {
            assert_eq!(started.map(), running.map());
            let buckets = bucket_entries(&started).await.unwrap();
            assert_eq!(buckets[0].key, "buckets/photos");
        }
    }
}

/// A coordinator that never answers.
struct Away;

#[async_trait]
impl Coordinator for Away {
    async fn get(&self, _: &str) -> Result<Option<Entry>, CoordinatorError> {
        Err(CoordinatorError::Unavailable("away".to_owned()))
    }
    async fn list(&self, _: &str) -> Result<crate::coordination::Listing, CoordinatorError> {
        Err(CoordinatorError::Unavailable("away".to_owned()))
    }
    async fn transaction(&self, _: Vec<crate::coordination::Write>) -> Result<u64, CoordinatorError> {
        Err(CoordinatorError::Unavailable("away".to_owned()))
    }
    fn watch(&self, _: &str) -> tokio::sync::mpsc::Receiver<crate::coordination::WatchEvent> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        std::mem::forget(sender);
        receiver
    }
    async fn lock(&self, _: &str, _: Duration) -> Result<crate::coordination::LockGuard, CoordinatorError> {
        Err(CoordinatorError::SessionLost)
    }
    fn session_alive(&self) -> bool {
        false
    }
    async fn close(&self) {}
}

#[tokio::test]
async fn epochs_are_raised_one_by_one_whoever_else_raises_them() {
    let coordinator = LocalCoordinator::start(Arc::new(OneCopy(Mutex::default()))).await.unwrap();
    let raise = async |slots: &[(u16, u8)], role| {
        let slots: Vec<_> = slots.iter().map(|(p, slot)| (PartitionId(*p), SlotIndex(*slot))).collect();
        raise_epochs(&*coordinator, 4, &slots, role).await.unwrap()
    };
    assert_eq!(raise(&[(0, 1), (7, 2)], SlotRole::Joining).await, [Epoch(1); 2]);
    let role = async |slot: usize| {
        let entry = coordinator.get(&partition_key(PartitionId(7))).await.unwrap().unwrap();
        PartitionRecord::decode(&entry.value).unwrap().slots[slot].role
    };
    assert_eq!((role(1).await, role(2).await), (SlotRole::Voter, SlotRole::Joining));
    let slots: [&[(u16, u8)]; 3] = [&[(7, 0)], &[(7, 2)], &[(7, 3), (0, 1)]];
    let raised = futures_util::future::join_all(slots.map(|slots| raise(slots, SlotRole::Voter))).await;
    let mut epochs: Vec<Epoch> = raised.iter().map(|epochs| epochs[0]).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [Epoch(2), Epoch(3), Epoch(4)]);
    assert_eq!(role(2).await, SlotRole::Voter);
    assert_eq!(raise(&[], SlotRole::Voter).await, []);
}

#[tokio::test]
async fn what_the_coordinator_repeats_replaces_what_the_nodes_copies_said_meanwhile() {
    let nodes: Vec<_> = (0..4).map(node).collect();
    let coordinator = coordinator_with(&nodes).await;
    let cluster = Cluster::start(options(coordinator, &nodes), PATIENCE).await.unwrap();
    let told = ClusterMap::clone(&cluster.map());
    let mut copy = told.clone();
    copy.nodes.get_mut(&NodeId("n1".to_owned())).unwrap().zone = "where it was before".to_owned();
    follow::install(&cluster.inner, copy);
    assert_ne!(*cluster.map(), told);
    // A listing that tells nothing new.
    follow::adopt(&cluster.inner, &mut snapshot::Table::default(), Some(told.clone()));
    assert_eq!(*cluster.map(), told);
}

#[test]
fn a_record_says_where_a_moved_slot_is_whatever_the_table_says() {
    let records: Vec<_> = (0..5).map(record).collect();
    let first = first_layout(&records[..4], ClusterId(7)).unwrap();
    let fifth = crate::layout::LayoutDrive {
        id: DriveId(104),
        node: NodeId("n4".to_owned()),
        zone: String::new(),
        capacity_bytes: 1 << 40,
    };
    let drives = first.layout.drives().iter().cloned().chain([fifth]).collect();
    let target = crate::layout::Layout::assign(drives, 4, Some(&first.layout)).unwrap();
    let moves = target.moves_from(&first.layout);
    let moved = moves[0];
    let mut partition = PartitionRecord::new(4);
    partition.epoch = Epoch(1);
    let place = usize::from(moved.slot.0);
    partition.slots[place].drive = Some(moved.to);
    partition.slots[place].source = Some(moved.from);
    let entry = |key: &str, value: Vec<u8>| Entry {
        key: key.to_owned(),
        value: value.into(),
        revision: 1,
        create_revision: 1,
    };
    let map_of = |table: &crate::layout::Layout, target: Option<&crate::layout::Layout>| {
        let mut entries = vec![
            entry(CLUSTER_KEY, serde_json::to_vec(&first.record).unwrap()),
            entry(LAYOUT_KEY, table.encode()),
            entry(&partition_key(moved.partition), partition.encode()),
        ];
        entries.extend(target.map(|target| entry(LAYOUT_TARGET_KEY, target.encode())));
        let nodes = records.iter().map(|node| entry(&node_key(&node.id), serde_json::to_vec(node).unwrap()));
        entries.extend(nodes);
        ClusterMap::from_entries(entries.iter()).unwrap().unwrap()
    };
    let before = map_of(&first.layout, Some(&target));
    let after = map_of(&target, None);
    for map in [&before, &after] {
        let at = &map.targets(moved.partition)[place];
        assert_eq!((at.address.drive, at.node.0.as_str()), (moved.to, "n4"));
        assert_eq!(at.source.as_ref().map(|source| source.drive), Some(moved.from));
        assert_eq!(map.slot_on(moved.partition, moved.to), Some(moved.slot));
        assert_eq!(map.slot_on(moved.partition, moved.from), None);
    }
    assert_eq!(before.slots_on(moved.to), [(moved.partition, moved.slot)]);
    assert_eq!((before.moves(), after.moves()), ((moves.len() - 1, 1), (0, 1)));
    let present = before.present_layout();
    assert_eq!(present.moves_from(&first.layout), moves[..1]);
    assert_eq!(present.drives().last(), target.drives().last());
    assert_eq!(crate::layout::Layout::decode(&present.encode()), Ok(present));
}

#[test]
fn entries_survive_their_stored_form() {
    let value = Bytes::from_static(&[0, 255]);
    let entry = Entry { key: CLUSTER_KEY.to_owned(), value, revision: 3, create_revision: 2 };
    let decoded = decode_entries(&encode_entries([&entry].into_iter(), UnixMillis(7))).unwrap();
    assert_eq!(decoded, [entry]);
    assert!(decode_entries(br#"{"format":2,"entries":[]}"#).is_err());
}

#[test]
fn neighbouring_protocol_versions_may_mix() {
    assert!(protocol_compatible(3, 2) && protocol_compatible(3, 3) && protocol_compatible(3, 4));
    assert!(!protocol_compatible(3, 1) && !protocol_compatible(3, 5));
}
