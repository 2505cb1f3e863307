//! An ordered range over the layers and redb, merged.
//!
//! The layers are read in small pieces under their lock, redb through one read transaction. When the frozen layer has
//! gone into redb since the transaction began, the transaction is begun anew at the current place: no register that was
//! there all the time is missed.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{AccessGuard, Range, ReadableDatabase};

use super::layers::Held;
use super::{Index, IndexError, REGISTERS, decode_value, split_value};
use crate::image::{Entry, Listed, decode_listed};

/// Registers taken from the layers at a time.
const PIECE: usize = 64;

pub(crate) type Row = (AccessGuard<'static, &'static [u8]>, AccessGuard<'static, &'static [u8]>);

/// A range being read; blocks on I/O.
pub(crate) struct Scan<'a> {
    index: &'a Index,
    /// Keys below this; empty for no bound.
    end: Vec<u8>,
    /// The last key that was returned, or where a seek went.
    position: Bound<Vec<u8>>,
    range: Option<Range<'static, &'static [u8], &'static [u8]>>,
    row: Option<Row>,
    recent: VecDeque<(Bytes, Held)>,
    /// The layers hold nothing more behind `recent`.
    recent_complete: bool,
    generation: u64,
}

/// A register that a scan met.
pub(crate) enum Found {
    /// In a layer.
    Recent(Arc<Entry>),
    /// A row of redb: key and value.
    Row(Row),
}

impl Found {
    /// The register's encoded key.
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Recent(entry) => &entry.key,
            Self::Row((key, _)) => key.value(),
        }
    }

    /// The register.
    pub(crate) fn entry(&self) -> Result<Arc<Entry>, IndexError> {
        match self {
            Self::Recent(entry) => Ok(Arc::clone(entry)),
            Self::Row((_, value)) => decode_value(value.value()).map(Arc::new),
        }
    }

    /// What a listing needs of it; `None` if it has no current version. Metadata that must be copied is kept by `keep`.
    pub(crate) fn listed(&self, keep: impl FnOnce(&[u8]) -> Bytes) -> Result<Option<Listed>, IndexError> {
        match self {
            Self::Recent(entry) => Ok(entry.register.current().map(|current| Listed {
                partition: entry.partition,
                slot: entry.slot,
                current: current.clone(),
            })),
            Self::Row((_, value)) => {
                let (_, _, image) = split_value(value.value())?;
                decode_listed(image, keep).map_err(|error| IndexError::Malformed(error.to_string()))
            }
        }
    }
}

impl Index {
    /// A scan of the keys from `from` up to, not including, `end` (empty: no bound).
    pub(crate) fn scan(&self, from: Bound<Vec<u8>>, end: Vec<u8>) -> Scan<'_> {
        Scan {
            index: self,
            end,
            position: from,
            range: None,
            row: None,
            recent: VecDeque::new(),
            recent_complete: false,
            generation: 0,
        }
    }
}

impl Scan<'_> {
    /// Goes on at the first key that is not below `key`; never back to a key that was passed already.
    pub(crate) fn seek(&mut self, key: Vec<u8>) {
        if let Bound::Included(position) | Bound::Excluded(position) = &self.position
            && key <= *position
        {
            return;
        }
        while self.recent.front().is_some_and(|(front, _)| front.as_ref() < key.as_slice()) {
            self.recent.pop_front();
        }
        self.position = Bound::Included(key);
        (self.range, self.row) = (None, None);
    }

    /// Where another scan goes on.
    pub(crate) fn into_position(self) -> Bound<Vec<u8>> {
        self.position
    }

    /// The next register.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, IndexError> {
        self.index.guarded(|| self.advance())
    }

    fn advance(&mut self) -> Result<Option<Found>, IndexError> {
        loop {
            if self.recent.is_empty() && !self.recent_complete {
                self.refill()?;
            }
            if self.range.is_none() {
                self.reopen()?;
            }
            if self.row.is_none()
                && let Some(range) = &mut self.range
            {
                self.row = range.next().transpose().map_err(IndexError::engine)?;
            }
            let disk_first = match (&self.row, self.recent.front()) {
                (None, None) => return Ok(None),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some((recent, _))) => {
                    let order = key.value().cmp(recent.as_ref());
                    if order.is_eq() {
                        // The layer's is the newer one.
                        self.row = None;
                    }
                    order.is_lt()
                }
            };
            if disk_first {
                let Some(row) = self.row.take() else { continue };
                self.moved_to(row.0.value());
                return Ok(Some(Found::Row(row)));
            }
            let Some((key, held)) = self.recent.pop_front() else { continue };
            self.moved_to(&key);
            if let Some(entry) = held {
                return Ok(Some(Found::Recent(entry)));
            }
            // Dropped: whatever redb still has of it was passed over above.
        }
    }

    fn moved_to(&mut self, key: &[u8]) {
        match &mut self.position {
            Bound::Excluded(position) => {
                position.clear();
                position.extend_from_slice(key);
            }
            other => *other = Bound::Excluded(key.to_vec()),
        }
    }

    fn refill(&mut self) -> Result<(), IndexError> {
        loop {
            let after = self.position.as_ref().map(Vec::as_slice);
            let (generation, piece) = self.index.layers.range(after, &self.end, PIECE);
            if self.range.is_some() && generation == self.generation {
                self.recent_complete = piece.len() < PIECE;
                self.recent = piece.into();
                return Ok(());
            }
            // What left the layers meanwhile is in redb: look there anew, from the same place.
            self.generation = generation;
            self.reopen()?;
        }
    }

    fn reopen(&mut self) -> Result<(), IndexError> {
        let txn = self.index.database.begin_read().map_err(IndexError::engine)?;
        let table = txn.open_table(REGISTERS).map_err(IndexError::engine)?;
        let from = self.position.as_ref().map(Vec::as_slice);
        let to = if self.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(self.end.as_slice()) };
        self.range = Some(table.range::<&[u8]>((from, to)).map_err(IndexError::engine)?);
        self.row = None;
        Ok(())
    }
}
