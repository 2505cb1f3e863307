//! A process's view of the simulated etcd, by the rules of the real client in `etcd`: a session that counts as alive no
//! longer than etcd keeps it, locks whose leftovers are removed, watches that start over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::server::{Lease, LockAnswer, Server};
use super::{Door, SimulatedEtcd};
use crate::coordination::guard::{NameLocks, Turn};
use crate::coordination::{
    Change, Coordinator, CoordinatorError, Entry, Listing, LockGuard, RELIST, Revision, WatchEvent, Write,
};
use crate::limits::SESSION_TTL;

/// A call that is not answered by then is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How often a lock that is held is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);
const WATCH_QUEUE: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Session {
    lease: Lease,
    until: Instant,
}

/// How badly watches work.
#[derive(Clone, Copy, Debug, Default)]
struct WatchFaults {
    lag: Duration,
    deaf: bool,
}

struct Inner {
    etcd: Arc<SimulatedEtcd>,
    doors: Vec<Arc<Door>>,
    session: Mutex<Option<Session>>,
    /// Leased keys, written again after a lost session.
    leased: Mutex<BTreeMap<String, Bytes>>,
    watching: Mutex<WatchFaults>,
    locks: NameLocks,
    stop: CancellationToken,
}

/// See the module.
pub struct SimulatedCoordinator {
    inner: Arc<Inner>,
}

impl SimulatedCoordinator {
    pub(super) async fn start(etcd: Arc<SimulatedEtcd>, doors: Vec<Arc<Door>>) -> Arc<Self> {
        let inner = Arc::new(Inner {
            etcd,
            doors,
            session: Mutex::default(),
            leased: Mutex::default(),
            watching: Mutex::default(),
            locks: NameLocks::default(),
            stop: CancellationToken::new(),
        });
        let supervised = Arc::clone(&inner);
        let stop = inner.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move { supervised.keep_session().await }));
        while inner.live_session().is_none() {
            tokio::time::sleep(LOCK_RETRY).await;
        }
        Arc::new(Self { inner })
    }

    /// Etcd forgets the session now; the process learns it with its next keep-alive.
    pub fn lose_lease(&self) {
        if let Some(session) = *self.inner.session.lock() {
            self.inner.etcd.server.lock().revoke(session.lease);
            self.inner.etcd.changed.notify_waiters();
        }
    }

    /// From now on watch events arrive so late, or not at all until a watch lists again.
    pub fn disturb_watches(&self, lag: Duration, deaf: bool) {
        *self.inner.watching.lock() = WatchFaults { lag, deaf };
    }

    /// The process is gone: nothing runs for it any more.
    pub fn kill(&self) {
        self.inner.stop.cancel();
        *self.inner.session.lock() = None;
    }
}

impl Drop for SimulatedCoordinator {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

impl Inner {
    fn live_session(&self) -> Option<Session> {
        self.session.lock().filter(|session| Instant::now() < session.until)
    }

    /// Sends a request; it is applied when it arrives, whether or not this waits.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        apply: impl FnOnce(&mut Server) -> T + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        let (sender, reply) = oneshot::channel();
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let etcd = &inner.etcd;
            etcd.travel().await;
            if !Door::pass_all(&inner.doors).await || !etcd.door.pass().await {
                return;
            }
            let answer = apply(&mut etcd.server.lock());
            etcd.changed.notify_waiters();
            etcd.travel().await;
            if etcd.door.pass().await && Door::pass_all(&inner.doors).await {
                let _ = sender.send(answer);
            }
        });
        let began = Instant::now();
        match timeout(CALL_TIMEOUT, reply).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                tokio::time::sleep_until(began + CALL_TIMEOUT).await;
                Err(CoordinatorError::Timeout(CALL_TIMEOUT))
            }
            Err(_) => Err(CoordinatorError::Timeout(CALL_TIMEOUT)),
        }
    }

    async fn keep_session(self: &Arc<Self>) {
        loop {
            let asked = Instant::now();
            if let Ok(lease) = self.call(Server::grant).await {
                let mut session = Session { lease, until: asked + SESSION_TTL };
                let mut restored = self.restore_leased(lease).await;
                while Instant::now() < session.until {
                    *self.session.lock() = Some(session);
                    tokio::time::sleep(SESSION_TTL / 3).await;
                    restored = restored || self.restore_leased(lease).await;
                    let asked = Instant::now();
                    match self.call(move |server| server.keep_alive(lease)).await {
                        Ok(true) => session.until = asked + SESSION_TTL,
                        Ok(false) => break,
                        Err(_) => {}
                    }
                }
                *self.session.lock() = None;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn restore_leased(self: &Arc<Self>, lease: Lease) -> bool {
        let table = self.leased.lock().clone();
        for (key, value) in table {
            let change = Change::Put { value, leased: true };
            let write = Write { key, expected: crate::coordination::Expected::Any, change };
            if !matches!(self.call(move |server| server.write(vec![write], lease)).await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }

    async fn feed(self: Arc<Self>, prefix: String, sender: mpsc::Sender<WatchEvent>) {
        while !sender.is_closed() {
            let below = prefix.clone();
            let Ok((listing, mut cursor)) = self.call(move |server| server.list(&below)).await else {
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            };
            if sender.send(WatchEvent::Reset(listing)).await.is_err() {
                return;
            }
            let relist = Instant::now() + RELIST;
            loop {
                let changed = self.etcd.changed.notified();
                let Some(events) = self.etcd.server.lock().since(&prefix, &mut cursor) else { break };
                let faults = *self.watching.lock();
                if !events.is_empty() && !faults.deaf {
                    self.etcd.travel().await;
                    tokio::time::sleep(faults.lag).await;
                    if !self.etcd.door.pass().await || !Door::pass_all(&self.doors).await {
                        break;
                    }
                    for event in events {
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                let quiet = tokio::time::timeout_at(relist, changed);
                let over = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    waited = quiet => waited.is_err(),
                };
                if over {
                    break;
                }
            }
        }
    }

    async fn lock(self: &Arc<Self>, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        let session = || self.live_session().ok_or(CoordinatorError::SessionLost);
        session()?;
        let deadline = Instant::now() + wait;
        let locked = || CoordinatorError::Locked { name: name.to_owned() };
        let turn = self.locks.take(name, wait).await.ok_or_else(locked)?;
        let key = format!("locks/{name}");
        let token: Bytes = crate::random::random::<u64>().to_be_bytes().to_vec().into();
        loop {
            let lease = session()?.lease;
            let (name, attempt) = (key.clone(), token.clone());
            let mut leftover = Leftover::new(self, &key, &token, lease);
            match self.call(move |server| server.try_lock(&name, attempt, lease)).await?? {
                LockAnswer::Taken(fence) => {
                    leftover.turn = Some(turn);
                    let inner = Arc::clone(self);
                    let held = move || inner.live_session().is_some_and(|live| live.lease == lease);
                    return Ok(LockGuard::new(fence, held, move || drop(leftover)));
                }
                LockAnswer::Held { lease: holder, token } => {
                    leftover.armed = false;
                    if holder == lease {
                        // Of an attempt whose answer never came: nobody here holds it.
                        let key = key.clone();
                        self.call(move |server| server.unlock(&key, &token)).await?;
                    } else if Instant::now() >= deadline {
                        return Err(locked());
                    } else {
                        tokio::time::sleep(LOCK_RETRY).await;
                    }
                }
            }
        }
    }
}

/// A lock's key that this process created, or may have created: removed in the background when dropped.
struct Leftover {
    inner: Arc<Inner>,
    key: String,
    token: Bytes,
    lease: Lease,
    armed: bool,
    turn: Option<Turn>,
}

impl Leftover {
    fn new(inner: &Arc<Inner>, key: &str, token: &Bytes, lease: Lease) -> Self {
        let inner = Arc::clone(inner);
        Self { inner, key: key.to_owned(), token: token.clone(), lease, armed: true, turn: None }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (inner, key, token, lease) =
            (Arc::clone(&self.inner), self.key.clone(), self.token.clone(), self.lease);
        let mut turn = self.turn.take();
        let stop = inner.stop.clone();
        // The runtime may be on its way out already.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(stop.run_until_cancelled_owned(async move {
            while inner.live_session().is_some_and(|session| session.lease == lease) {
                let (key, token) = (key.clone(), token.clone());
                if inner.call(move |server| server.unlock(&key, &token)).await.is_ok() {
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
impl Coordinator for SimulatedCoordinator {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError> {
        let key = key.to_owned();
        self.inner.call(move |server| server.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        let prefix = prefix.to_owned();
        self.inner.call(move |server| server.list(&prefix).0).await
    }

    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError> {
        for write in &writes {
            if let Change::Put { value, leased: true } = &write.change {
                self.inner.leased.lock().insert(write.key.clone(), value.clone());
            }
        }
        let lease = self.inner.live_session().map_or(0, |session| session.lease);
        self.inner.call(move |server| server.write(writes, lease)).await?
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let feed = Arc::clone(&self.inner).feed(prefix.to_owned(), sender);
        tokio::spawn(self.inner.stop.clone().run_until_cancelled_owned(feed));
        receiver
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        self.inner.lock(name, wait).await
    }

    fn session_alive(&self) -> bool {
        self.inner.live_session().is_some()
    }

    async fn close(&self) {
        let session = self.inner.session.lock().take();
        self.inner.stop.cancel();
        if let Some(session) = session {
            // It ends by itself if this is not answered.
            let _ = self.inner.call(move |server| server.revoke(session.lease)).await;
        }
    }
}
