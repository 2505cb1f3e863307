//! Verifies encoded shards that arrive in pieces of any size.
//!
//! [`Verifier`] only checks: the node runs it on a shard while the same pieces go to the drive, and no byte
//! is copied. [`Decoder`] also yields the blocks; a block that lies whole in one piece is a slice of it, any
//! other is assembled in one copy. Both stop at the first byte that cannot be right and say the same error
//! for ever after.
//!
//! 1. header: 64 bytes, compared with the shard that is expected;
//! 2. per block: 16 bytes of checksum, then data, hashed as it comes (in one call where it is whole);
//! 3. after the last block nothing may follow; `finish` says whether all came.

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::{
    CHECKSUM_LEN_BYTES, HEADER_LEN_BYTES, ShardError, ShardHeader, ShardId, bind, block_offset_bytes,
};

/// A block that has been checked against its bound checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBlock {
    /// Its number in the shard.
    pub number: u64,
    /// Its bound checksum.
    pub checksum: u128,
    /// Its bytes.
    pub data: Bytes,
}

/// What a step of the verifier found.
enum Step {
    /// Everything given so far is consumed.
    Hungry,
    /// The header is complete.
    Header,
    /// Some or all of the current block's data; not yet trusted.
    Fragment(Bytes),
    /// The fragments since the last block are a block, verified.
    Block { number: u64, checksum: u128 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Checksum,
    Data { checksum: u128, left: u32 },
    End,
}

/// Checks an encoded shard piece by piece.
pub struct Verifier {
    expected: ShardId,
    header: Option<ShardHeader>,
    stage: Stage,
    next_block: u64,
    end_block: u64,
    /// The head of a header or checksum that was split between pieces.
    partial: [u8; HEADER_LEN_BYTES],
    partial_len: usize,
    hasher: Box<Xxh3Default>,
    data_hash: Option<u128>,
    failed: Option<ShardError>,
}

impl Verifier {
    /// Expects the whole encoded shard of this slot, from its header on.
    pub fn new(expected: ShardId) -> Self {
        Self {
            expected,
            header: None,
            stage: Stage::Header,
            next_block: 0,
            end_block: 0,
            partial: [0; HEADER_LEN_BYTES],
            partial_len: 0,
            hasher: Box::new(Xxh3Default::new()),
            data_hash: None,
            failed: None,
        }
    }

    /// Expects blocks `first..first + count` (as many of them as the shard has) of a shard whose header is known,
    /// as they lie in its file from `block_offset_bytes(first)` on.
    pub fn blocks(header: ShardHeader, first: u64, count: u64) -> Self {
        let mut verifier = Self::new(header.id());
        verifier.header = Some(header);
        verifier.next_block = first;
        verifier.end_block = first.saturating_add(count).min(header.block_count());
        verifier.stage = verifier.stage_between_blocks();
        verifier
    }

    /// The header, once it has come.
    pub fn header(&self) -> Option<&ShardHeader> {
        self.header.as_ref()
    }

    /// Checks the next piece.
    ///
    /// # Errors
    /// What is wrong with the shard; the same error on every later call.
    pub fn push(&mut self, mut piece: Bytes) -> Result<(), ShardError> {
        while !matches!(self.step(&mut piece)?, Step::Hungry) {}
        Ok(())
    }

    /// Says that no more will come.
    ///
    /// # Errors
    /// [`ShardError::Truncated`] if something is missing, or the earlier error.
    pub fn finish(&self) -> Result<ShardHeader, ShardError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match (self.stage, self.header) {
            (Stage::End, Some(header)) => Ok(header),
            _ => Err(ShardError::Truncated { missing_bytes: self.missing_bytes() }),
        }
    }

    fn missing_bytes(&self) -> u64 {
        let Some(header) = &self.header else {
            return (HEADER_LEN_BYTES - self.partial_len) as u64;
        };
        let offset =
            |block: u64| block_offset_bytes(block, header.block_len_bytes).min(header.encoded_len_bytes());
        let begun = match self.stage {
            Stage::Data { left, .. } => offset(self.next_block + 1) - u64::from(left),
            _ => offset(self.next_block) + self.partial_len as u64,
        };
        offset(self.end_block).saturating_sub(begun)
    }

    fn step(&mut self, piece: &mut Bytes) -> Result<Step, ShardError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let step = self.try_step(piece);
        if let Err(error) = &step {
            self.failed = Some(error.clone());
        }
        step
    }

    fn try_step(&mut self, piece: &mut Bytes) -> Result<Step, ShardError> {
        // A block is announced before more is consumed, also when it ends its piece.
        if let (Stage::Data { checksum, left: 0 }, Some(data_hash)) = (self.stage, self.data_hash.take()) {
            return self.end_of_block(checksum, data_hash);
        }
        if piece.is_empty() {
            return Ok(Step::Hungry);
        }
        match self.stage {
            Stage::End => Err(ShardError::Trailing),
            Stage::Header => {
                if !self.fill_partial(piece, HEADER_LEN_BYTES) {
                    return Ok(Step::Hungry);
                }
                let header = ShardHeader::decode(&self.partial)?;
                check_id(&header, self.expected)?;
                self.end_block = header.block_count();
                self.header = Some(header);
                self.stage = self.stage_between_blocks();
                Ok(Step::Header)
            }
            Stage::Checksum => {
                if !self.fill_partial(piece, CHECKSUM_LEN_BYTES) {
                    return Ok(Step::Hungry);
                }
                let mut checksum = [0; CHECKSUM_LEN_BYTES];
                checksum.copy_from_slice(&self.partial[..CHECKSUM_LEN_BYTES]);
                let left = self.current_block_len_bytes();
                self.stage = Stage::Data { checksum: u128::from_le_bytes(checksum), left };
                Ok(self.data(piece))
            }
            Stage::Data { .. } => Ok(self.data(piece)),
        }
    }

    /// Takes what the piece has of the current block's data.
    fn data(&mut self, piece: &mut Bytes) -> Step {
        let whole = self.current_block_len_bytes();
        let Stage::Data { checksum, left } = self.stage else {
            return Step::Hungry;
        };
        if piece.is_empty() {
            return Step::Hungry;
        }
        let fragment = piece.split_to(piece.len().min(left as usize));
        let left_after = left - fragment.len() as u32;
        if fragment.len() == whole as usize {
            self.data_hash = Some(xxh3_128(&fragment));
        } else {
            if left == whole {
                self.hasher.reset();
            }
            self.hasher.update(&fragment);
            if left_after == 0 {
                self.data_hash = Some(self.hasher.digest128());
            }
        }
        self.stage = Stage::Data { checksum, left: left_after };
        Step::Fragment(fragment)
    }

    fn end_of_block(&mut self, checksum: u128, data_hash: u128) -> Result<Step, ShardError> {
        let number = self.next_block;
        if bind(self.expected, number, data_hash) != checksum {
            return Err(ShardError::BlockChecksum { block: number });
        }
        self.next_block += 1;
        self.stage = self.stage_between_blocks();
        Ok(Step::Block { number, checksum })
    }

    fn stage_between_blocks(&self) -> Stage {
        if self.next_block < self.end_block { Stage::Checksum } else { Stage::End }
    }

    fn current_block_len_bytes(&self) -> u32 {
        self.header.map_or(0, |header| header.block_len_bytes_at(self.next_block))
    }

    /// Moves bytes into `partial` until it holds `len` of them; whether it does.
    fn fill_partial(&mut self, piece: &mut Bytes, len: usize) -> bool {
        let taken = piece.split_to(piece.len().min(len - self.partial_len));
        self.partial[self.partial_len..self.partial_len + taken.len()].copy_from_slice(&taken);
        self.partial_len += taken.len();
        if self.partial_len < len {
            return false;
        }
        self.partial_len = 0;
        true
    }
}

/// Checks an encoded shard piece by piece and yields its blocks.
pub struct Decoder {
    verifier: Verifier,
    /// The current block so far: a slice of a piece, or a buffer of its own once a second fragment came.
    first: Bytes,
    assembled: BytesMut,
}

impl Decoder {
    /// Expects the whole encoded shard of this slot, from its header on.
    pub fn new(expected: ShardId) -> Self {
        Self::over(Verifier::new(expected))
    }

    /// Expects some blocks of a shard whose header is known; see [`Verifier::blocks`].
    pub fn blocks(header: ShardHeader, first: u64, count: u64) -> Self {
        Self::over(Verifier::blocks(header, first, count))
    }

    fn over(verifier: Verifier) -> Self {
        Self { verifier, first: Bytes::new(), assembled: BytesMut::new() }
    }

    /// The header, once it has come.
    pub fn header(&self) -> Option<&ShardHeader> {
        self.verifier.header()
    }

    /// Checks the next piece; the blocks that it completes are appended to `blocks`.
    ///
    /// # Errors
    /// What is wrong with the shard; the blocks before it are good and have been appended.
    pub fn push(&mut self, mut piece: Bytes, blocks: &mut Vec<VerifiedBlock>) -> Result<(), ShardError> {
        loop {
            match self.verifier.step(&mut piece)? {
                Step::Hungry => return Ok(()),
                Step::Header => {}
                Step::Fragment(fragment) => self.collect(fragment),
                Step::Block { number, checksum } => {
                    let data = self.take_block();
                    blocks.push(VerifiedBlock { number, checksum, data });
                }
            }
        }
    }

    /// Says that no more will come.
    ///
    /// # Errors
    /// [`ShardError::Truncated`] if something is missing, or the earlier error.
    pub fn finish(&self) -> Result<ShardHeader, ShardError> {
        self.verifier.finish()
    }

    fn collect(&mut self, fragment: Bytes) {
        if self.first.is_empty() && self.assembled.is_empty() {
            self.first = fragment;
            return;
        }
        if self.assembled.is_empty() {
            self.assembled.reserve(self.verifier.current_block_len_bytes() as usize);
            self.assembled.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.assembled.extend_from_slice(&fragment);
    }

    fn take_block(&mut self) -> Bytes {
        if self.assembled.is_empty() {
            return std::mem::take(&mut self.first);
        }
        std::mem::take(&mut self.assembled).freeze()
    }
}

/// Checks a whole encoded shard and yields its blocks as slices of it.
///
/// # Errors
/// What is wrong with the shard.
pub fn decode(encoded: &Bytes, expected: ShardId) -> Result<(ShardHeader, Vec<VerifiedBlock>), ShardError> {
    let mut decoder = Decoder::new(expected);
    let mut blocks = Vec::new();
    decoder.push(encoded.clone(), &mut blocks)?;
    Ok((decoder.finish()?, blocks))
}

fn check_id(header: &ShardHeader, expected: ShardId) -> Result<(), ShardError> {
    if header.cluster != expected.cluster {
        return Err(ShardError::OtherShard("cluster"));
    }
    if header.op != expected.op {
        return Err(ShardError::OtherShard("op"));
    }
    if header.slot != expected.slot {
        return Err(ShardError::OtherShard("slot"));
    }
    Ok(())
}
