//! The embedded coordinator's state machine: pure, no I/O, no clock, no `async`.
//!
//! 1. [`State::apply`] checks all expectations, then applies all writes under one new revision.
//! 2. [`State::encode`] makes the image that drives store; leased keys are left out, since they end with the process.
//! 3. [`State::restore`] continues above every revision that an earlier process may have used: the image carries
//!    `reserved`, a bound that was durable before any revision up to it was handed out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Change, CoordinatorError, Entry, Expected, Listing, Revision, WatchEvent, Write};

/// The image cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("stored coordinator state is not readable: {0}")]
pub(super) struct RestoreError(String);

/// Revisions handed out between two writes of the bound.
const RESERVE: u64 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    value: Bytes,
    revision: Revision,
    create_revision: Revision,
    leased: bool,
}

/// All keys and the last revision handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    generation: u32,
    revision: Revision,
    reserved: Revision,
    keys: BTreeMap<String, Value>,
}

/// What is stored: JSON, so that it can be read with common tools when everything else is lost.
#[derive(Serialize, Deserialize)]
struct Image {
    format: u32,
    generation: u32,
    reserved: Revision,
    keys: Vec<ImageKey>,
}

#[derive(Serialize, Deserialize)]
struct ImageKey {
    key: String,
    /// Hexadecimal.
    value: String,
    revision: Revision,
    create_revision: Revision,
}

impl State {
    pub(super) fn new(generation: u32) -> Self {
        Self { generation, ..Self::default() }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the durable bound is reached: nothing more may be handed out before a new image is durable.
    pub(super) fn exhausted(&self) -> bool {
        self.revision >= self.reserved
    }

    /// Takes a revision that needs no image. Call only if not [`Self::exhausted`].
    pub(super) fn take_revision(&mut self) -> Revision {
        assert!(!self.exhausted(), "a revision is handed out only below the durable bound");
        self.revision += 1;
        self.revision
    }

    /// Spends a revision on an image with the writes applied. Nothing of it may be shown before it is durable; then
    /// [`Self::confirm`] makes its bound this state's.
    pub(super) fn plan(&mut self, writes: Vec<Write>, generation: Option<u32>) -> (Self, Revision) {
        self.revision += 1;
        let mut next = self.clone();
        next.reserved = next.reserved.max(next.revision + RESERVE);
        next.generation = next.generation.max(generation.unwrap_or(0));
        next.apply(writes, self.revision);
        (next, self.revision)
    }

    /// Takes over what became durable with a planned image, except for the keys.
    pub(super) fn confirm(&mut self, durable: &Self) {
        self.generation = durable.generation;
        self.reserved = durable.reserved;
    }

    /// Applies checked writes at once, for a state that nobody has to make durable.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn commit(&mut self, writes: Vec<Write>) -> (Revision, Vec<WatchEvent>) {
        self.revision += 1;
        (self.revision, self.apply(writes, self.revision))
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.keys.get(key).map(|value| value.entry(key))
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let below = self.keys.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let entries = below.map(|(key, value)| value.entry(key)).collect();
        Listing { entries, revision: self.revision }
    }

    /// Checks every write's expectation.
    pub(super) fn check(&self, writes: &[Write]) -> Result<(), CoordinatorError> {
        for write in writes {
            let present = self.keys.get(&write.key).map(|value| value.revision);
            let holds = match write.expected {
                Expected::Any => true,
                Expected::Absent => present.is_none(),
                Expected::Revision(revision) => present == Some(revision),
            };
            if !holds {
                return Err(CoordinatorError::Conflict { key: write.key.clone() });
            }
        }
        Ok(())
    }

    /// Applies checked writes under `revision` (taken before) and tells what a watcher sees.
    pub(super) fn apply(&mut self, writes: Vec<Write>, revision: Revision) -> Vec<WatchEvent> {
        let mut events = Vec::with_capacity(writes.len());
        for write in writes {
            match write.change {
                Change::Check => {}
                Change::Delete => {
                    if self.keys.remove(&write.key).is_some() {
                        events.push(WatchEvent::Delete { key: write.key, revision });
                    }
                }
                Change::Put { value, leased } => {
                    let create_revision =
                        self.keys.get(&write.key).map_or(revision, |present| present.create_revision);
                    let value = Value { value, revision, create_revision, leased };
                    events.push(WatchEvent::Put(value.entry(&write.key)));
                    self.keys.insert(write.key, value);
                }
            }
        }
        events
    }

    /// The keys that end with the session.
    pub(super) fn leased_keys(&self) -> Vec<String> {
        self.keys.iter().filter(|(_, value)| value.leased).map(|(key, _)| key.clone()).collect()
    }

    /// Whether the writes change what drives store.
    pub(super) fn durable(&self, writes: &[Write]) -> bool {
        writes.iter().any(|write| match &write.change {
            Change::Check => false,
            Change::Put { leased, .. } => !leased || self.keys.get(&write.key).is_some_and(|old| !old.leased),
            Change::Delete => self.keys.get(&write.key).is_some_and(|old| !old.leased),
        })
    }

    pub(super) fn encode(&self) -> Bytes {
        let stored = self.keys.iter().filter(|(_, value)| !value.leased);
        let keys = stored
            .map(|(key, value)| ImageKey {
                key: key.clone(),
                value: hex::encode(&value.value),
                revision: value.revision,
                create_revision: value.create_revision,
            })
            .collect();
        let image = Image { format: 1, generation: self.generation, reserved: self.reserved, keys };
        serde_json::to_vec(&image).expect("plain data is always JSON").into()
    }

    /// Continues from an image. `skip` is random: an image of an earlier process that reached few drives may carry a
    /// revision beyond the bound that is known here, and no two images may have the same.
    pub(super) fn restore(data: &[u8], skip: u32) -> Result<Self, RestoreError> {
        let image: Image = serde_json::from_slice(data).map_err(|error| RestoreError(error.to_string()))?;
        if image.format != 1 {
            return Err(RestoreError(format!("format {} is newer than this version", image.format)));
        }
        let mut keys = BTreeMap::new();
        for key in image.keys {
            let value = hex::decode(&key.value).map_err(|error| RestoreError(error.to_string()))?;
            let (revision, create_revision) = (key.revision, key.create_revision);
            let value = Value { value: value.into(), revision, create_revision, leased: false };
            keys.insert(key.key, value);
        }
        let revision = image.reserved + RESERVE + u64::from(skip);
        Ok(Self { generation: image.generation, revision, reserved: image.reserved, keys })
    }
}

impl Value {
    fn entry(&self, key: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: self.value.clone(),
            revision: self.revision,
            create_revision: self.create_revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, leased: bool) -> Write {
        let change = Change::Put { value: Bytes::from_static(b"v"), leased };
        Write { key: key.to_owned(), expected: Expected::Any, change }
    }

    #[test]
    fn restored_state_has_the_durable_keys_and_only_higher_revisions() {
        let mut state = State::new(1);
        let (mut next, revision) = state.plan(vec![put("a", false), put("b", true)], Some(3));
        assert_eq!(revision, 1);
        assert!(state.exhausted(), "nothing is handed out before the image is durable");
        assert!(!next.exhausted());
        let used = next.take_revision();
        let restored = State::restore(&next.encode(), 0).unwrap();
        assert_eq!(restored.list("").entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(restored.generation(), 3);
        assert!(restored.exhausted());
        assert!(restored.revision > used + RESERVE);
    }

    #[test]
    fn image_of_a_newer_format_is_refused() {
        let data = br#"{"format":2,"generation":1,"reserved":1,"keys":[]}"#;
        assert!(State::restore(data, 0).is_err());
    }
}
