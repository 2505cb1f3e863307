//! Complete: chooses the parts, records the choice in the upload's register, then commits the object's op.
//!
//! 1. A strict read of the upload. Completed already: the same request gets the same answer for a day.
//! 2. The parts are read and compared with the request; a false condition is told before anything changes.
//! 3. Under the upload's lock: open → completed, with the object's op and metadata and the tag `before` of the version
//!    that the key has now. From here on parts are refused. The upload must not have changed since 1: an earlier attempt
//!    at a part may have been given up in between (`record`).
//! 4. Under the key's lock: the op is committed if the key still has that version. If a plain write came first, a fresh
//!    op is recorded on top of it (back to 3). A condition that turned false opens the upload again.
//! 5. The record is marked as applied, then the client is answered.
//!
//! **Crash.** After 3, whoever repeats the Complete, and a sweep after a while, drives the recorded op from 4 on; it first
//! notes that it has taken the op over, so that nobody goes back to 3 any more. The op goes only on top of `before`: had it
//! been committed and overwritten in the meantime, it would not come back over the later write; the caller is then told
//! of a conflict, because whether it took place cannot be known any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_common::driver::Target;
use coffer_common::limits::MAX_METADATA_BYTES;
use coffer_common::meta::{Checksum, ObjectMeta, ObjectPart, PartTable, UploadMeta, UploadState};
use coffer_common::protocol::fenced::{FencedWriter, Verdict, WriteOutcome};
use coffer_common::protocol::message::Version;
use coffer_common::protocol::tally::Current;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, OpId, RegisterKey, Tag};
use sha2::{Digest as _, Sha256};

use super::listing::all_parts;
use super::part::part_meta;
use super::{FoundUpload, change, find, upload_of, upload_version};
use crate::object::bucket::{Bucket, Versioning};
use crate::object::core::{Core, unavailable};
use crate::object::encryption::{EncryptionError, Place, Unlock, prove};
use crate::object::error::{CompleteError, Unavailable, UploadError};
use crate::object::info::{Unmet, check_write, live_object, object_info, object_meta};
use crate::object::put::monotone_now;
use crate::object::reclaim::{Job, upload_behind};
use crate::object::types::{
    ChosenPart, CompleteUpload, ExpectedChecksum, ObjectInfo, PartDigests, WriteCondition,
};
use crate::object::versions::{Head, Key, latest, with_default, without_shards};
use crate::object::write::WriteError;

/// Smallest part that is not the last, in bytes.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
/// Longest object, in bytes.
const MAX_OBJECT_BYTES: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// A repeated Complete gets the same answer for so long.
pub(super) const SAME_ANSWER_MS: u64 = 24 * 3600 * 1000;
/// How often plain writes of the key may come first.
const TRIES: u32 = 5;

impl From<UploadError> for CompleteError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::NoSuchBucket => Self::NoSuchBucket,
            UploadError::NoSuchUpload => Self::NoSuchUpload,
            UploadError::Conflict | UploadError::MetadataTooLarge | UploadError::Lock(_) => Self::Conflict,
            UploadError::Encryption(error) => Self::Encryption(error),
            UploadError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// What was, or is to be, recorded.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) op: OpId,
    pub(super) object: ObjectMeta,
    pub(super) before: Tag,
}

/// What came of the object's op.
pub(super) enum Applied {
    /// It is committed, with this tag.
    Yes(Tag),
    /// Another version is there; nothing was committed now.
    Moved,
    /// The condition is false on that version.
    Unmet(Unmet),
}

/// Completes an upload.
pub(in crate::object) async fn complete(
    core: &Arc<Core>,
    request: CompleteUpload,
) -> Result<ObjectInfo, CompleteError> {
    let digest = request_digest(&request.parts);
    for _ in 0..TRIES {
        let found = find(core, &request.upload).await?;
        prove_key(&request, &found, false)?;
        if let UploadState::Completed { op, object, decided, request_digest, before, applied, .. } =
            &found.upload.state
        {
            let known = UnixMillis::now().0.saturating_sub(decided.0) < SAME_ANSWER_MS;
            if *request_digest != digest || !known {
                return Err(CompleteError::NoSuchUpload);
            }
            let choice = Choice { op: *op, object: (**object).clone(), before: *before };
            return if *applied {
                Ok(object_info(choice.object))
            } else {
                drive_again(core, &request, &found, choice).await
            };
        }
        let object = assemble(core, &request, &found).await?;
        if let Some(info) = first_time(core, &request, &found, object, digest).await? {
            return Ok(info);
        }
    }
    Err(CompleteError::Conflict)
}

/// Checks the customer's key. Nothing is opened with it here: it must be right where it is sent, and is demanded where parts
/// have checksums, as S3 does.
fn prove_key(request: &CompleteUpload, found: &FoundUpload, demanded: bool) -> Result<(), EncryptionError> {
    let brought = request.customer_key.clone();
    let unlock = if brought.is_some() || demanded { Unlock::With(brought) } else { Unlock::Nothing };
    let place = Place::upload(found.bucket.id(), &request.upload.key, request.upload.upload);
    prove(found.upload.encryption.as_ref(), &unlock, place)
}

/// Records and applies the choice, on top of whatever version the key has. `None` if the upload is open and has changed
/// since it was found: the parts must be looked at again.
async fn first_time(
    core: &Arc<Core>,
    request: &CompleteUpload,
    found: &FoundUpload,
    object: ObjectMeta,
    digest: u128,
) -> Result<Option<ObjectInfo>, CompleteError> {
    let target = object_target(core, &found.bucket, &request.upload.key);
    let key = Key::open(core, &found.bucket, &request.upload.key).await;
    let mut replaces: Option<OpId> = None;
    for _ in 0..TRIES {
        let head = key.read().await?;
        if let Err(unmet) = check_write(&request.condition, head.live()) {
            reopen(core, found, replaces).await?;
            return Err(unmet_error(unmet));
        }
        let choice = choose_next(&key, &head, &object).await?;
        if !record(core, found, &choice, digest, replaces).await? {
            return Ok(None);
        }
        match apply(core, &target, &choice, &request.condition).await? {
            Applied::Yes(tag) => {
                mark_applied(core, found, choice.op).await;
                tell_leftovers(core, request, found, head.current());
                return Ok(Some(ObjectInfo { sequence: Some(tag), ..object_info(choice.object) }));
            }
            Applied::Moved => replaces = Some(choice.op),
            Applied::Unmet(unmet) => {
                reopen(core, found, Some(choice.op)).await?;
                return Err(unmet_error(unmet));
            }
        }
    }
    // The recorded op can never be committed: the client may try again, or abort.
    reopen(core, found, replaces).await?;
    Err(CompleteError::Conflict)
}

/// The object's op on top of what was read. In a bucket that keeps versions that is archived before the op is recorded, so
/// that whoever drives the op need not.
async fn choose_next(key: &Key, head: &Head, object: &ObjectMeta) -> Result<Choice, Unavailable> {
    let (op, before) = (key.core.op(), head.tag());
    let object = ObjectMeta { last_modified: monotone_now(head.current()), ..object.clone() };
    let versioning = key.bucket.record.versioning;
    if versioning == Versioning::Unversioned {
        return Ok(Choice { op, object, before });
    }
    let plan = head.written(versioning, op, object);
    key.archive(head, &plan).await?;
    Ok(Choice { op, object: object_meta(&plan.version)?, before })
}

/// Has freed what the new object leaves over: parts that it is not made of, and those of the object that it replaces.
fn tell_leftovers(core: &Core, request: &CompleteUpload, found: &FoundUpload, previous: Option<&Current>) {
    let (bucket, key) = (&found.bucket, &request.upload.key);
    core.reclaim.push(Job::ended(bucket, key, request.upload.upload));
    if let Some(upload) = previous.and_then(upload_behind) {
        core.reclaim.push(Job::ended(bucket, key, upload));
    }
}

/// Applies what an earlier Complete has recorded.
async fn drive_again(
    core: &Arc<Core>,
    request: &CompleteUpload,
    found: &FoundUpload,
    choice: Choice,
) -> Result<ObjectInfo, CompleteError> {
    match finish(core, found, &request.upload.key, &choice, &request.condition).await? {
        Applied::Yes(tag) => Ok(ObjectInfo { sequence: Some(tag), ..object_info(choice.object) }),
        Applied::Moved | Applied::Unmet(_) => Err(CompleteError::Conflict),
    }
}

/// Takes over what another request has recorded, and applies it.
pub(super) async fn finish(
    core: &Arc<Core>,
    found: &FoundUpload,
    key: &ObjectKey,
    choice: &Choice,
    condition: &WriteCondition,
) -> Result<Applied, CompleteError> {
    take_over(core, found, choice.op).await?;
    let target = object_target(core, &found.bucket, key);
    let applied = apply(core, &target, choice, condition).await?;
    if matches!(applied, Applied::Yes(_)) {
        mark_applied(core, found, choice.op).await;
        if let Some(table) = &choice.object.parts {
            core.reclaim.push(Job::ended(&found.bucket, key, table.upload));
        }
    }
    Ok(applied)
}

fn object_target(core: &Core, bucket: &Bucket, key: &ObjectKey) -> Target {
    core.target(bucket, RegisterKey::object(bucket.id(), key.clone()))
}

/// Open (or recorded with op `replaces`) → recorded with this choice. False if the upload is open, but has changed since
/// it was found.
async fn record(
    core: &Arc<Core>,
    found: &FoundUpload,
    choice: &Choice,
    digest: u128,
    replaces: Option<OpId>,
) -> Result<bool, CompleteError> {
    let op = core.op();
    let state = UploadState::Completed {
        op: choice.op,
        object: Box::new(choice.object.clone()),
        decided: UnixMillis::now(),
        request_digest: digest,
        before: choice.before,
        applied: false,
        taken_over: false,
    };
    let version = upload_version(op, &UploadMeta { state, ..found.upload.clone() });
    if version.metadata.len() > MAX_METADATA_BYTES {
        return Err(Unavailable::new("the part table is too long").into());
    }
    match change(core, &found.target, op, expecting(found.op, replaces, version)).await {
        Ok(_) => Ok(true),
        Err(WriteError::Rejected(current)) if replaces.is_none() && is_open(current.as_ref()) => Ok(false),
        Err(error) => Err(change_error(error)),
    }
}

fn is_open(current: Option<&Current>) -> bool {
    matches!(upload_of(current), Ok(Some(UploadMeta { state: UploadState::Open, .. })))
}

/// Opens an upload again whose condition turned false.
async fn reopen(core: &Arc<Core>, found: &FoundUpload, replaces: Option<OpId>) -> Result<(), CompleteError> {
    if replaces.is_none() {
        return Ok(());
    }
    let op = core.op();
    let version = upload_version(op, &UploadMeta { state: UploadState::Open, ..found.upload.clone() });
    change(core, &found.target, op, expecting(found.op, replaces, version)).await.map_err(change_error)?;
    Ok(())
}

/// Commits the version if the upload is open and as it was found (`None`), or recorded with this op, which nobody else
/// can have committed.
fn expecting(
    found: OpId,
    replaces: Option<OpId>,
    version: Version,
) -> impl FnMut(Option<&Current>) -> Verdict {
    move |current| {
        let unchanged = current.is_some_and(|current| current.version.op == found);
        let state = upload_of(current).ok().flatten().map(|upload| upload.state);
        let as_expected = match (state, replaces) {
            (Some(UploadState::Open), None) => unchanged,
            (Some(UploadState::Completed { op, applied, taken_over, .. }), Some(old)) => {
                op == old && !applied && !taken_over
            }
            _ => false,
        };
        if as_expected { Verdict::Commit(version.clone()) } else { Verdict::Reject }
    }
}

/// Commits the object's op on top of `before`.
async fn apply(
    core: &Arc<Core>,
    key: &Target,
    choice: &Choice,
    condition: &WriteCondition,
) -> Result<Applied, CompleteError> {
    let version = without_shards(choice.op, choice.object.clone());
    let decide = |current: Option<&Current>| match judge(choice, condition, current) {
        Ok(None) => Verdict::Commit(version.clone()),
        Ok(Some(_)) | Err(_) => Verdict::Reject,
    };
    let peers = core.peers(key);
    let machine = FencedWriter::new(peers.geometry, peers.epochs, choice.op, None, false, decide);
    match core.run(key, peers, machine).await.outcome {
        WriteOutcome::Committed { tag, .. } => Ok(Applied::Yes(tag)),
        WriteOutcome::Rejected(current) => {
            let verdict = judge(choice, condition, current.as_ref())?;
            verdict.ok_or_else(|| Unavailable::new("the key is changing").into())
        }
        WriteOutcome::NotCommitted(trouble) | WriteOutcome::Unknown(trouble) => {
            core.buckets.suspect(trouble);
            Err(unavailable(trouble).into())
        }
    }
}

/// `None`: commit now.
fn judge(
    choice: &Choice,
    condition: &WriteCondition,
    current: Option<&Current>,
) -> Result<Option<Applied>, Unavailable> {
    if let Some(current) = current.filter(|current| current.version.op == choice.op) {
        return Ok(Some(Applied::Yes(current.tag)));
    }
    if let Err(unmet) = check_write(condition, live_object(current)?.as_ref()) {
        return Ok(Some(Applied::Unmet(unmet)));
    }
    let tag = current.map(|current| current.tag).unwrap_or_default();
    Ok((tag != choice.before).then_some(Applied::Moved))
}

/// Notes that another request than the one that recorded the op may commit it.
async fn take_over(core: &Arc<Core>, found: &FoundUpload, object_op: OpId) -> Result<(), CompleteError> {
    if matches!(found.upload.state, UploadState::Completed { op, taken_over: true, .. } if op == object_op) {
        return Ok(());
    }
    let op = core.op();
    let decide = move |current: Option<&Current>| {
        let Ok(Some(mut upload)) = upload_of(current) else { return Verdict::Reject };
        match &mut upload.state {
            UploadState::Completed { op: recorded, taken_over, .. } if *recorded == object_op => {
                *taken_over = true;
                Verdict::Commit(upload_version(op, &upload))
            }
            UploadState::Completed { .. } | UploadState::Open => Verdict::Reject,
        }
    };
    change(core, &found.target, op, decide).await.map_err(change_error)?;
    Ok(())
}

/// Notes that the op is committed, before the client hears of it: so that a repeated Complete gets the same answer even
/// after a later write. If the note fails the answer stands; a repeated Complete then looks once more.
pub(super) async fn mark_applied(core: &Arc<Core>, found: &FoundUpload, object_op: OpId) {
    let op = core.op();
    let decide = move |current: Option<&Current>| {
        let Ok(Some(mut upload)) = upload_of(current) else { return Verdict::Reject };
        match &mut upload.state {
            UploadState::Completed { op: recorded, applied, .. } if *recorded == object_op => {
                *applied = true;
                Verdict::Commit(upload_version(op, &upload))
            }
            UploadState::Completed { .. } | UploadState::Open => Verdict::Reject,
        }
    };
    if change(core, &found.target, op, decide).await.is_err() {
        tracing::debug!(%object_op, "a completed upload was not marked as applied");
    }
}

/// The object of the chosen parts.
async fn assemble(
    core: &Arc<Core>,
    request: &CompleteUpload,
    found: &FoundUpload,
) -> Result<ObjectMeta, CompleteError> {
    let ascending = request.parts.windows(2).all(|pair| pair[0].number < pair[1].number);
    if request.parts.is_empty() || !ascending {
        return Err(CompleteError::InvalidPartOrder);
    }
    let stored = all_parts(core, &found.bucket, &request.upload.key, request.upload.upload).await?;
    let mut parts = Vec::with_capacity(request.parts.len());
    for (index, chosen) in request.parts.iter().enumerate() {
        let part = choose(&stored, chosen)?;
        if index + 1 < request.parts.len() && part.size < MIN_PART_BYTES {
            let (number, size, etag) = (part.number, part.size, hex::encode(part.md5));
            return Err(CompleteError::PartTooSmall { number, size, etag });
        }
        parts.push(part);
    }
    prove_key(request, found, parts.iter().any(|part| !part.checksums.is_empty()))?;
    let size = parts.iter().map(|part| part.size).sum();
    if size > MAX_OBJECT_BYTES {
        return Err(CompleteError::TooLarge { size, limit: MAX_OBJECT_BYTES });
    }
    let digests: Vec<PartDigests> = parts
        .iter()
        .map(|part| PartDigests { size: part.size, md5: part.md5, checksums: part.checksums.clone() })
        .collect();
    let combined = (request.combine)(&digests, found.upload.checksum);
    if request.expected_size.is_some_and(|expected| expected != size) {
        return Err(CompleteError::Mismatch { what: "size" });
    }
    if request.expected_checksum.as_ref().is_some_and(|expected| !is_among(expected, &combined.checksums)) {
        return Err(CompleteError::Mismatch { what: "checksum" });
    }
    let attributes = found.upload.attributes.clone();
    let attributes = with_default(&found.bucket, attributes, latest(&core.cluster))
        .map_err(|_| Unavailable::new("the bucket's record has lost its object lock"))?;
    Ok(ObjectMeta {
        size,
        etag: combined.etag,
        checksums: combined.checksums,
        owner: found.upload.owner.clone(),
        attributes,
        parts: Some(PartTable { upload: request.upload.upload, parts }),
        encryption: found.upload.encryption.clone(),
        ..ObjectMeta::default()
    })
}

/// The stored part that the request names.
fn choose(stored: &BTreeMap<u16, Version>, chosen: &ChosenPart) -> Result<ObjectPart, CompleteError> {
    let number = chosen.number;
    let version = stored.get(&number).ok_or(CompleteError::InvalidPart { number })?;
    let part = part_meta(version)?;
    let same_checksums = chosen.checksums.iter().all(|checksum| part.checksums.contains(checksum));
    if hex::encode(part.md5) != chosen.etag || !same_checksums {
        return Err(CompleteError::InvalidPart { number });
    }
    Ok(ObjectPart {
        number,
        size: part.size,
        md5: part.md5,
        checksums: part.checksums,
        op: version.op,
        coding: part.coding,
    })
}

/// Whether the checksum that a client expects is one of these.
fn is_among(expected: &ExpectedChecksum, checksums: &[Checksum]) -> bool {
    checksums.iter().any(|actual| {
        actual.algorithm == expected.algorithm
            && actual.value == expected.value
            && expected.scope.is_none_or(|scope| scope == actual.scope)
    })
}

/// Tells requests apart.
fn request_digest(parts: &[ChosenPart]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.number.to_be_bytes());
        hasher.update((part.etag.len() as u64).to_be_bytes());
        hasher.update(part.etag.as_bytes());
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize()[..16]);
    u128::from_be_bytes(digest)
}

fn unmet_error(unmet: Unmet) -> CompleteError {
    match unmet {
        Unmet::Missing => CompleteError::NoSuchKey,
        Unmet::Differs => CompleteError::ConditionFailed,
    }
}

fn change_error(error: WriteError) -> CompleteError {
    match error {
        // Another Complete or an Abort was faster.
        WriteError::Rejected(_) => CompleteError::Conflict,
        WriteError::Unavailable(error) => CompleteError::Unavailable(error),
        WriteError::Body(_)
        | WriteError::Overloaded
        | WriteError::MetadataTooLarge
        | WriteError::Quota(_) => CompleteError::Conflict,
    }
}
