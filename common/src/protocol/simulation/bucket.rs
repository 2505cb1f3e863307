//! What happens to the bucket (§9): its record changes while gateways still know older ones. A protective change, such as
//! enabling versioning, and a deletion take the same steps; a deleted bucket may be created anew.
//!
//! 1. The record gets a new revision; for a deletion it says `deleting`.
//! 2. M voters adopt the revision.
//! 3. A strict read, which counts only slots that have adopted it, settles what is undecided.
//! 4. A protective change returns. A deletion removes the record if nothing was there, else the bucket is in use again.

use super::barrier::Barrier;
use super::broken::Broken;
use super::client::Ended;
use super::schedule::Schedule;
use super::world::{Record, World};
use crate::linearizability::{Call, Return};
use crate::types::{Epoch, SlotIndex, SlotSet};

/// How often the record is changed in one schedule.
const CHANGES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Protects,
    Deletes,
}

/// A change that is under way.
#[derive(Clone, Copy, Debug)]
struct Change {
    kind: Kind,
    begin: u64,
    /// Who has adopted its revision, counted within this epoch: one that has lost its state since has forgotten it.
    adopted: SlotSet,
    epoch: Epoch,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Adopting,
    /// This operation lists.
    Listing(usize),
}

/// A change that has returned.
#[derive(Clone, Copy, Debug)]
struct Returned {
    bucket: u8,
    revision: u64,
    kind: Kind,
    begin: u64,
    end: u64,
}

/// Every record there was, whether its bucket was in use, and the changes.
#[derive(Debug)]
pub(super) struct Buckets {
    records: Vec<(Record, bool)>,
    changes: usize,
    change: Option<Change>,
    returned: Vec<Returned>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { records: vec![(Record::default(), true)], changes: 0, change: None, returned: Vec::new() }
    }
}

impl Buckets {
    /// The record that some gateway knows; `None` if it says that the bucket is not in use.
    pub(super) fn known(&self, world: &mut World) -> Option<Record> {
        let last = self.records.len() - 1;
        let lag = if last > 0 && world.random.chance(600) { world.random.below(4) } else { 0 };
        let (record, used) = self.records[last - lag.min(last)];
        used.then_some(record)
    }

    /// The newest revision.
    pub(super) fn newest(&self) -> u64 {
        self.last().revision
    }

    /// Whether there is a bucket: one that was deleted cannot be changed.
    fn in_use(&self) -> bool {
        self.records.last().is_some_and(|(_, used)| *used)
    }

    fn last(&self) -> Record {
        self.records.last().map(|(record, _)| *record).unwrap_or_default()
    }

    fn put(&mut self, used: bool) {
        let Record { bucket, revision, .. } = self.last();
        self.records.push((Record { bucket, revision: revision + 1, adopts: false }, used));
    }

    /// Whether this bucket was deleted.
    pub(super) fn deleted(&self, bucket: u8) -> bool {
        self.returned.iter().any(|returned| returned.bucket == bucket && returned.kind == Kind::Deletes)
    }

    /// The changes that have returned, given the revisions that the operations ran under.
    pub(super) fn barriers(&self, revisions: &[u64]) -> Vec<Barrier> {
        let barrier = |returned: &Returned| {
            let older = |(at, revision): (usize, &u64)| usize::from(*revision < returned.revision) << at;
            let old = revisions.iter().enumerate().map(older).sum();
            let empties = returned.kind == Kind::Deletes;
            Barrier { begin: returned.begin, end: returned.end, empties, old }
        };
        self.returned.iter().map(barrier).collect()
    }
}

impl Schedule {
    /// Lets the change of the record perhaps take a step.
    pub(super) fn bucket_step(&mut self) {
        match self.buckets.change {
            None => {
                let scale = (self.world.n() / 4).max(1) * 1000;
                let changes = self.buckets.in_use() && self.buckets.changes < CHANGES;
                if changes && self.world.random.odds(40, scale) {
                    self.change_bucket();
                }
            }
            Some(change) => match change.stage {
                Stage::Adopting if self.world.random.chance(250) => self.adopt(change),
                Stage::Listing(client) if self.world.clients[client].ended.is_some() => {
                    self.conclude_change(change, self.world.clients[client].ended);
                }
                Stage::Listing(client) if self.crashed >> client & 1 == 1 => {
                    self.conclude_change(change, None)
                }
                Stage::Adopting | Stage::Listing(_) => {}
            },
        }
    }

    fn change_bucket(&mut self) {
        let deletes = self.world.bucket == 0 && self.world.random.chance(600);
        let kind = if deletes { Kind::Deletes } else { Kind::Protects };
        self.buckets.put(kind == Kind::Protects);
        self.buckets.changes += 1;
        self.world.now += 1;
        let begin = self.world.now;
        let (adopted, epoch) = (SlotSet::default(), self.world.map().epoch);
        let change = Change { kind, begin, adopted, epoch, stage: Stage::Adopting };
        self.buckets.change = Some(change);
        if self.world.trace {
            println!("  {begin} the bucket is to change: {kind:?} {:?}", self.buckets.last());
        }
        if self.world.is_broken(Broken::ListsFirst) {
            self.list(change);
        }
    }

    /// One voter adopts the revision.
    fn adopt(&mut self, mut change: Change) {
        let at = self.world.random.below(self.world.n());
        if !self.world.slots[at].is_voter() || self.faults.slow[at] {
            return;
        }
        self.world.slots[at].bucket.adopt(self.buckets.newest());
        let known = self.world.slots[at].partition.epoch;
        if known > change.epoch {
            (change.adopted, change.epoch) = (SlotSet::default(), known);
        }
        change.adopted.insert(SlotIndex(at as u8));
        self.buckets.change = Some(change);
        if change.adopted.len() < self.world.geometry.adopt_quorum() {
            return;
        }
        let unsettled = change.kind == Kind::Protects && self.world.is_broken(Broken::ProtectsUnsettled);
        if unsettled || self.world.is_broken(Broken::ListsFirst) {
            self.conclude_change(change, Some(Ended::Returned(Return::Value(0))));
        } else {
            self.list(change);
        }
    }

    fn list(&mut self, change: Change) {
        let adopts = !self.world.is_broken(Broken::ListsAnybody) && !self.world.is_broken(Broken::ListsFirst);
        let record = Record { adopts, ..self.buckets.last() };
        let client = self.world.clients.len();
        self.buckets.change = Some(Change { stage: Stage::Listing(client), ..change });
        self.begin_as(Call::Read, 30 + self.buckets.changes as u64, Some(record));
    }

    fn conclude_change(&mut self, change: Change, found: Option<Ended>) {
        let Record { bucket, revision, .. } = self.buckets.last();
        if self.world.is_broken(Broken::ListsFirst)
            && change.adopted.is_empty()
            && found == Some(Ended::Returned(Return::Value(0)))
        {
            self.buckets.change = Some(Change { stage: Stage::Adopting, ..change });
            return;
        }
        self.buckets.change = None;
        let returns = match (change.kind, found) {
            (Kind::Protects, Some(Ended::Returned(_))) => true,
            (Kind::Deletes, Some(Ended::Returned(Return::Value(0)))) => true,
            (Kind::Protects, _) => false,
            (Kind::Deletes, _) => {
                self.buckets.put(true);
                false
            }
        };
        if !returns {
            return;
        }
        self.world.now += 1;
        let Change { kind, begin, .. } = change;
        self.buckets.returned.push(Returned { bucket, revision, kind, begin, end: self.world.now });
        if self.world.trace {
            println!("  {} the bucket has changed: {kind:?}", self.world.now);
        }
        if kind == Kind::Deletes {
            self.buckets.put(false);
            if self.world.random.chance(700) {
                self.world.recreate_bucket();
                let record = Record { bucket: bucket + 1, revision: revision + 2, adopts: false };
                self.buckets.records.push((record, true));
            }
        }
    }
}
