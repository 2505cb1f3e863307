//! Makes one slot's shard of a version from k others.
//!
//! Owns: which slots are read, block by block, each block verified here against its bound checksum; and the coding. Never
//! holds more than a few stripes, never trusts a node's word for a byte, never writes.
//!
//! 0. While the slot moves, its very shard may be at the drive that it has left: then that is read, and nothing coded,
//!    until a block errs.
//! 1. k slots are opened: those that are known to hold their shard first.
//! 2. Per stripe: a block from each. A slot that errs, ends early or sends a wrong block is replaced by another one from
//!    this stripe on.
//! 3. The missing block is coded from them, sealed, and handed on.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::driver::{Peers, Target};
use coffer_common::erasure::Codecs;
use coffer_common::limits::INLINE_SHARD_BYTES;
use coffer_common::node::{ReadShard, ShardBlocks, ShardPiece, SlotAddress};
use coffer_common::protocol::message::Version;
use coffer_common::shard::{self, ShardHeader};
use coffer_common::types::{ClusterId, OpId, SlotIndex, SlotSet};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::pace::Turn;

/// How long a slot may take for its next block.
const BLOCK_LIMIT: Duration = Duration::from_secs(30);
const LATE: &str = "a slot did not answer in time";

/// A slot that is read.
struct Source {
    slot: SlotIndex,
    /// `None` if all there is has been taken.
    blocks: Option<ShardBlocks>,
    /// The block of the current stripe.
    block: Option<Bytes>,
}

/// See the module.
pub(super) struct Sources<'a> {
    codecs: &'a Codecs,
    peers: &'a Peers,
    target: &'a Target,
    /// The header of a shard of the version, with the slot to be filled in.
    header: ShardHeader,
    /// The shard itself, at the drive that the slot has left.
    exact: Option<Source>,
    open: Vec<Source>,
    left: VecDeque<SlotIndex>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        (codecs, cluster): (&'a Codecs, ClusterId),
        peers: &'a Peers,
        target: &'a Target,
        version: &Version,
    ) -> Result<Self, String> {
        let header = ShardHeader {
            cluster,
            op: version.op,
            slot: SlotIndex(0),
            k: version.k,
            m: (peers.geometry.n() as u8).saturating_sub(version.k),
            block_len_bytes: version.block_len_bytes,
            len_bytes: version.shard_len_bytes,
        };
        header.check().map_err(|error| error.to_string())?;
        Ok(Self { codecs, peers, target, header, exact: None, open: Vec::new(), left: VecDeque::new() })
    }

    /// Takes the shards that came along, then reads the holders, then whatever is alive; never the slot itself.
    pub(super) fn starting_with(
        mut self,
        own: SlotIndex,
        holders: SlotSet,
        inline: Vec<(SlotIndex, OpId, Bytes)>,
    ) -> Self {
        let k = usize::from(self.header.k);
        for (slot, op, encoded) in inline {
            let fits = slot != own && op == self.header.op && self.is_single() && self.open.len() < k;
            let header = self.header_of(slot);
            if fits
                && let Ok((stored, mut blocks)) = shard::decode(&encoded, header.id())
                && stored == header
                && let Some(block) = blocks.pop()
            {
                self.open.push(Source { slot, blocks: None, block: Some(block.data) });
            }
        }
        let taken: Vec<SlotIndex> = self.open.iter().map(|source| source.slot).collect();
        let alive = self.peers.alive();
        let mut left: Vec<SlotIndex> =
            alive.iter().filter(|slot| *slot != own && !taken.contains(slot)).collect();
        left.sort_by_key(|slot| !holders.contains(*slot));
        self.left = left.into();
        self
    }

    /// Whether a shard is a single block.
    fn is_single(&self) -> bool {
        self.header.block_count() == 1
    }

    fn header_of(&self, slot: SlotIndex) -> ShardHeader {
        ShardHeader { slot, ..self.header }
    }

    /// Opens the shard of slot `own` where the slot was before, or else k others; waits for the first block of each.
    pub(super) async fn open(&mut self, own: SlotIndex) -> Result<(), String> {
        self.exact = self.former(own).await;
        if self.exact.is_some() { Ok(()) } else { self.fill(0).await }
    }

    /// The shard at the drive that the slot has left, if its first block is there.
    async fn former(&self, own: SlotIndex) -> Option<Source> {
        let former = self.peers.get(own)?.former.as_ref()?;
        let request = self.request(former.address, 0);
        let blocks = tokio::time::timeout(BLOCK_LIMIT, former.read_shard(request)).await.ok()?.ok();
        let mut source = Source { slot: own, blocks, block: None };
        source.next(self.header, 0).await.ok()?;
        Some(source)
    }

    /// Whether the shard is copied as it is.
    pub(super) fn copies(&self) -> bool {
        self.exact.is_some()
    }

    /// Whether the shard lives in the journal, as the writer's own would.
    pub(super) fn is_inline(&self) -> bool {
        self.is_single() && self.header.len_bytes <= u64::from(INLINE_SHARD_BYTES)
    }

    /// Makes the whole encoded shard of slot `own`.
    pub(super) async fn whole(mut self, own: SlotIndex) -> Result<Bytes, String> {
        let block = self.block(own, 0).await?;
        Ok(self.header_of(own).encode_shard(&block))
    }

    /// Makes the encoded shard of slot `own` piece by piece, each stripe in a turn. Ends early, and well, if nobody takes the
    /// pieces any more.
    pub(super) async fn stream<P: Future<Output = Turn>>(
        mut self,
        own: SlotIndex,
        pieces: mpsc::Sender<ShardPiece>,
        turn: impl Fn() -> P,
    ) -> Result<(), String> {
        let header = self.header_of(own);
        let send = async |piece: Bytes| pieces.send(ShardPiece::Data(piece)).await.is_ok();
        let mut taken = send(Bytes::copy_from_slice(&header.encode())).await;
        for number in 0..header.block_count() {
            if !taken {
                return Ok(());
            }
            let turn = turn().await;
            let block = self.block(own, number).await?;
            drop(turn);
            taken = send(Bytes::copy_from_slice(&header.seal(number, &block))).await && send(block).await;
        }
        // Whoever left does not need the end either.
        let _ = pieces.send(ShardPiece::End).await;
        Ok(())
    }

    /// Codes one block of slot `own`.
    async fn block(&mut self, own: SlotIndex, number: u64) -> Result<Bytes, String> {
        if let Some(mut exact) = self.exact.take() {
            match exact.next(self.header, number).await {
                Ok(()) => {
                    let block = exact.block.take();
                    self.exact = Some(exact);
                    return block.ok_or_else(|| "no block came".to_owned());
                }
                Err(reason) => tracing::debug!(slot = own.0, reason, "a shard is not copied to its end"),
            }
        }
        self.fill(number).await?;
        let mut present: Vec<Option<Bytes>> = vec![None; self.peers.geometry.n()];
        for source in &mut self.open {
            present[usize::from(source.slot.0)] = source.block.take();
        }
        let codec = self.codecs.get(self.header.k, self.header.m).map_err(|error| error.to_string())?;
        let present: Vec<Option<&[u8]>> = present.iter().map(Option::as_deref).collect();
        let rebuilt = codec.rebuild(&present, &[usize::from(own.0)]).map_err(|error| error.to_string())?;
        rebuilt.into_iter().next().map(Bytes::from).ok_or_else(|| "nothing was rebuilt".to_owned())
    }

    /// Gets the block of this number from k slots.
    async fn fill(&mut self, number: u64) -> Result<(), String> {
        let mut reason = "too few slots are alive".to_owned();
        loop {
            while self.open.len() < usize::from(self.header.k) {
                let Some(slot) = self.left.pop_front() else { return Err(reason) };
                match self.read(slot, number).await {
                    Ok(blocks) => self.open.push(Source { slot, blocks: Some(blocks), block: None }),
                    Err(error) => reason = format!("slot {}: {error}", slot.0),
                }
            }
            let header = self.header;
            let waiting = self.open.iter_mut().map(|source| source.next(header, number));
            let failed: Vec<_> = join_all(waiting).await.into_iter().filter_map(Result::err).collect();
            self.open.retain(|source| source.block.is_some());
            match failed.into_iter().next() {
                Some(error) => reason = error,
                None => return Ok(()),
            }
        }
    }

    async fn read(&self, slot: SlotIndex, first_block: u64) -> Result<ShardBlocks, String> {
        let peer = self.peers.get(slot).ok_or("no such slot")?;
        let request = self.request(peer.address, first_block);
        let opened = tokio::time::timeout(BLOCK_LIMIT, peer.read_shard(request)).await;
        opened.map_err(|_| LATE.to_owned())?.map_err(|error| error.to_string())
    }

    fn request(&self, address: SlotAddress, first_block: u64) -> ReadShard {
        ReadShard {
            address: SlotAddress { epoch: self.peers.epochs.epoch, ..address },
            register: self.target.register.clone(),
            op: self.header.op,
            first_block,
            block_count: self.header.block_count() - first_block,
        }
    }
}

impl Source {
    /// Waits for the block of this number, unless it is here.
    async fn next(&mut self, header: ShardHeader, number: u64) -> Result<(), String> {
        if self.block.is_some() {
            return Ok(());
        }
        let next = async { self.blocks.as_mut()?.recv().await };
        let block = tokio::time::timeout(BLOCK_LIMIT, next).await.map_err(|_| LATE.to_owned())?;
        let block = block.ok_or("its blocks ended early")?.map_err(|error| error.to_string())?;
        let header = ShardHeader { slot: self.slot, ..header };
        header.verify(number, block.checksum, &block.data).map_err(|error| error.to_string())?;
        self.block = Some(block.data);
        Ok(())
    }
}
