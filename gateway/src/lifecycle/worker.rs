//! Goes over the buckets that have rules.

use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::coordination::LockGuard;
use coffer_common::random;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::BucketName;
use futures_util::stream::{self, StreamExt};

use super::rules::{DAY_MS, Rules};
use crate::object::{
    DeleteError, DeleteObject, ListError, ListObjects, ListUploads, ListedObject, ObjectStore, UploadError,
    UploadRef, WriteCondition,
};

/// The lock of the one that goes over the buckets.
const LOCK: &str = "sweep/lifecycle";
/// How long a try at the lock takes.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// From one pass to the next.
const PAUSE: Duration = Duration::from_secs(10 * 60);
/// Passes in a day that a test makes shorter.
const PASSES_PER_TEST_DAY: u32 = 8;
/// Items that are listed at a time.
const PAGE: u32 = 1_000;
/// Objects that are deleted at the same time.
const CONCURRENCY: usize = 16;

const EXPIRED: &str = "coffer_lifecycle_expired_objects_total";
const ABORTED: &str = "coffer_lifecycle_aborted_uploads_total";
const FAILED: &str = "coffer_lifecycle_failures_total";

/// Begins to carry out rules, until the stop is told. `day` is shorter than a day in tests.
pub(crate) fn start(store: ObjectStore, cluster: Cluster, day: Option<Duration>, shutdown: &Shutdown) {
    shutdown.spawn_until_told(async move { take_turns(&store, &cluster, day).await });
}

async fn take_turns(store: &ObjectStore, cluster: &Cluster, day: Option<Duration>) {
    let pause = day.map_or(PAUSE, |day| day / PASSES_PER_TEST_DAY);
    let day_ms = day.map_or(DAY_MS, |day| u64::try_from(day.as_millis()).unwrap_or(DAY_MS));
    let mut lock: Option<LockGuard> = None;
    loop {
        // Not all gateways of a cluster that is started at once try at the same time.
        tokio::time::sleep(pause.mul_f64(random::between(0.8..1.2))).await;
        if !lock.as_ref().is_some_and(LockGuard::held) {
            // A lost one would be in the way of the next.
            drop(lock.take());
            lock = cluster.coordinator().lock(LOCK, LOCK_WAIT).await.ok();
        }
        if lock.is_some() {
            pass(store, day_ms).await;
        }
    }
}

/// Goes over all buckets once.
async fn pass(store: &ObjectStore, day_ms: u64) {
    let buckets = match store.list_buckets().await {
        Ok(buckets) => buckets,
        Err(error) => return tracing::debug!(%error, "nothing expires: the buckets are not known"),
    };
    for bucket in buckets {
        let Some(text) = bucket.documents.get(super::DOCUMENT) else { continue };
        let Some(rules) = Rules::decode(text) else {
            tracing::error!(bucket = %bucket.name, "nothing expires: its lifecycle rules cannot be read");
            continue;
        };
        if let Err(error) = objects(store, &bucket.name, (&rules, day_ms)).await {
            tracing::warn!(bucket = %bucket.name, %error, "not all that is due has expired");
        }
        if let Err(error) = uploads(store, &bucket.name, (&rules, day_ms)).await {
            tracing::warn!(bucket = %bucket.name, %error, "not all uploads that are due were given up");
        }
    }
}

async fn objects(
    store: &ObjectStore,
    bucket: &BucketName,
    (rules, day_ms): (&Rules, u64),
) -> Result<(), ListError> {
    for prefix in rules.object_prefixes() {
        let mut start_after = String::new();
        loop {
            let list = ListObjects {
                bucket: bucket.clone(),
                prefix: prefix.to_owned(),
                delimiter: String::new(),
                start_after,
                limit: PAGE,
            };
            let page = store.list_objects(list).await?;
            let now = UnixMillis::now();
            let due = page.objects.into_iter().filter(|object| {
                let expiry = rules.expiry(object.key.as_str(), &object.info, day_ms);
                expiry.is_some_and(|(time, _)| time <= now)
            });
            let deletes = due.map(|object| expire(store, bucket, object));
            stream::iter(deletes).buffer_unordered(CONCURRENCY).collect::<()>().await;
            match page.next {
                Some(next) => start_after = next,
                None => break,
            }
        }
    }
    Ok(())
}

async fn expire(store: &ObjectStore, bucket: &BucketName, object: ListedObject) {
    let condition =
        WriteCondition::Unchanged { etag: object.info.etag, last_modified: object.info.last_modified };
    let (bucket, key) = (bucket.clone(), object.key);
    // In a bucket that keeps versions, a delete marker comes on top.
    let (key_of, version, bypass_governance) = (key.clone(), None, false);
    let request = DeleteObject { bucket, key: key_of, version, condition, bypass_governance };
    match store.delete_object(request).await {
        Ok(_) => metrics::counter!(EXPIRED).increment(1),
        // It was written or deleted meanwhile.
        Err(DeleteError::ConditionFailed | DeleteError::NoSuchKey | DeleteError::NoSuchBucket) => {}
        Err(error) => {
            metrics::counter!(FAILED).increment(1);
            tracing::debug!(%key, %error, "not expired; the next pass tries again");
        }
    }
}

async fn uploads(
    store: &ObjectStore,
    bucket: &BucketName,
    (rules, day_ms): (&Rules, u64),
) -> Result<(), ListError> {
    for prefix in rules.upload_prefixes() {
        let mut after = (String::new(), None);
        loop {
            let list = ListUploads {
                bucket: bucket.clone(),
                prefix: prefix.to_owned(),
                delimiter: String::new(),
                after_key: after.0,
                after_upload: after.1,
                limit: PAGE,
            };
            let page = store.list_uploads(list).await?;
            let now = UnixMillis::now();
            for upload in page.uploads {
                let end = rules.upload_end(upload.key.as_str(), upload.initiated, day_ms);
                if end.is_some_and(|end| end <= now) {
                    give_up(
                        store,
                        UploadRef { bucket: bucket.clone(), key: upload.key, upload: upload.upload },
                    )
                    .await;
                }
            }
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
    }
    Ok(())
}

async fn give_up(store: &ObjectStore, upload: UploadRef) {
    match store.abort_upload(&upload).await {
        Ok(()) => metrics::counter!(ABORTED).increment(1),
        // It was completed or aborted meanwhile.
        Err(UploadError::NoSuchUpload | UploadError::NoSuchBucket) => {}
        Err(error) => {
            metrics::counter!(FAILED).increment(1);
            tracing::debug!(key = %upload.key, %error, "an upload is not given up; the next pass tries again");
        }
    }
}
