//! Goes over the buckets that have rules.

use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::coordination::{Kept, KeptLock};
use coffer_common::random;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::BucketName;
use futures_util::stream::{self, StreamExt};

use super::expire::Expirer;
use super::rules::{DAY_MS, Rules};
use super::walk::Walk;
use crate::notify::Notifier;
use crate::object::{BucketInfo, ListError, ListUploads, ListVersions, ObjectStore, UploadError, UploadRef};

/// The lock of the one that goes over the buckets.
const LOCK: &str = "sweep/lifecycle";
/// From one pass to the next.
const PAUSE: Duration = Duration::from_secs(10 * 60);
/// Passes in a day that a test makes shorter.
const PASSES_PER_TEST_DAY: u32 = 8;
/// Items that are listed at a time.
const PAGE: u32 = 1_000;
/// Versions that are deleted at the same time.
const CONCURRENCY: usize = 16;

const ABORTED: &str = "coffer_lifecycle_aborted_uploads_total";
pub(super) const FAILED: &str = "coffer_lifecycle_failures_total";

/// What a pass works with.
pub(super) struct Worker {
    /// Where objects are.
    pub(super) store: ObjectStore,
    /// Where their events go.
    pub(super) notifier: Notifier,
    day_ms: u64,
}

/// Begins to carry out rules, until the stop is told. `day` is shorter than a day in tests.
pub(crate) fn start(
    (store, notifier): (ObjectStore, Notifier),
    cluster: Cluster,
    day: Option<Duration>,
    shutdown: &Shutdown,
) {
    let day_ms = day.map_or(DAY_MS, |day| u64::try_from(day.as_millis()).unwrap_or(DAY_MS));
    let worker = Worker { store, notifier, day_ms };
    shutdown.spawn_until_told(async move { take_turns(&worker, &cluster, day).await });
}

async fn take_turns(worker: &Worker, cluster: &Cluster, day: Option<Duration>) {
    let pause = day.map_or(PAUSE, |day| day / PASSES_PER_TEST_DAY);
    let mut lock = KeptLock::new(LOCK);
    loop {
        // Not all gateways of a cluster that is started at once try at the same time.
        tokio::time::sleep(pause.mul_f64(random::between(0.8..1.2))).await;
        if lock.keep(&*cluster.coordinator()).await != Kept::No {
            worker.pass().await;
        }
    }
}

impl Worker {
    /// Goes over all buckets once.
    async fn pass(&self) {
        let buckets = match self.store.list_buckets().await {
            Ok(buckets) => buckets,
            Err(error) => return tracing::debug!(%error, "nothing expires: the buckets are not known"),
        };
        for bucket in buckets {
            let Some(text) = bucket.documents.get(super::DOCUMENT) else { continue };
            let Some(rules) = Rules::decode(text) else {
                tracing::error!(bucket = %bucket.name, "nothing expires: its lifecycle rules cannot be read");
                continue;
            };
            if let Err(error) = self.versions(&bucket, &rules).await {
                tracing::warn!(bucket = %bucket.name, %error, "not all that is due has expired");
            }
            if let Err(error) = uploads(&self.store, &bucket.name, (&rules, self.day_ms)).await {
                tracing::warn!(bucket = %bucket.name, %error, "not all uploads that are due were given up");
            }
        }
    }

    async fn versions(&self, bucket: &BucketInfo, rules: &Rules) -> Result<(), ListError> {
        let expirer = Expirer::new(self, bucket);
        for prefix in rules.object_prefixes() {
            let mut walk = Walk::new(rules, self.day_ms);
            let mut after = (String::new(), None);
            loop {
                if !self.is_as_before(bucket).await? {
                    return Ok(());
                }
                let list = ListVersions {
                    bucket: bucket.name.clone(),
                    prefix: prefix.to_owned(),
                    delimiter: String::new(),
                    after_key: after.0,
                    after_version: after.1,
                    limit: PAGE,
                };
                let page = self.store.list_versions(list).await?;
                let (now, mut due) = (UnixMillis::now(), Vec::new());
                for version in page.versions {
                    walk.look(version, now, &mut due);
                }
                if page.next.is_none() {
                    walk.end(now, &mut due);
                }
                let acts = due.into_iter().map(|due| expirer.carry_out(due));
                stream::iter(acts).buffer_unordered(CONCURRENCY).collect::<()>().await;
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Whether the bucket is the same, with the same rules: else the pass ends for it.
    async fn is_as_before(&self, before: &BucketInfo) -> Result<bool, ListError> {
        let now = self.store.head_bucket(&before.name).await?;
        let rules = |bucket: &BucketInfo| bucket.documents.get(super::DOCUMENT).map(str::to_owned);
        Ok(now.id == before.id && rules(&now) == rules(before))
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
                if end.is_some_and(|(end, _)| end <= now) {
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
