//! Streams a large body into its slots, stripe by stripe.
//!
//! Owns: the stripe buffers and the pace. While one stripe is hashed and coded on a compute thread the next one is
//! filled; coded blocks go into one short channel per slot. Never commits anything.
//!
//! 1. Fill k blocks, each behind room for its checksum, so that checksum and data leave as one piece without a copy.
//! 2. Compute: digests over the data, its encryption if it is to be encrypted, parity, bound checksums.
//! 3. Send each slot its block. A slot whose stream broke or stalls is given up while W remain, else the write ends.
//! 4. At the body's end the digester decides; only then [`ShardPiece::End`] makes the shards complete.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coffer_common::node::{ShardPiece, ShardPieces};
use coffer_common::shard::{CHECKSUM_LEN_BYTES, ShardId, StripeGeometry};
use coffer_common::types::{OpId, SlotIndex};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::core::Core;
use super::encryption::Keystream;
use super::error::{BodyError, Unavailable};
use super::types::{Body, ByteSource, Digester, Digests};
use super::write::compute;

/// Pieces that wait per slot.
const CHANNEL_PIECES: usize = 1;
/// How long a slot may take to accept a piece.
const STALL_LIMIT: Duration = Duration::from_secs(8);

/// Why a body could not be streamed.
pub(super) enum PumpError {
    /// The client's body.
    Body(BodyError),
    /// Too few slots take it.
    Unavailable(Unavailable),
}

/// One channel per slot.
pub(super) fn channels(n: usize) -> (Vec<Option<mpsc::Sender<ShardPiece>>>, Vec<Option<ShardPieces>>) {
    (0..n)
        .map(|_| {
            let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
            (Some(sender), Some(receiver))
        })
        .unzip()
}

/// See the module.
pub(super) struct Pump {
    /// Codecs and the cluster's id.
    pub(super) core: Arc<Core>,
    /// The op.
    pub(super) op: OpId,
    /// How the body is cut.
    pub(super) stripes: StripeGeometry,
    /// Where each slot's pieces go; `None` once a slot is given up.
    pub(super) senders: Vec<Option<mpsc::Sender<ShardPiece>>>,
    /// Slots without which the write ends.
    pub(super) need: usize,
    /// What the body is encrypted with, if it is to be.
    pub(super) keystream: Option<Arc<Keystream>>,
    /// Set once the whole body is accepted.
    pub(super) digests: Arc<OnceLock<Digests>>,
}

/// The client's bytes, and what of the last piece is left.
struct Source {
    source: Box<dyn ByteSource>,
    carry: Bytes,
    received: u64,
    length: u64,
}

/// A stripe's blocks, each behind room for its checksum.
struct Filled {
    stripe: u64,
    blocks: Vec<BytesMut>,
}

impl Pump {
    /// Streams the body to its end.
    pub(super) async fn run(mut self, body: Body) -> Result<(), PumpError> {
        let Body { length, source, mut digester } = body;
        let mut source = Source { source, carry: Bytes::new(), received: 0, length };
        self.send_headers().await?;
        let mut filled = source.fill(&self.stripes, 0).await.map_err(PumpError::Body)?;
        loop {
            let next = filled.stripe + 1;
            let coding = self.code(filled, digester);
            let (coded, following) = if next < self.stripes.stripes() {
                let (coded, following) = tokio::join!(coding, source.fill(&self.stripes, next));
                (coded, Some(following.map_err(PumpError::Body)?))
            } else {
                (coding.await, None)
            };
            let (blocks, returned) = coded.map_err(PumpError::Unavailable)?;
            digester = returned;
            self.send(blocks.into_iter().map(ShardPiece::Data).collect()).await?;
            match following {
                Some(following) => filled = following,
                None => break,
            }
        }
        source.expect_end().await.map_err(PumpError::Body)?;
        let digests = digester.finish().map_err(PumpError::Body)?;
        let _ = self.digests.set(digests);
        let ends = self.senders.iter().map(|_| ShardPiece::End).collect();
        self.send(ends).await
    }

    async fn send_headers(&mut self) -> Result<(), PumpError> {
        let header = |slot: usize| self.stripes.header(self.shard(slot)).encode();
        let headers = (0..self.senders.len())
            .map(|slot| ShardPiece::Data(Bytes::copy_from_slice(&header(slot))))
            .collect();
        self.send(headers).await
    }

    fn shard(&self, slot: usize) -> ShardId {
        ShardId { cluster: self.core.cluster.map().cluster, op: self.op, slot: SlotIndex(slot as u8) }
    }

    /// Hashes and codes a stripe on a compute thread.
    fn code(
        &self,
        mut filled: Filled,
        mut digester: Box<dyn Digester>,
    ) -> impl Future<Output = Result<(Vec<Bytes>, Box<dyn Digester>), Unavailable>> + use<> {
        let (core, stripes, shard) = (Arc::clone(&self.core), self.stripes, self.shard(0));
        let (codecs, keystream) = (core.codecs.clone(), self.keystream.clone());
        async move {
            let work = move || {
                let mut left = stripes.data_len_bytes(filled.stripe) as usize;
                let mut offset = filled.stripe * stripes.stripe_len_bytes();
                for block in &mut filled.blocks {
                    let len = left.min(block.len() - CHECKSUM_LEN_BYTES);
                    let data = &mut block[CHECKSUM_LEN_BYTES..][..len];
                    digester.update(data);
                    if let Some(keystream) = &keystream {
                        keystream.apply(offset, data)?;
                    }
                    left -= len;
                    offset += len as u64;
                }
                code_stripe(&codecs, &stripes, shard, filled).map(|blocks| (blocks, digester))
            };
            compute(&core, work).await?
        }
    }

    /// Gives each slot its piece; slots that do not take it are given up.
    async fn send(&mut self, pieces: Vec<ShardPiece>) -> Result<(), PumpError> {
        let mut waiting = Vec::new();
        for (sender, piece) in self.senders.iter_mut().zip(pieces) {
            let refused = match sender {
                Some(open) => open.try_send(piece),
                None => continue,
            };
            match refused {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => *sender = None,
                Err(mpsc::error::TrySendError::Full(piece)) => waiting.push(async move {
                    if let Some(open) = sender
                        && !matches!(tokio::time::timeout(STALL_LIMIT, open.send(piece)).await, Ok(Ok(())))
                    {
                        *sender = None;
                    }
                }),
            }
        }
        join_all(waiting).await;
        let open = self.senders.iter().flatten().count();
        if open < self.need {
            let reason = format!("{open} of the {} drives needed take the data", self.need);
            return Err(PumpError::Unavailable(Unavailable::new(reason)));
        }
        Ok(())
    }
}

/// Parity and bound checksums of a stripe.
fn code_stripe(
    codecs: &coffer_common::erasure::Codecs,
    stripes: &StripeGeometry,
    shard: ShardId,
    filled: Filled,
) -> Result<Vec<Bytes>, Unavailable> {
    let failed = |error: coffer_common::erasure::CodecError| Unavailable::new(error.to_string());
    let Filled { stripe, mut blocks } = filled;
    let room = CHECKSUM_LEN_BYTES + stripes.block_len_bytes_at(stripe) as usize;
    let mut parity: Vec<BytesMut> = (0..stripes.m()).map(|_| BytesMut::zeroed(room)).collect();
    let data: Vec<&[u8]> = blocks.iter().map(|block| &block[CHECKSUM_LEN_BYTES..]).collect();
    let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|block| &mut block[CHECKSUM_LEN_BYTES..]).collect();
    let codec = codecs.get(stripes.k(), stripes.m()).map_err(failed)?;
    codec.encode_into(&data, &mut out).map_err(failed)?;
    blocks.append(&mut parity);
    let seal = |(slot, mut block): (usize, BytesMut)| {
        let header = stripes.header(ShardId { slot: SlotIndex(slot as u8), ..shard });
        let checksum = header.seal(stripe, &block[CHECKSUM_LEN_BYTES..]);
        block[..CHECKSUM_LEN_BYTES].copy_from_slice(&checksum);
        block.freeze()
    };
    Ok(blocks.into_iter().enumerate().map(seal).collect())
}

impl Source {
    /// Reads a stripe's data into fresh blocks; the end of the last stripe is padded with zeros.
    async fn fill(&mut self, stripes: &StripeGeometry, stripe: u64) -> Result<Filled, BodyError> {
        let block_len = stripes.block_len_bytes_at(stripe) as usize;
        let mut left = stripes.data_len_bytes(stripe) as usize;
        let mut blocks = Vec::with_capacity(usize::from(stripes.k() + stripes.m()));
        for _ in 0..stripes.k() {
            let mut block = BytesMut::with_capacity(CHECKSUM_LEN_BYTES + block_len);
            block.put_bytes(0, CHECKSUM_LEN_BYTES);
            let mut want = left.min(block_len);
            left -= want;
            while want > 0 {
                let piece = self.take(want).await?;
                want -= piece.len();
                block.extend_from_slice(&piece);
            }
            block.resize(CHECKSUM_LEN_BYTES + block_len, 0);
            blocks.push(block);
        }
        Ok(Filled { stripe, blocks })
    }

    /// Up to `most` bytes, at least one.
    async fn take(&mut self, most: usize) -> Result<Bytes, BodyError> {
        while self.carry.is_empty() {
            match self.source.next().await? {
                Some(piece) => {
                    self.received += piece.len() as u64;
                    self.carry = piece;
                }
                None => {
                    return Err(BodyError::Length { expected: self.length, received: self.received });
                }
            }
        }
        Ok(self.carry.split_to(self.carry.len().min(most)))
    }

    /// Nothing may follow the announced length.
    async fn expect_end(&mut self) -> Result<(), BodyError> {
        let more = if self.carry.is_empty() { self.source.next().await? } else { Some(self.carry.clone()) };
        match more {
            None => Ok(()),
            Some(piece) => Err(BodyError::Length {
                expected: self.length,
                received: self.received.max(self.length + piece.len() as u64),
            }),
        }
    }
}
