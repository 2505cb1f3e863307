//! One pass over a bucket: its versions, then its uploads.
//!
//! It is made under the bucket's lock, which saves work and protects nothing: each delete has its own condition. A pass whose lock is
//! lost ends before its next delete, as another gateway may have begun.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::coordination::LockGuard;
use coffer_common::time::UnixMillis;
use coffer_common::types::BucketId;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::expire::Expirer;
use super::rules::Rules;
use super::walk::Walk;
use super::worker::{FAILED, Worker};
use crate::object::{BucketInfo, ListError, ListUploads, ListVersions, UploadError, UploadRef};

/// Items that are listed at a time.
const PAGE: u32 = 1_000;
/// Versions or uploads of a page that are deleted at the same time.
const CONCURRENCY: usize = 16;

const ABORTED: &str = "coffer_lifecycle_aborted_uploads_total";
const PASSES: &str = "coffer_lifecycle_passes_total";

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error(transparent)]
    List(#[from] ListError),
    #[error("the lock of the bucket is lost, and another gateway may have it")]
    Lost,
    #[error("the bucket or its rules have changed")]
    Changed,
}

struct Pass<'a> {
    worker: &'a Worker,
    bucket: &'a BucketInfo,
    rules: &'a Rules,
    lock: &'a LockGuard,
}

/// Goes over a bucket, with the lock of the pass before if this gateway still has it. Returns the lock; `None` if another has it,
/// it is lost, or nobody knows.
pub(super) async fn pass(
    worker: Arc<Worker>,
    bucket: BucketInfo,
    lock: Option<LockGuard>,
) -> Option<LockGuard> {
    let lock = match lock.filter(LockGuard::held) {
        Some(lock) => lock,
        None => take_lock(&worker, bucket.id).await?,
    };
    let text = bucket.documents.get(super::DOCUMENT)?;
    match Rules::decode(text) {
        Some(rules) => Pass { worker: &worker, bucket: &bucket, rules: &rules, lock: &lock }.run().await,
        None => {
            tracing::error!(bucket = %bucket.name, "nothing expires: its lifecycle rules cannot be read");
        }
    }
    lock.held().then_some(lock)
}

async fn take_lock(worker: &Worker, bucket: BucketId) -> Option<LockGuard> {
    // Many buckets may be due at the same moment.
    let _turn = worker.turns.acquire().await;
    worker.cluster.coordinator().lock(&format!("lifecycle/{bucket}"), Duration::ZERO).await.ok()
}

impl Pass<'_> {
    async fn run(self) {
        let ends = [self.versions().await, self.uploads().await];
        if ends.iter().all(Result::is_ok) {
            metrics::counter!(PASSES).increment(1);
        }
        for end in ends {
            match end {
                Ok(()) => {}
                Err(Halt::List(error)) => {
                    tracing::warn!(bucket = %self.bucket.name, %error, "not all that is due has expired");
                }
                Err(halt @ (Halt::Lost | Halt::Changed)) => {
                    tracing::debug!(bucket = %self.bucket.name, %halt, "a pass over lifecycle rules ended early");
                }
            }
        }
    }

    async fn versions(&self) -> Result<(), Halt> {
        let expirer = Expirer::new(self.worker, self.bucket);
        for prefix in self.rules.object_prefixes() {
            let mut walk = Walk::new(self.rules, self.worker.day_ms);
            let mut after = (String::new(), None);
            loop {
                let _turn = self.worker.turns.acquire().await;
                self.check().await?;
                let list = ListVersions {
                    bucket: self.bucket.name.clone(),
                    prefix: prefix.to_owned(),
                    delimiter: String::new(),
                    after_key: after.0,
                    after_version: after.1,
                    limit: PAGE,
                };
                let page = self.worker.store.list_versions(list).await?;
                let (now, mut due) = (UnixMillis::now(), Vec::new());
                for version in page.versions {
                    walk.look(version, now, &mut due);
                }
                if page.next.is_none() {
                    walk.end(now, &mut due);
                }
                let acts = due.into_iter().map(|due| expirer.carry_out(due).boxed());
                self.each(acts.collect()).await?;
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn uploads(&self) -> Result<(), Halt> {
        for prefix in self.rules.upload_prefixes() {
            let mut after = (String::new(), None);
            loop {
                let _turn = self.worker.turns.acquire().await;
                self.check().await?;
                let list = ListUploads {
                    bucket: self.bucket.name.clone(),
                    prefix: prefix.to_owned(),
                    delimiter: String::new(),
                    after_key: after.0,
                    after_upload: after.1,
                    limit: PAGE,
                };
                let mut page = self.worker.store.list_uploads(list).await?;
                let now = UnixMillis::now();
                page.uploads.retain(|upload| {
                    let end =
                        self.rules.upload_end(upload.key.as_str(), upload.initiated, self.worker.day_ms);
                    end.is_some_and(|(end, _)| end <= now)
                });
                let acts = page.uploads.into_iter().map(|upload| {
                    let (key, upload) = (upload.key, upload.upload);
                    self.give_up(UploadRef { bucket: self.bucket.name.clone(), key, upload }).boxed()
                });
                self.each(acts.collect()).await?;
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Does what is due, some at a time, as long as the lock is held.
    async fn each(&self, acts: Vec<BoxFuture<'_, ()>>) -> Result<(), Halt> {
        let mut going = FuturesUnordered::new();
        for act in acts {
            if going.len() == CONCURRENCY {
                going.next().await;
            }
            if !self.lock.held() {
                break;
            }
            going.push(act);
        }
        while going.next().await.is_some() {}
        if self.lock.held() { Ok(()) } else { Err(Halt::Lost) }
    }

    /// Whether the pass may go on: its lock is held, and the bucket is the same with the same rules.
    async fn check(&self) -> Result<(), Halt> {
        if !self.lock.held() {
            return Err(Halt::Lost);
        }
        let now = self.worker.store.head_bucket(&self.bucket.name).await.map_err(ListError::from)?;
        let rules = |bucket: &BucketInfo| bucket.documents.get(super::DOCUMENT).map(str::to_owned);
        if now.id == self.bucket.id && rules(&now) == rules(self.bucket) {
            Ok(())
        } else {
            Err(Halt::Changed)
        }
    }

    async fn give_up(&self, upload: UploadRef) {
        match self.worker.store.abort_upload(&upload).await {
            Ok(()) => metrics::counter!(ABORTED).increment(1),
            // It was completed or aborted meanwhile.
            Err(UploadError::NoSuchUpload | UploadError::NoSuchBucket) => {}
            Err(error) => {
                metrics::counter!(FAILED).increment(1);
                tracing::debug!(key = %upload.key, %error, "an upload is not given up; the next pass tries again");
            }
        }
    }
}
