//! The drive's own loops: one applies layers to the index, one compacts the journal, one frees superseded versions and looks
//! at the room that is left, one sweeps stray files.
//!
//! Four threads per drive (a simulated drive is stepped instead), which block on that drive only. What fails is tried again
//! later; a failed index poisons the drive, because its layers could only grow. Compaction breathes: nobody waits for it
//! unless much has piled up, and requests would notice a segment that is carried over in one go.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::limits::READ_GRACE;
use coffer_common::node::{NodeError, SlotAddress};
use coffer_common::time::UnixMillis;
use coffer_common::types::{OpId, SlotIndex};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::DriveStore;
use super::mutate::{Change, Changed, Done};
use super::receive::Claim;
use crate::drive::Threads;
use crate::image::Entry;
use crate::index::IndexError;
use crate::shards::FoundFile;

/// A layer is applied at the latest this long after its first change.
const APPLY_INTERVAL: Duration = Duration::from_millis(500);
/// How often the loop looks whether a layer is full.
const TICK: Duration = Duration::from_millis(50);
/// How often superseded versions, segments and free space are looked at.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);
/// A synced batch at least this often, while there are any.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The read grace when the drive is full.
const SHORT_READ_GRACE: Duration = Duration::from_secs(10);
/// A shard file younger than this may still be on its way to its register.
const SWEEP_AGE: Duration = Duration::from_secs(3600);
/// Stray files are looked for this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Before each folder that is looked at for them: there may be 65,536, and nobody waits for the end.
const SWEEP_REST: Duration = Duration::from_millis(1);
/// Compaction works so long, and then rests this many times as long.
pub(super) const BREATH: Duration = Duration::from_millis(2);
pub(super) const REST: u32 = 4;
/// It does not rest while more segments than this wait for it.
const HURRY: usize = 4;
/// The scheduling priority of its thread, of -20 to 19: where processors are short, requests come first.
const COMPACT_NICE: i32 = 10;
/// Registers looked at for superseded versions in one round of housekeeping.
const FREE_LIMIT: usize = 20_000;
/// Registers of which something is freed with one sync.
pub(super) const FREE_PIECE: usize = 256;
/// Registers looked at in one go.
const PIECE: usize = 1024;

/// The running loops; they stop, and the index is synced, when this is dropped.
pub(crate) struct Background {
    store: Arc<DriveStore>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

/// Tells the loops to end.
#[derive(Default)]
struct Stop {
    told: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Waits for `time`; true if the loop must end.
    fn wait(&self, time: Duration) -> bool {
        let mut told = self.told.lock();
        if !*told {
            self.wake.wait_for(&mut told, time);
        }
        *told
    }
}

/// What was freed, but not durably yet.
#[derive(Default)]
pub(super) struct Freed {
    registers: usize,
    /// Of the last record that says so.
    pub(super) sequence: u64,
    /// Files that no register names once that is durable, with the registers' keys.
    pub(super) files: Vec<(Bytes, OpId, SlotIndex)>,
}

impl Freed {
    /// Adds what a change of a register has freed.
    pub(super) fn add<R>(&mut self, key: &Bytes, done: Done<R>) {
        let Done { sequence, dropped_files, entry, .. } = done;
        self.registers += 1;
        self.sequence = self.sequence.max(sequence);
        self.files.extend(dropped_files.into_iter().map(|op| (key.clone(), op, entry.slot)));
    }
}

impl Background {
    pub(crate) fn start(store: Arc<DriveStore>) -> std::io::Result<Self> {
        let stop = Arc::<Stop>::default();
        if matches!(store.drive.threads, Threads::Inline(_)) {
            return Ok(Self { store, stop, threads: Vec::new() });
        }
        let spawn = |role: &str, run: fn(&DriveStore, &Stop)| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            let name = format!("{role}-{:08x}", store.id.0 >> 96);
            std::thread::Builder::new().name(name).spawn(move || run(&store, &stop))
        };
        let threads = vec![
            spawn("index", apply_layers)?,
            spawn("house", keep_house)?,
            spawn("compact", compact)?,
            spawn("sweep", sweep)?,
        ];
        Ok(Self { store, stop, threads })
    }

    /// One round of all loops, for a drive without threads.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn step(&self) {
        if self.store.health.poisoned().is_some() {
            return self.store.index.release();
        }
        self.store.apply(true);
        self.store.keep_house(&mut Vec::new());
        self.store.compact_all(&self.stop, &mut |_| {});
        self.store.sweep_files(SWEEP_AGE);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        *self.stop.told.lock() = true;
        self.stop.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A loop that panicked has nothing left to stop.
            let _ = thread.join();
        }
        if self.store.health.poisoned().is_none() {
            self.store.apply(true);
        }
    }
}

/// Applies a layer when it is full, or has waited long enough.
fn apply_layers(store: &DriveStore, stop: &Stop) {
    let (mut applied, mut synced) = (Instant::now(), Instant::now());
    while !stop.wait(TICK) {
        if store.health.poisoned().is_some() {
            store.index.release();
            continue;
        }
        let sync = synced.elapsed() >= SYNC_INTERVAL;
        if sync || applied.elapsed() >= APPLY_INTERVAL || store.index.is_due() {
            store.apply(sync);
            applied = Instant::now();
            if sync {
                synced = Instant::now();
            }
        }
    }
}

/// Compacts the journal, in short breaths.
fn compact(store: &DriveStore, stop: &Stop) {
    // This thread alone: on Linux each has its own.
    if let Err(error) = rustix::process::setpriority_process(None, COMPACT_NICE) {
        tracing::debug!(drive = %store.id, %error, "compaction keeps the priority of requests");
    }
    while !stop.wait(HOUSEKEEPING_INTERVAL) {
        if store.health.poisoned().is_some() {
            continue;
        }
        let mut began = Instant::now();
        store.compact_all(stop, &mut |waiting| {
            let worked = began.elapsed();
            if worked >= BREATH {
                if waiting <= HURRY && !store.health.is_full() {
                    stop.wait(worked * REST);
                }
                began = Instant::now();
            }
        });
    }
}

/// Looks at the room that is left, and frees.
fn keep_house(store: &DriveStore, stop: &Stop) {
    let mut free_cursor = Vec::new();
    while !stop.wait(HOUSEKEEPING_INTERVAL) {
        if store.health.poisoned().is_none() {
            store.keep_house(&mut free_cursor);
        }
    }
}

/// Sweeps soon after the start, and then once in a while.
fn sweep(store: &DriveStore, stop: &Stop) {
    let mut swept: Option<Instant> = None;
    while !stop.wait(HOUSEKEEPING_INTERVAL) {
        let due = swept.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL);
        if due && store.health.poisoned().is_none() {
            store.sweep(SWEEP_AGE, &mut || !stop.wait(SWEEP_REST) && store.health.poisoned().is_none());
            swept = Some(Instant::now());
        }
    }
}

impl DriveStore {
    /// Applies the layers to redb.
    pub(super) fn apply(&self, sync: bool) {
        let durable = |sequence| self.journal.durable_blocking(sequence).map_err(IndexError::engine);
        if let Err(error) = self.index.apply(sync, durable) {
            self.health.poison(error.to_string());
            self.index.release();
        }
    }

    fn keep_house(&self, free_cursor: &mut Vec<u8>) {
        self.health.forget_old_errors();
        self.look_at_room();
        match self.free_superseded(UnixMillis::now(), free_cursor.clone()) {
            Ok(after) => *free_cursor = after,
            // From the same place again: from the first register on, the last ones might never have their turn.
            Err(error) => tracing::warn!(drive = %self.id, error, "freeing superseded versions failed"),
        }
    }

    fn look_at_room(&self) {
        match self.drive.io.space() {
            Ok(space) => {
                self.health.set_space(space);
                // Deletes and compaction need the journal to go on, also below the reserve for data.
                if space.free >= 2 * u64::from(self.journal.segment_bytes()) {
                    self.journal.retry_room();
                }
            }
            Err(error) => {
                self.health.read_error();
                tracing::warn!(drive = %self.id, %error, "cannot see the drive's free space");
            }
        }
    }

    /// Compacts until there is nothing to compact; `breathe` is called often, with how many segments wait.
    fn compact_all(&self, stop: &Stop, breathe: &mut dyn FnMut(usize)) {
        while !*stop.told.lock() {
            match self.compact(breathe) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(drive = %self.id, error, "compacting the journal failed");
                    break;
                }
            }
        }
    }

    /// Frees versions that have been superseded for the read grace. Prepared ops stay, however old they are: a slot that is
    /// away may hold their commit, and when it returns that version is settled and needs these shards. Only the answers of
    /// all n slots can tell (`crate::purge`).
    ///
    /// Looks at the next registers after `after` and returns where it stopped; an empty key after the last one.
    pub(super) fn free_superseded(&self, now: UnixMillis, after: Vec<u8>) -> Result<Vec<u8>, String> {
        let read_grace = if self.health.is_full() { SHORT_READ_GRACE } else { READ_GRACE };
        let over = |since: UnixMillis| u128::from(now.0.saturating_sub(since.0)) >= read_grace.as_millis();
        let mut freed = Freed::default();
        let walked = self.for_attention(after, FREE_LIMIT, |key, entry| {
            let due: Vec<OpId> = entry
                .waiting
                .iter()
                .filter(|waiting| over(waiting.since) && !entry.register.prepared.contains(&waiting.op))
                .map(|waiting| waiting.op)
                .collect();
            if !due.is_empty() {
                self.drop_ops(&key, entry, &due, &mut freed)?;
            }
            if freed.registers >= FREE_PIECE {
                self.remove_freed(std::mem::take(&mut freed))?;
                // Writes that are refused for want of room need not wait for the end.
                self.look_at_room();
                if self.index.is_due() {
                    self.apply(false);
                }
            }
            Ok(())
        });
        // Also if the walk has failed: what it freed before is on its way.
        self.remove_freed(freed)?;
        walked
    }

    /// Frees what is due at `now`, before the loop gets to it.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub async fn free_now(self: &Arc<Self>, now: UnixMillis) -> Result<(), NodeError> {
        self.check_health()?;
        let freed = self.run(move |store| {
            store.apply(false);
            let mut after = store.free_superseded(now, Vec::new())?;
            while !after.is_empty() {
                after = store.free_superseded(now, after)?;
            }
            Ok(())
        });
        freed.await?.map_err(|error: String| self.unavailable(error))
    }

    /// Frees ops of a register, and adds to `freed` what may go once that is durable.
    fn drop_ops(&self, key: &Bytes, entry: &Entry, ops: &[OpId], freed: &mut Freed) -> Result<(), String> {
        let address = self.own_address(entry);
        let change = Change { key, address: &address, bucket: None, shards: Vec::new() };
        loop {
            let loaded = self.load_blocking(key).map_err(|error| error.to_string())?;
            let changed = self.with_room(|| {
                self.mutate(loaded.clone(), &change, |entry| {
                    let (kind, mut changed) = (entry.kind(), false);
                    for op in ops {
                        changed |= entry.register.free(kind, *op);
                    }
                    ((), changed)
                })
            })?;
            match changed {
                Changed::Stale => {}
                Changed::WrongSlot(_) => return Ok(()),
                Changed::Done(done) => {
                    freed.add(key, done);
                    return Ok(());
                }
            }
        }
    }

    /// Waits until what was freed is durable, once for all of it, and only then removes the files: until then a crash could
    /// bring back registers that name them. What a crash leaves of them is swept.
    fn remove_freed(&self, freed: Freed) -> Result<(), String> {
        self.journal.durable_blocking(freed.sequence).map_err(|error| error.to_string())?;
        self.remove_unnamed(freed.files);
        Ok(())
    }

    /// Removes files that no register names any more, which is durable.
    pub(super) fn remove_unnamed(&self, files: Vec<(Bytes, OpId, SlotIndex)>) {
        for (key, op, slot) in files {
            // The op may have come again since: then the file is the new one.
            let Some(claim) = Claim::take(self, op) else { continue };
            let loaded = self.load_blocking(&key);
            let named = loaded.map(|loaded| loaded.entry().is_some_and(|entry| entry.shard(op).is_some()));
            if matches!(named, Ok(false)) {
                claim.remove_file(slot);
            }
        }
    }

    /// The address of an entry's slot as this drive knows it.
    pub(super) fn own_address(&self, entry: &Entry) -> SlotAddress {
        SlotAddress {
            cluster: self.cluster,
            drive: self.id,
            incarnation: self.incarnation,
            partition: entry.partition,
            slot: entry.slot,
            epoch: self.partition(entry.partition).epoch,
        }
    }

    /// Visits registers with something unfinished that the index knows of, after `after`, at most `limit`. Returns the last
    /// one, or nothing after the end.
    pub(super) fn for_attention(
        &self,
        mut after: Vec<u8>,
        limit: usize,
        mut visit: impl FnMut(Bytes, &Entry) -> Result<(), String>,
    ) -> Result<Vec<u8>, String> {
        let mut left = limit;
        while left > 0 {
            let keys = self.index.attention(&after, PIECE.min(left)).map_err(|error| error.to_string())?;
            let Some(last) = keys.last() else { return Ok(Vec::new()) };
            after = last.to_vec();
            left -= keys.len();
            for key in keys {
                if let Some(entry) = self.index.get(&key).map_err(|error| error.to_string())? {
                    visit(key, &entry)?;
                }
            }
        }
        Ok(after)
    }

    /// Removes shard files whose registers have dropped them; what fails is swept later.
    pub(super) fn remove_files(&self, ops: &[OpId], slot: SlotIndex) {
        for op in ops {
            if let Err(error) = self.files.remove(*op, slot) {
                tracing::warn!(drive = %self.id, %op, %error, "a shard file was not removed");
            }
        }
    }

    /// [`Self::sweep`], to the end and without rests.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn sweep_files(&self, age: Duration) {
        self.sweep(age, &mut || true);
    }

    /// Removes shard files that no register names; `go_on` is asked before each folder.
    ///
    /// All else goes on beside it. Whoever drops a shard from its register removes the file once the record of that is
    /// durable; the index does not say that nobody names the file before that either, and a file that is gone counts as
    /// removed. Who receives a shard has claimed its op before there is a file. Compaction touches no files.
    pub(super) fn sweep(&self, age: Duration, go_on: &mut dyn FnMut() -> bool) {
        // So that the table has most of what names a file.
        self.apply(false);
        if self.health.poisoned().is_some() {
            return;
        }
        let mut removed = 0_u64;
        let result = self.files.visit(go_on, |file| {
            if file.age < age || self.receiving.lock().contains(&file.op) {
                return Ok(());
            }
            if !self.is_named(&file)? {
                removed += u64::from(self.remove_stray(&file)?);
            }
            Ok(())
        });
        if removed > 0 {
            tracing::info!(drive = %self.id, removed, "swept shard files that no register names");
        }
        if let Err(error) = result {
            tracing::warn!(drive = %self.id, %error, "sweeping shard files failed");
        }
    }

    /// Whether a register that the index has names the file.
    fn is_named(&self, file: &FoundFile) -> std::io::Result<bool> {
        let mut name = [0; 17];
        name[..16].copy_from_slice(&file.op.to_bytes());
        name[16] = file.slot.0;
        Ok(self.index.file_owner(&name).map_err(std::io::Error::other)?.is_some())
    }

    /// Removes a file that the index has no name of, unless it turns out to be in use: its age is by the wall clock, which
    /// may have been set forward since it was written. The op is claimed as by who receives it. Whoever has received it before
    /// has its register in a layer by now, and whoever is about to is turned away meanwhile. Returns whether it is gone.
    fn remove_stray(&self, file: &FoundFile) -> std::io::Result<bool> {
        let Some(_claim) = Claim::take(self, file.op) else { return Ok(false) };
        self.apply(false);
        // What could not be applied is not known: nothing is removed then.
        if let Some(reason) = self.health.poisoned() {
            return Err(std::io::Error::other(reason));
        }
        if self.is_named(file)? {
            return Ok(false);
        }
        match file.damaged {
            true => self.files.remove_damaged(file.op, file.slot)?,
            false => self.files.remove(file.op, file.slot)?,
        }
        Ok(true)
    }
}
