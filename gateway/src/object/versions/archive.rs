//! Versions that are not current any more: written, read, cleared away.

use std::sync::Arc;

use coffer_common::driver::Target;
use coffer_common::meta::{History, ObjectMeta};
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{ObjectKey, OpId, RegisterKey, RegisterKind, UploadId, VersionRef};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::head::{Head, without_shards};
use super::key::Key;
use super::remove::forget;
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::delete::tombstone;
use crate::object::error::Unavailable;
use crate::object::info::object_meta;
use crate::object::list::{Item, Listing, Range, shows_all};
use crate::object::multipart::all_parts;
use crate::object::types::WriteCondition;
use crate::object::write::{WriteError, written};

/// Parts that are ended at the same time.
const CONCURRENCY: usize = 16;
/// Versions that are listed at a time.
const BATCH: u32 = 1_000;

/// The register of an archived version.
pub(super) fn target(core: &Core, bucket: &Bucket, key: &ObjectKey, at: VersionRef) -> Target {
    core.target(bucket, RegisterKey::version(bucket.id(), key.clone(), at))
}

/// The upload whose part 0 holds the bytes of a version that came in one piece.
pub(super) fn upload_of(op: OpId) -> UploadId {
    UploadId::from_bytes(op.to_bytes())
}

/// Reads an archived version; `None` if there is none, or it was cleared away.
pub(super) async fn read(
    core: &Arc<Core>,
    bucket: &Bucket,
    key: &ObjectKey,
    at: VersionRef,
) -> Result<Option<(Current, ObjectMeta)>, Unavailable> {
    let (current, _) = core.read(&target(core, bucket, key, at), false).await?;
    let Some(current) = current.filter(|current| current.version.kind == VersionKind::Data) else {
        return Ok(None);
    };
    let object = object_meta(&current.version)?;
    Ok(Some((current, object)))
}

/// Archives the current version, unless that was done since it was changed last. An archive that was cleared away stays so:
/// the version is not the current one then, and what is about to be committed on top of it fails.
pub(super) async fn archive(
    core: &Arc<Core>,
    bucket: &Bucket,
    key: &ObjectKey,
    head: &Head,
) -> Result<(), Unavailable> {
    let Some((object, at)) = head.version().zip(head.at()) else { return Ok(()) };
    if head.has_shards() {
        // Whoever missed them is owed them only if they are known to be STABLE.
        core.settle(&core.target(bucket, RegisterKey::object(bucket.id(), key.clone()))).await?;
    }
    let History { ordinal, edits, .. } = head.history();
    let history = Some(History { ordinal, edits, ..History::default() });
    let version = without_shards(at.op, ObjectMeta { history, ..object.clone() });
    let target = target(core, bucket, key, at);
    let decide = move |current: Option<&Current>| match current {
        None => Verdict::Commit(version.clone()),
        Some(current) if is_older(&current.version, edits) => Verdict::Commit(version.clone()),
        Some(_) => Verdict::Reject,
    };
    let peers = core.peers(&target);
    let machine = FencedWriter::new(peers.geometry, peers.epochs, at.op, None, true, decide);
    match written(core, core.run(&target, peers, machine).await.outcome) {
        Ok(_) | Err(WriteError::Rejected(_)) => Ok(()),
        Err(error) => Err(lost(error)),
    }
}

/// Whether an archive says less than is known of the version.
fn is_older(archived: &Version, edits: u32) -> bool {
    let known = |object: ObjectMeta| object.history.map_or(0, |history| history.edits);
    archived.kind == VersionKind::Data && object_meta(archived).is_ok_and(|object| known(object) < edits)
}

pub(super) fn lost(error: WriteError) -> Unavailable {
    match error {
        WriteError::Unavailable(error) => error,
        WriteError::Body(_)
        | WriteError::Overloaded
        | WriteError::MetadataTooLarge
        | WriteError::Quota(_)
        | WriteError::Rejected(_) => Unavailable::new("the key is changing"),
    }
}

/// Clears away what is left of a version that is gone: its bytes, then its archive, for good. Returns whether that had to
/// be done.
pub(in crate::object) async fn clear(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    at: VersionRef,
) -> Result<bool, Unavailable> {
    let target = target(core, bucket, key, at);
    let (current, _) = core.read(&target, false).await?;
    match current {
        Some(current) if current.version.kind == VersionKind::Tombstone => return Ok(false),
        Some(current) => {
            if let Some(table) = object_meta(&current.version)?.parts {
                let numbers = table.parts.iter().map(|part| part.number);
                end_parts(core, bucket, (key, table.upload), numbers.collect()).await?;
            }
        }
        // Whoever is about to archive it must find that it is gone.
        None => {}
    }
    tombstone(core, &target, &WriteCondition::Always).await.map(|_| true).map_err(lost)
}

/// Ends all parts of an upload: those that are known, and whatever else there is.
async fn end_parts(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
    mut numbers: Vec<u16>,
) -> Result<(), Unavailable> {
    if numbers != [0] {
        numbers.extend(all_parts(core, bucket, key, upload).await?.into_keys());
        numbers.sort_unstable();
        numbers.dedup();
    }
    let ends = numbers.into_iter().map(|number| {
        let target = core.target(bucket, RegisterKey::part(bucket.id(), key.clone(), upload, number));
        async move { tombstone(core, &target, &WriteCondition::Always).await.map(|_| ()).map_err(lost) }
    });
    stream::iter(ends).buffer_unordered(CONCURRENCY).try_collect().await
}

/// The archived versions of a key, newest first, from behind a place: all that there is, also what its head does not keep.
pub(super) fn listing(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    after: Option<VersionRef>,
    expected: u32,
) -> Listing {
    let after = after.map(|after| RegisterKey::version(bucket.id(), key.clone(), after).encode());
    let range = Range {
        prefix: key.as_bytes().to_vec().into(),
        only: Some(core.partition(bucket.id(), key)),
        after: after.unwrap_or_default(),
        ..Range::all(RegisterKind::Version)
    };
    Listing::new(core, bucket, range, shows_all, expected)
}

/// Whether some archived version of the key is made of an upload's parts, be it kept or not.
pub(in crate::object) async fn is_archived(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
) -> Result<bool, Unavailable> {
    let mut archived = listing(core, bucket, key, None, BATCH);
    loop {
        let items = archived.next(BATCH as usize).await?;
        if items.is_empty() {
            return Ok(false);
        }
        for item in items {
            match item {
                Item::Entry(register, version) if register.key == *key => {
                    if object_meta(&version)?.parts.is_some_and(|table| table.upload == upload) {
                        return Ok(true);
                    }
                }
                _ => return Ok(false),
            }
        }
    }
}

/// Clears away what changes of the bucket's keys have left to be cleared. Returns how many versions those were.
pub(in crate::object) async fn sweep_removed(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
) -> Result<u64, Unavailable> {
    // What was cleared away has no archive any more.
    let mut listing = Listing::new(core, bucket, Range::all(RegisterKind::Version), shows_all, BATCH);
    let (mut seen, mut cleared): (Option<ObjectKey>, u64) = (None, 0);
    loop {
        let items = listing.next(BATCH as usize).await?;
        if items.is_empty() {
            return Ok(cleared);
        }
        for item in items {
            let Item::Entry(register, _) = item else { continue };
            if seen.as_ref() == Some(&register.key) {
                continue;
            }
            let target = core.target(bucket, RegisterKey::object(bucket.id(), register.key.clone()));
            let head = Head::of(core.read(&target, false).await?.0)?;
            for at in head.removing() {
                cleared += u64::from(clear(core, bucket, &register.key, *at).await?);
            }
            if head.version().is_none() {
                let mut key = Key::open(core, bucket, &register.key).await;
                forget(&mut key).await.map_err(|error| Unavailable::new(error.to_string()))?;
            }
            seen = Some(register.key);
        }
    }
}
