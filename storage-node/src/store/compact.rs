//! Compaction: a sealed segment with little live in it is carried over to the tail and removed.
//!
//! 1. Sync the index, so that its live bytes and places are what a restart would see.
//! 2. Pick the sealed segment with the smallest share of what must stay, if that is small enough; or the oldest one, while
//!    too much of the journal is records of dropped registers, which can go only from there.
//! 3. Append again whatever of it is still the newest: registers (with their inline shards), drive state, and the record
//!    of a dropped register while an older segment could bring it back.
//! 4. Once all of that is durable and in a synced index, remove the segment.
//!
//! A crash before step 4 leaves both copies; the newer sequence counts.
//!
//! **Damage.** A segment whose metadata does not verify is replaced by what the index knows, with all older ones before it.
//! One that cannot be replaced, or in which an inline shard cannot be read, keeps nothing from the others. An inline shard
//! that cannot be read, or does not verify, is marked missing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::types::OpId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DriveStore;
use super::mutate::{Change, Changed, NewShard};
use crate::image::{
    Entry, ShardLocation, StateKey, StoredShard, decode_bucket, decode_copy, decode_entry, decode_forget,
    decode_partition, encode_forget,
};
use crate::index::IndexError;
use crate::journal::{AppendError, JournalError, Place, RecordKind};

/// A segment is compacted when less than this share of it is live.
const LIVE_PERCENT: u64 = 50;
/// The same while the drive is full.
const LIVE_PERCENT_FULL: u64 = 90;
/// While records of dropped registers that were carried over take more than one in so many bytes of the sealed segments, the
/// oldest one is compacted however much of it is live.
const FORGETS_SHARE: u64 = 4;
/// Before a segment that could not be carried over is tried again: every register may be looked at for it.
const RETRY_PAUSE: Duration = Duration::from_secs(3600);

/// Segments that could not be carried over, and when that was tried.
pub(super) type Stuck = Mutex<BTreeMap<u64, Instant>>;

/// By segment, bytes of the records of dropped registers that were carried over to it. Not known of what an earlier process
/// carried: those are carried once more.
pub(super) type KeptForgets = Mutex<BTreeMap<u64, u64>>;

/// Why a segment was not carried over.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    /// Its metadata cannot be read, or does not verify.
    #[error("{0}")]
    Damaged(String),
    /// An inline shard in it cannot be read: it waits until that is healed, or dropped.
    #[error("{0}")]
    Shard(JournalError),
    /// The drive takes no records, or its index cannot be read: no other segment would do better.
    #[error("{0}")]
    Drive(String),
}

impl From<String> for CarryError {
    fn from(reason: String) -> Self {
        Self::Drive(reason)
    }
}

impl DriveStore {
    /// Compacts at most one segment; false if there was none to compact. `breathe` is called after each record, with how
    /// many segments there are to compact.
    pub(super) fn compact(&self, breathe: &mut dyn FnMut(usize)) -> Result<bool, String> {
        let segments = self.segments_to_compact()?;
        if segments.is_empty() {
            return Ok(false);
        }
        // The end of the newest sealed segment may still be on its way to the drive.
        self.journal.durable_blocking(self.journal.last_sequence()).map_err(|error| error.to_string())?;
        for segment in &segments {
            let mut breathe = || breathe(segments.len());
            let error = match self.compact_segment(*segment, &mut breathe) {
                Ok(()) => return Ok(true),
                Err(CarryError::Drive(reason)) => return Err(reason),
                Err(CarryError::Shard(error)) => error.to_string(),
                Err(CarryError::Damaged(reason)) => {
                    let sealed = self.journal.sealed();
                    let Some(oldest) = sealed.first().filter(|_| sealed.contains(segment)) else { continue };
                    // The next round goes on, until it is the damaged one's turn.
                    match self.rescue_oldest(*oldest, &mut breathe) {
                        Ok(()) => return Ok(true),
                        Err(error) => format!("{reason}; {error}"),
                    }
                }
            };
            if !self.journal.sealed().contains(segment) {
                // A scrub has replaced it meanwhile.
                return Ok(true);
            }
            self.health.read_error();
            tracing::error!(drive = %self.id, segment, error, "a damaged journal segment is not compacted");
            self.stuck.lock().insert(*segment, Instant::now());
        }
        Ok(false)
    }

    /// Runs an append, waiting for the next segment where it is needed.
    pub(super) fn with_room<T>(
        &self,
        mut append: impl FnMut() -> Result<T, AppendError>,
    ) -> Result<T, String> {
        loop {
            match append() {
                Err(AppendError::NotReady) => self.journal.room_blocking(),
                result => return result.map_err(|error| error.to_string()),
            }
        }
    }

    /// Sealed segments with little in them that must stay; those with the least come first.
    ///
    /// A record of a dropped register that was carried over must stay in every segment but the oldest, where it is dropped.
    /// If it did not count, segments full of such records would be carried over again and again. So that they do not stay
    /// for ever behind data that never changes, the oldest segment has its turn, too, while there are many of them.
    ///
    /// On a drive that nobody writes to this ends. Each such record is carried at most once before it counts. After that, a
    /// round for a segment with little in it makes the journal shorter, which happens only so often. A round for the oldest
    /// segment makes it no longer and carries none of those records, so that as many rounds as there are segments reach, and
    /// drop, all of them.
    fn segments_to_compact(&self) -> Result<Vec<u64>, String> {
        let mut sealed = self.journal.sealed();
        let Some(oldest) = sealed.first().copied() else { return Ok(sealed) };
        let live = self.index.live_bytes().map_err(|error| error.to_string())?;
        let kept = self.kept_forgets.lock().clone();
        let kept = |segment: &u64| kept.get(segment).copied().unwrap_or(0);
        let bytes = u64::from(self.journal.segment_bytes());
        let crowded = sealed.iter().map(kept).sum::<u64>() > sealed.len() as u64 * bytes / FORGETS_SHARE;
        let percent = if self.health.is_full() { LIVE_PERCENT_FULL } else { LIVE_PERCENT };
        let most = bytes * percent / 100;
        let stays = |segment: &u64| {
            let kept = if *segment == oldest { 0 } else { kept(segment) };
            live.get(segment).copied().unwrap_or(0) + kept
        };
        let mut stuck = self.stuck.lock();
        stuck.retain(|_, tried| tried.elapsed() < RETRY_PAUSE);
        sealed.retain(|segment| {
            let wanted = stays(segment) < most || crowded && *segment == oldest;
            wanted && !stuck.contains_key(segment)
        });
        sealed.sort_by_key(stays);
        Ok(sealed)
    }

    /// Carries over what is live in a sealed segment, and removes it.
    pub(super) fn compact_segment(&self, segment: u64, breathe: &mut dyn FnMut()) -> Result<(), CarryError> {
        // An inline shard here whose register has a newer record elsewhere is found through the older record that lies
        // beside it.
        let oldest = self.journal.sealed().first() == Some(&segment);
        let mut records = Vec::new();
        self.journal
            .read_sealed(segment, &mut |record| {
                if !matches!(record.kind, RecordKind::Owed | RecordKind::InlineShard | RecordKind::Footer) {
                    records.push((record.kind, record.place, Bytes::copy_from_slice(record.payload)));
                }
                Ok(())
            })
            .map_err(|error| CarryError::Damaged(error.to_string()))?;
        for (kind, place, payload) in records {
            self.carry(segment, oldest, (kind, place, payload))?;
            breathe();
        }
        Ok(self.remove_carried(segment)?)
    }

    /// Carries over what is live in the oldest sealed segment and removes it. If it is damaged, what is live in it is made
    /// anew from the index, which is slower: every register is looked at. Records of dropped registers need not be carried:
    /// no older segment could bring those back.
    pub(super) fn rescue_oldest(&self, segment: u64, breathe: &mut dyn FnMut()) -> Result<(), String> {
        if self.compact_segment(segment, breathe).is_ok() || !self.journal.sealed().contains(&segment) {
            return Ok(());
        }
        self.apply(true);
        let mut scan = self.index.scan(Bound::Unbounded, Vec::new());
        while let Some(found) = scan.next().map_err(|error| error.to_string())? {
            let entry = found.entry().map_err(|error| error.to_string())?;
            if entry.places().any(|place| place.segment == segment) {
                self.carry_register(segment, &entry.key).map_err(|error| error.to_string())?;
                breathe();
            }
        }
        for (key, place, payload) in self.state_in(segment).map_err(|error| error.to_string())? {
            self.with_room(|| self.carry_state(key, &payload, place))?;
        }
        self.remove_carried(segment)?;
        tracing::warn!(drive = %self.id, segment, "a damaged journal segment was replaced by what the index knows");
        Ok(())
    }

    /// Removes a segment once all that was carried over is durable.
    fn remove_carried(&self, segment: u64) -> Result<(), String> {
        let last = self.journal.last_sequence();
        self.journal.durable_blocking(last).map_err(|error| error.to_string())?;
        self.apply(true);
        if self.index.synced_sequence() < last || self.health.poisoned().is_some() {
            return Err("the index is behind the journal".to_owned());
        }
        self.journal.remove_sealed(segment).map_err(|error| error.to_string())?;
        self.kept_forgets.lock().remove(&segment);
        self.index.forget_segment(segment).map_err(|error: IndexError| error.to_string())?;
        tracing::debug!(drive = %self.id, segment, "compacted a journal segment");
        Ok(())
    }

    fn carry(
        &self,
        segment: u64,
        oldest: bool,
        record: (RecordKind, Place, Bytes),
    ) -> Result<(), CarryError> {
        let (kind, place, payload) = record;
        let bad = |error: crate::image::DecodeImageError| CarryError::Damaged(error.to_string());
        let state = match kind {
            RecordKind::Register => {
                let entry = decode_entry(payload, 0, place).map_err(bad)?;
                return self.carry_register(segment, &entry.key);
            }
            RecordKind::Forget => {
                let key = decode_forget(payload).map_err(bad)?;
                return if oldest { Ok(()) } else { Ok(self.carry_forget(&key)?) };
            }
            RecordKind::Boot => StateKey::Boot,
            RecordKind::Partition => StateKey::Partition(decode_partition(payload.clone()).map_err(bad)?.0),
            RecordKind::Bucket => StateKey::Bucket(decode_bucket(payload.clone()).map_err(bad)?.0),
            RecordKind::Snapshot => decode_copy(payload.clone()).map_err(bad)?.key(),
            RecordKind::Owed | RecordKind::InlineShard | RecordKind::Footer => return Ok(()),
        };
        Ok(self.with_room(|| self.carry_state(state, &payload, place))?)
    }

    fn carry_register(&self, segment: u64, key: &Bytes) -> Result<(), CarryError> {
        loop {
            let loaded = self.load_blocking(key).map_err(|error| error.to_string())?;
            let Some(entry) = loaded.entry().cloned() else { return Ok(()) };
            if !entry.places().any(|place| place.segment == segment) {
                return Ok(());
            }
            let address = self.own_address(&entry);
            self.carry_shards(&entry, inline_shards(&entry, segment))?;
            let change = Change { key, address: &address, bucket: None, shards: Vec::new() };
            let loaded = self.load_blocking(key).map_err(|error| error.to_string())?;
            let carried = self.with_room(|| {
                let changed = self.mutate(loaded.clone(), &change, |entry| {
                    ((), entry.places().any(|place| place.segment == segment))
                })?;
                Ok(!matches!(changed, Changed::Stale))
            })?;
            if carried {
                return Ok(());
            }
        }
    }

    /// Appends inline shards again and lets their register name the new places. As many at a time as a segment takes for
    /// sure: each time the register is recorded anew too.
    fn carry_shards(&self, entry: &Entry, mut shards: Vec<(OpId, Place)>) -> Result<(), CarryError> {
        let most = self.journal.segment_bytes() / 8;
        while !shards.is_empty() {
            let mut bytes = 0;
            let fits = shards.iter().take_while(|(_, place)| {
                bytes += place.len;
                bytes <= most
            });
            let fits = fits.count().max(1);
            let (mut olds, mut news) = (Vec::new(), Vec::new());
            for (op, place) in shards.drain(..fits) {
                let mut bytes = vec![0; place.len as usize];
                let read = self.journal.read(place.segment, u64::from(place.offset), &mut bytes);
                if let Err(error) = read {
                    self.mark_missing(entry, op)?;
                    return Err(CarryError::Shard(error));
                }
                let bytes = Bytes::from(bytes);
                if let Err(error) = self.verify_shard(op, entry.slot, &bytes) {
                    self.health.read_error();
                    tracing::warn!(drive = %self.id, %op, %error, "a shard does not verify");
                    self.mark_missing(entry, op)?;
                }
                olds.push(StoredShard { op, location: ShardLocation::Inline(place) });
                news.push(NewShard::Inline(op, bytes));
            }
            self.replace_shards(&entry.key, &olds, news)?;
        }
        Ok(())
    }

    fn replace_shards(&self, key: &Bytes, olds: &[StoredShard], shards: Vec<NewShard>) -> Result<(), String> {
        loop {
            let loaded = self.load_blocking(key).map_err(|error| error.to_string())?;
            let Some(entry) = loaded.entry().cloned() else { return Ok(()) };
            let address = self.own_address(&entry);
            // One that has gone meanwhile is not brought back: nothing refers to its op.
            let change = Change { key, address: &address, bucket: None, shards: shards.clone() };
            let done = self.with_room(|| {
                let changed = self.mutate(loaded.clone(), &change, |entry| {
                    let before = entry.shards.len();
                    // Without a place, the change's shards are appended and named.
                    entry.shards.retain(|shard| !olds.contains(shard));
                    ((), entry.shards.len() != before)
                })?;
                Ok(!matches!(changed, Changed::Stale))
            })?;
            if done {
                return Ok(());
            }
        }
    }

    fn carry_forget(&self, key: &Bytes) -> Result<(), String> {
        if self.index.get(key).map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        self.with_room(|| {
            let _lock = self.register_lock(key).lock();
            if self.index.get(key).is_ok_and(|entry| entry.is_none()) {
                let mut appender = self.journal.appender();
                let (sequence, place) = appender.append(RecordKind::Forget, encode_forget(key).into())?;
                self.index.forget(key.clone(), sequence);
                // Under the appender: the segment cannot be sealed, nor compacted, before this counts.
                *self.kept_forgets.lock().entry(place.segment).or_default() += place.room();
            }
            Ok(())
        })
    }
}

fn inline_shards(entry: &Entry, segment: u64) -> Vec<(OpId, Place)> {
    let inline = entry.shards.iter().filter_map(|shard| match shard.location {
        ShardLocation::Inline(place) if place.segment == segment => Some((shard.op, place)),
        _ => None,
    });
    inline.collect()
}
