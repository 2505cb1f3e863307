//! What nodes owe to slots.

use super::id::{partition, slot};
use super::{Malformed, register_from_wire, register_to_wire, required};
use crate::limits::MAX_SLOTS;
use crate::node::{OwedPage, OwedRegister, OwedRequest};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::SlotVersion;
use crate::types::Epoch;

impl From<OwedRequest> for wire::OwedRequest {
    fn from(request: OwedRequest) -> Self {
        let OwedRequest { cluster, slots, after, limit } = request;
        let slots = slots
            .into_iter()
            .map(|(partition, slot)| u32::from(partition.0) * MAX_SLOTS as u32 + u32::from(slot.0));
        Self { cluster: Some(cluster.into()), slots: slots.collect(), after, limit }
    }
}

impl TryFrom<wire::OwedRequest> for OwedRequest {
    type Error = Malformed;

    fn try_from(request: wire::OwedRequest) -> Result<Self, Malformed> {
        let both =
            |number: u32| Ok((partition(number / MAX_SLOTS as u32)?, slot(number % MAX_SLOTS as u32)?));
        Ok(Self {
            cluster: required(request.cluster, "owed.cluster")?,
            slots: request.slots.into_iter().map(both).collect::<Result<_, Malformed>>()?,
            after: request.after,
            limit: request.limit,
        })
    }
}

impl From<OwedRegister> for wire::OwedRegister {
    fn from(owed: OwedRegister) -> Self {
        let OwedRegister { register, partition, epoch, versions } = owed;
        Self {
            register: register_to_wire(&register),
            partition: partition.0.into(),
            epoch: epoch.0,
            versions: versions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::OwedRegister> for OwedRegister {
    type Error = Malformed;

    fn try_from(owed: wire::OwedRegister) -> Result<Self, Malformed> {
        Ok(Self {
            register: register_from_wire(&owed.register)?,
            partition: partition(owed.partition)?,
            epoch: Epoch(owed.epoch),
            versions: owed.versions.into_iter().map(SlotVersion::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<OwedPage> for wire::OwedResponse {
    fn from(page: OwedPage) -> Self {
        let OwedPage { registers, next, complete } = page;
        Self { registers: registers.into_iter().map(Into::into).collect(), next, complete }
    }
}

impl TryFrom<wire::OwedResponse> for OwedPage {
    type Error = Malformed;

    fn try_from(page: wire::OwedResponse) -> Result<Self, Malformed> {
        Ok(Self {
            registers: page.registers.into_iter().map(OwedRegister::try_from).collect::<Result<_, _>>()?,
            next: page.next,
            complete: page.complete,
        })
    }
}
