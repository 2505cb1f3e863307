//! Identities, fences, tags, slot addresses.

use super::{Malformed, narrow, required};
use crate::limits::{MAX_SLOTS, PARTITION_COUNT};
use crate::node::SlotAddress;
use crate::proto::storage_v1 as wire;
use crate::types::{
    BucketId, ClusterId, DriveId, Epoch, Fence, Incarnation, OpId, PartitionId, RegisterKind, SlotIndex,
    SlotSet, Tag,
};

impl From<u128> for wire::Id {
    fn from(value: u128) -> Self {
        Self { high: (value >> 64) as u64, low: value as u64 }
    }
}

impl From<wire::Id> for u128 {
    fn from(id: wire::Id) -> Self {
        Self::from(id.high) << 64 | Self::from(id.low)
    }
}

macro_rules! id {
    ($name:ident) => {
        impl From<$name> for wire::Id {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl TryFrom<wire::Id> for $name {
            type Error = Malformed;

            fn try_from(id: wire::Id) -> Result<Self, Malformed> {
                Ok(Self(id.into()))
            }
        }
    };
}

id!(ClusterId);
id!(DriveId);
id!(BucketId);

impl From<OpId> for wire::OpId {
    fn from(op: OpId) -> Self {
        let OpId { session, counter } = op;
        Self { session, counter }
    }
}

impl TryFrom<wire::OpId> for OpId {
    type Error = Malformed;

    fn try_from(op: wire::OpId) -> Result<Self, Malformed> {
        Ok(Self { session: op.session, counter: op.counter })
    }
}

impl From<Fence> for wire::Fence {
    fn from(fence: Fence) -> Self {
        let Fence { generation, revision } = fence;
        Self { generation, revision }
    }
}

impl TryFrom<wire::Fence> for Fence {
    type Error = Malformed;

    fn try_from(fence: wire::Fence) -> Result<Self, Malformed> {
        Ok(Self { generation: fence.generation, revision: fence.revision })
    }
}

impl From<Tag> for wire::Tag {
    fn from(tag: Tag) -> Self {
        let Tag { fence, seq, writer } = tag;
        Self { fence: Some(fence.into()), seq, writer: Some(writer.into()) }
    }
}

impl TryFrom<wire::Tag> for Tag {
    type Error = Malformed;

    fn try_from(tag: wire::Tag) -> Result<Self, Malformed> {
        Ok(Self {
            fence: required(tag.fence, "tag.fence")?,
            seq: tag.seq,
            writer: required(tag.writer, "tag.writer")?,
        })
    }
}

impl From<SlotAddress> for wire::SlotAddress {
    fn from(address: SlotAddress) -> Self {
        let SlotAddress { cluster, drive, incarnation, partition, slot, epoch } = address;
        Self {
            cluster: Some(cluster.into()),
            drive: Some(drive.into()),
            incarnation: incarnation.0,
            partition: partition.0.into(),
            slot: slot.0.into(),
            epoch: epoch.0,
        }
    }
}

impl TryFrom<wire::SlotAddress> for SlotAddress {
    type Error = Malformed;

    fn try_from(address: wire::SlotAddress) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: required(address.cluster, "address.cluster")?,
            drive: required(address.drive, "address.drive")?,
            incarnation: Incarnation(address.incarnation),
            partition: partition(address.partition)?,
            slot: slot(address.slot)?,
            epoch: Epoch(address.epoch),
        })
    }
}

pub(super) fn partition(value: u32) -> Result<PartitionId, Malformed> {
    let id: u16 = narrow(value, "partition")?;
    if id < PARTITION_COUNT { Ok(PartitionId(id)) } else { Err(Malformed("partition")) }
}

pub(super) fn slot(value: u32) -> Result<SlotIndex, Malformed> {
    let index: u8 = narrow(value, "slot")?;
    if usize::from(index) < MAX_SLOTS { Ok(SlotIndex(index)) } else { Err(Malformed("slot")) }
}

pub(super) fn slot_set(value: u32) -> Result<SlotSet, Malformed> {
    Ok(SlotSet(narrow(value, "acknowledged")?))
}

pub(super) fn kind_to_wire(kind: RegisterKind) -> i32 {
    let kind = match kind {
        RegisterKind::Object => wire::RegisterKind::Object,
        RegisterKind::Version => wire::RegisterKind::Version,
        RegisterKind::Upload => wire::RegisterKind::Upload,
        RegisterKind::Part => wire::RegisterKind::Part,
    };
    kind.into()
}

pub(super) fn kind_from_wire(kind: i32) -> Result<RegisterKind, Malformed> {
    match wire::RegisterKind::try_from(kind) {
        Ok(wire::RegisterKind::Object) => Ok(RegisterKind::Object),
        Ok(wire::RegisterKind::Version) => Ok(RegisterKind::Version),
        Ok(wire::RegisterKind::Upload) => Ok(RegisterKind::Upload),
        Ok(wire::RegisterKind::Part) => Ok(RegisterKind::Part),
        Ok(wire::RegisterKind::Unspecified) | Err(_) => Err(Malformed("register kind")),
    }
}
