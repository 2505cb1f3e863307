//! What a drive must hold after a sequence of steps that may have been cut short anywhere.
//!
//! A register, a partition, a bucket, a snapshot and a copy with changes are each in one of several states: a step that was answered has
//! happened, one that was not may or may not have. A state is the protocol's own (`Register::step`), so the model and the
//! drive can only differ in what the drive forgets, invents or mixes up. Reading a state through an answered request
//! leaves that one: what was shown once must stay.

use std::collections::BTreeMap;

use coffer_common::node::NodeError;

use super::*;
use crate::image::Entry;

pub(super) const KEYS: u8 = 6;
/// Data lengths by counter, around the borders of shard blocks and pages; the larger ones are streamed to files.
const LENS: [usize; 9] = [0, 1, 4000, 4016, 4096, 9000, 20_000, 30_000, 70_000];
/// From this counter on a shard is a file.
const FIRST_FILE: u64 = 7;
/// Counters of a key's ops.
pub(super) const COUNTERS: u64 = LENS.len() as u64;

/// A violated property.
pub(super) type Violation = String;

pub(super) fn name(key: u8) -> RegisterKey {
    object(&format!("k{key}"))
}

/// The version of a key's op; those of the last keys are no null versions and are never freed.
pub(super) fn version_of(key: u8, counter: u64) -> (Version, Tag) {
    let len = LENS[counter as usize % LENS.len()];
    let unique = u64::from(key) * 100 + counter;
    (Version { null_version: key < KEYS - 2, ..version(unique, len) }, tag(unique))
}

/// The encoded shard of an op.
pub(super) fn shard_of(op: OpId) -> Bytes {
    let len = LENS[op.counter as usize % 100 % LENS.len()];
    encode(&version(op.counter, len), &data(op.counter, len))
}

pub(super) fn is_file(counter: u64) -> bool {
    counter >= FIRST_FILE
}

pub(super) fn data(counter: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31) + counter) as u8).collect()
}

/// The states that something may be in.
#[derive(Clone, Debug)]
struct Perhaps<T>(Vec<T>);

impl<T: Default> Default for Perhaps<T> {
    fn default() -> Self {
        Self(vec![T::default()])
    }
}

impl<T: Clone + PartialEq + std::fmt::Debug> Perhaps<T> {
    /// Something happened, or perhaps not.
    fn change(&mut self, answered: bool, change: impl Fn(&mut T)) {
        let before = if answered { Vec::new() } else { self.0.clone() };
        self.0.iter_mut().for_each(change);
        self.0.extend(before);
        self.0.dedup();
    }

    /// It was seen in this state.
    fn see(&mut self, what: &str, seen: T) -> Result<(), Violation> {
        if !self.0.contains(&seen) {
            return Err(format!("{what} is {seen:?}, and must be {:?}", self.0));
        }
        self.0 = vec![seen];
        Ok(())
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    registers: BTreeMap<u8, Perhaps<Register>>,
    partitions: BTreeMap<u8, Perhaps<PartitionState>>,
    bucket: Perhaps<u64>,
    snapshot: Perhaps<u64>,
    /// The revisions that the embedded coordinator's copy is made of.
    copy: Perhaps<Vec<u64>>,
    boots: u64,
    /// Bytes were changed behind the store's back: shards may be missing, but none may be wrong.
    pub(super) damaged: bool,
}

impl Model {
    /// Takes over a request and what came of it.
    pub(super) fn requested(
        &mut self,
        key: u8,
        request: &SlotRequest,
        result: &Result<SlotReply, NodeError>,
    ) -> Result<(), Violation> {
        let partition = self.partitions.entry(key).or_default().0[0];
        let register = self.registers.entry(key).or_default();
        let step = |register: &mut Register| match request {
            // The shard of a large one came as a stream.
            SlotRequest::Prepare { op, shard } => register.prepare(&partition, *op, !shard.is_empty()).reply,
            request => register.step(&partition, request).reply,
        };
        match result {
            Ok(SlotReply::Refused(Refusal::Full)) => {}
            Ok(reply) => {
                let mut after = register.0.clone();
                after.retain_mut(|state| step(state) == *reply);
                if after.is_empty() {
                    return Err(format!("{request:?} on {register:?} is answered by {reply:?}"));
                }
                register.0 = after;
            }
            Err(_) => register.change(false, |state| drop(step(state))),
        }
        Ok(())
    }

    /// What a newer STABLE null version supersedes was freed, in every register.
    pub(super) fn freed(&mut self, answered: bool) {
        for register in self.registers.values_mut() {
            register.change(answered, |state| {
                let ops: Vec<OpId> = state.freeable(RegisterKind::Object).map(|v| v.version.op).collect();
                for op in ops {
                    state.free(RegisterKind::Object, op);
                }
            });
        }
    }

    pub(super) fn partition_set(&mut self, key: u8, state: PartitionState, answered: bool) {
        self.partitions.entry(key).or_default().change(answered, |known| *known = state);
    }

    pub(super) fn bucket_adopted(&mut self, revision: u64, answered: bool) {
        self.bucket.change(answered, |known| *known = (*known).max(revision));
    }

    pub(super) fn snapshot_stored(&mut self, revision: u64, answered: bool) {
        self.snapshot.change(answered, |known| *known = (*known).max(revision));
    }

    pub(super) fn copy_changed(&mut self, to: &[u64], answered: bool) {
        self.copy.change(answered, |known| *known = to.to_vec());
    }

    /// Compares everything with what the drive says now; false if it could not say.
    pub(super) async fn check(&mut self, bench: &Bench) -> Result<bool, Violation> {
        for key in 0..KEYS {
            if !self.check_register(bench, key).await? {
                return Ok(false);
            }
        }
        let store = bench.store();
        let Ok(snapshot) = store.snapshot(SnapshotKind::Layout).await else { return Ok(false) };
        self.snapshot.see("the snapshot", snapshot.map_or(0, |snapshot| snapshot.revision))?;
        let Ok(log) = store.snapshot_log(SnapshotKind::Coordinator).await else { return Ok(false) };
        self.copy.see("the coordinator's copy", log.map_or(Vec::new(), |log| revisions_in(&log)))?;
        if store.adopt_bucket(BUCKET, 0).await.is_err() {
            return Ok(false);
        }
        self.bucket.see("the bucket", store.slots.read().bucket(BUCKET).0.revision)?;
        let boots = store.info().boot_count;
        if boots < self.boots {
            return Err(format!("boot {boots} after boot {}", self.boots));
        }
        self.boots = boots;
        Ok(true)
    }

    async fn check_damaged(
        &self,
        bench: &Bench,
        key: u8,
        entry: Option<Arc<Entry>>,
    ) -> Result<bool, Violation> {
        for op in entry.iter().flat_map(|entry| &entry.shards).map(|shard| shard.op) {
            if bench.read_shard(&name(key), op).await.is_ok_and(|bytes| bytes != shard_data(op)) {
                return Err(format!("the shard of {op} has other bytes"));
            }
        }
        Ok(true)
    }

    async fn check_register(&mut self, bench: &Bench, key: u8) -> Result<bool, Violation> {
        let (register, store) = (name(key), bench.store());
        let Ok(reply) = bench.call(&register, SlotRequest::Query { inline_data: true }).await else {
            return Ok(false);
        };
        let partition = store.partition(partition_of(CLUSTER, register.bucket, &register.key));
        self.partitions.entry(key).or_default().see("the partition", partition)?;
        let Ok(loaded) = store.load_blocking(&register.encode().into()) else { return Ok(false) };
        if bench.is_down() {
            // What is in memory now is of no account any more.
            return Ok(false);
        }
        let entry = loaded.entry().cloned();
        let mut state = entry.as_ref().map(|entry| entry.register.clone()).unwrap_or_default();
        let mut known = self.registers.entry(key).or_default().clone();
        if self.damaged {
            known.0.iter_mut().chain([&mut state]).for_each(all_present);
            known.see(&format!("register {key}"), state)?;
            return self.check_damaged(bench, key, entry).await;
        }
        known.see(&format!("register {key}"), state.clone())?;
        self.registers.insert(key, known);
        let SlotReply::View(mut view, inline) = reply else { return Err(format!("no view: {reply:?}")) };
        if let SlotReply::View(expected, _) =
            state.step(&partition, &SlotRequest::Query { inline_data: true }).reply
            && view != expected
        {
            view.unstable.clear();
            return Err(format!("register {key} shows {view:?} for {expected:?}"));
        }
        let current = state.current().filter(|current| current.version.has_shards() && current.shard_present);
        let expected = current.filter(|current| !is_file(current.version.op.counter % 100));
        if inline != expected.map(|current| shard_of(current.version.op)) {
            return Ok(bench.is_down() || Err(format!("register {key} has another inline shard"))?);
        }
        let Some(entry) = entry else { return Ok(true) };
        let present = state.versions.iter().filter(|v| v.shard_present && v.version.has_shards());
        for op in present.map(|v| v.version.op).chain(state.prepared.iter().copied()) {
            if entry.shard(op).is_none() {
                return Err(format!("register {key} has lost where the shard of {op} is"));
            }
            match bench.read_shard(&register, op).await {
                Ok(bytes) if bytes == shard_data(op) => {}
                Ok(_) => return Err(format!("the shard of {op} has other bytes")),
                Err(_) if bench.is_down() => return Ok(false),
                Err(error) => return Err(format!("the shard of {op} cannot be read: {error}")),
            }
        }
        Ok(true)
    }
}

fn all_present(register: &mut Register) {
    register.versions.iter_mut().for_each(|version| version.shard_present = true);
}

/// The data of an op's shard.
pub(super) fn shard_data(op: OpId) -> Vec<u8> {
    data(op.counter, LENS[op.counter as usize % 100 % LENS.len()])
}
