//! Multipart uploads: registers of their own, in the object key's partition (PROTOCOL §6).
//!
//! - upload register: open, then completed (kept for a day so that a repeated Complete gets the same answer), or a
//!   tombstone once aborted or over;
//! - part registers: the latest attempt wins. Their versions are no null versions, so that no node frees a part's shards
//!   because a later attempt came: a completed object may reference them. [`super::reclaim`] frees them.
//!
//! [`create`](self) begins, heads and aborts; [`part`] writes parts; [`listing`] lists; [`complete`] makes the object;
//! [`record`] ends and finishes what nobody else does.

mod complete;
mod listing;
mod part;
mod record;

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::driver::Target;
use coffer_common::limits::MAX_METADATA_BYTES;
use coffer_common::meta::{RegisterMeta, UploadMeta, UploadState};
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::protocol::writer::PlainWriter;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, OpId, RegisterKey, UploadId};

pub(super) use complete::complete;
pub(super) use listing::{all_parts, list_parts, list_uploads, shows_open};
pub(super) use part::{copy_part, part_meta, upload_part};
pub(super) use record::{Standing, UNFINISHED_MS, end_old, is_due, renew, standing};

use super::bucket::Bucket;
use super::core::Core;
use super::delete::tombstone_version;
use super::encryption::{Place, seal, seen};
use super::error::{HeadBucketError, PartError, Unavailable, UploadError};
use super::reclaim::Job;
use super::types::{CreateUpload, UploadInfo, UploadRef};
use super::versions::may_protect;
use super::write::{WriteError, written};

impl From<HeadBucketError> for UploadError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl From<Unavailable> for PartError {
    fn from(error: Unavailable) -> Self {
        Self::Write(error.into())
    }
}

/// An upload as a strict read found it.
struct FoundUpload {
    bucket: Arc<Bucket>,
    target: Target,
    /// The op of the register's version: another one means that the upload has changed since.
    op: OpId,
    upload: UploadMeta,
}

/// Begins an upload.
pub(super) async fn create(core: &Arc<Core>, request: CreateUpload) -> Result<UploadId, UploadError> {
    let CreateUpload { bucket, key, attributes, owner, initiator, checksum, encrypt } = request;
    let bucket = core.bucket(&bucket).await?;
    may_protect(&bucket, &attributes)?;
    let initiated = UnixMillis::now();
    let upload = UploadId::begun(initiated);
    let sealed = seal(&core.keys, &encrypt, Place::upload(bucket.id(), &key, upload))?;
    let encryption = sealed.map(|sealed| sealed.encryption);
    let target = core.target(&bucket, RegisterKey::upload(bucket.id(), key, upload));
    let state = UploadState::Open;
    let initiator = (initiator.id != owner.id).then_some(initiator);
    let meta = UploadMeta { initiated, owner, initiator, attributes, checksum, encryption, state };
    let op = core.op();
    let version = upload_version(op, &meta);
    if version.metadata.len() > MAX_METADATA_BYTES / 2 {
        return Err(UploadError::MetadataTooLarge);
    }
    let peers = core.peers(&target);
    let make = move |_: Option<&Current>| version.clone();
    let machine = PlainWriter::new(peers.geometry, peers.epochs, op, 0, make);
    let outcome = core.run(&target, peers, machine).await.outcome;
    written(core, outcome).map_err(upload_error)?;
    Ok(upload)
}

/// An open upload.
pub(super) async fn head(core: &Arc<Core>, upload: &UploadRef) -> Result<UploadInfo, UploadError> {
    let found = find(core, upload).await?;
    match found.upload.state {
        UploadState::Open => Ok(upload_info(upload, found.upload)),
        UploadState::Completed { .. } => Err(UploadError::NoSuchUpload),
    }
}

/// Ends an upload: its register, so that it can never be completed. Its parts then belong to nobody.
pub(super) async fn abort(core: &Arc<Core>, upload: &UploadRef) -> Result<(), UploadError> {
    let found = find(core, upload).await?;
    if !matches!(found.upload.state, UploadState::Open) {
        return Err(UploadError::NoSuchUpload);
    }
    let op = core.op();
    let decide = move |current: Option<&Current>| match upload_of(current) {
        Ok(Some(UploadMeta { state: UploadState::Open, .. })) => Verdict::Commit(tombstone_version(op, None)),
        _ => Verdict::Reject,
    };
    change(core, &found.target, op, decide).await.map_err(upload_error)?;
    core.reclaim.push(Job::ended(&found.bucket, &upload.key, upload.upload));
    Ok(())
}

/// A strict read of an upload's register.
async fn find(core: &Arc<Core>, upload: &UploadRef) -> Result<FoundUpload, UploadError> {
    let find = |bucket| async move { find_in(core, &bucket, &upload.key, upload.upload).await };
    core.read_in(&upload.bucket, find).await?.ok_or(UploadError::NoSuchUpload)
}

/// A strict read of an upload's register in a known bucket; `None` if it never was or is over.
async fn find_in(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<Option<FoundUpload>, Unavailable> {
    let target = core.target(bucket, RegisterKey::upload(bucket.id(), key.clone(), upload));
    let (current, _) = core.read(&target, false).await?;
    let upload = upload_of(current.as_ref())?;
    Ok(current.zip(upload).map(|(current, upload)| FoundUpload {
        bucket: Arc::clone(bucket),
        target,
        op: current.version.op,
        upload,
    }))
}

/// The upload of a decided register; `None` if there is none or it was aborted.
fn upload_of(current: Option<&Current>) -> Result<Option<UploadMeta>, Unavailable> {
    let Some(current) = current else { return Ok(None) };
    if current.version.kind == VersionKind::Tombstone {
        return Ok(None);
    }
    upload_meta(&current.version).map(Some)
}

/// The upload of a version.
pub(super) fn upload_meta(version: &Version) -> Result<UploadMeta, Unavailable> {
    match RegisterMeta::decode(version.metadata.clone()) {
        Ok(RegisterMeta::Upload(upload)) => Ok(*upload),
        Ok(_) => Err(Unavailable::new(format!("op {} holds no upload", version.op))),
        Err(error) => Err(Unavailable::new(format!("op {}: {error}", version.op))),
    }
}

/// Changes an upload's register under its lock.
async fn change(
    core: &Arc<Core>,
    target: &Target,
    op: OpId,
    decide: impl FnMut(Option<&Current>) -> Verdict,
) -> Result<Version, WriteError> {
    let peers = core.peers(target);
    let machine = FencedWriter::new(peers.geometry, peers.epochs, op, None, false, decide);
    let outcome = core.run(target, peers, machine).await.outcome;
    written(core, outcome)
}

fn upload_version(op: OpId, upload: &UploadMeta) -> Version {
    metadata_version(op, RegisterMeta::Upload(Box::new(upload.clone())).encode())
}

/// A version that has metadata and no shards.
pub(super) fn metadata_version(op: OpId, metadata: Bytes) -> Version {
    Version {
        op,
        kind: VersionKind::Data,
        k: 0,
        shard_len_bytes: 0,
        block_len_bytes: 0,
        null_version: true,
        metadata,
    }
}

fn upload_info(upload: &UploadRef, meta: UploadMeta) -> UploadInfo {
    UploadInfo {
        key: upload.key.clone(),
        upload: upload.upload,
        initiated: meta.initiated,
        initiator: meta.initiator.unwrap_or_else(|| meta.owner.clone()),
        owner: meta.owner,
        attributes: meta.attributes,
        checksum: meta.checksum,
        encryption: meta.encryption.as_ref().map(seen),
    }
}

fn upload_error(error: WriteError) -> UploadError {
    match error {
        WriteError::Rejected(_) => UploadError::NoSuchUpload,
        WriteError::MetadataTooLarge => UploadError::MetadataTooLarge,
        WriteError::Unavailable(error) => UploadError::Unavailable(error),
        WriteError::Body(_) | WriteError::Overloaded | WriteError::Quota(_) => UploadError::Conflict,
    }
}
