//! Setting, clearing and showing a bucket's quota.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::coordination::{CoordinatorError, Expected};
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, BucketName};
use tokio::time::Instant;

use super::{PREFIX, Quota};
use crate::object::bucket::{Bucket, BucketRecord, BucketState, encode, key, unreachable};
use crate::object::core::Core;
use crate::object::error::{HeadBucketError, Unavailable};
use crate::object::types::{BucketQuota, BucketUsage};

/// How often a change of the record is tried again because somebody else has changed it.
const TRIES: usize = 64;
/// How long showing waits for a survey.
const SURVEY_WAIT: Duration = Duration::from_secs(5);

/// Gives a bucket a quota of so many bytes, or takes it away. What is stored is counted in the background.
pub(in crate::object) async fn set(
    core: &Arc<Core>,
    name: &BucketName,
    bytes: Option<u64>,
) -> Result<(), HeadBucketError> {
    let coordinator = core.cluster.coordinator();
    for _ in 0..TRIES {
        let bucket = ask(core, name).await?;
        let quota = bytes.map(|bytes| {
            // The record's revision is above that of any earlier setting.
            let term = bucket.record.quota.map_or(bucket.revision, |quota| quota.term);
            Quota { bytes, term }
        });
        let record = BucketRecord { quota, ..bucket.record.clone() };
        let expected = Expected::Revision(bucket.revision);
        match coordinator.put(&key(name), encode(&record), expected, false).await {
            Ok(revision) => {
                let bucket = Arc::new(Bucket { name: name.clone(), record, revision });
                core.buckets.learn(Arc::clone(&bucket));
                match quota {
                    Some(quota) => {
                        let desk = core.quotas.desk(bucket.id(), quota.term);
                        desk.begin_round(core, &bucket, (quota, 0), true);
                    }
                    None => forget(core, bucket.id()).await,
                }
                return Ok(());
            }
            Err(CoordinatorError::Conflict { .. }) => {}
            Err(error) => return Err(unreachable(error).into()),
        }
    }
    Err(Unavailable::new("the bucket's record is being changed by many at once").into())
}

/// A bucket's quota and what is in use of it, counted anew if the last survey may be repeated already.
pub(in crate::object) async fn show(
    core: &Arc<Core>,
    name: &BucketName,
) -> Result<Option<BucketQuota>, HeadBucketError> {
    let bucket = ask(core, name).await?;
    let Some(quota) = bucket.record.quota else { return Ok(None) };
    let desk = core.quotas.desk(bucket.id(), quota.term);
    let deadline = Instant::now() + SURVEY_WAIT;
    let (_, mut ledger) = desk.change(core, |_| None::<()>).await?;
    let (first, due) = (ledger.usage, desk.is_survey_due());
    if due {
        desk.begin_round(core, &bucket, (quota, 0), true);
    }
    while ledger.usage == first
        && (due || first.is_none())
        && desk.round_ends(ledger.concluded, deadline).await
    {
        (_, ledger) = desk.change(core, |_| None::<()>).await?;
    }
    let usage = ledger.usage.map(|usage| BucketUsage {
        bytes: usage.bytes,
        surveyed: UnixMillis(usage.surveyed_ms),
        pending_bytes: ledger.outstanding(),
    });
    Ok(Some(BucketQuota { bytes: quota.bytes, usage }))
}

/// Removes what the coordinator keeps of a bucket that has no quota any more, or is gone.
pub(in crate::object) async fn forget(core: &Core, bucket: BucketId) {
    let ledger = format!("{PREFIX}{bucket}");
    if let Err(error) = core.cluster.coordinator().delete(&ledger, Expected::Any).await {
        tracing::debug!(%error, ledger, "the ledger of a quota stays behind");
    }
}

/// The bucket as the coordinator has it now.
async fn ask(core: &Core, name: &BucketName) -> Result<Arc<Bucket>, HeadBucketError> {
    let bucket = core.buckets.ask(core.cluster.coordinator().as_ref(), name).await?;
    let bucket = bucket.ok_or(HeadBucketError::NoSuchBucket)?;
    match bucket.record.state {
        BucketState::Active => Ok(bucket),
        BucketState::Deleting => Err(Unavailable::new("the bucket is being deleted").into()),
    }
}
