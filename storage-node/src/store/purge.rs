//! What a drive may be asked to purge, and its part in purging it (PROTOCOL §7).
//!
//! Owns: the candidates of a partition, what this slot tells of others' ([`Evidence`]), and the drop. Never decides that
//! anything may go: `crate::purge` does, by the protocol's machine on what all slots have told.
//!
//! **Consistency.** The epoch is adopted before a register is looked at, so that whatever an older one let in is seen. What is
//! told is durable. The slot's own state is told as it is after the look: if it is still the one that is asked for, it was all
//! the time, because epochs only rise.
//! **Crash consistency.** The floor is durable before the first tombstone goes; each register goes by a record of its own, its
//! files after that.

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::node::{NodeError, PurgeRequest, PurgeStep};
use coffer_common::protocol::purge::{self, Candidate, Evidence};
use coffer_common::protocol::register::{PartitionState, Register, Role};
use coffer_common::time::UnixMillis;
use coffer_common::types::{Epoch, OpId, PartitionId, RegisterKey, Tag};

use super::DriveStore;
use super::mutate::{Change, Done};
use crate::image::Entry;

/// Candidates that are asked about at once, and the bytes of their keys.
const MOST: usize = 4096;
const MOST_BYTES: usize = 1 << 20;

/// Something that may be purged, and where.
type Purgeable = (RegisterKey, Candidate);

impl DriveStore {
    /// The tombstones that stand alone here, and the ops that have been prepared for longer than `grace`; as many as are asked
    /// about at once.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn purgeable(
        self: &Arc<Self>,
        partition: PartitionId,
        grace_ms: u64,
    ) -> Result<Vec<Purgeable>, NodeError> {
        let (mut after, mut found, mut bytes) = (0, Vec::new(), 0);
        loop {
            let (last, piece) = self.recorded_piece(partition, after).await?;
            let Some(last) = last else { return Ok(found) };
            after = last;
            for entry in &piece {
                let tombstone = purge::tombstone(&entry.register).map(Candidate::Tombstone);
                let orphans = entry.register.prepared.iter().copied();
                let orphans = orphans.filter(|op| has_waited(entry, *op, grace_ms)).map(Candidate::Orphan);
                for candidate in tombstone.into_iter().chain(orphans) {
                    let Ok(key) = RegisterKey::decode(&entry.key) else { continue };
                    bytes += entry.key.len();
                    found.push((key, candidate));
                    if found.len() >= MOST || bytes >= MOST_BYTES {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// One step of a purge at this slot. Returns what it tells of the candidates, in their order; nothing after a drop.
    ///
    /// # Errors
    /// [`NodeError`]: the slot is not here, a key is not of the partition, or the drive is full or has failed.
    pub async fn purge(self: &Arc<Self>, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        self.check_health()?;
        for (register, _) in &request.candidates {
            self.check_address(&request.address, register)?;
        }
        let (partition, epoch) = (request.address.partition, request.address.epoch);
        match request.step {
            PurgeStep::Look => {
                self.retrying(|store| {
                    store.adopt_epoch(partition, epoch)?;
                    Ok((store.slots.read().partition(partition).1, ()))
                })
                .await?;
                self.evidence(request).await
            }
            PurgeStep::Adopt => {
                let adopt = |mut state: PartitionState| {
                    if state.role == Role::Voter {
                        state.adopt_purge(epoch);
                    }
                    state
                };
                self.set_partition(partition, adopt).await?;
                self.evidence(request).await
            }
            PurgeStep::Drop => self.drop_candidates(&request).await.map(|()| Vec::new()),
        }
    }

    async fn evidence(self: &Arc<Self>, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        let PurgeRequest { address, candidates, grace_ms, .. } = request;
        let looked = self.run(move |store| {
            let look = |(key, candidate): (RegisterKey, Candidate)| {
                let entry = store.index.get(&key.encode()).map_err(|error| error.to_string())?;
                let entry = entry.filter(|entry| entry.slot == address.slot);
                let waited = match candidate {
                    Candidate::Orphan(op) => {
                        entry.as_ref().is_some_and(|entry| has_waited(entry, op, grace_ms))
                    }
                    Candidate::Tombstone(_) => false,
                };
                Ok((entry, candidate, waited))
            };
            candidates.into_iter().map(look).collect::<Result<Vec<_>, String>>()
        });
        let looked = looked.await?.map_err(|reason| {
            self.health.read_error();
            self.unavailable(reason)
        })?;
        let state = self.partition(address.partition);
        self.journal.durable(self.journal.last_sequence()).await.map_err(|error| self.unavailable(error))?;
        let nothing = Register::default();
        let tell = |(entry, candidate, waited): (Option<Arc<Entry>>, Candidate, bool)| {
            let register = entry.as_ref().map_or(&nothing, |entry| &entry.register);
            Evidence::of(&state, register, candidate, waited)
        };
        Ok(looked.into_iter().map(tell).collect())
    }

    async fn drop_candidates(self: &Arc<Self>, request: &PurgeRequest) -> Result<(), NodeError> {
        let (address, epoch) = (&request.address, request.address.epoch);
        let mut floor: Option<Tag> = None;
        for (register, candidate) in &request.candidates {
            let loaded = self.load(&Bytes::from(register.encode())).await?;
            let held = loaded.entry().filter(|entry| entry.slot == address.slot);
            let held = held.map(|entry| entry.register.clone()).unwrap_or_default();
            floor = floor.max(purge::floor_to_drop(&held, *candidate));
        }
        let raise = |mut state: PartitionState| {
            if is_adopted(&state, epoch) {
                state.floor = state.floor.max(floor.unwrap_or_default());
            }
            state
        };
        if !is_adopted(&self.set_partition(address.partition, raise).await?, epoch) {
            return Ok(());
        }
        let (mut sequence, mut files, mut dropped) = (0, Vec::new(), 0);
        for (register, candidate) in &request.candidates {
            if let Some((at, ops)) = self.drop_candidate(request, register, *candidate).await? {
                sequence = sequence.max(at);
                files.extend(ops);
                dropped += 1;
            }
        }
        self.journal.durable(sequence).await.map_err(|error| self.unavailable(error))?;
        metrics::counter!("coffer_purged_total").increment(dropped);
        self.remove_files_later(files, address.slot);
        Ok(())
    }

    /// Drops one candidate; returns the sequence of its record and the files that may go then, if there was anything.
    async fn drop_candidate(
        self: &Arc<Self>,
        request: &PurgeRequest,
        register: &RegisterKey,
        candidate: Candidate,
    ) -> Result<Option<(u64, Vec<OpId>)>, NodeError> {
        let key = Bytes::from(register.encode());
        let change = Change { key: &key, address: &request.address, bucket: None, shards: Vec::new() };
        let dropped = self.change_register(&change, |entry, partition| {
            let dropped = purge::drop_at(partition, &mut entry.register, request.address.epoch, candidate);
            (dropped, dropped)
        });
        Ok(match dropped.await? {
            Ok(Done { result: true, sequence, dropped_files, .. }) => Some((sequence, dropped_files)),
            Ok(Done { result: false, .. }) | Err(_) => None,
        })
    }
}

fn is_adopted(state: &PartitionState, epoch: Epoch) -> bool {
    (state.role, state.epoch, state.purge_epoch) == (Role::Voter, epoch, epoch)
}

fn has_waited(entry: &Entry, op: OpId, grace_ms: u64) -> bool {
    let since = entry.waiting.iter().find(|waiting| waiting.op == op).map(|waiting| waiting.since);
    since.is_some_and(|since| UnixMillis::now().0.saturating_sub(since.0) >= grace_ms)
}
