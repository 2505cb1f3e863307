//! Calls to a slot.

use super::id::slot_set;
use super::{Malformed, register_from_wire, register_to_wire, required};
use crate::node::SlotCall;
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotRequest;
use wire::slot_call::Request;

impl From<SlotCall> for wire::SlotCall {
    fn from(call: SlotCall) -> Self {
        let SlotCall { address, register, bucket_revision, request } = call;
        Self {
            address: Some(address.into()),
            register: register_to_wire(&register),
            bucket_revision,
            request: Some(request.into()),
        }
    }
}

impl TryFrom<wire::SlotCall> for SlotCall {
    type Error = Malformed;

    fn try_from(call: wire::SlotCall) -> Result<Self, Malformed> {
        Ok(Self {
            address: required(call.address, "call.address")?,
            register: register_from_wire(&call.register)?,
            bucket_revision: call.bucket_revision,
            request: required(call.request, "call.request")?,
        })
    }
}

impl From<SlotRequest> for Request {
    fn from(request: SlotRequest) -> Self {
        match request {
            SlotRequest::Query { inline_data } => Self::Query(wire::QueryRequest { inline_data }),
            SlotRequest::Prepare { op, shard } => {
                Self::Prepare(wire::PrepareRequest { op: Some(op.into()), shard })
            }
            SlotRequest::Commit { version, tag } => {
                Self::Commit(wire::CommitRequest { version: Some(version.into()), tag: Some(tag.into()) })
            }
            SlotRequest::Fence { fence, op } => {
                Self::Fence(wire::FenceRequest { fence: Some(fence.into()), op: Some(op.into()) })
            }
            SlotRequest::Release { fence } => {
                Self::Release(wire::ReleaseRequest { fence: Some(fence.into()) })
            }
            SlotRequest::Stable { version, tag, acknowledged } => Self::Stable(wire::StableRequest {
                version: Some(version.into()),
                tag: Some(tag.into()),
                acknowledged: acknowledged.0.into(),
            }),
            SlotRequest::Install { version, tag, source_stable, shard } => {
                Self::Install(wire::InstallRequest {
                    version: Some(version.into()),
                    tag: Some(tag.into()),
                    source_stable,
                    shard,
                })
            }
            SlotRequest::Abandon { op } => Self::Abandon(wire::AbandonRequest { op: Some(op.into()) }),
        }
    }
}

impl TryFrom<Request> for SlotRequest {
    type Error = Malformed;

    fn try_from(request: Request) -> Result<Self, Malformed> {
        Ok(match request {
            Request::Query(r) => Self::Query { inline_data: r.inline_data },
            Request::Prepare(r) => Self::Prepare { op: required(r.op, "prepare.op")?, shard: r.shard },
            Request::Commit(r) => Self::Commit {
                version: required(r.version, "commit.version")?,
                tag: required(r.tag, "commit.tag")?,
            },
            Request::Fence(r) => {
                Self::Fence { fence: required(r.fence, "fence.fence")?, op: required(r.op, "fence.op")? }
            }
            Request::Release(r) => Self::Release { fence: required(r.fence, "release.fence")? },
            Request::Stable(r) => Self::Stable {
                version: required(r.version, "stable.version")?,
                tag: required(r.tag, "stable.tag")?,
                acknowledged: slot_set(r.acknowledged)?,
            },
            Request::Install(r) => Self::Install {
                version: required(r.version, "install.version")?,
                tag: required(r.tag, "install.tag")?,
                source_stable: r.source_stable,
                shard: r.shard,
            },
            Request::Abandon(r) => Self::Abandon { op: required(r.op, "abandon.op")? },
        })
    }
}
