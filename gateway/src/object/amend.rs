//! Changes of what an object carries beside its bytes: tags, and who else may read it.
//!
//! The version that is there is committed once more under the key's lock: the same op, the same shards, the same times, other
//! metadata. So an amendment orders itself with every write of the key, and never brings back a version that was replaced.
//!
//! 1. A strict read tells the op that is current.
//! 2. Under the lock it is committed again on top of itself; if another op has come meanwhile, that one is read and amended.
//!
//! Crash, cancellation: the amendment took place or not; a reader settles it.

use std::sync::Arc;

use coffer_common::limits::MAX_METADATA_BYTES;
use coffer_common::meta::{ObjectMeta, RegisterMeta};
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{OpId, RegisterKey};

use super::bucket::Bucket;
use super::core::Core;
use super::error::{AmendError, HeadBucketError};
use super::info::{live_object, object_info, object_meta};
use super::types::{AmendObject, ChangeAttributes, ObjectInfo, VersionId};
use super::write::{WriteError, written};

/// How often an amendment follows a key that others write.
const TRIES: usize = 8;

impl From<HeadBucketError> for AmendError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Amends an object.
pub(super) async fn amend(core: &Arc<Core>, request: AmendObject) -> Result<ObjectInfo, AmendError> {
    let mut bucket = core.bucket(&request.bucket).await?;
    for _ in 0..TRIES {
        match amend_in(core, &bucket, &request).await {
            Ok(Some(info)) => return Ok(info),
            Ok(None) => {}
            Err(AmendError::Unavailable(error)) => bucket = core.renewed(&bucket, error).await?,
            Err(error) => return Err(error),
        }
    }
    Err(AmendError::Conflict)
}

/// `None` if another op has become current meanwhile.
async fn amend_in(
    core: &Arc<Core>,
    bucket: &Bucket,
    request: &AmendObject,
) -> Result<Option<ObjectInfo>, AmendError> {
    let target = core.target(bucket, RegisterKey::object(bucket.id(), request.key.clone()));
    let (current, _) = core.read(&target, false).await.map_err(AmendError::Unavailable)?;
    let live = live_object(current.as_ref()).map_err(AmendError::Unavailable)?;
    let (Some(current), Some(object)) = (current, live) else {
        return Err(if request.version.is_some() {
            AmendError::NoSuchVersion
        } else {
            AmendError::NoSuchKey
        });
    };
    let version = object.version.map_or(VersionId::Null, VersionId::Op);
    if request.version.is_some_and(|wanted| wanted != version) {
        return Err(AmendError::NoSuchVersion);
    }
    if metadata(object, &request.change).len() > MAX_METADATA_BYTES / 2 {
        return Err(AmendError::MetadataTooLarge);
    }
    let (peers, op, change) = (core.peers(&target), current.version.op, Arc::clone(&request.change));
    let decide =
        move |current: Option<&Current>| match current.and_then(|current| again(current, op, &change)) {
            Some(version) => Verdict::Commit(version),
            None => Verdict::Reject,
        };
    let machine = FencedWriter::new(peers.geometry, peers.epochs, op, None, false, decide);
    let outcome = core.run(&target, peers, machine).await.outcome;
    match written(core, outcome) {
        Ok(version) => Ok(Some(object_info(object_meta(&version).map_err(AmendError::Unavailable)?))),
        Err(WriteError::Unavailable(error)) => Err(AmendError::Unavailable(error)),
        Err(WriteError::Rejected(_)) => Ok(None),
        // Nothing was to be sent.
        Err(WriteError::Body(_) | WriteError::Overloaded | WriteError::MetadataTooLarge) => {
            Err(AmendError::Conflict)
        }
    }
}

/// The version of `op` with other metadata, if it is what is current.
fn again(current: &Current, op: OpId, change: &ChangeAttributes) -> Option<Version> {
    let version = &current.version;
    if version.op != op || version.kind != VersionKind::Data {
        return None;
    }
    let object = live_object(Some(current)).ok().flatten()?;
    Some(Version { metadata: metadata(object, change), ..version.clone() })
}

fn metadata(mut object: ObjectMeta, change: &ChangeAttributes) -> bytes::Bytes {
    change(&mut object.attributes);
    RegisterMeta::Object(Box::new(object)).encode()
}
