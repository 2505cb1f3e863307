//! Cluster state that must be agreed on: membership, layout, bucket records, users, locks.
//!
//! Owns the [`Coordinator`] trait, its two implementations ([`EtcdCoordinator`] and [`LocalCoordinator`]) and the
//! suite that both pass. Never on the path of a plain GET, PUT, DELETE or LIST: those go on while every method here
//! answers [`CoordinatorError::Unavailable`].
//!
//! 1. Keys are text, relative to the cluster's prefix; values are opaque bytes.
//! 2. Every change has a revision that rises and is never used twice, in all generations of the cluster.
//! 3. A change may be conditional ([`Expected`]); several changes are one [`Coordinator::transaction`].
//! 4. A leased key lives as long as this process's session; after a lost session it is written again.
//! 5. A watch begins with [`WatchEvent::Reset`] and repeats it after every gap and every 30 s, so that a receiver
//!    that only ever applies what arrives is right in the end.
//! 6. A lock's create revision, under the cluster generation, is its fence. The lock only saves duels: safety comes
//!    from slots that refuse lower fences.

mod error;
mod etcd;
mod guard;
mod kept;
mod local;
mod options;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
mod state;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod etcd_tests;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use error::CoordinatorError;
pub use etcd::EtcdCoordinator;
pub use guard::LockGuard;
pub use kept::{Kept, KeptLock};
pub use local::{LocalCoordinator, SnapshotStore};
pub use options::{EtcdOptions, EtcdTls};

/// The number of a change; rises and never repeats, in all generations of the cluster.
pub type Revision = u64;

/// Bits that etcd's own revision takes: 2^48 changes, which are 300 years at 30,000 a second. Above them is the generation.
const REVISION_BITS: u32 = 48;

/// The cluster generation that a revision belongs to.
pub fn generation_of(revision: Revision) -> u32 {
    (revision >> REVISION_BITS) as u32 + 1
}

/// The key of the cluster record (see `cluster::ClusterRecord`): its generation is part of every fence.
pub const CLUSTER_KEY: &str = "cluster";

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, relative to the cluster prefix.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The change that wrote this value.
    pub revision: Revision,
    /// The change that created the key (its life since it was last absent).
    pub create_revision: Revision,
}

/// All keys below a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The coordinator's revision at which they were read.
    pub revision: Revision,
}

/// A watch is repeated from a full listing this often, whatever the stream says.
const RELIST: Duration = Duration::from_secs(30);

/// The generation in a cluster record; `None` if it is no such record.
fn record_generation(record: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Generation {
        generation: u32,
    }
    serde_json::from_slice::<Generation>(record).ok().map(|record| record.generation)
}

/// What a change demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key was last written by this revision.
    Revision(Revision),
}

/// What a change does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes the value. Leased: the key goes with the process's session.
    Put {
        /// The value.
        value: Bytes,
        /// Whether the key is bound to the session.
        leased: bool,
    },
    /// Removes the key (no error if it is absent and that was allowed by `expected`).
    Delete,
    /// Changes nothing: the key is only checked.
    Check,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The condition.
    pub expected: Expected,
    /// The change.
    pub change: Change,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The complete state below the prefix: replaces everything known before.
    Reset(Listing),
    /// A key was written.
    Put(Entry),
    /// A key was removed, or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The change that removed it.
        revision: Revision,
    },
}

/// The agreed state of one cluster.
///
/// A dropped future, [`CoordinatorError::Unavailable`] and [`CoordinatorError::Timeout`] leave the outcome of a change
/// unknown: read again before deciding anything.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// Reads one key (linearizable).
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError>;

    /// Reads all keys that begin with `prefix` (linearizable), in key order.
    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError>;

    /// Applies all writes if every one's expectation holds, else [`CoordinatorError::Conflict`] and none.
    /// Each key at most once.
    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError>;

    /// Begins to watch a prefix; dropping the receiver ends it. Events arrive in revision order.
    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent>;

    /// Takes the lock `name`, waiting for at most `wait`; [`CoordinatorError::Locked`] if another holds it for longer.
    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError>;

    /// Whether this process's session is alive: its leased keys and locks are held.
    fn session_alive(&self) -> bool;

    /// Tells that the cluster exists, in this generation or a later one: a coordinator that does not know it has lost its data,
    /// and what it does not know may well be there.
    fn vouch(&self, _generation: u32) {}

    /// Ends the session: leased keys and locks are given back at once. For a graceful stop.
    async fn close(&self);

    /// Writes one key.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        leased: bool,
    ) -> Result<Revision, CoordinatorError> {
        self.transaction(vec![Write { key: key.to_owned(), expected, change: Change::Put { value, leased } }])
            .await
    }

    /// Removes one key.
    async fn delete(&self, key: &str, expected: Expected) -> Result<Revision, CoordinatorError> {
        self.transaction(vec![Write { key: key.to_owned(), expected, change: Change::Delete }]).await
    }
}
