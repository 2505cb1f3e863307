//! Changes what is said about a version: its tags, its protection. In buckets that keep no versions, too.
//!
//! A version is committed once more with the same op, so that its shards stay its own. An archived one is changed where
//! it is, and then the key's register is committed once more as it is: whoever is about to delete the version, and has
//! read what protects it before, finds the key changed and looks again.

use std::sync::Arc;

use coffer_common::limits::MAX_METADATA_BYTES;
use coffer_common::meta::{ObjectMeta, RegisterMeta};
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::Version;
use coffer_common::protocol::tally::Current;
use coffer_common::types::VersionRef;

use super::archive;
use super::clock::earliest;
use super::head::{Head, Place};
use super::key::Key;
use super::lock::{LockRefused, may_change};
use crate::object::bucket::Versioning;
use crate::object::core::Core;
use crate::object::error::{AmendError, GetError, LockError, OtherOwner, Unavailable};
use crate::object::info::{object_info, version_id};
use crate::object::types::{AmendObject, Attributes, NamedVersion, ObjectInfo, Owner, Retention};
use crate::object::write::{WriteError, written};

/// Changes the attributes of a version; the current one if none is named.
pub(in crate::object) async fn amend(
    core: &Arc<Core>,
    request: AmendObject,
) -> Result<ObjectInfo, AmendError> {
    let AmendObject { bucket, key, version, owner: wanted, change } = request;
    let change = |owner: &Owner, attributes: &mut Attributes| {
        if wanted.as_ref().is_some_and(|wanted| wanted.id != owner.id) {
            return Err(OtherOwner);
        }
        change(attributes);
        Ok(())
    };
    amend_if(core, &NamedVersion { bucket, key, version }, change).await
}

/// The same, unless `change` refuses it; it may be asked more than once.
async fn amend_if<E>(
    core: &Arc<Core>,
    named: &NamedVersion,
    change: impl Fn(&Owner, &mut Attributes) -> Result<(), E>,
) -> Result<ObjectInfo, AmendError<E>> {
    let NamedVersion { bucket, key: name, version } = named;
    let bucket = core.bucket(bucket).await.map_err(GetError::from)?;
    let mut key = Key::open(core, &bucket, name).await;
    loop {
        let head = key.head().await.map_err(GetError::from)?;
        let place = version.map_or(Place::Current, |id| head.place(id));
        let absent = || if version.is_some() { GetError::NoSuchVersion } else { GetError::NoSuchKey };
        let done = match place {
            Place::Nowhere => return Err(absent().into()),
            Place::Current => {
                let object = amended(head.version().ok_or_else(absent)?, &key, version.is_some(), &change)?;
                let plan = head.restated(|old| *old = object.clone()).ok_or_else(absent)?;
                key.commit(&head, plan).await.map_err(GetError::from)?.map(|_| object)
            }
            Place::Archived(at) => {
                let archived = archive::read(core, &key.bucket, name, at).await.map_err(GetError::from)?;
                let archived = archived.filter(|(_, object)| head.keeps(at, object));
                let (current, object) = archived.ok_or_else(absent)?;
                let object = amended(&object, &key, true, &change)?;
                let changed = recommit(&key, at, (current, &object)).await.map_err(GetError::from)?
                    && touch(&mut key, &head).await?;
                changed.then_some(object)
            }
        };
        if let Some(object) = done {
            return Ok(object_info(object));
        }
    }
}

/// The version as it is to be.
fn amended<E>(
    object: &ObjectMeta,
    key: &Key,
    named: bool,
    change: impl Fn(&Owner, &mut Attributes) -> Result<(), E>,
) -> Result<ObjectMeta, AmendError<E>> {
    let mut object = object.clone();
    if object.delete_marker {
        let version = version_id(&object);
        let last_modified = object.last_modified;
        return Err(AmendError::Get(match named {
            true => GetError::IsDeleteMarker { version, last_modified },
            false => GetError::DeleteMarker(version),
        }));
    }
    change(&object.owner, &mut object.attributes).map_err(AmendError::Refused)?;
    if key.bucket.record.versioning != Versioning::Unversioned {
        object.history.get_or_insert_default().edits += 1;
    }
    if RegisterMeta::Object(Box::new(object.clone())).encode().len() > MAX_METADATA_BYTES / 2 {
        return Err(AmendError::MetadataTooLarge);
    }
    Ok(object)
}

/// Commits an archived version once more. False: it has changed since it was read.
async fn recommit(
    key: &Key,
    at: VersionRef,
    (current, object): (Current, &ObjectMeta),
) -> Result<bool, Unavailable> {
    let metadata = RegisterMeta::Object(Box::new(object.clone())).encode();
    let version = Version { metadata, ..current.version };
    let (target, op) = (archive::target(&key.core, &key.bucket, &key.name, at), version.op);
    let decide = move |now: Option<&Current>| {
        let same = now.is_some_and(|now| now.tag == current.tag);
        if same { Verdict::Commit(version.clone()) } else { Verdict::Reject }
    };
    let peers = key.core.peers(&target);
    let machine = FencedWriter::new(peers.geometry, peers.epochs, op, None, false, decide);
    match written(&key.core, key.core.run(&target, peers, machine).await.outcome) {
        Ok(_) => Ok(true),
        Err(WriteError::Rejected(_)) => Ok(false),
        Err(error) => Err(archive::lost(error)),
    }
}

/// Commits the current version as it is.
async fn touch<E>(key: &mut Key, head: &Head) -> Result<bool, AmendError<E>> {
    let plan = head.restated(|_| {}).ok_or(GetError::NoSuchVersion)?;
    Ok(key.commit(head, plan).await.map_err(GetError::from)?.is_some())
}

/// Sets or removes a version's retention.
pub(in crate::object) async fn set_retention(
    core: &Arc<Core>,
    named: &NamedVersion,
    retention: Option<Retention>,
    bypass_governance: bool,
) -> Result<(), LockError> {
    let bucket = core.bucket(&named.bucket).await.map_err(GetError::from)?;
    if bucket.record.object_lock.is_none() {
        return Err(AmendError::Refused(LockRefused::NoObjectLock));
    }
    let change = |_: &Owner, attributes: &mut Attributes| {
        may_change(attributes.retention, retention, bypass_governance, earliest(&core.cluster))?;
        attributes.retention = retention;
        Ok(())
    };
    amend_if(core, named, change).await.map(|_| ())
}
