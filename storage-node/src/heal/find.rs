//! Asks the nodes what they owe to a drive's slots, and takes it over.
//!
//! 1. A node is asked when it is first seen alive, when it comes back, [`POLL`] after it told all that it owes, and
//!    [`RETRY`] after it did not.
//! 2. One node at a time, page by page: what the first told, the others are told to be here before they are asked.
//! 3. When R0 slots of each of the drive's partitions, its own among them, have told everything since the start, it is in step: of
//!    whatever was committed one of them has told.
//! 4. A step of the pace is a question, or [`TOGETHER`] registers with the notices to all their slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::ClusterMap;
use coffer_common::driver::{self, StableNotice};
use coffer_common::node::{NodeClient, NodeError, OwedPage, OwedRegister, OwedRequest};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, NodeId, PartitionId, SlotIndex};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Drive;

/// How often it is looked which node is due.
const TICK: Duration = Duration::from_secs(1);
/// Between two questions to a node that has told everything.
const POLL: Duration = Duration::from_secs(15);
/// Between two questions to a node that has not.
const RETRY: Duration = Duration::from_secs(3);
/// Registers of a page.
const PAGE: u32 = 500;
/// Registers that are recorded at the same time: they share syncs.
const TOGETHER: usize = 32;
/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// When a node is to be asked next, and whether it was alive.
struct Asked {
    due: Instant,
    alive: bool,
}

/// Whether enough have told, and by what: it takes a while to find out.
struct Heard {
    map: Arc<ClusterMap>,
    /// Drives that answer, of nodes that have told everything.
    drives: BTreeSet<DriveId>,
    enough: bool,
}

impl Drive {
    /// Takes over what is owed, for ever.
    pub(super) async fn find_all(&self) {
        let (mut asked, mut told) = (BTreeMap::<NodeId, Asked>::new(), BTreeSet::new());
        let (mut in_step, mut heard) = (false, None);
        loop {
            if told.is_empty() {
                *self.returned.lock() = Instant::now();
            }
            for (node, client) in driver::nodes(&self.healing.cluster, None) {
                let (now, alive) = (Instant::now(), self.healing.cluster.node_alive(&node));
                let before = asked.entry(node.clone()).or_insert(Asked { due: now, alive });
                let is_due = alive && (!before.alive || before.due <= now);
                before.alive = alive;
                let (true, Some(client)) = (is_due, client) else { continue };
                let complete = match self.take_over(client.as_ref()).await {
                    Ok(complete) => complete,
                    Err(error) => {
                        tracing::debug!(drive = %self.store.id(), %node, %error, "what is owed is not known");
                        false
                    }
                };
                let due = Instant::now() + if complete { POLL } else { RETRY };
                asked.insert(node.clone(), Asked { due, alive });
                if complete {
                    told.insert(node);
                }
            }
            let now = self.hear(&told, heard);
            let reached = now.enough;
            heard = Some(now);
            if in_step && !reached {
                // It was cut off: what it missed is not known before the others have told again.
                told.clear();
                asked.clear();
            }
            if in_step != reached {
                in_step = reached;
                self.store.set_in_step(reached);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether these nodes have drives that answer of so many of each partition's slots that, with this drive's own, they are R0.
    fn hear(&self, told: &BTreeSet<NodeId>, before: Option<Heard>) -> Heard {
        let (cluster, map) = (&self.healing.cluster, self.healing.cluster.map());
        let records = told.iter().filter_map(|node| map.nodes.get(node));
        let drives = records.flat_map(|node| node.drives.iter().map(|drive| (&node.id, drive.id)));
        let answer =
            drives.filter(|(node, drive)| map.node_of(*drive) == **node && cluster.alive(node, drive));
        let drives: BTreeSet<DriveId> = answer.map(|(_, drive)| drive).collect();
        if let Some(before) =
            before.filter(|before| Arc::ptr_eq(&before.map, &map) && before.drives == drives)
        {
            return before;
        }
        let (n, needed) = (map.layout.n(), Geometry::new(map.layout.n()).r0());
        let enough = map.slots_on(self.store.id()).into_iter().all(|(partition, own)| {
            let others = (0..n).map(SlotIndex).filter(|slot| *slot != own && map.votes(partition, *slot));
            let have_told = others.filter(|slot| drives.contains(&map.drive_of(partition, *slot)));
            have_told.count() + 1 >= needed
        });
        Heard { map, drives, enough }
    }

    /// Takes over all that a node owes. Returns whether it has told everything.
    async fn take_over(&self, client: &dyn NodeClient) -> Result<bool, NodeError> {
        let slots = self.healing.cluster.map().slots_on(self.store.id());
        // What a node finds behind the page that was read last is told the next time, and so is what could not be recorded.
        let (mut after, mut all) = (Bytes::new(), true);
        loop {
            let page = {
                let _turn = self.pace.turn(self.urgency()).await;
                self.page(client, slots.clone(), after).await?
            };
            all &= page.complete;
            after = page.next;
            for together in page.registers.chunks(TOGETHER) {
                let _turn = self.pace.turn(self.urgency()).await;
                let learned = join_all(together.iter().map(|told| self.record(&slots, told))).await;
                all &= learned.iter().all(Option::is_some);
                self.tell(learned.into_iter().flatten().flatten().collect()).await;
            }
            if after.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn page(
        &self,
        client: &dyn NodeClient,
        slots: Vec<(PartitionId, SlotIndex)>,
        after: Bytes,
    ) -> Result<OwedPage, NodeError> {
        let request = OwedRequest { cluster: self.store.cluster(), slots, after, limit: PAGE };
        let late = |_| NodeError::Timeout { node: "a peer".to_owned() };
        tokio::time::timeout(PAGE_LIMIT, client.owed(request)).await.map_err(late)?
    }

    /// Takes over one register; nothing if that failed.
    async fn record(
        &self,
        slots: &[(PartitionId, SlotIndex)],
        told: &OwedRegister,
    ) -> Option<Vec<StableNotice>> {
        let held = slots.binary_search_by_key(&told.partition, |(partition, _)| *partition);
        let Ok(at) = held else { return Some(Vec::new()) };
        let learned = self.learn(slots[at].1, told.clone()).await;
        let failed = |reason: &_| tracing::debug!(drive = %self.store.id(), reason, "what a peer told is not recorded");
        learned.inspect_err(failed).ok()
    }
}
