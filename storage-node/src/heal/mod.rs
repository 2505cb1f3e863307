//! Catch-up: what a slot of this node missed, or lost, comes back (PROTOCOL §3.5, §3.6, §8, §11).
//!
//! Owns: the loops, one set per drive, their pace, and what is counted. Never decides what is taken over
//! (`common::protocol::catch_up` does), never deletes, and keeps no state of its own: what is missing is all there is to
//! know, so a stop or a crash costs what was under way.
//!
//! ```text
//! peers ──owed──► find: record what is STABLE there, shards missing ──STABLE(this slot)──► peers owe it no more
//!                   │
//! damaged on read ──┴──► store::unfinished ──► rebuild: is it still wanted? k shards ──► block by block ──► INSTALL
//! ```
//!
//! 1. `find` asks the nodes what they owe this drive's slots: at the start, when one comes back, and now and then. A
//!    version is recorded without its shard, at once: the slot votes with all that it should know within seconds. Only for slots
//!    that the map gives to the drive, and in no epoch that the map does not know: the slot may have gone elsewhere in that one.
//! 2. `rebuild` takes what lacks its shard, whatever the cause: missed, W of n, found damaged, the slot has moved here (then
//!    the drive that it left has that very shard). What fails is due again later and later.
//! 3. A third loop keeps the drive's two lists complete: what it lacks, and what it owes to others.
//!
//! **Pace.** Each step, up to `TOGETHER` small shards or a stripe of a large one, waits for its turn (`crate::pace`): small ones
//! share syncs and round trips also when there is but one turn at a time. `AT_ONCE` shards of a drive are on their way at a
//! time; of those that are larger than a block `STREAMS_AT_ONCE`, because each holds some stripes in memory. A drive that was away
//! for a moment presses (`BRISK`); else there are pauses where requests become too slow.
//! **Full drives.** Nothing is rebuilt while the drive has no room, and everything stays on its list; what finds it full half
//! way removes its file. It goes on when the drive's housekeeping sees room.
//! **Cancellation.** The stop ends all loops at once; a file that was being written is removed or swept.

mod find;
mod rebuild;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::{Cluster, ClusterMap};
use coffer_common::driver::{Driven, Driver, Payload, Peers, StableNotice, Target};
use coffer_common::erasure::Codecs;
use coffer_common::node::{OwedRegister, SlotAddress};
use coffer_common::protocol::catch_up::{CatchUp, Install, Verdict};
use coffer_common::protocol::fenced::Trouble;
use coffer_common::protocol::message::{Refusal, SlotReply, SlotVersion};
use coffer_common::protocol::register::Role;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{PartitionId, RegisterKey, SlotIndex, SlotSet};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::node::StorageNode;
use crate::pace::{Kind, Pace, Turn, Urgency};
use crate::store::{DriveStore, RebuiltShard, Task, Unfinished};

/// How often a drive is asked for what it lacks.
const PAUSE: Duration = Duration::from_millis(500);
/// Shards of one drive that are on their way at the same time.
const AT_ONCE: usize = 64;
/// Of these, those that are taken in one turn, and how many bytes they have together.
const TOGETHER: usize = 16;
const TOGETHER_BYTES: u64 = 64 << 10;
/// Those that are streamed.
const STREAMS_AT_ONCE: usize = 4;
/// Registers are asked for when there is room for so many.
const BATCH: usize = AT_ONCE / 2;
/// Pieces of a rebuilt shard that wait to be written.
const CHANNEL_PIECES: usize = 4;
/// A drive that was full is not tried again before this is over: little room is filled, and found full, at once.
const FULL_PAUSE: Duration = Duration::from_secs(30);
/// Notices of what was learned that are told at the same time.
const NOTICES_AT_ONCE: usize = 64;
/// How long the slots may take to say whether a version is still wanted.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Between two walks over a drive's unfinished registers.
const WALK_PAUSE: Duration = Duration::from_secs(10);
/// A drive presses for what it missed until it has been back for so long.
const BRISK: Duration = Duration::from_secs(90);
/// Between two pieces of a walk over all registers.
const PIECE_PAUSE: Duration = Duration::from_millis(10);

struct Healing {
    cluster: Cluster,
    driver: Driver,
    codecs: Codecs,
}

/// One drive's catch-up.
struct Drive {
    healing: Arc<Healing>,
    store: Arc<DriveStore>,
    pace: Pace,
    /// Registers that are being healed.
    busy: Mutex<HashSet<Bytes>>,
    streams: Semaphore,
    /// When it was seen to have no room.
    full: Mutex<Option<Instant>>,
    /// When no node had told all that it owes yet: since the start, or since the drive was cut off.
    returned: Mutex<Instant>,
    /// Whether slots of it did not vote, and it has not all shards yet. Not known any more after a start.
    lost: AtomicBool,
}

/// Starts catching up on every open drive of the node; it ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, shutdown: &Shutdown) {
    let healing = Arc::new(Healing {
        cluster: cluster.clone(),
        driver: Driver::start(cluster.clone(), shutdown.clone()),
        codecs: Codecs::new(),
    });
    for store in node.drives() {
        let drive = Drive::new(Arc::clone(&healing), Arc::clone(store), node.pace().clone());
        shutdown.spawn_until_told(async move {
            tokio::select! {
                biased;
                () = drive.keep_lists() => {}
                () = drive.rebuild_all() => {}
                () = drive.find_all() => {}
            }
        });
    }
}

impl Drive {
    fn new(healing: Arc<Healing>, store: Arc<DriveStore>, pace: Pace) -> Self {
        Self {
            healing,
            store,
            pace,
            busy: Mutex::default(),
            streams: Semaphore::new(STREAMS_AT_ONCE),
            full: Mutex::default(),
            returned: Mutex::new(Instant::now()),
            lost: AtomicBool::new(false),
        }
    }

    /// Keeps the lists of what the drive lacks and owes complete.
    async fn keep_lists(&self) {
        let mut walked: Option<Instant> = None;
        let (mut known, mut slots): (Option<Arc<ClusterMap>>, _) = (None, Vec::new());
        loop {
            let map = self.healing.cluster.map();
            if known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &map)) {
                self.store.expect_slots(map.layout.n(), |partition, slot| map.drive_of(partition, slot));
                slots = map.slots_on(self.store.id());
                known = Some(Arc::clone(&map));
            }
            if self.store.misses_unfinished(Task::Heal) && walked.is_none_or(|at| at.elapsed() >= WALK_PAUSE)
            {
                walked = Some(Instant::now());
                if let Err(error) = self.store.find_unfinished(Task::Heal).await {
                    tracing::warn!(drive = %self.store.id(), %error, "not all missing shards are known");
                }
            }
            let mut pause = PAUSE;
            if self.store.misses_owed() {
                match self.store.find_owed().await {
                    Ok(true) => {}
                    Ok(false) => pause = PIECE_PAUSE,
                    Err(error) => {
                        tracing::warn!(drive = %self.store.id(), %error, "not all is known that is owed to others");
                    }
                }
            }
            if pause == PAUSE {
                self.note_loss(&slots);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes whether what is missing is from a loss, or a slot that was taken over.
    fn note_loss(&self, slots: &[(PartitionId, SlotIndex)]) {
        if !slots.iter().all(|(partition, _)| self.store.partition(*partition).role == Role::Voter) {
            self.lost.store(true, Ordering::Relaxed);
        } else if !self.store.lacks_any() {
            self.lost.store(false, Ordering::Relaxed);
        }
    }

    /// What a drive has missed in a short absence is back within seconds, before the next one is stopped: that may press. What a
    /// drive has lost, or takes over, is the work of hours.
    fn urgency(&self) -> Urgency {
        let short = !self.lost.load(Ordering::Relaxed) && self.returned.lock().elapsed() < BRISK;
        if short { Urgency::Brisk } else { Urgency::Patient }
    }

    /// Rebuilds what is due, for ever.
    async fn rebuild_all(&self) {
        let mut running = FuturesUnordered::new();
        loop {
            let room = AT_ONCE - running.len();
            let due = if room >= BATCH { self.due(room).await } else { Vec::new() };
            let more = due.len() == room;
            for step in steps(due) {
                let turn = self.pace.turn(self.urgency()).map(Arc::new).shared();
                running.extend(step.into_iter().map(|unfinished| self.take(unfinished, turn.clone())));
            }
            if running.len() > AT_ONCE - BATCH || more {
                running.next().await;
                continue;
            }
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    () = &mut pause => break,
                    Some(()) = running.next() => {}
                }
            }
        }
    }

    async fn due(&self, limit: usize) -> Vec<Unfinished> {
        if !self.has_room() {
            return Vec::new();
        }
        match self.store.due(Task::Heal, limit).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(drive = %self.store.id(), %error, "nothing can be healed");
                Vec::new()
            }
        }
    }

    /// Whether shards can be written, and were not found not to be a moment ago. A drive that is full is asked for nothing:
    /// what it lacks stays on its list.
    fn has_room(&self) -> bool {
        let mut full = self.full.lock();
        let (drive, missing) = (self.store.id(), || self.store.info().heal.missing);
        if self.store.is_full() {
            if full.replace(Instant::now()).is_none() {
                tracing::warn!(
                    %drive, missing = missing(),
                    "the drive is full, and what it lacks is not healed: delete objects, add drives, or give it a smaller \
                     share with `coffer layout set`"
                );
            }
            return false;
        }
        if full.is_some_and(|seen| seen.elapsed() < FULL_PAUSE) {
            return false;
        }
        if full.take().is_some() {
            tracing::info!(%drive, missing = missing(), "there is room again: what the drive lacks is healed");
        }
        true
    }

    /// Heals one register, in a turn that it shares with others, and counts what came of it.
    async fn take(&self, unfinished: Unfinished, turn: impl Future<Output = Arc<Turn>>) {
        if !self.busy.lock().insert(unfinished.key.clone()) {
            return;
        }
        let (op, partition) = (unfinished.op, unfinished.address.partition.0);
        match self.heal(&unfinished, turn).await {
            Ok(true) => tracing::debug!(%op, partition, "healed"),
            Ok(false) => {}
            Err(reason) => {
                counter!("coffer_heal_failures_total").increment(1);
                tracing::debug!(%op, partition, reason, "not healed yet");
            }
        }
        self.busy.lock().remove(&unfinished.key);
    }

    /// Finds out whether the shard is still wanted, and brings it back. False if it was not its time, or no need.
    async fn heal(
        &self,
        unfinished: &Unfinished,
        turn: impl Future<Output = Arc<Turn>>,
    ) -> Result<bool, String> {
        let (store, address) = (&self.store, unfinished.address);
        let peers = Peers::of(&self.healing.cluster, address.partition);
        let ours = peers.get(address.slot).is_some_and(|peer| peer.address.drive == address.drive);
        if !ours || !store.is_unfinished(Task::Heal, unfinished) {
            return Ok(false);
        }
        let Some(first) = first_to_ask(&peers, address.slot, unfinished.k) else {
            store.postpone(Task::Heal, unfinished);
            return Ok(false);
        };
        let turn = turn.await;
        let lacking = store.lacking(unfinished).await.map_err(|error| error.to_string())?;
        let Some(held) = lacking else { return Ok(false) };
        let mut target = Target {
            register: unfinished.register.clone(),
            partition: address.partition,
            bucket_revision: unfinished.bucket_revision,
        };
        let mut asked = self.ask(&target, &peers, (address.slot, first), &held).await;
        if let Verdict::Unavailable(Trouble::BucketChanged(revision)) = asked.outcome {
            // What was committed before the change is as good as it was.
            target.bucket_revision = revision;
            asked = self.ask(&target, &peers, (address.slot, first), &held).await;
        }
        match asked.outcome {
            Verdict::Unavailable(trouble) => Err(format!("{trouble:?}")),
            Verdict::Superseded(epoch, version) => {
                let register = unfinished.register.clone();
                let (partition, versions) = (address.partition, vec![version]);
                let told = OwedRegister { register, partition, epoch, versions };
                let learned = self.learn(address.slot, told).await?;
                let any = !learned.is_empty();
                self.tell(learned).await;
                Ok(any)
            }
            Verdict::Rebuild { epoch, stable, holders } => {
                let install = Install { version: held.version.clone(), tag: held.tag, source_stable: stable };
                let (codecs, cluster) = (&self.healing.codecs, store.cluster());
                let sources = rebuild::Sources::new((codecs, cluster), &peers, &target, &held.version)?;
                let sources = sources.starting_with(address.slot, holders, asked.inline);
                let at = SlotAddress { epoch, ..address };
                if sources.is_inline() {
                    return self.rebuild((at, &unfinished.register), &install, sources).await;
                }
                drop(turn);
                let Ok(_stream) = self.streams.acquire().await else { return Ok(false) };
                self.rebuild((at, &unfinished.register), &install, sources).await
            }
        }
    }

    async fn ask(
        &self,
        target: &Target,
        peers: &Peers,
        slots: (SlotIndex, SlotSet),
        held: &SlotVersion,
    ) -> Driven<Verdict> {
        let kind = target.register.kind;
        let wanted = (held.version.clone(), held.tag);
        let machine = CatchUp::new((peers.geometry, peers.epochs), kind, slots, wanted);
        let limit = tokio::time::sleep(ASK_LIMIT);
        let asked = self.healing.driver.drive(target, peers.clone(), machine, Payload::Nothing, limit);
        self.pace.timed(Kind::Answer, asked).await
    }

    /// Records what a peer told of a register. Returns what all slots are to be told: that it is here.
    ///
    /// A drive that the slot has left, and that does not know it yet, is not to adopt an epoch of the drive that has the slot now,
    /// nor to say for it that a version is here: nobody would owe that one the version any more.
    async fn learn(&self, slot: SlotIndex, told: OwedRegister) -> Result<Vec<StableNotice>, String> {
        let map = self.healing.cluster.map();
        if map.slot_on(told.partition, self.store.id()) != Some(slot) {
            return Ok(Vec::new());
        }
        if told.epoch > map.epochs(told.partition).epoch {
            return Err("it is of an epoch that the map here does not know yet".to_owned());
        }
        let here = self.store.learn(slot, &told).await.map_err(|error| error.to_string())?;
        counter!("coffer_heal_learned_versions_total").increment(here.len() as u64);
        let bucket_revision = self.store.bucket_revision(told.register.bucket);
        let target = Target { register: told.register, partition: told.partition, bucket_revision };
        let notice = |SlotVersion { version, tag, mut acknowledged, .. }| {
            acknowledged.insert(slot);
            StableNotice { target: target.clone(), epoch: told.epoch, version, tag, acknowledged }
        };
        Ok(here.into_iter().map(notice).collect())
    }

    /// Tells what was learned; a part of the step that learned it, because it costs all slots of each register a write.
    async fn tell(&self, learned: Vec<StableNotice>) {
        self.healing.driver.tell_stable(learned, NOTICES_AT_ONCE).await;
    }

    async fn rebuild(
        &self,
        (address, register): (SlotAddress, &RegisterKey),
        install: &Install,
        mut sources: rebuild::Sources<'_>,
    ) -> Result<bool, String> {
        // Nothing is touched here before there is something to make the shard from.
        let (place, slot) = ((address, register), address.slot);
        sources.open(slot).await?;
        let copies = sources.copies();
        let installed = if sources.is_inline() {
            let shard = RebuiltShard::Inline(sources.whole(slot).await?);
            self.store.install(place, install, shard).await
        } else {
            let (sender, pieces) = mpsc::channel(CHANNEL_PIECES);
            let making = sources.stream(slot, sender, || self.pace.turn(self.urgency()));
            let installing = self.store.install(place, install, RebuiltShard::Stream(pieces));
            let (made, installed) = tokio::join!(making, installing);
            // What kept a shard from being made says more than that its bytes ended early.
            made?;
            installed
        };
        match installed.map_err(|error| error.to_string())? {
            SlotReply::Done => {
                let (shards, bytes) = match copies {
                    true => ("coffer_move_shards_total", "coffer_move_bytes_total"),
                    false => ("coffer_heal_shards_total", "coffer_heal_bytes_total"),
                };
                counter!(shards).increment(1);
                counter!(bytes).increment(install.version.shard_len_bytes);
                Ok(true)
            }
            SlotReply::Refused(Refusal::Full) => Ok(false),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Divides what is due into steps of the pace.
fn steps(due: Vec<Unfinished>) -> Vec<Vec<Unfinished>> {
    let (mut steps, mut bytes) = (Vec::<Vec<Unfinished>>::new(), 0);
    for unfinished in due {
        bytes += unfinished.shard_len_bytes;
        match steps.last_mut().filter(|step| step.len() < TOGETHER && bytes <= TOGETHER_BYTES) {
            Some(step) => step.push(unfinished),
            None => {
                bytes = unfinished.shard_len_bytes;
                steps.push(vec![unfinished]);
            }
        }
    }
    steps
}

/// The slots that are asked first about a shard of a version that `k` make: as many as are needed; `None` if so many are
/// not alive.
fn first_to_ask(peers: &Peers, own: SlotIndex, k: u8) -> Option<SlotSet> {
    let need = CatchUp::need(peers.geometry, k);
    let mut first = SlotSet::default();
    peers.alive().iter().filter(|slot| *slot != own).take(need).for_each(|slot| first.insert(slot));
    (first.len() == need).then_some(first)
}
