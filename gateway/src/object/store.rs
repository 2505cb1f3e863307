//! The handle that the edge holds.

use std::sync::Arc;

use coffer_common::types::{BucketName, ObjectKey, UploadId};

use super::error::*;
use super::types::*;

/// The object layer of one gateway; cheap to clone.
#[derive(Clone)]
pub struct ObjectStore {
    inner: Arc<Inner>,
}

struct Inner {}

fn not_yet() -> Unavailable {
    Unavailable::new("this gateway is starting")
}

#[expect(clippy::unused_async, unused_variables, reason = "signatures come first")]
impl ObjectStore {
    /// Creates a bucket.
    ///
    /// # Errors
    /// See the enum.
    pub async fn create_bucket(
        &self,
        name: BucketName,
        owner: Owner,
        region: String,
    ) -> Result<BucketInfo, CreateBucketError> {
        let _ = &self.inner;
        Err(not_yet().into())
    }

    /// A bucket's record.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_bucket(&self, name: &BucketName) -> Result<BucketInfo, HeadBucketError> {
        Err(not_yet().into())
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// See the enum.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), DeleteBucketError> {
        Err(not_yet().into())
    }

    /// All buckets by name.
    ///
    /// # Errors
    /// [`Unavailable`] if the buckets are not known.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, Unavailable> {
        Err(not_yet())
    }

    /// Writes an object; the returned information is that of the version written.
    ///
    /// # Errors
    /// See the enum. On an error nothing is visible, except that after [`PutError::Unavailable`] the outcome is unknown.
    pub async fn put_object(&self, request: PutObject) -> Result<ObjectInfo, PutError> {
        Err(not_yet().into())
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See the enum.
    pub async fn get_object(&self, request: GetObject) -> Result<ObjectRead, GetError> {
        Err(not_yet().into())
    }

    /// Reads an object's information, and which bytes `select` would choose.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_object(&self, request: GetObject) -> Result<(ObjectInfo, Selected), GetError> {
        Err(not_yet().into())
    }

    /// Deletes an object; one that is not there is deleted, too.
    ///
    /// # Errors
    /// See the enum.
    pub async fn delete_object(&self, request: DeleteObject) -> Result<Deleted, DeleteError> {
        Err(not_yet().into())
    }

    /// Deletes many objects of one bucket; results are in the order of the keys.
    pub async fn delete_objects(
        &self,
        bucket: BucketName,
        keys: Vec<(ObjectKey, Option<VersionId>)>,
    ) -> Vec<Result<Deleted, DeleteError>> {
        keys.iter().map(|_| Err(not_yet().into())).collect()
    }

    /// Copies an object on the server's side.
    ///
    /// # Errors
    /// See the enum.
    pub async fn copy_object(&self, request: CopyObject) -> Result<ObjectInfo, CopyError> {
        Err(CopyError::Target(not_yet().into()))
    }

    /// One page of a bucket's objects.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_objects(&self, request: ListObjects) -> Result<ObjectPage, ListError> {
        Err(not_yet().into())
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// See the enum.
    pub async fn create_upload(&self, request: CreateUpload) -> Result<UploadId, UploadError> {
        Err(not_yet().into())
    }

    /// An open upload (its attributes and checksum), e.g. before a part is hashed.
    ///
    /// # Errors
    /// See the enum.
    pub async fn head_upload(&self, upload: &UploadRef) -> Result<UploadInfo, UploadError> {
        Err(not_yet().into())
    }

    /// Writes a part; the latest attempt wins.
    ///
    /// # Errors
    /// See the enum.
    pub async fn upload_part(&self, request: UploadPart) -> Result<PartInfo, PartError> {
        Err(PartError::Write(not_yet().into()))
    }

    /// Writes a part from an object's bytes.
    ///
    /// # Errors
    /// See the enum.
    pub async fn copy_part(&self, request: CopyPart) -> Result<PartInfo, PartError> {
        Err(PartError::Write(not_yet().into()))
    }

    /// One page of an upload's parts.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_parts(&self, request: ListParts) -> Result<PartPage, UploadError> {
        Err(not_yet().into())
    }

    /// One page of a bucket's open uploads.
    ///
    /// # Errors
    /// See the enum.
    pub async fn list_uploads(&self, request: ListUploads) -> Result<UploadPage, ListError> {
        Err(not_yet().into())
    }

    /// Makes the object from its parts; the same request gives the same answer for 24 hours.
    ///
    /// # Errors
    /// See the enum.
    pub async fn complete_upload(&self, request: CompleteUpload) -> Result<ObjectInfo, CompleteError> {
        Err(not_yet().into())
    }

    /// Ends an upload and frees its parts.
    ///
    /// # Errors
    /// See the enum.
    pub async fn abort_upload(&self, upload: &UploadRef) -> Result<(), UploadError> {
        Err(not_yet().into())
    }
}
