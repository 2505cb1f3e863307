//! Reads the bytes of one op from its shards: an object's own, or one part's.
//!
//! 1. Sources are opened on k slots, data slots first; a short range inside one stripe needs only the slots it touches.
//! 2. Per stripe: wait until the blocks it needs are there, or any k. Every block is checked against its bound checksum.
//! 3. A source that errs, ends early or holds a wrong block is replaced by another slot from this stripe on; one that is
//!    slow is hedged by another. Missing data blocks are rebuilt.
//! 4. No slot left and too few blocks: the read is broken. It never yields a byte that is not proven, nor ends short.
//!
//! Read-ahead is what nodes put into their bounded channels; dropping the reader closes them.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::driver::{Peers, Target};
use coffer_common::meta::Coding;
use coffer_common::node::{NodeError, ReadShard, ShardBlocks, SlotAddress};
use coffer_common::shard::{self, ShardHeader, ShardId, StripeGeometry};
use coffer_common::types::{OpId, SlotIndex, SlotSet};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::coding;
use super::core::{Core, InlineShards};
use super::error::ReadBroken;

/// A slow source is hedged no sooner, and no later.
const HEDGE: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(1);
/// How long the last sources may take for a block.
const BLOCK_LIMIT: Duration = Duration::from_secs(30);

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The register that the shards belong to.
    pub(super) target: Target,
    /// The op that wrote them.
    pub(super) op: OpId,
    /// How the bytes are coded.
    pub(super) coding: Coding,
    /// Bytes.
    pub(super) size: u64,
    /// Slots known to hold their shard; asked before others.
    pub(super) holders: SlotSet,
    /// Shards that are here already.
    pub(super) inline: InlineShards,
}

/// One slot's blocks on their way.
struct Source {
    slot: SlotIndex,
    header: ShardHeader,
    state: SourceState,
    /// The next block that will come.
    next: u64,
    /// The last block that came.
    block: Option<(u64, Bytes)>,
    opened: Instant,
}

enum SourceState {
    Opening(BoxFuture<'static, Result<ShardBlocks, NodeError>>),
    Open(ShardBlocks),
    Here,
}

/// See the module.
pub(super) struct SegmentReader {
    core: Arc<Core>,
    peers: Peers,
    segment: Segment,
    stripes: StripeGeometry,
    range: Range<u64>,
    stripe: u64,
    end: u64,
    wanted: SlotSet,
    sources: Vec<Source>,
    tried: SlotSet,
    last_error: String,
}

impl SegmentReader {
    /// Reads `range` of the segment.
    pub(super) fn new(core: Arc<Core>, segment: Segment, range: Range<u64>) -> Result<Self, ReadBroken> {
        let stripes = coding::stripes(segment.coding, segment.size)
            .map_err(|error| ReadBroken { reason: error.to_string() })?;
        let touched = stripes.stripes_of(range.clone());
        let mut wanted = SlotSet::default();
        if touched.count == 1 {
            for piece in stripes.pieces_in(touched.first, range.clone()) {
                wanted.insert(SlotIndex(piece.slot));
            }
        } else {
            (0..stripes.k()).for_each(|slot| wanted.insert(SlotIndex(slot)));
        }
        let peers = core.peers(&segment.target);
        let mut reader = Self {
            core,
            peers,
            segment,
            stripes,
            range,
            stripe: touched.first,
            end: touched.first + touched.count,
            wanted,
            sources: Vec::new(),
            tried: SlotSet::default(),
            last_error: String::new(),
        };
        reader.take_inline();
        Ok(reader)
    }

    /// The pieces of the next stripe, in order; `None` at the end.
    pub(super) async fn next_stripe(&mut self) -> Result<Option<Vec<Bytes>>, ReadBroken> {
        if self.stripe >= self.end {
            return Ok(None);
        }
        self.fill_stripe().await?;
        let stripe = self.stripe;
        self.stripe += 1;
        let n = usize::from(self.stripes.k() + self.stripes.m());
        let mut blocks: Vec<Option<Bytes>> = vec![None; n];
        for source in &mut self.sources {
            if source.block.as_ref().is_some_and(|(number, _)| *number == stripe) {
                let block = if matches!(source.state, SourceState::Here) {
                    source.block.clone()
                } else {
                    source.block.take()
                };
                blocks[usize::from(source.slot.0)] = block.map(|(_, data)| data);
            }
        }
        // What lags behind by more than a channel holds is of no more use.
        self.sources.retain(|s| matches!(s.state, SourceState::Here) || s.next + 2 > stripe);
        self.rebuild(&mut blocks)?;
        let pieces = self.stripes.pieces_in(stripe, self.range.clone());
        let cut = |piece: shard::BlockPiece| {
            let block = blocks[usize::from(piece.slot)].as_ref()?;
            Some(block.slice(piece.start as usize..piece.end as usize))
        };
        let pieces: Option<Vec<Bytes>> = pieces.map(cut).collect();
        pieces.map(Some).ok_or_else(|| self.broken())
    }

    fn rebuild(&self, blocks: &mut [Option<Bytes>]) -> Result<(), ReadBroken> {
        let missing: Vec<usize> = self
            .wanted
            .iter()
            .map(|slot| usize::from(slot.0))
            .filter(|slot| blocks[*slot].is_none())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let failed = |error: coffer_common::erasure::CodecError| ReadBroken { reason: error.to_string() };
        let codec = self.core.codecs.get(self.stripes.k(), self.stripes.m()).map_err(failed)?;
        let present: Vec<Option<&[u8]>> = blocks.iter().map(|block| block.as_deref()).collect();
        let rebuilt = codec.rebuild(&present, &missing).map_err(failed)?;
        for (slot, block) in missing.into_iter().zip(rebuilt) {
            blocks[slot] = Some(block.into());
        }
        Ok(())
    }

    /// Waits until the stripe's blocks are there.
    async fn fill_stripe(&mut self) -> Result<(), ReadBroken> {
        let started = Instant::now();
        let (mut hedge_at, mut waited) = (started + self.hedge_after(), false);
        loop {
            self.open_enough();
            if self.is_ready() {
                // What is here already tells nothing of the drives.
                if waited {
                    self.core.block_latency.record(started.elapsed());
                }
                return Ok(());
            }
            let stripe = self.stripe;
            let mut waits: FuturesUnordered<_> = self
                .sources
                .iter_mut()
                .enumerate()
                .filter(|(_, source)| !source.has(stripe))
                .map(async |(index, source)| (index, source.advance(stripe).await))
                .collect();
            if waits.is_empty() {
                drop(waits);
                return Err(self.broken());
            }
            waited = true;
            let can_hedge = self.tried.len() < self.peers.slots.len();
            let done = tokio::select! {
                biased;
                done = waits.next() => done,
                () = tokio::time::sleep_until(hedge_at), if can_hedge => None,
                () = tokio::time::sleep_until(started + BLOCK_LIMIT), if !can_hedge => {
                    drop(waits);
                    self.last_error = "drives do not answer in time".to_owned();
                    return Err(self.broken());
                }
            };
            drop(waits);
            match done {
                Some((_, Ok(()))) => {}
                Some((index, Err(error))) => self.give_up(index, &error),
                None => {
                    hedge_at = Instant::now() + self.hedge_after();
                    self.open_another();
                }
            }
        }
    }

    /// How long a block is waited for before another slot is asked: half as long again as is usual.
    fn hedge_after(&self) -> Duration {
        (self.core.block_latency.percentile() * 3 / 2).clamp(*HEDGE.start(), *HEDGE.end())
    }

    /// Whether all wanted blocks are there, or k of any.
    fn is_ready(&self) -> bool {
        let mut have = SlotSet::default();
        for source in &self.sources {
            if source.has(self.stripe) {
                have.insert(source.slot);
            }
        }
        self.wanted.iter().all(|slot| have.contains(slot)) || have.len() >= usize::from(self.stripes.k())
    }

    /// Opens sources until the wanted slots, or k of any, may come.
    fn open_enough(&mut self) {
        loop {
            let running = |slot: SlotIndex| self.sources.iter().any(|source| source.slot == slot);
            let missing = self.wanted.iter().find(|slot| !running(*slot));
            let Some(missing) = missing else { return };
            if self.sources.len() >= usize::from(self.stripes.k()) {
                return;
            }
            // A slot that is known to lack it, or is dead, comes after all others.
            let direct = !self.tried.contains(missing) && self.promising(missing);
            if direct {
                self.open(missing);
            } else if !self.open_another() {
                return;
            }
        }
    }

    fn promising(&self, slot: SlotIndex) -> bool {
        let alive = self.peers.get(slot).is_some_and(|peer| peer.alive);
        alive && (self.segment.holders.is_empty() || self.segment.holders.contains(slot))
    }

    /// Opens the best slot that has not been tried; says whether there was one.
    fn open_another(&mut self) -> bool {
        let rank = |slot: &SlotIndex| {
            let alive = self.peers.get(*slot).is_some_and(|peer| peer.alive);
            (!alive, !self.promising(*slot), !self.wanted.contains(*slot), slot.0)
        };
        let untried = (0..self.peers.slots.len() as u8).map(SlotIndex);
        let best = untried.filter(|slot| !self.tried.contains(*slot)).min_by_key(rank);
        match best {
            Some(slot) => {
                self.open(slot);
                true
            }
            None => false,
        }
    }

    fn open(&mut self, slot: SlotIndex) {
        self.tried.insert(slot);
        let Some(peer) = self.peers.get(slot).cloned() else { return };
        let request = ReadShard {
            address: SlotAddress { epoch: self.peers.epochs.epoch, ..peer.address },
            register: self.segment.target.register.clone(),
            op: self.segment.op,
            first_block: self.stripe,
            block_count: self.end - self.stripe,
        };
        self.sources.push(Source {
            slot,
            header: self.header(slot),
            state: SourceState::Opening(Box::pin(async move { peer.read_shard(request).await })),
            next: self.stripe,
            block: None,
            opened: Instant::now(),
        });
    }

    fn header(&self, slot: SlotIndex) -> ShardHeader {
        let cluster = self.core.cluster.map().cluster;
        self.stripes.header(ShardId { cluster, op: self.segment.op, slot })
    }

    /// Makes sources of the shards that came with the views; they have a single block.
    fn take_inline(&mut self) {
        for (slot, op, shard) in std::mem::take(&mut self.segment.inline) {
            if op != self.segment.op || self.stripes.stripes() != 1 {
                continue;
            }
            let header = self.header(slot);
            match shard::decode(&shard, header.id()) {
                Ok((stored, blocks)) if stored == header && blocks.len() == 1 => {
                    let block = blocks.into_iter().next().map(|block| (0, block.data));
                    self.tried.insert(slot);
                    let state = SourceState::Here;
                    self.sources.push(Source { slot, header, state, next: 1, block, opened: Instant::now() });
                }
                Ok(_) => tracing::warn!(slot = slot.0, %op, "inline shard has another shape"),
                Err(error) => tracing::warn!(slot = slot.0, %op, %error, "inline shard is damaged"),
            }
        }
    }

    fn give_up(&mut self, index: usize, error: &str) {
        let source = self.sources.swap_remove(index);
        let waited_ms = source.opened.elapsed().as_millis() as u64;
        tracing::debug!(slot = source.slot.0, op = %self.segment.op, error, waited_ms, "shard source given up");
        self.last_error = format!("slot {}: {error}", source.slot.0);
    }

    fn broken(&self) -> ReadBroken {
        let have = self.sources.iter().filter(|source| source.has(self.stripe)).count();
        let k = self.stripes.k();
        ReadBroken { reason: format!("{have} of the {k} shards needed can be read; {}", self.last_error) }
    }
}

impl Source {
    fn has(&self, stripe: u64) -> bool {
        self.block.as_ref().is_some_and(|(number, _)| *number == stripe)
    }

    /// Waits for the block of a stripe; blocks before it are dropped. May be cancelled and called again.
    async fn advance(&mut self, stripe: u64) -> Result<(), String> {
        loop {
            match &mut self.state {
                SourceState::Opening(opening) => {
                    let blocks = opening.await.map_err(|error| error.to_string())?;
                    self.state = SourceState::Open(blocks);
                }
                SourceState::Here => return Err("the shard has no such block".to_owned()),
                SourceState::Open(blocks) => {
                    let block = blocks.recv().await.ok_or("the stream ended early")?;
                    let block = block.map_err(|error| error.to_string())?;
                    let number = self.next;
                    self.next += 1;
                    if number < stripe {
                        continue;
                    }
                    self.header
                        .verify(number, block.checksum, &block.data)
                        .map_err(|error| error.to_string())?;
                    self.block = Some((number, block.data));
                    return Ok(());
                }
            }
        }
    }
}
