//! Finds a version, as a read sees it.

use std::sync::Arc;

use coffer_common::driver::Target;
use coffer_common::meta::ObjectMeta;
use coffer_common::types::{ObjectKey, OpId, RegisterKey, SlotSet};

use super::archive;
use super::head::{Head, Place};
use crate::object::bucket::Bucket;
use crate::object::core::{Core, InlineShards};
use crate::object::error::GetError;
use crate::object::info::version_id;
use crate::object::types::VersionId;

/// A version that is no delete marker.
pub(in crate::object) struct Kept {
    /// What is said of it.
    pub(in crate::object) object: ObjectMeta,
    /// The register of its own shards, if it has any.
    pub(in crate::object) target: Target,
    /// The op that wrote them.
    pub(in crate::object) op: OpId,
    /// Slots that are known to hold them.
    pub(in crate::object) holders: SlotSet,
    /// Shards that came along.
    pub(in crate::object) inline: InlineShards,
    /// Whether another version is current.
    pub(in crate::object) archived: bool,
}

/// Finds a version by a strict read; the current one if none is named.
pub(in crate::object) async fn find(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    (version, inline): (Option<VersionId>, bool),
) -> Result<Kept, GetError> {
    let target = core.target(bucket, RegisterKey::object(bucket.id(), key.clone()));
    let (current, inline) = core.read(&target, inline).await?;
    let head = Head::of(current)?;
    let place = match version {
        None => Place::Current,
        Some(id) => head.place(id),
    };
    let absent = || if version.is_some() { GetError::NoSuchVersion } else { GetError::NoSuchKey };
    match place {
        Place::Nowhere => Err(absent()),
        Place::Current => {
            let (object, current) = head.version().zip(head.current()).ok_or_else(absent)?;
            let (op, holders) = (current.version.op, current.holders);
            visible(Kept { object: object.clone(), target, op, holders, inline, archived: false }, version)
        }
        Place::Archived(at) => {
            let archived = archive::read(core, bucket, key, at).await?;
            let archived = archived.filter(|(_, object)| head.keeps(at, object));
            let (_, object) = archived.ok_or_else(absent)?;
            let (holders, inline) = (SlotSet::default(), InlineShards::new());
            visible(Kept { object, target, op: at.op, holders, inline, archived: true }, version)
        }
    }
}

fn visible(kept: Kept, version: Option<VersionId>) -> Result<Kept, GetError> {
    if !kept.object.delete_marker {
        return Ok(kept);
    }
    let id = version_id(&kept.object);
    Err(match version {
        None => GetError::DeleteMarker(id),
        Some(_) => GetError::IsDeleteMarker { version: id, last_modified: kept.object.last_modified },
    })
}
