//! A register as a drive keeps it: the protocol's state, where its shards lie, and its disk format.
//!
//! Owns: [`Entry`] and the bytes of REGISTER, PARTITION, BUCKET, BOOT, SNAPSHOT and FORGET records. Never does I/O.
//!
//! A REGISTER record holds the *whole* register after a change, so that the newest record of a register is all that
//! counts and recovery needs no order between registers. Payloads are protobuf messages (hand-written, no service uses
//! them): a field that this version does not know is skipped, numbers are never reused, and a changed meaning gets a new
//! payload version in the record's header. Field order puts the key first so that a dump reads well.

mod disk;
mod state;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use coffer_common::protocol::message::VersionState;
use coffer_common::protocol::register::Register;
use coffer_common::time::UnixMillis;
use coffer_common::types::{OpId, PartitionId, RegisterKey, RegisterKind, SlotIndex};

pub(crate) use disk::{DecodeImageError, Listed, decode_entry, decode_listed, encode_entry};
pub(crate) use state::{
    CopyRecord, StateKey, decode_boot, decode_bucket, decode_copy, decode_forget, decode_partition,
    encode_boot, encode_bucket, encode_change, encode_forget, encode_partition, encode_snapshot,
};

use crate::journal::Place;

/// Where a shard lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ShardLocation {
    /// The payload of an INLINE SHARD record.
    Inline(Place),
    /// A file of its own; its path follows from op and slot.
    File {
        /// Bytes of the encoded shard.
        len: u64,
    },
}

/// A shard that this drive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StoredShard {
    /// The op that made it.
    pub(crate) op: OpId,
    /// Where it lies.
    pub(crate) location: ShardLocation,
}

/// When something of a register began to wait for its end: a prepared op for a commit, a superseded version for the
/// end of running reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The op.
    pub(crate) op: OpId,
    /// Since when.
    pub(crate) since: UnixMillis,
}

/// A register as a drive keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The register's encoded key.
    pub(crate) key: Bytes,
    /// The key's partition.
    pub(crate) partition: PartitionId,
    /// The slot of that partition that this drive is.
    pub(crate) slot: SlotIndex,
    /// What the slot has promised.
    pub(crate) register: Register,
    /// The shards that are here.
    pub(crate) shards: Vec<StoredShard>,
    /// Prepared ops and superseded versions, with the time they have waited since.
    pub(crate) waiting: Vec<Waiting>,
    /// Sequence of the record that tells this; not part of the record.
    pub(crate) sequence: u64,
    /// Where that record lies; not part of it either.
    pub(crate) place: Place,
}

/// What registers add to a drive's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Registers with a current version.
    pub(crate) registers: i64,
    /// Versions that are COMMITTED, with no STABLE one above them.
    pub(crate) unstable: i64,
    /// Versions whose shard should be here and is not.
    pub(crate) missing_shards: i64,
}

impl Census {
    /// `self + (after - before)`.
    pub(crate) fn moved(self, before: Self, after: Self) -> Self {
        Self {
            registers: self.registers + after.registers - before.registers,
            unstable: self.unstable + after.unstable - before.unstable,
            missing_shards: self.missing_shards + after.missing_shards - before.missing_shards,
        }
    }
}

impl Entry {
    /// A register without a record.
    pub(crate) fn vacant(key: Bytes, partition: PartitionId, slot: SlotIndex) -> Self {
        Self {
            key,
            partition,
            slot,
            register: Register::default(),
            shards: Vec::new(),
            waiting: Vec::new(),
            sequence: 0,
            place: Place::default(),
        }
    }

    /// Where the op's shard lies, if it is here.
    pub(crate) fn shard(&self, op: OpId) -> Option<ShardLocation> {
        self.shards.iter().find(|shard| shard.op == op).map(|shard| shard.location)
    }

    /// Whether the op's shard is here and was not found damaged.
    pub(crate) fn holds_shard(&self, op: OpId) -> bool {
        let missing = self.register.versions.iter().any(|v| v.version.op == op && !v.shard_present);
        self.shard(op).is_some() && !missing
    }

    /// Which rule of freeing applies; that of objects, which frees least, for a key that cannot be read.
    pub(crate) fn kind(&self) -> RegisterKind {
        RegisterKey::kind_of(&self.key).unwrap_or(RegisterKind::Object)
    }

    /// What it adds to the drive's counters.
    pub(crate) fn census(&self) -> Census {
        let versions = &self.register.versions;
        // What lies below a STABLE version is superseded, whatever became of it.
        let above_stable = versions.iter().rev().take_while(|v| v.state != VersionState::Stable);
        Census {
            registers: i64::from(self.register.current().is_some()),
            unstable: above_stable.filter(|v| v.state == VersionState::Committed).count() as i64,
            missing_shards: versions.iter().filter(|v| !v.shard_present).count() as i64,
        }
    }

    /// Whether a background loop has something to do here sooner or later.
    pub(crate) fn needs_attention(&self) -> bool {
        !self.waiting.is_empty()
            || self.register.versions.iter().any(|v| v.state != VersionState::Stable || !v.shard_present)
    }

    /// Places in the journal that this register keeps alive: its own record and its inline shards.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        let inline = self.shards.iter().filter_map(|shard| match shard.location {
            ShardLocation::Inline(place) => Some(place),
            ShardLocation::File { .. } => None,
        });
        std::iter::once(self.place).chain(inline)
    }

    /// Rough bytes in memory.
    pub(crate) fn memory(&self) -> usize {
        let metadata: usize = self.register.versions.iter().map(|v| v.version.metadata.len() + 160).sum();
        self.key.len() * 2 + metadata + self.shards.len() * 48 + 360
    }
}
