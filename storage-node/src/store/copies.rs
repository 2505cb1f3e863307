//! Copies of cluster state on a drive: whole ones, and the changes that were added to them.
//!
//! Owns: which records make up a copy (SNAPSHOT records in the journal, named by [`StateKey::Snapshot`] and
//! [`StateKey::Change`]), and the rule that a change is added to the copy that it follows and to no other. Never interprets what a
//! copy says, and never decides when a whole one takes the place of a long one: whoever stores it does.
//!
//! **Consistency.** A copy is complete at its newest revision. What was added stays until a newer whole copy is here, which
//! supersedes all changes up to its revision.
//! **Crash consistency.** The journal keeps a prefix of what was appended. A whole copy and what it supersedes reach the index
//! in one batch; replaying the journal leads to the same, also where compaction has appended older records once more.
//! **Retries.** An append waits for the journal's next segment. **Cancellation.** May leave a record behind: an outcome that is
//! not known.

use std::sync::Arc;

use coffer_common::node::{BrokenLog, Fit, NodeError, Snapshot, SnapshotChange, SnapshotKind, SnapshotLog};

use super::DriveStore;
use super::slots::SlotsInner;
use crate::image::{CopyRecord, DecodeImageError, StateKey, decode_copy, encode_change, encode_snapshot};
use crate::journal::{JournalError, Place};

/// The newest (generation, revision) of a copy of which only the places are known.
pub(super) const UNREAD: (u32, u64) = (0, 0);

/// Why a copy cannot be told.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    /// It does not verify.
    #[error("{0}")]
    Damaged(String),
    /// The drive did not let it be read.
    #[error("{0}")]
    Failed(JournalError),
}

impl From<JournalError> for Unreadable {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Corrupt { .. } => Self::Damaged(error.to_string()),
            error => Self::Failed(error),
        }
    }
}

impl From<DecodeImageError> for Unreadable {
    fn from(error: DecodeImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<BrokenLog> for Unreadable {
    fn from(error: BrokenLog) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl SlotsInner {
    /// The changes of a copy, in order.
    fn changes(&self, kind: u8) -> impl DoubleEndedIterator<Item = (StateKey, Place)> {
        let all = StateKey::Change(kind, 0)..=StateKey::Change(kind, u64::MAX);
        self.places.range(all).map(|(key, place)| (*key, *place))
    }

    /// The changes that a record makes superfluous.
    pub(super) fn superseded(&self, record: &CopyRecord) -> Vec<StateKey> {
        match record {
            CopyRecord::Whole(whole) => {
                let kind = whole.kind as u8;
                let up_to = StateKey::Change(kind, whole.revision);
                self.changes(kind).map(|(key, _)| key).take_while(|key| *key <= up_to).collect()
            }
            CopyRecord::Change(_) => Vec::new(),
        }
    }

    /// Whether a copy that was forgotten has left changes that a whole record would not make superfluous: they would be told with
    /// it, and do not follow it.
    fn keeps_newer_parts(&self, record: &CopyRecord) -> bool {
        let kind = record.kind() as u8;
        let newest = StateKey::Change(kind, record.newest().1);
        !self.copies.contains_key(&kind) && self.changes(kind).any(|(key, _)| key > newest)
    }

    /// Notes that a record of a copy is here, whose place is noted; it may be an older one that was carried over.
    pub(super) fn note_copy(&mut self, record: &CopyRecord) {
        let kind = record.kind() as u8;
        let last = self.changes(kind).next_back().map(|(key, _)| key);
        let (generation, revision) = record.newest();
        let newest = self.copies.entry(kind).or_insert(UNREAD);
        if last.is_none_or(|last| last <= StateKey::Change(kind, revision)) {
            *newest = (*newest).max((generation, revision));
        }
    }

    /// Where the parts of a copy lie, the whole one first; `None` if there is no copy.
    fn places_of(&self, kind: u8) -> Option<Vec<Place>> {
        self.copies.get(&kind)?;
        let whole = self.places.get(&StateKey::Snapshot(kind)).copied();
        Some(whole.into_iter().chain(self.changes(kind).map(|(_, place)| place)).collect())
    }
}

impl DriveStore {
    /// Keeps a copy of cluster state, unless a newer one is here. Durable before it returns.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is full or failed, or has parts of a damaged copy that are newer.
    pub async fn store_snapshot(self: &Arc<Self>, snapshot: &Snapshot) -> Result<(), NodeError> {
        self.know_newest(snapshot.kind).await?;
        let (record, payload) = (CopyRecord::Whole(snapshot.clone()), encode_snapshot(snapshot));
        if self.slots.read().keeps_newer_parts(&record) {
            return Err(self.unavailable("its copy of cluster state is damaged, and newer than this one"));
        }
        self.retrying(|store| {
            let mut inner = store.slots.write();
            let known = inner.copies.get(&(snapshot.kind as u8));
            if known.is_some_and(|known| *known >= record.newest()) {
                return Ok((store.journal.last_sequence(), ()));
            }
            let superseded = inner.superseded(&record);
            let (sequence, _) = store.supersede(&mut inner, record.key(), payload.clone(), &superseded)?;
            inner.note_copy(&record);
            Ok((sequence, ()))
        })
        .await
    }

    /// Adds a change to the copy that is here, unless that one has it or is newer; false if it is another than the one
    /// that is changed: nothing has happened then. Durable before it returns.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is full or failed.
    pub async fn change_snapshot(self: &Arc<Self>, change: &SnapshotChange) -> Result<bool, NodeError> {
        self.know_newest(change.kind).await?;
        let (record, payload) = (CopyRecord::Change(change.clone()), encode_change(change));
        self.retrying(|store| {
            let mut inner = store.slots.write();
            match change.fit(inner.copies.get(&(change.kind as u8)).copied()) {
                Fit::Known => Ok((store.journal.last_sequence(), true)),
                Fit::Gap => Ok((0, false)),
                Fit::Next => {
                    let (sequence, _) = store.append_state(&mut inner, record.key(), payload.clone())?;
                    inner.note_copy(&record);
                    Ok((sequence, true))
                }
            }
        })
        .await
    }

    /// The copy of cluster state that is here, as it was stored whole.
    ///
    /// # Errors
    /// Those of [`Self::snapshot_log`].
    pub async fn snapshot(self: &Arc<Self>, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        Ok(self.snapshot_log(kind).await?.map(SnapshotLog::into_whole))
    }

    /// The copy of cluster state that is here, with the changes since.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is failed or the copy is damaged.
    pub async fn snapshot_log(
        self: &Arc<Self>,
        kind: SnapshotKind,
    ) -> Result<Option<SnapshotLog>, NodeError> {
        self.check_health()?;
        self.read_copy(kind).await?.map_err(|error| self.unavailable(error))
    }

    async fn read_copy(
        self: &Arc<Self>,
        kind: SnapshotKind,
    ) -> Result<Result<Option<SnapshotLog>, Unreadable>, NodeError> {
        // Compaction may move it between the look and the read.
        for attempt in 0.. {
            let Some(places) = self.slots.read().places_of(kind as u8) else { break };
            self.journal.durable(self.journal.last_sequence()).await.map_err(|e| self.unavailable(e))?;
            let wanted = places.clone();
            match self.run(move |store| store.read_log(&wanted)).await? {
                Ok(log) => {
                    let mut inner = self.slots.write();
                    // Nothing is added to one that is not read: then these are all its parts.
                    if let Some(known) = inner.copies.get_mut(&(kind as u8))
                        && *known == UNREAD
                    {
                        *known = log.newest();
                    }
                    return Ok(Ok(Some(log)));
                }
                Err(error) if attempt >= 2 => {
                    if let Unreadable::Damaged(_) = error {
                        // Nothing more is added to it.
                        self.slots.write().copies.entry(kind as u8).and_modify(|known| *known = UNREAD);
                    }
                    return Ok(Err(error));
                }
                Err(_) => {}
            }
        }
        Ok(Ok(None))
    }

    /// Reads the parts of a copy; blocks.
    fn read_log(&self, places: &[Place]) -> Result<SnapshotLog, Unreadable> {
        let (mut whole, mut changes) = (None, Vec::new());
        for place in places {
            match decode_copy(self.journal.read_record(*place)?.into())? {
                CopyRecord::Whole(snapshot) => whole = Some(snapshot),
                CopyRecord::Change(change) => changes.push(change),
            }
        }
        let whole = whole.ok_or_else(|| Unreadable::Damaged("there is no whole copy".to_owned()))?;
        Ok(SnapshotLog::new(whole, changes)?)
    }

    /// Reads a copy of which only the places are known. A damaged one is forgotten, so that the next whole one that is offered
    /// takes its place.
    async fn know_newest(self: &Arc<Self>, kind: SnapshotKind) -> Result<(), NodeError> {
        let unread = self.slots.read().copies.get(&(kind as u8)) == Some(&UNREAD);
        if !unread {
            return Ok(());
        }
        self.check_health()?;
        match self.read_copy(kind).await? {
            Ok(_) => Ok(()),
            Err(Unreadable::Failed(error)) => Err(self.unavailable(error)),
            Err(Unreadable::Damaged(reason)) => {
                let mut inner = self.slots.write();
                // Another may have stored a whole one meanwhile.
                if inner.copies.get(&(kind as u8)) == Some(&UNREAD) {
                    tracing::warn!(drive = %self.id, ?kind, reason, "a damaged copy of cluster state is forgotten");
                    inner.copies.remove(&(kind as u8));
                }
                Ok(())
            }
        }
    }
}
