//! The slots of one partition as this process sees them now: addresses, clients, liveness.

use std::sync::Arc;

use crate::cluster::{Cluster, SlotSource};
use crate::node::{NodeClient, NodeError, ReadShard, ShardBlocks, SlotAddress};
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
    /// While the slot moves: the drive that it has left, and that still has the shards which are not copied yet.
    pub former: Option<Former>,
}

/// The drive that a slot has left.
#[derive(Clone)]
pub struct Former {
    /// The slot there.
    pub address: SlotAddress,
    /// How to reach its node, if it is known.
    pub client: Option<Arc<dyn NodeClient>>,
}

impl Peer {
    /// Opens a shard of the slot: at its drive, or, if it is not there, at the drive that the slot has left.
    ///
    /// # Errors
    /// [`NodeError`]: what the slot's own drive said.
    pub async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        let asked = open(self.client.as_ref(), request.clone()).await;
        match (asked, &self.former) {
            (Err(error), Some(former)) => former.read_shard(request).await.map_err(|_| error),
            (asked, _) => asked,
        }
    }
}

impl Former {
    /// Opens a shard of the slot there.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        open(self.client.as_ref(), ReadShard { address: self.address, ..request }).await
    }
}

async fn open(client: Option<&Arc<dyn NodeClient>>, request: ReadShard) -> Result<ShardBlocks, NodeError> {
    client.ok_or_else(super::no_client)?.read_shard(request).await
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
                former: target.source.map(|source| {
                    let SlotSource { drive, incarnation, node } = source;
                    let address = SlotAddress { drive, incarnation, ..target.address };
                    Former { address, client: cluster.client(&node) }
                }),
                address: target.address,
                node: target.node,
            })
            .collect();
        Self { geometry: Geometry::new(slots.len() as u8), epochs: map.epochs(partition), slots }
    }

    /// The slots of which this is so.
    pub fn all_where(&self, test: impl Fn(&Peer) -> bool) -> SlotSet {
        let mut slots = SlotSet::default();
        for (slot, peer) in self.slots.iter().enumerate() {
            if test(peer) {
                slots.insert(SlotIndex(slot as u8));
            }
        }
        slots
    }

    /// Slots that are expected to answer.
    pub fn alive(&self) -> SlotSet {
        self.all_where(|peer| peer.alive)
    }

    /// The first `count` slots to ask: those that are alive first, of these the ones in `later` last, and in slot order, so
    /// that data shards come before parity.
    pub fn first(&self, count: usize, later: SlotSet) -> SlotSet {
        let mut order: Vec<SlotIndex> = (0..self.slots.len() as u8).map(SlotIndex).collect();
        let alive = self.alive();
        order.sort_by_key(|slot| (!alive.contains(*slot), later.contains(*slot)));
        let mut first = SlotSet::default();
        order.into_iter().take(count).for_each(|slot| first.insert(slot));
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
