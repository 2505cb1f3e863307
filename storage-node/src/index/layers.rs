//! What redb does not have yet, in memory: the active layer that grows and the frozen one that is being applied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coffer_common::types::PartitionId;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::image::{Entry, StateKey};
use crate::journal::Place;

/// A layer of about this size is handed to redb.
const LAYER_BYTES: usize = 4 << 20;
/// Writers wait when the active layer has reached this size while another one is being applied.
const LIMIT_BYTES: usize = 16 << 20;

/// A piece of drive state: its newest record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateRow {
    /// Sequence of the record.
    pub(crate) sequence: u64,
    /// Where it lies.
    pub(crate) place: Place,
    /// Its payload; empty for copies of cluster state, which stay in the journal only.
    pub(crate) payload: Bytes,
}

/// A register in a layer; `None`: it was dropped.
pub(super) type Held = Option<Arc<Entry>>;

/// Changes not yet in redb.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) registers: BTreeMap<Bytes, Held>,
    /// `None`: it is no longer needed.
    pub(super) state: BTreeMap<StateKey, Option<StateRow>>,
    /// All records up to this sequence are in this layer or below it.
    pub(super) sequence: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    active: Layer,
    frozen: Option<Arc<Layer>>,
    generation: u64,
}

/// The two layers.
#[derive(Debug, Default)]
pub(super) struct Layers {
    inner: RwLock<Inner>,
    full: AtomicBool,
    /// The drive has failed: nobody waits here any more.
    released: AtomicBool,
    drained: Notify,
}

impl Layers {
    pub(super) fn insert(&self, key: Bytes, sequence: u64, held: Held) {
        let bytes = held.as_ref().map_or(key.len() + 160, |entry| entry.memory());
        let mut inner = self.inner.write();
        if let Some(Some(old)) = inner.active.registers.insert(key, held) {
            inner.active.bytes = inner.active.bytes.saturating_sub(old.memory());
        }
        inner.active.bytes += bytes;
        inner.active.sequence = sequence;
        if inner.active.bytes >= LIMIT_BYTES && inner.frozen.is_some() {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn insert_state(&self, key: StateKey, row: StateRow, superseded: &[StateKey]) {
        let mut inner = self.inner.write();
        inner.active.sequence = row.sequence;
        inner.active.bytes += row.payload.len() + 96 * (1 + superseded.len());
        inner.active.state.insert(key, Some(row));
        inner.active.state.extend(superseded.iter().map(|key| (*key, None)));
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Held> {
        let inner = self.inner.read();
        let frozen = || inner.frozen.as_ref().and_then(|frozen| frozen.registers.get(key));
        inner.active.registers.get(key).or_else(frozen).cloned()
    }

    pub(super) fn generation(&self) -> u64 {
        self.inner.read().generation
    }

    /// Up to `limit` registers after `after`, below `end`, of both layers merged; and the generation they belong to.
    pub(super) fn range(&self, after: Bound<&[u8]>, end: &[u8], limit: usize) -> (u64, Vec<(Bytes, Held)>) {
        let inner = self.inner.read();
        let from = |layer: &Layer| -> Vec<(Bytes, Held)> {
            let below = |key: &Bytes| end.is_empty() || key.as_ref() < end;
            let range = layer.registers.range::<[u8], _>((after, Bound::Unbounded));
            range
                .take_while(|(key, _)| below(key))
                .take(limit)
                .map(|(key, held)| (key.clone(), held.clone()))
                .collect()
        };
        let mut merged = from(&inner.active);
        if let Some(frozen) = &inner.frozen {
            let frozen = from(frozen);
            if !frozen.is_empty() {
                // Stable sort: of two of the same key, the active one stays in front and is kept.
                merged.extend(frozen);
                merged.sort_by(|a, b| a.0.cmp(&b.0));
                merged.dedup_by(|later, kept| later.0 == kept.0);
                merged.truncate(limit);
            }
        }
        (inner.generation, merged)
    }

    /// Keys of a partition's registers that are here, with the sequence of their records, if that is above `after`.
    pub(super) fn recorded(&self, partition: PartitionId, after: u64) -> Vec<(u64, Bytes)> {
        let inner = self.inner.read();
        let layers = inner.frozen.as_deref().into_iter().chain([&inner.active]);
        let entries = layers.flat_map(|layer| layer.registers.values().flatten());
        let wanted = entries.filter(|entry| entry.partition == partition && entry.sequence > after);
        wanted.map(|entry| (entry.sequence, entry.key.clone())).collect()
    }

    pub(super) fn is_due(&self) -> bool {
        self.inner.read().active.bytes >= LAYER_BYTES
    }

    pub(super) async fn admit(&self) {
        let waits = || self.full.load(Ordering::Relaxed) && !self.released.load(Ordering::Relaxed);
        while waits() {
            let drained = self.drained.notified();
            if waits() {
                drained.await;
            }
        }
    }

    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
        self.drained.notify_waiters();
    }

    /// Makes the active layer the frozen one; `None` if there is nothing to apply. A frozen layer that could not be
    /// applied is handed out again.
    pub(super) fn freeze(&self) -> Option<Arc<Layer>> {
        let mut inner = self.inner.write();
        if inner.frozen.is_none() {
            if inner.active.registers.is_empty() && inner.active.state.is_empty() {
                return None;
            }
            let sequence = inner.active.sequence;
            let layer = std::mem::replace(&mut inner.active, Layer { sequence, ..Layer::default() });
            inner.frozen = Some(Arc::new(layer));
        }
        inner.frozen.clone()
    }

    /// The frozen layer is in redb.
    pub(super) fn thaw(&self) {
        {
            let mut inner = self.inner.write();
            inner.frozen = None;
            inner.generation += 1;
        }
        self.full.store(false, Ordering::Relaxed);
        self.drained.notify_waiters();
    }
}
