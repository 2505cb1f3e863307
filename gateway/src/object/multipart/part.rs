//! UploadPart and its copying form: one op under the part's register.
//!
//! The upload is read before the body is written and once more after the commit: a part that is acknowledged was written
//! to an upload that was open then, and a Complete or Abort that came in between is told. What is left over, an earlier
//! attempt or one that came too late, is told to [`crate::object::reclaim`].

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::meta::{Encryption, PartMeta, RegisterMeta, UploadMeta, UploadState};
use coffer_common::protocol::message::Version;
use coffer_common::protocol::tally::Current;
use coffer_common::time::UnixMillis;
use coffer_common::types::RegisterKey;

use super::{FoundUpload, find};
use crate::object::copy::{ObjectSource, open};
use crate::object::core::Core;
use crate::object::encryption::{CustomerKey, DataKey, Place, keystream, open as open_key, seen};
use crate::object::error::{PartError, PutError, Unavailable, UploadError};
use crate::object::put::{MAX_BODY_BYTES, put_error};
use crate::object::reclaim::Job;
use crate::object::types::{
    Body, CopyPart, Digests, ObjectRead, PartInfo, UploadPart, UploadRef, WriteCondition,
};
use crate::object::write::Write;

/// Writes a part.
pub(in crate::object) async fn upload_part(
    core: &Arc<Core>,
    request: UploadPart,
) -> Result<PartInfo, PartError> {
    let UploadPart { upload, number, customer_key, body } = request;
    let found = find_open(core, &upload).await?;
    let data_key = opened(core, &upload, &found, customer_key.as_ref())?;
    write(core, (&upload, &found), number, body, data_key).await
}

/// Writes a part from an object's bytes.
pub(in crate::object) async fn copy_part(core: &Arc<Core>, request: CopyPart) -> Result<PartInfo, PartError> {
    let CopyPart { upload, number, customer_key, source, select, digester } = request;
    let found = find_open(core, &upload).await?;
    let data_key = opened(core, &upload, &found, customer_key.as_ref())?;
    let ObjectRead { info, selected, bytes } = open(core, source, select).await.map_err(PartError::Source)?;
    let digester = digester(&info, found.upload.checksum).map_err(PutError::from)?;
    let body = Body { length: selected.length, source: Box::new(ObjectSource(bytes)), digester };
    write(core, (&upload, &found), number, body, data_key).await
}

/// The key of an upload's parts, if they are encrypted.
fn opened(
    core: &Core,
    upload: &UploadRef,
    found: &FoundUpload,
    brought: Option<&CustomerKey>,
) -> Result<Option<DataKey>, PutError> {
    let place = Place::upload(found.bucket.id(), &upload.key, upload.upload);
    Ok(open_key(&core.keys, found.upload.encryption.as_ref(), brought, place)?)
}

async fn write(
    core: &Arc<Core>,
    (upload, found): (&UploadRef, &FoundUpload),
    number: u16,
    body: Body,
    data_key: Option<DataKey>,
) -> Result<PartInfo, PartError> {
    if body.length > MAX_BODY_BYTES {
        return Err(PutError::TooLarge { size: body.length, limit: MAX_BODY_BYTES }.into());
    }
    let register = RegisterKey::part(found.bucket.id(), upload.key.clone(), upload.upload, number);
    let target = core.target(&found.bucket, register);
    let peers = core.peers(&target);
    let class = found.upload.attributes.storage_class;
    let coding = core.choose_coding(&peers, class, body.length);
    let size = body.length;
    let metadata = move |digests: &Digests, previous: Option<&Current>| {
        let before = previous.and_then(|current| part_meta(&current.version).ok());
        let checksums = digests.checksums.clone();
        let replaces = before.is_some();
        let last_modified = UnixMillis::now().max(before.map(|part| part.last_modified).unwrap_or_default());
        let part = PartMeta { size, md5: digests.md5, checksums, coding, last_modified, replaces };
        RegisterMeta::Part(part).encode()
    };
    let op = core.op();
    let keystream = keystream(data_key.as_ref(), op).map_err(PutError::from)?;
    let write = Write {
        bucket: Arc::clone(&found.bucket),
        target,
        peers,
        op,
        coding,
        keystream,
        null_version: false,
        metadata: Arc::new(metadata) as Arc<dyn Fn(&Digests, Option<&Current>) -> Bytes + Send + Sync>,
        condition: None,
    };
    let (version, _) =
        write.run(core, body).await.map_err(|error| put_error(error, &WriteCondition::Always))?;
    let after = find_open(core, upload).await;
    let part = part_meta(&version)?;
    match &after {
        Ok(_) if part.replaces => {
            core.reclaim.push(Job::replaced(&found.bucket, &upload.key, upload.upload, number));
        }
        Ok(_) => {}
        Err(_) => core.reclaim.push(Job::ended(&found.bucket, &upload.key, upload.upload)),
    }
    after?;
    Ok(part_info(number, part, found.upload.encryption.as_ref()))
}

/// The upload, if it takes parts.
async fn find_open(core: &Arc<Core>, upload: &UploadRef) -> Result<FoundUpload, PartError> {
    match find(core, upload).await {
        Ok(found @ FoundUpload { upload: UploadMeta { state: UploadState::Open, .. }, .. }) => Ok(found),
        Ok(_) | Err(UploadError::NoSuchUpload) => Err(PartError::NoSuchUpload),
        Err(UploadError::NoSuchBucket) => Err(PartError::Write(PutError::NoSuchBucket)),
        Err(UploadError::MetadataTooLarge) => Err(PartError::Write(PutError::MetadataTooLarge)),
        Err(UploadError::Lock(error)) => Err(PartError::Write(PutError::Lock(error))),
        Err(UploadError::Encryption(error)) => Err(PartError::Write(PutError::Encryption(error))),
        Err(UploadError::Conflict) => Err(PartError::Write(PutError::Conflict)),
        Err(UploadError::Unavailable(error)) => Err(error.into()),
    }
}

/// The part of a version.
pub(in crate::object) fn part_meta(version: &Version) -> Result<PartMeta, Unavailable> {
    match RegisterMeta::decode(version.metadata.clone()) {
        Ok(RegisterMeta::Part(part)) => Ok(part),
        Ok(_) => Err(Unavailable::new(format!("op {} holds no part", version.op))),
        Err(error) => Err(Unavailable::new(format!("op {}: {error}", version.op))),
    }
}

pub(super) fn part_info(number: u16, part: PartMeta, encryption: Option<&Encryption>) -> PartInfo {
    PartInfo {
        number,
        size: part.size,
        etag: hex::encode(part.md5),
        checksums: part.checksums,
        last_modified: part.last_modified,
        encryption: encryption.map(seen),
    }
}
