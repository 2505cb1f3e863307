//! The shard format, on disk and on the wire: what one slot stores of one version.
//!
//! Owns: the header, the bound block checksums, the incremental [`Verifier`] and [`Decoder`], and the stripe
//! arithmetic of [`StripeGeometry`]. Never: I/O, coding (see [`crate::erasure`]), what a version means.
//!
//! An encoded shard is a header, then blocks. All integers are little-endian; ids are big-endian, as
//! everywhere else.
//!
//! ```text
//! offset  bytes  field
//!      0      4  magic "COFS"        first, so that a stray file is known by its first bytes
//!      4      1  format version, 1   before everything it may change
//!      5      1  codec id, 1         see `erasure::CODEC_REED_SOLOMON`
//!      6      1  slot index          0..k data, k..k+m parity
//!      7      1  k
//!      8      1  m
//!      9      3  zero
//!     12      4  block length        data bytes of every block but the last
//!     16      8  shard length        data bytes of all blocks together
//!     24     16  cluster id
//!     40     16  op id
//!     56      8  xxh3-64 of bytes 0..56
//!     64         blocks 0, 1, …: each 16 bytes of checksum, then its data; the last one may be short
//! ```
//!
//! The checksum of a block is
//! `xxh3_128(cluster id ‖ op id ‖ slot index (1) ‖ block number (8, LE) ‖ xxh3_128(data) (16, LE))`,
//! stored little-endian; xxh3 unseeded, default secret. The inner hash runs over the data alone, so that it can be
//! streamed and costs one pass; the outer one binds it to the only place where it may stand. A block that
//! was flipped, misdirected to another slot or shard, left over from another op, or swapped with its
//! neighbour fails. The op id stands for the version: its tag is not known yet when a shard is written.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::erasure::CODEC_REED_SOLOMON;
use crate::limits::MAX_SLOTS;
use crate::types::{ClusterId, OpId, SlotIndex};

mod decoder;
mod geometry;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, VerifiedBlock, Verifier, decode};
pub use geometry::{BlockPiece, InvalidGeometry, StripeGeometry, StripeRange, default_block_len_bytes};

/// Bytes of a shard's header.
pub const HEADER_LEN_BYTES: usize = 64;

/// Bytes of a block's checksum, before its data.
pub const CHECKSUM_LEN_BYTES: usize = 16;

/// Longest block: a reader must hold one in memory before it may trust any of it.
pub const MAX_BLOCK_LEN_BYTES: u32 = 4 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"COFS";
const FORMAT_VERSION: u8 = 1;
const HEADER_CHECKED_BYTES: usize = HEADER_LEN_BYTES - 8;

/// Why bytes are not the shard they should be.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShardError {
    /// Not a shard at all.
    #[error("shard header has no magic")]
    Magic,
    /// A later format, or damage.
    #[error("shard format version `{0}` is unknown")]
    Version(u8),
    /// A later codec.
    #[error("codec id `{0}` is unknown")]
    Codec(u8),
    /// The header is damaged.
    #[error("shard header does not match its checksum")]
    HeaderChecksum,
    /// The header is whole but cannot be true.
    #[error("shard header: {0}")]
    Header(&'static str),
    /// A whole shard, but of another cluster, op or slot.
    #[error("shard belongs to another {0}")]
    OtherShard(&'static str),
    /// The block is damaged, or does not belong at this place of this shard.
    #[error("block `{block}` does not match its bound checksum")]
    BlockChecksum {
        /// The block's number.
        block: u64,
    },
    /// The bytes end early.
    #[error("shard ends `{missing_bytes}` bytes early")]
    Truncated {
        /// How many are missing.
        missing_bytes: u64,
    },
    /// Bytes follow the last block.
    #[error("bytes follow the end of the shard")]
    Trailing,
}

/// Which shard: what every block checksum is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardId {
    /// The cluster.
    pub cluster: ClusterId,
    /// The op that wrote it.
    pub op: OpId,
    /// The slot it belongs to.
    pub slot: SlotIndex,
}

/// A shard's header; see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The op that wrote it.
    pub op: OpId,
    /// The slot it belongs to.
    pub slot: SlotIndex,
    /// Data shards of the version.
    pub k: u8,
    /// Parity shards of the version.
    pub m: u8,
    /// Data bytes of every block but the last.
    pub block_len_bytes: u32,
    /// Data bytes of all blocks.
    pub len_bytes: u64,
}

impl ShardHeader {
    /// Which shard it is.
    pub fn id(&self) -> ShardId {
        ShardId { cluster: self.cluster, op: self.op, slot: self.slot }
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        self.len_bytes.div_ceil(u64::from(self.block_len_bytes))
    }

    /// Data bytes of a block; 0 past the last.
    pub fn block_len_bytes_at(&self, block: u64) -> u32 {
        let block_len = u64::from(self.block_len_bytes);
        let start = block.saturating_mul(block_len);
        self.len_bytes.saturating_sub(start).min(block_len) as u32
    }

    /// Bytes of the whole encoded shard.
    pub fn encoded_len_bytes(&self) -> u64 {
        encoded_len_bytes(self.len_bytes, self.block_len_bytes)
    }

    /// The 64 header bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN_BYTES] {
        let mut out = [0; HEADER_LEN_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..9].copy_from_slice(&[FORMAT_VERSION, CODEC_REED_SOLOMON, self.slot.0, self.k, self.m]);
        out[12..16].copy_from_slice(&self.block_len_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.len_bytes.to_le_bytes());
        out[24..40].copy_from_slice(&self.cluster.to_bytes());
        out[40..56].copy_from_slice(&self.op.to_bytes());
        let checksum = xxh3_64(&out[..HEADER_CHECKED_BYTES]);
        out[HEADER_CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads and checks 64 header bytes. Whose shard it is, the caller compares.
    ///
    /// # Errors
    /// Any [`ShardError`] about headers.
    pub fn decode(bytes: &[u8; HEADER_LEN_BYTES]) -> Result<Self, ShardError> {
        if bytes[..4] != MAGIC {
            return Err(ShardError::Magic);
        }
        let checksum = u64::from_le_bytes(array(bytes, HEADER_CHECKED_BYTES));
        if bytes[4] != FORMAT_VERSION {
            return Err(ShardError::Version(bytes[4]));
        }
        if checksum != xxh3_64(&bytes[..HEADER_CHECKED_BYTES]) {
            return Err(ShardError::HeaderChecksum);
        }
        if bytes[5] != CODEC_REED_SOLOMON {
            return Err(ShardError::Codec(bytes[5]));
        }
        let header = Self {
            cluster: ClusterId::from_bytes(array(bytes, 24)),
            op: OpId::from_bytes(array(bytes, 40)),
            slot: SlotIndex(bytes[6]),
            k: bytes[7],
            m: bytes[8],
            block_len_bytes: u32::from_le_bytes(array(bytes, 12)),
            len_bytes: u64::from_le_bytes(array(bytes, 16)),
        };
        if bytes[9..12] != [0; 3] {
            return Err(ShardError::Header("reserved bytes are not zero"));
        }
        header.check()?;
        Ok(header)
    }

    /// Checks that the fields can be true together.
    ///
    /// # Errors
    /// [`ShardError::Header`].
    pub fn check(&self) -> Result<(), ShardError> {
        let n = usize::from(self.k) + usize::from(self.m);
        if self.k == 0 || n > MAX_SLOTS {
            return Err(ShardError::Header("k and m are out of range"));
        }
        if usize::from(self.slot.0) >= n {
            return Err(ShardError::Header("slot index is not below k + m"));
        }
        if self.block_len_bytes == 0 || self.block_len_bytes > MAX_BLOCK_LEN_BYTES {
            return Err(ShardError::Header("block length is out of range"));
        }
        if self.len_bytes > u64::MAX / 32 {
            return Err(ShardError::Header("shard length is out of range"));
        }
        Ok(())
    }

    /// The bound checksum of a block of this shard.
    pub fn checksum(&self, block: u64, data: &[u8]) -> u128 {
        block_checksum(self.id(), block, data)
    }

    /// The 16 bytes that go before a block's data.
    pub fn seal(&self, block: u64, data: &[u8]) -> [u8; CHECKSUM_LEN_BYTES] {
        self.checksum(block, data).to_le_bytes()
    }

    /// Checks a block that came with its checksum, as from `NodeClient::read_shard`.
    ///
    /// # Errors
    /// [`ShardError::BlockChecksum`], also if its length is not the one it should have.
    pub fn verify(&self, block: u64, checksum: u128, data: &[u8]) -> Result<(), ShardError> {
        let whole = data.len() as u64 == u64::from(self.block_len_bytes_at(block)) && !data.is_empty();
        if whole && self.checksum(block, data) == checksum {
            return Ok(());
        }
        Err(ShardError::BlockChecksum { block })
    }

    /// A whole encoded shard in one buffer, for small ones; large ones are sent as header, then
    /// [`ShardHeader::seal`] and data of each block, without copying the data.
    ///
    /// # Panics
    /// If `data` is not `len_bytes` long: the header would lie.
    pub fn encode_shard(&self, data: &[u8]) -> Bytes {
        assert_eq!(data.len() as u64, self.len_bytes, "the header names another length");
        let mut out = BytesMut::with_capacity(self.encoded_len_bytes() as usize);
        out.put_slice(&self.encode());
        for (block, data) in data.chunks(self.block_len_bytes as usize).enumerate() {
            out.put_slice(&self.seal(block as u64, data));
            out.put_slice(data);
        }
        out.freeze()
    }
}

/// The checksum of a block, bound to its shard and its number; see the module.
pub fn block_checksum(shard: ShardId, block: u64, data: &[u8]) -> u128 {
    bind(shard, block, xxh3_128(data))
}

/// Binds the hash of a block's data to the block's place.
fn bind(shard: ShardId, block: u64, data_hash: u128) -> u128 {
    let mut place = [0; 57];
    place[..16].copy_from_slice(&shard.cluster.to_bytes());
    place[16..32].copy_from_slice(&shard.op.to_bytes());
    place[32] = shard.slot.0;
    place[33..41].copy_from_slice(&block.to_le_bytes());
    place[41..].copy_from_slice(&data_hash.to_le_bytes());
    xxh3_128(&place)
}

/// Bytes of an encoded shard with `len_bytes` of data in blocks of `block_len_bytes`.
pub fn encoded_len_bytes(len_bytes: u64, block_len_bytes: u32) -> u64 {
    let blocks = len_bytes.div_ceil(u64::from(block_len_bytes));
    HEADER_LEN_BYTES as u64 + len_bytes + blocks * CHECKSUM_LEN_BYTES as u64
}

/// Where a block's checksum begins in the encoded shard, in bytes; its data follows 16 bytes later.
pub fn block_offset_bytes(block: u64, block_len_bytes: u32) -> u64 {
    HEADER_LEN_BYTES as u64 + block * (CHECKSUM_LEN_BYTES as u64 + u64::from(block_len_bytes))
}

fn array<const N: usize>(bytes: &[u8; HEADER_LEN_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
