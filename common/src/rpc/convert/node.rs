//! A node's own state and the snapshots it keeps.

use bytes::Bytes;

use super::{Malformed, optional, required};
use crate::node::{
    DriveHeal, DriveInfo, DriveJoin, DriveScrub, DriveState, Lacking, NodeInfo, Partitions, Snapshot,
    SnapshotKind,
};
use crate::proto::storage_v1 as wire;
use crate::types::{DriveId, Incarnation, NodeId};

impl From<DriveInfo> for wire::DriveInfo {
    fn from(drive: DriveInfo) -> Self {
        let state = match drive.state {
            DriveState::Online => wire::DriveState::Online,
            DriveState::Suspect => wire::DriveState::Suspect,
            DriveState::ReadOnly => wire::DriveState::ReadOnly,
            DriveState::Failed => wire::DriveState::Failed,
            DriveState::Offline => wire::DriveState::Offline,
        };
        Self {
            id: Some(drive.id.into()),
            incarnation: drive.incarnation.0,
            path: drive.path,
            state: state.into(),
            reason: drive.reason,
            capacity_bytes: drive.capacity_bytes,
            free_bytes: drive.free_bytes,
            file_system: drive.file_system,
            registers: drive.registers,
            unstable: drive.unstable,
            missing_shards: drive.missing_shards,
            boot_count: drive.boot_count,
            journal_sequence: drive.journal_sequence,
            join: Some(wire::DriveJoin { partitions: drive.join.partitions, waiting: drive.join.waiting }),
            heal: Some(drive.heal.into()),
            scrub: Some(drive.scrub.into()),
            lacking: match drive.lacking {
                Lacking::Unknown => None,
                Lacking::In(partitions) => {
                    Some(wire::DrivePartitions { bits: Bytes::copy_from_slice(partitions.to_bytes()) })
                }
            },
            most_data_shards: drive.most_data_shards.map(u32::from),
            tells_lacking: true,
        }
    }
}

impl From<DriveHeal> for wire::DriveHeal {
    fn from(heal: DriveHeal) -> Self {
        let DriveHeal { missing, owed, complete, rebuilt_shards, rebuilt_bytes, shards_per_minute } = heal;
        Self { missing, owed, complete, rebuilt_shards, rebuilt_bytes, shards_per_minute }
    }
}

impl From<wire::DriveHeal> for DriveHeal {
    fn from(heal: wire::DriveHeal) -> Self {
        let wire::DriveHeal { missing, owed, complete, rebuilt_shards, rebuilt_bytes, shards_per_minute } =
            heal;
        Self { missing, owed, complete, rebuilt_shards, rebuilt_bytes, shards_per_minute }
    }
}

impl From<DriveScrub> for wire::DriveScrub {
    fn from(scrub: DriveScrub) -> Self {
        let DriveScrub {
            period_seconds,
            paused,
            began_ms,
            shards,
            bytes,
            expected_bytes,
            finished_ms,
            damaged_shards,
            damaged_segments,
            unrepaired_segments,
        } = scrub;
        Self {
            period_seconds,
            paused,
            began_ms,
            shards,
            bytes,
            expected_bytes,
            finished_ms,
            damaged_shards,
            damaged_segments,
            unrepaired_segments,
        }
    }
}

impl From<wire::DriveScrub> for DriveScrub {
    fn from(scrub: wire::DriveScrub) -> Self {
        let wire::DriveScrub {
            period_seconds,
            paused,
            began_ms,
            shards,
            bytes,
            expected_bytes,
            finished_ms,
            damaged_shards,
            damaged_segments,
            unrepaired_segments,
        } = scrub;
        Self {
            period_seconds,
            paused,
            began_ms,
            shards,
            bytes,
            expected_bytes,
            finished_ms,
            damaged_shards,
            damaged_segments,
            unrepaired_segments,
        }
    }
}

impl TryFrom<wire::DriveInfo> for DriveInfo {
    type Error = Malformed;

    fn try_from(drive: wire::DriveInfo) -> Result<Self, Malformed> {
        let state = match wire::DriveState::try_from(drive.state) {
            Ok(wire::DriveState::Online) => DriveState::Online,
            Ok(wire::DriveState::Suspect) => DriveState::Suspect,
            Ok(wire::DriveState::ReadOnly) => DriveState::ReadOnly,
            Ok(wire::DriveState::Failed) => DriveState::Failed,
            Ok(wire::DriveState::Offline) => DriveState::Offline,
            Ok(wire::DriveState::Unspecified) | Err(_) => return Err(Malformed("drive.state")),
        };
        let lacking = match drive.lacking {
            Some(told) => Lacking::In(Partitions::from_bytes(&told.bits).ok_or(Malformed("drive.lacking"))?),
            // An older node tells no more than this.
            None if !drive.tells_lacking => match &drive.heal {
                Some(heal) if heal.complete && heal.missing == 0 => Lacking::nothing(),
                Some(_) | None => Lacking::Unknown,
            },
            None => Lacking::Unknown,
        };
        Ok(Self {
            id: required(drive.id, "drive.id")?,
            incarnation: Incarnation(drive.incarnation),
            path: drive.path,
            state,
            reason: drive.reason,
            capacity_bytes: drive.capacity_bytes,
            free_bytes: drive.free_bytes,
            file_system: drive.file_system,
            registers: drive.registers,
            unstable: drive.unstable,
            missing_shards: drive.missing_shards,
            boot_count: drive.boot_count,
            journal_sequence: drive.journal_sequence,
            // An older node has no drives that join.
            join: drive.join.map_or_else(DriveJoin::default, |join| DriveJoin {
                partitions: join.partitions,
                waiting: join.waiting,
            }),
            // An older node has no catch-up.
            heal: drive.heal.map(DriveHeal::from).unwrap_or_default(),
            lacking,
            most_data_shards: drive.most_data_shards.and_then(|shards| u8::try_from(shards).ok()),
            // An older node has no scrub.
            scrub: drive.scrub.map(DriveScrub::from).unwrap_or_default(),
        })
    }
}

impl From<NodeInfo> for wire::InfoResponse {
    fn from(info: NodeInfo) -> Self {
        let NodeInfo { id, cluster, version, protocol, clock_ms, drives } = info;
        Self {
            id: id.0,
            cluster: cluster.map(Into::into),
            version,
            protocol,
            clock_ms,
            drives: drives.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::InfoResponse> for NodeInfo {
    type Error = Malformed;

    fn try_from(info: wire::InfoResponse) -> Result<Self, Malformed> {
        Ok(Self {
            id: NodeId(info.id),
            cluster: optional(info.cluster)?,
            version: info.version,
            protocol: info.protocol,
            clock_ms: info.clock_ms,
            drives: info.drives.into_iter().map(DriveInfo::try_from).collect::<Result<_, _>>()?,
        })
    }
}

/// The wire form of a snapshot's kind.
pub fn snapshot_kind_to_wire(kind: SnapshotKind) -> i32 {
    let kind = match kind {
        SnapshotKind::Layout => wire::SnapshotKind::Layout,
        SnapshotKind::Buckets => wire::SnapshotKind::Buckets,
        SnapshotKind::Coordinator => wire::SnapshotKind::Coordinator,
        SnapshotKind::Identity => wire::SnapshotKind::Identity,
    };
    kind.into()
}

/// The inverse of [`snapshot_kind_to_wire`].
///
/// # Errors
/// [`Malformed`] if this build does not know the kind.
pub fn snapshot_kind_from_wire(kind: i32) -> Result<SnapshotKind, Malformed> {
    match wire::SnapshotKind::try_from(kind) {
        Ok(wire::SnapshotKind::Layout) => Ok(SnapshotKind::Layout),
        Ok(wire::SnapshotKind::Buckets) => Ok(SnapshotKind::Buckets),
        Ok(wire::SnapshotKind::Coordinator) => Ok(SnapshotKind::Coordinator),
        Ok(wire::SnapshotKind::Identity) => Ok(SnapshotKind::Identity),
        Ok(wire::SnapshotKind::Unspecified) | Err(_) => Err(Malformed("snapshot.kind")),
    }
}

impl From<Snapshot> for wire::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { kind, generation, revision, data } = snapshot;
        Self { kind: snapshot_kind_to_wire(kind), generation, revision, data }
    }
}

impl TryFrom<wire::Snapshot> for Snapshot {
    type Error = Malformed;

    fn try_from(snapshot: wire::Snapshot) -> Result<Self, Malformed> {
        Ok(Self {
            kind: snapshot_kind_from_wire(snapshot.kind)?,
            generation: snapshot.generation,
            revision: snapshot.revision,
            data: snapshot.data,
        })
    }
}

impl TryFrom<wire::GetSnapshotResponse> for Option<Snapshot> {
    type Error = Malformed;

    fn try_from(reply: wire::GetSnapshotResponse) -> Result<Self, Malformed> {
        optional(reply.snapshot)
    }
}

impl TryFrom<wire::StoreSnapshotResponse> for () {
    type Error = Malformed;

    fn try_from(wire::StoreSnapshotResponse {}: wire::StoreSnapshotResponse) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl TryFrom<wire::AdoptBucketResponse> for Vec<DriveId> {
    type Error = Malformed;

    fn try_from(reply: wire::AdoptBucketResponse) -> Result<Self, Malformed> {
        reply.drives.into_iter().map(DriveId::try_from).collect()
    }
}
