//! In which partitions a drive lacks shards.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::limits::PARTITION_COUNT;
use crate::types::PartitionId;

const BYTES: usize = PARTITION_COUNT as usize / 8;

/// The partitions in which a drive lacks a shard that it should have, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lacking {
    /// It does not know yet all that it lacks, or does not tell: it may lack something anywhere.
    #[default]
    Unknown,
    /// In these, and in no others.
    In(Partitions),
}

impl Lacking {
    /// Nothing is lacking.
    pub fn nothing() -> Self {
        Self::In(Partitions::default())
    }

    /// Whether the drive lacks something, or may.
    pub fn anything(&self) -> bool {
        !matches!(self, Self::In(partitions) if partitions.is_empty())
    }

    /// Whether the drive is known to lack something in this partition.
    pub fn surely(&self, partition: PartitionId) -> bool {
        matches!(self, Self::In(partitions) if partitions.contains(partition))
    }

    /// Whether the drive lacks something in this partition, or may.
    pub fn maybe(&self, partition: PartitionId) -> bool {
        *self == Self::Unknown || self.surely(partition)
    }
}

/// As the number of partitions; null if that is not known.
impl Serialize for Lacking {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unknown => serializer.serialize_none(),
            Self::In(partitions) => serializer.serialize_some(&partitions.len()),
        }
    }
}

/// A set of partitions.
#[derive(Clone, PartialEq, Eq)]
pub struct Partitions(Box<[u8; BYTES]>);

impl Default for Partitions {
    fn default() -> Self {
        Self(Box::new([0; BYTES]))
    }
}

impl Partitions {
    /// From bytes as [`Self::to_bytes`] gives them; `None` if there are more than partitions.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut set = Self::default();
        set.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(set)
    }

    /// A bit for each partition, the lowest of each byte first, up to the last byte that is not zero.
    pub fn to_bytes(&self) -> &[u8] {
        let len = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &self.0[..len]
    }

    /// Puts a partition in.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn insert(&mut self, partition: PartitionId) {
        self.0[usize::from(partition.0 / 8)] |= 1 << (partition.0 % 8);
    }

    /// Whether a partition is in it.
    pub fn contains(&self, partition: PartitionId) -> bool {
        self.0.get(usize::from(partition.0 / 8)).is_some_and(|byte| byte >> (partition.0 % 8) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<PartitionId> for Partitions {
    fn from_iter<T: IntoIterator<Item = PartitionId>>(partitions: T) -> Self {
        let mut set = Self::default();
        partitions.into_iter().for_each(|partition| set.insert(partition));
        set
    }
}

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..PARTITION_COUNT).filter(|at| self.contains(PartitionId(*at)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_may_lack_anything_and_is_not_known_to() {
        let some = Lacking::In([0, 9, 4095].map(PartitionId).into_iter().collect());
        let facts = |lacking: &Lacking, at| (lacking.surely(PartitionId(at)), lacking.maybe(PartitionId(at)));
        assert_eq!(
            [0, 1, 9, 4095].map(|at| facts(&some, at)),
            [(true, true), (false, false), (true, true), (true, true)]
        );
        assert_eq!(facts(&Lacking::Unknown, 7), (false, true));
        assert_eq!(
            [&some, &Lacking::Unknown, &Lacking::nothing()].map(Lacking::anything),
            [true, true, false]
        );
        assert_eq!(serde_json::to_string(&[some, Lacking::Unknown]).unwrap(), "[3,null]");
    }

    #[test]
    fn a_set_is_as_long_as_it_needs_to_be() {
        let set: Partitions = [3, 8].map(PartitionId).into_iter().collect();
        assert_eq!(set.to_bytes(), [8, 1]);
        assert_eq!(Partitions::from_bytes(&[8, 1]), Some(set));
        assert_eq!(Partitions::default().to_bytes(), [0_u8; 0]);
        assert_eq!(Partitions::from_bytes(&[0; BYTES + 1]), None);
    }
}
