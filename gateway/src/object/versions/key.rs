//! One change of a key's versions: read, clear, archive, commit; again if something came in between.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::driver::Target;
use coffer_common::protocol::fenced::{FencedWriter, Verdict, WriteOutcome};
use coffer_common::protocol::tally::Current;
use coffer_common::random;
use coffer_common::types::{ObjectKey, RegisterKey, Tag};
use tokio::sync::OwnedMutexGuard;

use super::archive::{archive, clear};
use super::head::{Head, Plan};
use crate::object::bucket::Bucket;
use crate::object::core::{Core, unavailable};
use crate::object::error::{HeadBucketError, Unavailable};

/// How often something may come in between.
const TRIES: u32 = 12;
/// The longest pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(4);

/// A key that is being changed. Within this process one change of a key waits for the other, so that they do not undo each
/// other's work; between processes the key's register decides.
pub(in crate::object) struct Key {
    /// What all operations share.
    pub(in crate::object) core: Arc<Core>,
    /// The bucket as it is known now; always with the same id.
    pub(in crate::object) bucket: Arc<Bucket>,
    /// The key.
    pub(in crate::object) name: ObjectKey,
    /// Whether a commit was sent whose outcome is not known.
    pub(in crate::object) unknown: bool,
    tries: u32,
    _turn: OwnedMutexGuard<()>,
}

impl Key {
    /// Waits for its turn.
    pub(in crate::object) async fn open(core: &Arc<Core>, bucket: &Arc<Bucket>, name: &ObjectKey) -> Self {
        let turn = core.turns.take(bucket.id(), name).await;
        let (core, bucket) = (Arc::clone(core), Arc::clone(bucket));
        Self { core, bucket, name: name.clone(), unknown: false, tries: 0, _turn: turn }
    }

    /// The key's register.
    pub(in crate::object) fn target(&self) -> Target {
        self.core.target(&self.bucket, RegisterKey::object(self.bucket.id(), self.name.clone()))
    }

    /// A strict read; what was being removed is gone then. The bucket's record is read again if slots know a newer one.
    ///
    /// # Errors
    /// [`HeadBucketError`], also if the key does not come to rest.
    pub(in crate::object) async fn head(&mut self) -> Result<Head, HeadBucketError> {
        if self.tries > 0 {
            let longest = PAUSE * 2_u32.pow(self.tries.min(7));
            tokio::time::sleep(longest.mul_f64(random::between(0.0..1.0))).await;
        }
        if self.tries == TRIES {
            return Err(Unavailable::new("other changes of the key came first").into());
        }
        self.tries += 1;
        loop {
            match self.read().await {
                Err(error) => self.bucket = self.core.renewed(&self.bucket, error).await?,
                Ok(head) => return Ok(head),
            }
        }
    }

    /// [`Self::head`] once, with the bucket's record as it is known.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(in crate::object) async fn read(&self) -> Result<Head, Unavailable> {
        let (current, _) = self.core.read(&self.target(), false).await?;
        let head = Head::of(current)?;
        for at in head.removing() {
            clear(&self.core, &self.bucket, &self.name, *at).await?;
        }
        Ok(head)
    }

    /// Archives what was read, if the plan says so.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(in crate::object) async fn archive(&self, head: &Head, plan: &Plan) -> Result<(), Unavailable> {
        if plan.archive { archive(&self.core, &self.bucket, &self.name, head).await } else { Ok(()) }
    }

    /// Commits on top of what was read; returns the tag. `None`: something came in between, nothing was committed.
    ///
    /// # Errors
    /// [`HeadBucketError`]; see [`Self::unknown`].
    pub(in crate::object) async fn commit(
        &mut self,
        head: &Head,
        plan: Plan,
    ) -> Result<Option<Tag>, HeadBucketError> {
        self.archive(head, &plan).await?;
        let (target, before, version) = (self.target(), head.tag(), plan.version);
        let (peers, op) = (self.core.peers(&target), version.op);
        let decide = move |current: Option<&Current>| {
            let tag = current.map(|current| current.tag).unwrap_or_default();
            if tag == before { Verdict::Commit(version.clone()) } else { Verdict::Reject }
        };
        let machine = FencedWriter::new(peers.geometry, peers.epochs, op, None, false, decide);
        match self.core.run(&target, peers, machine).await.outcome {
            WriteOutcome::Committed { tag, .. } => Ok(Some(tag)),
            WriteOutcome::Rejected(_) => Ok(None),
            WriteOutcome::NotCommitted(trouble) => {
                self.core.buckets.suspect(trouble);
                let error = unavailable(trouble);
                if error.newer_bucket.is_none() {
                    return Err(error.into());
                }
                self.bucket = self.core.renewed(&self.bucket, error).await?;
                Ok(None)
            }
            WriteOutcome::Unknown(trouble) => {
                self.unknown = true;
                self.core.buckets.suspect(trouble);
                Err(unavailable(trouble).into())
            }
        }
    }
}
