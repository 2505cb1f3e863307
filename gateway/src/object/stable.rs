//! STABLE notices, told lazily and in batches.
//!
//! A machine that has seen W commits pushes a notice; a background task collects for at most [`STABLE_DELAY`] and then
//! tells all slots of each. A notice that is lost costs nothing but a settling two seconds later: slots settle what stays
//! COMMITTED. So the queue is bounded, and what does not fit is dropped.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::limits::STABLE_DELAY;
use coffer_common::protocol::message::{SlotRequest, Version};
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{Epoch, SlotSet, Tag};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::core::Core;
use super::driver::{Target, call_slot};
use super::peers::Peers;

/// Most notices that wait.
const QUEUE_LIMIT: usize = 16_384;
/// So many waiting notices are told before the delay is over.
const EARLY: usize = 256;
/// Notices that are told at the same time.
const CONCURRENCY: usize = 32;

/// One notice.
pub(super) struct StableNotice {
    /// The register.
    pub(super) target: Target,
    /// The epoch it was committed in; under a newer one it would be wrong (a purge may have come in between).
    pub(super) epoch: Epoch,
    /// The version.
    pub(super) version: Version,
    /// Its tag.
    pub(super) tag: Tag,
    /// The slots that acknowledged its commit.
    pub(super) acknowledged: SlotSet,
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

    /// Tells notices until the stop is told, and the last ones then.
    pub(super) async fn run(core: Arc<Core>, shutdown: Shutdown) {
        loop {
            let stopping = tokio::select! {
                () = shutdown.told() => true,
                () = tokio::time::sleep(STABLE_DELAY) => false,
                () = core.stable.early.notified() => false,
            };
            let batch = std::mem::take(&mut *core.stable.waiting.lock());
            let limit = if stopping { Duration::from_secs(2) } else { Duration::from_secs(60) };
            let _ = tokio::time::timeout(limit, tell_all(&core, batch)).await;
            if stopping {
                return;
            }
        }
    }
}

async fn tell_all(core: &Arc<Core>, batch: Vec<StableNotice>) {
    let mut telling = FuturesUnordered::new();
    for notice in batch {
        if telling.len() >= CONCURRENCY {
            telling.next().await;
        }
        telling.push(tell(core, notice));
    }
    while telling.next().await.is_some() {}
}

async fn tell(core: &Arc<Core>, notice: StableNotice) {
    let peers = Peers::of(&core.cluster, notice.target.partition);
    let request =
        SlotRequest::Stable { version: notice.version, tag: notice.tag, acknowledged: notice.acknowledged };
    let mut calls: FuturesUnordered<_> = peers
        .geometry
        .all()
        .iter()
        .map(|slot| call_slot(&peers, &notice.target, slot, notice.epoch, request.clone()))
        .collect();
    while calls.next().await.is_some() {}
}
