//! The state of one register at one slot, and the slot's rules (PROTOCOL §2, §3, §7).
//!
//! Owns what a slot promises: fences, exclusivity, versions and how far each has come; and per partition the epoch,
//! the floor and the slot's role. [`super::slot`] lets requests in. Never does I/O and never looks at a clock.
//!
//! Some time after STABLE a node asks for [`Register::freeable`], drops those shards, calls [`Register::free`] and makes
//! the register durable.

use crate::types::{Epoch, Fence, OpId, RegisterKind, SlotSet, Tag};

use super::message::{
    Refusal, RegisterView, SlotReply, SlotRequest, SlotVersion, Version, VersionKind, VersionState,
};

/// A slot's part in its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Counted.
    #[default]
    Voter = 0,
    /// Has lost its registers and is learning them; records what it is sent, is counted nowhere.
    Joining = 1,
    /// Refuses everything: has been replaced, for good, or has lost its state and not begun to join.
    Out = 2,
}

/// What a slot keeps per partition; durable before any reply that rests on it, never lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartitionState {
    /// The highest epoch seen; requests of an older one are refused.
    pub epoch: Epoch,
    /// The epoch of the last purge that this slot adopted; never above `epoch`.
    pub purge_epoch: Epoch,
    /// What a key without a record has at most been: dropped tombstones raise it.
    pub floor: Tag,
    /// The slot's role.
    pub role: Role,
}

impl PartitionState {
    /// Lets a request of the caller's epoch in; a newer epoch is adopted.
    ///
    /// Returns whether the state changed (it must be durable before the request is answered).
    ///
    /// # Errors
    /// [`Refusal::WrongEpoch`] if the caller's is older; [`Refusal::NotVoter`] if the slot is OUT.
    pub fn admit(&mut self, epoch: Epoch) -> Result<bool, Refusal> {
        if self.role == Role::Out {
            return Err(Refusal::NotVoter);
        }
        if epoch < self.epoch {
            return Err(Refusal::WrongEpoch(self.epoch));
        }
        let newer = epoch > self.epoch;
        self.epoch = epoch;
        Ok(newer)
    }

    /// Adopts the epoch under which tombstones are about to be dropped. Returns whether the state changed.
    pub fn adopt_purge(&mut self, epoch: Epoch) -> bool {
        let before = *self;
        self.epoch = self.epoch.max(epoch);
        self.purge_epoch = self.purge_epoch.max(epoch);
        *self != before
    }
}

/// What a slot keeps per register. [`Register::default`] is a register without a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register {
    /// The highest fence promised.
    pub fence: Fence,
    /// Who alone may commit under that fence.
    pub exclusive: Option<(Fence, OpId)>,
    /// The floor when the first promise or version was recorded; `None` before.
    pub learn: Option<Tag>,
    /// LEARNED, COMMITTED and STABLE versions, ascending by tag; the last one is current.
    pub versions: Vec<SlotVersion>,
    /// Ops whose shard is durable here and of which no version is known yet.
    pub prepared: Vec<OpId>,
}

/// What came of a request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The answer, to be sent once the change is durable.
    pub reply: SlotReply,
    /// Whether the register changed and must be made durable.
    pub changed: bool,
}

impl Register {
    /// The current version: the one with the highest tag.
    pub fn current(&self) -> Option<&SlotVersion> {
        self.versions.last()
    }

    /// Whether nothing at all is recorded, so that the record may go.
    pub fn is_vacant(&self) -> bool {
        self.learn.is_none() && self.versions.is_empty() && self.prepared.is_empty()
    }

    /// Applies one request that [`PartitionState::admit`] has let in.
    pub fn step(&mut self, partition: &PartitionState, request: &SlotRequest) -> Step {
        let (reply, changed) = match request {
            SlotRequest::Query { .. } => (self.view(partition, false), false),
            SlotRequest::Prepare { op, shard } => return self.prepare(partition, *op, !shard.is_empty()),
            SlotRequest::Commit { version, tag } => self.commit(partition, version, *tag),
            SlotRequest::Fence { fence, op } => self.raise_fence(partition, *fence, *op),
            SlotRequest::Release { fence } => (SlotReply::Done, self.release(*fence)),
            SlotRequest::Stable { version, tag, acknowledged } => {
                (SlotReply::Done, self.stable(partition, version, *tag, *acknowledged))
            }
            SlotRequest::Install { version, tag, source_stable, shard } => {
                let state = if *source_stable { VersionState::Stable } else { VersionState::Learned };
                (SlotReply::Done, self.install(partition, (version, *tag, state), !shard.is_empty()))
            }
            SlotRequest::Abandon { op } => (SlotReply::Done, self.abandon(*op)),
        };
        Step { reply: counted(partition, reply), changed }
    }

    /// PREPARE, once the shard (if the version has one) is durable. Promises nothing, so it copies no floor.
    pub fn prepare(&mut self, partition: &PartitionState, op: OpId, has_shard: bool) -> Step {
        let mut changed = false;
        if has_shard {
            if let Some(version) = self.versions.iter_mut().find(|v| v.version.op == op) {
                changed = !version.shard_present;
                version.shard_present = true;
            } else if !self.prepared.contains(&op) {
                self.prepared.push(op);
                changed = true;
            }
        }
        Step { reply: counted(partition, self.view(partition, false)), changed }
    }

    /// Superseded versions that may be freed after the read grace: null versions below a STABLE null version, and versions
    /// that are neither null nor have shards below any STABLE one.
    ///
    /// An attempt at a part is no null version: a later attempt does not free it, because a completed object may be made
    /// of it. What is known to end all other attempts, a tombstone or the one attempt that is left, is committed as a null
    /// version, and below that one everything is freeable in a part's register.
    pub fn freeable(&self, kind: RegisterKind) -> impl Iterator<Item = &SlotVersion> {
        let mut stable = self.versions.iter().rev().filter(|v| v.state == VersionState::Stable);
        let newest = stable.clone().map(|v| v.tag).next().unwrap_or_default();
        let newest_null = stable.find(|v| v.version.null_version).map(|v| v.tag).unwrap_or_default();
        self.versions.iter().filter(move |v| {
            if v.version.null_version || kind == RegisterKind::Part {
                v.tag < newest_null
            } else {
                !v.version.has_shards() && v.tag < newest
            }
        })
    }

    /// Forgets the version of this op if it is freeable. Returns whether the register changed.
    pub fn free(&mut self, kind: RegisterKind, op: OpId) -> bool {
        let freeable = self.freeable(kind).any(|v| v.version.op == op);
        if freeable {
            self.versions.retain(|v| v.version.op != op);
        }
        freeable
    }

    /// Forgets an op that is only prepared. Returns whether it was.
    pub fn abandon(&mut self, op: OpId) -> bool {
        let before = self.prepared.len();
        self.prepared.retain(|prepared| *prepared != op);
        self.prepared.len() != before
    }

    /// What the partition's floor must have risen to before the tombstone of this tag is dropped here; `None` if it may not
    /// be: it is not the only version, not STABLE, not a null version, or somebody holds the fence alone.
    pub fn floor_to_drop(&self, tag: Tag) -> Option<Tag> {
        let [only] = self.versions.as_slice() else { return None };
        let Version { kind, null_version, .. } = &only.version;
        let droppable = only.tag == tag
            && *kind == VersionKind::Tombstone
            && *null_version
            && only.state == VersionState::Stable
            && self.exclusive.is_none();
        droppable.then(|| Tag { fence: self.fence.max(tag.fence), ..tag })
    }

    /// Drops the tombstone of this tag, once the floor covers it (§7; [`super::purge`] says when). Ops that are only prepared
    /// stay. Returns whether the register changed.
    pub fn drop_tombstone(&mut self, partition: &PartitionState, tag: Tag) -> bool {
        let covered = self.floor_to_drop(tag).is_some_and(|floor| floor <= partition.floor);
        if covered {
            *self = Self { prepared: std::mem::take(&mut self.prepared), ..Self::default() };
        }
        covered
    }

    /// Hand-over to a slot that has lost its state (§8): takes the voter's promises, and its versions as STABLE or
    /// LEARNED, never with a vote. The caller first raises this slot's floor to the voter's.
    pub fn hand_over(&mut self, partition: &PartitionState, voter: &Register) -> bool {
        let before = self.clone();
        for version in &voter.versions {
            let state = version.state.max(VersionState::Learned);
            let state = if state == VersionState::Stable { state } else { VersionState::Learned };
            self.install(partition, (&version.version, version.tag, state), false);
            self.know_acknowledged((version.version.op, version.tag), version.acknowledged);
        }
        if let Some(learn) = voter.learn {
            self.record(partition);
            self.learn = self.learn.max(Some(learn));
            if voter.fence > self.fence {
                (self.fence, self.exclusive) = (voter.fence, voter.exclusive);
            } else if voter.fence == self.fence && self.exclusive.is_none() {
                let committed = self.current().is_some_and(|v| v.tag.fence >= voter.fence);
                self.exclusive = voter.exclusive.filter(|_| !committed);
            }
        }
        if self.learn.is_some() {
            self.learn = self.learn.max(Some(partition.floor));
            self.rise(partition.floor.fence);
        }
        *self != before
    }

    /// What QUERY, PREPARE and FENCE tell.
    fn view(&self, partition: &PartitionState, unstable: bool) -> SlotReply {
        let current = self.current();
        let others = self.versions.iter().rev().skip(1).filter(|v| v.state != VersionState::Stable);
        let view = RegisterView {
            fence: self.promised(partition),
            exclusive: self.exclusive,
            learn: self.learn.unwrap_or(partition.floor).max(current.map(|v| v.tag).unwrap_or_default()),
            current: current.cloned(),
            unstable: if unstable { others.cloned().collect() } else { Vec::new() },
        };
        SlotReply::View(view, None)
    }

    fn commit(&mut self, partition: &PartitionState, version: &Version, tag: Tag) -> (SlotReply, bool) {
        let fence = self.promised(partition);
        if tag.fence < fence {
            return (SlotReply::Refused(Refusal::Fenced(fence)), false);
        }
        if let Some((fence, owner)) = self.exclusive
            && tag.fence == fence
            && tag.writer != owner
        {
            return (SlotReply::Refused(Refusal::Exclusive(fence, owner)), false);
        }
        let mut changed = self.record(partition);
        let state = match partition.role {
            Role::Voter => VersionState::Committed,
            Role::Joining | Role::Out => VersionState::Learned,
        };
        changed |= self.put(version, tag, state);
        changed |= self.rise(tag.fence);
        if self.exclusive == Some((tag.fence, tag.writer)) {
            self.exclusive = None;
            changed = true;
        }
        let superseded = self.current().is_some_and(|current| tag < current.tag);
        (SlotReply::Committed { superseded }, changed)
    }

    fn raise_fence(&mut self, partition: &PartitionState, fence: Fence, op: OpId) -> (SlotReply, bool) {
        let promised = self.promised(partition);
        if fence > promised {
            self.record(partition);
            (self.fence, self.exclusive) = (fence, Some((fence, op)));
            (self.view(partition, true), true)
        } else if self.exclusive == Some((fence, op)) {
            (self.view(partition, true), false)
        } else {
            (SlotReply::Refused(Refusal::Fenced(promised)), false)
        }
    }

    fn release(&mut self, fence: Fence) -> bool {
        let held = self.exclusive.is_some_and(|(held, _)| held == fence);
        if held {
            self.exclusive = None;
        }
        held
    }

    fn stable(&mut self, at: &PartitionState, version: &Version, tag: Tag, acknowledged: SlotSet) -> bool {
        let known = self.versions.iter().any(|v| v.version.op == version.op && v.tag == tag);
        if !known && self.supersedes(version, tag) {
            return false;
        }
        let mut changed = self.record(at);
        changed |= self.put(version, tag, VersionState::Stable);
        changed |= self.rise(tag.fence);
        // The writer's notice and a settler's may both come: each tells of slots that the other does not know of.
        changed | self.know_acknowledged((version.op, tag), acknowledged)
    }

    pub(super) fn install(
        &mut self,
        at: &PartitionState,
        (version, tag, state): (&Version, Tag, VersionState),
        shard: bool,
    ) -> bool {
        let known = self.versions.iter().any(|v| v.version.op == version.op);
        if !known && self.supersedes(version, tag) {
            return false;
        }
        let mut changed = self.record(at);
        changed |= self.put(version, tag, state);
        changed |= self.rise(tag.fence);
        if let Some(held) = self.versions.iter_mut().find(|v| v.version.op == version.op) {
            changed |= shard && !held.shard_present;
            held.shard_present |= shard;
        }
        changed
    }

    /// Adds slots that have acknowledged a version under this tag. What is taken over from a peer comes with those that the
    /// peer knows of: else it would be owed to all others, and each of them would tell all others that it has it.
    pub(super) fn know_acknowledged(&mut self, (op, tag): (OpId, Tag), slots: SlotSet) -> bool {
        let Some(held) = self.versions.iter_mut().find(|v| v.version.op == op && v.tag == tag) else {
            return false;
        };
        let known = held.acknowledged;
        held.acknowledged.0 |= slots.0;
        held.acknowledged != known
    }

    /// Whether the current version replaces one of this tag, so that it would be recorded only to be freed.
    fn supersedes(&self, version: &Version, tag: Tag) -> bool {
        let replaces =
            |v: &SlotVersion| v.tag > tag && v.version.null_version && v.state == VersionState::Stable;
        version.null_version && self.versions.iter().any(replaces)
    }

    /// Adds the version, or raises its tag (a re-stamp) or its state; lowers neither.
    fn put(&mut self, version: &Version, tag: Tag, state: VersionState) -> bool {
        let mut shard_present = !version.has_shards();
        if let Some(at) = self.versions.iter().position(|v| v.version.op == version.op) {
            let held = &mut self.versions[at];
            if tag <= held.tag {
                let raise = tag == held.tag && state > held.state;
                if raise {
                    held.state = state;
                }
                return raise;
            }
            shard_present = held.shard_present;
            self.versions.remove(at);
        } else if let Some(at) = self.prepared.iter().position(|op| *op == version.op) {
            self.prepared.swap_remove(at);
            shard_present = true;
        }
        // Who acknowledged it under a lower tag has not acknowledged this one.
        let acknowledged = SlotSet::default();
        let entry = SlotVersion { version: version.clone(), tag, state, shard_present, acknowledged };
        let at = self.versions.partition_point(|v| v.tag < tag);
        self.versions.insert(at, entry);
        true
    }

    /// The first promise or version copies the floor into the record.
    fn record(&mut self, partition: &PartitionState) -> bool {
        if self.learn.is_some() {
            return false;
        }
        self.learn = Some(partition.floor);
        self.fence = self.fence.max(partition.floor.fence);
        true
    }

    /// Raises the fence; an exclusivity under a lower one ends.
    fn rise(&mut self, fence: Fence) -> bool {
        let before = (self.fence, self.exclusive);
        self.fence = self.fence.max(fence);
        self.exclusive = self.exclusive.filter(|(held, _)| *held >= self.fence);
        (self.fence, self.exclusive) != before
    }

    fn promised(&self, partition: &PartitionState) -> Fence {
        if self.learn.is_some() { self.fence } else { partition.floor.fence }
    }
}

/// A slot that is no voter answers nothing that could be counted.
fn counted(partition: &PartitionState, reply: SlotReply) -> SlotReply {
    match (partition.role, reply) {
        (Role::Voter, reply) | (_, reply @ SlotReply::Done) => reply,
        _ => SlotReply::Refused(Refusal::NotVoter),
    }
}

#[cfg(test)]
mod tests;
