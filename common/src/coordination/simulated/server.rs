//! Keys, revisions, leases and the history that watches follow. No doors, no delays.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::state::State;
use super::super::{
    CLUSTER_KEY, Change, CoordinatorError, Entry, Expected, Listing, Revision, WatchEvent, Write,
    record_generation,
};
use crate::limits::SESSION_TTL;
use crate::types::Fence;

/// Names a session.
pub(super) type Lease = u64;

/// See the module.
#[derive(Clone)]
pub(super) struct Server {
    state: State,
    leases: BTreeMap<Lease, Instant>,
    /// The lease of each leased key.
    bound: BTreeMap<String, Lease>,
    next_lease: Lease,
    /// What was told, in order.
    history: Vec<WatchEvent>,
    /// Counts restores: a watch of an earlier life starts over.
    life: u32,
}

/// Where a watch is in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    life: u32,
    at: usize,
}

/// What an attempt at a lock found.
pub(super) enum LockAnswer {
    /// It is the caller's.
    Taken(Fence),
    /// Another session's, or an earlier attempt of the same one with this token.
    Held { lease: Lease, token: Bytes },
}

impl Default for Server {
    fn default() -> Self {
        Self {
            state: State::new(1),
            leases: BTreeMap::new(),
            bound: BTreeMap::new(),
            next_lease: 1,
            history: Vec::new(),
            life: 0,
        }
    }
}

impl Server {
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.state.get(key)
    }

    /// A listing, and where its watch begins.
    pub(super) fn list(&self, prefix: &str) -> (Listing, Cursor) {
        (self.state.list(prefix), Cursor { life: self.life, at: self.history.len() })
    }

    /// What was told below the prefix since then; `None` if the watch must start over.
    pub(super) fn since(&self, prefix: &str, cursor: &mut Cursor) -> Option<Vec<WatchEvent>> {
        if cursor.life != self.life {
            return None;
        }
        let new = &self.history[cursor.at..];
        cursor.at = self.history.len();
        Some(new.iter().filter(|event| key_of(event).starts_with(prefix)).cloned().collect())
    }

    /// Checks and applies. Leased keys are bound to the lease.
    pub(super) fn write(&mut self, writes: Vec<Write>, lease: Lease) -> Result<Revision, CoordinatorError> {
        let leased = |write: &Write| matches!(write.change, Change::Put { leased: true, .. });
        if writes.iter().any(leased) && !self.leases.contains_key(&lease) {
            return Err(CoordinatorError::SessionLost);
        }
        self.state.check(&writes)?;
        for write in &writes {
            match (&write.change, leased(write)) {
                (Change::Check, _) => {}
                (_, true) => drop(self.bound.insert(write.key.clone(), lease)),
                (_, false) => drop(self.bound.remove(&write.key)),
            }
        }
        let (revision, events) = self.state.commit(writes);
        self.history.extend(events);
        Ok(revision)
    }

    pub(super) fn grant(&mut self) -> Lease {
        let lease = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(lease, Instant::now() + SESSION_TTL);
        lease
    }

    /// Renews a lease; false if it is gone.
    pub(super) fn keep_alive(&mut self, lease: Lease) -> bool {
        self.leases.get_mut(&lease).map(|until| *until = Instant::now() + SESSION_TTL).is_some()
    }

    pub(super) fn renew_all(&mut self) {
        self.leases.values_mut().for_each(|until| *until = Instant::now() + SESSION_TTL);
    }

    /// Ends a lease and removes its keys.
    pub(super) fn revoke(&mut self, lease: Lease) {
        self.leases.remove(&lease);
        let keys: Vec<String> =
            self.bound.iter().filter(|(_, bound)| **bound == lease).map(|(key, _)| key.clone()).collect();
        let delete = |key| Write { key, expected: Expected::Any, change: Change::Delete };
        if !keys.is_empty() {
            self.write(keys.into_iter().map(delete).collect(), lease).expect("a delete of any state holds");
        }
    }

    /// Ends the leases that ran out; tells whether there were any.
    pub(super) fn end_leases(&mut self) -> bool {
        let now = Instant::now();
        let over: Vec<Lease> =
            self.leases.iter().filter(|(_, until)| **until <= now).map(|(lease, _)| *lease).collect();
        over.iter().for_each(|lease| self.revoke(*lease));
        !over.is_empty()
    }

    /// Creates the lock's key unless it is there.
    pub(super) fn try_lock(
        &mut self,
        key: &str,
        token: Bytes,
        lease: Lease,
    ) -> Result<LockAnswer, CoordinatorError> {
        if let Some(held) = self.state.get(key) {
            let lease = self.bound.get(key).copied().unwrap_or_default();
            return Ok(LockAnswer::Held { lease, token: held.value });
        }
        let change = Change::Put { value: token, leased: true };
        let revision =
            self.write(vec![Write { key: key.to_owned(), expected: Expected::Absent, change }], lease)?;
        Ok(LockAnswer::Taken(Fence { generation: self.generation(), revision }))
    }

    /// Removes a lock's key if it has this token.
    pub(super) fn unlock(&mut self, key: &str, token: &Bytes) {
        if let Some(held) = self.state.get(key).filter(|held| held.value == *token) {
            let expected = Expected::Revision(held.revision);
            let write = Write { key: key.to_owned(), expected, change: Change::Delete };
            self.write(vec![write], 0).expect("what was just read is deleted");
        }
    }

    /// The generation in the cluster record.
    pub(super) fn generation(&self) -> u32 {
        self.state.get(CLUSTER_KEY).and_then(|entry| record_generation(&entry.value)).unwrap_or(1)
    }

    /// After a restore: a new life, under a generation that nobody has seen.
    pub(super) fn begin_anew(&mut self, generation: u32) {
        self.life += generation;
        self.renew_all();
        let Some(entry) = self.state.get(CLUSTER_KEY) else { return };
        let mut record: serde_json::Value =
            serde_json::from_slice(&entry.value).expect("the cluster record is JSON");
        record["generation"] = generation.into();
        self.put(CLUSTER_KEY, record.to_string().into());
    }

    /// Writes a value, whatever there is.
    pub(super) fn put(&mut self, key: &str, value: Bytes) {
        let change = Change::Put { value, leased: false };
        let write = Write { key: key.to_owned(), expected: Expected::Any, change };
        self.write(vec![write], 0).expect("a write over any state holds");
    }
}

fn key_of(event: &WatchEvent) -> &str {
    match event {
        WatchEvent::Put(entry) => &entry.key,
        WatchEvent::Delete { key, .. } => key,
        WatchEvent::Reset(_) => "",
    }
}
