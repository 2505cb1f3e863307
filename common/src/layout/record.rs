//! The part of a partition's state that changes often, kept apart from the slot table.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format version, 1 to 3
//!      1      8  epoch, little-endian
//!      9      8  purge epoch, little-endian
//!     17      8  sweep epoch, little-endian; only in version 3
//!             1  n
//!                n slots, each: role (1), what it has (1: 1 a source, 2 a drive, 3 both), source drive id and drive id
//!                (16 each, only if it has them)
//! ```
//! Version 1 is what versions of Coffer read that knew of no moves; it is written while no slot has a drive of its own.
//! Version 3 is written once orphaned shards were purged, or slots moved one after the other. Who cannot read it does not know
//! either that its own prepared shards may have been taken for orphans, or left behind: slots refuse what it sends under an
//! older epoch.

use crate::limits::MAX_SLOTS;
use crate::types::{DriveId, Epoch};

use super::codec::{DecodeLayoutError, Reader};

const FORMAT_VERSION: u8 = 2;
/// The version without drives.
const FORMAT_VERSION_WITHOUT_DRIVES: u8 = 1;
/// The version with a sweep epoch.
const FORMAT_VERSION_SWEPT: u8 = 3;
const HAS_SOURCE: u8 = 1;
const HAS_DRIVE: u8 = 2;

/// Whether a slot's answers count (PROTOCOL §1, §8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum SlotRole {
    /// Its answers count.
    #[default]
    Voter = 0,
    /// It has lost its registers, or never had them, and is learning them.
    Joining = 1,
    /// Its drive is out and no other has taken the slot.
    Out = 2,
}

/// One slot's part of a [`PartitionRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotRecord {
    /// Whether it votes.
    pub role: SlotRole,
    /// The drive that holds the slot, whatever the layout's table says; `None` for the table's. Once there it stays, so that
    /// the same record means the same with the table before and after a change of layout.
    pub drive: Option<DriveId>,
    /// While the slot moves: the drive that held it before and still serves the shards that the new one lacks.
    pub source: Option<DriveId>,
}

impl SlotRecord {
    /// Whether the slot is on its way: it does not vote, or its drive may lack shards that another one serves.
    pub fn is_under_way(&self) -> bool {
        self.role != SlotRole::Voter || self.source.is_some()
    }
}

/// What the cluster knows of one partition beyond its slot list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Raised at each change of a slot's drive or role.
    pub epoch: Epoch,
    /// Raised before tombstones are dropped (PROTOCOL §7).
    pub purge_epoch: u64,
    /// A write that prepared its shards in an earlier epoch does not go on in a later one. Raised before orphaned shards are
    /// dropped, and when a slot moves, to the epoch before that; 0 if neither ever was.
    pub sweep_epoch: u64,
    /// By slot index.
    pub slots: Vec<SlotRecord>,
}

impl PartitionRecord {
    /// A new partition: n voters, epoch 0.
    pub fn new(n: u8) -> Self {
        Self { slots: vec![SlotRecord::default(); usize::from(n)], ..Self::default() }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let drives = self.slots.iter().any(|slot| slot.drive.is_some());
        let swept = self.sweep_epoch > 0;
        let mut out = vec![match drives {
            _ if swept => FORMAT_VERSION_SWEPT,
            true => FORMAT_VERSION,
            false => FORMAT_VERSION_WITHOUT_DRIVES,
        }];
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.purge_epoch.to_le_bytes());
        if swept {
            out.extend_from_slice(&self.sweep_epoch.to_le_bytes());
        }
        out.push(self.slots.len() as u8);
        for slot in &self.slots {
            let source = if slot.source.is_some() { HAS_SOURCE } else { 0 };
            let drive = if slot.drive.is_some() { HAS_DRIVE } else { 0 };
            out.extend_from_slice(&[slot.role as u8, source | drive]);
            for id in [slot.source, slot.drive].into_iter().flatten() {
                out.extend_from_slice(&id.to_bytes());
            }
        }
        out
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeLayoutError`] if the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeLayoutError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if !(FORMAT_VERSION_WITHOUT_DRIVES..=FORMAT_VERSION_SWEPT).contains(&version) {
            return Err(DecodeLayoutError::Version(version));
        }
        let (epoch, purge_epoch) = (Epoch(reader.u64()?), reader.u64()?);
        let sweep_epoch = if version == FORMAT_VERSION_SWEPT { reader.u64()? } else { 0 };
        let n = reader.u8()?;
        if n == 0 || usize::from(n) > MAX_SLOTS {
            return Err(DecodeLayoutError::Malformed("slot count"));
        }
        let mut slots = Vec::with_capacity(usize::from(n));
        for _ in 0..n {
            let role = match reader.u8()? {
                0 => SlotRole::Voter,
                1 => SlotRole::Joining,
                2 => SlotRole::Out,
                _ => return Err(DecodeLayoutError::Malformed("slot role")),
            };
            let has = reader.u8()?;
            if has >= HAS_DRIVE && version == FORMAT_VERSION_WITHOUT_DRIVES || has > HAS_SOURCE | HAS_DRIVE {
                return Err(DecodeLayoutError::Malformed("what a slot has"));
            }
            let mut id = |flag: u8| -> Result<Option<DriveId>, DecodeLayoutError> {
                if has & flag == 0 { Ok(None) } else { Ok(Some(DriveId::from_bytes(reader.array()?))) }
            };
            let (source, drive) = (id(HAS_SOURCE)?, id(HAS_DRIVE)?);
            slots.push(SlotRecord { role, drive, source });
        }
        reader.end()?;
        Ok(Self { epoch, purge_epoch, sweep_epoch, slots })
    }
}
