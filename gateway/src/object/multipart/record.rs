//! Upload records that nobody looks after any more, and what a record says about the parts of its upload.

use std::sync::Arc;

use coffer_common::meta::{UploadMeta, UploadState};
use coffer_common::protocol::fenced::Verdict;
use coffer_common::protocol::tally::Current;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, OpId, UploadId};

use super::complete::{Applied, Choice, SAME_ANSWER_MS, finish};
use super::{FoundUpload, change, find_in, upload_of, upload_version};
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::delete::tombstone_version;
use crate::object::error::{CompleteError, Unavailable};
use crate::object::types::WriteCondition;
use crate::object::write::WriteError;

/// A Complete that has recorded its op and not committed it for so long is taken for dead. If it is not, it finds its op
/// taken over.
pub(in crate::object) const UNFINISHED_MS: u64 = 60 * 1000;

/// What an upload's record says about the upload's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::object) enum Standing {
    /// They may yet become an object: the upload is open, or its object's op may not be committed.
    Undecided,
    /// The object's op is known to be committed, or can never be: only the key's current version can be made of them.
    Decided,
}

/// Reads what an upload's record says.
pub(in crate::object) async fn standing(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<Standing, Unavailable> {
    let found = find_in(core, bucket, key, upload).await?;
    Ok(match found.map(|found| found.upload.state) {
        None => Standing::Decided,
        // A version that is not the null one stays when it is superseded.
        Some(UploadState::Completed { applied: true, object, .. }) if object.version.is_none() => {
            Standing::Decided
        }
        Some(UploadState::Completed { .. } | UploadState::Open) => Standing::Undecided,
    })
}

/// Writes an open upload's record anew, so that a Complete that has looked at the parts before looks at them again.
/// Returns whether the upload is open.
pub(in crate::object) async fn renew(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<bool, Unavailable> {
    let Some(found) = find_in(core, bucket, key, upload).await? else { return Ok(false) };
    let op = core.op();
    let decide = move |current: Option<&Current>| match upload_of(current) {
        Ok(Some(upload @ UploadMeta { state: UploadState::Open, .. })) => {
            Verdict::Commit(upload_version(op, &upload))
        }
        _ => Verdict::Reject,
    };
    committed(change(core, &found.target, op, decide).await)
}

/// Whether [`end_old`] has anything to do about a completed upload.
pub(in crate::object) fn is_due(applied: bool, decided: UnixMillis, now: UnixMillis) -> bool {
    let age_ms = now.0.saturating_sub(decided.0);
    age_ms >= if applied { SAME_ANSWER_MS } else { UNFINISHED_MS }
}

/// Finishes a completion that was left between its record and its op, and ends a record that has told the same answer
/// for a day. Returns whether the record was ended.
pub(in crate::object) async fn end_old(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    upload: UploadId,
    now: UnixMillis,
) -> Result<bool, Unavailable> {
    let Some(found) = find_in(core, bucket, key, upload).await? else { return Ok(false) };
    let UploadState::Completed { op, object, decided, before, applied, .. } = &found.upload.state else {
        return Ok(false);
    };
    let (op, over) = (*op, is_due(true, *decided, now));
    if !is_due(*applied, *decided, now) {
        return Ok(false);
    }
    if !applied {
        let choice = Choice { op, object: (**object).clone(), before: *before };
        // The condition held on `before`, and the op goes on nothing else.
        match finish(core, &found, key, &choice, &WriteCondition::Always).await {
            Ok(Applied::Yes(_)) => return Ok(false),
            Ok(Applied::Moved | Applied::Unmet(_)) => {}
            Err(CompleteError::Unavailable(error)) => return Err(error),
            // Somebody else changes the record.
            Err(_) => return Ok(false),
        }
    }
    if over { end(core, &found, op).await } else { Ok(false) }
}

/// Puts a tombstone over a record with this op.
async fn end(core: &Arc<Core>, found: &FoundUpload, object_op: OpId) -> Result<bool, Unavailable> {
    let op = core.op();
    let decide = move |current: Option<&Current>| match upload_of(current) {
        Ok(Some(UploadMeta { state: UploadState::Completed { op: recorded, .. }, .. }))
            if recorded == object_op =>
        {
            Verdict::Commit(tombstone_version(op, None))
        }
        _ => Verdict::Reject,
    };
    committed(change(core, &found.target, op, decide).await)
}

fn committed<T>(result: Result<T, WriteError>) -> Result<bool, Unavailable> {
    match result {
        Ok(_) => Ok(true),
        Err(WriteError::Unavailable(error)) => Err(error),
        Err(_) => Ok(false),
    }
}
