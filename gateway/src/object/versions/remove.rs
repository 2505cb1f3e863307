//! DELETE in a bucket that keeps versions: a delete marker on top, or one version less.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_common::meta::ObjectMeta;
use coffer_common::protocol::message::VersionKind;
use coffer_common::types::{BucketName, ObjectKey, VersionRef};
use futures_util::stream::{self, StreamExt};

use super::archive::{self, clear};
use super::clock::earliest;
use super::head::{Head, Place, Plan};
use super::key::Key;
use super::lock::may_delete;
use crate::object::bucket::{Bucket, Versioning};
use crate::object::core::Core;
use crate::object::delete::{delete as delete_one, tombstone_version};
use crate::object::error::{DeleteError, HeadBucketError, Unavailable};
use crate::object::info::{Unmet, check_write, is_as_listed, object_meta, version_id};
use crate::object::list::Item;
use crate::object::put::monotone_now;
use crate::object::types::{DeleteObject, Deleted, VersionId, WriteCondition};

/// Keys that are worked on at the same time.
const CONCURRENCY: usize = 32;

/// Deletes an object, or a version of it.
pub(in crate::object) async fn delete(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: DeleteObject,
) -> Result<Deleted, DeleteError> {
    let DeleteObject { bucket: _, key, version, condition, bypass_governance } = request;
    let mut key = Key::open(core, bucket, &key).await;
    match version {
        Some(version) => remove(&mut key, version, &condition, bypass_governance).await,
        None => mark(&mut key, &condition).await,
    }
}

/// Deletes many: those of one key one after the other, because each changes what the next one rests on.
pub(in crate::object) async fn delete_many(
    core: &Arc<Core>,
    bucket: &BucketName,
    keys: Vec<(ObjectKey, Option<VersionId>)>,
    bypass_governance: bool,
) -> Vec<Result<Deleted, DeleteError>> {
    let mut by_key: BTreeMap<ObjectKey, Vec<(usize, Option<VersionId>)>> = BTreeMap::new();
    let count = keys.len();
    for (place, (key, version)) in keys.into_iter().enumerate() {
        by_key.entry(key).or_default().push((place, version));
    }
    let of_key = |(key, versions): (ObjectKey, Vec<(usize, Option<VersionId>)>)| async move {
        let mut results = Vec::with_capacity(versions.len());
        for (place, version) in versions {
            let (bucket, key, condition) = (bucket.clone(), key.clone(), WriteCondition::Always);
            let request = DeleteObject { bucket, key, version, condition, bypass_governance };
            results.push((place, delete_one(core, request).await));
        }
        results
    };
    let done: Vec<_> =
        stream::iter(by_key.into_iter().map(of_key)).buffer_unordered(CONCURRENCY).collect().await;
    let mut results: Vec<_> = done.into_iter().flatten().collect();
    results.sort_by_key(|(place, _)| *place);
    debug_assert_eq!(results.len(), count, "each key has its result");
    results.into_iter().map(|(_, result)| result).collect()
}

/// Puts a delete marker on top.
async fn mark(key: &mut Key, condition: &WriteCondition) -> Result<Deleted, DeleteError> {
    if key.bucket.record.versioning == Versioning::Enabling {
        // As in a bucket that never kept versions: the object itself goes.
        let Deleted { sequence, .. } = remove(key, VersionId::Null, condition, false).await?;
        return Ok(Deleted { sequence, ..Deleted::default() });
    }
    let op = key.core.op();
    loop {
        let head = key.head().await?;
        check(condition, &head)?;
        let last_modified = monotone_now(head.current());
        let owner = key.bucket.record.owner.clone();
        let marker = ObjectMeta { last_modified, owner, delete_marker: true, ..ObjectMeta::default() };
        let plan = head.written(key.bucket.record.versioning, op, marker);
        let marker = object_meta(&plan.version)?;
        if let Some(tag) = key.commit(&head, plan).await? {
            tidy(key, &marker).await;
            let version = Some(version_id(&marker));
            return Ok(Deleted { version, delete_marker: true, sequence: Some(tag) });
        }
    }
}

/// Removes a version for good.
async fn remove(
    key: &mut Key,
    id: VersionId,
    condition: &WriteCondition,
    bypass: bool,
) -> Result<Deleted, DeleteError> {
    loop {
        let head = key.head().await?;
        // What a listing decided is about the version that is named.
        if !matches!(condition, WriteCondition::Unchanged(_)) {
            check(condition, &head)?;
        }
        let Some((object, plan)) = without(key, &head, id).await? else {
            return Ok(Deleted { version: Some(id), ..Deleted::default() });
        };
        if let WriteCondition::Unchanged(listed) = condition
            && !is_as_listed(listed, &object, head.place(id) == Place::Current)
        {
            return Err(DeleteError::ConditionFailed);
        }
        may_delete(&object.attributes, bypass, earliest(&key.core.cluster))?;
        let (kind, committed) = (plan.version.kind, object_meta(&plan.version)?);
        if let Some(tag) = key.commit(&head, plan).await? {
            match kind {
                VersionKind::Tombstone => {
                    forget(key).await.unwrap_or_else(|error| later(&key.name, &error));
                }
                VersionKind::Data => tidy(key, &committed).await,
            }
            let (version, delete_marker) = (Some(id), object.delete_marker);
            return Ok(Deleted { version, delete_marker, sequence: Some(tag) });
        }
    }
}

/// A version, and what is committed to be rid of it; `None` if there is no such version.
async fn without(key: &Key, head: &Head, id: VersionId) -> Result<Option<(ObjectMeta, Plan)>, Unavailable> {
    match head.place(id) {
        Place::Nowhere => Ok(None),
        Place::Archived(at) => {
            let archived = archive::read(&key.core, &key.bucket, &key.name, at).await?;
            let object = archived.map(|(_, object)| object).filter(|object| head.keeps(at, object));
            let plan = head.without_archived(at);
            Ok(object.zip(plan))
        }
        Place::Current => {
            let Some((object, at)) = head.version().zip(head.at()) else { return Ok(None) };
            let plan = match next_older(key, head, at).await? {
                Some(next) => head.without_current(next)?,
                None => head.without_any(tombstone_version(key.core.op(), head.current()))?,
            };
            Ok(Some((object.clone(), plan)))
        }
    }
}

/// The newest version below the current one.
async fn next_older(
    key: &Key,
    head: &Head,
    current: VersionRef,
) -> Result<Option<(VersionRef, ObjectMeta)>, Unavailable> {
    let mut listing = archive::listing(&key.core, &key.bucket, &key.name, Some(current), 2);
    loop {
        let items = listing.next(2).await?;
        if items.is_empty() {
            return Ok(None);
        }
        for item in items {
            let Item::Entry(register, version) = item else { return Ok(None) };
            let Some(at) = register.version_ref().filter(|_| register.key == key.name) else {
                return Ok(None);
            };
            let object = object_meta(&version)?;
            if head.keeps(at, &object) {
                return Ok(Some((at, object)));
            }
        }
    }
}

fn check(condition: &WriteCondition, head: &Head) -> Result<(), DeleteError> {
    check_write(condition, head.live()).map_err(|unmet| match unmet {
        Unmet::Missing => DeleteError::NoSuchKey,
        Unmet::Differs => DeleteError::ConditionFailed,
    })
}

/// Clears away at once, if it is to be, what the next change would: what the commit that was made said is being removed.
pub(super) async fn tidy(key: &Key, committed: &ObjectMeta) {
    for at in committed.history.iter().flat_map(|history| &history.removing) {
        if let Err(error) = clear(&key.core, &key.bucket, &key.name, *at).await {
            later(&key.name, &error);
        }
    }
}

/// Clears away all that is left of a key without versions.
pub(super) async fn forget(key: &mut Key) -> Result<(), HeadBucketError> {
    loop {
        let head = key.head().await?;
        let Some(plan) = head.forgotten(key.core.op()) else { return Ok(()) };
        if key.commit(&head, plan).await?.is_some() {
            return Ok(());
        }
    }
}

fn later(key: &ObjectKey, error: &dyn std::fmt::Display) {
    tracing::debug!(%key, %error, "a removed version is cleared away later");
}
