//! STABLE notices, told lazily and in batches.
//!
//! A machine that has seen W commits pushes a notice; a background task collects for at most [`STABLE_DELAY`] and then
//! tells all slots of each. A notice that is lost costs nothing but a settling two seconds later: slots settle what stays
//! COMMITTED. So the queue is bounded, and what does not fit is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Peers, Target, call_slot};
use crate::cluster::Cluster;
use crate::limits::STABLE_DELAY;
use crate::protocol::message::{SlotRequest, Version};
use crate::shutdown::Shutdown;
use crate::types::{Epoch, OpId, SlotIndex, SlotSet, Tag};

/// Most notices that wait.
const QUEUE_LIMIT: usize = 16_384;
/// So many waiting notices are told before the delay is over.
const EARLY: usize = 256;
/// Notices that are told at the same time: each waits for a sync of its drives, so that fewer than there are writers would fall
/// behind them, and the slots would have to settle each version by themselves.
const CONCURRENCY: usize = 256;
/// How long a slot may take for a notice: one that hangs must not hold up those of other registers.
const TELL_LIMIT: Duration = Duration::from_secs(1);
/// How long notices are still told after the stop.
const LAST_NOTICES: Duration = Duration::from_secs(2);

/// One notice.
pub struct StableNotice {
    /// The register.
    pub target: Target,
    /// The epoch it was committed in; under a newer one it would be wrong (a purge may have come in between).
    pub epoch: Epoch,
    /// The version.
    pub version: Version,
    /// Its tag.
    pub tag: Tag,
    /// The slots that are known to have it.
    pub acknowledged: SlotSet,
}

/// Which notice: who acknowledged another tag, or in another epoch, has not acknowledged this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) op: OpId,
    pub(super) tag: Tag,
    pub(super) epoch: Epoch,
}

/// The notices that wait.
#[derive(Default)]
pub(super) struct StableQueue {
    waiting: Mutex<Vec<StableNotice>>,
    early: Notify,
}

impl StableQueue {
    /// Adds a notice.
    pub(super) fn push(&self, notice: StableNotice) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < QUEUE_LIMIT {
            waiting.push(notice);
        }
        if waiting.len() >= EARLY {
            self.early.notify_one();
        }
    }

    /// Adds a slot that has answered the COMMIT since, if the notice waits still, among the newest.
    pub(super) fn acknowledge(&self, told: Told, slot: SlotIndex) {
        let mut waiting = self.waiting.lock();
        let is_it = |notice: &&mut StableNotice| {
            Told { op: notice.version.op, tag: notice.tag, epoch: notice.epoch } == told
        };
        if let Some(notice) = waiting.iter_mut().rev().take(2 * EARLY).find(is_it) {
            notice.acknowledged.insert(slot);
        }
    }

    /// Tells notices until the stop is told, and the last ones then.
    pub(super) async fn run(queue: Arc<Self>, cluster: Cluster, shutdown: Shutdown) {
        loop {
            let stopping = tokio::select! {
                biased;
                () = shutdown.told() => true,
                () = tokio::time::sleep(STABLE_DELAY) => false,
                () = queue.early.notified() => false,
            };
            let batch = std::mem::take(&mut *queue.waiting.lock());
            let stop = async {
                shutdown.told().await;
                tokio::time::sleep(LAST_NOTICES).await;
            };
            tokio::select! {
                biased;
                () = tell_all(&cluster, batch, CONCURRENCY) => {}
                () = stop => return,
            }
            if stopping {
                return;
            }
        }
    }
}

/// Tells these notices, `concurrency` of them at the same time.
pub(super) async fn tell_all(cluster: &Cluster, batch: Vec<StableNotice>, concurrency: usize) {
    stream::iter(batch).for_each_concurrent(concurrency, |notice| tell(cluster, notice)).await;
}

async fn tell(cluster: &Cluster, notice: StableNotice) {
    let peers = Peers::of(cluster, notice.target.partition);
    tracing::trace!(key = %notice.target.register.key, request = "STABLE", "sent");
    let request =
        SlotRequest::Stable { version: notice.version, tag: notice.tag, acknowledged: notice.acknowledged };
    let mut calls: FuturesUnordered<_> = peers
        .geometry
        .all()
        .iter()
        .map(|slot| call_slot(&peers, &notice.target, slot, notice.epoch, request.clone()))
        .collect();
    let all = async { while calls.next().await.is_some() {} };
    // What did not hear it settles by itself.
    let _ = tokio::time::timeout(TELL_LIMIT, all).await;
}
