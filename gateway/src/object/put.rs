//! PUT: one op under the key's register.

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::meta::{ObjectMeta, RegisterMeta};
use coffer_common::protocol::tally::Current;
use coffer_common::time::UnixMillis;
use coffer_common::types::RegisterKey;

use super::bucket::Versioning;
use super::core::Core;
use super::encryption::{Place, keystream, seal};
use super::error::{HeadBucketError, PutError};
use super::info::{Unmet, check_write, live_object, object_info, object_meta};
use super::reclaim::Replaced;
use super::types::{Digests, ObjectInfo, PutObject, WriteCondition};
use super::versions;
use super::write::{Holds, Write, WriteError};

/// Longest body of a single write, in bytes.
pub(super) const MAX_BODY_BYTES: u64 = 5 * 1024 * 1024 * 1024;

impl From<HeadBucketError> for PutError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Writes an object.
pub(super) async fn put(core: &Arc<Core>, request: PutObject) -> Result<ObjectInfo, PutError> {
    let PutObject { bucket, key, attributes, owner, condition, encrypt, body } = request;
    if body.length > MAX_BODY_BYTES {
        return Err(PutError::TooLarge { size: body.length, limit: MAX_BODY_BYTES });
    }
    let bucket = core.bucket(&bucket).await?;
    if bucket.record.versioning != Versioning::Unversioned {
        let bucket_name = bucket.name.clone();
        let request = PutObject { bucket: bucket_name, key, attributes, owner, condition, encrypt, body };
        return versions::put(core, &bucket, request).await;
    }
    let attributes = versions::with_default(&bucket, attributes, versions::latest(&core.cluster))?;
    let target = core.target(&bucket, RegisterKey::object(bucket.id(), key.clone()));
    let peers = core.peers(&target);
    let coding = core.choose_coding(&peers, attributes.storage_class, body.length);
    let op = core.op();
    let sealed = seal(&core.keys, &encrypt, Place::op(bucket.id(), &key, op))?;
    let keystream = keystream(sealed.as_ref().map(|sealed| &sealed.data_key), op)?;
    let encryption = sealed.map(|sealed| sealed.encryption);
    let template =
        ObjectMeta { size: body.length, owner, attributes, coding, encryption, ..ObjectMeta::default() };
    let replaced = Replaced::default();
    let noted = replaced.clone();
    let write = Write {
        bucket: Arc::clone(&bucket),
        target,
        peers,
        op,
        coding,
        keystream,
        null_version: true,
        metadata: Arc::new(move |digests, previous| {
            noted.note(previous);
            metadata(&template, digests, previous)
        }),
        condition: holds(&condition),
    };
    match write.run(core, body).await {
        Ok((version, tag)) => {
            replaced.tell(core, &bucket, &key);
            Ok(ObjectInfo { sequence: Some(tag), ..object_info(object_meta(&version)?) })
        }
        Err(error) => Err(put_error(error, &condition)),
    }
}

/// The object's metadata, once its digests and the version it replaces are known.
fn metadata(template: &ObjectMeta, digests: &Digests, previous: Option<&Current>) -> Bytes {
    let object = ObjectMeta {
        etag: hex::encode(digests.md5),
        checksums: digests.checksums.clone(),
        last_modified: monotone_now(previous),
        ..template.clone()
    };
    RegisterMeta::Object(Box::new(object)).encode()
}

/// Wall time, but not before the version that is replaced.
pub(super) fn monotone_now(previous: Option<&Current>) -> UnixMillis {
    let before = previous.and_then(|current| object_meta(&current.version).ok());
    UnixMillis::now().max(before.map(|object| object.last_modified).unwrap_or_default())
}

/// The condition as the machine asks it; `None` if there is none.
pub(super) fn holds(condition: &WriteCondition) -> Option<Holds> {
    if *condition == WriteCondition::Always {
        return None;
    }
    let condition = condition.clone();
    Some(Arc::new(move |current: Option<&Current>| {
        // What cannot be read fulfils no condition.
        live_object(current).is_ok_and(|live| check_write(&condition, live.as_ref()).is_ok())
    }))
}

/// What a failed write means to the caller.
pub(super) fn put_error(error: WriteError, condition: &WriteCondition) -> PutError {
    match error {
        WriteError::Body(error) => PutError::Body(error),
        WriteError::Overloaded => PutError::Overloaded,
        WriteError::MetadataTooLarge => PutError::MetadataTooLarge,
        WriteError::Quota(error) => PutError::QuotaExceeded(error),
        WriteError::Unavailable(error) => PutError::Unavailable(error),
        WriteError::Rejected(current) => match live_object(current.as_ref()) {
            Err(error) => PutError::Unavailable(error),
            Ok(live) => match check_write(condition, live.as_ref()) {
                Err(Unmet::Missing) => PutError::NoSuchKey,
                Err(Unmet::Differs) => PutError::ConditionFailed,
                Ok(()) => PutError::Conflict,
            },
        },
    }
}
