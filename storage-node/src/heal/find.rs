//! Asks the nodes what they owe to a drive's slots, and takes it over.
//!
//! 1. A node is asked when it is first seen alive, when it comes back, [`POLL`] after it told all that it owes, and
//!    [`RETRY`] after it did not.
//! 2. One node at a time, page by page: what the first told, the others are told to be here before they are asked.
//! 3. A step of the pace is a question, or [`TOGETHER`] registers with the notices to all their slots.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::driver::{self, StableNotice};
use coffer_common::node::{NodeClient, NodeError, OwedPage, OwedRegister, OwedRequest};
use coffer_common::types::{NodeId, PartitionId, SlotIndex};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Drive;
use crate::pace::Urgency;

/// How often it is looked which node is due.
const TICK: Duration = Duration::from_secs(1);
/// Between two questions to a node that has told everything.
const POLL: Duration = Duration::from_secs(15);
/// Between two questions to a node that has not.
const RETRY: Duration = Duration::from_secs(3);
/// Registers of a page.
const PAGE: u32 = 500;
/// Registers that are recorded at the same time: they share syncs.
const TOGETHER: usize = 16;
/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// When a node is to be asked next, and whether it was alive.
struct Asked {
    due: Instant,
    alive: bool,
}

impl Drive {
    /// Takes over what is owed, for ever.
    pub(super) async fn find_all(&self) {
        let mut asked = BTreeMap::<NodeId, Asked>::new();
        loop {
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
                asked.insert(node, Asked { due, alive });
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Takes over all that a node owes. Returns whether it has told everything.
    async fn take_over(&self, client: &dyn NodeClient) -> Result<bool, NodeError> {
        let slots = self.healing.cluster.map().slots_on(self.store.id());
        let mut after = Bytes::new();
        loop {
            let page = {
                let _turn = self.pace.turn(Urgency::Patient).await;
                self.page(client, slots.clone(), after).await?
            };
            let complete = page.complete;
            after = page.next;
            for together in page.registers.chunks(TOGETHER) {
                let _turn = self.pace.turn(Urgency::Patient).await;
                let learned = join_all(together.iter().map(|told| self.record(&slots, told))).await;
                self.tell(learned.into_iter().flatten().collect()).await;
            }
            if after.is_empty() {
                return Ok(complete);
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

    async fn record(&self, slots: &[(PartitionId, SlotIndex)], told: &OwedRegister) -> Vec<StableNotice> {
        let held = slots.iter().find(|(partition, _)| *partition == told.partition);
        let Some((_, slot)) = held else { return Vec::new() };
        self.learn(*slot, told.clone()).await.unwrap_or_else(|reason| {
            tracing::debug!(drive = %self.store.id(), reason, "what a peer told is not recorded");
            Vec::new()
        })
    }
}
