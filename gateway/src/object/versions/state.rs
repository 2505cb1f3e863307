//! Whether a bucket keeps versions, and whether it protects them: changes of its record that are in force everywhere when
//! they return (PROTOCOL §9).
//!
//! 1. The record is changed at the coordinator.
//! 2. M voters of every partition adopt its revision: writes under an older record are refused from then on.
//! 3. Completions that were left half done are finished.
//! 4. What adopters hold undecided is settled: no write under an older record becomes visible after the change returned.
//!
//! A bucket that never kept versions is first `enabling`, and goes on when all of that is done: a writer with the record of
//! before takes no notice of versions, and must not come upon one.

use std::sync::Arc;

use coffer_common::coordination::{CoordinatorError, Expected};
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, RegisterKind};

use crate::object::bucket::{Bucket, BucketRecord, BucketState, Versioning, encode, key, unreachable};
use crate::object::bucket_delete::adopt;
use crate::object::core::Core;
use crate::object::error::{ConfigureError, Unavailable};
use crate::object::list::{Listing, Range, shows_all};
use crate::object::multipart::UNFINISHED_MS;
use crate::object::reclaim;
use crate::object::types::ObjectLock;

/// How often other changes of the record may come first.
const TRIES: u32 = 8;
/// Registers that are listed at a time.
const BATCH: u32 = 1_000;

/// Has a bucket keep versions, or keep no more.
pub(in crate::object) async fn set_versioning(
    core: &Arc<Core>,
    name: &BucketName,
    enabled: bool,
) -> Result<(), ConfigureError> {
    for _ in 0..TRIES {
        let bucket = in_use(core, name).await?;
        if !enabled && bucket.record.object_lock.is_some() {
            return Err(ConfigureError::Locked);
        }
        let last = if enabled { Versioning::Enabled } else { Versioning::Suspended };
        let next = match bucket.record.versioning {
            Versioning::Unversioned => Versioning::Enabling,
            Versioning::Enabling => {
                in_force(core, &bucket).await?;
                last
            }
            Versioning::Enabled | Versioning::Suspended => last,
        };
        let record = BucketRecord { versioning: next, ..bucket.record.clone() };
        if let Some(bucket) = change(core, &bucket, record).await?
            && next == last
        {
            in_force(core, &bucket).await?;
            return Ok(());
        }
    }
    Err(ConfigureError::Busy)
}

/// Has a bucket protect versions.
pub(in crate::object) async fn set_object_lock(
    core: &Arc<Core>,
    name: &BucketName,
    lock: ObjectLock,
) -> Result<(), ConfigureError> {
    for _ in 0..TRIES {
        let bucket = in_use(core, name).await?;
        if bucket.record.versioning != Versioning::Enabled {
            return Err(ConfigureError::NotVersioned);
        }
        let record = BucketRecord { object_lock: Some(lock.clone()), ..bucket.record.clone() };
        if let Some(bucket) = change(core, &bucket, record).await? {
            in_force(core, &bucket).await?;
            return Ok(());
        }
    }
    Err(ConfigureError::Busy)
}

/// The record as the coordinator has it.
async fn in_use(core: &Core, name: &BucketName) -> Result<Arc<Bucket>, ConfigureError> {
    let found = core.buckets.ask(core.cluster.coordinator().as_ref(), name).await?;
    let bucket = found.ok_or(ConfigureError::NoSuchBucket)?;
    match bucket.record.state {
        BucketState::Active => Ok(bucket),
        BucketState::Deleting => Err(ConfigureError::Busy),
    }
}

/// Puts a record in the place of the one that was read; `None` if another came first.
async fn change(
    core: &Core,
    bucket: &Arc<Bucket>,
    record: BucketRecord,
) -> Result<Option<Arc<Bucket>>, Unavailable> {
    if record == bucket.record {
        return Ok(Some(Arc::clone(bucket)));
    }
    let expected = Expected::Revision(bucket.revision);
    match core.cluster.coordinator().put(&key(&bucket.name), encode(&record), expected, false).await {
        Ok(revision) => {
            let bucket = Arc::new(Bucket { name: bucket.name.clone(), record, revision });
            core.buckets.learn(Arc::clone(&bucket));
            Ok(Some(bucket))
        }
        Err(CoordinatorError::Conflict { .. }) => Ok(None),
        Err(error) => Err(unreachable(error)),
    }
}

/// Makes sure that nothing that was allowed by an older record takes effect any more.
async fn in_force(core: &Arc<Core>, bucket: &Arc<Bucket>) -> Result<(), Unavailable> {
    let among = Some(adopt(core, bucket).await?);
    reclaim::sweep_uploads(core, bucket, UnixMillis(UnixMillis::now().0 + UNFINISHED_MS)).await?;
    for kind in [RegisterKind::Object, RegisterKind::Version] {
        let range = Range { among: among.clone(), ..Range::all(kind) };
        let mut listing = Listing::new(core, bucket, range, shows_all, BATCH);
        while !listing.next(BATCH as usize).await?.is_empty() {}
    }
    Ok(())
}
