//! The slots of one partition as this process sees them now: addresses, clients, liveness.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::node::{NodeClient, SlotAddress};
use crate::protocol::action::MapEpochs;
use crate::protocol::quorum::Geometry;
use crate::types::{NodeId, PartitionId, SlotIndex, SlotSet};

/// One slot.
#[derive(Clone)]
pub struct Peer {
    /// Its complete name.
    pub address: SlotAddress,
    /// The node that has its drive.
    pub node: NodeId,
    /// How to reach that node, if it is known.
    pub client: Option<Arc<dyn NodeClient>>,
    /// Whether it is expected to answer.
    pub alive: bool,
}

/// All slots of a partition, by slot index.
#[derive(Clone)]
pub struct Peers {
    /// The stripe width and its counts.
    pub geometry: Geometry,
    /// The partition's epochs.
    pub epochs: MapEpochs,
    /// The slots.
    pub slots: Vec<Peer>,
}

impl Peers {
    /// The slots of a partition by the current map.
    pub fn of(cluster: &Cluster, partition: PartitionId) -> Self {
        let map = cluster.map();
        let slots: Vec<Peer> = map
            .targets(partition)
            .into_iter()
            .map(|target| Peer {
                client: cluster.client(&target.node),
                alive: target.voter && cluster.alive(&target.node, &target.address.drive),
                address: target.address,
                node: target.node,
            })
            .collect();
        Self { geometry: Geometry::new(slots.len() as u8), epochs: map.epochs(partition), slots }
    }

    /// Slots that are expected to answer.
    pub fn alive(&self) -> SlotSet {
        let mut alive = SlotSet::default();
        for (slot, peer) in self.slots.iter().enumerate() {
            if peer.alive {
                alive.insert(SlotIndex(slot as u8));
            }
        }
        alive
    }

    /// The first `count` slots to ask: those that are alive first, and in slot order, so that data shards come before
    /// parity.
    pub fn first(&self, count: usize) -> SlotSet {
        let mut first = SlotSet::default();
        let (alive, dead): (Vec<_>, Vec<_>) = (0..self.slots.len()).partition(|slot| self.slots[*slot].alive);
        for slot in alive.into_iter().chain(dead).take(count) {
            first.insert(SlotIndex(slot as u8));
        }
        first
    }

    /// One slot.
    pub fn get(&self, slot: SlotIndex) -> Option<&Peer> {
        self.slots.get(usize::from(slot.0))
    }
}

/// The nodes that own slots of the partition, or of any.
pub fn nodes(cluster: &Cluster, only: Option<PartitionId>) -> Vec<(NodeId, Option<Arc<dyn NodeClient>>)> {
    let map = cluster.map();
    let mut ids: Vec<NodeId> = match only {
        Some(partition) => map.targets(partition).into_iter().map(|target| target.node).collect(),
        None => map.nodes.keys().cloned().collect(),
    };
    ids.sort();
    ids.dedup();
    ids.into_iter().map(|id| (id.clone(), cluster.client(&id))).collect()
}
