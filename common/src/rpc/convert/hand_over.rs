//! What a voter hands over.

use super::{Malformed, optional, register_from_wire, register_to_wire, required};
use crate::node::{HandOverPage, HandOverRequest};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotVersion;
use crate::protocol::register::Register;
use crate::types::{Epoch, RegisterKey};

impl From<HandOverRequest> for wire::HandOverRequest {
    fn from(request: HandOverRequest) -> Self {
        let HandOverRequest { address, after, buckets_after } = request;
        Self { address: Some(address.into()), after, buckets_after }
    }
}

impl TryFrom<wire::HandOverRequest> for HandOverRequest {
    type Error = Malformed;

    fn try_from(request: wire::HandOverRequest) -> Result<Self, Malformed> {
        Ok(Self {
            address: required(request.address, "hand-over.address")?,
            after: request.after,
            buckets_after: request.buckets_after,
        })
    }
}

impl From<(RegisterKey, Register)> for wire::HeldRegister {
    fn from((key, register): (RegisterKey, Register)) -> Self {
        let Register { fence, exclusive, learn, versions, prepared: _ } = register;
        Self {
            register: register_to_wire(&key),
            fence: Some(fence.into()),
            exclusive: exclusive.map(Into::into),
            learn: learn.map(Into::into),
            versions: versions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::HeldRegister> for (RegisterKey, Register) {
    type Error = Malformed;

    fn try_from(held: wire::HeldRegister) -> Result<Self, Malformed> {
        let versions = held.versions.into_iter().map(SlotVersion::try_from).collect::<Result<Vec<_>, _>>()?;
        if !versions.is_sorted_by(|a, b| a.tag < b.tag) {
            return Err(Malformed("register.versions"));
        }
        let register = Register {
            fence: required(held.fence, "register.fence")?,
            exclusive: optional(held.exclusive)?,
            learn: optional(held.learn)?,
            versions,
            prepared: Vec::new(),
        };
        Ok((register_from_wire(&held.register)?, register))
    }
}

impl From<HandOverPage> for wire::HandOverResponse {
    fn from(page: HandOverPage) -> Self {
        let HandOverPage {
            epoch,
            purge_epoch,
            floor,
            registers,
            position,
            complete,
            buckets,
            buckets_position,
        } = page;
        let bucket = |(bucket, revision): (crate::types::BucketId, u64)| wire::BucketRevision {
            bucket: Some(bucket.into()),
            revision,
        };
        Self {
            epoch: epoch.0,
            purge_epoch: purge_epoch.0,
            floor: Some(floor.into()),
            registers: registers.into_iter().map(Into::into).collect(),
            position,
            complete,
            buckets: buckets.into_iter().map(bucket).collect(),
            buckets_position,
        }
    }
}

impl TryFrom<wire::HandOverResponse> for HandOverPage {
    type Error = Malformed;

    fn try_from(page: wire::HandOverResponse) -> Result<Self, Malformed> {
        let bucket = |held: wire::BucketRevision| Ok((required(held.bucket, "bucket")?, held.revision));
        Ok(Self {
            epoch: Epoch(page.epoch),
            purge_epoch: Epoch(page.purge_epoch),
            floor: required(page.floor, "page.floor")?,
            registers: page.registers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            position: page.position,
            complete: page.complete,
            buckets: page.buckets.into_iter().map(bucket).collect::<Result<_, Malformed>>()?,
            buckets_position: page.buckets_position,
        })
    }
}
