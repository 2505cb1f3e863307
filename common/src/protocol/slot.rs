//! How a slot serves a request: who is let in, and what of it is recorded (PROTOCOL §3, §9).
//!
//! Owns the order of the checks: the partition's epoch, the bucket's revision, then the register's own rules. Never does
//! I/O. A node serves a request as follows, and so do simulation and model:
//!
//! 1. Load the register (or [`Register::default`] if there is no record) and call [`serve`]; a large shard, once its file
//!    is durable, calls [`serve_shard`] instead.
//! 2. If [`Served::partition_changed`], make the partition's state durable; if [`Served::register_changed`], the *whole*
//!    new register (the partition's state no later); only then send [`Served::reply`].
//!
//! Crash consistency: a reply is sent only after step 2, so what is read back after a crash holds every promise that
//! anybody has seen.

use crate::types::{Epoch, OpId};

use super::message::{Refusal, SlotReply, SlotRequest};
use super::register::{PartitionState, Register, Role, Step};

/// What a slot knows of a bucket; durable before any reply that rests on it, never lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BucketState {
    /// The highest revision of its record that was adopted.
    pub revision: u64,
}

impl BucketState {
    /// Lets a caller in whose record of the bucket has this revision.
    ///
    /// # Errors
    /// [`Refusal::BucketChanged`] if a newer record was adopted: what the caller's allows may not be allowed any more.
    pub fn admit(self, revision: u64) -> Result<(), Refusal> {
        if revision < self.revision { Err(Refusal::BucketChanged(self.revision)) } else { Ok(()) }
    }

    /// Adopts a revision: whoever knows only an older one is refused from now on. Returns whether the state changed.
    pub fn adopt(&mut self, revision: u64) -> bool {
        let newer = revision > self.revision;
        self.revision = self.revision.max(revision);
        newer
    }
}

/// What the sender of a request knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The partition's epoch in its map.
    pub epoch: Epoch,
    /// The revision of its record of the bucket.
    pub bucket_revision: u64,
}

/// The state that a request meets.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The slot's state in the partition.
    pub partition: &'a mut PartitionState,
    /// What it knows of the register's bucket.
    pub bucket: BucketState,
    /// The register.
    pub register: &'a mut Register,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The answer, to be sent once the changes are durable.
    pub reply: SlotReply,
    /// Whether the partition's state changed.
    pub partition_changed: bool,
    /// Whether the register changed.
    pub register_changed: bool,
}

impl Served {
    fn refused(refusal: Refusal, partition_changed: bool) -> Self {
        Self { reply: SlotReply::Refused(refusal), partition_changed, register_changed: false }
    }
}

/// Serves one request.
pub fn serve(slot: Slot<'_>, caller: Caller, request: &SlotRequest) -> Served {
    if let SlotRequest::Prepare { op, shard } = request {
        return prepare(slot, caller, *op, !shard.is_empty());
    }
    let Slot { partition, bucket, register } = slot;
    let partition_changed = match partition.admit(caller.epoch) {
        Ok(changed) => changed,
        Err(refusal) => return Served::refused(refusal, false),
    };
    if shows_record(request)
        && let Err(refusal) = bucket.admit(caller.bucket_revision)
    {
        return Served::refused(refusal, partition_changed);
    }
    let Step { reply, changed } = register.step(partition, request);
    Served { reply, partition_changed, register_changed: changed }
}

/// Whether a request is allowed by the caller's record of the bucket. A read is: in a bucket that was deleted it finds
/// nothing, while one of the same name may hold what was acknowledged. So is FENCE: a write without shards shows its
/// record to a quorum by nothing else, and a COMMIT that only slots with the old record accept would take effect when it
/// is written back. The others carry what was decided, or give back what was taken.
fn shows_record(request: &SlotRequest) -> bool {
    match request {
        SlotRequest::Query { .. }
        | SlotRequest::Prepare { .. }
        | SlotRequest::Fence { .. }
        | SlotRequest::Commit { .. } => true,
        SlotRequest::Release { .. }
        | SlotRequest::Stable { .. }
        | SlotRequest::Install { .. }
        | SlotRequest::Abandon { .. } => false,
    }
}

/// Serves the PREPARE of a large shard that is durable.
pub fn serve_shard(slot: Slot<'_>, caller: Caller, op: OpId) -> Served {
    prepare(slot, caller, op, true)
}

/// A prepared shard belongs to its op, not to an epoch: under an older epoch it is recorded all the same, and the answer
/// is `WrongEpoch`, so that the caller asks again.
fn prepare(slot: Slot<'_>, caller: Caller, op: OpId, has_shard: bool) -> Served {
    let Slot { partition, bucket, register } = slot;
    let admitted = partition.admit(caller.epoch);
    let partition_changed = admitted == Ok(true);
    if admitted == Err(Refusal::NotVoter) {
        return Served::refused(Refusal::NotVoter, false);
    }
    if let Err(refusal) = bucket.admit(caller.bucket_revision) {
        return Served::refused(refusal, partition_changed);
    }
    let Step { reply, changed } = register.prepare(partition, op, has_shard);
    let reply = match admitted {
        Ok(_) => reply,
        Err(refusal) if partition.role == Role::Voter => SlotReply::Refused(refusal),
        Err(_) => SlotReply::Refused(Refusal::NotVoter),
    };
    Served { reply, partition_changed, register_changed: changed }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::message::{Version, VersionKind};
    use super::*;
    use crate::types::{Fence, Tag};

    const OP: OpId = OpId { session: 1, counter: 1 };

    fn requests() -> [SlotRequest; 4] {
        let version = Version {
            op: OP,
            kind: VersionKind::Data,
            k: 2,
            shard_len_bytes: 1,
            block_len_bytes: 4096,
            null_version: true,
            metadata: Bytes::new(),
        };
        let tag = Tag { seq: 1, writer: OP, ..Tag::default() };
        [
            SlotRequest::Prepare { op: OP, shard: Bytes::from_static(b"s") },
            SlotRequest::Commit { version, tag },
            SlotRequest::Fence { fence: Fence { generation: 0, revision: 1 }, op: OP },
            SlotRequest::Query { inline_data: false },
        ]
    }

    /// What is answered and recorded when the slot knows epoch 2 and bucket revision 5.
    fn check(
        role: Role,
        (epoch, bucket_revision): (u64, u64),
        refusals: [Option<Refusal>; 4],
        recorded: bool,
    ) {
        let mut register = Register::default();
        for (request, refusal) in requests().iter().zip(refusals) {
            let mut partition = PartitionState { epoch: Epoch(2), role, ..PartitionState::default() };
            let bucket = BucketState { revision: 5 };
            let slot = Slot { partition: &mut partition, bucket, register: &mut register };
            let reply = serve(slot, Caller { epoch: Epoch(epoch), bucket_revision }, request).reply;
            match refusal {
                Some(refusal) => assert_eq!(reply, SlotReply::Refused(refusal), "{request:?}"),
                None => assert!(!matches!(reply, SlotReply::Refused(_)), "{request:?} {reply:?}"),
            }
        }
        let holds = register.prepared.contains(&OP) || register.versions.iter().any(|v| v.shard_present);
        assert_eq!(holds, recorded);
    }

    #[test]
    fn an_old_epoch_is_refused_and_its_shard_recorded() {
        let old = || Some(Refusal::WrongEpoch(Epoch(2)));
        check(Role::Voter, (2, 5), [None, None, None, None], true);
        check(Role::Voter, (1, 5), [old(), old(), old(), old()], true);
        check(Role::Joining, (1, 5), [Some(Refusal::NotVoter), old(), old(), old()], true);
        let out = || Some(Refusal::NotVoter);
        check(Role::Out, (3, 5), [out(), out(), out(), out()], false);
    }

    #[test]
    fn an_old_bucket_record_is_refused_by_writes_and_reads() {
        let changed = || Some(Refusal::BucketChanged(5));
        check(Role::Voter, (2, 4), [changed(), changed(), changed(), changed()], false);
        check(Role::Voter, (2, 6), [None, None, None, None], true);
    }

    #[test]
    fn a_bucket_revision_only_rises() {
        let mut bucket = BucketState::default();
        assert!(bucket.adopt(3) && !bucket.adopt(3) && !bucket.adopt(2));
        assert_eq!(bucket, BucketState { revision: 3 });
    }
}
