//! The handle that the edge holds, and the background work behind it.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Cluster, bucket_entries};
use coffer_common::layout::ParitySettings;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey, UploadId};

use super::bucket::PREFIX;
use super::census::Holding;
use super::core::Core;
use super::encryption::Keyring;
use super::error::*;
use super::look::KeyLook;
use super::reclaim::Reclaimed;
use super::types::*;
use super::{
    bucket_delete, census, copy, delete, documents, get, list, look, multipart, put, quota, reclaim, versions,
};

/// How long a start waits for the bucket records.
const RECORDS_WAIT: Duration = Duration::from_secs(5);

/// Settings of the object layer.
#[derive(Clone, Debug, Default)]
pub struct StoreSettings {
    /// The parity of each storage class.
    pub parity: ParitySettings,
    /// The keys that objects are encrypted with.
    pub keys: Keyring,
}

/// The object layer of one gateway; cheap to clone.
#[derive(Clone)]
pub struct ObjectStore {
    core: Arc<Core>,
}

impl ObjectStore {
    /// Starts the object layer on a live cluster, with the bucket records as far as they can be had. Its background work
    /// ends with `shutdown`, which waits for it.
    pub async fn start(cluster: Cluster, settings: StoreSettings, shutdown: Shutdown) -> Self {
        let core = Arc::new(Core::new(cluster, settings, shutdown.clone()));
        let (known, first) = tokio::sync::oneshot::channel();
        shutdown.spawn(follow_buckets(Arc::clone(&core), shutdown.clone(), known));
        shutdown.spawn(quota::follow(Arc::clone(&core)));
        shutdown.spawn(reclaim::work(Arc::clone(&core)));
        shutdown.spawn(reclaim::follow(Arc::clone(&core), reclaim::PAUSE));
        if tokio::time::timeout(RECORDS_WAIT, first).await.is_err() {
            tracing::warn!("the bucket records are not known yet");
        }
        Self { core }
    }

    /// The keys that objects are encrypted with.
    pub fn encryption_keys(&self) -> &Keyring {
        &self.core.keys
    }

    /// Whether the bucket records are known: without them no request can be served.
    pub fn is_ready(&self) -> bool {
        self.core.buckets.are_known()
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// See the enum.
    pub async fn create_bucket(&self, request: CreateBucket) -> Result<BucketInfo, CreateBucketError> {
        let coordinator = self.core.cluster.coordinator();
        self.core.buckets.create(coordinator.as_ref(), request).await
    }

    /// Changes how a bucket is configured; `change` is called again if somebody else changes it meanwhile. What it changes
    /// is in force at every gateway as soon as its watch tells it, well within a second.
    ///
    /// # Errors
    /// See the enum; after [`Unavailable`] the outcome is unknown.
    pub async fn configure_bucket(
        &self,
        bucket: &BucketInfo,
        change: &(dyn Fn(&mut Documents) + Sync),
    ) -> Result<BucketInfo, HeadBucketError> {
        documents::configure(&self.core, (&bucket.name, bucket.id), change).await
    }

    /// Limits what a bucket may hold, or takes the limit away. In force at every gateway as soon as its watch tells it,
    /// well within a second.
    ///
    /// # Errors
    /// See the enum; after [`Unavailable`] the outcome is unknown.
    pub async fn set_quota(&self, bucket: &BucketName, bytes: Option<u64>) -> Result<(), HeadBucketError> {
        quota::set(&self.core, bucket, bytes).await
    }

    /// A bucket's quota, if it has one, and what is in use of it.
    ///
    /// # Errors
    /// See the enum.
    pub async fn quota(&self, bucket: &BucketName) -> Result<Option<BucketQuota>, HeadBucketError> {
        quota::show(&self.core, bucket).await
    }

    /// Has a bucket keep versions, or keep no more. In force on every gateway when it returns.
    ///
    /// # Errors
    /// See the enum.
    pub async fn set_versioning(&self, bucket: &BucketName, enabled: bool) -> Result<(), ConfigureError> {
        versions::set_versioning(&self.core, bucket, enabled).await
    }

    /// Has a bucket protect versions. In force on every gateway when it returns.
    ///
    /// # Errors
    /// See the enum.
    pub async fn set_object_lock(&self, bucket: &BucketName, lock: ObjectLock) -> Result<(), ConfigureError> {
        versions::set_object_lock(&self.core, bucket, lock).await
    }

    /// Sets or removes the retention of a version.
    ///
    /// # Errors
    /// See the enum.
    pub async fn set_retention(
        &self,
        named: &NamedVersion,
        retention: Option<Retention>,
        bypass_governance: bool,
    ) -> Result<(), LockError> {
        versions::set_retention(&self.core, named, retention, bypass_governance).await
    }

    /// One page of a bucket's versions.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_versions(&self, request: ListVersions) -> Result<VersionPage, ListError> {
        versions::list_versions(&self.core, request).await
    }

    /// A bucket's record.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_bucket(&self, name: &BucketName) -> Result<BucketInfo, HeadBucketError> {
        Ok(self.core.bucket(name).await?.info())
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// See the enum.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), DeleteBucketError> {
        bucket_delete::delete_bucket(&self.core, name).await
    }

    /// All buckets by name.
    ///
    /// # Errors
    /// [`Unavailable`] if the buckets are not known.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, Unavailable> {
        let coordinator = self.core.cluster.coordinator();
        self.core.buckets.list(coordinator.as_ref()).await
    }

    /// The buckets in use whose records have a text of this name, as this gateway has been told of them: nobody is asked.
    pub fn buckets_with(&self, document: &str) -> Vec<BucketInfo> {
        self.core.buckets.with(document)
    }

    /// Writes an object; the returned information is that of the version written.
    ///
    /// # Errors
    /// See the enum. On an error nothing is visible, except that after [`PutError::Unavailable`] the outcome is unknown.
    pub async fn put_object(&self, request: PutObject) -> Result<ObjectInfo, PutError> {
        put::put(&self.core, request).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See the enum.
    pub async fn get_object(&self, request: GetObject) -> Result<ObjectRead, GetError> {
        get::get(&self.core, &request).await
    }

    /// Reads an object's information, and which bytes `select` would choose.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_object(&self, request: GetObject) -> Result<(ObjectInfo, Selected), GetError> {
        let found = get::find(&self.core, &request, false).await?;
        Ok((found.info, found.selected))
    }

    /// Deletes an object; one that is not there is deleted, too.
    ///
    /// # Errors
    /// See the enum.
    pub async fn delete_object(&self, request: DeleteObject) -> Result<Deleted, DeleteError> {
        delete::delete(&self.core, request).await
    }

    /// Deletes many objects of one bucket; results are in the order of the keys.
    pub async fn delete_objects(
        &self,
        bucket: BucketName,
        keys: Vec<(ObjectKey, Option<VersionId>)>,
        bypass_governance: bool,
    ) -> Vec<Result<Deleted, DeleteError>> {
        versions::delete_many(&self.core, &bucket, keys, bypass_governance).await
    }

    /// Changes what an object carries beside its bytes; its times stay.
    ///
    /// # Errors
    /// See the enum; after [`GetError::Unavailable`] the outcome is unknown.
    pub async fn amend_object(&self, request: AmendObject) -> Result<ObjectInfo, AmendError> {
        versions::amend(&self.core, request).await
    }

    /// Copies an object on the server's side.
    ///
    /// # Errors
    /// See the enum.
    pub async fn copy_object(&self, request: CopyObject) -> Result<ObjectInfo, CopyError> {
        copy::copy(&self.core, request).await
    }

    /// One page of a bucket's objects.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_objects(&self, request: ListObjects) -> Result<ObjectPage, ListError> {
        list::list_objects(&self.core, request).await
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// See the enum.
    pub async fn create_upload(&self, request: CreateUpload) -> Result<UploadId, UploadError> {
        multipart::create(&self.core, request).await
    }

    /// An open upload (its attributes and checksum), e.g. before a part is hashed.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_upload(&self, upload: &UploadRef) -> Result<UploadInfo, UploadError> {
        multipart::head(&self.core, upload).await
    }

    /// Writes a part; the latest attempt wins.
    ///
    /// # Errors
    /// See the enum.
    pub async fn upload_part(&self, request: UploadPart) -> Result<PartInfo, PartError> {
        multipart::upload_part(&self.core, request).await
    }

    /// Writes a part from an object's bytes.
    ///
    /// # Errors
    /// See the enum.
    pub async fn copy_part(&self, request: CopyPart) -> Result<PartInfo, PartError> {
        multipart::copy_part(&self.core, request).await
    }

    /// One page of an upload's parts.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_parts(&self, request: ListParts) -> Result<PartPage, UploadError> {
        multipart::list_parts(&self.core, request).await
    }

    /// One page of a bucket's open uploads.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_uploads(&self, request: ListUploads) -> Result<UploadPage, ListError> {
        multipart::list_uploads(&self.core, request).await
    }

    /// Makes the object from its parts; the same request gives the same answer for 24 hours.
    ///
    /// # Errors
    /// See the enum.
    pub async fn complete_upload(&self, request: CompleteUpload) -> Result<ObjectInfo, CompleteError> {
        multipart::complete(&self.core, request).await
    }

    /// Ends an upload and frees its parts.
    ///
    /// # Errors
    /// See the enum.
    pub async fn abort_upload(&self, upload: &UploadRef) -> Result<(), UploadError> {
        multipart::abort(&self.core, upload).await
    }

    /// Reads and verifies every slot's shard of every live object and of every part of an open upload; `tell` gets what is
    /// found of each. What changes meanwhile may be seen before or after.
    ///
    /// # Errors
    /// [`Unavailable`] if it could not look at everything; what it has told stands.
    pub async fn census(&self, tell: &mut (dyn FnMut(Holding) + Send)) -> Result<(), Unavailable> {
        census::walk(&self.core, tell).await
    }

    /// What each slot says of a key, and which hold shards of it that verify. Settles nothing.
    ///
    /// # Errors
    /// [`HeadBucketError`]; slots that do not answer are told in the result.
    pub async fn look(&self, bucket: &BucketName, key: ObjectKey) -> Result<KeyLook, HeadBucketError> {
        look::at(&self.core, bucket, key).await
    }

    /// Frees the parts that no object is made of any more, finishes what a Complete has left, and ends the records of
    /// uploads completed a day before `now`. The store does it by itself every few minutes.
    ///
    /// # Errors
    /// [`Unavailable`] if it could not look at everything; what it has done stands.
    pub async fn reclaim(&self, now: UnixMillis) -> Result<Reclaimed, Unavailable> {
        reclaim::sweep(&self.core, now).await
    }

    /// [`Self::reclaim`] again and again while no other gateway does, with at least this pause, until the stop is told.
    /// Runs by itself every few minutes.
    pub async fn reclaim_every(&self, pause: Duration) {
        reclaim::follow(Arc::clone(&self.core), pause).await;
    }
}

/// Keeps the bucket records: the coordinator's watch, and until it first speaks the nodes' copies.
async fn follow_buckets(core: Arc<Core>, shutdown: Shutdown, known: tokio::sync::oneshot::Sender<()>) {
    let coordinator = core.cluster.coordinator();
    let mut events = coordinator.watch(PREFIX);
    let mut known = Some(known);
    loop {
        if core.buckets.are_known()
            && let Some(known) = known.take()
        {
            // Nobody waits any more: the start went on without the records.
            let _ = known.send(());
        }
        tokio::select! {
            biased;
            () = shutdown.told() => return,
            event = events.recv() => match event {
                Some(event) => core.buckets.apply(event),
                None => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    events = coordinator.watch(PREFIX);
                }
            },
            () = core.buckets.stale.notified() => match coordinator.list(PREFIX).await {
                Ok(listing) => core.buckets.relist(&listing),
                Err(error) => tracing::debug!(%error, "bucket records not read again"),
            },
            () = tokio::time::sleep(Duration::from_secs(1)), if !core.buckets.are_known() => {
                match bucket_entries(&core.cluster).await {
                    Ok(entries) => core.buckets.restore(&entries),
                    Err(error) => tracing::debug!(%error, "no bucket records from the nodes"),
                }
            }
        }
    }
}
