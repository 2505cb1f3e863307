//! Ends and pins attempts at parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_common::driver::Target;
use coffer_common::protocol::fenced::{FencedWriter, Verdict};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{ObjectKey, OpId, RegisterKey, RegisterKind, UploadId};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::judge::{Act, Fate, fate, judge, pinned};
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::delete::tombstone;
use crate::object::error::Unavailable;
use crate::object::list::{Item, Listing, Range, shows_all};
use crate::object::multipart::renew;
use crate::object::types::WriteCondition;
use crate::object::write::{WriteError, written};

/// Parts of one upload that are worked on at the same time.
const CONCURRENCY: usize = 16;
/// Uploads that a sweep of a bucket may fail on before it ends.
const MAX_FAILURES: usize = 16;
/// Part registers that are listed at a time.
const BATCH: usize = 1_000;

/// Goes over all parts of a bucket. Returns how many it ended or pinned.
pub(in crate::object) async fn sweep_parts(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
) -> Result<u64, Unavailable> {
    let mut listing = Listing::new(core, bucket, Range::all(RegisterKind::Part), shows_all, BATCH as u32);
    let (mut acts, mut failures) = (0, Vec::new());
    loop {
        let items = listing.next(BATCH).await?;
        if items.is_empty() {
            return failures.pop().map_or(Ok(acts), Err);
        }
        let mut uploads: BTreeMap<(ObjectKey, UploadId), BTreeMap<u16, Version>> = BTreeMap::new();
        for item in items {
            if let Item::Entry(register, version) = item
                && let Some((upload, number)) = register.upload_part()
                // All of a version: it ends with the version, and before there is one nobody can tell.
                && number > 0
            {
                uploads.entry((register.key, upload)).or_default().insert(number, version);
            }
        }
        for ((key, upload), parts) in uploads {
            match free_parts(core, bucket, (&key, upload), parts).await {
                Ok(done) => acts += done,
                Err(error) if failures.len() >= MAX_FAILURES => return Err(error),
                Err(error) => failures.push(error),
            }
        }
    }
}

/// Frees what is proven to be over of these parts of an upload. Returns how many it ended or pinned.
pub(super) async fn free_parts(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
    parts: BTreeMap<u16, Version>,
) -> Result<u64, Unavailable> {
    if parts.is_empty() {
        return Ok(0);
    }
    let fate = fate(core, bucket, (key, upload)).await?;
    if fate == Fate::Kept {
        return Ok(0);
    }
    let mut acts = Vec::new();
    for (number, current) in parts {
        let act = judge(&fate, number, &current)?;
        if act != Act::Keep {
            acts.push(carry_out(core, part_target(core, bucket, (key, upload), number), act));
        }
    }
    let done: Vec<()> = stream::iter(acts).buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(done.len() as u64)
}

async fn carry_out(core: &Arc<Core>, target: Target, act: Act) -> Result<(), Unavailable> {
    match act {
        Act::Keep => Ok(()),
        Act::End => done(tombstone(core, &target, &WriteCondition::Always).await.map(|_| ())),
        Act::Pin(version) => pin(core, &target, version, |_| true).await,
    }
}

/// Frees what lies below the newest attempt at a part of an open upload.
pub(super) async fn give_up_earlier(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
    number: u16,
) -> Result<(), Unavailable> {
    if !bucket.record.more.is_empty() {
        return Ok(());
    }
    let target = part_target(core, bucket, (key, upload), number);
    let (current, _) = core.read(&target, false).await?;
    let Some(newest) = current.filter(|c| c.version.kind == VersionKind::Data && !c.version.null_version)
    else {
        return Ok(());
    };
    // From here on every Complete that is recorded has seen this attempt, or one that came after it.
    if !renew(core, bucket, key, upload).await? {
        return Ok(());
    }
    let op = newest.version.op;
    pin(core, &target, pinned(&newest.version)?, move |current| current == op).await
}

fn part_target(core: &Core, bucket: &Bucket, (key, upload): (&ObjectKey, UploadId), number: u16) -> Target {
    core.target(bucket, RegisterKey::part(bucket.id(), key.clone(), upload, number))
}

/// Commits an attempt once more, as a null version, unless that has been done or the part was ended. `on_top_of` may
/// refuse by the op of the current version.
async fn pin(
    core: &Arc<Core>,
    target: &Target,
    version: Version,
    on_top_of: impl Fn(OpId) -> bool,
) -> Result<(), Unavailable> {
    let (peers, op) = (core.peers(target), version.op);
    let decide = move |current: Option<&Current>| match current.map(|current| &current.version) {
        Some(current)
            if current.kind == VersionKind::Data
                && !(current.op == op && current.null_version)
                && on_top_of(current.op) =>
        {
            Verdict::Commit(version.clone())
        }
        _ => Verdict::Reject,
    };
    let machine = FencedWriter::new(peers.geometry, peers.epochs, op, None, false, decide);
    let outcome = core.run(target, peers, machine).await.outcome;
    done(written(core, outcome).map(|_| ()))
}

fn done(result: Result<(), WriteError>) -> Result<(), Unavailable> {
    match result {
        Err(WriteError::Unavailable(error)) => Err(error),
        // Somebody else was faster.
        Ok(()) | Err(_) => Ok(()),
    }
}
