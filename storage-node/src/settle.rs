//! Settles what a drive holds COMMITTED but not STABLE for too long (PROTOCOL §3.5): the writer's gateway died, or its
//! STABLE was lost. Tombstones and the registers of uploads and parts are settled like objects.
//!
//! Owns: one loop per drive, its pace, and what is counted. Never decides anything: the settler machine does.
//!
//! 1. The drive's store knows which registers are due (`store::unfinished`); a drive at rest has none.
//! 2. While fewer than R0 slots of a register's partition are alive nothing can be decided: it is put off without a call.
//! 3. The machine asks all slots, writes back to M if need be, and has STABLE told to all, this drive included: only
//!    that takes a register off the list.
//!
//! **Retries.** What was not decided is due again after 4, 8, … 60 s. **Pace.** `CONCURRENCY` at a time and `BATCH`
//! per `BUSY_PAUSE`, so that a gateway that died with thousands of STABLE untold costs a few percent of a node.
//! **Cancellation.** The stop ends all loops at once; a write-back under way may or may not arrive, and whoever settles
//! next finds out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::driver::{Driver, Payload, Peers, Target};
use coffer_common::protocol::fenced::Trouble;
use coffer_common::protocol::reader::ReadOutcome;
use coffer_common::protocol::settler::Settler;
use coffer_common::random;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::OpId;
use futures_util::stream::StreamExt;
use metrics::counter;
use tokio::time::Instant;

use crate::node::StorageNode;
use crate::store::{DriveStore, Task, Unfinished};

/// How often a drive is asked for what is due.
const PAUSE: Duration = Duration::from_millis(500);
/// The same while there is more than one batch.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Registers of one drive that are taken at a time.
const BATCH: usize = 32;
/// Registers of one drive that are settled at the same time.
const CONCURRENCY: usize = 4;
/// How long settling one register may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Between two walks over a drive's unfinished registers.
const WALK_PAUSE: Duration = Duration::from_secs(60);

struct Settling {
    cluster: Cluster,
    driver: Driver,
    /// Names this process in ops.
    session: u64,
    counter: AtomicU64,
}

/// Starts settling on every open drive of the node; it ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, shutdown: &Shutdown) {
    let settling = Arc::new(Settling {
        cluster: cluster.clone(),
        driver: Driver::start(cluster.clone(), shutdown.clone()),
        session: random::random(),
        counter: AtomicU64::new(1),
    });
    for store in node.drives() {
        let (settling, store) = (Arc::clone(&settling), Arc::clone(store));
        shutdown.spawn_until_told(async move { settling.run(&store).await });
    }
}

impl Settling {
    async fn run(&self, store: &Arc<DriveStore>) {
        let mut walked: Option<Instant> = None;
        loop {
            if store.misses_unfinished(Task::Settle) && walked.is_none_or(|at| at.elapsed() >= WALK_PAUSE) {
                walked = Some(Instant::now());
                if let Err(error) = store.find_unfinished(Task::Settle).await {
                    tracing::warn!(drive = %store.id(), %error, "not all unsettled versions are known");
                }
            }
            let pause = match store.due(Task::Settle, BATCH).await {
                Ok(due) => {
                    let full = due.len() == BATCH;
                    futures_util::stream::iter(due)
                        .for_each_concurrent(CONCURRENCY, |unsettled| self.settle(store, unsettled))
                        .await;
                    if full { BUSY_PAUSE } else { PAUSE }
                }
                Err(error) => {
                    tracing::debug!(drive = %store.id(), %error, "nothing can be settled");
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn settle(&self, store: &DriveStore, unsettled: Unfinished) {
        let (address, op) = (unsettled.address, unsettled.op);
        let peers = Peers::of(&self.cluster, address.partition);
        let ours = peers.get(address.slot).is_some_and(|peer| peer.address.drive == address.drive);
        if !ours || !store.is_unfinished(Task::Settle, &unsettled) {
            return;
        }
        if peers.alive().len() < peers.geometry.r0() {
            store.postpone(Task::Settle, &unsettled);
            return;
        }
        let mut target = Target {
            register: unsettled.register,
            partition: address.partition,
            bucket_revision: unsettled.bucket_revision,
        };
        let mut outcome = self.drive(&target, &peers).await;
        if let ReadOutcome::Unavailable(Trouble::BucketChanged(revision)) = outcome {
            // A write-back brings nothing that was not committed before the change; a reader would do it as well.
            target.bucket_revision = revision;
            outcome = self.drive(&target, &peers).await;
        }
        match outcome {
            ReadOutcome::Decided(_) => {
                counter!("coffer_settled_versions_total").increment(1);
                tracing::debug!(%op, partition = address.partition.0, "settled");
            }
            ReadOutcome::Unavailable(trouble) => {
                counter!("coffer_settle_failures_total").increment(1);
                tracing::debug!(%op, partition = address.partition.0, ?trouble, "not settled yet");
            }
        }
    }

    async fn drive(&self, target: &Target, peers: &Peers) -> ReadOutcome {
        let op = OpId { session: self.session, counter: self.counter.fetch_add(1, Ordering::Relaxed) };
        let machine = Settler::new(peers.geometry, peers.epochs, op);
        let limit = tokio::time::sleep(SETTLE_LIMIT);
        self.driver.drive(target, peers.clone(), machine, Payload::Nothing, limit).await.outcome
    }
}
