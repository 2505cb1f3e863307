//! Versions, as such and as one slot knows them.

use super::id::slot_set;
use super::{Malformed, narrow, required};
use crate::proto::storage_v1 as wire;
use crate::protocol::message::{SlotVersion, Version, VersionKind, VersionState};

impl From<Version> for wire::Version {
    fn from(version: Version) -> Self {
        let Version { op, kind, k, shard_len_bytes, block_len_bytes, null_version, metadata } = version;
        let kind = match kind {
            VersionKind::Data => wire::VersionKind::Data,
            VersionKind::Tombstone => wire::VersionKind::Tombstone,
        };
        Self {
            op: Some(op.into()),
            kind: kind.into(),
            k: k.into(),
            shard_len_bytes,
            block_len_bytes,
            metadata,
            null_version,
        }
    }
}

impl TryFrom<wire::Version> for Version {
    type Error = Malformed;

    fn try_from(version: wire::Version) -> Result<Self, Malformed> {
        let kind = match wire::VersionKind::try_from(version.kind) {
            Ok(wire::VersionKind::Data) => VersionKind::Data,
            Ok(wire::VersionKind::Tombstone) => VersionKind::Tombstone,
            Ok(wire::VersionKind::Unspecified) | Err(_) => return Err(Malformed("version.kind")),
        };
        Ok(Self {
            op: required(version.op, "version.op")?,
            kind,
            k: narrow(version.k, "version.k")?,
            shard_len_bytes: version.shard_len_bytes,
            block_len_bytes: version.block_len_bytes,
            null_version: version.null_version,
            metadata: version.metadata,
        })
    }
}

impl From<SlotVersion> for wire::SlotVersion {
    fn from(held: SlotVersion) -> Self {
        let SlotVersion { version, tag, state, shard_present, acknowledged } = held;
        let state = match state {
            VersionState::Learned => wire::VersionState::Learned,
            VersionState::Committed => wire::VersionState::Committed,
            VersionState::Stable => wire::VersionState::Stable,
        };
        Self {
            version: Some(version.into()),
            tag: Some(tag.into()),
            state: state.into(),
            shard_present,
            acknowledged: acknowledged.0.into(),
        }
    }
}

impl TryFrom<wire::SlotVersion> for SlotVersion {
    type Error = Malformed;

    fn try_from(held: wire::SlotVersion) -> Result<Self, Malformed> {
        let state = match wire::VersionState::try_from(held.state) {
            Ok(wire::VersionState::Learned) => VersionState::Learned,
            Ok(wire::VersionState::Committed) => VersionState::Committed,
            Ok(wire::VersionState::Stable) => VersionState::Stable,
            Ok(wire::VersionState::Unspecified) | Err(_) => return Err(Malformed("version.state")),
        };
        Ok(Self {
            version: required(held.version, "version")?,
            tag: required(held.tag, "version.tag")?,
            state,
            shard_present: held.shard_present,
            acknowledged: slot_set(held.acknowledged)?,
        })
    }
}
