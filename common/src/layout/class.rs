//! How wide a stripe is and how much of it is parity.

use std::str::FromStr;

use crate::limits::MAX_SLOTS;

/// Parity of `REDUCED_REDUNDANCY` where `STANDARD` has more.
const REDUCED_PARITY: u8 = 2;

/// The stripe width n for a new cluster, from the number of drives of each node.
///
/// - up to 3 drives: all of them;
/// - more than 16 nodes: 16;
/// - 3 to 16 nodes: the largest multiple of the node count, at most 16, for which every node has enough
///   drives: then each node holds the same number of a partition's slots, and the loss of one takes the
///   smallest possible share;
/// - 1 or 2 nodes, where the loss of one stops writes at any width: as many as there are drives, at most 16; even
///   for two nodes.
///
/// Nodes without drives do not count. 0 without drives.
pub fn stripe_width(drives_per_node: &[usize]) -> u8 {
    let drives: usize = drives_per_node.iter().sum();
    let nodes = drives_per_node.iter().filter(|&&count| count > 0).count();
    let fewest = drives_per_node.iter().copied().filter(|&count| count > 0).min().unwrap_or(0);
    let width = match (drives, nodes) {
        (0..=3, _) => drives,
        (_, 1) => drives.min(MAX_SLOTS),
        (_, 2) => drives.min(MAX_SLOTS) / 2 * 2,
        (_, nodes) if nodes > MAX_SLOTS => MAX_SLOTS,
        (_, nodes) => nodes * fewest.min(MAX_SLOTS / nodes),
    };
    width as u8
}

/// S3's storage classes that choose a parity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorageClass {
    /// `STANDARD`.
    #[default]
    Standard,
    /// `REDUCED_REDUNDANCY`.
    ReducedRedundancy,
}

impl StorageClass {
    /// S3's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::ReducedRedundancy => "REDUCED_REDUNDANCY",
        }
    }
}

/// Data and parity shards of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
}

impl Split {
    /// The split for a version when only `alive` of the k + m slots can be written: k' = min(k, alive − 1), never
    /// below half of the slots, so that one more may still be lost. `None` if fewer than a write quorum are alive.
    pub fn with_alive(self, alive: u8) -> Option<Self> {
        let n = self.k + self.m;
        if alive < n / 2 + 1 {
            return None;
        }
        let k = self.k.min(alive - 1).max(n / 2).max(1);
        Some(Self { k, m: n - k })
    }
}

/// The text is not `EC:m`, or m does not fit the stripe.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidParity {
    /// Not `EC:m`.
    #[error("parity `{0}` is not of the form `EC:m`, for example `EC:4`")]
    Form(String),
    /// Out of range.
    #[error("parity EC:{m} of {class} is out of range: a stripe of {n} slots allows EC:{min} to EC:{max}")]
    Range {
        /// The class.
        class: &'static str,
        /// The parity asked for.
        m: u8,
        /// Slots of a partition.
        n: u8,
        /// The least parity.
        min: u8,
        /// The most parity.
        max: u8,
    },
}

/// The parity of each class, where it is not the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParitySettings {
    /// `STANDARD`; by default n / 2, rounded down.
    pub standard: Option<u8>,
    /// `REDUCED_REDUNDANCY`; by default 2 but less than `STANDARD`, at least 1 from two slots on.
    pub reduced: Option<u8>,
}

impl ParitySettings {
    /// Reads `EC:m`.
    ///
    /// # Errors
    /// [`InvalidParity::Form`].
    pub fn parse(text: &str) -> Result<u8, InvalidParity> {
        let digits = text.strip_prefix("EC:").or_else(|| text.strip_prefix("ec:"));
        digits
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| u8::from_str(digits).ok())
            .ok_or_else(|| InvalidParity::Form(text.to_owned()))
    }

    /// Checks the settings against a stripe width.
    ///
    /// # Errors
    /// [`InvalidParity::Range`] unless 1 ≤ m ≤ n / 2 (m = 0 for a single drive).
    pub fn check(&self, n: u8) -> Result<(), InvalidParity> {
        let (min, max) = (n.min(2) / 2, n / 2);
        let classes =
            [(StorageClass::Standard, self.standard), (StorageClass::ReducedRedundancy, self.reduced)];
        for (class, m) in classes {
            if let Some(m) = m.filter(|m| !(min..=max).contains(m)) {
                return Err(InvalidParity::Range { class: class.name(), m, n, min, max });
            }
        }
        Ok(())
    }

    /// The split of a class on a stripe of n slots. Settings that do not fit are cut to what does.
    pub fn split(&self, class: StorageClass, n: u8) -> Split {
        let (min, max) = (n.min(2) / 2, n / 2);
        let standard = self.standard.unwrap_or(max).clamp(min, max);
        let m = match class {
            StorageClass::Standard => standard,
            StorageClass::ReducedRedundancy => {
                self.reduced.unwrap_or(REDUCED_PARITY.min(standard.saturating_sub(1))).clamp(min, max)
            }
        };
        Split { k: n - m, m }
    }
}
