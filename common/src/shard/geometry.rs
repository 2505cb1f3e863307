//! Which byte of an object lies in which block of which shard.
//!
//! ```text
//!              slot 0   slot 1  …  slot k-1 | slot k … (parity)
//! stripe 0     block    block      block    | block
//! stripe 1     block    block      block    | block
//! last stripe  block'   block'     block'   | block'      block' = ceil(rest / k) bytes
//! ```
//! The object's bytes run through the data blocks row by row. Block i of every shard belongs to stripe i, so
//! all shards of a version have equal length. In the last stripe the data is spread evenly over shorter
//! blocks; what is missing at its end is zeros, which are coded and stored but never read back.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{MAX_BLOCK_LEN_BYTES, ShardHeader, ShardId};
use crate::limits::MAX_SLOTS;

/// Blocks are not shorter than this unless the object is: smaller messages cost more CPU than they save memory.
const MIN_DEFAULT_BLOCK_LEN_BYTES: u32 = 128 * 1024;
/// Blocks are not longer than this: two stripes of n = 4 are in memory for each upload.
const MAX_DEFAULT_BLOCK_LEN_BYTES: u32 = 512 * 1024;
/// A stripe, parity included, is not longer than this unless its blocks are the shortest.
const MAX_DEFAULT_STRIPE_LEN_BYTES: u64 = 4 * 1024 * 1024;
/// An object of several stripes is coded, sent and read in steps that overlap.
const MIN_DEFAULT_STRIPES: u64 = 4;

/// The numbers do not describe a stripe.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no stripes of `{k}` data and `{m}` parity blocks of `{block_len_bytes}` bytes")]
pub struct InvalidGeometry {
    k: u8,
    m: u8,
    block_len_bytes: u32,
}

/// How an object (or part) of a given size is cut into stripes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeGeometry {
    size_bytes: u64,
    k: u8,
    m: u8,
    block_len_bytes: u32,
}

/// The stripes that a byte range touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeRange {
    /// The first stripe; also the first block to read of each shard.
    pub first: u64,
    /// Number of stripes; also of blocks to read of each shard.
    pub count: u64,
}

/// A run of object bytes inside one data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPiece {
    /// The stripe.
    pub stripe: u64,
    /// The data slot.
    pub slot: u8,
    /// First byte inside the block.
    pub start: u32,
    /// One past the last byte inside the block.
    pub end: u32,
}

impl StripeGeometry {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`InvalidGeometry`] unless 1 ≤ k, k + m ≤ 16 and 1 ≤ block length ≤ 4 MiB.
    pub fn new(size_bytes: u64, k: u8, m: u8, block_len_bytes: u32) -> Result<Self, InvalidGeometry> {
        let fits = k >= 1 && usize::from(k) + usize::from(m) <= MAX_SLOTS;
        if !fits || block_len_bytes == 0 || block_len_bytes > MAX_BLOCK_LEN_BYTES {
            return Err(InvalidGeometry { k, m, block_len_bytes });
        }
        Ok(Self { size_bytes, k, m, block_len_bytes })
    }

    /// The object's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Data shards.
    pub fn k(&self) -> u8 {
        self.k
    }

    /// Parity shards.
    pub fn m(&self) -> u8 {
        self.m
    }

    /// Bytes of a block, in all stripes but the last.
    pub fn block_len_bytes(&self) -> u32 {
        self.block_len_bytes
    }

    /// Object bytes of a full stripe.
    pub fn stripe_len_bytes(&self) -> u64 {
        u64::from(self.k) * u64::from(self.block_len_bytes)
    }

    /// Number of stripes; 0 for an empty object.
    pub fn stripes(&self) -> u64 {
        self.size_bytes.div_ceil(self.stripe_len_bytes())
    }

    /// Object bytes of a stripe; 0 past the last.
    pub fn data_len_bytes(&self, stripe: u64) -> u64 {
        let start = stripe.saturating_mul(self.stripe_len_bytes());
        self.size_bytes.saturating_sub(start).min(self.stripe_len_bytes())
    }

    /// Bytes of each block of a stripe, padding included.
    pub fn block_len_bytes_at(&self, stripe: u64) -> u32 {
        self.data_len_bytes(stripe).div_ceil(u64::from(self.k)) as u32
    }

    /// Data bytes of every shard, headers and checksums not counted.
    pub fn shard_len_bytes(&self) -> u64 {
        match self.stripes() {
            0 => 0,
            n => (n - 1) * u64::from(self.block_len_bytes) + u64::from(self.block_len_bytes_at(n - 1)),
        }
    }

    /// The header of one of its shards.
    pub fn header(&self, id: ShardId) -> ShardHeader {
        ShardHeader {
            cluster: id.cluster,
            op: id.op,
            slot: id.slot,
            k: self.k,
            m: self.m,
            block_len_bytes: self.block_len_bytes,
            len_bytes: self.shard_len_bytes(),
        }
    }

    /// The stripes that hold the object's bytes of `range`, which is cut to the object.
    pub fn stripes_of(&self, range: Range<u64>) -> StripeRange {
        let end = range.end.min(self.size_bytes);
        if range.start >= end {
            return StripeRange { first: 0, count: 0 };
        }
        let first = range.start / self.stripe_len_bytes();
        StripeRange { first, count: (end - 1) / self.stripe_len_bytes() - first + 1 }
    }

    /// The runs of `range` (cut to the object) inside one stripe's data blocks, in the object's order.
    pub fn pieces_in(&self, stripe: u64, range: Range<u64>) -> impl Iterator<Item = BlockPiece> + use<> {
        let base = stripe.saturating_mul(self.stripe_len_bytes());
        let stripe_end = base.saturating_add(self.data_len_bytes(stripe));
        let block_len = u64::from(self.block_len_bytes_at(stripe));
        (0..self.k).filter_map(move |slot| {
            let block_start = base.saturating_add(u64::from(slot) * block_len);
            let block_end = block_start.saturating_add(block_len).min(stripe_end);
            let (start, end) = (range.start.max(block_start), range.end.min(block_end));
            let inside = |at: u64| (at - block_start) as u32;
            (start < end).then(|| BlockPiece { stripe, slot, start: inside(start), end: inside(end) })
        })
    }

    /// The runs of `range` (cut to the object) in data blocks, in the object's order.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = BlockPiece> + use<> {
        let geometry = *self;
        let stripes = self.stripes_of(range.clone());
        (stripes.first..stripes.first + stripes.count)
            .flat_map(move |stripe| geometry.pieces_in(stripe, range.clone()))
    }

    /// Cuts a stripe's object bytes into its k data blocks, padded with zeros to equal length. Whole blocks
    /// are slices of `data`; at most the last ones of the last stripe are copied.
    ///
    /// # Panics
    /// If `data` is not as long as the stripe: the object would be torn silently.
    pub fn data_blocks(&self, stripe: u64, data: &Bytes) -> Vec<Bytes> {
        assert_eq!(data.len() as u64, self.data_len_bytes(stripe), "not the bytes of stripe {stripe}");
        let block_len = self.block_len_bytes_at(stripe) as usize;
        (0..usize::from(self.k))
            .map(|slot| {
                let start = (slot * block_len).min(data.len());
                let end = (start + block_len).min(data.len());
                if end - start == block_len {
                    return data.slice(start..end);
                }
                let mut padded = BytesMut::zeroed(block_len);
                padded[..end - start].copy_from_slice(&data[start..end]);
                padded.freeze()
            })
            .collect()
    }
}

/// The block length for a new version: 512 KiB, halved (not below 128 KiB) while a stripe with its parity
/// exceeds 4 MiB or the object has fewer than four stripes.
pub fn default_block_len_bytes(size_bytes: u64, k: u8, m: u8) -> u32 {
    let mut block_len = MAX_DEFAULT_BLOCK_LEN_BYTES;
    let too_long = |block_len: u32| {
        let (block_len, k, m) = (u64::from(block_len), u64::from(k), u64::from(m));
        (k + m) * block_len > MAX_DEFAULT_STRIPE_LEN_BYTES || size_bytes < MIN_DEFAULT_STRIPES * k * block_len
    };
    while block_len > MIN_DEFAULT_BLOCK_LEN_BYTES && too_long(block_len) {
        block_len /= 2;
    }
    block_len
}
