//! Re-reading what a drive holds, to find what has rotted before anybody needs it.
//!
//! Owns: which shards there are, one shard's and one journal segment's verification, and carrying a damaged segment's live
//! records to a place that verifies. A damaged shard is marked as missing, as a reader would have: `crate::heal` brings it
//! back. Never decides when and how fast: `crate::scrub` does.

use std::ops::Bound;
use std::sync::{Arc, mpsc};

use coffer_common::blocking;
use coffer_common::node::{DriveScrub, NodeError};
use coffer_common::protocol::catch_up;
use coffer_common::types::OpId;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::DriveStore;
use super::background::{BREATH, REST};
use super::read::{Reading, Source, TRIES, blocks_per_read};
use crate::image::{Entry, ShardLocation};
use crate::journal::JournalError;

/// Registers looked at in one go.
const PIECE: usize = 64;

/// Waits as long as reading so many bytes may take.
pub(crate) type Pause<'a> = dyn Fn(u64) -> BoxFuture<'a, ()> + Send + Sync + 'a;

/// The shards of the registers after some key.
pub(crate) struct ShardsToScrub {
    /// The registers and their ops.
    pub(crate) shards: Vec<(Arc<Entry>, OpId)>,
    /// The last of the registers; nothing if there were none.
    pub(crate) last: Option<Vec<u8>>,
}

/// What came of reading a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scrubbed {
    /// Its bytes are those that were written; so many were read.
    Whole(u64),
    /// They are not; it is to be rebuilt.
    Damaged,
    /// It is not wanted any more, or known to be missing.
    Gone,
}

impl DriveStore {
    /// The shards of the next registers after `after`: of versions that are not superseded, unless they are known to be
    /// missing. What is only prepared may still be on its way, and is left to the next pass.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn shards_after(self: &Arc<Self>, after: Vec<u8>) -> Result<ShardsToScrub, NodeError> {
        self.check_health()?;
        let found = self.run(move |store| store.find_shards(after).map_err(|error| error.to_string()));
        found.await?.map_err(|error| self.unavailable(error))
    }

    fn find_shards(&self, after: Vec<u8>) -> Result<ShardsToScrub, crate::index::IndexError> {
        let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        let mut scan = self.index.scan(from, Vec::new());
        let mut piece = ShardsToScrub { shards: Vec::new(), last: None };
        for _ in 0..PIECE {
            let Some(found) = scan.next()? else { break };
            let entry = found.entry()?;
            piece.last = Some(entry.key.to_vec());
            let wanted = catch_up::retained(&entry.register, entry.kind()).map(|held| held.version.op);
            let held = wanted.filter(|op| entry.holds_shard(*op));
            piece.shards.extend(held.map(|op| (Arc::clone(&entry), op)));
        }
        Ok(piece)
    }

    /// Reads a whole shard from the medium; `pause` is told before each read how many bytes the one before had.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot serve at all.
    pub(crate) async fn scrub_shard(
        self: &Arc<Self>,
        entry: &Entry,
        op: OpId,
        pause: &Pause<'_>,
    ) -> Result<Scrubbed, NodeError> {
        self.check_health()?;
        for _ in 0..TRIES {
            let Some((entry, location)) = self.holding(entry, op).await? else { return Ok(Scrubbed::Gone) };
            let reason = match self.read_whole(&entry, (op, location), pause).await? {
                Ok(bytes) => return Ok(Scrubbed::Whole(bytes)),
                Err(reason) => reason,
            };
            match self.holding(&entry, op).await? {
                None => return Ok(Scrubbed::Gone),
                Some((entry, now)) if now == location => {
                    self.damaged(&entry, op, reason);
                    return Ok(Scrubbed::Damaged);
                }
                // Compaction has moved it meanwhile.
                Some(_) => {}
            }
        }
        Ok(Scrubbed::Gone)
    }

    /// The register as it is now, and where the op's shard lies, if it is here.
    async fn holding(
        self: &Arc<Self>,
        entry: &Entry,
        op: OpId,
    ) -> Result<Option<(Arc<Entry>, ShardLocation)>, NodeError> {
        let loaded = self.load(&entry.key).await?;
        let held = loaded.entry().filter(|now| now.slot == entry.slot && now.holds_shard(op));
        if let Some(now) = held {
            self.journal.durable(now.sequence).await.map_err(|error| self.unavailable(error))?;
        }
        Ok(held.and_then(|now| Some((Arc::clone(now), now.shard(op)?))))
    }

    async fn read_whole(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        (op, location): (OpId, ShardLocation),
        pause: &Pause<'_>,
    ) -> Result<Result<u64, String>, NodeError> {
        let at = Arc::clone(entry);
        let opened = self.run(move |store| store.open_whole(&at, op, location)).await?;
        let reading = match opened {
            Ok(reading) => Arc::new(reading),
            Err(reason) => return Ok(Err(reason)),
        };
        let (blocks, per_read) = (reading.header.block_count(), blocks_per_read(&reading.header));
        let (mut next, mut total) = (0, 0);
        while next < blocks {
            let reading = Arc::clone(&reading);
            let read = self.run(move |store| {
                let blocks = store.read_blocks(&reading, next, per_read)?;
                Ok(blocks.iter().map(|block| block.data.len() as u64).sum::<u64>())
            });
            match read.await? {
                Ok(bytes) => {
                    total += bytes;
                    pause(bytes).await;
                }
                Err(reason) => return Ok(Err(reason)),
            }
            next += per_read;
        }
        Ok(Ok(total))
    }

    /// Opens a shard whose header and length must be those of its version.
    fn open_whole(&self, entry: &Entry, op: OpId, location: ShardLocation) -> Result<Reading, String> {
        let reading = self.open_shard(op, entry.slot, location)?;
        let stored = match &reading.source {
            Source::File(file) => {
                let len = file.len().map_err(|error| error.to_string())?;
                file.forget_cached();
                len
            }
            Source::Journal(place) => u64::from(place.len),
        };
        let version = entry.register.versions.iter().find(|held| held.version.op == op);
        let expected = version.map(|held| (held.version.k, held.version.shard_len_bytes));
        let header = &reading.header;
        if stored != header.encoded_len_bytes() {
            return Err(format!("it has {stored} bytes instead of {}", header.encoded_len_bytes()));
        }
        if expected.is_some_and(|expected| expected != (header.k, header.len_bytes)) {
            return Err("its header does not fit its version".to_owned());
        }
        Ok(reading)
    }

    /// Numbers of the journal's sealed segments, ascending.
    pub(crate) fn sealed_segments(&self) -> Vec<u64> {
        self.journal.sealed()
    }

    /// Verifies a piece of a sealed segment; see `Journal::verify_sealed`. One that was removed meanwhile is fine.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot serve at all; within, what is wrong with the segment.
    pub(crate) async fn scrub_segment(
        self: &Arc<Self>,
        segment: u64,
        offset: u32,
    ) -> Result<Result<Option<u32>, String>, NodeError> {
        self.check_health()?;
        // The end of the newest sealed segment may still be on its way to the drive.
        self.journal.durable(self.journal.last_sequence()).await.map_err(|error| self.unavailable(error))?;
        self.run(move |store| match store.journal.verify_sealed(segment, offset) {
            Ok(next) => Ok(next),
            Err(_) if !store.journal.sealed().contains(&segment) => Ok(None),
            Err(error @ (JournalError::Corrupt { .. } | JournalError::Io(_))) => {
                store.health.read_error();
                Err(error.to_string())
            }
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Carries what is live in a damaged segment, and in all older ones, to the journal's end, and removes them: one after
    /// the other, the oldest first, each on a thread that is none of the drive's. There are four of those, and one that is
    /// busy for a minute passes for a call that hangs.
    ///
    /// # Errors
    /// [`NodeError`] if something live could not be carried; all of it is still where it was then.
    pub(crate) async fn rescue_segment(self: &Arc<Self>, segment: u64) -> Result<(), NodeError> {
        loop {
            self.check_health()?;
            let sealed = self.journal.sealed();
            let Some(oldest) = sealed.first().copied().filter(|oldest| *oldest <= segment) else {
                return Ok(());
            };
            let store = Arc::clone(self);
            // Gone with this future: whoever stops waits for no rests.
            let (_waiting, left) = mpsc::channel::<()>();
            let rescued = blocking::run(move || {
                let mut began = Instant::now();
                store.rescue_oldest(oldest, &mut || {
                    let worked = began.elapsed();
                    if worked >= BREATH {
                        if !store.health.is_full() {
                            // Nothing is ever sent: it ends with the time, or with who waits.
                            let _ = left.recv_timeout(worked * REST);
                        }
                        began = Instant::now();
                    }
                })
            });
            rescued
                .await
                .map_err(|error| self.unavailable(error))?
                .map_err(|error| self.unavailable(error))?;
        }
    }

    /// Tells how far scrubbing has come, for [`Self::info`].
    pub(crate) fn tell_scrub(&self, scrub: DriveScrub) {
        *self.scrub.lock() = scrub;
    }
}
