//! Start states that random schedules reach too seldom; see [`Start`].

use bytes::Bytes;

use super::super::message::SlotRequest;
use super::client::{Ended, version};
use super::scenario::Start;
use super::schedule::Schedule;
use super::world::{Envelope, Record};
use crate::linearizability::{Call, Return};
use crate::types::{Epoch, Fence, OpId, SlotIndex, SlotSet, Tag};

const FIRST: Epoch = Epoch(0);

fn op(number: u64) -> OpId {
    OpId { session: number, counter: 0 }
}

fn tag(fence: u64, seq: u64, number: u64) -> Tag {
    Tag { fence: Fence { generation: 0, revision: fence }, seq, writer: op(number) }
}

impl Schedule {
    /// Brings about the scenario's start.
    pub(super) fn seed(&mut self) {
        match self.setting.scenario.start {
            Start::Fresh => {}
            Start::Disjoint => self.seed_disjoint(),
            Start::Deleted => self.seed_deleted(),
            Start::Acknowledged => self.seed_acknowledged(),
        }
    }

    fn n(&self) -> usize {
        self.world.geometry.n()
    }

    /// The least k that the stripe allows.
    fn least_k(&self) -> u8 {
        (self.n() / 2).max(1) as u8
    }

    /// Most of the operations that follow read.
    fn mostly_read(&mut self, from: usize) {
        for call in self.calls.iter_mut().skip(from) {
            if self.world.random.chance(600) {
                *call = Call::Read;
            }
        }
    }

    fn send(&mut self, slot: usize, client: u8, request: &SlotRequest) {
        let (slot, request) = (slot as u8, request.clone());
        let record = Record::default();
        self.world.network.push(Envelope::Request {
            slot,
            client,
            round: None,
            epoch: FIRST,
            record,
            request,
        });
    }

    /// A plain write is COMMITTED on the slots that a fenced create has not met, and the create on some that it has.
    fn seed_disjoint(&mut self) {
        self.mostly_read(2);
        (self.calls[0], self.calls[1]) = (Call::Write(1), Call::Replace(0, 2));
        for number in 0..2 {
            self.begin(self.calls[number]);
            self.world.network.clear();
            self.crashed |= 1 << number;
        }
        self.world.revision = 1;
        let k = self.least_k();
        let commit = |number, tag| SlotRequest::Commit { version: version(op(number), k, 0), tag };
        let plain = commit(1, tag(0, 1, 1));
        let fenced = commit(2, tag(1, 1, 2));
        let geometry = self.world.geometry;
        let mut unmet = SlotSet::default();
        while unmet.len() < geometry.n() - geometry.m() {
            unmet.insert(SlotIndex(self.world.random.below(geometry.n()) as u8));
        }
        let mut commits = 0;
        for at in 0..geometry.n() {
            for number in [1, 2] {
                let shard = Bytes::from_static(b"s");
                self.world.serve(at, FIRST, &SlotRequest::Prepare { op: op(number), shard });
            }
            if unmet.contains(SlotIndex(at as u8)) {
                self.world.serve(at, FIRST, &plain);
            } else {
                let fence = SlotRequest::Fence { fence: Fence { generation: 0, revision: 1 }, op: op(2) };
                self.world.serve(at, FIRST, &fence);
                if commits + 1 < geometry.m() && self.world.random.chance(300) {
                    commits += 1;
                    self.world.serve(at, FIRST, &fenced);
                }
            }
            for (client, request) in [(0, &plain), (1, &fenced)] {
                if self.world.random.chance(500) {
                    self.send(at, client, request);
                }
            }
        }
    }

    /// Runs a plain write up to where its COMMITs are under way.
    fn run_to_commit(&mut self) {
        self.begin(Call::Write(1));
        while !self.world.network.iter().any(is_commit) {
            let at = self.world.random.below(self.world.network.len());
            self.world.deliver(at, false, false);
        }
        self.world.network.retain(is_commit);
    }

    /// A write is committed, its acknowledgements are lost; it was read, and deleted for good. Late STABLE notices and
    /// catch-up of it are under way.
    fn seed_deleted(&mut self) {
        self.mostly_read(3);
        (self.calls[0], self.calls[1], self.calls[2]) = (Call::Write(1), Call::Read, Call::Write(0));
        self.run_to_commit();
        let commits = self.world.network.clone();
        for envelope in &commits {
            if let Envelope::Request { slot, request, epoch, .. } = envelope {
                self.world.serve(usize::from(*slot), *epoch, request);
            }
        }
        self.world.network.retain(|_| self.world.random.chance(500));
        let delete = SlotRequest::Stable {
            version: version(op(3), 0, 0),
            tag: tag(0, 2, 3),
            acknowledged: self.world.geometry.all(),
        };
        let written = self.world.newest().map(|v| (v.version.clone(), v.tag));
        for at in 0..self.n() {
            self.world.serve(at, FIRST, &delete);
            if let Some((version, tag)) = written.clone()
                && self.world.random.chance(200)
            {
                let late = if self.world.random.chance(500) {
                    SlotRequest::Stable { version, tag, acknowledged: SlotSet::default() }
                } else {
                    let shard = Bytes::from_static(b"s");
                    SlotRequest::Install { version, tag, source_stable: false, shard }
                };
                self.send(at, 1, &late);
                self.world.late.extend(self.world.network.pop());
            }
        }
        for (call, returned) in [(Call::Read, Return::Value(1)), (Call::Write(0), Return::Ok)] {
            let client = self.started;
            let under_way = std::mem::take(&mut self.world.network);
            self.begin(call);
            self.world.network = under_way;
            self.world.now += 1;
            let client = &mut self.world.clients[client];
            (client.ended, client.end) = (Some(Ended::Returned(returned)), self.world.now);
        }
        if self.world.random.chance(500) {
            self.crashed |= 1;
        }
    }

    /// A write has one acknowledgement, of a slot that loses its state at once; its other COMMITs may be lost.
    fn seed_acknowledged(&mut self) {
        self.mostly_read(1);
        self.calls[0] = Call::Write(1);
        self.run_to_commit();
        let at = self.world.random.below(self.world.network.len());
        let victim = self.world.network[at].slot();
        self.world.deliver(at, false, false);
        let reply = self.world.network.len() - 1;
        self.world.deliver(reply, false, false);
        self.world.network.retain(|_| self.world.random.chance(100));
        self.faults.lose_slot(&mut self.world, victim);
    }
}

fn is_commit(envelope: &Envelope) -> bool {
    matches!(envelope, Envelope::Request { request: SlotRequest::Commit { .. }, .. })
}
