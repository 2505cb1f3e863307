//! The coordinator on etcd: the only place that knows the etcd client.
//!
//! ## Flow
//! 1. A supervisor task connects, grants the session lease (10 s), keeps it alive, and after a loss grants a new one
//!    and writes the leased keys again.
//! 2. Reads and transactions are plain linearizable etcd calls with a timeout.
//! 3. A watch task lists, tells [`WatchEvent::Reset`], follows the stream from the next revision, and starts over
//!    after any error, cancellation or compaction, and every 30 s.
//! 4. A lock is a key created under the session lease; its create revision and the generation in the cluster record,
//!    read in the same transaction, are the fence.
//!
//! ## Consistency
//! The session counts as alive until (sending time of the last answered keep-alive + TTL), which is never later than
//! etcd's own view. A lock whose creation was not answered is removed in the background by its token; a key of this
//! session that nobody here holds is such a leftover and is removed by the next local contender.
//!
//! Every read looks for the cluster's record, and every change demands it, once it has been seen ([`founded`]): an etcd
//! without it has lost its data, and answers nothing that could be believed. To the caller it is unavailable. One that was
//! rebuilt with a higher generation is gone on with; its revisions are told as higher than all before.
//!
//! ## Retries
//! Only the background tasks retry. Calls answer their error; outcome unknown after a timeout.

mod calls;
mod founded;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use calls::{call, connect_options, explain, get_response, revision, ttl, unavailable};
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, GetResponse, KeyValue, PutOptions, Txn,
    TxnOp, WatchOptions,
};
use founded::{Founded, raw, stamped};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::guard::{NameLocks, Turn};
use super::{
    CLUSTER_KEY, Change, Coordinator, CoordinatorError, Entry, EtcdOptions, Expected, Listing, LockGuard,
    RELIST, Revision, WatchEvent, Write, generation_of,
};
use crate::limits::SESSION_TTL;
use crate::types::Fence;

const RETRY_DELAY: Duration = Duration::from_millis(500);
const WATCH_QUEUE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Session {
    lease: i64,
    until: Instant,
}

impl Session {
    fn alive(self) -> bool {
        Instant::now() < self.until
    }
}

struct Inner {
    prefix: String,
    client: ArcSwapOption<Client>,
    session: watch::Sender<Option<Session>>,
    /// What must be written again under a new session.
    leased: Mutex<BTreeMap<String, Bytes>>,
    locks: NameLocks,
    /// The cluster's record.
    founded: Founded,
    stop: CancellationToken,
}

/// The coordinator on etcd. The tasks behind it end when the last handle is dropped or after [`Coordinator::close`].
pub struct EtcdCoordinator {
    inner: Arc<Inner>,
}

impl Drop for EtcdCoordinator {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

impl EtcdCoordinator {
    /// Starts to connect in the background: etcd need not be there yet (see [`Self::ready`]).
    ///
    /// # Errors
    /// `Refused` if there is no endpoint.
    pub fn connect(options: EtcdOptions) -> Result<Arc<Self>, CoordinatorError> {
        if options.endpoints.is_empty() {
            return Err(CoordinatorError::Refused("no etcd endpoint given".to_owned()));
        }
        let inner = Arc::new(Inner {
            prefix: format!("{}/", options.prefix.trim_end_matches('/')),
            client: ArcSwapOption::empty(),
            session: watch::Sender::new(None),
            leased: Mutex::default(),
            locks: NameLocks::default(),
            founded: Founded::default(),
            stop: CancellationToken::new(),
        });
        let (supervised, stop) = (inner.clone(), inner.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move { supervised.supervise(options).await }));
        Ok(Arc::new(Self { inner }))
    }

    /// Waits until a session is alive.
    ///
    /// # Errors
    /// `Unavailable` if that takes longer than `wait`.
    pub async fn ready(&self, wait: Duration) -> Result<(), CoordinatorError> {
        let mut session = self.inner.session.subscribe();
        let alive = session.wait_for(|session| session.is_some_and(Session::alive));
        match timeout(wait, alive).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(CoordinatorError::Unavailable(format!("etcd gave no session within {wait:?}")))
            }
        }
    }
}

impl Inner {
    fn client(&self) -> Result<Client, CoordinatorError> {
        let client = self.client.load();
        let client = client.as_ref().ok_or_else(|| unavailable("not connected to etcd yet"))?;
        Ok(Client::clone(client))
    }

    fn live_session(&self) -> Option<Session> {
        (*self.session.borrow()).filter(|session| session.alive())
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn entry(&self, kv: &KeyValue, generation: u32) -> Entry {
        let key = String::from_utf8_lossy(kv.key());
        Entry {
            key: key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned(),
            value: Bytes::copy_from_slice(kv.value()),
            revision: stamped(generation, kv.mod_revision()),
            create_revision: stamped(generation, kv.create_revision()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        let (found, revision) = self.read(prefix, Some(GetOptions::new().with_prefix())).await?;
        let generation = generation_of(revision);
        Ok(Listing { entries: found.kvs().iter().map(|kv| self.entry(kv, generation)).collect(), revision })
    }

    /// Reads, and looks for the cluster's record at the same revision: an etcd that had it once and has it no more has
    /// lost its data, and what it does not know may well be there.
    async fn read(
        &self,
        key: &str,
        options: Option<GetOptions>,
    ) -> Result<(GetResponse, Revision), CoordinatorError> {
        let mut client = self.client()?;
        let reads = [TxnOp::get(self.key(key), options), TxnOp::get(self.key(CLUSTER_KEY), None)];
        let reply = call(client.txn(Txn::new().and_then(reads))).await?;
        let mut found = reply.op_responses().into_iter().filter_map(get_response);
        let (Some(answer), Some(record)) = (found.next(), found.next()) else {
            return Err(unavailable("etcd answered two reads with less"));
        };
        let generation = self.founded.see(record.kvs().first())?;
        Ok((answer, stamped(generation, reply.header().map_or(0, |header| header.revision()))))
    }

    /// The generation, and what every change demands besides its own conditions.
    fn still_founded(&self) -> (u32, Option<Compare>) {
        self.founded.demand(self.key(CLUSTER_KEY))
    }

    /// What is known after a change was refused: the record is looked for, and the conflict told.
    async fn conflict(&self, writes: &[Write]) -> CoordinatorError {
        let key = writes.first().map(|write| write.key.clone()).unwrap_or_default();
        self.read(CLUSTER_KEY, None).await.err().unwrap_or(CoordinatorError::Conflict { key })
    }

    /// A refused change is tried again if it turns out that the cluster's record has become another one.
    async fn transaction(&self, writes: &[Write]) -> Result<Revision, CoordinatorError> {
        loop {
            let life = self.founded.record();
            match self.try_transaction(writes).await {
                Err(CoordinatorError::Conflict { .. }) if self.founded.record() != life => {}
                answer => return answer,
            }
        }
    }

    async fn try_transaction(&self, writes: &[Write]) -> Result<Revision, CoordinatorError> {
        let mut client = self.client()?;
        let lease = self.live_session().map(|session| session.lease);
        let (generation, still_founded) = self.still_founded();
        let mut compares = Vec::from_iter(still_founded);
        let mut operations = Vec::new();
        for write in writes {
            let key = self.key(&write.key);
            match write.expected {
                Expected::Any => {}
                Expected::Absent => {
                    compares.push(Compare::create_revision(key.as_str(), CompareOp::Equal, 0))
                }
                Expected::Revision(revision) if generation_of(revision) != generation => {
                    return Err(self.conflict(writes).await);
                }
                Expected::Revision(revision) => {
                    compares.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, raw(revision)));
                }
            }
            match &write.change {
                Change::Check => {}
                Change::Delete => operations.push(TxnOp::delete(key, None::<DeleteOptions>)),
                Change::Put { value, leased } => {
                    let mut options = PutOptions::new();
                    if *leased {
                        options = options.with_lease(lease.ok_or(CoordinatorError::SessionLost)?);
                    }
                    operations.push(TxnOp::put(key, value.to_vec(), Some(options)));
                }
            }
        }
        let reply = call(client.txn(Txn::new().when(compares).and_then(operations))).await?;
        if !reply.succeeded() {
            return Err(self.conflict(writes).await);
        }
        let mut table = self.leased.lock();
        for write in writes {
            match &write.change {
                Change::Put { value, leased: true } => {
                    table.insert(write.key.clone(), value.clone());
                }
                Change::Put { leased: false, .. } | Change::Delete => {
                    table.remove(&write.key);
                }
                Change::Check => {}
            }
        }
        Ok(stamped(generation, reply.header().map_or(0, |header| header.revision())))
    }
}

/// The session.
impl Inner {
    async fn supervise(&self, options: EtcdOptions) {
        let mut failures = 0_u32;
        loop {
            match self.run_session(&options).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, failures, endpoints = ?options.endpoints, "no etcd session");
                    }
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Connects if need be, grants a lease and keeps it alive until it is lost.
    async fn run_session(&self, options: &EtcdOptions) -> Result<(), CoordinatorError> {
        let mut client = match self.client() {
            Ok(client) => client,
            Err(_) => {
                let client =
                    call(Client::connect(&options.endpoints, Some(connect_options(options)))).await?;
                self.client.store(Some(Arc::new(client.clone())));
                client
            }
        };
        self.read(CLUSTER_KEY, None).await?;
        let asked = Instant::now();
        let ttl_s = i64::try_from(SESSION_TTL.as_secs()).unwrap_or(i64::MAX);
        let granted = call(client.lease_grant(ttl_s, None)).await?;
        let session = Session { lease: granted.id(), until: asked + ttl(granted.ttl()) };
        let mut restored = self.restore_leased(session.lease).await;
        self.session.send_replace(Some(session));
        tracing::info!(lease = session.lease, "etcd session is alive");
        let mut until = session.until;
        while Instant::now() < until {
            match self.keep_alive(&mut client, session.lease, &mut until, &mut restored).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "keep-alive stream ended"),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.session.send_replace(None);
        tracing::warn!(lease = session.lease, "etcd session is lost");
        Ok(())
    }

    /// Renews the lease three times per TTL. `Ok`: etcd says that the lease is gone. `Err`: the stream broke.
    async fn keep_alive(
        &self,
        client: &mut Client,
        lease: i64,
        until: &mut Instant,
        restored: &mut bool,
    ) -> Result<(), CoordinatorError> {
        let asked = Instant::now();
        let (mut keeper, mut replies) = match call(client.lease_keep_alive(lease)).await {
            Ok(stream) => stream,
            Err(CoordinatorError::SessionLost) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut renewed = Session { lease, until: asked + SESSION_TTL };
        loop {
            *until = renewed.until;
            self.session.send_replace(Some(renewed));
            if !*restored {
                *restored = self.restore_leased(lease).await;
            }
            tokio::time::sleep(SESSION_TTL / 3).await;
            let asked = Instant::now();
            call(keeper.keep_alive()).await?;
            match call(replies.message()).await? {
                Some(reply) if reply.ttl() > 0 => renewed.until = asked + ttl(reply.ttl()),
                Some(_) => return Ok(()),
                None => return Err(unavailable("keep-alive stream closed")),
            }
        }
    }

    async fn restore_leased(&self, lease: i64) -> bool {
        let table = self.leased.lock().clone();
        let Ok(mut client) = self.client() else { return false };
        for (key, value) in table {
            let options = PutOptions::new().with_lease(lease);
            if let Err(error) = call(client.put(self.key(&key), value.to_vec(), Some(options))).await {
                tracing::warn!(%error, key, "leased key was not written again; trying later");
                return false;
            }
        }
        true
    }
}

/// Watches.
impl Inner {
    async fn feed(&self, prefix: String, sender: mpsc::Sender<WatchEvent>) {
        loop {
            match self.feed_once(&prefix, &sender).await {
                Ok(()) if sender.is_closed() => return,
                Ok(()) => continue,
                Err(error) => tracing::debug!(%error, prefix, "watch starts over"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_DELAY) => {}
                () = sender.closed() => return,
            }
        }
    }

    /// Lists, then follows the stream until it breaks (`Err`) or it is time to list again (`Ok`).
    async fn feed_once(
        &self,
        prefix: &str,
        sender: &mpsc::Sender<WatchEvent>,
    ) -> Result<(), CoordinatorError> {
        let listing = self.list(prefix).await?;
        let generation = generation_of(listing.revision);
        let from = raw(listing.revision).saturating_add(1);
        if sender.send(WatchEvent::Reset(listing)).await.is_err() {
            return Ok(());
        }
        let mut client = self.client()?;
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut stream = call(client.watch(self.key(prefix), Some(options))).await?;
        let relist = tokio::time::sleep(RELIST);
        tokio::pin!(relist);
        loop {
            let reply = tokio::select! {
                () = &mut relist => return Ok(()),
                () = sender.closed() => return Ok(()),
                reply = stream.message() => reply.map_err(explain)?,
            };
            let reply = reply.ok_or_else(|| unavailable("watch stream closed"))?;
            if reply.canceled() {
                // Compacted below our revision, or the member is going away: the listing catches up.
                return Err(unavailable(&format!("watch cancelled: {}", reply.cancel_reason())));
            }
            if self.founded.generation() != generation {
                return Err(unavailable("the cluster was recovered with another generation"));
            }
            for event in reply.events() {
                let Some(kv) = event.kv() else { continue };
                let entry = self.entry(kv, generation);
                let told = match event.event_type() {
                    EventType::Put => WatchEvent::Put(entry),
                    EventType::Delete => WatchEvent::Delete { key: entry.key, revision: entry.revision },
                };
                if sender.send(told).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

enum LockAnswer {
    Taken(Fence),
    Held { lease: i64, value: Vec<u8>, revision: i64 },
}

/// Locks.
impl Inner {
    async fn lock(self: &Arc<Self>, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        if self.live_session().is_none() {
            return Err(CoordinatorError::SessionLost);
        }
        let deadline = Instant::now() + wait;
        let locked = || CoordinatorError::Locked { name: name.to_owned() };
        let turn = self.locks.take(name, wait).await.ok_or_else(locked)?;
        let key = self.key(&format!("locks/{name}"));
        let token = format!("{:016x}", crate::random::random::<u64>());
        loop {
            let session = self.live_session().ok_or(CoordinatorError::SessionLost)?;
            let mut leftover = Leftover::new(self, &key, &token, session.lease);
            let answer = self.try_lock(&key, &token, session.lease).await?;
            match answer {
                LockAnswer::Taken(fence) => {
                    leftover.turn = Some(turn);
                    let inner = self.clone();
                    let held = move || inner.live_session().is_some_and(|live| live.lease == session.lease);
                    return Ok(LockGuard::new(fence, held, move || drop(leftover)));
                }
                LockAnswer::Held { lease, value, .. } if lease == session.lease => {
                    leftover.armed = false;
                    let value = String::from_utf8_lossy(&value).into_owned();
                    self.remove_lock(&key, &value).await?;
                }
                LockAnswer::Held { revision, .. } => {
                    leftover.armed = false;
                    let rest = deadline.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        return Err(locked());
                    }
                    self.wait_for_release(&key, revision, rest.min(Duration::from_secs(1))).await;
                }
            }
        }
    }

    async fn try_lock(&self, key: &str, token: &str, lease: i64) -> Result<LockAnswer, CoordinatorError> {
        let mut client = self.client()?;
        let put = TxnOp::put(key, token, Some(PutOptions::new().with_lease(lease)));
        let record = TxnOp::get(self.key(CLUSTER_KEY), None::<GetOptions>);
        let free = Compare::create_revision(key, CompareOp::Equal, 0);
        let txn = Txn::new()
            .when(Vec::from_iter(self.still_founded().1.into_iter().chain([free])))
            .and_then([put, record])
            .or_else([TxnOp::get(key, None::<GetOptions>)]);
        let reply = call(client.txn(txn)).await?;
        let header_revision = reply.header().map_or(0, |header| header.revision());
        let read = reply.op_responses().into_iter().find_map(get_response);
        let kv = read.as_ref().map(GetResponse::kvs).and_then(<[KeyValue]>::first);
        if reply.succeeded() {
            let generation = kv.and_then(|kv| super::record_generation(kv.value())).unwrap_or(1);
            return Ok(LockAnswer::Taken(Fence { generation, revision: revision(header_revision) }));
        }
        if kv.is_none() {
            self.read(CLUSTER_KEY, None).await?;
        }
        let (lease, value) = kv.map_or((0, Vec::new()), |kv| (kv.lease(), kv.value().to_vec()));
        Ok(LockAnswer::Held { lease, value, revision: header_revision })
    }

    /// Returns when the lock's key is removed after `revision`, on any doubt, and after `wait`.
    async fn wait_for_release(&self, key: &str, revision: i64, wait: Duration) {
        let Ok(mut client) = self.client() else { return };
        let removal = async {
            let options = WatchOptions::new().with_start_revision(revision.saturating_add(1));
            let Ok(mut stream) = client.watch(key, Some(options)).await else {
                tokio::time::sleep(RETRY_DELAY).await;
                return;
            };
            while let Ok(Some(reply)) = stream.message().await {
                if reply.canceled() || reply.events().iter().any(|e| e.event_type() == EventType::Delete) {
                    return;
                }
            }
        };
        let _ = timeout(wait, removal).await;
    }

    async fn remove_lock(&self, key: &str, token: &str) -> Result<(), CoordinatorError> {
        let mut client = self.client()?;
        let txn = Txn::new()
            .when([Compare::value(key, CompareOp::Equal, token)])
            .and_then([TxnOp::delete(key, None::<DeleteOptions>)]);
        call(client.txn(txn)).await.map(|_| ())
    }
}

/// A lock key that this process created, or may have created: removed in the background when dropped.
struct Leftover {
    inner: Arc<Inner>,
    key: String,
    token: String,
    lease: i64,
    armed: bool,
    turn: Option<Turn>,
    runtime: tokio::runtime::Handle,
}

impl Leftover {
    fn new(inner: &Arc<Inner>, key: &str, token: &str, lease: i64) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let (key, token) = (key.to_owned(), token.to_owned());
        Self { inner: inner.clone(), key, token, lease, armed: true, turn: None, runtime }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (inner, key, token, lease) =
            (self.inner.clone(), self.key.clone(), self.token.clone(), self.lease);
        // Local callers wait for the first attempt only: what it leaves is found by its lease.
        let mut turn = self.turn.take();
        let stop = inner.stop.clone();
        self.runtime.spawn(stop.run_until_cancelled_owned(async move {
            // While the lease lives, nobody else removes the key.
            while inner.live_session().is_some_and(|session| session.lease == lease) {
                if inner.remove_lock(&key, &token).await.is_ok() {
                    return;
                }
                turn = None;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            drop(turn);
        }));
    }
}

#[async_trait]
impl Coordinator for EtcdCoordinator {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError> {
        let (found, revision) = self.inner.read(key, None).await?;
        Ok(found.kvs().first().map(|kv| self.inner.entry(kv, generation_of(revision))))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        self.inner.list(prefix).await
    }

    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError> {
        self.inner.transaction(&writes).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let (inner, prefix, stop) = (self.inner.clone(), prefix.to_owned(), self.inner.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move { inner.feed(prefix, sender).await }));
        receiver
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        self.inner.lock(name, wait).await
    }

    fn session_alive(&self) -> bool {
        self.inner.live_session().is_some()
    }

    fn vouch(&self, generation: u32) {
        self.inner.founded.vouch(generation);
    }

    async fn close(&self) {
        self.inner.stop.cancel();
        let session = self.inner.session.send_replace(None);
        if let (Some(session), Ok(mut client)) = (session, self.inner.client())
            && let Err(error) = call(client.lease_revoke(session.lease)).await
        {
            tracing::debug!(%error, "etcd session was not given back; it ends by itself");
        }
    }
}
