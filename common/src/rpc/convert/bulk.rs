//! Large shards.

use super::{Malformed, register_from_wire, register_to_wire, required};
use crate::node::{PrepareShard, ReadShard, ShardBlock};
use crate::proto::storage_v1 as wire;

impl From<PrepareShard> for wire::PrepareShard {
    fn from(header: PrepareShard) -> Self {
        let PrepareShard { address, register, bucket_revision, op } = header;
        Self {
            address: Some(address.into()),
            register: register_to_wire(&register),
            bucket_revision,
            op: Some(op.into()),
        }
    }
}

impl TryFrom<wire::PrepareShard> for PrepareShard {
    type Error = Malformed;

    fn try_from(header: wire::PrepareShard) -> Result<Self, Malformed> {
        Ok(Self {
            address: required(header.address, "header.address")?,
            register: register_from_wire(&header.register)?,
            bucket_revision: header.bucket_revision,
            op: required(header.op, "header.op")?,
        })
    }
}

impl From<ReadShard> for wire::ReadShardRequest {
    fn from(request: ReadShard) -> Self {
        let ReadShard { address, register, op, first_block, block_count } = request;
        Self {
            address: Some(address.into()),
            register: register_to_wire(&register),
            op: Some(op.into()),
            first_block,
            block_count,
        }
    }
}

impl TryFrom<wire::ReadShardRequest> for ReadShard {
    type Error = Malformed;

    fn try_from(request: wire::ReadShardRequest) -> Result<Self, Malformed> {
        Ok(Self {
            address: required(request.address, "read.address")?,
            register: register_from_wire(&request.register)?,
            op: required(request.op, "read.op")?,
            first_block: request.first_block,
            block_count: request.block_count,
        })
    }
}

impl From<ShardBlock> for wire::ShardBlock {
    fn from(block: ShardBlock) -> Self {
        let ShardBlock { checksum, data } = block;
        Self { checksum: Some(checksum.into()), data }
    }
}

impl TryFrom<wire::ShardBlock> for ShardBlock {
    type Error = Malformed;

    fn try_from(block: wire::ShardBlock) -> Result<Self, Malformed> {
        let checksum = block.checksum.ok_or(Malformed("block.checksum"))?;
        Ok(Self { checksum: checksum.into(), data: block.data })
    }
}
