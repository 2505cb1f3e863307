//! DELETE: the commit of a tombstone.

use std::sync::Arc;

use coffer_common::driver::Target;
use coffer_common::meta::{ObjectMeta, RegisterMeta};
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::protocol::writer::PlainWriter;
use coffer_common::types::{OpId, RegisterKey, Tag};

use super::bucket::Versioning;
use super::core::Core;
use super::error::{DeleteError, HeadBucketError, PutError};
use super::put::{holds, monotone_now, put_error};
use super::reclaim::Replaced;
use super::types::{DeleteObject, Deleted, VersionId, WriteCondition};
use super::versions;
use super::write::{WriteError, written_at};

impl From<HeadBucketError> for DeleteError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Deletes an object.
pub(super) async fn delete(core: &Arc<Core>, request: DeleteObject) -> Result<Deleted, DeleteError> {
    let bucket = core.bucket(&request.bucket).await?;
    if bucket.record.versioning != Versioning::Unversioned {
        return versions::delete(core, &bucket, request).await;
    }
    let DeleteObject { key, version, condition, .. } = request;
    match version {
        None | Some(VersionId::Null) => {}
        // There is no such version in a bucket without versioning, and deleting nothing succeeds.
        Some(VersionId::Op(_)) => return Ok(Deleted::default()),
    }
    let target = core.target(&bucket, RegisterKey::object(bucket.id(), key.clone()));
    let replaced = Replaced::default();
    match tombstone_over(core, &target, &condition, replaced.clone()).await {
        Ok((_, tag)) => {
            replaced.tell(core, &bucket, &key);
            Ok(Deleted { sequence: Some(tag), ..Deleted::default() })
        }
        Err(error) => Err(match put_error(error, &condition) {
            PutError::NoSuchKey => DeleteError::NoSuchKey,
            PutError::ConditionFailed => DeleteError::ConditionFailed,
            PutError::Conflict => DeleteError::Conflict,
            PutError::NoSuchBucket => DeleteError::NoSuchBucket,
            PutError::Unavailable(error) => DeleteError::Unavailable(error),
            PutError::Lock(error) => DeleteError::Lock(error),
            PutError::Body(_)
            | PutError::TooLarge { .. }
            | PutError::MetadataTooLarge
            | PutError::Encryption(_)
            | PutError::QuotaExceeded(_)
            | PutError::Overloaded => DeleteError::Conflict,
        }),
    }
}

/// Commits a tombstone to a register.
pub(super) async fn tombstone(
    core: &Arc<Core>,
    target: &Target,
    condition: &WriteCondition,
) -> Result<Version, WriteError> {
    tombstone_over(core, target, condition, Replaced::default()).await.map(|(version, _)| version)
}

/// [`tombstone`], and notes what it hides.
async fn tombstone_over(
    core: &Arc<Core>,
    target: &Target,
    condition: &WriteCondition,
    replaced: Replaced,
) -> Result<(Version, Tag), WriteError> {
    let (op, peers) = (core.op(), core.peers(target));
    let (geometry, epochs) = (peers.geometry, peers.epochs);
    let make = move |seen: Option<&Current>| {
        replaced.note(seen);
        tombstone_version(op, seen)
    };
    let outcome = match holds(condition) {
        None => core.run(target, peers, PlainWriter::new(geometry, epochs, op, 0, make)).await.outcome,
        Some(holds) => {
            let decide = move |current: Option<&Current>| {
                if holds(current) { Verdict::Commit(make(current)) } else { Verdict::Reject }
            };
            let machine = FencedWriter::new(geometry, epochs, op, None, true, decide);
            core.run(target, peers, machine).await.outcome
        }
    };
    written_at(core, outcome)
}

/// A version that hides the key.
pub(super) fn tombstone_version(op: OpId, seen: Option<&Current>) -> Version {
    let object =
        ObjectMeta { last_modified: monotone_now(seen), delete_marker: true, ..ObjectMeta::default() };
    Version {
        op,
        kind: VersionKind::Tombstone,
        k: 0,
        shard_len_bytes: 0,
        block_len_bytes: 0,
        null_version: true,
        metadata: RegisterMeta::Object(Box::new(object)).encode(),
    }
}
