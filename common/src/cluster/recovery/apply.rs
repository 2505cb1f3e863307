//! Writing a recovered state into an empty coordinator.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::plan::Recovery;
use crate::cluster::record::{ClusterRecord, LIVE_PREFIX};
use crate::coordination::{
    CLUSTER_KEY, Change, Coordinator, CoordinatorError, Entry, Expected, Revision, Write,
};
use crate::types::ClusterId;

/// Tells that a recovery is under way, or was.
const MARKER_KEY: &str = "recovery";
/// What comes and goes with the sessions of processes.
const LEASED: [&str; 4] = [LIVE_PREFIX, "locks/", "quota-holders/", "lifecycle-gateways/"];
/// Etcd takes 128 operations and 1.5 MiB in a transaction.
const WRITES_AT_ONCE: usize = 100;
const BYTES_AT_ONCE: usize = 1 << 19;

/// The state was not written, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// There is a cluster.
    #[error(
        "etcd knows cluster {id} here already, in generation {generation}: it has lost nothing, and nothing was changed. If that is \
         a state put back from a backup, older than the drives' copies, remove it first: `etcdctl del --prefix {prefix}`"
    )]
    ClusterExists {
        /// Its id.
        id: ClusterId,
        /// Its generation.
        generation: u32,
        /// Where.
        prefix: String,
    },
    /// There is something else.
    #[error(
        "etcd is not empty here: it has `{example}` and {more} more keys, and nothing was changed. Check `--etcd` and \
         `--cluster-name`, and stop nodes that wait for a first layout; if these keys are of no use, `etcdctl del --prefix {prefix}`"
    )]
    NotEmpty {
        /// One of the keys.
        example: String,
        /// How many others.
        more: usize,
        /// Where.
        prefix: String,
    },
    /// Somebody else recovers at the same time.
    #[error(
        "another `coffer recover` writes at this moment, or etcd was changed by others; let one of them end, then look with \
         `coffer status`"
    )]
    Interrupted,
    /// The coordinator did not do it.
    #[error("etcd did not take it all: {0}; what was written is not taken for a cluster: run it again")]
    Coordinator(CoordinatorError),
}

impl From<CoordinatorError> for ApplyError {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Conflict { .. } => Self::Interrupted,
            other => Self::Coordinator(other),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    cluster: ClusterId,
    generation: u32,
    /// Tells one recovery from another.
    attempt: String,
}

/// What an interrupted recovery of the same cluster has left.
#[derive(Debug, Default)]
struct Remains {
    marker: Option<Revision>,
    keys: Vec<String>,
}

impl Recovery {
    /// Refuses a coordinator that holds anything but the remains of an interrupted recovery. `prefix` is for messages.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn check_empty(&self, coordinator: &dyn Coordinator, prefix: &str) -> Result<(), ApplyError> {
        self.remains(coordinator, prefix).await.map(drop)
    }

    /// Writes the state.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply(&self, coordinator: &dyn Coordinator, prefix: &str) -> Result<(), ApplyError> {
        let remains = self.remains(coordinator, prefix).await?;
        let marker = Marker {
            cluster: self.record.id,
            generation: self.record.generation,
            attempt: format!("{:016x}", crate::random::random::<u64>()),
        };
        let expected = remains.marker.map_or(Expected::Absent, Expected::Revision);
        let revision = coordinator.put(MARKER_KEY, encode(&marker), expected, false).await?;
        let held = check(MARKER_KEY, Expected::Revision(revision), Change::Check);
        let old = remains.keys.into_iter().filter(|key| !self.entries.contains_key(key));
        let old: Vec<Write> = old.map(|key| check(&key, Expected::Any, Change::Delete)).collect();
        for writes in old.chunks(WRITES_AT_ONCE) {
            coordinator.transaction([std::slice::from_ref(&held), writes].concat()).await?;
        }
        for writes in batches(&self.entries) {
            coordinator.transaction([vec![held.clone()], writes].concat()).await?;
        }
        let record = check(CLUSTER_KEY, Expected::Absent, put(encode(&self.record)));
        let done = check(MARKER_KEY, Expected::Revision(revision), Change::Delete);
        coordinator.transaction(vec![done, record]).await?;
        Ok(())
    }

    async fn remains(&self, coordinator: &dyn Coordinator, prefix: &str) -> Result<Remains, ApplyError> {
        let entries = coordinator.list("").await?.entries;
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        if let Some(record) = entries.iter().find(|entry| entry.key == CLUSTER_KEY) {
            let record = serde_json::from_slice::<ClusterRecord>(&record.value).ok();
            let id = record.as_ref().map_or(ClusterId(0), |record| record.id);
            let generation = record.map_or(0, |record| record.generation);
            return Err(ApplyError::ClusterExists { id, generation, prefix });
        }
        let leased = |key: &str| LEASED.iter().any(|leased| key.starts_with(leased));
        let (markers, others): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .filter(|entry| !leased(&entry.key))
            .partition(|entry| entry.key == MARKER_KEY);
        let of_ours = |entry: &Entry| {
            serde_json::from_slice::<Marker>(&entry.value)
                .is_ok_and(|marker| marker.cluster == self.record.id)
        };
        match (markers.into_iter().find(of_ours), others.first()) {
            (Some(marker), _) => Ok(Remains {
                marker: Some(marker.revision),
                keys: others.into_iter().map(|entry| entry.key).collect(),
            }),
            (None, None) => Ok(Remains::default()),
            (None, Some(first)) => {
                Err(ApplyError::NotEmpty { example: first.key.clone(), more: others.len() - 1, prefix })
            }
        }
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data is always JSON").into()
}

fn put(value: Bytes) -> Change {
    Change::Put { value, leased: false }
}

fn check(key: &str, expected: Expected, change: Change) -> Write {
    Write { key: key.to_owned(), expected, change }
}

/// The entries in pieces that fit into a transaction.
fn batches(entries: &BTreeMap<String, Bytes>) -> Vec<Vec<Write>> {
    let (mut batches, mut bytes): (Vec<Vec<Write>>, usize) = (vec![Vec::new()], 0);
    for (key, value) in entries {
        let len = key.len() + value.len();
        let batch = batches.last().expect("there is one from the start");
        if batch.len() == WRITES_AT_ONCE || !batch.is_empty() && bytes + len > BYTES_AT_ONCE {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        let batch = batches.last_mut().expect("there is one from the start");
        batch.push(check(key, Expected::Any, put(value.clone())));
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}
