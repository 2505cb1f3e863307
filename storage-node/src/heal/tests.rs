//! What a drive takes over, and for which slots.

use coffer_common::cluster::{
    ClusterOptions, DriveRecord, NodeRecord, first_layout, node_key, partition_key,
};
use coffer_common::coordination::{Coordinator, Expected, LocalCoordinator};
use coffer_common::layout::{PartitionRecord, SlotRecord, SlotRole};
use coffer_common::limits::PROTOCOL_VERSION;
use coffer_common::node::{NodeClient, partition_of};
use coffer_common::protocol::message::{Version, VersionKind, VersionState};
use coffer_common::types::{ClusterId, DriveId, Epoch, Fence, NodeId, OpId, PartitionId, Tag};

use super::*;
use crate::drive::SimulatedDrive;
use crate::member::tests::Nowhere;
use crate::store::tests::object;

const CLUSTER: ClusterId = ClusterId(1);
/// The slot that has moved, to the third drive, in this epoch.
const SLOT: SlotIndex = SlotIndex(0);
const TAKER: DriveId = DriveId(3);
const TAKEN: Epoch = Epoch(5);

/// A node with three drives, in a cluster of two slots.
struct Bench {
    node: Arc<StorageNode>,
    healing: Arc<Healing>,
    partition: PartitionId,
    /// The drive that had the slot.
    former: DriveId,
}

impl Bench {
    async fn new() -> Self {
        let drives: Vec<_> =
            (1..=3).map(|id| SimulatedDrive::format(CLUSTER, DriveId(id), 1 << 20, 0)).collect();
        let node = StorageNode::open_simulated(NodeId("n1".to_owned()), &drives).unwrap();
        let mut record = NodeRecord {
            id: node.id().clone(),
            address: "n1:9100".to_owned(),
            zone: String::new(),
            drives: node.drive_infos().iter().map(DriveRecord::from).collect(),
            version: String::new(),
            protocol: PROTOCOL_VERSION,
            endpoints: Vec::new(),
        };
        let coordinator = LocalCoordinator::start(Arc::new(Nowhere)).await.unwrap();
        let value = serde_json::to_vec(&record).unwrap();
        coordinator.put(&node_key(&record.id), value.into(), Expected::Absent, false).await.unwrap();
        record.drives.truncate(2);
        let first = first_layout(&[record], CLUSTER).unwrap();
        assert!(first.apply(&*coordinator).await.unwrap());
        let key = object("key");
        let partition = partition_of(CLUSTER, key.bucket, &key.key);
        let former = first.layout.drives_of(partition).next().unwrap().id;
        let mut moved = PartitionRecord { epoch: TAKEN, ..PartitionRecord::new(2) };
        moved.slots[0] = SlotRecord { role: SlotRole::Voter, drive: Some(TAKER), source: Some(former) };
        let value = moved.encode();
        coordinator.put(&partition_key(partition), value.into(), Expected::Absent, false).await.unwrap();

        let client = Arc::clone(&node) as Arc<dyn NodeClient>;
        let options = ClusterOptions {
            coordinator,
            clients: Arc::new(move |_| Arc::clone(&client)),
            seeds: Vec::new(),
            local: None,
        };
        let cluster = Cluster::start(options, Duration::from_secs(60)).await.unwrap();
        let driver = Driver::start(cluster.clone(), Shutdown::new());
        let healing = Arc::new(Healing { cluster, driver, codecs: Codecs::new() });
        Self { node, healing, partition, former }
    }

    fn drive(&self, id: DriveId) -> Drive {
        Drive::new(
            Arc::clone(&self.healing),
            Arc::clone(self.node.drive(id).unwrap()),
            self.node.pace().clone(),
        )
    }

    /// What the other slot tells of a version that the slot has missed.
    fn told(&self, epoch: Epoch) -> OwedRegister {
        let op = OpId { session: 3, counter: 1 };
        let version = Version {
            op,
            kind: VersionKind::Data,
            null_version: true,
            k: 1,
            shard_len_bytes: 9_000,
            block_len_bytes: 4_096,
            metadata: Bytes::from_static(b"m"),
        };
        let held = SlotVersion {
            version,
            tag: Tag { fence: Fence::default(), seq: 1, writer: op },
            state: VersionState::Stable,
            shard_present: true,
            acknowledged: SlotSet(0b10),
        };
        let (register, partition) = (object("key"), self.partition);
        OwedRegister { register, partition, epoch, versions: vec![held] }
    }

    /// The epoch that a drive has adopted, and how many shards it lacks.
    fn recorded(&self, drive: &Drive) -> (Epoch, u64) {
        (drive.store.partition(self.partition).epoch, drive.store.info().heal.missing)
    }
}

#[tokio::test]
async fn a_drive_that_a_slot_has_left_neither_records_nor_tells_what_the_slot_is_owed() {
    let bench = Bench::new().await;
    let former = bench.drive(bench.former);
    for epoch in [Epoch(0), TAKEN] {
        // Its list of slots is from before the move.
        let told = former.learn(SLOT, bench.told(epoch)).await.unwrap();
        assert!(told.is_empty(), "the other slots would take it for the drive that has the slot");
        assert_eq!(bench.recorded(&former), (Epoch(0), 0));
    }
    let taker = bench.drive(TAKER);
    let told = taker.learn(SLOT, bench.told(TAKEN)).await.unwrap();
    let told: Vec<_> = told.iter().map(|notice| (notice.epoch, notice.acknowledged)).collect();
    assert_eq!((told, bench.recorded(&taker)), (vec![(TAKEN, SlotSet(0b11))], (TAKEN, 1)));
}

#[tokio::test]
async fn what_is_told_in_an_epoch_that_the_map_does_not_know_is_not_recorded_yet() {
    let bench = Bench::new().await;
    let taker = bench.drive(TAKER);
    let told = taker.learn(SLOT, bench.told(Epoch(TAKEN.0 + 1))).await;
    assert!(told.is_err(), "another drive may have taken the slot in it: it is told again");
    assert_eq!(bench.recorded(&taker), (Epoch(0), 0));
}
