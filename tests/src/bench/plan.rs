//! What a run does, as the command line says it.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// PutObject of a new key.
    Put,
    /// GetObject of a prepared one, whole.
    Get,
    /// HeadObject of a prepared one.
    Stat,
    /// ListObjectsV2, one page after the other.
    List,
    /// DeleteObject of a prepared one.
    Delete,
}

impl Op {
    /// All kinds, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Stat, Self::List, Self::Delete];

    /// Its place in [`Op::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// How often each kind occurs, by weight, in the order of [`Op::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix(pub [u32; 5]);

impl Mix {
    /// Only one kind.
    pub fn only(op: Op) -> Self {
        let mut weights = [0; 5];
        weights[op.index()] = 1;
        Self(weights)
    }

    /// The kind that a number stands for.
    pub fn pick(&self, number: u64) -> Op {
        let total: u32 = self.0.iter().sum();
        let mut left = (number % u64::from(total)) as u32;
        for (op, weight) in Op::ALL.into_iter().zip(self.0) {
            if left < weight {
                return op;
            }
            left -= weight;
        }
        unreachable!("the rest is below the sum of the weights")
    }

    /// Whether the run does this at all.
    pub fn has(&self, op: Op) -> bool {
        self.0[op.index()] > 0
    }
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    /// Reads `get=45,stat=30,put=15,delete=10`.
    fn from_str(text: &str) -> Result<Self> {
        let mut weights = [0; 5];
        for part in text.split(',') {
            let (name, weight) =
                part.split_once('=').with_context(|| format!("`{part}` is not `op=weight`"))?;
            let op = Op::ALL.into_iter().find(|op| op.name() == name.trim());
            let op = op.with_context(|| format!("`{name}` is none of put, get, stat, list, delete"))?;
            weights[op.index()] =
                weight.trim().parse().with_context(|| format!("`{weight}` is no number"))?;
        }
        ensure!(weights.iter().any(|&weight| weight > 0), "all weights are 0");
        Ok(Self(weights))
    }
}

/// A number of bytes, as `4096`, `4KiB`, `64MiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().with_context(|| format!("`{text}` is no size"))?;
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => bail!("`{text}`: the unit is none of B, KiB, MiB, GiB, KB, MB, GB"),
        };
        Ok(Self(number.checked_mul(unit).with_context(|| format!("`{text}` is too large"))?))
    }
}
