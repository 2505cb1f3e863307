//! What catch-up writes: versions that peers told, and shards that were rebuilt.
//!
//! Owns the way of both into a register, which is the way of any request: durable before it returns. Never decides what is
//! worth having: `common::protocol::catch_up` does; and never fetches anything: `crate::heal` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::node::{DriveHeal, NodeError, OwedRegister, ShardPieces, SlotAddress};
use coffer_common::protocol::catch_up::{self, Install};
use coffer_common::protocol::message::{Refusal, SlotReply, SlotVersion};
use coffer_common::protocol::slot::{Caller, Slot};
use coffer_common::types::{BucketId, RegisterKey, SlotIndex};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::mutate::{Change, NewShard};
use super::{DriveStore, Task, Unfinished};

/// Over how long the rate of rebuilding is taken.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Shards rebuilt on a drive since it was opened.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    shards: AtomicU64,
    bytes: AtomicU64,
    window: Mutex<Option<Window>>,
}

/// The window that runs, and the rate in the one before.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    shards: u64,
    per_minute: u64,
}

impl Rebuilt {
    fn add(&self, bytes: u64) {
        self.shards.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn per_minute(&self) -> u64 {
        let (now, shards) = (Instant::now(), self.shards.load(Ordering::Relaxed));
        let mut window = self.window.lock();
        let running = window.get_or_insert(Window { began: now, shards, per_minute: 0 });
        let took = now - running.began;
        if took >= RATE_WINDOW {
            let per_minute = (shards - running.shards) as f64 * 60.0 / took.as_secs_f64();
            *running = Window { began: now, shards, per_minute: per_minute.round() as u64 };
        }
        running.per_minute
    }
}

/// A rebuilt shard.
pub(crate) enum RebuiltShard {
    /// Short enough for the journal, whole.
    Inline(Bytes),
    /// In pieces, as it is made.
    Stream(ShardPieces),
}

impl DriveStore {
    /// Records what a peer told of a register, without shards. Returns what is recorded here as STABLE.
    ///
    /// # Errors
    /// [`NodeError`]: not this slot, or a failed drive.
    pub(crate) async fn learn(
        self: &Arc<Self>,
        slot: SlotIndex,
        told: &OwedRegister,
    ) -> Result<Vec<SlotVersion>, NodeError> {
        let address = SlotAddress {
            cluster: self.cluster,
            drive: self.id,
            incarnation: self.incarnation,
            partition: told.partition,
            slot,
            epoch: told.epoch,
        };
        self.check_address(&address, &told.register)?;
        let key = Bytes::from(told.register.encode());
        let change = Change { key: &key, address: &address, bucket: None, shards: Vec::new() };
        let caller = Caller { epoch: told.epoch, bucket_revision: 0 };
        let (reply, entry) =
            self.change(&change, |slot| catch_up::learn(slot, caller, &told.versions)).await?;
        match (reply, entry) {
            (SlotReply::Done, Some(entry)) => {
                Ok(catch_up::confirmed(&entry.register, &told.versions).cloned().collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Installs a shard that was rebuilt; the reply is that of INSTALL.
    ///
    /// # Errors
    /// [`NodeError`]: not this slot, bytes that do not verify, an aborted stream, or a failed drive.
    pub(crate) async fn install(
        self: &Arc<Self>,
        (address, register): (SlotAddress, &RegisterKey),
        install: &Install,
        shard: RebuiltShard,
    ) -> Result<SlotReply, NodeError> {
        self.check_health()?;
        self.check_address(&address, register)?;
        if self.health.is_full() {
            return Ok(SlotReply::Refused(Refusal::Full));
        }
        let (key, op) = (Bytes::from(register.encode()), install.version.op);
        let caller = Caller { epoch: address.epoch, bucket_revision: 0 };
        let step = |slot: Slot<'_>| catch_up::install(slot, caller, install, true);
        let reply = match shard {
            RebuiltShard::Inline(bytes) => {
                self.verify_shard(op, address.slot, &bytes)?;
                let shards = vec![NewShard::Inline(op, bytes)];
                let change = Change { key: &key, address: &address, bucket: None, shards };
                self.change(&change, step).await?.0
            }
            RebuiltShard::Stream(pieces) => {
                self.receive_shard((&address, &key, op), None, pieces, step).await?
            }
        };
        if reply == SlotReply::Done {
            self.rebuilt.add(install.version.shard_len_bytes);
        }
        Ok(reply)
    }

    /// The version that an unfinished register lacks the shard of, if it still does.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn lacking(
        self: &Arc<Self>,
        unfinished: &Unfinished,
    ) -> Result<Option<SlotVersion>, NodeError> {
        let loaded = self.load(&unfinished.key).await?;
        let held = loaded.entry().and_then(|entry| catch_up::missing(&entry.register, entry.kind()).cloned());
        Ok(held.filter(|held| held.version.op == unfinished.op))
    }

    /// The revision of a bucket that this drive has adopted.
    pub(crate) fn bucket_revision(&self, bucket: BucketId) -> u64 {
        self.slots.read().bucket(bucket).0.revision
    }

    /// Whether the drive has no room for shards.
    pub(crate) fn is_full(&self) -> bool {
        self.health.is_full()
    }

    /// What catch-up knows and has done.
    pub(super) fn heal_info(&self) -> DriveHeal {
        let ((listed, walked), counted) = (self.unfinished.known(Task::Heal), self.census.missing_shards());
        let (owed, all_owed) = self.owed.known();
        // The counter has superseded versions, too, but it knows of all: the list is bounded, and empty after a start.
        let missing = if walked { listed as u64 } else { counted.max(listed as u64) };
        DriveHeal {
            missing,
            owed: owed as u64,
            complete: (walked || missing == 0) && all_owed,
            rebuilt_shards: self.rebuilt.shards.load(Ordering::Relaxed),
            rebuilt_bytes: self.rebuilt.bytes.load(Ordering::Relaxed),
            shards_per_minute: self.rebuilt.per_minute(),
        }
    }
}
