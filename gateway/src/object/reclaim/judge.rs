//! What is known about the parts of an upload; see the module above for why it may be acted upon.

use std::sync::Arc;

use coffer_common::meta::{ObjectMeta, ObjectPart, PartMeta, RegisterMeta};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, RegisterKey, UploadId};

use crate::object::bucket::{Bucket, Versioning};
use crate::object::coding::stripes;
use crate::object::core::Core;
use crate::object::error::Unavailable;
use crate::object::info::live_object;
use crate::object::multipart::{Standing, part_meta, standing};
use crate::object::versions::is_archived;

/// What is known about the parts of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// Nothing that would allow to free one.
    Kept,
    /// The key's current version is made of them.
    Live(Box<ObjectMeta>),
    /// None can ever be read again.
    Over,
}

/// What to do about one part.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// Nothing.
    Keep,
    /// A tombstone ends all attempts.
    End,
    /// This attempt, as a null version, ends all others.
    Pin(Version),
}

/// Finds out.
pub(super) async fn fate(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
) -> Result<Fate, Unavailable> {
    if !bucket.record.more.is_empty() {
        return Ok(Fate::Kept);
    }
    if let Some(object) = made_of(core, bucket, (key, upload)).await? {
        return Ok(Fate::Live(object));
    }
    match standing(core, bucket, key, upload).await? {
        Standing::Undecided => Ok(Fate::Kept),
        // Only what is read after the record counts: its op may have been committed since the first look.
        Standing::Decided => {
            if let Some(object) = made_of(core, bucket, (key, upload)).await? {
                return Ok(Fate::Live(object));
            }
            // A version is archived before another one takes its place, and looked for after that.
            let keeps_versions = bucket.record.versioning != Versioning::Unversioned;
            let kept = keeps_versions && is_archived(core, bucket, (key, upload)).await?;
            Ok(if kept { Fate::Kept } else { Fate::Over })
        }
    }
}

/// The key's current version, if it is made of parts of the upload.
async fn made_of(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
) -> Result<Option<Box<ObjectMeta>>, Unavailable> {
    let target = core.target(bucket, RegisterKey::object(bucket.id(), key.clone()));
    let (current, _) = core.read(&target, false).await?;
    let object = live_object(current.as_ref())?;
    let is_it = |object: &ObjectMeta| object.parts.as_ref().is_some_and(|table| table.upload == upload);
    Ok(object.filter(is_it).map(Box::new))
}

/// What to do about a part whose register has this current version.
pub(super) fn judge(fate: &Fate, number: u16, current: &Version) -> Result<Act, Unavailable> {
    if current.kind == VersionKind::Tombstone {
        return Ok(Act::Keep);
    }
    let object = match fate {
        Fate::Kept => return Ok(Act::Keep),
        Fate::Over => return Ok(Act::End),
        Fate::Live(object) => object,
    };
    let parts = object.parts.iter().flat_map(|table| &table.parts);
    let Some(part) = parts.clone().find(|part| part.number == number) else { return Ok(Act::End) };
    if current.op == part.op {
        let alone = current.null_version || !part_meta(current)?.replaces;
        return if alone { Ok(Act::Keep) } else { Ok(Act::Pin(pinned(current)?)) };
    }
    // A later attempt lies above the chosen one.
    Ok(Act::Pin(rebuilt(part, object.last_modified)?))
}

/// An attempt as the null version that ends all others.
pub(super) fn pinned(attempt: &Version) -> Result<Version, Unavailable> {
    let meta = PartMeta { replaces: false, ..part_meta(attempt)? };
    let metadata = RegisterMeta::Part(meta).encode();
    Ok(Version { null_version: true, metadata, ..attempt.clone() })
}

/// The same from what a completed object says of its part.
fn rebuilt(part: &ObjectPart, last_modified: UnixMillis) -> Result<Version, Unavailable> {
    let ObjectPart { size, md5, coding, op, .. } = *part;
    let (shard_len_bytes, block_len_bytes) = if coding.k == 0 {
        (0, 0)
    } else {
        let stripes = stripes(coding, size).map_err(|error| Unavailable::new(error.to_string()))?;
        (stripes.shard_len_bytes(), stripes.block_len_bytes())
    };
    let checksums = part.checksums.clone();
    let meta = PartMeta { size, md5, checksums, coding, last_modified, replaces: false };
    Ok(Version {
        op,
        kind: VersionKind::Data,
        k: coding.k,
        shard_len_bytes,
        block_len_bytes,
        null_version: true,
        metadata: RegisterMeta::Part(meta).encode(),
    })
}

#[cfg(test)]
mod tests;
