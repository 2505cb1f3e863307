//! Frees the data of parts that no object is made of any more.
//!
//! Slots never free a part's shards because a later attempt came: an object may be made of the earlier one. They free
//! them below a STABLE null version of the part's register, after the read grace, as they do for objects. This module
//! commits such null versions, once it is proven that nothing below them can ever be read again:
//!
//! - a **tombstone**, if no attempt at the part can be read again;
//! - the one attempt that is left, once more, as a null version (it is **pinned**), if others lie above or below it.
//!
//! What proves it ([`judge`]) are facts that stay true, so that a late or repeated act does no harm, whoever acts:
//!
//! 1. The key's current version is made of parts of the upload. Then its part table is final: a record whose op was
//!    committed is never replaced. Parts and attempts that it does not name are over.
//! 2. Else the upload's record, read first, is gone or says that its op was committed, and the key's current version, read
//!    after it, is made of other things, and so is every archived version, read after that. Then that op is superseded for
//!    good, and all parts of the upload are over. (A version is archived before another one takes its place, and the archive
//!    of a version that becomes current again stays.)
//! 3. The upload is open and an attempt at a part is followed by another one: the record is written anew, so that a
//!    Complete that has looked at the parts before must look again, and finds the later one. The earlier one is over.
//!
//! Anything else, an answer that cannot be had included, keeps the data. So does a bucket whose record says more than
//! this version of Coffer knows of. What a version that was deleted was made of is ended with it (`super::versions`), and
//! part 0, all of a version that came in one piece, is ended in no other way.
//!
//! **When.** Whoever leaves something over (Complete, Abort, a PUT, DELETE or copy over a multipart object, a part written
//! again or too late) pushes a [`Job`] onto a bounded queue that one task works off. Jobs are hints: what is lost with a
//! process is found by the [`sweep`] over all registers, which one gateway at a time makes.
//!
//! **Crash consistency.** Nothing is kept but the registers themselves. An attempt that was replaced while its upload was
//! open, and whose job was lost, is freed when the upload ends.
//!
//! **Readers.** A superseded object's parts are given up at once; the slots' read grace runs from then, so a reader that
//! has begun before has as long as with any other object.

mod act;
mod judge;
mod sweep;

use std::sync::Arc;

use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::types::{ObjectKey, UploadId};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub(super) use act::sweep_parts;
pub use sweep::Reclaimed;
pub(super) use sweep::{PAUSE, follow, sweep, sweep_uploads};

use super::bucket::Bucket;
use super::bucket_delete::Deletions;
use super::core::Core;
use super::error::Unavailable;
use super::info::object_meta;
use super::multipart;

/// Jobs that wait at most; the sweep finds what others leave over.
const MAX_JOBS: usize = 4096;

/// Something may be left over.
pub(super) struct Job {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    upload: UploadId,
    /// The part of an open upload that was written again; `None`: the upload has ended or its object was replaced.
    replaced: Option<u16>,
}

impl Job {
    /// An upload has ended, or the object that was made of it was replaced.
    pub(super) fn ended(bucket: &Arc<Bucket>, key: &ObjectKey, upload: UploadId) -> Self {
        Self { bucket: Arc::clone(bucket), key: key.clone(), upload, replaced: None }
    }

    /// A part of an open upload was written again.
    pub(super) fn replaced(bucket: &Arc<Bucket>, key: &ObjectKey, upload: UploadId, number: u16) -> Self {
        Self { replaced: Some(number), ..Self::ended(bucket, key, upload) }
    }
}

/// Where jobs are pushed.
pub(super) struct Reclaim {
    /// Deletions of buckets that the sweep has met.
    pub(super) deletions: Deletions,
    jobs: mpsc::Sender<Job>,
    waiting: Mutex<Option<mpsc::Receiver<Job>>>,
}

impl Reclaim {
    /// An empty queue.
    pub(super) fn new() -> Self {
        let (jobs, waiting) = mpsc::channel(MAX_JOBS);
        Self { deletions: Deletions::default(), jobs, waiting: Mutex::new(Some(waiting)) }
    }

    /// Notes that something may be left over; dropped if too much waits.
    pub(super) fn push(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            tracing::debug!("parts that are left over wait for the next sweep");
        }
    }
}

/// Works off the jobs until the stop is told.
pub(super) async fn work(core: Arc<Core>) {
    let Some(mut waiting) = core.reclaim.waiting.lock().take() else { return };
    let work = async {
        while let Some(job) = waiting.recv().await {
            if let Err(error) = run(&core, &job).await {
                tracing::debug!(key = %job.key, upload = %job.upload, %error, "parts wait for the next sweep");
            }
        }
    };
    tokio::select! {
        biased;
        () = core.background.told() => {}
        () = work => {}
    }
}

async fn run(core: &Arc<Core>, job: &Job) -> Result<(), Unavailable> {
    match job.replaced {
        Some(number) => act::give_up_earlier(core, &job.bucket, (&job.key, job.upload), number).await,
        None => {
            let parts = multipart::all_parts(core, &job.bucket, &job.key, job.upload).await?;
            act::free_parts(core, &job.bucket, (&job.key, job.upload), parts).await?;
            Ok(())
        }
    }
}

/// The upload that a version of an object is made of.
pub(super) fn upload_behind(current: &Current) -> Option<UploadId> {
    if !may_have_parts(&current.version) {
        return None;
    }
    object_meta(&current.version).ok()?.parts.map(|table| table.upload)
}

/// Told by what needs no decoding: an object of parts has no shards of its own.
fn may_have_parts(version: &Version) -> bool {
    version.kind == VersionKind::Data && !version.has_shards()
}

/// Remembers, for after a write, the upload behind the version that the write replaces.
#[derive(Clone, Default)]
pub(super) struct Replaced(Arc<Mutex<Option<UploadId>>>);

impl Replaced {
    /// What the write has seen last.
    pub(super) fn note(&self, previous: Option<&Current>) {
        *self.0.lock() = previous.and_then(upload_behind);
    }

    /// The write is done.
    pub(super) fn tell(&self, core: &Core, bucket: &Arc<Bucket>, key: &ObjectKey) {
        if let Some(upload) = self.0.lock().take() {
            core.reclaim.push(Job::ended(bucket, key, upload));
        }
    }
}
