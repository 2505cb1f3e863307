//! Drives that have not had the shards that reads asked them for, as one that is being filled again has not: others are asked
//! before them for a moment, so that a read need not ask twice.
//!
//! A drive is asked again once a second, so it is known soon when it has them. It is a preference only: a read that finds no other
//! slot asks these, too.

use std::collections::HashMap;
use std::time::Duration;

use coffer_common::driver::Peers;
use coffer_common::types::{DriveId, SlotIndex, SlotSet};
use parking_lot::RwLock;
use tokio::time::Instant;

/// How long a drive comes after others.
const REMEMBERED: Duration = Duration::from_secs(1);

/// When each drive was last found to lack a shard; drives that have all are not here.
#[derive(Default)]
pub(super) struct Lacking {
    found: RwLock<HashMap<DriveId, Instant>>,
}

impl Lacking {
    /// Those of the slots that have lacked shards lately.
    pub(super) fn of(&self, peers: &Peers) -> SlotSet {
        let found = self.found.read();
        if found.is_empty() {
            return SlotSet::default();
        }
        let lately = |drive: &DriveId| found.get(drive).is_some_and(|at| at.elapsed() < REMEMBERED);
        peers.all_where(|peer| lately(&peer.address.drive))
    }

    /// Notes which of the slots that were asked for a shard hold it, and which do not. Others have said nothing.
    pub(super) fn note(&self, asked: &[(SlotIndex, DriveId)], holders: SlotSet, lacking: SlotSet) {
        let is_news = |found: &HashMap<DriveId, Instant>| {
            let (holds, lacks) = (|slot| holders.contains(slot), |slot| lacking.contains(slot));
            asked.iter().any(|(slot, drive)| lacks(*slot) || (holds(*slot) && found.contains_key(drive)))
        };
        if !is_news(&self.found.read()) {
            return;
        }
        let (mut found, now) = (self.found.write(), Instant::now());
        found.retain(|_, at| at.elapsed() < REMEMBERED);
        for (slot, drive) in asked {
            if lacking.contains(*slot) {
                found.insert(*drive, now);
            } else if holders.contains(*slot) {
                found.remove(drive);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_common::driver::Peer;
    use coffer_common::node::SlotAddress;
    use coffer_common::protocol::action::MapEpochs;
    use coffer_common::protocol::quorum::Geometry;
    use coffer_common::types::{ClusterId, Epoch, Incarnation, NodeId, PartitionId};

    use super::*;

    fn peers() -> Peers {
        let peer = |drive| Peer {
            address: SlotAddress {
                cluster: ClusterId::from_bytes([0; 16]),
                drive: DriveId(drive),
                incarnation: Incarnation(0),
                partition: PartitionId(0),
                slot: SlotIndex(drive as u8),
                epoch: Epoch(1),
            },
            node: NodeId("node".to_owned()),
            client: None,
            alive: true,
            former: None,
        };
        Peers { geometry: Geometry::new(4), epochs: MapEpochs::default(), slots: (0..4).map(peer).collect() }
    }

    fn asked(slot: u8) -> (SlotIndex, DriveId) {
        (SlotIndex(slot), DriveId(slot.into()))
    }

    fn set(slots: &[u8]) -> SlotSet {
        let mut set = SlotSet::default();
        slots.iter().for_each(|slot| set.insert(SlotIndex(*slot)));
        set
    }

    #[tokio::test(start_paused = true)]
    async fn a_drive_that_lacks_a_shard_comes_after_others_until_it_has_one_or_a_second_is_over() {
        let (lacking, peers) = (Lacking::default(), peers());
        let (first, second) = ([0, 1].map(asked), [1, 2].map(asked));
        lacking.note(&first, set(&[0, 1]), set(&[]));
        assert_eq!(lacking.of(&peers), set(&[]));
        lacking.note(&first, set(&[0]), set(&[]));
        assert_eq!(lacking.of(&peers), set(&[]), "one that is late has said nothing");
        lacking.note(&first, set(&[0]), set(&[1]));
        assert_eq!(lacking.of(&peers), set(&[1]));
        assert_eq!(peers.first(2, lacking.of(&peers)), set(&[0, 2]));
        assert_eq!(peers.first(4, lacking.of(&peers)), set(&[0, 1, 2, 3]));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(lacking.of(&peers), set(&[]), "it is asked again");
        lacking.note(&first, set(&[0]), set(&[1]));
        lacking.note(&second, set(&[1, 2]), set(&[]));
        assert_eq!(lacking.of(&peers), set(&[]));
    }
}
