//! The part of a partition's state that changes often, kept apart from the slot table.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format version, 1
//!      1      8  epoch, little-endian
//!      9      8  purge epoch, little-endian
//!     17      1  n
//!     18         n slots, each: role (1), has a source (1: 0 or 1), source drive id (16, only if it has one)
//! ```

use crate::limits::MAX_SLOTS;
use crate::types::{DriveId, Epoch};

use super::codec::{DecodeLayoutError, Reader};

const FORMAT_VERSION: u8 = 1;

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
    /// While the slot moves: the drive that held it before and still serves the shards that the new one lacks.
    pub source: Option<DriveId>,
}

/// What the cluster knows of one partition beyond its slot list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Raised at each change of a slot's drive or role.
    pub epoch: Epoch,
    /// Raised before tombstones are dropped (PROTOCOL §7).
    pub purge_epoch: u64,
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
        let mut out = vec![FORMAT_VERSION];
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.purge_epoch.to_le_bytes());
        out.push(self.slots.len() as u8);
        for slot in &self.slots {
            out.extend_from_slice(&[slot.role as u8, u8::from(slot.source.is_some())]);
            if let Some(source) = slot.source {
                out.extend_from_slice(&source.to_bytes());
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
        if version != FORMAT_VERSION {
            return Err(DecodeLayoutError::Version(version));
        }
        let (epoch, purge_epoch, n) = (Epoch(reader.u64()?), reader.u64()?, reader.u8()?);
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
            let source = match reader.u8()? {
                0 => None,
                1 => Some(DriveId::from_bytes(reader.array()?)),
                _ => return Err(DecodeLayoutError::Malformed("slot source")),
            };
            slots.push(SlotRecord { role, source });
        }
        reader.end()?;
        Ok(Self { epoch, purge_epoch, slots })
    }
}
