//! How a record lies in a segment, and how a segment begins and ends. Golden bytes are in the tests.
//!
//! All integers are little-endian. A segment of `S` bytes (32 MiB, less on small drives), preallocated and zeroed:
//!
//! ```text
//! 0        segment header, 64 bytes
//!   0   4  magic "COFJ"
//!   4   2  format version, 1
//!   6   2  zero
//!   8  16  cluster id, big-endian as everywhere
//!  24  16  drive id
//!  40   8  segment number
//!  48   8  sequence of its first record
//!  56   8  xxh3-64 of bytes 0..56
//! 64       records, each padded with zeros to a multiple of 8
//! ...      footer: a record of kind FOOTER, once the segment is sealed
//! S-24     trailer: where the footer is, so that it is found without reading the segment
//!   0   4  magic "COFE"
//!   4   4  offset of the footer's record
//!   8   8  segment number
//!  16   8  xxh3-64 of bytes 0..16
//! ```
//!
//! A record:
//!
//! ```text
//!  0   4  payload length
//!  4   1  kind
//!  5   1  version of the payload's format within its kind
//!  6   2  zero
//!  8   8  sequence, counting all records of the drive from 1
//! 16   8  sequence of the first record of its batch
//! 24   8  xxh3-64, seeded with the segment's seed, of bytes 0..24 and the payload
//! 32      payload
//! ```
//!
//! The length comes first so that a reader knows how far it must read; the checksum comes last of the header so that it
//! covers all else in one piece. Its seed is drawn from drive id and segment number: a record of another drive or
//! segment does not verify here. The batch sequence tells a torn tail from a corrupt middle: a batch is written only
//! after the one before it was synced, so a record whose batch began after a damaged one proves that the damaged
//! one had been durable.

use coffer_common::types::{ClusterId, DriveId};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of the segment header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of the trailer at a sealed segment's end.
pub(super) const TRAILER_BYTES: usize = 24;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

const SEGMENT_MAGIC: &[u8; 4] = b"COFJ";
const TRAILER_MAGIC: &[u8; 4] = b"COFE";
const SEGMENT_FORMAT: u16 = 1;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// A register after a change, whole.
    Register = 1,
    /// An encoded shard that lives in the journal.
    InlineShard = 2,
    /// The state of a partition's slot on this drive.
    Partition = 3,
    /// A copy of cluster state.
    Snapshot = 4,
    /// A bucket's adopted configuration revision.
    Bucket = 5,
    /// A start of the drive.
    Boot = 6,
    /// What another slot missed (reserved).
    Owed = 7,
    /// A register that was dropped.
    Forget = 8,
    /// The metadata extents of a sealed segment.
    Footer = 255,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Register,
            2 => Self::InlineShard,
            3 => Self::Partition,
            4 => Self::Snapshot,
            5 => Self::Bucket,
            6 => Self::Boot,
            7 => Self::Owed,
            8 => Self::Forget,
            255 => Self::Footer,
            _ => return None,
        })
    }
}

/// The current version of every payload format.
pub(super) const PAYLOAD_VERSION: u8 = 1;

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The drive.
    pub(crate) drive: DriveId,
}

impl Owner {
    /// Seed of the checksums of one segment's records.
    pub(super) fn seed(self, segment: u64) -> u64 {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.drive.to_bytes());
        bytes[16..].copy_from_slice(&segment.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) owner: Owner,
    pub(super) number: u64,
    pub(super) first_sequence: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..4].copy_from_slice(SEGMENT_MAGIC);
        out[4..6].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        out[8..24].copy_from_slice(&self.owner.cluster.to_bytes());
        out[24..40].copy_from_slice(&self.owner.drive.to_bytes());
        out[40..48].copy_from_slice(&self.number.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The first sequence, if this is the header of `owner`'s segment `number`; else what is wrong.
    pub(super) fn decode(
        bytes: &[u8; SEGMENT_HEADER_BYTES],
        owner: Owner,
        number: u64,
    ) -> Result<Self, String> {
        if &bytes[..4] != SEGMENT_MAGIC || u64_at(bytes, 56) != xxh3_64(&bytes[..56]) {
            return Err("its header does not verify".to_owned());
        }
        let format = u16::from_le_bytes([bytes[4], bytes[5]]);
        if format > SEGMENT_FORMAT {
            return Err(format!("it has format {format}, newer than this version understands"));
        }
        let header = Self { owner, number, first_sequence: u64_at(bytes, 48) };
        if header.encode()[8..48] != bytes[8..48] {
            return Err("it belongs to another drive or is another segment".to_owned());
        }
        Ok(header)
    }
}

/// A record's header and payload, parsed and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: RecordKind,
    pub(super) sequence: u64,
    pub(super) batch: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Bytes a record with such a payload takes.
    pub(super) fn room(payload_len: usize) -> usize {
        (RECORD_HEADER_BYTES + payload_len).next_multiple_of(ALIGN)
    }

    /// Bytes up to the end of the payload that a record at the beginning of `bytes` claims to have.
    pub(super) fn len_at(bytes: &[u8]) -> usize {
        let len = bytes.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize);
        RECORD_HEADER_BYTES.saturating_add(len)
    }

    /// Appends the record, padded.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>, seed: u64) {
        let mut header = [0; RECORD_HEADER_BYTES];
        let len = u32::try_from(self.payload.len()).expect("payloads are far below 4 GiB");
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4] = self.kind as u8;
        header[5] = PAYLOAD_VERSION;
        header[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        header[16..24].copy_from_slice(&self.batch.to_le_bytes());
        let checksum = checksum(&header[..24], self.payload, seed);
        header[24..].copy_from_slice(&checksum.to_le_bytes());
        let end = out.len() + Self::room(self.payload.len());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.payload);
        out.resize(end, 0);
    }

    /// The record at the beginning of `bytes`, if one verifies there.
    pub(super) fn decode(bytes: &'a [u8], seed: u64) -> Option<Self> {
        let header = bytes.get(..RECORD_HEADER_BYTES)?;
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = RecordKind::from_byte(header[4])?;
        if header[5] == 0 || header[5] > PAYLOAD_VERSION || header[6..8] != [0, 0] {
            return None;
        }
        let payload = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.checked_add(len)?)?;
        if checksum(&header[..24], payload, seed) != u64_at(header, 24) {
            return None;
        }
        Some(Self { kind, sequence: u64_at(header, 8), batch: u64_at(header, 16), payload })
    }
}

fn checksum(header: &[u8], payload: &[u8], seed: u64) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(header);
    hasher.update(payload);
    hasher.digest()
}

/// Encodes the trailer of a sealed segment.
pub(super) fn encode_trailer(number: u64, footer_offset: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..4].copy_from_slice(TRAILER_MAGIC);
    out[4..8].copy_from_slice(&footer_offset.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = xxh3_64(&out[..16]);
    out[16..].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The footer's offset, if these bytes are the trailer of segment `number`.
pub(super) fn decode_trailer(bytes: &[u8; TRAILER_BYTES], number: u64) -> Option<u32> {
    let offset = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    (encode_trailer(number, offset) == *bytes).then_some(offset)
}

/// A run of records that are not inline shards: `(offset of the first, offset after the last)`.
pub(super) type Extent = (u32, u32);

/// Encodes a footer's payload: the extents, 8 bytes each.
pub(super) fn encode_footer(extents: &[Extent]) -> Vec<u8> {
    extents.iter().flat_map(|(from, to)| [from.to_le_bytes(), to.to_le_bytes()]).flatten().collect()
}

/// The inverse of [`encode_footer`].
pub(super) fn decode_footer(payload: &[u8]) -> Option<Vec<Extent>> {
    let (chunks, rest) = payload.as_chunks::<8>();
    let word = |c: &[u8; 8], at: usize| u32::from_le_bytes([c[at], c[at + 1], c[at + 2], c[at + 3]]);
    rest.is_empty().then(|| chunks.iter().map(|chunk| (word(chunk, 0), word(chunk, 4))).collect())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
