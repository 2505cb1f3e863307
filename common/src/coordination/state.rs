//! The embedded coordinator's state machine: pure, no I/O, no clock, no `async`.
//!
//! 1. [`State::apply`] checks all expectations, then applies all writes under one new revision.
//! 2. [`State::image`] makes the image that drives store, [`State::change`] the change of one image to the next, which is
//!    as long as what was written; leased keys are left out, since they end with the process.
//! 3. [`State::restore`] continues above every revision that an earlier process may have used: image and changes carry
//!    `reserved`, a bound that was durable before any revision up to it was handed out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Change, CoordinatorError, Entry, Expected, Listing, Revision, WatchEvent, Write};

/// The image, or a change of it, cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("stored coordinator state is not readable: {0}")]
pub(super) struct RestoreError(String);

/// Revisions handed out between two writes of the bound.
const RESERVE: u64 = 10_000;
/// Of images and of changes.
const FORMAT: u32 = 1;

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

/// What the next image has besides its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) generation: u32,
    pub(super) revision: Revision,
    reserved: Revision,
}

/// What is stored: JSON, so that it can be read with common tools when everything else is lost.
#[derive(Serialize, Deserialize)]
struct Image {
    format: u32,
    generation: u32,
    reserved: Revision,
    keys: Vec<ImageKey>,
}

/// A change of an image, JSON too: first keys are removed, then others put in.
#[derive(Serialize, Deserialize)]
struct ImageChange {
    format: u32,
    generation: u32,
    reserved: Revision,
    removed: Vec<String>,
    put: Vec<ImageKey>,
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

    /// Spends a revision on the next image. Nothing of it may be shown before it is durable; then [`Self::confirm`] makes
    /// its bound this state's.
    pub(super) fn plan(&mut self, generation: Option<u32>) -> Plan {
        self.revision += 1;
        Plan {
            generation: self.generation.max(generation.unwrap_or(0)),
            revision: self.revision,
            reserved: self.reserved.max(self.revision + RESERVE),
        }
    }

    /// Takes over what became durable with a plan, except for the keys.
    pub(super) fn confirm(&mut self, durable: Plan) {
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
                    let value = self.value(&write.key, value, revision, leased);
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

    /// The planned image, with the writes applied.
    pub(super) fn image(mut self, writes: Vec<Write>, plan: Plan) -> Bytes {
        self.apply(writes, plan.revision);
        let stored = self.keys.iter().filter(|(_, value)| !value.leased);
        let keys = stored.map(|(key, value)| value.image(key)).collect();
        encode(&Image { format: FORMAT, generation: plan.generation, reserved: plan.reserved, keys })
    }

    /// What makes the image of this state the planned one.
    pub(super) fn change(&self, writes: &[Write], plan: Plan) -> Bytes {
        // The last write of a key is what it is after them all.
        let mut last = BTreeMap::new();
        for write in writes {
            match &write.change {
                Change::Check => {}
                Change::Put { value, leased: false } => {
                    let value = self.value(&write.key, value.clone(), plan.revision, false);
                    last.insert(&write.key, Some(value.image(&write.key)));
                }
                // A stored key that is leased from now on is stored no more.
                Change::Put { leased: true, .. } | Change::Delete => {
                    last.insert(&write.key, None);
                }
            }
        }
        let removed = last.iter().filter(|(_, put)| put.is_none()).map(|(key, _)| (*key).clone()).collect();
        let put = last.into_values().flatten().collect();
        let Plan { generation, reserved, .. } = plan;
        encode(&ImageChange { format: FORMAT, generation, reserved, removed, put })
    }

    /// Continues from an image and the changes of it. `skip` is random: an image of an earlier process that reached few
    /// drives may carry a revision beyond the bound that is known here, and no two images may have the same.
    pub(super) fn restore<'a>(
        image: &[u8],
        changes: impl IntoIterator<Item = &'a [u8]>,
        skip: u32,
    ) -> Result<Self, RestoreError> {
        let Image { format, generation, reserved, keys } = decode(image)?;
        check_format(format)?;
        let mut state = Self { generation, revision: 0, reserved, keys: BTreeMap::new() };
        state.put_stored(keys)?;
        for change in changes {
            let ImageChange { format, generation, reserved, removed, put } = decode(change)?;
            check_format(format)?;
            (state.generation, state.reserved) = (generation, reserved);
            for key in removed {
                state.keys.remove(&key);
            }
            state.put_stored(put)?;
        }
        state.revision = state.reserved + RESERVE + u64::from(skip);
        Ok(state)
    }

    fn put_stored(&mut self, keys: Vec<ImageKey>) -> Result<(), RestoreError> {
        for key in keys {
            let value = hex::decode(&key.value).map_err(|error| RestoreError(error.to_string()))?;
            let (revision, create_revision) = (key.revision, key.create_revision);
            let value = Value { value: value.into(), revision, create_revision, leased: false };
            self.keys.insert(key.key, value);
        }
        Ok(())
    }

    /// What a key is once this was put there.
    fn value(&self, key: &str, value: Bytes, revision: Revision, leased: bool) -> Value {
        let create_revision = self.keys.get(key).map_or(revision, |present| present.create_revision);
        Value { value, revision, create_revision, leased }
    }
}

fn encode(stored: &impl Serialize) -> Bytes {
    serde_json::to_vec(stored).expect("plain data is always JSON").into()
}

fn decode<T: for<'a> Deserialize<'a>>(data: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(data).map_err(|error| RestoreError(error.to_string()))
}

fn check_format(format: u32) -> Result<(), RestoreError> {
    if format == FORMAT {
        Ok(())
    } else {
        Err(RestoreError(format!("format {format} is newer than this version")))
    }
}

impl Value {
    fn image(&self, key: &str) -> ImageKey {
        ImageKey {
            key: key.to_owned(),
            value: hex::encode(&self.value),
            revision: self.revision,
            create_revision: self.create_revision,
        }
    }

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
    use proptest::prelude::*;

    use super::*;

    fn put(key: &str, leased: bool) -> Write {
        let change = Change::Put { value: Bytes::from_static(b"v"), leased };
        Write { key: key.to_owned(), expected: Expected::Any, change }
    }

    fn restore(image: &[u8], changes: &[Bytes]) -> Result<State, RestoreError> {
        State::restore(image, changes.iter().map(Bytes::as_ref), 0)
    }

    #[test]
    fn restored_state_has_the_durable_keys_and_only_higher_revisions() {
        let mut state = State::new(1);
        let plan = state.plan(Some(3));
        assert_eq!(plan.revision, 1);
        assert!(state.exhausted(), "nothing is handed out before the image is durable");
        let writes = vec![put("a", false), put("b", true)];
        let image = state.clone().image(writes.clone(), plan);
        state.confirm(plan);
        state.apply(writes, plan.revision);
        assert!(!state.exhausted());
        let used = state.take_revision();
        let restored = restore(&image, &[]).unwrap();
        assert_eq!(restored.list("").entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(restored.generation, 3);
        assert!(restored.exhausted());
        assert!(restored.revision > used + RESERVE);
    }

    #[test]
    fn image_or_change_of_a_newer_format_is_refused() {
        let image = br#"{"format":1,"generation":1,"reserved":1,"keys":[]}"#;
        let change = Bytes::from_static(br#"{"format":2,"generation":1,"reserved":1,"removed":[],"put":[]}"#);
        assert!(restore(image, &[]).is_ok() && restore(image, &[change]).is_err());
        assert!(restore(br#"{"format":2,"generation":1,"reserved":1,"keys":[]}"#, &[]).is_err());
    }

    #[test]
    fn golden_image_and_change() {
        let mut state = State::new(1);
        let plan = state.plan(None);
        let image = state.clone().image(vec![put("a", false), put("b", false)], plan);
        let golden = r#"{"format":1,"generation":1,"reserved":10001,"keys":[{"key":"a","value":"76","revision":1,"create_revision":1},{"key":"b","value":"76","revision":1,"create_revision":1}]}"#;
        assert_eq!(image, golden);
        state.confirm(plan);
        state.apply(vec![put("a", false), put("b", false)], plan.revision);
        let plan = state.plan(Some(2));
        let delete = Write { key: "b".to_owned(), expected: Expected::Any, change: Change::Delete };
        let change = state.change(&[put("a", false), delete], plan);
        let golden = r#"{"format":1,"generation":2,"reserved":10002,"removed":["b"],"put":[{"key":"a","value":"76","revision":2,"create_revision":1}]}"#;
        assert_eq!(change, golden);
        let restored = restore(&image, &[change]).unwrap();
        let entry =
            Entry { key: "a".to_owned(), value: Bytes::from_static(b"v"), revision: 2, create_revision: 1 };
        assert_eq!((restored.generation, restored.list("").entries), (2, vec![entry]));
    }

    /// Writes of a transaction by key: deleted, put, leased, or only looked at.
    fn writes() -> impl Strategy<Value = Vec<Write>> {
        proptest::collection::btree_map(0..6_u8, (0..4_u8, any::<u8>()), 0..4).prop_map(|writes| {
            let change = |(what, value): (u8, u8)| match what {
                0 => Change::Delete,
                1 => Change::Check,
                what => Change::Put { value: Bytes::from(vec![value]), leased: what == 2 },
            };
            writes
                .into_iter()
                .map(|(key, what)| (format!("k{key}"), change(what)))
                .map(|(key, change)| Write { key, expected: Expected::Any, change })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn an_image_with_its_changes_is_the_image_after_them(
            transactions in proptest::collection::vec((writes(), proptest::option::of(1..5_u32)), 0..30),
        ) {
            let mut state = State::new(1);
            let plan = state.plan(None);
            let first = state.clone().image(Vec::new(), plan);
            state.confirm(plan);
            let mut changes = Vec::new();
            for (writes, generation) in transactions {
                let plan = state.plan(generation);
                changes.push(state.change(&writes, plan));
                let whole = state.clone().image(writes.clone(), plan);
                state.confirm(plan);
                state.apply(writes, plan.revision);
                prop_assert_eq!(restore(&first, &changes), restore(&whole, &[]));
            }
        }
    }
}
