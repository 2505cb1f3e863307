//! An etcd in memory for simulations of whole clusters: one strictly serializable state, a [`Coordinator`] handle per
//! process, and everything that goes wrong with etcd.
//!
//! Owns: keys, revisions, leases and watches ([`SimulatedEtcd`]), and what a process makes of them: a session that is
//! kept alive and renewed, locks, watches that start over ([`SimulatedCoordinator`]), by the same rules as the real client.
//! Never decides when something goes wrong: the simulation does, by the [`Door`]s that requests and replies pass.
//!
//! 1. A request travels, passes the process's and etcd's doors, is applied, and its reply travels back. It arrives though
//!    its caller has given up: the outcome is unknown then.
//! 2. A held door of etcd is an etcd that pauses: requests wait, leases do not run out, and all leases are whole again
//!    afterwards, as after an election.
//! 3. A lease ends when it is not renewed for [`SESSION_TTL`], or early by [`SimulatedCoordinator::lose_lease`], which its
//!    holder learns with the next keep-alive.
//! 4. [`SimulatedEtcd::restore`] goes back to an earlier state and raises the generation before anybody is served
//!    (PROTOCOL §8).

mod handle;
mod server;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use handle::SimulatedCoordinator;

use self::server::Server;
use super::Entry;
use crate::node::Door;

/// How often leases that ran out are looked for.
const LEASE_TICK: Duration = Duration::from_millis(100);

/// The state that all processes share.
pub struct SimulatedEtcd {
    server: Mutex<Server>,
    /// Something was written, or the state was replaced.
    changed: Notify,
    /// Every request and reply passes it.
    door: Arc<Door>,
    /// How long a message takes.
    delay: Range<f64>,
}

/// A state to go back to.
pub struct EtcdSnapshot(Server);

impl SimulatedEtcd {
    /// An empty etcd. `delay` is how long a message takes.
    pub fn start(delay: Range<Duration>) -> Arc<Self> {
        let delay = delay.start.as_secs_f64()..delay.end.as_secs_f64();
        let (server, changed, door) = (Mutex::default(), Notify::new(), Arc::default());
        let etcd = Arc::new(Self { server, changed, door, delay });
        tokio::spawn(Self::end_leases(Arc::downgrade(&etcd)));
        etcd
    }

    /// A handle for a process behind its doors; it has a session when it is returned.
    pub async fn connect(self: &Arc<Self>, doors: Vec<Arc<Door>>) -> Arc<SimulatedCoordinator> {
        SimulatedCoordinator::start(Arc::clone(self), doors).await
    }

    /// What every request and reply passes.
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// The state now.
    pub fn snapshot(&self) -> EtcdSnapshot {
        EtcdSnapshot(self.server.lock().clone())
    }

    /// Goes back to an earlier state, with the generation raised above every one so far. `recovered` says what is known
    /// otherwise of an entry that there is now: it takes the place of the earlier one.
    pub fn restore(&self, snapshot: &EtcdSnapshot, recovered: impl Fn(&Entry) -> Option<Bytes>) {
        let mut server = self.server.lock();
        let generation = server.generation() + 1;
        let lost = server.list("").0.entries;
        *server = snapshot.0.clone();
        server.begin_anew(generation);
        for (key, value) in lost.iter().filter_map(|entry| Some((&entry.key, recovered(entry)?))) {
            server.put(key, value);
        }
        drop(server);
        self.changed.notify_waiters();
    }

    /// How long the next message takes.
    async fn travel(&self) {
        tokio::time::sleep(Duration::from_secs_f64(crate::random::between(self.delay.clone()))).await;
    }

    async fn end_leases(etcd: std::sync::Weak<Self>) {
        loop {
            tokio::time::sleep(LEASE_TICK).await;
            let Some(etcd) = etcd.upgrade() else { return };
            let running = etcd.door.stand() == crate::node::Stand::Open;
            let mut server = etcd.server.lock();
            if running && server.end_leases() {
                drop(server);
                etcd.changed.notify_waiters();
            } else if !running {
                server.renew_all();
            }
        }
    }
}
