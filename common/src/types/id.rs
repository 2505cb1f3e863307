//! Identities: 128-bit random ids, written as 32 hex digits, and small indices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::UnixMillis;

/// The text is not 32 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id of 32 hexadecimal digits")]
pub struct ParseIdError(String);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                Self(crate::random::random())
            }

            /// Big-endian bytes, whose order is the order of the ids.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`].
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let value = if hex { u128::from_str_radix(text, 16).ok() } else { None };
                value.map(Self).ok_or_else(|| ParseIdError(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id!(
    /// A cluster, made once when its first layout is applied.
    ClusterId
);
random_id!(
    /// A drive, written into its `coffer.json`; it follows the drive to another path or node.
    DriveId
);
random_id!(
    /// A bucket's life: a bucket that is deleted and made again under the same name has a new id.
    BucketId
);
random_id!(
    /// A multipart upload. New ones begin with their time, so that listings show those of a key in the order of their beginning.
    UploadId
);

impl UploadId {
    /// The id of an upload that begins at this time: 48 bits of its milliseconds, then chance.
    pub fn begun(at: UnixMillis) -> Self {
        Self(u128::from(at.0) << 80 | crate::random::random::<u128>() >> 48)
    }
}

/// A storage node: `--node-id`, by default the host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt of one operation: unique for all time. Also the `writer` of a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId {
    /// The random incarnation of the process that made the op.
    pub session: u64,
    /// Counts the ops of that process.
    pub counter: u64,
}

impl OpId {
    /// Big-endian bytes, `session` first.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.session) << 64 | u128::from(self.counter)).to_be_bytes()
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(bytes);
        Self { session: (value >> 64) as u64, counter: value as u64 }
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.session, self.counter)
    }
}

/// A partition of the key space, `0..PARTITION_COUNT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

/// A place in a partition's stripe, `0..n`: data shards first, then parity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotIndex(pub u8);

/// The version of one partition's slot list; only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// How often a drive has lost and re-learned its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// A set of slots of one partition, as a bit mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotSet(pub u16);

impl SlotSet {
    /// Adds a slot.
    pub fn insert(&mut self, slot: SlotIndex) {
        self.0 |= 1 << slot.0;
    }

    /// Whether the slot is in the set.
    pub fn contains(self, slot: SlotIndex) -> bool {
        self.0 >> slot.0 & 1 == 1
    }

    /// Number of slots in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no slot is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The slots, ascending.
    pub fn iter(self) -> impl Iterator<Item = SlotIndex> {
        (0..16).map(SlotIndex).filter(move |slot| self.contains(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_in_the_order_of_their_beginning_and_no_two_the_same() {
        let begun = |at| UploadId::begun(UnixMillis(at));
        let now = 1_795_507_697_000;
        assert!(begun(now) < begun(now + 1) && begun(now + 1) < begun(now + 1_000_000));
        assert_ne!(begun(now), begun(now));
        assert_eq!(begun(now).to_string()[..12], format!("{now:012x}"));
    }
}
