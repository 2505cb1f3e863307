//! Replies of a slot.

use super::{Malformed, optional, required};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::{Refusal, RegisterView, SlotReply, SlotVersion};
use crate::types::{Epoch, Fence, OpId};
use wire::refusal::Reason;
use wire::slot_reply::Reply;

impl From<SlotReply> for wire::SlotReply {
    fn from(reply: SlotReply) -> Self {
        let reply = match reply {
            SlotReply::View(view, inline_shard) => {
                Reply::View(wire::ViewReply { view: Some(view.into()), inline_shard })
            }
            SlotReply::Committed { superseded } => Reply::Committed(wire::CommittedReply { superseded }),
            SlotReply::Done => Reply::Done(wire::DoneReply {}),
            SlotReply::Refused(refusal) => Reply::Refused(refusal.into()),
        };
        Self { reply: Some(reply) }
    }
}

impl TryFrom<wire::SlotReply> for SlotReply {
    type Error = Malformed;

    fn try_from(reply: wire::SlotReply) -> Result<Self, Malformed> {
        Ok(match reply.reply.ok_or(Malformed("reply"))? {
            Reply::View(r) => Self::View(required(r.view, "reply.view")?, r.inline_shard),
            Reply::Committed(r) => Self::Committed { superseded: r.superseded },
            Reply::Done(wire::DoneReply {}) => Self::Done,
            Reply::Refused(refusal) => Self::Refused(refusal.try_into()?),
        })
    }
}

impl From<RegisterView> for wire::RegisterView {
    fn from(view: RegisterView) -> Self {
        let RegisterView { fence, exclusive, current, learn, unstable } = view;
        Self {
            fence: Some(fence.into()),
            exclusive: exclusive.map(Into::into),
            current: current.map(Into::into),
            learn: Some(learn.into()),
            unstable: unstable.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::RegisterView> for RegisterView {
    type Error = Malformed;

    fn try_from(view: wire::RegisterView) -> Result<Self, Malformed> {
        Ok(Self {
            fence: required(view.fence, "view.fence")?,
            exclusive: optional(view.exclusive)?,
            current: optional(view.current)?,
            learn: required(view.learn, "view.learn")?,
            unstable: view.unstable.into_iter().map(SlotVersion::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<(Fence, OpId)> for wire::ExclusiveFence {
    fn from((fence, op): (Fence, OpId)) -> Self {
        Self { fence: Some(fence.into()), op: Some(op.into()) }
    }
}

impl TryFrom<wire::ExclusiveFence> for (Fence, OpId) {
    type Error = Malformed;

    fn try_from(exclusive: wire::ExclusiveFence) -> Result<Self, Malformed> {
        Ok((required(exclusive.fence, "exclusive.fence")?, required(exclusive.op, "exclusive.op")?))
    }
}

impl From<Refusal> for wire::Refusal {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::Fenced(fence) => Reason::Fenced(fence.into()),
            Refusal::Exclusive(fence, op) => Reason::Exclusive((fence, op).into()),
            Refusal::WrongEpoch(epoch) => Reason::WrongEpoch(epoch.0),
            Refusal::BucketChanged(revision) => Reason::BucketChanged(revision),
            Refusal::NotVoter => Reason::NotVoter(wire::refusal::NotVoter {}),
            Refusal::Full => Reason::Full(wire::refusal::Full {}),
        };
        Self { reason: Some(reason) }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = Malformed;

    fn try_from(refusal: wire::Refusal) -> Result<Self, Malformed> {
        Ok(match refusal.reason.ok_or(Malformed("refusal.reason"))? {
            Reason::Fenced(fence) => Self::Fenced(fence.try_into()?),
            Reason::Exclusive(exclusive) => {
                let (fence, op) = exclusive.try_into()?;
                Self::Exclusive(fence, op)
            }
            Reason::WrongEpoch(epoch) => Self::WrongEpoch(Epoch(epoch)),
            Reason::BucketChanged(revision) => Self::BucketChanged(revision),
            Reason::NotVoter(wire::refusal::NotVoter {}) => Self::NotVoter,
            Reason::Full(wire::refusal::Full {}) => Self::Full,
        })
    }
}
