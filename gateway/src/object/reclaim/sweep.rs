//! The sweep over all upload and part registers, made by one gateway at a time.
//!
//! 1. Buckets whose deletion was abandoned are opened again.
//! 2. Records of completed uploads: what a dead Complete has left is finished; those older than a day are ended.
//! 3. Versions that were removed, and not cleared away.
//! 4. Parts: what is over is freed.
//!
//! The lock at the coordinator only saves work: two sweeps at the same time do no harm. While the coordinator is away
//! nobody sweeps.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::coordination::{Kept, KeptLock};
use coffer_common::meta::UploadState;
use coffer_common::protocol::message::Version;
use coffer_common::random;
use coffer_common::time::UnixMillis;
use coffer_common::types::RegisterKind;
use tokio::time::Instant;

use super::sweep_parts;
use crate::object::bucket::{Bucket, BucketState, Versioning};
use crate::object::bucket_delete::reopen_abandoned;
use crate::object::core::Core;
use crate::object::error::Unavailable;
use crate::object::list::{Item, Listing, Range};
use crate::object::multipart::{end_old, is_due, upload_meta};
use crate::object::versions::sweep_removed;

/// The lock of the one that sweeps.
const LOCK: &str = "sweep/parts";
/// From one sweep to the next.
pub(in crate::object) const PAUSE: Duration = Duration::from_secs(5 * 60);
/// The pause is at least so many times as long as the sweep before it took.
const PAUSE_PER_SWEEP: u32 = 20;
/// Upload registers that are listed at a time.
const BATCH: usize = 1_000;

/// What a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Records of completed uploads that were ended.
    pub uploads: u64,
    /// Parts that were ended, or of which one attempt was left.
    pub parts: u64,
    /// Removed versions that were cleared away.
    pub versions: u64,
}

/// Sweeps again and again, if no other gateway does, until the stop is told.
pub(in crate::object) async fn follow(core: Arc<Core>, least_pause: Duration) {
    tokio::select! {
        biased;
        () = core.background.told() => {}
        () = take_turns(&core, least_pause) => {}
    }
}

async fn take_turns(core: &Arc<Core>, least_pause: Duration) {
    let mut lock = KeptLock::new(LOCK);
    let mut pause = least_pause;
    loop {
        // Not all gateways of a cluster that is started at once try at the same time.
        tokio::time::sleep(pause.mul_f64(random::between(0.8..1.2))).await;
        pause = least_pause;
        if lock.keep(&*core.cluster.coordinator()).await == Kept::No {
            continue;
        }
        let began = Instant::now();
        match sweep(core, UnixMillis::now()).await {
            Ok(Reclaimed { uploads: 0, parts: 0, versions: 0 }) => {}
            Ok(Reclaimed { uploads, parts, versions }) => {
                tracing::info!(uploads, parts, versions, "freed parts of uploads, and removed versions");
            }
            Err(error) => tracing::warn!(%error, "the sweep over the uploads' parts ended early"),
        }
        pause = least_pause.max(began.elapsed() * PAUSE_PER_SWEEP);
    }
}

/// Sweeps once. The age of completed uploads is taken from `now`.
pub(in crate::object) async fn sweep(core: &Arc<Core>, now: UnixMillis) -> Result<Reclaimed, Unavailable> {
    reopen_abandoned(core, now).await;
    let mut reclaimed = Reclaimed::default();
    let mut trouble = None;
    for bucket in core.buckets.known() {
        if bucket.record.state != BucketState::Active {
            continue;
        }
        match sweep_bucket(core, &bucket, now).await {
            Ok(Reclaimed { uploads, parts, versions }) => {
                reclaimed.uploads += uploads;
                reclaimed.parts += parts;
                reclaimed.versions += versions;
            }
            // One bucket that cannot be read must not hold up the others.
            Err(error) => trouble = Some(error),
        }
    }
    trouble.map_or(Ok(reclaimed), Err)
}

async fn sweep_bucket(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    now: UnixMillis,
) -> Result<Reclaimed, Unavailable> {
    let uploads = sweep_uploads(core, bucket, now).await?;
    let versions = match bucket.record.versioning {
        Versioning::Unversioned => 0,
        Versioning::Enabling | Versioning::Enabled | Versioning::Suspended => {
            sweep_removed(core, bucket).await?
        }
    };
    let parts = sweep_parts(core, bucket).await?;
    Ok(Reclaimed { uploads, parts, versions })
}

/// Goes over the records of a bucket's completed uploads. Returns how many it ended.
pub(in crate::object) async fn sweep_uploads(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    now: UnixMillis,
) -> Result<u64, Unavailable> {
    let mut listing =
        Listing::new(core, bucket, Range::all(RegisterKind::Upload), shows_completed, BATCH as u32);
    let mut ended = 0;
    loop {
        let items = listing.next(BATCH).await?;
        if items.is_empty() {
            return Ok(ended);
        }
        for item in items {
            if let Item::Entry(register, version) = item
                && let Some(upload) = register.upload_id()
                && let UploadState::Completed { applied, decided, .. } = upload_meta(&version)?.state
                && is_due(applied, decided, now)
            {
                ended += u64::from(end_old(core, bucket, &register.key, upload, now).await?);
            }
        }
    }
}

fn shows_completed(version: &Version) -> Result<bool, Unavailable> {
    Ok(matches!(upload_meta(version)?.state, UploadState::Completed { .. }))
}
