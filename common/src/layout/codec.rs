//! The stored form of a layout: small enough for one etcd value, whole or not at all.
//!
//! All integers are little-endian, ids big-endian.
//!
//! ```text
//! bytes  field
//!     4  magic "COFL"
//!     1  format version, 1
//!     1  n
//!     2  partition count
//!     8  layout version
//!        zones: count (2), each length (2) and UTF-8
//!        nodes: count (2), each length (2) and UTF-8
//!        drives: count (2), each id (16), capacity in bytes (8), node (2), zone (2), as places above
//!        slots: partition count x n places in the drive table (2 each), partition by partition
//!     8  xxh3-64 of everything before
//! ```
//! 1,000 drives with n = 16 take 131 KB of slots and 28 KB of drives, and the names of the nodes once.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::{Layout, LayoutDrive};
use crate::limits::{MAX_SLOTS, PARTITION_COUNT};
use crate::types::{DriveId, NodeId};

const MAGIC: [u8; 4] = *b"COFL";
const FORMAT_VERSION: u8 = 1;
const CHECKSUM_LEN_BYTES: usize = 8;

/// Why bytes are not a layout or a partition record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeLayoutError {
    /// A later format.
    #[error("layout format version `{0}` is unknown: a newer Coffer wrote it")]
    Version(u8),
    /// The bytes end early.
    #[error("layout ends early")]
    Truncated,
    /// Damage.
    #[error("layout does not match its checksum")]
    Checksum,
    /// Whole, but it cannot be true.
    #[error("layout is malformed: {0}")]
    Malformed(&'static str),
}

impl Layout {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let zones = Names::of(self.drives.iter().map(|drive| drive.zone.as_str()));
        let nodes = Names::of(self.drives.iter().map(|drive| drive.node.0.as_str()));
        let mut out = Vec::with_capacity(self.slots.len() * 2 + self.drives.len() * 64 + 32);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[FORMAT_VERSION, self.n]);
        out.extend_from_slice(&PARTITION_COUNT.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        zones.encode(&mut out);
        nodes.encode(&mut out);
        out.extend_from_slice(&(self.drives.len() as u16).to_le_bytes());
        for drive in &self.drives {
            out.extend_from_slice(&drive.id.to_bytes());
            out.extend_from_slice(&drive.capacity_bytes.to_le_bytes());
            out.extend_from_slice(&nodes.place(&drive.node.0).to_le_bytes());
            out.extend_from_slice(&zones.place(&drive.zone).to_le_bytes());
        }
        for slot in &self.slots {
            out.extend_from_slice(&slot.to_le_bytes());
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The inverse of [`Self::encode`]. A layout that decodes is well-formed.
    ///
    /// # Errors
    /// [`DecodeLayoutError`] if the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeLayoutError> {
        let mut head = Reader::new(bytes);
        if head.array()? != MAGIC {
            return Err(DecodeLayoutError::Malformed("magic"));
        }
        let format = head.u8()?;
        if format != FORMAT_VERSION {
            return Err(DecodeLayoutError::Version(format));
        }
        let (body, checksum) =
            bytes.split_last_chunk::<CHECKSUM_LEN_BYTES>().ok_or(DecodeLayoutError::Truncated)?;
        if u64::from_le_bytes(*checksum) != xxh3_64(body) {
            return Err(DecodeLayoutError::Checksum);
        }
        let mut reader = Reader::new(&body[5.min(body.len())..]);
        let n = reader.u8()?;
        if n == 0 || usize::from(n) > MAX_SLOTS {
            return Err(DecodeLayoutError::Malformed("slots of a partition"));
        }
        if reader.u16()? != PARTITION_COUNT {
            return Err(DecodeLayoutError::Malformed("partition count"));
        }
        let version = reader.u64()?;
        let (zones, nodes) = (reader.names()?, reader.names()?);
        let drives = decode_drives(&mut reader, &zones, &nodes)?;
        let count = usize::from(PARTITION_COUNT) * usize::from(n);
        let slots: Vec<u16> = (0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
        reader.end()?;
        let layout = Self { version, n, drives, slots };
        layout.check()?;
        Ok(layout)
    }

    fn check(&self) -> Result<(), DecodeLayoutError> {
        let well_formed = self.slots.chunks(usize::from(self.n)).all(|row| {
            let in_table = row.iter().all(|&drive| usize::from(drive) < self.drives.len());
            in_table && (1..row.len()).all(|i| !row[..i].contains(&row[i]))
        });
        if well_formed { Ok(()) } else { Err(DecodeLayoutError::Malformed("slot table")) }
    }
}

fn decode_drives(
    reader: &mut Reader<'_>,
    zones: &[String],
    nodes: &[String],
) -> Result<Vec<LayoutDrive>, DecodeLayoutError> {
    let named = |names: &[String], place: u16| {
        names.get(usize::from(place)).cloned().ok_or(DecodeLayoutError::Malformed("drive table"))
    };
    let count = reader.u16()?;
    (0..count)
        .map(|_| {
            let id = DriveId::from_bytes(reader.array()?);
            let capacity_bytes = reader.u64()?;
            let node = NodeId(named(nodes, reader.u16()?)?);
            let zone = named(zones, reader.u16()?)?;
            Ok(LayoutDrive { id, node, zone, capacity_bytes })
        })
        .collect()
}

/// A table of distinct names, in order of first use.
struct Names<'a> {
    order: Vec<&'a str>,
    places: BTreeMap<&'a str, u16>,
}

impl<'a> Names<'a> {
    fn of(names: impl Iterator<Item = &'a str>) -> Self {
        let mut table = Self { order: Vec::new(), places: BTreeMap::new() };
        for name in names {
            if !table.places.contains_key(name) {
                table.places.insert(name, table.order.len() as u16);
                table.order.push(name);
            }
        }
        table
    }

    fn place(&self, name: &str) -> u16 {
        self.places.get(name).copied().unwrap_or(u16::MAX)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.order.len() as u16).to_le_bytes());
        for name in &self.order {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
    }
}

/// Takes fields off the front of a buffer.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeLayoutError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeLayoutError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeLayoutError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeLayoutError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeLayoutError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn names(&mut self) -> Result<Vec<String>, DecodeLayoutError> {
        let count = self.u16()?;
        (0..count).map(|_| self.name()).collect()
    }

    fn name(&mut self) -> Result<String, DecodeLayoutError> {
        let len = usize::from(self.u16()?);
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeLayoutError::Truncated)?;
        self.rest = rest;
        String::from_utf8(head.to_vec()).map_err(|_| DecodeLayoutError::Malformed("name"))
    }

    pub(super) fn end(&self) -> Result<(), DecodeLayoutError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeLayoutError::Malformed("bytes follow its end")) }
    }
}
