//! PUT in a bucket that keeps versions: the bytes as part 0 of an upload of their own, then a change of the key.

use std::sync::Arc;

use coffer_common::meta::{ObjectMeta, ObjectPart, PartMeta, PartTable, RegisterMeta};
use coffer_common::protocol::tally::Current;
use coffer_common::time::UnixMillis;
use coffer_common::types::{OpId, RegisterKey};

use super::archive::upload_of;
use super::clock::latest;
use super::head::Head;
use super::key::Key;
use super::lock::{may_protect, with_default};
use super::remove::tidy;
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::delete::tombstone;
use crate::object::encryption::{DataKey, Place, keystream, seal};
use crate::object::error::PutError;
use crate::object::info::{Unmet, check_write, object_info, object_meta};
use crate::object::multipart::part_meta;
use crate::object::put::{monotone_now, put_error};
use crate::object::types::{Body, Digests, ObjectInfo, PutObject, StorageClass, WriteCondition};
use crate::object::write::Write;

/// Writes an object.
pub(in crate::object) async fn put(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: PutObject,
) -> Result<ObjectInfo, PutError> {
    let PutObject { bucket: _, key: name, attributes, owner, condition, encrypt, body } = request;
    may_protect(bucket, &attributes)?;
    if condition != WriteCondition::Always {
        let head = Key::open(core, bucket, &name).await.head().await?;
        check(&condition, &head)?;
    }
    let (op, size) = (core.op(), body.length);
    let sealed = seal(&core.keys, &encrypt, Place::upload(bucket.id(), &name, upload_of(op)))?;
    let data_key = sealed.as_ref().map(|sealed| &sealed.data_key);
    let register = RegisterKey::part(bucket.id(), name.clone(), upload_of(op), 0);
    let part = write_part(core, bucket, register.clone(), (attributes.storage_class, body), data_key).await?;
    let object = ObjectMeta {
        size,
        etag: hex::encode(part.md5),
        checksums: part.checksums.clone(),
        owner,
        attributes,
        parts: Some(PartTable { upload: upload_of(op), parts: vec![part] }),
        encryption: sealed.map(|sealed| sealed.encryption),
        ..ObjectMeta::default()
    };
    let mut key = Key::open(core, bucket, &name).await;
    let result = commit(&mut key, op, &object, &condition).await;
    if result.is_err() && !key.unknown {
        // No version is made of it, and none will be.
        let (core, bucket) = (Arc::clone(core), Arc::clone(&key.bucket));
        core.background.spawn({
            let core = Arc::clone(&core);
            async move {
                let ended = tombstone(&core, &core.target(&bucket, register), &WriteCondition::Always).await;
                if ended.is_err() {
                    tracing::warn!(%op, "the bytes of a write that failed could not be removed");
                }
            }
        });
    }
    result
}

/// Commits the object that a caller has asked for. Its bucket's record may be renewed on the way: only the one that it is
/// committed under tells how long it is retained by default.
async fn commit(
    key: &mut Key,
    op: OpId,
    object: &ObjectMeta,
    condition: &WriteCondition,
) -> Result<ObjectInfo, PutError> {
    loop {
        let head = key.head().await?;
        check(condition, &head)?;
        let last_modified = monotone_now(head.current());
        let attributes = with_default(&key.bucket, object.attributes.clone(), latest(&key.core.cluster))?;
        let object = ObjectMeta { last_modified, attributes, ..object.clone() };
        let plan = head.written(key.bucket.record.versioning, op, object);
        let written = object_meta(&plan.version)?;
        if let Some(tag) = key.commit(&head, plan).await? {
            tidy(key, &written).await;
            return Ok(ObjectInfo { sequence: Some(tag), ..object_info(written) });
        }
    }
}

fn check(condition: &WriteCondition, head: &Head) -> Result<(), PutError> {
    check_write(condition, head.live()).map_err(|unmet| match unmet {
        Unmet::Missing => PutError::NoSuchKey,
        Unmet::Differs => PutError::ConditionFailed,
    })
}

/// Writes the bytes; they belong to nothing yet.
async fn write_part(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    register: RegisterKey,
    (class, body): (StorageClass, Body),
    data_key: Option<&DataKey>,
) -> Result<ObjectPart, PutError> {
    let target = core.target(bucket, register);
    let peers = core.peers(&target);
    let (coding, size) = (core.choose_coding(&peers, class, body.length), body.length);
    let metadata = move |digests: &Digests, _: Option<&Current>| {
        let (checksums, last_modified) = (digests.checksums.clone(), UnixMillis::now());
        let part = PartMeta { size, md5: digests.md5, checksums, coding, last_modified, replaces: false };
        RegisterMeta::Part(part).encode()
    };
    let op = core.op();
    let keystream = keystream(data_key, op)?;
    let write = Write {
        bucket: Arc::clone(bucket),
        target,
        peers,
        op,
        coding,
        keystream,
        null_version: true,
        metadata: Arc::new(metadata),
        condition: None,
    };
    let (version, _) =
        write.run(core, body).await.map_err(|error| put_error(error, &WriteCondition::Always))?;
    let part = part_meta(&version)?;
    Ok(ObjectPart {
        number: 0,
        size,
        md5: part.md5,
        checksums: part.checksums,
        op: version.op,
        coding: part.coding,
    })
}
