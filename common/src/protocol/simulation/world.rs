//! The simulated partition: slots that run the real rules, a network, operations, maps.
//!
//! Everything random comes from the schedule's own generator. The world delivers, duplicates and loses messages; what
//! happens to slots besides is in [`super::faults`].

use std::ops::Range;

use bytes::Bytes;

use super::super::action::{Action, Actions, Lost, MapEpochs, RoundNumber};
use super::super::message::{SlotReply, SlotRequest, SlotVersion, VersionState};
use super::super::quorum::Geometry;
use super::super::register::{PartitionState, Register, Role};
use super::super::slot::{self, BucketState, Caller};
use super::broken::Broken;
use super::client::{Client, Ended};
use super::random::Random;
use crate::types::{Epoch, Fence, OpId, RegisterKind, SlotIndex};

/// A slot: one partition, one register.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) partition: PartitionState,
    pub(super) bucket: BucketState,
    pub(super) register: Register,
    /// The same of a bucket that was deleted; the present one has its name, not its id.
    pub(super) former: (BucketState, Register),
}

/// The bucket's record as the sender of a request knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// Which of the buckets of that name.
    pub(super) bucket: u8,
    pub(super) revision: u64,
    /// The slot adopts the revision before it answers.
    pub(super) adopts: bool,
}

impl Slot {
    pub(super) fn is_voter(&self) -> bool {
        self.partition.role == Role::Voter
    }

    /// The fence that is promised, with or without a record.
    fn promised(&self) -> Fence {
        if self.register.learn.is_some() { self.register.fence } else { self.partition.floor.fence }
    }
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) enum Envelope {
    /// To a slot; without a round nobody waits for the reply.
    Request {
        slot: u8,
        client: u8,
        round: Option<RoundNumber>,
        epoch: Epoch,
        record: Record,
        request: SlotRequest,
    },
    /// Back to the operation.
    Reply { slot: u8, client: u8, round: RoundNumber, reply: Result<SlotReply, Lost> },
}

impl Envelope {
    pub(super) fn slot(&self) -> usize {
        match self {
            Self::Request { slot, .. } | Self::Reply { slot, .. } => usize::from(*slot),
        }
    }
}

/// A drive that a slot has left.
#[derive(Clone, Debug)]
pub(super) struct Left {
    /// The epochs in which callers address it.
    pub(super) epochs: Range<Epoch>,
    pub(super) slot: Box<Slot>,
    /// Whether it can be reached for the cut-over.
    pub(super) reachable: bool,
}

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) geometry: Geometry,
    /// Which of the buckets of the name is the present one.
    pub(super) bucket: u8,
    pub(super) slots: Vec<Slot>,
    /// The old drives of a moved slot, the one that it left last at the end.
    pub(super) left: Vec<Vec<Left>>,
    pub(super) clients: Vec<Client>,
    pub(super) network: Vec<Envelope>,
    /// Messages of slow senders, which set out at some later time.
    pub(super) late: Vec<Envelope>,
    /// Every map there was; the last one is current.
    pub(super) maps: Vec<MapEpochs>,
    pub(super) random: Random,
    pub(super) now: u64,
    /// The coordinator's revision: locks are granted to whoever asks, without exclusion.
    pub(super) revision: u64,
    pub(super) broken: Option<Broken>,
    /// How often, in 1,000, STABLE is sent at all.
    pub(super) stable_per_mille: u32,
    pub(super) trace: bool,
    /// Ops of which a shard was purged.
    pub(super) swept: Vec<OpId>,
    /// An invariant that did not hold.
    pub(super) breach: Option<&'static str>,
}

impl World {
    pub(super) fn n(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn map(&self) -> MapEpochs {
        self.maps.last().copied().unwrap_or_default()
    }

    /// Publishes a map with a higher epoch.
    pub(super) fn raise_epoch(&mut self) -> Epoch {
        self.raise_for_purge(false, false)
    }

    /// Publishes a map with a higher epoch, for a purge of these kinds.
    pub(super) fn raise_for_purge(&mut self, tombstones: bool, orphans: bool) -> Epoch {
        let map = self.map();
        let epoch = Epoch(map.epoch.0 + 1);
        let purge = if tombstones { epoch } else { map.purge };
        let sweep = if orphans { epoch } else { map.sweep };
        self.maps.push(MapEpochs { epoch, purge, sweep });
        epoch
    }

    pub(super) fn is_broken(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    pub(super) fn act(&mut self, client: usize, actions: Actions<Ended>) {
        for action in actions {
            if self.trace && !matches!(action, Action::Send { .. } | Action::Notify { .. }) {
                println!("  {} op{} {action:?}", self.now, client + 1);
            }
            match action {
                Action::Prepare { round, epoch, slots } => {
                    let Client { op, has_shards, .. } = self.clients[client];
                    let shard = if has_shards { Bytes::from_static(b"s") } else { Bytes::new() };
                    let request = SlotRequest::Prepare { op, shard };
                    self.send(client, Some(round), epoch, slots.iter(), &request);
                }
                Action::Send { round, epoch, slots, request } => {
                    self.send(client, Some(round), epoch, slots.iter(), &request);
                }
                Action::Notify { epoch, slots, request } => {
                    self.send(client, None, epoch, slots.iter(), &request);
                }
                Action::Stable { epoch, version, tag, acknowledged } => {
                    if self.random.chance(self.stable_per_mille) {
                        let request = SlotRequest::Stable { version, tag, acknowledged };
                        self.send(client, None, epoch, self.geometry.all().iter(), &request);
                    }
                }
                Action::SetTimer(_) | Action::TakeLock | Action::RefreshMap(_) => {}
                Action::Done(_) => {
                    self.now += 1;
                    self.clients[client].end = self.now;
                }
            }
        }
    }

    fn send(
        &mut self,
        client: usize,
        round: Option<RoundNumber>,
        epoch: Epoch,
        slots: impl Iterator<Item = SlotIndex>,
        request: &SlotRequest,
    ) {
        let record = self.clients[client].record;
        for SlotIndex(slot) in slots {
            let (client, request) = (client as u8, request.clone());
            self.network.push(Envelope::Request { slot, client, round, epoch, record, request });
        }
    }

    pub(super) fn start(&mut self, client: usize) {
        self.now += 1;
        self.clients[client].begin = self.now;
        let actions = self.clients[client].start();
        self.act(client, actions);
    }

    /// Delivers (or loses) one message; a duplicate stays under way.
    pub(super) fn deliver(&mut self, at: usize, duplicate: bool, lose: bool) {
        let envelope = if duplicate { self.network[at].clone() } else { self.network.swap_remove(at) };
        match envelope {
            Envelope::Request { slot, client, round: Some(round), .. } if lose => {
                // Sometimes the sender is told that its message is lost, sometimes it is left waiting.
                if !duplicate && self.random.chance(300) {
                    self.network.push(Envelope::Reply { slot, client, round, reply: Err(Lost) });
                }
            }
            _ if lose => {}
            Envelope::Request { slot, client, round, epoch, record, request } => {
                let reply = self.serve_as(usize::from(slot), epoch, record, &request);
                if self.trace {
                    println!("  {} slot{slot} op{} {epoch:?} {request:?} -> {reply:?}", self.now, client + 1);
                }
                if let Some(round) = round {
                    self.network.push(Envelope::Reply { slot, client, round, reply: Ok(reply) });
                }
            }
            Envelope::Reply { slot, client, round, reply } => {
                let client = usize::from(client);
                if self.clients[client].ended.is_none() {
                    let actions = self.clients[client].reply(round, SlotIndex(slot), reply);
                    self.act(client, actions);
                }
            }
        }
    }

    /// [`Self::serve_as`] for a caller with the first record of the bucket.
    pub(super) fn serve(&mut self, at: usize, epoch: Epoch, request: &SlotRequest) -> SlotReply {
        self.serve_as(at, epoch, Record { bucket: self.bucket, ..Record::default() }, request)
    }

    /// Serves a request at the drive that a caller of this epoch addresses.
    pub(super) fn serve_as(
        &mut self,
        at: usize,
        epoch: Epoch,
        record: Record,
        request: &SlotRequest,
    ) -> SlotReply {
        let (broken, present) = (self.broken, self.bucket);
        let slot = match self.left[at].iter_mut().find(|left| left.epochs.contains(&epoch)) {
            Some(left) => left.slot.as_mut(),
            None => &mut self.slots[at],
        };
        let ignores_bucket = match request {
            _ if broken == Some(Broken::IgnoresBucket) => true,
            SlotRequest::Fence { .. } => broken == Some(Broken::FencesAnyBucket),
            SlotRequest::Query { .. } => broken == Some(Broken::QueriesAnyBucket),
            _ => false,
        };
        let known = |bucket| if ignores_bucket { BucketState::default() } else { bucket };
        if record.bucket != present && broken != Some(Broken::ReusesBucketId) {
            let (bucket, register) = &mut slot.former;
            if record.adopts {
                bucket.adopt(record.revision);
            }
            let met = slot::Slot { partition: &mut slot.partition, bucket: known(*bucket), register };
            return slot::serve(met, Caller { epoch, bucket_revision: record.revision }, request).reply;
        }
        if record.adopts {
            slot.bucket.adopt(record.revision);
        }
        let ignores_epoch = match request {
            _ if broken == Some(Broken::NoEpochs) => true,
            SlotRequest::Stable { .. } => broken == Some(Broken::StableInAnyEpoch),
            SlotRequest::Install { .. } => broken == Some(Broken::InstallsInAnyEpoch),
            _ => false,
        };
        let epoch = if ignores_epoch { slot.partition.epoch } else { epoch };
        let promised = slot.promised();
        if let SlotRequest::Commit { tag, .. } = request {
            let vacant = slot.register.current().is_none();
            let floor = slot.register.learn.unwrap_or(slot.partition.floor);
            if broken == Some(Broken::FloorSupersedes) && vacant && *tag <= floor {
                return SlotReply::Committed { superseded: true };
            }
            if broken == Some(Broken::NoFenceCheck) {
                slot.register.learn = slot.register.learn.or(Some(slot.partition.floor));
                slot.register.fence = Fence::default();
                slot.register.exclusive = None;
            }
        }
        let bucket = known(slot.bucket);
        let met = slot::Slot { partition: &mut slot.partition, bucket, register: &mut slot.register };
        let served = slot::serve(met, Caller { epoch, bucket_revision: record.revision }, request);
        match broken {
            Some(Broken::NoFenceCheck) => slot.register.fence = slot.register.fence.max(promised),
            Some(Broken::NoExclusivity) => slot.register.exclusive = None,
            Some(Broken::InstalledVotes) if matches!(request, SlotRequest::Install { .. }) => {
                count_learned(&mut slot.register);
            }
            _ => {}
        }
        if slot.promised() < promised {
            self.breach = Some("a fence went back");
        }
        let here = &self.slots[at].register;
        if here.versions.iter().any(|held| self.swept.contains(&held.version.op)) {
            self.breach = Some("an op whose shard was purged is a version");
        }
        served.reply
    }

    /// A shard of an op that nobody may have committed is gone.
    pub(super) fn purged(&mut self, op: OpId) {
        self.swept.push(op);
        let committed = |slot: &Slot| slot.register.versions.iter().any(|held| held.version.op == op);
        if self.slots.iter().any(committed) {
            self.breach = Some("a shard of a version was purged");
        }
    }

    /// The bucket is created anew, with another id: its registers are others.
    pub(super) fn recreate_bucket(&mut self) {
        self.bucket += 1;
        let drives =
            self.slots.iter_mut().chain(self.left.iter_mut().flatten().map(|left| left.slot.as_mut()));
        for slot in drives.filter(|_| self.broken != Some(Broken::ReusesBucketId)) {
            slot.former = (std::mem::take(&mut slot.bucket), std::mem::take(&mut slot.register));
        }
    }

    /// Frees what a slot may free; shards of versions that are not STABLE anywhere must survive this.
    pub(super) fn free(&mut self, at: usize) {
        let register = &mut self.slots[at].register;
        let freeable = register.freeable(RegisterKind::Object).next().map(|v| v.version.op);
        if let Some(op) = freeable {
            register.free(RegisterKind::Object, op);
        }
    }

    /// The version with the highest tag at any slot.
    pub(super) fn newest(&self) -> Option<&SlotVersion> {
        self.slots.iter().filter_map(|slot| slot.register.current()).max_by_key(|v| v.tag)
    }
}

/// Breaks the rule that LEARNED has no vote.
pub(super) fn count_learned(register: &mut Register) {
    for version in &mut register.versions {
        version.state = version.state.max(VersionState::Committed);
    }
}
