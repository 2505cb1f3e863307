//! Runs a pure protocol machine over the nodes of a partition's slots, for gateways and for nodes that settle.
//!
//! Owns: sending to slots concurrently, timers, the lock, map refreshes, and the inline shards that replies carry.
//! Never decides anything: the machine does.
//!
//! 1. `start()` gives actions; each becomes a future in one of two sets: replies of slots, and control (timers, lock, map).
//! 2. Whatever completes first goes to the machine, which gives more actions.
//! 3. On `Done` the futures of mutations that still run are carried on in the background, so that a slow slot gets what
//!    it was sent; the lock is given back.
//!
//! Cancellation: dropping the future of [`Driver::drive`] drops everything; what was sent may or may not arrive. The
//! deadline is a future of the caller's: when it ends, the machine gives up truthfully.
//!
//! **Trace.** At level `trace` every round, reply and end is told with the microseconds since the machine began.

mod latency;
mod patience;
mod peers;
mod stable;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::coordination::LockGuard;
use crate::node::{NodeError, PrepareShard, ShardPieces, SlotAddress, SlotCall};
use crate::protocol::action::{
    Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer, TimerKind,
};
use crate::protocol::message::{SlotReply, SlotRequest};
use crate::shutdown::Shutdown;
use crate::types::{Epoch, OpId, PartitionId, RegisterKey, SlotIndex, SlotSet};

pub use latency::Latency;
use patience::{Patience, RoundKind, RoundWatch};
pub use peers::{Former, Peer, Peers, nodes};

pub use stable::StableNotice;
use stable::{StableQueue, Told};

/// How long a small request to a slot may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a register's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long futures of mutations run on after the machine has ended.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(60);

/// The register that a machine runs on.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub register: RegisterKey,
    /// Its partition.
    pub partition: PartitionId,
    /// The revision of the bucket record the caller knows.
    pub bucket_revision: u64,
}

/// What PREPARE sends, by slot.
pub enum Payload {
    /// No shards: a tombstone, or metadata only.
    Nothing,
    /// Small encoded shards.
    Inline {
        /// The op.
        op: OpId,
        /// One per slot.
        shards: Vec<Bytes>,
    },
    /// Large encoded shards, as they are made.
    Streams {
        /// The op.
        op: OpId,
        /// One per slot; each can be sent once.
        pieces: Vec<Option<ShardPieces>>,
    },
}

/// What a machine ended with, and the inline shards of current versions that slots sent along.
pub struct Driven<O> {
    /// The machine's outcome.
    pub outcome: O,
    /// Encoded shards with the op they belong to.
    pub inline: Vec<(SlotIndex, OpId, Bytes)>,
}

#[expect(clippy::large_enum_variant, reason = "most events are replies; a box would cost each an allocation")]
enum Event {
    Reply(RoundNumber, SlotIndex, Result<SlotReply, Lost>),
    Timer(Timer),
    Lock(Result<LockGuard, NoLock>),
    Map(MapEpochs),
    Deadline,
}

struct Run<'a, O> {
    driver: &'a Driver,
    target: &'a Target,
    peers: Peers,
    payload: Payload,
    replies: FuturesUnordered<BoxFuture<'static, Event>>,
    control: FuturesUnordered<BoxFuture<'static, Event>>,
    inline: Vec<(SlotIndex, OpId, Bytes)>,
    lock: Option<LockGuard>,
    mutates: bool,
    round: RoundWatch,
    /// The notice of STABLE that was left, and the round of its COMMITs.
    told: Option<(Told, RoundNumber)>,
    begun: Instant,
    outcome: Option<O>,
}

/// What machines are run with; cheap to clone, clones share the queue.
#[derive(Clone)]
pub struct Driver {
    cluster: Cluster,
    /// Tasks that a stop waits for.
    background: Shutdown,
    stable: Arc<StableQueue>,
    patience: Arc<Patience>,
}

impl Driver {
    /// Starts a driver on a live cluster. Its background work ends with `shutdown`, which waits for it.
    pub fn start(cluster: Cluster, shutdown: Shutdown) -> Self {
        let stable = Arc::<StableQueue>::default();
        shutdown.spawn(StableQueue::run(Arc::clone(&stable), cluster.clone(), shutdown.clone()));
        Self { cluster, background: shutdown, stable, patience: Arc::default() }
    }

    /// Tells all slots of these registers that a version is STABLE, and who is known to have it: now, `at_a_time` notices
    /// at the same time. A slot that does not answer within a second goes without.
    pub async fn tell_stable(&self, notices: Vec<StableNotice>, at_a_time: usize) {
        stable::tell_all(&self.cluster, notices, at_a_time).await;
    }

    /// Runs the machine to its end, or until `deadline` ends and it gives up.
    pub async fn drive<M: Machine>(
        &self,
        target: &Target,
        peers: Peers,
        mut machine: M,
        payload: Payload,
        deadline: impl Future<Output = ()> + Send,
    ) -> Driven<M::Outcome> {
        let mut run = Run {
            driver: self,
            target,
            peers,
            payload,
            replies: FuturesUnordered::new(),
            control: FuturesUnordered::new(),
            inline: Vec::new(),
            lock: None,
            mutates: false,
            round: RoundWatch::begin(0, RoundKind::Receive),
            told: None,
            begun: Instant::now(),
            outcome: None,
        };
        tokio::pin!(deadline);
        let mut given_up = false;
        let mut actions = machine.start();
        loop {
            run.carry_out(actions);
            if let Some(outcome) = run.outcome.take() {
                tracing::trace!(key = %target.register.key, us = run.age_us(), "done");
                let inline = std::mem::take(&mut run.inline);
                run.leave();
                return Driven { outcome, inline };
            }
            let event = tokio::select! {
                biased;
                Some(event) = run.replies.next() => event,
                Some(event) = run.control.next() => event,
                () = &mut deadline, if !given_up => Event::Deadline,
            };
            actions = match event {
                Event::Reply(round, slot, reply) => {
                    let (key, lost) = (&target.register.key, reply.is_err());
                    tracing::trace!(%key, round, slot = slot.0, lost, us = run.age_us(), "reply");
                    if round == run.round.number {
                        run.round.answer(&self.patience);
                    }
                    machine.on_reply(round, slot, run.take_inline(slot, reply))
                }
                Event::Timer(timer) => machine.on_timer(timer),
                Event::Lock(lock) => {
                    let fence = lock.as_ref().map(LockGuard::fence).map_err(|_| NoLock);
                    run.lock = lock.ok();
                    machine.on_lock(fence)
                }
                Event::Map(epochs) => {
                    run.peers = Peers::of(&self.cluster, target.partition);
                    machine.on_map(epochs)
                }
                Event::Deadline => {
                    given_up = true;
                    machine.give_up()
                }
            };
        }
    }
}

impl<O> Run<'_, O> {
    fn carry_out(&mut self, actions: Actions<O>) {
        for action in actions {
            match action {
                Action::Prepare { round, epoch, slots } => self.prepare(round, epoch, slots),
                Action::Send { round, epoch, slots, request } => self.send(round, epoch, slots, &request),
                Action::Notify { epoch, slots, request } => self.notify(epoch, slots, &request),
                Action::Stable { epoch, version, tag, acknowledged } => {
                    self.told = Some((Told { op: version.op, tag, epoch }, self.round.number));
                    self.driver.stable.push(StableNotice {
                        target: self.target.clone(),
                        epoch,
                        version,
                        tag,
                        acknowledged,
                    });
                }
                Action::SetTimer(timer) => {
                    let delay = self.delay(timer);
                    self.control.push(Box::pin(async move {
                        tokio::time::sleep(delay).await;
                        Event::Timer(timer)
                    }));
                }
                Action::TakeLock => self.take_lock(),
                Action::RefreshMap(epoch) => self.refresh_map(epoch),
                Action::Done(outcome) => self.outcome = Some(outcome),
            }
        }
    }

    /// How long a timer waits: for the rest of a round, as long as is usual.
    fn delay(&self, timer: Timer) -> Duration {
        match timer.kind {
            TimerKind::Hurry if timer.round == self.round.number => self.driver.patience.left(&self.round),
            _ => timer.delay(),
        }
    }

    /// Notes that slots are asked, in this round or a new one.
    fn watch(&mut self, round: RoundNumber, kind: RoundKind, slots: SlotSet) {
        if round != self.round.number {
            let before = std::mem::replace(&mut self.round, RoundWatch::begin(round, kind));
            before.end(&self.driver.patience);
        }
        self.round.ask(slots.len());
    }

    fn prepare(&mut self, round: RoundNumber, epoch: Epoch, slots: SlotSet) {
        self.mutates = true;
        let kind = match self.payload {
            Payload::Inline { .. } => RoundKind::Prepare,
            Payload::Nothing | Payload::Streams { .. } => RoundKind::Receive,
        };
        self.watch(round, kind, slots);
        self.trace_round("PREPARE", round, slots);
        for slot in slots.iter() {
            let index = usize::from(slot.0);
            let reply: BoxFuture<'static, Result<SlotReply, NodeError>> = match &mut self.payload {
                Payload::Nothing => {
                    let op = OpId::default();
                    self.call(slot, epoch, SlotRequest::Prepare { op, shard: Bytes::new() })
                }
                Payload::Inline { op, shards } => {
                    let request = SlotRequest::Prepare {
                        op: *op,
                        shard: shards.get(index).cloned().unwrap_or_default(),
                    };
                    self.call(slot, epoch, request)
                }
                Payload::Streams { op, pieces } => {
                    let (op, pieces) = (*op, pieces.get_mut(index).and_then(Option::take));
                    self.prepare_stream(slot, epoch, op, pieces)
                }
            };
            self.replies.push(self.answer(round, slot, reply));
        }
    }

    fn trace_round(&self, request: &'static str, round: RoundNumber, slots: SlotSet) {
        let key = &self.target.register.key;
        tracing::trace!(%key, request, round, slots = slots.len(), us = self.age_us(), "sent");
    }

    /// Microseconds since the machine began; looked up only if somebody reads the trace.
    fn age_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn prepare_stream(
        &self,
        slot: SlotIndex,
        epoch: Epoch,
        op: OpId,
        pieces: Option<ShardPieces>,
    ) -> BoxFuture<'static, Result<SlotReply, NodeError>> {
        let peer = self.peers.get(slot).and_then(|peer| Some((peer.client.clone()?, peer.address)));
        let (Some((client, address)), Some(pieces)) = (peer, pieces) else {
            return Box::pin(std::future::ready(Err(no_client())));
        };
        let header = PrepareShard {
            address: SlotAddress { epoch, ..address },
            register: self.target.register.clone(),
            bucket_revision: self.target.bucket_revision,
            op,
        };
        Box::pin(async move { client.prepare_shard(header, pieces).await })
    }

    fn send(&mut self, round: RoundNumber, epoch: Epoch, slots: SlotSet, request: &SlotRequest) {
        let kind = match request {
            SlotRequest::Query { inline_data: false } => RoundKind::Query,
            SlotRequest::Query { inline_data: true } => RoundKind::Fetch,
            _ => RoundKind::Change,
        };
        self.mutates |= kind == RoundKind::Change;
        self.watch(round, kind, slots);
        self.trace_round(request.name(), round, slots);
        for slot in slots.iter() {
            let reply = self.call(slot, epoch, request.clone());
            self.replies.push(self.answer(round, slot, reply));
        }
    }

    fn notify(&self, epoch: Epoch, slots: SlotSet, request: &SlotRequest) {
        for slot in slots.iter() {
            let call = self.call(slot, epoch, request.clone());
            self.driver.background.spawn(async move {
                // Nobody waits: what does not arrive is swept by the node or settled by a reader.
                let _ = call.await;
            });
        }
    }

    fn call(
        &self,
        slot: SlotIndex,
        epoch: Epoch,
        request: SlotRequest,
    ) -> BoxFuture<'static, Result<SlotReply, NodeError>> {
        call_slot(&self.peers, self.target, slot, epoch, request)
    }

    /// Makes an event of a reply, and tells the cluster what it says of the node.
    fn answer(
        &self,
        round: RoundNumber,
        slot: SlotIndex,
        reply: BoxFuture<'static, Result<SlotReply, NodeError>>,
    ) -> BoxFuture<'static, Event> {
        let node = self.peers.get(slot).map(|peer| peer.node.clone());
        let cluster = self.driver.cluster.clone();
        Box::pin(async move {
            let reply = reply.await;
            if let Some(node) = node {
                cluster.report(&node, reply.as_ref().map(|_| ()));
            }
            let reply = reply.map_err(|error| {
                tracing::debug!(slot = slot.0, %error, "no reply from slot");
                Lost
            });
            Event::Reply(round, slot, reply)
        })
    }

    fn take_lock(&mut self) {
        self.lock = None;
        let coordinator = self.driver.cluster.coordinator();
        let name = lock_name(&self.target.register);
        self.control.push(Box::pin(async move {
            let lock = coordinator.lock(&name, LOCK_WAIT).await;
            Event::Lock(lock.map_err(|error| {
                tracing::debug!(%error, "no lock");
                NoLock
            }))
        }));
    }

    fn refresh_map(&mut self, known: Epoch) {
        let (cluster, partition) = (self.driver.cluster.clone(), self.target.partition);
        self.control.push(Box::pin(async move {
            for attempt in 0..5_u32 {
                let epochs = cluster.map().epochs(partition);
                if epochs.epoch > known {
                    return Event::Map(epochs);
                }
                if attempt > 0 {
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                }
                cluster.refresh().await;
            }
            Event::Map(cluster.map().epochs(partition))
        }));
    }

    /// Keeps the inline shard of a view, so that the machine never sees bytes.
    fn take_inline(&mut self, slot: SlotIndex, reply: Result<SlotReply, Lost>) -> Result<SlotReply, Lost> {
        match reply {
            Ok(SlotReply::View(view, Some(shard))) => {
                if let Some(current) = &view.current {
                    self.inline.retain(|(held, _, _)| *held != slot);
                    self.inline.push((slot, current.version.op, shard));
                }
                Ok(SlotReply::View(view, None))
            }
            other => other,
        }
    }

    /// Lets the mutations that still run go on; a COMMIT that is answered before STABLE is told goes into it.
    fn leave(mut self) {
        self.lock = None;
        self.round.end(&self.driver.patience);
        if self.mutates && !self.replies.is_empty() {
            let (mut rest, told) = (self.replies, self.told);
            let stable = Arc::clone(&self.driver.stable);
            self.driver.background.spawn(async move {
                let all = async {
                    while let Some(event) = rest.next().await {
                        if let (
                            Event::Reply(round, slot, Ok(SlotReply::Committed { .. })),
                            Some((notice, told)),
                        ) = (event, told)
                            && round == told
                        {
                            stable.acknowledge(notice, slot);
                        }
                    }
                };
                let _ = tokio::time::timeout(LEFTOVER_LIMIT, all).await;
            });
        }
    }
}

/// One small request to one slot.
fn call_slot(
    peers: &Peers,
    target: &Target,
    slot: SlotIndex,
    epoch: Epoch,
    request: SlotRequest,
) -> BoxFuture<'static, Result<SlotReply, NodeError>> {
    let Some((client, address, node)) =
        peers.get(slot).and_then(|peer| Some((peer.client.clone()?, peer.address, peer.node.clone())))
    else {
        return Box::pin(std::future::ready(Err(no_client())));
    };
    let call = SlotCall {
        address: SlotAddress { epoch, ..address },
        register: target.register.clone(),
        bucket_revision: target.bucket_revision,
        request,
    };
    Box::pin(async move {
        match tokio::time::timeout(CALL_TIMEOUT, client.call(call)).await {
            Ok(reply) => reply,
            Err(_) => Err(NodeError::Timeout { node: node.to_string() }),
        }
    })
}

fn no_client() -> NodeError {
    NodeError::Unreachable { node: "unknown".to_owned(), reason: "no address is known".to_owned() }
}

/// The lock that serves a register; registers that share a name only wait for each other.
fn lock_name(register: &RegisterKey) -> String {
    format!("objects/{}", hex::encode(&Sha256::digest(register.encode())[..16]))
}
