//! Deleting a bucket (PROTOCOL §9).
//!
//! 1. The record becomes `deleting`: gateways that see it take no more writes.
//! 2. M voters of every partition adopt that revision durably: gateways that do not see it are refused.
//! 3. Completions that were left half done are finished; a strict listing of objects and of open uploads must be empty;
//!    else the record goes back. Only drives that have adopted the revision count: another may not have got yet what is
//!    about to be acknowledged.
//! 4. The parts of its former objects are freed: once the record is gone no sweep finds them.
//! 5. The record is removed. The bucket's id is never used again, so what is left below it belongs to nobody.
//!
//! **Crash.** A record that was left `deleting` is taken up again by the next delete of that bucket; if none comes, the
//! sweep of [`super::reclaim`] opens the bucket again after a while. Both are changes of the record, so a deletion that
//! sleeps and wakes up finds that it is not its own any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::ClusterMap;
use coffer_common::coordination::{CoordinatorError, Expected};
use coffer_common::driver;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, DriveId, PartitionId, RegisterKind};
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::bucket::{Bucket, BucketRecord, BucketState, encode, key, unreachable};
use super::core::Core;
use super::error::{DeleteBucketError, Unavailable};
use super::{list, multipart, quota, reclaim};

/// A deletion that nobody has gone on with for so long is abandoned, in milliseconds: clients wait for a minute or so.
const ABANDONED_MS: u64 = 10 * 60 * 1000;

/// How often the nodes are asked to adopt a bucket's revision while slots move.
const ADOPT_ROUNDS: usize = 20;
/// Between two of these rounds.
const ADOPT_PAUSE: Duration = Duration::from_millis(100);

/// The deletions under way: the revision of the closed record, and when it was seen first.
#[derive(Default)]
pub(super) struct Deletions(Mutex<HashMap<BucketName, (u64, UnixMillis)>>);

impl Deletions {
    /// Of these closed buckets, those that have been so for too long.
    fn abandoned(&self, closed: Vec<Arc<Bucket>>, now: UnixMillis) -> Vec<Arc<Bucket>> {
        let mut seen = self.0.lock();
        seen.retain(|name, (revision, _)| {
            closed.iter().any(|bucket| bucket.name == *name && bucket.revision == *revision)
        });
        let since = |bucket: &Bucket, seen: &mut HashMap<BucketName, (u64, UnixMillis)>| {
            seen.entry(bucket.name.clone()).or_insert((bucket.revision, now)).1
        };
        closed
            .into_iter()
            .filter(|bucket| now.0.saturating_sub(since(bucket, &mut seen).0) >= ABANDONED_MS)
            .collect()
    }
}

/// Opens buckets again whose deletion was abandoned.
pub(super) async fn reopen_abandoned(core: &Arc<Core>, now: UnixMillis) {
    let mut closed = core.buckets.known();
    closed.retain(|bucket| bucket.record.state == BucketState::Deleting);
    for bucket in core.reclaim.deletions.abandoned(closed, now) {
        match change_state(core, &bucket, BucketState::Active).await {
            Ok(_) => tracing::warn!(bucket = %bucket.name, "opened again: its deletion was not finished"),
            Err(error) => tracing::debug!(bucket = %bucket.name, %error, "not opened again"),
        }
    }
}

/// Deletes an empty bucket.
pub(super) async fn delete_bucket(core: &Arc<Core>, name: &BucketName) -> Result<(), DeleteBucketError> {
    let coordinator = core.cluster.coordinator();
    let found = core.buckets.ask(coordinator.as_ref(), name).await?;
    let found = found.ok_or(DeleteBucketError::NoSuchBucket)?;
    // Looking first spares a bucket in use the trouble of being closed for a moment.
    if found.record.state == BucketState::Active && !is_empty(core, &found, None).await? {
        return Err(DeleteBucketError::NotEmpty);
    }
    let closed = change_state(core, &found, BucketState::Deleting).await?;
    match close(core, &closed).await {
        Ok(()) => {}
        Err(error) => {
            if let Err(error) = change_state(core, &closed, BucketState::Active).await {
                tracing::warn!(bucket = %name, %error, "a bucket that is not empty could not be opened again");
            }
            return Err(error);
        }
    }
    let removed = coordinator.delete(&key(name), Expected::Revision(closed.revision)).await;
    match removed {
        Ok(revision) => {
            core.buckets.forget(name.as_str(), revision);
            if closed.record.quota.is_some() {
                quota::forget(core, closed.id()).await;
            }
            Ok(())
        }
        Err(CoordinatorError::Conflict { .. }) => Err(DeleteBucketError::Busy),
        Err(error) => Err(unreachable(error).into()),
    }
}

/// Makes sure that nothing is in the bucket and nothing can come.
async fn close(core: &Arc<Core>, bucket: &Arc<Bucket>) -> Result<(), DeleteBucketError> {
    let adopted = adopt(core, bucket).await?;
    // No Complete can go on any more: whatever is half done is done now, however young it is.
    reclaim::sweep_uploads(core, bucket, UnixMillis(UnixMillis::now().0 + multipart::UNFINISHED_MS)).await?;
    if !is_empty(core, bucket, Some(&adopted)).await? {
        return Err(DeleteBucketError::NotEmpty);
    }
    reclaim::sweep_parts(core, bucket).await?;
    Ok(())
}

async fn is_empty(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    among: Option<&Arc<BTreeSet<DriveId>>>,
) -> Result<bool, Unavailable> {
    Ok(list::is_empty(core, bucket, RegisterKind::Object, list::shows_all, among).await?
        && list::is_empty(core, bucket, RegisterKind::Upload, multipart::shows_open, among).await?)
}

async fn change_state(
    core: &Arc<Core>,
    bucket: &Bucket,
    state: BucketState,
) -> Result<Arc<Bucket>, DeleteBucketError> {
    let record = BucketRecord { state, ..bucket.record.clone() };
    let expected = Expected::Revision(bucket.revision);
    match core.cluster.coordinator().put(&key(&bucket.name), encode(&record), expected, false).await {
        Ok(revision) => {
            let bucket = Arc::new(Bucket { name: bucket.name.clone(), record, revision });
            core.buckets.learn(Arc::clone(&bucket));
            Ok(bucket)
        }
        Err(CoordinatorError::Conflict { .. }) => Err(DeleteBucketError::Busy),
        Err(error) => Err(unreachable(error).into()),
    }
}

/// Has M voters of every partition adopt the bucket's revision, each within one epoch of its partition; says which drives
/// have, each time they were asked. Partitions whose slots move meanwhile are looked at again.
pub(super) async fn adopt(core: &Core, bucket: &Bucket) -> Result<Arc<BTreeSet<DriveId>>, Unavailable> {
    let mut left: Vec<PartitionId> = (0..PARTITION_COUNT).map(PartitionId).collect();
    let mut adopted: Option<BTreeSet<DriveId>> = None;
    for round in 1.. {
        let before = core.cluster.map();
        let round_adopted = ask_to_adopt(core, bucket).await;
        // One that does not answer this time may have lost its state since the last.
        let always = match adopted.take() {
            Some(mut always) => {
                always.retain(|drive| round_adopted.contains(drive));
                always
            }
            None => round_adopted,
        };
        let map = core.cluster.map();
        let need = Geometry::new(map.layout.n()).adopt_quorum();
        let mut reason = None;
        left.retain(|partition| {
            let problem = lacks_adopters(&before, &map, *partition, (need, &always));
            let lacks = problem.is_some();
            reason = problem.or(reason.take());
            lacks
        });
        match reason {
            None => return Ok(Arc::new(always)),
            Some(reason) if round == ADOPT_ROUNDS => return Err(Unavailable::new(reason)),
            Some(_) => tokio::time::sleep(ADOPT_PAUSE).await,
        }
        adopted = Some(always);
    }
    Err(Unavailable::new("the bucket's record was not adopted"))
}

/// Asks all nodes; says which drives have adopted the bucket's revision.
async fn ask_to_adopt(core: &Core, bucket: &Bucket) -> BTreeSet<DriveId> {
    let calls = driver::nodes(&core.cluster, None).into_iter().map(async |(_, client)| match client {
        Some(client) => client.adopt_bucket(bucket.id(), bucket.revision).await.unwrap_or_default(),
        None => Vec::new(),
    });
    join_all(calls).await.into_iter().flatten().collect()
}

/// Why a partition has too few adopters, if it has.
fn lacks_adopters(
    before: &ClusterMap,
    after: &ClusterMap,
    partition: PartitionId,
    (need, adopted): (usize, &BTreeSet<DriveId>),
) -> Option<String> {
    // A slot that has lost its state since has forgotten the revision.
    if after.epochs(partition) != before.epochs(partition) {
        return Some("the cluster map is changing".to_owned());
    }
    let targets = after.targets(partition);
    let votes = targets.iter().filter(|t| t.voter && adopted.contains(&t.address.drive)).count();
    (votes < need).then(|| format!("{votes} of {} drives of partition {} know", targets.len(), partition.0))
}
